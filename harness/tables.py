"""Reduce stored cells to Parquet tables: long form, stable column names, a schema version in each file's metadata.

The reducer reads the store and never runs a job. Everything that is written here follows from cells alone, so the same
store gives the same tables.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.compare import ArtifactComparison, compare_sources
from harness.errors import UsageError, printable
from harness.lock import Lock, difference
from harness.metrics import Profile
from harness.pipeline import in_order, is_final
from harness.store import Cell, Store, StoredCell
from harness.words import count

TABLES_SCHEMA = "1"


@dataclass(frozen=True)
class Pair:
    """Two cells and what their comparison found.

    Attributes:
        a: the older, or the first run of two of one version.
        b: the newer, or the repeat.
        kind: `consecutive` or `repeat` (A against A: the noise floor).
        artifacts: one comparison per artifact, in the order of the pipeline; empty where a cell did not end well.
    """

    a: Cell
    b: Cell
    kind: str
    artifacts: tuple[ArtifactComparison, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether both cells have artifacts to compare."""
        return self.a.outcome == "ok" and self.b.outcome == "ok"

    def final(self) -> list[ArtifactComparison]:
        """Comparisons of the index's own tensors only."""
        return [artifact for artifact in self.artifacts if is_final(artifact.name)]


@dataclass(frozen=True)
class Headline:
    """One row of the headline table; counts are over the final tensors of the index.

    Attributes:
        a: label of the older cell.
        b: label of the newer cell.
        total: number of final tensors on either side.
        shapes: how many have the same shape.
        profiles: profile to how many pass.
        bit_equal: how many are bit for bit the same.
        noisy: final tensors that a repeat of either cell changes too.
        gap: outcome and reason where a cell is missing, else empty.
    """

    a: str
    b: str
    total: int = 0
    shapes: int = 0
    profiles: Mapping[str, int] = field(default_factory=dict)
    bit_equal: int = 0
    noisy: tuple[str, ...] = ()
    gap: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything final differs by a bit."""
        return not self.gap and self.bit_equal < self.total


def compare_cells(store: Store, a: Cell, b: Cell, kind: str, profiles: Sequence[Profile]) -> Pair:
    """Compare two cells of a store; a pair with a cell that did not end well has no artifacts."""
    pair = Pair(a, b, kind)
    if not pair.complete:
        return pair
    found = compare_sources(StoredCell(store, a), StoredCell(store, b), profiles).artifacts
    by_name = {artifact.name: artifact for artifact in found}
    return Pair(a, b, kind, tuple(by_name[name] for name in in_order(by_name)))


def pairs_of(store: Store, cells: Sequence[Cell], versions: Sequence[str], profiles: Sequence[Profile]) -> list[Pair]:
    """Compare consecutive versions, and each repeat with its first run.

    Args:
        store: where the cells' tensors are.
        cells: of one group, without swaps.
        versions: all versions that the table is about, in order; a version without a cell is `missing`.
        profiles: tolerance profiles.
    """
    first = {cell.version: cell for cell in cells if not cell.repeat}
    pairs = [
        compare_cells(store, first.get(a) or _missing(a), first.get(b) or _missing(b), "consecutive", profiles)
        for a, b in itertools.pairwise(versions)
    ]
    pairs += [
        compare_cells(store, first[cell.version], cell, "repeat", profiles)
        for cell in cells
        if cell.repeat and cell.version in first
    ]
    return pairs


def _missing(version: str) -> Cell:
    return Cell("", "", {"version": version, "repeat": 0}, "missing", "this version has no cell in the store")


def noise_of(pairs: Iterable[Pair]) -> dict[str, frozenset[str]]:
    """Version to the artifacts that its repeats change: what A against A shows is noise."""
    noise: dict[str, frozenset[str]] = {}
    for pair in pairs:
        if pair.kind == "repeat":
            changed = frozenset(artifact.name for artifact in pair.artifacts if not artifact.bit_equal)
            noise[pair.a.version] = noise.get(pair.a.version, frozenset()) | changed
    return noise


def headline(pair: Pair, noise: Mapping[str, frozenset[str]]) -> Headline:
    """The headline row of a pair."""
    if not pair.complete:
        gaps = [f"{c.label}: {c.outcome}" for c in (pair.a, pair.b) if c.outcome != "ok"]
        return Headline(pair.a.label, pair.b.label, gap="; ".join(gaps))
    final = pair.final()
    profiles = {p: sum(bool(artifact.close(p)) for artifact in final) for p in _profile_names(final)}
    noisy = noise.get(pair.a.version, frozenset()) | noise.get(pair.b.version, frozenset())
    return Headline(
        a=pair.a.label,
        b=pair.b.label,
        total=len(final),
        shapes=sum(artifact.shape_a is not None and artifact.shape_a == artifact.shape_b for artifact in final),
        profiles=profiles,
        bit_equal=sum(artifact.bit_equal for artifact in final),
        noisy=tuple(artifact.name for artifact in final if artifact.name in noisy and not artifact.bit_equal),
    )


def _profile_names(artifacts: Sequence[ArtifactComparison]) -> list[str]:
    return list(dict.fromkeys(name for artifact in artifacts for name in artifact.profiles))


def groups_of(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells without swaps by group: those that differ only in version and repeat."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.spec.get("swap"):
            groups.setdefault(cell.group, []).append(cell)
    return groups


def describe_group(cells: Sequence[Cell]) -> str:
    """One line that tells a group from another."""
    spec = cells[0].spec
    collection = spec["collection"]
    return printable(
        f"{collection['name']} ({count(collection['passages'], 'passage')}), {spec['checkpoint']['name']}, "
        f"{spec['device']}, {count(len({cell.version for cell in cells}), 'version')}"
    )


def choose_group(cells: Iterable[Cell], wanted: str | None) -> list[Cell]:
    """Return the cells of the only group, or of the one whose digest starts with `wanted`.

    Raises:
        UsageError: no cells, no such group, or several groups and none named.
    """
    groups = groups_of(cell for cell in cells if cell.spec.get("job") != "probe")
    if not groups:
        raise UsageError("The store holds no cells yet: run `nox -s index-VERSION` or `harness index VERSION` first.")
    chosen = {name: found for name, found in groups.items() if name.startswith(wanted or "")}
    listing = "; ".join(f"{name[:12]}: {describe_group(found)}" for name, found in groups.items())
    if not chosen:
        raise UsageError(f"--group {wanted!r} names none of the groups in the store: {listing}.")
    if len(chosen) > 1:
        raise UsageError(
            f"The store holds {len(chosen)} groups of cells that cannot be compared with each other; name one with "
            f"--group, or with --collection, --checkpoint, --limit and --device: {listing}."
        )
    return next(iter(chosen.values()))


# ---- Parquet


_BUILT_WITH = {
    "mkl": r"Math Kernel Library Version (\S+)",
    "onednn": r"MKL-DNN v(\S+)",
    "compiler": r"(GCC \S+)",
    "cpu_capability": r"CPU capability usage: (\S+)",
}


def _built_with(config: str) -> dict[str, str | None]:
    """What `torch.__config__.show()` says of the libraries inside the wheel, which no package version shows."""
    found = {name: re.search(pattern, config) for name, pattern in _BUILT_WITH.items()}
    return {name: match[1] if match else None for name, match in found.items()}


def _loaded(libraries: Mapping[str, Any], file: str, name: str) -> str | None:
    """Version of a CUDA library that a job had loaded; None where it had not.

    That of the package that the file came from, which has more digits, or else what the library says of itself.
    """
    return str(libraries.get(f"{file}.package") or "").rpartition(" ")[2] or libraries.get(name)


def cell_rows(cells: Iterable[Cell]) -> Iterable[dict[str, Any]]:
    """Rows of `cells.parquet`."""
    for cell in cells:
        provenance = cell.details.get("provenance", {})
        peak = cell.details.get("peak_memory", {})
        gpu = provenance.get("gpu") or {}
        libraries = provenance.get("cuda_libraries") or {}
        observed = cell.details.get("observed") or {}
        yield {
            "key": cell.key,
            "group": cell.group,
            "version": cell.version,
            "repeat": cell.repeat,
            "outcome": cell.outcome,
            "reason": cell.reason,
            "phase": cell.phase,
            "device": cell.spec.get("device"),
            "collection": cell.spec.get("collection", {}).get("name"),
            "collection_digest": cell.spec.get("collection", {}).get("digest"),
            "passages": cell.spec.get("collection", {}).get("passages"),
            "checkpoint": cell.spec.get("checkpoint", {}).get("name"),
            "checkpoint_digest": cell.spec.get("checkpoint", {}).get("digest"),
            "lock": cell.spec.get("lock"),
            "capture": cell.capture,
            "torch": provenance.get("torch"),
            "torch_git": provenance.get("torch_git"),
            "cuda": provenance.get("cuda"),
            "cudnn": str(provenance.get("cudnn") or ""),
            "cublas": _loaded(libraries, "libcublas", "cublas"),
            "cuda_runtime": _loaded(libraries, "libcudart", "cuda_runtime"),
            "autocast": observed.get("autocast_dtype") if observed.get("autocast_enabled") else None,
            "cpu": (provenance.get("cpu") or {}).get("model_name"),
            "gpu": gpu.get("name"),
            "driver": gpu.get("driver"),
            "attention_class": observed.get("attention_class"),
            **_built_with(str(provenance.get("torch_config") or "")),
            "seconds": json.dumps(cell.seconds, sort_keys=True),
            "wall_seconds": cell.details.get("wall_seconds"),
            "peak_host_bytes": peak.get("host_bytes"),
            "peak_gpu_bytes": peak.get("gpu_reserved_bytes"),
            "settings": json.dumps(cell.spec.get("settings"), sort_keys=True),
            "environment": json.dumps(cell.spec.get("environment"), sort_keys=True),
            "switches": json.dumps(provenance.get("switches"), sort_keys=True),
            "finished": cell.finished,
            "sources": json.dumps(cell.details["sources"], sort_keys=True) if "sources" in cell.details else None,
        }


def _schema(*columns: tuple[pa.DataType, str]) -> pa.Schema:
    """A schema from (type, names separated by blanks), in order."""
    return pa.schema([pa.field(name, kind) for kind, names in columns for name in names.split()])


_TEXT, _INT, _FLOAT, _BOOL, _SHAPE = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.int64())

CELLS = _schema(
    (_TEXT, "key group version"),
    (_INT, "repeat"),
    (_TEXT, "outcome reason phase device collection collection_digest"),
    (_INT, "passages"),
    (_TEXT, "checkpoint checkpoint_digest lock capture torch torch_git cuda cudnn cublas cuda_runtime autocast"),
    (_TEXT, "cpu gpu driver attention_class mkl onednn compiler cpu_capability seconds"),
    (_FLOAT, "wall_seconds"),
    (_INT, "peak_host_bytes peak_gpu_bytes"),
    (_TEXT, "settings environment switches finished sources"),
)

ARTIFACTS = _schema(
    (_TEXT, "key version"), (_INT, "repeat"), (_TEXT, "artifact kind dtype"), (_SHAPE, "shape"), (_TEXT, "digest"),
    (_BOOL, "stored"),
)  # fmt: skip

COMPARISONS = _schema(
    (_TEXT, "kind a b key_a key_b artifact"),
    (_BOOL, "final"),
    (_TEXT, "status dtype_a dtype_b"),
    (_SHAPE, "shape_a shape_b"),
    (_TEXT, "profile"),
    (_FLOAT, "atol rtol"),
    (_BOOL, "close"),
    (_FLOAT, "min_rtol"),
    (_BOOL, "bit_equal value_equal noise"),
    (_INT, "n n_mismatch"),
    (_FLOAT, "max_abs mean_abs p50_abs p99_abs p999_abs max_rel"),
    (_INT, "max_ulp"),
    (_FLOAT, "p99_ulp rel_l2 cosine"),
    (_TEXT, "details"),
)

CONSECUTIVE = _schema(
    (_TEXT, "a b outcome_a outcome_b"),
    (_INT, "total shapes_match default_match bnb_match bit_equal"),
    (_BOOL, "changed"),
    (pa.list_(_TEXT), "noisy"),
    (_TEXT, "first_changed gap"),
)

ENV_DELTA = _schema((_TEXT, "a b package version_a version_b"))


def _comparison_rows(pairs: Iterable[Pair], noise: Mapping[str, frozenset[str]]) -> Iterable[dict[str, Any]]:
    plain = {field.name for field in COMPARISONS}
    for pair in pairs:
        known = [noise[side.version] for side in (pair.a, pair.b) if side.version in noise]
        noisy = frozenset().union(*known)
        for artifact in pair.artifacts:
            facts = artifact.to_json()
            verdicts = artifact.profiles
            for profile in verdicts or ("",):
                verdict = verdicts.get(profile)
                row = {name: facts.get(name) for name in plain}
                row |= {
                    "kind": pair.kind,
                    "a": pair.a.label,
                    "b": pair.b.label,
                    "key_a": pair.a.key,
                    "key_b": pair.b.key,
                    "artifact": artifact.name,
                    "final": is_final(artifact.name),
                    "profile": profile,
                    "atol": verdict.atol if verdict else None,
                    "rtol": verdict.rtol if verdict else None,
                    "close": verdict.close if verdict else None,
                    "min_rtol": verdict.min_rtol if verdict else None,
                    "noise": artifact.name in noisy if known else None,
                    "details": json.dumps({k: v for k, v in facts.items() if k not in plain}, sort_keys=True),
                }
                yield row


def write_tables(
    folder: Path,
    cells: Sequence[Cell],
    pairs: Sequence[Pair],
    locks: Mapping[str, Lock],
    about: Mapping[str, str],
) -> list[Path]:
    """Write the tables of one sweep below `folder`, each at once; returns the files.

    Args:
        folder: made if it does not exist.
        cells: every cell of the group.
        pairs: from `pairs_of`.
        locks: version to its lock, for the package differences.
        about: written to each file's metadata: device, collection and so on.
    """
    noise = noise_of(pairs)
    consecutive = [pair for pair in pairs if pair.kind == "consecutive"]
    tables: dict[str, tuple[pa.Schema, Iterable[dict[str, Any]]]] = {
        "cells": (CELLS, cell_rows(cells)),
        "artifacts": (
            ARTIFACTS,
            (
                {
                    "key": cell.key,
                    "version": cell.version,
                    "repeat": cell.repeat,
                    "artifact": name,
                    "kind": artifact.kind,
                    "dtype": artifact.dtype,
                    "shape": list(artifact.shape),
                    "digest": artifact.digest,
                    "stored": artifact.stored,
                }
                for cell in cells
                for name, artifact in cell.artifacts.items()
            ),
        ),
        "comparisons": (COMPARISONS, _comparison_rows(pairs, noise)),
        "consecutive": (CONSECUTIVE, (_consecutive_row(pair, noise) for pair in consecutive)),
        "env_delta": (
            ENV_DELTA,
            (
                {"a": pair.a.version, "b": pair.b.version, "package": name, "version_a": old, "version_b": new}
                for pair in consecutive
                if pair.a.version in locks and pair.b.version in locks
                for name, (old, new) in difference(locks[pair.a.version], locks[pair.b.version]).items()
            ),
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (schema, rows) in tables.items():
        metadata = {"harness_schema": TABLES_SCHEMA, "harness_table": name, **about}
        table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata(metadata))
        path = folder / f"{name}.parquet"
        # A name of its own: two sweeps of one collection may end at the same time.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)
        written.append(path)
    return written


def _consecutive_row(pair: Pair, noise: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    row = headline(pair, noise)
    # Tensors only: the index's metadata names a folder of one run, and is never the same.
    changed = [artifact.name for artifact in pair.artifacts if not artifact.bit_equal and artifact.tensor]
    return {
        "a": row.a,
        "b": row.b,
        "outcome_a": pair.a.outcome,
        "outcome_b": pair.b.outcome,
        "total": row.total,
        "shapes_match": row.shapes,
        "default_match": row.profiles.get("default", 0),
        "bnb_match": row.profiles.get("bnb", 0),
        "bit_equal": row.bit_equal,
        "changed": row.changed,
        "noisy": list(row.noisy),
        "first_changed": changed[0] if changed else None,
        "gap": row.gap,
    }


def metadata_of(table: pa.Table) -> dict[str, str]:
    """What the file of a table says that it is of: device, collection, schema version and so on."""
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (table.schema.metadata or {}).items()
        if not key.startswith(b"ARROW")
    }


# ---- words

COLUMNS = ("PyTorch A", "PyTorch B", "All shapes match", "Default", "bnb", "Bit-equal", "Outcome")


def headline_cells(row: Headline) -> tuple[str, ...]:
    """The cells of one headline row, with the reference article's columns first."""
    if row.gap:
        return (row.a, row.b, "-", "-", "-", "-", row.gap)

    def verdict(passed: int, yes: str, no: str) -> str:
        return f"{yes if passed == row.total else no} ({passed}/{row.total})"

    outcome = "ok"
    if row.noisy:
        outcome = f"noise in {', '.join(row.noisy)}"
    return (
        row.a,
        row.b,
        verdict(row.shapes, "Yes", "No"),
        verdict(row.profiles.get("default", 0), "True", "False"),
        verdict(row.profiles.get("bnb", 0), "True", "False"),
        verdict(row.bit_equal, "True", "False"),
        outcome,
    )


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table for pasting."""
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(':-:' for _ in columns)}|"]
    lines += [f"| {' | '.join(_in_markdown(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _in_markdown(text: str) -> str:
    """Text as it reads in a Markdown table: neither a bar nor HTML nor a link can come out of it."""
    marks = str.maketrans({mark: f"\\{mark}" for mark in "|<>[]`*\\"})
    return printable(text).translate(marks)

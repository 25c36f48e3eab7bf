"""Stored cells as Parquet tables, in long form, with a schema version; what is written follows from the cells alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.environments.changes import changes, required_by
from harness.environments.lockfile import Lock
from harness.explain.compared import ComparedCells
from harness.rankings.verdict import Verdict
from harness.report.columns import TABLES
from harness.report.derived import judged
from harness.report.headline import headline
from harness.report.parquet import picked, write_table
from harness.report.retrieval import Retrieval, write_retrieval
from harness.report.training import write_training
from harness.store.cell import Cell

_BUILT_WITH = {
    "mkl": r"Math Kernel Library Version (\S+)",
    "onednn": r"MKL-DNN v(\S+)",
    "compiler": r"(GCC \S+)",
    "cpu_capability": r"CPU capability usage: (\S+)",
}
"""What `torch.__config__.show()` says of the libraries inside the wheel, which no package version shows."""


def _copies(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The CUDA libraries that a job had loaded; older records have one copy of each, taken for torch's."""
    if "libraries" in provenance:
        return list(provenance["libraries"])
    old = provenance.get("cuda_libraries") or {}
    return [
        {"library": library, "version": old.get(name), "package": old.get(f"{library}.package"), "used_by": ["torch"]}
        for library, name in (("libcublas", "cublas"), ("libcudart", "cuda_runtime"))
    ]


def _used(copies: Iterable[Mapping[str, Any]], library: str, user: str) -> str | None:
    """Version of the copy of a library that torch or faiss uses; None where that is not known.

    That of the package that the file came from, which has more digits, or else what the library says of itself.
    """
    for copy in copies:
        if copy["library"] == library and user in copy["used_by"]:
            return (copy["package"] or "").rpartition(" ")[2] or copy["version"]
    return None


def _json(value: object) -> str | None:
    """A value as JSON text; nothing where there is none."""
    return None if value is None else json.dumps(value, sort_keys=True)


def cell_rows(cells: Iterable[Cell]) -> Iterable[dict[str, Any]]:
    """Rows of `cells.parquet`."""
    for cell in cells:
        provenance = cell.details.get("provenance", {})
        peak = cell.details.get("peak_memory", {})
        gpu = provenance.get("gpu") or {}
        copies = _copies(provenance)
        observed = cell.details.get("observed") or {}
        config = str(provenance.get("torch_config") or "")
        built_with = {name: re.search(pattern, config) for name, pattern in _BUILT_WITH.items()}
        yield {
            **picked(cell, "key", "group", "version", "repeat", "outcome", "reason", "phase", "capture", "finished"),
            **picked(cell.spec, "job", "device", "lock"),
            "index": None if cell.spec.index is None else cell.spec.index.name,
            "collection": cell.spec.collection.name,
            "collection_digest": cell.spec.collection.digest,
            "passages": cell.spec.collection.passages,
            "checkpoint": cell.spec.checkpoint.name,
            "checkpoint_digest": cell.spec.checkpoint.digest,
            **{name: provenance.get(name) for name in ("torch", "torch_git", "cuda")},
            "cudnn": str(provenance["cudnn"]) if provenance.get("cudnn") else None,
            "cublas": _used(copies, "libcublas", "torch"),
            "cublas_faiss": _used(copies, "libcublas", "faiss"),
            "cuda_runtime": _used(copies, "libcudart", "torch"),
            "libraries": _json(provenance.get("libraries")),
            "autocast": observed.get("autocast_dtype") if observed.get("autocast_enabled") else None,
            "cpu": (provenance.get("cpu") or {}).get("model_name"),
            "gpu": gpu.get("name"),
            "driver": gpu.get("driver"),
            "attention_class": observed.get("attention_class"),
            **{name: match and match[1] for name, match in built_with.items()},
            "seconds": _json(cell.seconds),
            "wall_seconds": cell.details.get("wall_seconds"),
            "peak_host_bytes": peak.get("host_bytes"),
            "peak_gpu_bytes": peak.get("gpu_reserved_bytes"),
            "settings": _json(cell.spec.settings),
            "environment": _json(cell.spec.environment),
            "switches": _json(provenance.get("switches")),
            "sources": _json(cell.details.get("sources")),
        }


def _comparison_rows(pairs: Iterable[ComparedCells]) -> Iterable[dict[str, Any]]:
    plain = TABLES["comparisons"].columns
    for pair in pairs:
        for artifact in pair.artifacts:
            facts = artifact.to_json()
            yield {name: facts.get(name) for name in plain} | {
                "kind": pair.kind,
                "a": pair.a.label,
                "b": pair.b.label,
                "key_a": pair.a.key,
                "key_b": pair.b.key,
                "artifact": artifact.name,
                "final": pair.a.job_kind.is_final(artifact.name),
                **judged(facts["profiles"]),
                "noise": pair.is_noise(artifact),
                "details": json.dumps({k: v for k, v in facts.items() if k not in plain}, sort_keys=True),
            }


def write_tables(
    folder: Path,
    cells: Sequence[Cell],
    pairs: Sequence[ComparedCells],
    locks: Mapping[str, Lock],
    about: Mapping[str, str],
    searched: Retrieval | None = None,
) -> None:
    """Write the tables of one sweep below `folder`, each at once.

    Args:
        folder: made if it does not exist.
        cells: every cell of the group.
        pairs: from `pairs_of`.
        locks: version to its lock, for the package differences.
        about: written to each file's metadata: device, collection and so on.
        searched: what is known of the searches in these indexes.
    """
    searched = searched or Retrieval()
    consecutive = [pair for pair in pairs if pair.kind == "consecutive"]
    tables: dict[str, Iterable[Mapping[str, Any]]] = {
        "cells": cell_rows([*cells, *searched.cells.values()]),
        "artifacts": (
            {
                **picked(cell, "key", "version", "repeat"),
                "artifact": name,
                **picked(artifact, "kind", "dtype", "shape", "digest", "stored"),
            }
            for cell in cells
            for name, artifact in cell.artifacts.items()
        ),
        "comparisons": _comparison_rows(pairs),
        "consecutive": (
            _consecutive_row(pair) | _verdict(searched.verdicts.get((pair.a.version, pair.b.version)))
            for pair in consecutive
        ),
        "env_delta": (
            {
                "a": pair.a.version,
                "b": pair.b.version,
                "package": change.name,
                "version_a": change.version_a,
                "version_b": change.version_b,
                "renamed_from": change.renamed_from,
                "required_by": list(required_by(change, *both)),
            }
            for pair in consecutive
            if pair.a.version in locks and pair.b.version in locks
            for both in [(locks[pair.a.version], locks[pair.b.version])]
            for change in changes(*both)
        ),
    }
    for name, rows in tables.items():
        write_table(folder, name, rows, **about)
    write_retrieval(folder, searched, about)
    write_training(folder, pairs, about)


def _verdict(found: Verdict | None) -> dict[str, Any]:
    return {} if found is None else {"verdict": found.answer, "verdict_reason": found.sentence}


def _consecutive_row(pair: ComparedCells) -> dict[str, Any]:
    row = headline(pair)
    found = picked(row, "a", "b", "gap") | {"outcome_a": pair.a.outcome, "outcome_b": pair.b.outcome}
    if row.gap:
        # Nothing was measured, and nothing is not the same as no difference.
        return found
    return found | {
        **picked(row, "total", "bit_equal", "changed", "noisy"),
        "shapes_match": row.shapes,
        "default_match": row.profiles.get("default"),
        "bnb_match": row.profiles.get("bnb"),
        "first_changed": pair.first_changed,
    }

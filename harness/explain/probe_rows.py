"""Stored probes compared between versions like artifacts: rows of `probes.parquet`, and a line for each change."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.artifacts.comparison import ArtifactComparison, compare_sources
from harness.explain.difference import measured
from harness.running.probes import SAMPLE
from harness.store.cell import Cell
from harness.store.repeats import repeats_of
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.metrics import Metrics
from harness.tensors.profiles import BUILTIN, Profile


@dataclass(frozen=True)
class ProbeRow:
    """One row of `probes.parquet`: a tensor in two versions, or a fact of one (`a` and `b` are the same then).

    The fields mean what `harness/report/columns.py` says of the columns of their names; `metrics`, which is no column,
    is all that was measured.
    """

    probe: str
    case: str
    tensor: str
    a: str
    b: str
    key_a: str
    key_b: str
    status: str
    dtype: str | None = None
    shape: str | None = None
    measured: str = ""
    n: int | None = None
    n_mismatch: int | None = None
    max_abs: float | None = None
    max_abs_ulp: float | None = None
    max_ulp: int | None = None
    bit_equal: bool | None = None
    default: bool | None = None
    bnb: bool | None = None
    noise: bool | None = None
    fact: str | None = None
    holds: bool | None = None
    note: str = ""
    digest_a: str | None = None
    digest_b: str | None = None
    metrics: Metrics | None = None

    @property
    def changed(self) -> bool:
        """Whether the two versions differ in it, beyond what a repeat shows."""
        return self.fact is None and self.status not in {"bit_equal", "unreadable"} and not self.noise

    def to_row(self) -> dict[str, Any]:
        """As a row of the table."""
        return {name: value for name, value in asdict(replace(self, metrics=None)).items() if name != "metrics"}


def by_probe(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Probe to its cells; of cells that were chosen, one for each probe, version and repeat."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.spec.probe, []).append(cell)
    return dict(sorted(found.items()))


def compare_probes(
    store: Store, cells: Mapping[str, list[Cell]], versions: Sequence[str], profiles: Sequence[Profile] = BUILTIN
) -> list[ProbeRow]:
    """Facts of each version, then every consecutive pair of `versions`, probe by probe.

    Args:
        store: where the tensors are.
        cells: probe to cells of one set, from `by_probe`.
        versions: in order; one without a cell gives rows of what is missing.
        profiles: `default` and `bnb` fill the columns of that name.
    """
    rows: list[ProbeRow] = []
    for probe, members in cells.items():
        first = {cell.version: cell for cell in members if not cell.repeat}
        noise = {version: _noise(store, cell, members) for version, cell in first.items()}
        for version in versions:
            if version in first:
                rows += _facts(store, probe, first[version], profiles)
        for a, b in itertools.pairwise(versions):
            known = [noise.get(version) for version in (a, b)]
            noisy = None if all(one is None for one in known) else frozenset().union(*(one or () for one in known))
            rows += _pair(store, probe, (a, b), (first.get(a), first.get(b)), noisy, profiles)
    return rows


def _noise(store: Store, cell: Cell, members: Iterable[Cell]) -> frozenset[str] | None:
    """Artifacts that a repeat of this cell changes; None where there is none."""
    others = [one for one in repeats_of(cell, members) if one.outcome == "ok"]
    if not others:
        return None
    own, *again = (_digests(_named(store, one)[0]) for one in (cell, *others))
    return frozenset(name for other in again for name, _digest in own.items() ^ other.items())


def _named(store: Store, cell: Cell) -> tuple[StoredCell, dict[str, tuple[str, str]]]:
    """A probe's cell with its artifacts named by case and tensor, and both of each name; samples of large ones too.

    Artifacts are numbered in the order in which the probe made them, which says nothing where a version refuses a case.
    """
    places, artifacts = {}, {}
    for one in cell.details.get("tensors", ()):
        label = f"{one['case']}: {one['tensor']}"
        places[label] = one["case"], one["tensor"]
        for part in ("", SAMPLE):
            if f"{one['artifact']}{part}" in cell.artifacts:
                artifacts[f"{label}{part}"] = cell.artifacts[f"{one['artifact']}{part}"]
    return StoredCell(store, replace(cell, artifacts=artifacts)), places


def _digests(source: StoredCell) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in source.cell.artifacts.items()}


def _facts(store: Store, probe: str, cell: Cell, profiles: Sequence[Profile]) -> Iterator[ProbeRow]:
    base: dict[str, Any] = {"probe": probe, "a": cell.version, "b": cell.version, "key_a": cell.key, "key_b": cell.key}

    def not_run(case: str, note: str) -> ProbeRow:
        return ProbeRow(**base, case=case, tensor="", status="unreadable", fact="ran", holds=False, note=note)

    if cell.outcome != "ok":
        yield not_run("", f"{cell.outcome}: {cell.reason}")
        return
    for refused in cell.details.get("refused", ()):
        yield not_run(refused["case"], refused["reason"])
    for fact in cell.details.get("facts", ()):
        name, holds = fact["fact"], fact["holds"]
        row = ProbeRow(
            **base, case=fact["case"], tensor=name, status="bit_equal" if holds else "different",
            bit_equal=bool(holds), fact=name, holds=holds, note=fact["note"],
        )  # fmt: skip
        if len(fact["pair"]) == 2:
            row = _measured_fact(row, store, cell, fact["pair"], profiles)
        yield row


def _measured_fact(row: ProbeRow, store: Store, cell: Cell, pair: list[str], profiles: Sequence[Profile]) -> ProbeRow:
    artifacts = [cell.artifacts[name] for name in pair]
    row = replace(row, dtype=artifacts[0].dtype, shape=_shape(artifacts[0].shape), digest_a=artifacts[0].digest,
                  digest_b=artifacts[1].digest)  # fmt: skip
    sampled = not artifacts[0].stored
    left, right = (cell.artifacts.get(f"{name}{SAMPLE}" if sampled else name) for name in pair)
    metrics = left and right and measured(lambda: store.load(left), lambda: store.load(right), profiles)
    return _with_metrics(row, metrics, "sample" if sampled else "whole") if metrics else row


def _with_metrics(row: ProbeRow, metrics: Metrics, measured: str) -> ProbeRow:
    verdicts = {verdict.profile: verdict.close for verdict in metrics.verdicts}
    return replace(
        row, measured=measured, n=metrics.n, n_mismatch=metrics.n_mismatch, max_abs=metrics.max_abs,
        max_abs_ulp=metrics.max_abs_ulp, max_ulp=metrics.max_ulp,
        default=verdicts.get("default"), bnb=verdicts.get("bnb"), metrics=metrics,
    )  # fmt: skip


def _shape(shape: Sequence[int] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape))


def _pair(
    store: Store, probe: str, versions: tuple[str, str], pair: tuple[Cell | None, Cell | None],
    noise: frozenset[str] | None, profiles: Sequence[Profile],
) -> Iterator[ProbeRow]:  # fmt: skip
    a, b = pair
    base: dict[str, Any] = {
        "probe": probe, "a": versions[0], "b": versions[1], "key_a": a.key if a else "", "key_b": b.key if b else "",
    }  # fmt: skip
    lost = [cell is None or cell.outcome != "ok" for cell in pair]
    if any(lost):
        notes = [
            f"{version} {f'ended as {cell.outcome}: {cell.reason}' if cell else 'was not probed'}"
            for version, cell, gone in zip(versions, pair, lost, strict=True)
            if gone
        ]
        # Neither side has anything that could differ when both ended badly: it is a gap, and not a change.
        status = "unreadable" if all(lost) else "missing_a" if lost[0] else "missing_b"
        yield ProbeRow(**base, case="", tensor="", status=status, note="; ".join(notes))
        return
    assert a is not None
    assert b is not None
    (left, in_a), (right, in_b) = _named(store, a), _named(store, b)
    of_a, of_b = _digests(left), _digests(right)
    compared = {one.name: one for one in compare_sources(left, right, profiles).artifacts}
    refused = {r["case"]: r["reason"] for cell in (a, b) for r in cell.details.get("refused", ())}
    for name, (case, tensor) in {**in_a, **in_b}.items():
        one = compared.get(name) or ArtifactComparison(name, "unreadable", reason="its record names no such tensor")
        row = _row(one, compared.get(f"{name}{SAMPLE}"), {**base, "case": case, "tensor": tensor})
        yield replace(
            row,
            noise=None if noise is None else name in noise,
            digest_a=of_a.get(name),
            digest_b=of_b.get(name),
            note=refused.get(case, "") if row.status.startswith("missing") else row.note,
        )


def _row(found: ArtifactComparison, sampled: ArtifactComparison | None, base: dict[str, Any]) -> ProbeRow:
    dtypes = list(dict.fromkeys(filter(None, (found.dtype_a, found.dtype_b))))
    shapes = list(dict.fromkeys(filter(None, (_shape(found.shape_a), _shape(found.shape_b)))))
    row = ProbeRow(**base, status=found.status, dtype=" against ".join(dtypes), shape=" against ".join(shapes),
                   bit_equal=None if found.status == "unreadable" else found.bit_equal)  # fmt: skip
    if found.metrics is not None:
        return _with_metrics(row, found.metrics, "whole")
    if found.status != "different":
        return row
    if found.shape_a != found.shape_b or found.dtype_a != found.dtype_b:
        # Known from the records alone, since neither tensor was kept whole.
        return replace(row, status="shape_mismatch" if found.shape_a != found.shape_b else "dtype_mismatch")
    if sampled is None or sampled.metrics is None:
        return replace(row, note=found.reason)
    row = _with_metrics(row, sampled.metrics, "sample")
    if sampled.metrics.bit_equal:
        # It differs somewhere else: no verdict follows from what was kept.
        return replace(row, default=None, bnb=None, note="differs outside the sample that was kept")
    return replace(row, status=sampled.status, note="of a sample")

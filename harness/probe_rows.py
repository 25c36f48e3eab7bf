"""Stored probes compared between versions like artifacts: rows of `probes.parquet`, and a line for each change."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.compare import ArtifactComparison, compare_sources
from harness.metrics import BUILTIN, Metrics, Profile, measure
from harness.probes import SAMPLE
from harness.repeats import repeats_of
from harness.replay import amount
from harness.sources import Facts
from harness.store import Artifact, Cell, Store
from harness.tensors import Tensor, UnreadableTensor


class ProbeCell:
    """A probe's cell as a source of artifacts for the comparer: they are named by case and tensor.

    Artifacts are numbered in the order in which the probe made them, which says nothing where a version refuses a case.
    """

    def __init__(self, store: Store, cell: Cell) -> None:
        self.store, self.cell = store, cell
        self._artifacts: dict[str, str] = {}
        self.places: dict[str, tuple[str, str]] = {}
        for one in cell.details.get("tensors", ()):
            label = f"{one['case']}: {one['tensor']}"
            self.places[label] = one["case"], one["tensor"]
            self._artifacts[label] = one["artifact"]
            if f"{one['artifact']}{SAMPLE}" in cell.artifacts:
                self._artifacts[f"{label}{SAMPLE}"] = f"{one['artifact']}{SAMPLE}"

    @property
    def name(self) -> str:
        """The cell's label."""
        return self.cell.label

    def names(self) -> tuple[str, ...]:
        """Case and tensor of each, samples of large ones too."""
        return tuple(self._artifacts)

    def artifact(self, name: str) -> Artifact | None:
        """What the cell knows of one of them."""
        return self.cell.artifacts.get(self._artifacts.get(name, ""))

    def facts(self, name: str) -> Facts | None:
        """Digest, dtype and shape, from the record."""
        found = self.artifact(name)
        return Facts(found.digest, found.dtype, found.shape, found.nans) if found else None

    def digest(self, name: str) -> str | None:
        """From the record."""
        found = self.artifact(name)
        return found.digest if found else None

    def load(self, name: str) -> Tensor:
        """Map a tensor; see `Store.load`."""
        found = self.artifact(name)
        if found is None:
            raise UnreadableTensor(f"the cell has no tensor {name!r}")
        return self.store.load(found)

    def metadata(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Row:
    """One row of `probes.parquet`: a tensor in two versions, or a fact of one (`a` and `b` are the same then).

    Attributes:
        probe: its name.
        case: such as `mixed batch 08`; empty where the probe as a whole is missing.
        tensor: which of the case's tensors; for a fact, its name.
        a: label of the older version.
        b: label of the newer one.
        key_a: key of A's cell; empty where there is none.
        key_b: of B's.
        status: as for artifacts.
        dtype: of the tensor; both, where they differ.
        shape: of the whole tensor.
        measured: `whole`, `sample` (only elements at even distances were kept) or empty (digests only).
        noise: whether a repeat of A or of B changes it too; None where nothing was repeated.
        fact: what ought to hold within a version, such as `batch_invariant`.
        holds: whether it does.
        note: where it does not, or why something is missing.
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
        found.setdefault(cell.spec["settings"]["probe"], []).append(cell)
    return dict(sorted(found.items()))


def compare_probes(
    store: Store, cells: Mapping[str, list[Cell]], versions: Sequence[str], profiles: Sequence[Profile] = BUILTIN
) -> list[Row]:
    """Facts of each version, then every consecutive pair of `versions`, probe by probe.

    Args:
        store: where the tensors are.
        cells: probe to cells of one set, from `by_probe`.
        versions: in order; one without a cell gives rows of what is missing.
        profiles: `default` and `bnb` fill the columns of that name.
    """
    rows: list[Row] = []
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
    sources = [ProbeCell(store, one) for one in (cell, *others)]
    digests = [{name: source.digest(name) for name in source.names()} for source in sources]
    return frozenset(
        name for name in set().union(*digests) if any(other.get(name) != digests[0].get(name) for other in digests)
    )


def _facts(store: Store, probe: str, cell: Cell, profiles: Sequence[Profile]) -> Iterator[Row]:
    base: dict[str, Any] = {"probe": probe, "a": cell.version, "b": cell.version, "key_a": cell.key, "key_b": cell.key}
    if cell.outcome != "ok":
        yield Row(**base, case="", tensor="", status="unreadable", fact="ran", holds=False,
                  note=f"{cell.outcome}: {cell.reason}")  # fmt: skip
        return
    for refused in cell.details.get("refused", ()):
        yield Row(**base, case=refused["case"], tensor="", status="unreadable", fact="ran", holds=False,
                  note=refused["reason"])  # fmt: skip
    for fact in cell.details.get("facts", ()):
        row = Row(
            **base, case=fact["case"], tensor=fact["fact"], status="bit_equal", bit_equal=True, fact=fact["fact"],
            holds=fact["holds"], note=fact["note"],
        )  # fmt: skip
        if not fact["holds"]:
            row = replace(row, status="different", bit_equal=False)
        if len(fact["pair"]) == 2:
            row = _measured_fact(row, store, cell, fact["pair"], profiles)
        yield row


def _measured_fact(row: Row, store: Store, cell: Cell, pair: list[str], profiles: Sequence[Profile]) -> Row:
    artifacts = [cell.artifacts[name] for name in pair]
    row = replace(row, dtype=artifacts[0].dtype, shape=_shape(artifacts[0].shape), digest_a=artifacts[0].digest,
                  digest_b=artifacts[1].digest)  # fmt: skip
    sampled = not artifacts[0].stored
    try:
        left, right = (store.load(cell.artifacts[f"{name}{SAMPLE}" if sampled else name]) for name in pair)
        if (left.shape, left.dtype) != (right.shape, right.dtype):
            return row
        metrics = measure(left, right, profiles)
    except (UnreadableTensor, KeyError):
        return row
    return _with_metrics(row, metrics, "sample" if sampled else "whole")


def _with_metrics(row: Row, metrics: Metrics, measured: str) -> Row:
    verdicts = {verdict.profile: verdict.close for verdict in metrics.verdicts}
    return replace(
        row, measured=measured, n=metrics.n, n_mismatch=metrics.n_mismatch, max_abs=metrics.max_abs,
        max_ulp=metrics.max_ulp, default=verdicts.get("default"), bnb=verdicts.get("bnb"), metrics=metrics,
    )  # fmt: skip


def _shape(shape: Sequence[int] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape))


def _pair(
    store: Store, probe: str, versions: tuple[str, str], pair: tuple[Cell | None, Cell | None],
    noise: frozenset[str] | None, profiles: Sequence[Profile],
) -> Iterator[Row]:  # fmt: skip
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
        yield Row(**base, case="", tensor="", status=status, note="; ".join(notes))
        return
    assert a is not None
    assert b is not None
    left, right = ProbeCell(store, a), ProbeCell(store, b)
    compared = {one.name: one for one in compare_sources(left, right, profiles).artifacts}
    refused = {r["case"]: r["reason"] for cell in (a, b) for r in cell.details.get("refused", ())}
    for name, (case, tensor) in {**left.places, **right.places}.items():
        row = _row(compared[name], compared.get(f"{name}{SAMPLE}"), {**base, "case": case, "tensor": tensor})
        yield replace(
            row,
            noise=None if noise is None else name in noise,
            digest_a=left.digest(name),
            digest_b=right.digest(name),
            note=refused.get(case, "") if row.status.startswith("missing") else row.note,
        )


def _row(found: ArtifactComparison, sampled: ArtifactComparison | None, base: dict[str, Any]) -> Row:
    dtypes = list(dict.fromkeys(filter(None, (found.dtype_a, found.dtype_b))))
    shapes = list(dict.fromkeys(filter(None, (_shape(found.shape_a), _shape(found.shape_b)))))
    row = Row(**base, status=found.status, dtype=" against ".join(dtypes), shape=" against ".join(shapes),
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


# ---- Saying it


_NUMBER = re.compile(r"\.\d+(?=\.|$)")


def summaries(rows: Sequence[Row]) -> list[str]:
    """One short line for each probe that changed between two versions, and one for those that are equal."""
    lines = []
    for a, b in dict.fromkeys((row.a, row.b) for row in rows if row.fact is None):
        arrow, equal, gaps = f"{a} -> {b}", [], []
        of_pair = [row for row in rows if row.fact is None and (row.a, row.b) == (a, b)]
        for probe in dict.fromkeys(row.probe for row in of_pair):
            mine = [row for row in of_pair if row.probe == probe]
            changed = [row for row in mine if row.changed]
            if changed:
                lines.append(f"{arrow}  {probe}: {_changes(changed, len(mine))}")
                lines += [f"{arrow}  {probe}: {note}" for note in _removed(mine)]
            elif mine[0].status == "unreadable":
                gaps.append(f"{arrow}  {probe}: not compared: {mine[0].note}")
            else:
                noisy = sum(not row.bit_equal for row in mine)
                equal.append(f"{probe} ({noisy} noisy)" if noisy else probe)
            lines += [f"{arrow}  {probe}: {note}" for note in _turned(rows, probe, a, b)]
        lines += gaps
        if equal:
            lines.append(f"{arrow}  equal: {', '.join(equal)}")
        lines += [f"{arrow}  noise floor: {said}" for said in _noise_floor(of_pair)]
    return lines


def _noise_floor(rows: Iterable[Row]) -> list[str]:
    """How many tensors a repeat changes, where there is one; where there is none, that a change may be noise."""
    compared = [row for row in rows if row.tensor]
    known = [row for row in compared if row.noise is not None]
    if known:
        return [f"a repeat changes {sum(bool(row.noise) for row in known) or 'none'} of {len(known)} tensors"]
    changed = any(row.changed for row in compared)
    return ["not known, because neither version was repeated (--repeat VERSION)"] if changed else []


def _turned(rows: Iterable[Row], probe: str, a: str, b: str) -> list[str]:
    """Facts that hold in one of two versions only, or fail in other places."""
    notes: dict[str, dict[tuple[str, str], str]] = {a: {}, b: {}}
    for row in rows:
        if row.probe == probe and row.fact is not None and row.a in notes and row.fact != "ran":
            notes[row.a][row.case, row.fact] = "yes" if row.holds else f"no{f' ({row.note})' if row.note else ''}"
    turned: dict[str, dict[str, None]] = {}
    for (case, fact), before in notes[a].items():
        after = notes[b].get((case, fact), before)
        if after != before:
            what = f"{fact.replace('_', ' ')}: {before} -> {after}"
            turned.setdefault(what, {})[_NUMBER.sub(".*", case)] = None
    return [f"{what}: {_place(list(cases), '')}" for what, cases in turned.items()]


def _changes(changed: list[Row], total: int) -> str:
    if not changed[0].tensor:
        return changed[0].note
    # By the difference itself: across zero the number of floats between two tiny numbers is enormous.
    worst = max(changed, key=lambda row: (row.max_ulp is not None, -1.0 if row.max_abs is None else row.max_abs))
    if worst.metrics is None or worst.metrics.bit_equal:
        how = f": {worst.status.replace('_', ' ')}{f' ({worst.note})' if worst.note else ''}"
    else:
        how = amount(worst.metrics) + (" of a sample" if worst.measured == "sample" else "")
    first = f"first {changed[0].case}, {changed[0].tensor}"
    greatest = "" if worst is changed[0] else f"; greatest {worst.case}, {worst.tensor}"
    return f"{len(changed)} of {total} tensors differ, {first}{greatest}{how}"


def _removed(rows: list[Row]) -> list[str]:
    """What the probe `identity` shows: without which Linears a precision's difference is gone."""
    notes = []
    for baseline in (row for row in rows if row.case.endswith(" without nothing") and row.changed):
        precision = baseline.case.removesuffix("nothing")
        others = [row for row in rows if row.case.startswith(precision) and row is not baseline]
        gone = [row.case.removeprefix(precision) for row in others if row.bit_equal]
        which = f"is gone without {', '.join(gone)}" if gone else "stays whichever Linear is replaced by Identity"
        notes.append(f"the difference in {precision.split()[0]} precision {which}")
    return notes


def version_lines(cells: Iterable[Cell]) -> list[str]:
    """One line for each version and repeat: how many probes ended well, in how many seconds."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.version, cell.repeat), []).append(cell)
    lines = []
    for (version, repeat), members in groups.items():
        well = sum(cell.outcome == "ok" for cell in members)
        tensors = sum(len(cell.details.get("tensors", ())) for cell in members)
        seconds = sum(cell.seconds.get("total", 0.0) for cell in members)
        label = f"{version}#{repeat}" if repeat else version
        lines.append(f"{label}  {well} of {len(members)} probes are stored: {tensors} tensors, {seconds:.0f} s")
    return lines


def fact_lines(rows: Iterable[Row]) -> list[str]:
    """One short line for each probe and fact that does not hold everywhere, for all versions of which it says the same.

    Layers of which the same is said are one place, their numbers a star.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.fact is not None:
            groups.setdefault((row.probe, row.fact, row.a), []).append(row)
    said: dict[str, list[str]] = {}
    for (probe, fact, version), members in groups.items():
        failing = [row for row in members if not row.holds]
        if not failing:
            continue
        places: dict[str, dict[str, None]] = {}
        for row in failing:
            places.setdefault(row.note, {})[_NUMBER.sub(".*", row.case) or "the whole probe"] = None
        shown = "; ".join(_place(list(cases), note) for note, cases in places.items())
        what = (
            "did not run"
            if fact == "ran"
            else f"{fact.replace('_', ' ')}: not in {len(failing)} of {len(members)} cases"
        )
        said.setdefault(f"{probe}: {what}: {shown}", []).append(version)
    return [f"{', '.join(versions)}  {text}" for text, versions in said.items()]


def _place(cases: list[str], note: str) -> str:
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return f"{cases[0]}{more}{f' ({note})' if note else ''}"

"""A night's tables against those of the nights before: what is worse than it was, and nothing else, is news."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.artifacts.comparison import STATUSES
from harness.errors import InfrastructureError, UsageError
from harness.report.headline import Headline, VersionPair
from harness.report.parquet import read_table

Key = TypeVar("Key")

TABLES = ("comparisons", "consecutive", "artifacts")
LOOK_BACK = 30
"""How many earlier nights are looked at for a step that the last one lacks."""

_ALIKE = {"dtype_mismatch": "shape_mismatch", "missing_b": "missing_a", "unreadable": "missing_a"}
RANKS = {status: STATUSES.index(_ALIKE.get(status, status)) for status in STATUSES}
"""Statuses from best to worst; those that are alike have one rank."""


@dataclass(frozen=True)
class NightRow:
    """One artifact of one step in one night.

    Attributes:
        status: as in the table.
        failing: profiles that it does not pass.
        noise: it differs no more than a repeat of either cell shows.
        final: whether it is one of the index's own tensors.
        n_mismatch: elements that differ, where they could be counted.
        n: of how many.
    """

    status: str
    failing: frozenset[str]
    noise: bool
    final: bool
    n_mismatch: int | None = None
    n: int | None = None

    def worse_than(self, before: NightRow) -> bool:
        """Whether the status is worse than it was, or a profile fails that passed."""
        rank, was = (RANKS.get(one.status, max(RANKS.values())) for one in (self, before))
        return rank > was or not self.failing <= before.failing


@dataclass(frozen=True)
class Night:
    """The tables of one night.

    Attributes:
        name: of its folder.
        group: what it is comparable with; cells of other devices, collections or settings are in other groups.
        about: what the tables say of themselves.
        findings: step and artifact to what was found.
        headline: the headline table.
        digests: cell key, version and artifact to its digest.
        keys: version to the key of its cell.
        unknown: steps and artifacts of which nobody knows whether they differ: a side could not be read or recorded.
    """

    name: str
    group: str
    about: dict[str, str]
    findings: dict[tuple[VersionPair, str], NightRow]
    headline: tuple[Headline, ...]
    digests: dict[tuple[str, str, str], str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    unknown: tuple[tuple[VersionPair, str], ...] = ()


@dataclass(frozen=True)
class NightChange:
    """A divergence that was not there before.

    Attributes:
        step: the pair of versions.
        artifact: its name.
        now: what was found this night.
        before: what was found the last time; None where the step had never been compared.
        since: the night of `before`.
    """

    step: VersionPair
    artifact: str
    now: NightRow
    before: NightRow | None
    since: str = ""


@dataclass(frozen=True)
class NewVersion:
    """A version that no earlier night compared.

    Attributes:
        step: from the version before it.
        final: tensors of the index that it changes, beyond noise.
        inside: other artifacts of the pipeline that it changes.
        gap: why it could not be compared; empty where it was.
        unknown: artifacts of which nobody knows.
    """

    step: VersionPair
    final: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    gap: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a night brought.

    Attributes:
        night: tonight.
        new: divergences that were not there before.
        gone: steps and artifacts that are better than the last time.
        gaps: headline rows that could not be compared.
        drifted: version and artifact whose own digest is not that of the last time under the same key.
        compared_with: the last comparable night; empty on the first.
        unreadable: earlier nights whose tables are damaged.
        relocked: versions whose cell is another than the last time, in the same group: its lock or oddities changed.
        added: versions that no earlier night compared, where there is one.
    """

    night: Night
    new: tuple[NightChange, ...]
    gone: tuple[NightChange, ...]
    gaps: tuple[Headline, ...]
    drifted: tuple[tuple[str, str], ...]
    compared_with: str
    unreadable: tuple[str, ...] = ()
    relocked: tuple[str, ...] = ()
    added: tuple[NewVersion, ...] = ()


def night_names(folder: Path) -> list[str]:
    """Folders with tables, oldest first: names are dates, so they sort by time."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder of nights; sweep with --output {folder}/NAME first.")
    return sorted(
        path.name for path in folder.iterdir() if all((path / f"{table}.parquet").is_file() for table in TABLES)
    )


def read_night(folder: Path) -> Night:
    """Read the tables of one night.

    Raises:
        UsageError: one of them is missing or damaged, or of another schema.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    about: dict[str, str] = {}
    for name in TABLES:
        tables[name], about = read_table(folder / f"{name}.parquet", "delete the night's folder")
    try:
        return Night(
            folder.name,
            about.get("group", ""),
            about,
            findings_of(tables["comparisons"]),
            tuple(map(_headline, tables["consecutive"])),
            {(row["key"], row["version"], row["artifact"]): row["digest"] for row in tables["artifacts"]},
            {row["version"]: row["key"] for row in tables["artifacts"] if not row["repeat"]},
            tuple(dict.fromkeys(place for place, _ in _of_steps(tables["comparisons"], known=False))),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder}: its tables lack a column ({error}); delete the night's folder.") from error


def findings_of(rows: Iterable[dict[str, Any]]) -> dict[tuple[VersionPair, str], NightRow]:
    """What is known of each step and artifact, from the rows of `comparisons.parquet`."""
    found: dict[tuple[VersionPair, str], NightRow] = {}
    for place, row in _of_steps(rows, known=True):
        failing = frozenset(map(str, row["failing"] or ()))
        found[place] = NightRow(
            str(row["status"]), failing, bool(row["noise"]), bool(row["final"]), row["n_mismatch"], row["n"]
        )
    return found


def _of_steps(
    rows: Iterable[dict[str, Any]], *, known: bool
) -> Iterator[tuple[tuple[VersionPair, str], dict[str, Any]]]:
    """Rows of tensors that are known to differ or not, or are not, by step and artifact: no metadata and no repeats."""
    for row in rows:
        unknown = row["bit_equal"] is None or row["status"] == "unreadable"
        if row["kind"] == "consecutive" and row["artifact"] != "metadata" and unknown != known:
            yield ((str(row["a"]), str(row["b"])), str(row["artifact"])), row


def _headline(row: dict[str, Any]) -> Headline:
    return Headline(
        a=str(row["a"]),
        b=str(row["b"]),
        total=int(row["total"] or 0),
        shapes=int(row["shapes_match"] or 0),
        profiles={"default": int(row["default_match"] or 0), "bnb": int(row["bnb_match"] or 0)},
        bit_equal=int(row["bit_equal"] or 0),
        noisy=None if row["noisy"] is None else tuple(map(str, row["noisy"])),
        gap=str(row["gap"] or ""),
    )


def compare_nights(folder: Path, name: str | None = None) -> Report:
    """Compare a night with those before it.

    Args:
        folder: holds one folder of tables for each night, whose names sort by time.
        name: tonight's; the last one when absent.

    Raises:
        InfrastructureError: tonight has no tables: the sweep came to no result, which is not a good one.
        UsageError: there is no night at all, or tonight's tables are damaged.
    """
    names = night_names(folder)
    if name is None and not names:
        raise UsageError(f"{folder}: holds no night's tables; sweep with --output {folder}/NAME first.")
    tonight = name if name is not None else names[-1]
    if tonight not in names:
        raise InfrastructureError(
            f"{folder / tonight} has no tables: tonight's sweep came to no result; its own log says why."
        )
    night = read_night(folder / tonight)
    earlier: list[Night] = []
    unreadable = []
    for other in [known for known in reversed(names) if known < tonight][:LOOK_BACK]:
        try:
            earlier.append(read_night(folder / other))
        except UsageError:
            unreadable.append(other)
    return report(night, [one for one in earlier if one.group == night.group], tuple(unreadable))


def report(night: Night, earlier: Sequence[Night], unreadable: tuple[str, ...] = ()) -> Report:
    """What is new in `night` against `earlier`, the most recent first."""
    new, gone = [], []
    for (step, artifact), now in night.findings.items():
        if now.noise:
            continue
        # A night that does not know of this artifact hides nothing that the ones before it knew.
        has_it = (one for one in earlier if (step, artifact) in one.findings)
        has_step = (one for one in earlier if step in {of for of, _ in one.findings})
        last = next(has_it, None) or next(has_step, None)
        before = last.findings.get((step, artifact)) if last else None
        change = NightChange(step, artifact, now, before, last.name if last else "")
        if before is None:
            # Never compared: news, unless nothing was ever compared. An artifact that is new in a known step, because
            # more of the pipeline is captured than before, counts too.
            if earlier and now.status != "bit_equal":
                new.append(change)
        elif not before.noise and now.worse_than(before):
            new.append(change)
        elif not before.noise and before.worse_than(now):
            gone.append(change)
    drifted = _changed(night.digests, [one.digests for one in earlier])
    return Report(
        night,
        tuple(new),
        tuple(gone),
        tuple(row for row in night.headline if row.gap),
        tuple(dict.fromkeys((version, artifact) for _key, version, artifact in drifted)),
        earlier[0].name if earlier else "",
        unreadable,
        tuple(_changed(night.keys, [one.keys for one in earlier])),
        tuple(_added(night, earlier)),
    )


def _added(night: Night, earlier: Sequence[Night]) -> Iterator[NewVersion]:
    """What the versions that no earlier night compared change against the one before them.

    One that failed is told of once, and again when it has been compared.
    """
    seen = {version for one in earlier for row in one.headline for version in (row.a, row.b)}
    compared = {version for one in earlier for step, _artifact in one.findings for version in step}
    for row in night.headline:
        if not seen or row.b in (seen if row.gap else compared):
            continue
        step = (row.a, row.b)
        changed = [
            (artifact, found.final)
            for (place, artifact), found in night.findings.items()
            if place == step and not found.noise and found.status != "bit_equal"
        ]
        yield NewVersion(
            step,
            tuple(artifact for artifact, final in changed if final),
            tuple(artifact for artifact, final in changed if not final),
            row.gap,
            tuple(artifact for place, artifact in night.unknown if place == step),
        )


def _changed(now: Mapping[Key, str], earlier: Sequence[Mapping[Key, str]]) -> Iterator[Key]:
    """What is another than in the last night that had it."""
    for key, found in now.items():
        if next((one[key] for one in earlier if key in one), found) != found:
            yield key

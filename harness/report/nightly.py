"""A night's tables against those of the nights before: what is worse than it was, and nothing else, is news.

A sweep finds the same divergences every night; that they are there is no reason to wake anybody. Each step and artifact
is compared with the most recent night that has it, so that a night in which a version crashed hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import InfrastructureError, UsageError
from harness.report.headline import Headline, VersionPair
from harness.report.parquet import read_table

Key = TypeVar("Key")

TABLES = ("comparisons", "consecutive", "artifacts")
LOOK_BACK = 30
"""How many earlier nights are looked at for a step that the last one lacks."""

RANKS = {
    "bit_equal": 0,
    "value_equal": 1,
    "close": 2,
    "different": 3,
    "shape_mismatch": 4,
    "dtype_mismatch": 4,
    "missing_a": 5,
    "missing_b": 5,
    "unreadable": 5,
}
"""Statuses from best to worst."""


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

    @property
    def steps(self) -> set[VersionPair]:
        """Steps that were compared, rather than left out because a cell did not end well."""
        return {step for step, _artifact in self.findings}


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
    """

    night: Night
    new: tuple[NightChange, ...]
    gone: tuple[NightChange, ...]
    gaps: tuple[Headline, ...]
    drifted: tuple[tuple[str, str], ...]
    compared_with: str
    unreadable: tuple[str, ...] = ()
    relocked: tuple[str, ...] = ()


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
        failing = frozenset({str(row["profile"])} if row["profile"] and row["close"] is False else ())
        if place in found:
            failing |= found[place].failing
        found[place] = NightRow(
            str(row["status"]), failing, bool(row["noise"]), bool(row["final"]), row["n_mismatch"], row["n"]
        )
    return found


def _of_steps(
    rows: Iterable[dict[str, Any]], *, known: bool
) -> Iterator[tuple[tuple[VersionPair, str], dict[str, Any]]]:
    """Rows of tensors that are known to differ or not, or are not, by step and artifact.

    The index's metadata is no tensor, and a repeat is the noise floor and no step.
    """
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
            one = read_night(folder / other)
        except UsageError:
            unreadable.append(other)
            continue
        if one.group == night.group:
            earlier.append(one)
    return report(night, earlier, tuple(unreadable))


def report(night: Night, earlier: Sequence[Night], unreadable: tuple[str, ...] = ()) -> Report:
    """What is new in `night` against `earlier`, the most recent first."""
    new, gone = [], []
    for (step, artifact), now in night.findings.items():
        if now.noise:
            continue
        # A night that does not know of this artifact hides nothing that the ones before it knew.
        has_it = (one for one in earlier if (step, artifact) in one.findings)
        last = next(has_it, None) or next((one for one in earlier if step in one.steps), None)
        before = last.findings.get((step, artifact)) if last else None
        if before is None:
            # Never compared: news, unless nothing was ever compared. An artifact that is new in a known step, because
            # more of the pipeline is captured than before, counts too.
            if earlier and now.status != "bit_equal":
                new.append(NightChange(step, artifact, now, None, last.name if last else ""))
        elif before.noise:
            continue
        elif now.worse_than(before):
            assert last is not None
            new.append(NightChange(step, artifact, now, before, last.name))
        elif before.worse_than(now):
            assert last is not None
            gone.append(NightChange(step, artifact, now, before, last.name))
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
    )


def _changed(now: Mapping[Key, str], earlier: Sequence[Mapping[Key, str]]) -> Iterator[Key]:
    """What is another than in the last night that had it."""
    for key, found in now.items():
        if next((one[key] for one in earlier if key in one), found) != found:
            yield key

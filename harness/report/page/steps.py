"""What a folder knows of one step, as a maintainer asks: where it starts, by what, how much, so what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.kinds import kind_named
from harness.explain.replay import ARGUMENTS, MISSING_A, ORIGIN
from harness.explain.units import AS_A, AS_B
from harness.report.headline import VersionPair
from harness.report.page.folder import Folder, Row
from harness.report.page.ladder import CHANGED, CLOSE, EQUAL, UNKNOWN, state_of, state_of_step, worst
from harness.words import count


@dataclass(frozen=True)
class Origin:
    """An operator (or function, module) that differs by itself when it gets A's exact input, or a step with none.

    Attributes:
        step: of the pipeline.
        name: what it is called; empty where no call of the step is known to make the difference.
        calls: how many of its calls differ by themselves.
        of: how many calls it has.
        first: the row of the first of them.
        without: why no call is named, a sentence; empty where one is.
    """

    step: str
    name: str
    calls: int
    of: int
    first: Row
    without: str = ""

    @property
    def title(self) -> str:
        """What it is called in a list of them."""
        return self.name.removesuffix(".default") or f"{self.step} (no call of it)"


def origins(folder: Folder, step: VersionPair) -> list[Origin]:
    """Where the difference starts, by rows of `locations`; calls only of replays of which every gate held."""
    rows = [row for row in folder.rows("locations", step) if row["trusted"]]
    calls = Counter((row["step"], row["kind"], row["name"]) for row in rows if row["status"] != MISSING_A)
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["status"] in (ORIGIN, ARGUMENTS):
            found.setdefault((row["step"], row["kind"], row["name"]), []).append(row)
    named = [Origin(key[0], key[2], len(many), calls[key], many[0]) for key, many in found.items()]
    return named or _without_call(folder, step)


def _without_call(folder: Folder, step: VersionPair) -> list[Origin]:
    """The step of the pipeline that makes the first artifact that differs, where it was replayed and shows no call."""
    headline = headline_row(folder, step)
    first = headline and headline["first_changed"]
    for row in folder.rows("locations", step):
        if first in (row["artifacts"] or "").split(","):
            replay = kind_named(folder.about.get("job")).replays.get(row["step"])
            alone = f"No call of it that can be run alone differs. {replay.besides if replay else ''}".rstrip()
            untrusted = "Its replay in the older version did not give that version's own values, so no call is named."
            return [Origin(row["step"], "", 0, 0, row, alone if row["trusted"] else untrusted)]
    return []


@dataclass(frozen=True)
class Exchange:
    """What was exchanged, and what either environment gave with it.

    Attributes:
        what: units, with commas.
        in_b: what B gave with A's: `as A` blames it.
        in_a: what A gave with B's: `as B` blames it.
        reason: why one of them has no answer.
    """

    what: str
    in_b: str
    in_a: str
    reason: str

    @property
    def both_ways(self) -> bool:
        """Whether exchanging it exchanges the result, in both directions."""
        return (self.in_b, self.in_a) == (AS_A, AS_B)


def exchanges(folder: Folder, step: VersionPair) -> dict[str, list[Exchange]]:
    """The counterfactuals as a matrix for each answer of `blame`, which has one for each step of the pipeline.

    What exchanges the result stands first in each.
    """
    found: dict[str, dict[str, dict[str | None, Row]]] = {}
    for row in folder.rows("blame", step):
        if row["what"]:
            found.setdefault(row["verdict"] or "", {}).setdefault(row["what"], {})[row["base"]] = row
    return {
        answer: sorted(
            map(_exchange, by_what, by_what.values()), key=lambda one: (not one.both_ways, one.what.count(","))
        )
        for answer, by_what in found.items()
    }


def _exchange(what: str, by_base: Mapping[str | None, Row]) -> Exchange:
    sides = {base: by_base.get(base, by_base.get(None)) for base in ("A", "B")}
    told = {base: "not tried" if row is None else row["result"] or "" for base, row in sides.items()}
    reason = "; ".join(dict.fromkeys(row["reason"] for row in by_base.values() if row["reason"]))
    return Exchange(what, told["B"], told["A"], reason)


def blamed(folder: Folder, step: VersionPair) -> list[str]:
    """The packages that are blamed, as `blame` found; those of a family of many are counted."""
    packages = [name for row in folder.rows("blame", step) for name in row["blamed"] or ()]
    families: dict[str, list[str]] = {}
    for name in dict.fromkeys(packages):
        families.setdefault(name.partition("-")[0], []).append(name)
    told = sorted(families.items(), key=lambda one: len(one[1]))
    return [
        word
        for family, names in told
        for word in (names if len(names) <= _MANY else [f"{len(names)} packages {family}-*"])
    ]


_MANY = 3


@dataclass(frozen=True)
class Grid:
    """Whether single batches give other bits, by their size.

    Attributes:
        sizes: of the batches, its columns.
        rows: precision, to the state of each size.
    """

    sizes: Sequence[int]
    rows: Sequence[tuple[str, Sequence[str]]]


_BATCH = re.compile(r"(\w+) batch 0*(\d+)")


def batch_grid(folder: Folder, step: VersionPair) -> Grid | None:
    """Cases of the probe `precision` that are a batch of some size; None where there are none."""
    found: dict[str, dict[int, list[Row]]] = {}
    for row in folder.rows("probes", step):
        match = _BATCH.fullmatch(row["case"] or "")
        if match is not None and row["fact"] is None:
            found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(row)
    sizes = sorted({size for by_size in found.values() for size in by_size})
    rows = [
        (precision, tuple(_worst_of(by_size.get(size, ())) for size in sizes)) for precision, by_size in found.items()
    ]
    return Grid(sizes, rows) if sizes else None


def _worst_of(rows: Iterable[Row]) -> str:
    return worst([state_of(row) for row in rows])


def probe_changes(folder: Folder, step: VersionPair) -> list[str]:
    """Probes of the step that differ, in words."""
    rows = [row for row in folder.rows("probes", step) if row["fact"] is None]
    total = Counter(row["probe"] for row in rows)
    differ = Counter(row["probe"] for row in rows if state_of(row) in (CHANGED, CLOSE))
    return [f"{probe}: {differ[probe]} of {number} tensors differ" for probe, number in total.items() if differ[probe]]


def repro_scripts(folders: Sequence[Folder], step: VersionPair) -> list[Path]:
    """Scripts that show the difference in torch alone: in a folder, or in `repro` in it or beside it."""
    name = "-".join(step)
    found = {
        script
        for folder in folders
        for base in (folder.path, folder.path / "repro", folder.path.resolve().parent / "repro")
        for place in (base / f"repro-{name}", base / name, *base.glob(f"{name}-[a-z]*"))
        if place.is_dir()
        for script in place.glob("*.py")
    }
    return sorted(found)


@dataclass(frozen=True)
class Moved:
    """An artifact that differs, and by how much."""

    name: str
    final: bool
    state: str
    row: Row


def moved(folder: Folder, step: VersionPair) -> list[Moved]:
    """Artifacts of a step that are not equal, in the pipeline's order."""
    return [
        Moved(artifact, bool(row["final"]), state_of(row), row)
        for artifact, row in folder.compared(step).items()
        if state_of(row) != EQUAL
    ]


def changes(folder: Folder, step: VersionPair) -> bool:
    """Whether it is known that a step changes anything beyond noise, in the index or inside the pipeline."""
    row = headline_row(folder, step)
    if row is None:
        return False
    return state_of_step(row) in (CHANGED, CLOSE) or any(one.state in (CHANGED, CLOSE) for one in moved(folder, step))


def headline_row(folder: Folder, step: VersionPair) -> Row | None:
    """The row of `consecutive`; None where the folder lacks the step."""
    return next(iter(folder.rows("consecutive", step)), None)


def repeats(folder: Folder) -> list[tuple[str, list[str]]]:
    """The noise floor: what was found of cells that were run again, and the cells."""
    pairs = dict.fromkeys((row["a"], row["b"]) for row in folder.rows("comparisons") if row["kind"] == "repeat")
    found: dict[str, list[str]] = {}
    for pair in pairs:
        # A repeat is not judged by itself as noise: what it differs in is the noise.
        by_name = {name: state_of({**row, "noise": None}) for name, row in folder.compared(pair, "repeat").items()}
        differ = [name for name, state in by_name.items() if state in (CHANGED, CLOSE)]
        unknown = [name for name, state in by_name.items() if state == UNKNOWN]
        equal = len(by_name) - len(differ) - len(unknown)
        told = f"the same bit for bit in {count(equal, 'artifact')}"
        told += f", not in {', '.join(differ)}" if differ else ""
        told += f"; of {', '.join(unknown)} nobody knows" if unknown else ""
        found.setdefault(told, []).append(pair[0])
    return list(found.items())

"""The page's first sentence, and the table under it: what changed where, why, and whether anybody must act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.headline import VersionPair
from harness.report.page.folder import Folder, step_key
from harness.report.page.ladder import CHANGED, EQUAL, UNKNOWN, state_of_step
from harness.report.page.steps import blamed, changes, headline_row, origins
from harness.words import count, name_key

ACT = ("re-index", "investigate")
"""Verdicts of a step that ask somebody to do something."""


@dataclass(frozen=True)
class StepLine:
    """A step in all folders.

    Attributes:
        step: its versions.
        states: of each folder; None where the folder lacks the step.
        where: changed (beyond noise), equal or unknown, to the devices that show it.
        starts: operators that it starts in, or steps of the pipeline, of any folder.
        blame: packages that are blamed, of any folder.
        verdicts: answers to "index again?", each with the devices that gave it; nothing where nobody searched.
    """

    step: VersionPair
    states: tuple[str | None, ...]
    where: Mapping[str, Sequence[str]]
    starts: tuple[str, ...]
    blame: tuple[str, ...]
    verdicts: Mapping[str, Sequence[str]]

    @property
    def changes(self) -> bool:
        """Whether any folder shows a change beyond noise."""
        return CHANGED in self.where

    @property
    def compared(self) -> bool:
        """Whether any folder compared it."""
        return bool({CHANGED, EQUAL} & set(self.where))

    @property
    def name(self) -> str:
        """The versions, as they are shown."""
        return arrow(self.step)


def arrow(step: VersionPair) -> str:
    """A step as it is shown; the package that both versions are of, as on an axis, is said once."""
    a, b = step
    (_, package, *_), (_, other, *_) = name_key(a), name_key(b)
    return f"{a} → {b.removeprefix(f'{package}-') if package == other else b}"


def step_lines(folders: Sequence[Folder]) -> list[StepLine]:
    """All steps of any folder, in the order of versions."""
    lines = []
    for step in sorted({step for folder in folders for step in folder.steps}, key=step_key):
        rows = [headline_row(folder, step) for folder in folders]
        states = [None if row is None else state_of_step(row) for row in rows]
        starts = (one.title for folder in folders for one in origins(folder, step))
        blame = (what for folder in folders for what in blamed(folder, step))
        answers: dict[str, list[str]] = {}
        for folder, row in zip(folders, rows, strict=True):
            if row is not None and row["verdict"] and folder.device not in answers.get(row["verdict"], ()):
                answers.setdefault(row["verdict"], []).append(folder.device)
        lines.append(StepLine(
            step, tuple(states), _where(folders, step, states), tuple(dict.fromkeys(starts)),
            tuple(dict.fromkeys(blame)), answers,
        ))  # fmt: skip
    return lines


def _where(folders: Sequence[Folder], step: VersionPair, states: Sequence[str | None]) -> dict[str, list[str]]:
    """Which devices show what; one that shows several things is named with how many of its folders do."""
    found: dict[str, Counter[str]] = {}
    for folder, state in zip(folders, states, strict=True):
        if state is not None:
            told = CHANGED if changes(folder, step) else UNKNOWN if state == UNKNOWN else EQUAL
            found.setdefault(told, Counter())[folder.device] += 1
    of = Counter(folder.device for folder, state in zip(folders, states, strict=True) if state is not None)
    return {
        told: [name if n == of[name] else f"{name} ({n} of {of[name]} folders)" for name, n in by.items()]
        for told, by in found.items()
    }


def verdict(folders: Sequence[Folder], lines: Sequence[StepLine]) -> str:
    """The answer in one sentence."""
    known = [line for line in lines if line.compared]
    if not known:
        return "Nothing could be compared, so nothing is known of any step."
    changed = [line for line in known if line.changes]
    makes = " or the ".join(sorted({folder.makes for folder in folders}))
    devices = list(dict.fromkeys(folder.device for folder in folders))
    where = devices[0] if len(devices) == 1 else f"at least one of {len(devices)} devices"
    # Versions of torch, and those of each other package that is varied, are rows of their own.
    spans: dict[tuple[bool, str], tuple[str, str]] = {}
    for line in known:
        a, b = line.step
        row = name_key(a.partition("#")[0])[:2]
        spans[row] = spans.get(row, (a, b))[0], b
    steps = count(len(known), "step") + " and".join(f" from {a} to {b}" for a, b in spans.values())
    rest = f" ({len(lines) - len(known)} more could not be compared)" if len(known) < len(lines) else ""
    if not changed:
        return f"None of the {steps}{rest} changes the {makes} on {' or '.join(devices)} beyond noise."
    said = f"{len(changed)} of {steps}{rest} change{'s' if len(changed) == 1 else ''} the {makes} on {where}"
    return f"{said}; {_act(changed)}."


def _act(changed: Sequence[StepLine]) -> str:
    """Whether anybody must do anything about the steps that change something."""
    searched = [line for line in changed if line.verdicts]
    rest = len(changed) - len(searched)
    if not searched:
        return "whether to index again is not known, because nobody searched"
    asks = [line for line in searched if set(line.verdicts) & set(ACT)]
    told = ", ".join(f"{line.name} ({', '.join(one for one in line.verdicts if one in ACT)})" for line in asks)
    said = f"of the {len(searched)} that were searched {'asks' if len(asks) == 1 else 'ask'} for something to be done"
    if asks:
        return f"{len(asks)} {said}: {told}"
    return f"none of the {len(searched)} that were searched asks for a new index" + (
        f", and {rest} {'was' if rest == 1 else 'were'} not searched" if rest else ""
    )

"""A ladder and all its pairs as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.artifacts.ladder import ItemPair, Ladder, Step
from harness.artifacts.source import listed
from harness.report.comparison_text import LISTED, told_in_short
from harness.report.kinds import Kinds
from harness.report.readable import clean
from harness.report.screen import PLAIN, Screen, table
from harness.words import count


def ladder_text(found: Ladder, screen: Screen = PLAIN, *, apart: bool = False) -> str:
    """A ladder: one sentence, what changed at each step, and the classes of equal items per kind of artifact."""
    kinds = Kinds(found.classes, apart=apart, job=found.kind)
    steps = [step for step in found.steps if step.changed]
    holding = [item for item in found.items if item not in found.empty]
    if not holding:
        said = f"None of the {len(found.items)} items holds a tensor{' that can be read' if found.unreadable else ''}."
    elif len(holding) == 1:
        said = f"There is nothing to compare {clean(holding[0])} with."
    elif not steps:
        known = ", of those that are there" if found.incomplete else ""
        known += ", as far as they can be read" if found.unreadable else ""
        who = "The other" if found.empty else "Both" if len(holding) == 2 else "All"
        of = f"{who} items" if who == "Both" else f"{who} {len(holding)} items"
        said = f"{of} have the same tensors{known}."
    else:
        noise = "" if found.changed else ", and none more than running an item again does"
        said = f"{len(steps)} of {count(len(found.steps), 'step')} changed a tensor{noise}: {_places(steps)}."
    if found.values:
        said += f" They differ in {', '.join(found.values)} all the same."
    if holding and found.empty:
        said = f"No tensor {'that can be read ' if found.unreadable else ''}is in {clean(listed(found.empty))}. {said}"
    cut = [
        f"{clean(item)} is not complete: it has no {clean(listed(lacking))}."
        for item, lacking in found.incomplete.items()
    ]
    if found.unreadable:
        said += f" {count(len(found.unreadable), 'file')} could not be read, and may have changed."
    body = [
        [f"{clean(one.a)} -> {clean(one.b)}", str(len(one.changed)), names_told(one.changed, kinds) or "-"]
        for one in found.steps
    ]
    lines = [*told_in_short([said, *cut], screen), "", *table(["step", "changed", "tensors"], body, screen), ""]
    lines += [*told_in_short(noise_lines(found, kinds), screen), ""]
    body = []
    for name, groups in _classes(found, kinds):
        shown = " | ".join(" ".join(clean(item) for item in group) for group in groups)
        body.append([clean(name), str(len(groups)), shown])
    lines += table(["artifact", "classes", "items that are equal"], body, screen)
    backs: dict[tuple[str, str], list[str]] = {}
    for one in found.changes:
        if one.back_to is not None:
            backs.setdefault((one.b, one.back_to), []).append(one.artifact)
    told = [
        f"{clean(name)} changed back at {clean(b)}: as in {clean(back_to)} again."
        for (b, back_to), artifacts in backs.items()
        for name in kinds.labels(artifacts)
    ]
    lines += ["", *told_in_short(told, screen)] if told else []
    unreadable = [clean(line, 600) for line in found.unreadable]
    return "\n".join([*lines, *(["", *told_in_short(unreadable, screen)] if unreadable else [])])


def _places(steps: Sequence[Step]) -> str:
    more = f" and {len(steps) - LISTED} more" if len(steps) > LISTED else ""
    return ", ".join(f"{clean(step.a)} -> {clean(step.b)}" for step in steps[:LISTED]) + more


def names_told(names: Iterable[str], kinds: Kinds) -> str:
    """Names of artifacts in one line, chunks of one kind together."""
    return ", ".join(map(clean, kinds.labels(names)))


def _classes(found: Ladder, kinds: Kinds) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    """The classes of each kind: in one row where all chunks have the same, else in one for the chunks that do."""
    for names in kinds.groups(found.classes):
        same: dict[tuple[tuple[str, ...], ...], list[str]] = {}
        for name in names:
            same.setdefault(found.classes[name], []).append(name)
        for groups, members in same.items():
            yield kinds.label(members, numbered=True), groups


def noise_lines(found: Ladder, kinds: Kinds) -> list[str]:
    """What running items again changed."""
    lines = [
        f"Noise floor: running {clean(item)} again changes {names_told(names, kinds)}."
        for item, names in found.noise.items()
        if names
    ]
    quiet = ", ".join(clean(item) for item, names in found.noise.items() if not names)
    if quiet:
        lines.append(f"Noise floor: running {quiet} again changes no tensor.")
    return lines or ["Noise floor: not known, because no item is stored with a repeat."]


def pairs_text(items: Sequence[str], pairs: Sequence[ItemPair], screen: Screen = PLAIN) -> str:
    """All pairs as a triangle: how many tensors differ between each two items."""
    counts = {(one.a, one.b): str(len(one.changed)) for one in pairs}
    body = [[clean(item), *(counts.get((item, other), "") for other in items)] for item in items[:-1]]
    lines = table(["", *map(clean, items)], body, screen)
    return "\n".join([f"Tensors that differ, {len(pairs)} pairs:", "", *lines])

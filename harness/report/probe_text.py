"""Compared probes as lines of text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.explain.difference import amount
from harness.explain.probe_rows import ProbeRow
from harness.store.cell import Cell

_NUMBER = re.compile(r"\.\d+(?=\.|$)")


def summaries(rows: Sequence[ProbeRow]) -> list[str]:
    """One short line for each probe that changed between two versions, and one for those that are equal."""
    lines = []
    for a, b in dict.fromkeys((row.a, row.b) for row in rows if row.fact is None):
        arrow, equal, gaps = f"{a} -> {b}", [], []
        of_pair = [row for row in rows if row.fact is None and (row.a, row.b) == (a, b)]
        for probe in dict.fromkeys(row.probe for row in of_pair):
            mine = [row for row in of_pair if row.probe == probe]
            if changed := [row for row in mine if row.changed]:
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


def _noise_floor(rows: Iterable[ProbeRow]) -> list[str]:
    """How many tensors a repeat changes, where there is one; where there is none, that a change may be noise."""
    compared = [row for row in rows if row.tensor]
    if known := [row for row in compared if row.noise is not None]:
        return [f"a repeat changes {sum(bool(row.noise) for row in known) or 'none'} of {len(known)} tensors"]
    changed = any(row.changed for row in compared)
    return ["not known, because neither version was repeated (--repeat VERSION)"] if changed else []


def _turned(rows: Iterable[ProbeRow], probe: str, a: str, b: str) -> list[str]:
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


def _changes(changed: list[ProbeRow], total: int) -> str:
    if not changed[0].tensor:
        return changed[0].note
    # By the difference itself: across zero the number of floats between two tiny numbers is enormous.
    worst = max(changed, key=lambda row: (row.max_abs_ulp is not None, -1.0 if row.max_abs is None else row.max_abs))
    if worst.metrics is None or worst.metrics.bit_equal:
        how = f": {worst.status.replace('_', ' ')}{f' ({worst.note})' if worst.note else ''}"
    else:
        how = f": {amount(worst.metrics)}" + (" of a sample" if worst.measured == "sample" else "")
    first = f"first {changed[0].case}, {changed[0].tensor}"
    greatest = "" if worst is changed[0] else f"; greatest {worst.case}, {worst.tensor}"
    return f"{len(changed)} of {total} tensors differ, {first}{greatest}{how}"


def _removed(rows: list[ProbeRow]) -> list[str]:
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


def fact_lines(rows: Iterable[ProbeRow]) -> list[str]:
    """One short line for each probe and fact that does not hold everywhere, for all versions of which it says the same.

    Layers of which the same is said are one place, their numbers a star.
    """
    groups: dict[tuple[str, str, str], list[ProbeRow]] = {}
    for row in rows:
        if row.fact is not None:
            groups.setdefault((row.probe, row.fact, row.a), []).append(row)
    said: dict[str, list[str]] = {}
    for (probe, fact, version), members in groups.items():
        if not (failing := [row for row in members if not row.holds]):
            continue
        places: dict[str, dict[str, None]] = {}
        for row in failing:
            places.setdefault(row.note, {})[_NUMBER.sub(".*", row.case) or "the whole probe"] = None
        shown = "; ".join(_place(list(cases), note) for note, cases in places.items())
        missed = f"{fact.replace('_', ' ')}: not in {len(failing)} of {len(members)} cases"
        what = "did not run" if fact == "ran" else missed
        said.setdefault(f"{probe}: {what}: {shown}", []).append(version)
    return [f"{', '.join(versions)}  {text}" for text, versions in said.items()]


def _place(cases: list[str], note: str) -> str:
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return f"{cases[0]}{more}{f' ({note})' if note else ''}"

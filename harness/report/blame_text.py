"""What `blame` found, as lines and as rows of its table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.errors import printable
from harness.explain.blame import Answer, Blame, Suspects, bystander
from harness.explain.pair import Pair
from harness.explain.units import AS_A, AS_B, NOT_EXCHANGEABLE, UNRESOLVED, Outcome, Unit, exchanged
from harness.report.parquet import picked

Versions = Mapping[str, tuple[str | None, str | None]]
"""Package to its versions in A and in B; None where it is not there."""


def suspect_lines(differing: Suspects) -> Iterator[str]:
    """What can be exchanged, with its parts, and why these cannot be exchanged one by one where they cannot."""
    for unit in differing.units:
        if len(unit.parts) > _FEW:
            yield f"{unit.name}: {'; '.join(unit.contents)}"
            continue
        yield f"{unit.name}: {unit.versions or ('' if unit.parts else '; '.join(unit.contents))}".rstrip()
        for part in unit.parts:
            yield from _part_lines(part)
    whole = next((one for unit in differing.units for one in (unit, *unit.parts) if one.inseparable), None)
    if whole is not None:
        others = ", ".join(unit.title for unit in differing.units if unit is not whole and whole not in unit.parts)
        rest = f"Exchanged by themselves: {others}." if others else "Nothing else differs."
        yield f"{_inseparable(whole)} {rest}"


_FEW = 12
"""Up to so many parts of a unit are listed one a line, where nothing says why they cannot be separated."""


def _part_lines(part: Unit) -> Iterator[str]:
    yield f"  {part.name}: {part.versions or '; '.join(part.contents)}"
    for inner in part.parts:
        yield f"    {inner.name}: {inner.versions or '; '.join(inner.contents)}"


def lines(found: Answer, a: str, b: str, left_out: Sequence[str]) -> Iterator[str]:
    """The answer first, then what it rests on: each step, every counterfactual, and what was left out."""
    yield headline(found, a, b)
    for one in found.steps:
        yield sentence(one, a, b)
    # Steps that are seen in one job have one outcome mostly.
    yield from dict.fromkeys(_tried(tried, a, b) for one in found.steps for tried in one.tried)
    if left_out:
        yield f"Not exchanged, because neither environment has files of it that could be: {', '.join(left_out)}."


def _tried(one: Outcome, a: str, b: str) -> str:
    base, other = (a, b) if one.base == "A" else (b, a)
    reason = f" ({one.outcome}: {one.reason})" if one.reason else ""
    return printable(f"{base} with {', '.join(one.units)} of {other}{one.remark}: {one.result}{reason}")


def answer_json(found: Answer, a: str, b: str) -> list[dict[str, Any]]:
    """Each step that makes a difference of its own, with the packages that are to blame for it."""
    return [
        {
            "step": one.step,
            "packages": [package for unit in one.blamed for package in unit.packages],
            "sentence": sentence(one, a, b),
        }
        for one in found.steps
    ]


def headline(found: Answer, a: str, b: str) -> str:
    """Who is to blame for what, in one sentence, and why where nobody is."""
    blamed = "; ".join(
        f"{' with '.join(unit.title for unit in units)} ({', '.join(steps)})" if any(steps) else units[0].title
        for units, steps in _together_blamed(found).items()
    )
    if blamed:
        why = f" Not explained: {' '.join(found.reasons)}" if found.reasons else ""
        return f"Blamed: {blamed}.{why}"
    if not found.units:
        return f"No package differs between {a} and {b}, so none is to blame."
    if found.steps:
        return "No package could be blamed."
    if not found.diverged:
        return " ".join(found.reasons)
    return " ".join(("No package could be blamed:", *found.reasons))


def _together_blamed(found: Answer) -> dict[tuple[Unit, ...], tuple[str, ...]]:
    """Units that are blamed together, and the steps that they changed."""
    sets = dict.fromkeys(one.blamed for one in found.steps if one.blamed)
    return {units: tuple(one.step for one in found.steps if one.blamed == units) for units in sets}


def rows(found: Answer, pair: Pair, versions: Versions) -> list[dict[str, Any]]:
    """One row per counterfactual, for `blame.parquet`, and per part of a unit that cannot be exchanged by itself.

    One in all where none was needed.
    """
    a, b = pair.a.cell.label, pair.b.cell.label
    blamed = list(found.packages)
    made = [{**row, "blamed": blamed} for one in found.steps for row in _rows_of_step(one, a, b, versions)]
    common = {"a": a, "b": b, "verdict": headline(found, a, b), "blamed": blamed}
    never = [
        {
            **common, **_named(part.packages, versions), "what": part.name, "result": NOT_EXCHANGEABLE,
            "reason": unit.inseparable,
        }
        for unit in dict.fromkeys(one for whole in found.units for one in (whole, *whole.parts))
        for part in unit.parts
        if unit.inseparable
    ]  # fmt: skip
    return made + never or [common]


def _rows_of_step(one: Blame, a: str, b: str, versions: Versions) -> Iterator[dict[str, Any]]:
    verdict = sentence(one, a, b)
    for tried in one.tried:
        yield {
            "a": a, "b": b, "verdict": verdict, **picked(tried, "base", "result", "outcome", "reason", "digest"),
            **_named(exchanged((*one.units, *one.split), tried), versions), "what": ",".join(tried.units),
        }  # fmt: skip


def _named(packages: Sequence[str], versions: Versions) -> dict[str, str]:
    return {
        "packages": ",".join(packages),
        "versions": json.dumps({name: versions.get(name) for name in packages}, sort_keys=True),
    }


def sentence(found: Blame, a: str, b: str) -> str:
    """What was found of one step, in words, with the labels of A and B."""
    said = f"{found.step}{f', {found.means}' if found.means not in ('', 'alone') else ''}: " if found.step else ""
    said += _together(found, a, b) if len(found.found) > 1 else _alone(found, a, b)
    if found.guilty:
        said += _untouched(found, found.blamed)
        said += "".join(f" {_inseparable(one)}" for one in found.blamed if one.inseparable)
    return said


def _inseparable(unit: Unit) -> str:
    return (
        f"{unit.name}: these can only be exchanged together, so which of them does it cannot be told: "
        f"{unit.inseparable}."
    )


def _exchanges(found: Blame, units: Sequence[Unit]) -> tuple[Outcome, Outcome]:
    """What exchanging these did in the newer, and in the older."""
    forth, back = found.at("B", units), found.at("A", units)
    assert forth is not None
    assert back is not None
    return forth, back


def _one_way(found: Blame, what: str, a: str, b: str) -> str:
    """The sentence where the other direction does not agree; empty where it does."""
    _forth, back = _exchanges(found, found.found)
    if found.guilty:
        return ""
    return (
        f"{what} of {a} in {b} gives the result of {a}, but {what} of {b} in {a} does not give that of {b} "
        f"({back.reason or back.result}), so it could not be separated from the rest."
    )


def _together(found: Blame, a: str, b: str) -> str:
    """The sentence for several units."""
    what = " and ".join(unit.title for unit in found.found) + _with(_exchanges(found, found.found))
    if said := _one_way(found, what, a, b):
        return said
    fewest, other, base = (b, a, "A") if found.base == "B" else (a, b, "B")
    inside = {unit.name for unit in found.found}
    if apart := [o for o in found.tried if o.result == UNRESOLVED and set(o.units) < inside]:
        why = "; ".join(dict.fromkeys(f"{', '.join(o.units)} alone: {o.reason}" for o in apart))
        said = (
            f"{what}: exchanging them together exchanges the result, bit for bit, in both directions; they could not "
            f"be separated ({why})."
        )
    else:
        target = AS_A if found.base == "B" else AS_B
        part = any(o.base == found.base and set(o.units) < inside and o.result == target for o in found.tried)
        said = (
            f"{what} together: exchanging all of these exchanges the result, bit for bit, in both directions, and "
            f"{'no fewer of them do so in both' if part else f'in {fewest} no part of them does'}."
        )
    alone = [(unit.title, found.at(base, [unit])) for unit in found.found]
    results = (AS_A, AS_B) if base == "A" else (AS_B, AS_A)
    harmless, enough = ([title for title, o in alone if o and o.result == one] for one in results)
    said += f" In {other}, exchanging {' or '.join(harmless)} alone changes nothing." if harmless else ""
    return said + (
        f" In {other}, exchanging {' or '.join(enough)} alone gives the result of {fewest}." if enough else ""
    )


def _alone(found: Blame, a: str, b: str) -> str:
    """The sentence for one unit, or for none."""
    if not found.found:
        why = "; ".join(f"{', '.join(o.units)}: {o.reason or o.result}" for o in found.tried)
        return f"No package could be blamed: no exchange that was tried in {b} gives the result of {a} ({why})."
    (one,) = found.found
    if said := _one_way(found, one.title, a, b):
        return said
    along = sorted({package for outcome in _exchanges(found, [one]) for package in outcome.along})
    itself = " itself" if one.name == "torch" and not along else ""
    head = f"{one.name}{itself}{f' {one.versions}' if one.versions else ''}: exchanging it "
    does = "exchanges the result, bit for bit, in both directions"
    if not along:
        return f"{head}alone {does}.{_bystander(found, one)}"
    head += f"together with {' and '.join(along)}, without which it does not load, {does}"
    rest = _rest(_exchanges(found, [unit for unit in found.units if unit is not one]))
    if found.separated:
        return f"{head}.{_bystander(found, one)}{rest}"
    return f"{head}; which of them does it could not be separated.{rest}"


def _untouched(found: Blame, guilty: Sequence[Unit]) -> str:
    """The bystanders that no environment in which the job ran had exchanged."""
    ran = (outcome for outcome in found.tried if outcome.result != UNRESOLVED)
    was = {package for outcome in ran for package in exchanged((*found.units, *found.split), outcome)}
    left = [unit for unit in found.units if unit not in guilty and not was.intersection(unit.packages)]
    return f" Bystanders that were not exchanged: {', '.join(unit.title for unit in left)}." if left else ""


def _with(outcomes: Iterable[Outcome]) -> str:
    """What was exchanged besides, as part of a sentence."""
    along = sorted({package for outcome in outcomes for package in outcome.along})
    return f" (with {' and '.join(along)}, to load)" if along else ""


def _but(outcomes: Iterable[Outcome]) -> str:
    """What was not exchanged after all, as part of a sentence."""
    kept = sorted({package for outcome in outcomes for package in outcome.kept})
    return f", but for {' and '.join(kept)}," if kept else ""


def _rest(outcomes: tuple[Outcome, Outcome]) -> str:
    """What exchanging everything but the guilty unit did, in the newer and in the older."""
    but = _but(outcomes).rstrip(",")
    if [outcome.result for outcome in outcomes] == [AS_B, AS_A]:
        return f" Everything else{but}: exchanging it changes nothing, in either direction."
    said = " and ".join(
        f"in the {where} {o.result}{f' ({o.reason})' if o.reason else ''}"
        for where, o in zip(("newer", "older"), outcomes, strict=True)
    )
    return f" Everything else{but}: {said}."


def _bystander(found: Blame, guilty: Unit) -> str:
    """What exchanging the other large unit alone did."""
    other = bystander(found.units, guilty)
    if other is None:
        return ""
    directions = _exchanges(found, [other])
    said = f" {other.title}{_but(directions)} alone{_with(directions)}: "
    if [outcome.result for outcome in directions] == [AS_B, AS_A]:
        return f"{said}exchanging it changes nothing, in either direction."
    if all(outcome.result == UNRESOLVED for outcome in directions):
        return f"{said}could not be exchanged ({directions[0].reason})."
    return f"{said}in the newer it gives the result {directions[0].result}, in the older {directions[1].result}."

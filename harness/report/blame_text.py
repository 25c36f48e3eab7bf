"""What `blame` found, as lines and as rows of its table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.errors import printable
from harness.explain.blame import Blame, Suspects, bystander
from harness.explain.pair import Pair
from harness.explain.units import AS_A, AS_B, NOT_EXCHANGEABLE, UNRESOLVED, Outcome, Unit, exchanged
from harness.report.parquet import picked

Versions = Mapping[str, tuple[str | None, str | None]]
"""Package to its versions in A and in B; None where it is not there."""


def suspect_lines(differing: Suspects) -> Iterator[str]:
    """What can be exchanged, with its parts where it cannot be exchanged one by one, and why."""
    for unit in differing.units:
        yield f"{unit.name}: {unit.versions or '; '.join(unit.contents)}"
        for part in unit.parts:
            yield f"  {part.name}: {part.versions or '; '.join(part.contents)}"
    whole = next((unit for unit in differing.units if unit.inseparable), None)
    if whole is not None:
        others = ", ".join(unit.title for unit in differing.units if unit is not whole)
        rest = f"Exchanged by themselves: {others}." if others else "Nothing else differs."
        yield f"{_inseparable(whole)} {rest}"


def lines(found: Blame, a: str, b: str, left_out: Sequence[str]) -> Iterator[str]:
    """Every counterfactual, what was left out, and the answer."""
    for tried in found.tried:
        base, other = (a, b) if tried.base == "A" else (b, a)
        reason = f" ({tried.outcome}: {tried.reason})" if tried.reason else ""
        yield printable(f"{base} with {', '.join(tried.units)} of {other}{tried.remark}: {tried.result}{reason}")
    if left_out:
        yield f"Not exchanged, because neither site folder holds them: {', '.join(left_out)}."
    yield sentence(found, a, b)


def rows(found: Blame, pair: Pair, versions: Versions) -> list[dict[str, Any]]:
    """One row per counterfactual, for `blame.parquet`, and per part of a unit that cannot be exchanged by itself.

    One in all where none was needed.
    """
    a, b = pair.a.cell.label, pair.b.cell.label
    common = {"a": a, "b": b, "verdict": sentence(found, a, b)}

    def named(packages: Sequence[str]) -> dict[str, str]:
        return {
            "packages": ",".join(packages),
            "versions": json.dumps({p: versions[p] for p in packages}, sort_keys=True),
        }

    tried = [
        {
            **common,
            **picked(o, "base", "result", "outcome", "reason", "digest"),
            **named(exchanged(found.units, o)),
            "what": ",".join(o.units),
        }
        for o in found.tried
    ]
    never = [
        {**common, **named(part.packages), "what": part.name, "result": NOT_EXCHANGEABLE, "reason": unit.inseparable}
        for unit in found.units
        for part in unit.parts
    ]
    return tried + never or [common]


def sentence(found: Blame, a: str, b: str) -> str:
    """The answer in words, with the labels of A and B."""
    if found.reasons:
        return " ".join(found.reasons)
    if not found.units:
        return f"No package differs between {a} and {b}, so none is to blame."
    said = f"{found.step}: " if found.step else ""
    said += _together(found, a, b) if len(found.found) > 1 else _alone(found, a, b)
    if found.guilty:
        guilty = [unit for unit in found.units if unit.name in found.guilty]
        said += _untouched(found, guilty)
        said += "".join(f" {_inseparable(one)}" for one in guilty if one.parts)
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
    if back.result == AS_B:
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
    inside = {unit.name for unit in found.found}
    if apart := [o for o in found.tried if o.result == UNRESOLVED and set(o.units) < inside]:
        why = "; ".join(f"{', '.join(o.units)} alone: {o.reason}" for o in apart)
        said = (
            f"{what}: exchanging them together exchanges the result, bit for bit, in both directions; they could not "
            f"be separated ({why})."
        )
    else:
        said = (
            f"{what} together: exchanging all of these exchanges the result, bit for bit, in both directions, and in "
            f"{b} no part of them does."
        )
    alone = [(unit.title, _exchanges_in_a(found, unit)) for unit in found.found]
    harmless, enough = ([title for title, result in alone if result == one] for one in (AS_A, AS_B))
    said += f" In {a}, exchanging {' or '.join(harmless)} alone changes nothing." if harmless else ""
    return said + (f" In {a}, exchanging {' or '.join(enough)} alone gives the result of {b}." if enough else "")


def _exchanges_in_a(found: Blame, unit: Unit) -> str:
    outcome = found.at("A", [unit])
    return outcome.result if outcome else UNRESOLVED


def _alone(found: Blame, a: str, b: str) -> str:
    """The sentence for one unit, or for none."""
    if not found.found:
        why = "; ".join(f"{', '.join(o.units)}: {o.reason or o.result}" for o in found.tried)
        return f"No package could be blamed: no exchange of packages in {b} gives the result of {a} ({why})."
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
    was = {package for outcome in ran for package in exchanged(found.units, outcome)}
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

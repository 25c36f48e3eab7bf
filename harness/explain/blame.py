"""Which package changed a result: environments of B with packages of A, and of A with packages of B."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.artifacts.graph import origins
from harness.errors import UsageError
from harness.explain.bound import bound
from harness.explain.laboratory import Laboratory, here_or_not
from harness.explain.locate import look
from harness.explain.pair import Pair
from harness.explain.requests import step_request
from harness.explain.units import AS_A, AS_B, UNRESOLVED, Outcome, Unit, exchanged, narrow, units_of
from harness.running.experiment import Experiment

_INSEPARABLE = "these can only be exchanged together, so which of them does it cannot be told"


@dataclass(frozen=True)
class Suspects:
    """What differs between two environments, known before anything runs.

    Attributes:
        units: what can be exchanged.
        left_out: packages that differ, and cannot be exchanged because neither site folder has them.
    """

    units: tuple[Unit, ...]
    left_out: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """What cannot be told apart, and why; empty where everything can."""
        whole = next((unit for unit in self.units if unit.inseparable), None)
        if whole is None:
            return ""
        others = ", ".join(unit.title for unit in self.units if unit is not whole)
        rest = f"Exchanged by themselves: {others}." if others else "Nothing else differs."
        return f"{whole.name}: {_INSEPARABLE}: {whole.inseparable}. {rest}"


def suspects(experiment: Experiment, a: str, b: str) -> Suspects:
    """What may have changed a result between two versions, by their locks.

    Raises:
        UsageError: one is no lock that packages could be taken from.
    """
    for version in (a, b):
        kind = (experiment.lock(version).own or {}).get("kind")
        if kind in {"interpreter", "pylock"}:
            what = "an interpreter that is used as it is" if kind == "interpreter" else "built from a pylock.toml"
            raise UsageError(
                f"{version} is {what}, and blame builds environments with packages exchanged, from pins with hashes: "
                f"name its requirements file instead, {version}=requirements.txt. `harness locate` says which operator "
                "the difference starts in."
            )
    found, left = here_or_not(experiment, a, b)
    # On a CPU NVIDIA's libraries do nothing but load.
    apart = experiment.device.kind != "cpu" or experiment.selection.sites is not None
    together = bound(experiment.lock(a), experiment.lock(b), found)
    return Suspects(units_of(found, apart=apart, bound=together), left)


@dataclass(frozen=True)
class Blame:
    """The answer.

    Attributes:
        units: what differs between the two environments.
        guilty: names of units; empty where nothing is claimed.
        tried: every counterfactual, in order.
        sentence: the answer in words.
    """

    units: tuple[Unit, ...]
    guilty: tuple[str, ...]
    tried: tuple[Outcome, ...]
    sentence: str


def find(units: Sequence[Unit], observe: Callable[[str, Sequence[Unit]], Outcome], names: tuple[str, str]) -> Blame:
    """Exchange units until the smallest sufficient set is found, then check it in the other direction.

    Args:
        units: what differs.
        observe: runs the experiment in base `A` or `B` with units of the other side.
        names: labels of A and B.
    """
    tried: dict[tuple[str, tuple[str, ...]], Outcome] = {}

    def look_at(base: str, some: Sequence[Unit]) -> Outcome:
        key = base, tuple(unit.name for unit in some)
        if key not in tried:
            tried[key] = observe(base, some)
        return tried[key]

    def answer(sentence: str, guilty: Sequence[Unit] = ()) -> Blame:
        if guilty:
            sentence += _untouched(units, guilty, tried.values())
            sentence += "".join(f" {one.name}: {_INSEPARABLE}: {one.inseparable}." for one in guilty if one.parts)
        return Blame(tuple(units), tuple(unit.name for unit in guilty), tuple(tried.values()), sentence)

    a, b = names
    if not units:
        return answer(f"No package differs between {a} and {b}, so none is to blame.")
    # One that does it alone comes before one that needs others to load: the others may be what does it.
    alone = next((unit for unit in units if (o := look_at("B", [unit])).result == AS_A and not o.along), None)
    found = (alone,) if alone else narrow(units, lambda some: look_at("B", some).result == AS_A)
    if not found:
        why = "; ".join(f"{', '.join(o.units)}: {o.reason or o.result}" for o in tried.values())
        return answer(f"No package could be blamed: no exchange of packages in {b} gives the result of {a} ({why}).")
    back = look_at("A", found)
    what = " and ".join(unit.title for unit in found)
    what += _with((look_at("B", found), back)) if len(found) > 1 else ""
    if back.result != AS_B:
        return answer(
            f"{what} of {a} in {b} gives the result of {a}, but {what} of {b} in {a} does not give that of {b} "
            f"({back.reason or back.result}), so it could not be separated from the rest."
        )
    inside = {unit.name for unit in found}
    apart = [o for o in tried.values() if o.result == UNRESOLVED and set(o.units) < inside]
    if apart:
        why = "; ".join(f"{', '.join(o.units)} alone: {o.reason}" for o in apart)
        return answer(
            f"{what}: exchanging them together exchanges the result, bit for bit, in both directions; they could not "
            f"be separated ({why}).{_in_the_older(found, look_at, names)}",
            found,
        )
    if len(found) > 1:
        return answer(
            f"{what} together: exchanging all of these exchanges the result, bit for bit, in both directions, and in "
            f"{b} no part of them does.{_in_the_older(found, look_at, names)}",
            found,
        )
    return answer(*_single(units, found[0], look_at))


def _in_the_older(
    found: Sequence[Unit], look_at: Callable[[str, Sequence[Unit]], Outcome], names: tuple[str, str]
) -> str:
    """What single units of a set do in A: a library that the other torch does not load may well load beside its own."""
    a, b = names
    alone = {unit.title: look_at("A", [unit]).result for unit in found}
    harmless, enough = ([title for title, result in alone.items() if result == one] for one in (AS_A, AS_B))
    said = f" In {a}, exchanging {' or '.join(harmless)} alone changes nothing." if harmless else ""
    return said + (f" In {a}, exchanging {' or '.join(enough)} alone gives the result of {b}." if enough else "")


def _single(
    units: Sequence[Unit], one: Unit, look_at: Callable[[str, Sequence[Unit]], Outcome]
) -> tuple[str, list[Unit]]:
    """The sentence for a unit whose exchange exchanges the result in both directions, and who is guilty by it."""
    forth, back = look_at("B", [one]), look_at("A", [one])
    along = sorted({*forth.along, *back.along})
    itself = " itself" if one.name == "torch" and not along else ""
    head = f"{one.name}{itself}{f' {one.versions}' if one.versions else ''}: exchanging it "
    does = "exchanges the result, bit for bit, in both directions"
    if not along:
        return f"{head}alone {does}.{_bystander(units, one, look_at)}", [one]
    head += f"together with {' and '.join(along)}, without which it does not load, {does}"
    others = [unit for unit in units if unit is not one]
    rest = look_at("B", others), look_at("A", others)
    # What went along is cleared where everything but the guilty unit was exchanged, it too, and nothing changed.
    cleared = [outcome.result for outcome in rest] == [AS_B, AS_A] and not any(
        set(outcome.along) & set(without.kept) for outcome, without in zip((forth, back), rest, strict=True)
    )
    if cleared:
        return f"{head}.{_bystander(units, one, look_at)}{_rest(rest)}", [one]
    with_it = [unit for unit in others if set(unit.packages) & set(along)]
    return f"{head}; which of them does it could not be separated.{_rest(rest)}", [one, *with_it]


def _untouched(units: Sequence[Unit], guilty: Sequence[Unit], tried: Iterable[Outcome]) -> str:
    """The bystanders that no environment in which the job ran had exchanged."""
    was = {package for outcome in tried if outcome.result != UNRESOLVED for package in exchanged(units, outcome)}
    left = [unit for unit in units if unit not in guilty and not was.intersection(unit.packages)]
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


def _bystander(units: Sequence[Unit], guilty: Unit, look_at: Callable[[str, Sequence[Unit]], Outcome]) -> str:
    """What exchanging the other large unit alone does: torch, or, where torch is guilty, the first library."""
    other = next((unit for unit in units if unit is not guilty), None)
    if other is None:
        return ""
    directions = [look_at(base, [other]) for base in ("B", "A")]
    said = f" {other.title}{_but(directions)} alone{_with(directions)}: "
    if [outcome.result for outcome in directions] == [AS_B, AS_A]:
        return f"{said}exchanging it changes nothing, in either direction."
    if all(outcome.result == UNRESOLVED for outcome in directions):
        return f"{said}could not be exchanged ({directions[0].reason})."
    return f"{said}in the newer it gives the result {directions[0].result}, in the older {directions[1].result}."


def blame(experiment: Experiment, pair: Pair, report: Callable[[str], None]) -> Blame:
    """Say which packages changed the first artifact of a pair that differs and whose step can be run by itself."""
    a, b = pair.a.cell.label, pair.b.cell.label
    units = suspects(experiment, pair.a.cell.version, pair.b.cell.version).units
    found = look(pair)
    if not found.diverged:
        return Blame(units, (), (), f"{a} and {b} do not differ beyond the noise floor, so no package is to blame.")
    if not units:
        return Blame((), (), (), f"No package differs between {a} and {b}, so none is to blame.")
    reasons = []
    with pair.bench.scratch("blame-inputs") as folder:
        for step, artifacts in origins(found.places).items():
            try:
                request, _outputs = step_request(pair, step, artifacts, folder / step.replace(" ", "-"))
            except LookupError as error:
                reasons.append(str(error))
                continue
            laboratory = Laboratory(experiment, pair, request, report)
            first, second = (laboratory.result(side, side.interpreter()) for side in (pair.a, pair.b))
            again = laboratory.result(pair.a, pair.a.interpreter())
            if first[0] != "ok" or second[0] != "ok" or first != again or first == second:
                why = "; ".join(reason for _outcome, reason, _digest in (first, second) if reason)
                reasons.append(
                    f"The step {step!r} alone does not show the difference repeatably{f' ({why})' if why else ''}."
                )
                continue
            answer = find(units, laboratory.observe((first[2], second[2])), (a, b))
            return replace(answer, sentence=f"{step}: {answer.sentence}")
    return Blame(units, (), (), f"No package could be blamed: {' '.join(reasons)}")

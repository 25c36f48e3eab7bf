"""Which package changed a result: environments of B with packages of A, and of A with packages of B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.artifacts.graph import origins
from harness.errors import UsageError
from harness.explain.bound import bound
from harness.explain.laboratory import Laboratory, here_or_not
from harness.explain.locate import look
from harness.explain.pair import Pair
from harness.explain.requests import requests_for
from harness.explain.units import AS_A, AS_B, Outcome, Unit, narrow, units_of
from harness.running.experiment import Experiment


@dataclass(frozen=True)
class Suspects:
    """What differs between two environments, known before anything runs.

    Attributes:
        units: what can be exchanged.
        left_out: packages that differ, and cannot be exchanged because neither site folder has them.
    """

    units: tuple[Unit, ...]
    left_out: tuple[str, ...] = ()


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
        found: the fewest units whose exchange in B gives A's result; empty where there are none.
        guilty: those that are blamed, by name: the ones found where the other direction agrees, with what cannot be
            told apart from them.
        tried: every counterfactual, in order.
        separated: False where packages had to come along with the only unit found, and nothing clears them.
        step: the step that was run alone; empty where none was.
        reasons: why nothing was tried, a sentence each; empty where something was, or where no unit differs.
    """

    units: tuple[Unit, ...]
    found: tuple[Unit, ...] = ()
    guilty: tuple[str, ...] = ()
    tried: tuple[Outcome, ...] = ()
    separated: bool = True
    step: str = ""
    reasons: tuple[str, ...] = ()

    def at(self, base: str, units: Sequence[Unit]) -> Outcome | None:
        """What became of base `A` or `B` with these units of the other side; None where that was not tried."""
        names = {unit.name for unit in units}
        return next((one for one in self.tried if one.base == base and set(one.units) == names), None)


def find(units: Sequence[Unit], observe: Callable[[str, Sequence[Unit]], Outcome]) -> Blame:
    """Exchange units until the smallest sufficient set is found, then check it in the other direction.

    Args:
        units: what differs.
        observe: runs the experiment in base `A` or `B` with units of the other side.
    """
    tried: dict[tuple[str, tuple[str, ...]], Outcome] = {}

    def look_at(base: str, some: Sequence[Unit]) -> Outcome:
        key = base, tuple(unit.name for unit in some)
        if key not in tried:
            tried[key] = observe(base, some)
        return tried[key]

    def both(some: Sequence[Unit]) -> tuple[Outcome, Outcome]:
        return look_at("B", some), look_at("A", some)

    # One that does it alone comes before one that needs others to load: the others may be what does it.
    alone = next((unit for unit in units if (o := look_at("B", [unit])).result == AS_A and not o.along), None)
    found = (alone,) if alone else tuple(narrow(units, lambda some: look_at("B", some).result == AS_A))
    guilty: Sequence[Unit] = ()
    separated = True
    if found and look_at("A", found).result == AS_B:
        guilty = found
        if len(found) > 1:
            # A library that the other torch does not load may well load beside its own.
            for unit in found:
                look_at("A", [unit])
        else:
            with_it = _inseparable_from(units, found[0], both)
            separated = with_it is None
            guilty = (*found, *(with_it or ()))
            if separated and (other := bystander(units, found[0])):
                both([other])
    return Blame(tuple(units), found, tuple(unit.name for unit in guilty), tuple(tried.values()), separated)


def _inseparable_from(
    units: Sequence[Unit], one: Unit, both: Callable[[Sequence[Unit]], tuple[Outcome, Outcome]]
) -> Sequence[Unit] | None:
    """The units of packages that had to come along with one whose exchange exchanges the result in both directions.

    None where nothing came along, or where what did is cleared.
    """
    exchanges = both([one])
    along = {package for outcome in exchanges for package in outcome.along}
    if not along:
        return None
    others = [unit for unit in units if unit is not one]
    rest = both(others)
    # What went along is cleared where everything but the guilty unit was exchanged, it too, and nothing changed.
    cleared = [outcome.result for outcome in rest] == [AS_B, AS_A] and not any(
        set(outcome.along) & set(without.kept) for outcome, without in zip(exchanges, rest, strict=True)
    )
    return None if cleared else [unit for unit in others if set(unit.packages) & along]


def bystander(units: Sequence[Unit], guilty: Unit) -> Unit | None:
    """The other large unit, which is exchanged by itself: torch, or, where torch is guilty, the first library."""
    return next((unit for unit in units if unit is not guilty), None)


def blame(experiment: Experiment, pair: Pair, report: Callable[[str], None]) -> Blame:
    """Say which packages changed the first artifact of a pair that differs and whose step can be run by itself."""
    a, b = pair.a.cell.label, pair.b.cell.label
    units = suspects(experiment, pair.a.cell.version, pair.b.cell.version).units
    found = look(pair)
    if not found.diverged:
        return Blame(units, reasons=(f"{a} and {b} do not differ beyond the noise floor, so no package is to blame.",))
    if not units:
        return Blame(())
    reasons: list[str] = []
    with pair.bench.scratch("blame-inputs") as folder:
        for step, artifacts in origins(found.places).items():
            asked, refused = requests_for(pair, {step: artifacts}, folder / step.replace(" ", "-"))
            reasons += refused.values()
            if not asked:
                continue
            request = asked[0].request
            if step in asked[0].parts:
                # What follows in the larger step may have a difference of its own, by another package.
                request = {**request, "only": [*asked[0].outputs[step].values()]}
            laboratory = Laboratory(experiment, pair, request, report)
            first, second = (laboratory.result(side, side.interpreter()) for side in (pair.a, pair.b))
            again = laboratory.result(pair.a, pair.a.interpreter())
            if first[0] != "ok" or second[0] != "ok" or first != again or first == second:
                why = "; ".join(reason for _outcome, reason, _digest in (first, second) if reason)
                reasons.append(
                    f"The step {step!r} alone does not show the difference repeatably{f' ({why})' if why else ''}."
                )
                continue
            return replace(find(units, laboratory.observe((first[2], second[2]))), step=step)
    return Blame(units, reasons=("No package could be blamed:", *reasons))

"""Which package changed a result: environments of B with packages of A, and of A with packages of B."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.artifacts.graph import origins
from harness.environments.counterfactual import Party, separate_pythons
from harness.errors import UsageError
from harness.explain.bound import bound
from harness.explain.laboratory import Laboratory, here_or_not
from harness.explain.locate import Location, look
from harness.explain.pair import Pair
from harness.explain.probing import SAMPLE, Probe, StepsAlone, WholeJob
from harness.explain.requests import requests_for
from harness.explain.units import AS_A, AS_B, Outcome, Unit, narrow, units_of
from harness.running.experiment import Experiment


@dataclass(frozen=True)
class Suspects:
    """What differs between two environments, known before anything runs.

    Attributes:
        units: what can be exchanged.
        left_out: what differs, and cannot be exchanged because neither environment has files of it.
    """

    units: tuple[Unit, ...]
    left_out: tuple[str, ...] = ()


def suspects(experiment: Experiment, a: str, b: str) -> Suspects:
    """What may have changed a result between two environments, by what is in them.

    Raises:
        UsageError: nothing can be exchanged between them.
    """
    locks = experiment.lock(a), experiment.lock(b)
    if why := separate_pythons(*locks, brought=experiment.selection.sites is not None):
        raise UsageError(f"{a} and {b}: {why}.")
    found, left = here_or_not(experiment, a, b)
    # On a CPU NVIDIA's libraries do nothing but load.
    apart = experiment.device.kind != "cpu" or experiment.selection.sites is not None
    return Suspects(units_of(found, locks=locks, apart=apart, bound=bound(*locks, found)), left)


@dataclass(frozen=True)
class Blame:
    """The answer for one step.

    Attributes:
        units: what differs between the two environments; what was blamed is split, as far as it can be.
        found: the fewest units whose exchange in `base` gives the other side's result; empty where there are none.
        guilty: those that are blamed, by name: the ones found where the other direction agrees, with what cannot be
            told apart from them.
        tried: every counterfactual, in order.
        separated: False where packages had to come along with the only unit found, and nothing clears them.
        split: units that were exchanged as one before they were split.
        step: what they changed; empty where that is not known.
        means: what was run to see it, as part of a sentence.
        base: the side, `A` or `B`, in which `found` are the fewest.
    """

    units: tuple[Unit, ...]
    found: tuple[Unit, ...] = ()
    guilty: tuple[str, ...] = ()
    tried: tuple[Outcome, ...] = ()
    separated: bool = True
    split: tuple[Unit, ...] = ()
    step: str = ""
    means: str = ""
    base: str = "B"

    @property
    def blamed(self) -> tuple[Unit, ...]:
        """The units that are blamed."""
        return tuple(unit for unit in self.units if unit.name in self.guilty)

    def at(self, base: str, units: Sequence[Unit]) -> Outcome | None:
        """What became of base `A` or `B` with these units of the other side; None where that was not tried."""
        names = {unit.name for unit in units}
        return next((one for one in self.tried if one.base == base and set(one.units) == names), None)


@dataclass(frozen=True)
class Answer:
    """What is to blame for all that differs.

    Attributes:
        units: what differs between the two environments.
        steps: an answer for each step that makes a difference of its own, in the order of the pipeline.
        reasons: why a step has none, a sentence each.
        diverged: whether the two differ beyond the noise floor at all.
    """

    units: tuple[Unit, ...]
    steps: tuple[Blame, ...] = ()
    reasons: tuple[str, ...] = ()
    diverged: bool = True

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages of all units that are blamed, by name."""
        return tuple(dict.fromkeys(package for one in self.steps for unit in one.blamed for package in unit.packages))


Observe = Callable[[str, Sequence[Unit]], Outcome]


def find(units: Sequence[Unit], observe: Observe, among: Sequence[Unit] = ()) -> Blame:
    """Exchange units until the smallest sufficient set is found, check it in the other direction, and split it.

    Args:
        units: what differs.
        observe: runs the experiment in base `A` or `B` with units of the other side.
        among: those that can be guilty, where not all of them can.
    """
    tried: dict[tuple[str, tuple[str, ...]], Outcome] = {}

    def look_at(base: str, some: Sequence[Unit]) -> Outcome:
        key = base, tuple(unit.name for unit in some)
        if key not in tried:
            tried[key] = observe(base, some)
        return tried[key]

    found = _find(tuple(units), among or units, look_at)
    while parts := [part for unit in found.blamed if unit.divisible for part in unit.parts]:
        divided = [unit for unit in found.blamed if unit.divisible]
        inside = (*parts, *(unit for unit in found.blamed if unit not in divided))
        apart = tuple(part for unit in found.units for part in (unit.parts if unit in divided else [unit]))
        # None of several units does it alone, so no part of one does.
        closer = _find(apart, inside, look_at, together=len(found.blamed) > 1)
        if not closer.guilty:
            # What the whole did, its parts do together, even where no smaller set of them is confirmed.
            for base in ("B", "A"):
                look_at(base, inside)
            closer = Blame(apart, inside, tuple(unit.name for unit in inside), separated=found.separated)
        found = replace(closer, split=(*found.split, *divided))
    return replace(found, tried=tuple(tried.values()))


def _find(units: tuple[Unit, ...], among: Sequence[Unit], look_at: Observe, *, together: bool = False) -> Blame:
    """The smallest set `among` the units that exchanges the result, in either side, and in the other side, too.

    With `together`, it is known that none of them does it alone.
    """
    # One that does it alone comes before one that needs others to load: the others may be what does it.
    first = () if together else among
    alone = next((unit for unit in first if (o := look_at("B", [unit])).result == AS_A and not o.along), None)
    found = (alone,) if alone else narrow(among, lambda some: look_at("B", some).result == AS_A, together=together)
    if found and look_at("A", found).result == AS_B:
        return _confirmed(Blame(units, found), look_at)
    # Where a change needs two packages to be new, either of the old ones undoes it in B; in A it takes both.
    back = narrow(among, lambda some: look_at("A", some).result == AS_B, together=together)
    if back and look_at("B", back).result == AS_A:
        return _confirmed(Blame(units, back, base="A"), look_at)
    return Blame(units, found)


def _confirmed(found: Blame, look_at: Observe) -> Blame:
    """The same with what is to be said of the others: what is guilty with those found, and what stands by."""

    def both(some: Sequence[Unit]) -> tuple[Outcome, Outcome]:
        return look_at("B", some), look_at("A", some)

    guilty: Sequence[Unit] = found.found
    separated = True
    if len(found.found) > 1:
        # A library that the other torch does not load may well load beside its own.
        for unit in found.found:
            look_at("A" if found.base == "B" else "B", [unit])
    else:
        with_it = _inseparable_from(found.units, found.found[0], both)
        separated = with_it is None
        guilty = (*found.found, *(with_it or ()))
        divided = found.found[0].divisible  # its parts are looked at next
        if separated and not divided and (other := bystander(found.units, found.found[0])):
            both([other])
    return replace(found, guilty=tuple(unit.name for unit in guilty), separated=separated)


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


def only(units: Sequence[Unit], packages: Sequence[str], a: str, b: str) -> tuple[Unit, ...]:
    """The units that are, or that hold, packages that somebody named; all of them where none is named.

    Raises:
        UsageError: a package does not differ between the two, or cannot be exchanged.
    """
    for package in packages:
        if not any(package in (unit.name, *unit.packages) for unit in units):
            there = ", ".join(dict.fromkeys(name for unit in units for name in (unit.name, *unit.packages)))
            raise UsageError(f"--package {package!r} is not what can be exchanged between {a} and {b}: {there}.")
    return tuple(one for one in units if not packages or {one.name, *one.packages} & set(packages))


def blame(
    experiment: Experiment, pair: Pair, report: Callable[[str], None], *, inherited: bool = True, whole: bool = False,
    packages: Sequence[str] = (),
) -> Answer:  # fmt: skip
    """Say which packages changed what differs between the two cells of a pair.

    Args:
        experiment: home, matrix and locks.
        pair: A and B.
        report: says what is under way.
        inherited: whether steps that inherit a difference are asked for one of their own, given A's inputs.
        whole: whether the whole job is made in each counterfactual environment, and all that differs is looked at,
            instead of the least that shows the difference.
        packages: those that may be guilty, and are exchanged; all that differ where none is named.
    """
    a, b = pair.a.cell.label, pair.b.cell.label
    versions = pair.a.cell.version, pair.b.cell.version
    units = suspects(experiment, *versions).units
    among = only(units, packages, *versions)
    found = look(pair)
    if not found.diverged:
        why = f"{a} and {b} do not differ beyond the noise floor, so no package is to blame."
        return Answer(units, reasons=(why,), diverged=False)
    if not units:
        return Answer(())
    first = origins(found.places)
    answers: dict[str, Blame] = {}
    reasons: dict[str, list[str]] = {step: [] for step in first}
    parties: dict[str, Party] = {}
    with pair.bench.scratch("blame-inputs") as folder:
        for probe in _probes(experiment, pair, found, folder, reasons, answers, inherited=inherited, whole=whole):
            shown, hidden = Laboratory(experiment, pair, probe, report, parties).shown()
            laboratory = Laboratory(experiment, pair, probe.of(shown), report, parties)
            for step, reason in hidden.items():
                reasons.setdefault(step, []).append(reason)
            for step, references in shown.items():
                answers[step] = replace(
                    find(units, laboratory.observe(step, references), among), step=step, means=probe.means
                )  # fmt: skip
            if pair.kind.stepwise and answers:
                break
    ordered = [answers[step] for step in origins(found.places, inherited=True) if step in answers]
    # A step that inherits and shows nothing of its own only inherits.
    left = [reason for step in first if step not in answers for reason in reasons[step]]
    left += found.unread.values()
    return Answer(units, tuple(ordered), tuple(left) if not pair.kind.stepwise or not answers else ())


_WHOLE = "in the whole job"


def _probes(
    experiment: Experiment, pair: Pair, found: Location, folder: Path, reasons: Mapping[str, list[str]],
    answers: Mapping[str, Blame], *, inherited: bool, whole: bool,
) -> Iterator[Probe]:  # fmt: skip
    """What can be run, the cheapest first; each only for the steps that have no answer when its turn comes."""
    if whole:
        yield WholeJob(pair.bench, experiment, origins(found.places, inherited=True), _WHOLE, stored=True)
        return
    first = origins(found.places)
    asked = origins(found.places, inherited=inherited and not pair.kind.stepwise)
    # The state of a training's step is made once for each request.
    for together in [{step: names} for step, names in asked.items()] if pair.kind.stepwise else [asked]:
        inputs = folder / "-".join(together).replace(" ", "-")[:60]
        requests, refused = _requests(pair, together, inputs, found.step)
        for step, reason in refused.items():
            if step in reasons:
                reasons[step].append(reason)
        if requests:
            yield StepsAlone(pair.bench, requests)
    if pair.kind.stepwise:
        return
    number = len(experiment.queries if pair.kind.name == "search" else experiment.passages)
    if number > 2 * SAMPLE and (left := _without(first, answers)):
        unit = "queries" if pair.kind.name == "search" else "passages"
        yield WholeJob(pair.bench, experiment.sample(SAMPLE), left, f"in a job of the first {SAMPLE} {unit}")
    if left := _without(first, answers):
        yield WholeJob(pair.bench, experiment, left, _WHOLE, stored=True)


def _without(steps: Mapping[str, Sequence[str]], answers: Mapping[str, Blame]) -> dict[str, Sequence[str]]:
    return {step: names for step, names in steps.items() if step not in answers}


def _requests(
    pair: Pair, steps: Mapping[str, Sequence[str]], folder: Path, first: int | None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The request of a `step` job for each step that can be run alone, and why others cannot."""
    asked, refused = requests_for(pair, steps, folder, first)
    found = {}
    for one in asked:
        for step, outputs in one.outputs.items():
            # Beside a part of a larger step, what follows may have a difference of its own, by another package.
            part = {"only": [*outputs.values()]} if step in one.parts else {}
            found[step] = {**one.request, **part}
    return found, refused

"""Where counterfactuals are run: environments with packages exchanged, each made once and asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from harness.environments.changes import NO_PACKAGE, PYTHON, Change, changes
from harness.environments.contents import packages_in
from harness.environments.counterfactual import Party, environment_with
from harness.environments.exchange import owns, provider, unresolved
from harness.environments.interpreter import Interpreter, normal_name
from harness.environments.lockfile import difference
from harness.environments.sites import Sites
from harness.environments.uv import BuildFailed
from harness.explain.pair import Pair, Side
from harness.explain.probing import Probe, Seen
from harness.explain.units import AS_A, AS_B, NEITHER, UNRESOLVED, Outcome, Unit
from harness.running.experiment import Experiment

References = tuple[str, str]
"""The digests of one step's result in A and in B themselves."""


@dataclass(frozen=True)
class Laboratory:
    """Makes counterfactual environments and runs in them what shows the difference.

    Attributes:
        experiment: home, matrix and locks.
        pair: A and B.
        probe: what is run.
        report: says what is under way.
        parties: gets the environments of both, by name. What has them is given to the next laboratory of a pair: to
            read all that is installed takes seconds.
    """

    experiment: Experiment
    pair: Pair
    probe: Probe
    report: Callable[[str], None]
    parties: dict[str, Party] = field(default_factory=dict, repr=False)
    _made: dict[tuple[str, frozenset[str]], Mapping[str, Seen]] = field(default_factory=dict, repr=False)

    def shown(self) -> tuple[dict[str, References], dict[str, str]]:
        """The steps that show the difference repeatably, with what A and B make, and why the others do not."""
        a, b = self.pair.a, self.pair.b
        first, second, again = (self.probe.own(side) for side in (a, b, a))
        found, why = {}, {}
        for step in self.probe.steps:
            one, other, repeat = first[step], second[step], again[step]
            if one.outcome == other.outcome == "ok" and one == repeat and one != other:
                found[step] = one.digest, other.digest
                continue
            reasons = "; ".join(dict.fromkeys(seen.reason for seen in (one, other) if seen.reason))
            why[step] = (
                f"The step {step!r}, {self.probe.means}, does not show the difference repeatably"
                f"{f' ({reasons})' if reasons else ''}."
            )
        return found, why

    def ask(self, side: Side, interpreter: Interpreter) -> Mapping[str, Seen]:
        """What an environment makes, with the variables and settings of a side."""
        return self.probe(side, interpreter)

    def observe(self, step: str, references: References) -> Callable[[str, Sequence[Unit]], Outcome]:
        """The experiment on one step as `find` wants it."""

        def observe(base: str, units: Sequence[Unit]) -> Outcome:
            names = tuple(unit.name for unit in units)
            asked = frozenset(p for unit in units for p in unit.packages)
            side, other = (self.pair.a, self.pair.b) if base == "A" else (self.pair.b, self.pair.a)
            kinds = {references[0]: AS_A, references[1]: AS_B}

            def tried(packages: frozenset[str]) -> Outcome:
                if (base, packages) not in self._made:
                    self.report(f"{side.cell.version} with {', '.join(names)} of {other.cell.version}")
                    self._made[base, packages] = self._results(side, other, packages)
                seen = self._made[base, packages][step]
                if seen.outcome != "ok":
                    return Outcome(base, names, UNRESOLVED, seen.outcome, seen.reason)
                return Outcome(base, names, kinds.get(seen.digest, NEITHER), digest=seen.digest)

            taken, tries = asked, {asked}
            done = first = tried(taken)
            while done.result == UNRESOLVED:
                taken = self._adapted(side, other, taken, done.reason)
                # An exchange of which nothing is left is none, and one that was tried fails again.
                if not taken & asked or taken in tries:
                    break
                tries.add(taken)
                done = tried(taken)
            if done.result == UNRESOLVED:
                return first
            return replace(done, along=tuple(sorted(taken - asked)), kept=tuple(sorted(asked - taken)))

        return observe

    def _results(self, side: Side, other: Side, packages: frozenset[str]) -> Mapping[str, Seen]:
        try:
            with self.environment(side, other, sorted(packages)) as interpreter:
                return self.ask(side, interpreter)
        except BuildFailed as error:
            return dict.fromkeys(self.probe.steps, Seen(error.outcome, str(error)))

    def _adapted(self, side: Side, other: Side, taken: frozenset[str], reason: str) -> frozenset[str]:
        """The packages to exchange so that a library that did not load finds its side's; the same if none is known."""
        missing = unresolved(reason)
        if missing is None:
            return taken
        base, donor = (self._party(one) for one in (side, other))
        mine, theirs = base.sites, donor.sites
        versions = difference(base.lock, donor.lock)
        # What is missing belongs to the side that the library comes from which asks for it; torch's, if none is named.
        asking = next((p for p in versions if missing.asking and owns(mine, p, missing.asking)), None)
        asking = asking or next((p for p in versions if missing.asking and owns(theirs, p, missing.asking)), "torch")
        exchanged = asking in taken
        found = provider(theirs if exchanged else mine, (p for p in versions if p != asking), missing)
        if found in taken and exchanged:
            # It is there, and does not import without what it requires itself.
            return taken | {name for name in versions if found in donor.lock.parents.get(name, ())}
        if found is None or (found in taken) == exchanged:
            return taken
        return taken | {found} if exchanged else taken - {found}

    @contextmanager
    def environment(self, side: Side, other: Side, packages: list[str]) -> Iterator[Interpreter]:
        """An environment of `side` with packages of `other`, for as long as the `with` block.

        Raises:
            BuildFailed: it cannot be made.
        """
        e = self.experiment
        with environment_with(e.home, e.matrix, self._party(side), self._party(other), packages) as interpreter:
            yield interpreter

    def _party(self, side: Side) -> Party:
        name = side.cell.version
        if name not in self.parties:
            self.parties[name] = Party(name, self.experiment.lock(name), side.interpreter)
        return self.parties[name]


def here_or_not(experiment: Experiment, a: str, b: str) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """What differs between two environments, and can be exchanged or cannot because neither has files of it.

    Something that conda installed beside Python's packages, such as MKL, has none in a site folder; and what is not
    needed to index may not have been brought to this host.
    """
    found = changes(*(experiment.lock(version) for version in (a, b)))
    there = {NO_PACKAGE, PYTHON}.union(*(_exchangeable(experiment, version) for version in (a, b)))
    here = tuple(one for one in found if any(normal_name(name) in there for name in one.names) or one.name in there)
    return here, tuple(one.name for one in found if one not in here)


def _exchangeable(experiment: Experiment, version: str) -> Iterable[str]:
    lock, brought = experiment.lock(version), experiment.brought(version)
    if brought is not None and brought.site is not None:
        return (one.name for one in packages_in(brought.site))
    if lock.own is not None and lock.own["kind"] == "interpreter":
        return Sites.of(experiment.environment(version).ensure(lambda _text: None)).packages
    return map(normal_name, lock.packages)

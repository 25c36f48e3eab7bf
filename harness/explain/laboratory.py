"""Where counterfactuals are run: environments with packages exchanged, each made once and asked once."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.environments.build import build_environment
from harness.environments.changes import Change, changes
from harness.environments.exchange import counterfactual, exchange, owns, provider, unresolved
from harness.environments.interpreter import Interpreter, normal_name, packages_in, site_of
from harness.environments.lockfile import difference, read_lock
from harness.environments.uv import BuildFailed
from harness.explain.pair import Pair, Side
from harness.explain.units import AS_A, AS_B, NEITHER, UNRESOLVED, Outcome, Unit
from harness.files import disk_errors
from harness.flock import hold
from harness.running.experiment import Experiment


@dataclass(frozen=True)
class Laboratory:
    """Builds counterfactual environments and runs the smallest job that shows the difference.

    Attributes:
        experiment: home, matrix and locks.
        pair: A and B.
        request: of a `step` job.
        report: says what is under way.
    """

    experiment: Experiment
    pair: Pair
    request: dict[str, Any]
    report: Callable[[str], None]

    def result(self, side: Side, interpreter: Interpreter) -> tuple[str, str, str]:
        """Outcome, reason and digest of the job in one environment."""
        bench = self.pair.bench
        with bench.scratch("blame") as out:
            done = bench.run(side.cell.spec, interpreter, "step", self.request, out)
        if not done.ok:
            return done.outcome, done.reason.replace(f"{bench.home.environments}/", ""), ""
        text = json.dumps(done.result["outputs"], sort_keys=True)
        return "ok", "", hashlib.sha256(text.encode()).hexdigest()[:32]

    def observe(self, references: tuple[str, str]) -> Callable[[str, Sequence[Unit]], Outcome]:
        """The experiment as `find` wants it; `references` are the digests of A and B themselves."""

        def observe(base: str, units: Sequence[Unit]) -> Outcome:
            names = tuple(unit.name for unit in units)
            asked = frozenset(p for unit in units for p in unit.packages)
            side, other = (self.pair.a, self.pair.b) if base == "A" else (self.pair.b, self.pair.a)
            self.report(f"{side.cell.version} with {', '.join(names)} of {other.cell.version}")

            def tried(packages: frozenset[str]) -> Outcome:
                try:
                    with self._environment(side, other, sorted(packages)) as interpreter:
                        outcome, reason, digest = self.result(side, interpreter)
                except BuildFailed as error:
                    return Outcome(base, names, UNRESOLVED, error.outcome, str(error))
                if outcome != "ok":
                    return Outcome(base, names, UNRESOLVED, outcome, reason)
                kinds = {references[0]: AS_A, references[1]: AS_B}
                return Outcome(base, names, kinds.get(digest, NEITHER), digest=digest)

            taken, seen = asked, {asked}
            done = first = tried(taken)
            while done.result == UNRESOLVED:
                taken = self._adapted(side, other, taken, done.reason)
                # An exchange of which nothing is left is none, and one that was tried fails again.
                if not taken & asked or taken in seen:
                    break
                seen.add(taken)
                done = tried(taken)
            if done.result == UNRESOLVED:
                return first
            return replace(done, along=tuple(sorted(taken - asked)), kept=tuple(sorted(asked - taken)))

        return observe

    def _adapted(self, side: Side, other: Side, taken: frozenset[str], reason: str) -> frozenset[str]:
        """The packages to exchange so that a library that did not load finds its side's; the same if none is known."""
        missing = unresolved(reason)
        if missing is None:
            return taken
        mine, theirs = (site_of(one.interpreter()) for one in (side, other))
        locks = [self.experiment.lock(one.cell.version) for one in (side, other)]
        versions = difference(*locks)
        # What is missing belongs to the side that the library comes from which asks for it; torch's, if none is named.
        asking = next((p for p in versions if missing.asking and owns(mine, p, missing.asking)), None)
        asking = asking or next((p for p in versions if missing.asking and owns(theirs, p, missing.asking)), "torch")
        exchanged = asking in taken
        found = provider(theirs if exchanged else mine, (p for p in versions if p != asking), missing)
        if found in taken and exchanged:
            # It is there, and does not import without what it requires itself.
            return taken | {name for name in versions if found in locks[1].parents.get(name, ())}
        if found is None or (found in taken) == exchanged:
            return taken
        return taken | {found} if exchanged else taken - {found}

    @contextmanager
    def _environment(self, side: Side, other: Side, packages: list[str]) -> Iterator[Interpreter]:
        """An environment of `side` with packages of `other`, for as long as the `with` block."""
        brought, donor = (self.experiment.brought(s.cell.version) for s in (side, other))
        if brought is not None and donor is not None and brought.site is not None and donor.site is not None:
            folder = self.experiment.home.environments
            with disk_errors(self.experiment.home):
                folder.mkdir(parents=True, exist_ok=True)
                made = tempfile.TemporaryDirectory(prefix="counterfactual-", dir=folder, ignore_cleanup_errors=True)
                with made as path:
                    exchange(brought.site, donor.site, packages, Path(path, "site"))
                    yield Interpreter(brought.python, Path(path, "site"))
            return
        with self._built(side, other, packages) as path:
            yield Interpreter(path / "bin" / "python")

    @contextmanager
    def _built(self, side: Side, other: Side, packages: list[str]) -> Iterator[Path]:
        """A counterfactual environment that is deleted afterwards; another `blame` that needs the same one waits."""
        home = self.experiment.home
        base, donor = (self.experiment.lock(s.cell.version) for s in (side, other))
        text = counterfactual(base.path, donor.path, packages)
        path = home.environments / f"counterfactual-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        source = path.with_suffix(".txt")
        label = f"{side.cell.version} with packages of {other.cell.version}"
        with hold(home.environments / f".{path.name}.lock"):
            try:
                with disk_errors(home):
                    # What a killed process left is not whole.
                    shutil.rmtree(path, ignore_errors=True)
                    source.write_text(text, encoding="utf-8")
                    build_environment(home, self.experiment.matrix, path, read_lock(source), label)
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
                source.unlink(missing_ok=True)


def here_or_not(experiment: Experiment, a: str, b: str) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """What differs between two versions, and can be exchanged or cannot because neither site folder has it."""
    found = changes(*(experiment.lock(version) for version in (a, b)))
    brought = [experiment.brought(version) for version in (a, b)]
    if not any(brought):
        return found, ()
    there = {name for one in brought if one is not None and one.site is not None for name in packages_in(one.site)}
    here = tuple(one for one in found if any(normal_name(name) in there for name in one.names))
    return here, tuple(one.name for one in found if one not in here)

"""Which package changed a result: environments of B with packages of A, and of A with packages of B.

Only what both directions show bit for bit is claimed: B with A's packages gives A's result, and A with B's gives B's.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.environments import (
    BuildFailed,
    build_environment,
    disk_errors,
    normal_name,
)
from harness.experiment import Experiment
from harness.graph import origins
from harness.jobs import Workbench
from harness.locate import look, step_request
from harness.lock import difference, read_lock
from harness.pair import Pair, Side
from harness.runner import Interpreter
from harness.sites import exchange, owns, packages_in, provider, site_of, unresolved

AS_A, AS_B, NEITHER, UNRESOLVED = "as A", "as B", "as neither", "unresolved"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==")


@dataclass(frozen=True)
class Unit:
    """Packages that are exchanged together: `torch`, NVIDIA's libraries or one of them, or one other package.

    Attributes:
        name: what it is called.
        packages: names as in a lock.
        versions: `A -> B` where it is one package; otherwise empty.
    """

    name: str
    packages: tuple[str, ...]
    versions: str = ""

    @property
    def title(self) -> str:
        """Its name, with versions if they are known."""
        return f"{self.name} {self.versions}".strip()


@dataclass(frozen=True)
class Outcome:
    """What one counterfactual environment gave.

    Attributes:
        base: `A` or `B`: whose environment it is, but for `units`.
        units: names of the units taken from the other side.
        result: `as A`, `as B`, `as neither` or `unresolved`.
        outcome: the job's or the build's outcome.
        reason: one sentence where it is unresolved.
        digest: of the result; empty where there is none.
        along: packages of no unit that were exchanged too, because what was exchanged does not load without them.
        kept: packages of the units that were not exchanged, because what stayed does not load without them.
    """

    base: str
    units: tuple[str, ...]
    result: str
    outcome: str = "ok"
    reason: str = ""
    digest: str = ""
    along: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def remark(self) -> str:
        """What went along or stayed, as part of a sentence; empty where nothing did."""
        along = f", with {' and '.join(self.along)}, without which it does not load" if self.along else ""
        kept = f", but for {' and '.join(self.kept)}, without which the rest does not load" if self.kept else ""
        return along + kept


@dataclass(frozen=True)
class Blame:
    """The answer.

    Attributes:
        units: what differs between the two environments.
        guilty: names of units; empty where nothing is claimed.
        tried: every counterfactual, in order.
        sentence: the answer in words.
        left_out: packages that differ, and were not exchanged because neither site folder has them.
    """

    units: tuple[Unit, ...]
    guilty: tuple[str, ...]
    tried: tuple[Outcome, ...]
    sentence: str
    left_out: tuple[str, ...] = ()


_APART = ("nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn")
"""Libraries of NVIDIA that compute or launch what an index job runs, in the order in which they are tried."""


def units_of(
    changed: Mapping[str, tuple[str | None, str | None]] | Iterable[str], *, apart: bool = False
) -> tuple[Unit, ...]:
    """Group the packages that differ: torch first, then NVIDIA's libraries, then each other alone.

    Args:
        changed: packages; a mapping gives their versions in A and B.
        apart: whether cuBLAS, the CUDA runtime and cuDNN are units of their own.
    """
    names = sorted(changed)

    def one(name: str) -> Unit:
        if not isinstance(changed, Mapping):
            return Unit(name, (name,))
        return Unit(name, (name,), " -> ".join(version or "absent" for version in changed[name]))

    single = [name for prefix in _APART for name in names if apart and name.startswith(prefix)]
    nvidia = tuple(name for name in names if name.startswith("nvidia-") and name not in single)
    group = [Unit("other NVIDIA libraries" if single else "NVIDIA libraries", nvidia)] if nvidia else []
    rest = [one(name) for name in names if name != "torch" and not name.startswith("nvidia-")]
    return (*(one(name) for name in ("torch",) if name in names), *map(one, single), *group, *rest)


def counterfactual(base: Path, other: Path, packages: Iterable[str]) -> str:
    """The lock `base` with `packages` as `other` has them: in its version, with its hashes, or not at all."""
    mine, theirs, wanted = _blocks(base), _blocks(other), set(packages)
    merged = {name: block for name, block in mine.items() if name not in wanted}
    merged |= {name: theirs[name] for name in wanted if name in theirs}
    return "".join(merged[name] for name in sorted(merged))


def _blocks(path: Path) -> dict[str, str]:
    blocks: dict[str, str] = {}
    current = ""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        pin = _PIN.match(line)
        if pin:
            current = pin["name"].lower()
            blocks[current] = ""
        if current and not line.startswith("#"):
            blocks[current] += line
    return blocks


def narrow(units: Sequence[Unit], reproduces: Callable[[Sequence[Unit]], bool]) -> tuple[Unit, ...]:
    """The smallest part of `units` that still reproduces, by delta debugging; nothing if not even all of them do.

    The result is 1-minimal: without any one of its units it does not reproduce. Units alone are tried first, in order.
    """
    for unit in units:
        if reproduces([unit]):
            return (unit,)
    if not reproduces(list(units)):
        return ()
    current, parts = list(units), 2
    while len(current) > _FEW:
        size = -(-len(current) // parts)
        chunks = [current[i : i + size] for i in range(0, len(current), size)]
        rests = [[unit for unit in current if unit not in chunk] for chunk in chunks]
        smaller = next((rest for rest in (*chunks, *rests) if 0 < len(rest) < len(current) and reproduces(rest)), None)
        if smaller is not None:
            current, parts = smaller, 2
        elif parts >= len(current):
            return tuple(current)
        else:
            parts = min(parts * 2, len(current))
    return _without_needless(current, reproduces)


_FEW = 8
"""Up to so many units it takes fewer runs to leave them out one by one than to halve them."""


def _without_needless(units: list[Unit], reproduces: Callable[[Sequence[Unit]], bool]) -> tuple[Unit, ...]:
    """Leave out every unit that is not needed, the least likely first, until none can be left out."""
    found = True
    while found:
        found = False
        for unit in reversed(list(units)):
            rest = [other for other in units if other is not unit]
            if rest and reproduces(rest):
                units, found = rest, True
    return tuple(units)


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
        # A library that the other torch does not load may well load beside its own.
        harmless = [unit.title for unit in found if look_at("A", [unit]).result == AS_A]
        more = f" In {a}, exchanging {' or '.join(harmless)} alone changes nothing." if harmless else ""
        return answer(
            f"{what}: exchanging them together exchanges the result, bit for bit, in both directions; they could not "
            f"be separated ({why}).{more}",
            found,
        )
    if len(found) > 1:
        return answer(
            f"{what} together: exchanging all of these exchanges the result, bit for bit, in both directions, and no "
            "part of them does.",
            found,
        )
    return answer(*_single(units, found[0], look_at))


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
        bench: Workbench = self.pair.bench
        with bench.scratch("blame") as out:
            done = bench.run(side.spec, interpreter, "step", self.request, out)
        if not done.ok:
            return done.outcome, done.reason.replace(f"{self.pair.bench.home.environments}/", ""), ""
        text = json.dumps(done.result["outputs"], sort_keys=True)
        return "ok", "", hashlib.sha256(text.encode()).hexdigest()[:32]

    def observe(self, references: tuple[str, str]) -> Callable[[str, Sequence[Unit]], Outcome]:
        """The experiment as `find` wants it; `references` are the digests of A and B themselves."""

        def observe(base: str, units: Sequence[Unit]) -> Outcome:
            names = tuple(unit.name for unit in units)
            asked = frozenset(p for unit in units for p in unit.packages)
            side, other = (self.pair.a, self.pair.b) if base == "A" else (self.pair.b, self.pair.a)
            self.report(f"{side.cell.version} with {', '.join(names)} of {other.cell.version}")
            taken, seen = asked, {asked}
            done = first = self._try(base, side, other, names, taken, references)
            while done.outcome == "import_failed":
                taken = self._adapted(side, other, taken, done.reason)
                # An exchange of which nothing is left is none, and one that was tried fails again.
                if not taken & asked or taken in seen:
                    break
                seen.add(taken)
                done = self._try(base, side, other, names, taken, references)
            if done.result == UNRESOLVED:
                return first
            return replace(done, along=tuple(sorted(taken - asked)), kept=tuple(sorted(asked - taken)))

        return observe

    def _try(
        self,
        base: str,
        side: Side,
        other: Side,
        names: tuple[str, ...],
        packages: Iterable[str],
        references: tuple[str, str],
    ) -> Outcome:
        """One counterfactual, as it is."""
        try:
            with self._environment(side, other, sorted(packages)) as interpreter:
                outcome, reason, digest = self.result(side, interpreter)
        except BuildFailed as error:
            return Outcome(base, names, UNRESOLVED, error.outcome, str(error))
        if outcome != "ok":
            return Outcome(base, names, UNRESOLVED, outcome, reason)
        kinds = {references[0]: AS_A, references[1]: AS_B}
        return Outcome(base, names, kinds.get(digest, NEITHER), digest=digest)

    def _adapted(self, side: Side, other: Side, taken: frozenset[str], reason: str) -> frozenset[str]:
        """The packages to exchange so that a library that did not load finds its own side's; the same if none is known.

        Args:
            side: whose environment it is.
            other: where the packages are taken from.
            taken: the packages exchanged in the attempt that failed.
            reason: the message of the dynamic loader.
        """
        missing = unresolved(reason)
        if missing is None:
            return taken
        mine, theirs = (site_of(one.interpreter()) for one in (side, other))
        versions = difference(*(self.experiment.lock(one.cell.version) for one in (side, other)))
        # What is missing belongs to the side that the library comes from which asks for it; torch's, if none is named.
        asking = next((p for p in versions if missing.asking and owns(mine, p, missing.asking)), None)
        asking = asking or next((p for p in versions if missing.asking and owns(theirs, p, missing.asking)), "torch")
        exchanged = asking in taken
        found = provider(theirs if exchanged else mine, (p for p in versions if p != asking), missing)
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
                path = Path(tempfile.mkdtemp(prefix="counterfactual-", dir=folder))
                try:
                    exchange(brought.site, donor.site, packages, path / "site")
                    yield Interpreter(brought.python, path / "site")
                finally:
                    shutil.rmtree(path, ignore_errors=True)
            return
        with self._built(side, other, packages) as path:
            yield Interpreter(path / "bin" / "python")

    @contextmanager
    def _built(self, side: Side, other: Side, packages: list[str]) -> Iterator[Path]:
        """A counterfactual environment that is deleted afterwards; another `blame` that needs the same one waits."""
        home = self.experiment.home
        base, donor = (self.experiment.lock(s.cell.version) for s in (side, other))
        text = counterfactual(base.path, donor.path, packages)
        home.environments.mkdir(parents=True, exist_ok=True)
        path = home.environments / f"counterfactual-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        source = path.with_suffix(".txt")
        label = f"{side.cell.version} with packages of {other.cell.version}"
        with FileLock(home.environments / f".{path.name}.lock"):
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


def here_or_not(experiment: Experiment, pair: Pair) -> tuple[dict[str, tuple[str | None, str | None]], tuple[str, ...]]:
    """The packages that differ and can be exchanged, and those that cannot because neither site folder has them."""
    versions = difference(*(experiment.lock(side.cell.version) for side in (pair.a, pair.b)))
    brought = [experiment.brought(side.cell.version) for side in (pair.a, pair.b)]
    there = {name for one in brought if one is not None and one.site is not None for name in packages_in(one.site)}
    if not any(brought):
        return versions, ()
    left = tuple(name for name in versions if normal_name(name) not in there)
    return {name: both for name, both in versions.items() if name not in left}, left


def blame(experiment: Experiment, pair: Pair, report: Callable[[str], None]) -> Blame:
    """Say which packages changed the first artifact of a pair that differs and whose step can be run by itself."""
    a, b = pair.a.cell.label, pair.b.cell.label
    changed, left = here_or_not(experiment, pair)
    # On a CPU NVIDIA's libraries do nothing but load.
    units = units_of(changed, apart=experiment.device.kind != "cpu" or experiment.selection.sites is not None)
    found = look(pair)
    if not found.diverged:
        said = f"{a} and {b} do not differ beyond the noise floor, so no package is to blame."
        return Blame(units, (), (), said, left)
    if not units:
        return Blame((), (), (), f"No package differs between {a} and {b}, so none is to blame.", left)
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
            return replace(answer, sentence=f"{step}: {answer.sentence}", left_out=left)
    return Blame(units, (), (), f"No package could be blamed: {' '.join(reasons)}", left)


def rows(found: Blame, pair: Pair, versions: dict[str, tuple[str | None, str | None]]) -> list[dict[str, Any]]:
    """One row per counterfactual, for `blame.parquet`; one in all where none was needed."""
    a, b = pair.a.cell.label, pair.b.cell.label
    by_name = {unit.name: unit.packages for unit in found.units}
    common = {"a": a, "b": b, "verdict": found.sentence}

    def exchanged(o: Outcome) -> list[str]:
        return [p for p in (*(p for name in o.units for p in by_name[name]), *o.along) if p not in o.kept]

    return [
        {
            **common,
            "base": o.base,
            "packages": ",".join(exchanged(o)),
            "versions": json.dumps({p: versions[p] for p in exchanged(o)}, sort_keys=True),
            "what": ",".join(o.units),
            "result": o.result,
            "outcome": o.outcome,
            "reason": o.reason,
            "digest": o.digest,
        }
        for o in found.tried
    ] or [common]

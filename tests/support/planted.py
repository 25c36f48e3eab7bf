"""Planted divergences: one torch on both sides, a fault in B's worker, and what `locate` and `blame` say of it.

`python -m tests.support.planted [--home HOME] [CASE …]` prints the table that is kept in docs/localisation.md, and
exits with 1 if any answer is wrong. B's environment differs from A's in one package that cannot matter on a CPU
(Triton), so that `blame` has something to exchange; the last row is a control, in which the fault comes with that
package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from harness.artifacts.graph import origins
from harness.environments.build import ensure_environment, evict, use_environment
from harness.environments.interpreter import Interpreter
from harness.environments.lockfile import Lock, exchanged, lock_path, lock_text, read_lock
from harness.errors import InfrastructureError
from harness.explain.blame import blame
from harness.explain.laboratory import Laboratory
from harness.explain.locate import Location, locate
from harness.explain.pair import Pair, Side
from harness.explain.probing import Seen
from harness.explain.replay import CallVerdict
from harness.inputs.matrix import Listed
from harness.report.location_text import noisy_calls
from harness.running.experiment import Experiment
from harness.running.job import JobResult, Workbench, workbench
from harness.running.runner import run_cell
from harness.running.selection import Selection
from harness.store.cell import Cell
from harness.store.repeats import noise_floor
from harness.store.spec import CellSpec
from harness.store.store import Store

FAULTS = Path(__file__).parent / "faults"
VERSION, DONOR, INNOCENT = "2.7.1", "2.8.0", "triton"
OTHER = f"{VERSION}.1"
"""B's label, which must be digits and dots: VERSION with the INNOCENT package of DONOR."""
VARIABLE = "HARNESS_TEST_FAULT"
SMALL = {"index_bsize": 8, "doc_maxlen": 40, "threads": 1}
"""Short passages in small batches: what is recorded of one batch is then a few MB. One thread, so that nobody waits."""
LIMIT = 60
DEADLINE = 600


@dataclass(frozen=True)
class Case:
    """A fault and the right answer.

    Attributes:
        fault: names of `faults/planted.py`, joined by `+`.
        steps: the steps that must be named as origins, in the graph or by a replay, and no other.
        calls: parts of the names of calls or of their modules, each of which must be named; none where the steps run
            no torch.
        noise: whether the fault is random: then it is no origin, but where B's own noise comes from.
        comes_with_package: the control: whether the fault is in the package, so that the package is to be blamed.
    """

    fault: str
    steps: frozenset[str] = frozenset()
    calls: tuple[str, ...] = ()
    noise: bool = False
    comes_with_package: bool = False

    def right(self, found: Location) -> bool:
        """Whether the right places were named, and no step that the fault does not touch."""
        differing = set(origins(found.places)), found.origins
        noisy = [(step, verdict) for n in found.noise for step, verdicts in n.sources.items() for verdict in verdicts]
        noise = {step for n in found.noise for step in n.sources}, noisy
        (steps, calls), other = (noise, differing) if self.noise else (differing, noise)
        names = [f"{verdict.module} {verdict.name}" for _step, verdict in calls]
        return (
            self.steps == steps | {step for step, _verdict in calls}
            and all(any(part in name for name in names) for part in self.calls)
            and not any(other)
        )


def _case(fault: str, *steps: str, call: str | tuple[str, ...] = (), **more: bool) -> Case:
    return Case(fault, frozenset(steps), (call,) if isinstance(call, str) else call, **more)


CASES = (
    # Passages are sorted by length before they are encoded, too.
    _case("unstable sort", "tokenize", "sort codes", call="aten.sort"),
    _case("unstable sort, patched in Python", "tokenize", "sort codes", call="torch.Tensor.sort"),
    _case("k-means seed", "k-means", call="k-means"),
    _case("gelu kernel", "encode", call="aten.gelu"),
    _case("one linear by one ULP", "encode", call="layer.0.intermediate.dense"),
    _case("normalize", "encode", "normalize centroids", call="torch.nn.functional.normalize"),
    _case("dropped passage", "tokenize"),
    _case("half rounds down", "encode", "split sample", "halve centroids", call="aten._to_copy"),
    _case("half rounds down, patched in Python", "encode", "split sample", "halve centroids", call="torch.Tensor.half"),
    _case("depends on batch size", "encode", call="layer.1.intermediate.dense"),
    _case("gelu kernel+unstable sort", "tokenize", "encode", "sort codes", call=("aten.gelu", "aten.sort")),
    _case("nondeterministic", "encode", call="layer.0.attention.self.value", noise=True),
    _case("nondeterministic kernel", "encode", call="aten.gelu", noise=True),
    _case("permuted centroids", "k-means", call="k-means"),
    _case("quantile", "buckets", call="torch.Tensor.quantile"),
    _case("softmax kernel", "encode", call="aten._softmax"),
    _case("norm kernel", "encode", "normalize centroids", call="aten.linalg_vector_norm"),
    _case("the projection by one ULP", "encode", call="linear"),
    _case("one layer norm by one ULP", "encode", call="LayerNorm"),
    _case("sampling seed", "sample passages"),
    _case("bucketize right", "compress", call="torch.bucketize"),
    _case("last centroid wins", "compress", "buckets"),
    _case("packed bits reversed", "compress"),
    _case("pids not unique", "optimize ivf", call="torch.unique"),
    _case("average residual", "buckets", call="torch.Tensor.mean"),
    _case("gelu kernel", "encode", call="aten.gelu", comes_with_package=True),
)


@dataclass(frozen=True)
class Answer:
    """What was said of one case."""

    case: Case
    said: str
    blamed: tuple[str, ...]
    right: bool


@dataclass(frozen=True)
class CachedBench(Workbench):
    """A workbench that runs a job without a fault only once: A's jobs are the same in every case.

    Attributes:
        cache: a folder.
    """

    cache: Path = field(default_factory=Path)

    def run(self, spec: CellSpec, interpreter: Interpreter, job: str, request: dict[str, Any], out: Path) -> JobResult:
        """As `Workbench.run`; the steps of a request are kept one by one."""
        if interpreter.site is not None:
            return super().run(spec, interpreter, job, request, out)
        if "steps" not in request:
            return self._alone(spec, interpreter, job, request, out)
        requests = request["steps"]
        names = [self._name(spec.version, job, one) for one in requests]
        missing = {name: one for name, one in zip(names, requests, strict=True) if not (self.cache / name).exists()}
        if missing:
            with self.scratch("missing") as folder:
                done = super().run(spec, interpreter, job, {"steps": list(missing.values())}, folder)
                if not done.ok:
                    return done
                for number, (name, result) in enumerate(zip(missing, done.result["steps"], strict=True)):
                    (folder / str(number) / "result.json").write_text(json.dumps(result))
                    (folder / str(number)).rename(self.cache / name)
        results = []
        for number, name in enumerate(names):
            shutil.copytree(self.cache / name, out / str(number), copy_function=os.link, dirs_exist_ok=True)
            results.append(json.loads((out / str(number) / "result.json").read_text()))
        return JobResult("ok", "", out, {"steps": results})

    def _alone(
        self, spec: CellSpec, interpreter: Interpreter, job: str, request: dict[str, Any], out: Path
    ) -> JobResult:
        kept = self.cache / self._name(spec.version, job, request)
        if not kept.exists():
            with self.scratch("missing") as folder:
                done = super().run(spec, interpreter, job, request, folder / "job")
                if not done.ok:
                    return done
                (folder / "job" / "result.json").write_text(json.dumps(done.result))
                (folder / "job").rename(kept)
        shutil.copytree(kept, out, copy_function=os.link, dirs_exist_ok=True)
        return JobResult("ok", "", out, json.loads((out / "result.json").read_text()))

    def _name(self, version: str, job: str, request: dict[str, Any]) -> str:
        counted = {**request, "recording": "A's" if "recording" in request else ""}
        return hashlib.sha256(json.dumps([version, job, counted], sort_keys=True).encode()).hexdigest()[:32]


class PlantedExperiment(Experiment):
    """An experiment with one more version: `VERSION` with another Triton.

    Args:
        home: whose environments and caches are used; None for the repository's own.
        folder: for the lock.
        checkpoint: as the command line names one.
        job: whose cells it makes.
        settings: of the job, beside those of `matrix.yaml`.
    """

    def __init__(
        self,
        home: Path | None,
        folder: Path,
        checkpoint: str = "embedded",
        job: str = "index",
        settings: Mapping[str, object] = SMALL,
    ) -> None:
        super().__init__(
            Selection(
                home=home, collection="embedded", checkpoint=checkpoint, limit=LIMIT, device="cpu", capture="full",
                job=job,
            )
        )  # fmt: skip
        self.job = self.job.model_copy(update=settings)
        self.matrix = self.matrix.model_copy(
            update={"listed": [*self.matrix.listed, Listed.model_construct(version=OTHER)]}
        )
        self.made = folder / "locks"
        path = lock_path(self.made, OTHER, "cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(exchanged(lock_text(self.lock(VERSION).path), lock_text(self.lock(DONOR).path), [INNOCENT]))

    def lock(self, version: str) -> Lock:
        """The lock of a version, or B's."""
        return read_lock(lock_path(self.made, OTHER, "cpu")) if version == OTHER else super().lock(version)


class Planter:
    """Runs cases against one environment.

    Args:
        home: whose environments and caches are used; None for the repository's own.
        folder: of a store that lasts as long as the caller wants.
        experiment: of another job than the index.
        after: the module with which a fault comes, where that is not the indexer.
    """

    def __init__(
        self, home: Path | None, folder: Path, experiment: PlantedExperiment | None = None, after: str = ""
    ) -> None:
        self.experiment = experiment or PlantedExperiment(home, folder)
        self.after = after
        e = self.experiment
        # Another run, a test's for instance, may use the same environments, and must not lose them when one ends.
        self._used = [use_environment(e.home, v, "cpu", e.lock(v)) for v in (VERSION, OTHER)]
        self._other = ensure_environment(e.home, e.matrix, e.made, OTHER, "cpu")
        self.pythons = {
            VERSION: ensure_environment(e.home, e.matrix, e.locks, VERSION, "cpu").python,
            OTHER: self._other.python,
        }
        self.store, self.folder = Store(folder / "store"), folder
        (folder / "cache").mkdir()
        bench = workbench(e)
        self.bench = CachedBench(bench.home, bench.checkpoint, "cpu", DEADLINE, cache=folder / "cache")
        self.a = self.made(VERSION, "")
        self.again = self.made(VERSION, "", repeat=1)

    def close(self) -> None:
        """Delete B's environment, unless another run uses it."""
        for used in self._used:
            used.release()
        evict(self.experiment.home, self._other, [self.experiment.lock(v) for v in (VERSION, DONOR)])

    def variables(self, fault: str) -> dict[str, str]:
        """What plants a fault, or says that there is none."""
        return {VARIABLE: fault, **({f"{VARIABLE}_AFTER": self.after} if self.after else {})}

    def made(self, version: str, fault: str, repeat: int = 0) -> Cell:
        """Run the job with a fault, or none."""
        e = self.experiment
        spec = e.spec(version, repeat)
        if fault:
            spec = replace(spec, environment={**spec.environment, **self.variables(fault)})
        cell = run_cell(
            e.home, self.store, spec, self.interpreter(version, fault), e.inputs(version), device_kind="cpu",
            capture="full", deadline=DEADLINE,
        )  # fmt: skip
        if cell.outcome != "ok":
            raise InfrastructureError(f"B's job ended as {cell.outcome}: {cell.reason}")
        return cell

    def interpreter(self, version: str, fault: str) -> Interpreter:
        """An environment's interpreter, with the faults on its path if one is to be planted."""
        return Interpreter(self.pythons[version], FAULTS if fault else None)

    def pair(self, fault: str, *, repeat_b: bool = False) -> Pair:
        """A, and B with the fault; the noise floor from A's repeat and, if wanted, from B's."""
        b = self.made(OTHER, fault)
        again = [self.made(OTHER, fault, repeat=1)] if repeat_b else []
        noise = (noise_floor(self.a, [self.again]) or frozenset()) | (noise_floor(b, again) or frozenset())
        return Pair(
            Side(self.a, lambda: self.interpreter(VERSION, "")), Side(b, lambda: self.interpreter(OTHER, fault)),
            noise, 1, self.store, self.bench, lambda: self.experiment.passages.texts,
            (self.again,), tuple(again), self.write,
        )  # fmt: skip

    def against_itself(self) -> Pair:
        """A and its own repeat, without a noise floor that could hide a difference."""
        sides = [Side(cell, lambda: self.interpreter(VERSION, "")) for cell in (self.a, self.again)]
        return Pair(sides[0], sides[1], frozenset(), 0, self.store, self.bench, write=self.write)

    def write(self, version: str, folder: Path) -> dict[str, Any]:
        """Write what the job of a version is given; see `Pair`."""
        return self.experiment.inputs(version).write(folder)

    def answer(self, case: Case) -> Answer:
        """Locate and blame one case."""
        pair = self.pair(case.fault, repeat_b=case.noise)
        found = locate(pair, self.folder / "scratch")
        with _laboratory(self, case):
            answer = blame(self.experiment, pair, lambda _text: None, inherited=False)
        blamed = answer.packages
        # Unless packages were exchanged, or there is nothing that could be run with others, nothing was tested.
        tried = any(one.tried for one in answer.steps) or case.noise or pair.kind.stepwise
        wanted = (INNOCENT,) if case.comes_with_package else ()
        return Answer(case, said(found), blamed, tried and case.right(found) and blamed == wanted)


@contextmanager
def _laboratory(planter: Planter, case: Case) -> Iterator[None]:
    """Let `blame` exchange packages without building: B with A's Triton is A's environment, and the reverse B's.

    The fault is in B's worker whatever packages that has; in the control it is wherever B's Triton is.
    """

    class Planted(Laboratory):
        @contextmanager
        def environment(self, side: Side, other: Side, packages: list[str]) -> Iterator[Interpreter]:
            assert side is not other
            assert packages == [INNOCENT]
            yield Interpreter(planter.pythons[other.cell.version])

        def ask(self, side: Side, interpreter: Interpreter) -> Mapping[str, Seen]:
            with_b = interpreter.python == planter.pythons[OTHER]
            faulty = with_b if case.comes_with_package else side.cell.version == OTHER
            spec = replace(
                side.cell.spec,
                environment={**side.cell.spec.environment, **planter.variables(case.fault if faulty else "")},
            )
            cell = replace(side.cell, spec=spec)
            return super().ask(
                Side(cell, side.interpreter), Interpreter(interpreter.python, FAULTS if faulty else None)
            )

    with mock.patch("harness.explain.blame.Laboratory", Planted):
        yield


def said(found: Location) -> str:
    """The steps of origin, and the calls that differ with A's exact input; or B's noise and where it comes from."""
    noise = "; ".join(
        f"noise from {noisy_calls(step, calls)}" for n in found.noise for step, calls in n.sources.items()
    )
    if not found.diverged:
        return noise or "nothing"
    calls: dict[str, list[CallVerdict]] = {step: [] for step in origins(found.places)}
    for step, verdict in found.origins:
        calls.setdefault(step, []).append(verdict)
    return "; ".join([noisy_calls(step, verdicts) for step, verdicts in calls.items()] + ([noise] if noise else []))


def main(cases: Sequence[Case] = CASES, planting: Callable[[Path | None, Path], Planter] = Planter) -> int:
    """Print the table of some cases, each of which is planted by what `planting` makes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    chosen = [case for case in cases if not options.cases or case.fault in options.cases]
    unknown = sorted(set(options.cases) - {case.fault for case in cases})
    if unknown:
        parser.error(f"no case is named {', '.join(unknown)}")
    wrong = 0
    print("| planted in B | `locate` says | `blame` says | right |\n|---|---|---|:-:|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        planter = planting(options.home, Path(name))
        try:
            for label, pair in (("A against A", planter.against_itself()), ("another Triton", planter.pair(""))):
                found = locate(pair, Path(name) / "scratch")
                guilty = blame(planter.experiment, pair, lambda _text: None).packages
                wrong += _row(f"nothing ({label})", said(found), guilty, well=not found.diverged and not guilty)
            for case in chosen:
                started = time.monotonic()
                try:
                    answer = planter.answer(case)
                except InfrastructureError as error:
                    answer = Answer(case, str(error), (), right=False)
                label = case.fault + (", which comes with Triton" if case.comes_with_package else "")
                wrong += _row(label, answer.said, answer.blamed, well=answer.right)
                print(f"{case.fault}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        finally:
            planter.close()
    print(f"{wrong} wrong answers", file=sys.stderr)
    return int(wrong > 0)


def _row(label: str, words: str, guilty: Sequence[str], *, well: bool) -> bool:
    """Print one row; returns whether it is wrong."""
    print(f"| {label} | {words} | {', '.join(guilty) or 'no package'} | {'yes' if well else 'NO'} |", flush=True)
    return not well


if __name__ == "__main__":
    sys.exit(main())

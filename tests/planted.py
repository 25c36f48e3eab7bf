"""Planted divergences: one version on both sides, a fault in B's worker, and what `locate` and `blame` say of it.

`python -m tests.planted [--home HOME] [CASE …]` prints the table that is kept in docs/localisation.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from harness.blame import blame
from harness.experiment import Experiment, Selection
from harness.graph import Change, origins
from harness.locate import Location, locate
from harness.pair import Pair, Side, noise_floor, workbench
from harness.runner import Interpreter, run_index
from harness.store import Cell, Store

FAULTS = Path(__file__).parent / "faults"
VERSION = "2.7.1"


@dataclass(frozen=True)
class Case:
    """A fault and the right answer.

    Attributes:
        fault: names of `faults/planted.py`, joined by `+`.
        steps: steps that must be named, in the graph or by a replay.
        call: part of the name or module of a call that must be named; empty where the step runs no torch.
        noise: whether the fault is random, so that nothing may be claimed of it.
    """

    fault: str
    steps: frozenset[str]
    call: str = ""
    noise: bool = False


def _case(fault: str, *steps: str, call: str = "", noise: bool = False) -> Case:
    return Case(fault, frozenset(steps), call, noise)


CASES = (
    _case("unstable sort", "sort codes", call="torch.Tensor.sort"),
    _case("k-means seed", "k-means", call="k-means"),
    _case("gelu kernel", "encode", call="aten.gelu"),
    _case("one linear by one ULP", "encode", call="layer.0.intermediate.dense"),
    _case("normalize", "encode", "normalize centroids", call="torch.nn.functional.normalize"),
    _case("dropped passage", "encode", "mask"),
    _case("half rounds down", "split sample", call="torch.Tensor.half"),
    _case("depends on batch size", "encode", call="layer.1.output.dense"),
    _case("gelu kernel+unstable sort", "encode", "sort codes", call="aten.gelu"),
    _case("nondeterministic", noise=True),
    _case("permuted centroids", "k-means", call="k-means"),
    _case("quantile", "buckets", call="torch.Tensor.quantile"),
    _case("softmax kernel", "encode", call="aten._softmax"),
    _case("norm kernel", "encode", call="aten.linalg_vector_norm"),
    _case("the projection by one ULP", "encode", call="linear"),
    _case("one layer norm by one ULP", "encode", call="LayerNorm"),
    _case("sampling seed", "sample passages"),
    _case("bucketize right", "compress", call="torch.bucketize"),
    _case("last centroid wins", "compress", "buckets"),
    _case("packed bits reversed", "compress"),
    _case("pids not unique", "optimize ivf", call="torch.unique"),
    _case("average residual", "buckets", call="torch.Tensor.mean"),
)


@dataclass(frozen=True)
class Answer:
    """What was said of one case."""

    case: Case
    said: str
    blamed: tuple[str, ...]
    right: bool


class Planter:
    """Runs cases against one environment.

    Args:
        home: whose environments and caches are used; None for the repository's own.
        folder: of a store that lasts as long as the caller wants.
    """

    def __init__(self, home: Path | None, folder: Path) -> None:
        from harness.environments import ensure_environment

        self.experiment = Experiment(
            Selection(home=home, collection="embedded", checkpoint="embedded", limit=20, device="cpu", capture="full")
        )
        e = self.experiment
        self.python = ensure_environment(e.home, e.matrix, e.locks, VERSION, "cpu").python
        self.store, self.folder = Store(folder / "store"), folder
        self.a = self.index("")
        self.again = self.index("", repeat=1)

    def index(self, fault: str, repeat: int = 0) -> Cell:
        """Index with a fault, or none."""
        e = self.experiment
        spec = e.spec(VERSION, repeat)
        if fault:
            spec = replace(spec, environment={**spec.environment, "HARNESS_TEST_FAULT": fault})
        return run_index(
            e.home, self.store, spec, self.interpreter(fault), e.passages, e.checkpoint, device_kind="cpu",
            capture="full", deadline=600,
        )  # fmt: skip

    def interpreter(self, fault: str) -> Interpreter:
        """The environment's interpreter, with the faults on its path."""
        return Interpreter(self.python, FAULTS if fault else None)

    def pair(self, fault: str, *, repeat_b: bool = False) -> Pair:
        """A, and B with the fault; the noise floor from A's repeat and, if wanted, from B's."""
        b = self.index(fault) if fault else self.again
        noise = frozenset() if not fault else noise_floor(self.a, [self.again])
        if repeat_b:
            noise |= noise_floor(b, [self.index(fault, repeat=1)])
        return Pair(
            Side(self.a, lambda: self.interpreter("")), Side(b, lambda: self.interpreter(fault)), noise, 1, self.store,
            workbench(self.experiment),
        )  # fmt: skip

    def answer(self, case: Case) -> Answer:
        """Locate and blame one case."""
        pair = self.pair(case.fault, repeat_b=case.noise)
        found = locate(pair, self.folder / "scratch")
        blamed = blame(self.experiment, pair, lambda _text: None).guilty
        return Answer(case, said(found), blamed, right(case, found) and not blamed)


def said(found: Location) -> str:
    """The steps of origin, and the calls that differ with A's exact input."""
    if not found.diverged:
        noise = sum(place.change is Change.NOISE for place in found.places)
        return f"nothing but noise in {noise} artifacts" if noise else "nothing"
    calls = dict.fromkeys(f"{v.kind} {v.name}" for _step, v in found.origins)
    shown = [*calls][:3] + (["…"] if len(calls) > 3 else [])
    return f"{', '.join(origins(found.places))}" + (f": {', '.join(shown)}" if shown else "")


def right(case: Case, found: Location) -> bool:
    """Whether the right place was named, and no step that the fault does not touch."""
    if case.noise:
        return not any(place.change is Change.ORIGIN for place in found.places)
    named = {step for step, _verdict in found.origins} | set(origins(found.places))
    calls = [f"{v.module} {v.name}" for _step, v in found.origins]
    return case.steps <= named and (not case.call or any(case.call in call for call in calls))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.cases or case.fault in options.cases]
    print("| planted in B | `locate` says | `blame` says | right |\n|---|---|---|:-:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        planter = Planter(options.home, Path(folder))
        nothing = locate(planter.pair(""), Path(folder) / "scratch")
        print(f"| nothing (A against A) | {said(nothing)} | no package | {_yes(not nothing.diverged)} |", flush=True)
        for case in chosen:
            answer = planter.answer(case)
            blamed = ", ".join(answer.blamed) or "no package"
            print(f"| {case.fault} | {answer.said} | {blamed} | {_yes(answer.right)} |", flush=True)


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


if __name__ == "__main__":
    main()

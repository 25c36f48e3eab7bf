"""What watching a training costs: the harness's job against a bare colbert-ai script, side by side in one run.

    python benchmarks/training.py --version 2.8.0 --collection PASSAGES --queries QUERIES --qrels JUDGED
        --checkpoint CHECKPOINT [--maxsteps SHORT] [--long LONG] [--bsize N] [--rounds 3] [--modes final digests]
        [--device cuda] [--sites SITES --site-python PYTHON]

Each mode trains for two numbers of steps, and modes alternate within each round, so that a slow machine slows them all.
Two things are measured of each run: the processor time of the whole process, and the wall time from reading the
passages to the end, with what the harness writes. On a machine that others use, only the first says anything; on a GPU,
the second is what a user waits for. What a step takes is the difference between the long run and the short one by the
difference of their steps, so that what a run takes once (loading, a first launch, writing) is not in it. The ratios
are those of one round's runs. `full` keeps the tensors of one step.

It is a gate, too, on any device: all modes must have trained the same model, and torch must with its own
DistributedDataParallel and the stand-in for it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.environments.build import ensure_environment
from harness.environments.interpreter import Interpreter
from harness.running.experiment import Experiment
from harness.running.job import worker_copy, worker_environment
from harness.running.selection import Selection
from harness.tensors.safetensors import read_safetensors

BARE = Path(__file__).with_name("bare_train.py")
MODES = ("bare", "final", "digests", "full")
GATE = ("torch", "stand-in")


@dataclass(frozen=True)
class Spent:
    """What a run took, in seconds, and the model: all its parameters, by name."""

    processor: float
    wall: float
    model: dict[str, bytes]


def _parameters(out: Path, listed: list[dict[str, object]]) -> dict[str, bytes]:
    whole = np.asarray(read_safetensors(out / "intermediates" / "trained.safetensors")["tensor"].data)
    sizes = [int(np.prod(one["shape"])) for one in listed]  # type: ignore[call-overload]
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    return {str(one["name"]): part.tobytes() for one, part in zip(listed, parts, strict=True)}


def run(experiment: Experiment, interpreter: Interpreter, version: str, mode: str, folder: Path) -> Spent:
    """Run one mode, or one kind of wrapper, once."""
    out = folder / "out"
    out.mkdir()
    (folder / "tmp").mkdir()
    spec, kind, inputs = experiment.spec(version), experiment.device.kind, experiment.inputs(version)
    environment = worker_environment(spec, interpreter, worker_copy(experiment.home), folder, kind)
    cell = {
        "schema": 1, "job": "train", "device": kind, "swap": {}, "checkpoint": str(experiment.checkpoint.path),
        "settings": spec.settings, "capture": mode if mode in MODES else "digests", **inputs.write(folder),
        **({"ddp": mode} if mode in GATE else {}), **({"full_steps": [0]} if mode == "full" else {}),
    }  # fmt: skip
    (folder / "cell.json").write_text(json.dumps(cell))
    script = [str(BARE)] if mode == "bare" else ["-m", "harness.worker"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            [str(interpreter.python), *script, str(folder / "cell.json"), str(out)],
            env=environment, cwd=folder, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = (folder / "log.txt").read_text(errors="replace")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if mode == "bare":
        if done.returncode:
            sys.exit(f"{mode} failed:\n{text[-2000:]}")
        said = json.loads(text.splitlines()[-1])
        held = read_safetensors(Path(said["model"]) / "model.safetensors")
        return Spent(processor, said["seconds"], {name: one.data.tobytes() for name, one in held.items()})
    result = json.loads((out / "result.json").read_text())
    if result["outcome"] != "ok" or result["not_captured"]:
        sys.exit(f"{mode} failed: {result['reason']} {result['not_captured']}\n{text[-2000:]}")
    wall = sum(result["seconds"][phase] for phase in ("load", "train", "write"))
    return Spent(processor, wall, _parameters(out, result["parameters"]))


def _against(mine: Sequence[float], bare: Sequence[float], digits: int) -> str:
    """A median, and the ratios to the bare script's of the same rounds."""
    ratios = [one / other for one, other in zip(mine, bare, strict=True)]
    told = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return f"{statistics.median(mine):.{digits}f} | {told}"


def main() -> None:
    """Run all modes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES[1:], default=MODES[1:])
    parser.add_argument("--long", type=int, help="steps of the long runs; 5 times those of the short ones when absent")
    for name in ("collection", "checkpoint"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("queries", "qrels", "triples"):
        parser.add_argument(f"--{name}")
    for name in ("limit", "limit-queries", "maxsteps", "bsize", "accumsteps", "nway", "threads"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("sites", "site-python", "home"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--device", default="auto")
    options = vars(parser.parse_args())
    version, rounds, modes, long = (options.pop(name) for name in ("version", "rounds", "modes", "long"))
    experiment = Experiment(Selection(job="train", **options))
    settings = experiment.spec(version).settings
    short = settings["maxsteps"]
    long = long or 5 * short
    if long <= short:
        parser.error(f"--long {long} is no more than the {short} steps of a short run")
    experiments = {short: experiment, long: Experiment(Selection(job="train", **{**options, "maxsteps": long}))}
    interpreter = experiment.brought(version)
    if interpreter is None:
        flavour = experiment.device.flavour
        built = ensure_environment(experiment.home, experiment.matrix, experiment.locks, version, flavour)
        interpreter = Interpreter(built.python)
    started = time.perf_counter()

    def spend(mode: str, steps: int) -> Spent:
        with tempfile.TemporaryDirectory() as folder:
            spent = run(experiments[steps], interpreter, version, mode, Path(folder))
        model = models.setdefault(steps, spent.model)
        if different := sum(spent.model[name] != model[name] for name in model):
            sys.exit(f"{mode}: {different} parameters are not those of the first run of {steps} steps")
        return replace(spent, model={})  # of many runs they would take gigabytes

    # Not counted: the first runs write the bytecode of a fresh environment and warm the page cache.
    models: dict[int, dict[str, bytes]] = {}
    for mode in (*GATE, "bare"):
        spend(mode, short)
    modes = [mode for mode in MODES if mode == "bare" or mode in modes]
    spent = [{(mode, steps): spend(mode, steps) for mode in modes for steps in (short, long)} for _ in range(rounds)]
    shown = ", ".join(f"{name} {settings[name]}" for name in ("bsize", "accumsteps", "nway", "threads"))
    print(f"torch {version}, {experiment.device.identity}, {shown}, {rounds} rounds, {len(models[short])} parameters")
    print(
        f"one model in all runs of {short} steps, in torch's own wrapper and in the stand-in, and one in all of {long}"
    )
    print(f"({time.perf_counter() - started:.0f} s)")
    for quantity, unit in (("wall", "seconds of training"), ("processor", "processor seconds")):
        measured = {(mode, steps): [getattr(one[mode, steps], quantity) for one in spent] for mode, steps in spent[0]}
        slopes = {
            mode: [
                1e3 * (b - a) / (long - short) for a, b in zip(measured[mode, short], measured[mode, long], strict=True)
            ]
            for mode in modes
        }
        titles = [f"{unit}, {short} steps", f"{unit}, {long} steps", f"{quantity} ms of a step"]
        print(f"\n| mode | {' | ratio to bare | '.join(titles)} | ratio to bare |\n|{':-:|' * 7}")
        for mode in modes:
            whole = [_against(measured[mode, steps], measured["bare", steps], 1) for steps in (short, long)]
            print(f"| {mode} | {' | '.join([*whole, _against(slopes[mode], slopes['bare'], 2)])} |")


if __name__ == "__main__":
    main()

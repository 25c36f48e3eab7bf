"""What watching a training costs: the harness's job against a bare colbert-ai script, side by side in one run.

    python benchmarks/training.py --version 2.8.0 --collection PASSAGES --queries QUERIES --qrels JUDGED
        --checkpoint CHECKPOINT [--maxsteps N] [--bsize N] [--rounds 3] [--device cuda]
        [--sites SITES --site-python PYTHON]

Modes alternate within each round, so that a slow machine slows them all. Two things are measured of each: the processor
time of the whole process, and the wall time from reading the passages to the end, with what the harness writes. On a
machine that others use, only the first says anything; on a GPU, the second is what a user waits for. `full` keeps the
tensors of one step. It is a gate, too, on any device: all modes must have trained the same model, and torch must with
its own DistributedDataParallel and the stand-in for it.
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
from dataclasses import dataclass
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


def main() -> None:
    """Run all modes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True)
    parser.add_argument("--rounds", type=int, default=3)
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
    version, rounds = options.pop("version"), options.pop("rounds")
    experiment = Experiment(Selection(job="train", **options))
    interpreter = experiment.brought(version)
    if interpreter is None:
        flavour = experiment.device.flavour
        built = ensure_environment(experiment.home, experiment.matrix, experiment.locks, version, flavour)
        interpreter = Interpreter(built.python)
    spent: dict[str, list[Spent]] = {mode: [] for mode in (*MODES, *GATE)}
    started = time.perf_counter()
    # The first round is not counted: it writes the bytecode of a fresh environment and warms the page cache.
    for number in range(rounds + 1):
        for mode in MODES if number else (*GATE, "bare"):
            with tempfile.TemporaryDirectory() as folder:
                spent[mode].append(run(experiment, interpreter, version, mode, Path(folder)))
    spent["bare"] = spent["bare"][1:]
    model = spent["torch"][0].model
    for mode, runs in spent.items():
        different = sum(one.model[name] != model[name] for one in runs for name in model)
        if different:
            sys.exit(
                f"{mode}: {different} parameters are not those of the model that was trained in torch's own wrapper"
            )
    settings = experiment.spec(version).settings
    shown = ", ".join(f"{name} {settings[name]}" for name in ("maxsteps", "bsize", "accumsteps", "nway", "threads"))
    print(f"torch {version}, {experiment.device.identity}, {shown}, {rounds} rounds, {len(model)} parameters")
    print(f"one model in all runs, in torch's own wrapper and in the stand-in ({time.perf_counter() - started:.0f} s)")
    print("| mode | processor seconds (median) | ratio to bare | seconds of training (median) | ratio to bare |")
    print("|:-:|:-:|:-:|:-:|:-:|")
    for mode in MODES:
        cells = []
        for quantity in ("processor", "wall"):
            mine, bare = ([getattr(one, quantity) for one in spent[name]] for name in (mode, "bare"))
            ratios = [a / b for a, b in zip(mine, bare, strict=True)]
            cells.append(
                f"{statistics.median(mine):.1f} | {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f})"
            )
        print(f"| {mode} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

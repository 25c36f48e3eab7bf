"""What watching costs: the harness's job against a bare colbert-ai script on the same data, side by side in one run.

    python benchmarks/overhead.py --version 2.8.0 --collection PASSAGES --checkpoint CHECKPOINT [--rounds 3]
        [--scale-to N] [--device cuda] [--sites SITES --site-python PYTHON]

Modes alternate within each round, so that a slow machine slows them all. Whole processes are timed, with their start.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.environments.build import ensure_environment
from harness.environments.interpreter import Interpreter
from harness.inputs.passages import write_jsonl
from harness.running.experiment import Experiment
from harness.running.job import worker_copy, worker_environment
from harness.running.selection import Selection

MODES = ("bare", "final", "full")
BARE = Path(__file__).with_name("bare_index.py")


def run(experiment: Experiment, interpreter: Interpreter, version: str, mode: str, folder: Path) -> tuple[float, int]:
    """Run one mode once; returns wall seconds and peak GPU bytes reserved (0 on a CPU)."""
    out = folder / "out"
    out.mkdir()
    (folder / "tmp").mkdir()
    write_jsonl(experiment.passages, folder / "passages.jsonl")
    spec = experiment.spec(version)
    kind = experiment.device.kind
    environment = worker_environment(spec, interpreter, worker_copy(experiment.home), folder, kind)
    if mode == "bare":
        arguments = [str(BARE), str(folder / "passages.jsonl"), str(experiment.checkpoint.path), str(out), kind]
    else:
        cell = {
            "schema": 1, "job": "index", "device": kind, "passages": str(folder / "passages.jsonl"), "swap": {},
            "checkpoint": str(experiment.checkpoint.path), "settings": spec.settings, "capture": mode,
        }  # fmt: skip
        (folder / "cell.json").write_text(json.dumps(cell))
        arguments = ["-m", "harness.worker", str(folder / "cell.json"), str(out)]
    started = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            [str(interpreter.python), *arguments], env=environment, cwd=folder, stdout=log, stderr=log, check=False
        )
    seconds = time.perf_counter() - started
    text = (folder / "log.txt").read_text(errors="replace")
    if done.returncode or not (out / "index" / "metadata.json").exists():
        sys.exit(f"{mode} failed:\n{text[-2000:]}")
    if kind == "cpu":
        return seconds, 0
    if mode == "bare":
        last = next(line for line in reversed(text.splitlines()) if line.startswith("{"))
        return seconds, int(json.loads(last)["gpu_reserved_bytes"])
    return seconds, int(json.loads((out / "result.json").read_text())["peak_memory"]["gpu_reserved_bytes"])


def main() -> None:
    """Run all modes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("collection", "checkpoint"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("limit", "scale-to"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("sites", "site-python", "home"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--device", default="auto")
    options = vars(parser.parse_args())
    version, rounds = options.pop("version"), options.pop("rounds")
    experiment = Experiment(Selection(**options))
    interpreter = experiment.brought(version)
    if interpreter is None:
        flavour = experiment.device.flavour
        built = ensure_environment(experiment.home, experiment.matrix, experiment.locks, version, flavour)
        interpreter = Interpreter(built.python)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    memory: dict[str, int] = {}
    # One run that is not counted: it writes the bytecode of a fresh environment and warms the page cache.
    for number in range(rounds + 1):
        for mode in MODES if number else MODES[:1]:
            with tempfile.TemporaryDirectory() as folder:
                spent, memory[mode] = run(experiment, interpreter, version, mode, Path(folder))
            if number:
                seconds[mode].append(spent)
    print(f"torch {version}, {len(experiment.passages)} passages, {experiment.device.identity}, {rounds} rounds")
    print("| mode | seconds (median) | ratio to bare (median, min to max) | peak GPU memory | ratio to bare |")
    print("|:-:|:-:|:-:|:-:|:-:|")
    for mode in MODES:
        ratios = [a / b for a, b in zip(seconds[mode], seconds["bare"], strict=True)]
        gpu = f"{memory[mode] / 2**20:.0f} MiB" if memory[mode] else "-"
        share = f"{memory[mode] / memory['bare']:.3f}" if memory[mode] else "-"
        print(
            f"| {mode} | {statistics.median(seconds[mode]):.1f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}) | {gpu} | {share} |"
        )


if __name__ == "__main__":
    main()

"""Searching without a compiler: the replacements of colbert-ai's kernels against the kernels, in one run on the CPU.

    python benchmarks/kernels.py --version 2.8.0 [--rounds 40] [--threads 2] [--home HOME]

Compiles colbert-ai's own sources first (a minute or two; needs g++), in the folder TORCH_EXTENSIONS_DIR where that is
set, so that another run finds them there. Both have the same input, whose results are compared bit for bit, and take
turns. A ratio below 1 means that the replacement is the faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.environments.build import ensure_environment
from harness.home import resolve_home
from harness.inputs.matrix_file import load_matrix
from harness.running.job import worker_copy

ROOT = Path(__file__).parents[1]
BARE = Path(__file__).with_name("bare_kernels.py")
SHAPES = ((6653, 20, 128, 4096, 1024), (20000, 100, 32, 8192, 1024))
"""Passages, their mean length, query tokens, centroids, ndocs: ConditionalQA's passages, and longer ones."""


def main() -> None:
    """Run all shapes and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    home = resolve_home(options.home, ROOT / "matrix.yaml")
    python = ensure_environment(home, load_matrix(ROOT / "matrix.yaml"), ROOT / "locks", options.version, "cpu").python
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]), "PYTHONPATH": str(worker_copy(home)),
            "HOME": folder, "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", folder),
            "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads),
        }  # fmt: skip
        for shape in SHAPES:
            done = subprocess.run(
                [str(python), str(BARE), *map(str, shape), str(options.rounds)],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                sys.exit(done.stderr)
            show(options.version, options.threads, shape, json.loads(done.stdout.splitlines()[-1]))


def show(version: str, threads: int, shape: tuple[int, ...], seconds: dict[str, list[list[list[float]]]]) -> None:
    """Print one table."""
    passages, length, tokens, _centroids, ndocs = shape
    print(
        f"\ntorch {version}, {threads} threads: {passages} passages of about {length} embeddings, {tokens} query "
        f"tokens, ndocs {ndocs}\n"
    )
    print("| kernel | replacement, ms | colbert-ai's, ms | ratio of the best | ratio of CPU time (median) |")
    print("|:-:|:-:|:-:|:-:|:-:|")
    together = [
        [[sum(rounds[side][clock] for rounds in of_round) for clock in (0, 1)] for side in (0, 1)]
        for of_round in zip(*seconds.values(), strict=True)
    ]
    for name, rounds in {**seconds, "all of a search": together}.items():
        ours, theirs = (min(one[side][0] for one in rounds) for side in (0, 1))
        busy = [statistics.median(one[side][1] for one in rounds) for side in (0, 1)]
        print(f"| `{name}` | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {ours / theirs:.2f} | {busy[0] / busy[1]:.2f} |")


if __name__ == "__main__":
    main()

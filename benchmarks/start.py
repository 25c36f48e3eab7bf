"""How long the command takes to start: its help, and two small indexes compared, beside an empty Python, in one run.

    python benchmarks/start.py [--rounds 10]

The indexes have 2 MB each and differ in some codes. Seconds are the least of all rounds, which take turns; imports that
cost more than 30 ms of their own, without what they import, are listed with the least that `-X importtime` said. Exit
code 1 when the help takes more than twice an empty Python and 0.15 s, or the comparison more than 0.5 s beside that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' stand-ins


from tests.support.small_index import index_arrays, write_index  # noqa: E402

TOKENS, PARTITIONS, DIM, MOVED = 60_000, 512, 96, 200
DEAR = 30_000  # microseconds of an import


def write(folder: Path, *, moved: bool) -> Path:
    """An index of 2 MB; one in `MOVED` codes is another where `moved`."""
    random = np.random.default_rng(0)
    arrays = index_arrays(chunks=1, dim=DIM)
    arrays["0.codes"] = random.integers(0, PARTITIONS, TOKENS).astype(np.int32)
    arrays["0.residuals"] = random.integers(0, 256, (TOKENS, DIM // 4)).astype(np.uint8)
    arrays["centroids"] = random.standard_normal((PARTITIONS, DIM)).astype(np.float16)
    arrays["ivf"] = np.arange(TOKENS // 2, dtype=np.int32)
    arrays["ivf_lengths"] = np.full(PARTITIONS, TOKENS // 2 // PARTITIONS, dtype=np.int64)
    if moved:
        arrays["0.codes"][::MOVED] = (arrays["0.codes"][::MOVED] + 1) % PARTITIONS
    return write_index(folder, arrays, chunks=1)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A process that keeps the bytecode of what it imports, as Python does unless told otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, check=False, cwd=ROOT, text=True, env=environment
    )


def seconds(words: list[str]) -> float:
    """Wall seconds of one run, which may find a difference and must not fail."""
    began = time.perf_counter()
    done = run(*words)
    spent = time.perf_counter() - began
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return spent


def imports(words: list[str]) -> dict[str, int]:
    """Module to the microseconds of its import, without those that it imports."""
    done = run("-X", "importtime", *words)
    lines = (line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if line.count("|") == 2)
    return {name.strip(): int(own) for own, _whole, name in lines if own.strip().isdecimal()}


def main() -> int:
    """Print the table; say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as made:
        folders = [str(write(Path(made) / name, moved=name == "b")) for name in "ab"]
        harness = ["-m", "harness"]
        runs = {"pass": ["-c", "pass"], "--help": [*harness, "--help"], "compare": [*harness, "compare", *folders]}
        least = dict.fromkeys(runs, float("inf"))
        for _ in range(rounds):
            least = {name: min(least[name], seconds(words)) for name, words in runs.items()}
        dear: dict[str, dict[str, int]] = {}
        for name in ("--help", "compare"):
            several = [imports(runs[name]) for _ in range(rounds)]
            found = {module: min(one.get(module, 0) for one in several) for module in several[0]}
            dear[name] = {module: spent for module, spent in found.items() if spent > DEAR}
    limits = {"--help": 2 * least["pass"] + 0.15, "compare": 2 * least["pass"] + 0.65}
    print("| command | seconds | at most | imports of more than 30 ms |")
    print("|:--|--:|--:|:--|")
    print(f"| `python -c pass` | {least['pass']:.3f} | | |")
    for name, limit in limits.items():
        told = ", ".join(f"{module} ({spent / 1000:.0f} ms)" for module, spent in dear[name].items()) or "none"
        print(f"| `harness {name}` | {least[name]:.3f} | {limit:.3f} | {told} |")
    return int(any(least[name] > limit for name, limit in limits.items()))


if __name__ == "__main__":
    sys.exit(main())

"""How fast the comparer is, side by side with what people use instead, in one run on one machine.

    python benchmarks/compare.py --torch-python ENV/bin/python --peer-python PEER/bin/python --markdown > table.md

ENV is any environment with torch. PEER has Polygraphy, from a scratch environment: `uv venv PEER` and
`uv pip install --python PEER/bin/python polygraphy numpy`. Either may be left out; its rows are then missing.

Every number is bytes of both sides per second, in GB/s (1e9). Ours reads from mapped files in a process of its own and
computes every metric and both verdicts; torch, Polygraphy and the memory copy work on arrays that are already in
memory, and touched. Data patterns:
    independent   A and B are separate standard normal samples (uniform for integers): nearly every element differs
    few           3 % of the elements differ by one unit in the last place (by 1 for integers), the rest are equal
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_HEADER = 64

OURS = r"""
import json, sys, time
from harness.tensors.metrics import measure
from harness.tensors.tensor import Tensor
from harness.tensors.dtypes import DTYPES
from harness.files import map_file
from harness.tensors.mapped import view_bytes
from pathlib import Path
def open_tensor(path, dtype, n):
    raw = map_file(Path(path))
    return Tensor(dtype, (n,), view_bytes(raw, DTYPES[dtype], (n,)))
def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) / 1024
a, b, dtype, n = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
baseline = status("VmRSS")
start = time.perf_counter()
measure(open_tensor(a, dtype, n), open_tensor(b, dtype, n))
first = time.perf_counter() - start
best = first
for _ in range(11):
    start = time.perf_counter()
    found = measure(open_tensor(a, dtype, n), open_tensor(b, dtype, n))
    best = min(best, time.perf_counter() - start)
print(json.dumps({"first": first, "best": best, "peak_mib": status("VmHWM") - baseline,
                  "differ": found.n_mismatch / found.n}))
"""

TORCH = r"""
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
a, b, dtype, n = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]), int(sys.argv[4])
size = torch.empty(0, dtype=dtype).element_size()
def load(path):
    return torch.from_numpy(np.fromfile(path, np.uint8)).view(dtype)
def clock(call, times=3):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        try:
            call()
        except AssertionError:
            pass
        seconds.append(time.perf_counter() - start)
    return seconds
x, y = load(a), load(b)
result = {"torch": torch.__version__, "threads": torch.get_num_threads()}
seconds = clock(lambda: torch.allclose(x, y))
result["allclose_first"], result["allclose"] = seconds[0], min(seconds)
part = min(n, 100_000_000)
p, q = x[:part].clone(), y[:part].clone()
result["assert_close"] = min(clock(lambda: torch.testing.assert_close(p, q), 2)) * n / part
del p, q
def user():
    x, y = load(a), load(b)
    torch.allclose(x, y)
    torch.allclose(x, y, rtol=1e-3, atol=1e-4)
    if dtype in (torch.uint8, torch.int32):
        return (x.int() - y.int()).abs().max()
    return (x - y).abs().max()
del x, y
result["user"] = min(clock(user, 1))
print(json.dumps(result))
"""

PEER = r"""
import contextlib, io, json, sys, time
import numpy as np
from polygraphy.comparator import CompareFunc, IterationResult
a, b, dtype, n = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
part = min(n, 20_000_000)
x, y = (np.fromfile(path, dtype, part) for path in (a, b))
compare = CompareFunc.simple()
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    compare(IterationResult({"x": x}), IterationResult({"x": y}))
print(json.dumps({"polygraphy": (time.perf_counter() - start) * n / part}))
"""


def write_pair(folder: Path, dtype: str, n: int, pattern: str) -> tuple[Path, Path]:
    """Two raw little-endian files of n elements."""
    rng = np.random.default_rng(0)
    paths = folder / "a.bin", folder / "b.bin"
    with paths[0].open("wb") as left, paths[1].open("wb") as right:
        for start in range(0, n, 4_000_000):
            count = min(4_000_000, n - start)
            a = _sample(rng, dtype, count)
            if pattern == "independent":
                b = _sample(rng, dtype, count)
            else:
                b = a.copy()
                moved = rng.random(count, dtype=np.float32) < 0.03
                b[moved] = b[moved] ^ 1 if dtype in ("int32", "uint8") else b[moved] + 1
            left.write(a.data)
            right.write(b.data)
    return paths


def _sample(rng: np.random.Generator, dtype: str, count: int) -> Array:
    """Bit patterns as unsigned integers."""
    if dtype in ("int32", "uint8"):
        return rng.integers(0, 256, count, dtype=_UINT[4 if dtype == "int32" else 1])
    values = rng.standard_normal(count, dtype=np.float32)
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype).view(_UINT[np.dtype(dtype).itemsize])


def ask(python: str | Path, program: str, *arguments: object) -> dict[str, Any]:
    """Run a program and return the JSON it prints last."""
    command = [str(python), "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def copy_seconds(path: Path) -> float:
    """Best time to copy a file's bytes from one touched array to another."""
    source = np.fromfile(path, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(12):  # as often as ours: what else a host does comes and goes
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return best


def measure_pair(options: argparse.Namespace, dtype: str, n: int, pattern: str) -> dict[str, Any]:
    """All competitors on one pair; values are GB/s."""
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        a, b = write_pair(Path(scratch), dtype, n, pattern)
        nbytes = a.stat().st_size + b.stat().st_size
        ours = ask(sys.executable, OURS, a, b, dtype, n)
        row = {"dtype": dtype, "pattern": pattern, "n": n, "differ": ours["differ"], "peak_mib": ours["peak_mib"]}
        row["ours"], row["ours_first"] = nbytes / ours["best"] / 1e9, nbytes / ours["first"] / 1e9
        # A copy reads one side and writes as much again: the bytes of both sides, moved.
        row["copy"] = nbytes / 2 / copy_seconds(a) / 1e9
        if options.torch_python:
            found = ask(options.torch_python, TORCH, a, b, dtype, n)
            row["torch"] = found["torch"]
            for name in ("allclose", "allclose_first", "assert_close", "user"):
                row[name] = nbytes / found[name] / 1e9
        if options.peer_python and dtype in ("float16", "float32", "int32", "uint8"):
            row["polygraphy"] = nbytes / ask(options.peer_python, PEER, a, b, dtype, n)["polygraphy"] / 1e9
    return row


def small_costs() -> list[tuple[str, str]]:
    """What equal digests cost, and all pairs of 19 indexes with 12 tensors."""
    from harness.artifacts.comparison import compare_sources
    from harness.artifacts.ladder import all_pairs, ladder
    from harness.artifacts.source import Facts
    from harness.tensors.tensor import Tensor

    class Known:
        name = "known"

        def names(self) -> tuple[str, ...]:
            return ("centroids",)

        def facts(self, _: str) -> Facts:
            return Facts("d" * 64, "float16", (65536, 128), 0)

        def digest(self, _: str) -> str:
            return "d" * 64

        def load(self, _: str) -> Tensor:
            raise AssertionError("an equal digest was loaded")

        def metadata(self) -> dict[str, Any]:
            return {}

    def clock(call: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        return best

    items = [(f"v{k}", {f"{t}.codes": f"{k % 5}-{t}" for t in range(12)}) for k in range(19)]
    pair = clock(lambda: compare_sources(Known(), Known()))
    pairs = clock(lambda: (ladder(items), all_pairs(items)))
    return [
        ("a pair with equal digests", f"{pair * 1e3:.3f} ms"),
        ("171 pairs of 19 indexes with 12 tensors, and their classes", f"{pairs * 1e3:.2f} ms"),
    ]


def cpu_model() -> str:
    """The processor's own name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/comparing.md."""
    names = [
        ("ours", "harness, all metrics"),
        ("copy", "memory copy"),
        ("allclose", "`torch.allclose`, best"),
        ("allclose_first", "`torch.allclose`, first call"),
        ("assert_close", "`assert_close`"),
        ("polygraphy", "Polygraphy"),
        ("user", "load, `allclose` twice, max"),
    ]
    lines = ["| dtype, pattern | elements | differ | peak MiB | " + " | ".join(title for _, title in names) + " |"]
    lines.append("|---|--:|--:|--:|" + "--:|" * len(names))
    for row in rows:
        cells = []
        for name, _ in names:
            if name not in row:
                cells.append("-")
            elif name == "ours":
                cells.append(f"**{row[name]:.2f}**")
            else:
                cells.append(f"{row[name]:.2f} ({row['ours'] / row[name]:.1f}x)")
        head = f"| {row['dtype']}, {row['pattern']} | {row['n'] / 1e6:.0f} M | {100 * row['differ']:.1f} % "
        head += f"| {row['peak_mib']:.0f} |"
        lines.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=float, default=500e6, help="of the float16 tensors (default 500 million)")
    parser.add_argument("--others", type=float, default=100e6, help="of the other dtypes' (default 100 million)")
    parser.add_argument("--dtypes", default="float16,bfloat16,float32,int32,uint8")
    parser.add_argument("--patterns", default="independent,few")
    parser.add_argument("--torch-python", type=Path)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--scratch", type=Path, help="folder for the files, 4 GB at 500 million elements")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    rows = []
    for dtype in options.dtypes.split(","):
        for pattern in options.patterns.split(","):
            n = int(options.elements if dtype == "float16" else options.others)
            rows.append(measure_pair(options, dtype, n, pattern))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores; torch {rows[0].get('torch', 'not measured')}.")
    print("GB/s counts the bytes of both sides; in brackets, how many times faster the harness is.\n")
    print(markdown(rows) if options.markdown else json.dumps(rows, indent=1))
    print()
    for what, cost in small_costs():
        print(f"- {what}: {cost}")


if __name__ == "__main__":
    main()

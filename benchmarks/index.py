"""How fast two whole indexes are compared, beside a bare torch script, in one run on one machine.

    python benchmarks/index.py                                  # 4 chunks of 100,000 tokens: says that it works
    python benchmarks/index.py --tokens 2000000 --chunks 16 --torch-python ENV/bin/python --scratch FOLDER --markdown
    python benchmarks/index.py --tokens 2000000 --chunks 16,64 …    # is it linear? more chunks, not bigger ones
    python benchmarks/index.py --tokens 2000000 --chunks 256 --patterns changed --cores 2 --rounds 1 …    # 16 GB a side
    python benchmarks/index.py --tokens 500000 --chunks 1 --directories 29 …    # one ladder of so many, from the disk

Makes indexes in the files that colbert-ai writes, by a seeded recipe: passages of 20 to 116 tokens, 65,536 centroids
of 96 dimensions, 2 bits. B is A again, byte by byte in files of its own ("same"), or A with 0.5 % of the codes moved,
2 % of the bytes of residuals changed, and the inverted lists that follow from it ("changed"), or A with all passages at
other places ("reordered"). ENV is any environment with torch; its script loads both and calls `torch.equal` and
`torch.allclose` on each pair of tensors, and no more.

Every command runs in a process of its own, from its start to its end. Bytes are those of both sides; "CPU s" are of
all cores together, which others on the machine disturb less than the clock. "peak" is the most memory that it and the
processes that it forked had at any time, looked at every 20 ms in one run more, each page once; pages of files that are
mapped count, too. The files are in the page cache. A second `ladder` knows of the first what nobody touched since.

With `--directories` the files of so many indexes, every other one changed, are dropped from the page cache first, and
"read" is how often the disk was asked for their bytes. Beside it, bare scripts that read the same files, and that read
and hash them, two at a time as a ladder does; then all of it once more from the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from compare import Array, copy_seconds, cpu_model

from harness.tensors.tensor import Tensor
from harness.tensors.torchwrite import write_pt

CENTROIDS, DIM, NBITS = 1 << 16, 96, 2
MOVED, CHANGED = 0.005, 0.02
CHUNK_FILES = ("*.codes.pt", "*.residuals.pt", "doclens.*.json", "*.metadata.json")
_LISTS = 1 << 12  # inverted lists that are made at a time

TORCH = r"""
import json, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import torch
def tensors(path):
    if path.suffix == ".json":
        return [torch.tensor(json.loads(path.read_text()))]
    found = torch.load(path, map_location="cpu")
    return found if isinstance(found, tuple) else [found]
a, b = Path(sys.argv[1]), Path(sys.argv[2])
for left in sorted([*a.glob("*.pt"), *a.glob("doclens.*.json")]):
    for x, y in zip(tensors(left), tensors(b / left.name)):
        same = x.shape == y.shape and torch.equal(x, y)
        close = x.shape == y.shape and torch.allclose(x, y)
print(torch.__version__)
"""


@dataclass(frozen=True)
class Size:
    """How many chunks an index has, and about how many tokens each."""

    chunks: int
    tokens: int


def write_index(folder: Path, size: Size) -> None:
    """Write A."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(19)
    rows = rng.standard_normal((CENTROIDS, DIM), dtype=np.float32)
    _write(folder / "centroids.pt", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    weights = np.array([-0.12, -0.03, 0.03, 0.12], np.float16)
    _write(folder / "buckets.pt", ((weights[1:] + weights[:-1]) / 2), weights)
    _write(folder / "avg_residual.pt", np.array(0.05, np.float16))
    _on_all_cores(partial(_write_chunk, folder, size.tokens), range(size.chunks))
    settings = {"config": {"dim": DIM, "nbits": NBITS}, "num_chunks": size.chunks, "num_partitions": CENTROIDS}
    for name in ("plan.json", "metadata.json"):
        (folder / name).write_text(json.dumps(settings))
    _write_lists(folder, size)


def _write_chunk(folder: Path, tokens: int, chunk: int) -> None:
    rng = np.random.default_rng((19, chunk))
    doclens = rng.integers(20, 117, tokens // 68)
    total = int(doclens.sum())
    _write(folder / f"{chunk}.codes.pt", rng.integers(0, CENTROIDS, total, dtype=np.int32))
    _write(folder / f"{chunk}.residuals.pt", rng.integers(0, 256, (total, DIM * NBITS // 8), dtype=np.uint8))
    (folder / f"doclens.{chunk}.json").write_text(json.dumps(doclens.tolist()))
    about = {"passage_offset": chunk * doclens.size, "num_passages": doclens.size, "num_embeddings": total}
    (folder / f"{chunk}.metadata.json").write_text(json.dumps(about))


def write_changed(a: Path, b: Path, size: Size) -> None:
    """Write B: another index of A's size, a little different."""
    shutil.copytree(a, b, ignore=shutil.ignore_patterns("*.codes.pt", "*.residuals.pt", "ivf.pid.pt"))
    _on_all_cores(partial(_change_chunk, a, b), range(size.chunks))
    _write_lists(b, size)


def write_reordered(a: Path, b: Path, size: Size) -> None:
    """Write B: A with each chunk where the next one was, so that every passage is at another place."""
    shutil.copytree(a, b, ignore=shutil.ignore_patterns("ivf.pid.pt", *CHUNK_FILES))
    for chunk in range(size.chunks):
        for name in CHUNK_FILES:
            shutil.copyfile(a / name.replace("*", str(chunk)), b / name.replace("*", str((chunk + 1) % size.chunks)))
    _write_lists(b, size)


def _change_chunk(a: Path, b: Path, chunk: int) -> None:
    rng = np.random.default_rng((20, chunk))
    for name, share, limit in (("codes", MOVED, CENTROIDS), ("residuals", CHANGED, 256)):
        held = _read(a / f"{chunk}.{name}.pt").copy()
        flat = held.reshape(-1)
        places = np.flatnonzero(rng.random(flat.size, dtype=np.float32) < share)
        flat[places] = (flat[places] + rng.integers(1, limit, places.size)) % limit
        _write(b / f"{chunk}.{name}.pt", held)


def write_same(a: Path, b: Path, _size: Size) -> None:
    """Write B: A again."""
    shutil.copytree(a, b)


PATTERNS = {"changed": write_changed, "same": write_same, "reordered": write_reordered}


def _on_all_cores(make: Callable[[int], Any], numbers: range) -> list[Any]:
    """What `make` returns of each number, in processes: 16 GB a side are made in a minute or two on 16 cores."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(make, numbers))


def _write(path: Path, *arrays: Array) -> None:
    write_pt(path, [Tensor.of(one) for one in arrays])


def _read(path: Path) -> Array:
    from harness.tensors.torchfile import read_pt

    found = read_pt(path)
    assert isinstance(found, Tensor)
    return found.data


def _write_lists(folder: Path, size: Size) -> None:
    """The inverted lists that follow from the codes: of each centroid, the passages that have it."""
    made = _on_all_cores(partial(_some_lists, folder, size.chunks), range(0, CENTROIDS, _LISTS))
    lists, lengths = zip(*made, strict=True)
    _write(folder / "ivf.pid.pt", np.concatenate(lists), np.concatenate(lengths))


def _some_lists(folder: Path, chunks: int, first: int) -> tuple[Array, Array]:
    """The `_LISTS` lists from the first on, one after the other, and how long each is."""
    keys, start = [], 0
    for chunk in range(chunks):
        codes = _read(folder / f"{chunk}.codes.pt")
        doclens = json.loads((folder / f"doclens.{chunk}.json").read_text())
        here = np.flatnonzero((codes >= first) & (codes < first + _LISTS))
        passage = np.searchsorted(np.cumsum(doclens), here, "right") + start
        keys.append((codes[here].astype(np.int64) << 32) | passage)
        start += len(doclens)
    found = np.sort(np.concatenate(keys))
    found = found[np.concatenate([[True], found[1:] != found[:-1]])]
    return (found & 0xFFFFFFFF).astype(np.int32), np.bincount((found >> 32) - first, minlength=_LISTS)


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock and of all cores, MiB, and bytes from the disk, of a process; `out` is its last line."""

    seconds: float
    cpu: float
    peak: float
    read: int
    out: str


def clock(command: list[str]) -> Spent:
    """Run a command to its end; as everywhere else, Python may keep what it compiled."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problems:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=problems, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, problems):
            file.seek(0)
        if process.returncode not in (0, 1):
            sys.exit(f"{' '.join(command)} failed:\n{problems.read().decode()}")
        told = out.read().decode().splitlines()
    cpu = used.ru_utime + used.ru_stime
    return Spent(seconds, cpu, used.ru_maxrss / 1024, used.ru_inblock * 512, told[-1] if told else "")


def peak_of(command: list[str]) -> float:
    """MiB that a command and the processes that it forks have at most, all together (proportional set sizes)."""
    most = 0
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            now = 0
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):  # it may have ended by now
                    now += one.memory_full_info().pss
            most = max(most, now)
            time.sleep(0.02)
    return most / (1 << 20)


@contextmanager
def on_cores(count: int | None) -> Iterator[None]:
    """Have what is started in between on the first so many cores of this process, None for all of them."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def apart(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever it returns
    """Call a function in a process of its own: the memory of this one counts as the least that its children had."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def bytes_of(folder: Path) -> int:
    """What the files of a folder have."""
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(options: argparse.Namespace, scratch: Path, size: Size) -> Iterator[dict[str, Any]]:
    """Rows of the table for one size: what ran, on which pair, and what it took."""
    a = scratch / "a"
    apart(write_index, a, size)
    harness = [sys.executable, "-m", "harness"]
    for pattern in options.patterns.split(","):
        b = scratch / "b"
        shutil.rmtree(b, ignore_errors=True)
        apart(PATTERNS[pattern], a, b, size)
        both = [str(a), str(b)]
        commands = {
            "`compare`": [*harness, "compare", *both],
            "`compare --json`": [*harness, "compare", "--json", *both],
            "`ladder --no-cache`": [*harness, "ladder", "--no-cache", *both],
            "`ladder`, again": [*harness, "ladder", *both],
        }
        if options.torch_python:
            commands["torch: load, `equal`, `allclose`"] = [str(options.torch_python), "-c", TORCH, *both]
        nbytes = bytes_of(a) + bytes_of(b)
        largest = a / "0.residuals.pt"
        with on_cores(options.cores):
            clock(commands["`ladder`, again"])  # the first of which it is another
            # In turns, so that whoever else loads the machine loads all of them.
            rounds = [{what: clock(command) for what, command in commands.items()} for _ in range(options.rounds)]
            peaks = {what: peak_of(command) for what, command in commands.items()}
            copied = largest.stat().st_size / apart(copy_seconds, largest) / 1e9
        for what in commands:
            best = min((one[what] for one in rounds), key=lambda spent: spent.seconds)
            yield {
                "pattern": pattern, "chunks": size.chunks, "side": nbytes / 2e9, "what": what, "seconds": best.seconds,
                "rate": nbytes / best.seconds / 1e9, "cpu": min(one[what].cpu for one in rounds),
                "peak": peaks[what], "copy": copied,
            }  # fmt: skip


HASH = r"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from blake3 import blake3
def hashed(path):
    found, buffer = blake3(max_threads=blake3.AUTO), bytearray(1 << 22)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            found.update(memoryview(buffer)[:size])
    found.digest()
with ThreadPoolExecutor(2) as pool:
    list(pool.map(hashed, (path for folder in sys.argv[1:] for path in Path(folder).iterdir())))
"""
READ = r"""
import os, sys
from pathlib import Path
for folder in sys.argv[1:]:
    for path in Path(folder).iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer := bytearray(1 << 22)):
                pass
"""


def dropped(folders: list[Path]) -> None:
    """Have nothing of these folders in the page cache."""
    os.sync()
    for folder in folders:
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def long_ladder(count: int, scratch: Path, size: Size, rounds: int) -> list[str]:
    """Sentences about a ladder of so many directories, beside reading their files and hashing what was read."""
    folders = [scratch / f"v{number}" for number in range(count)]
    apart(write_index, folders[0], size)
    apart(write_changed, folders[0], folders[1], size)
    for number, folder in enumerate(folders[2:]):
        shutil.copytree(folders[number % 2], folder)
    nbytes = sum(map(bytes_of, folders))
    paths = [str(folder) for folder in folders]
    said = [f"{count} directories, {nbytes / 1e9:.2f} GB in all:"]
    ladder, script = [sys.executable, "-m", "harness", "ladder"], [sys.executable, "-c"]
    commands = {
        "read": [*script, READ, *paths],
        "read and hashed by blake3": [*script, HASH, *paths],
        "`ladder --no-cache`": [*ladder, "--no-cache", *paths],
        "`ladder`": [*ladder, *paths],
        "`ladder`, again": [*ladder, *paths],
    }
    for where in ("disk", "page cache"):
        # Of some rounds in turns the best; what a ladder remembers is there from the second on.
        spent: dict[str, Spent] = {}
        for number in range(rounds):
            for what, command in commands.items():
                if number and what == "`ladder`":
                    continue
                if where == "disk":
                    dropped(folders)
                one = clock(command)
                spent[what] = min(one, spent.get(what, one), key=lambda each: each.seconds)
        said += [
            f"{what}, from the {where}: {one.seconds:.2f} s, {nbytes / one.seconds / 1e9:.2f} GB/s; each byte read "
            f"{one.read / nbytes:.2f} times; {one.cpu:.2f} CPU s; {one.peak:.0f} MiB"
            for what, one in spent.items()
            if where == "disk" or what != "`ladder`"
        ]
        whole, bare = spent["`ladder --no-cache`"].seconds, max(spent[what].seconds for what in list(commands)[:2])
        said.append(
            f"from the {where} the ladder takes {whole / bare:.2f} times as long as the slower of the two scripts, and "
            f"{(whole - spent['`ladder`, again'].seconds) / bare:.2f} times without what it takes when it reads nothing"
        )
    return said


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table."""
    lines = ["| B | chunks | GB a side | what | s | GB/s of both sides | CPU s | peak MiB |"]
    lines.append("|---|--:|--:|---|--:|--:|--:|--:|")
    lines += [
        f"| {row['pattern']} | {row['chunks']} | {row['side']:.2f} | {row['what']} | {row['seconds']:.2f} "
        f"| {row['rate']:.2f} | {row['cpu']:.2f} | {row['peak']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default="4", help="of each size, with commas (default 4)")
    parser.add_argument("--tokens", type=int, default=100_000, help="of a chunk (default 100,000)")
    parser.add_argument("--patterns", default="changed,same", help=f"of {', '.join(PATTERNS)} (default changed,same)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default 3)")
    parser.add_argument("--cores", type=int, help="that commands may use; indexes are made on all (default all)")
    parser.add_argument("--torch-python", type=Path)
    parser.add_argument(
        "--scratch", type=Path, help="folder for the indexes: 2 GB at 16 chunks of 2 million tokens, 33 GB at 256"
    )
    parser.add_argument("--directories", type=int, help="measure a ladder of so many, and nothing else")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    machine = f"{cpu_model()}, {len(sorted(os.sched_getaffinity(0))[: options.cores])} cores"
    if options.directories:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            size = Size(int(options.chunks), options.tokens)
            print(f"{machine}.", *long_ladder(options.directories, Path(scratch), size, options.rounds), sep="\n- ")
        return
    rows = []
    for chunks in map(int, options.chunks.split(",")):
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            for row in measure(options, Path(scratch), Size(chunks, options.tokens)):
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    print(f"{machine}; a memory copy moves {rows[0]['copy']:.1f} GB/s.\n")
    print(markdown(rows) if options.markdown else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

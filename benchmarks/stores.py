"""What commands that read a whole store cost, as a function of its cells: seconds and peak memory of each.

    python benchmarks/stores.py [--cells 100 1000 10000] [--folder DIR] [--keep]

A store has cells of 29 versions x 3 jobs x 12 devices, and as many repeats of each as make up the number: the first is
one run of this machine's CPU, 10,000 are ten runs of every cell. They are written by the store's own writer, with the
records that real jobs leave (packages, torch's configuration, a log's end; 9 to 18 KB each) and tiny tensors, one of
which no other cell has. Writing does not wait for the disk here, which is all that it does not do as always. Each
command then runs as a user would start it, in a process of its own, once. Exit code 1 when one takes more than 5
seconds on a core, or 1 GiB, over the largest store.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' stand-ins


from harness.artifacts.directory import index_tensors  # noqa: E402
from harness.artifacts.kinds import kind_named  # noqa: E402
from harness.environments.device import cpu_device  # noqa: E402
from harness.report.nightly import LOOK_BACK  # noqa: E402
from harness.running.experiment import Experiment  # noqa: E402
from harness.running.selection import Selection  # noqa: E402
from harness.store.cell import Artifact, Cell  # noqa: E402
from harness.store.spec import CellSpec  # noqa: E402
from harness.store.store import Store  # noqa: E402
from harness.tensors.tensor import Tensor  # noqa: E402
from tests.support.checkpoints import write_checkpoint  # noqa: E402
from tests.support.small_index import index_arrays, write_index  # noqa: E402
from tests.support.trainings import NAMES, SETTINGS, SIZES, STARTS, train  # noqa: E402

JOBS, DEVICES = ("index", "search", "train"), 12
PASSAGES, QUERIES, K = 10, 4, 3
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30
DIM = 16


@dataclass(frozen=True)
class Place:
    """Where one store and its tables are, and the options that name them."""

    folder: Path

    @property
    def home(self) -> Path:
        """The home of the store."""
        return self.folder / "home"

    @property
    def options(self) -> list[str]:
        """Options of any command that plans."""
        return [
            "--home", str(self.home), "--matrix", str(ROOT / "matrix.yaml"), "--device", "cpu", "--threads", "1",
            "--collection", str(self.folder / "passages.jsonl"), "--checkpoint", str(self.folder / "checkpoint"),
        ]  # fmt: skip

    def selection(self, job: str, identity: str) -> Selection:
        """The same options for cells of a device."""
        mine: dict[str, Any] = {"maxsteps": SETTINGS["maxsteps"]} if job == "train" else {}
        mine |= {"k": K} if job == "search" else {}
        return Selection(
            ROOT / "matrix.yaml", self.home, str(self.folder / "passages.jsonl"), str(self.folder / "checkpoint"),
            identity=identity, job=job, threads=1, queries=None if job == "index" else str(self.queries),
            triples=str(self.folder / "triples.jsonl") if job == "train" else None, **mine,
        )  # fmt: skip

    @property
    def queries(self) -> Path:
        """The file of queries."""
        return self.folder / "queries.jsonl"

    def commands(self) -> dict[str, list[str]]:
        """What is measured, in this order: what a command is called to its words."""
        searches = ["--job", "search", "--queries", str(self.queries), "--k", str(K)]
        trainings = [
            "--job", "train", "--queries", str(self.queries), "--triples", str(self.folder / "triples.jsonl"),
            "--maxsteps", str(SETTINGS["maxsteps"]),
        ]  # fmt: skip
        tables, nights, at_home = self.folder / "tables", self.folder / "nights", self.options[:4]
        return {
            "plan": ["plan", *self.options],
            "plan --job search": ["plan", *self.options, *searches],
            "consecutive": ["consecutive", *self.options, "--output", str(tables)],
            "consecutive --job search": ["consecutive", *self.options, *searches, "--output", f"{tables}-search"],
            "consecutive --job train": ["consecutive", *self.options, *trainings, "--output", f"{tables}-train"],
            "all-pairs": ["all-pairs", *self.options],
            f"nightly ({LOOK_BACK} nights)": ["nightly", str(nights)],
            "report": ["report", str(tables), "--output", str(self.folder / "report.html")],
            "compare": ["compare", "2.7.1", "2.8.0", *self.options],
            "store list": ["store", "list", *at_home],
            "store verify": ["store", "verify", *at_home],
            "store gc": ["store", "gc", *at_home],
        }


# ---- a store


def details_of(cell: CellSpec, packages: Mapping[str, str]) -> dict[str, Any]:
    """What a record says beside its artifacts, as much of it as a job leaves on a CPU."""
    parameters = [
        {"name": name, "shape": [size], "offset": int(start)}
        for name, size, start in zip(NAMES, SIZES, STARTS, strict=False)
    ]
    # A BERT has a hundred more than the model in NumPy that stands for it.
    others = [{"name": f"bert.encoder.layer.{n}.weight", "shape": [384, 384], "offset": n} for n in range(100)]
    return {
        "exit_code": 0, "harness": "0.1.0", "log_tail": "[Nov 26] #> a line of a job's log\n" * 60,
        "not_captured": {}, "observed": {"attention_class": "BertSelfAttention", "autocast_enabled": False},
        "peak_memory": {"host_bytes": 1 << 30}, "phase": "finalize", "run": "run", "wall_seconds": 45.0,
        "provenance": {
            "cpu": {"model_name": "A CPU", "flags": "fma avx2 " * 40}, "cuda": None, "gpu": None,
            "environment": cell.environment, "packages": dict(packages), "python": "3.11", "torch": cell.version,
            "torch_config": "PyTorch built with: Math Kernel Library Version 2024.2, MKL-DNN v3.7.1\n" * 22,
            "torch_git": "0" * 40, "switches": {f"torch.backends.switch_{n}": False for n in range(8)},
        },
        **({"parameters": parameters, "others": others, "steps": SETTINGS["maxsteps"]} if cell.job == "train" else {}),
    }  # fmt: skip


class Maker:
    """Writes cells of a store one after the other.

    Args:
        place: gets everything.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.store = place, Store(place.home / "store")
        place.folder.mkdir(parents=True)
        write_checkpoint(place.folder / "checkpoint")
        self._lines("passages", [{"_id": f"p{n}", "text": f"Passage {n} of a collection"} for n in range(PASSAGES)])
        self._lines("queries", [{"_id": f"q{n}", "text": f"What is in passage {n}?"} for n in range(QUERIES)])
        self._lines("triples", [[f"q{n % QUERIES}", f"p{n % QUERIES}", f"p{n % QUERIES + 5}"] for n in range(4000)])
        (place.folder / "log.txt").write_text("A line of a job's log.\n" * 200)
        self.indexes = [self._index(number) for number in range(10)]
        self.trained = train()
        self.results: dict[tuple[str, Path | None], dict[str, Artifact]] = {}
        self.number = 0

    def _lines(self, name: str, rows: list[Any]) -> None:
        (self.place.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _index(self, number: int) -> Path:
        """An index whose centroids no other has."""
        arrays = index_arrays(dim=DIM)
        arrays["centroids"] = index_arrays(seed=number, dim=DIM)["centroids"]
        return write_index(self.place.folder / f"index-{number}", arrays)

    def make(self, cells: int) -> None:
        """Write so many cells: the first run of all of them first, device by device."""
        devices = [cpu_device().identity, *(f"cuda Pretended GPU {n} 9.0" for n in range(DEVICES - 1))]
        experiments: dict[tuple[str, str], Experiment] = {}
        specs: dict[tuple[str, str, str], tuple[CellSpec, Mapping[str, str]]] = {}
        left = cells
        # Not a product of all three, which would begin by counting to the end.
        runs = ((repeat, *of) for repeat in itertools.count() for of in itertools.product(devices, JOBS))
        for repeat, device, job in runs:
            if (device, job) not in experiments:
                experiments[device, job] = Experiment(self.place.selection(job, device))
            experiment = experiments[device, job]
            for place, version in enumerate(experiment.versions[:left]):
                if (device, job, version) not in specs:
                    specs[device, job, version] = experiment.spec(version), experiment.lock(version).packages
                spec, packages = specs[device, job, version]
                self._put(spec.again(repeat), place, experiment.inputs(version).artifacts(), packages)
            left -= min(left, len(experiment.versions))
            if not left:
                return

    def _put(self, spec: CellSpec, place: int, given: Mapping[str, Artifact], packages: Mapping[str, str]) -> None:
        """Store a cell; every third version makes another index, and each cell has a tensor of its own."""
        self.number += 1
        index = self.indexes[place // 3] if spec.job == "index" else None
        kind, random = kind_named(spec.job), np.random.default_rng(self.number)
        if (spec.job, index) not in self.results:
            self.results[spec.job, index] = {
                name: self.store.keep_tensor(tensor, kind.role(name) or "value", stored=True)
                for name, tensor in self._made(spec.job, index)
            }
        own = {"index": "sample", "search": "Q", "train": "random_1"}[spec.job]
        artifacts = self.results[spec.job, index] | {
            own: self._drawn(random, stored=True),
            # Most of the inside of an index job is kept as digests.
            **{f"embs_{number}": self._drawn(random, stored=False) for number in range(8 if index else 0)},
            **given,
        }
        cell = Cell.of(
            spec, "ok", phase="finalize", capture="full", details=details_of(spec, packages),
            artifacts={name: artifacts[name] for name in kind.in_order(artifacts)},
            seconds={"total": 45.0, "import": 5.0, "encode": 30.0},
        )  # fmt: skip
        model = self.place.folder / "checkpoint" if spec.job == "train" else None
        self.store.put(cell, log=self.place.folder / "log.txt", index=index, model=model)

    def _drawn(self, random: np.random.Generator, *, stored: bool) -> Artifact:
        tensor = Tensor.of(random.standard_normal((4, DIM)).astype(np.float32))
        return self.store.keep_tensor(tensor, "intermediate", stored=stored)

    def _made(self, job: str, index: Path | None) -> Iterator[tuple[str, Tensor]]:
        """What a job leaves in the end."""
        if index is not None:
            yield from index_tensors(index)
        elif job == "search":
            yield "pids", Tensor.of(np.tile(np.arange(K, dtype=np.int32), (QUERIES, 1)))
            yield "scores", Tensor.of(np.tile(np.linspace(9, 8, K, dtype=np.float32), (QUERIES, 1)))
            yield "found", Tensor.of(np.full(QUERIES, K, np.int64))
        else:
            yield from ((name, Tensor.of(array)) for name, array in self.trained.items())


# ---- measuring


@dataclass(frozen=True)
class Spent:
    """What a command took: wall seconds, seconds on a core, and the most memory that it had."""

    wall: float
    core: float
    peak: int


def compiled_once() -> dict[str, str]:
    """The environment of a process that keeps the bytecode of what it imports, as Python does unless told otherwise."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measured(words: list[str], folder: Path) -> Spent:
    """Run a command of the harness; it may find a difference, and must not fail."""
    with (folder / "out.txt").open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *words], cwd=ROOT, stdout=out, stderr=out, env=compiled_once()
        )
        _, status, usage = os.wait4(process.pid, 0)
        spent = time.perf_counter() - began
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        sys.exit(f"harness {' '.join(words)} ended with {code}:\n{(folder / 'out.txt').read_text()[-3000:]}")
    return Spent(spent, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)


def measure(cells: int, folder: Path) -> dict[str, Spent]:
    """Make a store and run every command over it."""
    place = Place(folder)
    # What is written need not survive a power cut here, and waiting for the disk would take an hour.
    os.fsync = lambda fd: None  # noqa: ARG005 - named as the function is
    began = time.perf_counter()
    Maker(place).make(cells)
    store = Store(place.home / "store")
    records = sum((store.cell_folder(key) / "cell.json").stat().st_size for key in store.keys())  # noqa: SIM118 - not a dict
    objects = sum(1 for _ in store.root.glob("objects/*/*"))
    print(
        f"{cells:,} cells: {objects:,} tensors, {records / cells / 1024:.0f} KB a record, made in "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    found: dict[str, Spent] = {}
    for name, words in place.commands().items():
        if words[0] == "nightly":
            for night in range(LOOK_BACK):
                shutil.copytree(folder / "tables", folder / "nights" / f"night-{night:03}")
        measured([*words[:1], "--help"], folder)  # the bytecode of what it imports is written once
        found[name] = one = measured(words, folder)
        print(f"    {name}: {one.wall:.1f} s, {one.core:.1f} s on a core, {one.peak >> 20} MiB", flush=True)
    return found


def main() -> int:
    """Print the table; say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--folder", type=Path, help="Where to work (default: a temporary folder).")
    parser.add_argument("--keep", action="store_true", help="Leave the stores there.")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="stores-", dir=options.folder))
    try:
        found = {cells: measure(cells, folder / str(cells)) for cells in options.cells}
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{os.cpu_count()} cores; in each place: seconds (of them on a core), peak MiB\n")
    print(f"| command | {' | '.join(f'{cells:,} cells' for cells in found)} |")
    print(f"|:--{'|--:' * len(found)}|")
    for name in next(iter(found.values())):
        spent = (one[name] for one in found.values())
        print(f"| {name} | {' | '.join(f'{s.wall:.1f} ({s.core:.1f}), {s.peak / 2**20:.0f}' for s in spent)} |")
    largest = found[max(found)]
    over = [name for name, one in largest.items() if one.core > MOST_SECONDS or one.peak > MOST_BYTES]
    if over:
        print(f"\nMore than {MOST_SECONDS:g} s or {MOST_BYTES >> 20} MiB: {', '.join(over)}.")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())

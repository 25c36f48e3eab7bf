"""What watching costs: each job of the harness against a bare colbert-ai script on the same data, side by side.

    python benchmarks/jobs.py --version 2.8.0 --collection PASSAGES --checkpoint CHECKPOINT --queries QUERIES
        --qrels JUDGED [--passages N ...] [--jobs index search train] [--modes final digests full] [--rounds 3]
        [--maxsteps N] [--bsize N] [--threads N] [--device cuda] [--sites SITES --site-python PYTHON] [--lines FILE]

Everything is measured for each number of `--passages`: the first of the collection, or, where it has fewer, as many as
`--scale-to` makes of them. Each mode is `harness index`, `search` or
`train` with that `--capture`, as a user would start it, and alternates with the bare script within each round, so that
a slow machine slows them all; before the first round each bare script runs once uncounted, which warms caches. Of each
run:

- seconds: of the job's process, from its start to its end;
- processor seconds: of all processes, with the harness's own (planning, digesting, storing);
- memory of the job: the most that its process had resident (what the kernel counts for it);
- memory of all: the most that the harness, its supervisor and the job had together that is theirs alone (anonymous and
  shared memory, added up ten times a second), so that pages of files do not count, which the kernel drops when it must;
- GPU memory: the most that torch reserved;
- disk: the most that the job's folder and the store grew meanwhile, and what is left of it in the end.

It is a gate, too: every mode must have made the index, the rankings and the model of the bare script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness.artifacts.directory import index_tensors
from harness.environments.interpreter import Interpreter
from harness.running.experiment import Experiment
from harness.running.job import interpreter_of, worker_copy, worker_environment
from harness.running.selection import Selection
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.safetensors import read_safetensors
from harness.tensors.tensor import Tensor

HERE = Path(__file__).parent
JOBS, MODES = ("index", "search", "train"), ("final", "digests", "full")
OF_JOB = {
    "search": ("queries", "qrels", "limit_queries", "k"),
    "train": ("queries", "qrels", "limit_queries", "triples", "maxsteps", "bsize", "accumsteps", "nway"),
}
"""Options that only some jobs have."""
EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class Spent:
    """What a run took; see above. Bytes, and seconds; those of a job's phases as its cell has them."""

    wall: float
    processor: float
    resident: int
    together: int
    gpu: int
    disk: int
    left: int
    phases: Mapping[str, float] = field(default_factory=dict)


# ---- one process, watched


@dataclass(frozen=True)
class Watched:
    """A command that ended well: what it printed, and what it and all that it started took."""

    text: str
    wall: float
    processor: float
    resident: int
    together: int
    disk: int
    left: int


def _own_memory(process: int) -> int:
    """Bytes that a process and its descendants have for themselves."""
    found = 0
    with suppress(psutil.Error):
        first = psutil.Process(process)
        for one in (first, *first.children(recursive=True)):
            with suppress(OSError):
                for line in Path(f"/proc/{one.pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    found += int(value.split()[0]) << 10 if name in {"RssAnon", "RssShmem"} else 0
    return found


def _files(folder: Path) -> Iterator[os.stat_result]:
    with suppress(OSError):  # what is there may be renamed or deleted meanwhile
        for entry in os.scandir(folder):
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False)


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; one of several names counts once."""
    return sum({(one.st_dev, one.st_ino): one.st_size for one in _files(folder)}.values())


def watch(command: Sequence[str], folder: Path, log: Path, environment: dict[str, str] | None = None) -> Watched:
    """Run a command to its end, with an eye on memory and on the disk below `folder`."""
    together = disk = 0
    before, began = size_of(folder), time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=out, stderr=out)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            together = max(together, _own_memory(process.pid))
            disk = max(disk, size_of(folder) - before)
            time.sleep(EVERY_SECONDS)
    wall, (_, status, usage) = time.perf_counter() - began, ended
    process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{text[-3000:]}")
    left = size_of(folder) - before
    return Watched(
        text, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, together, max(disk, left), left
    )  # fmt: skip


# ---- one job


class Bench:
    """All jobs over one collection.

    Args:
        options: of the command line, as `Selection` has them.
        version: of the matrix.
        folder: for everything; below it `home`, whose environments and caches are those of the selection's.
    """

    def __init__(self, options: dict[str, Any], version: str, folder: Path) -> None:
        self.options, self.version, self.folder = options, version, folder
        asked = Experiment(Selection(**_selected(options, "index")))
        self.interpreter: Interpreter = interpreter_of(asked, version, lambda text: print(text, file=sys.stderr))
        self.real, self.home, self.matrix = asked.home, folder / "home", asked.matrix_path
        self.home.mkdir()
        for name in ("envs", "cache", "own"):
            (asked.home.root / name).mkdir(parents=True, exist_ok=True)
            (self.home / name).symlink_to(asked.home.root / name)
        self.index, self.model, self.stored = folder / "bare-index", folder / "bare-model", folder / "stored"

    def experiment(self, job: str) -> Experiment:
        """The cells of a job, in the home of this bench."""
        return Experiment(
            Selection(**{**_selected(self.options, job), "job": job, "home": self.home, "matrix_path": self.matrix})
        )

    def bare(self, job: str) -> Spent:
        """Run the bare script once; what it made stays, for the next ones and to compare with."""
        self._store(job)
        experiment, out = self.experiment(job), self.folder / "out"
        spec, kind = experiment.spec(self.version), experiment.device.kind
        out.mkdir()
        (self.folder / "tmp").mkdir()
        given = experiment.inputs(self.version).write(self.folder / "tmp")
        if job == "search":
            shutil.rmtree(given["index"])
            given["index"] = str(self.index)
        cell = {"device": kind, "checkpoint": str(experiment.checkpoint.path), "settings": spec.settings, **given}
        (self.folder / "cell.json").write_text(json.dumps(cell))
        # The scripts need nothing of the worker but the functions that stand for colbert-ai's kernels.
        variables = worker_environment(spec, self.interpreter, worker_copy(self.real), self.folder, kind)
        script = HERE / f"bare_{job}.py"
        seen = watch(
            [str(self.interpreter.python), str(script), str(self.folder / "cell.json"), str(out)],
            out, self.folder / "log.txt", variables,
        )  # fmt: skip
        # Warnings may come after it.
        said = json.loads(next(line for line in reversed(seen.text.splitlines()) if line.startswith("{")))
        made, kept = {
            "index": (out / "index", self.index), "search": (out / "ranking.json", self.folder / "ranking.json"),
            "train": (Path(said.get("model", "")), self.model),
        }[job]  # fmt: skip
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(made, kept)
        for path in (out, self.folder / "tmp"):
            shutil.rmtree(path)
        return Spent(
            seen.wall, seen.processor, seen.resident, seen.together, said["gpu_reserved_bytes"], seen.disk, seen.left
        )  # fmt: skip

    def watched(self, job: str, mode: str) -> Spent:
        """Run a job of the harness once, into a store that has nothing of it yet."""
        self._store(job)
        words = [
            word
            for name, value in _selected(self.options, job).items()
            if value is not None and name != "home"
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        seen = watch(
            [
                sys.executable, "-m", "harness", job, self.version, *words, "--capture", mode,
                "--home", str(self.home), "--matrix", str(self.matrix),
            ],
            self.home, self.folder / "log.txt",
        )  # fmt: skip
        cell = Store(self.home / "store").get(self.experiment(job).spec(self.version).key)
        if cell is None or cell.outcome != "ok" or cell.details["not_captured"]:
            sys.exit(f"{job} {mode}: {cell and (cell.reason or cell.details['not_captured'])}\n{seen.text[-3000:]}")
        self.require_same(job, mode, cell)
        peak = cell.details["peak_memory"]
        return Spent(
            cell.details["wall_seconds"], seen.processor, peak["host_bytes"], seen.together,
            peak.get("gpu_reserved_bytes", 0), seen.disk, seen.left, cell.seconds,
        )  # fmt: skip

    def _store(self, job: str) -> None:
        """A store with nothing but what the job is given."""
        shutil.rmtree(self.home / "store", ignore_errors=True)
        if job == "search":
            shutil.copytree(self.stored, self.home / "store")

    def keep_index(self) -> None:
        """Keep the store as it is, with an index for searches."""
        shutil.rmtree(self.stored, ignore_errors=True)
        (self.home / "store").rename(self.stored)

    def require_same(self, job: str, mode: str, cell: Cell) -> None:
        """Stop where a mode did not make what the bare script made."""
        different = [name for name, digest in self._made(job, cell) if cell.artifacts[name].digest != digest]
        if different:
            sys.exit(f"{job} {mode}: {', '.join(different)} is not what the bare script made")

    def _made(self, job: str, cell: Cell) -> Iterator[tuple[str, str]]:
        """Artifacts as the bare script made them: their names and digests."""
        if job == "index":
            yield from ((name, tensor.digest()) for name, tensor in index_tensors(self.index))
        elif job == "search":
            found = json.loads((self.folder / "ranking.json").read_text())
            pids = np.full(cell.artifacts["pids"].shape, -1, np.int32)
            for row, of_query in zip(pids, found, strict=True):
                row[: len(of_query)] = of_query
            yield "pids", Tensor.of(pids).digest()
        else:
            held = read_safetensors(self.model / "model.safetensors")
            parts = [np.asarray(held[one["name"]].data).reshape(-1) for one in cell.details["parameters"]]
            yield "trained", Tensor.of(np.concatenate(parts)).digest()


def _selected(options: dict[str, Any], job: str) -> dict[str, Any]:
    """Those options that a job has."""
    others = {name for names in OF_JOB.values() for name in names} - set(OF_JOB.get(job, ()))
    return {name: value for name, value in options.items() if name not in others}


# ---- tables


def _ratio(mine: Sequence[float], bare: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(mine, bare, strict=True)]
    spread = f" ({min(ratios):.3f} to {max(ratios):.3f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.3f}{spread}"


def table(spent: dict[str, list[Spent]]) -> Iterator[str]:
    """Rows of Markdown: each mode with its ratio to the bare script of the same round."""
    gpu = any(one.gpu for one in spent["bare"])
    columns = ["seconds", "processor seconds", "memory of the job", "memory of all", *(["GPU memory"] if gpu else [])]
    yield f"| mode | {' | ratio | '.join(columns)} | ratio | disk at most | disk left |"
    yield f"|:-:|{':-:|' * (2 * len(columns) + 2)}"
    fields = ("wall", "processor", "resident", "together", *(["gpu"] if gpu else []))
    for mode, runs in spent.items():
        cells = []
        for name in fields:
            values = [getattr(one, name) for one in runs]
            middle = statistics.median(values)
            shown = f"{middle:.1f}" if name in {"wall", "processor"} else f"{middle / 2**20:,.0f} MiB"
            ratio = _ratio(values, [getattr(one, name) for one in spent["bare"]])
            cells += [shown, "" if mode == "bare" else ratio]
        cells += [f"{max(getattr(one, name) for one in runs) / 2**20:,.1f} MiB" for name in ("disk", "left")]
        yield f"| {mode} | {' | '.join(cells)} |"
    yield ""
    for watched in (one for one in spent if one != "bare"):
        lines = (
            f"{phase} {statistics.median(one.phases[phase] for one in spent[watched]):.1f}"
            for phase in spent[watched][0].phases
        )
        yield f"Seconds of the phases of {watched}: {', '.join(lines)}."


def measure(
    bench: Bench,
    jobs: Sequence[str],
    modes: Sequence[str],
    rounds: int,
    note: Any,  # noqa: ANN401 - a file
) -> dict[str, dict[str, list[Spent]]]:
    """Run everything, round by round; each run is told as it ends, since the whole may be cut off."""
    if "search" in jobs:
        # A bare search is over what a bare script made, and the harness's over a cell's.
        bench.bare("index")
        bench.watched("index", "final")
        bench.keep_index()
    for job in jobs:
        if job != "index" or "search" not in jobs:
            bench.bare(job)
    spent: dict[str, dict[str, list[Spent]]] = {job: {mode: [] for mode in ("bare", *modes)} for job in jobs}
    for number in range(rounds):
        for job in jobs:
            for mode in spent[job]:
                one = bench.bare(job) if mode == "bare" else bench.watched(job, mode)
                spent[job][mode].append(one)
                told = {"passages": len(bench.experiment(job).passages), "round": number, "job": job, "mode": mode}
                print(json.dumps({**told, **asdict(one)}), file=note, flush=True)
    return spent


def main() -> None:
    """Run all modes of all jobs at all sizes and print a table for each job and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passages", type=int, nargs="+", default=[None], help="default: all of the collection")
    for name in ("collection", "checkpoint"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("queries", "qrels", "triples"):
        parser.add_argument(f"--{name}")
    for name in ("limit-queries", "k", "maxsteps", "bsize", "accumsteps", "nway", "threads"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("sites", "site-python", "home"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--lines", type=Path, help="gets a line of JSON for each run as it ends (default: stderr)")
    options = vars(parser.parse_args())
    version, jobs, modes, rounds, sizes, lines = (
        options.pop(name) for name in ("version", "jobs", "modes", "rounds", "passages", "lines")
    )
    for name in ("collection", "checkpoint", "queries", "qrels", "triples", "sites", "site_python"):
        # Jobs are started in another folder; whatever is a file here is meant.
        if options[name] is not None and Path(options[name]).exists():
            options[name] = type(options[name])(Path(options[name]).absolute())
    there = len(Experiment(Selection(**_selected(options, "index"))).passages)
    note = lines.open("a", encoding="utf-8") if lines else sys.stderr
    for size in sizes:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
            part = {} if size in (None, there) else {"limit" if size < there else "scale_to": size}
            bench = Bench({**options, **part}, version, Path(folder))
            spent = measure(bench, jobs, modes, rounds, note)
            experiment = bench.experiment("index")
            passages, device = len(experiment.passages), experiment.device.identity
        for job in jobs:
            print(f"\n{job}, {passages:,} passages, torch {version}, {device}, {rounds} rounds\n", flush=True)
            print("\n".join(table(spent[job])), flush=True)
        print(f"\n({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

"""A job on several ranks: colbert-ai's own launcher starts a process for each, and this worker records in all of them.

Two things of the launcher are taken in hand while it runs. Its processes begin here, so that each records what a job
of one process does, and then go on as colbert-ai has it (`setup_new_process`: seeds, the process group, the job). And
when one of them ends badly so does the job, for which the launcher itself would wait for ever.

Rank 0 writes where a job of one process does, the others below `ranks/N`. What the ranks share out among them is put
together when they have ended; of what each has for itself, rank 0's is kept, and it is noted in which it differs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import multiprocessing.util
import os
import queue
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from harness.worker.index import require_device
from harness.worker.notes import Notes, patched
from harness.worker.outcomes import Ended, ending
from harness.worker.parallel import on_no_network
from harness.worker.reports import Phases, write_result

_POLL_SECONDS = 0.2
_LAST_MOMENT_SECONDS = 5.0
_LONGEST_FOLDER = 64
"""Bytes: multiprocessing adds `/pymp-xxxxxxxx/listener-xxxxxxxx`, and the address ends with a zero."""
_CHUNKS = "embs_"
"""How artifacts are called that belong to a chunk, each of which is one rank's."""
_JOINED = ("local_sample_embs",)
"""What each rank has a part of. colbert-ai puts the samples together in the order of the ranks."""
_SUFFIX = ".safetensors"


def run(job: str, cell: dict[str, Any], out_dir: str, phases: Phases, notes: Notes) -> dict[str, Any]:
    """Run a job on its ranks.

    Args:
        job: `index` or `train`: a module with `launch(cell, out_dir)`, which starts all ranks and waits for them, and
            `run(cell, out_dir, phases, notes, rank)`, which records one that `rank()` runs.
        cell: the cell's specification.
        out_dir: gets what the job of one process leaves.
        phases: gets rank 0's.
        notes: gets rank 0's, and those of others on what rank 0 does not have.

    Returns:
        What rank 0 says of how it ran, `provenance` of its libraries, and `ranks`, of each other rank: its `seconds`
            and `peak_memory`, and the artifacts in which it has the `same` as rank 0, and something `different`.

    Raises:
        Ended: as a rank ended that did not end well.
    """
    from colbert.infra import launcher

    on_no_network()
    started = _Started(job, cell, out_dir)
    try:
        with patched(launcher, "mp", started), _short_paths(), started.ending():
            _module(job).launch(cell, out_dir)
        first, *others = started.records()
    finally:
        phases.follow()
    phases.seconds.update(first["seconds"])
    for name, reason in first["not_captured"].items():
        notes.add(name, reason)
    found = []
    for rank, record in enumerate(others, 1):
        same, different = _gather(out_dir, rank, record["not_captured"], notes)
        found.append(
            {
                "rank": rank, "seconds": record["seconds"], "peak_memory": record["made"]["peak_memory"],
                "same": same, "different": different,
            }
        )  # fmt: skip
    return {**first["made"], "provenance": first["provenance"], "ranks": found}


def _module(job: str) -> Any:
    return importlib.import_module(f"harness.worker.{job}")


def _own_folder(out_dir: str, rank: int) -> str:
    """Where a rank leaves its record."""
    return os.path.join(out_dir, "ranks", str(rank))


def _folder(out_dir: str, rank: int) -> str:
    """Where a rank writes."""
    return _own_folder(out_dir, rank) if rank else out_dir


# ---- in the process that the job was started as


class _Rank:
    """The process of a rank, as colbert-ai's launcher handles it.

    Args:
        process: not started yet.
        folder: gets its record.
    """

    def __init__(self, process: Any, folder: str) -> None:
        self.process, self._record = process, os.path.join(folder, "result.json")
        os.makedirs(folder, exist_ok=True)

    def start(self) -> None:
        """Start it."""
        self.process.start()

    def join(self) -> None:
        """Wait until it has written its record, and a moment longer: a process group may not find its end."""
        while self.process.is_alive() and not os.path.exists(self._record):
            self.process.join(_POLL_SECONDS)
        self.process.join(_LAST_MOMENT_SECONDS)

    def record(self) -> dict[str, Any]:
        """What it says of itself; where it could not, how it ended."""
        with contextlib.suppress(FileNotFoundError), open(self._record, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
        code = self.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        # A rank that was killed comes before those that then lost it, which NCCL's watchdog ends by SIGABRT.
        when = math.inf if code == -signal.SIGABRT else 0.0
        return {"outcome": "crashed", "reason": f"its process {how}", "time": when}


class _Started:
    """The processes of all ranks; stands in the place of the module `multiprocessing` in colbert-ai's launcher.

    Args:
        job: see `run`.
        cell: see `run`.
        out_dir: see `run`.
    """

    def __init__(self, job: str, cell: dict[str, Any], out_dir: str) -> None:
        self._of = (job, cell, out_dir)
        self.ranks: list[_Rank] = []

    def Process(self, target: Callable[..., Any], args: tuple[Any, ...]) -> _Rank:  # noqa: N802 - multiprocessing's
        """A process that begins with this worker; see `multiprocessing.Process`."""
        number = len(self.ranks)
        process = torch.multiprocessing.Process(target=_begin, args=(*self._of, number, target, args))
        self.ranks.append(_Rank(process, _own_folder(self._of[-1], number)))
        return self.ranks[-1]

    def Queue(self) -> Any:  # noqa: N802 - multiprocessing's
        """A queue for what the ranks return, which is not waited for when one has died; see `multiprocessing.Queue`."""
        made = torch.multiprocessing.Queue()
        made.get = functools.partial(self._next, made.get)
        return made

    def _next(self, get: Callable[..., Any]) -> Any:
        while not any(rank.process.exitcode for rank in self.ranks):
            with contextlib.suppress(queue.Empty):
                return get(timeout=_POLL_SECONDS)
        for rank in self.ranks:
            rank.process.join(_LAST_MOMENT_SECONDS)
        raise self._ended([rank for rank in self.ranks if rank.process.exitcode])

    def records(self) -> list[dict[str, Any]]:
        """What the ranks say of themselves.

        Raises:
            Ended: one did not end well.
        """
        found = [rank.record() for rank in self.ranks]
        if failed := [rank for rank, record in zip(self.ranks, found) if record["outcome"] != "ok"]:  # noqa: B905
            raise self._ended(failed)
        return found

    def _ended(self, failed: list[_Rank]) -> Ended:
        """How the job ends: as the first of those that failed did, which the others may only have lost."""
        first = min(failed, key=lambda rank: float(rank.record()["time"]))
        record = first.record()
        return Ended(record["outcome"], f"Rank {self.ranks.index(first)} of {len(self.ranks)}: {record['reason']}")

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Leave no process when the `with` block ends."""
        try:
            yield
        finally:
            for rank in self.ranks:
                if rank.process.pid is not None:
                    rank.process.kill()
                    rank.process.join()


@contextlib.contextmanager
def _short_paths() -> Iterator[None]:
    """Have multiprocessing make its sockets where their paths are short enough for the kernel (108 bytes)."""
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ranks-", dir="/tmp") as folder:
        with patched(tempfile, "tempdir", folder):
            multiprocessing.util.get_temp_dir()  # which it keeps, and hands on to its processes
        yield


def _gather(out_dir: str, rank: int, missing: dict[str, str], notes: Notes) -> tuple[list[str], list[str]]:
    """Take what a rank recorded to the rest; returns the names of what it has as rank 0 does, and otherwise.

    Args:
        out_dir: see `run`.
        rank: from 1.
        missing: what it could not record, and why.
        notes: see `run`.
    """
    from safetensors.torch import load_file, save_file

    source, target = (os.path.join(of, "intermediates") for of in (_folder(out_dir, rank), out_dir))
    same: list[str] = []
    different: list[str] = []
    for file in sorted(os.listdir(source)) if os.path.isdir(source) else ():
        name, mine, theirs = file[: -len(_SUFFIX)], os.path.join(source, file), os.path.join(target, file)
        if name.startswith(_CHUNKS):
            os.replace(mine, theirs)
        elif name in _JOINED:
            with notes.recording(name):
                parts = [load_file(path)["tensor"] for path in (theirs, mine)]
                save_file({"tensor": torch.cat(parts)}, f"{theirs}.new")
                os.replace(f"{theirs}.new", theirs)
        elif os.path.exists(theirs):
            one, other = (load_file(path)["tensor"] for path in (theirs, mine))
            equal = one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
            (same if equal else different).append(name)
    for name, reason in missing.items():
        path = os.path.join(target, f"{name}{_SUFFIX}")
        if name in _JOINED and os.path.exists(path):
            os.remove(path)  # a part of it would be taken for all
        if not os.path.exists(path):
            notes.add(name, f"rank {rank}: {reason}")
    return same, different


def _bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else b""


# ---- in the process of a rank


def _begin(
    job: str, cell: dict[str, Any], out_dir: str, rank: int, target: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """What each rank's process runs: colbert-ai's own `target(*args)`, recorded."""
    from harness.worker import provenance

    phases, notes = Phases(_folder(out_dir, rank)), Notes()
    record: dict[str, Any] = {"outcome": "ok", "reason": "", "not_captured": notes.reasons}
    try:
        # Which GPUs there are is settled by this, before colbert-ai names the first ones of the machine.
        require_device(cell)
        record["made"] = _module(job).run(cell, _folder(out_dir, rank), phases, notes, lambda: target(*args))
        record["provenance"] = provenance.after(cell, notes)
    except Exception as error:
        traceback.print_exc()
        outcome, reason = ending(error, phases.current)
        record.update(outcome=outcome, reason=reason)
    record.update(phase=phases.current, seconds=phases.seconds, time=time.time())
    write_result(_own_folder(out_dir, rank), record)
    if record["outcome"] != "ok":
        # What the others wait for never comes, and this process would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

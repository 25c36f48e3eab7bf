"""What is known of a sweep on a cluster and of each of its jobs, in files that every node can reach."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, with_config

from harness.errors import UsageError
from harness.files import write_json
from harness.home import Home
from harness.running.selection import Selection
from harness.words import said

_Record = TypeVar("_Record")

ANSWER = "device.json"
REACH = "reach.lock"
"""Held by whoever asks what a node is, to see whether locks reach from one machine to another."""

SCHEMA = 1
ONLY_KNOWN = ConfigDict(extra="forbid")
"""Of what is kept as a record: a field of another release would be lost without a word."""


@with_config(ONLY_KNOWN)
@dataclass(frozen=True)
class Options:
    """How jobs are submitted.

    Attributes:
        partition: of Slurm; its default one when absent.
        extra: further options of sbatch, by name.
        retries: how often a job that was lost is submitted again.
        at_once: how many jobs of an array may run at once.
    """

    partition: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    retries: int = 2
    at_once: int = 256


@with_config(ONLY_KNOWN)
@dataclass(frozen=True)
class Sweep:
    """What a user asked for.

    Attributes:
        id: names it.
        created: UTC, ISO 8601.
        selection: with absolute paths and the device's identity.
        versions: in order.
        repeats: version to the number of extra runs.
        options: how jobs are submitted.
        evict: delete environments that no cell needs any more.
        output: folder of the tables; absent for the default.
    """

    id: str
    created: str
    selection: Selection
    versions: list[str]
    repeats: dict[str, int]
    options: Options
    evict: bool = False
    output: Path | None = None


def root_of(home: Home) -> Path:
    """The folder of all this."""
    return home.root / "slurm"


# ---- records


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record beside and rename it into place, synced: whoever reads sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_json(temporary, {"schema": SCHEMA, **value})
    temporary.replace(path)


def read_record(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({said(error)}): delete it, and start the sweep again.") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"{path}: not written by this version of the harness: delete it, and start the sweep again.")
    return found


# Made once for each: making one takes longer than using it often.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def to_record(value: object) -> dict[str, Any]:
    """A dataclass as a JSON object."""
    found: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return found


def from_record(kind: type[_Record], record: dict[str, Any]) -> _Record:
    """The dataclass of `to_record`.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    plain = {name: value for name, value in record.items() if name != "schema"}
    found: _Record = _adapter(kind).validate_python(plain)
    return found


# ---- arrays and their tasks


@with_config(ONLY_KNOWN)
@dataclass(frozen=True)
class Entry:
    """One cell of an array.

    Attributes:
        key: of the cell.
        version: PyTorch release.
        repeat: 0, or the number of the repeat.
        attempt: 1 for the first time that the sweep submits the cell.
        replaces: when the cell ended that is to be run again although it ended well; empty otherwise.
    """

    key: str
    version: str
    repeat: int
    attempt: int
    replaces: str = ""


@with_config(ONLY_KNOWN)
@dataclass(frozen=True)
class Array:
    """Cells that were submitted together; the number of a task is its place in `entries`."""

    name: str
    folder: Path
    sweep: str
    selection: Selection
    entries: tuple[Entry, ...]
    minutes: int
    created: float


@dataclass(frozen=True)
class Task:
    """One entry of an array: one job."""

    array: Array
    number: int

    @property
    def entry(self) -> Entry:
        """Its cell."""
        return self.array.entries[self.number]


@dataclass(frozen=True)
class End:
    """How a task ended.

    Attributes:
        state: `stored` (its cell is in the store), `again` (try it once more) or `final` (its cell is `outcome`).
        outcome: for `final`.
        reason: one sentence; empty for `stored`.
        cause: `device` where the node is not of the planned kind, else empty.
    """

    state: str
    outcome: str = ""
    reason: str = ""
    cause: str = ""


class Ledger:
    """Arrays below `root/arrays`, and how their tasks ended; read again from disk by `refresh`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._arrays: dict[str, Array] = {}
        self._jobs: dict[str, str] = {}
        self._ends: dict[tuple[str, int], End] = {}
        self._present: dict[str, set[str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look which arrays there are, and which of their tasks ended."""
        folder = self.root / "arrays"
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        self._arrays = {name: array for name, array in self._arrays.items() if name in names}
        self._present = {}
        for name in sorted(names):
            try:
                self._present[name] = set(os.listdir(folder / name))  # noqa: PTH208 - thousands of names, no paths
            except FileNotFoundError:
                continue
            unread = name not in self._arrays and "array.json" in self._present[name]
            if unread and (array := read_array(folder / name)):
                self._arrays[name] = array

    def arrays(self) -> list[Array]:
        """All arrays, oldest first."""
        return sorted(self._arrays.values(), key=lambda array: (array.created, array.name))

    def tasks(self) -> Iterator[Task]:
        """All tasks, oldest first."""
        for array in self.arrays():
            for number in range(len(array.entries)):
                yield Task(array, number)

    def create(self, sweep: Sweep, selection: Selection, entries: Sequence[Entry], minutes: int, now: float) -> Array:
        """Note that an array is about to be submitted."""
        name = f"harness-{secrets.token_hex(4)}"
        folder = self.root / "arrays" / name
        array = Array(name, folder, sweep.id, selection, tuple(entries), minutes, now)
        folder.mkdir(parents=True)
        write_record(folder / "array.json", {k: v for k, v in to_record(array).items() if k not in {"name", "folder"}})
        self._arrays[name] = array
        self._present[name] = {"array.json"}
        return array

    def drop(self, array: Array) -> None:
        """Forget an array; a job of it that starts after all sees that and ends at once."""
        (array.folder / "array.json").unlink(missing_ok=True)
        shutil.rmtree(array.folder, ignore_errors=True)
        self._arrays.pop(array.name, None)

    def submitted(self, array: Array, job: str) -> None:
        """Note an array's job id."""
        write_record(array.folder / "job.json", {"job": job})
        self._jobs[array.name] = job

    def job(self, array: Array) -> str | None:
        """An array's job id; None when the process that submitted it died before it could note it."""
        if array.name not in self._jobs and (found := read_record(array.folder / "job.json").get("job")):
            self._jobs[array.name] = str(found)
        return self._jobs.get(array.name)

    def traces(self, array: Array) -> str:
        """The job id that the logs of an array's tasks are named by; empty where no task has started."""
        found = (re.fullmatch(r"(\d+)_\d+_0_log\.out", name) for name in self._present.get(array.name, ()))
        return next((match[1] for match in found if match), "")

    def end(self, task: Task) -> End | None:
        """How a task ended, as of the last `refresh`."""
        place = (task.array.name, task.number)
        unread = place not in self._ends and f"{task.number}.end" in self._present.get(task.array.name, ())
        if unread and (found := read_end(task)):
            self._ends[place] = found
        return self._ends.get(place)

    def conclude(self, task: Task, end: End) -> End:
        """Say how a task ended; what somebody else said first stays, and is returned."""
        return self._ends.setdefault((task.array.name, task.number), write_end(task, end))


def read_array(folder: Path) -> Array | None:
    """The array of a folder; None if it was dropped."""
    record = read_record(folder / "array.json")
    if not record:
        return None
    try:
        return from_record(Array, {"name": folder.name, "folder": folder, **record})
    except ValueError as error:
        raise UsageError(f"{folder}: not an array's record ({said(error)}): delete the folder.") from error


def read_end(task: Task) -> End | None:
    """How a task ended, from the disk; None if nobody said so yet."""
    try:
        found = read_record(task.array.folder / f"{task.number}.end")
        return End(*(str(found[name]) for name in ("state", "outcome", "reason", "cause"))) if found else None
    except KeyError:
        return End("again", reason=f"{task.number}.end of {task.array.folder} is damaged.")


def write_end(task: Task, end: End) -> End:
    """Say how a task ended, once: a second word is not taken, and the first is returned."""
    path = task.array.folder / f"{task.number}.end"
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_json(beside, {"schema": SCHEMA, **to_record(end)})
        # A hard link fails where the name is there already, also over NFS.
        os.link(beside, path)
    except FileExistsError:
        return read_end(task) or end
    except FileNotFoundError:
        # The array was dropped meanwhile, so nobody asks any more.
        return end
    finally:
        beside.unlink(missing_ok=True)
    return end


def write_run(task: Task, host: str, phase: str) -> None:
    """Say where a task runs and in which phase it is; where that cannot be written, only the board misses it."""
    with suppress(OSError):
        write_record(task.array.folder / f"{task.number}.run", {"host": host, "phase": phase})


def read_run(task: Task) -> tuple[str, str]:
    """Host and phase of a task; empty where it has not started."""
    try:
        found = read_record(task.array.folder / f"{task.number}.run")
    except UsageError:
        return "", ""
    return str(found.get("host", "")), str(found.get("phase", ""))

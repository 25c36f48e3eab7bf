"""What a sweep over Slurm leaves in the home to survive its terminal: sweeps, arrays, and how each task ended.

```
slurm/lock                     held while jobs are submitted
slurm/sweeps/ID.json           what was asked for; there until the sweep is reduced
slurm/arrays/NAME/array.json   which cells an array runs; written before sbatch is called
slurm/arrays/NAME/job.json     the array's job id; written after
slurm/arrays/NAME/3.run        written by the node: host and phase of task 3
slurm/arrays/NAME/3.end        how task 3 ended, said once: by the node, or by a follower once the job is gone
```
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.experiment import Selection
from harness.home import Home
from harness.words import said

SCHEMA = 1


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


def root_of(home: Home) -> Path:
    """The folder of all this."""
    return home.root / "slurm"


# ---- records


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record beside and rename it into place, synced: whoever reads sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _put(temporary, value)
    temporary.replace(path)


def _put(path: Path, value: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump({"schema": SCHEMA, **value}, file)
        file.flush()
        os.fsync(file.fileno())


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


def selection_to_json(selection: Selection) -> dict[str, Any]:
    """A selection as a JSON object."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(selection).items()}


def selection_from_json(value: dict[str, Any]) -> Selection:
    """The selection of `selection_to_json`."""
    paths = {f.name for f in fields(Selection) if "Path" in str(f.type)}
    values: dict[str, Any] = {k: Path(v) if k in paths and v is not None else v for k, v in value.items()}
    return Selection(**values)


def save_sweep(home: Home, sweep: Sweep) -> None:
    """Keep a sweep until `close_sweep`."""
    record = {**asdict(sweep), "selection": selection_to_json(sweep.selection)}
    record["output"] = str(sweep.output) if sweep.output else None
    path = sweep_path(home, sweep.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, record)


def sweep_path(home: Home, name: str) -> Path:
    """Where a sweep's record is."""
    return root_of(home) / "sweeps" / f"{name}.json"


def new_id() -> str:
    """A name that sorts by time, such as `20261122-064532-3fa9`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def open_sweeps(home: Home) -> list[Sweep]:
    """Sweeps that were started and not reduced yet, oldest first."""
    sweeps = []
    for path in sorted((root_of(home) / "sweeps").glob("*.json")):
        record = read_record(path)
        if not record:
            continue
        try:
            del record["schema"]
            record["selection"] = selection_from_json(record["selection"])
            record["options"] = Options(**record["options"])
            record["output"] = Path(record["output"]) if record["output"] else None
            sweeps.append(Sweep(**record))
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not a sweep's record ({error}): delete it, and start the sweep again."
            ) from error
    return sweeps


def close_sweep(home: Home, sweep: Sweep) -> None:
    """Forget a sweep whose cells are all stored, and its arrays."""
    ledger = Ledger(root_of(home))
    for array in ledger.arrays():
        if array.sweep == sweep.id:
            ledger.drop(array)
    sweep_path(home, sweep.id).unlink(missing_ok=True)
    sweep_path(home, sweep.id).with_suffix(".lock").unlink(missing_ok=True)


# ---- arrays and their tasks


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
        for gone in set(self._arrays) - names:
            del self._arrays[gone]
        self._present = {}
        for name in sorted(names):
            try:
                self._present[name] = set(os.listdir(folder / name))  # noqa: PTH208 - thousands of names, no paths
            except FileNotFoundError:
                continue
            if name not in self._arrays and "array.json" in self._present[name]:
                array = _array(folder / name)
                if array:
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
        record = {
            "sweep": sweep.id,
            "selection": selection_to_json(selection),
            "entries": [asdict(entry) for entry in entries],
            "minutes": minutes,
            "created": now,
        }
        folder.mkdir(parents=True)
        write_record(folder / "array.json", record)
        array = Array(name, folder, sweep.id, selection, tuple(entries), minutes, now)
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
        if array.name not in self._jobs:
            found = read_record(array.folder / "job.json").get("job")
            if found:
                self._jobs[array.name] = str(found)
        return self._jobs.get(array.name)

    def traces(self, array: Array) -> str:
        """The job id that the logs of an array's tasks are named by; empty where no task has started."""
        for name in self._present.get(array.name, ()):
            found = re.fullmatch(r"(\d+)_\d+_0_log\.out", name)
            if found:
                return found[1]
        return ""

    def end(self, task: Task) -> End | None:
        """How a task ended, as of the last `refresh`."""
        place = (task.array.name, task.number)
        if place not in self._ends and f"{task.number}.end" in self._present.get(task.array.name, ()):
            found = read_end(task)
            if found:
                self._ends[place] = found
        return self._ends.get(place)

    def conclude(self, task: Task, end: End) -> End:
        """Say how a task ended; what somebody else said first stays, and is returned."""
        said = write_end(task, end)
        self._ends[(task.array.name, task.number)] = said
        return said


def _array(folder: Path) -> Array | None:
    record = read_record(folder / "array.json")
    if not record:
        return None
    try:
        selection = selection_from_json(record["selection"])
        entries = tuple(Entry(**entry) for entry in record["entries"])
        return Array(
            folder.name, folder, record["sweep"], selection, entries, int(record["minutes"]), float(record["created"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder}: not an array's record ({error}): delete the folder.") from error


def read_array(folder: Path) -> Array | None:
    """The array of a folder; None if it was dropped."""
    return _array(folder)


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
        _put(beside, asdict(end))
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
    """Say where a task runs and in which phase it is."""
    path = task.array.folder / f"{task.number}.run"
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"schema": SCHEMA, "host": host, "phase": phase}), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        # Only the board misses it.
        return


def read_run(task: Task) -> tuple[str, str]:
    """Host and phase of a task; empty where it has not started."""
    try:
        found = read_record(task.array.folder / f"{task.number}.run")
    except UsageError:
        return "", ""
    return str(found.get("host", "")), str(found.get("phase", ""))

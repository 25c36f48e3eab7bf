"""Run a plan on a Slurm cluster: one job for each missing cell, in arrays, followed to its end from any login node.

Store and environments are on a filesystem that the nodes share, and so is a record of what was submitted
(`slurm_jobs`). Nothing is known only to the process that follows: kill it, and `harness sweep --attach` goes on from
the record. Two sweeps that need the same cell at once share its job.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.environments import evict, find_environment
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.experiment import Experiment, Planned, Selection
from harness.flock import hold, try_hold, whose
from harness.home import Home, resolve_home
from harness.matrix import IndexJob, find_matrix, load_matrix
from harness.progress import Board
from harness.runner import is_infrastructure, log_tail, tried
from harness.slurm_jobs import (
    End,
    Entry,
    Ledger,
    Options,
    Sweep,
    Task,
    close_sweep,
    new_id,
    open_sweeps,
    read_record,
    read_run,
    root_of,
    save_sweep,
    sweep_path,
    write_record,
)
from harness.slurm_node import ANSWER, REACH
from harness.slurm_queue import (
    ENDED,
    GONE,
    HOPELESS,
    Job,
    Refused,
    cancel,
    check_options,
    find,
    largest_array,
    last_words,
    log_path,
    require_slurm,
    states,
    submit_array,
)
from harness.store import Cell
from harness.words import count

MARGIN_SECONDS = 1800
"""Added to a cell's own deadlines for a job's time limit: waiting for another node's environment, storing the cell."""
SETTLE_SECONDS = 60.0
"""How long a job may be gone before its last word on the shared filesystem counts as missing (NFS shows files late)."""
PATIENCE_SECONDS = 3600.0
"""How long the controller may be silent, or refuse jobs, before a follower gives up."""
BACKOFF_SECONDS = 30
"""Before the second try of a lost job; four times as long before each later one."""
PROBE_MINUTES = 10
_UNSAID = frozenset({"COMPLETED", "FAILED", GONE})
"""States that do not say why there is no last word of the node."""


def wall_minutes(job: IndexJob) -> int:
    """Time limit of a cell's job, where the user names none."""
    deadlines = job.deadline_seconds
    return math.ceil((deadlines.install + deadlines.import_ + deadlines.index + MARGIN_SECONDS) / 60)


class SlurmExecutor:
    """Runs a plan on a cluster; see `executor.Executor`.

    Args:
        sweep: what the user asked for; its record is in the home.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def run(self, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
        """See `Executor.run`. An interrupt leaves the jobs in the queue.

        Raises:
            UsageError: another process follows this sweep, or sbatch refuses its jobs for good.
            InfrastructureError: the controller has not answered for an hour.
        """
        path = sweep_path(experiment.home, self.sweep.id).with_suffix(".lock")
        held = try_hold(path)
        if held is None:
            raise UsageError(f"{whose(path)} follows this sweep already.")
        with held:
            follower = Follower(self.sweep, experiment, plan, board, evict_after=evict_after)
            try:
                return follower.follow()
            except KeyboardInterrupt:
                follower.leave()
                raise
            except HarnessError:
                if not follower.has_jobs():
                    close_sweep(experiment.home, self.sweep)
                raise


class Follower:
    """Takes one sweep to its end: submits what is missing, looks at the queue, takes in what nodes left."""

    def __init__(
        self, sweep: Sweep, experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool
    ) -> None:
        self.sweep, self.experiment, self.plan, self.board = sweep, experiment, plan, board
        self.evict_after = evict_after
        self.root = root_of(experiment.home)
        self.ledger = Ledger(self.root)
        self.cells: dict[str, Cell] = {}
        self.pending: dict[str, Planned] = {}
        # Tasks of other sweeps count if they had not ended when this sweep met them.
        self.adopted: set[tuple[str, int]] = set()
        self.missed: dict[tuple[str, int], float] = {}
        self.silent_since: float | None = None
        self.refused_since: float | None = None
        self.not_before = 0.0
        self.noted: set[str] = set()

    # ---- the loop

    def follow(self) -> list[Cell]:
        """Submit what is missing, and wait until all of it has ended."""
        # A cell that is stored may be under way again, in a sweep that was told to run it once more.
        running = {
            task.entry.key
            for task in self.ledger.tasks()
            if task.array.sweep == self.sweep.id and self.ledger.end(task) is None
        }
        for planned in self.plan:
            key, stored = planned.spec.key, planned.stored
            if planned.run or stored is None or key in running or self.experiment.store.missing(stored):
                self.pending[key] = planned
            else:
                self.cells[key] = self.board.done(stored, ran=False)
        started = time.monotonic()
        while self.pending:
            self.step()
            if self.pending:
                # At once in the beginning, every quarter of a minute later: the controller is everybody's.
                time.sleep(min(15.0, max(0.5, (time.monotonic() - started) / 20)))
        return [self.cells[planned.spec.key] for planned in self.plan]

    def has_jobs(self) -> bool:
        """Whether anything was submitted, so that there is something to go on with."""
        return any(array.sweep == self.sweep.id for array in self.ledger.arrays())

    def leave(self) -> None:
        """Say what goes on without us."""
        jobs = {self.ledger.job(task.array) for task in self._mine().values() if self.ledger.end(task) is None}
        known = sorted(job for job in jobs if job)
        if known:
            self.board.note(
                f"{count(len(self.pending), 'cell')} still in the queue: `harness sweep --attach {self.sweep.id}` "
                f"picks them up, `scancel {' '.join(known)}` stops them."
            )

    def _mine(self) -> dict[str, Task]:
        """The newest task of each pending cell, among those of this sweep and those it shares."""
        found = {}
        for task in self.ledger.tasks():
            key, place = task.entry.key, (task.array.name, task.number)
            if key in self.pending and (task.array.sweep == self.sweep.id or place in self.adopted):
                found[key] = task
        return found

    def step(self) -> None:
        """Look once at the queue and at what nodes left, and submit what is due."""
        tasks = self._mine()
        # First the controller, then the disk: a job that is gone has said its last word before it went.
        jobs = self._ask(tasks)
        self.ledger.refresh()
        due: list[tuple[Planned, int]] = []
        for key, planned in list(self.pending.items()):
            task = tasks.get(key)
            if task is None:
                there = self.experiment.store.get(key)
                if there is not None and there != planned.stored:
                    self._accept(planned, there)
                else:
                    due.append((planned, 1))
                continue
            end = self._end(planned, task, jobs)
            if end is not None and self._settled(planned, task, end):
                due.append((planned, task.entry.attempt + 1))
        if due and time.monotonic() >= self.not_before:
            self._submit(due)

    def _ask(self, tasks: Mapping[str, Task]) -> dict[str, Job] | None:
        open_tasks = [task for task in tasks.values() if self.ledger.end(task) is None]
        known = (self.ledger.job(array) for array in {task.array.name: task.array for task in open_tasks}.values())
        jobs = states([job for job in known if job])
        if jobs is not None:
            self.silent_since = None
            return jobs
        now = time.monotonic()
        self.silent_since = self.silent_since if self.silent_since is not None else now
        self._note_once("Slurm's controller does not answer; the jobs may run on, and are looked at again.")
        if now - self.silent_since > PATIENCE_SECONDS:
            raise InfrastructureError(
                f"Slurm's controller has not answered for {PATIENCE_SECONDS / 60:.0f} minutes: when it does, "
                f"`harness sweep --attach {self.sweep.id}` goes on."
            )
        return None

    def _note_once(self, text: str) -> None:
        if text not in self.noted:
            self.noted.add(text)
            self.board.note(text)

    # ---- one task

    def _end(self, planned: Planned, task: Task, jobs: dict[str, Job] | None) -> End | None:
        """How a task ended; None while it has not, or while nobody can say."""
        end = self.ledger.end(task)
        if end is not None:
            return end
        job = self.ledger.job(task.array)
        if job is None:
            self._find_again(task)
            return None
        if jobs is None:
            return None
        name, place = f"{job}_{task.number}", (task.array.name, task.number)
        seen = jobs.get(name, Job(GONE))
        if seen.state not in ENDED and seen.state != GONE:
            self.missed.pop(place, None)
            return self._waiting(planned, task, name, seen)
        log = log_path(task.array.folder, job, task.number)
        if seen.state in _UNSAID:
            words = last_words(log)
            if words.state != GONE:
                seen = words
            elif time.monotonic() - self.missed.setdefault(place, time.monotonic()) < SETTLE_SECONDS:
                return None
        return self.ledger.conclude(task, verdict(name, seen, task.array.minutes, read_run(task)))

    def _waiting(self, planned: Planned, task: Task, name: str, seen: Job) -> End | None:
        label = planned.spec.label
        if seen.state != "PENDING":
            self.board.phase(label, read_run(task)[1] or seen.state.lower())
            return None
        self.board.phase(label, "queued")
        if seen.held:
            cancel([name])
            return self.ledger.conclude(task, End("again", reason=f"Job {name} could not be started on its node."))
        if seen.reason in HOPELESS:
            cancel([name])
            reason = f"Job {name} would have waited for ever ({seen.reason}): change the partition or --slurm options."
            return self.ledger.conclude(task, End("final", "lost", reason))
        return None

    def _find_again(self, task: Task) -> None:
        """Find the job id of an array whose submitter died before it could note it."""
        held = try_hold(self.root / "lock")
        if held is None:
            # Somebody is submitting; the next look tells.
            return
        with held:
            array = task.array
            job = self.ledger.traces(array) or find(array.name)
            if job:
                self.ledger.submitted(array, job)
            elif job is not None and time.time() - array.created > 5:
                # sbatch was never called, or its jobs were never taken. Should one start all the same, it sees that its
                # array is gone, and ends.
                self.ledger.drop(array)

    def _settled(self, planned: Planned, task: Task, end: End) -> bool:  # noqa: PLR0911 - one for each way to end
        """Take the end of a task as that of its cell; True if the cell has to be submitted again instead."""
        store, key = self.experiment.store, planned.spec.key
        # Where the node's run did not replace the cell, its word is beside it.
        there = store.latest(key) if end.state == "stored" else store.get(key)
        fresh = there is not None and there != planned.stored
        left = task.entry.attempt <= self.sweep.options.retries
        if end.cause == "device":
            forget_device(self.experiment.home, self.sweep.options)
        if there is not None and there.outcome == "ok" and (fresh or end.state == "stored"):
            self._accept(planned, there)
            return False
        if end.state == "stored" and there is not None:
            if is_infrastructure(there) and left:
                return self._again(planned, task, f"{there.outcome}: {there.reason}")
            self._accept(planned, there)
            return False
        if end.state == "final":
            self._accept(planned, self._keep(planned, task, end.outcome, end.reason, end.outcome))
            return False
        reason = end.reason or "Its cell is not in the store."
        if left:
            return self._again(planned, task, reason)
        if there is not None and fresh and there.details.get("cause") != "lost":
            # What the node could say, such as a disk that was full, is more than that the job was lost.
            self._accept(planned, there)
            return False
        times = f" It was submitted {task.entry.attempt} times." if task.entry.attempt > 1 else ""
        self._accept(planned, self._keep(planned, task, "lost", f"{reason}{times}", "lost"))
        return False

    def _again(self, planned: Planned, task: Task, reason: str) -> bool:
        number, of = task.entry.attempt + 1, self.sweep.options.retries + 1
        self._note_once(f"{planned.spec.label}: {reason} Submitting it again ({number} of {of}).")
        return True

    def _keep(self, planned: Planned, task: Task, outcome: str, reason: str, cause: str) -> Cell:
        """Store a cell of which no job could say how it ended."""
        spec, job = planned.spec, self.ledger.job(task.array) or ""
        host, phase = read_run(task)
        log = log_path(task.array.folder, job, task.number)
        about = {"job": f"{job}_{task.number}", "node": host, "attempt": task.entry.attempt}
        details: dict[str, Any] = {"slurm": about, "log_tail": log_tail(log), "tried": tried(planned.stored)}
        if cause == "lost":
            details["cause"] = "lost"
        cell = Cell(
            key=spec.key,
            group=spec.group,
            spec=spec.to_json(),
            outcome=outcome,
            reason=reason,
            phase=phase or "queue",
            capture=self.experiment.job.capture,
            details=details,
        )
        return self.experiment.store.put(cell, log=log)

    def _accept(self, planned: Planned, cell: Cell) -> None:
        key = planned.spec.key
        del self.pending[key]
        self.cells[key] = self.board.done(cell, ran=True)
        version = planned.spec.version
        if self.evict_after and all(other.spec.version != version for other in self.pending.values()):
            self._evict(version)

    def _evict(self, version: str) -> None:
        experiment = self.experiment
        used = any(t.entry.version == version and self.ledger.end(t) is None for t in self.ledger.tasks())
        if used or experiment.selection.sites is not None:
            return
        found = find_environment(experiment.home, experiment.locks, version, experiment.device.flavour)
        if found is not None:
            keep = [experiment.lock(other) for other in {p.spec.version for p in self.pending.values()}]
            freed = evict(experiment.home, found, keep)
            if freed is not None:
                self.board.note(f"{version}: deleted the environment ({freed / 2**30:.1f} GiB freed)")

    # ---- submitting

    def _submit(self, due: Sequence[tuple[Planned, int]]) -> None:
        """Submit cells, or share the jobs of another sweep that runs them already."""
        held = hold(self.root / "lock")
        assert held is not None
        with held:
            self.ledger.refresh()
            running = {t.entry.key: t for t in self.ledger.tasks() if self.ledger.end(t) is None}
            missing: dict[int, list[Entry]] = {}
            for planned, attempt in due:
                spec = planned.spec
                task = running.get(spec.key)
                if task is not None:
                    self.adopted.add((task.array.name, task.number))
                else:
                    stored = planned.stored
                    replaces = stored.finished if stored is not None and stored.outcome == "ok" else ""
                    entry = Entry(spec.key, spec.version, spec.repeat, attempt, replaces)
                    missing.setdefault(attempt, []).append(entry)
            size = largest_array() if missing else 1
            for attempt, entries in missing.items():
                rest = entries
                while rest:
                    taken = self._submit_some(rest[:size], attempt)
                    if not taken:
                        return
                    rest = rest[taken:]

    def _submit_some(self, entries: list[Entry], attempt: int) -> int:
        """Submit as many of `entries` as the cluster takes now; returns how many those are."""
        minutes = wall_minutes(self.experiment.job)
        named = self.sweep.options.extra.get("time")
        # 0 where the user named a limit in one of Slurm's other notations.
        said = minutes if named is None else int(named) if named.isdigit() else 0
        while entries:
            array = self.ledger.create(self.sweep, self._selection(), entries, said, time.time())
            command = [sys.executable, "-m", "harness.slurm_node", str(array.folder)]
            try:
                parameters = self._parameters(minutes, attempt)
                job = submit_array(array.folder, array.name, command, len(entries), parameters)
            except Refused as error:
                self.ledger.drop(array)
                if not error.temporary:
                    raise
                if len(entries) == 1:
                    self._refused(error)
                    return 0
                # A user may have so many jobs and no more: fewer at once, the others when some have ended.
                entries = entries[: len(entries) // 2]
                continue
            self.ledger.submitted(array, job)
            self.refused_since = None
            self._note_once(f"Submitted {count(len(entries), 'cell')} as job {job}.")
            return len(entries)
        return 0

    def _refused(self, error: Refused) -> None:
        now = time.monotonic()
        self.not_before = now + BACKOFF_SECONDS
        self.refused_since = self.refused_since if self.refused_since is not None else now
        self._note_once(f"{error} The others are submitted later.")
        in_queue = any(self.ledger.end(task) is None for task in self._mine().values())
        if not in_queue and now - self.refused_since > PATIENCE_SECONDS:
            raise error

    def _selection(self) -> Selection:
        """What the nodes are told; the capture level and the threads are those of this experiment."""
        return replace(self.sweep.selection, identity=self.experiment.device.identity)

    def _parameters(self, minutes: int, attempt: int) -> dict[str, Any]:
        experiment, options = self.experiment, self.sweep.options
        extra: dict[str, Any] = {"requeue": True}
        if attempt > 1:
            extra["begin"] = f"now+{BACKOFF_SECONDS * 4 ** (attempt - 2)}"
        return {
            **resources(options, experiment.device.kind, experiment.job.threads, minutes),
            "array_parallelism": options.at_once,
            "additional_parameters": {**extra, **_plain(options)},
        }


def _plain(options: Options) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in options.extra.items()}


def resources(options: Options, kind: str, threads: int, minutes: int) -> dict[str, Any]:
    """What one job asks for, in submitit's words: one GPU unless it runs on a CPU, and a core for each thread."""
    asked: dict[str, Any] = {"time": minutes, "cpus_per_task": threads, "nodes": 1, "ntasks_per_node": 1}
    if options.partition:
        asked["partition"] = options.partition
    if kind != "cpu" and not any(name.startswith(("gres", "gpus")) for name in options.extra):
        asked["gres"] = "gpu:1"
    return asked


def verdict(name: str, seen: Job, minutes: int, run: tuple[str, str]) -> End:
    """What Slurm's word for the end of a job, of which the node said nothing, means for its cell."""
    host, phase = run
    where = f" on {seen.node or host}" if seen.node or host else ""
    when = f" in phase {phase}" if phase else ""
    if seen.state in {"TIMEOUT", "DEADLINE"}:
        limit = f" of {minutes} minutes" if minutes else ""
        reason = f"Slurm ended job {name}{where} at its time limit{limit}{when}."
        return End("final", "timeout", reason)
    if seen.state == "OUT_OF_MEMORY":
        reason = f"Slurm killed job {name}{where}{when} for want of memory; --slurm mem=64G asks for more."
        return End("final", "out_of_memory", reason)
    how = {
        "CANCELLED": f"Job {name} was cancelled{where}{when}.",
        "PREEMPTED": f"Job {name} was preempted{where}{when}.",
        "NODE_FAIL": f"The node of job {name} failed{where}{when}.",
        "BOOT_FAIL": f"The node of job {name} did not boot{where}.",
        "REVOKED": f"Job {name} was revoked{where}.",
        "FAILED": f"Job {name} failed{where}{when} without a word of the harness{_because(seen)}.",
        "COMPLETED": f"Job {name} ended{where}{when} without a word of the harness.",
        GONE: f"Job {name} vanished{where}{when}: neither Slurm nor its log knows how it ended.",
    }
    return End("again", reason=how.get(seen.state, f"Job {name} ended as {seen.state}{where}{when}."))


def _because(seen: Job) -> str:
    return f" ({seen.reason})" if seen.reason else ""


# ---- beginning and going on


def start_sweep(
    selection: Selection,
    versions: list[str],
    repeats: dict[str, int],
    options: Options,
    board: Board,
    *,
    evict: bool,
    output: Path | None,
) -> Sweep:
    """Check what the user asked for, ask the nodes what they are, and keep a record of it.

    Raises:
        HarnessError: something is missing, here or on the nodes.
    """
    require_slurm()
    check_options(options.extra)
    selection = absolute_paths(selection)
    # What is wrong with the files is said before a node is asked for anything.
    experiment = Experiment(replace(selection, identity="cpu of a node"))
    experiment.check()
    identity = node_device(experiment.home, options, selection.device, board)
    sweep = Sweep(
        id=new_id(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        selection=replace(selection, identity=identity),
        versions=versions,
        repeats=repeats,
        options=options,
        evict=evict,
        output=output.absolute() if output else None,
    )
    save_sweep(experiment.home, sweep)
    return sweep


def absolute_paths(selection: Selection) -> Selection:
    """The same selection with paths that mean the same in another folder."""
    matrix_path = (selection.matrix_path or find_matrix()).resolve()
    matrix = load_matrix(matrix_path)

    def absolute(path: Path | None) -> Path | None:
        # Not resolved: a virtualenv's interpreter is a link, and means another environment when it is followed.
        return path.absolute() if path else None

    def named(name: str | None, known: Iterable[str]) -> str | None:
        return str(Path(name).absolute()) if name and name not in known and Path(name).exists() else name

    return replace(
        selection,
        matrix_path=matrix_path,
        home=resolve_home(selection.home, matrix_path).root,
        collection=named(selection.collection, matrix.collections),
        checkpoint=named(selection.checkpoint, matrix.checkpoints),
        sites=absolute(selection.sites),
        site_python=absolute(selection.site_python),
    )


def attach_sweep(selection: Selection, name: str) -> Sweep:
    """The unfinished sweep of this home whose id starts with `name`; the only one where no name is given.

    Raises:
        UsageError: there is none, or there are several.
    """
    home = resolve_home(selection.home, (selection.matrix_path or find_matrix()).resolve())
    found = open_sweeps(home)
    if not found:
        raise UsageError(f"--attach: no sweep over Slurm is under way in {home.root}.")
    chosen = [sweep for sweep in found if sweep.id.startswith(name)]
    if len(chosen) != 1:
        listing = ", ".join(f"{sweep.id} ({count(len(sweep.versions), 'version')}, {sweep.created})" for sweep in found)
        raise UsageError(f"--attach {name}".rstrip() + f": name one of the sweeps that are under way: {listing}.")
    require_slurm()
    return chosen[0]


# ---- what the nodes are


def node_device(home: Home, options: Options, wanted: str, board: Board) -> str:
    """The device's identity on the nodes that these options name, by a short job that looks; remembered in the home.

    The same job sees whether this machine's file locks hold on the node too, without which two nodes would build one
    environment at once.

    Raises:
        UsageError: the options name no node, the node has no such device, or locks do not reach it.
        InfrastructureError: the job ended without an answer.
    """
    known = root_of(home) / "devices.json"
    name = device_key(options, wanted)
    remembered = read_record(known).get(name)
    if remembered:
        return str(remembered)
    answer = _probe(home, options, wanted, board)
    where = answer["host"]
    if "error" in answer:
        raise UsageError(f"On {where}: {answer['error']}")
    if not answer["locks"]:
        raise UsageError(
            f"A file lock that this machine holds in {home.root} is not seen on {where}: two nodes would build the "
            "same environment at once. Mount the filesystem with locks across machines (Lustre: -o flock; NFS: without "
            "nolock and local_lock), or point --home (or HARNESS_HOME) to another one."
        )
    write_record(known, {**read_record(known), name: answer["identity"]})
    board.note(f"{where} is {answer['identity']}")
    return str(answer["identity"])


def device_key(options: Options, wanted: str) -> str:
    """The name under which is remembered what the nodes that these options ask for are."""
    return json.dumps([wanted, options.partition, sorted(options.extra.items())])


def forget_device(home: Home, options: Options) -> None:
    """Look again next time: a node turned out to be something else."""
    known = root_of(home) / "devices.json"
    record = read_record(known)
    for wanted in ("auto", "cpu", "cuda"):
        record.pop(device_key(options, wanted), None)
    if record:
        write_record(known, record)


@contextmanager
def _probe_folder(home: Home) -> Iterator[Path]:
    folder = root_of(home) / "probes" / f"harness-probe-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _probe(home: Home, options: Options, wanted: str, board: Board) -> dict[str, Any]:
    with _probe_folder(home) as folder:
        held = try_hold(folder / REACH)
        assert held is not None
        command = [sys.executable, "-m", "harness.slurm_node", str(folder), "--device", wanted]
        parameters = {
            **resources(options, wanted, 1, PROBE_MINUTES),
            "additional_parameters": {**_plain(options)},
        }
        try:
            job = submit_array(folder, folder.name, command, 1, parameters)
        except Refused as error:
            hint = "; nodes without a GPU need --device cpu" if wanted == "auto" else ""
            raise UsageError(f"{str(error).rstrip('.')}{hint}.") from error
        board.note(f"Asking a node what it is (job {job}).")
        try:
            with held:
                return _wait_for_answer(folder, job, board)
        finally:
            cancel([job])


def _wait_for_answer(folder: Path, job: str, board: Board) -> dict[str, Any]:
    gone_since: float | None = None
    said = ""
    for turn in itertools.count():
        answer = read_record(folder / ANSWER)
        if answer:
            return answer
        jobs = states([job])
        seen = jobs.get(f"{job}_0", Job(GONE)) if jobs is not None else Job("PENDING", "the controller is silent")
        if seen.reason in HOPELESS or seen.held:
            raise UsageError(f"Job {job} would wait for ever ({seen.reason}): change the partition or --slurm options.")
        if seen.state in ENDED or seen.state == GONE:
            now = time.monotonic()
            gone_since = gone_since if gone_since is not None else now
            log = log_tail(log_path(folder, job, 0))
            if now - gone_since > (2 if log and seen.state == "FAILED" else SETTLE_SECONDS):
                last = (
                    log.splitlines()[-1] if log else "it wrote nothing; is the home on a filesystem that nodes share?"
                )
                raise InfrastructureError(f"Job {job}, which should say what a node is, ended as {seen.state}: {last}")
        elif seen.reason and seen.reason != said and turn > 10:
            said = seen.reason
            board.note(f"Job {job} waits ({said}).")
        time.sleep(min(10.0, 0.5 + turn / 20))
    raise AssertionError

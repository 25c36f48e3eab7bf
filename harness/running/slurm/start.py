"""Sweeps over Slurm: what the nodes are, what was asked for, and the record of it that survives a terminal.

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

import itertools
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import InfrastructureError, UsageError
from harness.flock import try_hold
from harness.home import Home, resolve_home
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.running.checks import parse_repeats, versions_of
from harness.running.experiment import Experiment
from harness.running.job import log_tail
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.running.slurm.queue import (
    ENDED,
    GONE,
    HOPELESS,
    SETTLE_SECONDS,
    Job,
    Refused,
    cancel,
    check_options,
    log_path,
    require_slurm,
    states,
    submit_array,
)
from harness.running.slurm.record import (
    ANSWER,
    REACH,
    Ledger,
    Options,
    Sweep,
    from_record,
    read_record,
    root_of,
    to_record,
    write_record,
)
from harness.running.slurm.submit import resources
from harness.words import count, said

PROBE_MINUTES = 10


def asked_sweep(
    selection: Selection,
    versions: Sequence[str],
    repeats: Sequence[str],
    *,
    attach: str | None,
    partition: str | None,
    extra: Sequence[str],
    retries: int,
    at_once: int,
    evict: bool,
    output: Path | None,
) -> Sweep:
    """The sweep that `attach` names, or a new one of what the other options say, as the command line has them.

    Raises:
        HarnessError: they contradict each other, or something is missing, here or on the nodes.
    """
    if attach is not None:
        if versions or repeats:
            raise UsageError("--attach goes on with what the sweep was started with: give no versions and no repeats.")
        return attach_sweep(selection, attach)
    named = {}
    for option in extra:
        name, is_there, value = option.partition("=")
        if not (name and is_there):
            raise UsageError(f"--slurm {option!r}: write NAME=VALUE, such as account=me.")
        named[name] = value
    experiment = Experiment(replace(absolute_paths(selection), identity="cpu of a node"))
    selection = replace(experiment.selection, identity=None)
    chosen = versions_of(experiment, versions)
    runs, options = parse_repeats(experiment, repeats, chosen), Options(partition, named, retries, at_once)
    require_slurm()
    check_options(named)
    # What is wrong with the files is said before a node is asked for anything.
    experiment.check()
    with Board([]) as board:
        identity = node_device(experiment.home, options, selection.device, board)
    now = datetime.now(UTC)
    sweep = Sweep(
        # A name that sorts by time.
        id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        created=now.isoformat(timespec="seconds"),
        selection=replace(selection, identity=identity),
        versions=chosen,
        repeats=runs,
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

    def named(name: str | None, known: Iterable[str]) -> str | None:
        return str(Path(name).absolute()) if name and name not in known and Path(name).exists() else name

    return replace(
        selection,
        matrix_path=matrix_path,
        home=resolve_home(selection.home, matrix_path).root,
        collection=named(selection.collection, matrix.collections),
        checkpoint=named(selection.checkpoint, matrix.checkpoints),
        queries=named(selection.queries, ()),
        qrels=named(selection.qrels, ()),
        triples=named(selection.triples, ()),
        index=selection.index and selection.index.absolute(),
        sites=selection.sites and selection.sites.absolute(),
        # Not resolved: a virtualenv's interpreter is a link, and means another environment when it is followed.
        site_python=selection.site_python and selection.site_python.absolute(),
    )


def attach_sweep(selection: Selection, name: str) -> Sweep:
    """The unfinished sweep of this home whose id starts with `name`; the only one where no name is given.

    Raises:
        UsageError: there is none, or there are several.
    """
    home = resolve_home(selection.home, (selection.matrix_path or find_matrix()).resolve())
    if not (found := open_sweeps(home)):
        raise UsageError(f"--attach: no sweep over Slurm is under way in {home.root}.")
    chosen = [sweep for sweep in found if sweep.id.startswith(name)]
    if len(chosen) != 1:
        listing = ", ".join(f"{sweep.id} ({count(len(sweep.versions), 'version')}, {sweep.created})" for sweep in found)
        raise UsageError(f"--attach {name}".rstrip() + f": name one of the sweeps that are under way: {listing}.")
    require_slurm()
    return chosen[0]


def save_sweep(home: Home, sweep: Sweep) -> None:
    """Keep a sweep until `close_sweep`."""
    path = sweep_path(home, sweep.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, to_record(sweep))


def sweep_path(home: Home, name: str) -> Path:
    """Where a sweep's record is."""
    return root_of(home) / "sweeps" / f"{name}.json"


def open_sweeps(home: Home) -> list[Sweep]:
    """Sweeps that were started and not reduced yet, oldest first."""
    sweeps = []
    for path in sorted((root_of(home) / "sweeps").glob("*.json")):
        # It may have been closed a moment ago.
        if record := read_record(path):
            try:
                sweeps.append(from_record(Sweep, record))
            except ValueError as error:
                raise UsageError(
                    f"{path}: not a sweep's record ({said(error)}): delete it, and start the sweep again."
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


# ---- what the nodes are


def ask(home: Home, options: Options, wanted: str, board: Board) -> dict[str, Any]:
    """What a node answers that these options name; see `harness.running.slurm.node`."""
    root = root_of(home) / "probes"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="harness-probe-", dir=root, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        held = try_hold(folder / REACH)
        assert held is not None
        command = [sys.executable, "-m", "harness.running.slurm.node", str(folder), "--device", wanted]
        try:
            job = submit_array(folder, folder.name, command, 1, resources(options, wanted, 1, PROBE_MINUTES))
        except Refused as error:
            hint = "; nodes without a GPU need --device cpu" if wanted == "auto" else ""
            raise UsageError(f"{str(error).rstrip('.')}{hint}.") from error
        board.note(f"Asking a node what it is (job {job}).")
        try:
            with held:
                return _wait_for_answer(folder, job, board)
        finally:
            cancel([job])


def node_device(
    home: Home,
    options: Options,
    wanted: str,
    board: Board,
    ask: Callable[[Home, Options, str, Board], dict[str, Any]] = ask,
) -> str:
    """The device's identity on the nodes that these options name, by a short job that looks; remembered in the home.

    The same job sees whether this machine's file locks hold on the node too, without which two nodes would build one
    environment at once.

    Raises:
        UsageError: the options name no node, the node has no such device, or locks do not reach it.
        InfrastructureError: the job ended without an answer.
    """
    known = root_of(home) / "devices.json"
    name = device_key(options, wanted)
    if remembered := read_record(known).get(name):
        return str(remembered)
    answer = ask(home, options, wanted, board)
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


def _wait_for_answer(folder: Path, job: str, board: Board) -> dict[str, Any]:
    gone_since: float | None = None
    said = ""
    for turn in itertools.count():
        if answer := read_record(folder / ANSWER):
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
                silent = "it wrote nothing; is the home on a filesystem that nodes share?"
                last = log.splitlines()[-1] if log else silent
                raise InfrastructureError(f"Job {job}, which should say what a node is, ended as {seen.state}: {last}")
        elif seen.reason and seen.reason != said and turn > 10:
            said = seen.reason
            board.note(f"Job {job} waits ({said}).")
        time.sleep(min(10.0, 0.5 + turn / 20))
    raise AssertionError

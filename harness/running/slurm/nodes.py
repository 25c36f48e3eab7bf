"""What the cluster's nodes are: one is asked, so that a login node without a GPU can plan."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import InfrastructureError, UsageError
from harness.flock import try_hold
from harness.home import Home
from harness.running.job import log_tail
from harness.running.progress import Board
from harness.running.slurm.queue import (
    ENDED,
    GONE,
    HOPELESS,
    SETTLE_SECONDS,
    Job,
    Refused,
    cancel,
    log_path,
    states,
    submit_array,
)
from harness.running.slurm.record import ANSWER, REACH, Options, read_record, root_of, write_record
from harness.running.slurm.submit import resources

PROBE_MINUTES = 10


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
    remembered = read_record(known).get(name)
    if remembered:
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

"""A sweep on a real Slurm of one node: every cell ends with its outcome, once, whatever is killed meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.environments.device import cpu_device
from harness.environments.lockfile import lock_path
from harness.home import Home
from harness.running.experiment import Experiment
from harness.running.selection import Selection
from harness.running.slurm.record import Entry, Ledger, Options, Sweep, read_run, root_of, write_record
from harness.running.slurm.start import device_key, open_sweeps, save_sweep
from harness.store.cell import Cell
from harness.store.store import Store
from tests.reliability.bench import alive
from tests.support.checkpoints import write_checkpoint
from tests.support.fake_worker import fake_interpreter
from tests.support.slurm_cluster import SlurmCluster, missing, wait_for
from tests.support.standin import PASSAGES, make_sites

ROOT = Path(__file__).parents[3]
ABSENT = missing()
# Longer than most, because a test may wait several times, each time for as long as PATIENCE.
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(ABSENT), reason=ABSENT), pytest.mark.timeout(900)]

GPU = "cuda Pretended GPU 9.0"
PATIENCE = 240
"""Seconds to wait for what Slurm does in a few, on a machine that nobody else keeps busy."""
# Waits as long as its cell is held, or all cells are; notes each run and the GPU it was given.
BODY = """
key = cell["key"]
phase("import")
with (made / "ran").open("a") as file:
    file.write(f"{key} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\\n")
(made / f"{key}.pid").write_text(str(os.getpid()))
phase("train")
while (made / "hold").exists() or (made / f"{key}.hold").exists():
    time.sleep(0.05)
phase("finalize"); index(); result()
"""
# Says what nvidia-smi says, on a node and not where jobs are submitted from.
NVIDIA_SMI = """#!/bin/sh
[ -n "$SLURM_JOB_ID" ] || exit 9
case "$*" in
  *--query-gpu=index,uuid,name,compute_cap*) for i in 0 1 2 3; do echo "$i, GPU-$i, Pretended GPU, 9.0"; done ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), gpus=4) as made:
        yield made


class Bench:
    """A home, a collection, and environments whose interpreter is a stand-in; `sweep` starts the real command."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.home = Home(folder / "home")
        self.store = Store(self.home.store)
        self.python = fake_interpreter(folder / "fake", BODY).python
        self.made = folder / "fake"
        (folder / "passages.jsonl").write_text(PASSAGES)
        write_checkpoint(folder / "ck")
        smi = folder / "bin" / "nvidia-smi"
        smi.parent.mkdir()
        smi.write_text(NVIDIA_SMI)
        smi.chmod(0o755)
        self.environment = {
            **cluster.environment,
            "PATH": os.pathsep.join([str(smi.parent), cluster.environment["PATH"]]),
            "HARNESS_HOME": str(self.home.root),
        }
        # The first test asks a node what it is; for the others, that it is this machine is remembered.
        root_of(self.home).mkdir(parents=True)
        names = [device_key(Options(extra=extra), "cpu") for extra in ({}, {"begin": "now"})]
        write_record(root_of(self.home) / "devices.json", dict.fromkeys(names, cpu_device().identity))
        self.started: list[subprocess.Popen[bytes]] = []
        self.logs: dict[int, Path] = {}

    def sweep(self, *arguments: str, device: str = "cuda") -> subprocess.Popen[bytes]:
        versions = [argument for argument in arguments if re.fullmatch(r"[\d.]+", argument)]
        for version in versions:
            (self.folder / "sites" / version / "torch").mkdir(parents=True, exist_ok=True)
        options = ["--sites", str(self.folder / "sites"), "--site-python", str(self.python)]
        options += ["--collection", str(self.folder / "passages.jsonl"), "--checkpoint", str(self.folder / "ck")]
        options += ["--threads", "1", "--device", device, "--executor", "slurm"]
        return self.command(*arguments, *options, "--output", str(self.folder / "tables"))

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "harness", "sweep", *arguments]
        log = self.folder / f"said-{len(self.started)}"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=out, stderr=subprocess.STDOUT,
                preexec_fn=_heed_interrupts,  # noqa: PLW1509 - no other thread runs here
            )  # fmt: skip
        self.started.append(process)
        self.logs[process.pid] = log
        return process

    def said(self, process: subprocess.Popen[bytes]) -> str:
        return self.logs[process.pid].read_text()

    def finish(self, process: subprocess.Popen[bytes], code: int = 0) -> str:
        process.wait(timeout=300)
        assert process.returncode == code, self.said(process)
        return self.said(process)

    def hold(self, name: str = "hold") -> Path:
        path = self.made / name
        path.touch()
        return path

    def ran(self) -> Counter[str]:
        """How often the job of each cell ran, by key."""
        path = self.made / "ran"
        return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()

    def cells(self) -> dict[str, Cell]:
        return {cell.label: cell for cell in self.store.cells()}

    def close(self) -> None:
        """End what a test that failed has left."""
        for process in self.started:
            process.kill()
            process.wait()
        for path in self.made.glob("*hold"):
            path.unlink()
        jobs = self.cluster.jobs()
        if jobs:
            self.cluster.command("scancel", *jobs, check=False)
            wait_for(lambda: not self.cluster.jobs(), PATIENCE, "cancelled jobs to end")

    def left(self) -> list[str]:
        """What is left of a sweep in the home."""
        return [sweep.id for sweep in open_sweeps(self.home)] + [a.name for a in Ledger(root_of(self.home)).arrays()]


def _heed_interrupts() -> None:
    """A test run that was started in the background ignores SIGINT, and what it starts would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def bench(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(cluster, tmp_path)
    yield made
    made.close()


def test_a_sweep_runs_each_missing_cell_as_a_job_with_one_gpu_and_reduces(bench):
    said = bench.finish(bench.sweep("2.7.1", "2.8.0", "--repeat", "2.8.0", "--partition", "gpu"))

    cells = bench.cells()
    assert {label: cell.outcome for label, cell in cells.items()} == {"2.7.1": "ok", "2.8.0": "ok", "2.8.0#1": "ok"}
    assert {cell.spec.device for cell in cells.values()} == {GPU}
    assert bench.ran() == Counter(cell.key for cell in cells.values())
    given = {line.split(" ", 1)[1] for line in (bench.made / "ran").read_text().splitlines()}
    assert given <= {"0", "1", "2", "3"}
    assert "bit for bit the same" in said
    assert (bench.folder / "tables" / "consecutive.parquet").exists()
    assert bench.left() == []

    again = bench.finish(bench.sweep("2.7.1", "2.8.0", "--repeat", "2.8.0", "--partition", "gpu"))

    assert "Submitted" not in again
    assert "[3 of 3] 2.8.0#1: stored" in again
    assert set(bench.ran().values()) == {1}


def test_searches_are_jobs_after_those_of_the_indexes_that_they_need(bench):
    passages, queries = bench.folder / "ten.jsonl", bench.folder / "queries.jsonl"
    passages.write_text(PASSAGES * 5)  # as many as the stand-in's index has
    queries.write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
    options = ["--job", "search", "--queries", str(queries), "--k", "3", "--collection", str(passages)]
    options += ["--checkpoint", str(bench.folder / "ck"), "--threads", "1", "--device", "cpu", "--executor", "slurm"]
    options += [*make_sites(bench.folder / "standin"), "--output", str(bench.folder / "tables")]

    said = bench.finish(bench.command("2.7.1", "2.8.0", *options))

    found = {(cell.spec.job, cell.label): cell.outcome for cell in bench.store.cells()}
    assert found == {(job, version): "ok" for job in ("index", "search") for version in ("2.7.1", "2.8.0")}
    assert said.count("Submitted 2 cells as job") == 2
    assert "No tensor of the answer changed by a bit" in said
    assert bench.left() == []


class Story:
    """One sweep over five versions, each with its own misfortune, so that their waits pass at the same time."""

    CANCELLED, CANCELLED_TWICE, TOO_LONG, SLURMD_KILLED, POWER_CUT = "2.4.0", "2.4.1", "2.5.0", "2.5.1", "2.6.0"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.hold()
        versions = (self.CANCELLED, self.CANCELLED_TWICE, self.TOO_LONG, self.SLURMD_KILLED, self.POWER_CUT)
        self.sweep = bench.sweep(*versions, "--retries", "1", "--slurm", "begin=now", device="cpu")
        wait_for(lambda: len(bench.ran()) == len(versions), PATIENCE, "all cells to run")
        self.key = {task.entry.version: task.entry.key for task in Ledger(root_of(bench.home)).tasks()}
        # Jobs may run before the sweep has noted their number.
        wait_for(lambda: all(job for _, job in self.jobs()), PATIENCE, "the submission")
        self.job = {task.entry.version: f"{job}_{task.number}" for task, job in self.jobs()}
        holds = {version: bench.hold(f"{key}.hold") for version, key in self.key.items()}
        for version in versions:
            self.wait_for_run(version, 1)
        (bench.made / "hold").unlink()

        self.play(holds)

        self.said = bench.finish(self.sweep, 3)
        self.cells = bench.cells()
        self.ran = {version: bench.ran()[key] for version, key in self.key.items()}

    def jobs(self):
        ledger = Ledger(root_of(self.bench.home))
        return [(task, ledger.job(task.array)) for task in ledger.tasks()]

    def play(self, holds: dict[str, Path]) -> None:
        cluster, started = self.bench.cluster, time.monotonic()
        # Slurm looks at time limits twice a minute, so this one comes first.
        cluster.command("scontrol", "update", f"jobid={self.job[self.TOO_LONG]}", "EndTime=now+1")
        cluster.command("scancel", self.job[self.CANCELLED], self.job[self.CANCELLED_TWICE])
        self.wait_for_run(self.CANCELLED, 2)
        self.wait_for_run(self.CANCELLED_TWICE, 2)
        again = {task.entry.version: f"{job}_{task.number}" for task, job in self.jobs() if task.entry.attempt == 2}
        cluster.command("scancel", again[self.CANCELLED_TWICE])
        holds[self.CANCELLED].unlink()
        # Slurm allows a job some seconds to start before it takes it for missing.
        time.sleep(max(0.0, 13 - (time.monotonic() - started)))
        self.cut_the_power(holds)
        self.wait_for_run(self.POWER_CUT, 2)
        cluster.stop_controller()
        wait_for(
            lambda: "controller does not answer" in self.bench.said(self.sweep), PATIENCE, "the follower to notice"
        )
        holds[self.POWER_CUT].unlink()
        cluster.start_controller()

    def wait_for_run(self, version: str, number: int) -> None:
        """Wait until the job has run that often and its node has said that it trains."""
        key = self.key[version]

        def trains() -> object:
            newest, job = max(
                (one for one in self.jobs() if one[0].entry.key == key), key=lambda one: one[0].entry.attempt
            )
            return job and self.bench.ran()[key] == number and read_run(newest)[1] == "train"

        wait_for(trains, PATIENCE, f"run {number} of {version}")

    def cut_the_power(self, holds: dict[str, Path]) -> None:
        """Kill slurmd, and with one job all that Slurm runs of it, as a node that goes down does; then start slurmd."""
        self.bench.cluster.kill_node()
        killed = ancestors(int((self.bench.made / f"{self.key[self.POWER_CUT]}.pid").read_text()))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, killed)), PATIENCE, "the killed processes to be gone")
        holds[self.SLURMD_KILLED].unlink()
        self.bench.cluster.start_node()


def ancestors(pid: int) -> list[int]:
    """A process and those it comes from, up to the slurmstepd of its job."""
    found = []
    while pid > 1:
        found.append(pid)
        if b"slurmstepd" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return found[::-1]
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    raise AssertionError("not a process of Slurm")


@pytest.fixture(scope="module")
def story(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    bench = Bench(cluster, tmp_path_factory.mktemp("story"))
    try:
        yield Story(bench)
    finally:
        bench.close()


def test_a_job_that_was_cancelled_is_submitted_again(story):
    assert (story.cells[story.CANCELLED].outcome, story.ran[story.CANCELLED]) == ("ok", 2)
    assert "was cancelled" in story.said
    assert "Submitting it again (2 of 2)" in story.said


def test_a_job_that_is_cancelled_each_time_ends_as_lost_with_the_reason(story):
    cell = story.cells[story.CANCELLED_TWICE]

    assert (cell.outcome, story.ran[story.CANCELLED_TWICE]) == ("lost", 2)
    assert re.search(r"Job \d+_\d was cancelled on \S+ in phase train\. It was submitted 2 times\.", cell.reason)
    assert cell.details["slurm"]["attempt"] == 2
    assert f"harness: cell {cell.key}" in (story.bench.store.cell_folder(cell.key) / "log.txt").read_text()


def test_a_job_that_slurm_ends_at_its_time_limit_is_a_timeout_and_is_not_tried_again(story):
    cell = story.cells[story.TOO_LONG]

    assert (cell.outcome, cell.phase, story.ran[story.TOO_LONG]) == ("timeout", "train", 1)
    assert "at its time limit" in cell.reason


def test_a_job_goes_on_while_slurmd_is_killed_and_started_again(story):
    assert (story.cells[story.SLURMD_KILLED].outcome, story.ran[story.SLURMD_KILLED]) == ("ok", 1)


def test_a_job_whose_node_lost_power_is_run_again_by_slurm(story):
    assert (story.cells[story.POWER_CUT].outcome, story.ran[story.POWER_CUT]) == ("ok", 2)


def test_a_controller_that_is_away_for_a_moment_ends_nothing(story):
    """Nor is anything submitted twice: after the first array come the two jobs that were cancelled, and no other."""
    assert "controller does not answer" in story.said
    first, *again = map(int, re.findall(r"Submitted (\d) cells?", story.said))
    assert (first, sum(again)) == (5, 2)


def test_what_has_ended_is_reduced_however_it_ended(story):
    assert f"{story.CANCELLED_TWICE}: lost" in story.said
    assert "4 of 4 steps" not in story.said
    assert (story.bench.folder / "tables" / "cells.parquet").exists()
    assert story.bench.left() == []
    assert list(story.bench.home.runs.iterdir()) == []


def test_a_job_that_is_preempted_is_run_again_by_slurm(bench):
    bench.hold()
    sweep = bench.sweep("2.8.0", device="cpu")
    wait_for(lambda: len(bench.ran()) == 1, PATIENCE, "the cell to run")
    bench.cluster.command("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: set(bench.ran().values()) == {2}, PATIENCE, "the cell to run again")
    (bench.made / "hold").unlink()

    said = bench.finish(sweep)

    assert len(re.findall("Submitted", said)) == 1
    assert bench.cells()["2.8.0"].outcome == "ok"


def test_a_sweep_whose_terminal_is_killed_is_picked_up_again(bench):
    bench.hold()
    sweep = bench.sweep("2.7.1", "2.8.0", device="cpu")
    wait_for(lambda: len(bench.ran()) == 2, PATIENCE, "both cells to run")
    sweep.kill()
    sweep.wait()
    (bench.made / "hold").unlink()

    said = bench.finish(bench.command("--attach"))

    assert "Submitted" not in said
    assert {cell.outcome for cell in bench.cells().values()} == {"ok"}
    assert set(bench.ran().values()) == {1}
    assert bench.left() == []
    assert "under way" in bench.finish(bench.command("--attach"), 2)


def test_an_interrupt_leaves_the_jobs_and_says_how_to_go_on(bench):
    bench.hold()
    sweep = bench.sweep("2.8.0", device="cpu")
    # The job may run before the sweep has heard of it; an interrupt then is another story.
    wait_for(lambda: len(bench.ran()) == 1 and "Submitted" in bench.said(sweep), PATIENCE, "the cell to run")
    sweep.send_signal(signal.SIGINT)
    said = bench.finish(sweep, 130)
    assert len(bench.cluster.jobs()) == 1
    (bench.made / "hold").unlink()

    (name,) = (open_sweep.id for open_sweep in open_sweeps(bench.home))
    assert f"`harness sweep --attach {name}` picks them up" in said
    bench.finish(bench.command("--attach", name))
    assert set(bench.ran().values()) == {1}


def test_a_submission_whose_end_was_not_noted_is_found_by_its_name_and_not_made_again(bench):
    """The submitting process died after sbatch had taken the jobs, and before it could write their id down."""
    bench.hold()
    sweep = bench.sweep("2.7.1", "2.8.0", device="cpu")
    wait_for(lambda: list(root_of(bench.home).glob("arrays/*/job.json")), PATIENCE, "the submission")
    sweep.kill()
    sweep.wait()
    (noted,) = root_of(bench.home).glob("arrays/*/job.json")
    job = json.loads(noted.read_text())["job"]
    noted.unlink()
    (bench.made / "hold").unlink()

    said = bench.finish(bench.command("--attach"))

    assert "Submitted" not in said
    assert set(bench.ran().values()) == {1}
    assert {cell.outcome for cell in bench.cells().values()} == {"ok"}
    assert job.isdigit()


def test_a_submission_that_never_reached_slurm_is_made_again(bench):
    """The submitting process died after it had written down what it would submit, and before sbatch was called."""
    (bench.folder / "sites" / "2.8.0" / "torch").mkdir(parents=True)
    selection = Selection(
        ROOT / "matrix.yaml", bench.home.root, str(bench.folder / "passages.jsonl"), str(bench.folder / "ck"),
        threads=1, sites=bench.folder / "sites", site_python=bench.python, identity=cpu_device().identity,
    )  # fmt: skip
    key = Experiment(selection).spec("2.8.0").key
    sweep = Sweep("20260101-000000-abcd", "now", selection, ["2.8.0"], {}, Options(), output=bench.folder / "tables")
    save_sweep(bench.home, sweep)
    entries = [Entry(key, "2.8.0", 0, 1)]
    array = Ledger(root_of(bench.home)).create(sweep, selection, entries, 60, time.time() - 60)

    said = bench.finish(bench.command("--attach"))

    assert "Submitted 1 cell as" in said
    assert bench.ran() == {key: 1}
    assert bench.store.cells()[0].outcome == "ok"
    assert not array.folder.exists()
    assert bench.left() == []


def test_two_sweeps_at_once_share_the_jobs_of_the_cells_that_both_need(bench):
    bench.hold()
    one = bench.sweep("2.7.1", "2.8.0", device="cpu")
    wait_for(lambda: len(bench.ran()) == 2, PATIENCE, "both cells to run")
    two = bench.sweep("2.6.0", "2.7.1", "2.8.0", device="cpu")
    wait_for(lambda: len(bench.ran()) == 3, PATIENCE, "the third cell to run")
    (bench.made / "hold").unlink()
    bench.finish(one)
    bench.finish(two)

    assert set(bench.ran().values()) == {1}
    assert {cell.outcome for cell in bench.cells().values()} == {"ok"}
    assert bench.left() == []


def test_a_partition_that_is_not_there_is_one_sentence_and_leaves_nothing(bench):
    said = bench.finish(bench.sweep("2.8.0", "--partition", "nowhere"), 2)

    assert "sbatch refused the jobs: " in said
    assert "nowhere" in said
    assert "Traceback" not in said
    assert bench.left() == []


def test_a_job_that_would_wait_for_ever_is_not_waited_for(bench):
    said = bench.finish(bench.sweep("2.8.0", "--partition", "short"), 2)

    assert "would wait for ever (PartitionTimeLimit)" in said
    assert bench.cluster.jobs() == []


def write_wheel(folder: Path, made: Path) -> tuple[Path, str]:
    """A wheel called torch 2.8.0 that answers for the worker when an interpreter starts; returns it and its digest."""
    body = "import os, sys\nif 'harness.worker' in sys.orig_argv:\n    sys.argv = sys.orig_argv\n"
    body += f"    exec(open({str(made)!r}).read())\n    os._exit(0)\n"
    files = {
        "sitecustomize.py": body,
        "torch-2.8.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\n",
        "torch-2.8.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["torch-2.8.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    path = folder / "torch-2.8.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_jobs_that_need_the_same_environment_build_it_once_and_the_last_one_s_end_evicts_it(bench, tmp_path):
    """Real uv, and a wheel that stands in for torch; three jobs ask for the environment at the same time."""
    wheel, digest = write_wheel(tmp_path, bench.made / "worker.py")
    (tmp_path / "matrix.yaml").write_text((ROOT / "matrix.yaml").read_text())
    lock = lock_path(tmp_path / "locks", "2.8.0", "cpu")
    lock.parent.mkdir(parents=True)
    lock.write_text(f"torch==2.8.0 \\\n    --hash=sha256:{digest}\n")
    bench.environment |= {"UV_FIND_LINKS": str(wheel.parent), "UV_NO_INDEX": "1", "UV_OFFLINE": "1"}
    options = ["--collection", str(tmp_path / "passages.jsonl"), "--checkpoint", str(tmp_path / "ck")]
    options += ["--matrix", str(tmp_path / "matrix.yaml"), "--threads", "1", "--device", "cpu"]
    bench.hold()
    sweep = bench.command("2.8.0", "--repeat", "2.8.0=2", "--executor", "slurm", "--evict", *options)
    wait_for(lambda: len(bench.ran()) == 3, PATIENCE, "all cells to run")
    assert len([path for path in bench.home.environments.iterdir() if path.is_dir()]) == 1
    logs = [path.read_text() for path in bench.home.root.glob("slurm/arrays/*/*_log.out")]
    (bench.made / "hold").unlink()
    bench.finish(sweep)

    assert sum("building the environment" in log for log in logs) == 1
    assert len(logs) == 3
    assert {cell.outcome for cell in bench.cells().values()} == {"ok"}
    assert set(bench.ran().values()) == {1}
    assert [path.name for path in bench.home.environments.iterdir() if path.is_dir()] == []

"""A sweep runs every cell once, on every GPU, whatever happens to it and whoever else is at work."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from harness.environments import build, device, uv
from harness.environments.device import Device, Gpu, choose_gpus
from harness.environments.supervise import Control, Stopped
from harness.errors import InfrastructureError, UsageError
from harness.flock import owner, try_hold
from harness.home import Home
from harness.inputs.jobs import Retry
from harness.running import plan as plan_module
from harness.running import sweep, work
from harness.running.experiment import Experiment
from harness.running.job import JobResult, Workbench
from harness.running.plan import plan_cells
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.running.sweep import LocalExecutor
from harness.store.audit import verify
from harness.store.cell import Cell
from harness.store.store import Store
from tests.reliability.bench import alive
from tests.support.cell_specs import cell
from tests.support.programs import FAKE
from tests.support.standin import VERSIONS, WELL, harness_program, make_inputs, make_sites, ran

ROOT = Path(__file__).parents[2]
GPUS = tuple(Gpu(str(n), f"GPU-{n}", "cuda Pretended 9.0") for n in range(2))


class Bench:
    """Sweeps in this process, in one home, with a stand-in job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = make_inputs(folder)
        self.said = io.StringIO()

    def experiment(self, body: str = WELL, seconds: float = 0.2, *, sites: bool = True, **changes: Any) -> Experiment:
        folder = self.folder / "made"
        if not folder.exists():
            folder.mkdir()
            self.sites = make_sites(folder, body, seconds)
        options: dict[str, Any] = {
            "matrix_path": ROOT / "matrix.yaml",
            "home": self.folder / "home",
            "collection": self.inputs[1],
            "checkpoint": self.inputs[3],
            "threads": 1,
            "identity": "cpu Pretended",
        }
        if sites:
            options |= {"sites": Path(self.sites[1]), "site_python": Path(self.sites[3])}
        return Experiment(Selection(**{**options, **changes}))

    def run(
        self, experiment: Experiment, versions=VERSIONS, repeats=None, executor: LocalExecutor | None = None, **options
    ) -> list[Cell]:
        plan = plan_cells(experiment, list(versions), repeats or {})
        with Board([], Console(file=self.said, width=200)) as board:
            return (executor or LocalExecutor()).run(experiment, plan, board, **{"evict_after": False, **options})

    def ran(self) -> list[str]:
        return ran(self.folder / "made")

    @property
    def store(self) -> Store:
        return Store(self.folder / "home" / "store")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "wait_before", lambda _retry, _tries: 0.05)
    return Bench(tmp_path)


def until(condition, patience: float = 300.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def outcomes(cells: list[Cell]) -> dict[str, str]:
    return {cell.label: cell.outcome for cell in cells}


def test_cells_come_back_in_the_order_of_the_plan_and_each_runs_once(bench):
    cells = bench.run(bench.experiment(), repeats={"2.7.0": 1}, executor=LocalExecutor(jobs=3))

    assert [cell.label for cell in cells] == ["2.6.0", "2.7.0", "2.7.0#1", "2.7.1", "2.8.0"]
    assert set(outcomes(cells).values()) == {"ok"}
    assert sorted(bench.ran()) == sorted([*VERSIONS, "2.7.0"])
    assert verify(bench.store).findings == ()
    assert list((bench.folder / "home" / "runs").iterdir()) == []


def test_a_second_sweep_runs_nothing_and_returns_the_same_cells(bench):
    first = bench.run(bench.experiment())

    assert bench.run(bench.experiment()) == first
    assert len(bench.ran()) == len(VERSIONS)


# ---- GPUs


SEEN = (
    "mine = made / ('on-' + os.environ['CUDA_VISIBLE_DEVICES'])\n"
    "mine.mkdir()\n"  # fails if another job is there
    "end = time.time() + 120\n"
    "(made / ('was-' + mine.name)).touch()\n"
    # A GPU whose thread comes late must not find that the other one has done it all.
    "while len(list(made.glob('was-on-*'))) < 2 and not (made / 'go').exists() and time.time() < end:\n"
    "    time.sleep(0.02)\n"
    "time.sleep(SECONDS); mine.rmdir()\n"
    "ran(os.environ['CUDA_VISIBLE_DEVICES']); phase('encode'); index(); result()\n"
)


def test_cells_run_on_every_gpu_and_one_at_a_time_on_each(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    experiment = bench.experiment(SEEN, identity=GPUS[0].identity)

    cells = bench.run(experiment, executor=LocalExecutor(gpus=GPUS))

    assert outcomes(cells) == dict.fromkeys(VERSIONS, "ok")
    used = [line.split()[3] for line in (bench.folder / "made" / "ran").read_text().splitlines()]
    assert set(used) == {"0", "1"}
    assert {(c.details["gpu"]["index"], c.details["gpu"]["uuid"]) for c in cells} == {("0", "GPU-0"), ("1", "GPU-1")}


def free(path: Path) -> bool:
    """Whether nobody holds a lock now."""
    held = try_hold(path)
    if held is not None:
        held.release()
    return held is not None


TWO_RANKS = {"nranks": 2, "collection": "embedded", "limit": 9}


def test_a_job_of_two_ranks_has_two_gpus_to_itself(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    experiment = bench.experiment(SEEN.replace("< 2", "< 1"), identity=GPUS[0].identity, **TWO_RANKS)

    cells = bench.run(experiment, VERSIONS[:2], executor=LocalExecutor(gpus=GPUS))

    assert outcomes(cells) == dict.fromkeys(VERSIONS[:2], "ok")
    assert [line.split()[3] for line in (bench.folder / "made" / "ran").read_text().splitlines()] == ["0,1", "0,1"]
    assert cells[0].details["gpu"] == {"index": "0,1", "uuid": "GPU-0,GPU-1"}


def test_a_job_of_two_ranks_waits_for_each_of_its_gpus(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    experiment = bench.experiment(identity=GPUS[0].identity, **TWO_RANKS)
    held = try_hold(device.gpu_lock(experiment.home, GPUS[1]))
    assert held is not None
    running = threading.Thread(target=lambda: bench.run(experiment, ["2.8.0"], executor=LocalExecutor(gpus=GPUS)))

    running.start()
    until(lambda: "GPU 1 is in use by another sweep" in bench.said.getvalue())
    # It holds none while it waits: others may use it.
    until(lambda: free(device.gpu_lock(experiment.home, GPUS[0])))
    assert bench.ran() == []
    held.release()
    running.join(300)

    assert bench.ran() == ["2.8.0"]


@pytest.mark.parametrize(("ranks", "teams"), [(1, ["0", "1", "2"]), (2, ["01"]), (3, ["012"])])
def test_gpus_go_in_teams_of_as_many_as_a_job_has_ranks(ranks, teams):
    three = [*GPUS, device.Gpu("2", "GPU-2", GPUS[0].identity)]

    assert ["".join(gpu.index for gpu in team) for team in device.teams(three, ranks)] == teams
    assert device.teams([], ranks) == []
    with pytest.raises(UsageError, match=r"nranks is 4 .* there are 3 GPUs \(0, 1, 2\): use --nranks 3, or more GPUs"):
        device.teams(three, 4)


def test_which_gpu_a_cell_ran_on_is_not_in_its_key(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    experiment = bench.experiment(identity=GPUS[0].identity)
    bench.run(experiment, ["2.8.0"], executor=LocalExecutor(gpus=GPUS[:1]))
    bench.run(bench.experiment(identity=GPUS[0].identity), ["2.8.0"], executor=LocalExecutor(gpus=GPUS[1:]))

    assert bench.ran() == ["2.8.0"]


def test_several_jobs_at_a_time_share_a_gpu_if_the_user_says_so(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    body = "open(made / cell['key'], 'w').close(); end = time.time() + 120\n"
    body += "while len(list(made.glob('?' * 32))) < 2 and time.time() < end: time.sleep(0.05)\n" + WELL
    experiment = bench.experiment(body, identity=GPUS[0].identity)

    bench.run(experiment, VERSIONS[:2], executor=LocalExecutor(gpus=GPUS[:1], jobs=2))

    lines = (bench.folder / "made" / "ran").read_text().splitlines()
    assert len(lines) == 2
    # Neither went on before the other was there.
    seconds = [c.details["wall_seconds"] for c in bench.store.cells()]
    assert max(seconds) < 120


def test_two_sweeps_at_once_do_not_share_a_gpu(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    done: list[Cell] = []
    bench.experiment(SEEN, seconds=0.4)

    def sweep_over(*versions: str) -> None:
        experiment = bench.experiment(identity=GPUS[0].identity)
        done.extend(bench.run(experiment, versions, executor=LocalExecutor(gpus=GPUS[:1])))

    threads = [threading.Thread(target=sweep_over, args=pair) for pair in (VERSIONS[:2], VERSIONS[2:])]
    for thread in threads:
        thread.start()
    until(lambda: f"GPU 0 is in use by another sweep (process {os.getpid()}" in bench.said.getvalue())
    (bench.folder / "made" / "go").touch()
    for thread in threads:
        thread.join(300)

    assert outcomes(done) == dict.fromkeys(VERSIONS, "ok")


ALONE = (
    "mine = made / 'on-0'\n"
    "mine.mkdir()\n"  # fails if another job is there
    "time.sleep(SECONDS); mine.rmdir()\n"
    "ran(); phase('encode'); index(); result()\n"
)


def one_gpu(_question: str, _columns: int) -> list[list[str]]:
    return [["0", "GPU-0", "Pretended", "9.0"]] if "compute-apps" not in _question else []


def test_jobs_of_other_commands_wait_for_the_gpu_as_those_of_sweeps_do(bench, monkeypatch, tmp_path):
    """`swap` and a pair's runs index without naming a GPU; `locate`, `blame` and `probe` run steps on a workbench."""
    monkeypatch.setattr(device, "query_driver", one_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    experiment = bench.experiment(ALONE, identity=GPUS[0].identity)
    said: list[str] = []
    workbench = Workbench(experiment.home, experiment.checkpoint.path, "cuda", say=said.append)
    interpreter = experiment.brought("2.8.0")
    assert interpreter is not None
    held = try_hold(device.gpu_lock(experiment.home, GPUS[0]))
    assert held is not None
    done: list[Any] = []
    works: list[Callable[[], Any]] = [
        lambda: workbench.run(experiment.spec("2.8.0"), interpreter, "step", {}, tmp_path / "step"),
        # Several jobs of one command, one after the other.
        lambda: [bench.run(experiment, [version], executor=LocalExecutor(gpus=())) for version in VERSIONS[:2]],
        lambda: bench.run(experiment, VERSIONS[2:], executor=LocalExecutor(gpus=GPUS[:1])),
    ]
    threads = [threading.Thread(target=lambda work=work: done.append(work())) for work in works]
    for thread in threads:
        thread.start()
    words = f"GPU 0 is in use by another command (process {os.getpid()} on "
    until(lambda: said and words in bench.said.getvalue())
    assert said[0].startswith(words)
    until(lambda: "GPU 0 is in use by another sweep" in bench.said.getvalue())
    assert bench.ran() == []
    held.release()
    for thread in threads:
        thread.join(300)

    assert sorted(bench.ran()) == sorted([*VERSIONS, "2.8.0"])
    assert {cell.outcome for cell in bench.store.cells()} == {"ok"}
    assert [one.outcome for one in done if isinstance(one, JobResult)] == ["ok"]


def test_a_job_that_waits_for_the_gpu_can_be_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "query_driver", one_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    control = Control()
    held = try_hold(device.gpu_lock(Home(tmp_path), GPUS[0]))
    assert held is not None

    with held, pytest.raises(Stopped), device.gpu_turn(Home(tmp_path), "cuda", lambda _words: control.stop(), control):
        pytest.fail("it had its turn")


def test_a_gpu_has_as_many_places_as_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "query_driver", one_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("HARNESS_JOBS", "2")
    home, waits = Home(tmp_path), Control()

    with device.gpu_turn(home, "cuda", pytest.fail), device.gpu_turn(home, "cuda", pytest.fail):
        with pytest.raises(Stopped), device.gpu_turn(home, "cuda", lambda _words: waits.stop(), waits):
            pytest.fail("there is no third place")
        assert sorted(path.name for path in (home.locks / "gpus").iterdir()) == ["GPU-0.0.lock", "GPU-0.1.lock"]


def test_a_job_that_is_told_of_no_gpu_waits_for_as_many_as_it_has_ranks(monkeypatch, tmp_path):
    two = [["0", "GPU-0", "Pretended", "9.0"], ["1", "GPU-1", "Pretended", "9.0"]]
    monkeypatch.setattr(device, "query_driver", lambda *_a: two)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    home, waits = Home(tmp_path), Control()
    said: list[str] = []

    def stop(words: str) -> None:
        said.append(words)
        waits.stop()

    with device.gpu_turn(home, "cuda", pytest.fail, ranks=2) as places:
        assert len(places) == 2
    held = try_hold(device.gpu_lock(home, GPUS[1]))
    assert held is not None
    with held:
        with device.gpu_turn(home, "cuda", pytest.fail) as places:
            assert len(places) == 1
        with pytest.raises(Stopped), device.gpu_turn(home, "cuda", stop, waits, ranks=2):
            pytest.fail("it had its turn")
    assert said[0].startswith("GPU 1 is in use by another command")


@pytest.mark.parametrize("wanted", ["0", "65", "two", "-1"])
def test_a_number_of_places_that_is_none_is_refused(monkeypatch, tmp_path, wanted):
    monkeypatch.setattr(device, "query_driver", one_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("HARNESS_JOBS", wanted)

    with pytest.raises(UsageError, match=f"HARNESS_JOBS is '{wanted}'; set it to a number from 1 to 64"):
        device.gpu_turn(Home(tmp_path), "cuda", pytest.fail).__enter__()


def smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an nvidia-smi on the path; it gets the question as $1."""
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


TWO_GPUS = "0, GPU-0, Pretended, 9.0\n1, GPU-1, Pretended, 9.0\n2, GPU-2, Other, 8.0\n"


def test_a_foreign_process_on_the_gpu_is_recorded_and_said(bench, monkeypatch, tmp_path):
    # Its parent ends at once, so that it does not descend from this process.
    started = subprocess.run(["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True)
    stranger = int(started.stdout)
    script = (
        'case "$1" in *compute-apps*) [ -e ' + str(tmp_path / "made" / "ran") + " ] && "
        f"echo 'GPU-0, {stranger}, /usr/bin/train, with comma, 512' && echo 'GPU-1, 1, other, 5';; "
        f"*) printf '{TWO_GPUS.encode('unicode_escape').decode()}';; esac\n"
    )
    smi(tmp_path / "bin", script, monkeypatch)
    try:
        cells = bench.run(bench.experiment(identity=GPUS[0].identity), ["2.8.0"], executor=LocalExecutor(gpus=GPUS[:1]))
    finally:
        os.kill(stranger, signal.SIGKILL)

    assert cells[0].outcome == "ok"
    assert cells[0].details["foreign_processes"] == [
        {"pid": stranger, "name": "/usr/bin/train,with comma", "mebibytes": 512}
    ]
    assert f"warning: GPU 0 was shared with /usr/bin/train,with comma (process {stranger})" in bench.said.getvalue()


def test_a_process_of_ours_is_not_foreign():
    child = subprocess.Popen(["sleep", "60"])
    try:
        ours = device.Process(child.pid, "x", 1)
        first = device.Process(1, "init", 1)
        elsewhere = device.Process(2**22 + 5, "in another namespace", 1)
        assert device.foreign([ours, first, elsewhere], alone=True) == [first, elsewhere]
        assert device.foreign([ours, first, elsewhere], alone=False) == [first]
    finally:
        child.kill()
        child.wait()


def test_gpus_are_chosen_by_number_among_those_of_the_device_s_model(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    smi(tmp_path / "bin", f"printf '{TWO_GPUS.encode('unicode_escape').decode()}'\n", monkeypatch)
    device = Device("cuda", "cuda Pretended 9.0")

    assert choose_gpus(device, None) == choose_gpus(device, "all") == list(GPUS)
    assert choose_gpus(device, "1") == [GPUS[1]]
    assert choose_gpus(device, "1, 0") == [GPUS[1], GPUS[0]]
    for wrong in ("2", "0,0", "x", ""):
        with pytest.raises(UsageError, match="--gpus"):
            choose_gpus(device, wrong)
    with pytest.raises(UsageError, match="--gpus 0"):
        choose_gpus(Device("cpu", "cpu Pretended"), "0")
    assert choose_gpus(Device("cpu", "cpu Pretended"), None) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert choose_gpus(device, None) == [GPUS[1]]


# ---- what the machine does, and what the version does

LOST = (
    "ran()\n"
    "if not (made / 'once').exists():\n"
    "    (made / 'once').touch(); phase('encode')\n"
    "    sys.exit('RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable')\n"
    "index(); result()\n"
)


def test_a_gpu_that_was_lost_for_a_moment_is_tried_again_and_the_cell_says_so(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])

    cells = bench.run(
        bench.experiment(LOST, identity=GPUS[0].identity), ["2.8.0"], executor=LocalExecutor(gpus=GPUS[:1])
    )

    assert outcomes(cells) == {"2.8.0": "ok"}
    assert bench.ran() == ["2.8.0"] * 2
    (first,) = cells[0].details["tried"]
    assert (first["outcome"], first["cause"]) == ("lost", "gpu_lost")
    assert "busy or unavailable" in first["reason"]
    assert "Try 2 of 3" in bench.said.getvalue()


def test_a_job_that_crashes_is_not_tried_again(bench):
    cells = bench.run(bench.experiment("ran(); phase('encode'); sys.exit('ValueError: no')\n"), ["2.8.0"])

    assert outcomes(cells) == {"2.8.0": "crashed"}
    assert bench.ran() == ["2.8.0"]


def test_tries_are_bounded_and_the_last_one_is_the_cell(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    experiment = bench.experiment(LOST.replace("touch", "exists"), identity=GPUS[0].identity)

    cells = bench.run(experiment, ["2.8.0"], executor=LocalExecutor(gpus=GPUS[:1]))

    assert outcomes(cells) == {"2.8.0": "lost"}
    assert bench.ran() == ["2.8.0"] * experiment.job.retry.tries
    assert cells[0].details["cause"] == "gpu_lost"
    assert len(cells[0].details["tried"]) == experiment.job.retry.tries - 1


def test_a_gpu_that_stays_lost_is_given_up_and_the_others_do_its_cells(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    body = (
        "ran(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "if os.environ['CUDA_VISIBLE_DEVICES'] == '0':\n"
        "    (made / 'was-lost').touch()\n"
        "    phase('encode'); sys.exit('CUDA error: no CUDA-capable device is detected')\n"
        "end = time.time() + 120\n"
        "while not (made / 'was-lost').exists() and time.time() < end: time.sleep(0.02)\n"
        "index(); result()\n"
    )
    experiment = bench.experiment(body, identity=GPUS[0].identity)

    cells = bench.run(experiment, executor=LocalExecutor(gpus=GPUS))

    assert outcomes(cells) == dict.fromkeys(VERSIONS, "ok")
    assert "GPU 0 is given up" in bench.said.getvalue()
    on_lost = [line for line in (bench.folder / "made" / "ran").read_text().splitlines() if line.endswith(" 0")]
    assert 1 <= len(on_lost) <= 2


def test_a_lost_run_does_not_take_the_place_of_one_that_ended_well(bench, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    body = (
        "ran()\n"
        "if (made / 'lose').exists(): phase('encode'); sys.exit('CUDA error: no CUDA-capable device is detected')\n"
        "index(); result()\n"
    )
    experiment = bench.experiment(body, identity=GPUS[0].identity)
    (good,) = bench.run(experiment, ["2.8.0"], executor=LocalExecutor(gpus=GPUS[:1]))
    (bench.folder / "made" / "lose").touch()
    plan = [replace(p, run=True) for p in plan_cells(experiment, ["2.8.0"], {})]
    with Board([], Console(file=bench.said)) as board:
        (again,) = LocalExecutor(gpus=GPUS[:1]).run(experiment, plan, board, evict_after=False)

    assert again.outcome == "lost"
    assert bench.store.get(good.key) == good


def again(bench: Bench, experiment: Experiment) -> list[Cell]:
    plan = [replace(p, run=True) for p in plan_cells(experiment, ["2.8.0"], {})]
    with Board([], Console(file=bench.said, width=400)) as board:
        return LocalExecutor().run(experiment, plan, board, evict_after=False)


def test_a_rerun_whose_environment_cannot_be_had_leaves_the_cell_and_says_so(bench, tmp_path):
    (good,) = bench.run(bench.experiment(), ["2.8.0"])

    Path(bench.sites[1]).rename(tmp_path / "elsewhere")
    (bad,) = again(bench, bench.experiment())
    (tmp_path / "elsewhere").rename(bench.sites[1])

    assert bad.outcome == "install_failed"
    assert bench.store.get(good.key) == good
    assert bench.store.attempts(good.key) == [bad]
    assert "ended well, stays" in bench.said.getvalue()
    assert bench.run(bench.experiment(), ["2.8.0"]) == [good]


def test_a_rerun_keeps_at_least_as_much_of_the_pipeline_as_the_cell_that_it_replaces(bench):
    (full,) = bench.run(bench.experiment(capture="full"), ["2.8.0"])
    (fresh,) = again(bench, bench.experiment(capture="final"))

    assert fresh.capture == "full"
    assert fresh.details["run"] != full.details["run"]
    assert bench.store.get(full.key) == fresh


@pytest.fixture
def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    state = tmp_path / "uv"
    state.mkdir()
    monkeypatch.setattr(build, "uv_command", lambda: [sys.executable, "-S", str(FAKE), str(state)])
    monkeypatch.setattr(uv, "uv_command", lambda: [sys.executable, "-S", str(FAKE), str(state)])
    return state


def built(bench: Bench, monkeypatch: pytest.MonkeyPatch, body: str, **changes: Any) -> Experiment:
    """An experiment whose environments a stand-in for uv builds; their interpreter runs `body`."""
    experiment = bench.experiment(body, sites=False, **changes)
    python = Path(bench.sites[3])
    monkeypatch.setattr(build.Environment, "python", property(lambda _self: python))
    return experiment


SAME = "version = '2.8.0'; "
"""The stand-in knows its version by its site folder; without one, each job makes the index of this version."""


def test_an_unreachable_package_index_is_tried_again(bench, fake_uv, monkeypatch):
    (fake_uv / "fail").write_text("error: Failed to fetch\n  cause: Connection refused (os error 111)\n")
    waits: list[int] = []

    def wait(_retry: Retry, tries: int) -> float:
        waits.append(tries)
        (fake_uv / "fail").unlink()
        return 0.01

    monkeypatch.setattr(work, "wait_before", wait)
    cells = bench.run(built(bench, monkeypatch, SAME + WELL), ["2.8.0"])

    assert outcomes(cells) == {"2.8.0": "ok"}
    assert waits == [1]


def test_a_package_that_does_not_install_is_not_tried_again(bench, fake_uv, monkeypatch):
    (fake_uv / "fail").write_text("error: Failed to build `lit==18.1.8`\n")

    cells = bench.run(built(bench, monkeypatch, SAME + WELL), ["2.7.1", "2.8.0"])

    assert outcomes(cells) == {"2.7.1": "install_failed", "2.8.0": "install_failed"}
    assert len([line for line in (fake_uv / "calls").read_text().splitlines() if line.startswith("pip")]) == 2


def looks_at_environments(wanted: str) -> str:
    """A job that waits until the environments are the `wanted` ones of `versions`, and a moment for any other to come.

    In `wanted`, `mine` is the job's number, from 1; what there is then goes to a file.
    """
    return (
        f"ran(); mine = len((made / 'ran').read_text().splitlines()); versions = {list(VERSIONS)}\n"
        "def there():\n"
        "    names = os.listdir(made.parent / 'home' / 'envs')\n"
        "    return sorted({name.split('-')[0] for name in names if name[0].isdigit()})\n"
        "end = time.time() + 120\n"
        f"while there() != {wanted} and time.time() < end: time.sleep(0.05)\n"
        "time.sleep(1); (made / ('envs-' + cell['key'])).write_text(' '.join(there()))\n"
        "phase('encode'); index(); result()\n"
    )


def environments_seen(bench: Bench, cells: list[Cell]) -> list[list[str]]:
    return [(bench.folder / "made" / f"envs-{cell.key}").read_text().split() for cell in cells]


@pytest.mark.slow
def test_the_next_environment_is_built_while_a_job_runs_and_not_those_after_it(bench, fake_uv, monkeypatch):
    body = SAME + looks_at_environments("versions[: mine + 1]")

    cells = bench.run(built(bench, monkeypatch, body))

    assert outcomes(cells) == dict.fromkeys(VERSIONS, "ok")
    assert environments_seen(bench, cells) == [list(VERSIONS[: number + 2]) for number in range(len(VERSIONS))]


@pytest.mark.slow
def test_evicting_keeps_the_environment_at_work_and_the_next_one(bench, fake_uv, monkeypatch):
    body = SAME + looks_at_environments("versions[mine - 1 : mine + 1]")

    cells = bench.run(built(bench, monkeypatch, body), evict_after=True)

    assert outcomes(cells) == dict.fromkeys(VERSIONS, "ok")
    assert environments_seen(bench, cells) == [list(VERSIONS[number : number + 2]) for number in range(len(VERSIONS))]
    assert [path for path in (bench.folder / "home" / "envs").iterdir() if path.is_dir()] == []
    assert bench.said.getvalue().count("deleted the environment") == len(VERSIONS)


def test_a_version_that_cannot_run_on_the_device_gets_no_environment(bench, fake_uv, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda *_a: [])
    experiment = built(bench, monkeypatch, SAME + WELL, identity="cuda NVIDIA H100 80GB HBM3 9.0")

    cells = bench.run(experiment, ["2.0.1"])

    assert outcomes(cells) == {"2.0.1": "unsupported"}
    assert "none of which runs on" in cells[0].reason
    assert not (fake_uv / "calls").exists()


def test_an_interpreter_that_cannot_be_started_is_the_cell_s_outcome(bench):
    experiment = bench.experiment()
    plan = plan_cells(experiment, ["2.7.1", "2.8.0"], {})
    python = Path(bench.sites[3])
    python.chmod(0o644)
    with Board([], Console(file=bench.said)) as board:
        cells = LocalExecutor().run(experiment, plan, board, evict_after=False)

    assert outcomes(cells) == {"2.7.1": "import_failed", "2.8.0": "import_failed"}
    assert "cannot be started" in cells[0].reason


def test_a_cell_whose_tensors_were_lost_runs_again(bench):
    first = bench.run(bench.experiment(), ["2.7.1", "2.8.0"])
    lost = first[0].artifacts["centroids"]
    bench.store.object_path(lost.digest).unlink()

    experiment = bench.experiment()
    assert [(p.run, "centroids" in p.why) for p in plan_cells(experiment, ["2.7.1", "2.8.0"], {})] == [(True, True)] * 2

    again = bench.run(experiment, ["2.7.1", "2.8.0"])

    assert [c.artifacts for c in again] == [c.artifacts for c in first]
    assert verify(bench.store).findings == ()


def test_waits_double_up_to_a_limit_and_are_never_quite_the_same():
    retry = Retry(tries=9, first_wait_seconds=4, longest_wait_seconds=20)
    # The fixture that replaces it is not in use here.
    waits = [[work.wait_before(retry, n) for _ in range(50)] for n in range(1, 6)]

    for found, longest in zip(waits, (4, 8, 16, 20, 20), strict=True):
        assert longest / 2 <= min(found) < max(found) <= longest
        assert len(set(found)) > 10


# ---- other sweeps


class Line:
    """`harness sweep` in a process of its own, over stand-in sites."""

    def __init__(self, folder: Path, body: str = WELL, seconds: float = 0.5) -> None:
        self.folder = folder
        self.made = folder / "made"
        self.made.mkdir()
        inputs = make_inputs(folder)
        self.options = [*inputs, "--device", "cpu", *make_sites(self.made, body, seconds)]
        self.options += ["--output", str(folder / "tables")]
        self.logs: dict[int, Path] = {}

    def start(self, *more: str, home: str = "home", patches: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        log = self.folder / f"said-{len(self.logs)}"
        with log.open("w") as err:
            process = subprocess.Popen(
                [
                    *harness_program(*patches),
                    "sweep",
                    *VERSIONS,
                    *self.options,
                    "--home",
                    str(self.folder / home),
                    *more,
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        self.logs[process.pid] = log
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """What a sweep has said so far on its standard error."""
        return self.logs[process.pid].read_text()

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for a sweep; its exit code and what it said."""
        out, _ = process.communicate(timeout=300)
        return process.returncode, out, self.said(process)

    def run(self, *more: str, **options: Any) -> tuple[int, str, str]:
        return self.end(self.start(*more, **options))

    def interrupt(self, process: subprocess.Popen[str]) -> None:
        """Ctrl-C, once; a second one that came before the first was seen would be the same one."""
        process.send_signal(signal.SIGINT)
        until(lambda: "Stopping: " in self.said(process))

    def store(self, home: str = "home") -> Store:
        return Store(self.folder / home / "store")

    def wait_for(self, text: str, number: int = 1) -> None:
        """Wait until jobs have written a text `number` times into `ran`."""
        path = self.made / "ran"
        until(lambda: path.exists() and path.read_text().count(text) >= number)


def test_two_sweeps_at_once_share_their_cells_and_run_each_once(tmp_path):
    line = Line(tmp_path)
    sweeps = [line.start("--output", str(tmp_path / f"tables{n}")) for n in range(2)]
    done = [line.end(process) for process in sweeps]

    assert [code for code, _, _ in done] == [1, 1], done
    assert sorted(ran(line.made)) == sorted(VERSIONS)
    assert {cell.outcome for cell in line.store().cells()} == {"ok"}
    assert verify(line.store()).findings == ()
    for name in ("artifacts", "comparisons", "consecutive", "cells", "env_delta"):
        first, second = ((tmp_path / f"tables{n}" / f"{name}.parquet").read_bytes() for n in range(2))
        assert first == second


def test_a_cell_that_another_sweep_runs_is_waited_for_and_then_taken(bench):
    experiment = bench.experiment()
    key = experiment.spec("2.8.0").key
    path = experiment.home.cell_lock(key)
    held = try_hold(path)
    assert held is not None
    assert owner(path)["pid"] == os.getpid()
    other = bench.experiment()
    other_cells: list[Cell] = []

    waiting = threading.Thread(target=lambda: other_cells.extend(bench.run(other, ["2.7.1", "2.8.0"])))
    waiting.start()
    until(lambda: f"run by process {os.getpid()}" in bench.said.getvalue())
    assert bench.ran() == ["2.7.1"]
    first = bench.store.get(experiment.spec("2.7.1").key)
    assert first is not None
    spec = experiment.spec("2.8.0")
    theirs = bench.store.put(replace(first, key=spec.key, spec=spec, capture="full"))
    held.release()
    waiting.join(300)

    assert other_cells[1] == theirs
    assert bench.ran() == ["2.7.1"]


def test_the_lock_file_of_a_dead_process_holds_nobody_up(bench):
    experiment = bench.experiment()
    path = experiment.home.cell_lock(experiment.spec("2.8.0").key)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"pid": 999999, "host": "elsewhere", "since": 0}))

    assert outcomes(bench.run(experiment, ["2.8.0"])) == {"2.8.0": "ok"}


# ---- interruptions


SLOW = "ran('started'); phase('encode'); time.sleep(SECONDS); index(); result(); ran('ended')\n"
HELD = SLOW.replace("; time.sleep(SECONDS); ", "\nwhile (made / 'hold').exists(): time.sleep(0.02)\n")


def test_ctrl_c_once_lets_the_running_cell_end_and_starts_no_other(tmp_path):
    line = Line(tmp_path, HELD)
    (line.made / "hold").touch()
    process = line.start()
    line.wait_for("started")
    line.interrupt(process)
    (line.made / "hold").unlink()
    code, out, err = line.end(process)

    assert code == 3, err
    assert "Stopped: 3 of 4 cells did not run; the same command goes on where this one stopped." in err
    assert "Traceback" not in err
    assert [c.outcome for c in line.store().cells()] == ["ok"]
    assert (tmp_path / "tables" / "consecutive.parquet").exists()
    assert "Tables:" in out
    assert verify(line.store()).findings == ()
    assert ran(line.made) == ["2.6.0"] * 2

    assert line.run()[0] == 1
    assert sorted(set(ran(line.made))) == sorted(VERSIONS)
    assert (line.made / "ran").read_text().count("started") == len(VERSIONS)


def job_pids(made: Path) -> list[int]:
    return [int(line.split()[2]) for line in (made / "ran").read_text().splitlines()]


def test_ctrl_c_twice_ends_the_running_cell_at_once_and_leaves_the_store_whole(tmp_path):
    line = Line(tmp_path, SLOW, seconds=600)
    process = line.start()
    line.wait_for("started")
    line.interrupt(process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = line.end(process)

    assert code == 130
    assert "interrupted" in err
    assert not Path(f"/proc/{job_pids(line.made)[0]}").exists()
    assert line.store().cells() == []
    assert verify(line.store()).findings == ()
    assert list((tmp_path / "home" / "runs").iterdir()) == []


def test_sigterm_gives_the_running_cell_a_while_and_then_ends_it(tmp_path):
    """A scheduler kills half a minute after it asks."""
    line = Line(tmp_path, SLOW, seconds=600)
    process = line.start(patches=("from harness.running import sweep", "sweep._TERM_PATIENCE = 1.0"))
    line.wait_for("started")
    process.send_signal(signal.SIGTERM)
    code, _, err = line.end(process)

    assert code == 130
    assert "Stopping" in err
    assert not Path(f"/proc/{job_pids(line.made)[0]}").exists()
    assert line.store().cells() == []


def test_stopping_before_any_cell_has_ended_is_a_sentence(bench, monkeypatch):
    experiment = bench.experiment()
    plan = plan_cells(experiment, ["2.8.0"], {})
    board = Board([], Console(file=bench.said))
    running = work.Work(experiment, plan, board, 1, evict_after=False)
    running.control.finishing.set()

    assert sweep._Sweep(running, sweep.Slots(experiment.home, (), 1, board.note)).run() == []
    assert plan_module.stopped_early(plan, []).startswith("Stopped: 1 of 1 cell did not run")
    assert plan_module.stopped_early(plan, [cell()]) == ""
    monkeypatch.setattr(sweep._Sweep, "run", lambda _self: [])
    with pytest.raises(InfrastructureError, match="before any cell had ended"):
        sweep.run_plan(experiment, plan, board, evict_after=False)


def tables(folder: Path) -> dict[str, Any]:
    """The tables' bytes; of the cells' table all but times."""
    found: dict[str, Any] = {
        name: (folder / f"{name}.parquet").read_bytes()
        for name in ("artifacts", "comparisons", "consecutive", "env_delta")
    }
    found["cells"] = pq.read_table(folder / "cells.parquet").drop_columns(["wall_seconds", "finished"]).to_pylist()
    return found


def digests(store: Store) -> dict[str, dict[str, str]]:
    return {cell.key: {name: a.digest for name, a in cell.artifacts.items()} for cell in store.cells()}


KILL = (
    "import itertools, os, signal",
    "from pathlib import Path",
    "count = itertools.count()",
    "def deadly(original):",
    "    def call(*arguments, **options):",
    "        if next(count) == {number}: os.kill(os.getpid(), signal.SIGKILL)",
    "        return original(*arguments, **options)",
    "    return call",
    "os.fsync, os.replace, os.rename = map(deadly, (os.fsync, os.replace, os.rename))",
)
"""Kill the harness before the n-th time that it syncs or renames a file."""


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_tables_of_one_that_was_not(tmp_path):
    line = Line(tmp_path, WELL, seconds=0.1)
    code, _, err = line.run(
        "--output",
        str(tmp_path / "whole"),
        home="other",
    )
    assert code == 1, err

    killed = 0
    for number in (0, 3, 11, 17, 29, 40, 41, 42):
        code, _, err = line.run(patches=tuple(text.format(number=number) for text in KILL))
        killed += code == -signal.SIGKILL
        found = verify(line.store()).findings
        assert {f.kind for f in found} <= {"leftover", "orphan"}, found
    assert killed >= 5
    code, _, err = line.run()

    assert code == 1, err
    assert tables(tmp_path / "tables") == tables(tmp_path / "whole")
    assert digests(line.store()) == digests(line.store("other"))
    gc = subprocess.run(
        [*harness_program(), "store", "gc", "--home", str(tmp_path / "home")], cwd=ROOT, check=True, capture_output=True
    )
    assert re.search(r"removed \d+ items?,", gc.stdout.decode())
    assert verify(line.store()).findings == ()
    assert list((tmp_path / "home" / "runs").iterdir()) == []


def test_a_job_dies_with_its_harness_and_the_next_sweep_says_that_it_was_lost(tmp_path):
    line = Line(tmp_path, SLOW, seconds=600)
    process = line.start()
    line.wait_for("started")
    pid = job_pids(line.made)[0]
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    process.kill()
    line.end(process)
    # The run is the supervisor's until it ends, a moment after the job.
    until(lambda: not alive(pid) and not alive(supervisor))

    again = line.start()
    line.wait_for("started", 2)
    lost = line.store().cells()
    again.kill()
    _, _, err = line.end(again)

    assert [(c.version, c.outcome, c.phase) for c in lost] == [("2.6.0", "lost", "encode")]
    assert f"The harness (process {process.pid} on" in lost[0].reason
    assert f"2.6.0: The harness (process {process.pid}" in err

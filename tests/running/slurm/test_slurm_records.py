"""What is asked of Slurm, and what its answers mean; commands that answer from a file stand in for it."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.environments.device import cpu_device
from harness.errors import UsageError
from harness.flock import try_hold
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from harness.running.experiment import Experiment
from harness.running.plan import plan_cells
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.running.slurm import follower as follower_module
from harness.running.slurm import node, record, start, submit
from harness.running.slurm.follower import verdict
from harness.running.slurm.queue import (
    GONE,
    Job,
    Refused,
    check_options,
    find,
    largest_array,
    last_words,
    log_path,
    states,
    submit_array,
)
from harness.running.slurm.record import (
    End,
    Entry,
    Ledger,
    Options,
    Sweep,
    Task,
    read_end,
    read_record,
    read_run,
    root_of,
    write_end,
    write_run,
)
from harness.running.slurm.start import absolute_paths, attach_sweep, close_sweep, open_sweeps, save_sweep
from harness.running.slurm.submit import resources, wall_minutes
from tests.support.cell_specs import cell
from tests.support.checkpoints import write_checkpoint
from tests.support.standin import PASSAGES

ROOT = Path(__file__).parents[3]
FAKE = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "$FAKE_SLURM/calls"
env > "$FAKE_SLURM/$name.env"
[ "$name" = sbatch ] && printf '%s\\n' "$@" > "$FAKE_SLURM/asked" && cat > "$FAKE_SLURM/batch"
cat "$FAKE_SLURM/$name.err" >&2 2>/dev/null
cat "$FAKE_SLURM/$name.out" 2>/dev/null
exit $(cat "$FAKE_SLURM/$name.rc" 2>/dev/null || echo 0)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, which answer what `NAME.out`, `NAME.err` and `NAME.rc` in this folder say."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    selection = Selection(tmp_path / "matrix.yaml", tmp_path / "home", "embedded", threads=1, identity="cuda X 9.0")
    return Sweep("20260101-000000-abcd", "2026-01-01", selection, ["2.7.1", "2.8.0"], {"2.8.0": 1}, Options("gpu"))


def array_of(home: Home, sweep: Sweep, count: int = 2) -> Task:
    entries = [Entry(f"{number:032x}", "2.8.0", number, 1) for number in range(count)]
    return Task(Ledger(root_of(home)).create(sweep, sweep.selection, entries, 60, 1.0), 0)


def quiet() -> Board:
    return Board([], Console(file=io.StringIO()))


# ---- records


def test_a_sweep_comes_back_from_its_record_as_it_was_until_it_is_closed(tmp_path, sweep):
    home = Home(tmp_path / "home")
    full = replace(sweep, output=tmp_path / "tables", evict=True, options=Options("gpu", {"mem": "64G"}, 1, 8))
    save_sweep(home, full)

    assert open_sweeps(home) == [full]
    array_of(home, full)
    close_sweep(home, full)
    assert open_sweeps(home) == []
    assert Ledger(root_of(home)).arrays() == []


def test_a_record_that_is_damaged_is_one_sentence_with_the_mend(tmp_path, sweep):
    home = Home(tmp_path / "home")
    save_sweep(home, sweep)
    (path,) = (root_of(home) / "sweeps").glob("*.json")

    newer = json.dumps({**json.loads(path.read_text()), "of_a_newer_release": True})
    for text in ("{", "[]", '{"schema": 99}', '{"schema": 1, "id": "x"}', newer):
        path.write_text(text)
        with pytest.raises(UsageError, match="delete it, and start the sweep again"):
            open_sweeps(home)


def test_the_first_word_on_how_a_task_ended_stays(tmp_path, sweep):
    """A node that finishes late does not contradict what a follower has acted on, nor the other way round."""
    task = array_of(Home(tmp_path / "home"), sweep)

    assert write_end(task, End("stored")) == End("stored")
    assert write_end(task, End("final", "lost", "It vanished.")) == End("stored")
    assert read_end(task) == End("stored")
    assert [path.name for path in task.array.folder.iterdir() if path.name.startswith(".")] == []


def test_a_task_of_a_dropped_array_leaves_nothing_behind(tmp_path, sweep):
    home = Home(tmp_path / "home")
    task = array_of(home, sweep)
    Ledger(root_of(home)).drop(task.array)

    assert write_end(task, End("stored")) == End("stored")
    write_run(task, "node1", "train")
    assert read_run(task) == ("", "")
    assert not task.array.folder.exists()


def test_a_ledger_sees_what_others_write(tmp_path, sweep):
    home = Home(tmp_path / "home")
    ledger = Ledger(root_of(home))
    task = array_of(home, sweep)
    ledger.refresh()
    assert [(t.array.name, t.number) for t in ledger.tasks()] == [(task.array.name, 0), (task.array.name, 1)]
    assert ledger.job(task.array) is None

    Ledger(root_of(home)).submitted(task.array, "77")
    write_end(task, End("again", reason="Lost."))
    write_run(task, "node1", "train")
    assert ledger.job(task.array) == "77"
    assert ledger.end(task) is None
    ledger.refresh()
    assert ledger.end(task) == End("again", reason="Lost.")
    assert read_run(task) == ("node1", "train")


def test_logs_tell_the_job_id_of_an_array_whose_submitter_died(tmp_path, sweep):
    home = Home(tmp_path / "home")
    task = array_of(home, sweep)
    assert Ledger(root_of(home)).traces(task.array) == ""

    log_path(task.array.folder, "123", 1).touch()

    assert Ledger(root_of(home)).traces(task.array) == "123"


def test_attaching_takes_the_only_sweep_or_the_one_that_is_named(tmp_path, sweep, fake):
    home = Home(tmp_path / "home")
    selection = Selection(ROOT / "matrix.yaml", home.root)
    with pytest.raises(UsageError, match="no sweep over Slurm is under way"):
        attach_sweep(selection, "")
    save_sweep(home, sweep)
    assert attach_sweep(selection, "") == sweep
    other = replace(sweep, id="20260102-000000-ef01")
    save_sweep(home, other)

    assert attach_sweep(selection, "20260102") == other
    for name in ("", "2026", "x"):
        with pytest.raises(UsageError, match=f"{sweep.id}.*{other.id}"):
            attach_sweep(selection, name)


# ---- what is asked


def test_one_command_line_is_submitted_as_an_array(fake, tmp_path):
    (fake / "sbatch.out").write_text("41\n")
    options = {"time": "90", "gres": "gpu:1", "comment": "it's mine", "requeue": ""}

    job = submit_array(tmp_path, "harness-x", ["/py thon", "-m", "harness.running.slurm.node"], 3, options, at_once=2)

    assert job == "41"
    assert (fake / "batch").read_text().splitlines() == ["#!/bin/sh", "exec '/py thon' -m harness.running.slurm.node"]
    assert {
        "--parsable", "--array=0-2%2", "--job-name=harness-x", "--time=90", "--gres=gpu:1", "--comment=it's mine",
        "--requeue", f"--output={log_path(tmp_path, '%A', '%a')}",
    } <= set((fake / "asked").read_text().splitlines())  # fmt: skip
    assert not (fake / "srun.env").exists()


def test_a_job_s_own_variables_do_not_decide_about_the_jobs_that_it_submits(fake, tmp_path, monkeypatch):
    (fake / "sbatch.out").write_text("41\n")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")

    submit_array(tmp_path, "harness-x", ["true"], 1, {})

    seen = (fake / "sbatch.env").read_text()
    assert "SLURM_MEM_PER_NODE" not in seen
    assert "SLURM_CONF=/etc/other.conf" in seen
    assert os.environ["SLURM_MEM_PER_NODE"] == "1"


@pytest.mark.parametrize(
    ("said", "temporary"),
    [
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", False),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Job violates accounting/QOS policy", True),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", False),
    ],
)
def test_a_refusal_says_what_sbatch_said_and_whether_it_may_pass(fake, tmp_path, said, temporary):
    (fake / "sbatch.err").write_text(said + "\n")
    (fake / "sbatch.rc").write_text("1")

    with pytest.raises(Refused) as caught:
        submit_array(tmp_path, "harness-x", ["true"], 2, {})

    assert caught.value.temporary is temporary
    assert said.splitlines()[-1].removeprefix("sbatch: error: ") in str(caught.value)


@pytest.mark.parametrize("name", ["array", "output", "job-name", "signal", "wrap"])
def test_an_option_that_the_harness_sets_itself_is_refused(name):
    with pytest.raises(UsageError, match=f"--slurm {name}="):
        check_options({name: "x"})


def test_a_job_asks_for_a_gpu_unless_it_needs_none_or_the_user_says_which():
    assert resources(Options("gpu"), "cuda", 2, 60)["gres"] == "gpu:1"
    two = resources(Options("gpu"), "cuda", 2, 60, ranks=2)
    assert (two["gres"], two["cpus-per-task"], two["ntasks-per-node"]) == ("gpu:2", "4", "1")
    assert "gres" not in resources(Options("cpu"), "cpu", 2, 60)
    assert resources(Options(None, {"gres": "gpu:h100:1"}), "cuda", 2, 60)["gres"] == "gpu:h100:1"
    assert resources(Options(None, {"cpus_per_task": "8"}), "cpu", 2, 60)["cpus-per-task"] == "8"
    assert "gres" not in resources(Options(None, {"gpus-per-node": "1"}), "cuda", 2, 60)


def test_a_job_s_time_limit_is_longer_than_all_that_its_cell_may_take():
    job = load_matrix(ROOT / "matrix.yaml").jobs.index
    allowed = job.deadline_seconds.install + job.deadline_seconds.import_ + job.deadline_seconds.index

    assert wall_minutes(job) * 60 >= allowed + submit.MARGIN_SECONDS


# ---- what is answered


def test_states_are_read_for_each_task_of_an_array(fake):
    (fake / "squeue.out").write_text(
        "7_0|RUNNING|node1|None\n7_1|PENDING||Resources\n7_2|TIMEOUT|node2|TimeLimit\n"
        "7_3|PENDING||Nodes required for job are DOWN, DRAINED or reserved\n"
    )

    assert states(["7"]) == {
        "7_0": Job("RUNNING", "", "node1"),
        "7_1": Job("PENDING", "Resources"),
        "7_2": Job("TIMEOUT", "TimeLimit", "node2"),
        "7_3": Job("PENDING", "Nodes required for job are DOWN, DRAINED or reserved"),
    }
    assert "--jobs 7" in (fake / "calls").read_text()


def test_a_controller_that_does_not_answer_is_not_one_that_knows_nothing(fake):
    (fake / "squeue.rc").write_text("1")
    (fake / "squeue.err").write_text("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    assert states(["7"]) is None
    assert find("harness-x") is None

    (fake / "squeue.err").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert states(["7"]) == {}


def test_a_cluster_with_short_arrays_gets_short_arrays(fake):
    (fake / "scontrol.out").write_text("MaxArraySize            = 11\n")
    assert largest_array() == 10
    (fake / "scontrol.out").write_text("")
    assert largest_array() == 1000


START = "harness: cell 0123 (2.8.0) on node1, job 7_0, restart 0\n"
CANCELLED = "*** JOB 7 ON node1 CANCELLED AT 2026-11-22T06:43:32"
WORDS = {
    "time": (f"{CANCELLED} DUE TO TIME LIMIT ***", "TIMEOUT"),
    "cancelled": (f"{CANCELLED} ***", "CANCELLED"),
    "preempted": (f"{CANCELLED} DUE TO PREEMPTION ***", "PREEMPTED"),
    "node": (f"{CANCELLED} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", "NODE_FAIL"),
    "memory": ("Detected 1 oom_kill event in StepId=7.batch. Some of the tasks have been OOM Killed.", "OUT_OF_MEMORY"),
    "nothing": ("2.8.0: train", GONE),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_log_tells_how_a_job_ended_that_the_controller_has_forgotten(tmp_path, name):
    said, state = WORDS[name]
    log = tmp_path / "log"
    log.write_text(f"{START}2.8.0: train\nslurmstepd-node1: error: {said}\n")

    assert last_words(log).state == state


def test_what_a_log_says_of_an_earlier_run_of_the_job_does_not_count(tmp_path):
    log = tmp_path / "log"
    log.write_text(f"{START}slurmstepd: error: {WORDS['preempted'][0]}\n{START}2.8.0: train\n")

    assert last_words(log).state == GONE
    assert last_words(tmp_path / "none").state == GONE


@pytest.mark.parametrize(
    ("state", "kind", "outcome", "part"),
    [
        ("TIMEOUT", "final", "timeout", "at its time limit of 60 minutes in phase train"),
        ("DEADLINE", "final", "timeout", "at its time limit"),
        ("OUT_OF_MEMORY", "final", "out_of_memory", "--slurm mem="),
        ("CANCELLED", "again", "", "was cancelled on node1 in phase train"),
        ("PREEMPTED", "again", "", "was preempted"),
        ("NODE_FAIL", "again", "", "The node of job 7_0 failed"),
        ("FAILED", "again", "", "without a word of the harness"),
        ("COMPLETED", "again", "", "without a word of the harness"),
        (GONE, "again", "", "vanished"),
        ("LAUNCH_FAILED", "again", "", "ended as LAUNCH_FAILED"),
    ],
)
def test_each_end_that_slurm_knows_has_its_consequence_and_a_reason(state, kind, outcome, part):
    end = verdict("7_0", Job(state), 60, ("node1", "train"))

    assert (end.state, end.outcome) == (kind, outcome)
    assert part in end.reason
    assert end.reason.endswith(".") or outcome == "out_of_memory"


@pytest.mark.parametrize("reason", ["launch failed requeued held", "launch_failed_requeued_held"])
def test_a_job_that_its_node_could_not_start_is_known_by_its_reason(reason):
    assert Job("PENDING", reason).held
    assert not Job("PENDING", "Resources").held


def test_paths_of_a_sweep_mean_the_same_in_another_folder(tmp_path, monkeypatch):
    """A name that matrix.yaml knows stays a name, even where a file is called so."""
    monkeypatch.chdir(tmp_path)
    for name in ("embedded", "mine.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "python").symlink_to("/bin/true")
    given = Selection(ROOT / "matrix.yaml", Path("home"), "mine.jsonl", "embedded", site_python=Path("python"))

    kept = absolute_paths(given)

    assert kept.home == tmp_path / "home"
    assert kept.collection == str(tmp_path / "mine.jsonl")
    assert kept.checkpoint == "embedded"
    assert kept.site_python == tmp_path / "python"


# ---- what the nodes are


def test_a_node_says_whether_it_sees_the_lock_of_the_asker(tmp_path):
    held = try_hold(tmp_path / record.REACH)
    assert held is not None
    with held:
        node.main([str(tmp_path), "--device", "cpu"])
        assert read_record(tmp_path / record.ANSWER)["locks"] is True

    node.main([str(tmp_path), "--device", "cpu"])

    answer = read_record(tmp_path / record.ANSWER)
    assert answer["locks"] is False
    assert answer["identity"] == cpu_device().identity


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ({"identity": "cpu x", "locks": False}, "would build the same environment at once"),
        ({"error": "nvidia-smi lists no GPU on this machine; use --device cpu."}, "On node1: nvidia-smi lists no GPU"),
    ],
)
def test_nodes_on_which_a_sweep_would_go_wrong_are_refused(tmp_path, answer, part):
    with pytest.raises(UsageError, match=part):
        start.node_device(Home(tmp_path), Options("gpu"), "auto", quiet(), lambda *_: {"host": "node1", **answer})
    assert not (root_of(Home(tmp_path)) / "devices.json").exists()


def test_what_a_node_is_is_asked_once_until_it_turns_out_to_be_wrong(tmp_path):
    home, asked = Home(tmp_path), []

    def ask(_home: Home, options: Options, *_: object) -> dict[str, object]:
        asked.append(options.partition)
        return {"host": "node1", "identity": f"cuda {options.partition} 9.0", "locks": True}

    root_of(home).mkdir()
    for partition in ("a", "b", "a", "b"):
        assert start.node_device(home, Options(partition), "auto", quiet(), ask) == f"cuda {partition} 9.0"
    assert asked == ["a", "b"]

    start.forget_device(home, Options("a"))

    for partition in ("a", "b"):
        start.node_device(home, Options(partition), "auto", quiet(), ask)
    assert asked == ["a", "b", "a"]


def test_a_node_of_another_model_does_not_run_the_cell(tmp_path, monkeypatch):
    experiment = Experiment(Selection(ROOT / "matrix.yaml", tmp_path, identity="cpu Other 1/2 avx2", threads=1))
    end = node.mismatch(experiment, "node1")
    assert end is not None
    assert (end.state, end.cause) == ("again", "device")
    assert cpu_device().identity in end.reason
    assert "cpu Other 1/2 avx2" in end.reason

    few = Experiment(Selection(ROOT / "matrix.yaml", tmp_path, identity=cpu_device().identity, threads=1024))
    end = node.mismatch(few, "node1")
    assert end is not None
    assert (end.state, end.outcome) == ("final", "lost")


# ---- submitting


LIMITED = """#!/bin/sh
n=$(printf '%s\\n' "$@" | sed -n 's/^--array=0-\\([0-9]*\\)%.*/\\1/p')
echo "$((n + 1))" >> "$FAKE_SLURM/asked"
[ "$n" -le 1 ] || { echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; exit 1; }
wc -l < "$FAKE_SLURM/asked"
"""


def test_where_a_user_may_have_few_jobs_they_are_submitted_in_small_arrays(fake, tmp_path):
    (fake / "sbatch").write_text(LIMITED)
    (tmp_path / "p.jsonl").write_text(PASSAGES)
    checkpoint = write_checkpoint(tmp_path / "ck")
    selection = Selection(
        ROOT / "matrix.yaml", tmp_path / "home", str(tmp_path / "p.jsonl"), str(checkpoint), identity="cuda X 9.0"
    )
    experiment = Experiment(selection)
    versions = experiment.matrix.versions[:7]
    sweep = Sweep("20260101-000000-abcd", "now", selection, versions, {}, Options("gpu"))
    save_sweep(experiment.home, sweep)
    plan = plan_cells(experiment, versions, {})
    follower = follower_module.Follower(sweep, experiment, plan, quiet(), evict_after=False)
    follower.pending = {planned.spec.key: planned for planned in plan}

    follower.step()

    arrays = Ledger(root_of(experiment.home)).arrays()
    assert sorted(entry.version for array in arrays for entry in array.entries) == sorted(versions)
    assert all(len(array.entries) <= 2 for array in arrays)
    assert all(follower.ledger.job(array) for array in arrays)
    follower.step()
    assert Ledger(root_of(experiment.home)).arrays() == arrays


@pytest.mark.parametrize(("cause", "left"), [("", 0), ("disk_full", 1)])
def test_a_node_s_run_that_failed_is_told_although_the_cell_of_before_stays(tmp_path, fake, sweep, cause, left):
    """A rerun of a cell that ended well: the node's word is beside the cell, and what spoilt it is tried again."""
    checkpoint, identity = write_checkpoint(tmp_path / "checkpoint"), cpu_device().identity
    experiment = Experiment(
        Selection(ROOT / "matrix.yaml", tmp_path / "home", "embedded", str(checkpoint), 3, identity=identity, threads=1)
    )
    (planned,) = plan_cells(experiment, ["2.8.0"], {})
    good = experiment.store.put(cell(planned.spec))
    bad = experiment.store.put(replace(good, outcome="crashed", artifacts={}, details={"cause": cause}))
    sweep = replace(sweep, options=Options("gpu", retries=left))
    entry = Entry(good.key, "2.8.0", 0, 1, good.finished)
    array = Ledger(root_of(experiment.home)).create(sweep, sweep.selection, [entry], 60, 1.0)
    write_end(Task(array, 0), End("stored"))
    (fake / "sbatch.out").write_text("8;cluster\n")

    follower = follower_module.Follower(
        sweep, experiment, [replace(planned, stored=good, run=True)], quiet(), evict_after=False
    )
    follower.pending[good.key] = replace(planned, stored=good, run=True)
    follower.step()

    assert list(follower.cells.values()) == [bad] * (1 - left)
    assert (fake / "batch").exists() == bool(left)
    assert experiment.store.get(good.key) == good

"""However a job ends, its cell says so, its log is kept, and nothing of the run is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.environments import supervise
from harness.environments.interpreter import Interpreter
from harness.flock import try_hold
from harness.home import Home
from harness.inputs.checkpoint import CheckpointFiles
from harness.inputs.passages import Passages
from harness.running import causes, job, recover
from harness.running.job import worker_copy, worker_environment
from harness.running.kinds import IndexInputs
from harness.running.runner import run_cell
from harness.running.specs import FIXED_ENVIRONMENT
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.cell_specs import spec
from tests.support.fake_worker import WELL, fake_interpreter
from tests.support.small_index import index_arrays

ROOT = Path(__file__).parents[2]
HELD = "while not (made.parent / 'seen').exists(): time.sleep(0.01)\n"
"""Lines of a job that wait until the harness has seen its phase, which otherwise may pass between two looks."""


class Bench:
    """A home and a store in a temporary folder; `run` runs a fake worker with some lines of Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.store = Store(self.home.store)
        self.phases: list[str] = []
        self.interpreter: Interpreter | None = None

    def run(self, body: str = WELL, **changes) -> Cell:
        of = changes.pop("spec", spec())
        self.interpreter = changes.pop("interpreter", None) or fake_interpreter(
            self.folder / f"fake{time.time_ns()}", body
        )
        # Time enough to start on a busy machine, whatever the deadline that a test sets.
        options = {"import_deadline": 300.0, "deadline": 300.0, "on_phase": self.phases.append, **changes}
        options = {"device_kind": "cpu", "capture": "full", **options}
        passages = Passages(["a", "b"], ["first text", "second text"], "two", {"kind": "hub", "revision": "c0ffee"})
        checkpoint = CheckpointFiles("ck", self.folder / "ck", "beef", 8, {"kind": "local"})
        cell = run_cell(self.home, self.store, of, self.interpreter, IndexInputs(passages, checkpoint), **options)

        # Whatever happened: the cell is in the store, and the run's folder is gone.
        assert self.store.latest(of.key) == cell
        assert list(self.home.runs.iterdir()) == []
        return cell

    def let_go(self, phase: str) -> None:
        """Note a phase, and let a job go on that is `HELD` until somebody has seen its phase."""
        self.phases.append(phase)
        (self.folder / "seen").touch()

    def log(self, cell: Cell) -> str:
        return (self.store.cell_folder(cell.key) / "log.txt").read_text()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "GRACE_SECONDS", 0.5)
    return Bench(tmp_path)


def gone(pid: int, patience: float = 60.0) -> bool:
    """Whether a process has ended (a zombie that nobody collects has)."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status.rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_job_that_ends_well_is_stored_with_its_artifacts(bench):
    cell = bench.run("print('hello')\nphase('import')\n" + HELD + WELL, on_phase=bench.let_go)

    assert (cell.outcome, cell.reason, cell.phase) == ("ok", "", "finalize")
    assert set(cell.artifacts) == {*index_arrays(), "doclens"}
    assert bytes(bench.store.load(cell.artifacts["centroids"]).buffer()) == index_arrays()["centroids"].tobytes()
    assert cell.seconds == {"total": 1.5}
    assert cell.details["observed"] == {"attention_class": "Eager"}
    assert cell.details["sources"] == {
        "collection": {"kind": "hub", "revision": "c0ffee"},
        "checkpoint": {"kind": "local"},
    }
    assert cell.details["exit_code"] == 0
    assert cell.spec == spec()
    assert bench.log(cell) == "hello\n"
    assert bench.phases[0] == "import"
    assert (bench.store.cell_folder(cell.key) / "index" / "metadata.json").exists()


RECORDS = """
(out / 'intermediates').mkdir()
for number in range(3):
    file = out / 'intermediates' / f'embs_{number}.safetensors'
    shutil.copy(INSIDE / file.name, file.with_suffix('.new'))
    file.with_suffix('.new').rename(file)
    while cell['capture'] == 'digests' and file.exists(): time.sleep(0.01)
index(); result()
"""


def test_digests_of_chunks_are_taken_while_the_job_runs_which_has_one_on_disk_at_a_time(bench):
    inside = bench.folder / "inside"
    inside.mkdir()
    arrays = {f"embs_{number}": np.full((5, 4), number, np.float16) for number in range(3)}
    arrays["embs_2"][1] = np.nan
    for name, array in arrays.items():
        write_safetensors(inside / f"{name}.safetensors", {"tensor": Tensor.of(array)})
    body = RECORDS.replace("INSIDE", f"pathlib.Path({str(inside)!r})")

    kept = bench.run(body, capture="full")
    taken = bench.run(body, capture="digests", spec=spec().again(1))

    assert kept.outcome == taken.outcome == "ok"
    assert list(taken.artifacts) == list(kept.artifacts)
    for name, artifact in kept.artifacts.items():
        assert taken.artifacts[name] == replace(artifact, stored=name not in arrays)
    assert [kept.artifacts[name].digest for name in arrays] == [Tensor.of(array).digest() for array in arrays.values()]


def test_what_a_job_recorded_and_nobody_can_read_is_told_when_it_ends(bench):
    cell = bench.run(
        "(out / 'intermediates').mkdir()\n(out / 'intermediates' / 'embs_0.safetensors').write_text('x')\n" + WELL,
        capture="digests",
    )

    assert cell.outcome == "invalid_output"
    assert "embs_0.safetensors is too short" in cell.reason


def test_the_worker_is_asked_for_exactly_this_cell(bench):
    cell = bench.run(
        "assert sys.argv[1:3] == ['-m', 'harness.worker']\n"
        "cell['texts'] = [json.loads(line) for line in open(cell['passages'])]\n"
        "cell['cwd_is_the_run'] = pathlib.Path.cwd() == cell_path.parent\n"
        "index(); result(request=cell)\n",
        swap={"centroids_raw": Path("/some/tensor.safetensors")},
        capture="digests",
    )

    request = cell.details["request"]
    assert request["job"] == "index"
    assert request["key"] == spec().key
    assert request["settings"] == spec().settings
    assert request["texts"] == ["first text", "second text"]
    assert Path(request["checkpoint"]).is_absolute()
    assert request["capture"] == cell.capture == "digests"
    assert request["swap"] == {"centroids_raw": "/some/tensor.safetensors"}
    assert request["device"] == "cpu"
    assert request["cwd_is_the_run"]


# Lines of the worker, then: outcome, phase, and a pattern of the reason.
ENDINGS = {
    "unsupported": (
        "result(outcome='unsupported', reason='No code for this GPU.', phase='start')",
        "unsupported",
        "start",
        r"No code for this GPU\.",
    ),
    "error": ("phase('train'); sys.exit(3)", "crashed", "train", r"exit status 3 in phase train"),
    "error on import": (
        "phase('import'); raise ImportError('no libcudart')",
        "import_failed",
        "import",
        r"exit status 1",
    ),
    "error at once": ("sys.exit(1)", "import_failed", "start", r"exit status 1"),
    "killed": (
        "phase('encode'); os.kill(os.getpid(), 9)",
        "crashed",
        "encode",
        r"SIGKILL in phase encode .*out of memory",
    ),
    "segfault": ("phase('train'); os.kill(os.getpid(), 11)", "crashed", "train", r"SIGSEGV in phase train\.$"),
    "no result": ("phase('finalize'); index()", "invalid_output", "finalize", r"exit status 0 but wrote no result"),
    "garbage": ("(out / 'result.json').write_text('{\"outcome\": ')", "invalid_output", "start", r"cannot be read"),
    "binary garbage": (
        "(out / 'result.json').write_bytes(b'\\xff\\xfe')",
        "invalid_output",
        "start",
        r"cannot be read",
    ),
    "a list": ("(out / 'result.json').write_text('[1]')", "invalid_output", "start", r"no known outcome"),
    "unknown outcome": ("result(outcome='splendid')", "invalid_output", "start", r"no known outcome"),
    "no index": ("phase('finalize'); result()", "invalid_output", "finalize", r"said that it ended well, but"),
    "half an index": (
        "index(); (out / 'index' / 'ivf.pid.pt').unlink(); result()",
        "invalid_output",
        "finalize",
        r"said that it ended well, but .* has no ivf",
    ),
    "truncated tensor": (
        "index(); (out / 'index' / 'centroids.pt').write_bytes(b'PK'); result()",
        "invalid_output",
        "finalize",
        r"centroids\.pt",
    ),
    "own words": (
        "result(outcome='out_of_memory', reason='Full.', phase='train')",
        "out_of_memory",
        "train",
        r"Full\.",
    ),
    "full disk": (
        "phase('encode'); raise OSError(28, 'No space left on device')",
        "crashed",
        "encode",
        r"^The disk of .* was full in phase encode: free some space",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_has_an_outcome_a_phase_and_a_reason(bench, name):
    body, outcome, phase, reason = ENDINGS[name]

    cell = bench.run("print('before the end', flush=True)\n" + body + "\n")

    assert (cell.outcome, cell.phase) == (outcome, phase)
    assert re.search(reason, cell.reason)
    assert cell.artifacts == {}
    assert bench.log(cell).startswith("before the end\n")
    assert "before the end" in cell.details["log_tail"]


def test_a_traceback_is_in_the_log_and_its_end_in_the_record(bench):
    cell = bench.run("raise RuntimeError('the cause')\n")

    assert "RuntimeError: the cause" in bench.log(cell)
    assert "RuntimeError: the cause" in cell.details["log_tail"]


def test_a_job_that_hangs_is_stopped_at_the_deadline(bench):
    cell = bench.run("phase('train'); time.sleep(600)\n", deadline=0.6)

    assert (cell.outcome, cell.phase) == ("timeout", "train")
    assert "in phase train" in cell.reason
    assert cell.details["wall_seconds"] < 300
    assert cell.details["exit_code"] == -signal.SIGTERM


def test_a_job_that_hangs_and_ignores_sigterm_is_killed(bench):
    cell = bench.run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); phase('train')\n"
        "while True: time.sleep(600)\n",
        deadline=1.0,
    )

    assert cell.outcome == "timeout"
    assert cell.details["exit_code"] == -signal.SIGKILL
    assert gone(int(bench.log(cell)))


def test_a_result_that_came_before_the_hang_does_not_make_it_well(bench):
    cell = bench.run("phase('finalize'); index(); result(); time.sleep(600)\n", deadline=1.0)

    assert cell.outcome == "timeout"
    assert cell.artifacts == {}


CHILD = (
    "child = subprocess.Popen([sys.executable, '-S', '-c', "
    "'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'], "
    "stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); print(child.pid, flush=True)\n"
)


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("index(); result()", "ok"),
        ("phase('train'); os._exit(1)", "crashed"),
        ("phase('train'); time.sleep(600)", "timeout"),
    ],
)
def test_children_that_outlive_the_job_are_stopped_with_it(bench, ending, outcome):
    cell = bench.run(CHILD + ending + "\n", deadline=1.0 if outcome == "timeout" else 300.0)

    assert cell.outcome == outcome
    assert gone(int(bench.log(cell)))


def test_an_interrupt_of_the_harness_stops_the_job_and_cleans_up(bench):
    """Ctrl-C reaches the harness only, since the job has a session of its own."""

    def interrupt(_phase: str) -> None:
        raise KeyboardInterrupt

    body = "(made / 'pid').write_text(str(os.getpid())); phase('train'); time.sleep(600)\n"
    with pytest.raises(KeyboardInterrupt):
        bench.run(body, on_phase=interrupt)

    (pid,) = bench.folder.glob("fake*/pid")
    assert gone(int(pid.read_text()))
    assert list(bench.home.runs.iterdir()) == []
    assert bench.store.cells() == []


def test_ten_megabytes_of_output_do_not_stop_the_job_and_are_kept(bench):
    cell = bench.run("sys.stdout.write(('x' * 99 + '\\n') * 100_000); sys.stderr.write('last words\\n')\n" + WELL)

    assert cell.outcome == "ok"
    assert len(bench.log(cell)) > 10_000_000
    assert cell.details["log_tail"].count("\n") < 40
    assert len(cell.details["log_tail"]) < 10_000


def test_of_output_without_end_the_beginning_and_the_end_are_kept(bench, monkeypatch):
    monkeypatch.setattr(supervise, "LOG_LIMITS", (30_000, 20_000))
    printed = "".join(f"line {n:06} of many\n" for n in range(200_000))

    cell = bench.run("for n in range(200_000): print(f'line {n:06} of many')\nsys.stdout.flush()\n" + WELL)

    assert cell.outcome == "ok"
    log = bench.log(cell)
    (words,) = re.findall(r"\n\[harness: \d+ bytes are left out here, .*\]\n", log)
    head, tail = log.split(words)
    assert (len(head), printed.startswith(head)) == (30_000, True)
    # The end is cut whenever it is twice as long as it should be.
    assert 16_000 < len(tail) <= 40_000
    assert printed.endswith(tail)
    assert tail.startswith("line ")
    assert int(re.findall(r"\d+", words)[0]) == len(printed) - len(head) - len(tail)


def test_a_job_that_prints_without_end_is_stopped_at_its_deadline_and_its_log_is_small(bench, monkeypatch):
    monkeypatch.setattr(supervise, "LOG_LIMITS", (30_000, 20_000))
    cell = bench.run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); phase('train')\n"
        "while True: sys.stdout.write('x' * 99 + '\\n')\n",
        deadline=1.0,
    )

    assert (cell.outcome, cell.details["exit_code"]) == ("timeout", -signal.SIGKILL)
    log = bench.log(cell)
    assert len(log) < 30_000 + 2 * 20_000 + 200
    assert "bytes are left out here" in log
    assert cell.details["log_tail"].endswith("x")


def test_a_job_that_closes_its_output_goes_on(bench):
    cell = bench.run("print('words', flush=True); os.close(1); os.close(2); time.sleep(0.5)\n" + WELL)

    assert cell.outcome == "ok"
    assert bench.log(cell) == "words\n"


def test_output_that_is_not_utf8_does_not_matter(bench):
    cell = bench.run("sys.stdout.buffer.write(b'\\xff\\xfe\\x00 words\\n')\n" + WELL)

    assert cell.outcome == "ok"
    assert "words" in cell.details["log_tail"]


def test_the_job_s_environment_is_what_the_cell_says_and_nothing_from_outside(bench, monkeypatch):
    """Every variable that could change a bit is set by the harness or absent."""
    for name in ("OMP_NUM_THREADS", "MKL_CBWR", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "LD_PRELOAD_X", "PYTHONPATH"):
        monkeypatch.setenv(name, "from outside")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/outside")
    own = {**FIXED_ENVIRONMENT, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}

    cell = bench.run(
        "index(); result(environ=dict(os.environ), run=str(cell_path.parent))\n", spec=spec(environment=own)
    )

    environ, run = cell.details["environ"], cell.details["run"]
    assert bench.interpreter is not None
    # PWD and _ are made by the shell that stands in for the interpreter.
    assert {name: value for name, value in environ.items() if name not in {"PWD", "_", "SHLVL", "OLDPWD"}} == {
        **own,
        "PATH": f"{bench.interpreter.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(worker_copy(bench.home)),
        "HOME": f"{run}/tmp",
        "TMPDIR": f"{run}/tmp",
        "TORCH_EXTENSIONS_DIR": f"{run}/tmp/torch_extensions",
        "MPLCONFIGDIR": f"{run}/tmp",
    }
    assert run.startswith(str(bench.home.runs))


def test_only_a_gpu_job_is_told_of_the_driver_and_of_the_chosen_gpu(bench, monkeypatch, tmp_path):
    """Of the folders in the shell's path those count that hold the driver: others may hold another cuBLAS."""
    for name in ("driver/libcuda.so.1", "cuda/libcublas.so.12", "cuda/stubs/libcuda.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    # On a machine where the switch between GPUs must not be used, a job must not forget it.
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path / 'cuda'}::{tmp_path / 'driver'}:/not/there")

    cell = bench.run("index(); result(environ=dict(os.environ))\n", device_kind="cuda")

    assert cell.details["environ"]["CUDA_VISIBLE_DEVICES"] == "1"
    assert cell.details["environ"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert cell.details["environ"]["NCCL_NVLS_ENABLE"] == "0"
    assert cell.details["environ"]["LD_LIBRARY_PATH"] == str(tmp_path / "driver")


def test_a_site_folder_comes_after_the_worker_on_the_path(bench, tmp_path):
    fake = fake_interpreter(tmp_path / "brought", "index(); result(path=os.environ['PYTHONPATH'])\n")

    cell = bench.run(interpreter=replace(fake, site=tmp_path / "site"))

    assert cell.details["path"] == f"{worker_copy(bench.home)}:{tmp_path / 'site'}"


def test_runs_have_temporary_folders_and_extension_caches_of_their_own(bench):
    seen = {bench.run("index(); result(dir=os.environ['TORCH_EXTENSIONS_DIR'])\n").details["dir"] for _ in range(2)}

    assert len(seen) == 2


def test_a_cell_that_is_run_again_replaces_the_first(bench):
    bench.run("sys.exit(1)\n")
    again = bench.run()

    assert again.outcome == "ok"
    assert [c.outcome for c in bench.store.cells()] == ["ok"]


def test_a_run_that_fails_leaves_the_cell_that_ended_well_and_its_tensors(bench):
    good = bench.run()
    bad = bench.run("print('no luck', flush=True); phase('train'); sys.exit(1)\n")

    assert bad.outcome == "crashed"
    assert bench.store.get(good.key) == good
    assert bench.store.missing(good) == []
    (kept,) = bench.store.attempt_folders(good.key)
    assert (kept / "log.txt").read_text() == "no luck\n"


@pytest.mark.parametrize(("began", "kept"), [("2000-01-01T00:00:00+00:00", 0), ("2900-01-01T00:00:00+00:00", 1)])
def test_a_lost_run_is_kept_beside_the_cell_that_it_should_have_replaced(bench, began, kept):
    """Unless the cell was stored after the run began: then it says nothing new."""
    good = bench.run()
    run = bench.home.runs / "2.8.0-abc"
    run.mkdir()
    note = {"spec": spec().to_json(), "store": str(bench.store.root), "capture": "full", "pid": 1, "host": "here"}
    (run / recover.RECORD).write_text(json.dumps({**note, "started": began}))
    held = try_hold(run / supervise.OWNER)
    assert held is not None
    held.release()

    lost = recover.recover(bench.home, bench.store)

    assert [cell.outcome for cell in lost] == ["lost"] * kept
    assert bench.store.attempts(good.key) == lost
    assert bench.store.get(good.key) == good
    assert not run.exists()


def test_an_interpreter_that_is_not_there_is_an_error_of_the_system_and_leaves_nothing(bench, tmp_path):
    with pytest.raises(FileNotFoundError):
        bench.run(interpreter=Interpreter(tmp_path / "no" / "python"))
    assert list(bench.home.runs.iterdir()) == []


def test_the_worker_s_copy_holds_the_worker_and_nothing_else_of_the_harness(bench):
    copy = worker_copy(bench.home)

    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*.py")}
    source = Path(harness.__file__).parent
    assert found == {
        "harness/__init__.py",
        *(f"harness/{path.relative_to(source)}" for path in (source / "worker").rglob("*.py")),
    }
    for name in found:
        assert (copy / name).read_bytes() == (source.parent / name).read_bytes()
    assert worker_copy(bench.home) == copy
    assert [path.name for path in bench.home.workers.iterdir()] == [copy.name]


def test_a_run_leaves_the_name_of_the_worker_s_copy_in_the_record(bench):
    assert bench.run().details["worker"] == worker_copy(bench.home).name


def test_the_real_worker_refuses_wrong_use_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "harness.worker"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_the_real_worker_says_when_its_packages_cannot_be_imported(bench, tmp_path):
    """The reducer's own interpreter has no torch, and so is an environment in which the import fails."""
    python = tmp_path / "without" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)

    cell = bench.run(interpreter=Interpreter(python))

    assert (cell.outcome, cell.phase) == ("import_failed", "import")
    assert "No module named" in cell.reason
    assert "Traceback" in bench.log(cell)
    assert json.loads(json.dumps(cell.details))["exit_code"] == 0


def test_imports_have_a_deadline_of_their_own(bench):
    cell = bench.run("phase('import'); time.sleep(600)\n", deadline=600.0, import_deadline=0.6)

    assert cell.outcome == "timeout"
    # The deadline counts from the start, which may take all of it on a busy machine.
    assert cell.phase in {"start", "import"}
    assert "deadline of import" in cell.reason
    assert cell.details["wall_seconds"] < 300


def test_the_deadline_of_the_job_begins_with_the_end_of_its_imports(bench):
    cell = bench.run(
        "phase('import'); time.sleep(5.5); phase('train'); index(); result()\n", deadline=5.0, import_deadline=300.0
    )

    assert cell.outcome == "ok"


@pytest.mark.parametrize(
    ("said", "outcome", "cause"),
    [
        ("MemoryError", "out_of_memory", None),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory", None),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "out_of_memory", None),
        ("RuntimeError: CUDA error: no CUDA-capable device is detected", "lost", "gpu_lost"),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "lost", "gpu_lost"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "crashed", None),
        ("OSError: [Errno 28] No space left on device", "crashed", "disk_full"),
        ("ValueError: no", "crashed", None),
    ],
)
def test_what_the_machine_did_is_told_from_what_the_version_did(bench, said, outcome, cause):
    cell = bench.run(f"phase('encode'); sys.exit({said!r})\n", device_kind="cuda")

    assert (cell.outcome, cell.details.get("cause")) == (outcome, cause)
    assert causes.is_infrastructure(cell) == (cause is not None)


def test_what_a_library_says_comes_with_what_to_do(bench):
    """Faiss refuses to make more clusters than it has points; colbert-ai's own words end there."""
    words = "Number of training points (76) should be at least as large as number of clusters (128)"
    cell = bench.run(f"result(outcome='crashed', reason='RuntimeError in phase train: {words}', phase='train')")

    assert cell.outcome == "crashed"
    assert words in cell.reason
    assert cell.reason.endswith("use more passages, or a larger --limit.")


def test_a_cpu_job_that_speaks_of_gpus_has_lost_none(bench):
    cell = bench.run("phase('encode'); sys.exit('CUDA error: no CUDA-capable device is detected')\n")

    assert cell.outcome == "crashed"


def test_a_torch_that_sees_no_gpu_because_the_driver_failed_is_not_unsupported(bench):
    body = "print('CUDA initialization: CUDA unknown error', flush=True)\n"
    body += "result(outcome='unsupported', reason='torch sees no GPU.')\n"

    assert bench.run(body, device_kind="cuda").outcome == "lost"
    assert bench.run(body.split("\n", 1)[1], device_kind="cuda").outcome == "unsupported"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_job_that_somebody_else_stopped_is_lost(bench, number):
    cell = bench.run(f"phase('train'); signal.signal(signal.{number}, 0); os.kill(os.getpid(), signal.{number})\n")

    assert (cell.outcome, cell.details["cause"]) == ("lost", "lost")
    assert number in cell.reason


def test_a_kill_by_the_kernel_for_want_of_memory_is_told_by_its_counter():
    ended = supervise.Ended(-signal.SIGKILL, "train", 1.0, oom_kills=1)

    assert job.read_result(Path("nowhere"), ended)[1] == "out_of_memory"
    assert job.read_result(Path("nowhere"), replace(ended, oom_kills=0))[1] == "crashed"


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_supervisor_that_is_killed_takes_its_job_along_and_the_cell_is_lost(bench):
    def kill(phase: str) -> None:
        if phase == "train":
            (pid,) = (int(path.read_text()) for path in bench.folder.glob("fake*/pid"))
            os.kill(supervisor_of(pid), signal.SIGKILL)

    cell = bench.run("(made / 'pid').write_text(str(os.getpid())); phase('train'); time.sleep(600)\n", on_phase=kill)

    (pid,) = (int(path.read_text()) for path in bench.folder.glob("fake*/pid"))
    assert gone(pid)
    assert (cell.outcome, cell.details["cause"]) == ("lost", "lost")
    assert "supervisor was killed" in cell.reason


def test_a_child_that_leaves_the_group_and_the_session_is_stopped_too(bench):
    escape = (
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.setpgid(0, 0); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        print(os.getpid(), flush=True); os.write(writer, b'.'); time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait(); os.read(reader, 1)\n"
    )
    cell = bench.run(escape + WELL)

    assert cell.outcome == "ok"
    assert gone(int(bench.log(cell)))


def test_a_heartbeat_says_where_a_run_stands(bench):
    beats = []

    def look(phase: str) -> None:
        if phase == "train":
            (run,) = bench.home.runs.iterdir()
            # One short write every second: a look may come in the middle of it, or before the one that names the phase.
            while '"train"' not in (text := (run / "heartbeat").read_text()) or not text.endswith("}"):
                time.sleep(0.05)
            beats.append(json.loads(text))
        bench.let_go(phase)

    bench.run("phase('train')\n" + HELD + "index(); result()\n", on_phase=look)

    (beat,) = beats
    assert beat["phase"] == "train"
    assert len({beat["pid"], beat["supervisor"], os.getpid()}) == 3


def test_no_secret_of_the_user_is_written_to_the_disk(bench, monkeypatch):
    """Variables of the harness may hold a package index's password; those of a job are in its request's place only."""
    monkeypatch.setenv("UV_INDEX_PASSWORD", "hunter2")
    found: list[Path] = []

    def look(phase: str) -> None:
        (run,) = bench.home.runs.iterdir()
        found.extend(path for path in run.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes())
        bench.let_go(phase)

    bench.run("phase('import')\n" + HELD + WELL, on_phase=look)

    assert bench.phases
    assert found == []


def test_no_python_is_compiled_into_an_environment_that_is_used_as_it_is(tmp_path):
    def of(*, as_is: bool = False) -> dict[str, str]:
        interpreter = Interpreter(tmp_path / "bin" / "python", as_is=as_is)
        return worker_environment(spec(), interpreter, tmp_path, tmp_path, "cpu")

    assert of(as_is=True) == {**of(), "PYTHONDONTWRITEBYTECODE": "1"}
    assert "PYTHONDONTWRITEBYTECODE" not in of()

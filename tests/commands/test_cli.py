"""Bad input is one sentence and exit code 2; `--help` answers at once; the page of the command line is current."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import cli
from harness.cli import COMMANDS, main
from harness.environments import build
from harness.environments import uv as uv_module
from harness.environments.device import usable_cores
from harness.errors import InfrastructureError, UsageError
from harness.running import work
from harness.store.store import Store
from tests.support.checkpoints import checkpoint_bytes, write_checkpoint
from tests.support.fake_worker import WELL, fake_interpreter
from tests.support.programs import FAKE
from tests.support.standin import PASSAGES

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"
"""Port 9 of this machine: nobody listens there."""
ONE_THREAD = ("--threads", "1", "--device", "cpu")


@dataclass(frozen=True)
class Done:
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Callable[..., Done]:
    """Run a command line in this process, with a cold home of its own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(work, "wait_before", lambda _retry, _tries: 0.05)
    handler = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str) -> Done:
        try:
            with pytest.raises(SystemExit) as caught:
                main(list(arguments))
        finally:
            signal.signal(signal.SIGTERM, handler)
        said = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, said.out, said.err)

    return command


def one_sentence(done: Done) -> str:
    """The sentence of a refusal, checked to be the only thing said."""
    lines = done.err.splitlines()
    assert (done.code, len(lines)) == (2, 1), done.err
    assert lines[0].startswith("harness: ")
    assert lines[0].endswith((".", ")"))
    assert done.out == ""
    return lines[0]


@pytest.fixture
def inputs(tmp_path) -> list[str]:
    """Options of a good collection and a good checkpoint on this machine, and a machine with few cores."""
    (tmp_path / "good.jsonl").write_text(PASSAGES)
    checkpoint = write_checkpoint(tmp_path / "ck")
    return ["--collection", str(tmp_path / "good.jsonl"), "--checkpoint", str(checkpoint), *ONE_THREAD]


@pytest.mark.parametrize(
    "arguments",
    [
        ("index", "9.9.9"),
        ("index", "2.8.0", "--repeat", "9.9.9"),
        ("plan", "9.9.9"),
        ("sweep", "9.9.9"),
        ("consecutive", "9.9.9"),
        ("lock", "9.9.9"),
        ("lock", "--diff", "2.8.0", "9.9.9"),
    ],
)
def test_an_unknown_version_is_refused_with_those_there_are(run, inputs, arguments):
    options = inputs if arguments[0] not in {"lock", "consecutive"} else []

    said = one_sentence(run(*arguments, *options))

    assert "'9.9.9' is not a version in matrix.yaml: choose from 1.13.1, 2.0.0" in said


def parquet(path: Path, **columns: list[str]) -> Path:
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
    return path


def collection_without_text_parquet(folder: Path) -> Path:
    return parquet(folder / "c.parquet", body=["some passage"])


def collection_without_text_jsonl(folder: Path) -> Path:
    (folder / "c.jsonl").write_text('{"body": "some passage"}\n')
    return folder / "c.jsonl"


def collection_without_text_tsv(folder: Path) -> Path:
    (folder / "c.tsv").write_text("id\tbody\n1\tsome passage\n")
    return folder / "c.tsv"


def collection_empty_parquet(folder: Path) -> Path:
    return parquet(folder / "c.parquet", text=[])


def collection_empty_jsonl(folder: Path) -> Path:
    (folder / "c.jsonl").write_bytes(b"")
    return folder / "c.jsonl"


def collection_empty_tsv(folder: Path) -> Path:
    (folder / "c.tsv").write_text("id\ttext\n")
    return folder / "c.tsv"


def collection_empty_gz(folder: Path) -> Path:
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b""))
    return folder / "c.jsonl.gz"


def collection_that_is_no_parquet(folder: Path) -> Path:
    (folder / "c.parquet").write_text("not a table")
    return folder / "c.parquet"


def collection_that_is_no_json(folder: Path) -> Path:
    (folder / "c.jsonl").write_text("{text: unquoted}\n")
    return folder / "c.jsonl"


def collection_of_an_unknown_kind(folder: Path) -> Path:
    (folder / "c.docx").write_bytes(b"PK")
    return folder / "c.docx"


def collection_missing(folder: Path) -> Path:
    return folder / "none.parquet"


def collection_folder(folder: Path) -> Path:
    (folder / "c.parquet").mkdir()
    return folder / "c.parquet"


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (collection_missing, "none.parquet"),
        (collection_folder, "c.parquet"),
        (collection_without_text_parquet, "text"),
        (collection_without_text_jsonl, "text"),
        (collection_without_text_tsv, "text"),
        (collection_empty_parquet, "this is empty"),
        (collection_empty_jsonl, "this is empty"),
        (collection_empty_tsv, "this is empty"),
        (collection_empty_gz, "this is empty"),
        (collection_that_is_no_parquet, "c.parquet"),
        (collection_that_is_no_json, "line 1"),
        (collection_of_an_unknown_kind, "c.docx"),
    ],
)
@pytest.mark.parametrize("command", ["index", "plan"])
def test_a_bad_collection_is_refused_before_anything_is_built(run, inputs, tmp_path, command, make, part):
    said = one_sentence(run(command, "2.8.0", *inputs[2:], "--collection", str(make(tmp_path))))

    assert part in said
    assert not (tmp_path / "home" / "envs").exists()


def test_an_unknown_name_of_a_collection_or_a_checkpoint_lists_those_there_are(run, inputs):
    assert "dapr-conditionalqa, embedded" in one_sentence(run("plan", *inputs, "--collection", "dapr"))
    assert "colbertv2.0, embedded" in one_sentence(run("plan", *inputs, "--checkpoint", "colbertv3"))


def test_a_checkpoint_without_dim_is_refused(run, inputs, tmp_path):
    bad = write_checkpoint(tmp_path / "bad", checkpoint_bytes(metadata={"doc_maxlen": 300}))

    said = one_sentence(run("index", "2.8.0", *inputs, "--checkpoint", str(bad)))

    assert "dim" in said
    assert not (tmp_path / "home" / "envs").exists()


def test_a_missing_checkpoint_folder_is_refused(run, inputs, tmp_path):
    assert "nothing-here" in one_sentence(
        run("index", "2.8.0", *inputs, "--checkpoint", str(tmp_path / "nothing-here"))
    )


def test_more_threads_than_cores_are_refused_with_the_mend(run, inputs):
    said = one_sentence(run("plan", "2.8.0", *inputs, "--threads", "1000"))

    assert f"pass --threads {usable_cores()}" in said


@pytest.mark.parametrize("value", ["2.8.0=0", "2.8.0=x", "2.8.0=-1"])
def test_a_repeat_that_is_no_number_is_refused(run, inputs, value):
    assert "write VERSION=N" in one_sentence(run("plan", *inputs, "--repeat", value))


def test_a_gpu_that_is_not_there_is_refused(run, inputs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "use --device cpu" in one_sentence(run("plan", *inputs, "--device", "cuda"))


def test_a_mistake_in_matrix_yaml_is_one_sentence_with_its_line(run, tmp_path):
    (tmp_path / "matrix.yaml").write_text("schema: 1\nverzions: []\n")

    assert "matrix.yaml, line 2: verzions" in one_sentence(run("plan", "--matrix", str(tmp_path / "matrix.yaml")))


def test_where_there_is_no_matrix_yaml_the_package_s_own_is_taken(run, tmp_path, monkeypatch, inputs):
    monkeypatch.chdir(tmp_path)

    assert (done := run("plan", "2.8.0", *inputs)).code == 0, done.err
    assert "1 of 1 cell would run" in done.out


@pytest.mark.parametrize("arguments", [["index"], ["nonsense"], ["plan", "--limit", "0"], ["plan", "--device", "tpu"]])
def test_wrong_use_of_the_command_line_is_exit_code_2(run, arguments):
    done = run(*arguments)

    assert done.code == 2
    assert "Error: " in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for uv; returns its folder of switches."""
    state = tmp_path / "uv"
    state.mkdir()
    monkeypatch.setattr(build, "uv_command", lambda: [sys.executable, "-S", str(FAKE), str(state)])
    monkeypatch.setattr(uv_module, "uv_command", lambda: [sys.executable, "-S", str(FAKE), str(state)])
    return state


OFFLINE = "error: Failed to fetch\n  cause: tcp connect error\n  cause: Connection refused (os error 111)\n"


def last_sentence(done: Done) -> str:
    """The last line of a run that got as far as reporting progress."""
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("harness: ")
    return last


def test_no_network_and_a_cold_cache_is_exit_code_2_and_every_version_has_its_outcome(run, inputs, fake_uv, tmp_path):
    (fake_uv / "fail").write_text(OFFLINE)

    done = run("index", "2.7.1", "2.8.0", *inputs)

    assert done.code == 2
    assert "the package index cannot be reached and uv's cache does not hold it all" in last_sentence(done)
    cells = Store(tmp_path / "home" / "store").cells()
    assert [(c.version, c.outcome) for c in cells] == [("2.7.1", "install_failed"), ("2.8.0", "install_failed")]
    assert all("Connection refused" in c.details["log_tail"] for c in cells)


def test_an_install_that_fails_for_another_reason_is_exit_code_3(run, inputs, fake_uv):
    (fake_uv / "fail").write_text("error: Failed to build `lit==18.1.8`\n")

    done = run("index", "2.8.0", *inputs)

    assert done.code == 3
    assert "2.8.0: install_failed: 2.8.0: installing the locked packages failed: Failed to build" in done.err
    assert "Traceback" not in done.err


def with_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Let environments that a fake uv built have a fake worker's interpreter."""
    fake = fake_interpreter(folder, body)
    monkeypatch.setattr(build.Environment, "python", property(lambda _self: fake.python))


def test_one_version_that_fails_does_not_stop_the_others(run, inputs, fake_uv, monkeypatch, tmp_path):
    with_worker(monkeypatch, tmp_path, "if cell['key'] == (made / 'bad').read_text(): sys.exit(1)\n" + WELL)
    plan = json.loads(run("plan", "2.7.0", "2.7.1", "2.8.0", "--json", *inputs).out)
    (tmp_path / "bad").write_text(plan["cells"][1]["key"])

    done = run("index", "2.7.0", "2.7.1", "2.8.0", *inputs)

    assert done.code == 3
    assert done.out.startswith("2 of 3 cells ended well and are stored")
    assert "2.7.1: import_failed: " in done.err
    outcomes = {c.version: c.outcome for c in Store(tmp_path / "home" / "store").cells()}
    assert outcomes == {"2.7.0": "ok", "2.7.1": "import_failed", "2.8.0": "ok"}


def test_a_finished_cell_is_not_run_again_and_a_failed_one_is(run, inputs, fake_uv, monkeypatch, tmp_path):
    with_worker(monkeypatch, tmp_path, "open(made / 'ran', 'a').write(cell['key'] + '\\n')\n" + WELL)
    first = run("index", "2.8.0", *inputs)
    second = run("index", "2.8.0", "--repeat", "2.8.0", *inputs)
    forced = run("index", "2.8.0", "--again", *inputs)

    ran = (tmp_path / "ran").read_text().split()
    assert (first.code, second.code, forced.code) == (0, 0, 0)
    assert [ran[0], ran[2]] == [ran[0]] * 2
    assert len(set(ran)) == 2
    assert len(ran) == 3
    assert "2.8.0: stored" in second.err
    assert "1 of 1 cell would run" not in run("plan", "2.8.0", *inputs).out


def test_an_unsupported_version_is_a_finding_and_is_not_tried_again(run, inputs, fake_uv, monkeypatch, tmp_path):
    body = "open(made / 'ran', 'a').write('x')\nresult(outcome='unsupported', reason='No code for it.')\n"
    with_worker(monkeypatch, tmp_path, body)

    codes = [run("index", "2.8.0", *inputs).code for _ in range(2)]

    assert codes == [0, 0]
    assert (tmp_path / "ran").read_text() == "x"
    assert "unsupported: No code for it." in run("plan", "2.8.0", *inputs).out


def test_more_capture_than_is_stored_runs_the_cell_again(run, inputs, fake_uv, monkeypatch, tmp_path):
    with_worker(monkeypatch, tmp_path, "open(made / 'ran', 'a').write(cell['capture'] + ' ')\n" + WELL)
    for level in ("final", "full", "digests", "final"):
        assert run("index", "2.8.0", "--capture", level, *inputs).code == 0

    assert (tmp_path / "ran").read_text() == "final full "


def test_evicting_needs_the_disk_of_one_environment_at_a_time(run, inputs, fake_uv, monkeypatch, tmp_path):
    with_worker(
        monkeypatch, tmp_path, "open(made / 'seen', 'a').write(f'{len(os.listdir(made / \"home/envs\"))} ')\n" + WELL
    )

    done = run("index", "2.7.0", "2.7.1", "2.8.0", "--evict", *inputs)

    assert done.code == 0
    folders = [path for path in (tmp_path / "home" / "envs").iterdir() if path.is_dir()]
    assert folders == []
    assert done.err.count("deleted the environment") == 3
    assert len((fake_uv / "calls").read_text().split("cache clean")) == 4


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Write to a disk until it is full, then give `leave` bytes back."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - leave)


@pytest.mark.parametrize("leave", [0, 8192, 65536])
def test_a_disk_that_is_full_while_installing_is_one_sentence(run, inputs, fake_uv, small_disk, leave):
    fill(small_disk, leave)

    done = run("index", "2.8.0", *inputs, "--home", str(small_disk))

    assert done.code == 2
    assert "full: free some space" in last_sentence(done)


def test_a_disk_that_fills_up_while_a_job_runs_is_one_sentence(run, inputs, fake_uv, monkeypatch, small_disk, tmp_path):
    """The job's own words are in its log; here the environment is on another disk."""
    with_worker(monkeypatch, tmp_path, "phase('encode'); open(out / 'big', 'wb').write(bytes(2**20))\n")
    (tmp_path / "envs").mkdir()
    (small_disk / "envs").symlink_to(tmp_path / "envs")

    done = run("index", "2.8.0", *inputs, "--home", str(small_disk))

    assert done.code == 2
    assert "full" in last_sentence(done)
    assert list((small_disk / "runs").iterdir()) == []


def test_a_disk_that_is_full_for_the_embedded_checkpoint_is_one_sentence(run, small_disk):
    fill(small_disk)

    done = run("plan", "2.8.0", "--collection", "embedded", "--checkpoint", "embedded", *ONE_THREAD,
               "--home", str(small_disk))  # fmt: skip

    assert "free some space" in one_sentence(done)


def test_a_home_that_cannot_be_made_is_one_sentence(run, inputs, fake_uv, tmp_path):
    (tmp_path / "file").write_text("")

    done = run("index", "2.8.0", *inputs, "--home", str(tmp_path / "file" / "home"))

    assert done.code == 2
    assert "--home" in last_sentence(done)


COLD = {
    "UV_DEFAULT_INDEX": f"{NOWHERE}/simple",
    "UV_INDEX_URL": f"{NOWHERE}/simple",
    "UV_NO_CONFIG": "1",
    "UV_HTTP_RETRIES": "0",
    "HF_ENDPOINT": NOWHERE,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@pytest.mark.parametrize(
    "what",
    [
        ["--collection", "dapr-conditionalqa", "--checkpoint", "CK"],
        ["--collection", "TEXT", "--checkpoint", "colbertv2.0"],
        ["--collection", "TEXT", "--checkpoint", "embedded"],
        ["--collection", "TEXT", "--checkpoint", "CK"],
    ],
    ids=["collection", "checkpoint", "embedded checkpoint", "environment"],
)
def test_no_network_and_a_cold_cache_for_real(inputs, tmp_path, what):
    """A package index and a Hub where nobody listens, with the real uv and the real Hub client."""
    known = {"TEXT": inputs[1], "CK": inputs[3]}
    arguments = [known.get(word, word) for word in what]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "HF_", "PIP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "index", "2.8.0", *arguments, *ONE_THREAD, "--home", str(tmp_path / "home")],
        cwd=ROOT,
        env={**environ, **COLD},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    said = last_sentence(Done(done.returncode, done.stdout, done.stderr))
    assert done.returncode == 2, done.stderr
    assert "network" in said or "cannot be reached" in said
    assert "go online for one run, or" in said
    assert done.stdout == ""


def test_a_mistake_of_our_own_is_exit_code_3_and_never_a_divergence(run, monkeypatch):
    monkeypatch.setattr(cli.harness, "main", lambda **_k: 1 // 0)

    done = run("plan")

    assert done.code == 3
    assert "ZeroDivisionError" in done.err
    assert "a mistake in harness itself" in done.err


def test_a_file_that_ends_too_early_is_no_interrupt(run, monkeypatch):
    def ended(_context):
        raise EOFError("marshal data too short")

    monkeypatch.setattr(cli.harness, "invoke", ended)

    done = run("plan")

    assert done.code == 3
    assert "marshal data too short" in done.err
    assert "interrupted" not in done.err


def disk_full_inside() -> InfrastructureError:
    error = InfrastructureError("It cannot be written.")
    error.__cause__ = OSError(28, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("The file is not there."), 2, "harness: The file is not there.\n"),
        (InfrastructureError("The machine is gone."), 3, "harness: The machine is gone.\n"),
        (OSError(28, "No space left on device", "/some/file"), 2, "harness: The disk is full (/some/file): free some"),
        (disk_full_inside(), 2, "harness: It cannot be written.\n"),
        (KeyboardInterrupt(), 130, "harness: interrupted; everything stored so far is kept.\n"),
    ],
)
def test_errors_have_the_exit_codes_of_the_contract(run, monkeypatch, error, code, said):
    def fail(**_options):
        raise error

    monkeypatch.setattr(cli.harness, "main", fail)

    done = run("plan")

    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


def test_sigterm_stops_the_job_and_cleans_up(inputs, tmp_path):
    """A scheduler that stops the harness must not leave its job running."""
    fake = fake_interpreter(tmp_path, "(made / 'pid').write_text(str(os.getpid())); phase('train'); time.sleep(600)\n")
    uv = tmp_path / "uv"
    uv.mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from harness import cli; from harness.environments import build as environments, uv\n"
        f"environments.uv_command = uv.uv_command = lambda: [sys.executable, '-S', {str(FAKE)!r}, {str(uv)!r}]\n"
        f"environments.Environment.python = property(lambda self: Path({str(fake.python)!r}))\n"
        "cli.main(sys.argv[1:])\n"
    )
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "index", "2.8.0", *inputs, "--home", str(home)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(3000):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
        process.terminate()
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()

    assert process.returncode == 130
    assert "interrupted" in err
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
    assert list((home / "runs").iterdir()) == []


def test_help_imports_nothing_heavy():
    """What takes long to import is imported when a command needs it."""
    heavy = ["pandas", "pyarrow", "pydantic", "numba", "torch", "numpy", "rich", "huggingface_hub", "yaml", "blake3"]
    program = (
        "import sys\nfrom harness.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as error:\n"
        f"    assert error.code == 0\n    print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_help_answers_at_once():
    """0.3 s on an idle machine; what is measured is what it computes, not what it waits for on a busy one."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "harness", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 1.0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(run, name):
    done = run(name, "--help")

    assert done.code == 0
    assert f"Usage: harness {name}" in done.out
    assert run("-h").out == run("--help").out
    assert name in run("--help").out


def test_the_version_is_printed(run):
    done = run("--version")

    assert (done.code, done.out.split()[0]) == (0, "harness,")


def test_the_page_of_the_command_line_is_current():
    """Run `python docs/make_cli.py` after a change of an option or a help text."""
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    assert page == module.text()
    for name in COMMANDS:
        assert f"## `harness {name}`" in page


WRONG: tuple[tuple[str, str], ...] = (
    # What is misspelt, or of another kind.
    ("index 2.8", "'2.8' is not a version in matrix.yaml"),
    ("index all 2.8.0 GOOD", "'all' is not a version"),
    ("index 2.8.0 --collection none GOOD-CK", "not a collection in matrix.yaml"),
    ("index 2.8.0 --collection NONE.jsonl", "does not exist"),
    ("index 2.8.0 --collection DIR", "the suffix"),
    ("index 2.8.0 --checkpoint FILE --collection embedded", "a checkpoint is a folder"),
    ("index 2.8.0 --checkpoint DIR --collection embedded", "has no config.json"),
    ("index 2.8.0 --checkpoint DIR", "has no config.json"),
    ("index 2.8.0 GOOD --capture some", "'some' is not one of"),
    ("index 2.8.0 GOOD --limit 1 --scale-to x", "is not a valid integer"),
    ("index 2.8.0 GOOD --scale-to 1", "more than the 1 to scale it up to"),
    ("index 2.8.0 --collection embedded --checkpoint embedded --scale-to 1", "more than the 1 to scale it up to"),
    ("index 2.8.0 GOOD --jobs 65", "not in the range"),
    ("index 2.8.0 GOOD --gpus 0", "--gpus 0"),
    ("index 2.8.0 --collection embedded --checkpoint embedded --device cpu --gpus 0", "--gpus 0"),
    ("index 2.8.0 SHORT", "is too small: of 1 passage come at most"),
    ("index 2.8.0 GOOD --matrix NBITS", "set nbits to 1 or 2, or use another checkpoint"),
    ("index 2.8.0 GOOD --matrix NONE", "--matrix NONE: it cannot be read (No such file or directory)"),
    ("index 2.8.0 GOOD --matrix DIR", "--matrix DIR: it cannot be read (Is a directory)"),
    ("index 2.8.0 GOOD --matrix FILE", "expected a mapping"),
    ("index 2.8.0 GOOD --home FILE", "FILE is not a folder"),
    ("index 2.8.0 GOOD --home /proc/none", "/proc cannot be written"),
    ("index 2.8.0 GOOD --repeat 2.7.1", "2.7.1 is not among the versions of this command (2.8.0)"),
    ("index 2.8.0 GOOD --repeat 2.8.0 --repeat 2.8.0=2", "given twice"),
    ("index 2.8.0 GOOD --repeat 2.8.0=\u00b2", "write VERSION=N"),
    ("index 2.8.0 GOOD --sites DIR", "--site-python is missing"),
    ("index 2.8.0 GOOD --site-python FILE", "give both, or neither"),
    ("index 2.8.0 GOOD --sites DIR --site-python FILE", "cannot be run"),
    ("index 2.8.0 --collection EMPTY --checkpoint embedded", "The argument after --collection is empty"),
    ("plan 2.8.0 SHORT", "is too small"),
    ("plan 2.8.0 GOOD --repeat 2.7.1", "is not among the versions"),
    ("sweep 2.8.0 GOOD --output FILE", "--output: FILE is not a folder"),
    ("sweep 2.8.0 GOOD --output /proc/none", "--output: /proc cannot be written"),
    ("sweep 2.8.0 GOOD --partition gpu", "give --executor slurm"),
    ("sweep 2.8.0 GOOD --slurm mem=1G", "give --executor slurm"),
    ("sweep 2.8.0 GOOD --executor slurm --gpus 0", "--gpus chooses among this machine's GPUs"),
    ("sweep 2.8.0 GOOD --older-than nan", "nan is not a number of hours"),
    ("sweep 2.8.0 GOOD --older-than inf", "inf is not a number of hours"),
    ("sweep 2.8.0 GOOD --gpus 0", "--gpus 0"),
    ("sweep 2.8.0 GOOD --attach", "give no versions"),
    ("sweep --attach none", "no sweep over Slurm is under way"),
    ("locate 2.7.1 2.7.1 GOOD", "A and B are both 2.7.1, and locate explains"),
    ("locate 2.7.1 2.8 GOOD", "'2.8' is not a version"),
    ("locate 2.7.1 2.8.0 SHORT", "is too small"),
    ("locate 2.7.1 2.8.0 GOOD --output FILE", "--output: FILE is not a folder"),
    ("locate 2.7.1 2.8.0 GOOD --output TABLE", "locations.parquet is not a file"),
    ("consecutive --output /proc/none", "--output: /proc cannot be written"),
    ("locate 2.7.1 2.8.0 GOOD --repro FILE/x", "--repro: FILE is not a folder"),
    ("locate 2.7.1 2.8.0 GOOD --no-replay --repro DIR", "--repro needs the replay"),
    ("blame 2.8.0 2.8.0 GOOD", "A and B are both 2.8.0, and blame explains"),
    ("blame x 2.8.0 GOOD", "'x' is not a version"),
    ("blame 2.7.1 2.8.0 GOOD --output FILE/x", "--output: FILE is not a folder"),
    ("swap 2.7.1 2.7.1 sample GOOD", "`harness compare --job index 2.7.1 2.7.1#1` with the same options"),
    ("swap 2.7.1 2.8.0 local_sample_emb GOOD", "'local_sample_emb' cannot be swapped; these can: D, local_sample_embs"),
    ("swap 2.7.1 2.8.0 sample embs_1 GOOD", "There is no 'embs_1': colbert-ai encodes 2 passages in 1 chunk"),
    ("swap 2.7.1 2.8.0 sample GOOD --output FILE", "--output: FILE is not a folder"),
    ("swap 2.7.1 2.8.0 GOOD", "Missing argument"),
    ("probe 2.8.0 GOOD-CK --probe mat", "'mat' is not a probe"),
    ("probe 2.8 GOOD-CK", "'2.8' is not a version"),
    ("probe 2.8.0 GOOD-CK --repeat 2.7.1", "is not among the versions"),
    ("probe 2.8.0 GOOD-CK --home FILE", "FILE is not a folder"),
    ("probe 2.8.0 --checkpoint none", "not a checkpoint in matrix.yaml"),
    ("probes --output FILE", "--output: FILE is not a folder"),
    ("probes --probe mat", "'mat' is not a probe"),
    ("headlines NONE", "NONE does not exist"),
    ("headlines DIR", "DIR holds no tables"),
    ("headlines results", "results holds no tables itself, but"),
    ("nightly NONE", "no such folder of nights"),
    ("nightly DIR --summary DIR", "--summary: DIR cannot be written (Is a directory)"),
    ("nightly DIR --summary NONE/x.md", "--summary: there is no folder NONE"),
    ("doctor --repeats 2 --version 2.8", "'2.8' is not a version"),
    ("doctor --version 2.8.0", "give --repeats N, too"),
    ("doctor --matrix NONE", "--matrix NONE: it cannot be read"),
    ("store list", "There is no store in"),
    ("store verify --home FILE", "There is no store in FILE"),
    ("store gc --home NONE", "There is no store in NONE"),
    ("store export FILE", "FOLDER: FILE is not a folder"),
    ("store import DIR", "DIR holds no cells"),
    ("store import FILE", "is a file"),
    ("pack DIR 2.8.0", "OUTPUT: DIR cannot be written (Is a directory)"),
    ("pack NONE/x.tar 2.8.0", "OUTPUT: there is no folder NONE"),
    ("pack - 2.8", "'2.8' is not a version"),
    ("quickstart --home FILE", "FILE is not a folder"),
    ("quickstart --limit 0", "not in the range"),
    ("lock --diff 2.8.0 x", "'x' is not a version"),
)  # fmt: skip
"""Command lines that cannot work, and a part of what is said; the test replaces the words in capitals."""


@pytest.mark.parametrize(("line", "part"), WRONG, ids=[line for line, _ in WRONG])
def test_what_cannot_work_is_refused_before_anything_begins(run, inputs, tmp_path, line, part):
    (tmp_path / "file").write_text("words\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "table" / "locations.parquet").mkdir(parents=True)
    (tmp_path / "short.jsonl").write_text('{"text": "a cat"}\n')
    matrix = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    (tmp_path / "matrix.yaml").write_text(matrix.replace("nbits: 2", "nbits: 4"), encoding="utf-8")
    (tmp_path / "locks").symlink_to(ROOT / "locks")
    known = {
        "GOOD": inputs, "GOOD-CK": inputs[2:], "SHORT": ["--collection", str(tmp_path / "short.jsonl"), *inputs[2:]],
        "EMPTY": [""], "NBITS": [str(tmp_path / "matrix.yaml")],
    }  # fmt: skip
    paths = {
        name: str(tmp_path / place)
        for name, place in {"FILE": "file", "DIR": "folder", "NONE": "none", "TABLE": "table"}.items()
    }

    def placed(text: str) -> str:
        for name, path in paths.items():
            text = text.replace(name, path)
        return text

    before = sorted(tmp_path.rglob("*"))
    done = run(*(word for argument in line.split() for word in known.get(argument, [placed(argument)])))

    assert done.code == 2, done.err
    assert placed(part) in " ".join(done.err.split()), done.err
    assert "Errno" not in done.err
    assert "Traceback" not in done.err
    if "Usage: " not in done.err:
        one_sentence(done)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [["schema"], ["lock", "--diff", "2.4.1", "2.5.0"], ["--help"]])
def test_a_reader_that_leaves_is_no_error(command):
    assert unread(*command) == (0, "")


def test_a_divergence_that_nobody_reads_is_still_one(tmp_path):
    head = "a,b,total,shapes_match,default_match,bnb_match\n"
    (tmp_path / "one.csv").write_text(head + "2.4.1,2.5.0,12,12,12,12\n")
    (tmp_path / "two.csv").write_text(head + "2.4.1,2.5.0,12,12,3,12\n")

    assert unread("headlines", str(tmp_path / "one.csv"), str(tmp_path / "two.csv")) == (1, "")


def unread(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command line whose standard output has lost its reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *arguments], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr

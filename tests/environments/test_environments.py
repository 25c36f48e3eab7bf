"""An environment is built once, marked complete last, and rebuilt whenever it is not what its lock says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.environments import build, uv
from harness.environments.build import ensure_environment, environment_path, evict, find_environment
from harness.environments.interpreter import installed_packages, mismatches
from harness.environments.lockfile import lock_path, read_lock
from harness.environments.supervise import Control, Stopped
from harness.environments.uv import BuildFailed, run_uv
from harness.errors import ExitCode, HarnessError, InfrastructureError, UsageError
from harness.files import disk_errors
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from tests.support.programs import FAKE
from tests.support.uv_variables import DECIDES, REACHES

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
SENTINEL = "harness-complete.json"


def write_lock(locks: Path, version: str, **packages: str) -> None:
    path = lock_path(locks, version, "cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    pins = {"numpy": "1.26.4", "typing-extensions": "4.15.0", "torch": version, **packages}
    hashes = "    --hash=sha256:" + "0" * 64
    path.write_text("".join(f"{name} \\\n{hashes}\n" for name in (f"{n}=={v}" for n, v in pins.items())))


class Bench:
    """A home, locks and a fake uv in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.locks = folder / "locks"
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self.said: list[str] = []
        self.uv = [sys.executable, "-S", str(FAKE), str(self.state)]
        for version in ("2.7.1", "2.8.0"):
            write_lock(self.locks, version)

    def ensure(self, version: str = "2.8.0") -> build.Environment:
        return ensure_environment(self.home, MATRIX, self.locks, version, "cpu", report=self.said.append)

    def calls(self, start: str = "") -> list[str]:
        path = self.state / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(start)]

    def folder(self, version: str = "2.8.0") -> Path:
        return environment_path(self.home, version, "cpu", read_lock(lock_path(self.locks, version, "cpu")))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    monkeypatch.setattr(build, "uv_command", lambda: made.uv)
    monkeypatch.setattr(uv, "uv_command", lambda: made.uv)
    return made


def test_an_environment_is_built_from_its_lock_and_then_reused(bench):
    first = bench.ensure()
    second = bench.ensure()

    assert len(bench.calls("venv")) == 1
    assert len(bench.calls("pip install")) == 1
    assert first.packages == second.packages == {"numpy": "1.26.4", "typing-extensions": "4.15.0", "torch": "2.8.0"}
    assert first.path == second.path == bench.folder()
    assert first.python.exists()
    assert second.seconds_to_build == 0 < first.seconds_to_build


def test_installing_checks_hashes_and_takes_nothing_but_the_lock(bench):
    bench.ensure()

    (install,) = bench.calls("pip install")
    assert "--require-hashes" in install
    assert "--no-deps" in install
    assert install.count("--requirements") == 1
    assert install.endswith(f"-{lock_path(bench.locks, '2.8.0', 'cpu').name}")
    assert f"--python {MATRIX.python} --no-project" in bench.calls("venv")[0]


def test_versions_have_environments_of_their_own(bench):
    assert bench.ensure("2.7.1").path != bench.ensure("2.8.0").path
    assert bench.ensure("2.7.1").packages["torch"] == "2.7.1"


def test_nothing_is_found_before_it_is_built(bench):
    assert find_environment(bench.home, bench.locks, "2.8.0", "cpu") is None

    bench.ensure()
    found = find_environment(bench.home, bench.locks, "2.8.0", "cpu")

    assert found is not None
    assert found.path == bench.folder()
    assert find_environment(bench.home, bench.locks, "2.7.1", "cpu") is None


def no_sentinel(folder: Path) -> None:
    (folder / SENTINEL).unlink()


def empty_sentinel(folder: Path) -> None:
    (folder / SENTINEL).write_text("")


def foreign_sentinel(folder: Path) -> None:
    (folder / SENTINEL).write_text(json.dumps({"lock": "of something else"}))


def list_sentinel(folder: Path) -> None:
    (folder / SENTINEL).write_text("[1]")


def no_interpreter(folder: Path) -> None:
    (folder / "bin" / "python").unlink()


def package_upgraded(folder: Path) -> None:
    site = folder / "lib" / "python3.11" / "site-packages"
    metadata = site / "numpy-1.26.4.dist-info"
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.0.0\n\n")
    metadata.rename(site / "numpy-2.0.0.dist-info")


def package_added(folder: Path) -> None:
    metadata = folder / "lib" / "python3.11" / "site-packages" / "stowaway-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stowaway\nVersion: 1.0\n\n")


def package_removed(folder: Path) -> None:
    shutil.rmtree(folder / "lib" / "python3.11" / "site-packages" / "torch-2.8.0.dist-info")


@pytest.mark.parametrize(
    "damage",
    [
        no_sentinel,
        empty_sentinel,
        foreign_sentinel,
        list_sentinel,
        no_interpreter,
        package_upgraded,
        package_added,
        package_removed,
    ],
)
def test_a_damaged_or_half_built_environment_is_rebuilt(bench, damage):
    bench.ensure()
    (bench.folder() / "trace").touch()
    damage(bench.folder())

    assert find_environment(bench.home, bench.locks, "2.8.0", "cpu") is None

    again = bench.ensure()

    assert len(bench.calls("venv")) == 2
    assert again.packages["numpy"] == "1.26.4"
    assert not (bench.folder() / "trace").exists()
    assert any("rebuilding" in line for line in bench.said)
    assert find_environment(bench.home, bench.locks, "2.8.0", "cpu") is not None


def test_a_changed_lock_gets_another_environment_and_a_new_note_does_not(bench):
    old = bench.ensure().path
    path = lock_path(bench.locks, "2.8.0", "cpu")
    path.write_text("# by nox -s lock\n" + path.read_text())
    noted = bench.ensure().path
    write_lock(bench.locks, "2.8.0", sympy="1.14.0")
    new = bench.ensure()

    assert noted == old
    assert new.path != old
    assert new.packages["sympy"] == "1.14.0"


def test_the_mark_of_completeness_is_written_last(bench, monkeypatch):
    order: list[str] = []

    def noted(name: str, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            order.append(name)
            return original(*arguments, **options)

        return call

    for name in ("build_environment", "installed_packages", "mark_complete"):
        monkeypatch.setattr(build, name, noted(name, getattr(build, name)))

    bench.ensure()

    assert order == ["build_environment", "installed_packages", "mark_complete"]
    assert not list(bench.folder().glob(f"{SENTINEL}.*"))


def test_an_interrupted_deletion_is_not_taken_for_a_complete_environment(bench, monkeypatch):
    environment = bench.ensure()

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evict(bench.home, environment, [])

    assert environment.path.exists()
    assert find_environment(bench.home, bench.locks, "2.8.0", "cpu") is None


def test_an_interrupted_build_leaves_nothing(bench, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "installed_packages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.ensure()

    assert not bench.folder().exists()


def test_threads_that_need_the_same_environment_build_it_once(bench):
    (bench.state / "slow").touch()
    found: list[build.Environment] = []
    threads = [threading.Thread(target=lambda: found.append(bench.ensure())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(bench.calls("venv")) == 1
    assert [e.path for e in found] == [bench.folder()] * 3
    assert sum(e.seconds_to_build > 0 for e in found) == 1


def test_processes_that_need_the_same_environment_build_it_once(bench):
    (bench.state / "slow").touch()
    program = (
        "import sys\nfrom pathlib import Path\nfrom harness.environments import build as environments, uv\n"
        "from harness.home import Home\n"
        "from harness.inputs.matrix_file import load_matrix\n"
        f"environments.uv_command = uv.uv_command = lambda: {bench.uv!r}\n"
        f"e = environments.ensure_environment(Home(Path({str(bench.home.root)!r})), "
        f"load_matrix(Path({str(ROOT / 'matrix.yaml')!r})), Path({str(bench.locks)!r}), '2.8.0', 'cpu')\n"
        "print(e.seconds_to_build > 0, e.packages['torch'])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=300)[0].strip() for process in processes)

    assert said == ["False 2.8.0", "True 2.8.0"]
    assert len(bench.calls("venv")) == 1


# What uv says, the outcome, the cause, and what the sentence must hold.
FAILURES = {
    "offline": (
        (
            "error: Failed to fetch: http://127.0.0.1:9/simple/torch/\n"
            "  cause: error sending request for url (http://127.0.0.1:9/simple/torch/)\n"
            "  cause: tcp connect error\n  cause: Connection refused (os error 111)\n"
        ),
        "install_failed",
        "offline",
        "the package index cannot be reached and uv's cache does not hold it all (Connection refused (os error 111))",
    ),
    "offline mode": (
        (
            "error: No solution found when resolving dependencies\n"
            "  cause: Because torch was not found in the cache and you require torch==2.8.0, we can conclude "
            "that your requirements are unsatisfiable.\n\n"
            "hint: Packages were unavailable because the network was disabled. When "
            "the network is disabled, registry packages may only be read from the cache.\n"
        ),
        "resolve_failed",
        "offline",
        "the package index cannot be reached",
    ),
    "older uv, drawn": (
        (
            "  \u00d7 Failed to fetch: `http://127.0.0.1:9/simple/torch/`\n  ├─▶ Request failed after 3 retries\n"
            "  ╰─▶ dns error: failed to lookup address information\n"
        ),
        "install_failed",
        "offline",
        "(dns error: failed to lookup address information)",
    ),
    "hash mismatch": (
        (
            "Resolved 1 package in 38ms\nerror: Failed to download `idna==3.10`\n"
            "  cause: Hash mismatch for `idna==3.10`\n\n"
            "         Expected:\n           sha256:0000\n\n         Computed:\n           sha256:946d\n"
        ),
        "install_failed",
        "",
        "does not have the hash that the lock names (Hash mismatch for `idna==3.10`)",
    ),
    "full disk": (
        (
            "error: Failed to install: torch-2.8.0-cp311.whl\n  cause: failed to copy file\n"
            "  cause: No space left on device (os error 28)\n"
        ),
        "install_failed",
        "disk_full",
        "is full: free some space, or sweep with --evict",
    ),
    "no such version": (
        (
            "error: No solution found when resolving dependencies\n"
            "  cause: Because there is no version of torch==9.9.9 and you require torch==9.9.9, we can conclude "
            "that your requirements are unsatisfiable.\n"
        ),
        "resolve_failed",
        "",
        "Because there is no version of torch==9.9.9",
    ),
    "hint": (
        (
            "Using Python 3.11.7 environment at: v\nerror: No solution found when resolving dependencies\n"
            "  cause: Because there is no version of numpy==1.26.4 and you require numpy==1.26.4, we can conclude that "
            "your requirements are unsatisfiable.\n\n"
            "hint: `numpy` was filtered by `exclude-newer` to only include packages uploaded before 2022-01-01.\n"
            "Consider using `exclude-newer-package`.\n"
        ),
        "resolve_failed",
        "",
        (
            "requirements are unsatisfiable. uv's hint: `numpy` was filtered by `exclude-newer` to only include "
            "packages uploaded before 2022-01-01. Consider using `exclude-newer-package`."
        ),
    ),
    "a cache that cannot be written": (
        (
            "error: Failed to initialize cache at `/home/cache/uv`\n"
            "  cause: failed to create directory `/home/cache/uv`: Permission denied (os error 13)\n"
        ),
        "install_failed",
        "",
        "failed: failed to create directory `/home/cache/uv`: Permission denied (os error 13).",
    ),
    "silent": ("", "install_failed", "", "uv printed nothing"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_install_is_a_sentence_with_an_outcome_and_the_whole_log(bench, name):
    stderr, outcome, cause, part = FAILURES[name]
    (bench.state / "fail").write_text(stderr, encoding="utf-8")

    with pytest.raises(BuildFailed) as caught:
        bench.ensure()

    said = str(caught.value)
    assert said.startswith("2.8.0: installing the locked packages failed: ")
    assert part in said
    assert "\n" not in said
    assert said.endswith(".")
    assert (caught.value.outcome, caught.value.cause) == (outcome, cause)
    assert stderr.strip() in caught.value.log
    assert "pip install --python" in caught.value.log
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE
    assert not bench.folder().exists()


def test_after_a_failure_the_next_try_starts_anew(bench):
    (bench.state / "fail").write_text("error: bad luck")
    with pytest.raises(BuildFailed, match="bad luck"):
        bench.ensure()
    (bench.state / "fail").unlink()

    assert bench.ensure().packages["torch"] == "2.8.0"


def test_an_install_of_other_packages_than_the_lock_names_fails(bench):
    (bench.state / "other").touch()

    with pytest.raises(BuildFailed, match=r"torch is 0\.0\.1 instead of 2\.8\.0"):
        bench.ensure()
    assert not bench.folder().exists()


def test_uv_that_cannot_be_started_is_a_sentence(bench):
    bench.uv = [str(bench.state / "no-uv")]

    with pytest.raises(BuildFailed, match="uv cannot be started"):
        bench.ensure()


def test_uv_gets_what_reaches_an_index_and_nothing_that_decides_what_is_built(bench, monkeypatch):
    for name, text in {**DECIDES, **REACHES, "UV_CACHE_DIR": "/theirs"}.items():
        monkeypatch.setenv(name, text)

    found = uv.uv_environment(bench.home)

    assert set(DECIDES) & set(found) == set()
    assert REACHES.items() <= found.items()
    assert found["UV_CACHE_DIR"] == str(bench.home.uv_cache)


def test_every_call_of_uv_gets_them_and_runs_in_no_project(bench, monkeypatch):
    """Building, evicting, and what other modules ask of uv."""
    monkeypatch.setenv("UV_EXCLUDE_NEWER", "2022-01-01T00:00:00Z")
    monkeypatch.setenv("UV_CACHE_DIR", "/theirs")
    built = bench.ensure()

    for call in (bench.ensure, lambda: run_uv(bench.home, "pip", "compile"), lambda: evict(bench.home, built, [])):
        call()
        seen = json.loads((bench.state / "variables").read_text())
        assert "UV_EXCLUDE_NEWER" not in seen
        assert seen["UV_CACHE_DIR"] == str(bench.home.uv_cache)
        assert seen["cwd"] == "/"


def test_evicting_deletes_the_environment_and_only_packages_that_nobody_keeps(bench):
    old, new = bench.ensure("2.7.1"), bench.ensure("2.8.0")

    evict(bench.home, old, [new.lock])

    assert not old.path.exists()
    assert new.path.exists()
    assert bench.calls("cache clean") == ["cache clean --quiet torch"]


def test_evicting_without_anything_to_keep_cleans_all_of_its_packages(bench):
    evict(bench.home, bench.ensure(), [])

    assert bench.calls("cache clean") == ["cache clean --quiet numpy typing-extensions torch"]


def test_a_missing_lock_is_a_sentence(bench):
    with pytest.raises(UsageError, match="no lock for this version"):
        bench.ensure("2.5.0")
    assert bench.calls() == []


def test_installed_packages_reads_names_in_their_normal_form(tmp_path):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for folder, name in (("PyYAML-6.0.dist-info", "PyYAML"), ("typing_extensions-4.dist-info", "typing_extensions")):
        (site / folder).mkdir(parents=True)
        (site / folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n\nName: other\n")

    assert installed_packages(tmp_path) == {"pyyaml": "1.2", "typing-extensions": "1.2"}


def test_mismatches_name_what_is_missing_other_and_extra(bench):
    lock = read_lock(lock_path(bench.locks, "2.8.0", "cpu"))

    found = mismatches(lock, {"numpy": "2.0.0", "typing-extensions": "4.15.0", "pip": "1"})

    assert found == [
        "numpy is 2.0.0 instead of 1.26.4",
        "pip is 1 instead of absent",
        "torch is missing instead of 2.8.0",
    ]
    assert mismatches(lock, dict(lock.packages)) == []


@pytest.mark.parametrize(
    ("number", "expected"), [(28, "is full: free some space"), (30, "cannot be written"), (13, "can")]
)
def test_a_full_or_read_only_disk_is_a_sentence_with_exit_code_2(bench, number, expected):
    with pytest.raises(HarnessError, match=expected) as caught, disk_errors(bench.home):
        raise OSError(number, "said the kernel")

    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("number", [5, 116])
def test_a_disk_that_fails_is_a_sentence_with_exit_code_3(bench, number):
    with pytest.raises(InfrastructureError, match="answers with errors") as caught, disk_errors(bench.home):
        raise OSError(number, "Input/output error", "/some/file")

    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE


def test_other_errors_of_the_system_are_not_disguised(bench):
    with pytest.raises(InterruptedError), disk_errors(bench.home):
        raise InterruptedError(4, "interrupted")


def test_an_evicted_environment_is_rebuilt_with_the_same_packages_from_the_same_lock(bench):
    """The hashes of the lock are checked by uv: the same lock is the same files."""
    first = bench.ensure()
    evict(bench.home, first, [])
    again = bench.ensure()

    assert again.seconds_to_build > 0
    assert again.lock.digest == first.lock.digest
    assert again.packages == first.packages == read_lock(again.lock.path).packages
    assert len(bench.calls("pip install")) == 2
    assert all("--require-hashes" in call for call in bench.calls("pip install"))


def test_an_environment_that_another_sweep_uses_is_not_evicted(bench):
    environment = bench.ensure()
    with build.use_environment(bench.home, "2.8.0", "cpu", environment.lock):
        assert evict(bench.home, environment, []) is None
        assert environment.path.exists()

    assert evict(bench.home, environment, []) is not None
    assert not environment.path.exists()


def test_an_install_that_hangs_is_stopped_at_the_deadline(bench):
    (bench.state / "hang").touch()

    with pytest.raises(BuildFailed, match=r"was stopped after .* at the deadline of install") as caught:
        ensure_environment(bench.home, MATRIX, bench.locks, "2.8.0", "cpu", deadline=1.0)

    assert (caught.value.outcome, caught.value.cause) == ("timeout", "")
    assert not bench.folder().exists()


def test_a_stopped_install_leaves_nothing_and_no_uv(bench, monkeypatch):
    (bench.state / "hang").touch()
    control = Control()

    def stop_when_it_hangs() -> None:
        end = time.monotonic() + 300
        while not (bench.state / "pid").exists() and time.monotonic() < end:
            time.sleep(0.05)
        control.stop()

    stopper = threading.Thread(target=stop_when_it_hangs)
    stopper.start()
    with pytest.raises(Stopped):
        ensure_environment(bench.home, MATRIX, bench.locks, "2.8.0", "cpu", control=control)
    stopper.join()

    assert not bench.folder().exists()
    assert not Path(f"/proc/{(bench.state / 'pid').read_text()}").exists()


def test_an_install_ends_with_a_harness_that_is_killed_and_the_lock_is_free_only_then(bench):
    (bench.state / "hang").touch()
    program = (
        "import sys\nfrom pathlib import Path\nfrom harness.environments import build as environments, uv\n"
        "from harness.home import Home\n"
        "from harness.inputs.matrix_file import load_matrix\n"
        f"environments.uv_command = uv.uv_command = lambda: {bench.uv!r}\n"
        f"environments.ensure_environment(Home(Path({str(bench.home.root)!r})), "
        f"load_matrix(Path({str(ROOT / 'matrix.yaml')!r})), Path({str(bench.locks)!r}), '2.8.0', 'cpu')\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    while not (bench.state / "pid").exists():
        assert harness.poll() is None
        time.sleep(0.05)
    harness.kill()
    harness.wait()
    (bench.state / "hang").unlink()

    found = bench.ensure()

    assert not Path(f"/proc/{(bench.state / 'pid').read_text()}").exists()
    assert found.packages["torch"] == "2.8.0"
    assert any("incomplete" in text for text in bench.said)

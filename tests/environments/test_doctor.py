"""The doctor's lines say what works, what does not, and the mend."""

from __future__ import annotations

import collections
import platform
import shutil
import sys
import types
from pathlib import Path

import pytest

from harness.environments import build, doctor
from harness.environments import uv as uv_module
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from tests.support.command import run as run_command
from tests.support.programs import fake_nvidia_smi

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
UV_COMMAND = uv_module.uv_command


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Run all checks with uv answering at once, and return the lines by name."""
    monkeypatch.setattr(build, "uv_command", lambda: ["true"])
    monkeypatch.setattr(uv_module, "uv_command", lambda: ["true"])

    def run(matrix=MATRIX, locks=ROOT / "locks", home=tmp_path / "not" / "made" / "yet", device="auto"):
        lines = collections.defaultdict(list)
        for check in doctor.examine(matrix, Home(home), locks, device):
            lines[check.name].append(check)
        return lines

    return run


def disk(monkeypatch, free_gib):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, int(free_gib * doctor.GIB)))


def with_threads(threads):
    job = MATRIX.jobs.index.model_copy(update={"threads": threads})
    return MATRIX.model_copy(update={"jobs": MATRIX.jobs.model_copy(update={"index": job})})


def test_every_check_has_a_verdict_and_a_sentence(report):
    lines = [check for checks in report().values() for check in checks]

    assert {check.name for check in lines} >= {"platform", "python", "locks", "disk", "memory", "threads", "cpu", "gpu"}
    assert {check.verdict for check in lines} <= {"ok", "warning", "problem"}
    assert all(check.detail.endswith(".") for check in lines)


@pytest.mark.parametrize(
    ("free", "verdict", "part"),
    [(3, "problem", "takes up to"), (10, "warning", "--evict"), (30, "ok", "--evict"), (200, "ok", "all environments")],
)
def test_the_disk_is_measured_where_the_home_will_be(report, monkeypatch, free, verdict, part):
    disk(monkeypatch, free)

    (check,) = report()["disk"]
    assert check.verdict == verdict
    assert part in check.detail


def test_a_missing_python_is_a_problem(report, monkeypatch):
    said = f"error: No interpreter found for Python {MATRIX.python} in search path\n\nhint: uv can fetch it\n"
    monkeypatch.setattr(build, "uv_command", lambda: ["sh", "-c", f"printf %s '{said}' >&2; exit 2"])
    monkeypatch.setattr(uv_module, "uv_command", lambda: ["sh", "-c", f"printf %s '{said}' >&2; exit 2"])

    (check,) = report()["python"]
    assert check.verdict == "problem"
    assert f"no Python {MATRIX.python}" in check.detail
    assert check.detail.endswith("uv's hint: uv can fetch it.")


def test_a_uv_that_fails_for_another_reason_is_not_taken_for_a_missing_python(report, monkeypatch):
    said = "error: Failed to initialize cache at `/c`\n  cause: failed to create directory `/c`: Permission denied\n"
    monkeypatch.setattr(build, "uv_command", lambda: ["sh", "-c", f"printf %s '{said}' >&2; exit 2"])
    monkeypatch.setattr(uv_module, "uv_command", lambda: ["sh", "-c", f"printf %s '{said}' >&2; exit 2"])

    lines = report()
    assert lines["python"] == []
    assert lines["uv"][0].verdict == "problem"
    assert "failed to create directory `/c`: Permission denied" in lines["uv"][0].detail


def test_a_home_that_cannot_be_written_is_said_to_be_the_reason(tmp_path):
    """With the real uv, whose cache is in the home: a file is where the home's folder would be."""
    (tmp_path / "file").touch()

    (check,) = (one for one in doctor.examine(MATRIX, Home(tmp_path / "file"), ROOT / "locks") if one.name == "uv")

    assert check.verdict == "problem"
    assert str(tmp_path / "file") in check.detail


def test_uv_that_cannot_be_started_is_a_problem(report, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "uv_command", lambda: [str(tmp_path / "no-uv")])
    monkeypatch.setattr(uv_module, "uv_command", lambda: [str(tmp_path / "no-uv")])

    assert report()["uv"][0].verdict == "problem"


def test_missing_locks_are_named_with_the_mend(report, tmp_path):
    (check,) = report(locks=tmp_path)["locks"]

    assert check.verdict == "problem"
    assert "1.13.1 (cpu)" in check.detail
    assert "run `harness lock`" in check.detail


def test_the_committed_locks_are_complete(report):
    assert report()["locks"][0].verdict == "ok"


def test_more_threads_than_cores_is_a_problem_with_the_mend(report, monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)

    assert report(with_threads(1))["threads"][0].verdict == "ok"
    (check,) = report(with_threads(2))["threads"]
    assert check.verdict == "problem"
    assert "--threads 1" in check.detail


@pytest.mark.parametrize(
    ("libc", "verdict"), [(("glibc", "2.28"), "ok"), (("glibc", "2.17"), "problem"), (("", ""), "problem")]
)
def test_an_old_or_another_libc_is_a_problem(report, monkeypatch, libc, verdict):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)

    assert report()["platform"][0].verdict == verdict


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "x86_64"), ("Linux", "aarch64")])
def test_another_platform_is_a_problem(report, monkeypatch, system, machine):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)

    (check,) = report()["platform"]
    assert check.verdict == "problem"
    assert machine in check.detail


def test_a_gpu_that_old_wheels_hold_no_code_for_is_said_before_anything_is_installed(report, tmp_path, monkeypatch):
    h100 = "GPU-x, NVIDIA H100 80GB HBM3, 9.0"
    fake_nvidia_smi(tmp_path, monkeypatch, f"0, {h100}", f"1, {h100}")

    lines = report()["gpu"]

    assert [check.verdict for check in lines] == ["ok", "warning"]
    assert lines[0].detail == "2 x NVIDIA H100 80GB HBM3 9.0."
    assert "none of which runs on NVIDIA H100 80GB HBM3 (compute capability 9.0)" in lines[1].detail
    assert "Cells of 1.13.1, 2.0.0, 2.0.1 will be `unsupported`" in lines[1].detail


def test_a_gpu_that_all_wheels_serve_gets_no_warning(report, tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, "0, GPU-x, NVIDIA A100-SXM4-40GB, 8.0")

    assert [check.verdict for check in report()["gpu"]] == ["ok"]


def test_no_gpu_is_a_warning_and_not_a_problem(report, tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, status=9)

    (check,) = report()["gpu"]
    assert check.verdict == "warning"
    assert "on the CPU" in check.detail


def test_a_gpu_that_has_to_be_there_and_is_not_is_a_problem(report, tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, status=9)

    (check,) = report(device="cuda")["gpu"]
    assert check.verdict == "problem"
    assert "use --device cpu" in check.detail


def test_the_command_ends_with_3_for_it_and_starts_no_repeats(tmp_path, monkeypatch, capsys):
    fake_nvidia_smi(tmp_path, monkeypatch, status=9)
    monkeypatch.setattr(build, "uv_command", lambda: ["true"])
    monkeypatch.setattr(uv_module, "uv_command", lambda: ["true"])

    for more in ((), ("--repeats", "2")):
        code, out, err = run_command(
            capsys, "doctor", "--device", "cuda", *more, "--home", tmp_path / "home", "--matrix", ROOT / "matrix.yaml"
        )
        assert (code, err) == (3, "")
        assert "--device cuda: nvidia-smi lists no GPU" in out
        # uv, which was asked for a Python, leaves a lock of its cache.
        assert {path.name for path in (tmp_path / "home").rglob("*")} <= {"locks", "uv-cache.lock"}


def test_a_home_that_cannot_be_written_is_a_problem(report, tmp_path):
    (tmp_path / "file").write_text("")

    (check,) = report(home=tmp_path / "file")["disk"]
    assert check.verdict == "problem"
    assert "name a folder that can be written" in check.detail


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("9.0", ["1.13.1", "2.0.0", "2.0.1"]),
        ("10.0", ["1.13.1", "2.0.0", "2.0.1"]),
        ("8.9", []),  # sm_86 code runs on it
        ("7.2", []),
        ("[N/A]", []),
        ("", []),
    ],
)
def test_unsupported_versions_follow_cuda_s_rule_of_binary_compatibility(capability, expected):
    found = doctor.unsupported(MATRIX, f"cuda Some GPU {capability}")

    assert [version for versions in found.values() for version in versions] == expected


def test_a_cpu_never_lacks_code():
    assert doctor.unsupported(MATRIX, "cpu GenuineIntel 6/143 9.0") == {}


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'uv'"), FileNotFoundError("no uv binary")])
def test_a_host_without_uv_is_told_that_environments_must_be_brought(report, monkeypatch, error):
    """Without its package, or with its package and without its program, as `harness pack` brings it."""

    def find_uv_bin():
        raise error

    uv = types.ModuleType("uv")
    vars(uv)["find_uv_bin"] = find_uv_bin
    monkeypatch.setattr(build, "uv_command", UV_COMMAND)
    monkeypatch.setattr(uv_module, "uv_command", UV_COMMAND)
    monkeypatch.setitem(sys.modules, "uv", uv if isinstance(error, FileNotFoundError) else None)

    (check,) = report()["uv"]
    assert check.verdict == "warning"
    assert "--sites" in check.detail


def test_a_compiler_is_only_asked_for_when_extensions_are_built(report, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    job = MATRIX.jobs.index.model_copy(update={"native_extensions": True})
    native = MATRIX.model_copy(update={"jobs": MATRIX.jobs.model_copy(update={"index": job})})

    assert report()["compiler"][0].verdict == "ok"
    assert report(native)["compiler"][0].verdict == "problem"


def test_little_memory_is_a_warning(report, monkeypatch):
    import psutil

    class Memory:
        available = doctor.GIB

    monkeypatch.setattr(psutil, "virtual_memory", Memory)

    assert report()["memory"][0].verdict == "warning"

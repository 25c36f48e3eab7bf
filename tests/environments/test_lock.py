"""Between any two versions only torch, what torch requires and the declared allow-list differ, and all is hashed."""

from __future__ import annotations

import itertools
import re
import subprocess
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path

import pytest

from harness.environments.changes import undeclared
from harness.environments.lockfile import FLAVOURS, Lock, difference, lock_path, read_lock, shared_path
from harness.environments.resolve import Uv, write_locks
from harness.environments.uv import run_uv
from harness.errors import InfrastructureError, UsageError
from harness.home import Home
from harness.inputs.matrix import Flavour
from harness.inputs.matrix_file import load_matrix

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"
MATRIX = load_matrix(ROOT / "matrix.yaml")
HASH = "--hash=sha256:" + "0123456789abcdef" * 4


@cache
def lock_of(version: str, flavour: Flavour) -> Lock:
    return read_lock(lock_path(LOCKS, version, flavour))


def shared_pins(flavour: Flavour) -> dict[str, str]:
    lines = shared_path(LOCKS, flavour).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def replaced_by(version: str, flavour: Flavour) -> set[str]:
    return {old.partition("==")[0] for oddity in MATRIX.oddities_of(version, flavour) for old in oddity.replace}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("version", MATRIX.versions)
def test_every_version_has_a_lock_of_what_the_matrix_asks_for(version, flavour):
    lock = lock_of(version, flavour)
    overridden = {pin for oddity in MATRIX.oddities_of(version, flavour) for pin in oddity.override}

    assert lock.packages["torch"] == version
    for pin in (*MATRIX.requirements_of(version, flavour), *overridden):
        name, _, wanted = pin.partition("==")
        assert lock.packages[name] == wanted


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("version", MATRIX.versions)
def test_every_pin_is_followed_by_a_hash_and_nothing_names_a_place(version, flavour):
    text = lock_path(LOCKS, version, flavour).read_text(encoding="utf-8")
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]

    pins = [number for number, line in enumerate(code) if not line.startswith(" ")]

    assert len(pins) == len(lock_of(version, flavour).packages)
    assert all(code[number + 1].startswith("    --hash=sha256:") for number in pins)
    for sign in ("://", "file:", " @ ", "--index-url", "--find-links", "/tmp", "/home", "/root", "/work"):
        assert sign not in text


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_between_any_two_versions_nothing_undeclared_differs(flavour):
    for a, b in itertools.combinations(MATRIX.versions, 2):
        assert undeclared(MATRIX, lock_of(a, flavour), lock_of(b, flavour)) == [], f"{a} and {b}"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("version", MATRIX.versions)
def test_the_shared_part_is_the_same_in_every_lock(version, flavour):
    shared = shared_pins(flavour)
    packages = lock_of(version, flavour).packages

    assert len(shared) > 40
    assert "torch" not in shared
    for name, wanted in shared.items():
        if name not in replaced_by(version, flavour):
            assert packages[name] == wanted


def test_the_flavours_share_everything_but_faiss():
    cpu, gpu = shared_pins("cpu"), shared_pins("gpu")

    assert {name for name, _ in cpu.items() ^ gpu.items()} == {"faiss-cpu", "faiss-gpu-cu12"}


def test_nothing_that_computes_is_part_of_what_may_differ():
    closure = frozenset[str]().union(*(lock_of(v, f).torch_closure() for v in MATRIX.versions for f in FLAVOURS))

    assert "triton" in closure
    assert "nvidia-cublas-cu12" in closure
    assert not closure & {"numpy", "transformers", "tokenizers", "colbert-ai", "datasets", "faiss-cpu", "scipy"}


def test_the_difference_of_a_known_pair_is_cuda_and_triton():
    found = difference(lock_of("2.4.1", "cpu"), lock_of("2.5.0", "cpu"))

    assert found["torch"] == ("2.4.1", "2.5.0")
    assert found["nvidia-cublas-cu12"] == ("12.1.3.1", "12.4.5.8")
    assert found["triton"] == ("3.0.0", "3.1.0")
    assert not {"numpy", "transformers", "faiss-cpu", "colbert-ai"} & set(found)


def test_the_difference_has_both_directions_and_absence():
    a, b = lock_of("1.13.1", "cpu"), lock_of("2.8.0", "cpu")

    there, back = difference(a, b), difference(b, a)

    assert difference(a, a) == {}
    assert {name: (new, old) for name, (old, new) in there.items()} == back
    assert there["nvidia-cublas-cu11"] == (a.packages["nvidia-cublas-cu11"], None)
    assert there["nvidia-cublas-cu12"] == (None, b.packages["nvidia-cublas-cu12"])


def test_a_planted_difference_in_the_shared_part_is_caught(tmp_path):
    text = lock_path(LOCKS, "2.5.0", "cpu").read_text(encoding="utf-8")
    assert "numpy==1.26.4" in text
    planted = tmp_path / "torch-2-5-0.txt"
    planted.write_text(text.replace("numpy==1.26.4", "numpy==1.26.3"), encoding="utf-8")

    assert [one.name for one in undeclared(MATRIX, lock_of("2.4.1", "cpu"), read_lock(planted))] == ["numpy"]


def test_a_package_that_only_one_lock_has_is_caught_unless_torch_brings_it(tmp_path):
    def lock(name: str, *lines: str) -> Lock:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_lock(path)

    torch = (f"torch==2.4.0 \\\n    {HASH}", "    # via matrix.yaml")
    a = lock("a", *torch)
    b = lock(
        "b", *torch,
        f"stowaway==1.0 \\\n    {HASH}", "    # via colbert-ai",
        f"kernels==1.0 \\\n    {HASH}", "    # via torch",
        f"deeper==1.0 \\\n    {HASH}", "    # via", "    #   colbert-ai", "    #   kernels",
    )  # fmt: skip

    assert [one.name for one in undeclared(MATRIX, a, b)] == ["stowaway"]
    assert [one.name for one in undeclared(MATRIX, b, a)] == ["stowaway"]
    assert b.torch_closure() == {"torch", "kernels", "deeper"}


def test_a_version_without_a_lock_is_a_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"torch-2-9-0\.txt: no lock for this version .*: run `harness lock`\.$"):
        read_lock(lock_path(tmp_path, "2.9.0", "cpu"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it pins nothing"),
        ("# only notes\n", "it pins nothing"),
        ("numpy==1.0\n", "numpy has no hash"),
        (f"numpy==1.0 \\\n    {HASH}\ntorch==2.0.0\n    # via x\n", "torch has no hash"),
        (f"numpy>=1.0 \\\n    {HASH}\n", "line 1: not a pin"),
        (f"numpy @ https://example.org/numpy.whl \\\n    {HASH}\n", "line 1: not a pin"),
        (f"numpy==1.0 \\\n    {HASH}\n--index-url https://example.org\n", "line 3: not a pin"),
        (f"numpy==1.0 \\\n    {HASH}\nnumpy==1.1 \\\n    {HASH}\n", "line 3: not a pin with hashes, or a second one"),
        (f"numpy==1.0 \\\n    {HASH[:-1]}\n", "line 2: not a pin"),
        (f"numpy==1.0 ; python_version > '3' \\\n    {HASH}\n", "line 1: not a pin"),
        ("not text at all \xff", "line 1: not a pin"),
    ],
)
def test_a_file_that_is_not_a_lock_is_a_sentence(tmp_path, text, expected):
    path = tmp_path / "lock.txt"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=re.escape(expected)) as caught:
        read_lock(path)

    assert str(caught.value).endswith("run `harness lock`.")


def test_a_lock_that_is_not_utf8_is_a_sentence(tmp_path):
    (tmp_path / "lock.txt").write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="not UTF-8"):
        read_lock(tmp_path / "lock.txt")


def test_a_new_note_keeps_the_digest_and_a_new_pin_or_hash_changes_it(tmp_path):
    def digest(text: str) -> str:
        (tmp_path / "lock.txt").write_text(text, encoding="utf-8")
        return read_lock(tmp_path / "lock.txt").digest

    text = f"numpy==1.0 \\\n    {HASH}\n    # via matrix.yaml\n"

    assert digest(text) == digest("# by hand\n" + text.replace("matrix.yaml", "torch"))
    assert digest(text) != digest(text.replace("1.0", "1.1"))
    assert digest(text) != digest(text.replace("0123", "1123"))


def old(_project: str, _version: str, _url: str | None) -> datetime:
    """Stands in for the package index: every release is older than the matrix's date."""
    return MATRIX.exclude_newer


def resolver(calls: list[tuple[str, ...]], fails_at: int = 0) -> Uv:
    """Stands in for uv: notes each call, writes a lock of a few packages, and fails at one call."""

    def uv(*command: str) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        names = {
            "torch": "matrix.yaml",
            "triton": "torch",
            "nvidia-a": "torch",
            "nvidia-b": "nvidia-a",
            "sympy": "torch",
        }
        torch = re.search(r"^torch==(\S+)", Path(command[2]).read_text(encoding="utf-8"), re.MULTILINE)
        pins = {name: torch[1] if torch and name == "torch" else "1.0" for name in names}
        lines = [f"{name}=={pin} \\\n    {HASH}\n    # via {names[name]}" for name, pin in pins.items()]
        Path(command[command.index("--output-file") + 1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        said = "error: No solution found\n\nhint: look elsewhere\n" if len(calls) == fails_at else ""
        return subprocess.CompletedProcess(command, bool(said), "", said)

    return uv


def test_a_release_newer_than_the_matrix_s_date_is_locked_as_of_its_own_upload(tmp_path):
    """Torch and CUDA's libraries have the release's date, not today's; everything else keeps the matrix's."""
    calls: list[tuple[str, ...]] = []
    at = MATRIX.exclude_newer + timedelta(days=90)
    day = (at + timedelta(days=1)).isoformat()

    write_locks(MATRIX, tmp_path, ["2.8.0"], resolver(calls), uploaded=lambda *_: at)

    of_the_matrix = [command for command in calls if MATRIX.exclude_newer.isoformat() in command]
    own = [[name for name in command if "=20" in name] for command in of_the_matrix]
    assert len(calls) == len(of_the_matrix) + 1  # torch by itself, once for both flavours
    names = ("torch", "triton", "nvidia-a", "nvidia-b")
    assert own == [[], [f"{name}={day}" for name in names]] * len(FLAVOURS)


def test_a_release_that_is_older_than_the_matrix_s_date_needs_no_other(tmp_path):
    """No call asks for a date of its own, and torch is not resolved by itself."""
    calls: list[tuple[str, ...]] = []
    write_locks(MATRIX, tmp_path, ["2.8.0"], resolver(calls), uploaded=old)
    assert len(calls) == 2 * len(FLAVOURS)
    assert not [name for command in calls for name in command if name == "--exclude-newer-package"]


def test_an_index_that_tells_no_upload_time_sets_no_date(tmp_path):
    """Uv is told that these packages have none, since it would refuse files without a time of upload."""
    calls: list[tuple[str, ...]] = []
    write_locks(MATRIX, tmp_path, ["2.8.0"], resolver(calls), uploaded=lambda *_: None)
    assert [name for name in calls[-1] if name.endswith("=false")] == [
        f"{name}=false" for name in ("torch", "triton", "nvidia-a", "nvidia-b")
    ]


@pytest.mark.parametrize("fails_at", range(1, 5))
def test_locks_are_written_all_or_none(tmp_path, fails_at):
    """A call that fails after others went well leaves every lock as it was; uv's own words are told."""
    write_locks(MATRIX, tmp_path, ["2.7.1"], resolver([]), uploaded=old)
    for path in tmp_path.rglob("*.txt"):
        path.write_text(f"# before\n{path.read_text()}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(InfrastructureError, match="No solution found hint: look elsewhere"):
        write_locks(MATRIX, tmp_path, ["2.7.1"], resolver([], fails_at), uploaded=old)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_full_disk_leaves_the_locks_as_they_were(tmp_path):
    """The last of them cannot be written: something is in the way of its new text."""
    written = write_locks(MATRIX, tmp_path, ["2.7.1"], resolver([]), uploaded=old)
    for path in written:
        path.write_text(f"# before\n{path.read_text()}")
    before = {path: path.read_bytes() for path in written}
    in_the_way = written[-1].with_name(f".{written[-1].name}.new")
    in_the_way.symlink_to(tmp_path / "nowhere" / "file")

    with pytest.raises(FileNotFoundError):
        write_locks(MATRIX, tmp_path, ["2.7.1"], resolver([]), uploaded=old)

    assert {path: path.read_bytes() for path in written} == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.integration
def test_locking_a_release_again_gives_the_same_lock(tmp_path):
    """2.15.0 came out after the matrix's date, and leaves versions of its libraries open; asks the package index."""
    written = write_locks(MATRIX, tmp_path, ["2.15.0"], partial(run_uv, Home(tmp_path / "home")))

    for flavour in FLAVOURS:
        assert shared_path(tmp_path, flavour).read_bytes() == shared_path(LOCKS, flavour).read_bytes()
        assert lock_path(tmp_path, "2.15.0", flavour).read_bytes() == lock_path(LOCKS, "2.15.0", flavour).read_bytes()
    assert len(written) == 2 * len(FLAVOURS)

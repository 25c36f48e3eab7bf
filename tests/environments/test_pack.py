"""A packed tar holds environments, interpreter, reducer and project, shared files once, and unpacks to what it was."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from harness.environments.build import Environment
from harness.environments.lockfile import Lock
from harness.environments.pack import pack
from harness.errors import UsageError

ROOT = Path(__file__).parents[2]


def _environment(folder: Path, version: str, python: Path, shared: Path) -> Environment:
    site = folder / version / "lib" / "python3.11" / "site-packages"
    (site / "torch" / "__pycache__").mkdir(parents=True)
    (site / "torch" / "version.py").write_text(version)
    (site / "torch" / "__pycache__" / "version.cpython-311.pyc").write_text("compiled")
    os.link(shared, site / "big.so")
    (folder / version / "bin").mkdir()
    (folder / version / "bin" / "python").symlink_to(python)
    lock = Lock(Path("lock.txt"), {}, {}, "digest")
    return Environment(version, "cpu", folder / version, lock, {}, 0.0)


@pytest.fixture
def environments(tmp_path: Path) -> list[Environment]:
    python = tmp_path / "prefix" / "bin" / "python3.11"
    python.parent.mkdir(parents=True)
    python.write_text("#!")
    (tmp_path / "prefix" / "lib" / "site-packages").mkdir(parents=True)
    (tmp_path / "prefix" / "lib" / "site-packages" / "not_this.py").touch()
    shared = tmp_path / "shared.so"
    shared.write_bytes(os.urandom(1 << 20))
    return [_environment(tmp_path, version, python, shared) for version in ("2.7.1", "2.8.0")]


def test_what_is_unpacked_is_what_was_packed_and_shared_files_are_written_once(
    environments: list[Environment], tmp_path: Path
) -> None:
    stream = io.BytesIO()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")

    pack(stream, environments, ROOT, extra=[tmp_path / "checkpoint"])
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        tar.extractall(tmp_path / "host", filter="data")
    host = tmp_path / "host"

    big = [(host / "site" / version / "big.so").stat() for version in ("2.7.1", "2.8.0")]
    assert [(host / "site" / v / "torch" / "version.py").read_text() for v in ("2.7.1", "2.8.0")] == ["2.7.1", "2.8.0"]
    assert big[0].st_ino == big[1].st_ino
    assert (host / "python" / "bin" / "python3.11").exists()
    assert (host / "project" / "harness" / "worker" / "__main__.py").exists()
    assert (host / "project" / "matrix.yaml").read_bytes() == (ROOT / "matrix.yaml").read_bytes()
    assert (host / "reducer" / "click").is_dir()
    assert (host / "extra" / "checkpoint" / "config.json").exists()
    assert "-m harness index 2.7.1 --sites ../site" in (host / "READ-ME").read_text()
    assert not [p for p in host.rglob("*") if p.name in {"__pycache__", "not_this.py"}]


def test_files_of_one_name_lie_side_by_side(environments: list[Environment], tmp_path: Path) -> None:
    stream = io.BytesIO()

    pack(stream, environments, ROOT)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        names = [name for name in tar.getnames() if name.startswith("site/")]

    assert names[::2] == [name.replace("2.8.0", "2.7.1") for name in names[1::2]]
    assert len(names) == len(set(names)) >= 4


def test_the_system_s_own_python_is_not_taken_along(environments: list[Environment], tmp_path: Path) -> None:
    link = environments[0].path / "bin" / "python"
    link.unlink()
    link.symlink_to("/usr/bin/python3")
    if not str(link.resolve()).startswith("/usr/"):
        pytest.skip("this system has no Python in /usr")

    with pytest.raises(UsageError, match="belongs to the system"):
        pack(io.BytesIO(), environments, ROOT)

"""Digests that a ladder remembers: nothing is read twice, and nothing that anybody touched is taken from memory."""

from __future__ import annotations

import json
import os
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from harness.artifacts import remembered
from harness.artifacts.directory import IndexDirectory
from harness.artifacts.ladder import all_digests
from harness.artifacts.remembered import Remembered
from harness.files import fetch_file
from harness.tensors.tensor import Tensor
from tests.support.command import run
from tests.support.pt_files import write_index, write_pt


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three indexes, the last of which differs, and a cache of their own; files are settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_SETTLED", -1)
    found = [tmp_path / name for name in ("one", "two", "three")]
    for folder in found:
        write_index(folder)
    write_pt(found[2] / "avg_residual.pt", np.array(0.5, np.float16))
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The tensors that were hashed."""
    hashed: list[Tensor] = []
    digest = Tensor.digest

    def counted(tensor: Tensor) -> str:
        hashed.append(tensor)
        return digest(tensor)

    monkeypatch.setattr(Tensor, "digest", counted)
    return hashed


def changed(folder: Path, file: str) -> bytes:
    """A whole file of the same size that holds something else."""
    raw = (folder / file).read_bytes()
    if file.endswith(".json"):
        return raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:]
    found = IndexDirectory(folder)
    arrays = [found.load(name).data.copy() for name in found.names() if found.files_of(name) == (folder / file,)]
    arrays[0].reshape(-1)[0] += 1
    write_pt(folder / "changed", *arrays)
    return (folder / "changed").read_bytes()


def overwrite(path: Path, content: bytes) -> None:
    """Write into the same file, of the same size, and set its date back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


def test_what_nobody_touched_is_not_read_again(
    folders: list[Path], reads: list[Tensor], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(capsys, "ladder", "--json", *folders)
    assert len(reads) == 3 * len(IndexDirectory(folders[0]).names())
    reads.clear()
    checked: list[None] = []
    monkeypatch.setattr(Tensor, "verify", lambda _: checked.append(None))

    assert run(capsys, "ladder", "--json", *folders) == first
    assert (reads, checked) == ([], [])
    assert json.loads(first[1])["steps"][1]["changed"] == ["avg_residual"]

    assert run(capsys, "ladder", "--json", "--no-cache", *folders) == first
    assert len(reads) == 3 * len(IndexDirectory(folders[0]).names())


@pytest.mark.parametrize("file", ["0.codes.pt", "centroids.pt", "ivf.pid.pt", "doclens.0.json"])
@pytest.mark.parametrize("how", ["in place", "replaced", "linked"])
def test_what_somebody_touched_is_read_again(folders: list[Path], reads: list[Tensor], file: str, how: str) -> None:
    def digests() -> list[dict[str, str]]:
        return [one for one, _ in all_digests([IndexDirectory(folder) for folder in folders], Remembered.of_user())]

    before = digests()
    reads.clear()
    target, content = folders[1] / file, changed(folders[1], file)
    if how == "in place":
        overwrite(target, content)
    else:
        other = folders[1] / "other"
        other.write_bytes(content)
        os.utime(other, ns=(target.stat().st_atime_ns, target.stat().st_mtime_ns))
        if how == "replaced":
            other.replace(target)
        else:
            target.unlink()
            target.symlink_to(other)

    after = digests()

    assert before[0] == after[0]
    assert before[2] == after[2]
    assert before[1] != after[1]
    assert 0 < len(reads) <= 2  # the pair of one file, at most


def test_a_file_that_was_just_written_is_not_remembered(
    folders: list[Path], reads: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    memory = Remembered(folders[0].parent / "kept.json")
    all_digests([IndexDirectory(folders[0])], memory)
    assert not (folders[0].parent / "kept.json").exists()

    later = time.time_ns() + 3 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    all_digests([IndexDirectory(folders[0])], memory)
    assert len(json.loads((folders[0].parent / "kept.json").read_text())) == len(IndexDirectory(folders[0]).names())


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, memory = IndexDirectory(folders[0]), Remembered(folders[0].parent / "kept.json")
    digest = Tensor.digest

    def slow(tensor: Tensor) -> str:
        found = digest(tensor)
        overwrite(folders[0] / "0.codes.pt", changed(folders[0], "0.codes.pt"))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "digest", slow)
        stale = memory.digest(source, "0.codes")

    assert memory.digest(source, "0.codes") != stale


def test_a_damaged_file_stays_unreadable(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = folders[1] / "centroids.pt"
    raw = IndexDirectory(folders[1]).load("centroids").data.tobytes()
    overwrite(path, path.read_bytes().replace(raw, bytes([raw[0] ^ 1]) + raw[1:]))

    for _ in range(2):
        code, _, _ = run(capsys, "ladder", "--json", *folders)
        assert code == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"k": 1}', '{"k": ["d", true]}'])
def test_a_memory_that_is_damaged_knows_nothing(folders: list[Path], reads: list[Tensor], text: str) -> None:
    kept = folders[0].parent / "kept.json"
    kept.write_text(text)

    all_digests([IndexDirectory(folders[0])], Remembered(kept))

    assert len(reads) == len(IndexDirectory(folders[0]).names())


def test_where_nothing_can_be_kept_everything_is_read(
    folders: list[Path], reads: list[Tensor], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = folders[0].parent / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))

    assert run(capsys, "ladder", *folders[:2])[0] == 0
    assert reads


def test_the_oldest_are_forgotten(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST", 3)
    kept = folders[0].parent / "kept.json"

    all_digests([IndexDirectory(folder) for folder in folders], Remembered(kept))

    assert len(json.loads(kept.read_text())) == 3
    assert {path.name for path in kept.parent.iterdir()} == {"one", "two", "three", "kept.json"}


def test_an_index_given_twice_is_one_that_is_known(folders: list[Path]) -> None:
    """Two threads ask for the same files at the same time, and what either finds is the same as with no memory."""
    sources = [IndexDirectory(folder) for folder in (folders[0], folders[0], folders[2], folders[2])]
    without = all_digests(sources)

    for _ in range(3):
        known = Remembered.of_user()
        assert [found for found, _ in without] == [found for found, _ in all_digests(sources, known)]


def test_nothing_stays_mapped_that_nobody_holds(folders: list[Path]) -> None:
    """A long ladder would otherwise end with all its files in memory; who holds a tensor shares it with others."""
    index = IndexDirectory(folders[0])
    held = index.load("0.residuals")
    again = weakref.ref(index.load("0.residuals"))

    assert again() is held
    del held
    assert again() is None


def test_the_disk_is_asked_once_for_what_will_be_read_and_for_nothing_that_is_known(
    folders: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(remembered, "fetch_file", lambda path, _size: asked.append(path))
    first = run(capsys, "ladder", "--json", *folders)
    sources = [IndexDirectory(folder) for folder in folders]
    # In the order of the ladder: an artifact in all of them, then the next.
    assert asked == [
        file
        for name in sources[0].names()
        for source in sources
        for file in source.files_of(name)
    ]  # fmt: skip
    asked.clear()

    assert run(capsys, "ladder", "--json", *folders) == first
    assert not asked


def test_asking_the_disk_for_what_cannot_be_read_does_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "missing", tmp_path):
        fetch_file(path, 1 << 20)

"""Whatever happens to a file of a store, `verify` finds it, and `collect` removes nothing that a record needs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts.directory import index_tensors
from harness.artifacts.index_job import INDEX
from harness.cli import main
from harness.environments.supervise import OWNER
from harness.flock import try_hold
from harness.home import Home
from harness.running.recover import collect_runs
from harness.store.audit import DAMAGED, FOREIGN, LEFTOVER, MISSING, ORPHAN, collect, verify
from harness.store.store import Store
from tests.support.cell_specs import cell, spec
from tests.support.small_index import index_arrays, write_index


@pytest.fixture
def store(tmp_path) -> Store:
    """Two cells that share all of their tensors but one."""
    made = Store(tmp_path / "store")
    for number, version in enumerate(("2.7.1", "2.8.0")):
        arrays = index_arrays()
        arrays["centroids"] = index_arrays(seed=number)["centroids"]
        put(made, tmp_path / version, version, arrays)
    return made


def put(store: Store, folder: Path, version: str, arrays) -> None:
    log = folder / "log"
    index = write_index(folder / "index", arrays)
    log.write_text(f"the log of {version}\n")
    artifacts = store.ingest(INDEX, index_tensors(index), folder / "none", "full")
    store.put(cell(spec(version), artifacts=artifacts), log=log, index=index)


def cell_folder(store: Store, version: str) -> Path:
    return store.cell_folder(spec(version).key)


def own_object(store: Store, version: str) -> Path:
    """The only tensor that the other cell does not have."""
    found = store.get(spec(version).key)
    assert found is not None
    return store.object_path(found.artifacts["centroids"].digest)


def shared_object(store: Store) -> Path:
    found = store.get(spec("2.8.0").key)
    assert found is not None
    return store.object_path(found.artifacts["ivf"].digest)


def kinds(store: Store, **options) -> list[tuple[str, str]]:
    return [(f.kind, f.path) for f in verify(store, **options).findings]


def flip(path: Path, where: int = -1) -> None:
    """Change one bit; through a new file, since tests may map the old one."""
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_a_whole_store_has_nothing_to_find(store):
    found = verify(store)

    assert found.findings == ()
    assert (found.cells, found.objects) == (2, len(list(store.root.glob("objects/*/*"))))
    assert found.size > 0
    assert collect(store).removed == ()
    assert verify(store) == found


def test_a_store_that_is_not_there_is_empty(tmp_path):
    assert verify(Store(tmp_path / "none")).findings == ()
    assert collect(Store(tmp_path / "none")).removed == ()
    assert not (tmp_path / "none").exists()


def record_bit(store: Store) -> str:
    path = cell_folder(store, "2.8.0") / "cell.json"
    text = path.read_text()
    assert "1.5" in text
    path.write_text(text.replace("1.5", "1.6"))
    return f"cells/{spec('2.8.0').key}"


def record_cut(store: Store) -> str:
    path = cell_folder(store, "2.8.0") / "cell.json"
    path.write_text(path.read_text()[:-20])
    return f"cells/{spec('2.8.0').key}"


def record_gone(store: Store) -> str:
    (cell_folder(store, "2.8.0") / "cell.json").unlink()
    return f"cells/{spec('2.8.0').key}"


def log_bit(store: Store) -> str:
    flip(cell_folder(store, "2.8.0") / "log.txt")
    return f"cells/{spec('2.8.0').key}/log.txt"


def log_gone(store: Store) -> str:
    (cell_folder(store, "2.8.0") / "log.txt").unlink()
    return f"cells/{spec('2.8.0').key}/log.txt"


def index_file_bit(store: Store) -> str:
    flip(cell_folder(store, "2.8.0") / "index" / "metadata.json", 3)
    return f"cells/{spec('2.8.0').key}/index/metadata.json"


def object_bit(store: Store) -> str:
    flip(own_object(store, "2.8.0"))
    return own_object(store, "2.8.0").relative_to(store.root).as_posix()


def object_header(store: Store) -> str:
    flip(own_object(store, "2.8.0"), 12)
    return own_object(store, "2.8.0").relative_to(store.root).as_posix()


def object_cut(store: Store) -> str:
    path = own_object(store, "2.8.0")
    path.write_bytes(path.read_bytes()[:-3])
    return path.relative_to(store.root).as_posix()


def object_empty(store: Store) -> str:
    own_object(store, "2.8.0").write_bytes(b"")
    return own_object(store, "2.8.0").relative_to(store.root).as_posix()


def object_of_another(store: Store) -> str:
    path = own_object(store, "2.8.0")
    shutil.copyfile(shared_object(store), path)
    return path.relative_to(store.root).as_posix()


def object_gone(store: Store) -> str:
    own_object(store, "2.8.0").unlink()
    return own_object(store, "2.8.0").relative_to(store.root).as_posix()


# What happens, what `verify` calls it, and whether reading no bytes shows it too.
DAMAGE = {
    record_bit: (DAMAGED, True),
    record_cut: (DAMAGED, True),
    record_gone: (LEFTOVER, True),
    log_bit: (DAMAGED, False),
    log_gone: (MISSING, True),
    index_file_bit: (DAMAGED, False),
    object_bit: (DAMAGED, False),
    object_header: (DAMAGED, True),
    object_cut: (DAMAGED, True),
    object_empty: (DAMAGED, True),
    object_of_another: (DAMAGED, False),
    object_gone: (MISSING, True),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_damage_is_found_named_and_mended_by_running_the_cell_again(store, tmp_path, damage):
    kind, quickly = DAMAGE[damage]
    before = verify(store)

    # A record that is damaged names no tensors: its own are orphans until it is written again.
    expected = (kind, damage(store))
    assert expected in kinds(store)
    assert (expected in kinds(store, read=False)) == quickly
    assert all("2.7.1" not in f.text or "2.8.0" in f.text for f in verify(store).findings)

    collect(store, damaged=True)
    assert store.get(spec("2.8.0").key) is None
    assert store.get(spec("2.7.1").key) is not None
    assert {f.kind for f in verify(store).findings} <= {ORPHAN}

    arrays = index_arrays() | {"centroids": index_arrays(seed=1)["centroids"]}
    put(store, tmp_path / "again", "2.8.0", arrays)
    assert verify(store).findings == ()
    assert verify(store).objects == before.objects


def test_a_damaged_tensor_that_two_cells_need_concerns_both(store):
    flip(shared_object(store))

    (finding,) = verify(store).findings

    assert set(finding.cells) == {spec("2.7.1").key, spec("2.8.0").key}
    assert "2.7.1" in finding.text
    assert "2.8.0" in finding.text


def test_without_being_told_to_damage_is_left_where_it_is(store):
    path = object_bit(store)

    done = collect(store)

    assert done.removed == ()
    assert (store.root / path).exists()
    assert (DAMAGED, path) in kinds(store)


def test_a_tensor_that_no_record_names_is_an_orphan_and_is_removed(store):
    shutil.rmtree(cell_folder(store, "2.8.0"))
    orphan = [(ORPHAN, path) for kind, path in kinds(store)]

    assert len(orphan) == 1
    assert kinds(store) == orphan
    dry = collect(store, dry_run=True)
    assert [(f.kind, f.path) for f, _ in dry.removed] == orphan
    assert kinds(store) == orphan

    done = collect(store)

    assert done == dry
    assert done.size > 0
    assert kinds(store) == []
    # What the other cell shares with it is still there.
    other = store.get(spec("2.7.1").key)
    assert other is not None
    assert store.missing(other) == []


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("objects/ab/.new-x1", "objects/ab/.new-x1"),
        ("cells/.new-abc/cell.json", "cells/.new-abc"),
        ("cells/.old-abc/index/plan.json", "cells/.old-abc"),
        ("cells/0123abcd/log.txt", "cells/0123abcd"),
    ],
)
def test_what_a_killed_writer_left_is_found_and_removed(store, path, found):
    (store.root / path).parent.mkdir(parents=True)
    (store.root / path).write_text("half")

    assert (LEFTOVER, found) in kinds(store)
    collect(store)

    assert not (store.root / found).exists()
    assert kinds(store) == []


def failed_again(store: Store, folder: Path) -> Path:
    """A failed run of 2.8.0 beside its cell, with a log; its folder."""
    (folder / "log").write_text("what went wrong")
    found = store.get(spec("2.8.0").key)
    assert found is not None
    store.put(replace(found, outcome="crashed", artifacts={}), log=folder / "log")
    return store.attempt_folders(found.key)[-1]


def test_a_run_that_was_kept_beside_its_cell_is_part_of_the_store(store, tmp_path):
    kept = failed_again(store, tmp_path)

    assert verify(store).findings == ()
    assert collect(store, damaged=True).removed == ()
    assert kept.is_dir()


@pytest.mark.parametrize("name", ["cell.json", "log.txt"])
def test_damage_in_a_run_beside_its_cell_is_found_and_does_not_concern_the_cell(store, tmp_path, name):
    kept = failed_again(store, tmp_path)
    flip(kept / name, 20 if name == "cell.json" else -1)
    path = kept.relative_to(store.root).as_posix()

    (finding,) = verify(store).findings
    assert (finding.kind, finding.path, finding.cells) == (DAMAGED, path, ())
    collect(store, damaged=True)

    assert kinds(store) == []
    assert store.get(spec("2.8.0").key) is not None


def test_runs_beside_a_cell_that_is_not_there_are_removed(store, tmp_path):
    kept = failed_again(store, tmp_path)
    shutil.rmtree(cell_folder(store, "2.8.0"))

    assert (ORPHAN, f"attempts/{kept.parent.name}") in kinds(store)
    collect(store)

    assert not kept.parent.exists()
    assert kinds(store) == []


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "objects/README",
        "objects/ab/cd.txt",
        "cells/KEY/mine.txt",
        "other/a",
        "attempts/a.txt",
        "attempts/KEY/a.txt",
    ],
)
def test_a_file_that_is_not_the_harness_s_is_named_and_left(store, path):
    path = path.replace("KEY", spec("2.8.0").key)
    (store.root / path).parent.mkdir(parents=True, exist_ok=True)
    (store.root / path).write_text("mine")

    assert (FOREIGN, path) in kinds(store)
    done = collect(store, damaged=True)

    assert (store.root / path).read_text() == "mine"
    assert [f.path for f in done.kept] == [path]


def test_a_link_in_place_of_a_tensor_is_damage(store, tmp_path):
    path = own_object(store, "2.8.0")
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")

    assert (DAMAGED, path.relative_to(store.root).as_posix()) in kinds(store)


def test_tensors_that_are_about_to_get_their_record_are_not_orphans(store, tmp_path):
    """Whoever takes stock waits for the writer."""
    arrays = index_arrays(seed=5)
    removed: list[object] = []
    with store.writing():
        artifacts = store.ingest(
            INDEX, index_tensors(write_index(tmp_path / "third", arrays)), tmp_path / "none", "full"
        )
        collector = threading.Thread(target=lambda: removed.append(collect(store).removed))
        collector.start()
        collector.join(0.5)
        assert collector.is_alive()
        store.put(cell(spec("2.6.0"), artifacts=artifacts))
    collector.join(300)

    assert removed == [()]
    assert verify(store).findings == ()


def test_a_record_of_the_first_harness_without_digests_is_taken(store):
    path = cell_folder(store, "2.8.0") / "cell.json"
    record = json.loads(path.read_text())
    del record["seal"], record["files"]
    path.write_text(json.dumps(record))

    assert store.get(spec("2.8.0").key) is not None
    assert kinds(store) == []


def test_runs_of_harnesses_that_died_are_recorded_as_lost_and_those_of_the_living_are_left(store, tmp_path):
    home = Home(tmp_path / "home")
    note = {"spec": spec("2.6.0").to_json(), "store": str(store.root), "capture": "full", "pid": 7, "host": "node7"}
    for name in ("dead", "living"):
        run = home.runs / name
        (run / "out").mkdir(parents=True)
        (run / "run.json").write_text(json.dumps(note))
        (run / "out" / "phase").write_text("encode")
        (run / "log.txt").write_text("the last words\n")
        (run / OWNER).touch()
    lock = home.cell_lock("abc")
    lock.parent.mkdir(parents=True)
    lock.touch()
    held = try_hold(home.runs / "living" / OWNER)
    assert held is not None
    with held:
        found = collect_runs(home, store, dry_run=True)
        assert [f.path for f in found] == ["runs/dead"]
        assert (home.runs / "dead").exists()

        collect_runs(home, store)

    assert [path.name for path in home.runs.iterdir()] == ["living"]
    assert not lock.exists()
    lost = store.get(spec("2.6.0").key)
    assert lost is not None
    assert (lost.outcome, lost.phase, lost.details["cause"]) == ("lost", "encode", "lost")
    assert "process 7 on node7" in lost.reason
    assert (store.cell_folder(lost.key) / "log.txt").read_text() == "the last words\n"
    assert verify(store).findings == ()


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.chdir(Path(__file__).parents[2])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            main(["store", *arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().out


def test_the_commands_say_what_they_found_and_did(store, tmp_path, capsys, monkeypatch):
    home = ("--home", str(tmp_path))
    code, said = command(capsys, monkeypatch, "verify", *home)
    assert (code, said.count("\n")) == (0, 1)
    assert re.search(r"2 cells and \d+ tensors \([\d.]+ KiB\) are whole; nothing else found\.", said)

    path = object_bit(store)
    (store.root / "objects" / "ab").mkdir()
    (store.root / "objects" / "ab" / ".new-x").write_text("half")
    code, said = command(capsys, monkeypatch, "verify", *home)
    assert code == 1
    assert f"damaged   {path}: its bytes are not those that its digest was taken of; needed by 2.8.0" in said
    assert "1 damaged, 1 leftover found" in said

    code, said = command(capsys, monkeypatch, "gc", "--dry-run", *home)
    assert (code, "would remove objects/ab/.new-x: leftover" in said) == (0, True)
    assert (store.root / "objects" / "ab" / ".new-x").exists()
    code, said = command(capsys, monkeypatch, "gc", "--damaged", *home)
    assert code == 0
    assert f"removed {path}: damaged" in said
    assert "removed objects/ab/.new-x: leftover" in said
    assert store.get(spec("2.8.0").key) is None
    assert {f.kind for f in verify(store).findings} <= {ORPHAN}

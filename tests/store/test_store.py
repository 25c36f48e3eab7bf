"""The store: a record written last makes a folder a cell, and a tensor is kept once whatever cell it came from."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.artifacts.directory import index_tensors
from harness.artifacts.index_job import INDEX
from harness.errors import UnreadableTensor
from harness.store import store as stores
from harness.store.cell import OUTCOMES, Artifact
from harness.store.records import cut_for_list
from harness.store.store import ATTEMPTS_KEPT, Store
from harness.store.stored import StoredCell
from harness.tensors.safetensors import read_safetensors, write_safetensors
from harness.tensors.tensor import Tensor
from harness.words import size
from tests.support.cell_specs import cell, spec
from tests.support.command import run
from tests.support.small_index import index_arrays, write_index, write_pt

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def intermediate(folder: Path, name: str, array: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    write_safetensors(path, {"tensor": Tensor.of(array)})
    return path


def objects(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.glob("objects/*/*"))


def test_a_cell_comes_back_as_it_was_put(store, tmp_path):
    (tmp_path / "log").write_text("what the job printed\n")
    index = write_index(tmp_path / "index")

    put = store.put(cell(), log=tmp_path / "log", index=index)

    assert store.get(put.key) == put
    assert replace(put, finished="") == cell()
    assert put.finished.endswith("+00:00")
    assert (store.cell_folder(put.key) / "log.txt").read_text() == "what the job printed\n"
    assert {path.name for path in (store.cell_folder(put.key) / "index").iterdir()} >= {"metadata.json", "plan.json"}
    assert not list(store.root.rglob("*.new"))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_can_be_kept(store, outcome):
    kept = store.put(cell(outcome=outcome, reason="why", artifacts={}))

    assert store.get(kept.key) == kept


def test_a_folder_without_a_record_is_no_cell(store):
    key = store.put(cell()).key
    (store.cell_folder(key) / "cell.json").unlink()

    assert store.get(key) is None
    assert store.cells() == []


def test_a_record_is_written_last(store, tmp_path, monkeypatch):
    """A job's other files are there before the record that makes them a cell."""
    (tmp_path / "log").write_text("text")
    monkeypatch.setattr(shutil, "copyfile", lambda *_a: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(OSError, match="No space"):
        store.put(cell(), log=tmp_path / "log")
    assert store.get(cell().key) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"text"',
        "null",
        "{}",
        "\xff",
    ],
)
def test_a_corrupt_record_is_no_cell(store, text):
    key = store.put(cell()).key
    (store.cell_folder(key) / "cell.json").write_text(text, encoding="latin-1")

    assert store.get(key) is None
    assert store.cells() == []


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"key": "another"},
        {"artifacts": []},
        {"artifacts": {"centroids": {"digest": "x"}}},
        {"artifacts": {"centroids": 1}},
        {"outcome": "fine"},
        {"spec": {}},
        {"spec": {"version": "two", "repeat": 0}},
        {"spec": []},
        {"unknown": 1},
    ],
)
def test_a_record_with_a_wrong_field_is_no_cell(store, change):
    key = store.put(cell()).key
    path = store.cell_folder(key) / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    assert store.get(key) is None
    assert store.cells() == []


@pytest.mark.parametrize("name", ["job", "lock", "settings", "environment"])
def test_a_record_without_what_every_specification_has_is_no_cell(store, name):
    key = store.put(cell()).key
    path = store.cell_folder(key) / "cell.json"
    record = json.loads(path.read_text())
    del record["spec"][name], record["seal"]
    path.write_text(json.dumps(record))

    assert store.get(key) is None


def test_putting_a_cell_again_replaces_it(store):
    store.put(cell(outcome="timeout", artifacts={}))
    again = store.put(cell())

    assert store.get(again.key) == again
    assert store.cells() == [again]


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "ok"])
def test_a_run_that_ended_badly_does_not_take_the_place_of_one_that_ended_well(store, tmp_path, outcome):
    """What it left is kept beside the cell, and tells how the last run ended."""
    (tmp_path / "log").write_text("what went wrong\n")
    good = store.put(cell())

    bad = store.put(cell(outcome=outcome, reason="why", artifacts={}), log=tmp_path / "log")

    assert bad.outcome == outcome
    assert store.get(good.key) == good
    assert store.cells() == [good]
    assert store.attempts(good.key) == [bad]
    assert store.latest(good.key) == bad
    (folder,) = store.attempt_folders(good.key)
    assert (folder / "log.txt").read_text() == "what went wrong\n"


def test_the_next_run_that_ends_well_takes_its_place_and_is_the_latest(store):
    store.put(cell())
    store.put(cell(outcome="crashed", artifacts={}))
    again = store.put(cell(seconds={"total": 2.5}))

    assert store.get(again.key) == store.latest(again.key) == again


def test_of_the_runs_beside_a_cell_the_newest_are_kept(store):
    good = store.put(cell())
    bad = [store.put(cell(outcome="crashed", reason=f"{n}", artifacts={})) for n in range(ATTEMPTS_KEPT + 3)]

    assert [one.reason for one in store.attempts(good.key)] == [one.reason for one in bad[3:]]
    (store.attempts_folder(good.key) / "notes").mkdir()
    store.put(cell(outcome="crashed", artifacts={}))
    assert (store.attempts_folder(good.key) / "notes").is_dir(), "a folder that is not the harness's"
    assert store.get(good.key) == good


def test_a_run_that_kept_less_of_the_pipeline_does_not_take_tensors_away(store, tmp_path):
    intermediate(tmp_path / "in", "sample", np.arange(6, dtype=np.float32))
    index = write_index(tmp_path / "index")
    full = store.put(cell(artifacts=store.ingest(INDEX, index_tensors(index), tmp_path / "in", "full"), capture="full"))

    final = store.put(
        cell(artifacts=store.ingest(INDEX, index_tensors(index), tmp_path / "none", "final"), capture="final")
    )

    assert store.get(full.key) == full
    assert store.attempts(full.key) == [final]
    assert store.put(replace(full, seconds={"total": 3.5})) == store.get(full.key)


def test_a_cell_whose_tensors_are_gone_is_no_worse_than_a_run_that_failed(store, tmp_path):
    artifacts = store.ingest(INDEX, index_tensors(write_index(tmp_path / "index")), tmp_path / "none", "full")
    good = store.put(cell(artifacts=artifacts))
    store.object_path(artifacts["centroids"].digest).unlink()

    store.put(cell(outcome="timeout", artifacts={}))

    assert store.get(good.key) == good


def test_of_writers_at_once_the_one_that_ended_well_stays(store):
    """Between the look at what is there and the placing nobody else places."""

    def write(outcome: str) -> None:
        for _ in range(10):
            store.put(cell(outcome=outcome))

    threads = [threading.Thread(target=write, args=(outcome,)) for outcome in ("ok", "crashed", "lost")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = store.get(cell().key)
    assert found is not None
    assert found.outcome == "ok"


@pytest.mark.parametrize("exchange", [True, False], ids=["at once", "in two steps"])
def test_whoever_reads_while_cells_are_replaced_sees_one_whole(store, tmp_path, monkeypatch, exchange):
    """Where the filesystem can exchange two folders; elsewhere a reader may find none for a moment."""
    if not exchange:
        monkeypatch.setattr(stores, "exchange", lambda *_a: False)
    (tmp_path / "log").write_text("text")
    kept = store.put(cell(), log=tmp_path / "log")
    stop = threading.Event()
    seen: list[bool] = []

    def write() -> None:
        puts = 0
        # And on, until the reader has had its turns.
        while puts < 20 or len(seen) <= 10:
            store.put(cell(), log=tmp_path / "log")
            puts += 1

    writers = [threading.Thread(target=write) for _ in range(2)]

    def read() -> None:
        while not stop.is_set():
            found = store.get(kept.key)
            seen.append(found is not None)
            assert found is None or found.artifacts == kept.artifacts

    reader = threading.Thread(target=read)
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()

    assert len(seen) > 10
    assert all(seen) or not exchange
    assert [path.name for path in (store.root / "cells").iterdir()] == [kept.key]


def test_cells_come_by_release_and_repeat(store):
    for version, repeat in (("2.10.0", 0), ("2.9.0", 1), ("2.9.0", 0), ("1.13.1", 0)):
        store.put(cell(spec(version, repeat=repeat)))

    assert [c.label for c in store.cells()] == ["1.13.1", "2.9.0", "2.9.0#1", "2.10.0"]


def test_a_label_names_version_swap_and_repeat():
    assert cell(spec("2.8.0", swap={"centroids_raw": "d1"}, repeat=2)).label == "2.8.0+centroids_raw#2"


def test_looking_at_a_store_makes_nothing(store):
    assert store.cells() == []
    assert store.get("0" * 32) is None
    assert not store.root.exists()


def test_an_index_is_ingested_with_every_artifact_and_read_back_bit_for_bit(store, tmp_path):
    arrays = index_arrays()
    sample = np.arange(6, dtype=np.float32).reshape(2, 3)
    intermediate(tmp_path / "in", "sample", sample)
    intermediate(tmp_path / "in", "sample_pids", np.array([3, 1], dtype=np.int64))

    artifacts = store.ingest(INDEX, index_tensors(write_index(tmp_path / "index", arrays)), tmp_path / "in", "full")

    assert list(artifacts) == [
        "sample_pids", "sample", "centroids", "bucket_cutoffs", "bucket_weights", "avg_residual",
        "0.codes", "1.codes", "0.residuals", "1.residuals", "doclens", "ivf", "ivf_lengths",
    ]  # fmt: skip
    assert {artifacts[name].kind for name in arrays} == {"final"}
    assert (artifacts["sample"].kind, artifacts["sample_pids"].kind, artifacts["doclens"].kind) == (
        "intermediate",
        "value",
        "value",
    )
    for name, array in (*arrays.items(), ("sample", sample)):
        tensor = store.load(artifacts[name])
        assert (tensor.dtype, tensor.shape) == (str(array.dtype), array.shape)
        assert bytes(tensor.buffer()) == array.tobytes()
        assert tensor.digest() == artifacts[name].digest
    assert store.load(artifacts["doclens"]).data.tolist() == [2] * 10


def test_equal_tensors_are_kept_once(store, tmp_path):
    first = store.ingest(INDEX, index_tensors(write_index(tmp_path / "a")), tmp_path / "none", "full")
    before = objects(store)
    arrays = index_arrays()
    arrays["centroids"] = index_arrays(seed=1)["centroids"]
    second = store.ingest(INDEX, index_tensors(write_index(tmp_path / "b", arrays)), tmp_path / "none", "full")

    assert {name for name in first if first[name].digest != second[name].digest} == {"centroids"}
    assert set(objects(store)) - set(before) == {f"{second['centroids'].digest}.safetensors"}


def test_equal_bytes_of_another_dtype_or_shape_are_another_object(store):
    zeros = np.zeros((2, 4), dtype=np.int32)
    digests = {Tensor.of(array).digest() for array in (zeros, zeros.view(np.float32), zeros.reshape(4, 2))}

    assert len(digests) == 3


def test_capture_digests_keeps_digests_of_intermediates_and_no_tensors(store, tmp_path):
    index = write_index(tmp_path / "index")
    random = np.random.default_rng(5).standard_normal(100)
    intermediate(tmp_path / "a", "sample", random)
    intermediate(tmp_path / "b", "sample", random)

    light = store.ingest(INDEX, index_tensors(index), tmp_path / "a", "digests")
    assert f"{light['sample'].digest}.safetensors" not in objects(store)
    with pytest.raises(UnreadableTensor, match="--capture full"):
        store.load(light["sample"])

    full = store.ingest(INDEX, index_tensors(index), tmp_path / "b", "full")
    assert light["sample"] == replace(full["sample"], stored=False)
    assert {name: a.digest for name, a in light.items()} == {name: a.digest for name, a in full.items()}
    assert full["centroids"].stored
    assert light["centroids"].stored


def test_kept_intermediates_are_moved_and_not_copied(store, tmp_path):
    path = intermediate(tmp_path / "in", "sample", np.arange(5.0))
    number = path.stat().st_ino

    artifacts = store.ingest(INDEX, index_tensors(write_index(tmp_path / "index")), tmp_path / "in", "full")

    assert not path.exists()
    assert store.object_path(artifacts["sample"].digest).stat().st_ino == number


def damage_missing(index: Path) -> None:
    (index / "centroids.pt").unlink()


def damage_truncated(index: Path) -> None:
    (index / "1.residuals.pt").write_bytes((index / "1.residuals.pt").read_bytes()[:-40])


def damage_not_a_pair(index: Path) -> None:
    write_pt(index / "buckets.pt", np.zeros(3, dtype=np.float32))


def damage_a_pair(index: Path) -> None:
    write_pt(index / "centroids.pt", np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.float32))


def damage_doclens(index: Path) -> None:
    (index / "doclens.1.json").write_text("[2, ")


def damage_no_doclens(index: Path) -> None:
    (index / "doclens.0.json").unlink()


def damage_doclens_text(index: Path) -> None:
    (index / "doclens.0.json").write_text('["two"]')


def damage_no_chunks(index: Path) -> None:
    for path in index.glob("*.codes.pt"):
        path.unlink()


def damage_chunk_gap(index: Path) -> None:
    (index / "0.codes.pt").unlink()


def damage_fewer_chunks_than_counted(index: Path) -> None:
    for path in index.glob("*1.*"):
        path.unlink()


def damage_no_folder(index: Path) -> None:
    shutil.rmtree(index)


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_truncated,
        damage_not_a_pair,
        damage_a_pair,
        damage_doclens,
        damage_no_doclens,
        damage_doclens_text,
        damage_no_chunks,
        damage_chunk_gap,
        damage_fewer_chunks_than_counted,
        damage_no_folder,
    ],
)
def test_an_index_that_is_not_whole_is_unreadable(store, tmp_path, damage):
    index = write_index(tmp_path / "index")
    damage(index)

    with pytest.raises(UnreadableTensor, match=r"\S"):
        store.ingest(INDEX, index_tensors(index), tmp_path / "none", "full")


def test_a_stray_file_in_an_index_is_not_a_chunk(tmp_path):
    index = write_index(tmp_path / "index")
    (index / "backup.codes.pt").write_bytes(b"")

    assert {name for name, _ in index_tensors(index)} == {*index_arrays(), "doclens"}


def test_an_object_that_is_missing_or_damaged_is_unreadable(store, tmp_path):
    artifacts = store.ingest(INDEX, index_tensors(write_index(tmp_path / "index")), tmp_path / "none", "full")
    path = store.object_path(artifacts["centroids"].digest)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnreadableTensor):
        store.load(artifacts["centroids"])
    path.unlink()
    with pytest.raises(UnreadableTensor):
        store.load(artifacts["centroids"])


def test_a_failed_write_of_an_object_leaves_nothing(store, monkeypatch):
    from harness.store import objects as module

    monkeypatch.setattr(module, "write_safetensors", lambda *_a: (_ for _ in ()).throw(OSError(28, "No space left")))
    tensor = Tensor.of(np.zeros(3))

    with pytest.raises(OSError, match="No space"):
        store.put_object(tensor, tensor.digest())
    assert objects(store) == []


def test_index_tensors_agree_with_a_real_torch(tmp_path, torch_interpreter):
    """The hand-written files of these tests are what torch itself reads and writes."""
    ours, theirs = write_index(tmp_path / "ours"), tmp_path / "theirs"
    theirs.mkdir()
    program = (
        "import sys, pathlib, shutil, torch\n"
        "ours, theirs = map(pathlib.Path, sys.argv[1:])\n"
        "for path in ours.iterdir():\n"
        "    if path.suffix == '.pt': torch.save(torch.load(path), theirs / path.name)\n"
        "    else: shutil.copy(path, theirs)\n"
    )
    subprocess.run([torch_interpreter, "-W", "ignore", "-c", program, ours, theirs], check=True, timeout=120)

    expected = {name: tensor.digest() for name, tensor in index_tensors(ours)}

    assert {name: tensor.digest() for name, tensor in index_tensors(theirs)} == expected


def test_a_stored_cell_gives_its_artifacts_and_metadata(store, tmp_path):
    index = write_index(tmp_path / "index")
    artifacts = store.ingest(INDEX, index_tensors(index), tmp_path / "none", "full")
    source = StoredCell(store, store.put(cell(artifacts=artifacts), index=index))

    assert source.names() == tuple(artifacts)
    assert source.digest("centroids") == artifacts["centroids"].digest
    assert bytes(source.load("centroids").buffer()) == index_arrays()["centroids"].tobytes()
    assert source.metadata()["num_chunks"] == 2
    (store.cell_folder(source.cell.key) / "index" / "metadata.json").write_text("[]")
    assert source.metadata() == {}


def test_an_object_file_holds_one_tensor_by_the_agreed_name(store):
    tensor = Tensor.of(np.arange(3, dtype=np.uint8))
    store.put_object(tensor, tensor.digest())

    assert list(read_safetensors(store.object_path(tensor.digest()))) == ["tensor"]
    other = store.root / "objects" / "ab" / f"{'ab' * 32}.safetensors"
    other.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(other, {"another": tensor})
    with pytest.raises(UnreadableTensor, match="no tensor named 'tensor'"):
        store.load(Artifact("ab" * 32, "uint8", (3,), "final", stored=True))


def test_the_list_has_a_header_and_counts_shared_tensors_once(store, tmp_path, capsys):
    """Two versions share one tensor of two, and a swapped cell is listed as well."""
    shared, own = (Tensor.of(np.arange(n, dtype=np.float32)) for n in (1000, 500))
    both = {"centroids": store.keep_tensor(shared, "final", stored=True)}
    store.put(cell(spec("2.7.1"), artifacts=both))
    store.put(cell(spec("2.8.0"), artifacts={**both, "embs_0": store.keep_tensor(own, "intermediate", stored=True)}))
    store.put(cell(spec("2.8.0", swap={"sample": "d1" * 32}), artifacts=both))

    code, out, _ = run(capsys, "store", "list", "--home", tmp_path, "--matrix", ROOT / "matrix.yaml")

    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["key", "label", "outcome", "capture", "size", "finished"]
    first, second = (store.object_path(Tensor.digest(one)).stat().st_size for one in (shared, own))
    assert lines[1].endswith(f"2 versions: 3 cells, {size(first + second)}")
    listed = {line.split()[1]: " ".join(line.split()[4:6]) for line in lines[2:5]}
    assert listed == {"2.7.1": size(first), "2.8.0": size(first + second), "2.8.0+sample": size(first)}
    assert lines[-1] == f"{store.root}: 3 cells in 1 group, 2 tensors, {size(first + second)}."


def test_the_list_tells_cells_of_one_label_apart(store, tmp_path, capsys):
    """Two runs of one version with other locks are in one group; what differs stands at the end of each line."""
    for lock in ("aa11" * 16, "bb22" * 16):
        store.put(cell(spec("2.7.1", lock=lock)))
    store.put(cell(spec("2.8.0")))

    code, out, _ = run(capsys, "store", "list", "--home", tmp_path, "--matrix", ROOT / "matrix.yaml")

    ends = sorted(line.split("+00:00")[-1] for line in out.splitlines()[2:5])
    assert code == 0
    assert ends == ["", " (lock aa11aa11)", " (lock bb22bb22)"]


def test_a_list_says_of_each_cell_what_its_record_says_and_in_the_same_order(store: Store) -> None:
    for version, repeat in (("2.10.0", 0), ("2.9.0", 1), ("2.9.0", 0)):
        store.put(cell(spec(version, repeat=repeat), outcome="crashed" if repeat else "ok", capture="digests"))

    of = [(one.key, one.group, one.spec, one.outcome, one.capture, one.label) for one in store.listed()]
    assert of == [(one.key, one.group, one.spec, one.outcome, one.capture, one.label) for one in store.cells()]


def test_a_record_that_was_changed_is_listed_at_most_and_is_no_cell(store: Store) -> None:
    path = store.cell_folder(store.put(cell()).key) / "cell.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"reason": "another"}))
    assert len(store.listed()) == 1
    assert store.cells() == []

    path.write_text(json.dumps(record | {"spec": {**record["spec"], "device": 3}}))
    assert store.listed() == []


def test_repeats_are_found_by_their_keys_over_a_few_that_are_gone(store: Store) -> None:
    own = store.put(cell(spec("2.9.0")))
    again = [store.put(cell(spec("2.9.0", repeat=number))) for number in (1, 2, 9)]
    store.put(cell(spec("2.9.0", settings={"nbits": 1}, repeat=1)))
    store.put(cell(spec("2.10.0", repeat=1)))

    assert store.repeats(own) == again
    assert store.repeats(again[1]) == [own, again[0], again[2]]


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize(
    "details", [{}, {"log_tail": '\n },\n "spec": {}', "a": {"b": [{}, []], "details": {"spec": 1}}}]
)
def test_a_list_leaves_two_fields_unread_and_nothing_else_however_a_record_is_written(store, details, indent):
    path = store.cell_folder(store.put(cell(details=details)).key) / "cell.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record, indent=indent, sort_keys=True))

    left = json.loads(cut_for_list(path.read_bytes()))

    assert {**left, "artifacts": 0, "details": 0} == {**record, "artifacts": 0, "details": 0}
    if indent == 1:
        assert not left["details"]
        assert not left["artifacts"]
    assert [one.key for one in store.listed()] == [record["key"]]

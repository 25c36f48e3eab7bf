"""A cell's key changes with everything that may change its result, and with nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.environments.device import Device
from harness.environments.lockfile import Lock, lock_path, read_lock
from harness.inputs.jobs import Deadlines, IndexJob, Retry
from harness.inputs.matrix import Matrix
from harness.inputs.matrix_file import load_matrix, parse_matrix
from harness.inputs.passages import Passages
from harness.running.specs import NO_MULTICAST, job_environment, job_spec
from harness.store.repeats import repeats_of
from harness.store.spec import CellSpec, Checkpoint, Collection, digest_of
from harness.store.store import Store
from tests.support.cell_specs import cell, spec

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
CPU = Device("cpu", "cpu GenuineIntel 6/143 avx2")
GPU = Device("cuda", "cuda NVIDIA H100 80GB HBM3 9.0")
CHECKPOINT = Checkpoint("embedded", "beef", 96)

CHANGES: dict[str, Any] = {
    "job": "probe",
    "version": "2.7.1",
    "lock": "another",
    "collection": {"name": "embedded", "digest": "c0ffed", "passages": 10},
    "checkpoint": {"name": "embedded", "digest": "bead", "dim": 8},
    "settings": {"nbits": 1, "threads": 2},
    "device": "cpu AuthenticAMD 25/1 avx2",
    "environment": {"OMP_NUM_THREADS": "1"},
    "swap": {"centroids_raw": "d1"},
    "repeat": 1,
    "revision": 2,
    "oddities": {"OMP_NUM_THREADS": None},
    "own": {"kind": "interpreter", "torch": "2.8.0"},
    "queries": {"name": "queries", "digest": "c0ffee", "queries": 3},
    "index": {"name": "2.7.1", "digest": "c0ffee"},
    "triples": {"name": "triples", "digest": "c0ffee", "triples": 3},
}
"""`oddities` only explains `environment`, and `own` the lock, and both of these count."""
NOT_COUNTED = {"oddities", "own"}


def index(job: IndexJob | None = None, version: str = "2.8.0", device: Device = CPU, **changes) -> CellSpec:
    """The cell that `harness index` would run."""
    lock = read_lock(lock_path(ROOT / "locks", version, device.flavour))
    passages = Passages(["0", "1"], ["some text", "other text"], "tiny", {})
    collection = Collection.of(changes.pop("collection", passages.record()))
    arguments = {"collection": collection, "checkpoint": CHECKPOINT, **changes}
    return job_spec(MATRIX, job or MATRIX.jobs.index, version, lock, device=device, **arguments)


def test_there_is_a_change_for_every_field():
    assert set(CHANGES) == {field.name for field in fields(CellSpec)} - {"unknown"}


@pytest.mark.parametrize("name", sorted(set(CHANGES) - NOT_COUNTED))
def test_every_field_changes_the_key(name):
    assert spec(**{name: CHANGES[name]}).key != spec().key


def test_no_two_changes_give_the_same_key():
    keys = {spec(**{name: value}).key for name, value in CHANGES.items()} | {spec().key}

    assert len(keys) == len(CHANGES) - len(NOT_COUNTED) + 1
    assert {spec(**{name: CHANGES[name]}).key for name in NOT_COUNTED} == {spec().key}


def test_equal_specifications_have_equal_keys_whatever_the_order_of_their_settings():
    turned = spec(settings={"threads": 2, "nbits": 2})

    assert turned.key == spec().key
    assert len(spec().key) == 32
    assert int(spec().key, 16) >= 0


def test_fields_of_a_newer_harness_count_and_are_kept(tmp_path):
    """Otherwise two cells that differ in one would be runs of the same thing, and a copy would lose it."""
    record = spec().to_json() | {"shards": 2, "unknown": {"version": "2.7.1"}}
    record["collection"]["language"] = "en"
    newer = CellSpec.of(record)
    stored = Store(tmp_path).put(cell(newer))

    assert newer.to_json() == record
    assert newer.key != spec().key
    assert Store(tmp_path).get(newer.key) == stored
    assert repeats_of(stored, [cell(spec(repeat=1)), cell(newer.again(1))]) == [cell(newer.again(1))]


@pytest.mark.parametrize("name", ["collection", "checkpoint"])
def test_names_do_not_change_the_key(name):
    """The same passages under another path are the same passages."""
    renamed: Any = {**spec().to_json()[name], "name": "/elsewhere/corpus.parquet"}

    assert spec(**{name: renamed}).key == spec().key
    assert spec(**{name: renamed}).to_json() != spec().to_json()


@pytest.mark.parametrize("name", ["version", "lock", "index", "swap", "repeat", "own"])
def test_what_a_pair_differs_in_does_not_change_the_group(name):
    assert spec(**{name: CHANGES[name]}).group == spec().group


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"version", "lock", "index", "swap", "repeat", "own"}))
def test_what_makes_cells_incomparable_changes_the_group(name):
    assert spec(**{name: CHANGES[name]}).group != spec().group


def test_a_kind_of_job_that_is_added_changes_no_other_s_keys_and_records():
    """The key of an index cell is that of the fields that it had before there were searches and trainings."""
    record = spec().to_json()

    assert {"queries", "index", "triples", "own"}.isdisjoint(record)
    counted = {name: value for name, value in record.items() if name != "oddities"}
    counted |= {name: record[name]["digest"] for name in ("collection", "checkpoint")}
    assert spec().key == digest_of(counted)
    assert set(counted) == {
        "job", "version", "lock", "collection", "checkpoint", "settings", "device", "environment", "swap", "repeat",
        "revision",
    }  # fmt: skip


def test_names_of_what_is_searched_are_in_the_label_and_not_in_the_key():
    def search(name: str) -> CellSpec:
        return spec(queries=CHANGES["queries"] | {"name": name}, index={"name": name, "digest": "c0ffee"})

    assert search("2.8.0").key == search("2.7.1").key
    assert (search("2.8.0").label, search("2.7.1").again(1).label) == ("2.8.0", "2.8.0#1 on 2.7.1")


def test_a_repeat_is_the_same_cell_again():
    assert spec().again(0) == spec()
    assert spec().again(2) == replace(spec(), repeat=2)


@pytest.mark.parametrize(
    "change", [{"capture": "final"}, {"deadline_seconds": Deadlines(index=60.0)}, {"retry": Retry(tries=1)}]
)
def test_what_cannot_change_the_result_is_not_in_the_key(change):
    assert index(MATRIX.jobs.index.model_copy(update=change)).key == index().key


def test_ranks_are_in_the_key_and_one_of_them_leaves_those_of_before_as_they_were():
    one, two = (index(MATRIX.jobs.index.model_copy(update={"nranks": number})) for number in (1, 2))

    assert "nranks" not in one.settings
    assert (one.ranks, two.ranks) == (1, 2)
    assert {one.settings.get(name) == value for name, value in two.settings.items() if name != "nranks"} == {True}
    assert two.key != one.key
    assert two.group != one.group
    # How ranks add up is part of it, too.
    added = {name: value for name, value in two.environment.items() if name not in one.environment}
    assert added == NO_MULTICAST


@pytest.mark.parametrize(
    "change",
    [
        {"nbits": 4},
        {"index_bsize": 16},
        {"doc_maxlen": 200},
        {"kmeans_niters": 5},
        {"native_extensions": True},
        {"threads": 1},
        {"environment": {"MKL_CBWR": "COMPATIBLE"}},
    ],
)
def test_every_setting_that_can_change_the_result_is_in_the_key(change):
    assert index(MATRIX.jobs.index.model_copy(update=change)).key != index().key


def test_every_setting_of_the_job_is_in_the_key_or_known_not_to_matter():
    """A new field of `IndexJob` must be put on one side or the other."""
    counted = {"nbits", "index_bsize", "doc_maxlen", "kmeans_niters", "native_extensions", "threads"}

    assert set(index().settings) == counted | {"dim"}
    assert set(IndexJob.UNSAID) == {"nranks"}
    known = {*counted, *IndexJob.UNSAID}
    assert set(IndexJob.model_fields) == known | {"capture", "deadline_seconds", "environment", "retry"}


def test_passages_their_order_and_their_ids_are_in_the_key():
    swapped = Passages(["1", "0"], ["other text", "some text"], "tiny", {})
    renamed = Passages(["0", "1"], ["some text", "other text"], "renamed", {"path": "x"})

    assert index(collection=swapped.record()).key != index().key
    assert index(collection=renamed.record()).key == index().key
    assert index().collection.passages == 2


def test_the_device_decides_the_environment_s_lock():
    assert index(device=GPU).lock != index().lock
    assert index(device=GPU).group != index().group


def test_the_environment_fixes_threads_offline_mode_and_hash_seed():
    environment = job_environment(MATRIX, MATRIX.jobs.index.model_copy(update={"threads": 3}), "2.8.0", CPU)

    assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} == {"3"}
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["PYTHONHASHSEED"] == "0"
    assert environment["OMP_DYNAMIC"] == environment["MKL_DYNAMIC"] == "FALSE"


def test_a_cpu_job_sees_no_gpu_and_a_gpu_job_is_not_told_which():
    assert job_environment(MATRIX, MATRIX.jobs.index, "2.8.0", CPU)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in job_environment(MATRIX, MATRIX.jobs.index, "2.8.0", GPU)


def test_oddities_come_before_the_user_s_own_variables():
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    odd = '\n  - versions: ["2.4.1"]\n    environment: {A: "1", B: "1"}\n    reason: Made up here.\ncollections:\n'
    matrix: Matrix = parse_matrix(text.replace("\ncollections:\n", odd))
    job = matrix.jobs.index.model_copy(update={"environment": {"B": "2", "OMP_DYNAMIC": "TRUE"}})

    environment = job_environment(matrix, job, "2.4.1", CPU)

    assert (environment["A"], environment["B"], environment["OMP_DYNAMIC"]) == ("1", "2", "TRUE")
    assert "A" not in job_environment(matrix, job, "2.5.0", CPU)


def test_an_oddity_s_variables_are_in_the_key_and_not_in_the_group():
    """Otherwise a version with one would drop out of the consecutive pairs."""
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    odd = '\n  - versions: ["2.4.1"]\n    environment: {A: "1", OMP_DYNAMIC: "TRUE"}\n    reason: Made up here.\n'
    matrix = parse_matrix(text.replace("\ncollections:\n", f"{odd}collections:\n"))
    passages = Passages(["0"], ["text"], "tiny", {})

    def of(which: Matrix, version: str) -> CellSpec:
        lock = read_lock(lock_path(ROOT / "locks", version, "cpu"))
        return job_spec(which, which.jobs.index, version, lock, Collection.of(passages.record()), CHECKPOINT, CPU)

    assert of(matrix, "2.4.1").environment["OMP_DYNAMIC"] == "TRUE"
    assert of(matrix, "2.4.1").oddities == {"A": None, "OMP_DYNAMIC": "FALSE"}
    assert of(matrix, "2.4.1").key != of(MATRIX, "2.4.1").key
    assert {of(matrix, v).group for v in ("2.4.0", "2.4.1", "2.5.0")} == {of(MATRIX, "2.4.1").group}
    assert of(matrix, "2.5.0").key == of(MATRIX, "2.5.0").key


def test_an_environment_of_the_user_s_own_has_the_oddities_of_its_torch_and_can_be_compared_with_any():
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    odd = '\n  - versions: ["2.4.1"]\n    environment: {A: "1"}\n    reason: Made up here.\n'
    matrix = parse_matrix(text.replace("\ncollections:\n", f"{odd}collections:\n"))
    passages, own = Passages(["0"], ["text"], "tiny", {}), {"kind": "interpreter", "torch": "2.4.1+cpu"}

    def of(version: str, lock: Lock) -> CellSpec:
        return job_spec(matrix, matrix.jobs.index, version, lock, Collection.of(passages.record()), CHECKPOINT, CPU)

    plain = read_lock(lock_path(ROOT / "locks", "2.4.1", "cpu"))
    prod, version = of("prod", replace(plain, digest="f11e5", own=own)), of("2.4.1", plain)

    assert (prod.own, prod.label, prod.environment["A"]) == (own, "prod", "1")
    assert prod.group == version.group
    assert prod.key != version.key


def test_keys_and_groups_are_those_of_the_tables_that_are_kept():
    """What was measured must not become something else: a stored cell would run again, a table lose its cells."""
    kept = sorted((ROOT / "results").glob("*/cells.parquet"))
    rows = [row for path in kept for row in pq.read_table(path).to_pylist()]
    # The keys of other kinds have more in them than a table has columns for.
    rows = [row for row in rows if row.get("job", "index") == "index"]

    assert rows
    for row in rows:
        again = CellSpec(
            job="index",
            version=row["version"],
            lock=row["lock"],
            collection=Collection("any", row["collection_digest"], row["passages"]),
            checkpoint=Checkpoint("any", row["checkpoint_digest"], 1),
            settings=json.loads(row["settings"]),
            device=row["device"],
            environment=json.loads(row["environment"]),
            repeat=row["repeat"],
        )
        assert (again.key, again.group) == (row["key"], row["group"])

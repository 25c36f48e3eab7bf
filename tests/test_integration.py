"""Two real torch environments, colbert-ai's own indexer, and the commands that a user types.

`HARNESS_HOME` names a home whose environments and caches are used; otherwise it is the repository's own. Cells go to a
temporary store. What has to be downloaded is several GB the first time.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter
from harness.explain.blame import blame
from harness.explain.pair import prepare_pair
from harness.home import Home
from harness.inputs.recipe import PASSAGES_SEED
from harness.running.experiment import Experiment
from harness.running.job import worker_copy
from harness.running.runner import run_cell
from harness.running.selection import Selection
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.planted_environments import copy_of
from tests.support.real_environments import MATRIX, NEW, OLD, ROOT, environments, harness, home

__all__ = ["environments", "home"]  # fixtures

pytestmark = pytest.mark.integration
LIMIT = 60
SELECTION = ("--collection", "embedded", "--checkpoint", "embedded", "--limit", str(LIMIT), "--device", "cpu")

FINAL = {
    "centroids",
    "avg_residual",
    "bucket_cutoffs",
    "bucket_weights",
    "ivf",
    "ivf_lengths",
    "0.codes",
    "0.residuals",
}
INTERMEDIATE = {
    "tensorize_output.input_ids",
    "tensorize_output.attention_mask",
    "tensorize_output.reverse_indices",
    "batches",
    "D",
    "local_sample_embs",
    "sample",
    "sample_heldout",
    "centroids_raw",
    "centroids_normalized",
    "embs_0",
    "codes",
    "ivf_unoptimized",
    "values",
}
VALUES = {"sample_pids", "num_passages", "doclens"}


@pytest.fixture(scope="session")
def cells(home: Home) -> dict[str, Cell]:
    """Both versions' cells, and the newer one's repeat, by label."""
    done = harness(home, "index", OLD, NEW, "--repeat", NEW, *SELECTION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 of 3 cells ended well and are stored")
    return {cell.label: cell for cell in Store(home.store).cells()}


@pytest.fixture(scope="session")
def again(
    home: Home, environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Store, Cell]]:
    """Run the newer version's job into another store, with other options."""
    threads = min(MATRIX.jobs.index.threads, len(os.sched_getaffinity(0)))
    selection = Selection(ROOT / "matrix.yaml", home.root, "embedded", "embedded", LIMIT, "cpu", threads=threads)
    experiment = Experiment(selection)

    def run(capture: str = "full", interpreter: Interpreter | None = None, **options: Any) -> tuple[Store, Cell]:
        store = Store(tmp_path_factory.mktemp("store"))
        spec = experiment.spec(NEW)
        if "swap" in options:
            spec = replace(spec, swap={name: path.stem for name, path in options["swap"].items()})
        cell = run_cell(
            home, store, spec, interpreter or Interpreter(environments[NEW].python), experiment.inputs(NEW),
            device_kind="cpu", capture=capture, deadline=600, **options,
        )  # fmt: skip
        assert cell.outcome == "ok", f"{cell.reason}\n{cell.details['log_tail']}"
        return store, cell

    return run


def digests(cell: Cell, names: set[str] | None = None) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in cell.artifacts.items() if names is None or name in names}


def loader(home: Home, cell: Cell) -> Callable[[str], np.ndarray[Any, Any]]:
    store = Store(home.store)
    return functools.cache(lambda name: store.load(cell.artifacts[name]).data)


def test_every_artifact_of_the_design_is_there(cells):
    for cell in cells.values():
        assert set(cell.artifacts) == FINAL | INTERMEDIATE | VALUES
        assert {name for name, a in cell.artifacts.items() if a.kind == "final"} == FINAL
        assert all(a.stored for a in cell.artifacts.values())


@pytest.mark.parametrize("version", [OLD, NEW])
def test_artifacts_have_the_dtypes_and_shapes_that_the_pipeline_implies(home, cells, version):
    cell = cells[version]
    shape = {name: artifact.shape for name, artifact in cell.artifacts.items()}
    dtype = {name: artifact.dtype for name, artifact in cell.artifacts.items()}
    load = loader(home, cell)
    nbits, dim, bsize = (cell.spec.settings[name] for name in ("nbits", "dim", "index_bsize"))
    n, k = len(load("0.codes")), shape["centroids"][0]

    assert load("doclens").shape == (LIMIT,)
    assert load("doclens").sum() == n
    assert (dtype["0.codes"], dtype["0.residuals"], dtype["centroids"]) == ("int32", "uint8", "float16")
    assert shape["0.residuals"] == (n, dim * nbits // 8)
    assert shape["centroids"] == shape["centroids_raw"] == shape["centroids_normalized"] == (k, dim)
    assert (shape["bucket_cutoffs"], shape["bucket_weights"]) == ((2**nbits - 1,), (2**nbits,))
    assert shape["embs_0"] == (n, dim)
    assert shape["avg_residual"] == ()
    assert shape["ivf_lengths"] == (k,)
    assert shape["sample"][0] + shape["sample_heldout"][0] == shape["local_sample_embs"][0]
    assert shape["num_passages"] == (1,)
    assert load("num_passages")[0] == len(load("sample_pids"))
    first = shape["batches"][0]
    assert first <= LIMIT
    assert shape["tensorize_output.input_ids"] == shape["tensorize_output.attention_mask"] == shape["batches"][:2]
    assert sorted(load("tensorize_output.reverse_indices")) == list(range(first))
    assert shape["batches"][2] == shape["D"][1] == dim
    assert shape["D"][0] <= first * shape["batches"][1]
    assert bsize == MATRIX.jobs.index.index_bsize


@pytest.mark.parametrize("version", [OLD, NEW])
def test_artifacts_agree_with_each_other_as_in_the_pipeline(home, cells, version):
    load = loader(home, cells[version])
    raw, normal, final = load("centroids_raw"), load("centroids_normalized"), load("centroids")

    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), normal, atol=1e-6)
    assert np.array_equal(normal.astype(np.float16).view(np.uint16), final.view(np.uint16))
    assert np.array_equal(load("0.codes").astype(np.int64), load("codes"))
    assert np.array_equal(np.sort(load("codes")), load("values"))
    assert np.array_equal(load("codes")[load("ivf_unoptimized")], load("values"))
    # The index's own map: for each centroid, the passages that have an embedding with its code, each once.
    passage = np.repeat(np.arange(LIMIT), load("doclens"))[load("ivf_unoptimized")]
    members = [np.unique(passage[load("values") == code]) for code in range(len(final))]
    lengths, ivf = load("ivf_lengths"), load("ivf")
    assert lengths.tolist() == [len(pids) for pids in members]
    assert np.array_equal(ivf[: lengths.sum()], np.concatenate(members))
    # colbert-ai pads the end with zeros by the longest list, so that a strided read of the last one stays inside.
    assert len(ivf) - lengths.sum() in {0, lengths.max()}
    assert not ivf[lengths.sum() :].any()
    assert 0 <= load("codes").min() <= load("codes").max() < len(final)
    assert np.all(np.diff(load("bucket_cutoffs")) > 0)
    assert np.all(np.diff(load("bucket_weights")) > 0)
    # The code of an embedding is its nearest centroid, apart from near ties.
    scores = load("embs_0").astype(np.float32) @ final.astype(np.float32).T
    chosen = scores[np.arange(len(scores)), load("codes")]
    assert np.all(chosen >= scores.max(axis=1) - 1e-2)


def test_the_same_cell_again_is_bit_equal(cells):
    """A against A: the noise floor of one machine is nothing."""
    assert digests(cells[NEW]) == digests(cells[f"{NEW}#1"])
    assert cells[NEW].key != cells[f"{NEW}#1"].key


def test_two_versions_were_really_run(cells):
    versions = {label: cell.details["provenance"]["torch"].partition("+")[0] for label, cell in cells.items()}

    assert versions == {OLD: OLD, NEW: NEW, f"{NEW}#1": NEW}
    assert digests(cells[OLD], {"sample_pids", "tensorize_output.input_ids", "doclens"}) == digests(
        cells[NEW], {"sample_pids", "tensorize_output.input_ids", "doclens"}
    )
    assert cells[OLD].group == cells[NEW].group


def test_capturing_does_not_change_the_index(cells, again):
    _, final = again("final")

    assert set(final.artifacts) == FINAL | {"doclens"}
    assert digests(final) == digests(cells[NEW], FINAL | {"doclens"})


def test_without_any_wrapper_the_index_is_the_same(cells, again, environments, tmp_path):
    """colbert-ai's functions as they are on disk, none of them wrapped for capturing."""
    program = (
        "import contextlib, runpy, sys; from harness.worker import capture; "
        "capture.install = lambda tap: contextlib.ExitStack(); "
        "runpy.run_module('harness.worker', run_name='__main__', alter_sys=True)"
    )
    bare = tmp_path / "python"
    # "$@" is: -m harness.worker CELL.json OUT
    bare.write_text(f'#!/bin/sh\nexec "{environments[NEW].python}" -c "{program}" "$3" "$4"\n')
    bare.chmod(0o755)

    _, cell = again("full", Interpreter(bare))

    assert not set(cell.artifacts) & INTERMEDIATE
    assert set(cell.not_captured) == INTERMEDIATE | VALUES - {"doclens"}
    assert digests(cell, FINAL) == digests(cells[NEW], FINAL)


@pytest.mark.skipif(shutil.which("g++") is None, reason="colbert-ai's own kernels need a compiler")
def test_colbert_ai_s_own_kernels_are_built_if_asked_for_and_give_the_same_index(home, cells, tmp_path):
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    (tmp_path / "matrix.yaml").write_text(text.replace("native_extensions: false", "native_extensions: true"))
    (tmp_path / "locks").symlink_to(ROOT / "locks")

    alone = Home(tmp_path / "home")
    alone.root.mkdir()
    for name in ("envs", "cache"):
        (alone.root / name).symlink_to(home.root / name)

    done = harness(alone, "index", NEW, *SELECTION, "--matrix", str(tmp_path / "matrix.yaml"))

    assert done.returncode == 0, done.stderr
    (native,) = Store(alone.store).cells()
    assert native.spec.settings["native_extensions"]
    assert digests(native, FINAL) == digests(cells[NEW], FINAL)
    # Compiling happens while the model is loaded, and takes far longer than loading it.
    assert native.seconds["load"] > 5 * cells[NEW].seconds["load"]


def test_digests_only_keeps_the_digests_of_intermediates_and_not_their_tensors(cells, again):
    store, cell = again("digests")

    assert digests(cell) == digests(cells[NEW])
    assert {name for name, a in cell.artifacts.items() if not a.stored} == INTERMEDIATE | VALUES - {"doclens"}
    kept = {path.stem for path in store.root.glob("objects/*/*.safetensors")}
    assert kept == set(digests(cell, FINAL | {"doclens"}).values())


def swap_file(folder: Path, array: np.ndarray[Any, Any]) -> Path:
    tensor = Tensor.of(array)
    path = folder / f"{tensor.digest()}.safetensors"
    write_safetensors(path, {"tensor": tensor})
    return path


def test_a_swap_of_the_same_tensor_changes_nothing(home, cells, again, tmp_path):
    own = swap_file(tmp_path, loader(home, cells[NEW])("centroids_raw"))

    _, cell = again(swap={"centroids_raw": own})

    assert cell.details["swapped"] == ["centroids_raw"]
    assert digests(cell) == digests(cells[NEW])
    assert cell.key != cells[NEW].key
    assert cell.group == cells[NEW].group


def test_a_swap_of_another_tensor_changes_what_follows_and_nothing_before(home, cells, again, tmp_path):
    raw = loader(home, cells[NEW])("centroids_raw").copy()
    raw[0] += 0.25
    other = swap_file(tmp_path, raw)

    _, cell = again(swap={"centroids_raw": other})

    changed = {name for name in cell.artifacts if digests(cell)[name] != digests(cells[NEW])[name]}
    assert cell.artifacts["centroids_raw"].digest == other.stem
    assert changed >= {"centroids_raw", "centroids_normalized", "centroids"}
    assert not changed & {"sample_pids", "batches", "D", "local_sample_embs", "sample", "sample_heldout", "embs_0"}


def test_swaps_go_both_ways_and_a_into_a_changes_nothing(home, cells, tmp_path):
    swapped = {"D", "local_sample_embs", "embs_0"}
    done = harness(home, "swap", OLD, NEW, "D", "local_sample_embs", "embs", *SELECTION, "--output", str(tmp_path))
    rows = pq.read_table(tmp_path / "swaps.parquet").to_pylist()
    runs = {(row["cell"], row["values_of"], row["reference"]) for row in rows}

    assert cells
    assert done.returncode in {0, 1}, done.stderr
    assert f"Gate: capturing changes nothing in the index of {OLD}." in done.stdout
    assert f"Gate: D, local_sample_embs, embs_0 of {OLD} in the job of {OLD} changes nothing." in done.stdout
    assert runs == {(OLD, OLD, OLD), (NEW, OLD, OLD), (OLD, NEW, NEW)}
    assert all(row["bit_equal"] for row in rows if row["cell"] == row["values_of"] or row["artifact"] in swapped)
    assert done.returncode == int(not all(row["bit_equal"] for row in rows if row["final"]))


@pytest.mark.parametrize("version", [OLD, NEW])
def test_provenance_says_what_ran_on_what(cells, environments, version):
    cell = cells[version]
    provenance, environment = cell.details["provenance"], environments[version]

    assert provenance["packages"] == environment.packages
    assert provenance["torch"].startswith(version)
    assert provenance["numpy"] == environment.packages["numpy"]
    assert {"cuda", "cudnn", "torch_git", "torch_config", "python", "platform", "libc", "gpu"} <= set(provenance)
    assert provenance["cuda"]
    assert provenance["packages"]["nvidia-cublas-cu12"]
    assert provenance["cpu"]["model_name"]
    assert provenance["cpu"]["vector_extensions"]
    assert provenance["cpu_capability"]
    assert provenance["switches"]["num_threads"] == cell.spec.settings["threads"]
    assert {
        "allow_tf32_matmul", "allow_tf32_cudnn", "deterministic_algorithms", "cudnn_deterministic", "cudnn_benchmark",
    } <= set(provenance["switches"])  # fmt: skip
    assert cell.spec.environment.items() <= provenance["environment"].items()
    # A folder of this one run, and no other: torch's own cache of extensions is keyed by Python and CUDA alone.
    folders = {name: Path(provenance["environment"][name]) for name in ("TMPDIR", "HOME", "TORCH_EXTENSIONS_DIR")}
    assert all(cell.details["run"] in folder.parts for folder in folders.values())
    assert cell.spec.lock == environment.lock.digest
    assert cell.spec.collection.digest
    assert cell.spec.checkpoint.digest
    assert cell.details["sources"]["collection"] == {"kind": "embedded", "rows": LIMIT, "seed": PASSAGES_SEED}
    assert cell.details["sources"]["checkpoint"]["weights"] == "model.safetensors"
    assert set(cell.seconds) >= {"import", "load", "sample", "train", "encode", "finalize", "total"}
    assert cell.details["peak_memory"]["host_bytes"] > 2**27
    assert cell.details["passages"] == LIMIT
    assert "BertSelfAttention" in cell.details["observed"]["attention_class"]
    assert cell.details["observed"]["autocast_enabled"] is False
    assert cell.details["not_captured"] == {}
    # The reducer's own numbers, so that a leak of its packages into a job would show.
    assert provenance["numpy"] != np.__version__


@pytest.mark.parametrize("version", [OLD, NEW])
def test_colbert_ai_is_unmodified_on_disk(cells, environments, version):
    """After the jobs, every file of colbert-ai has the hash that its own RECORD names."""
    assert version in cells
    (record,) = environments[version].path.glob("lib/python3*/site-packages/colbert_ai-*.dist-info/RECORD")
    checked = 0
    with record.open(encoding="utf-8", newline="") as file:
        for name, digest, _size in csv.reader(file):
            if not digest.startswith("sha256=") or not name.endswith(".py"):
                continue
            content = (record.parent.parent / name).read_bytes()
            found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert digest == f"sha256={found}", name
            checked += 1

    assert checked > 50


@pytest.mark.parametrize("version", [OLD, NEW])
def test_packbits_gives_the_bytes_of_numpy_s(home, environments, version):
    """On random bits of many lengths, inside the real environment."""
    program = """
import numpy, torch
from harness.worker.packing import packbits
random = numpy.random.default_rng(0)
for n in (0, 8, 16, 8 * 7, 8 * 1000, 8 * 123457):
    bits = random.integers(0, 2, n).astype(numpy.uint8)
    packed = packbits(torch.from_numpy(bits))
    assert packed.dtype == torch.uint8 and packed.numpy().tobytes() == numpy.packbits(bits).tobytes(), n
for n in range(256):
    bits = numpy.unpackbits(numpy.array([n], dtype=numpy.uint8))
    assert packbits(torch.from_numpy(bits)).tolist() == [n]
assert packbits(torch.ones(4, 16, dtype=torch.uint8)).tolist() == [255] * 8
try:
    packbits(torch.zeros(7, dtype=torch.uint8))
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [environments[version].python, "-W", "ignore", "-c", program],
        env={"PYTHONPATH": str(worker_copy(home)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "multiple of 8" in done.stdout


def test_nothing_is_left_in_the_folder_of_runs(home, cells):
    assert cells
    assert list(home.runs.iterdir()) == []


def test_indexing_again_runs_nothing_and_a_plan_says_so(home, cells):
    done = harness(home, "index", OLD, NEW, *SELECTION)
    plan = harness(home, "plan", OLD, NEW, "--json", *SELECTION)

    assert done.returncode == 0
    assert f"{NEW}: stored" in done.stderr
    assert ": import" not in done.stderr
    assert {c["version"]: (c["key"], c["run"]) for c in json.loads(plan.stdout)["cells"]} == {
        version: (cells[version].key, False) for version in (OLD, NEW)
    }


def test_frightening_lines_stay_in_the_log(home, cells):
    """Warnings of torch and transformers belong in the cell's log, not on the console."""
    done = harness(
        home, "index", NEW, "--again", "--limit", "20", *SELECTION[:4], "--device", "cpu", "--capture", "final"
    )

    assert done.returncode == 0
    assert "Warning" not in done.stderr
    assert "\t" not in done.stderr
    assert all(line.startswith(f"{NEW}: ") for line in done.stderr.splitlines())


def test_consecutive_prints_the_table(home, cells, tmp_path):
    """The headline table has one row for the pair, and its counts are of the 8 tensors of an index with one chunk."""
    done = harness(home, "consecutive", OLD, NEW, *SELECTION, "--markdown", "--output", str(tmp_path / "tables"))

    assert done.returncode in {0, 1}, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("|") and OLD in line and NEW in line)
    assert f"{len(FINAL)}/{len(FINAL)}" in row.replace(" ", "")
    assert (tmp_path / "tables" / "consecutive.parquet").exists()
    same = digests(cells[OLD], FINAL) == digests(cells[NEW], FINAL)
    assert (done.returncode == 0) >= same


# ---- the same environments as a user's own


def test_an_interpreter_that_is_used_as_it_is_makes_the_index_of_the_version_that_it_is(home, cells, environments):
    """By another name, under another key, known by its files: the bits are those of the version of the matrix."""
    venv = environments[NEW].path
    before = {path: path.stat().st_mtime_ns for path in venv.rglob("*.py*")}
    indexed = harness(home, "index", f"bare={venv / 'bin' / 'python'}", *SELECTION)
    compared = harness(home, "compare", NEW, "bare", "--json", *SELECTION)

    assert (indexed.returncode, indexed.stderr.count("Traceback")) == (0, 0), indexed.stderr
    assert compared.returncode == 0, compared.stdout
    found = json.loads(compared.stdout)
    assert {one["status"] for one in found["artifacts"] if one["name"] != "metadata"} == {"bit_equal"}
    assert found["packages"] == []
    assert {path: path.stat().st_mtime_ns for path in venv.rglob("*.py*")} == before


def test_of_two_virtualenvs_that_differ_in_a_patched_faiss_and_a_harmless_package_faiss_is_blamed(
    home, environments, tmp_path
):
    """The patched files are on no index: environments with packages exchanged are put together from both folders."""
    real = environments[NEW].path
    before = copy_of(real, tmp_path / "before")
    after = copy_of(real, tmp_path / "after", ["tqdm/_main.py"], ["faiss' k-means seed"])
    experiment = Experiment(Selection(ROOT / "matrix.yaml", home.root, "embedded", "embedded", 30, "cpu", threads=1))
    names = [experiment.require(item) for item in (f"unpatched={before}", f"patched={after}")]
    pair = prepare_pair(experiment, *names, repeats=0)
    answer = blame(experiment, pair, lambda _text: None, inherited=False)

    assert [one.step for one in answer.steps] == ["k-means"]
    assert answer.packages == ("faiss-cpu",)
    assert {(o.base, o.units, o.result) for o in answer.steps[0].tried} >= {
        ("B", ("faiss-cpu",), "as A"), ("A", ("faiss-cpu",), "as B"), ("B", ("tqdm",), "as B"),
    }  # fmt: skip

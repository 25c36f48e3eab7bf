"""The worker's job `search` in real environments: colbert-ai's searcher, what is recorded of it, and its kernels."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.real_environments import NEW, OLD, environments, home
from tests.support.searching import BARE, NATIVE, PASSAGES, QUERIES, SEARCH, Arrays, Searched, Searching

__all__ = ["environments", "home"]  # fixtures

pytestmark = pytest.mark.integration
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="colbert-ai's own kernels need a compiler")

ORDER = (
    "query_tokens", "query_mask", "Q", "Q_alone", "centroid_scores", "cells", "candidates", "stage1", "stage1_margin",
    "stage2", "stage2_margin", "decompressed", "normalized", "maxsim", "pids", "scores", "found",
)  # fmt: skip
RAGGED = {"cells", "candidates", "stage1", "stage2", "maxsim"}
FINAL = {"pids", "scores", "found"}


@pytest.fixture(scope="session")
def plain(searching: Searching) -> Searched:
    found = searching.search()
    assert (found.result["outcome"], found.result["not_captured"]) == ("ok", {}), found.result
    return found


def rows(arrays: Arrays, name: str) -> list[np.ndarray[Any, Any]]:
    """A ragged artifact, query by query."""
    return np.split(arrays[name], arrays[f"{name}_lengths"].cumsum()[:-1])


def first_changed(a: Arrays, b: Arrays) -> str | None:
    """The first artifact in the order of the pipeline that is not bit-equal."""
    return next((name for name in ORDER if a[name].tobytes() != b[name].tobytes()), None)


def test_every_artifact_is_there_with_a_row_for_each_query(plain):
    assert set(plain.arrays) == {*ORDER, *(f"{name}_lengths" for name in RAGGED)}
    assert plain.result["queries"] == QUERIES
    for name in set(ORDER) - RAGGED:
        assert len(plain.arrays[name]) == QUERIES, name
    for name in RAGGED:
        assert plain.arrays[f"{name}_lengths"].sum() == len(plain.arrays[name]), name
    assert plain.arrays["Q"].shape == plain.arrays["Q_alone"].shape == (QUERIES, SEARCH["query_maxlen"], 96)
    assert plain.arrays["pids"].shape == plain.arrays["scores"].shape == (QUERIES, SEARCH["k"])


def test_artifacts_agree_with_each_other_as_in_the_pipeline(plain):
    a = plain.arrays
    for number in range(QUERIES):
        candidates, stage1, stage2, maxsim = (rows(a, n)[number] for n in ("candidates", "stage1", "stage2", "maxsim"))
        assert set(stage2) <= set(stage1) <= set(candidates)
        assert len(stage2) == SEARCH["ndocs"] // 4
        found = a["found"][number]
        best = dict(zip(stage2.tolist(), maxsim.tolist(), strict=True))
        assert [best[pid] for pid in a["pids"][number, :found].tolist()] == a["scores"][number, :found].tolist()
        assert a["scores"][number, :found].tolist() == sorted(best.values(), reverse=True)[:found]
        assert a["pids"][number, 0] % PASSAGES == number * 8
    assert (a["stage2_margin"] >= 0).all()
    # All candidates fit into the first stage, so nothing was dropped there.
    assert np.isposinf(a["stage1_margin"]).all()


def test_the_same_search_again_and_without_capturing_gives_the_same_answer(searching, plain):
    again, final = searching.search(), searching.search(capture="final")

    assert first_changed(plain.arrays, again.arrays) is None
    assert set(final.arrays) == FINAL
    assert all(final.arrays[name].tobytes() == plain.arrays[name].tobytes() for name in FINAL)


@needs_compiler
@pytest.mark.timeout(3600)  # compiles six extensions
@pytest.mark.parametrize("version", [OLD, NEW])
def test_kernels_and_answer_are_those_of_a_bare_searcher_with_colbert_ai_s_own_kernels(searching, version):
    compared = json.loads(searching.native(version, NATIVE).splitlines()[-1])
    assert len(compared) == 5
    assert min(compared.values()) >= 24

    ours = searching.search(version)
    out = searching.folder / f"bare-{version}.json"
    searching.native(version, BARE, str(ours.cell), str(searching.made), str(out))

    for number, entries in enumerate(json.loads(out.read_text())):
        found = ours.arrays["found"][number]
        assert [pid for pid, _rank, _score in entries] == ours.arrays["pids"][number, :found].tolist()
        assert [score for _pid, _rank, score in entries] == ours.arrays["scores"][number, :found].tolist()


def swap_file(folder: Path, array: np.ndarray[Any, Any]) -> str:
    path = folder / "swap.safetensors"
    write_safetensors(path, {"tensor": Tensor.of(array)})
    return str(path)


@pytest.mark.parametrize("change", [np.array, lambda q: q[::-1].copy()])
def test_swapped_queries_take_the_place_of_those_that_were_encoded(
    searching: Searching, plain: Searched, tmp_path: Path, change: Callable[..., Any]
) -> None:
    other = change(plain.arrays["Q"])

    swapped = searching.search(swap={"Q": swap_file(tmp_path, other)})

    assert swapped.result["swapped"] == ["Q"]
    assert swapped.arrays["Q"].tobytes() == other.tobytes()
    assert swapped.arrays["pids"].tobytes() == change(plain.arrays["pids"]).tobytes()
    assert swapped.arrays["scores"].tobytes() == change(plain.arrays["scores"]).tobytes()


def test_fewer_passages_than_were_asked_for_are_filled_up(searching, plain):
    asked = SEARCH["ndocs"] // 4 + 5
    found = searching.search(settings={"k": asked}).arrays

    assert found["found"].tolist() == [SEARCH["ndocs"] // 4] * QUERIES
    assert (found["pids"][:, -5:] == -1).all()
    assert np.isnan(found["scores"][:, -5:]).all()
    assert found["pids"][:, : SEARCH["k"]].tobytes() == plain.arrays["pids"].tobytes()


@pytest.fixture(scope="session")
def pruned(searching: Searching, plain: Searched) -> Searched:
    """A search with a threshold that keeps a dozen centroids for the first query, so that each of them matters."""
    best = (searching.centroids().astype(np.float32) @ plain.arrays["Q"][0].T).max(axis=1)
    return searching.search(settings={"centroid_score_threshold": float(np.sort(best)[-12])})


@pytest.mark.parametrize(
    ("fault", "artifact"),
    [
        ("queries by one ULP", "Q"),
        ("dropped candidate", "candidates"),
        ("threshold off by one centroid", "stage1"),
        ("scores rounded to half", "maxsim"),
        ("later ties first", "pids"),
    ],
)
def test_each_planted_fault_changes_its_own_artifact_first(searching, pruned, fault, artifact):
    faulty = searching.search(settings=json.loads(pruned.cell.read_text())["settings"], fault=fault)

    assert first_changed(pruned.arrays, faulty.arrays) == artifact
    if fault == "later ties first":
        # Passages that are there twice have equal scores, and change places.
        assert pruned.arrays["scores"].tobytes() == faulty.arrays["scores"].tobytes()


STEPS = {
    "encode queries": ("query_tokens", "query_mask"),
    "encode each query": ("query_tokens", "query_mask"),
    "score centroids": ("Q", "centroids"),
    "score": ("Q", "stage2", "stage2_lengths", "centroids", "bucket_weights", "codes", "residuals", "doclens"),
    "rank": ("maxsim", "maxsim_lengths", "stage2"),
}


def test_steps_run_alone_give_the_bits_of_the_search(searching, plain, tmp_path):
    doclens = json.loads((searching.clean / "doclens.0.json").read_text())
    write_safetensors(tmp_path / "doclens.safetensors", {"tensor": Tensor.of(np.array(doclens))})
    folders = (plain.cell.parent / "out" / "intermediates", searching.clean, tmp_path)
    for name in ("codes", "residuals"):
        shutil.copy(searching.clean / f"0.{name}.safetensors", tmp_path / f"{name}.safetensors")
    files = {path.stem: str(path) for folder in folders for path in folder.glob("*.safetensors")}
    requests = [
        {"step": step, "inputs": {name: files[name] for name in inputs}, "keep": False}
        for step, inputs in STEPS.items()
    ]

    results = searching.job("record", {"steps": requests, "settings": SEARCH})["steps"]

    assert [(one["outcome"], one["recorder_is_neutral"]) for one in results] == [("ok", True)] * len(STEPS), results
    made = {name: digest for one in results for name, digest in one["outputs"].items()}
    assert made == {name: digest_in_worker(plain.arrays[name]) for name in made}
    assert set(made) == {
        "Q", "Q_alone", "centroid_scores", "cells", "cells_lengths", "decompressed", "normalized", "maxsim",
        "maxsim_lengths", "pids", "scores", "found",
    }  # fmt: skip


def digest_in_worker(array: np.ndarray[Any, Any]) -> str:
    """As `recording.tensor_digest` has it."""
    return hashlib.sha256(f"torch.{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()[:32]


@pytest.mark.parametrize("missing", ["ivf.safetensors", "doclens.0.json"])
def test_an_index_without_one_of_its_files_is_refused_by_its_name(searching, tmp_path, missing):
    broken = tmp_path / "index"
    shutil.copytree(searching.clean, broken)
    (broken / missing).unlink()

    result = searching.search(index=str(broken)).result

    assert result["outcome"] == "crashed"
    assert missing in result["reason"]

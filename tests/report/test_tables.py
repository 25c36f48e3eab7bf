"""The headline table, what is written to Parquet, and the sentences under it: over cells of a small index."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.artifacts.directory import index_tensors
from harness.artifacts.index_job import INDEX
from harness.environments.lockfile import lock_path, read_lock
from harness.inputs.matrix_file import load_matrix
from harness.report.columns import OF_WHAT
from harness.report.console import sentences
from harness.report.headline import COLUMNS, headline_cells
from harness.report.parquet import SCHEMA
from harness.report.readable import markdown_table
from harness.report.reduce import Reduced, reduce_cells
from harness.report.tables import cell_rows
from harness.running.choice import Choice
from harness.store.store import Store
from tests.support.cell_specs import cell, spec
from tests.support.small_index import index_arrays, write_index

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")
LOCKS = {version: read_lock(lock_path(ROOT / "locks", version, "cpu")) for version in MATRIX.versions}
TOTAL = len(index_arrays())
Arrays = dict[str, np.ndarray[Any, Any]]


class Sweep:
    """A store that cells are put into, and the reduction of what is in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")
        self.output = root / "tables"

    def put(self, version: str, arrays: Arrays, repeat: int = 0) -> None:
        index = write_index(self.root / f"{version}-{repeat}", arrays)
        # As colbert-ai does it: the metadata of an index names the folder of the run.
        (index / "metadata.json").write_text(json.dumps({"num_chunks": 2, "config": {"root": str(index)}}))
        artifacts = self.store.ingest(INDEX, index_tensors(index), self.root / "none", "full")
        self.store.put(cell(spec(version, repeat=repeat), artifacts=artifacts), index=index)

    def fail(self, version: str, outcome: str, reason: str) -> None:
        self.store.put(cell(spec(version), outcome=outcome, reason=reason, artifacts={}))

    def reduce(self, versions: Sequence[str]) -> Reduced:
        return reduce_cells(
            MATRIX, Choice(self.store, tuple(self.store.cells()), self.store.listed(), LOCKS), versions, self.output
        )

    def rows(self, table: str) -> list[dict[str, Any]]:
        return pq.read_table(self.output / f"{table}.parquet").to_pylist()


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def moved(**steps: float) -> Arrays:
    """The index with some tensors moved; a centroid by so little that `bnb` passes it, if the step is small."""
    arrays = index_arrays()
    for name, step in steps.items():
        flat = arrays[name].reshape(-1)
        flat[0] = flat[0] * (1 + step)
    return arrays


def test_a_row_counts_the_tensors_of_the_index_under_each_profile(sweep):
    """float16's last bit is beyond `default` and within `bnb`: the two verdicts are kept apart."""
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.8.0", moved(centroids=1e-3))

    reduced = sweep.reduce(["2.7.1", "2.8.0"])

    short, full = f"({TOTAL - 1}/{TOTAL})", f"({TOTAL}/{TOTAL})"
    assert [headline_cells(row) for row in reduced.rows] == [
        ("2.7.1", "2.8.0", f"Yes {full}", f"False {short}", f"True {full}", f"False {short}", "ok")
    ]
    assert reduced.diverged
    said = sentences(reduced)[-1]
    assert said.startswith(f"2.7.1 -> 2.8.0 changed 1 of {TOTAL} tensors of the index: centroids (1 of 32 elements, at")
    assert said.endswith("it fails default and all pass bnb.")


def test_versions_that_are_equal_are_no_divergence_although_their_metadata_names_their_folders(sweep):
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.8.0", index_arrays())

    reduced = sweep.reduce(["2.7.1", "2.8.0"])

    assert not reduced.diverged
    assert sentences(reduced)[-1] == "No tensor of the index changed by a bit in 1 step."
    (row,) = sweep.rows("consecutive")
    assert (row["changed"], row["first_changed"], row["bit_equal"]) == (False, None, TOTAL)
    assert any(r["artifact"] == "metadata" and not r["bit_equal"] for r in sweep.rows("comparisons"))


def test_the_first_tensor_that_changed_is_the_first_of_the_pipeline(sweep):
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.8.0", moved(ivf_lengths=1, centroids=1, bucket_weights=1))

    sweep.reduce(["2.7.1", "2.8.0"])

    assert sweep.rows("consecutive")[0]["first_changed"] == "centroids"


def test_another_shape_is_counted_under_shapes_and_passes_nothing(sweep):
    longer = index_arrays()
    longer["ivf"] = np.arange(len(longer["ivf"]) + 1, dtype=np.int64)
    sweep.put("2.0.1", index_arrays())
    sweep.put("2.1.0", longer)

    reduced = sweep.reduce(["2.0.1", "2.1.0"])

    assert headline_cells(reduced.rows[0])[2:6] == (
        f"No ({TOTAL - 1}/{TOTAL})", *(f"False ({TOTAL - 1}/{TOTAL})",) * 3
    )  # fmt: skip
    assert "ivf (shape [8] against [9])" in sentences(reduced)[-1]


def test_a_version_without_a_good_cell_is_a_gap_with_its_outcome(sweep):
    """A gap is neither equal nor different, and its neighbours are compared with nothing else instead."""
    sweep.put("2.4.0", index_arrays())
    sweep.fail("2.4.1", "crashed", "The job was killed by SIGABRT in phase import.")
    sweep.put("2.5.1", index_arrays())

    reduced = sweep.reduce(["2.4.0", "2.4.1", "2.5.0", "2.5.1"])

    assert [row.gap for row in reduced.rows] == [
        "2.4.1: crashed", "2.4.1: crashed; 2.5.0: missing", "2.5.0: missing"
    ]  # fmt: skip
    assert not reduced.diverged
    told = sentences(reduced)
    assert "3 of 3 steps could not be compared; the Outcome column says why." in told
    assert [line for line in told if "SIGABRT" in line] == [
        "2.4.1 crashed: The job was killed by SIGABRT in phase import."
    ]
    assert [row["outcome_b"] for row in sweep.rows("consecutive")] == ["crashed", "missing", "ok"]
    assert {row["version"]: row["reason"] for row in sweep.rows("cells")}["2.4.1"].startswith("The job was killed")
    # What was not measured is unknown: neither changed nor unchanged, and no count of nothing.
    measured = ("changed", "total", "shapes_match", "default_match", "bnb_match", "bit_equal", "noisy", "first_changed")
    assert {row[name] for row in sweep.rows("consecutive") for name in measured} == {None}


def test_a_repeat_counts_for_its_own_cell_alone(sweep):
    """A lock's repeats say nothing of another lock's cells, though both are of one version and one group."""
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.8.0", moved(centroids=0.2))
    for repeat, arrays in enumerate((index_arrays(), moved(centroids=0.1))):
        other = spec("2.7.1", repeat=repeat, lock="another")
        artifacts = sweep.store.ingest(
            INDEX, index_tensors(write_index(sweep.root / f"other-{repeat}", arrays)), sweep.root / "none", "full"
        )
        sweep.store.put(cell(other, artifacts=artifacts))
    own = [one for one in sweep.store.cells() if one.spec.lock != "another" or one.repeat]

    reduced = reduce_cells(MATRIX, Choice(sweep.store, tuple(own), own, LOCKS), ["2.7.1", "2.8.0"], sweep.output)

    assert reduced.diverged
    assert not reduced.repeats
    assert any("Noise floor: not known for 2.7.1 -> 2.8.0" in line for line in sentences(reduced))
    assert {row["noise"] for row in sweep.rows("comparisons")} == {None}
    with pytest.raises(ValueError, match=r"both of 2\.7\.1"):
        sweep.reduce(["2.7.1", "2.8.0"])


def test_what_a_repeat_changes_too_is_noise_and_no_divergence(sweep):
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.7.1", moved(centroids=0.1), repeat=1)
    sweep.put("2.8.0", moved(centroids=0.2))

    reduced = sweep.reduce(["2.7.1", "2.8.0"])

    assert headline_cells(reduced.rows[0])[-1] == "noise in centroids"
    assert not reduced.diverged
    assert f"Noise floor: 2.7.1 against itself changes 1 of {TOTAL} tensors" in sentences(reduced)[1]
    noise = {(row["kind"], row["artifact"]): row["noise"] for row in sweep.rows("comparisons")}
    assert noise["consecutive", "centroids"]
    assert not noise["consecutive", "ivf"]
    assert not any("not known" in line for line in sentences(reduced))


def test_where_nothing_was_repeated_the_noise_floor_is_said_to_be_unknown(sweep):
    for number, version in enumerate(["2.5.0", "2.5.1", "2.6.0", "2.7.0", "2.7.1"]):
        sweep.put(version, moved(centroids=0.1 * number))
    sweep.put("2.7.1", moved(centroids=0.4), repeat=1)

    said = sentences(sweep.reduce(["2.5.0", "2.5.1", "2.6.0", "2.7.0", "2.7.1", "2.8.0"]))

    (line,) = (line for line in said if "not known" in line)
    noise = {(row["a"], row["b"]): row["noise"] for row in sweep.rows("comparisons") if row["artifact"] == "centroids"}
    assert line == (
        "Noise floor: not known for 2.5.0 -> 2.5.1, 2.5.1 -> 2.6.0, 2.6.0 -> 2.7.0, because neither version is stored "
        "with a repeat: `harness index 2.5.0 --repeat 2.5.0` with the same options makes one."
    )
    assert noise["2.5.0", "2.5.1"] is None
    assert noise["2.7.0", "2.7.1"] is False


def test_a_change_beyond_the_noise_is_a_divergence(sweep):
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.7.1", moved(centroids=0.1), repeat=1)
    sweep.put("2.8.0", moved(centroids=0.2, ivf=1, ivf_lengths=1))

    reduced = sweep.reduce(["2.7.1", "2.8.0"])

    assert reduced.diverged
    assert reduced.rows[0].noisy == ("centroids",)


def test_a_change_far_beyond_the_noise_in_the_same_tensor_is_a_divergence(sweep):
    """One rule for tables and for `compare`: that a repeat changes a tensor a little hides nothing greater in it."""
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.7.1", moved(centroids=1e-3), repeat=1)
    sweep.put("2.8.0", moved(centroids=0.5))

    reduced = sweep.reduce(["2.7.1", "2.8.0"])

    assert reduced.diverged
    assert reduced.rows[0].noisy == ()
    noise = {(row["kind"], row["noise"]) for row in sweep.rows("comparisons") if row["artifact"] == "centroids"}
    assert noise == {("consecutive", False), ("repeat", True)}


def test_what_lies_between_two_versions_and_failed_does_not_hide_that_they_differ(sweep):
    sweep.put("2.6.0", index_arrays())
    sweep.fail("2.7.0", "crashed", "It broke.")
    sweep.put("2.7.1", moved(centroids=0.5))
    sweep.put("2.8.0", moved(centroids=0.5))

    reduced = sweep.reduce(["2.6.0", "2.7.0", "2.7.1", "2.8.0"])

    assert reduced.diverged
    assert [row.changed for row in reduced.rows] == [False, False, False]
    said = "2.6.0 -> 2.7.1, with what could not be compared between them, changed centroids"
    assert any(line.startswith(said) for line in sentences(reduced))


def test_tables_say_their_schema_and_what_they_are_of(sweep):
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.8.0", index_arrays())

    sweep.reduce(["2.7.1", "2.8.0"])
    written = list(sweep.output.glob("*.parquet"))

    assert {path.stem for path in written} == {"cells", "artifacts", "comparisons", "consecutive", "env_delta"}
    for path in written:
        metadata = pq.read_schema(path).metadata
        assert metadata[b"harness_schema"] == SCHEMA.encode()
        assert metadata[b"harness_table"] == path.stem.encode()
        assert metadata[b"device"] == spec().device.encode()
        assert b"c0ffee" in metadata[b"collection"]
    assert {(r["version"], r["artifact"]) for r in sweep.rows("artifacts")} >= {("2.7.1", "0.codes"), ("2.8.0", "ivf")}
    (row,) = (r for r in sweep.rows("comparisons") if r["artifact"] == "centroids")
    verdicts = {name: row[name] for name in ("default", "bnb")}
    assert row["failing"] == [name for name, close in verdicts.items() if not close]
    assert ("torch", "2.7.1", "2.8.0") in {
        (row["package"], row["version_a"], row["version_b"]) for row in sweep.rows("env_delta")
    }


def copy(library: str, version: str, package: str, *used_by: str) -> dict[str, Any]:
    return {"library": library, "file": "lib", "version": version, "package": package, "used_by": list(used_by)}


def test_the_packages_of_a_step_name_a_renamed_one_once(sweep):
    sweep.put("2.10.0", index_arrays())
    sweep.put("2.11.0", index_arrays())
    sweep.reduce(["2.10.0", "2.11.0"])

    rows = {row["package"]: row for row in sweep.rows("env_delta")}
    old, new = (LOCKS[version].packages for version in ("2.10.0", "2.11.0"))
    assert {name: value for name, value in rows["nvidia-cublas"].items() if name not in OF_WHAT} == {
        "a": "2.10.0", "b": "2.11.0", "package": "nvidia-cublas", "renamed_from": "nvidia-cublas-cu12",
        "version_a": old["nvidia-cublas-cu12"], "version_b": new["nvidia-cublas"], "required_by": ["torch"],
    }  # fmt: skip
    assert rows["torch"]["renamed_from"] is None
    assert not [name for name in rows if name.endswith("-cu12")]


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        # Torch's own, and the one that faiss brings; then the host's, of no package, which nobody uses.
        (
            {
                "libraries": [
                    copy("libcublas", "13.1.0", "nvidia-cublas 13.1.0.3", "torch"),
                    copy("libcublas", "12.9.1", "nvidia-cublas-cu12 12.9.1.4", "faiss"),
                    copy("libcublas", "12.2.5", ""),
                    copy("libcudart", "13000", "", "torch"),
                ]
            },
            ("13.1.0.3", "12.9.1.4", "13000"),
        ),
        ({"libraries": [copy("libcublas", "12.8.4", "x 12.8.4.1", "torch", "faiss")]}, ("12.8.4.1", "12.8.4.1", None)),
        ({"libraries": [copy("libcublas", "12.8.4", "x 12.8.4.1")]}, (None, None, None)),
        # As recorded before there could be two.
        (
            {
                "cuda_libraries": {
                    "libcublas.package": "nvidia-cublas-cu12 12.4.5.8", "cublas": "12.4.5", "cuda_runtime": "12040",
                },
            },
            ("12.4.5.8", None, "12040"),
        ),
        ({"cuda_libraries": {"cublas": "12.4.5"}}, ("12.4.5", None, None)),
        ({}, (None, None, None)),
    ],
)  # fmt: skip
def test_a_cell_says_which_libraries_its_job_used(provenance, expected):
    (row,) = cell_rows([replace(cell(spec("2.8.0")), details={"provenance": provenance})])

    assert (row["cublas"], row["cublas_faiss"], row["cuda_runtime"]) == expected
    assert json.loads(row["libraries"] or "null") == provenance.get("libraries")


@pytest.mark.parametrize(("enabled", "expected"), [(True, "torch.float16"), (False, None)])
def test_a_cell_says_whether_autocast_was_on(enabled, expected):
    observed = {"autocast_enabled": enabled, "autocast_dtype": "torch.float16"}
    (row,) = cell_rows([replace(cell(spec("2.8.0")), details={"observed": observed})])

    assert row["autocast"] == expected


def test_the_table_for_pasting_has_the_columns_of_the_article_first(sweep):
    sweep.put("2.7.1", index_arrays())
    sweep.put("2.8.0", index_arrays())

    lines = markdown_table(COLUMNS, map(headline_cells, sweep.reduce(["2.7.1", "2.8.0"]).rows)).splitlines()

    assert lines[0].startswith("| PyTorch A | PyTorch B | All shapes match | Default | bnb | Bit-equal |")
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert lines[2].startswith(f"| 2.7.1 | 2.8.0 | Yes ({TOTAL}/{TOTAL}) | True ({TOTAL}/{TOTAL}) |")


def documented() -> dict[str, tuple[str, str]]:
    """Artifact to its dtype on a CPU and on a GPU, from the table in docs/cells.md; a chunk's number is a star."""
    found: dict[str, tuple[str, str]] = {}
    for line in (ROOT / "docs" / "cells.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith(("| `", "| **`")):
            continue
        first, _, dtype, _ = (part.strip() for part in line.strip("|").split(" | "))
        names = list(dict.fromkeys(re.sub(r"^\d+\.|(?<=_)\d+$", "*.", n) for n in re.findall(r"`([^`]+)`", first)))
        names = [name.replace("_*.", "_*") for name in names]
        for number, name in enumerate(names):
            cpu, _, gpu = dtype.partition(", on a GPU ")
            if "as `batches`" in dtype:
                found[name] = found["batches"]
            elif gpu:
                found[name] = (cpu, gpu)
            else:
                one = dtype.split(", ")
                found[name] = (one[number % len(one)],) * 2
    return found


def test_the_page_of_artifacts_lists_each_in_order_with_the_dtypes_that_were_measured():
    page = documented()
    # What a training leaves has a page of its own.
    folders = sorted(path.parent for path in (ROOT / "results").glob("*/artifacts.parquet"))
    measured = [folder / "artifacts.parquet" for folder in folders if not folder.name.endswith("-train")]

    assert list(page) == INDEX.in_order(page)
    assert len(measured) > 1
    for path in measured:
        on_gpu = path.parent.name.startswith("cuda")
        for row in pq.read_table(path).to_pylist():
            name = re.sub(r"^\d+\.", "*.", re.sub(r"(?<=embs_)\d+$", "*", row["artifact"]))
            assert page[name][on_gpu] == row["dtype"], (path, row["artifact"])

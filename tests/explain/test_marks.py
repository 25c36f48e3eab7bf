"""Where a difference starts, whether it is above the noise floor, and NaN behind equal digests: over stored cells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.comparison import ArtifactComparison, Comparison, compare_sources
from harness.artifacts.directory import IndexDirectory, index_tensors
from harness.artifacts.index_job import INDEX
from harness.cli import main
from harness.explain.marks import mark
from harness.report.comparison_text import text
from harness.store.cell import Artifact
from harness.store.store import Store
from harness.store.stored import StoredCell
from tests.support.cell_specs import cell, planned
from tests.support.small_index import index_arrays, write_index

Arrays = dict[str, np.ndarray[Any, Any]]


class Runs:
    """A store that cells are put into, each from the tensors of an index."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")

    def put(self, version: str, arrays: Arrays, repeat: int = 0, *, counted: bool = True) -> StoredCell:
        index = write_index(self.root / f"{version}-{repeat}", arrays)
        artifacts = self.store.ingest(INDEX, index_tensors(index), self.root / "none", "full")
        if not counted:
            artifacts = {name: replace(one, nans=None) for name, one in artifacts.items()}
        return StoredCell(self.store, self.store.put(cell(planned(version, repeat), artifacts=artifacts)))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def changed(**changes: Any) -> Arrays:
    """A small index's tensors, some moved by some."""
    arrays = index_arrays()
    for name, step in changes.items():
        key = name.replace("_0", "0.", 1) if name.startswith("_0") else name
        arrays[key] = (arrays[key] + step).astype(arrays[key].dtype)
    return arrays


def row(found: Comparison, name: str) -> ArtifactComparison:
    return next(one for one in found.artifacts if one.name == name)


def compared(a: StoredCell, b: StoredCell) -> Comparison:
    return mark(compare_sources(a, b), a, b)


def changes(found: Comparison) -> dict[str, str]:
    return {one.name: one.place.change.value for one in found.artifacts if one.place and not one.bit_equal}


def test_origin_and_inherited(runs: Runs) -> None:
    """Codes that changed because the centroids did inherit; without a repeat, nothing is known of noise."""
    found = compared(runs.put("2.7.1", index_arrays()), runs.put("2.8.0", changed(centroids=1, _0codes=1)))

    assert {"centroids": "origin", "0.codes": "inherited"} == changes(found)
    assert {None} == {one.above_noise for one in found.artifacts}
    assert "Inherited: what it is computed from differs (centroids)." in text(found)
    assert "`harness index 2.7.1 --repeat 2.7.1` with the same options runs one" in text(found)


def test_places_of_directories_are_relative_to_what_they_hold(tmp_path: Path) -> None:
    """Two index directories have no intermediates and no repeats; their own artifacts have places all the same."""
    a = IndexDirectory(write_index(tmp_path / "a"))
    b = IndexDirectory(write_index(tmp_path / "b", changed(_0codes=1)))
    found = mark(compare_sources(a, b), a, b)

    assert {"0.codes": "origin"} == changes(found)
    assert row(found, "0.codes").above_noise is None
    assert not any("oise" in note for note in found.notes)


def test_what_a_repeat_shows_is_noise(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """A difference that A against A shows too is no divergence; one more than twice as great is."""
    a = runs.put("2.7.1", index_arrays())
    runs.put("2.7.1", changed(centroids=0.5), repeat=1)
    same = runs.put("2.8.0", changed(centroids=0.75))
    real = runs.put("2.6.0", changed(centroids=4))
    else_ = runs.put("2.5.0", changed(bucket_weights=1))

    noise = compared(a, same)
    assert ({"centroids": "noise"}, False, ()) == (
        changes(noise), row(noise, "centroids").above_noise, noise.divergent,
    )  # fmt: skip
    assert row(noise, "centroids").status == "different"
    assert row(noise, "0.codes").above_noise is False
    assert "Noise floor: 2.7.1 was run 1 more time, which changed centroids." in text(noise)
    assert "1 more tensor differs no more than repeats of one cell do" in text(noise)
    above = compared(a, real)
    assert ({"centroids": "origin"}, True) == (changes(above), row(above, "centroids").above_noise)
    other = compared(a, else_)
    assert row(other, "bucket_weights").above_noise is True
    assert run(capsys, runs, "2.7.1", "2.8.0")[0] == 0
    assert run(capsys, runs, "2.7.1", "2.6.0")[0] == 1


def test_nan_where_no_repeat_has_it_is_no_noise(runs: Runs) -> None:
    """Fewer elements than a repeat changes, and none of them by a number."""
    broken = index_arrays()
    broken["centroids"][0, 0] = np.nan
    a, b = runs.put("2.7.1", index_arrays()), runs.put("2.8.0", broken)
    runs.put("2.7.1", changed(centroids=0.5), repeat=1)

    assert row(compared(a, b), "centroids").above_noise is True


def test_the_repeat_itself_is_noise(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """A against A differs by noise, by definition, and the JSON says so of each artifact."""
    runs.put("2.7.1", index_arrays())
    runs.put("2.7.1", changed(ivf=1), repeat=1)
    code, out = run(capsys, runs, "2.7.1", "2.7.1#1", "--json")
    marks = {one["name"]: (one["above_noise"], one["change"]) for one in json.loads(out)["artifacts"]}

    assert code == 0
    assert ((False, "noise"), (False, "equal")) == (marks["ivf"], marks["centroids"])


def test_shapes_that_repeats_change_are_noise(runs: Runs) -> None:
    """Another length is noise where a repeat has another length too, and a divergence where none has."""
    longer, longest = index_arrays(), index_arrays()
    longer["ivf"] = np.arange(11, dtype=np.int64)
    longest["ivf"] = np.arange(12, dtype=np.int64)
    a, b = runs.put("2.7.1", index_arrays()), runs.put("2.8.0", longest)

    runs.put("2.7.1", index_arrays(), repeat=1)
    assert row(compared(a, b), "ivf").above_noise is True
    runs.put("2.7.1", longer, repeat=2)
    assert row(compared(a, b), "ivf").above_noise is False


def run(capsys: pytest.CaptureFixture[str], runs: Runs, *arguments: str) -> tuple[int, str]:
    (runs.root / "home").mkdir(exist_ok=True)
    store = runs.root / "home" / "store"
    if not store.exists():
        store.symlink_to(runs.store.root)
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments, "--home", str(runs.root / "home")])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def with_nan() -> Arrays:
    arrays = index_arrays()
    arrays["centroids"][1, 2] = np.nan
    arrays["centroids"][0, 0] = np.nan
    return arrays


@pytest.mark.parametrize("counted", [True, False])
def test_equal_digests_with_nan_are_not_close(runs: Runs, monkeypatch: pytest.MonkeyPatch, *, counted: bool) -> None:
    """`torch.allclose(x, x)` is False when x holds NaN: known from the record, or from the tensor for older records."""
    a, b = (runs.put(version, with_nan(), counted=counted) for version in ("2.7.1", "2.8.0"))
    if counted:
        monkeypatch.setattr(StoredCell, "load", lambda _s, name: pytest.fail(f"{name} was loaded"))
    one = row(compare_sources(a, b), "centroids")

    assert ("bit_equal", False, False) == (one.status, one.close("default"), one.close("bnb"))
    assert one.metrics is not None
    assert (2, 2) == (one.metrics.n_mismatch, one.metrics.nan_b)
    assert row(compare_sources(a, b), "avg_residual").close("default") is True
    assert "NaN 2 in A and 2 in B" in text(compare_sources(a, b))


def test_equal_digests_of_what_was_not_kept_have_no_verdict() -> None:
    """A record without a count and without a tensor: whether torch would call it close is not known."""
    kept = {"embs_0": Artifact("ab" * 32, "float16", (3, 8), "intermediate", stored=False)}
    kept["codes"] = Artifact("cd" * 32, "int64", (3,), "intermediate", stored=False)
    a, b = (
        StoredCell(Store(Path("/nowhere")), cell(planned(version), artifacts=kept)) for version in ("2.7.1", "2.8.0")
    )
    found = compare_sources(a, b)

    assert ("bit_equal", None) == (row(found, "embs_0").status, row(found, "embs_0").close("default"))
    assert row(found, "codes").close("default") is True
    assert "not known" in text(found)
    assert found.divergent == ()

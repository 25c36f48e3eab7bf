"""Equivalence classes, steps and all pairs, from digests alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from harness.artifacts.ladder import ArtifactChange, all_pairs, ladder
from harness.artifacts.source import unique_names
from harness.errors import ExitCode
from harness.report.ladder_text import ladder_text, pairs_text
from tests.support.command import run
from tests.support.pt_files import write_index, write_pt

ITEMS = [
    ("v1", {"centroids": "c1", "ivf": "i1", "doclens": "d1"}),
    ("v2", {"centroids": "c2", "ivf": "i1", "doclens": "d2"}),
    ("v3", {"centroids": "c1", "doclens": "d2"}),
]


def test_classes_and_steps() -> None:
    """Classes in order of appearance; a step lists tensors that differ or that one side lacks, not doclens."""
    found = ladder(ITEMS)

    assert {"centroids": (("v1", "v3"), ("v2",)), "ivf": (("v1", "v2"),), "doclens": (("v1",), ("v2", "v3"))} == dict(
        found.classes
    )
    assert [("v1", "v2", ("centroids",)), ("v2", "v3", ("centroids", "ivf"))] == [
        (step.a, step.b, step.changed) for step in found.steps
    ]


def test_lengths_that_differ_are_no_changed_tensor_and_not_equal() -> None:
    """As `compare` has it: the same codes of other passages are another index."""
    found = ladder([("a", {"centroids": "c", "doclens": "1"}), ("b", {"centroids": "c", "doclens": "2"})])

    assert [()] == [step.changed for step in found.steps]
    assert ExitCode.DIVERGENCE == found.outcome
    assert "Both items have the same tensors. They differ in doclens all the same." in ladder_text(found)
    assert (
        ExitCode.OK
        == ladder([("a", {"centroids": "c", "metadata": "1"}), ("b", {"centroids": "c", "metadata": "2"})]).outcome
    )


def test_changed_back() -> None:
    """The step that returns to an earlier value says to which."""
    changes = [change for change in ladder(ITEMS).changes if change.artifact == "centroids"]

    assert [ArtifactChange("centroids", "v1", "v2", None), ArtifactChange("centroids", "v2", "v3", "v1")] == changes
    assert "changed back at v3: as in v1" in ladder_text(ladder(ITEMS))


def test_an_item_of_which_no_tensor_can_be_read_is_not_said_to_have_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        write_index(tmp_path / name)
    for path in (tmp_path / "b").glob("*.pt"):
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    a, b, c = (tmp_path / name for name in "abc")

    code, out, _ = run(capsys, "ladder", a, b)
    assert code == 2
    assert out.startswith("No tensor that can be read is in b. There is nothing to compare a with.")
    code, out, _ = run(capsys, "ladder", a, b, c)
    assert code == 2
    assert out.startswith("No tensor that can be read is in b. The other 2 items have the same tensors")
    assert run(capsys, "ladder", b, b)[1].startswith("None of the 2 items holds a tensor that can be read.")


def test_lengths_of_passages_alone_are_a_divergence_as_in_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write_index(tmp_path / name)
    lengths = json.loads((tmp_path / "b" / "doclens.0.json").read_text())
    lengths[0], lengths[1] = lengths[0] + 1, lengths[1] - 1
    (tmp_path / "b" / "doclens.0.json").write_text(json.dumps(lengths))

    code, out, _ = run(capsys, "ladder", tmp_path / "a", tmp_path / "b")

    assert code == run(capsys, "compare", tmp_path / "a", tmp_path / "b")[0] == 1
    assert "Both items have the same tensors. They differ in doclens all the same." in out


def test_noise_is_no_divergence() -> None:
    """A step that changes only what running one of its items again changes is shown, and is no divergence."""
    floors = {"v1": ("centroids",), "v3": ()}
    found = ladder(ITEMS[:2], noise=floors)

    assert ("centroids",) == found.steps[0].changed
    assert not found.changed
    assert "1 of 1 step changed a tensor, and none more than running an item again does: v1" in ladder_text(found)
    assert ladder(ITEMS, noise=floors).changed
    assert {"v1": ["centroids"], "v3": []} == found.to_json()["noise"]
    shown = ladder_text(ladder(ITEMS, noise=floors))
    assert "running v1 again changes centroids." in shown
    assert "running v3 again changes no tensor." in shown


def test_all_pairs_cost_their_digests() -> None:
    """171 pairs of 19 items with 12 tensors take well under the two seconds allowed."""
    items = [(f"v{k}", {f"{t}.codes": f"{k % 4}-{t}" for t in range(12)}) for k in range(19)]
    start = time.process_time()
    pairs = all_pairs(items)
    classes = ladder(items).classes
    seconds = time.process_time() - start

    assert len(pairs) == 171
    assert [len(one.changed) for one in pairs] == [
        0 if i % 4 == j % 4 else 12 for i in range(19) for j in range(i + 1, 19)
    ]
    assert all(len(groups) == 4 for groups in classes.values())
    assert seconds < 1
    assert "171 pairs" in pairs_text([name for name, _ in items], pairs)


def test_names_are_made_unique() -> None:
    """Two directories of one name can be told apart."""
    assert ["x", "y", "x#2", "x#3"] == unique_names(["x", "y", "x", "x"])


def test_command_over_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract's JSON, with a directory's last component as its name; the exit code says if a step changed."""
    for name in ("one", "two", "three"):
        write_index(tmp_path / name, chunks=1)
    write_pt(tmp_path / "three" / "avg_residual.pt", np.array(0.5, np.float32))
    folders = [tmp_path / name for name in ("one", "two", "three")]
    code, out, _err = run(capsys, "ladder", *folders, "--json")
    found = json.loads(out)

    assert code == 1
    assert ["one", "two", "three"] == found["items"]
    assert [["one", "two"], ["three"]] == found["classes"]["avg_residual"]
    steps = [{"a": "one", "b": "two", "changed": []}, {"a": "two", "b": "three", "changed": ["avg_residual"]}]
    assert steps == found["steps"]
    assert run(capsys, "ladder", *folders[:2])[0] == 0
    assert run(capsys, "ladder", folders[0])[0] == 2


def test_unreadable_items_are_equal_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two truncated files are not called equal."""
    for name in ("one", "two"):
        write_index(tmp_path / name, chunks=1)
        (tmp_path / name / "centroids.pt").write_bytes(b"PK")
    code, out, _err = run(capsys, "ladder", tmp_path / "one", tmp_path / "two", "--json")

    assert code == 2
    assert [["one"], ["two"]] == json.loads(out)["classes"]["centroids"]

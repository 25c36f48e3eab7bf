"""Index directories that are odd: incomplete, empty, named alike, not there; and what is said about each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.ladder import unique_names
from harness.sources import IndexDirectory, resolve
from tests.command import run
from tests.pt_files import write_index, write_pt


def test_a_chunk_that_neither_side_has_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two indexes that lack the same chunk are equal in what is there, and are not complete."""
    for name in "ab":
        write_index(tmp_path / name, chunks=3)
        (tmp_path / name / "1.codes.pt").unlink()
        (tmp_path / name / "1.residuals.pt").unlink()
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")

    assert code == 0
    for letter in "AB":
        assert f"{letter} is not complete: its metadata counts 3 chunks, and it has no 1.codes, 1.residuals." in out
    notes = json.loads(run(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json")[1])["notes"]
    assert len(notes) == 2


def test_an_absurd_number_of_chunks_is_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many missing files as metadata.json may claim would fill the memory."""
    write_index(tmp_path / "a", chunks=1)
    record = json.loads((tmp_path / "a" / "metadata.json").read_text())
    (tmp_path / "a" / "metadata.json").write_text(json.dumps(record | {"num_chunks": 2**52}))
    out = run(capsys, "compare", tmp_path / "a", tmp_path / "a")[1]

    assert "has no 1.codes, 1.residuals, 2.codes, 2.residuals, 3.codes, 3.residuals and more." in out


def test_a_complete_index_is_not_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_index(tmp_path / "a", chunks=3)

    assert "not complete" not in run(capsys, "compare", tmp_path / "a", tmp_path / "a")[1]


def test_unreadable_files_of_directories_named_alike_are_not_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Experiments name their indexes alike; what cannot be read in two of them is not the same."""
    for name in ("one", "two"):
        write_index(tmp_path / name / "index", chunks=1)
        for file in ("centroids.pt", "metadata.json"):
            (tmp_path / name / "index" / file).write_bytes(b"PK")
    code, out, _ = run(capsys, "ladder", tmp_path / "one" / "index", tmp_path / "two" / "index", "--json")
    found = json.loads(out)

    assert code == 2
    assert [["index"], ["index#2"]] == found["classes"]["centroids"] == found["classes"]["metadata"]
    assert [] == found["steps"][0]["changed"]


def test_directories_named_alike_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence says which is which."""
    for name in ("one", "two"):
        write_index(tmp_path / name / "index", chunks=1)
    folders = [tmp_path / name / "index" for name in ("one", "two")]
    assert run(capsys, "compare", *folders)[1].startswith("A (index) and B (index) are bit for bit the same")

    write_pt(folders[1] / "avg_residual.pt", np.array(0.5, np.float32))
    assert run(capsys, "compare", *folders)[1].startswith("A (index) and B (index) differ beyond 'default'")


@pytest.mark.parametrize("names", [["x", "x#2", "x"], ["x", "x", "x#2"], ["x", "x", "x"]])
def test_made_up_names_are_not_those_of_others(names: list[str]) -> None:
    assert len(set(unique_names(names))) == 3


@pytest.mark.parametrize("command", ["compare", "ladder"])
def test_nothing_to_compare_is_not_equality(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Two folders with only a metadata.json are no indexes that agree."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.json").write_text("{}")
    code, out, _ = run(capsys, command, tmp_path / "a", tmp_path / "b")

    assert code == 2
    assert out.startswith(("a and b hold no tensors to compare.", "None of the 2 items holds a tensor."))


def test_arguments_that_name_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong argument is named for what is wrong with it, also where there is no matrix.yaml."""
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path / "a", chunks=1)
    for argument, wanted in (
        (tmp_path / "missing", "There is no directory"),
        (tmp_path / "a" / "centroids.pt", "centroids.pt is a file: give the directory of the index"),
        ("x" * 5000, "There is no directory xxx"),
        ("a\0b", "There is no directory a"),
    ):
        code, _, err = run(capsys, "compare", tmp_path / "a", argument)
        assert code == 2
        assert wanted in err
        assert len(err) < 1000


def test_a_directory_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path / "a", chunks=1)
    folder = resolve(str(tmp_path / "a"), lambda: tmp_path)
    assert isinstance(folder, IndexDirectory)

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(Exception, match=r"a cannot be listed: Permission denied\."):
        IndexDirectory(tmp_path / "a")


def test_numbers_are_written_as_colbert_writes_them(tmp_path: Path) -> None:
    """No file takes the place of another by writing its number otherwise."""
    write_index(tmp_path / "a", chunks=1)
    names, codes = (IndexDirectory(tmp_path / "a").names(), IndexDirectory(tmp_path / "a").load("0.codes").digest())
    for odd in ("00", "\u0663", "+0"):
        write_pt(tmp_path / "a" / f"{odd}.codes.pt", np.zeros(3, np.int32))
        (tmp_path / "a" / f"doclens.{odd}.json").write_text("[1]")

    assert names == IndexDirectory(tmp_path / "a").names()
    assert codes == IndexDirectory(tmp_path / "a").load("0.codes").digest()
    assert IndexDirectory(tmp_path / "a").load("doclens").n == 20


@pytest.mark.parametrize("key", ["\0infinity", "-\0infinity", "1e999"])
def test_no_text_in_a_file_is_taken_for_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    """Keys and values of metadata.json come out of the JSON as they went in."""
    for name in "ab":
        write_index(tmp_path / name, chunks=1)
    record = json.loads((tmp_path / "b" / "metadata.json").read_text())
    (tmp_path / "b" / "metadata.json").write_text(json.dumps(record | {key: key}))
    found = json.loads(run(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json")[1])

    assert {key: [None, key]} == found["artifacts"][-1]["metadata_changes"]


def test_a_scalar_has_no_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`avg_residual` is one number: said once, without an empty index, and without percentiles of one."""
    for name in "ab":
        write_index(tmp_path / name, chunks=1)
    write_pt(tmp_path / "b" / "avg_residual.pt", np.array(0.031, np.float32))
    out = run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

    assert "Greatest absolute difference: 0.001 (A 0.03, B 0.031), 3.2e-07 allowed there by 'default'" in out
    assert "ULP: max 536,871 (A 0.03, B 0.031)\n" in out
    assert "[]" not in out
    assert "p99.9" not in out


def test_every_row_has_every_key_of_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever became of an artifact, a program may ask for any name of the contract."""
    for name in "ab":
        write_index(tmp_path / name, chunks=2)
    a, b = tmp_path / "a", tmp_path / "b"
    write_pt(b / "0.codes.pt", np.zeros(3, np.int32))
    write_pt(b / "1.codes.pt", np.zeros(IndexDirectory(b).load("1.codes").n, np.int64))
    (b / "0.residuals.pt").unlink()
    (a / "1.residuals.pt").unlink()
    (b / "centroids.pt").write_bytes(b"")
    write_pt(b / "avg_residual.pt", np.array(1, np.float32))
    (b / "metadata.json").unlink()
    rows = {one["name"]: one for one in json.loads(run(capsys, "compare", a, b, "--json")[1])["artifacts"]}
    wanted = "name status dtype_a dtype_b shape_a shape_b bit_equal default bnb n n_mismatch max_abs max_rel max_ulp"

    assert {"shape_mismatch", "dtype_mismatch", "missing_a", "missing_b", "unreadable", "different", "bit_equal"} == {
        one["status"] for one in rows.values()
    }
    assert all({*wanted.split(), "min_rtol"} <= set(one) for one in rows.values())
    assert len({frozenset(one) - {"reason"} for one in rows.values() if one["status"].startswith("missing")}) == 1
    verdicts = {name: (one["default"], one["bnb"]) for name, one in rows.items()}
    assert all(verdicts[name] == (False, False) for name in ("0.codes", "1.codes", "0.residuals", "1.residuals"))
    assert [(None, None)] * 2 == [verdicts[name] for name in ("centroids", "metadata")]
    assert (True, True) == verdicts["ivf"]


def test_buckets_are_counted_without_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no settings tell `nbits`, the number of bucket weights does."""
    for name in "ab":
        write_index(tmp_path / name, chunks=1, nbits=4)
        for file in ("metadata.json", "plan.json"):
            (tmp_path / name / file).unlink()
    raw = IndexDirectory(tmp_path / "b").load("0.residuals").data.copy()
    raw[0, 0] ^= 0b1000_0001  # one bit of each of the two bucket numbers in this byte
    codes = IndexDirectory(tmp_path / "b").load("0.codes").data.copy()
    codes[0] ^= 1
    write_pt(tmp_path / "b" / "0.residuals.pt", raw)
    write_pt(tmp_path / "b" / "0.codes.pt", codes)
    found = json.loads(run(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json")[1])["artifacts"]
    rows = {one["name"]: one for one in found}

    assert (4, 2) == (rows["0.residuals"]["nbits"], rows["0.residuals"]["buckets_n_mismatch"])
    assert rows["0.codes"]["codes_margin_source"] == "reconstructed"


def test_lists_of_passages_against_lists_of_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An old index's ivf.pt means something else than ivf.pid.pt, and the comparison says so."""
    for name in "ab":
        write_index(tmp_path / name, chunks=1)
    assert "lists passages" not in run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

    (tmp_path / "a" / "ivf.pid.pt").rename(tmp_path / "a" / "ivf.pt")
    assert (
        "The ivf of A is from ivf.pt, that of B from ivf.pid.pt"
        in run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]
    )


def test_a_sample_of_moved_codes_is_called_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_index(tmp_path / name, chunks=1)
    codes = IndexDirectory(tmp_path / "b").load("0.codes").data.copy()
    codes[:9] ^= 1
    write_pt(tmp_path / "b" / "0.codes.pt", codes)
    assert " real moves among 9, by " in run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

    monkeypatch.setattr("harness.domain._SAMPLE", 4)
    assert " real moves among the first 4 of 9, by " in run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

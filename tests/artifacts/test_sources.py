"""Index directories that are odd: incomplete, empty, named alike, not there; and what is said about each."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts import meaning
from harness.artifacts.directory import IndexDirectory, index_tensors
from harness.artifacts.source import unique_names
from tests.support.command import run
from tests.support.pt_files import write_index, write_pt


def test_a_chunk_that_neither_side_has_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two indexes that lack the same chunk are equal in what is there, and are not complete."""
    for name in "ab":
        write_index(tmp_path / name, chunks=3)
        (tmp_path / name / "1.codes.pt").unlink()
        (tmp_path / name / "1.residuals.pt").unlink()
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")

    assert code == 2
    assert out.startswith("a and b are bit for bit the same in all 10 tensors that are there. This is no verdict")
    for letter in "AB":
        assert f"{letter} is not complete: it has no 1.codes, 1.residuals." in out
    found = json.loads(run(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json")[1])
    assert len(found["notes"]) == 2
    assert {"a": ["1.codes", "1.residuals"], "b": ["1.codes", "1.residuals"]} == found["incomplete"]


CUT = (
    "doclens.1.json",
    "1.metadata.json",
    "ivf.pid.pt",
    "metadata.json",
    "buckets.pt",
    "centroids.pt",
    "avg_residual.pt",
)


@pytest.mark.parametrize("gone", [CUT[:4], *((file,) for file in CUT), ("plan.json", "metadata.json", "0.codes.pt")])
def test_indexes_that_are_cut_alike_are_not_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: tuple[str, ...]
) -> None:
    """A run that died leaves indexes that agree in what is there; neither is whole, so no exit code says they agree."""
    for name in "ab":
        write_index(tmp_path / name, chunks=3)
        for file in gone:
            (tmp_path / name / file).unlink()
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")
    rungs = run(capsys, "ladder", tmp_path / "a", tmp_path / "b")

    assert (2, 2) == (code, rungs[0])
    assert "tensors that are there. This is no verdict on whole indexes: a and b are not whole." in out
    assert all(f"{one} is not complete: it has no " in out for one in "AB")
    assert "same tensors, of those that are there.\na is not complete: it has no " in rungs[1]

    write_index(tmp_path / "b", chunks=3)
    assert 0 != run(capsys, "compare", tmp_path / "a", tmp_path / "b")[0]


def test_what_was_lost_with_the_end_of_a_run_is_no_change_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lengths of some chunks are not other lengths, no difference starts at a missing file, and none inherits."""
    for name in "ab":
        write_index(tmp_path / name)
    for file in ("doclens.1.json", "1.metadata.json", "ivf.pid.pt"):
        (tmp_path / "b" / file).unlink()
    out = run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

    assert out.startswith(
        "b is not whole, and all else passes 'default': 8 of 10 tensors of the index are on both sides"
    )
    assert not re.search("line up|origin|inherit", out, re.IGNORECASE)

    codes = IndexDirectory(tmp_path / "b").load("0.codes").data.copy()
    codes[0] ^= 1
    write_pt(tmp_path / "b" / "0.codes.pt", codes)
    out = run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

    assert out.startswith("a and b differ beyond 'default' in 0.codes: ")
    assert "Inherited" not in out


def test_a_divergence_is_one_whatever_else_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        write_index(tmp_path / name)
        (tmp_path / name / "1.metadata.json").unlink()
    write_pt(tmp_path / "b" / "avg_residual.pt", np.array(0.5, np.float32))
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")

    assert (1, True) == (code, "B is not complete: it has no 1.metadata.json." in out)
    assert 1 == run(capsys, "ladder", tmp_path / "a", tmp_path / "b")[0]


def test_an_index_without_tensors_is_equal_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where only the JSON files arrived, `doclens` alone says nothing; neither does it against a whole index."""
    for name in ("a", "b", "whole"):
        write_index(tmp_path / name)
    for file in [*(tmp_path / "a").glob("*.pt"), *(tmp_path / "b").glob("*.pt")]:
        file.unlink()
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")

    assert 2 == code
    assert out.startswith(
        "a and b hold no tensors to compare.\nA holds no tensor of an index that can be read: it has "
    )
    assert "doclens.0.json" in out
    assert 2 == run(capsys, "ladder", tmp_path / "a", tmp_path / "b")[0]
    code, out, _ = run(capsys, "compare", tmp_path / "whole", tmp_path / "b")
    assert (2, True) == (code, out.startswith("b holds no tensor to compare."))
    code, out, _ = run(capsys, "ladder", tmp_path / "whole", tmp_path / "b")
    assert (2, True) == (code, "No tensor is in b." in out)


def as_npy(folder: Path, target: Path, **more: object) -> Path:
    """The same index as FastPlaid writes it: one array a file, and some of its own."""
    source = IndexDirectory(folder)
    target.mkdir()
    for name in source.names():
        if name != "doclens":
            np.save(target / f"{name}.npy", source.load(name).data)
    for file in folder.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    for name, array in more.items():
        np.save(target / f"{name}.npy", np.asarray(array))
    return target


def test_arrays_of_numpy_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FastPlaid's and PyLate's folders are equal to the same tensors in .pt, and what they mean is counted."""
    write_index(tmp_path / "pt")
    more = {"cluster_threshold": np.float32(0.5), "merged_codes": np.arange(9)}
    a, b = (as_npy(tmp_path / "pt", tmp_path / name, **more) for name in "ab")
    assert 0 == run(capsys, "compare", a, b)[0]
    plain = json.loads(run(capsys, "compare", tmp_path / "pt", as_npy(tmp_path / "pt", tmp_path / "c"), "--json")[1])
    assert {"bit_equal"} == {one["status"] for one in plain["artifacts"]}
    assert [] == plain["notes"]

    residuals = np.load(b / "1.residuals.npy")
    residuals[0, 0] ^= 0b1000_0000
    np.save(b / "1.residuals.npy", np.asfortranarray(residuals))
    np.save(b / "merged_codes.npy", np.arange(9) + 1)
    np.save(b / "avg_residual.npy", np.load(a / "avg_residual.npy").astype(">f4"))
    code, out, _ = run(capsys, "compare", a, b, "--json")
    rows = {one["name"]: one for one in json.loads(out)["artifacts"]}

    assert 1 == code
    assert {"1.residuals", "merged_codes"} == {one["name"] for one in rows.values() if one["status"] == "different"}
    assert 1 == rows["1.residuals"]["buckets_n_mismatch"]
    assert ["1.residuals", "merged_codes"] == json.loads(run(capsys, "ladder", a, b, "--json")[1])["steps"][0][
        "changed"
    ]


def test_an_array_never_takes_another_ones_name(tmp_path: Path) -> None:
    """Where the name means something else here, or is taken, the file's whole name is the artifact's."""
    write_index(tmp_path / "a", chunks=1)
    for name in ("centroids", "00.codes", "all.codes", "embs_0", "codes", "doclens", "metadata", "own"):
        np.save(tmp_path / "a" / f"{name}.npy", np.arange(3))
    names = set(IndexDirectory(tmp_path / "a").names()) - set(IndexDirectory(write_and_return(tmp_path)).names())

    assert names == {
        "centroids.npy", "00.codes.npy", "all.codes", "embs_0.npy", "codes.npy", "doclens.npy", "metadata.npy", "own",
    }  # fmt: skip


def write_and_return(tmp_path: Path) -> Path:
    write_index(tmp_path / "plain", chunks=1)
    return tmp_path / "plain"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is not a .npy file"),
        (b"\x93NUMPY\x01\x00\x05\x00{'a':", "is not a .npy file"),
        (b"\x93NUMPY\x09\x00\x05\x00{}   ", "is not a .npy file"),
        (np.array([None, object]), "holds object where numbers are expected"),
        (np.array(["text"]), "where numbers are expected"),
        (np.zeros(3, [("x", "<i4")]), "where numbers are expected"),
        (lambda raw: raw[:-1], "is truncated"),
        (lambda raw: raw + b"\0", "is too long"),
        (lambda raw: raw.replace(b"(10,)", b"(-1,)"), "the shape"),
        (lambda raw: raw.replace(b"(10,)", b"(1e9)"), "is not a .npy file"),
    ],
)
def test_a_bad_array_is_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: Any, said: str) -> None:
    """Nothing is unpickled, no size is believed, and the exit code is 2."""
    write_index(tmp_path / "pt")
    folder = as_npy(tmp_path / "pt", tmp_path / "a")
    np.save(folder / "centroids.npy", raw if isinstance(raw, np.ndarray) else np.arange(10), allow_pickle=True)
    if not isinstance(raw, np.ndarray):
        whole = (folder / "centroids.npy").read_bytes()
        (folder / "centroids.npy").write_bytes(raw(whole) if callable(raw) else raw)
    code, out, _ = run(capsys, "compare", folder, folder, "--json")
    row = next(one for one in json.loads(out)["artifacts"] if one["name"] == "centroids")

    assert (2, "unreadable") == (code, row["status"])
    assert said in row["reason"]


def test_other_formats_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither taken for an index, nor called equal unread, nor passed over beside tensors that are read."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "flat.faiss").write_bytes(name.encode())
    code, _, err = run(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert (2, True) == (code, "a holds no ColBERT index" in err and "it has flat.faiss." in err)

    for name in "ab":
        (tmp_path / name / "metadata.json").write_text("{}")
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert (2, True) == (
        code,
        "A holds no tensor of an index that can be read: it has flat.faiss, metadata.json." in out,
    )

    for name in "ab":
        write_index(tmp_path / name)
    assert "B also holds flat.faiss, which" in run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]

    assert "its folder a does: give that one" in run(capsys, "compare", tmp_path, tmp_path / "b")[2]


def test_an_absurd_number_of_chunks_is_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many missing files as metadata.json may claim would fill the memory."""
    write_index(tmp_path / "a", chunks=1)
    record = json.loads((tmp_path / "a" / "metadata.json").read_text())
    (tmp_path / "a" / "metadata.json").write_text(json.dumps(record | {"num_chunks": 2**52}))
    out = run(capsys, "compare", tmp_path / "a", tmp_path / "a")[1]

    assert "has no 1.codes, 1.residuals, doclens.1.json, 1.metadata.json, 2.codes, 2.residuals and more." in out


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
    assert [["one/index"], ["two/index"]] == found["classes"]["centroids"] == found["classes"]["metadata"]
    assert [] == found["steps"][0]["changed"]


def test_directories_named_alike_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the shortest end of their paths that does, in words and in JSON."""
    for name in ("one", "two"):
        write_index(tmp_path / name / "index", chunks=1)
    folders = [tmp_path / name / "index" for name in ("one", "two")]
    assert run(capsys, "compare", *folders)[1].startswith("one/index and two/index are bit for bit the same")

    write_pt(folders[1] / "avg_residual.pt", np.array(0.5, np.float32))
    assert run(capsys, "compare", *folders)[1].startswith("one/index and two/index differ beyond 'default'")


def test_a_link_is_called_what_the_user_called_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions that are links into a store are not all named after the folder that they lead to."""
    monkeypatch.chdir(tmp_path)
    for version in ("2.7.1", "2.8.0"):
        write_index(tmp_path / "store" / version / "i", chunks=1)
        (tmp_path / version).symlink_to(tmp_path / "store" / version / "i")
    found = json.loads(run(capsys, "ladder", "2.7.1", "./2.8.0/", "store/2.8.0/i", "--json")[1])
    compared = json.loads(run(capsys, "compare", "2.7.1", "2.8.0", "--json")[1])

    assert ["2.7.1", "2.8.0", "i"] == found["items"]
    assert ("2.7.1", "2.8.0") == (compared["a"], compared["b"])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["runs/a/index", "runs/b/index"], ["a/index", "b/index"]),
        (["/r/a/index", "/s/a/index", "c/other"], ["r/a/index", "s/a/index", "other"]),
        (["index", "b/index"], ["index", "b/index"]),
        (["x/i", "p/x/i", "q/i"], ["x/i", "p/x/i", "q/i"]),
        (["x", "./x", "x/"], ["x", "x#2", "x#3"]),
        (["/r/x", "/r/x"], ["x", "x#2"]),
        (["/r/x", "/r/x", "/s/x"], ["r/x", "r/x#2", "s/x"]),
        (["a/x#2", "b/x", "b/x"], ["x#2", "x", "x#3"]),
        ([None, "old/cell"], ["cell", "old/cell"]),
        (["/", "/x/.."], ["/", "/#2"]),
        (["i", "/i"], ["i", "/i"]),
    ],
)
def test_an_item_is_named_by_the_shortest_end_of_its_path(paths: list[str | None], expected: list[str]) -> None:
    """What is typed tells items apart; only what was typed twice gets a number."""
    assert expected == unique_names(["cell"] * len(paths), paths)


def test_the_current_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert [tmp_path.name, "y"] == unique_names(["", ""], [".", "y"])


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
        (tmp_path / "missing", "is neither a ColBERT index directory nor"),
        (tmp_path / "a" / "centroids.pt", "centroids.pt is a file: give the directory of the index"),
        ("x" * 5000, "xxx...' is neither a ColBERT"),
        ("a\0b", "is neither a ColBERT index directory nor"),
    ):
        code, _, err = run(capsys, "compare", tmp_path / "a", argument)
        assert code == 2
        assert wanted in err
        assert len(err) < 1000


def test_a_directory_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path / "a", chunks=1)

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
    assert "Floats from one value to the other: at most 536,871 (A 0.03, B 0.031)\n" in out
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

    monkeypatch.setattr(meaning, "code_facts", functools.partial(meaning.code_facts, sample=4))
    assert (
        " real moves among 4 of 9, the first of each chunk, by "
        in run(capsys, "compare", tmp_path / "a", tmp_path / "b")[1]
    )


def test_an_index_that_is_taken_away_is_whole_though_nobody_holds_what_was_read(tmp_path: Path) -> None:
    """Two tensors lie in one file: it stays until the second is read."""
    write_index(tmp_path / "kept")
    write_index(tmp_path / "taken")

    def digests(name: str, *, delete: bool) -> dict[str, str]:
        found = {}
        for artifact, tensor in index_tensors(tmp_path / name, delete=delete):
            found[artifact] = tensor.digest()
            del tensor  # as the store lets go of it
        return found

    assert digests("taken", delete=True) == digests("kept", delete=False)
    assert {path.suffix for path in (tmp_path / "taken").iterdir()} == {".json"}

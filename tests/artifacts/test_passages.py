"""Passages in another order, other passages, other chunks: nothing is said of rows that are not the same token's."""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import files
from harness.artifacts import passages
from harness.artifacts.comparison import Comparison, compare_sources
from harness.artifacts.directory import IndexDirectory
from harness.artifacts.passages import align
from harness.errors import InfrastructureError
from harness.explain.marks import mark
from harness.report.comparison_text import text
from harness.tensors.dtypes import Array
from tests.support.command import run
from tests.support.pt_files import pack, write_index, write_ivf, write_pt

K, DIM, NBITS = 16, 32, 2
files_allowed = files._allow_many_files.__wrapped__
Passage = tuple[Array, Array]
"""Codes (tokens,) and bucket numbers (tokens, DIM)."""
CLAIMS = {"codes_n_moved", "codes_real_moves", "buckets_n_mismatch"}


def passage(rng: np.random.Generator, size: int) -> Passage:
    return rng.integers(0, K, size).astype(np.int32), rng.integers(0, 2**NBITS, (size, DIM))


def some(seed: int, sizes: Sequence[int]) -> list[Passage]:
    rng = np.random.default_rng(seed)
    return [passage(rng, size) for size in sizes]


def write(folder: Path, documents: Sequence[Passage], chunk: int = 20) -> Path:
    """An index of these passages, by the codec that every index of `write_index` has."""
    write_index(folder, chunks=1, dim=DIM, nbits=NBITS, k=K)
    lists: dict[int, set[int]] = {}
    starts = range(0, len(documents), chunk)
    for number, start in enumerate(starts):
        part = documents[start : start + chunk]
        codes = np.concatenate([one[0] for one in part])
        write_pt(folder / f"{number}.codes.pt", codes)
        write_pt(folder / f"{number}.residuals.pt", pack(np.concatenate([one[1] for one in part]), NBITS))
        (folder / f"doclens.{number}.json").write_text(json.dumps([one[0].size for one in part]))
        (folder / f"{number}.metadata.json").write_text("{}")
    for pid, (codes, _) in enumerate(documents):
        for code in codes.tolist():
            lists.setdefault(code, set()).add(pid)
    write_ivf(folder, lists, K)
    record = json.loads((folder / "metadata.json").read_text())
    total = sum(one[0].size for one in documents)
    (folder / "metadata.json").write_text(json.dumps(record | {"num_chunks": len(starts), "num_embeddings": total}))
    return folder


def compared(a: Path, b: Path) -> Comparison:
    left, right = IndexDirectory(a), IndexDirectory(b)
    return mark(compare_sources(left, right), left, right)


def rows(found: Comparison) -> dict[str, Any]:
    return {one.name: one for one in found.artifacts if not one.bit_equal and one.tensor}


def claims_nothing(found: Comparison) -> bool:
    """Whether no row is said to have moved, and no artifact to be where a difference starts."""
    differing = rows(found)
    return bool(differing) and all(one.place is None and not CLAIMS & set(one.facts) for one in differing.values())


@pytest.mark.parametrize("sizes", [[3, 8, 5, 4, 7] * 8, [6] * 40])
def test_the_same_passages_in_another_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: list[int]
) -> None:
    """Whether or not their lengths give it away: it is said first, nothing has moved and nothing starts anywhere."""
    documents = some(1, sizes)
    order = np.random.default_rng(5).permutation(40)
    a, b = write(tmp_path / "a", documents), write(tmp_path / "b", [documents[k] for k in order])
    found = compared(a, b)
    elsewhere = int((order != np.arange(40)).sum())
    code, out, _ = run(capsys, "compare", a, b)

    assert claims_nothing(found)
    assert all((40, 40, elsewhere) == tuple(one.facts[f"passages_{name}"] for name in ("n", "matched", "reordered"))
               for one in rows(found).values())  # fmt: skip
    assert 0 == rows(found)["ivf"].facts["ivf_lists_n_mismatch"]
    assert 1 == code
    assert out.startswith(
        f"A and B hold the same 40 passages, bit for bit, {elsewhere} of them at another place: rows do"
    )
    assert "Origin" not in out
    assert "Moved codes" not in out


def test_a_move_is_told_of_the_passages_that_line_up(tmp_path: Path) -> None:
    """Two that changed places hide no code that moved in a third, and are not counted with it."""
    documents = some(2, [6] * 40)
    changed = [(codes.copy(), buckets.copy()) for codes, buckets in documents]
    changed[3], changed[9] = changed[9], changed[3]
    changed[25][0][1] ^= 1
    changed[26][1][0, :2] ^= 1
    found = compared(write(tmp_path / "a", documents), write(tmp_path / "b", changed))
    differing = rows(found)

    assert 2 == differing["1.codes"].facts["passages_reordered"]
    assert 1 == differing["1.codes"].facts["codes_n_moved"]
    assert 2 == differing["1.residuals"].facts["buckets_n_mismatch"]
    assert "origin" == differing["1.codes"].place.change.value
    assert all(differing[name].place is None and not CLAIMS & set(differing[name].facts)
               for name in ("0.codes", "0.residuals"))  # fmt: skip
    assert "not compared" in differing["ivf"].facts["ivf_note"]
    assert "2 of B's 40 passages are bit for bit those that A has at another place" in text(found)


def rounded(document: Passage) -> Passage:
    """The same codes with another residual, as another release may round them."""
    codes, buckets = document
    other = buckets.copy()
    other[0, 0] ^= 1
    return codes, other


def test_passages_in_another_order_whose_residuals_changed_too(tmp_path: Path) -> None:
    """No passage is the same bit for bit: codes say where they are, and what lost these, too, has no place."""
    documents = some(8, [6] * 40)
    order = np.random.default_rng(5).permutation(40)
    moved = [rounded(documents[k]) for k in order]
    moved[7] = (moved[7][0] ^ 1, moved[7][1])
    found = compared(write(tmp_path / "a", documents), write(tmp_path / "b", moved))

    assert rows(found).keys() >= {"0.codes", "0.residuals"}
    assert not any("codes_n_moved" in one.facts for one in rows(found).values())
    assert all(one.place is None for name, one in rows(found).items() if name.endswith("codes"))
    assert "have the codes of those that A has at another place, 0 of them bit for bit" in text(found)

    two = list(documents)
    two[3], two[4] = rounded(documents[4]), rounded(documents[3])
    found = compared(tmp_path / "a", write(tmp_path / "c", two))
    assert "codes_n_moved" not in rows(found)["0.codes"].facts
    assert "2 of B's 40 passages have the codes of those that A has at another place" in text(found)


def test_without_lengths_it_is_said_that_rows_may_not_be_the_same_token(tmp_path: Path) -> None:
    documents = some(9, [6] * 40)
    a, b = write(tmp_path / "a", documents), write(tmp_path / "b", documents[::-1])
    for file in b.glob("doclens.*.json"):
        file.unlink()

    assert any(note.startswith("Whether a row is the same token's") for note in compared(a, b).notes)
    assert not any(note.startswith("Whether a row is the same token's") for note in compared(b, b).notes)


def test_other_passages_have_no_moved_codes(tmp_path: Path) -> None:
    """Some left out, some new: those that both have are counted, and nothing is said of the others' rows."""
    documents = some(3, [3, 8, 5, 4, 7] * 8)
    others = [*documents[1:30], *some(4, [5, 9])]
    found = compared(write(tmp_path / "a", documents), write(tmp_path / "b", others))

    assert claims_nothing(found)
    assert "of B's 31 passages 29 are bit for bit among A's 40, 29 of them" in text(found).replace("Of", "of")
    assert "not compared" in rows(found)["ivf"].facts["ivf_note"]
    more = align(IndexDirectory(tmp_path / "a"), IndexDirectory(write(tmp_path / "d", [*documents, *some(4, [5])])))
    assert more is not None
    assert more.to_a is not None
    assert [*range(40), -1] == more.to_a.tolist()
    none = compared(tmp_path / "a", write(tmp_path / "c", some(6, [4] * 40)))
    assert claims_nothing(none)
    assert "None of B's 40 passages is bit for bit among A's 40." in text(none)


def test_one_order_in_other_chunks(tmp_path: Path) -> None:
    """The same index cut at other passages is not one that moved."""
    documents = some(7, [5] * 40)
    found = compared(write(tmp_path / "a", documents, chunk=20), write(tmp_path / "b", documents, chunk=10))

    assert claims_nothing(found)
    assert {0} == {one.facts["passages_reordered"] for one in rows(found).values()}
    assert "the same 40 passages in one order, cut into other chunks" in text(found)


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that may open a hundred files more than it has open, and does not ask for more."""
    monkeypatch.setattr(files, "_allow_many_files", lambda: None)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100 + len(list(Path("/proc/self/fd").iterdir())), usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def test_more_chunks_than_files_may_be_open_is_no_answer(tmp_path: Path, few_files: None) -> None:
    """What cannot be opened beside all others was taken for unreadable before, and rows for those that line up."""
    documents = some(7, [5] * 40)
    a, b = write(tmp_path / "a", documents, chunk=1), write(tmp_path / "b", documents[::-1], chunk=1)
    with pytest.raises(InfrastructureError, match="ulimit -n"):
        compared(a, b)
    files_allowed()
    assert claims_nothing(compared(a, b))


def test_a_permutation_of_centroids_is_undone_first(tmp_path: Path) -> None:
    """Passages and centroids, both in another order."""
    documents = some(8, [3, 8, 5, 4, 7] * 8)
    order = np.random.default_rng(6).permutation(K)
    renamed = np.argsort(order).astype(np.int32)
    shuffled = [(renamed[codes], buckets) for codes, buckets in reversed(documents)]
    a, b = write(tmp_path / "a", documents), write(tmp_path / "b", shuffled)
    write_pt(b / "centroids.pt", IndexDirectory(a).load("centroids").data[order])
    found = compared(a, b)

    assert 40 == rows(found)["doclens"].facts["passages_matched"]
    assert 0 == rows(found)["ivf"].facts["ivf_lists_n_mismatch"]


def test_what_changed_in_its_place_is_compared_as_ever(tmp_path: Path) -> None:
    """A code that moved in an index of the same passages: no word of passages."""
    documents = some(9, [5] * 40)
    changed = [(codes.copy(), buckets) for codes, buckets in documents]
    for codes, _ in changed:
        codes[0] ^= 1
    found = compared(write(tmp_path / "a", documents), write(tmp_path / "b", changed))

    assert 20 == rows(found)["0.codes"].facts["codes_n_moved"]
    assert not any("passages_n" in one.facts for one in rows(found).values())
    assert () == found.notes


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
def test_matching_is_that_of_a_multiset(tmp_path: Path, block: int) -> None:
    """Repeated, empty and nearly equal passages: as many match as in a dictionary, each once, each truly equal."""
    rng = np.random.default_rng(block)
    pool = some(10, [0, 1, 1, 2, 2, 5, 9])
    pool += [(codes[::-1].copy(), buckets[::-1].copy()) for codes, buckets in pool]  # the same tokens, otherwise
    left, right = ([pool[k] for k in rng.integers(0, len(pool), 30)] for _ in range(2))
    a, b = (IndexDirectory(write(tmp_path / name, side, 11)) for name, side in (("a", left), ("b", right)))
    found = align(a, b, block=block)
    key = [[(codes.tobytes(), buckets.tobytes()) for codes, buckets in side] for side in (left, right)]

    assert found is not None
    assert found.to_a is not None
    pairs = [(int(i), j) for j, i in enumerate(found.to_a) if i >= 0]
    assert sum((Counter(key[0]) & Counter(key[1])).values()) == len(pairs) == len({i for i, _ in pairs})
    assert all(key[0][i] == key[1][j] for i, j in pairs)


@pytest.mark.parametrize("doclens", [[2**62] * 4 + [100], [2**63 - 1], [1], [], "no list"])
def test_lengths_that_are_not_the_rows(tmp_path: Path, doclens: object) -> None:
    """Whatever they claim, nothing is read out of bounds, nothing is claimed, and the comparison goes on."""
    documents = some(11, [5] * 20)
    a = write(tmp_path / "a", documents)
    b = write(tmp_path / "b", documents[::-1])
    (b / "doclens.0.json").write_text(json.dumps(doclens))
    found = compared(a, b)

    assert {"0.codes", "0.residuals", "doclens"} <= set(rows(found))
    if isinstance(doclens, list):
        assert claims_nothing(found)
        assert "do not line up" in found.notes[0]


def matched_one_by_one(a: Sequence[Passage], b: Sequence[Passage]) -> tuple[list[int], list[int]]:
    """A's number of each of B's passages, as `align` says it, without digests: bit for bit, then by codes alone."""
    keys = [[(codes.tobytes(), buckets.tobytes()) for codes, buckets in side] for side in (a, b)]
    in_place = [one[0].size for one in a] == [one[0].size for one in b]
    to_a, found = [-1] * len(b), []
    for much in (2, 1):
        free = [number for number in range(len(a)) if number not in to_a]
        for number in list(free) if in_place else []:
            if to_a[number] < 0 and keys[0][number][:much] == keys[1][number][:much]:
                to_a[number] = number
                free.remove(number)
        for number in range(len(b)):
            same = [other for other in free if keys[0][other][:much] == keys[1][number][:much]]
            if to_a[number] < 0 and same:
                to_a[number] = same[0]
                free.remove(same[0])
        found.append(list(to_a))
    return found[0], found[1]


@pytest.mark.parametrize("seed", range(12))
def test_passages_are_matched_as_they_are_one_by_one(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few kinds of passages, so that equal ones are at many places, in place or not; few tokens at a time."""
    rng = np.random.default_rng(seed)
    kinds = some(seed, [[3] * 4, [3, 3, 3, 5], [20] * 4, [20, 20, 20, 5]][seed % 4])
    kinds += [(one[0].copy(), one[1]) for one in kinds]  # the same but for one code
    for codes, _ in kinds[4:]:
        codes[rng.integers(0, codes.size)] ^= 1
    kinds += [(kinds[0][0], kinds[1][1]), (kinds[2][0], kinds[0][1])]  # the codes of one and the buckets of another
    a = [kinds[number] for number in rng.integers(0, len(kinds), 30)]
    b = list(a)
    for place in rng.integers(0, len(a), int(rng.integers(1, 12))):
        b[place] = kinds[int(rng.integers(0, len(kinds)))]
    left, right = write(tmp_path / "a", a, chunk=7), write(tmp_path / "b", b, chunk=7)

    for block in (1, 10, 1 << 16):
        monkeypatch.setattr(passages, "_SHARE", block)
        found = align(IndexDirectory(left), IndexDirectory(right), block=block)
        assert found is not None
        assert found.to_a is not None
        assert found.likely is not None
        assert (found.to_a.tolist(), found.likely.tolist()) == matched_one_by_one(a, b)


def test_passages_without_tokens_are_passages(tmp_path: Path) -> None:
    documents = some(4, [0, 3, 0, 0, 5, 0])
    left, right = write(tmp_path / "a", documents), write(tmp_path / "b", documents[::-1])

    found = align(IndexDirectory(left), IndexDirectory(right), block=1)

    assert found is not None
    assert found.to_a is not None
    assert matched_one_by_one(documents, documents[::-1])[0] == found.to_a.tolist()

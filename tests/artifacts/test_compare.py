"""Whole comparisons: index directories of every kind, what their numbers mean, text, JSON and exit codes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts import meaning
from harness.artifacts.comparison import Comparison, compare_sources
from harness.artifacts.directory import IndexDirectory
from harness.artifacts.permutation import find_permutation
from harness.artifacts.source import Facts
from harness.errors import UsageError
from harness.files import dumps
from harness.report.comparison_text import text
from harness.report.readable import share, value
from harness.tensors.dtypes import DTYPES, decode
from harness.tensors.profiles import BUILTIN, Profile
from harness.tensors.tensor import Tensor
from tests.support.command import run
from tests.support.pt_files import pack, rebuild, write_archive, write_index, write_ivf, write_pt


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal indexes, to be changed by the test."""
    for name in "ab":
        write_index(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def compare(a: Path, b: Path, **options: Any) -> Comparison:
    return compare_sources(IndexDirectory(a), IndexDirectory(b), **options)


def row(comparison: Comparison, name: str) -> Any:
    return next(one for one in comparison.artifacts if one.name == name)


def statuses(comparison: Comparison) -> dict[str, str]:
    return {one.name: one.status for one in comparison.artifacts if one.status != "bit_equal"}


def test_equal_indexes(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Every tensor is bit-equal, the paths in metadata.json do not count, and the exit code is 0."""
    code, out, _ = run(capsys, "compare", *pair)

    assert code == 0
    assert out.startswith("a and b are bit for bit the same in all 10 tensors of the index.")
    assert {"metadata": "value_equal"} == statuses(compare(*pair))


def test_contract_of_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the contract's names; infinite numbers are valid JSON."""
    write_pt(pair[0] / "avg_residual.pt", np.array(1.0, np.float32))
    write_pt(pair[1] / "avg_residual.pt", np.array(0.0, np.float32))
    code, out, _ = run(capsys, "compare", *pair, "--json")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    assert code == 1
    assert ("a", "b") == (found["a"], found["b"])
    assert {"shapes": [10, 10], "default": [9, 10], "bnb": [9, 10], "bit_equal": [9, 10]} == found["summary"]
    one = next(one for one in found["artifacts"] if one["name"] == "avg_residual")
    wanted = "name status dtype_a dtype_b shape_a shape_b bit_equal default bnb n n_mismatch max_abs max_rel max_ulp"
    assert set(wanted.split()) <= set(one)
    assert ("different", False, False, 1, 1.0, float("inf")) == (
        one["status"], one["default"], one["bnb"], one["n_mismatch"], one["max_abs"], one["max_rel"],
    )  # fmt: skip
    assert dumps({"x": [float("nan"), -float("inf"), "1e999"]}) == '{"x": [null, -1e999, "1e999"]}'


def test_one_ulp_is_close_under_bnb_only(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The chosen profile decides the status and the exit code."""
    centroids = IndexDirectory(pair[0]).load("centroids").data.copy()
    centroids[3, 4] = np.nextafter(centroids[3, 4], np.float16(1))
    write_pt(pair[1] / "centroids.pt", centroids)

    assert run(capsys, "compare", *pair)[0] == 1
    code, out, _ = run(capsys, "compare", *pair, "--profile", "bnb")
    assert code == 0
    assert "Mismatched elements: 1 / 512 (0.2 %)" in out
    assert "at [3, 4]" in out
    assert row(compare(*pair, chosen="bnb"), "centroids").status == "close"


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_residuals_are_unpacked(tmp_path: Path, nbits: int) -> None:
    """Changed bucket numbers are counted one by one, by how far they moved, in colbert-ai's bit order."""
    arrays = write_index(tmp_path / "a", nbits=nbits)
    write_index(tmp_path / "b", nbits=nbits)
    buckets = arrays["0.buckets"].copy()
    buckets[0, 0:4] = (buckets[0, 0:4] + 1) % 2**nbits
    buckets[5, 7] = 2**nbits - 1 - buckets[5, 7]
    write_pt(tmp_path / "b" / "0.residuals.pt", pack(buckets, nbits))
    facts = row(compare(tmp_path / "a", tmp_path / "b"), "0.residuals").facts
    steps = np.abs(buckets - arrays["0.buckets"])

    assert (buckets.size, int((steps > 0).sum()), int(steps.max())) == (
        facts["buckets_n"], facts["buckets_n_mismatch"], facts["buckets_max_step"],
    )  # fmt: skip
    expected = {str(step): int((steps == step).sum()) for step in np.unique(steps) if step}
    assert expected == facts["buckets_steps"]


def test_unpacking_undoes_packing() -> None:
    """Every byte of every width decodes to what was packed."""
    for nbits in (1, 2, 4, 8):
        numbers = np.random.default_rng(0).integers(0, 2**nbits, (50, 32))
        table = meaning.unpack_table(nbits)
        np.testing.assert_array_equal(numbers, table[pack(numbers, nbits)].reshape(50, 32))


class Memory:
    """A source from a dictionary of arrays."""

    def __init__(self, name: str, arrays: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self.name, self.arrays, self._metadata = name, arrays, metadata or {}

    def names(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def load(self, name: str) -> Tensor:
        return Tensor.of(np.asarray(self.arrays[name]))

    def digest(self, name: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def metadata(self) -> dict[str, Any]:
        return self._metadata


def unit(rng: np.random.Generator, *shape: int) -> Any:
    rows = rng.standard_normal(shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_near_ties_are_told_from_real_moves() -> None:
    """Two embeddings half-way between two centroids are near-ties; one beside its centroid that moved is not."""
    rng = np.random.default_rng(0)
    centroids = unit(rng, 4, 32)
    tie = centroids[0] + centroids[1]
    embs = np.stack([tie, tie, centroids[2], centroids[3]])
    embs = (embs / np.linalg.norm(embs, axis=1, keepdims=True)).astype(np.float16)
    base = {"centroids": centroids.astype(np.float16), "embs_0": embs}
    a = Memory("a", base | {"0.codes": np.array([0, 1, 2, 3], np.int32)})
    b = Memory("b", base | {"0.codes": np.array([1, 0, 0, 3], np.int32)})
    facts = row(compare_sources(a, b), "0.codes").facts

    assert ("embeddings", 3, 2, 1) == (
        facts["codes_margin_source"], facts["codes_n_moved"], facts["codes_near_ties"], facts["codes_real_moves"],
    )  # fmt: skip
    assert facts["codes_margin_max"] > 0.5


def test_margins_without_embeddings_say_so(pair: tuple[Path, Path]) -> None:
    """A directory has no embeddings, so they are rebuilt from centroid and residual, and the report says that."""
    codes = IndexDirectory(pair[0]).load("0.codes").data.copy()
    codes[0] = (codes[0] + 1) % 16
    write_pt(pair[1] / "0.codes.pt", codes)
    facts = row(compare(*pair), "0.codes").facts

    assert ("reconstructed", 1) == (facts["codes_margin_source"], facts["codes_judged"])
    assert "bucket width" in facts["codes_near_tie_rule"]


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_permuted_centroids(tmp_path: Path, noise: float) -> None:
    """A permutation, exact or with small changes, is reported as one and undone in codes and inverted lists."""
    rng = np.random.default_rng(1)
    order = rng.permutation(16)
    name_in_b = np.argsort(order)
    arrays = write_index(tmp_path / "a")
    write_index(tmp_path / "b")
    shuffled = (arrays["centroids"][order] + rng.standard_normal((16, 32)) * noise).astype(np.float16)
    write_pt(tmp_path / "b" / "centroids.pt", shuffled)
    for chunk in (0, 1):
        write_pt(tmp_path / "b" / f"{chunk}.codes.pt", name_in_b[arrays[f"{chunk}.codes"]].astype(np.int32))
    write_ivf(tmp_path / "b", {int(name_in_b[c]): pids for c, pids in arrays["lists"].items()}, 16)
    found = compare(tmp_path / "a", tmp_path / "b")

    centroids = row(found, "centroids").facts
    assert (int((order != np.arange(16)).sum()), noise == 0) == (
        centroids["permutation_moved"], centroids["permutation_exact"],
    )  # fmt: skip
    assert (centroids["unpermuted_n_mismatch"] == 0) == (noise == 0)
    assert row(found, "0.codes").facts["codes_n_mismatch_unpermuted"] == 0
    assert row(found, "ivf").facts["ivf_lists_n_mismatch"] == 0
    assert "permuted" in text(found)


def test_changed_centroids_are_no_permutation() -> None:
    """Small changes in place, and unrelated rows, are not called a permutation."""
    rng = np.random.default_rng(2)
    a = unit(rng, 8, 16).astype(np.float16)
    near = (a + 1e-3 * rng.standard_normal(a.shape)).astype(np.float16)
    for b in (near, unit(rng, 8, 16).astype(np.float16), a.copy()):
        assert find_permutation(Tensor.of(a), Tensor.of(b)) is None


def test_inverted_lists_of_different_length(pair: tuple[Path, Path]) -> None:
    """An ivf of another length is a shape mismatch, and its lists are still compared as sets, padding left out."""
    arrays = write_index(pair[0])
    lists = {c: set(pids) for c, pids in arrays["lists"].items()}
    gone = min(lists[3])
    lists[3].discard(gone)
    lists[5] |= {900, 901}
    write_ivf(pair[1], lists, 16, padding=3)
    one = row(compare(*pair), "ivf")

    assert one.status == "shape_mismatch"
    assert (2, 1, 2, 3) == (
        one.facts["ivf_lists_n_mismatch"], one.facts["ivf_entries_only_a"], one.facts["ivf_entries_only_b"],
        one.facts["ivf_padding_b"],
    )  # fmt: skip


def test_bad_lengths_do_not_end_the_comparison(pair: tuple[Path, Path]) -> None:
    """Lengths that do not add up are said to, and nothing is read out of bounds."""
    write_pt(pair[1] / "ivf.pid.pt", np.zeros(3, np.int32), np.full(16, 2**40, np.int64))

    assert "do not add up" in row(compare(*pair), "ivf").facts["ivf_note"]


def test_bad_input_is_a_row(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Truncated, hostile, missing and foreign files each get their row, and the rest goes on; the exit code is 2."""
    a, b = pair
    raw = (b / "centroids.pt").read_bytes()
    (b / "centroids.pt").write_bytes(raw[: len(raw) // 2])
    write_archive(b / "avg_residual.pt", b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00lstR.", {})
    (b / "1.codes.pt").unlink()
    (a / "1.residuals.pt").unlink()
    (b / "buckets.pt").write_text("no tensor")
    (b / "doclens.0.json").write_text('{"not": "a list"}')
    code, out, _ = run(capsys, "compare", a, b, "--json")
    found = {one["name"]: one for one in json.loads(out)["artifacts"]}

    assert code == 2
    expected = {"centroids": "unreadable", "avg_residual": "unreadable", "1.codes": "missing_b"}
    expected |= {"1.residuals": "missing_a", "bucket_cutoffs": "unreadable", "doclens": "unreadable"}
    assert expected == {name: found[name]["status"] for name in expected}
    assert "posix.system" in found["avg_residual"]["reason"]
    assert found["0.residuals"]["status"] == "bit_equal"
    assert "UNREADABLE" in run(capsys, "compare", a, b)[1]


def test_damaged_metadata_is_a_row(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A metadata.json that is there and cannot be read is not passed over for plan.json."""
    (pair[1] / "metadata.json").write_text("{")
    code, out, _ = run(capsys, "compare", *pair)

    assert code == 2
    assert out.startswith("1 artifact could not be read: metadata. What can be read of a and b is bit for bit the same")
    assert "metadata.json is not valid JSON" in out
    assert run(capsys, "ladder", *pair)[0] == 2


def test_a_dtype_that_nobody_knows(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A storage of torch's that has no place here is named, and the rest is compared."""
    tensor = rebuild("0", "QInt8Storage", 4, (4,), (1,))
    write_archive(pair[1] / "centroids.pt", b"\x80\x02" + tensor + b".", {"0": b"1234"})
    code, out, _ = run(capsys, "compare", *pair)

    assert code == 2
    assert "names torch.QInt8Storage, which is no dtype" in out
    assert out.startswith(
        "1 artifact could not be read: centroids. What can be read of a and b is bit for bit the same in 9"
    )


def test_different_nbits_and_dim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Indexes made with other settings are compared as far as that goes, and the settings are named."""
    write_index(tmp_path / "a", nbits=2, dim=32)
    write_index(tmp_path / "b", nbits=4, dim=64)
    code, out, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b")

    assert code == 1
    assert "different nbits: 2 against 4" in out
    assert "different dim: 32 against 64" in out
    assert statuses(compare(tmp_path / "a", tmp_path / "b"))["0.residuals"] == "shape_mismatch"


def rewrite(folder: Path, *, config: dict[str, Any] | None = None, **changes: Any) -> None:
    """Change what metadata.json says."""
    record = json.loads((folder / "metadata.json").read_text())
    record |= {**changes, "config": record["config"] | (config or {})}
    (folder / "metadata.json").write_text(json.dumps(record))


def test_tensors_are_believed_against_the_settings(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The settings may be those of whoever opened the index last; buckets are counted as they are packed."""
    residuals = IndexDirectory(pair[1]).load("0.residuals").data.copy()
    residuals[0, 0] ^= 0b1100_0000
    write_pt(pair[1] / "0.residuals.pt", residuals)
    true = row(compare(*pair), "0.residuals").facts
    assert (2, 1) == (true["nbits"], true["buckets_n_mismatch"])
    assert () == compare(*pair).notes

    rewrite(pair[0], config={"nbits": 4, "dim": 128}, num_partitions=8)
    rewrite(pair[1], config={"nbits": 4}, num_chunks=1)
    found = compare(*pair)
    assert true == row(found, "0.residuals").facts
    assert "A says nbits = 4 in metadata.json, and its tensors say 2; they are believed." == found.notes[0]
    for letter, name, told, real in (("A", "dim", 128, 32), ("A", "num_partitions", 8, 16), ("B", "num_chunks", 1, 2)):
        assert f"{letter} says {name} = {told} in metadata.json, and its tensors say {real}" in " ".join(found.notes)

    rewrite(pair[1], config={"nbits": 2}, num_chunks=2, num_embeddings=7)
    assert "B says num_embeddings = 7 in metadata.json" in run(capsys, "compare", *pair)[1]


def test_buckets_that_contradict_each_other_are_not_counted(pair: tuple[Path, Path]) -> None:
    """Four weights and rows of four bits a dimension: nobody knows what the bytes are."""
    write_pt(pair[0] / "0.residuals.pt", np.zeros((5, 16), np.uint8))
    write_pt(pair[1] / "0.residuals.pt", np.ones((5, 16), np.uint8))
    found = compare(*pair)

    assert "buckets_n" not in row(found, "0.residuals").facts
    assert "A has bucket_weights for 2 bits a dimension and residuals packed at 4" in found.notes[0]


def test_an_index_of_no_passages(tmp_path: Path) -> None:
    """Empty tensors are equal to empty tensors."""
    for name in "ab":
        write_index(tmp_path / name, chunks=1, passages=0)

    assert {"metadata": "value_equal"} == statuses(compare(tmp_path / "a", tmp_path / "b"))


def test_dtype_mismatch_and_nan(pair: tuple[Path, Path]) -> None:
    """float16 against float32 is a row; a NaN is counted and hides nothing."""
    a, b = pair
    centroids = IndexDirectory(a).load("centroids").data
    write_pt(b / "centroids.pt", centroids.astype(np.float32))
    write_pt(b / "avg_residual.pt", np.array(np.nan, np.float32))
    found = compare(a, b)

    assert row(found, "centroids").status == "dtype_mismatch"
    assert row(found, "centroids").close("default") is False
    assert row(found, "avg_residual").metrics.nan_b == 1
    assert "NaN 0 in A and 1 in B" in text(found)


def test_equal_digests_are_not_loaded() -> None:
    """A source that knows its digests is believed; a NaN that was counted makes torch's verdict no."""

    class Known(Memory):
        def __init__(self, nans: int) -> None:
            super().__init__("known", {"centroids": None})
            self.nans = nans

        def facts(self, name: str) -> Facts:  # noqa: ARG002 - the protocol's
            return Facts("d" * 64, "float16", (4, 8), self.nans)

        def digest(self, name: str) -> str:  # noqa: ARG002 - the protocol's
            return "d" * 64

        def load(self, name: str) -> Tensor:  # noqa: ARG002 - the protocol's
            pytest.fail("loaded")

    start = time.process_time()
    found = compare_sources(Known(0), Known(0))
    seconds = time.process_time() - start

    assert (True, True) == (found.artifacts[0].bit_equal, found.artifacts[0].close("default"))
    assert compare_sources(Known(2), Known(2)).artifacts[0].close("default") is False
    assert seconds < 0.05


def test_any_number_of_profiles(pair: tuple[Path, Path]) -> None:
    """User profiles are judged in the same pass and reported by name."""
    write_pt(pair[1] / "avg_residual.pt", np.array(0.0301, np.float32))
    profiles = [*BUILTIN, Profile("loose", (1e-3, 0.0)), Profile("tight", (0.0, 0.0))]
    one = row(compare(*pair, profiles=profiles), "avg_residual")

    assert {"default": False, "bnb": False, "loose": True, "tight": False} == {
        k: v.close for k, v in one.profiles.items()
    }


def test_old_inverted_lists_file(pair: tuple[Path, Path]) -> None:
    """An index with only ivf.pt, as old versions wrote it, has the same artifacts."""
    for folder in pair:
        (folder / "ivf.pid.pt").rename(folder / "ivf.pt")

    assert {"ivf", "ivf_lengths"} <= set(IndexDirectory(pair[0]).names())
    assert {"metadata": "value_equal"} == statuses(compare(*pair))


def test_changed_metadata_is_shown_and_cleaned(pair: tuple[Path, Path]) -> None:
    """A setting that differs is a difference of the metadata, without its control characters."""
    record = json.loads((pair[1] / "metadata.json").read_text())
    record["config"]["doc_maxlen"] = "3\x1b[31m00 [bold]"
    (pair[1] / "metadata.json").write_text(json.dumps(record))
    found = compare(*pair)

    assert row(found, "metadata").status == "different"
    assert "\x1b" not in text(found)
    assert "config.doc_maxlen" in text(found)
    assert found.divergent == ()


def test_names_and_paths_count_nowhere_in_the_metadata(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither deep inside, nor where who wraps colbert-ai repeats them under a key of his own; all else does."""
    for folder, home in zip(pair, ("/home/a", "~b"), strict=True):
        record = json.loads((folder / "metadata.json").read_text())
        wrapper = {"index_config": {"index_name": f"docs-{folder.name}", "kind": "PLAID"}, "title": folder.name}
        record |= {"wrapper": wrapper, "files": [{"where": f"{home}/x"}], "config": record["config"] | {"root": home}}
        (folder / "metadata.json").write_text(json.dumps(record))
    found = row(compare(*pair), "metadata")
    ladder = json.loads(run(capsys, "ladder", *pair, "--json")[1])

    assert "value_equal" == found.status
    assert {"wrapper.index_config.index_name", "wrapper.title", "files.0.where"} < set(found.facts["metadata_run_only"])
    assert [["a", "b"]] == ladder["classes"]["metadata"]

    record["wrapper"]["index_config"]["kind"] = "HNSW"
    (folder / "metadata.json").write_text(json.dumps(record))
    assert {"wrapper.index_config.kind": ["PLAID", "HNSW"]} == row(compare(*pair), "metadata").facts["metadata_changes"]


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder, a missing item and an unknown profile end in one sentence and exit code 2."""
    write_index(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for arguments in (
        (tmp_path / "a", tmp_path / "empty"),
        (tmp_path / "a", "0.0.0"),
        (tmp_path / "a", tmp_path / "a", "--profile", "x"),
    ):
        code, _, err = run(capsys, "compare", *arguments)
        assert code == 2
        assert err.startswith("harness: ")
        assert "Traceback" not in err
    with pytest.raises(UsageError, match="not a directory"):
        IndexDirectory(tmp_path / "missing")


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [
        (0, 10, "0 %"), (10, 10, "100 %"), (1, 3, "33.3 %"), (1, 10_000, "0.01 %"), (1, 10**7, "0.00001 %"),
        (999_999, 10**6, "99.9999 %"), (1, 10**12, "1.0e-10 %"), (0, 0, "0 %"),
    ],
)  # fmt: skip
def test_shares_are_never_rounded_to_nothing(count: int, total: int, expected: str) -> None:
    """A count above zero is never printed as 0.0 %, nor one below all as 100 %."""
    shown = share(count, total)

    assert float(shown.split()[0].replace("all", "1")) != 0 or count == 0
    assert expected.rstrip("0 %").startswith(shown.rstrip("0 %")[:4]) or expected == shown


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_neighbouring_values_are_shown_apart(dtype: str) -> None:
    """Two numbers that differ are never printed alike, and what is printed reads back as the number."""
    width = DTYPES[dtype].itemsize
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << (8 * width - 2), 4000).astype(f"<u{width}")
    near = [decode((bits + np.array(step, bits.dtype)).view(DTYPES[dtype].storage), dtype) for step in (0, 1)]
    for one, other in zip(*near, strict=True):
        assert value(float(one), dtype) != value(float(other), dtype)
    kind = np.float32 if dtype == "bfloat16" else np.dtype(dtype).type
    read = np.array([kind(value(float(one), dtype)) for one in near[0]])
    close = np.abs(read.astype(np.float64) - near[0])

    assert (2 * close < np.abs(near[1] - near[0])).all()


def test_starting_is_quick_and_imports_little(pair: tuple[Path, Path]) -> None:
    """A comparison of two small indexes imports neither torch nor numba nor pydantic nor pandas, and ends soon."""
    program = (
        "import sys; from harness.cli import main\n"
        "try:\n main(['compare', *sys.argv[1:]])\n"
        "finally:\n print(sorted({'torch', 'numba', 'pydantic', 'pandas', 'pyarrow', 'rich'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, pair)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    # What it computes, not what it waits for where others are at work; 1.5 seconds on a quiet machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10

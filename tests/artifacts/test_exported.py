"""A stored index as a folder of colbert-ai's: the same bits, in files that torch loads, each time the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness import cli
from harness.artifacts.directory import IndexDirectory, index_tensors
from harness.artifacts.exported import export_index
from harness.artifacts.index_job import INDEX
from harness.errors import UsageError
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.tensors.dtypes import DTYPES
from harness.tensors.tensor import Tensor
from harness.tensors.torchfile import read_pt
from harness.tensors.torchwrite import write_pt
from tests.support.cell_specs import cell, spec
from tests.support.small_index import index_arrays, write_index
from tests.support.torch_oracle import LoadOracle


@pytest.fixture
def stored(tmp_path: Path) -> StoredCell:
    """An index as colbert-ai wrote it, in the store."""
    index = write_index(tmp_path / "made", index_arrays(seed=3))
    store = Store(tmp_path / "home" / "store")
    artifacts = store.ingest(INDEX, index_tensors(index), tmp_path / "none", "full")
    return StoredCell(store, store.put(cell(spec("2.8.0"), artifacts=artifacts), index=index))


def test_what_is_exported_is_what_was_stored_and_what_colbert_wrote(tmp_path, stored):
    files = export_index(stored, tmp_path / "out")
    made, out = IndexDirectory(tmp_path / "made"), IndexDirectory(tmp_path / "out")

    assert {path.name for path in (tmp_path / "out").iterdir()} == set(files)
    assert set(files) == {path.name for path in (tmp_path / "made").iterdir()}
    assert out.names() == made.names()
    for name in made.names():
        if name != "metadata":
            assert out.load(name).digest() == made.load(name).digest()
            assert name not in stored.cell.artifacts or out.load(name).digest() == stored.digest(name)


def test_an_export_is_the_same_bytes_each_time(tmp_path, stored):
    for name in "ab":
        export_index(stored, tmp_path / name)

    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_index_that_is_not_whole_is_refused_before_anything_is_written(tmp_path):
    index = write_index(tmp_path / "made")
    (index / "buckets.pt").unlink()

    with pytest.raises(UsageError, match=r"made is no whole index of colbert-ai: it has no bucket"):
        export_index(IndexDirectory(index), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tensor(dtype: str, shape: tuple[int, ...]) -> Tensor:
    bits = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, shape)
    return Tensor.of(bits.astype(DTYPES[dtype].storage), dtype)


SHAPES = ((), (3,), (2, 3), (0, 4), (2, 1, 3))
WRITTEN = (
    "float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip


@pytest.mark.parametrize("dtype", WRITTEN)
def test_what_is_written_is_read_again_bit_for_bit(tmp_path, dtype):
    for shape in SHAPES:
        one = tensor(dtype, shape)
        write_pt(tmp_path / "one.pt", [one])
        write_pt(tmp_path / "two.pt", [one, one])
        read, pair = read_pt(tmp_path / "one.pt"), read_pt(tmp_path / "two.pt")

        assert isinstance(read, Tensor)
        assert isinstance(pair, tuple)
        assert {found.digest() for found in (read, *pair)} == {one.digest()}


def test_torch_loads_what_is_written_carefully_and_freely(tmp_path, torch_interpreter):
    oracle = LoadOracle(torch_interpreter)
    for dtype in WRITTEN:
        for shape in SHAPES:
            write_pt(tmp_path / "x.pt", [tensor(dtype, shape), tensor(dtype, shape)])
            careful, _ = oracle.load(tmp_path / "x.pt")
            assert isinstance(careful, list), careful
            assert oracle.holds(tmp_path / "x.pt") == (True, True)
    oracle.close()


def test_the_command_names_what_it_cannot_export(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path / "made")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, said in (
        (["made", "out"], "made is a folder of an index already"),
        (["made", "full"], "full is not empty"),
        (["2.8.0", "out"], "neither a ColBERT index directory nor a stored cell"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["export", *arguments, "--home", str(tmp_path / "home")])
        error = capsys.readouterr().err
        assert caught.value.code == 2
        assert said in error, error

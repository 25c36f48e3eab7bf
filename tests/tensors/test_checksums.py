"""A file's checksum, taken on the way or at the end: damage is found wherever it is, and nothing else is damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import UnreadableTensor
from harness.tensors.metrics import measure
from harness.tensors.tensor import Tensor
from harness.tensors.torchfile import read_pt
from tests.support.small_index import write_pt

BYTES = np.random.default_rng(5).integers(0, 256, 10_000, dtype=np.uint8)


def read(path: Path, damaged: int | None = None) -> Tensor:
    """A file of these bytes, of which one may be another."""
    write_pt(path, BYTES)
    raw = bytearray(path.read_bytes())
    if damaged is not None:
        raw[raw.index(BYTES.tobytes()) + damaged] ^= 4
        path.write_bytes(raw)
    found = read_pt(path)
    assert isinstance(found, Tensor)
    return found


STEPS = {
    "in order": [(0, 4000), (4000, 4000), (8000, 2000)],
    "some of it": [(0, 4000)],
    "from the middle on": [(4000, 4000), (8000, 2000)],
    "with a gap": [(0, 2000), (4000, 4000)],
    "one twice": [(0, 4000), (0, 4000), (4000, 6000)],
    "nothing": [],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("damaged", [None, 0, 3999, 4000, 9999])
def test_whatever_was_taken_on_the_way(tmp_path: Path, steps: list[tuple[int, int]], damaged: int | None) -> None:
    tensor = read(tmp_path / "a.pt", damaged)
    assert tensor.check is not None
    for start, size in steps:
        tensor.check.take(tensor.flat[start : start + size])
    for _ in range(2):  # whoever asks again is told the same
        if damaged is None:
            tensor.verify()
        else:
            with pytest.raises(UnreadableTensor, match="damaged"):
                tensor.verify()


def test_bytes_of_another_place_are_not_taken_for_those_of_the_file(tmp_path: Path) -> None:
    tensor = read(tmp_path / "a.pt")
    assert tensor.check is not None
    for other in (BYTES[::-1].copy(), tensor.flat.copy(), np.zeros(20_000, np.uint8)):
        tensor.check.take(other)
    tensor.verify()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("damaged", [5, 9999])
def test_bytes_are_taken_where_they_are_compared(tmp_path: Path, side: int, damaged: int) -> None:
    """What `measure` looked at is what the checksum is of."""
    pair = [read(tmp_path / "a.pt"), read(tmp_path / "b.pt")]
    pair[side] = read(tmp_path / "c.pt", damaged)
    assert measure(pair[0], pair[1]).n_mismatch == 1
    pair[1 - side].verify()
    with pytest.raises(UnreadableTensor, match="damaged"):
        pair[side].verify()

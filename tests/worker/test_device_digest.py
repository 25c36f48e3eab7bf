"""The digest that the training job takes of tensors on their device: equal to its formula, and blind to nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.digest_oracle import ROW, Bits, DigestOracle, expected

SIZES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "uint8": 1, "bool": 1,
    "complex64": 8,
}  # fmt: skip
SHAPES = [(), (0,), (3, 0), (1,), (5,), (7, 3), (2, 3, 5), (300,), (40_000,)]


@pytest.fixture(scope="module")
def oracle(torch_interpreter: Path) -> Iterator[DigestOracle]:
    asked = DigestOracle(torch_interpreter)
    yield asked
    asked.close()


def some(dtype: str, shape: tuple[int, ...], seed: int = 0, lies: str = "") -> Bits:
    rng = random.Random(f"{dtype} {shape} {seed}")
    raw = rng.randbytes(int(np.prod(shape)) * SIZES[dtype])
    return Bits(dtype, shape, bytes(byte & 1 for byte in raw) if dtype == "bool" else raw, lies)


@pytest.mark.parametrize("dtype", SIZES)
def test_it_is_the_formula_whatever_the_dtype_and_shape_and_whoever_stands_beside(oracle, dtype):
    tensors = [some(dtype, shape) for shape in SHAPES]
    wanted = [expected(one) for one in tensors]

    assert oracle.of(tensors) == wanted
    assert oracle.of(tensors[::-1]) == wanted[::-1]
    assert [oracle.of([one])[0] for one in tensors] == wanted


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "float64"])
@pytest.mark.parametrize(
    ("lies", "shape"), [("transposed", (9, 5)), ("every second", (4, 7)), ("behind another", (13, 1))]
)
def test_how_a_tensor_lies_in_memory_does_not_matter(oracle, dtype, lies, shape):
    plain = some(dtype, shape)

    assert oracle.of([replace(plain, lies=lies)]) == [expected(plain)]
    # Beside one of another dtype, both are copied as bytes.
    other = some("int64", (3,))
    assert oracle.of([replace(plain, lies=lies), other]) == [expected(plain), expected(other)]


def test_nothing_is_zero_and_takes_no_part(oracle):
    a, b = some("float32", (6,)), some("float32", (7,))

    assert oracle.of([None, a, None, b]) == [[0, 0], expected(a), [0, 0], expected(b)]
    assert oracle.of([None, None]) == [[0, 0], [0, 0]]
    assert oracle.of([]) == []


@pytest.mark.parametrize("count", [2 * ROW - 1, 2 * ROW, 2 * ROW + 1, 2**16, 2**16 + 1, 2**18 + 5])
def test_tensors_of_several_rows_and_more_than_are_worked_on_at_once(oracle, count):
    """Two numbers are a word, and 2**15 words are worked on at once on a CPU."""
    assert oracle.of_count(count) == expected(Bits("int32", (count,), np.arange(count, dtype=np.int32).tobytes()))


def test_every_bit_matters(oracle):
    plain = some("float32", (33,))
    changed = []
    for bit in range(len(plain.raw) * 8):
        raw = bytearray(plain.raw)
        raw[bit // 8] ^= 1 << bit % 8
        changed.append(replace(plain, raw=bytes(raw)))

    found = oracle.of([plain, *changed])

    assert len({tuple(one) for one in found}) == len(found)
    # Each lane sees it by itself.
    assert len({one[0] for one in found}) == len({one[1] for one in found}) == len(found)


def test_order_and_signs_matter(oracle):
    """Any two elements change places, or signs: a sum of elements, or of their squares, would not see it."""
    values = np.arange(1, 21, dtype=np.float32)
    held = [values]
    for i in range(len(values)):
        for j in range(i):
            swapped, negated = values.copy(), values.copy()
            swapped[[i, j]] = swapped[[j, i]]
            negated[[i, j]] *= -1
            held += [swapped, negated]

    found = oracle.of([Bits("float32", values.shape, one.tobytes()) for one in held])

    assert len({one[0] for one in found}) == len({one[1] for one in found}) == len(held)


def test_rows_change_places_and_so_do_elements_of_two_rows(oracle):
    rows = np.arange(7 * 2 * ROW, dtype=np.float32).reshape(7, -1)
    held = [rows]
    for i in range(len(rows)):
        for j in range(i):
            swapped, exchanged = rows.copy(), rows.copy()
            swapped[[i, j]] = swapped[[j, i]]
            exchanged[[i, j], 5] = exchanged[[j, i], 5]
            held += [swapped, exchanged]

    found = oracle.of([Bits("float32", (rows.size,), one.tobytes()) for one in held])

    assert len({one[0] for one in found}) == len({one[1] for one in found}) == len(held)


def test_a_device_is_told_no_more_of_many_tensors_than_of_few(oracle):
    """Launches of kernels were most of what watching a training cost on a GPU."""
    elements = 1 << 13

    assert oracle.operations(64, elements // 64) == oracle.operations(2, elements // 2) > 0


def test_the_same_bytes_are_another_tensor_by_dtype_shape_and_length(oracle):
    raw = bytes(24)
    tensors = [
        Bits(dtype, shape, raw)
        for dtype, shape in [
            ("float32", (6,)), ("float32", (2, 3)), ("float32", (3, 2)), ("int32", (6,)), ("float16", (12,)),
            ("float64", (3,)), ("int64", (3,)),
        ]
    ]  # fmt: skip
    # Zeros are what fills up the last word.
    tensors += [Bits("uint8", (count,), bytes(count)) for count in range(20)]

    found = oracle.of(tensors)

    assert len({tuple(one) for one in found}) == len(tensors)


def test_zeros_have_signs_and_each_nan_is_another(oracle):
    words = np.array([[0, 0], [0x80000000, 0], [0x7FC00000, 0], [0x7FC00001, 0], [0xFFC00000, 0]], dtype=np.uint32)

    found = oracle.of([Bits("float32", (2,), one.tobytes()) for one in words])

    assert len({tuple(one) for one in found}) == len(words)

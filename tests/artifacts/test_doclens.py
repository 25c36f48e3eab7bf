"""Lists of lengths, which NumPy reads where it reads them as `json` does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.artifacts import directory

PARTS = ["1", "20", "0", ",", ", ", " ", "[", "]", "-", ".", "1e3", "\n", "true", str(2**63 - 1), str(2**63)]


def _read(raw: bytes, read: object) -> object:
    try:
        found = read(raw)  # type: ignore[operator]
    except ValueError:
        return "no JSON"
    return found.tolist() if isinstance(found, np.ndarray) else found


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.booleans())
@example("1, ,2", True)
@example("1 2,3", True)
@example("01,2", True)
@example("1,", True)
@example(f"1,{2**63 - 1}", True)
@example(f"1,{2**64}", True)
def test_what_numpy_reads_is_what_json_reads(text: str, bracketed: bool) -> None:
    raw = (f"[{text}]" if bracketed else text).encode()
    assert repr(_read(raw, directory._numbers)) == repr(_read(raw, json.loads))


@pytest.mark.parametrize("dump", [json.dumps, lambda values: json.dumps(values, separators=(",", ":"))])
def test_numpy_reads_what_json_and_ujson_write(dump: object) -> None:
    assert isinstance(directory._numbers(dump([20, 116, 7]).encode()), np.ndarray)  # type: ignore[operator]

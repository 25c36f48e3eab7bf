"""How an artifact differs, as `locate` and as `swap` say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.explain.difference import difference
from harness.report import location_text, swap_text
from harness.store.store import Store
from harness.tensors.tensor import Tensor

ONE = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("other", "stored", "located", "swapped"),
    [
        (None, True, "only in A", "on one side only"),
        (np.zeros(5, np.float32), True, "shape [4] against [5]", "differs in shape"),
        (np.zeros(4, np.float16), True, "float32 against float16", "differs"),
        (np.eye(4, dtype=np.float32)[3], False, "differs; only digests were kept", "differs"),
        (np.eye(4, dtype=np.float32)[3], True, "1 of 4 elements, at most 1 ", "1 of 4 elements, at most 1 "),
    ],
)
def test_a_difference_in_words(tmp_path: Path, other, stored, located, swapped):
    store = Store(tmp_path)
    a = store.keep_tensor(Tensor.of(ONE), "final", stored=stored)
    b = None if other is None else store.keep_tensor(Tensor.of(other), "final", stored=stored)

    found = difference(store, a, b)

    assert location_text.how(found).startswith(located)
    assert swap_text.how(found).startswith(swapped)

"""Repro scripts: short, of torch and NumPy only, and what they print is kept beside them."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "results" / "repro").glob("*/*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_kept_script_is_short_and_needs_only_torch_and_numpy(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for name in node.names
    }

    assert len(text.splitlines()) <= 40
    assert imported == {"os", "numpy", "torch"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_kept_script_has_its_data_and_showed_no_difference_in_a_and_one_in_b(script: Path) -> None:
    a, b = script.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[:2]
    with np.load(script.with_suffix(".npz"), allow_pickle=False) as data:
        assert "expected" in data

    assert ": 0 of " in a
    assert ": 0 of " not in b
    assert script.parent.name.split("-")[0] in a
    assert script.parent.name.split("-")[1] in b

"""The worker runs in the oldest Python that an environment may have: its grammar, and what its library has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from harness.environments.installed import OLDEST
from harness.home import package_folder

FILES = sorted((package_folder() / "worker").rglob("*.py"))
TOO_NEW = {"pairwise", "bit_count", "StrEnum", "ExceptionGroup", "batched", "Self", "ParamSpec", "TypeAlias", "UTC"}
"""Names of the standard library that Python 3.9 does not have."""


def too_new(tree: ast.AST) -> set[str]:
    """What a file uses at run time that Python 3.9 does not have."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & TOO_NEW
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            found |= {"zip(strict)" for one in node.keywords if one.arg == "strict"}
        if isinstance(node, ast.ImportFrom):
            found |= {one.name for one in node.names} & TOO_NEW
        if isinstance(node, ast.Call):
            # `isinstance(x, A | B)`, and any other union that is no annotation.
            found |= {"A | B as a type" for one in node.args if isinstance(one, ast.BinOp) and _is_union(one)}
    return found


def _is_union(node: ast.BinOp) -> bool:
    names = [side.id for side in (node.left, node.right) if isinstance(side, ast.Name)]
    return isinstance(node.op, ast.BitOr) and len(names) == 2 and all(name in {"int", "str", "float"} for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_of_the_worker_is_python_of_the_oldest_version(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)
    annotations = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)

    assert too_new(tree) == set()
    assert annotations or len(tree.body) <= 1


@pytest.mark.parametrize(
    "text",
    ["match x:\n    case 1: pass\n", "zip(a, b, strict=True)", "itertools.pairwise(a)", "isinstance(x, int | str)"],
)
def test_the_test_sees_what_is_too_new(text):
    with pytest.raises((SyntaxError, AssertionError)):
        assert too_new(ast.parse(text, feature_version=OLDEST)) == set()

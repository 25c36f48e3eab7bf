"""The worker runs in any of the environments, and the rest of the harness in none of them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "harness"
WORKER = sorted((PACKAGE / "worker").glob("**/*.py"))
REST = sorted(set(PACKAGE.glob("**/*.py")) - set(WORKER))
STACK = {"torch", "numpy", "colbert", "transformers", "tokenizers", "faiss", "safetensors", "tqdm", "huggingface_hub"}
"""What an environment holds beside the standard library."""
NEVER = {"torch", "colbert", "transformers", "tokenizers", "faiss", "safetensors"}
"""What the reducer's environment does not hold, and must not."""


def imports(path: Path, root: Path = PACKAGE) -> Iterator[str]:
    """Every module that a file of the package in `root` imports, inside functions and by a name in a string too."""
    package = ["harness", *path.relative_to(root).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module or ""]
            yield from (".".join(filter(None, [*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__", "run_module"} and isinstance(node.args[0].value, str):
                yield node.args[0].value


def within(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", WORKER, ids=within)
def test_the_worker_imports_the_standard_library_and_the_stack_only(path):
    for name in imports(path):
        top = name.partition(".")[0]
        if top == "harness":
            assert name.startswith("harness.worker"), f"{name}: nothing of the rest of harness exists in an environment"
        else:
            assert top in STACK or top in sys.stdlib_module_names, name


@pytest.mark.parametrize("path", REST, ids=within)
def test_the_rest_never_imports_torch_colbert_or_the_worker(path):
    for name in imports(path):
        assert name.partition(".")[0] not in NEVER, name
        assert not name.startswith("harness.worker"), name


@pytest.mark.parametrize("path", WORKER, ids=within)
def test_the_worker_can_be_parsed_by_the_python_of_the_environments(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))


def test_the_walk_sees_imports_inside_functions_and_relative_ones(tmp_path):
    (tmp_path / "worker").mkdir()
    path = tmp_path / "worker" / "x.py"
    path.write_text("def f():\n    import torch.nn\n    from ..store import Store\n    __import__('pandas')\n")

    assert set(imports(path, tmp_path)) == {"torch.nn", "harness.store.Store", "pandas"}

"""docs/design.md is true: contracts see what they forbid, no private name is shared, paths and dependencies exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
PLANTS = {
    "tensors/metrics.py": "from harness.store.cell import Cell",
    "store/store.py": "def planted():\n    from harness.environments import uv",
    "store/records.py": "from harness.inputs.matrix import Matrix",
    "environments/uv.py": "from harness.artifacts.kinds import kind_of",
    "report/words.py": "from harness.worker import outcomes",
    "running/plan.py": "def planted():\n    import torch.nn",
    "worker/steps.py": "from harness.errors import UsageError",
    "attic.py": "",
}
"""What is planted at the end of a file, and must be seen."""
SEEN = [
    "harness.tensors.metrics -> harness.store.cell",
    "harness.store.store -> harness.environments.uv",
    "harness.store.records -> harness.inputs.matrix",
    "harness.environments.uv -> harness.artifacts.kinds",
    "harness.report.words -> harness.worker.outcomes",
    "harness.running.plan -> torch",
    "harness.worker.steps -> harness.errors",
    "harness.attic",
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"], cwd=folder, capture_output=True,
        text=True, check=False, env={"COLUMNS": "200"},
    )  # fmt: skip


def test_every_contract_breaks_where_a_forbidden_import_is_planted(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    clean = lint(tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    for name, text in PLANTS.items():
        with (tmp_path / "harness" / name).open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")

    planted = lint(tmp_path)

    assert planted.returncode == 1, planted.stdout + planted.stderr
    assert " 0 kept" in planted.stdout
    assert not [arrow for arrow in SEEN if arrow not in planted.stdout], planted.stdout


def imported_modules(text: str, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports anywhere, also where only a type checker or a call gets there."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                found |= {f"{module}.{alias.name}" for alias in names} | {module}
    return found & modules


def test_no_module_imports_one_that_imports_it_not_even_for_a_type():
    texts = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file.read_text("utf-8")
        for file in PACKAGE.rglob("*.py")
    }
    imports = {name: imported_modules(text, set(texts)) - {name, "harness"} for name, text in texts.items()}

    TopologicalSorter(imports).prepare()  # raises CycleError


def test_a_circle_by_a_lazy_import_is_seen():
    texts = {"a": "def late():\n    from b import value", "b": "if TYPE_CHECKING:\n    import a"}

    with pytest.raises(CycleError):
        TopologicalSorter({name: imported_modules(text, set(texts)) for name, text in texts.items()}).prepare()


def private_names(text: str) -> Iterator[str]:
    """Names with an underscore that a file takes from another module of the package."""
    tree = ast.parse(text)
    ours: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "harness":
            ours |= {alias.asname or alias.name for alias in node.names}
            yield from (f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in ours and is_private(attribute):
                yield f"{name}.{attribute}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_no_module_uses_a_private_name_of_another():
    found = {path.relative_to(PACKAGE): list(private_names(path.read_text("utf-8"))) for path in PACKAGE.rglob("*.py")}

    assert not {str(path): names for path, names in found.items() if names}


@pytest.mark.parametrize(
    "text",
    [
        "from harness.store.store import _seal",
        "def f():\n    from harness.store.store import _seal as seal",
        "from harness.store import store as kept\nkept._seal()",
        "from harness.store.store import Store\nStore._seal()",
    ],
)
def test_a_private_name_is_seen_however_it_is_reached(text):
    assert len(list(private_names(text))) == 1


def test_no_test_takes_anything_from_another_test():
    """What several share is in `tests/support/`."""
    found = {
        path.name: re.findall(r"^(?:from|import) tests\.(?:\w+\.)*test_\w+", path.read_text("utf-8"), re.MULTILINE)
        for path in (ROOT / "tests").rglob("*.py")
    }

    assert not {name: imported for name, imported in found.items() if imported}


def test_every_path_that_the_page_names_is_there():
    tree = DESIGN.split("```")[1]
    named = {*re.findall(r"`([\w./-]+/[\w.-]*)`", DESIGN), *re.findall(r"[a-z_]+(?:/|\.py)", tree)} - {
        "harness/",
        "kernels/",
        "slurm/",
    }

    assert len(named) > 40
    assert not [name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()]


def test_every_wing_is_in_the_tree():
    tree = DESIGN.split("```")[1]

    assert not [path.parent.name for path in PACKAGE.glob("*/__init__.py") if f" {path.parent.name}/" not in tree]


def test_the_page_has_a_line_for_each_dependency_and_for_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (one for several in project["optional-dependencies"].values() for one in several if "[" not in one)
    needed = [re.match(r"[\w-]+", requirement) for requirement in (*project["dependencies"], *extras)]

    told = re.findall(r"^- `([\w-]+)`: ", DESIGN.partition("## Dependencies")[2], re.MULTILINE)

    assert told == [match.group() for match in needed if match]

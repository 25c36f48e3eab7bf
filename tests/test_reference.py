"""docs/tables.md and docs/matrix.md are what `python docs/make_reference.py` writes, and lack nothing."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from harness.report.columns import TABLES

ROOT = Path(__file__).parents[1]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return loaded("make_reference")


@pytest.mark.parametrize("page", ["tables.md", "matrix.md"])
def test_a_page_is_current(maker, page):
    """Run `python docs/make_reference.py` after a change of a column, or of a field of matrix.yaml."""
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == maker.PAGES[page]()


def test_every_column_is_told_with_a_meaning(maker):
    page = maker.tables()

    for name, table in TABLES.items():
        assert f"## {name}.parquet" in page
        for column, (kind, meaning) in table.columns.items():
            assert f"| `{column}` | {kind} | {meaning} |" in page.replace("\\|", "|")


def test_every_key_of_the_schema_is_told(maker):
    schema = json.loads((ROOT / "docs" / "matrix.schema.json").read_text(encoding="utf-8"))
    page = maker.matrix()

    for name, part in schema["$defs"].items():
        assert f"\n## {name}\n" in page
        for key in part.get("properties", {}):
            section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            (line,) = (line for line in section.splitlines() if line.startswith(f"| `{key}` |"))
            assert not line.endswith("|  |"), f"{name}.{key} has no meaning"


def test_every_page_is_on_the_site_and_names_of_pages_are_links_there():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    hooks = loaded("site_hooks")

    assert set(re.findall(r": ([\w-]+\.md)", navigation)) == pages
    assert hooks.on_page_markdown("see `docs/sweeps.md`.") == "see [Sweeps that last](sweeps.md)."
    assert hooks.on_page_markdown("see `docs/nothing.md`.") == "see `docs/nothing.md`."

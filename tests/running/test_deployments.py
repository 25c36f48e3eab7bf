"""Which searches a table of indexes shows, and why it shows none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UsageError
from harness.running.deployments import Searches, searches_of
from harness.store.store import Store
from tests.support.cell_specs import cell, spec

QUERIES = {"name": "queries", "digest": "9", "queries": 2}
SEARCH: dict[str, Any] = {"job": "search", "queries": QUERIES, "index": {"name": "2.8.0", "digest": "1"}}


def experiment(collection: str = "c0ffee", checkpoint: str = "beef") -> Any:
    found = SimpleNamespace(
        passages=SimpleNamespace(digest=collection), checkpoint=SimpleNamespace(digest=checkpoint), queries=()
    )
    found.search = lambda: found
    return found


def asked(*_: object) -> Any:
    raise AssertionError("the collection was loaded for nothing")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_without_a_search_of_these_indexes_nothing_is_loaded_and_nothing_said(store):
    index = store.put(cell(spec()))
    store.put(cell(spec(**SEARCH, device="cuda NVIDIA")))
    store.put(cell(spec(**SEARCH), outcome="crashed", reason="It broke.", artifacts={}))

    assert searches_of(store.listed(), [index], asked) == (None, "")


def test_a_table_of_searches_has_none_of_its_own(store):
    search = store.put(cell(spec(**SEARCH)))

    assert searches_of(store.listed(), [search], asked) == (None, "")


def test_searches_of_the_same_files_are_shown(store):
    index = store.put(cell(spec()))
    store.put(cell(spec(**SEARCH)))

    found, note = searches_of(store.listed(), [index], experiment)

    assert isinstance(found, Searches)
    assert note == ""


def test_why_searches_are_not_shown_is_said(store):
    def broken() -> Any:
        raise UsageError("The collection has no queries.")

    index = store.put(cell(spec()))
    store.put(cell(spec(**SEARCH)))

    other = searches_of(store.listed(), [index], lambda: experiment(collection="another"))
    failed = searches_of(store.listed(), [index], broken)

    assert other == (None, "1 search in these indexes is stored and not shown: name --collection and --checkpoint.")
    assert failed == (None, "1 search in these indexes is stored and not shown: The collection has no queries.")

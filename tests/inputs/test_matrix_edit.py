"""Adding a version changes one line of `matrix.yaml`, wherever it belongs, and nothing else of the text."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.inputs.matrix import Listed
from harness.inputs.matrix_edit import with_versions
from harness.inputs.matrix_file import parse_matrix
from harness.words import version_key
from tests.support.small_matrix import TEXT

OWN = (Path(__file__).parents[2] / "matrix.yaml").read_text(encoding="utf-8")


def added(text: str, *versions: str, index: str | None = None, **indexes: str) -> list[str]:
    """The lines that are added; none may be taken away."""
    listed = [Listed(version=version, index=index) for version in versions]
    made, matrix = with_versions(text, listed, indexes, "matrix.yaml")
    assert parse_matrix(made) == matrix
    changes = list(difflib.ndiff(text.splitlines(), made.splitlines()))
    assert not [line for line in changes if line.startswith("- ")]
    return [line[2:] for line in changes if line.startswith("+ ")]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=5))
def test_any_versions_become_lines_in_order(numbers):
    known = parse_matrix(TEXT).versions
    versions = sorted({".".join(map(str, one)) for one in numbers} - {*known}, key=version_key)

    assert added(TEXT, *reversed(versions)) == [f'  - "{version}"' for version in versions]


def test_the_matrix_of_the_project_takes_them_too():
    assert added(OWN, "1.14.0", "99.0.0") == ['  - "1.14.0"', '  - "99.0.0"']


def test_a_comment_stays_with_the_entry_below_it():
    made, _ = with_versions(TEXT, [Listed(version="2.7.2")], {}, "matrix.yaml")

    assert '  - "2.7.1"  # an old one\n  - "2.7.2"\n  # The newest.\n  - "2.8.0"\n' in made


def test_a_list_on_one_line_stays_on_one_line():
    start, end = TEXT.index("versions:\n"), TEXT.index("\nrequirements")
    text = f'{TEXT[:start]}versions: ["2.7.1", "2.8.0"]{TEXT[end:]}'

    made, matrix = with_versions(text, [Listed(version=v) for v in ("2.9.0", "2.6.0", "2.7.2")], {}, "matrix.yaml")

    assert 'versions: ["2.6.0", "2.7.1", "2.7.2", "2.8.0", "2.9.0"]\n' in made
    assert matrix.versions == ["2.6.0", "2.7.1", "2.7.2", "2.8.0", "2.9.0"]


def test_a_version_of_another_index_says_so_and_brings_the_index_along():
    day = "2.9.0.dev20250801+cpu"
    entry = f'  - {{version: "{day}", index: nightly}}'

    assert added(TEXT, day, index="nightly", nightly="http://x") == [
        "# Package indexes beside uv's own.", "indexes:", "  nightly: http://x", "", entry,
    ]  # fmt: skip
    there = TEXT.replace("# The versions.", "indexes:\n  mine: http://y  # ours\n\n# The versions.")
    assert added(there, day, index="nightly", nightly="http://x") == ["  nightly: http://x", entry]
    assert added(there, day, index="mine", mine="http://y") == [entry.replace("nightly", "mine")]


def test_a_list_that_is_no_plain_one_is_left_to_its_author():
    text = TEXT.replace('  - "2.7.1"  # an old one\n', '  - &old "2.7.1"\n').replace(
        'versions: ["2.7.1", "2.8.0"]', 'versions: [*old, "2.8.0"]'
    )
    assert added(text, "2.9.0") == ['  - "2.9.0"']

    start, end = TEXT.index("versions:\n"), TEXT.index("\nrequirements")
    spread = f'{TEXT[:start]}versions:\n  - "2.7.1"\n  -\n    "2.8.0"\n{TEXT[end:]}'
    with pytest.raises(UsageError, match=r"is not a plain list, so add 2\.9\.0 by hand"):
        with_versions(spread, [Listed(version="2.9.0")], {}, "matrix.yaml")

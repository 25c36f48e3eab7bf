"""Numbers with their nouns, sizes, and reasons without a number of an errno."""

from __future__ import annotations

import pytest

from harness.words import count, said, size


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 more tensors"), (1, "1 more tensor"), (2, "2 more tensors"), (2048, "2,048 more tensors")],
)
def test_one_is_not_plural(number, words):
    assert count(number, "more tensor") == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**50, "1,024.0 TiB"),
    ],
)
def test_sizes_have_the_unit_that_a_person_would_choose(number, words):
    assert size(number) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/some/path"), "No such file or directory"),
        (ValueError("This is wrong.\nAnd more of it."), "This is wrong"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_reason_is_one_line_without_numbers_of_errors(error, words):
    assert said(error) == words

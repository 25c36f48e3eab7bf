"""A short run of the fuzzer over every reader, and that it would find a crash."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from harness.errors import UsageError
from tests import fuzz
from tests.fuzz import Reader, readers

SECONDS_EACH = 0.8


@pytest.mark.parametrize("name", [reader.name for reader in readers()])
def test_whatever_the_bytes_a_reader_answers_or_says_why_not(tmp_path: Path, name: str) -> None:
    """`python -m tests.fuzz --minutes 10` is the same for longer."""
    (reader,) = [reader for reader in readers() if reader.name == name]
    end = time.monotonic() + SECONDS_EACH
    with fuzz.limits(None):
        for seed in range(100):
            fuzz.fuzz(reader, tmp_path / "files", 20, seed)
            # On a slow machine too, until there was one that is read.
            if time.monotonic() > end and reader.refused < reader.tried:
                break

    assert reader.tried >= 20
    # Some are read and some are refused, or the changes are of the wrong size to test anything.
    assert reader.refused < reader.tried


def _crashes(folder: Path, data: st.DataObject) -> None:
    if data.draw(st.integers(0, 50)) == 7:
        raise KeyError("planted")
    raise UsageError("A sentence.")


def _stalls(_folder: Path, data: st.DataObject) -> None:
    if data.draw(st.integers(0, 3)) == 2:
        try:
            time.sleep(60)
        except Exception as error:  # a reader that takes everything for its own error
            raise UsageError("A sentence.") from error


def _hoards(_folder: Path, data: st.DataObject) -> None:
    data.draw(st.booleans())
    bytearray(64 * 2**30)


@pytest.mark.parametrize("read", [_crashes, _stalls, _hoards])
def test_a_reader_that_crashes_or_stalls_or_fills_the_memory_is_found(monkeypatch, capsys, read) -> None:
    monkeypatch.setattr(fuzz, "SECONDS_FOR_ONE", 1)

    assert fuzz.main(["--minutes", "0.5", "--seed", "3"], [Reader("planted", read)]) == 1
    said = capsys.readouterr()
    assert "CRASH of the reader of planted" in said.err
    assert "| planted |" in said.out


def test_the_table_counts_what_was_tried(capsys) -> None:
    assert fuzz.main(["--minutes", "0.02", "lock", "safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("no crash.")
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| safetensors", "| lock"]

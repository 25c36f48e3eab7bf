"""docs/upgrade.md is true: its command lines are understood and run, and its kept answers are worded as today's are."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from harness.cli import harness
from tests.support.upgrades import World

PAGE = (Path(__file__).parents[2] / "docs" / "upgrade.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.startswith("harness ")]
KEPT = [
    (above.replace("\\\n", " "), block)
    for above, block in itertools.pairwise(BLOCKS)
    if block.partition("\n")[0] in {"unchanged", "keep", "re-index", "investigate"}
]
"""Each answer with the command that stands above it."""


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_of_the_page_is_understood(line):
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = harness.get_command(click.Context(harness), name)

    assert command is not None
    command.make_context(name, arguments)


def worded(text: str) -> set[str]:
    """The beginnings of an answer's lines and sentences, up to the first number, name or bracket."""
    joined = re.sub(r"(?<=that differs is )\w+", "", re.sub(r"\s+", " ", text))
    found = re.findall(r"(?:^|[.:] )([A-Z][A-Za-z ,]+)|` ([A-Za-z ,]+)", joined)
    return {one.strip() for pair in found for one in pair if len(one.split()) > 1}


def test_the_commands_run_and_the_kept_answers_are_worded_as_theirs(tmp_path, capsys):
    world = World(tmp_path, capsys)
    (tmp_path / "qrels.txt").write_text("q1 0 3 1\nq2 0 4 1\n")
    stands_for = {
        "before.txt": str(world.environment("old")), "after.txt": str(world.environment("new", seed=1)),
        "queries.parquet": str(tmp_path / "queries.jsonl"), "qrels.parquet": str(tmp_path / "qrels.txt"),
        "passages.parquet": str(tmp_path / "passages.jsonl"), "checkpoint": str(tmp_path / "ck"),
        "upgrade.html": str(tmp_path / "upgrade.html"),
    }  # fmt: skip
    assert len(KEPT) == 2
    for line, answer in KEPT:
        words = [stands_for.get(word, re.sub(r"^\d+$", "10", word)) for word in shlex.split(line)[1:]]
        code, out, err = world(*words, "--k", "2")

        assert code == 0, err
        assert len(worded(answer)) > 4
        assert worded(answer) <= worded(out), out

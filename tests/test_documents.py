"""Every command of README and docs/ is understood by what it calls, and those that only read files are run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.support.command import run
from tests.support.documented import Command, commands
from tests.support.small_index import index_arrays, write_index
from tests.support.understood import NotUnderstoodError, understand

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {path.name: list(commands(path.read_text(encoding="utf-8"))) for path in DOCUMENTS}

READS_FILES = ("compare", "completion", "headlines", "init", "ladder", "rankings", "schema")
"""Those of `harness` that need no environment and no matrix and end at once; tests/report runs `report` and `plot`."""
OF_THE_STORE = re.compile(r"\d+\.\d+\.\d+.*|transformers-.*|prod|next|py3\d+|--job")
"""With such a word they read stored cells, too."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_a_document_is_understood(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    refused = []
    for one in COMMANDS[name]:
        try:
            understand(one.words, mentioned=one.inline)
        except NotUnderstoodError as error:
            refused.append(f"{one.line}\n    {error}")

    assert not refused, "\n".join(refused)


def test_the_commands_are_found():
    """What is not found is not tested: but for two that explain, each page has some."""
    without = {name for name, found in COMMANDS.items() if not found}

    assert without <= {"data.md", "explanation.md"}
    assert sum(map(len, COMMANDS.values())) > 300
    assert [one.words for one in commands("```\nexport X=a\nnox -s b -- $X \\\n  c | sort  # harness d\n```")] == [
        ("nox", "-s", "b", "--", "a", "c")
    ]
    assert [one.words for one in commands("`harness e\n… --f …` and `harness` and `other`")] == [
        ("harness", "e", "--f", "…"),
        ("harness",),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "harness compar A B",
        "harness compare A",
        "harness compare A B --profil bnb",
        "harness fingerprint give INDEX",
        "nox -s indexes",
        "nox -s compare -- A",
        "nox -s lint -- --fix",
        "nox -s tests -- -m fast",
        "python docs/make_it.py",
        "python docs/make_cli.py --fast",
        "python benchmarks/kernels.py --version 2.8.0 --loops 20",
        "python -m tests.nothing",
    ],
)
def test_a_command_that_would_be_refused_is_not_understood(line):
    with pytest.raises(NotUnderstoodError):
        understand(line.split())


def _is_run(one: Command) -> bool:
    called = " ".join(one.words).partition("harness ")[2].split() or [""]
    whole = called[0] in READS_FILES and (called[1:] or not one.inline)
    return bool(one.text or whole) and not any(map(OF_THE_STORE.fullmatch, one.words))


RUNS = list({(*one.words, one.text): one for found in COMMANDS.values() for one in found if _is_run(one)}.values())
"""Each command once that can be run in `playground`, and the scripts that stand in the documents."""
PRINTS = r"prints\b"
"""Begins a paragraph after a command that tells numbers of what it printed."""


@pytest.fixture
def playground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the documents' commands name; the home is an empty one."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "docs").mkdir()
    for name in ("results", "docs/article.csv"):
        (here / name).symlink_to(ROOT / name)
    for name in ("TABLES", "TABLES_OF_ONE_SWEEP", "TABLES_OF_ANOTHER"):
        (here / name).symlink_to(next((ROOT / "results").glob("cpu-*-1000")))
    for number, name in enumerate(("OLD_INDEX", "NEW_INDEX", "INDEX_1", "INDEX_2", "INDEX_3", "A", "B", "DIR")):
        write_index(here / name, index_arrays(seed=number))
    for a, b in (("DIR_A", "A"), ("DIR_B", "B")):
        (here / a).symlink_to(here / b)
    for name, scores in (("A", (2.0, 1.0)), ("B", (1.0, 2.0))):
        lines = (f"q{q} Q0 d{n} {n + 1} {score} {name}\n" for q in range(3) for n, score in enumerate(scores))
        (here / f"{name}.run").write_text("".join(lines))
    (here / "JUDGED").write_text("".join(f"q{q} 0 d0 1\n" for q in range(3)))
    monkeypatch.chdir(here)
    monkeypatch.setenv("SHELL", "/bin/bash")
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return here


@pytest.mark.usefixtures("playground")
@pytest.mark.parametrize("command", RUNS, ids=lambda one: one.line[:60])
def test_what_reads_only_files_runs_and_prints_what_the_document_says(command, capsys):
    arguments = [
        found for word in command.words for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    if command.text:
        with mock.patch.object(sys, "argv", arguments[1:]):
            exec(command.text, {"__name__": "__main__"})
        printed = capsys.readouterr().out
    else:
        code, printed, said = run(capsys, *arguments[arguments.index("harness") + 1 :])
        assert code in (0, 1), said

    assert printed.strip()
    assert list(_not_printed(command.then, printed)) == []


def _not_printed(told: str, printed: str) -> Iterator[str]:
    """What it did not print of a table after a command, or of the numbers of a paragraph that says what it prints."""
    if told.startswith("|"):
        yield from set(told.splitlines()) - set(re.sub(r"\\(\W)", r"\1", printed).splitlines())
    elif re.match(PRINTS, told):
        numbers = [float(one) for one in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)", printed)]
        for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", re.sub(r"\d+(?:\.\d+){2,}", "", told)):
            decimals = len(number.partition(".")[2])
            if float(number.replace(",", "")) not in {round(one, decimals) for one in numbers}:
                yield number


def test_numbers_that_a_document_says_are_looked_for_in_what_was_printed():
    table, told = "| a |\n|:-:|\n| 1 |", "prints 1,968 of 2.4.1 and 0.0023."

    assert not list(_not_printed(table, f"{table}\n"))
    assert list(_not_printed(table, "| a |\n|:-:|\n| 2 |")) == ["| 1 |"]
    assert not list(_not_printed(told, "2.4.1 1968.0 0.00231"))
    assert list(_not_printed(told, "2.4.1 1967.0 0.0024")) == ["1,968", "0.0023"]


def test_numbers_are_compared_in_all_of_the_documents_that_print_some():
    checked = [one.line for one in RUNS if re.match(rf"\||{PRINTS}", one.then)]

    assert len(checked) >= 4

"""Every command of README and docs/ is understood by what it calls, and those that only read are run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from harness.cli import main
from tests.support.command import run
from tests.support.documented import Command, commands, options
from tests.support.small_index import index_arrays, write_index
from tests.support.standin import VERSIONS, make_inputs, make_sites
from tests.support.understood import NotUnderstoodError, options_of_harness, understand

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {path.name: list(commands(path.read_text(encoding="utf-8"))) for path in DOCUMENTS}

OPTIONS = options_of_harness()
OF_OTHERS = {"--gres", "--hash", "--long", "--require-hashes"}
"""Options of sbatch, of requirements files, of zstd and of pip."""

READS = (
    "all-pairs", "compare", "completion", "consecutive", "export", "headlines", "init", "ladder", "rankings", "schema",
    "store",
)  # fmt: skip
"""Those of `harness` that read files and stored cells only, and end at once; tests/report runs `report` and `plot`."""
NOT_STORED = re.compile(r"transformers-.*|--job|--axis|--collection|import|.*#\d+|.* on .*")
"""With such a word they read what is not in `home`; as with a version that `VERSIONS` has not."""


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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_that_a_document_names_by_itself_is_one_of_harness(path):
    assert options(path.read_text(encoding="utf-8")) <= OPTIONS | OF_OTHERS


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


NAMED = {
    word.partition("=")[0]
    for found in COMMANDS.values()
    for one in found
    for word in one.words
    if re.match(r"\w+=", word)
}
"""What documents call environments of the user's own."""


def _is_run(one: Command) -> bool:
    if one.text:
        return True
    versions = {version for word in one.words for version in re.findall(r"\b\d+\.\d+\.\d+\b", word)}
    reads = " ".join(one.words).partition("harness ")[2].split(" ")[0] in READS and versions <= {*VERSIONS}
    if not reads or NAMED & {*one.words} or any(map(NOT_STORED.fullmatch, one.words)):
        return False
    try:
        understand(one.words)
    except NotUnderstoodError:  # of a sentence about it
        return False
    return True


RUNS = list({(*one.words, one.text): one for found in COMMANDS.values() for one in found if _is_run(one)}.values())
"""Each command once that can be run in `playground`, and the scripts that stand in the documents."""
PRINTS = r"prints\b"
"""Begins a paragraph after a command that tells numbers of what it printed."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `VERSIONS` have been indexed, by a stand-in for the job."""
    made = tmp_path_factory.mktemp("stored")
    inputs = make_inputs(made)[: -len(("--threads", "1"))]  # as a command without options would ask for
    where = ["--output", str(made / "tables"), "--home", str(made / "home"), *make_sites(made, seconds=0)]
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *VERSIONS, "--device", "cpu", *inputs, *where])
    assert ended.value.code == 1  # they differ
    return made / "home"


@pytest.fixture
def playground(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the documents' commands name."""
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
    monkeypatch.setenv("HARNESS_HOME", str(home))
    monkeypatch.setenv("SHELL", "/bin/bash")
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return here


@pytest.mark.usefixtures("playground")
@pytest.mark.parametrize("command", RUNS, ids=lambda one: one.line[:60])
def test_what_only_reads_is_run_and_prints_what_the_document_says(command, capsys):
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

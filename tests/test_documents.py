"""Every command of README and docs/ is understood by what it calls; tests/test_documents_run.py runs them."""

from __future__ import annotations

import pytest

from tests.support.documented import COMMANDS, DOCUMENTS, ROOT, commands, options
from tests.support.understood import NotUnderstoodError, options_of_harness, understand

OPTIONS = options_of_harness()
OF_OTHERS = {"--gres", "--hash", "--long", "--require-hashes"}
"""Options of sbatch, of requirements files, of zstd and of pip."""


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

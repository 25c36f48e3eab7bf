"""Every command of README and docs/ is run, in `tests.support.stage`, but for a few that are checked elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from harness.cli import main
from tests.support.command import run
from tests.support.documented import COMMANDS, ROOT, Command
from tests.support.stage import Page, Stage
from tests.support.understood import NotUnderstoodError, understand

ELSEWHERE = {
    r"python\S* -m (venv|pip) .*|nox -s (tests|lint|typecheck|docs).*|nox -l": (
        "what CI itself begins with", ".github/workflows/ci.yml",
    ),
    r"nox -s (NAME|SESSION|X).*": ("a form", "tests/test_noxfile.py"),
    r"python docs/make_(cli|reference)\.py": ("writes into docs/", "tests/test_reference.py"),
    r"nox -s build|uvx .*": ("builds a wheel, or installs one", "tests/test_wheel.py"),
    r"python benchmarks/.*": ("measures real jobs for minutes to hours; its output is kept on the page", "benchmarks"),
    r"python -m tests\.reliability.*": ("a minute or more", "tests/test_reliability.py"),
    r"python -m tests\.fuzz .*": ("ten minutes", "tests/test_fuzz.py"),
    r"python -m tests\.support\.planted_training": ("needs torch", "tests/explain/test_planted_training.py"),
    r"python -m tests\.support\.planted(_environments.*)?": ("needs torch", "tests/test_integration.py"),
    r"(harness fingerprint|python fingerprint\.py) .*": ("needs torch", "tests/worker/test_fingerprint.py"),
    r"harness sweep .*(--executor slurm|--attach).*": ("needs a cluster", "tests/running/slurm/test_slurm.py"),
    r"harness (versions|bisect).*": ("asks a package index", "tests/commands/test_versions.py"),
    r"harness lock( (?!--diff).*)?": ("asks a package index", "tests/environments/test_lock.py"),
    r"harness report results/c\* .*": ("the published page, in a minute", "tests/report/test_page.py"),
    r"harness lock --diff A B": ("said not to be possible yet", "tests/environments/test_lock.py"),
    r"harness pack .*": ("copies the interpreter and all packages of the tests", "tests/environments/test_pack.py"),
}  # fmt: skip
"""Commands that are not run here, as patterns, with the reason and where in the repository they, or their code, are."""

SUBSTITUTED = {
    "ARTIFACT": "local_sample_embs", "BEFORE": "A", "AFTER": "B", "KEY": "2.7.1", "/srv/index": "index",
    **{f"{name}_3": f"{name}_1" for name in ("weights", "first_moments", "second_moments")},
}  # fmt: skip
"""What is not typed as it stands: placeholders, a path that is not there, and a step of which a job keeps nothing."""
DOTS = {"--collection": "passages.parquet", "--queries": "queries.tsv", "--qrels": "qrels.txt"}
"""What stands for three dots after an option; elsewhere they are left out."""
MAY_END = ("doctor", 3)
"""Where what it looks at has a problem, as a played environment has."""
VERSION = r"\d+(?:\.\d+)+"
PYTHONS = " ".join(f"py3{number}=PATH/py3{number}" for number in range(9, 14))
BEFORE = (
    "sweep", "sweep --axis transformers", "search 2.7.1 2.8.0 --deployments",
    "train 2.7.1 2.8.0 --repeat 2.7.1 --repeat 2.8.0", "probe 2.7.1 2.8.0",
    f"index {PYTHONS}", f"index {PYTHONS} --limit 50 --device cpu --threads 1",
)  # fmt: skip
"""What has been run when a page begins: a page may ask for what another one, or "and so on", has made."""
WRAPPED = 90
"""Characters of a line that may go on in the next."""
ANSWERS = ("unchanged", "keep", "re-index", "investigate")
PRINTS = r"prints\b"
"""Begins a paragraph after a command that tells numbers of what it printed."""


def _line(words: Sequence[str]) -> str:
    """A command line without the folder of its program, and without the version of a Python."""
    return " ".join((re.sub(r"^(?:.*/)?(harness|nox|uvx|python)[\d.]*$", r"\1", words[0]), *words[1:]))


def _is_elsewhere(words: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, _line(words)) for pattern in ELSEWHERE)


def _calls(command: Command) -> list[list[str]]:
    """How `harness` is called by a command that is to be run; nothing of one that a sentence only names."""
    try:
        calls = understand(command.words)
    except NotUnderstoodError:
        return []  # of a sentence, as tests/test_documents.py holds
    return [call for call in calls if call and not _is_elsewhere(["harness", *call])]


RUN = {
    name: [(one, _calls(one)) for one in found if not _is_elsewhere(one.words) and (one.text or _calls(one))]
    for name, found in COMMANDS.items()
}
"""Document to its commands that are run here, and how they call `harness`."""


MENTIONED: set[tuple[str, ...]] = set()
"""What a sentence names is run on one page only."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The folder, with the versions that documents name."""
    words = [word for found in COMMANDS.values() for one in found for word in one.words]
    return Stage(tmp_path_factory.mktemp("stage"), {one for word in words for one in re.findall(VERSION, word)})


@pytest.fixture(scope="module")
def base(stage: Stage) -> Page:
    """A page on which `BEFORE` was run."""
    made = stage.page("base")
    with pytest.MonkeyPatch.context() as patch:
        stage.enter(patch, made)
        for line in BEFORE:
            with pytest.raises(SystemExit) as ended:
                main(line.split())
            assert ended.value.code in (0, 1)
    return made


@pytest.mark.parametrize("name", [name for name, found in RUN.items() if found])
def test_the_commands_of_a_document_run_in_their_order(name, stage, base, tmp_path_factory, monkeypatch, capsys):
    page = stage.page(name, base)
    done, wrong = set[tuple[str, ...]](), []
    for command, calls in RUN[name]:
        if command.text:
            with monkeypatch.context() as patch:
                stage.enter(patch, page)
                patch.setattr(sys, "argv", [*_typed(command.words, page.here)][1:])
                exec(command.text, {"__name__": "__main__"})
            wrong += [
                f"{command.line}\n    did not print {one!r}" for one in _not_printed(command, capsys.readouterr()[0])
            ]
        for call in calls:
            typed = tuple(_typed(call, page.here))
            if typed in done or (command.inline and typed in MENTIONED):
                continue
            (MENTIONED if command.inline else done).add(typed)
            with monkeypatch.context() as patch:
                stage.enter(patch, page, gpu="cuda" in typed)
                if typed == ("init",):
                    patch.chdir(tmp_path_factory.mktemp("empty"))
                code, out, err = run(capsys, *typed)
            if code not in (0, 1) and (typed[0], code) != MAY_END:
                wrong.append(f"{command.line}\n    exit code {code}: {err.strip()[-600:]}")
            wrong += [f"{command.line}\n    did not print {one!r}" for one in _not_printed(command, out)]

    assert not wrong, "\n".join(wrong)


def _typed(call: Sequence[str], here: Path) -> Iterator[str]:
    """The words as a shell would give them on, with `SUBSTITUTED` and `DOTS`."""
    for before, written in pairwise(["", *call]):
        word = SUBSTITUTED.get(written, written).replace("$PWD", str(here))
        if word == "…":
            yield from filter(None, [DOTS.get(before)])
        elif "*" in word:
            yield from sorted(str(path.relative_to(here)) for path in here.glob(word))
        else:
            yield word


def _not_printed(command: Command, printed: str) -> Iterator[str]:
    """What a document says that a command prints, and it did not.

    Of published tables, the lines of a table after it; of a paragraph that says what it prints, the numbers; of what
    the document shows of it, how each line begins.
    """
    published = bool(command.text) or any(word.startswith("results/") for word in command.words)
    if published and command.then.startswith("|"):
        yield from set(command.then.splitlines()) - set(re.sub(r"\\(\W)", r"\1", printed).splitlines())
    elif re.match(PRINTS, command.then):
        numbers = [float(one) for one in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)", printed)]
        for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", re.sub(r"\d+(?:\.\d+){2,}", "", command.then)):
            decimals = len(number.partition(".")[2])
            if float(number.replace(",", "")) not in {round(one, decimals) for one in numbers}:
                yield number
    if command.shown and not command.inline:
        beginnings = {_beginning(line) for line in printed.splitlines()}
        yield from (line for line in _begun(command.shown) if _beginning(line) not in beginnings)


def _begun(text: str) -> Iterator[str]:
    """Lines that do not go on with the one before."""
    for before, line in pairwise(["", *text.splitlines()]):
        if line.strip("-… ") and len(before) < WRAPPED:
            yield line


def _beginning(line: str) -> str:
    """The first words of a line, as far as they are no numbers; any answer is as good as another."""
    return "an answer" if line in ANSWERS else " ".join(re.split(r"[\d:(,]", line)[0].split()[:4])


def test_what_is_not_run_is_checked_elsewhere():
    lines = set()
    for command in (one for found in COMMANDS.values() for one in found):
        lines.add(_line(command.words))
        with suppress(NotUnderstoodError):
            lines |= {_line(["harness", *call]) for call in understand(command.words, mentioned=True)}

    assert [one for one in ELSEWHERE if not any(re.fullmatch(one, line) for line in lines)] == []
    assert all((ROOT / place).exists() for _, place in ELSEWHERE.values())


def test_what_runs_no_harness_is_a_script_of_the_page_or_checked_elsewhere():
    """So that nothing is left out because nobody understood what it is."""
    left = {
        _line(one.words)
        for found in COMMANDS.values()
        for one in found
        if not one.inline and not one.text and not _is_elsewhere(one.words) and not understand(one.words)
    }

    assert left == set()


def test_what_a_document_says_is_looked_for_in_what_was_printed():
    table, told = "| a |\n|:-:|\n| 1 |", "prints 1,968 of 2.4.1 and 0.0023."
    shown = f"keep\nIndex: 5 of 8 differ, {'and so on, ' * 9}\nwhich went on.\n…\n"

    def missing(printed: str, then: str = "", shown: str = "") -> list[str]:
        command = Command("harness x results/a", ("harness", "x", "results/a"), then=then, shown=shown)
        return [*_not_printed(command, printed)]

    assert missing(f"{table}\n", then=table) == []
    assert missing("| a |\n|:-:|\n| 2 |", then=table) == ["| 1 |"]
    assert missing("2.4.1 1968.0 0.00231", then=told) == []
    assert missing("2.4.1 1967.0 0.0024", then=told) == ["1,968", "0.0023"]
    assert missing("re-index\nIndex: none differs.", shown=shown) == []
    assert missing("keep\nIndices: none differs.", shown=shown) == [shown.splitlines()[1]]


def test_numbers_are_compared_in_all_of_the_documents_that_print_some():
    checked = [one.line for found in RUN.values() for one, _ in found if re.match(rf"\||{PRINTS}", one.then)]

    assert len(checked) >= 4
    assert len([one for found in RUN.values() for one, _ in found if one.shown and not one.inline]) >= 3

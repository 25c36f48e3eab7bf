"""What helps to find a command: examples that parse, near names for a misspelt one, completion, a first matrix."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from harness import cli
from harness.cli import COMMANDS
from harness.examples import EXAMPLES
from harness.inputs.matrix_file import load_matrix
from tests.support.understood import of_harness


def test_every_command_has_an_example():
    assert list(EXAMPLES) == [name for name in COMMANDS if name in EXAMPLES] == list(COMMANDS)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_a_command_line_that_is_understood(line):
    of_harness(shlex.split(line))


def test_help_shows_examples_line_by_line(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])

    assert "Examples:\n    harness compare OLD_INDEX NEW_INDEX\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "said"), [("compar", "Did you mean compare?"), ("lader", "Did you mean ladder or"), ("zzz", "'zzz'.\n")]
)
def test_a_misspelt_command_is_told_its_neighbours(word, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([word, "a", "b"])

    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", "data/bash-completion/completions/harness"),
        ("zsh", "data/zsh/site-functions/_harness"),
        ("fish", "config/fish/completions/harness.fish"),
    ],
)
def test_completion_is_installed_where_the_shell_looks(shell, place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    with pytest.raises(SystemExit) as caught:
        cli.main(["completion"])

    assert caught.value.code == 0
    assert str(tmp_path / place) in capsys.readouterr().out
    script = (tmp_path / place).read_text()
    assert "_HARNESS_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n", tmp_path / place], check=True)


def test_completion_for_no_shell_says_which_there_are(monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(SystemExit) as caught:
        cli.main(["completion"])

    assert caught.value.code == 2
    assert "tcsh" in (said := capsys.readouterr().err)
    assert "`harness completion zsh`" in said


def test_completion_knows_commands_and_options(monkeypatch, capsys):
    monkeypatch.setenv("_HARNESS_COMPLETE", "bash_complete")
    for words, wanted in (("harness comp", "plain,compare"), ("harness compare --prof", "plain,--profile")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            cli.main([])
        assert wanted in capsys.readouterr().out.splitlines()


def test_init_writes_a_matrix_that_is_found_and_never_over_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    codes = []
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            cli.main(["init"])
        codes.append(caught.value.code)

    assert codes == [0, 2]
    assert load_matrix().versions
    assert "is there already" in capsys.readouterr().err

"""Whether a command line is understood by what it calls: `harness`, nox or a script, none of which then runs."""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

import click
import nox.registry

from harness.cli import harness

ROOT = Path(__file__).parents[2]


class NotUnderstoodError(AssertionError):
    """A command line that the program refuses, with what it says."""


class _Understood(BaseException):
    """Ends a program that has understood its arguments, before it does anything."""


def understand(words: Sequence[str], *, mentioned: bool = False) -> list[list[str]]:
    """Have a command line parsed, and say with which arguments it calls `harness`, if it does.

    Args:
        words: program and arguments.
        mentioned: whether the arguments that it requires may be missing, as in a sentence about the command.

    Raises:
        NotUnderstoodError: it would be refused for its words.
    """
    program, arguments = words[0].rpartition("/")[2], list(words[1:])
    calls: list[list[str]] = []
    if program == "uvx" and arguments[:1] == ["--from"]:
        program, arguments = arguments[2], arguments[3:]
    elif program.startswith("python") and arguments[:1] == ["-m"] and arguments[1] in ("harness", "nox"):
        program, arguments = arguments[1], arguments[2:]
    if program == "harness":
        calls = [arguments]
    elif program == "nox":
        calls = _of_nox(arguments)
    elif program.startswith("python") and arguments:
        _of_python(arguments)
    for call in calls:
        of_harness(call, mentioned=mentioned)
    return calls


def of_harness(arguments: Sequence[str], *, mentioned: bool = False) -> click.Context:
    """What `harness ARGUMENTS` would run with; a file that it names need not be there."""
    command: click.Command = harness
    context, rest = click.Context(command, info_name="harness"), list(arguments)
    try:
        with mock.patch.object(click.Path, "convert", lambda self, value, *_: self.coerce_path_result(value)):
            while isinstance(command, click.Group) and rest:
                name, found, rest = command.resolve_command(context, rest)
                assert found is not None
                command = found
                context = command.make_context(name, rest, parent=context)
                rest = [*context._protected_args, *context.args]
    except click.ClickException as error:
        named_only = isinstance(error, click.exceptions.NoArgsIsHelpError) or (
            isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument)
        )
        if not (mentioned and named_only):
            raise NotUnderstoodError(f"harness {' '.join(arguments)}: {error.format_message()}") from None
    return context


def options_of_harness(command: click.Command = harness) -> set[str]:
    """Every option of a command and of those within it."""
    context = click.Context(command, info_name="harness", help_option_names=["-h", "--help"])
    found = {name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)}
    if isinstance(command, click.Group):
        inner = (command.get_command(context, name) for name in command.list_commands(context))
        found = found.union(*(options_of_harness(one) for one in inner if one is not None))
    return found


@cache
def front_door() -> ModuleType:
    """The noxfile as a module, loaded once: nox keeps a list of sessions by name."""
    spec = importlib.util.spec_from_file_location("noxfile_under_test", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _of_nox(arguments: list[str]) -> list[list[str]]:
    """Sessions exist; what each first gives on to `harness`, and that pytest understands what one gives on to it."""
    door, known = front_door(), nox.registry.get()
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    (option, *names), posargs = arguments[:cut] or ["-l"], arguments[cut + 1 :]
    if option not in ("-l", "-s"):
        raise NotUnderstoodError(f"nox {option}: it is -s or -l")

    calls: list[list[str]] = []

    def call(_session: object, *words: str, **_more: object) -> NoReturn:
        calls.append([*words])
        raise _Understood

    def run(*words: str, **_more: object) -> None:
        if Path(words[0]).name == "pytest":
            _marks_exist(posargs)

    session: Any = SimpleNamespace(posargs=posargs, run=run, run_install=run, log=print)
    for name in names if posargs != ["OPTIONS"] else ():
        if name not in known:
            raise NotUnderstoodError(f"nox -s {name}: there is no such session")
        # A session that calls no harness has no arguments, but for pytest's.
        with mock.patch.multiple(door, harness=call, prepare=lambda *_: "bin", shutil=mock.Mock()):
            try:
                known[name].func(session)
            except _Understood:
                continue
            if posargs and name != "tests":
                raise NotUnderstoodError(f"nox -s {name} takes nothing after --")
    return calls


def _marks_exist(posargs: Sequence[str]) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    marks = {line.partition(":")[0] for line in settings["markers"]}
    if posargs:
        option, said = posargs
        if option != "-m" or not set(re.findall(r"\w+", said)) <= marks | {"and", "or", "not"}:
            raise NotUnderstoodError(f"pytest {option} {said!r}: the marks are {', '.join(sorted(marks))}")


def _of_python(arguments: list[str]) -> None:
    """A script of this repository, or a module of it or of the standard library; what follows `-` is not looked at."""
    if arguments[0] == "-":
        return
    if arguments[0] == "-m":
        name, rest = arguments[1], arguments[2:]
        found = importlib.util.find_spec(name)
        if found is None:
            raise NotUnderstoodError(f"python -m {name}: there is no such module")
        if name in sys.stdlib_module_names:
            return
        path = Path(str(found.origin))
        path = path.with_name("__main__.py") if path.name == "__init__.py" else path
    else:
        rest = arguments[1:]
        # What users copy is named without its folder.
        path = next((ROOT / "harness" / "worker").glob(arguments[0]), ROOT / arguments[0])
        if not path.is_file():
            raise NotUnderstoodError(f"python {arguments[0]}: there is no such file")
    if "ArgumentParser" not in path.read_text(encoding="utf-8"):
        if rest:
            raise NotUnderstoodError(f"{path.name} takes no arguments")
        return
    _parsed(path, rest)


def _parsed(path: Path, arguments: Sequence[str]) -> None:
    """Start a script, up to its parser and no further."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *given: Any, **named: Any) -> NoReturn:
        original(self, *given, **named)
        raise _Understood

    def error(self: argparse.ArgumentParser, message: str) -> NoReturn:
        raise NotUnderstoodError(f"{self.prog}: {message}")

    with (
        mock.patch.multiple(argparse.ArgumentParser, parse_args=parse_args, error=error),
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _Understood:
            return
    raise NotUnderstoodError(f"{path.name} looked at none of its arguments")

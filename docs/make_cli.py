"""Write docs/cli.md from the commands themselves: `python docs/make_cli.py`. A test asserts that it is current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from harness.cli import COMMANDS, harness

TARGET = Path(__file__).parent / "cli.md"
_HEAD = """# Command line

Made by `python docs/make_cli.py` from the commands themselves; edit their help texts instead of this page.
"""


def _pages(name: str, command: click.Command, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    settings = {**harness.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _pages(inner, found, context)


def text() -> str:
    """The page: the group's help, then that of each command and of each command within one."""
    pages = list(_pages("harness", harness, None))
    assert {path.split()[1] for path, _ in pages[1:]} == set(COMMANDS)
    return _HEAD + "".join(f"\n## `{path}`\n\n```text\n{help_text.rstrip()}\n```\n" for path, help_text in pages)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")

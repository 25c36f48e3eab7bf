"""The `harness` command: a group whose subcommands are imported only when they are called.

`harness --help` must answer at once, and pandas, pyarrow and pydantic together take longer than that to import; so the
group knows each command's module and one-line help, and imports the module when the command runs.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import click

from harness import __version__
from harness.errors import HarnessError


@dataclass(frozen=True)
class Lazy:
    """A command that is not imported yet: `module` holds a click command named `command`."""

    module: str
    help: str


COMMANDS: dict[str, Lazy] = {
    "plan": Lazy("harness.commands.plan", "List the cells of a sweep, and why each would run or be skipped."),
    "index": Lazy("harness.commands.index", "Build environments if needed, run the index job, store the cells."),
    "compare": Lazy("harness.commands.compare", "Compare two cells, or any two ColBERT index directories."),
    "consecutive": Lazy("harness.commands.consecutive", "Reduce stored cells to tables; print the headline table."),
    "doctor": Lazy("harness.commands.doctor", "Say what this machine can run, what it cannot, and why."),
    "lock": Lazy("harness.commands.lock", "Write the lock files, or show the package difference of two versions."),
    "sweep": Lazy("harness.commands.sweep", "Index with every version, then reduce to tables."),
    "schema": Lazy("harness.commands.schema", "Print the JSON schema of matrix.yaml."),
}


class LazyGroup(click.Group):
    """A click group over `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the table above, which is the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command's module; None for a name that does not exist."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = importlib.import_module(lazy.module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the command list from the table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="harness")
def harness() -> None:
    """Show which PyTorch release changed a ColBERT index, where, by how much, and why.

    Exit codes: 0 nothing beyond the profile and the noise floor, 1 a divergence was found, 2 wrong use or unreadable
    input, 3 something around the experiment failed.
    """


def main(argv: list[str] | None = None) -> None:
    """Run a command line and exit; a `HarnessError` becomes one sentence on standard error."""
    try:
        code = harness.main(args=argv, prog_name="harness", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("harness: interrupted; everything stored so far is kept.", err=True)
        sys.exit(130)
    except HarnessError as error:
        click.echo(f"harness: {error}", err=True)
        sys.exit(int(error.exit_code))
    sys.exit(int(code or 0))

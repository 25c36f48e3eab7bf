"""The `harness` command: a group whose subcommands are imported only when they are called.

`harness --help` must answer at once, and pyarrow, pydantic and NumPy together take longer than that to import; so the
group knows each command's module and one-line help, and imports the module when the command runs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

import click

from harness import __version__
from harness.errors import FULL_DISK, ExitCode, HarnessError, UsageError, causes
from harness.examples import EXAMPLES

_OBJECTS = 20_000
"""How many more objects there are when Python looks for circles among them."""

COMMANDS = {
    "quickstart": "Compare two PyTorch versions on this machine's CPU, end to end.",
    "plan": "List the cells of a sweep, and why each would run or be skipped.",
    "index": "Build environments if needed, run the index job, store the cells.",
    "search": "Search with versions, each in its own index or in another's; store the cells.",
    "train": "Train with versions, from the same triples; store the cells.",
    "upgrade": "Say whether an upgrade of your own environment wants a new index.",
    "fingerprint": "Keep what an environment computes beside an index, or check another.",
    "compare": "Compare two cells, or any two ColBERT index directories.",
    "ladder": "Show what changed at each step over any number of cells or directories.",
    "all-pairs": "Show all pairs of stored versions, and which are equal to which.",
    "consecutive": "Reduce stored cells to tables: what changed at each step, and must I re-index?",
    "headlines": "Show headline tables of several sweeps side by side.",
    "report": "Turn folders of tables into one HTML page.",
    "plot": "Draw the charts of a folder of tables as SVG and PNG.",
    "renew": "Write tables of an older version again, as this one writes them.",
    "rankings": "Say whether two searches, or two TREC run files, rank alike.",
    "locate": "Say where a difference starts: step, module, function, operator.",
    "swap": "Run one version's job with artifacts of another in their place.",
    "blame": "Say which package changed the index, by exchanging packages.",
    "bisect": "Find the two builds between which the index changed.",
    "probe": "Run small experiments: single operators, layers and matrix products.",
    "probes": "Compare stored probes between versions.",
    "pack": "Write environments as files, for a host without a package index.",
    "doctor": "Say what this machine can run, what it cannot, and why.",
    "versions": "List or add releases that matrix.yaml lacks.",
    "lock": "Write the lock files, or show the package difference of two versions.",
    "sweep": "Index, search, or train with every version, then reduce to tables.",
    "nightly": "Compare a night's tables with those of the nights before.",
    "store": "List, check, tidy, export and import stored cells.",
    "export": "Write a stored index as a folder that colbert-ai's Searcher loads.",
    "schema": "Print the JSON schema of matrix.yaml.",
    "init": "Write a matrix.yaml of your own, with its locks, to a folder.",
    "completion": "Install completion of commands and options for your shell.",
}
"""Each command and its help in a line; `harness.commands` has a module of the name, with a click command `command`."""

_EXTRAS = {"rankings": "rankings", "headlines": "report", "renew": "report", "report": "report", "plot": "report"}
"""Extra of this package that a command may need; for all others it is `run`, which holds every other."""


class LazyGroup(click.Group):
    """A click group over `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the table above, which is the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command's module; None for a name that does not exist."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"harness.commands.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        if lines := EXAMPLES.get(cmd_name):
            # A line that click must not fold begins its paragraph with \b.
            command.epilog = "\n".join(["\b", "Examples:", *(f"  harness {line}" for line in lines)])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that a line names; the refusal of one that does not exist names those that are near."""
        name = args[0]
        if name not in COMMANDS and name[:1].isalnum() and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, cutoff=0.6)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the command list from the table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True}


@click.group(cls=LazyGroup, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="harness")
def harness() -> None:
    """Show which PyTorch release changed a ColBERT index, where, by how much, why, and whether to index again.

    Exit codes: 0 nothing beyond the profile and the noise floor, 1 a divergence was found, 2 wrong use or unreadable
    input, 3 something around the experiment failed. A reader that leaves, as in `| head`, changes none of them.
    """


class _Unread(io.TextIOWrapper):
    """A text stream whose reader may leave, as in `harness store list | head -1`: what nobody reads is thrown away.

    Nobody's leaving changes an exit code. Bytes that are written past this text (`harness pack -`) still fail.
    """

    def write(self, text: str) -> int:
        """Write, or throw away."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        """Flush, or throw away."""
        try:
            super().flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _patient_streams() -> Iterator[None]:
    """Let standard output and standard error of this process lose their readers; a stream of a test is left alone."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name)
            if stream is None or stream is not getattr(sys, f"__{name}__"):
                continue
            stream.flush()
            patient = _Unread(
                stream.buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )  # fmt: skip
            stack.callback(patient.detach)
            stack.callback(patient.flush)
            stack.enter_context(redirect(patient))
        yield


def main(argv: list[str] | None = None) -> None:
    """Run a command line and exit; a `HarnessError` becomes one sentence on standard error."""
    with _patient_streams():
        _main(argv)


def _main(argv: list[str] | None) -> NoReturn:
    # What a command reads makes objects by the hundred thousand, and hardly a circle of them to be looked for.
    gc.set_threshold(_OBJECTS)
    # A scheduler's SIGTERM must stop the job under way and clean up behind it, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _no_empty_words(sys.argv[1:] if argv is None else argv)
        code = harness.main(args=argv, prog_name="harness", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):
            _mistake()  # click takes the end of a file for that of a terminal, of which nothing here asks
        click.echo("harness: interrupted; everything stored so far is kept.", err=True)
        sys.exit(130)
    except HarnessError as error:
        click.echo(f"harness: {error}", err=True)
        # A full disk is for the user to mend, whichever part of the harness met it.
        sys.exit(int(ExitCode.USAGE if _is_full_disk(error) else error.exit_code))
    except OSError as error:
        if not _is_full_disk(error):
            _mistake()
        place = f" ({error.filename})" if error.filename else ""
        click.echo(f"harness: The disk is full{place}: free some space, or write to another disk.", err=True)
        sys.exit(int(ExitCode.USAGE))
    except SystemExit as error:
        # click ends with 1 where nobody reads the bytes of `pack -`, which would say that a divergence was found.
        sys.exit(int(ExitCode.INFRASTRUCTURE) if error.code == 1 else error.code)
    except ModuleNotFoundError as error:
        module = (error.name or "harness").partition(".")[0]
        if module == "harness":
            _mistake()
        name = next((word for word in (sys.argv[1:] if argv is None else argv) if word in COMMANDS), "")
        click.echo(
            f"harness: `harness {name}` needs {module} for this, which is not installed: install "
            f"'colbert-torch-harness[{_extra_with(module, name)}]', which has it.",
            err=True,
        )
        sys.exit(int(ExitCode.USAGE))
    except Exception:  # noqa: BLE001 - the last resort
        _mistake()
    sys.exit(int(code or 0))


def _no_empty_words(words: list[str]) -> None:
    """Refuse an empty argument: to an option it would be as good as absent, and to a path the current folder.

    Raises:
        UsageError: it names what stands before it.
    """
    for before, word in zip(["harness", *words], words, strict=False):
        if not word:
            raise UsageError(
                f"The argument after {before} is empty: set the variable that it came from, or leave both out."
            )


def _extra_with(module: str, command: str) -> str:
    """The extra of this package that holds a module: that of the command where it does, or else the one with all."""
    from importlib.metadata import requires

    extra = _EXTRAS.get(command, "run")
    packages = {re.split(r"[^\w-]", one)[0] for one in requires("colbert-torch-harness") or () if f"'{extra}'" in one}
    return extra if module.replace("_", "-") in packages else "run"


def _is_full_disk(error: BaseException) -> bool:
    return any(isinstance(one, OSError) and one.errno in FULL_DISK for one in causes(error))


def _mistake() -> NoReturn:
    """Show the traceback of a mistake of our own. Python's own exit code, 1, would say that a divergence was found."""
    traceback.print_exc()
    click.echo("harness: this is a mistake in harness itself; please report it with the lines above.", err=True)
    sys.exit(int(ExitCode.INFRASTRUCTURE))

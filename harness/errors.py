"""Errors that end in one sentence for the user and an exit code that means what `ExitCode` says.

Every message names the file or the field, what is wrong with it, and what to do about it. A traceback is for our own
mistakes only.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable, Iterator

FULL_DISK = frozenset((errno.ENOSPC, errno.EDQUOT))


class ExitCode(enum.IntEnum):
    """What a `harness` command's exit status means, everywhere."""

    OK = 0
    """Nothing beyond the profile and the noise floor."""
    DIVERGENCE = 1
    """A divergence was found."""
    USAGE = 2
    """Wrong use, or input that cannot be read."""
    INFRASTRUCTURE = 3
    """Something around the experiment failed: an install, the machine, a time limit."""


def printable(text: object) -> str:
    """Text that came from a file, a job or a registry, with what would speak to a terminal shown as an escape.

    Control characters and line breaks are escaped, and so are the invisible characters that reorder text.
    """
    told = str(text)
    if told.isprintable():  # nearly all are, and this is one pass in C
        return told
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in told)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class HarnessError(Exception):
    """Base of all errors that are shown as a sentence instead of a traceback.

    A message may quote names and texts from files, so it is made `printable` here, once for all.

    Args:
        message: one sentence, or a few.
        choices: what may be chosen from, each shown on a line of its own.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, choices: Iterable[str] = ()) -> None:
        super().__init__("\n  ".join(map(printable, (message, *choices))))


class UsageError(HarnessError):
    """The user's input is wrong: an unknown version, a missing file, a column that is not there."""


class InfrastructureError(HarnessError):
    """The experiment could not run: an install failed, a registry does not answer as it should."""

    exit_code = ExitCode.INFRASTRUCTURE


class UnreadableTensor(HarnessError):  # noqa: N818 - named after the status `unreadable`
    """A file, or a tensor in it, cannot be read; the message names the file and the reason.

    The message may quote names from the file, so it has a limit.
    """

    def __init__(self, message: str) -> None:
        shown = printable(message)
        super().__init__(shown if len(shown) <= 1000 else f"{shown[:997]}...")

"""Words for numbers, and the order of versions: the same wherever something is counted or sorted."""

from __future__ import annotations

import math
import re
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version

VERSION_SUFFIX = (
    r"((a|b|rc)[0-9]{1,8})?(\.post[0-9]{1,8})?(\.dev[0-9]{1,10})?(\+[0-9a-z]{1,20}(\.[0-9a-z]{1,20}){0,3})?"
)
"""What may follow the numbers of a version as PEP 440 writes it, such as `.dev20251120+cpu`."""


NAME = r"[A-Za-z][A-Za-z0-9._-]{0,39}"
"""What the user may call an environment; no version is one."""


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 version`, `2,048 versions`.

    Args:
        number: how many.
        noun: in the singular; a noun with words before it is one, too.
        plural: of a noun that takes more than an `s`.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def ulps(steps: float) -> str:
    """How far apart two floats are at most, in steps between neighbours: `3 ULP`."""
    return f"{math.ceil(steps):,} ULP"


def duration(seconds: float) -> str:
    """A number of seconds as one would say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def size(number: int) -> str:
    """A number of bytes in the largest unit of which there is at least one, such as `1.5 MiB`."""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:,.1f} {unit}"


def said(error: BaseException) -> str:
    """Why something failed, for a sentence: without the number of an errno, the path again, and further lines."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (words.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


_NUMBERED = re.compile(r"(?P<what>.+)-(?P<version>\d+(\.\d+)+" + VERSION_SUFFIX + ")")


@lru_cache(maxsize=1024)
def name_key(name: str) -> tuple[bool, str, Version, str]:
    """Sort key of environments by their names: torch's versions in order of release, then all others by name.

    Names that end with a version are in the order of that: `transformers-4.9.0` comes before `transformers-4.10.0`.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(NAME, name):
        return False, "", version_key(name), name
    numbered = _NUMBERED.fullmatch(name)
    return (
        (True, numbered["what"], version_key(numbered["version"]), name)
        if numbered
        else (True, name, version_key("0"), name)
    )


def version_key(version: str) -> Version:
    """Sort key of a version (PEP 440): `2.10.0` comes after `2.9.1` and after `2.10.0.dev20251120+cpu`.

    Raises:
        ValueError: it is none.
    """
    from packaging.version import Version  # here, as `harness --help` sorts nothing

    return Version(version)


def typed() -> str:
    """What the user types to run this command: its name where the shell finds it by that, or else its path."""
    called = Path(sys.argv[0])
    if called.name != "harness":
        return "harness"
    found = shutil.which("harness")
    if found and Path(found).resolve() == called.resolve():
        return "harness"
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)

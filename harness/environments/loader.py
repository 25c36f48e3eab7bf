"""What the dynamic loader would miss: shared libraries and symbols that an exchange of packages leaves unresolved."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.environments.interpreter import files_of, packages_in
from harness.environments.packages import normal_name

_NO_FILE = re.compile(r"(?P<file>[\w.+-]+\.so[.\d]*): cannot open shared object file")
_NO_SYMBOL = re.compile(
    r"(?:(?P<asking>[\w.+-]+\.so[.\d]*): )?(?:undefined symbol: |symbol )(?P<symbol>\w+),?"
    r"(?: version (?P<version>\S+?))?(?: not defined in file (?P<file>\S+)|[\s,)]|$)"
)


@dataclass(frozen=True)
class Missing:
    """What the dynamic loader did not find.

    Attributes:
        file: name of the library that is missing, or that should define the symbol; empty if the loader does not say.
        symbol: the symbol that is missing; empty if it is the whole library.
        asking: name of the library that needs it; empty if the loader does not say.
    """

    file: str = ""
    symbol: str = ""
    asking: str = ""


def unresolved(reason: str) -> Missing | None:
    """Read a message of the dynamic loader (glibc's `ld.so`); None if it is not about a missing library or symbol."""
    if found := _NO_FILE.search(reason):
        return Missing(file=found["file"])
    if found := _NO_SYMBOL.search(reason):
        version = found["version"] or ""
        file = found["file"] or (version if ".so" in version else "")
        return Missing(file=file, symbol=found["symbol"], asking=found["asking"] or "")
    return None


def owns(site: Path, package: str, file: str) -> bool:
    """Whether a package of a site folder holds a library of this name."""
    metadata = packages_in(site).get(normal_name(package))
    return metadata is not None and any(path.name == file for path in files_of(site, metadata))


def provider(site: Path, packages: Iterable[str], missing: Missing) -> str | None:
    """The one of `packages` that holds the missing library, or a library with the missing symbol's name in it.

    The name also stands in libraries that only use the symbol, so the answer is a guess to be tried; the smallest
    library is looked at first.
    """
    there = packages_in(site)
    libraries = [
        (path, package)
        for package in packages
        if normal_name(package) in there
        for path in files_of(site, there[normal_name(package)])
        if ".so" in path.name
    ]
    for path, package in libraries:
        if path.name == missing.file:
            return package
    if not missing.symbol:
        return None
    wanted = b"\0" + missing.symbol.encode() + b"\0"
    for path, package in sorted(libraries, key=lambda item: (site / item[0]).stat().st_size):
        if _holds(site / path, wanted):
            return package
    return None


def _holds(path: Path, wanted: bytes) -> bool:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(wanted) >= 0

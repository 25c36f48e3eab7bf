"""An environment with packages of another in their place, which a counterfactual runs in, and what it then lacks."""

from __future__ import annotations

import fnmatch
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.environments.interpreter import normal_name
from harness.environments.sites import Sites


def exchange(base: Sites, other: Sites, packages: Iterable[str], target: Path) -> None:
    """Make `target`: the site folders `base` as one, with `packages` as `other` has them, or without if it has none.

    Neither `base` nor `other` is changed.

    Args:
        base: of an environment.
        other: where the packages are taken from.
        packages: names as in a lock; `NO_PACKAGE` (`harness.environments.changes`) for files of none.
        target: made; must not exist.
    """
    wanted = {normal_name(name) for name in packages}
    # Some files belong to several packages (`nvidia/__init__.py`): they go only if none of them stays.
    kept = {place: file for name, files in base.packages.items() if name not in wanted for place, file in files.items()}
    brought: dict[Path, Path] = {}
    for name in sorted(wanted & other.packages.keys()):
        brought |= {place: file for place, file in other.packages[name].items() if place not in kept | brought}
    for sites, mine, theirs in ((base, kept, brought), (other, brought, kept)):
        for place, path in sites.as_few(mine, theirs):
            sites.link(path, target / place)


# ---- what the dynamic loader would miss

_NO_FILE = re.compile(r"(?P<file>[\w.+-]+\.so[.\d]*): cannot open shared object file")
# torch's own search for its libraries (`_preload_cuda_deps`), by a pattern as a shell has them; and a module that is
# not there, of which torch 2.0 only says that its name is not defined.
_NOT_PRELOADED = re.compile(r"(?P<file>lib[\w+-]+\.so\S*) not found in the system path")
_NO_MODULE = re.compile(r"(?:No module named|name) '(?P<module>\w+)'")
_NO_SYMBOL = re.compile(
    r"(?:(?P<asking>[\w.+-]+\.so[.\d]*): )?(?:undefined symbol: |symbol )(?P<symbol>\w+),?"
    r"(?: version (?P<version>\S+?))?(?: not defined in file (?P<file>\S+)|[\s,)]|$)"
)


@dataclass(frozen=True)
class Missing:
    """What the dynamic loader, torch or Python did not find.

    Attributes:
        file: name of the library that is missing, as a pattern where torch has one, or that should define the symbol;
            the first part of a module's name; empty if the loader does not say.
        symbol: the symbol that is missing; empty if it is the whole library.
        asking: name of the library that needs it; empty if the loader does not say.
    """

    file: str = ""
    symbol: str = ""
    asking: str = ""


def unresolved(reason: str) -> Missing | None:
    """Read a message of the dynamic loader (glibc's `ld.so`) or of an import; None if it names nothing missing."""
    if found := _NO_FILE.search(reason) or _NOT_PRELOADED.search(reason):
        return Missing(file=found["file"])
    if found := _NO_MODULE.search(reason):
        return Missing(file=found["module"])
    if found := _NO_SYMBOL.search(reason):
        version = found["version"] or ""
        file = found["file"] or (version if ".so" in version else "")
        return Missing(file=file, symbol=found["symbol"], asking=found["asking"] or "")
    return None


def owns(sites: Sites, package: str, file: str) -> bool:
    """Whether a package holds a library or a module of this name."""
    return any(_is(place, file) for place in sites.packages.get(normal_name(package), ()))


def _is(path: Path, file: str) -> bool:
    """Whether a file of a site folder is a library of this name or pattern, or belongs to a module of this name."""
    return fnmatch.fnmatchcase(path.name, file) or path.parts[0] in (file, f"{file}.py")


def provider(sites: Sites, packages: Iterable[str], missing: Missing) -> str | None:
    """The one of `packages` that holds the missing library, or a library with the missing symbol's name in it.

    The name also stands in libraries that only use the symbol, so the answer is a guess to be tried; the smallest
    library is looked at first.
    """
    files = [
        (place, file, package)
        for package in packages
        for place, file in sites.packages.get(normal_name(package), {}).items()
    ]
    for place, _file, package in files:
        if _is(place, missing.file):
            return package
    if not missing.symbol:
        return None
    wanted = b"\0" + missing.symbol.encode() + b"\0"
    libraries = [(file, package) for place, file, package in files if ".so" in place.name]
    for file, package in sorted(libraries, key=lambda item: item[0].stat().st_size):
        if _holds(file, wanted):
            return package
    return None


def _holds(path: Path, wanted: bytes) -> bool:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(wanted) >= 0

"""An environment with packages of another in their place, which a counterfactual runs in, and what it then lacks."""

from __future__ import annotations

import errno
import fnmatch
import mmap
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

from harness.environments.interpreter import files_below, files_of, normal_name, packages_in
from harness.environments.lockfile import exchanged, lock_text


def exchange(base: Path, other: Path, packages: Iterable[str], target: Path) -> None:
    """Make `target`: the site folder `base` with `packages` as `other` has them, or without them if it has none.

    Neither `base` nor `other` is changed.

    Args:
        base: a site folder.
        other: where the packages are taken from.
        packages: names as in a lock.
        target: made; must not exist.
    """
    base, other = base.resolve(), other.resolve()
    mine, theirs = packages_in(base), packages_in(other)
    wanted = {normal_name(name) for name in packages}
    # Some files belong to several packages (`nvidia/__init__.py`): they go only if none of them stays.
    kept = {path for name, metadata in mine.items() if name not in wanted for path in files_of(base, metadata)}
    gone = {path for name in wanted & mine.keys() for path in files_of(base, mine[name])} - kept
    # Compiled files go with their source: one that stays behind would be taken for another version's whose source has
    # the same time and size.
    for path in files_below(base):
        if path not in gone:
            _link_with_compiled(base, target, path)
    for name in sorted(wanted & theirs.keys()):
        for path in files_of(other, theirs[name]):
            if path not in kept:
                (target / path).unlink(missing_ok=True)
                _link_with_compiled(other, target, path)


def _link_with_compiled(site: Path, target: Path, path: Path) -> None:
    """Link a file and, if it is Python that ran already, what it was compiled to: compiling torch takes long."""
    # Folders are made with their first file: an empty metadata folder would still be taken for a package.
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    _link(site / path, target / path)
    if path.suffix == ".py":
        compiled = Path(cache_from_source(str(path)))
        if (site / compiled).is_file():
            (target / compiled).parent.mkdir(exist_ok=True)
            _link(site / compiled, target / compiled)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK}:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def counterfactual(base: Path, other: Path, packages: Iterable[str]) -> str:
    """The lock `base` with `packages` as `other` has them: in its version, with its hashes, or not at all."""
    return exchanged(lock_text(base), lock_text(other), packages)


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


def owns(site: Path, package: str, file: str) -> bool:
    """Whether a package of a site folder holds a library or a module of this name."""
    metadata = packages_in(site).get(normal_name(package))
    return metadata is not None and any(_is(path, file) for path in files_of(site, metadata))


def _is(path: Path, file: str) -> bool:
    """Whether a file of a site folder is a library of this name or pattern, or belongs to a module of this name."""
    return fnmatch.fnmatchcase(path.name, file) or path.parts[0] in (file, f"{file}.py")


def provider(site: Path, packages: Iterable[str], missing: Missing) -> str | None:
    """The one of `packages` that holds the missing library, or a library with the missing symbol's name in it.

    The name also stands in libraries that only use the symbol, so the answer is a guess to be tried; the smallest
    library is looked at first.
    """
    there = packages_in(site)
    files = [
        (path, package)
        for package in packages
        if normal_name(package) in there
        for path in files_of(site, there[normal_name(package)])
    ]
    for path, package in files:
        if _is(path, missing.file):
            return package
    if not missing.symbol:
        return None
    wanted = b"\0" + missing.symbol.encode() + b"\0"
    libraries = [(path, package) for path, package in files if ".so" in path.name]
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

"""An environment with packages of another in their place, which a counterfactual runs in, and what it then lacks."""

from __future__ import annotations

import fnmatch
import mmap
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environments.changes import NO_PACKAGE
from harness.environments.interpreter import normal_name
from harness.environments.lockfile import head, head_of
from harness.environments.sites import Sites


def exchange(base: Sites, other: Sites, packages: Iterable[str], target: Path) -> None:
    """Make `target`: the site folders `base` as one, with `packages` as `other` has them, or without if it has none.

    Neither `base` nor `other` is changed.

    Args:
        base: of an environment.
        other: where the packages are taken from.
        packages: names as in a lock; `NO_PACKAGE` for the files of none.
        target: made; must not exist.
    """
    wanted = {_name(name) for name in packages}
    # Some files belong to several packages (`nvidia/__init__.py`): they go only if none of them stays.
    kept = {place: file for name, files in base.packages.items() if name not in wanted for place, file in files.items()}
    # Compiled files go with their source: one that stays behind would be taken for another version's whose source has
    # the same time and size.
    for place, file in kept.items():
        base.link(file, target / place)
    for name in sorted(wanted & other.packages.keys()):
        for place, file in other.packages[name].items():
            if place not in kept and not os.path.lexists(target / place):
                other.link(file, target / place)


def _name(package: str) -> str:
    return package if package == NO_PACKAGE else normal_name(package)


# ---- pins

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(?:===?|@)")
_OPTION = re.compile(r"^--[a-z]")


def counterfactual(base: Path, other: Path, packages: Iterable[str]) -> str:
    """The pins `base` with `packages` as `other` has them: in its version, with its hashes, or not at all."""
    mine, theirs = (_Pins.of(path) for path in (base, other))
    wanted = {_name(name) for name in packages}
    merged = {name: block for name, block in mine.blocks.items() if name not in wanted}
    merged |= {name: theirs.blocks[name] for name in wanted if name in theirs.blocks}
    options = dict.fromkeys((*mine.options, *(_second(option, mine.options) for option in theirs.options)))
    top = head(mine.python, dict.fromkeys((*mine.indexes, *theirs.indexes)))
    return top + "".join((*options, *(merged[name] for name in sorted(merged))))


def _second(option: str, first: Sequence[str]) -> str:
    """An option of another file beside those of the first, of which one may already say what the index is."""
    main = "--index-url"
    if option in first or not option.startswith(main) or not any(one.startswith(main) for one in first):
        return option
    return option.replace(main, "--extra-index-url", 1)


def all_hashed(pins: Path) -> bool:
    """Whether every package of a requirements file has a hash."""
    return all("--hash" in block for block in _Pins.of(pins).blocks.values())


@dataclass(frozen=True)
class _Pins:
    """A requirements file: each package's lines by its name, and options, such as where packages come from."""

    python: str | None
    indexes: tuple[str, ...]
    options: tuple[str, ...]
    blocks: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> _Pins:
        text = path.read_text(encoding="utf-8")
        blocks: dict[str, str] = {}
        options, current = [], ""
        for line in text.splitlines(keepends=True):
            if _OPTION.match(line):
                options.append(line)
                continue
            pin = _PIN.match(line)
            if pin:
                current = normal_name(pin["name"])
                # A package may have a line for each of several markers.
                blocks.setdefault(current, "")
            if current and not line.startswith("#"):
                blocks[current] += line
        return cls(*head_of(text), tuple(options), blocks)


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
    return any(_is(place, file) for place in sites.packages.get(_name(package), ()))


def _is(path: Path, file: str) -> bool:
    """Whether a file of a site folder is a library of this name or pattern, or belongs to a module of this name."""
    return fnmatch.fnmatchcase(path.name, file) or path.parts[0] in (file, f"{file}.py")


def provider(sites: Sites, packages: Iterable[str], missing: Missing) -> str | None:
    """The one of `packages` that holds the missing library, or a library with the missing symbol's name in it.

    The name also stands in libraries that only use the symbol, so the answer is a guess to be tried; the smallest
    library is looked at first.
    """
    files = [
        (place, file, package) for package in packages for place, file in sites.packages.get(_name(package), {}).items()
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

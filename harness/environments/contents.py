"""Which packages site folders hold, and which of their files are whose: the one place that decides it.

What an environment is known by (`harness.environments.installed`) and what is exchanged between two
(`harness.environments.sites`) are the same files: otherwise a package that differs could not be the one that is blamed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from harness.environments.interpreter import normal_name

STRAY = "*"
"""What the files of site folders are called that are no package's, such as a `sitecustomize.py`."""
_METADATA = (".dist-info", ".egg-info")
_SOURCES = (".py", ".so", ".cpp", ".cu", ".h", ".cuh", ".json")
"""Endings of files that count in a source tree that is installed in place; it may hold somebody's data, too."""


@dataclass(frozen=True)
class Package:
    """A package of a site folder, by its metadata.

    Attributes:
        name: in its normal form.
        version: as its metadata has it.
        requires: what it requires, a line each.
        metadata: its folder, or its file.
    """

    name: str
    version: str
    requires: tuple[str, ...]
    metadata: Path


@dataclass(frozen=True)
class Contents:
    """Packages and files of site folders.

    Attributes:
        packages: by name; of several of one name the first, which is the one that is imported.
        files: package, or `STRAY`, to its files: place in a site folder to where it is. Some belong to several
            packages (`nvidia/__init__.py`). Files in `__pycache__` are left out.
        hidden: package, place and path of files that nobody imports, because an earlier folder has the package, or the
            place.
    """

    packages: Mapping[str, Package]
    files: Mapping[str, Mapping[str, str]]
    hidden: tuple[tuple[str, str, str], ...]


def contents(sites: Iterable[Path]) -> Contents:
    """What is in site folders, in the order in which they are imported from.

    A file is of the packages whose installer listed it. A package without such a list (an `.egg-info`, or what a Linux
    distribution installed) has the modules that it names, or else the one of its own name, as far as they are on no
    list.

    Raises:
        OSError: a folder cannot be read.
    """
    packages: dict[str, Package] = {}
    files: dict[str, dict[str, str]] = {}
    hidden = []
    taken: set[str] = set()
    for site in sites:
        here = packages_in(site)
        owners, tops = _owners(here)
        known, there = set(packages), set()
        for one in here:
            packages.setdefault(one.name, one)
            files.setdefault(one.name, {})
        for path, place in files_in(site):
            there.add(place)
            top = place.partition("/")[0]
            for name in owners.get(place) or tops.get(top) or tops.get(top.partition(".")[0]) or (STRAY,):
                if name in known or place in taken:
                    hidden.append((name, place, path))
                else:
                    files.setdefault(name, {})[place] = path
        taken |= there
    return Contents(packages, files, tuple(hidden))


def packages_in(site: Path) -> list[Package]:
    """The packages of a site folder, by the names of their metadata; what has no name or version is none."""
    found = []
    for path in sorted(one for ending in _METADATA for one in site.glob(f"*{ending}")):
        for about in (path / "METADATA", path / "PKG-INFO", path):
            with suppress(OSError):
                read = HeaderParser().parsestr(about.read_text(encoding="utf-8", errors="replace"))
                if read["Name"] and read["Version"]:
                    requires = tuple(map(str, read.get_all("Requires-Dist") or ()))
                    found.append(Package(normal_name(read["Name"]), str(read["Version"]), requires, path))
                    break
    return found


def files_in(folder: Path, *, sources: bool = False) -> Iterator[tuple[str, str]]:
    """Files below a folder, in any order, each with its place in it; none that Python compiled.

    Of `sources`, only those that may decide what they do, and nothing in hidden folders. Paths are texts here: a GPU's
    environment has tens of thousands of them.

    Raises:
        OSError: a folder cannot be read.
    """
    root = str(folder)
    folders: list[tuple[str, tuple[str, ...]]] = [(root, (os.path.realpath(root),))]
    while folders:
        here, chain = folders.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name == "__pycache__" or (sources and entry.name.startswith(".")):
                        continue
                    real = os.path.realpath(entry.path) if entry.is_symlink() else f"{chain[-1]}/{entry.name}"
                    # A link to a folder that it is in would never end.
                    if real not in chain:
                        folders.append((entry.path, (*chain, real)))
                # A link into nowhere is no file, and nobody can import it.
                elif entry.is_file() and (not sources or entry.name.endswith(_SOURCES)):
                    yield entry.path, entry.path[len(root) + 1 :]


def _owners(packages: Iterable[Package]) -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
    """Place of a file to the packages that list it, and first part of a place to those that own what is on no list."""
    owners: dict[str, list[str]] = {}
    tops: dict[str, list[str]] = {}
    for one in packages:
        listed = _listed(one.metadata)
        for place in listed:
            owners.setdefault(place, []).append(one.name)
        for top in {one.metadata.name, *(() if listed else _modules(one))}:
            tops.setdefault(top, []).append(one.name)
    return owners, tops


def _listed(metadata: Path) -> set[str]:
    """Places of a package's files in its site folder, as its installer listed them; none where it did not."""
    with suppress(OSError, UnicodeError, csv.Error), (metadata / "RECORD").open(encoding="utf-8", newline="") as file:
        return {os.path.normpath(row[0]) for row in csv.reader(file) if row}
    with suppress(OSError, UnicodeError):  # pip's list for what has no RECORD, relative to the metadata
        lines = (metadata / "installed-files.txt").read_text(encoding="utf-8").splitlines()
        return {os.path.normpath(f"{metadata.name}/{line}") for line in lines if line}
    return set()


def _modules(package: Package) -> list[str]:
    """The modules of a package that has no list of its files."""
    with suppress(OSError, UnicodeError):
        return (package.metadata / "top_level.txt").read_text(encoding="utf-8").split()
    return [package.name.replace("-", "_")]

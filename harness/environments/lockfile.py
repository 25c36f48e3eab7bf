"""Locks: the shared part resolved once, then one hash-carrying lock for each version and flavour.

A lock is a requirements file with hashes, made by `uv pip compile`. Resolving each version by itself would pick other
versions of shared packages (a plain resolve beside colbert-ai gives datasets 5.0.1 with one torch and 2.14.4 with
another), so the shared part is resolved without torch and constrains every version's lock.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from harness.errors import UsageError
from harness.inputs.matrix import Build, Flavour, Matrix

FLAVOURS: tuple[Flavour, ...] = ("cpu", "gpu")
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+) ?\\?$")
_HASH = re.compile(r"^\s+--hash=sha256:[0-9a-f]{64}(?: \\)?$")
_HEAD = re.compile(r"^# (?P<field>python|indexes): (?P<value>\S+)$")
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?(?P<parent>(?!via\s*$)[A-Za-z0-9._-]+)\s*$")


@dataclass(frozen=True)
class Lock:
    """One lock file as read.

    Attributes:
        path: the file.
        packages: name to version.
        parents: name to what requires it, as the resolver noted it: packages, `matrix.yaml`, `shared.txt`.
        digest: blake3 of the pins and hashes, without comments, so that a new note does not rebuild an environment;
            and of `python`.
        python: what it was resolved for, where that is not the matrix's.
        indexes: names of the indexes that have what uv's own does not.
        own: kind and torch of an environment of the user's own (`harness.environments.own`), of which this says what
            is installed; None for a version of the matrix.
        digests: package to the digest of its files, where these were read; a package of the same version may be
            another build, or may have been changed in place.
        interpreter: implementation and version of its Python, where that was read, such as `CPython 3.11.7`.
    """

    path: Path
    packages: dict[str, str]
    parents: dict[str, frozenset[str]]
    digest: str
    python: str | None = None
    indexes: tuple[str, ...] = ()
    own: Mapping[str, str] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    interpreter: str = ""

    def torch_closure(self) -> frozenset[str]:
        """`torch` and everything that torch, directly or not, requires, whoever else requires it too."""
        closure = {"torch"}
        while True:
            grown = closure | {name for name, parents in self.parents.items() if parents & closure}
            if grown == closure:
                return frozenset(closure)
            closure = grown


def lock_path(locks: Path, version: str, flavour: Flavour) -> Path:
    """Where the lock of one environment is."""
    return locks / flavour / f"torch-{version.replace('.', '-')}.txt"


def shared_path(locks: Path, flavour: Flavour) -> Path:
    """Where the constraints of one flavour are."""
    return locks / flavour / "shared.txt"


def lock_of(matrix: Matrix, locks: Path, version: str, flavour: Flavour, build: Build | None = None) -> Lock:
    """The lock of a version of the matrix, or of another build of it.

    Raises:
        UsageError: the matrix has no such version, there is no lock, or it was made for another Python.
    """
    found = read_lock(lock_path(locks, build.version if build else matrix.require(version), flavour))
    made, wanted = found.python or matrix.python, matrix.python_of(version, flavour)
    if made != wanted:
        raise UsageError(
            f"{found.path} is for Python {made}, and matrix.yaml has {wanted} for {version}: run `nox -s lock -- "
            f"{version}`."
        )
    return found


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        UsageError: there is no such file, or a line is not a pin with hashes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: no lock for this version ({error.strerror}): run `nox -s lock`.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a lock (it is not UTF-8 text): run `nox -s lock`.") from error
    try:
        return Lock(path, *parse(text), *head_of(text))
    except ValueError as error:
        raise UsageError(f"{path}{error}: run `nox -s lock`.") from error


def head(python: str | None, indexes: Iterable[str]) -> str:
    """The lines with which a lock begins where it is not for the matrix's Python, or not from uv's own index alone."""
    fields = {"python": python or "", "indexes": ",".join(indexes)}
    return "".join(f"# {name}: {value}\n" for name, value in fields.items() if value)


def head_of(text: str) -> tuple[str | None, tuple[str, ...]]:
    """Python and indexes of a lock's first lines; see `head`."""
    found = itertools.takewhile(bool, map(_HEAD.match, text.splitlines()))
    fields = {line["field"]: line["value"] for line in found if line}
    return fields.get("python"), tuple(name for name in fields.get("indexes", "").split(",") if name)


# By content: thousands of cells share the same few dozen locks, and a file that changed is another text.
@functools.lru_cache(maxsize=128)
def parse(text: str) -> tuple[dict[str, str], dict[str, frozenset[str]], str]:
    """Packages, parents and digest of a lock's text; a `ValueError` goes on after the file's name."""
    packages: dict[str, str] = {}
    parents: dict[str, set[str]] = {}
    unhashed: set[str] = set()
    content: list[str] = []
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        via = _VIA.match(line)
        if via and current:
            # A direct requirement's note is `matrix.yaml`, that of a constrained package `shared.txt` besides.
            parents[current].add(via["parent"].lower())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        content.append(line.strip())
        pin = _PIN.match(line)
        if pin and pin["name"].lower() not in packages:
            current = pin["name"].lower()
            packages[current], parents[current] = pin["version"], set()
            unhashed.add(current)
        elif current and _HASH.match(line):
            unhashed.discard(current)
        else:
            raise ValueError(f", line {number}: not a pin with hashes, or a second one")
    if not packages or unhashed:
        what = f"{min(unhashed)} has no hash" if unhashed else "it pins nothing"
        raise ValueError(f": not a lock ({what})")
    python, _indexes = head_of(text)
    # The same pins in another Python are another environment.
    digest = blake3("\n".join([*([python] if python else []), *content]).encode()).hexdigest()
    return packages, {name: frozenset(who) for name, who in parents.items()}, digest


def difference(a: Lock, b: Lock) -> dict[str, tuple[str | None, str | None]]:
    """Packages whose version differs between two locks: name to (version in `a`, version in `b`), None where absent."""
    names = sorted({*a.packages, *b.packages})
    return {
        name: (a.packages.get(name), b.packages.get(name))
        for name in names
        if a.packages.get(name) != b.packages.get(name)
    }

"""What differs between two locks, row by row, where a package may have another name in each.

What is no package, and differs all the same, has a row, too: the interpreter, and files of no package.

NVIDIA names a library after the CUDA version that it is for (`nvidia-cublas-cu12`), and from CUDA 13 on without it
(`nvidia-cublas`). By name alone one would have gone and another come; what a reader asks is which version became which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.environments.contents import STRAY
from harness.environments.lockfile import Lock
from harness.inputs.matrix import Matrix

NVIDIA = ("nvidia-", "cuda-")
"""How the names of NVIDIA's packages begin."""
NO_PACKAGE = "files of no package"
"""What those are called beside packages."""
PYTHON = "python"
"""What the interpreter is called beside packages."""
_FOR_CUDA = re.compile(r"-cu(\d+)$")


def library_of(package: str) -> str:
    """A package's name without the CUDA version that it is for: `nvidia-cublas` of `nvidia-cublas-cu12`."""
    return _FOR_CUDA.sub("", package)


@dataclass(frozen=True)
class Change:
    """A package that differs between two locks.

    Attributes:
        name_a: its name in A; None where it is not there.
        version_a: its version there.
        name_b: its name in B; None where it is not there.
        version_b: its version there.
    """

    name_a: str | None
    version_a: str | None
    name_b: str | None
    version_b: str | None

    @property
    def name(self) -> str:
        """Its name in B, or in A where B has it not."""
        return self.name_b or self.name_a or ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it has, that in A first."""
        return tuple(dict.fromkeys(name for name in (self.name_a, self.name_b) if name))

    @property
    def renamed_from(self) -> str | None:
        """Its name in A, where B has it under another one."""
        return self.name_a if len(self.names) > 1 else None

    @property
    def versions(self) -> str:
        """`OLD -> NEW`; with the new name, where that changed."""
        new = f"{self.name_b} {self.version_b}" if self.renamed_from else self.version_b
        return f"{self.version_a or 'absent'} -> {new or 'absent'}"

    @property
    def title(self) -> str:
        """`NAME OLD -> NEW`, or `NAME OLD -> NEWNAME NEW`."""
        return f"{self.names[0]} {self.versions}"


def changes(a: Lock, b: Lock) -> tuple[Change, ...]:
    """What differs between two locks, by name.

    What torch requires of a library is compared with what the other torch requires of it, whatever the names; anything
    else with the package of the same name, or else of the same library. So one package of A can be in two rows: torch
    2.10.0 and faiss share one cuBLAS, and with 2.11.0 each has its own.
    """
    ours, theirs = _Side.of(a), _Side.of(b)
    pairs: set[tuple[str | None, str | None]] = {(name, ours.counterpart(name, theirs)) for name in a.packages}
    pairs |= {(theirs.counterpart(name, ours), name) for name in b.packages}
    found = [Change(old, _shown(a, old, b, new), new, _shown(b, new, a, old)) for old, new in pairs]
    if a.digests and b.digests and a.digests.get(STRAY) != b.digests.get(STRAY):
        stray = [f"files {lock.digests[STRAY][:8]}" if STRAY in lock.digests else None for lock in (a, b)]
        found.append(Change(NO_PACKAGE, stray[0], NO_PACKAGE, stray[1]))
    if a.interpreter and b.interpreter and not _same_python(a.interpreter, b.interpreter):
        found.append(Change(PYTHON, a.interpreter, PYTHON, b.interpreter))
    return tuple(
        sorted(
            (one for one in found if (one.name_a, one.version_a) != (one.name_b, one.version_b)),
            key=lambda one: (one.name, one.names),
        )
    )


def _same_python(a: str, b: str) -> bool:
    """Whether two interpreters are the same, as far as is known of both; see `Lock.interpreter`."""
    return all(one == other for one, other in zip(a.split("."), b.split("."), strict=False))


def _shown(lock: Lock, name: str | None, other: Lock, other_name: str | None) -> str | None:
    """A package's version; with a digest of its files, where those are all that differs and both sides know them."""
    version, files, others = lock.packages.get(name or ""), lock.digests.get(name or ""), other.digests.get(name or "")
    same = name == other_name and version == other.packages.get(name or "")
    return f"{version} (files {files[:8]})" if same and files and others and files != others else version


@dataclass(frozen=True)
class _Side:
    """A lock's packages by library, and which of them torch requires."""

    libraries: dict[str, list[str]]
    torchs: frozenset[str]

    @classmethod
    def of(cls, lock: Lock) -> _Side:
        libraries: dict[str, list[str]] = {}
        for name in sorted(lock.packages):
            libraries.setdefault(library_of(name), []).append(name)
        return cls(libraries, lock.torch_closure())

    def counterpart(self, name: str, other: _Side) -> str | None:
        """The package of another lock that a package of this one is to be compared with."""
        same = other.libraries.get(library_of(name), [])
        alike = [one for one in same if (one in other.torchs) == (name in self.torchs)]
        if name in same and not (name in self.torchs and alike and name not in alike):
            return name
        return alike[0] if alike else None


def undeclared(matrix: Matrix, a: Lock, b: Lock) -> list[Change]:
    """What differs between two locks although what is varied does not require it nor the allow-list names it.

    What is varied is torch, or the package of an axis; between points of two axes, it is both.
    """
    axes = {a.varied, b.varied}
    free = frozenset[str]().union(*(lock.closure(package) for lock in (a, b) for package in axes))
    return [
        one
        for one in changes(a, b)
        # Which Python a version has, matrix.yaml says itself.
        if one.name != PYTHON
        and not free.intersection(one.names)
        and not all(matrix.may_differ(name, axes) for name in one.names)
    ]


def required_by(change: Change, a: Lock, b: Lock) -> tuple[str, ...]:
    """What requires a package in B, or in A where B has it not: what is varied, directly or not, or else others.

    What is varied is torch, or the package of an axis. Others are packages, or `matrix.yaml` where nothing but the
    experiment asks for it.
    """
    lock = b if change.name_b else a
    for package in (b.varied, a.varied):
        if change.name in lock.closure(package):
            return (package,)
    who = lock.parents.get(change.name, frozenset())
    return tuple(sorted(who & lock.packages.keys() or who - {"shared.txt"}))


def cuda_of(lock: Lock) -> int | None:
    """The major version of CUDA that a lock's torch is built for: that of the CUDA runtime which it requires."""
    for name in lock.torch_closure():
        if library_of(name) == "nvidia-cuda-runtime":
            return int(lock.packages[name].partition(".")[0])
    return None

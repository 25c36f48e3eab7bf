"""Packages that can only be exchanged together, and the search for the few that matter."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.environments.changes import NVIDIA, PYTHON, Change, library_of
from harness.environments.lockfile import Lock
from harness.explain.bound import Bound

AS_A, AS_B, NEITHER, UNRESOLVED = "as A", "as B", "as neither", "unresolved"
NOT_EXCHANGEABLE = "not exchangeable"
"""Of a part that can only be exchanged with others: nothing was built or run."""


@dataclass(frozen=True)
class Unit:
    """Packages that are exchanged together: a family, NVIDIA's libraries or one of them, or one package.

    Attributes:
        name: what it is called.
        packages: names as in a lock; both, where a package has another one in B.
        versions: `A -> B` where it is one package; otherwise empty.
        contents: `NAME A -> B` of each package.
        parts: the units that it can be split into, or could if they could be exchanged one by one.
        inseparable: why they cannot; part of a sentence.
    """

    name: str
    packages: tuple[str, ...]
    versions: str = ""
    contents: tuple[str, ...] = ()
    parts: tuple[Unit, ...] = ()
    inseparable: str = ""

    @property
    def title(self) -> str:
        """Its name, with versions if they are known."""
        return f"{self.name} {self.versions}".strip()

    @property
    def divisible(self) -> bool:
        """Whether it can be split."""
        return bool(self.parts) and not self.inseparable


@dataclass(frozen=True)
class Outcome:
    """What one counterfactual environment gave.

    Attributes:
        base: `A` or `B`: whose environment it is, but for `units`.
        units: names of the units taken from the other side.
        result: `as A`, `as B`, `as neither` or `unresolved`.
        outcome: the job's or the build's outcome.
        reason: one sentence where it is unresolved.
        digest: of the result; empty where there is none.
        along: packages of no unit that were exchanged too, because what was exchanged does not load without them.
        kept: packages of the units that were not exchanged, because what stayed does not load without them.
    """

    base: str
    units: tuple[str, ...]
    result: str
    outcome: str = "ok"
    reason: str = ""
    digest: str = ""
    along: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def remark(self) -> str:
        """What went along or stayed, as part of a sentence; empty where nothing did."""
        along = f", with {' and '.join(self.along)}, without which it does not load" if self.along else ""
        kept = f", but for {' and '.join(self.kept)}, without which the rest does not load" if self.kept else ""
        return along + kept


def exchanged(units: Sequence[Unit], outcome: Outcome) -> list[str]:
    """The packages that a counterfactual environment has of the other side in fact."""
    asked = [package for name in outcome.units for unit in units if unit.name == name for package in unit.packages]
    return [package for package in (*asked, *outcome.along) if package not in outcome.kept]


@dataclass(frozen=True)
class Family:
    """Packages that are asked about together, because they are made for each other.

    Attributes:
        name: what the unit of them is called.
        patterns: of their names, as a shell has them.
        requires: whether what only they require belongs to them, too.
    """

    name: str
    patterns: tuple[str, ...]
    requires: bool = False


TORCH = Family("torch", ("torch", "triton", "pytorch-triton*", *(f"{start}*" for start in NVIDIA)), requires=True)
FAMILIES = (
    TORCH,
    Family("transformers", ("transformers", "tokenizers"), requires=True),
    Family("faiss", ("faiss*",)),
    Family("numpy", ("numpy",)),
    Family("colbert-ai", ("colbert-ai",)),
    Family(PYTHON, (PYTHON,)),
)
"""In the order in which they are tried."""
OTHERS = "other packages"
_SHOWN = 3
_APART = ("nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn")
"""Libraries of NVIDIA that compute or launch what an index job runs, in the order in which they are tried."""


def units_of(
    changed: Sequence[Change], *, locks: Sequence[Lock] = (), apart: bool = False, bound: Bound | None = None
) -> tuple[Unit, ...]:
    """Group what differs into units that are tried one after the other: one for each family, and one of the rest.

    Every package is in one unit. The parts of a unit are what it can be split into once it is blamed: torch, NVIDIA's
    libraries, and each other package alone. Where nothing but torch's family and packages of none differ, torch's parts
    are units of their own right away. Where torch's library has another name in B and faiss keeps the package of the
    old name, the old name is a unit of its own.

    Args:
        changed: what differs.
        locks: say which package requires which.
        apart: whether cuBLAS, the CUDA runtime and cuDNN are parts of their own.
        bound: changes that cannot be exchanged one by one; they are the first part of torch's family.
    """
    known = _families(changed, locks)
    groups: dict[Family | None, list[Change]] = {family: [] for family in (*FAMILIES, None)}
    for one in changed:
        # What is bound to torch goes with it, such as a faiss for another CUDA.
        groups[TORCH if bound is not None and one in bound.changes else known.get(one.name)].append(one)
    units: list[Unit] = []
    for family, members in groups.items():
        parts = _parts(members, changed, apart=apart, bound=bound)
        units += [_whole(_called(family, parts), parts)] if len(parts) > 1 else parts
    if not any(members for family, members in groups.items() if family not in (TORCH, None)):
        first = _parts(groups[TORCH], changed, apart=apart, bound=bound)
        units[: 1 if first else 0] = first
    if len(units) == 1 and units[0].divisible:
        return units[0].parts
    return tuple(units)


def _families(changed: Sequence[Change], locks: Sequence[Lock]) -> dict[str, Family]:
    """Package to its family, for those that have one."""
    names = {name for one in changed for name in one.names}.union(*(lock.packages for lock in locks))
    found = {
        name: family
        for name in names
        for family in FAMILIES
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in family.patterns)
    }
    while True:
        more = {}
        for name in names - found.keys():
            asking = {found.get(parent) for lock in locks for parent in lock.parents.get(name, ())}
            only = asking.pop() if len(asking) == 1 else None
            if only is not None and only.requires:
                more[name] = only
        if not more:
            return found
        found |= more


def _called(family: Family | None, parts: Sequence[Unit]) -> str:
    """What a unit of several parts is called: `transformers (with tokenizers)`.

    It is the name of none of them, and has no comma, which stands between units in the table.
    """
    if family is None:
        return OTHERS
    names = [part.name for part in parts if part.name != family.name]
    shown = names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], f"{len(names) - _SHOWN + 1} more"]
    return f"{family.name} ({'with ' if len(names) < len(parts) else ''}{' and '.join(shown)})"


def _whole(name: str, parts: Sequence[Unit]) -> Unit:
    return Unit(
        name, tuple(package for part in parts for package in part.packages),
        contents=tuple(title for part in parts for title in part.contents), parts=tuple(parts),
    )  # fmt: skip


def _parts(some: Sequence[Change], changed: Sequence[Change], *, apart: bool, bound: Bound | None) -> list[Unit]:
    """What the changes of one family can be exchanged as: torch, NVIDIA's libraries, and each other package alone."""
    kept = {one.name for one in changed if not one.renamed_from}

    def unit(name: str, some: Sequence[Change], versions: str = "") -> Unit:
        packages = [name for one in some for name in one.names if not (one.renamed_from and name in kept)]
        return Unit(name, tuple(packages), versions, tuple(one.title for one in some))

    def grouped(some: Sequence[Change]) -> list[Unit]:
        ours = [one for one in some if one.name.startswith(NVIDIA)]
        single = [one for name in _APART for one in ours if apart and library_of(one.name) == name]
        group = [one for one in ours if one not in single]
        others = [one for one in some if one not in ours]
        first = [one for one in others if one.name == "torch"] + single
        rest = [one for one in others if one.name != "torch"]
        name = "other NVIDIA libraries" if single else "NVIDIA libraries"
        return [
            *(unit(one.names[0], [one], one.versions) for one in first),
            *([unit(name, group)] if group else []),
            *(unit(one.names[0], [one], one.versions) for one in rest),
        ]

    together = [one for one in some if bound is not None and one in bound.changes]
    if bound is None or not together:
        return grouped(some)
    whole = _whole("torch with its CUDA libraries", grouped(together))
    whole = replace(whole, versions=bound.versions, inseparable=bound.reason)
    return [whole, *grouped([one for one in some if one not in together])]


def narrow(
    units: Sequence[Unit], reproduces: Callable[[Sequence[Unit]], bool], *, together: bool = False
) -> tuple[Unit, ...]:
    """The smallest part of `units` that still reproduces, by delta debugging; nothing if not even all of them do.

    The result is 1-minimal: without any one of its units it does not reproduce. Units alone are tried first, in order,
    if it is not known that none of them does it (`together`).
    """
    for unit in () if together else units:
        if reproduces([unit]):
            return (unit,)
    if not reproduces(list(units)):
        return ()
    current, parts = list(units), 2
    while len(current) > _FEW:
        size = -(-len(current) // parts)
        chunks = [current[i : i + size] for i in range(0, len(current), size)]
        rests = [[unit for unit in current if unit not in chunk] for chunk in chunks]
        smaller = next((rest for rest in (*chunks, *rests) if 0 < len(rest) < len(current) and reproduces(rest)), None)
        if smaller is not None:
            current, parts = smaller, 2
        elif parts >= len(current):
            return tuple(current)
        else:
            parts = min(parts * 2, len(current))
    return _without_needless(current, reproduces)


_FEW = 8
"""Up to so many units it takes fewer runs to leave them out one by one than to halve them."""


def _without_needless(units: list[Unit], reproduces: Callable[[Sequence[Unit]], bool]) -> tuple[Unit, ...]:
    """Leave out every unit that is not needed, the least likely first, until none can be left out."""
    found = True
    while found:
        found = False
        for unit in reversed(list(units)):
            rest = [other for other in units if other is not unit]
            if rest and reproduces(rest):
                units, found = rest, True
    return tuple(units)

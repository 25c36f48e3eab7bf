"""Packages that can only be exchanged together, and the search for the few that matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.environments.changes import NVIDIA, Change, library_of
from harness.explain.bound import Bound

AS_A, AS_B, NEITHER, UNRESOLVED = "as A", "as B", "as neither", "unresolved"
NOT_EXCHANGEABLE = "not exchangeable"
"""Of a part that can only be exchanged with others: nothing was built or run."""


@dataclass(frozen=True)
class Unit:
    """Packages that are exchanged together: `torch`, NVIDIA's libraries or one of them, or one other package.

    Attributes:
        name: what it is called.
        packages: names as in a lock; both, where a package has another one in B.
        versions: `A -> B` where it is one package; otherwise empty.
        contents: `NAME A -> B` of each package.
        parts: the units that it would be if they could be exchanged one by one; otherwise empty.
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


_APART = ("nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn")
"""Libraries of NVIDIA that compute or launch what an index job runs, in the order in which they are tried."""


def units_of(changed: Sequence[Change], *, apart: bool = False, bound: Bound | None = None) -> tuple[Unit, ...]:
    """Group the packages that differ: torch first, then NVIDIA's libraries, then each other alone.

    Every package is in one unit. Where torch's library has another name in B and faiss keeps the package of the old
    name, the old name is a unit of its own.

    Args:
        changed: what differs.
        apart: whether cuBLAS, the CUDA runtime and cuDNN are units of their own.
        bound: changes that cannot be exchanged one by one; they are the first unit.
    """
    kept = {one.name for one in changed if not one.renamed_from}

    def unit(name: str, some: Sequence[Change], versions: str = "") -> Unit:
        packages = [name for one in some for name in one.names if not (one.renamed_from and name in kept)]
        return Unit(name, tuple(packages), versions, tuple(one.title for one in some))

    def grouped(some: Sequence[Change]) -> tuple[Unit, ...]:
        ours = [one for one in some if one.name.startswith(NVIDIA)]
        single = [one for name in _APART for one in ours if apart and library_of(one.name) == name]
        group = [one for one in ours if one not in single]
        others = [one for one in some if one not in ours]
        first = [one for one in others if one.name == "torch"] + single
        rest = [one for one in others if one.name != "torch"]
        name = "other NVIDIA libraries" if single else "NVIDIA libraries"
        return (
            *(unit(one.names[0], [one], one.versions) for one in first),
            *([unit(name, group)] if group else []),
            *(unit(one.names[0], [one], one.versions) for one in rest),
        )

    if bound is None:
        return grouped(changed)
    parts = grouped([one for one in changed if one in bound.changes])
    return (
        Unit(
            "torch with its CUDA libraries",
            tuple(name for part in parts for name in part.packages),
            bound.versions,
            tuple(title for part in parts for title in part.contents),
            parts,
            bound.reason,
        ),
        *grouped([one for one in changed if one not in bound.changes]),
    )


def narrow(units: Sequence[Unit], reproduces: Callable[[Sequence[Unit]], bool]) -> tuple[Unit, ...]:
    """The smallest part of `units` that still reproduces, by delta debugging; nothing if not even all of them do.

    The result is 1-minimal: without any one of its units it does not reproduce. Units alone are tried first, in order.
    """
    for unit in units:
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

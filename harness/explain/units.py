"""Packages that can only be exchanged together, and the search for the few that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

AS_A, AS_B, NEITHER, UNRESOLVED = "as A", "as B", "as neither", "unresolved"


@dataclass(frozen=True)
class Unit:
    """Packages that are exchanged together: `torch`, NVIDIA's libraries or one of them, or one other package.

    Attributes:
        name: what it is called.
        packages: names as in a lock.
        versions: `A -> B` where it is one package; otherwise empty.
    """

    name: str
    packages: tuple[str, ...]
    versions: str = ""

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


_APART = ("nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn")
"""Libraries of NVIDIA that compute or launch what an index job runs, in the order in which they are tried."""


def units_of(
    changed: Mapping[str, tuple[str | None, str | None]] | Iterable[str], *, apart: bool = False
) -> tuple[Unit, ...]:
    """Group the packages that differ: torch first, then NVIDIA's libraries, then each other alone.

    Args:
        changed: packages; a mapping gives their versions in A and B.
        apart: whether cuBLAS, the CUDA runtime and cuDNN are units of their own.
    """
    names = sorted(changed)

    def one(name: str) -> Unit:
        if not isinstance(changed, Mapping):
            return Unit(name, (name,))
        return Unit(name, (name,), " -> ".join(version or "absent" for version in changed[name]))

    single = [name for prefix in _APART for name in names if apart and name.startswith(prefix)]
    nvidia = tuple(name for name in names if name.startswith("nvidia-") and name not in single)
    group = [Unit("other NVIDIA libraries" if single else "NVIDIA libraries", nvidia)] if nvidia else []
    rest = [one(name) for name in names if name != "torch" and not name.startswith("nvidia-")]
    return (*(one(name) for name in ("torch",) if name in names), *map(one, single), *group, *rest)


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

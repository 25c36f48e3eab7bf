"""Stand-ins for the experiment that `find` makes of an exchange of packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.explain.units import AS_A, AS_B, NEITHER, UNRESOLVED, Outcome, Unit


def observer(guilty: set[str], broken: Sequence[set[str]] = ()) -> Callable[[str, Sequence[Unit]], Outcome]:
    """A world in which exactly the packages, or units, in `guilty`, together, decide the result."""

    def observe(base: str, units: Sequence[Unit]) -> Outcome:
        names = {unit.name for unit in units}
        if names in broken:
            return Outcome(base, tuple(names), UNRESOLVED, "import_failed", "it does not import")
        taken = guilty & {name for unit in units for name in (unit.name, *unit.packages)}
        result = NEITHER if taken and taken != guilty else base if not taken else "B" if base == "A" else "A"
        return Outcome(base, tuple(names), {"A": AS_A, "B": AS_B}.get(result, NEITHER))

    return observe

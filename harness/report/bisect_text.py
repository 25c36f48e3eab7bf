"""What a bisection found, in sentences and as one JSON object."""

from __future__ import annotations

from typing import Any

from harness.explain.bisect import Bisection
from harness.report.kinds import Kinds
from harness.words import count


def sentences(found: Bisection) -> list[str]:
    """The answer first, then what it rests on, and what it leaves open."""
    a, b = found.builds[0], found.builds[-1]
    skipped = [look for look in found.looks if look.result == "skipped"]
    looked = len(found.looks) - len(skipped)
    lines = []
    if found.first_changed is None or found.last_same is None:
        lines.append(f"Nothing changed from {a} to {b}. A change that was taken back between them would not be seen.")
    elif found.between:
        lines.append(
            f"{_names(found.changed)} changed between {found.last_same} and {found.first_changed}. Which build of the "
            f"{len(found.between) + 1} after {found.last_same} did it cannot be said: "
            f"{count(len(found.between), 'build')} between them could not be looked at."
        )
        lines += [f"  {look.version}: {look.reason}" for look in found.between]
    else:
        lines.append(
            f"{found.first_changed} is the first build that is not as {a}: {_names(found.changed)} changed from "
            f"{found.last_same}, its neighbour."
        )
    if found.later:
        lines.append(
            f"{b} is not as {found.first_changed} either ({_names(found.later)}), so there is a later change, too: "
            f"`harness bisect {found.first_changed} {b}` with the same options finds it."
        )
    if found.noisy:
        lines.append(f"Not counted, since a repeat changes as much: {_names(found.noisy)}.")
    lines.append(
        f"{len(found.builds)} builds, of which {looked + 1} were compared"
        f"{f' and {len(skipped)} skipped' if skipped else ''}."
    )
    return lines


def _names(artifacts: tuple[str, ...]) -> str:
    return ", ".join(Kinds(artifacts).labels(artifacts))


def to_json(found: Bisection) -> dict[str, Any]:
    """One object; `first_changed` and `last_same` are null where nothing changed."""
    return {
        "a": found.builds[0],
        "b": found.builds[-1],
        "builds": len(found.builds),
        "last_same": found.last_same,
        "first_changed": found.first_changed,
        "between": [{"version": look.version, "reason": look.reason} for look in found.between],
        "changed": list(found.changed),
        "later": list(found.later),
        "noise": list(found.noisy),
        "looked_at": [
            {"version": look.version, "result": look.result, "changed": list(look.changed), "reason": look.reason}
            for look in found.looks
        ],
    }

"""How a quickstart ends: what its table means, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.reduce import Reduced


def closing(reduced: Reduced, command: str, options: str) -> Iterator[str]:
    """Sentences below the table of a quickstart.

    Args:
        reduced: the one step of it.
        command: what `harness` is typed as here.
        options: those by which another command finds the same cells.
    """
    row, pair = reduced.rows[0], next(one for one in reduced.pairs if one.kind == "consecutive")
    step = f"{row.a} {row.b}"
    if row.gap:
        yield f"What it means: nothing yet, as one of the two versions has no index ({row.gap})."
        yield f"Next: `{command} doctor` says what this machine can run, and what it cannot."
        return
    if not row.changed:
        yield (
            f"What it means: on this CPU, torch {row.b} makes the same index as {row.a} from these passages, bit for "
            "bit. It says nothing of other devices, and nothing of passages that were not indexed."
        )
        yield f"Next: `{command} plan` shows a sweep over all versions; --collection takes passages of your own."
        return
    start = f", first in {pair.first_changed}" if pair.first_changed else ""
    yield (
        f"What it means: on this CPU, torch {row.b} makes another index than {row.a} from the same passages{start}. "
        "Neither is wrong: they round differently. The line about the noise floor says whether this machine does so by "
        "itself, and the answer about the index whether anybody must act on it."
    )
    yield f"Next, which operator it starts in:  {command} locate {step} {options}"
    yield f"And which package makes it:         {command} blame {step} {options}"

"""What `swap` found as a table, as a sentence, and as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from harness.explain.difference import Difference, amount
from harness.explain.swap import Swapped
from harness.report.parquet import picked


def table(swapped: Swapped) -> Table:
    """One swapped run as a table."""
    title = (
        f"{swapped.job}'s job with {', '.join(swapped.artifacts)} of {swapped.values_of}, against {swapped.reference}"
    )
    columns = ("Artifact", "", "Difference")
    made = Table(*columns, title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    downstream = set(swapped.downstream)
    for name in swapped.cell.artifacts:
        differs = swapped.differences.get(name)
        place = "swapped" if name in swapped.artifacts else "after it" if name in downstream else "before or beside it"
        made.add_row(
            name, place, how(differs) if differs else "bit for bit equal", style="yellow" if differs else "green"
        )
    return made


def how(found: Difference) -> str:
    """How an artifact differs from the reference's, in words."""
    if found.a is None or found.b is None:
        return "on one side only"
    if found.metrics is not None:
        return amount(found.metrics)
    return "differs in shape" if found.a.shape != found.b.shape else "differs"


def sentence(swapped: Swapped) -> str:
    """What one swapped run says."""
    what = f"{', '.join(swapped.artifacts)} of {swapped.values_of} in the job of {swapped.job}"
    if swapped.gate:
        state = "changes nothing" if not swapped.differences else f"changes {', '.join(swapped.differences)}"
        return f"Gate: {what} {state}."
    if swapped.later is not None:
        return _from_step_on(swapped, what)
    final = [name for name in swapped.differences if swapped.cell.job_kind.is_final(name)]
    after = [name for name in swapped.downstream if name in swapped.differences]
    if not final:
        return f"With {what}, the whole {swapped.cell.job_kind.product} is bit for bit that of {swapped.reference}."
    if not after:
        return (
            f"With {what}, everything computed from it is bit for bit that of {swapped.reference}; "
            f"{', '.join(final)} still differ for another reason."
        )
    return f"With {what}, these still differ from {swapped.reference}: {', '.join(after)}."


def _from_step_on(swapped: Swapped, what: str) -> str:
    """What one swapped run of a training says: whether it goes on as the other side's does."""
    if swapped.resolved:
        return f"With {what}, everything from step {swapped.since} on is bit for bit that of {swapped.reference}."
    kind = swapped.cell.job_kind
    if not swapped.later:
        return f"With {what}, the trained weights still differ from {swapped.reference}, and no step says where."
    step = min(swapped.later.values())
    names = kind.in_order(name for name, first in swapped.later.items() if first == step)
    known = kind.known(names[0])
    return (
        f"With {what}, the training differs from that of {swapped.reference} in step {step}, first in "
        f"{known.step if known else names[0]} ({names[0]})."
    )


def rows(swapped: Sequence[Swapped]) -> list[dict[str, Any]]:
    """One row per run and artifact, for `swaps.parquet`."""
    return [
        {
            "cell": one.job,
            **picked(one, "values_of", "reference"),
            "artifacts": ",".join(one.artifacts),
            "artifact": name,
            "final": one.cell.job_kind.is_final(name),
            "bit_equal": name not in one.differences,
            "difference": how(one.differences[name]) if name in one.differences else None,
            "key": one.cell.key,
        }
        for one in swapped
        for name in one.cell.artifacts
    ]

"""What a store holds, what is wrong with it and what was tidied, as lines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from harness.errors import printable
from harness.running.choice import describe
from harness.store.audit import Collected, Finding, Stock, counts
from harness.store.cell import Cell
from harness.store.store import Store, tell_apart
from harness.words import count, size


def listing(store: Store) -> Iterator[str]:
    """The cells group by group, with the size of their tensors; one that several cells have counts once in a sum.

    Where cells of a group have one label, what tells them apart stands at the end of their lines.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in store.cells():
        groups.setdefault(cell.group, []).append(cell)
    if not groups:
        yield f"{store.root} holds no cells: run `harness index VERSION` first."
        return
    width = max(10, *(len(printable(cell.label)) for cells in groups.values() for cell in cells))
    yield f"  {'key':12}  {'label':{width}}  {'outcome':14}  {'capture':7}  {'size':>11}  finished"
    everything: dict[str, int] = {}
    for group, cells in groups.items():
        sizes = [_sizes(store, cell) for cell in cells]
        whole = {digest: number for one in sizes for digest, number in one.items()}
        everything |= whole
        yield f"{group[:12]}  {describe(cells)}: {count(len(cells), 'cell')}, {size(sum(whole.values()))}"
        for cell, name, own in zip(cells, tell_apart(cells), sizes, strict=True):
            yield (
                f"  {cell.key[:12]}  {printable(cell.label):{width}}  {cell.outcome:14}  {cell.capture:7}  "
                f"{size(sum(own.values())):>11}  {cell.finished}{printable(name.removeprefix(cell.label))}"
            )
    number = sum(map(len, groups.values()))
    yield (
        f"{store.root}: {count(number, 'cell')} in {count(len(groups), 'group')}, "
        f"{count(len(everything), 'tensor')}, {size(sum(everything.values()))}."
    )


def _sizes(store: Store, cell: Cell) -> dict[str, int]:
    """Digest to the bytes of its file, for each tensor of a cell that is in the store."""
    found = {}
    for artifact in cell.artifacts.values():
        with contextlib.suppress(OSError):
            found[artifact.digest] = store.object_path(artifact.digest).stat().st_size
    return found


def audit_lines(store: Store, found: Stock, findings: Sequence[Finding], *, quick: bool) -> Iterator[str]:
    """What an audit of a store found, and runs that were left beside it; `quick` where no byte was read."""
    for finding in findings:
        yield f"{finding.kind:9} {printable(finding.path)}: {printable(finding.text)}"
    checked = f"{count(found.cells, 'cell')} and {count(found.objects, 'tensor')} ({size(found.size)})"
    how = "there with their full length" if quick else "whole"
    yield f"{store.root}: {checked} are {how}; {counts(findings) or 'nothing else'} found."
    if findings:
        yield "`harness store gc` removes orphans and leftovers, with --damaged also damaged cells, to be run again."


def collected_lines(store: Store, runs: Sequence[Finding], done: Collected, *, dry_run: bool) -> Iterator[str]:
    """What was removed, or would be, and what was left."""
    word = "would remove" if dry_run else "removed"
    removed = [*runs, *(finding for finding, _ in done.removed)]
    for said, findings in ((word, removed), ("left", done.kept)):
        for finding in findings:
            yield f"{said} {printable(finding.path)}: {finding.kind}, {printable(finding.text)}"
    yield f"{store.root}: {word} {count(len(removed), 'item')}, {size(done.size)} in the store."

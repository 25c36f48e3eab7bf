"""What the items of a command line name: index directories or stored cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.directory import IndexDirectory
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.artifacts.source import ArtifactSource
    from harness.running.finder import Finder

_SHOWN = 200  # characters of an argument that an error repeats


def named_sources(items: Sequence[str], group: str | None, options: dict[str, Any]) -> tuple[list[ArtifactSource], str]:
    """A source for each item, and a line that says which cells were not chosen; empty where there are none.

    The store is looked for only when an item is no directory: pydantic and YAML take as long to import as comparing.

    Args:
        items: of the command line.
        group: start of the digest of one of several sets of stored cells.
        options: of a `Selection`.

    Raises:
        UsageError: an item names nothing, or more than one thing.
    """
    finders: list[Finder] = []

    def find(item: str) -> ArtifactSource:
        if not finders:
            from harness.running.choice import Chooser
            from harness.running.finder import Finder
            from harness.running.selection import Selection

            try:
                finders.append(Finder(Chooser(Selection(**options), group), items))
            except UsageError as error:
                raise UsageError(
                    f"There is no directory {item}, and no store to find a cell of that name in. {error}"
                ) from error
        return finders[0](item)

    found = [_resolve(item, find) for item in items]
    return (finders[0].titled(found), finders[0].note) if finders else (found, "")


def _resolve(item: str, find: Callable[[str], ArtifactSource]) -> ArtifactSource:
    try:
        path = Path(item)
        if path.is_dir():
            return IndexDirectory(path)
        there = path.exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte in it
        there = False
    shown = item if len(item) <= _SHOWN else f"{item[:_SHOWN]}..."
    if there:
        raise UsageError(f"{shown} is a file: give the directory of the index that it belongs to.")
    return find(shown)

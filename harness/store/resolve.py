"""Finding the cell or the directory that a command-line argument names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.artifacts.directory import IndexDirectory
from harness.artifacts.source import ArtifactSource
from harness.errors import UsageError

_SHOWN = 200  # characters of an argument that an error repeats


def resolve(item: str, find: Callable[[str], ArtifactSource]) -> ArtifactSource:
    """The source that a command-line argument names: an index directory, else a stored cell.

    Args:
        item: a path, or what `find` takes: a version, a label or the start of a cell's key.
        find: asked only when the item is not a directory, because finding the store may read matrix.yaml.

    Raises:
        UsageError: it is neither.
    """
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

"""Where artifacts come from: an index directory, whoever made it and in whichever format, or a stored cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Protocol

from harness.tensors.dtypes import DTYPES
from harness.tensors.tensor import Tensor

_SETTING_LIMIT = 1 << 53  # as far as JSON numbers are exact everywhere
_LISTED = 6  # files that a sentence names
_MISSING = 100  # and that a list of what is not there has; metadata.json may claim any number


@dataclass(frozen=True)
class Facts:
    """What is known of an artifact without loading it; `nans` is None where nobody counted."""

    digest: str
    dtype: str
    shape: tuple[int, ...]
    nans: int | None = None


class ArtifactSource(Protocol):
    """Something that holds the artifacts of one indexing run."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def names(self) -> tuple[str, ...]:
        """The artifacts it has, in the order of the pipeline; `metadata` is not one of them."""

    def load(self, name: str) -> Tensor:
        """Map a tensor.

        Raises:
            UnreadableTensor: the file is missing, damaged, or holds something else.
        """

    def digest(self, name: str) -> str | None:
        """The tensor's digest where it is known without loading, else None."""

    def metadata(self) -> dict[str, Any]:
        """The index's `metadata.json`; empty where there is none that can be read."""


def facts_of(source: ArtifactSource, name: str) -> Facts | None:
    """What a source knows of an artifact without loading it: its own `facts(name)`, or a stored cell's record."""
    own: Callable[[str], Facts | None] | None = getattr(source, "facts", None)
    if own is not None:
        return own(name)
    record = getattr(getattr(source, "cell", None), "artifacts", {}).get(name)
    if record is None:
        return None
    return Facts(record.digest, record.dtype, tuple(record.shape), getattr(record, "nans", None))


def bytes_of(source: ArtifactSource, name: str) -> int:
    """How many bytes an artifact has, or the files that it is read from; 0 where nobody knows without loading it."""
    facts = facts_of(source, name)
    if facts is not None:
        return math.prod(facts.shape) * (DTYPES[facts.dtype].itemsize if facts.dtype in DTYPES else 0)
    with suppress(OSError):
        return sum(file.stat().st_size for file in files_of(source, name))
    return 0


def files_of(source: ArtifactSource, name: str) -> tuple[Path, ...]:
    """The files that an artifact is read from, where its source says so."""
    found: tuple[Path, ...] = getattr(source, "files_of", lambda _name: ())(name)
    return found


def unrecorded(source: ArtifactSource, name: str) -> str:
    """Why a source says nothing of an artifact that its job makes: a reason of a stored cell, else empty."""
    return str(getattr(source, "unrecorded", lambda _name: "")(name))


def metadata_problem(source: ArtifactSource) -> str:
    """Why a source's metadata cannot be read; empty where it can, or where there is none."""
    return str(getattr(source, "metadata_problem", str)())


def metadata_file(source: ArtifactSource) -> str:
    """The name of the file that a source's metadata is from."""
    return getattr(source, "metadata_file", "metadata.json")


def first_missing(source: ArtifactSource) -> tuple[str, ...]:
    """What a source lacks of a whole index, artifacts and JSON files by name, up to a hundred of them.

    Empty where it is whole, and where nobody knows what it should have: a cell was checked when it was stored.
    """
    return tuple(islice(getattr(source, "missing", tuple)(), _MISSING))


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, the first few of them."""
    return ", ".join(names[:_LISTED]) + (" and more" if len(names) > _LISTED else "")


def setting(source: ArtifactSource, name: str) -> int | None:
    """A positive integer of the index's settings, such as `nbits`, `dim` or `num_chunks`; None where it is not told."""
    metadata = source.metadata()
    config = metadata.get("config")
    for place in (config if isinstance(config, dict) else {}, metadata):
        value = place.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _SETTING_LIMIT:
            return int(value)
    return None


def names_of(sources: Sequence[ArtifactSource]) -> list[str]:
    """What tables call several sources; see `unique_names`."""
    return unique_names([one.name for one in sources], [getattr(one, "path", None) for one in sources])


def unique_names(names: Sequence[str], paths: Sequence[str | PurePath | None] | None = None) -> list[str]:
    """Names that tell items apart: of an item with a path the shortest end of it that does, as the path was given.

    Args:
        names: what each item is called where it has no path.
        paths: of the items that have one. Links are not followed, for the user typed their names.

    An item that no end tells apart, such as a path that was given twice, gets a number: `index`, `index#2`.
    """
    given = paths if paths is not None else [None] * len(names)
    parts = [(name,) if path is None else _parts(path) for name, path in zip(names, given, strict=True)]
    depths = [1] * len(parts)
    while True:
        ends = ["/".join(one[-depth:]) for one, depth in zip(parts, depths, strict=True)]
        shared = Counter(end for end, _ in set(zip(ends, parts, strict=True)))  # a path given twice is one
        longer = [min(d + (shared[end] > 1), len(one)) for end, d, one in zip(ends, depths, parts, strict=True)]
        if longer == depths:
            break
        depths = longer
    unique: dict[str, None] = {}
    for name in ends:
        free = (one for one in (name, *(f"{name}#{k}" for k in range(2, len(names) + 1))) if one not in unique)
        unique[next(free)] = None
    return list(unique)


def _parts(path: str | PurePath) -> tuple[str, ...]:
    """A path's components as given; where its end is no name (`.`, `..`), those of the folder that it means."""
    pure = PurePath(path) if PurePath(path).name not in ("", "..") else Path(path).resolve()
    return ("", *pure.parts[1:]) if pure.name and pure.is_absolute() else pure.parts

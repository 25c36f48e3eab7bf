"""Where artifacts come from: an index directory, whoever made it and in whichever format, or a stored cell."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness._npyfile import read_npy
from harness.errors import UsageError
from harness.pipeline import FINAL, in_order, is_captured, is_final
from harness.tensors import Tensor, UnreadableTensor, map_file, read_pt

# As colbert-ai writes the numbers: "00.codes.pt" would take the place of "0.codes.pt".
_CHUNK = re.compile(r"(0|[1-9][0-9]*)\.(codes|residuals)")
_DOCLENS_FILE = re.compile(r"doclens\.(0|[1-9][0-9]*)\.json")
# Files that hold a pair of tensors, newest first: colbert-ai before 0.2.11 wrote ivf.pt, which lists embeddings.
_PAIRS = (
    ("ivf.pid.pt", ("ivf", "ivf_lengths")),
    ("ivf.pt", ("ivf", "ivf_lengths")),
    ("buckets.pt", ("bucket_cutoffs", "bucket_weights")),
)
_SINGLES = ("centroids", "avg_residual")
_ARRAY = ".npy"  # FastPlaid, and PyLate by it, write one array a file, named as ColBERT names it
# Files that may hold tensors, and are not read where no artifact is found in them.
_DATA = frozenset((".pt", ".pth", ".npy", ".npz", ".bin", ".safetensors", ".faiss", ".index", ".h5"))
_JSON_LIMIT = 1 << 30
_SETTING_LIMIT = 1 << 53  # as far as JSON numbers are exact everywhere
_LISTED = 6  # files that a sentence names
_MISSING = 100  # and that a list of what is not there has; metadata.json may claim any number
_SHOWN = 200  # characters of an argument that an error repeats
_DEPTH_LIMIT = 32  # colbert-ai's metadata nests three deep


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


def unrecorded(source: ArtifactSource, name: str) -> str:
    """Why a source says nothing of an artifact that its job makes: a reason of a stored cell, else empty."""
    own: Callable[[str], str] | None = getattr(source, "unrecorded", None)
    return own(name) if own is not None else ""


def metadata_problem(source: ArtifactSource) -> str:
    """Why a source's metadata cannot be read; empty where it can, or where there is none."""
    own: Callable[[], str] | None = getattr(source, "metadata_problem", None)
    return own() if own is not None else ""


def metadata_file(source: ArtifactSource) -> str:
    """The name of the file that a source's metadata is from."""
    return getattr(source, "metadata_file", "metadata.json")


def first_missing(source: ArtifactSource) -> tuple[str, ...]:
    """What a source lacks of a whole index, artifacts and JSON files by name, up to a hundred of them.

    Empty where it is whole, and where nobody knows what it should have: a cell was checked when it was stored.
    """
    own: Callable[[], Iterator[str]] | None = getattr(source, "missing", None)
    return tuple(islice(own(), _MISSING)) if own is not None else ()


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, the first few of them."""
    return ", ".join(names[:_LISTED]) + (" and more" if len(names) > _LISTED else "")


def _found(entries: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """The artifacts that a folder with these files holds: the file of each, and its place in a file of two."""
    there = sorted(entries)
    files: dict[str, tuple[str, int | None]] = {}
    for file in there:
        if file.endswith(".pt") and (file[:-3] in _SINGLES or _CHUNK.fullmatch(file[:-3])):
            files[file[:-3]] = (file, None)
    for file, names in _PAIRS:
        if file in there:
            for place, name in enumerate(names):
                files.setdefault(name, (file, place))
    for file in there:
        if file.endswith(_ARRAY):
            name = file.removesuffix(_ARRAY)
            # Under its own name where that means what it means in a ColBERT index; else the file's name is its own.
            known = name in FINAL or _CHUNK.fullmatch(name) or not (is_final(name) or is_captured(name))
            files[name if known and name not in files else file] = (file, None)
    return files


def is_index(path: Path) -> bool:
    """Whether a directory holds anything that belongs to a ColBERT index."""
    if not path.is_dir():
        return False
    entries = {entry.name for entry in path.iterdir()}
    return "metadata.json" in entries or any(map(is_final, _found(entries)))


class IndexDirectory:
    """The artifacts of a ColBERT index directory, made by colbert-ai, RAGatouille or anything that writes its files.

    FastPlaid and PyLate write the same arrays as `.npy`, one a file; further ones are artifacts by their own names.

    Nothing is read before it is asked for, except the list of files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is not a directory, so it cannot be a ColBERT index.")
        try:
            self.entries = frozenset(entry.name for entry in self.path.iterdir())
            found = is_index(self.path)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be listed: {error.strerror}.") from error
        if not found:
            inner = self._inner()
            if inner:
                raise UsageError(f"{self.path} holds no ColBERT index, but its folder {inner} does: give that one.")
            raise UsageError(
                f"{self.path} holds no ColBERT index: it has neither centroids.pt nor metadata.json nor any "
                f"N.codes.pt, nor these as .npy; {self.contents()}."
            )
        self._files = _found(self.entries)
        self._doclens = sorted(int(match[1]) for match in map(_DOCLENS_FILE.fullmatch, self.entries) if match)
        self._pairs: dict[str, object] = {}

    @property
    def name(self) -> str:
        """The last component of the path, as it was given: a link is called what the user called it."""
        return self.path.name or str(self.path)

    @property
    def ivf_file(self) -> str | None:
        """The file that the inverted lists are in; None where there is none."""
        return self._files["ivf"][0] if "ivf" in self._files else None

    @property
    def metadata_file(self) -> str:
        """The file that `metadata` is from."""
        return self._metadata[0]

    def contents(self) -> str:
        """What there is, for a sentence: its files, the first few of them by name."""
        return f"it has {listed(sorted(self.entries))}" if self.entries else "it is empty"

    def _inner(self) -> str:
        """The first folder in it that is an index: PyLate keeps its arrays in one; empty where there is none."""
        for name in sorted(self.entries):
            with contextlib.suppress(OSError):
                if is_index(self.path / name):
                    return name
        return ""

    def unread(self) -> list[str]:
        """Files that may hold tensors of which no artifact is made."""
        read = {file for file, _ in self._files.values()}
        return sorted(one for one in self.entries - read if Path(one).suffix in _DATA)

    def missing(self) -> Iterator[str]:
        """What a whole index has and this one has not: artifacts, then JSON files by name, chunk by chunk.

        There are as many chunks as the metadata, or else the plan, counts, and at least as many as have a file.
        """
        yield from (name for name in FINAL if name not in self._files)
        if "metadata.json" not in self.entries:
            yield "metadata.json"
        for chunk in range(max(setting(self, "num_chunks") or 0, self._chunks)):
            yield from (name for what in ("codes", "residuals") if (name := f"{chunk}.{what}") not in self._files)
            for file in (f"doclens.{chunk}.json", f"{chunk}.metadata.json"):
                if file not in self.entries:
                    yield file

    @property
    def _chunks(self) -> int:
        """How many chunks there are by the files' names."""
        found = [int(name.partition(".")[0]) for name in self._files if _CHUNK.fullmatch(name)]
        return max([0, *(chunk + 1 for chunk in [*found, *self._doclens])])

    def names(self) -> tuple[str, ...]:
        """Artifacts whose file exists; `doclens` is one tensor over all chunks, where each has its file.

        The lengths of some chunks are not those of the index: they would seem to differ from a whole index's.
        """
        return tuple(in_order([*self._files, *(["doclens"] if 0 < len(self._doclens) == self._chunks else [])]))

    def load(self, name: str) -> Tensor:
        """Map a tensor; see `ArtifactSource.load`."""
        if name == "doclens":
            return self._load_doclens()
        if name not in self._files:
            raise UnreadableTensor(f"{self.path} has no artifact {name!r}.")
        file, place = self._files[name]
        if file.endswith(_ARRAY):
            return read_npy(self.path / file)
        if place is None:
            found = read_pt(self.path / file)
            if isinstance(found, float) and name == "avg_residual":
                found = Tensor.of(np.array(found, np.float64))
        else:
            if file not in self._pairs:
                self._pairs[file] = read_pt(self.path / file)
            pair = self._pairs[file]
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise UnreadableTensor(f"{self.path / file} does not hold a pair of tensors.")
            found = pair[place]
        if not isinstance(found, Tensor):
            raise UnreadableTensor(f"{self.path / file} holds a {type(found).__name__} where a tensor is expected.")
        return found

    def _load_doclens(self) -> Tensor:
        parts: list[int] = []
        for chunk in self._doclens:
            path = self.path / f"doclens.{chunk}.json"
            values = read_json(path)
            if not isinstance(values, list) or any(type(v) is not int or not 0 <= v < 2**63 for v in values):
                raise UnreadableTensor(f"{path} is not a list of document lengths.")
            parts += values
        return Tensor.of(np.array(parts, np.int64))

    def digest(self, name: str) -> str | None:  # noqa: ARG002 - part of the protocol
        """None: a directory keeps no digests."""
        return None

    def metadata_problem(self) -> str:
        """Why `metadata.json`, which is there, cannot be read; empty where nothing is wrong with it."""
        path = self.path / "metadata.json"
        try:
            wrong = path.name in self.entries and not isinstance(read_json(path), dict)
        except UnreadableTensor as error:
            return str(error)
        return f"{path} is not a JSON object." if wrong else ""

    def metadata(self) -> dict[str, Any]:
        """`metadata.json`, or `plan.json` where an interrupted run left only that."""
        return self._metadata[1]

    @cached_property
    def _metadata(self) -> tuple[str, dict[str, Any]]:
        for file in ("metadata.json", "plan.json"):
            try:
                found = read_json(self.path / file)
            except UnreadableTensor:
                continue
            if isinstance(found, dict) and not too_deep(found):
                return file, found
        return "metadata.json", {}


def read_json(path: Path) -> object:
    """Read a JSON file.

    Raises:
        UnreadableTensor: it is missing, huge, or not JSON; see also `map_file`.
    """
    raw = map_file(path)
    if raw.size > _JSON_LIMIT:
        raise UnreadableTensor(f"{path} has {raw.size} bytes, too many for an index's JSON.")
    try:
        found: object = json.loads(raw.tobytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableTensor(f"{path} is not valid JSON: {error}.") from error
    return found


def too_deep(value: object, limit: int = _DEPTH_LIMIT) -> bool:
    """Whether a JSON value nests deeper than `limit`; what nests as deep as JSON allows cannot even be compared."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return any(isinstance(one, (dict, list)) for one in level)


def setting(source: ArtifactSource, name: str) -> int | None:
    """A positive integer of the index's settings, such as `nbits`, `dim` or `num_chunks`; None where it is not told."""
    metadata = source.metadata()
    config = metadata.get("config")
    for place in (config if isinstance(config, dict) else {}, metadata):
        value = place.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _SETTING_LIMIT:
            return int(value)
    return None


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

"""A ColBERT index directory as a source of artifacts, whoever wrote it; what is a tensor in it, and where."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from harness.artifacts.index_job import INDEX
from harness.artifacts.source import listed, setting
from harness.errors import UnreadableTensor, UsageError
from harness.files import read_json, too_deep
from harness.tensors.dtypes import Array
from harness.tensors.mapped import give_back
from harness.tensors.npyfile import read_npy
from harness.tensors.tensor import Tensor
from harness.tensors.torchfile import read_pt

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
_WHOLE = (*_SINGLES, *dict.fromkeys(name for _file, names in reversed(_PAIRS) for name in names))
"""What an index has beside its chunks."""

_ARRAY = ".npy"  # FastPlaid, and PyLate by it, write one array a file, named as ColBERT names it
# Files that may hold tensors, and are not read where no artifact is found in them.
_DATA = frozenset((".pt", ".pth", ".npy", ".npz", ".bin", ".safetensors", ".faiss", ".index", ".h5"))


def found_file(entries: Iterable[str]) -> dict[str, tuple[str, int | None]]:
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
            known = name in _WHOLE or _CHUNK.fullmatch(name) or INDEX.role(name) is None
            files[name if known and name not in files else file] = (file, None)
    return files


def is_index(path: Path) -> bool:
    """Whether a directory holds anything that belongs to a ColBERT index."""
    if not path.is_dir():
        return False
    entries = {entry.name for entry in path.iterdir()}
    return "metadata.json" in entries or any(map(INDEX.is_final, found_file(entries)))


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
        self._files = found_file(self.entries)
        self._doclens = sorted(int(match[1]) for match in map(_DOCLENS_FILE.fullmatch, self.entries) if match)
        self._mapped: WeakValueDictionary[str, Tensor] = WeakValueDictionary()  # while somebody holds them

    @property
    def name(self) -> str:
        """The last component of the path, as it was given: a link is called what the user called it."""
        return self.path.name or str(self.path)

    @property
    def folder(self) -> Path:
        """Where its JSON files are."""
        return self.path

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
        yield from (name for name in _WHOLE if name not in self._files)
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
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        whole = 0 < len(self._doclens) == self._chunks
        return tuple(INDEX.in_order([*self._files, *(["doclens"] if whole else [])]))

    def load(self, name: str) -> Tensor:
        """Map a tensor, or give the one that is still mapped; see `ArtifactSource.load`."""
        found = self._mapped.get(name)
        if found is None:
            found = Tensor.of(self._lengths.astype(np.int64)) if name == "doclens" else self._read(name)
            self._mapped[name] = found
        return found

    def _read(self, name: str) -> Tensor:
        if name not in self._files:
            raise UnreadableTensor(f"{self.path} has no artifact {name!r}.")
        file, place = self._files[name]
        if file.endswith(_ARRAY):
            return read_npy(self.path / file)
        found = read_pt(self.path / file)
        if place is not None:
            if not isinstance(found, (tuple, list)) or len(found) != 2:
                raise UnreadableTensor(f"{self.path / file} does not hold a pair of tensors.")
            found = found[place]
        elif isinstance(found, float) and name == "avg_residual":
            found = Tensor.of(np.array(found, np.float64))
        if not isinstance(found, Tensor):
            raise UnreadableTensor(f"{self.path / file} holds a {type(found).__name__} where a tensor is expected.")
        return found

    @cached_property
    def _lengths(self) -> Array:
        """Asked for by several artifacts, so kept, as narrow as they are; each list becomes an array at once."""
        parts = [np.empty(0, np.uint8)]
        for chunk in self._doclens:
            path = self.path / f"doclens.{chunk}.json"
            values = read_json(path, _numbers)
            if isinstance(values, list) and set(map(type, values)) <= {int}:
                with contextlib.suppress(OverflowError):
                    values = np.array(values, np.int64)
            if not isinstance(values, np.ndarray) or (values < 0).any():
                raise UnreadableTensor(f"{path} is not a list of document lengths.")
            parts.append(values.astype(np.min_scalar_type(values.max(initial=0))))
        return np.concatenate(parts)

    def rest(self) -> None:
        """Let the system take back the pages of what is mapped; whoever looks at it again has them again."""
        give_back(*(found.flat for found in list(self._mapped.values())))

    def files_of(self, name: str) -> tuple[Path, ...]:
        """The files that an artifact is read from."""
        if name == "doclens":
            return tuple(self.path / f"doclens.{chunk}.json" for chunk in self._doclens)
        return (self.path / self._files[name][0],)

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


def _numbers(raw: bytes) -> object:
    """A JSON list of numbers as `json` reads it, or the same as int64: there is one number for each passage.

    NumPy is several times as fast, and takes what is no JSON, or does not fit: it is given only what cannot be such.
    """
    text = raw.strip()
    told = b"," + text[1:-1].replace(b", ", b",")
    strange = told.translate(None, b"0123456789,") or told.endswith(b",") or b",," in told or b",0" in told
    if text.startswith(b"[") and text.endswith(b"]") and not strange:
        found = np.fromstring(told[1:].decode(), np.int64, sep=",")
        if found.max() < np.iinfo(np.int64).max:  # where a greater one ends, too
            return found
    return json.loads(raw)


def index_tensors(folder: Path, *, delete: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a ColBERT index that a job has just written, and its document lengths as int64.

    With `delete`, a file goes when what follows the last of its tensors is asked for, so that whoever keeps them
    elsewhere has no second index on the disk; the JSON files stay.

    Raises:
        UnreadableTensor: a tensor is missing or is not what colbert-ai writes.
    """
    try:
        index = IndexDirectory(folder)
    except UsageError as error:
        raise UnreadableTensor(str(error)) from error
    missing = [name for name in index.missing() if not name.endswith("metadata.json")]
    if missing or "doclens" not in index.names():
        raise UnreadableTensor(f"{folder} has no {', '.join(missing) or 'doclens'}")
    last = {path: name for name in index.names() for path in index.files_of(name) if path.suffix != ".json"}
    for name in index.names():
        yield name, index.load(name)
        for path in index.files_of(name) if delete else ():
            if last.get(path) == name:
                path.unlink(missing_ok=True)

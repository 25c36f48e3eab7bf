"""What a search is given: the index of a version's own cell, of another version's, or of any folder; and queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from harness.artifacts.directory import IndexDirectory
from harness.artifacts.meaning import nbits_of
from harness.artifacts.searchable import IndexFiles, check_index, clean_copy, settings_of, tensors_of
from harness.errors import HarnessError, UnreadableTensor, UsageError
from harness.inputs.checkpoint import CheckpointFiles, load_checkpoint_local
from harness.inputs.jobs import SearchJob
from harness.inputs.passages import Passages
from harness.inputs.queries import Queries, write_queries
from harness.running.kinds import Asked, JobInputs
from harness.store.cell import Artifact, Cell, Listed
from harness.store.spec import Index, digest_of
from harness.store.spec import Queries as QueriesRecord
from harness.store.store import Store
from harness.store.stored import StoredCell
from harness.words import count


@dataclass(frozen=True)
class SearchedIndex:
    """An index to search.

    Attributes:
        source: where its tensors and JSON files are.
        name: the version whose index it is, or the folder's name with a slash.
        origin: the cell that made it, or the folder's name; no absolute path.
        known: its tensors.
    """

    source: IndexFiles
    name: str
    origin: dict[str, str]
    known: Mapping[str, Artifact]

    @cached_property
    def digest(self) -> str:
        """Of its tensors, and of the settings that a search may take from it."""
        return digest_of([{name: one.digest for name, one in self.known.items()}, settings_of(self.source)])


def stored_index(store: Store, cell: Cell) -> SearchedIndex:
    """The index of a stored cell."""
    source = StoredCell(store, cell)
    known = {name: replace(cell.artifacts[name], kind="intermediate") for name in tensors_of(source)}
    return SearchedIndex(source, cell.version, {"kind": "cell", "key": cell.key}, known)


@cache
def index_in(path: Path, passages: int, dim: int) -> SearchedIndex:
    """The index of a folder that somebody made, checked.

    Raises:
        UsageError: it is no index, or not one of the collection and the checkpoint.
    """
    source = IndexDirectory(path)
    check_index(source, passages, dim)
    known = {}
    for name in tensors_of(source):
        tensor = source.load(name)
        digest, nans = tensor.digest_and_nans()
        known[name] = Artifact(digest, tensor.dtype, tensor.shape, "intermediate", stored=False, nans=nans)
    return SearchedIndex(source, f"{path.resolve().name}/", {"kind": "folder", "name": path.resolve().name}, known)


def require_checkpoint(source: IndexFiles, checkpoint: CheckpointFiles) -> None:
    """Refuse an index whose metadata names a checkpoint that is here, and is not the one that queries are encoded with.

    Of one that is not here, nothing is known: only its dimensions could be compared.

    Raises:
        UsageError: it is another.
    """
    config = source.metadata().get("config")
    named = config.get("checkpoint") if isinstance(config, dict) else None
    # A relative one is relative to a folder that nobody knows any more.
    if not isinstance(named, str) or not Path(named).is_absolute():
        return
    try:
        made = load_checkpoint_local(Path(named))
    except (OSError, HarnessError):  # nothing is there, nobody may look, or what is there now is no checkpoint
        return
    if made.digest != checkpoint.digest:
        raise UsageError(
            f"{source.name} was made with the checkpoint {named}, and {checkpoint.name} is another one: give "
            f"--checkpoint {named}, or index again."
        )


class SearchedBy:
    """Says which index a stored search is over, by the index's digest.

    Versions whose indexes are equal in every bit share the cells that search them, whatever these are called.

    Args:
        store: where the cells are.
        indexes: the index cells that count as their versions' own.
        folder: the index that is meant where no version is named; each version's own when absent.
    """

    def __init__(self, store: Store, indexes: Iterable[Listed], folder: Path | None) -> None:
        self.store, self.folder = store, folder
        self._keys: dict[_Indexed, list[str]] = {}
        for one in indexes:
            self._keys.setdefault(_indexed(one), []).append(one.key)
        self._digests: dict[_Indexed, frozenset[str]] = {}

    def __call__(self, cell: Listed, version: str | None = None) -> bool:
        """Whether a cell searches the index of `version`, or else the one that is meant; of no search, always."""
        spec = cell.spec
        if spec.index is None:
            return True
        if version is None and self.folder is not None:
            return spec.index.digest == index_in(self.folder, spec.collection.passages, spec.checkpoint.dim).digest
        own = _indexed(cell, version)
        if own not in self._digests:
            cells = filter(None, map(self.store.get, self._keys.get(own, ())))
            self._digests[own] = frozenset(stored_index(self.store, one).digest for one in cells)
        return spec.index.digest in self._digests[own]


_Indexed = tuple[str, str, str, str]
"""Of an index: its version, and the digests of collection and checkpoint, and the device."""


def _indexed(cell: Listed, version: str | None = None) -> _Indexed:
    return version or cell.version, cell.spec.collection.digest, cell.spec.checkpoint.digest, cell.spec.device


@dataclass(frozen=True)
class SearchInputs:
    """An index and the queries; see `harness.running.kinds.JobInputs`."""

    passages: Passages
    checkpoint: CheckpointFiles
    queries: Queries
    index: SearchedIndex

    @property
    def sources(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {
            "collection": self.passages.source, "checkpoint": self.checkpoint.source,
            "queries": self.queries.source, "index": self.index.origin,
        }  # fmt: skip

    def spec(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {
            "queries": QueriesRecord.of(self.queries.record()),
            "index": Index(self.index.name, self.index.digest),
        }

    def given(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {"nbits": nbits_of(self.index.source), "query_maxlen": self.checkpoint.query_maxlen}

    def artifacts(self) -> Mapping[str, Artifact]:
        """See `JobInputs`."""
        return self.index.known

    def write(self, run: Path) -> dict[str, Any]:
        """See `JobInputs`."""
        # Whoever made it, and whatever became of it since it was planned: the job may read past a tensor's end.
        check_index(self.index.source, len(self.passages), self.checkpoint.dim)
        try:
            clean_copy(self.index.source, run / "index")
        except UnreadableTensor as error:
            raise UsageError(f"The index {self.index.name} cannot be searched: {error}") from error
        write_queries(self.queries, run / "queries.jsonl")
        return {"index": str(run / "index"), "queries": str(run / "queries.jsonl")}


class SearchKind:
    """The search job; see `harness.running.kinds.Kind`."""

    def __init__(self, experiment: Asked) -> None:
        self.experiment = experiment

    @cached_property
    def _folder(self) -> SearchedIndex | None:
        """The index of `--index`."""
        e = self.experiment
        if e.selection.index is None:
            return None
        found = index_in(e.selection.index, len(e.passages), e.checkpoint.dim)
        require_checkpoint(found.source, e.checkpoint)
        return found

    def load(self) -> None:
        """See `Kind`."""
        e = self.experiment
        assert isinstance(e.job, SearchJob)
        if e.selection.index and e.selection.on:
            raise UsageError("--index names a folder, and --on the version whose index is searched: give one of them.")
        if e.job.k > len(e.passages):
            raise UsageError(
                f"Each search is to return {count(e.job.k, 'passage')} (jobs.search.k in matrix.yaml), and the "
                f"collection {e.passages.name} has {len(e.passages):,}: pass --k {len(e.passages)} or less."
            )
        # What is wrong with the user's own files is said before a checkpoint is fetched.
        _ = e.queries
        if e.job.query_maxlen not in (None, e.checkpoint.query_maxlen):
            raise UsageError(
                f"matrix.yaml: jobs.search.query_maxlen is {e.job.query_maxlen}, and queries of the checkpoint "
                f"{e.checkpoint.name} have {e.checkpoint.query_maxlen} tokens: leave it out, or give the checkpoint "
                "that it is for."
            )
        _ = self._folder

    def inputs(self, version: str) -> JobInputs:
        """See `Kind`."""
        e = self.experiment
        return SearchInputs(e.passages, e.checkpoint, e.queries, self._folder or self._stored(version))

    def needs(self, version: str) -> str | None:
        """See `Kind`."""
        asked = self.experiment.selection
        return None if asked.index else self.experiment.require(asked.on or version)

    def _stored(self, version: str) -> SearchedIndex:
        """The index of a version's own cell, or with `--on`, of another's."""
        e, of = self.experiment, self.needs(version)
        assert of is not None
        cell, own = e.index.stored(of), e.index.stored(version)
        if cell is None:
            raise UsageError(
                f"No index of {of} over {e.passages.name} ({count(len(e.passages), 'passage')}) is stored: run "
                f"`harness index {of}` with the same options first."
            )
        found = stored_index(e.store, cell)
        # Where it is the version's own in every bit, the search is the version's own, too.
        same = own is not None and stored_index(e.store, own).digest == found.digest
        return replace(found, name=version) if same else found

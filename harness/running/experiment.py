"""What a command line asks for: matrix, home, collection, checkpoint, job settings and device, resolved once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.environments.chosen import Names, OfSites, UnderTest, under_test
from harness.environments.device import Device, choose_device, choose_gpus, usable_cores
from harness.environments.interpreter import Brought, Interpreter
from harness.environments.lockfile import Lock
from harness.errors import UsageError
from harness.home import Home, resolve_home
from harness.inputs.checkpoint import CheckpointFiles
from harness.inputs.jobs import JobSettings, TrainJob
from harness.inputs.loaders import load_collection, load_queries, load_triples
from harness.inputs.matrix import Matrix
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.inputs.passages import Passages
from harness.inputs.sources import HubCollection, ScaledCollection
from harness.running.kinds import IndexKind, JobInputs, Kind
from harness.running.searching import SearchKind
from harness.running.selection import Selection, job_of
from harness.running.specs import job_spec
from harness.running.training import TrainKind, checkpoint_named
from harness.store.cell import Cell
from harness.store.spec import CellSpec, Checkpoint, Collection
from harness.store.store import Store
from harness.words import count

if TYPE_CHECKING:
    from harness.inputs.queries import Qrels, Queries
    from harness.inputs.triples import Triples


_KINDS: Mapping[str, Callable[[Experiment], Kind]] = {"index": IndexKind, "search": SearchKind, "train": TrainKind}
"""How the cells of each kind of job are planned and run."""


class Experiment:
    """A selection with its files found and checked.

    Args:
        selection: the user's options.

    Raises:
        UsageError: something that the options name is not there or not right.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.matrix_path = (selection.matrix_path or find_matrix()).resolve()
        self.matrix: Matrix = load_matrix(self.matrix_path)
        self.home: Home = resolve_home(selection.home, self.matrix_path)
        self.locks = self.matrix_path.parent / "locks"
        self.store = Store(self.home.store)
        self.device: Device = (
            Device(selection.identity.split()[0], selection.identity)
            if selection.identity
            else choose_device(selection.device)
        )
        self._names = Names(self.home)
        if selection.on is not None:
            self.selection = replace(selection, on=self.require(selection.on))
        self.job: JobSettings = job_of(self.matrix, selection)
        self._kind = _KINDS[selection.job](self)
        self._inputs: dict[str, JobInputs] = {}
        self.require_room()

    def require_room(self) -> None:
        """Refuse a job for which its device is too small.

        Raises:
            UsageError: it has more threads than this machine has cores, or more ranks than it has GPUs.
        """
        job, here = self.job, not self.selection.identity
        if here and self.device.kind == "cpu" and job.threads > usable_cores():
            raise UsageError(
                f"jobs.{job.NAME}.threads is {job.threads} but this machine has {usable_cores()} usable cores: pass "
                f"--threads {usable_cores()} (threads decide the order of summation, so they are part of a cell's key)."
            )
        if job.ranks > 1 and self.device.kind == "cpu":
            raise UsageError(
                f"jobs.{job.NAME}.nranks is {job.ranks}, but colbert-ai has its ranks find each other on GPUs only (on "
                "a CPU they end with a ZeroDivisionError in colbert/utils/distributed.py): pass --nranks 1, or set it "
                "so in matrix.yaml, or use --device cuda."
            )
        there = choose_gpus(self.device, None) if here and job.ranks > 1 else []
        if here and len(there) < job.ranks > 1:
            raise UsageError(
                f"jobs.{job.NAME}.nranks is {job.ranks} and each rank needs a GPU of its own, but this machine has "
                f"{count(len(there), 'GPU')} of the model {self.device.identity}: pass --nranks {len(there) or 1}."
            )

    @cached_property
    def passages(self) -> Passages:
        """The collection, loaded."""
        asked = self.selection
        return load_collection(
            self.matrix, self.matrix_path.parent, self.home, asked.collection,
            limit=asked.limit, scale_to=asked.scale_to,
        )  # fmt: skip

    @cached_property
    def checkpoint(self) -> CheckpointFiles:
        """The checkpoint's files, checked."""
        return checkpoint_named(
            self.matrix, self.matrix_path.parent, self._names, self.store, self.selection.checkpoint
        )

    @cached_property
    def _searched(self) -> tuple[Queries, Qrels | None]:
        asked = self.selection
        return load_queries(
            self.matrix, self.matrix_path.parent, self.home, asked.collection, self.passages,
            queries=asked.queries, qrels=asked.qrels, limit=asked.limit_queries,
            whole=asked.limit is None and asked.scale_to is None,
        )  # fmt: skip

    @property
    def queries(self) -> Queries:
        """What is searched for, or what triples are of, loaded."""
        return self._searched[0]

    @cached_property
    def triples(self) -> Triples:
        """What is trained from, loaded or drawn."""
        assert isinstance(self.job, TrainJob)
        return load_triples(
            self.matrix, self.matrix_path.parent, self.home, self.selection.collection, self.passages, self.queries,
            self.qrels, self.job, triples=self.selection.triples,
        )  # fmt: skip

    @property
    def qrels(self) -> Qrels | None:
        """Which passages answer the queries, as far as both are searched; None where nobody said."""
        return self._searched[1]

    @cached_property
    def index(self) -> Experiment:
        """The index cells of the same options: this experiment, where it is of these."""
        return self if self.selection.job == "index" else self._other(job="index")

    def search(self, on: str | None = None, index: Path | None = None) -> Experiment:
        """The search cells of the same options: in each version's own index, that of the version `on`, or a folder."""
        return self._other(job="search", on=on, index=index)

    def sample(self, number: int) -> Experiment:
        """The same cells of fewer passages, or, of searches in the same index, of fewer queries.

        Args:
            number: how many of the first.
        """
        search = self.selection.job == "search"
        found = self._other(limit_queries=number) if search else self._other(limit=number, scale_to=None)
        for loaded in ("_searched",) if search else ("_searched", "passages", "index"):
            found.__dict__.pop(loaded, None)
        return found

    def _other(self, **changes: Any) -> Experiment:  # noqa: ANN401 - fields of a selection
        """Other cells of the same files."""
        _ = self.passages, self.checkpoint  # loaded once for both
        found = copy.copy(self)
        found.selection = replace(self.selection, **changes)
        found.job = job_of(self.matrix, found.selection)
        found._kind, found._inputs = _KINDS[found.selection.job](found), {}
        return found

    @property
    def versions(self) -> list[str]:
        """Those of the matrix on the axis that is meant, in order of release."""
        return self.matrix.on_axis(self.selection.axis)

    def require(self, item: str) -> str:
        """The name of the environment that an item of a command line means; see `Names.require`."""
        return self._names.require(self.matrix, self.matrix.label(item, self.selection.axis))

    def environment(self, version: str) -> UnderTest:
        """The environment of a version, or of the user's own that has this name: the one place where it is chosen."""
        return under_test(version, self._names, self.matrix, self.locks, self.device, self.sites)

    @property
    def sites(self) -> Brought | None:
        """The environments that were brought as files (`--sites`); None without that option."""
        folder = self.selection.sites
        return Brought(folder, self.selection.site_python) if folder is not None else None

    def brought(self, version: str) -> Interpreter | None:
        """The interpreter of an environment that was brought as files; None where it was not.

        Raises:
            UsageError, BuildFailed: as `Brought.interpreter`.
        """
        found = self.environment(version)
        return found.brought.interpreter(version, lambda: self.lock(version)) if isinstance(found, OfSites) else None

    def unsupported(self, version: str) -> str:
        """Why a version cannot run on this device, known before its environment is; empty if nothing speaks against."""
        return self.environment(version).unsupported

    def lock(self, version: str) -> Lock:
        """The lock of a version's environment on this device, or of the one that was brought, or of the user's own."""
        return self.environment(version).lock

    def inputs(self, version: str) -> JobInputs:
        """What the job of a version is given beside its settings.

        Raises:
            UsageError: something of it is not there.
        """
        if version not in self._inputs:
            self._inputs[version] = self._kind.inputs(version)
        return self._inputs[version]

    def needs(self, version: str) -> str | None:
        """The version whose index must be stored before the cell of a version can be planned; None: no one's."""
        return self._kind.needs(version)

    def spec(self, version: str, repeat: int = 0) -> CellSpec:
        """The cell of a version."""
        # First, so that a version that does not exist is named before anything is fetched.
        lock, inputs = self.lock(version), self.inputs(version)
        checkpoint, collection = Checkpoint.of(self.checkpoint.record()), Collection.of(self.passages.record())
        return job_spec(
            self.matrix, self.job, version, lock, collection, checkpoint, self.device, inputs.given(), **inputs.spec()
        ).again(repeat)

    def stored(self, version: str) -> Cell | None:
        """The cell of a version, where it is stored with all of its result."""
        cell = self.store.get(self.spec(version).key)
        lost = cell is not None and any(map(cell.job_kind.is_final, self.store.missing(cell)))
        return cell if cell is not None and cell.outcome == "ok" and not lost else None

    def check(self) -> None:
        """Load the files and refuse a job that is certain to fail.

        Raises:
            UsageError: something is wrong with them, or with the job that is to run on them.
        """
        known = self.matrix.collections
        collection = known.get(self.selection.collection or self.matrix.defaults.collection)
        if isinstance(collection, ScaledCollection):
            collection = known.get(collection.base)
        if not isinstance(collection, HubCollection):
            # What is wrong with the user's own file is said before a checkpoint is fetched, and the other way round.
            _ = self.passages
        self._kind.load()

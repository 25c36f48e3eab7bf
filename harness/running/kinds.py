"""How the cells of each kind of job are planned and run: what a job is given, and what must be there before.

The declaration of a kind (`harness.artifacts.kinds`) says what it makes, and `harness.inputs.matrix` has its settings.
What is left is here, and nothing else in this wing asks which kind a cell is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.inputs.checkpoint import CheckpointFiles
from harness.inputs.jobs import IndexJob, JobSettings
from harness.inputs.matrix import Matrix
from harness.inputs.passages import Passages, write_jsonl
from harness.inputs.queries import Queries
from harness.inputs.triples import Triples
from harness.running.selection import Selection
from harness.store.cell import Artifact, Cell
from harness.store.store import Store


class Asked(Protocol):
    """What a command line asks for, looked up: what a kind of job needs of `harness.running.experiment.Experiment`."""

    selection: Selection
    matrix: Matrix
    job: JobSettings
    store: Store

    @property
    def passages(self) -> Passages:
        """The collection, loaded."""

    @property
    def checkpoint(self) -> CheckpointFiles:
        """The checkpoint's files, checked."""

    @property
    def queries(self) -> Queries:
        """What is searched for, or what triples are of, loaded."""

    @property
    def triples(self) -> Triples:
        """What is trained from, loaded or drawn."""

    @property
    def index(self) -> Asked:
        """The index cells of the same options."""

    def require(self, item: str) -> str:
        """The name of the environment that an item of a command line means."""

    def stored(self, version: str) -> Cell | None:
        """The cell of a version, where it is stored with all of its result."""


class JobInputs(Protocol):
    """What one job is given beside its settings."""

    @property
    def checkpoint(self) -> CheckpointFiles:
        """The model."""

    @property
    def sources(self) -> dict[str, Any]:
        """Where everything came from; no absolute paths."""

    def spec(self) -> dict[str, Any]:
        """Fields of its cell's specification, beside those that every cell has (`CellSpec`)."""

    def given(self) -> dict[str, Any]:
        """Settings that it decides where `matrix.yaml` does not."""

    def artifacts(self) -> Mapping[str, Artifact]:
        """Artifacts of other cells that it is given: they belong to the cell, so that a difference in one is seen."""

    def write(self, run: Path) -> dict[str, Any]:
        """Write it into a run's folder for the worker; returns what `cell.json` says of it."""


class Kind(Protocol):
    """How an experiment's cells of one kind are planned and run."""

    def load(self) -> None:
        """Load what all cells are given, and refuse jobs that are certain to fail.

        Raises:
            UsageError: something is wrong with it.
        """

    def inputs(self, version: str) -> JobInputs:
        """What the job of a version is given.

        Raises:
            UsageError: something of it is not there.
        """

    def needs(self, version: str) -> str | None:
        """The version whose index must be stored before this version's job can be planned; None: no one's."""


@dataclass(frozen=True)
class IndexInputs:
    """The passages to index."""

    passages: Passages
    checkpoint: CheckpointFiles

    @property
    def sources(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {"collection": self.passages.source, "checkpoint": self.checkpoint.source}

    def spec(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {}

    def given(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {}

    def artifacts(self) -> Mapping[str, Artifact]:
        """See `JobInputs`."""
        return {}

    def write(self, run: Path) -> dict[str, Any]:
        """See `JobInputs`."""
        write_jsonl(self.passages, run / "passages.jsonl")
        return {"passages": str(run / "passages.jsonl")}


@dataclass(frozen=True)
class IndexKind:
    """The index job; see `Kind`."""

    experiment: Asked

    def load(self) -> None:
        """See `Kind`."""
        from harness.inputs.limits import job_runs

        assert isinstance(self.experiment.job, IndexJob)
        job_runs(self.experiment.job, self.experiment.checkpoint, self.experiment.passages)

    def inputs(self, version: str) -> JobInputs:  # noqa: ARG002 - part of the protocol
        """See `Kind`."""
        return IndexInputs(self.experiment.passages, self.experiment.checkpoint)

    def needs(self, version: str) -> str | None:  # noqa: ARG002 - part of the protocol
        """See `Kind`."""
        return None

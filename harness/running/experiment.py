"""What a command line asks for: matrix, home, collection, checkpoint, job settings and device, resolved once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.environments.device import Device, choose_device, missing_code, usable_cores
from harness.environments.interpreter import Brought, Interpreter
from harness.environments.lockfile import Lock, lock_path, read_lock
from harness.environments.uv import run_uv
from harness.errors import UsageError
from harness.home import Home, resolve_home
from harness.inputs.checkpoint import CheckpointFiles
from harness.inputs.loaders import load_checkpoint, load_collection
from harness.inputs.matrix import Flavour, HubCollection, IndexJob, Matrix, ScaledCollection
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.inputs.passages import Passages
from harness.running.specs import index_spec
from harness.store.spec import CellSpec, Checkpoint, Collection
from harness.store.store import Store


@dataclass(frozen=True)
class Selection:
    """Options of `plan`, `index`, `sweep` and `consecutive`, as the user gave them.

    `identity` is that of another machine's device, where the cells will run there: on a cluster, of the nodes.
    """

    matrix_path: Path | None = None
    home: Path | None = None
    collection: str | None = None
    checkpoint: str | None = None
    limit: int | None = None
    device: str = "auto"
    capture: str | None = None
    threads: int | None = None
    sites: Path | None = None
    site_python: Path | None = None
    scale_to: int | None = None
    identity: str | None = None


def job_of(matrix: Matrix, selection: Selection) -> IndexJob:
    """The index job of a matrix with what the user asked for instead."""
    changes: dict[str, Any] = {}
    if selection.capture:
        changes["capture"] = selection.capture
    if selection.threads:
        changes["threads"] = selection.threads
    return IndexJob.model_validate(matrix.jobs.index.model_dump() | changes)


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
        self.job: IndexJob = job_of(self.matrix, selection)
        if not selection.identity and self.device.kind == "cpu" and self.job.threads > usable_cores():
            raise UsageError(
                f"jobs.index.threads is {self.job.threads} but this machine has {usable_cores()} usable cores: pass "
                f"--threads {usable_cores()} (threads decide the order of summation, so they are part of a cell's key)."
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
        return load_checkpoint(self.matrix, self.matrix_path.parent, self.home, self.selection.checkpoint, run_uv)

    @property
    def sites(self) -> Brought | None:
        """The environments that were brought as files (`--sites`); None without that option."""
        folder = self.selection.sites
        return Brought(folder, self.selection.site_python) if folder is not None else None

    def brought(self, version: str) -> Interpreter | None:
        """The interpreter of an environment that was brought as files; None without `--sites`.

        Raises:
            UsageError, BuildFailed: as `Brought.interpreter`.
        """
        return self.sites.interpreter(version, lambda: self.lock(version)) if self.sites else None

    def unsupported(self, version: str) -> str:
        """Why a version cannot run on this device, known before its environment is; empty if nothing speaks against."""
        return missing_code(self.matrix, version, self.device.identity)

    def lock(self, version: str) -> Lock:
        """The lock of a version's environment on this device, or of the one that was brought."""
        flavours: list[Flavour] = [self.device.flavour]
        if self.sites is not None:
            # A GPU host's environments also run on a CPU (a dry run before the GPU is there), with their own lock.
            flavours.append("cpu" if flavours[0] == "gpu" else "gpu")
        locks = [read_lock(lock_path(self.locks, self.matrix.require(version), flavour)) for flavour in flavours]
        return self.sites.closest(version, locks) if self.sites is not None else locks[0]

    def spec(self, version: str, repeat: int = 0) -> CellSpec:
        """The index cell of a version."""
        # First, so that a version that does not exist is named before anything is fetched.
        lock = self.lock(version)
        checkpoint, collection = Checkpoint.of(self.checkpoint.record()), Collection.of(self.passages.record())
        return index_spec(self.matrix, self.job, version, lock, collection, checkpoint, self.device).again(repeat)

    def check(self) -> None:
        """Load the files and refuse a job that is certain to fail.

        Raises:
            UsageError: something is wrong with them, or with the job that is to run on them.
        """
        from harness.inputs.limits import job_runs

        known = self.matrix.collections
        collection = known.get(self.selection.collection or self.matrix.defaults.collection)
        if isinstance(collection, ScaledCollection):
            collection = known.get(collection.base)
        if not isinstance(collection, HubCollection):
            # What is wrong with the user's own file is said before a checkpoint is fetched, and the other way round.
            _ = self.passages
        job_runs(self.job, self.checkpoint, self.passages)

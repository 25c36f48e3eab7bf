"""What a training is given: passages, queries and triples of them; and the model that it leaves, as a checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.train_meaning import parameters_of
from harness.environments.chosen import Names
from harness.environments.uv import run_uv
from harness.errors import UnreadableTensor, UsageError
from harness.files import disk_errors
from harness.home import Home
from harness.inputs.checkpoint import SAFETENSORS, CheckpointFiles, load_checkpoint_folder, set_metadata, small_files
from harness.inputs.jobs import TrainJob
from harness.inputs.loaders import load_checkpoint
from harness.inputs.matrix import Matrix
from harness.inputs.passages import Passages, write_jsonl
from harness.inputs.queries import Queries, write_queries
from harness.inputs.triples import Triples, check_job
from harness.running.kinds import Asked, JobInputs
from harness.store.cell import Artifact, Cell, Listed
from harness.store.spec import Queries as QueriesRecord
from harness.store.spec import Triples as TriplesRecord
from harness.store.spec import digest_of
from harness.store.store import MODEL, Store, keys_of
from harness.store.stored import StoredCell
from harness.tensors.safetensors import write_safetensors
from harness.tensors.tensor import Tensor

TRAINED = "trained@"
"""How the name of a checkpoint begins that is the model of a stored training."""


@dataclass(frozen=True)
class TrainInputs:
    """Passages, queries and triples, and the steps of which numbers are kept; see `harness.running.kinds.JobInputs`."""

    passages: Passages
    checkpoint: CheckpointFiles
    queries: Queries
    triples: Triples
    full_steps: tuple[int, ...] = ()

    @property
    def sources(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {
            "collection": self.passages.source, "checkpoint": self.checkpoint.source,
            "queries": self.queries.source, "triples": self.triples.source,
        }  # fmt: skip

    def spec(self) -> dict[str, Any]:
        """See `JobInputs`."""
        return {
            "queries": QueriesRecord.of(self.queries.record()),
            "triples": TriplesRecord.of(self.triples.record()),
        }

    def given(self) -> dict[str, Any]:
        """See `JobInputs`."""
        files = self.checkpoint
        return {
            "query_maxlen": files.query_maxlen, "doc_maxlen": files.doc_maxlen, "similarity": files.similarity,
        }  # fmt: skip

    def artifacts(self) -> Mapping[str, Artifact]:
        """See `JobInputs`."""
        return {}

    def write(self, run: Path) -> dict[str, Any]:
        """See `JobInputs`."""
        passages, queries, triples = (run / f"{name}.jsonl" for name in ("passages", "queries", "triples"))
        write_jsonl(self.passages, passages)
        # A line of triples names rows, so that queries are called by theirs.
        write_queries(self.queries, queries, by_row=True)
        with triples.open("w", encoding="utf-8") as file:
            file.writelines(self.triples.lines())
        # What makes a checkpoint of the weights that the job leaves.
        (run / MODEL).mkdir()
        for path in small_files(self.checkpoint.path):
            shutil.copyfile(path, run / MODEL / path.name)
        paths = {"passages": str(passages), "queries": str(queries), "triples": str(triples)}
        return {**paths, "full_steps": list(self.full_steps)}


class TrainKind:
    """The training job; see `harness.running.kinds.Kind`."""

    def __init__(self, experiment: Asked) -> None:
        self.experiment = experiment

    def load(self) -> None:
        """See `Kind`."""
        e = self.experiment
        assert isinstance(e.job, TrainJob)
        check_job(e.job)
        # What is wrong with the user's own files is said before a checkpoint is fetched.
        _ = e.triples

    def inputs(self, version: str) -> JobInputs:  # noqa: ARG002 - part of the protocol
        """See `Kind`."""
        e = self.experiment
        assert isinstance(e.job, TrainJob)
        return TrainInputs(e.passages, e.checkpoint, e.queries, e.triples, tuple(e.job.full_steps))

    def needs(self, version: str) -> str | None:  # noqa: ARG002 - part of the protocol
        """See `Kind`."""
        return None


# ---- the model of a stored training


def checkpoint_named(matrix: Matrix, beside: Path, names: Names, store: Store, name: str | None) -> CheckpointFiles:
    """The checkpoint that a command line names: one of `load_checkpoint`, or `trained@` and a stored training.

    Raises:
        UsageError: there is none of that name, or it is no checkpoint.
    """
    if name is not None and name.startswith(TRAINED):
        trained = names.canonical(matrix, name.removeprefix(TRAINED))
        return trained_checkpoint(names.home, store, trained_cell(store, trained))
    return load_checkpoint(matrix, beside, names.home, name, run_uv)


def trained_cell(store: Store, name: str) -> Cell:
    """The stored training whose model is meant.

    Args:
        store: where it is.
        name: a version or a label, such as `2.8.0` or `2.8.0#1`, or the start of a key.

    Raises:
        UsageError: there is none, or there are several whose models differ.
    """
    listed = [one for one in store.listed() if _is_training(one)]
    # What the user calls an environment may look like the start of a key.
    found = [cell for one in listed if one.label == name and (cell := store.get(one.key))]
    found = found or [one for one in store.named(name) if _is_training(one)]
    if not found:
        labels = ", ".join(dict.fromkeys(one.label for one in listed)) or "none yet"
        raise UsageError(
            f"--checkpoint {TRAINED}{name}: no training of that name is stored ({labels}): run `harness train VERSION` "
            "first, or give the start of a cell's key."
        )
    if len({one.artifacts["trained"].digest for one in found}) > 1:
        raise UsageError(
            f"--checkpoint {TRAINED}{name}: {len(found)} stored trainings have that name, and their models differ; "
            "give the start of a key instead:",
            keys_of(found, TRAINED),
        )
    return found[0]


def _is_training(one: Listed) -> bool:
    return one.spec.job == TrainJob.NAME and one.outcome == "ok"


def trained_checkpoint(home: Home, store: Store, cell: Cell) -> CheckpointFiles:
    """A stored training's model as a checkpoint: its files and settings, with the weights that it ended with.

    It is made in the home at first use. Models that are equal in every bit are one checkpoint, whoever trained them.

    Args:
        home: gets the checkpoint's folder.
        store: where the cell is.
        cell: a training that ended well.

    Raises:
        UsageError: its weights cannot be read, or are not those of the parameters that it lists.
    """
    name = f"{TRAINED}{cell.label}"
    settings = {field: cell.spec.settings[field] for field in TrainJob.GIVEN if field in cell.spec.settings}
    # Of what it is made of, not of the cell: another run of it may have made something else.
    made_of = [cell.artifacts["trained"].digest, cell.spec.checkpoint.digest, settings]
    folder = home.data_cache / "trained" / digest_of(made_of)
    kept = store.cell_folder(cell.key) / MODEL
    if not kept.is_dir():
        raise UsageError(
            f"--checkpoint {name}: its cell has lost the files of the checkpoint that it began with: run "
            f"`harness train {cell.version} --again` with the same options."
        )
    with disk_errors(home):
        if not (folder / SAFETENSORS).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as making:
                made = Path(making) / "model"
                shutil.copytree(kept, made)
                set_metadata(made, settings)
                try:
                    weights = _weights(StoredCell(store, cell))
                    # transformers takes no file that does not say so.
                    write_safetensors(made / SAFETENSORS, weights, {"format": "pt"})
                except UnreadableTensor as error:
                    raise UsageError(f"--checkpoint {name}: its model cannot be read: {error}") from error
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return load_checkpoint_folder(folder, name, {"kind": "trained", "key": cell.key})


def _weights(source: StoredCell) -> dict[str, Tensor]:
    """The parameters of a training's model, by name."""
    whole, listed = source.load("trained"), parameters_of(source)
    if not listed or sum(one.elements for one in listed) != whole.n or len(whole.shape) != 1:
        raise UnreadableTensor("it does not have the elements of the parameters that its cell lists")
    return {
        one.name: Tensor.of(np.asarray(whole.data[one.offset : one.offset + one.elements]).reshape(one.shape))
        for one in listed
    }

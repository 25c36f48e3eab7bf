"""The files that a matrix or a command line names: a collection, its queries, a checkpoint; found, loaded, checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.files import disk_errors
from harness.inputs.matrix import Matrix
from harness.inputs.sources import (
    EmbeddedCheckpoint,
    EmbeddedCollection,
    HubCheckpoint,
    HubCollection,
    HubPart,
    LocalCheckpoint,
    LocalCollection,
    ScaledCollection,
)

if TYPE_CHECKING:
    from harness.home import Home
    from harness.inputs.checkpoint import CheckpointFiles
    from harness.inputs.embedded_checkpoint import RunUv
    from harness.inputs.jobs import TrainJob
    from harness.inputs.passages import Passages
    from harness.inputs.queries import Qrels, Queries
    from harness.inputs.triples import Triples

SCALE_SEED = 0


def load_collection(
    matrix: Matrix, beside: Path, home: Home, name: str | None, *, limit: int | None = None, scale_to: int | None = None
) -> Passages:
    """Load a collection.

    Args:
        matrix: names collections, and the default one.
        beside: the folder of `matrix.yaml`, which relative paths in it start from.
        home: whose cache holds what was downloaded.
        name: a collection in `matrix`, or a path; None for the default one.
        limit: only the first so many passages.
        scale_to: make so many passages out of them by the seeded recipe.

    Raises:
        UsageError: there is no such collection, or it is not what it should be.
    """
    from harness.inputs.recipe import scale_up

    with disk_errors(home):
        loaded = _collection(matrix, beside, home, name or matrix.defaults.collection, limit)
    return loaded if scale_to is None else scale_up(loaded, scale_to, SCALE_SEED)


def _collection(matrix: Matrix, beside: Path, home: Home, name: str, limit: int | None) -> Passages:
    from harness.inputs import collection as kinds
    from harness.inputs import recipe
    from harness.inputs.readers import SUFFIXES

    known = matrix.collections.get(name)
    if known is None:
        if name.endswith(SUFFIXES) or "/" in name or Path(name).exists():
            return kinds.load_local(Path(name), limit=limit)
        raise UsageError(
            f"--collection {name!r}: not a collection in matrix.yaml ({', '.join(matrix.collections)}) and "
            "not a path to a .parquet, .tsv or .jsonl file."
        )
    if isinstance(known, EmbeddedCollection):
        return kinds.load_embedded(min(known.passages, limit or known.passages))
    if isinstance(known, LocalCollection):
        return kinds.load_local(beside / known.path, limit=limit)
    if isinstance(known, ScaledCollection):
        base = known.base if known.base in matrix.collections else str(beside / known.base)
        # The limit is on the scaled passages: a shorter base would scale to other passages.
        scaled = recipe.scale_up(_collection(matrix, beside, home, base, None), known.passages, known.seed)
        return replace(scaled, ids=scaled.ids[:limit], texts=scaled.texts[:limit])
    assert isinstance(known, HubCollection)
    return kinds.load_hub(
        known.repo,
        known.config,
        known.split,
        revision=known.revision,
        expected_rows=known.expected_passages,
        cache=home.data_cache,
        limit=limit,
    )


def load_queries(
    matrix: Matrix,
    beside: Path,
    home: Home,
    collection: str | None,
    passages: Passages,
    *,
    queries: str | None = None,
    qrels: str | None = None,
    limit: int | None = None,
    whole: bool = True,
) -> tuple[Queries, Qrels | None]:
    """Load what is searched for, and which passages answer it, where anybody said so.

    Args:
        matrix: names collections, which have queries and qrels of their own.
        beside: the folder of `matrix.yaml`.
        home: whose cache holds what was downloaded.
        collection: a collection in `matrix`, or a path; None for the default one.
        passages: the same, loaded.
        queries: a file, in place of the collection's own queries and qrels.
        qrels: a file, in place of the collection's own.
        limit: only the first so many queries.
        whole: whether `passages` are all of the collection.

    Raises:
        UsageError: there are no queries, they are not what they should be, or the qrels are not of them.
    """
    from harness.inputs.queries import fitting, local_qrels, local_queries

    with disk_errors(home):
        if queries is not None:
            found, judged = local_queries(Path(queries), limit), None
        else:
            name = collection or matrix.defaults.collection
            found, judged = _own_queries(matrix, beside, home, name, passages, limit, own_qrels=qrels is None)
        if qrels is not None:
            judged = local_qrels(Path(qrels))
    return found, None if judged is None else fitting(judged, found, passages, whole=whole)


def _own_queries(
    matrix: Matrix, beside: Path, home: Home, name: str, passages: Passages, limit: int | None, *, own_qrels: bool
) -> tuple[Queries, Qrels | None]:
    """The queries of a collection in the matrix, and its qrels where they are wanted."""
    from harness.inputs import hub
    from harness.inputs import queries as kinds

    known = matrix.collections.get(name)
    if isinstance(known, ScaledCollection):
        known = matrix.collections.get(known.base)
    if isinstance(known, EmbeddedCollection):
        return kinds.embedded_queries(passages, min(known.queries, limit or known.queries))
    if isinstance(known, LocalCollection) and known.queries is not None:
        judged = kinds.local_qrels(beside / known.qrels) if known.qrels is not None and own_qrels else None
        return kinds.local_queries(beside / known.queries, limit), judged
    if isinstance(known, HubCollection) and known.queries is not None:

        def files(part: HubPart) -> tuple[list[Path], str]:
            return hub.dataset_files(
                known.repo, part.config, part.split, revision=known.revision, cache=home.data_cache
            )

        (paths, revision), part, judged = files(known.queries), known.queries, None
        if known.qrels is not None and own_qrels:
            what = f"{known.repo} ({known.qrels.config}, {known.qrels.split})"
            judged = kinds.collect_qrels(kinds.parquet_rows(files(known.qrels)[0]), what)
        return kinds.hub_queries(paths, limit, known.repo, part.config, part.split, revision), judged
    raise UsageError(
        f"The collection {name} has no queries: pass --queries FILE (Parquet, TSV or JSON lines), or name `queries` "
        "of it in matrix.yaml."
    )


def load_triples(
    matrix: Matrix,
    beside: Path,
    home: Home,
    collection: str | None,
    passages: Passages,
    queries: Queries,
    qrels: Qrels | None,
    job: TrainJob,
    *,
    triples: str | None = None,
) -> Triples:
    """Load or draw as many triples as a training reads.

    Args:
        matrix: names collections, which may have triples of their own.
        beside: the folder of `matrix.yaml`.
        home: whose cache holds what was downloaded.
        collection: a collection in `matrix`, or a path; None for the default one.
        passages: the same, loaded.
        queries: what triples ask for.
        qrels: which passages answer them: from these they are drawn where no file has them.
        job: how many are wanted, and of how many passages each.
        triples: a file, in place of the collection's own.

    Raises:
        UsageError: there are none, too few, or they are not what they should be.
    """
    from harness.inputs.triples import check_steps, drawn_triples, local_triples, triples_of

    known = matrix.collections.get(collection or matrix.defaults.collection)
    own = beside / known.triples if isinstance(known, LocalCollection) and known.triples is not None else None
    path = Path(triples) if triples is not None else own
    if path is None and qrels is None:
        raise UsageError(
            f"There are no triples to train from, and no qrels of {queries.name} to draw them from: pass --triples "
            "FILE, or --qrels FILE."
        )
    with disk_errors(home):
        if path is not None:
            found = local_triples(path, queries, passages, triples_of(job), job.nway)
        else:
            assert qrels is not None
            found = drawn_triples(qrels, queries, passages, triples_of(job), job.nway)
    check_steps(job, found)
    return found


def load_checkpoint(matrix: Matrix, beside: Path, home: Home, name: str | None, run_uv: RunUv) -> CheckpointFiles:
    """Find and check a checkpoint's files; the arguments are those of `load_collection`, and how uv is run.

    Raises:
        UsageError: there is no such checkpoint, or it is not one.
    """
    from harness.inputs import checkpoint as kinds

    name = name or matrix.defaults.checkpoint
    known = matrix.checkpoints.get(name)
    with disk_errors(home):
        if known is None:
            if "/" in name or Path(name).exists():
                return kinds.load_checkpoint_local(Path(name))
            raise UsageError(
                f"--checkpoint {name!r}: not a checkpoint in matrix.yaml ({', '.join(matrix.checkpoints)}) "
                "and not a folder."
            )
        if isinstance(known, EmbeddedCheckpoint):
            return kinds.load_checkpoint_embedded(home, run_uv)
        if isinstance(known, LocalCheckpoint):
            return kinds.load_checkpoint_local(beside / known.path)
        assert isinstance(known, HubCheckpoint)
        return kinds.load_checkpoint_hub(known.repo, known.revision, cache=home.data_cache)

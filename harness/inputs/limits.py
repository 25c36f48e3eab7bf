"""Jobs that colbert-ai is certain to end after minutes of work, refused before they start."""

from __future__ import annotations

import itertools
import math
import unicodedata

from harness.errors import UsageError
from harness.inputs.checkpoint import CheckpointFiles
from harness.inputs.jobs import IndexJob
from harness.inputs.passages import Passages
from harness.words import count

_SPECIAL_TOKENS = 4
"""Beside its text a passage has [CLS], the marker [D] and [SEP], and some tokenizers add a space before it."""
_HELD_OUT, _MOST_HELD_OUT = 0.05, 50_000


def job_runs(job: IndexJob, checkpoint: CheckpointFiles, passages: Passages) -> None:
    """Refuse a job that colbert-ai is certain to end after minutes of work.

    Raises:
        UsageError: `nbits` and `dim` do not go together, or the collection is too small to be clustered, or for a
            rank to have a part of it.
    """
    # colbert-ai packs residuals into bytes and asserts this (`ResidualCodec.binarize`).
    dim, nbits = checkpoint.dim, job.nbits
    if dim % (8 * nbits):
        works = [str(value) for value in (1, 2, 4, 8) if dim % (8 * value) == 0]
        mend = f"set nbits to {' or '.join(works)}, or use another" if works else "no nbits goes with it, use another"
        raise UsageError(
            f"matrix.yaml: jobs.index.nbits is {nbits} and the checkpoint {checkpoint.name} has dim {dim}, but "
            f"colbert-ai needs a dim that is a multiple of 8 * nbits ({8 * nbits}): {mend} checkpoint."
        )
    if chunks_of(len(passages), job.ranks) < job.ranks:
        raise UsageError(
            f"The collection {passages.name} is too small for {job.ranks} ranks: colbert-ai cuts its "
            f"{count(len(passages), 'passage')} into {count(chunks_of(len(passages), job.ranks), 'chunk')}, and ends "
            "with an error in a rank that gets none; use more passages, or a smaller --nranks."
        )
    # How many embeddings there will be is known once they are encoded: a tokenizer makes at most one token of a byte of
    # the decomposed text.
    needed = next(number for number in itertools.count(1) if can_be_clustered(number))
    most = 0
    for text in passages.texts:
        size = len(unicodedata.normalize("NFKD", text).encode()) + _SPECIAL_TOKENS
        most += min(size, job.doc_maxlen)
        if most >= needed:
            return
    raise UsageError(
        f"The collection {passages.name} is too small: of {count(len(passages), 'passage')} come at most "
        f"{count(most, 'embedding')}, and colbert-ai's k-means needs {needed}; use more passages (a larger --limit) or "
        "longer ones."
    )


def partitions(embeddings: float) -> int:
    """How many clusters colbert-ai asks for (`CollectionIndexer.setup`)."""
    return int(2 ** math.floor(math.log2(16 * math.sqrt(embeddings))))


def can_be_clustered(embeddings: int) -> bool:
    """Whether faiss gets at least as many points as clusters, once colbert-ai has held out a part of its sample."""
    return embeddings - int(min(_HELD_OUT * embeddings, _MOST_HELD_OUT)) >= partitions(embeddings)


def chunks_of(passages: int, ranks: int = 1) -> int:
    """In how many chunks colbert-ai encodes a collection (`Collection.get_chunksize`), each on one rank in turn."""
    return math.ceil(passages / min(25_000, 1 + passages // ranks))

"""What a command asks for, checked before anything is built, fetched from a node, or run.

A job that is certain to fail is refused here with the mend; of what could not be known before, `harness.mends` says the
mend afterwards. A command that builds or runs something begins with `to_run`, and reads its versions, pairs and repeats
with the functions below. A folder that will be written is checked by its option (`harness.commands.options`).
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from harness.checkpoint import CheckpointFiles
from harness.collection import Passages
from harness.errors import UsageError
from harness.experiment import Experiment, Selection
from harness.gpus import jobs_at_a_time
from harness.matrix import IndexJob, Matrix
from harness.words import count, said

_SPECIAL_TOKENS = 4
"""Beside its text a passage has [CLS], the marker [D] and [SEP], and some tokenizers add a space before it."""
_HELD_OUT, _MOST_HELD_OUT = 0.05, 50_000
_CHUNK = 25_000


def to_run(selection: Selection) -> Experiment:
    """The experiment of a command that builds or runs something.

    Raises:
        UsageError: what the machine must have for it is not there: a home that can be written, the interpreter of
            `--sites`, a sensible HARNESS_JOBS.
    """
    experiment = Experiment(selection)
    writable_folder(experiment.home.root, "--home (or HARNESS_HOME)")
    jobs_at_a_time()
    sites, python = selection.sites, selection.site_python
    if sites is None and python is not None:
        raise UsageError("--site-python runs the environments of --sites: give both, or neither.")
    if sites is not None and (python is None or not os.access(python, os.X_OK)):
        shown = "is missing" if python is None else f"{python}: cannot be run"
        raise UsageError(f"--site-python {shown}: --sites needs the Python that was brought along.")
    return experiment


def versions_of(matrix: Matrix, named: Sequence[str]) -> list[str]:
    """The versions that a command line means, each once; all of them for none, or for `all`.

    Raises:
        UsageError: one that the matrix does not have.
    """
    if not named or tuple(named) == ("all",):
        return list(matrix.versions)
    return [matrix.require(version) for version in dict.fromkeys(named)]


def parse_repeats(matrix: Matrix, values: Sequence[str], versions: Sequence[str]) -> dict[str, int]:
    """`--repeat` values as version to number of extra runs.

    Raises:
        UsageError: not VERSION or VERSION=N, or a version that is unknown, not among `versions`, or given twice.
    """
    parsed: dict[str, int] = {}
    for value in values:
        version, _, number = value.partition("=")
        if number and not (number.isdecimal() and int(number) > 0):
            raise UsageError(f"--repeat {value!r}: write VERSION=N with N at least 1, such as 2.4.1=2.")
        if matrix.require(version) not in versions:
            raise UsageError(
                f"--repeat {value}: {version} is not among the versions of this command ({', '.join(versions)}): name "
                "it there too, or leave its repeat out."
            )
        if version in parsed:
            raise UsageError(f"--repeat {value}: {version} is given twice: write {version}=N once.")
        parsed[version] = int(number or 1)
    return parsed


def two_versions(matrix: Matrix, a: str, b: str, command: str) -> tuple[str, str]:
    """The two versions of a command that explains their difference.

    Raises:
        UsageError: one is unknown, or they are the same.
    """
    a, b = matrix.require(a), matrix.require(b)
    if a == b:
        raise UsageError(
            f"A and B are both {a}, and {command} explains the difference between two versions: `harness doctor "
            f"--repeats 2 --version {a}` says what changes from run to run of one, `harness index {a} --repeat {a}` "
            f"and `harness compare {a} {a}#1` compare two of its runs."
        )
    return a, b


def writable_folder(folder: Path, option: str) -> Path:
    """Say whether a folder can be written, or made, by a try that leaves nothing behind.

    Raises:
        UsageError: it cannot; the sentence names the option.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        # Permissions are not asked for: root has them all, on read-only filesystems and in /proc too.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = "is not a folder" if not there.is_dir() else f"cannot be written ({said(error)})"
        raise UsageError(f"{option}: {there} {what}; name a folder that can be written.") from error
    return folder


def writable_file(path: Path, option: str) -> Path:
    """The same for a file that will be made or appended to.

    Raises:
        UsageError: it cannot be written.
    """
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{option}: there is no folder {path.absolute().parent}; make it, or name another file.")
        writable_folder(path.absolute().parent, option)
        return path
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be written ({said(error)}); name another file.") from error
    return path


# ---- where job, checkpoint and collection meet


def job_runs(job: IndexJob, checkpoint: CheckpointFiles, passages: Passages) -> None:
    """Refuse a job that colbert-ai is certain to end after minutes of work.

    Raises:
        UsageError: `nbits` and `dim` do not go together, or the collection is too small to be clustered.
    """
    _packable(job.nbits, checkpoint)
    _clusterable(job.doc_maxlen, passages)


def _packable(nbits: int, checkpoint: CheckpointFiles) -> None:
    """colbert-ai packs residuals into bytes and asserts `dim % (nbits * 8) == 0` (`ResidualCodec.binarize`)."""
    dim = checkpoint.dim
    if dim % (8 * nbits) == 0:
        return
    works = [str(value) for value in (1, 2, 4, 8) if dim % (8 * value) == 0]
    mend = f"set nbits to {' or '.join(works)}, or use another" if works else "no nbits goes with it, use another"
    raise UsageError(
        f"matrix.yaml: jobs.index.nbits is {nbits} and the checkpoint {checkpoint.name} has dim {dim}, but colbert-ai "
        f"needs a dim that is a multiple of 8 * nbits ({8 * nbits}): {mend} checkpoint."
    )


def partitions(embeddings: float) -> int:
    """How many clusters colbert-ai asks for (`CollectionIndexer.setup`)."""
    return int(2 ** math.floor(math.log2(16 * math.sqrt(embeddings))))


def can_be_clustered(embeddings: int) -> bool:
    """Whether faiss gets at least as many points as clusters, once colbert-ai has held out a part of its sample."""
    return embeddings - int(min(_HELD_OUT * embeddings, _MOST_HELD_OUT)) >= partitions(embeddings)


def _clusterable(doc_maxlen: int, passages: Passages) -> None:
    """Refuse where not even the most tokens that the passages could have are enough.

    How many they have is only known when they are encoded. A tokenizer makes at most one token of a byte of the
    decomposed text.
    """
    needed = next(number for number in itertools.count(1) if can_be_clustered(number))
    most = 0
    for text in passages.texts:
        size = len(unicodedata.normalize("NFKD", text).encode()) + _SPECIAL_TOKENS
        most += min(size, doc_maxlen)
        if most >= needed:
            return
    raise UsageError(
        f"The collection {passages.name} is too small: of {count(len(passages), 'passage')} come at most "
        f"{count(most, 'embedding')}, and colbert-ai's k-means needs {needed}; use more passages (a larger --limit) or "
        "longer ones."
    )


def chunks_of(passages: int) -> int:
    """In how many chunks colbert-ai encodes a collection with one rank (`Collection.get_chunksize`)."""
    return math.ceil(passages / min(_CHUNK, 1 + passages))

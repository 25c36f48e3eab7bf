"""An index as it is given to a search: whether it is whole, its digest, and a clean copy without a pickle in it.

colbert-ai loads an index with `torch.load`, which before torch 2.6 runs code from the file. Whoever made an index, it
is read here, by our own reader, and only tensors and checked JSON go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from harness.artifacts.index_job import INDEX
from harness.artifacts.meaning import chunks_in, dim_of, nbits_of, within
from harness.artifacts.metadata import identity
from harness.artifacts.source import ArtifactSource, first_missing, listed
from harness.errors import UnreadableTensor, UsageError
from harness.files import dumps, read_json, too_deep
from harness.tensors.safetensors import write_safetensors

DOCLENS = "doclens"
_JSON = re.compile(r"metadata\.json|plan\.json|(0|[1-9][0-9]*)\.metadata\.json|doclens\.(0|[1-9][0-9]*)\.json")
_INTEGERS, _FLOATS = ("int32", "int64"), ("float16", "bfloat16", "float32")
_DTYPES = {
    "*.codes": _INTEGERS, "*.residuals": ("uint8",), "ivf": _INTEGERS, "ivf_lengths": _INTEGERS, "centroids": _FLOATS,
    "bucket_weights": _FLOATS,
}  # fmt: skip
"""What colbert-ai can compute with."""


class IndexFiles(ArtifactSource, Protocol):
    """An index whose JSON files are in a folder."""

    @property
    def folder(self) -> Path:
        """That folder."""


def tensors_of(source: ArtifactSource) -> tuple[str, ...]:
    """The tensors that an index consists of, its passages' lengths included."""
    return tuple(name for name in source.names() if INDEX.is_final(name) or name == DOCLENS)


def settings_of(source: ArtifactSource) -> dict[str, object]:
    """The settings of an index that a search may take from it, without names, paths and dates."""
    found = identity(source.metadata())
    return {name: value for name, value in found.items() if name.startswith("config.")}


def check_index(source: IndexFiles, passages: int, dim: int) -> None:
    """Refuse an index that cannot be searched, or whose passages are not the collection's.

    Args:
        source: an index that nobody has checked.
        passages: of the collection.
        dim: of the checkpoint's embeddings.

    Raises:
        UsageError: it is not whole, its tensors contradict each other, or it is of something else.
    """
    try:
        wrong = next(_wrong(source, passages, dim), "")
    except UnreadableTensor as error:
        raise UsageError(f"{source.name} cannot be searched: {error}") from error
    if wrong:
        raise UsageError(f"{source.name} cannot be searched: {wrong}.")


def _wrong(source: IndexFiles, passages: int, dim: int) -> Iterator[str]:
    missing = first_missing(source)
    if missing:
        yield f"it has no {listed(missing)}; index the passages again"
    if getattr(source, "ivf_file", None) == "ivf.pt":
        yield "its ivf.pt lists embeddings, as colbert-ai wrote it before 0.2.11; index the passages again"
    for name in tensors_of(source):
        dtype, allowed = source.load(name).dtype, _DTYPES.get(INDEX.pattern(name)[0], ())
        if allowed and dtype not in allowed:
            yield f"{name} is {dtype}, where colbert-ai has {' or '.join(allowed)}"
    if nbits_of(source) not in (1, 2, 4, 8):
        yield "its bucket_weights and its residuals do not say by how many bits it is compressed, 1, 2, 4 or 8"
    found = dim_of(source)
    if found != dim:
        yield f"its embeddings have {found} dimensions and the checkpoint's {dim}; give the checkpoint that it is of"
    found = source.load(DOCLENS).n
    if found != passages:
        yield f"it is of {found:,} passages, and the collection has {passages:,}; give the collection that it is of"
    yield from _contradictions(source)


def _contradictions(source: IndexFiles) -> Iterator[str]:
    """Where tensors of the right form do not go together."""
    partitions, passages = source.load("centroids").shape[0], source.load(DOCLENS).n
    for chunk, name in chunks_in(source, "*.codes").items():
        codes, told = source.load(name), sum(_doclens(source.folder / f"doclens.{chunk}.json"))
        if codes.n != told or source.load(f"{chunk}.residuals").shape[:1] != (codes.n,):
            yield f"chunk {chunk} has {codes.n:,} codes for passages of {told:,} tokens; index them again"
        if not within(codes, partitions):
            yield f"{name} names a centroid that is not among its {partitions:,}"
    lengths, ivf = source.load("ivf_lengths"), source.load("ivf")
    if lengths.n != partitions or int(lengths.flat.sum()) > ivf.n:
        yield "its ivf_lengths are not those of its centroids and of its ivf"
    if not within(ivf, passages):
        yield "its ivf lists a passage that it does not have"


def _doclens(path: Path) -> list[int]:
    found = read_json(path)
    if not isinstance(found, list) or any(type(one) is not int or one < 0 for one in found):
        raise UnreadableTensor(f"{path} is not a list of document lengths.")
    return found


def clean_copy(source: IndexFiles, folder: Path) -> None:
    """Write an index as safetensors, `NAME.safetensors` with one tensor named `tensor`, and its JSON files.

    Raises:
        UnreadableTensor: a file of it is damaged.
    """
    folder.mkdir()
    for name in tensors_of(source):
        if name != DOCLENS:  # these are the JSON files
            write_safetensors(folder / f"{name}.safetensors", {"tensor": source.load(name)})
    for path in sorted(source.folder.iterdir()):
        if not _JSON.fullmatch(path.name):
            continue
        found: Any = read_json(path)
        if path.name.startswith(DOCLENS):
            found = _doclens(path)
        elif not isinstance(found, dict) or too_deep(found):
            raise UnreadableTensor(f"{path} is not a JSON object.")
        (folder / path.name).write_text(dumps(found), encoding="utf-8")

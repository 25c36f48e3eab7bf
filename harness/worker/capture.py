"""Record the values inside colbert-ai's indexing pipeline by wrapping its functions at run time.

Nothing on disk is edited: uv hard-links installed files to its cache, so an edit in site-packages would change every
environment that shares the file. Each wrapper calls the original and hands its value to `Tap`, which writes it and, for
a swap, puts another in its place. Capturing must never change the result: wrappers only read, and copy to the host
before they write.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class Tap:
    """Writes named values below `folder`; with `swap`, returns the tensor of another cell in a value's place.

    Args:
        folder: where `NAME.safetensors` files go, each with one tensor named `tensor`; made if it does not exist.
        level: `final` records nothing, `digests` and `full` record everything (what is kept is the store's business).
        swap: artifact name to the path of a safetensors file with a tensor named `tensor`.
    """

    def __init__(self, folder: str, level: str, swap: dict[str, str]) -> None:
        self.folder, self.enabled, self.swap = folder, level != "final", swap
        self.records: dict[str, dict[str, Any]] = {}
        self.swapped: list[str] = []
        self.seconds = 0.0
        self.first_outer_batch = True
        if self.enabled:
            os.makedirs(folder, exist_ok=True)

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Record `tensor` under `name`, and return it or its replacement."""
        if name in self.swap:
            replacement = load_file(self.swap[name])["tensor"].to(device=tensor.device)
            if replacement.dtype != tensor.dtype or replacement.shape != tensor.shape:
                raise ValueError(
                    f"cannot swap {name}: the replacement is {replacement.dtype} {tuple(replacement.shape)}, "
                    f"the job made {tensor.dtype} {tuple(tensor.shape)}"
                )
            tensor = replacement
            self.swapped.append(name)
        if self.enabled and name not in self.records:
            started = time.perf_counter()
            held = tensor.detach().to("cpu").contiguous()
            save_file({"tensor": held}, os.path.join(self.folder, f"{name}.safetensors"))
            self.records[name] = {"dtype": str(held.dtype).removeprefix("torch."), "shape": list(held.shape)}
            self.seconds += time.perf_counter() - started
        return tensor

    def value(self, name: str, values: list[int]) -> None:
        """Record integers (a count, a list of passage ids) as an int64 tensor."""
        if self.enabled:
            self(name, torch.tensor(values, dtype=torch.int64))


@contextlib.contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Put `replacement` in the place of an owner's attribute for as long as the `with` block lasts."""
    inherited = name not in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


Patch = tuple[Any, str, Any]
"""An owner, the name of its attribute, and what takes the attribute's place."""


def install(tap: Tap) -> contextlib.ExitStack:
    """Wrap colbert-ai's functions around `tap`; closing the returned stack puts the originals back."""
    stack = contextlib.ExitStack()
    for owner, name, replacement in (*_sampling(tap), *_training(tap), *_encoding(tap)):
        stack.enter_context(patched(owner, name, replacement))
    return stack


def _sampling(tap: Tap) -> list[Patch]:
    """From the choice of passages to their embeddings."""
    from colbert.indexing.collection_indexer import CollectionIndexer
    from colbert.modeling.checkpoint import Checkpoint

    sampling = {"active": False}
    sample_pids, sample_embeddings = CollectionIndexer._sample_pids, CollectionIndexer._sample_embeddings
    original_doc_from_text = Checkpoint.docFromText

    def _sample_pids(self: Any) -> set[int]:
        pids: set[int] = sample_pids(self)
        tap.value("sample_pids", sorted(pids))
        tap.value("num_passages", [len(pids)])
        return pids

    def _sample_embeddings(self: Any, pids: set[int]) -> Any:
        encode = self.encoder.encode_passages

        def encode_passages(passages: list[str]) -> Any:
            embs, doclens = encode(passages)
            return tap("local_sample_embs", embs), doclens

        sampling["active"] = True
        self.encoder.encode_passages = encode_passages
        try:
            return sample_embeddings(self, pids)
        finally:
            sampling["active"] = False
            del self.encoder.encode_passages

    def doc_from_text(self: Any, docs: Any, *args: Any, **kwargs: Any) -> Any:
        if not (sampling["active"] and tap.first_outer_batch):
            return original_doc_from_text(self, docs, *args, **kwargs)
        tap.first_outer_batch = False
        return _first_outer_batch(tap, self, original_doc_from_text, docs, args, kwargs)

    return [
        (CollectionIndexer, "_sample_pids", _sample_pids),
        (CollectionIndexer, "_sample_embeddings", _sample_embeddings),
        (Checkpoint, "docFromText", doc_from_text),
    ]


def _training(tap: Tap) -> list[Patch]:
    """From the split of the sample to the normalised centroids."""
    from colbert.indexing import collection_indexer
    from colbert.indexing.collection_indexer import CollectionIndexer

    split, train_kmeans = CollectionIndexer._concatenate_and_split_sample, CollectionIndexer._train_kmeans
    kmeans = collection_indexer.compute_faiss_kmeans

    def _concatenate_and_split_sample(self: Any) -> Any:
        sample, heldout = split(self)
        return tap("sample", sample), tap("sample_heldout", heldout)

    def compute_faiss_kmeans(*args: Any, **kwargs: Any) -> Any:
        return tap("centroids_raw", kmeans(*args, **kwargs))

    def _train_kmeans(self: Any, sample: Any, shared_lists: Any) -> Any:
        normalize = torch.nn.functional.normalize

        def normalize_centroids(*args: Any, **kwargs: Any) -> Any:
            return tap("centroids_normalized", normalize(*args, **kwargs))

        with patched(torch.nn.functional, "normalize", normalize_centroids):
            return train_kmeans(self, sample, shared_lists)

    return [
        (CollectionIndexer, "_concatenate_and_split_sample", _concatenate_and_split_sample),
        (collection_indexer, "compute_faiss_kmeans", compute_faiss_kmeans),
        (CollectionIndexer, "_train_kmeans", _train_kmeans),
    ]


def _encoding(tap: Tap) -> list[Patch]:
    """From the embeddings of each chunk to the inverted lists."""
    from colbert.indexing import collection_indexer
    from colbert.indexing.collection_indexer import CollectionIndexer
    from colbert.indexing.index_saver import IndexSaver

    build_ivf, save_chunk = CollectionIndexer._build_ivf, IndexSaver.save_chunk
    optimize_ivf = collection_indexer.optimize_ivf

    def save_chunk_(self: Any, chunk_idx: int, offset: int, embs: Any, doclens: Any) -> Any:
        return save_chunk(self, chunk_idx, offset, tap(f"embs_{chunk_idx}", embs), doclens)

    def _build_ivf(self: Any) -> Any:
        sort = torch.Tensor.sort

        def sort_codes(codes: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            ordered = sort(tap("codes", codes), *args, **kwargs)
            tap("values", ordered.values)
            return ordered

        with patched(torch.Tensor, "sort", sort_codes):
            return build_ivf(self)

    def optimize(ivf: Any, *args: Any, **kwargs: Any) -> Any:
        # Only here does `sort` have its own meaning again: optimize_ivf sorts too, inside torch.unique.
        return optimize_ivf(tap("ivf_unoptimized", ivf), *args, **kwargs)

    return [
        (IndexSaver, "save_chunk", save_chunk_),
        (CollectionIndexer, "_build_ivf", _build_ivf),
        (collection_indexer, "optimize_ivf", optimize),
    ]


def _first_outer_batch(tap: Tap, checkpoint: Any, doc_from_text: Any, docs: Any, args: Any, kwargs: Any) -> Any:
    """Run the first outer batch with its token ids, its per-batch embeddings and its reordered result recorded."""
    tensorize, doc = checkpoint.doc_tokenizer.tensorize, checkpoint.doc
    outputs: list[torch.Tensor] = []

    def record_tensorize(*inner: Any, **options: Any) -> Any:
        batches, reverse_indices = tensorize(*inner, **options)
        # All batches of one outer batch are padded to the same length, so they are one tensor cut along dimension 0.
        tap("tensorize_output.input_ids", torch.cat([ids for ids, _ in batches]))
        tap("tensorize_output.attention_mask", torch.cat([mask for _, mask in batches]))
        tap("tensorize_output.reverse_indices", reverse_indices)
        return batches, reverse_indices

    def record_doc(*inner: Any, **options: Any) -> Any:
        embeddings, mask = doc(*inner, **options)
        outputs.append(embeddings.to("cpu"))
        return embeddings, mask

    checkpoint.doc_tokenizer.tensorize, checkpoint.doc = record_tensorize, record_doc
    try:
        flat, *rest = doc_from_text(checkpoint, docs, *args, **kwargs)
    finally:
        del checkpoint.doc_tokenizer.tensorize, checkpoint.doc
    tap("batches", torch.cat(outputs))
    return (tap("D", flat), *rest)


def write_records(tap: Tap, out_dir: str) -> None:
    """Write `intermediates.json`: dtype and shape of everything that was recorded."""
    with open(os.path.join(out_dir, "intermediates.json"), "w", encoding="utf-8") as file:
        json.dump(tap.records, file, indent=1, sort_keys=True)

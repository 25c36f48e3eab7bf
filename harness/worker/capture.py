"""Record the values inside colbert-ai's indexing pipeline by wrapping its functions at run time; see docs/cells.md.

Nothing on disk is edited: uv hard-links installed files, so an edit would change every environment that shares them.
Capturing must never change the result: wrappers only read, and copy to the host before they write. Nor may it end the
job: where a function or a value is not what it was expected to be, the artifact has a reason in `Notes`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file

from harness.worker.notes import Notes
from harness.worker.outcomes import Ended
from harness.worker.tensor_file import write_tensor


class Tap:
    """Writes named values below `folder`; with `swap`, returns the tensor of another cell in a value's place.

    Args:
        folder: where `NAME.safetensors` files go, each with one tensor named `tensor`; made if it does not exist.
        level: `final` records nothing, `digests` and `full` record everything (what is kept is the store's business).
        swap: artifact name to the path of a safetensors file with a tensor named `tensor`.
        notes: gets the reason of what cannot be recorded.
        hooks: every place that is recorded in this kind of job.
    """

    def __init__(
        self, folder: str, level: str, swap: dict[str, str], notes: Notes, hooks: tuple[Hook, ...] = ()
    ) -> None:
        self.folder, self.enabled, self.swap, self.notes = folder, level != "final", swap, notes
        self.hooks = hooks
        self.recorded: set[str] = set()
        self.swapped: list[str] = []
        self.seconds = 0.0
        self.first_outer_batch = True

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Record `tensor` under `name`, and return it or its replacement.

        Raises:
            Ended: its replacement does not fit.
        """
        if name in self.swap:
            tensor = self._replacement(name, tensor)
        # What could not be recorded at first is not taken at a later call, where it would be something else.
        if self.enabled and name not in self.recorded and name not in self.notes.reasons:
            started = time.perf_counter()
            with self.notes.recording(name):
                self._keep(name, tensor)
            self.seconds += time.perf_counter() - started
        return tensor

    def _replacement(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        replacement = load_file(self.swap[name])["tensor"].to(device=tensor.device)
        if replacement.dtype != tensor.dtype or replacement.shape != tensor.shape:
            raise Ended(
                "crashed",
                f"cannot swap {name}: the replacement is {replacement.dtype} {tuple(replacement.shape)}, "
                f"the job made {tensor.dtype} {tuple(tensor.shape)}",
            )
        self.swapped.append(name)
        return replacement

    def path(self, name: str) -> str:
        """Where an artifact is, or would be."""
        return os.path.join(self.folder, f"{name}.safetensors")

    def _keep(self, name: str, tensor: torch.Tensor) -> None:
        write_tensor(self.path(name), tensor)
        self.recorded.add(name)

    def final(self, name: str, tensor: torch.Tensor) -> None:
        """Write a part of the job's answer, at every level; that it cannot be written is the job's own trouble."""
        self._keep(name, tensor)

    def part(self, name: str, values: Any, place: int = 0) -> Any:
        """Record one part of a function's tuple; return the tuple with it or its replacement."""
        if not isinstance(values, tuple) or len(values) <= place:
            self.notes.add(name, f"its function returned no tuple of more than {place}: {type(values).__name__}")
            return values
        return (*values[:place], self(name, values[place]), *values[place + 1 :])

    def value(self, name: str, values: list[int]) -> None:
        """Record integers (a count, a list of passage ids) as an int64 tensor."""
        if self.enabled:
            self(name, torch.tensor(values, dtype=torch.int64))

    def finish(self) -> None:
        """Note each artifact that ought to have been recorded by now and was not, because its function never ran.

        Raises:
            Ended: one that was to be swapped is among those that the job never made.
        """
        missing = sorted(set(self.swap) - set(self.swapped))
        if missing:
            why = "".join(f" {name}: {self.notes.reasons[name]}." for name in missing if name in self.notes.reasons)
            listed = ", ".join(missing)
            raise Ended("crashed", f"These artifacts were to be swapped but the job never made them: {listed}.{why}")
        for hook in self.hooks if self.enabled else ():
            for name in hook.artifacts:
                if name not in self.recorded:
                    self.notes.add(name, f"the job ended without its turn in {hook.module}.{hook.path}")


@dataclass(frozen=True)
class Hook:
    """A function of colbert-ai that is wrapped.

    Attributes:
        artifacts: what is recorded in it, or in the functions that it calls.
        module: where colbert-ai looks it up.
        path: its attributes from there.
        wrap: is given the tap and the function, and returns what takes its place.
    """

    artifacts: tuple[str, ...]
    module: str
    path: str
    wrap: Callable[[Any, Any], Any]


def install(tap: Tap) -> contextlib.ExitStack:
    """Wrap colbert-ai's functions around `tap`, if it has anything to do there; closing the stack puts them back."""
    stack = contextlib.ExitStack()
    for hook in tap.hooks if tap.enabled or tap.swap else ():
        stack.enter_context(tap.notes.hook(hook.artifacts, hook.module, hook.path, functools.partial(hook.wrap, tap)))
    return stack


def _whole(name: str) -> Callable[[Tap, Any], Any]:
    """A wrapper for a function whose result is one artifact."""

    def wrap(tap: Tap, original: Any) -> Any:
        return lambda *args, **kwargs: tap(name, original(*args, **kwargs))

    return wrap


def _sample_pids(tap: Tap, original: Any) -> Any:
    def sample_pids(*args: Any, **kwargs: Any) -> Any:
        pids = original(*args, **kwargs)
        with tap.notes.recording("sample_pids", "num_passages"):
            tap.value("sample_pids", sorted(pids))
            tap.value("num_passages", [len(pids)])
        return pids

    return sample_pids


def _sample_embeddings(tap: Tap, original: Any) -> Any:
    """The sample is encoded in outer batches, the first of which is recorded in more detail."""

    def part(name: str) -> Callable[[Any], Any]:
        return lambda function: lambda *args, **kwargs: tap.part(name, function(*args, **kwargs))

    def from_text(function: Any) -> Any:
        checkpoint = function.__self__

        def doc_from_text(*args: Any, **kwargs: Any) -> Any:
            if not tap.first_outer_batch:
                return function(*args, **kwargs)
            tap.first_outer_batch = False
            return _first_outer_batch(tap, checkpoint, function, args, kwargs)

        return doc_from_text

    def sample_embeddings(self: Any, *args: Any, **kwargs: Any) -> Any:
        with (
            tap.notes.hook(("local_sample_embs",), self, "encoder.encode_passages", part("local_sample_embs")),
            tap.notes.hook((*_TOKENS, "batches", "D"), self, "encoder.checkpoint.docFromText", from_text),
        ):
            return original(self, *args, **kwargs)

    return sample_embeddings


_TOKENS = ("tensorize_output.input_ids", "tensorize_output.attention_mask", "tensorize_output.reverse_indices")


def _first_outer_batch(tap: Tap, checkpoint: Any, doc_from_text: Any, args: Any, kwargs: Any) -> Any:
    """Run the first outer batch with its token ids, its per-batch embeddings and its reordered result recorded."""
    outputs: list[torch.Tensor] = []

    def record_tokens(tensorize: Any) -> Any:
        def wrapped(*inner: Any, **options: Any) -> Any:
            made = tensorize(*inner, **options)
            with tap.notes.recording(*_TOKENS):
                batches, reverse_indices = made
                # All batches of one outer batch are padded to the same length: one tensor, cut along dimension 0.
                tap(_TOKENS[0], torch.cat([ids for ids, _ in batches]))
                tap(_TOKENS[1], torch.cat([mask for _, mask in batches]))
                tap(_TOKENS[2], reverse_indices)
            return made

        return wrapped

    def record_embeddings(doc: Any) -> Any:
        def wrapped(*inner: Any, **options: Any) -> Any:
            made = doc(*inner, **options)
            with tap.notes.recording("batches"):
                embeddings, _mask = made
                outputs.append(embeddings.to("cpu"))
            return made

        return wrapped

    with (
        tap.notes.hook(_TOKENS, checkpoint, "doc_tokenizer.tensorize", record_tokens),
        tap.notes.hook(("batches",), checkpoint, "doc", record_embeddings),
    ):
        made = doc_from_text(*args, **kwargs)
    with tap.notes.recording("batches"):
        tap("batches", torch.cat(outputs))
    return tap.part("D", made)


def _split(tap: Tap, original: Any) -> Any:
    return lambda *args, **kwargs: tap.part("sample_heldout", tap.part("sample", original(*args, **kwargs)), 1)


def _train_kmeans(tap: Tap, original: Any) -> Any:
    def train_kmeans(*args: Any, **kwargs: Any) -> Any:
        with tap.notes.hook(
            ("centroids_normalized",), torch.nn.functional, "normalize",
            functools.partial(_whole("centroids_normalized"), tap),
        ):  # fmt: skip
            return original(*args, **kwargs)

    return train_kmeans


def _save_chunk(tap: Tap, original: Any) -> Any:
    return lambda self, chunk_idx, offset, embs, doclens: original(
        self, chunk_idx, offset, tap(f"embs_{chunk_idx}", embs), doclens
    )


def _build_ivf(tap: Tap, original: Any) -> Any:
    def sorting(sort: Any) -> Any:
        def sort_codes(codes: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            ordered = sort(tap("codes", codes), *args, **kwargs)
            with tap.notes.recording("values"):
                tap("values", ordered.values)
            return ordered

        return sort_codes

    def build_ivf(*args: Any, **kwargs: Any) -> Any:
        with tap.notes.hook(("codes", "values"), torch.Tensor, "sort", sorting):
            return original(*args, **kwargs)

    return build_ivf


def _optimize_ivf(tap: Tap, original: Any) -> Any:
    return lambda ivf, *args, **kwargs: original(tap("ivf_unoptimized", ivf), *args, **kwargs)


_INDEXER = "colbert.indexing.collection_indexer"
HOOKS = (
    Hook(("sample_pids", "num_passages"), _INDEXER, "CollectionIndexer._sample_pids", _sample_pids),
    Hook(
        (*_TOKENS, "batches", "D", "local_sample_embs"),
        _INDEXER, "CollectionIndexer._sample_embeddings", _sample_embeddings,
    ),
    Hook(("sample", "sample_heldout"), _INDEXER, "CollectionIndexer._concatenate_and_split_sample", _split),
    Hook(("centroids_raw",), _INDEXER, "compute_faiss_kmeans", _whole("centroids_raw")),
    Hook(("centroids_normalized",), _INDEXER, "CollectionIndexer._train_kmeans", _train_kmeans),
    Hook(("embs_0",), "colbert.indexing.index_saver", "IndexSaver.save_chunk", _save_chunk),
    Hook(("codes", "values"), _INDEXER, "CollectionIndexer._build_ivf", _build_ivf),
    Hook(("ivf_unoptimized",), _INDEXER, "optimize_ivf", _optimize_ivf),
)  # fmt: skip
"""Every place that is recorded, in the order in which a job comes by."""

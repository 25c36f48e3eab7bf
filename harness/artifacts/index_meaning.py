"""What the numbers of two indexes mean, side by side: rows that line up, then what each artifact counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from threading import RLock
from typing import Any

import numpy as np

from harness.artifacts import meaning
from harness.artifacts.kind import JobKind
from harness.artifacts.passages import Alignment, align
from harness.artifacts.permutation import Permutation, find_permutation
from harness.artifacts.source import ArtifactSource
from harness.errors import UnreadableTensor
from harness.tensors.alike import same_bytes
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.metrics import measure
from harness.tensors.passes import USUAL
from harness.tensors.profiles import BUILTIN
from harness.tensors.tensor import Tensor
from harness.tensors.threads import alone

_FIRST = 1 << 22  # entries of inverted lists


class IndexMeaning:
    """See `harness.artifacts.kind.Meaning`. How B's rows are A's is found out when something differs."""

    def __init__(self, kind: JobKind, a: ArtifactSource, b: ArtifactSource) -> None:
        self.kind, self.a, self.b = kind, a, b
        self._lock = RLock()  # chunks are asked for in several threads, and what all need is found out once

    @property
    def permutation(self) -> Permutation | None:
        """How B's centroids are A's in another order; None where they are not."""
        with alone(self._lock):
            return self._permutation

    @property
    def moved(self) -> Alignment | None:
        """How B's passages are A's where rows do not line up; None where they do, or where nobody knows."""
        with alone(self._lock):
            return self._moved

    @property
    def same_centroids(self) -> bool:
        """Whether both sides have the same centroids, bit for bit and in one order."""
        with alone(self._lock):
            return self._same_centroids

    @cached_property
    def _same_centroids(self) -> bool:
        if any("centroids" not in side.names() for side in (self.a, self.b)):
            return False
        try:
            left, right = (side.load("centroids") for side in (self.a, self.b))
        except UnreadableTensor:
            return False
        return (left.dtype, left.shape) == (right.dtype, right.shape) and same_bytes(left, right, USUAL)

    @cached_property
    def _permutation(self) -> Permutation | None:
        if any("centroids" not in side.names() for side in (self.a, self.b)):
            return None
        digest = self.a.digest("centroids")
        if digest is not None and digest == self.b.digest("centroids"):
            return None
        try:
            return find_permutation(self.a.load("centroids"), self.b.load("centroids"))
        except UnreadableTensor:
            return None

    @cached_property
    def _moved(self) -> Alignment | None:
        for side in (self.a, self.b):
            if rest := getattr(side, "rest", None):  # all chunks are about to be looked at, and some are at hand
                rest()
        found = align(self.a, self.b, self.permutation)
        return None if found is None or found.whole else found

    def prepare(self) -> None:
        """How rows line up, where the first inverted lists differ: so they do if passages moved, or many a code."""
        try:
            lists = [side.load("ivf").flat[:_FIRST] for side in (self.a, self.b) if "ivf" in side.names()]
        except UnreadableTensor:
            return
        if len(lists) == 2 and not np.array_equal(lists[0], lists[1]) and self.moved is not None:
            self.moved.settle()

    @property
    def first(self) -> str:
        """What is known of the passages, where rows do not line up."""
        return self.moved.sentence() if self.moved else ""

    def notes(self, facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Rows of which nobody knows whose they are; settings that contradict tensors, or decide their shapes."""
        without = [letter for letter, side in (("A", self.a), ("B", self.b)) if "doclens" not in side.names()]
        if without and any(one.get("codes_n_moved") for one in facts):
            who = "neither A nor B has" if len(without) > 1 else f"{without[0]} has no"
            yield (
                f"Whether a row is the same token's on both sides is not known, for {who} doclens: moves and margins "
                "are those of rows, and mean nothing where passages come in another order."
            )
        for letter, side in (("A", self.a), ("B", self.b)):
            yield from (f"{letter} {said}" for said in meaning.contradictions(side))
        for name, what, tell in (
            ("nbits", "bits per residual dimension", meaning.nbits_of),
            ("dim", "embedding dimensions", meaning.dim_of),
        ):
            left, right = tell(self.a), tell(self.b)
            if left is not None and right is not None and left != right:
                yield f"The indexes were made with different {name}: {left} against {right} {what}."
        files = self._ivf_files
        if None not in files and (files[0] == "ivf.pt") != (files[1] == "ivf.pt"):
            yield (
                f"The ivf of A is from {files[0]}, that of B from {files[1]}: ivf.pt, which colbert-ai wrote "
                "before 0.2.11, lists embeddings, any other lists passages."
            )

    @cached_property
    def _nbits(self) -> tuple[int | None, int | None]:
        return meaning.nbits_of(self.a), meaning.nbits_of(self.b)

    @property
    def _ivf_files(self) -> list[str | None]:
        return [getattr(side, "ivf_file", None) for side in (self.a, self.b)]

    def facts(self, name: str, left: Tensor | None, right: Tensor | None) -> dict[str, Any]:
        """What an artifact's numbers mean; of rows that do not line up only what is known of them."""
        known, (pattern, number) = self.kind.known(name), self.kind.pattern(name)
        chunk = int(number or 0)
        passages: dict[str, Any] = {}
        if known is not None and known.by_passage and self.moved is not None:
            passages = {"rows_line_up": False, **self.moved.facts()}
        if left is None or right is None:
            return passages
        if not passages or self.moved is None:
            return self._meaning(pattern, chunk, (left, right))
        if pattern in ("*.codes", "*.residuals") and left.shape == right.shape != () and left.dtype == right.dtype:
            same = self.moved.rows(chunk, left.shape[0])
            if (left.data[same] != right.data[same]).any():
                return passages | {"rows_line_up": True} | self._meaning(pattern, chunk, (left, right), same)
        elif pattern == "ivf":
            if self.moved.one_to_one and "ivf.pt" not in self._ivf_files:
                return passages | self._meaning(pattern, 0, (left, right))
            return passages | {"ivf_note": "the lists are not compared: their entries do not line up"}
        return passages

    def _meaning(
        self, pattern: str, chunk: int, pair: tuple[Tensor, Tensor], same_token: Array | None = None
    ) -> dict[str, Any]:
        left, right = pair
        same_form = left.shape == right.shape and left.dtype == right.dtype
        if pattern == "*.residuals" and same_form and left.dtype == "uint8":
            nbits, others = self._nbits
            if nbits in (1, 2, 4, 8) and nbits == others:
                if same_token is not None:
                    left, right = Tensor.of(left.data[same_token]), Tensor.of(right.data[same_token])
                return meaning.bucket_facts(left, right, nbits)
        elif pattern == "*.codes" and same_form and DTYPES[left.dtype].kind == "int":
            return meaning.code_facts(
                self.a, self.b, chunk, pair, self.permutation, same_token, same_centroids=self.same_centroids
            )
        elif pattern == "centroids" and self.permutation is not None and same_form:
            found = measure(left, Tensor.of(right.data[self.permutation.to_a.argsort()], right.dtype), BUILTIN)
            return {
                "permutation_moved": self.permutation.moved,
                "permutation_exact": self.permutation.exact,
                "permutation_unmatched": self.permutation.unmatched,
                "unpermuted_n_mismatch": found.n_mismatch,
                "unpermuted_max_abs": found.max_abs,
                "unpermuted_max_ulp": found.max_ulp,
            }
        elif pattern == "ivf" and all("ivf_lengths" in side.names() for side in (self.a, self.b)):
            lengths = self.a.load("ivf_lengths"), self.b.load("ivf_lengths")
            if all(DTYPES[one.dtype].kind == "int" for one in (*pair, *lengths)):
                return meaning.ivf_facts(pair, lengths, self.permutation, self.moved.to_a if self.moved else None)
        return {}

"""What is recorded inside colbert-ai's searcher, query after query, and the answer itself.

As in `capture`, functions are wrapped while the job runs. Most of them are called once for each query: what they give
is one row of an artifact, and all rows become one tensor when the search is over. Rows of different lengths lie one
after the other, with their lengths in `NAME_lengths`, and are written as they come, since there are the more candidates
the larger an index is; what is too large to keep for each query is kept as a digest. A search on a GPU waits for none
of this (see `behind`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.worker.behind import Behind
from harness.worker.capture import Hook, Tap
from harness.worker.recording import tensor_digest
from harness.worker.tensor_file import TensorFile

_RAGGED = ("cells", "candidates", "stage1", "stage2", "maxsim")
_MARGINS = ("stage1_margin", "stage2_margin")
_DIGESTS = ("centroid_scores", "decompressed", "normalized")
_TOKENS = ("query_tokens", "query_mask")


def digest(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor_digest` as two int64."""
    whole = bytes.fromhex(tensor_digest(tensor))
    return torch.tensor([int.from_bytes(half, "big", signed=True) for half in (whole[:8], whole[8:])])


class SearchTap(Tap):
    """A tap that gathers rows, one a query, and makes an artifact of them.

    Args:
        args: a tap's.
        gpu: whether the search runs on one.
    """

    def __init__(self, *args: Any, gpu: bool) -> None:
        super().__init__(*args)
        self._rows: dict[str, list[torch.Tensor]] = {name: [] for name in (*_MARGINS, *_DIGESTS)}
        self._lengths: dict[str, list[int]] = {name: [] for name in _RAGGED}
        self._files: dict[str, TensorFile] = {}
        self._pieces: dict[str, list[torch.Tensor]] = {}
        self._behind = Behind(self._take, gpu=gpu)
        self.pruned: set[str] = set()

    def row(self, name: str, make: Callable[[], torch.Tensor]) -> None:
        """Record a query's row of an artifact, or what its digest is taken of.

        `make` is called where a failure is only noted.
        """
        if not self.enabled or name in self.notes.reasons:
            return
        started = time.perf_counter()
        with self.notes.recording(name):
            self._behind.add(name, make().detach())
        self.seconds += time.perf_counter() - started

    def _take(self, name: str, made: torch.Tensor) -> None:
        """Keep what a query's row is made of; it is on the host now, and this may be another thread."""
        if name in self.notes.reasons:
            return
        with self.notes.recording(name):
            if name in _RAGGED:
                self._add(name, made)
            else:
                self._rows[name].append(digest(made) if name in _DIGESTS else made)

    def _add(self, name: str, row: torch.Tensor) -> None:
        if name not in self._files:
            self._files[name] = TensorFile(self.path(name))
        self._files[name].add(row)
        self._lengths[name].append(len(row))

    def piece(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Record a part of what a query's digest is taken of; return it."""
        if self.enabled:
            self._pieces.setdefault(name, []).append(tensor)
        return tensor

    def end_of_query(self) -> None:
        """Record the query's pieces, and have all that was recorded of it kept."""
        for name, pieces in self._pieces.items():
            self.row(name, functools.partial(torch.cat, pieces))
        self._pieces = {}
        self.pruned = set()
        started = time.perf_counter()
        self._behind.send()
        self.seconds += time.perf_counter() - started

    def stage(self, name: str, scores: torch.Tensor, count: int) -> None:
        """Record the score of the last candidate that a stage keeps minus that of the first that it drops."""
        self.pruned.add(name)
        self.row(f"{name}_margin", lambda: _margin(scores, count))

    def alone(self, searcher: Any, texts: list[str]) -> None:
        """Record the embeddings of each query encoded by itself, as `Searcher.search` does."""
        if not self.enabled:
            return
        started = time.perf_counter()
        # Within a context of mixed precision the model's weights are cast once, and not for each query again.
        with self.notes.recording("Q_alone"), searcher.checkpoint.amp_manager.context():
            self("Q_alone", torch.cat([searcher.encode([text]).to("cpu") for text in texts]))
        self.seconds += time.perf_counter() - started

    def answer(self, found: list[list[tuple[int, int, float]]], k: int, ranker: Any) -> None:
        """Write the answer, and what was gathered query after query.

        Args:
            found: for each query its pids, ranks and scores, as colbert-ai's ranking has them.
            k: how many were asked for.
            ranker: gives the dtype of the scores, which are Python's numbers by now.

        Raises:
            ValueError: the scores are no numbers of that dtype.
        """
        dtype = ranker.codec.centroids.dtype
        kept = []
        for entries in found:
            of_query = [score for _pid, _rank, score in entries]
            pids = torch.tensor([pid for pid, _rank, _score in entries], dtype=torch.int32)
            kept.append((pids, torch.tensor(of_query, dtype=dtype)))
            if kept[-1][1].tolist() != of_query:
                raise ValueError(f"the searcher's scores are not {dtype}")
        self._behind.join()
        for name in (*_RAGGED, *_MARGINS, *_DIGESTS) if self.enabled else ():
            came = len(self._lengths[name] if name in _RAGGED else self._rows[name])
            if came != len(found):
                self.notes.add(name, f"{came} of {len(found)} queries came by")
            with self.notes.recording(name):
                self._gathered(name)
        for name, tensor in answer_of(kept, k).items():
            self.final(name, tensor)

    def _gathered(self, name: str) -> None:
        """Make an artifact of the rows of all queries."""
        whole, lengths = name not in self.notes.reasons, self._lengths.get(name)
        if lengths is None:
            if whole:
                self(name, torch.stack(self._rows[name]))
        elif name in self._files and not whole:
            self._files[name].discard()
        elif name in self._files:
            self._files[name].close((sum(lengths),))
            self.recorded.add(name)
            self(f"{name}_lengths", torch.tensor(lengths, dtype=torch.int64))


def ragged(name: str, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of different lengths as two artifacts: one after the other, and their lengths as int64."""
    return {name: torch.cat(rows), f"{name}_lengths": torch.tensor([len(row) for row in rows], dtype=torch.int64)}


def answer_of(found: list[tuple[torch.Tensor, torch.Tensor]], k: int) -> dict[str, torch.Tensor]:
    """The first `k` of each query's pids and scores as `pids` (n, k) int32, `scores` (n, k) and `found` (n,) int64.

    What a query has too few of is -1 and NaN.
    """
    pids = torch.full((len(found), k), -1, dtype=torch.int32)
    scores = torch.full((len(found), k), float("nan"), dtype=found[0][1].dtype if found else torch.float32)
    for number, (of_query, best) in enumerate(found):
        pids[number, : len(of_query)] = of_query[:k]
        scores[number, : len(best)] = best[:k]
    lengths = [min(k, len(of_query)) for of_query, _best in found]
    return {"pids": pids, "scores": scores, "found": torch.tensor(lengths, dtype=torch.int64)}


def _margin(scores: torch.Tensor, count: int) -> torch.Tensor:
    # Where nothing is dropped, what is kept is ahead of nothing by any margin. NaN would equal no NaN.
    if not 0 < count < len(scores):
        return torch.tensor(float("inf"), dtype=torch.float32)
    best = scores.topk(count + 1).values.float()
    return best[-2] - best[-1]


def _encode(tap: SearchTap, original: Any) -> Any:
    def tokens(tensorize: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            made = tensorize(*args, **kwargs)
            with tap.notes.recording(*_TOKENS):
                # Batches where there are many queries, and one pair where there are few.
                batches = made if isinstance(made, list) else [made]
                for place, name in enumerate(_TOKENS):
                    tap(name, torch.cat([batch[place] for batch in batches]))
            return made

        return wrapped

    def encode(self: Any, *args: Any, **kwargs: Any) -> Any:
        with tap.notes.hook(_TOKENS, self, "checkpoint.query_tokenizer.tensorize", tokens):
            return tap("Q", original(self, *args, **kwargs))

    return encode


def _get_cells(tap: SearchTap, original: Any) -> Any:
    def get_cells(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        tap.row("centroid_scores", lambda: made[1])
        # In which order they are looked up does not matter, and torch before 2.1 gives them in none.
        tap.row("cells", lambda: made[0].sort().values)
        return made

    return get_cells


def _candidates(tap: SearchTap, original: Any) -> Any:
    def generate_candidates(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        tap.row("candidates", lambda: made[0])
        return made

    return generate_candidates


def _keep_best(tap: SearchTap, original: Any) -> Any:
    """The CPU's filter keeps the best of its candidates twice."""

    def keep_best(pids: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
        kept: torch.Tensor = original(pids, scores, count)
        stage = "stage2" if "stage1" in tap.pruned else "stage1"
        tap.stage(stage, scores, count)
        if stage == "stage1":
            tap.row(stage, lambda: kept)
        return kept

    return keep_best


def _score_pids(tap: SearchTap, original: Any) -> Any:
    def of_piece(name: str) -> Callable[[Any], Any]:
        return lambda function: lambda *args, **kwargs: tap.piece(name, function(*args, **kwargs))

    def score_pids(self: Any, config: Any, queries: Any, pids: Any, *args: Any, **kwargs: Any) -> Any:
        def keeping(topk: Any) -> Any:
            """On a GPU each stage is a call of topk, if there is anything to drop."""

            def wrapped(scores: Any, k: int, *inner: Any, **options: Any) -> Any:
                made = topk(scores, k, *inner, **options)
                if k == config.ndocs:
                    tap.row("stage1", lambda: pids[made.indices])
                    tap.stage("stage1", scores, k)
                else:
                    tap.stage("stage2", scores, k)
                return made

            return wrapped

        owner = self.codec if self.use_gpu else self
        with (
            tap.notes.hook(("decompressed",), type(owner), "decompress_residuals", of_piece("decompressed")),
            tap.notes.hook(("normalized",), torch.nn.functional, "normalize", of_piece("normalized")),
            tap.notes.hook(_MARGINS if self.use_gpu else (), torch, "topk", keeping),
        ):
            scores, kept = original(self, config, queries, pids, *args, **kwargs)
        if self.use_gpu:
            if "stage1" not in tap.pruned:
                tap.row("stage1", lambda: pids)
            for name in sorted({"stage1", "stage2"} - tap.pruned):
                tap.stage(name, scores[:0], 0)
        tap.row("stage2", lambda: kept)
        tap.row("maxsim", lambda: scores)
        tap.end_of_query()
        return scores, kept

    return score_pids


_SCORER = "colbert.search.index_storage"
HOOKS = (
    Hook((*_TOKENS, "Q"), "colbert.searcher", "Searcher.encode", _encode),
    Hook(("centroid_scores", "cells"), _SCORER, "IndexScorer.get_cells", _get_cells),
    Hook(("candidates",), _SCORER, "IndexScorer.generate_candidates", _candidates),
    Hook(("stage1", *_MARGINS), "harness.worker.kernels", "keep_best", _keep_best),
    Hook(
        ("decompressed", "normalized", "stage2", "maxsim"), _SCORER, "IndexScorer.score_pids", _score_pids,
    ),
)  # fmt: skip
"""Every place that is recorded, in the order in which a query comes by."""

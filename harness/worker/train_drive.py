"""Run colbert-ai's own `train()`, unmodified on disk, in this process, and show each of its steps to watchers.

The functions that `train()` looks up when it runs are wrapped for as long as it runs; the wrappers only read.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from harness.worker.index import colbert_config, run_here, running
from harness.worker.notes import patched
from harness.worker.parallel import wrapping
from harness.worker.train_watch import Parts, Stop, Watcher

SETTINGS = (
    "maxsteps", "bsize", "accumsteps", "nway", "lr", "warmup", "use_ib_negatives", "ignore_scores",
    "distillation_alpha", "query_maxlen", "similarity",
)  # fmt: skip
"""Settings that only this job has, by colbert-ai's names."""


class _Loop:
    """The wrappers around what `train()` calls; tells the watchers where it stands.

    Args:
        watchers: are told in this order.
        first: the number of the first step.
    """

    def __init__(self, watchers: Sequence[Watcher], first: int) -> None:
        self.watchers, self.step, self.parts = watchers, first - 1, Parts()

    def _phase(self, name: str) -> None:
        for watcher in self.watchers:
            watcher.phase(self.step, name)

    def _made(self, name: str, tensor: torch.Tensor) -> None:
        for watcher in self.watchers:
            watcher.made(self.step, name, tensor)

    def keeping(self, name: str) -> Callable[[Any], Any]:
        """Wrap what makes one of `parts`."""

        def wrap(make: Any) -> Any:
            def made(*args: Any, **kwargs: Any) -> Any:
                setattr(self.parts, name, make(*args, **kwargs))
                return getattr(self.parts, name)

            return made

        return wrap

    def wrapper(self, make: Any) -> Any:
        """Wrap what is called as DistributedDataParallel."""

        def parallel(module: Any, *args: Any, **kwargs: Any) -> Any:
            self.parts.model = module
            made = make(module, *args, **kwargs)
            made.register_forward_pre_hook(lambda *_: self._phase("forward"))
            made.register_forward_hook(lambda _module, _given, result: self._forward(result))
            return made

        return parallel

    def _forward(self, result: Any) -> None:
        scores = result[0] if isinstance(result, tuple) else result  # the other one is the loss of in-batch negatives
        self._made("scores", scores.detach().view(-1, self.parts.model.colbert_config.nway))
        self._phase("loss")

    def next_batch(self, original: Any) -> Any:
        """Wrap the reader's `__next__`."""

        def following(reader: Any) -> Any:
            batch = original(reader)
            self.parts.reader = reader
            self.step += 1
            for watcher in self.watchers:
                batch = watcher.batch(self.step, self.parts, batch)
            return batch

        return following

    def backward(self, original: Any) -> Any:
        """Wrap `MixedPrecisionManager.backward`."""

        def backward(amp: Any, loss: torch.Tensor) -> Any:
            self._made("loss", loss.detach())
            self._phase("backward")
            return original(amp, loss)

        return backward

    def amp_step(self, original: Any) -> Any:
        """Wrap `MixedPrecisionManager.step`, which unscales, clips, optimizes and schedules."""

        def named(name: str, function: Any) -> Any:
            @functools.wraps(function)
            def told(*args: Any, **kwargs: Any) -> Any:
                self._phase(name)
                return function(*args, **kwargs)

            return told

        def clipping(clip: Any) -> Any:
            @functools.wraps(clip)
            def clipped(*args: Any, **kwargs: Any) -> Any:
                self._phase("clip")
                norm = clip(*args, **kwargs)
                self._made("gradient_norm", norm)
                return norm

            return clipped

        def step(amp: Any, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            self._phase("scaler")
            with contextlib.ExitStack() as stack:
                stack.enter_context(wrapped(torch.nn.utils, "clip_grad_norm_", clipping))
                stack.enter_context(patched(optimizer, "step", named("optimizer", optimizer.step)))
                if self.parts.scaler is not None:
                    update = self.parts.scaler.update
                    stack.enter_context(patched(self.parts.scaler, "update", named("scaler", update)))
                result = original(amp, model, optimizer, *args, **kwargs)
            for watcher in self.watchers:
                watcher.end(self.step)
            return result

        return step


def wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Any:
    """A context in which an owner's attribute is wrapped."""
    return patched(owner, name, wrap(getattr(owner, name)))


def _config(cell: dict[str, Any]) -> Any:
    """colbert-ai's configuration of a training, as its `Trainer` makes it.

    How texts become tokens, which no setting says, is the checkpoint's. colbert-ai's own `Trainer` asks only the model
    for that, and has its defaults for the batches.
    """
    from dataclasses import fields

    from colbert.infra import ColBERTConfig, Run, RunConfig
    from colbert.infra.config.settings import DocSettings, QuerySettings, TokenizerSettings

    held = ColBERTConfig.load_from_checkpoint(cell["checkpoint"])
    of_texts = {one.name for part in (TokenizerSettings, DocSettings, QuerySettings) for one in fields(part)}
    own = {name: getattr(held, name) for name in of_texts & set(held.assigned if held else ())}
    asked = {name: cell["settings"][name] for name in SETTINGS if name in cell["settings"]}
    given = colbert_config(cell, **asked)
    # In this order: what the run says (ranks, mixed precision) wins, as in colbert-ai's launcher.
    return ColBERTConfig.from_existing(ColBERTConfig(**own), given, Run().config, RunConfig(rank=0))


def drive(
    cell: dict[str, Any],
    out_dir: str,
    watchers: Sequence[Watcher],
    triples: Any,
    first: int = 0,
    rank: Callable[[], Any] | None = None,
) -> Parts:
    """Train a model on one rank.

    Args:
        cell: `passages`, `queries`, `checkpoint`, `settings`, `device`; `ddp` (optional) says what is wrapped around
            the model, see `parallel.wrapping`.
        out_dir: gets colbert-ai's own files while it trains.
        watchers: see every step.
        triples: a file as colbert-ai reads it, or a list of its lines.
        first: the number of the first step, for the watchers.
        rank: runs the part of one rank of several, in colbert-ai's own process group.

    Returns:
        What it worked with; the model is the trained one.
    """
    from colbert.training import training

    gpu = cell["device"] != "cpu"
    loop = _Loop(watchers, first)
    with contextlib.ExitStack() as stack:
        kind, scratch = "ranks", ""
        if rank is None:
            kind, scratch = cell.get("ddp") or ("torch" if gpu else "stand-in"), stack.enter_context(_scratch(out_dir))
            stack.enter_context(_running(cell, scratch))
        make = stack.enter_context(wrapping(kind, scratch, gpu=gpu))
        stack.enter_context(patched(torch.nn.parallel, "DistributedDataParallel", loop.wrapper(make)))
        for name, wrap in {
            "LazyBatcher.__next__": loop.next_batch,
            "AdamW": loop.keeping("optimizer"),
            "get_linear_schedule_with_warmup": loop.keeping("scheduler"),
            "MixedPrecisionManager.backward": loop.backward,
            "MixedPrecisionManager.step": loop.amp_step,
            "MixedPrecisionManager": loop.keeping("amp"),
        }.items():
            owner, _, attribute = name.rpartition(".")
            stack.enter_context(wrapped(getattr(training, owner) if owner else training, attribute, wrap))
        with contextlib.suppress(Stop):
            if rank is None:
                run_here(training.train, _config(cell), triples, *_texts(cell))
            else:
                rank()
    return loop.parts


def launch(cell: dict[str, Any], out_dir: str) -> None:
    """Have colbert-ai train a model on as many ranks as the cell says; what they write is deleted afterwards."""
    from colbert.infra.launcher import Launcher
    from colbert.training.training import train

    with _scratch(out_dir) as scratch, _running(cell, scratch):
        Launcher(train).launch(_config(cell), cell["triples"], *_texts(cell))


@contextlib.contextmanager
def _scratch(out_dir: str) -> Iterator[str]:
    """A folder for colbert-ai's own files, for as long as the `with` block lasts."""
    scratch = os.path.join(out_dir, "scratch")
    os.makedirs(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _running(cell: dict[str, Any], scratch: str) -> Any:
    amp = cell["settings"].get("amp")
    ranks = cell["settings"].get("nranks", 1)
    return running(cell["device"] != "cpu", scratch, ranks, **({} if amp is None else {"amp": amp}))


def _texts(cell: dict[str, Any]) -> tuple[dict[int, str], list[str]]:
    """Queries by row, and passages."""
    with open(cell["passages"], encoding="utf-8") as file:
        passages = [json.loads(line) for line in file]
    with open(cell["queries"], encoding="utf-8") as file:
        queries = {row: json.loads(line)["text"] for row, line in enumerate(file)}
    return queries, passages

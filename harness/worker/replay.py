"""The jobs on single steps; nothing is judged here: results go to files, and the reducer compares them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from harness.worker.calls import Call, made_again, resolve
from harness.worker.index import require_device
from harness.worker.outcomes import ending
from harness.worker.recording import Shelf, decode, digests, tensor_digest, write_calls
from harness.worker.step_alone import StepAlone
from harness.worker.train_steps import TRAINING_STEP, TrainingStep

Job = Callable[[dict[str, Any], str, Any], dict[str, Any]]


class Subject(Protocol):
    """What is run by itself: a step of the index or search job, or one training step."""

    def run(self) -> dict[str, torch.Tensor]:
        """Run it as its job does; returns its outputs by name."""

    def record(self, shelf: Shelf) -> tuple[list[Call], dict[str, torch.Tensor]]:
        """Run it with every call written down; returns its calls and its outputs."""

    def again(self, calls: list[Call], source: Shelf, target: Shelf) -> list[dict[str, Any]]:
        """Make each call of a recording again here; see `each_again`."""


def _subject(cell: dict[str, Any], out_dir: str, phases: Any) -> Subject:
    return TrainingStep(cell, out_dir, phases) if cell["step"] == TRAINING_STEP else StepAlone(cell, phases)


def _or_each(job: Job) -> Job:
    """A job on one step as a job on that or on each of `steps`, which override parts of it; none ends the others."""

    @functools.wraps(job)
    def done(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
        if "steps" not in cell:
            return job(cell, out_dir, phases)
        results: list[dict[str, Any]] = []
        for number, request in enumerate(cell["steps"]):
            one = {**cell, **request, "settings": {**cell["settings"], **request.get("settings", {})}}
            folder = os.path.join(out_dir, str(number))
            os.makedirs(folder, exist_ok=True)
            try:
                results.append({"outcome": "ok", "reason": "", **job(one, folder, phases)})
            except Exception as error:
                traceback.print_exc()
                outcome, reason = ending(error, phases.current)
                results.append({"outcome": outcome, "reason": reason})
        return {"steps": results}

    return done


@_or_each
def record(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Record the calls of one step.

    Args:
        cell: as for its `Subject`.
        out_dir: gets `calls.json`, `tensors/` and `outputs/NAME.safetensors`.
        phases: times and names the phases.

    Returns:
        `outputs` (name to digest) and `recorder_is_neutral`.
    """
    subject = _subject(cell, out_dir, phases)
    with phases("plain"):
        plain = digests(subject.run())
    with phases("record"):
        calls, outputs = subject.record(Shelf(os.path.join(out_dir, "tensors"), keep=cell.get("keep", True)))
    write_calls(os.path.join(out_dir, "calls.json"), calls)
    os.makedirs(os.path.join(out_dir, "outputs"), exist_ok=True)
    for name, tensor in outputs.items():
        _save(tensor, os.path.join(out_dir, "outputs", f"{name}.safetensors"))
    found = digests(outputs)
    return {"outputs": found, "recorder_is_neutral": found == plain, "calls": len(calls)}


@_or_each
def replay(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Feed each call of `cell["recording"]` (a `record` job's folder) its exact input in this environment.

    Args:
        cell: as for `record`, and `recording`.
        out_dir: gets `replay.json` (one entry per recorded call), `calls.json` of the free run and `tensors/`.
        phases: times and names the phases.

    Returns:
        `outputs` of the free run, by digest.
    """
    subject = _subject(cell, out_dir, phases)
    target = Shelf(os.path.join(out_dir, "tensors"), keep=False)
    with phases("plain"):
        # A first run also does what is only done once (lazy imports, some of which call torch).
        plain = digests(subject.run())
    with phases("free run"):
        free, outputs = subject.record(target)
    write_calls(os.path.join(out_dir, "calls.json"), free)
    source = Shelf(os.path.join(cell["recording"], "tensors"))
    with open(os.path.join(cell["recording"], "calls.json"), encoding="utf-8") as file:
        calls = json.load(file)
    with phases("replay"):
        found = subject.again(calls, source, target)
    write_calls(os.path.join(out_dir, "replay.json"), found)
    made = digests(outputs)
    return {"outputs": made, "recorder_is_neutral": made == plain, "calls": len(calls)}


def _part(tensor: torch.Tensor, cuts: list[list[int]]) -> torch.Tensor:
    """The part of a tensor between `start` and `stop` of each `[dimension, start, stop]`."""
    for dimension, start, stop in cuts:
        tensor = tensor.narrow(dimension, start, stop - start)
    return tensor


def _tensors(result: Any) -> list[torch.Tensor]:
    """The tensors inside a result, in the order of `references`."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [found for part in result for found in _tensors(part)] if isinstance(result, (list, tuple)) else []


def trim(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Run one call on parts of its inputs, to find the smallest that shows a difference.

    Args:
        cell: `call` (a record of `calls.json`), `recording`, `which` (of the tensors of its result), `whole` (a file
            with what that tensor is here for the whole input), `windows` and `save` (numbers of windows). A window has
            `args` (lists of `[place, dimension, start, stop]`) and `result`, the part of the result that they lead to
            if every part of the result depends on its own part of the input (lists of `[dimension, start, stop]`).
        out_dir: gets `WINDOW.safetensors` for each window that is to be saved.
        phases: times and names the phases.

    Returns:
        `digests`: of the result for each window, None where the call refused it or there was no time; `pinned`: whether
        it has the bits that this part of the result has for the whole input.
    """
    require_device(cell)
    source = Shelf(os.path.join(cell["recording"], "tensors"))
    call = cell["call"]
    function = resolve(call, {})
    whole = load_file(cell["whole"])["tensor"]
    made: list[str | None] = []
    pinned: list[bool] = []
    started = time.monotonic()
    with phases("trim"), torch.no_grad():
        for number, window in enumerate(cell["windows"]):
            found = None
            if time.monotonic() - started < 120:  # the small windows come first
                args = list(decode(call["args"], source))
                for place in sorted({cut[0] for cut in window["args"]}):
                    part = _part(args[place], [cut[1:] for cut in window["args"] if cut[0] == place])
                    args[place] = part.clone(memory_format=torch.contiguous_format)
                # What cannot be cut so is refused by the call itself, such as a product of shapes that do not fit.
                with contextlib.suppress(Exception):
                    kwargs = decode(call["kwargs"], source)
                    found = _tensors(made_again(call, function, args, kwargs, source))[cell["which"]]
            digest = None if found is None else tensor_digest(found)
            made.append(digest)
            fits = all(stop <= whole.shape[dimension] for dimension, _start, stop in window["result"])
            pinned.append(fits and digest == tensor_digest(_part(whole, window["result"])))
            if found is not None and number in cell["save"]:
                _save(found, os.path.join(out_dir, f"{number}.safetensors"))
    return {"digests": made, "pinned": pinned}


@_or_each
def step(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:
    """Run one step with nothing recorded.

    Args:
        cell: as for the job `record`, and `only`, the outputs that are wanted.
        out_dir: gets nothing that stays.
        phases: times and names the phases.

    Returns:
        `outputs` (name to digest).
    """
    subject = _subject(cell, out_dir, phases)
    with phases("step"):
        made = digests(subject.run())
    return {"outputs": {name: digest for name, digest in made.items() if name in cell.get("only", made)}}


def _save(tensor: torch.Tensor, path: str) -> None:
    save_file({"tensor": tensor.detach().to("cpu").contiguous().clone()}, path)

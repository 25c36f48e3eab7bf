"""The jobs on single steps; nothing is judged here: results go to files, and the reducer compares them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.worker import steps
from harness.worker.index import require_device
from harness.worker.outcomes import ending
from harness.worker.recording import Recorder, Shelf, decode, digests, encode, references, tensor_digest, write_calls
from harness.worker.setting import Setting

Job = Callable[[dict[str, Any], str, Any], dict[str, Any]]


def read_inputs(cell: dict[str, Any]) -> steps.Tensors:
    """A step's inputs by name: the files of `inputs`, of which `rows` names the rows that are used.

    Those of an input that has its segments' lengths beside it, as `NAME_lengths`, are its segments.
    """
    whole = {name: _read(files) for name, files in cell["inputs"].items()}
    found = dict(whole)
    for name, bounds in cell.get("rows", {}).items():
        lengths = whole.get(f"{name}_lengths")
        start, stop = bounds if lengths is None else (int(lengths[:bound].sum()) for bound in bounds)
        found[name] = whole[name][start:stop].clone()
    return found


def _read(files: str | list[str]) -> torch.Tensor:
    """A tensor, or those of several files one after the other."""
    if isinstance(files, str):
        return load_file(files)["tensor"]
    return torch.cat([load_file(file)["tensor"] for file in files])


def _modules(cell: dict[str, Any], setting: Setting) -> dict[str, Any]:
    if cell["step"] not in steps.ENCODING:
        return {}
    return {name: module for name, module in setting.model().named_modules() if name}


def _recorded(cell: dict[str, Any], setting: Setting, shelf: Shelf) -> tuple[list[dict[str, Any]], steps.Tensors]:
    modules = _modules(cell, setting)
    recorder = Recorder(shelf, modules)
    inputs = read_inputs(cell)
    with recorder.recording():
        outputs = recorder.call(
            "step", cell["step"], lambda given: steps.run(cell["step"], setting, given), (inputs,), {}
        )
    return recorder.calls, outputs


def prepare(cell: dict[str, Any], phases: Any) -> Setting:
    """Import and load what the step of a cell needs.

    Raises:
        Ended: `unsupported` where it cannot run here.
    """
    setting = Setting.imported(cell, phases)
    with phases("load"):
        if cell["step"] in steps.ENCODING:
            setting.model()
    return setting


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
        cell: `step`, `inputs` (name to a safetensors file, or to those of all chunks), `rows` (name to the rows that
            are used), `checkpoint`, `settings`, `device`.
        out_dir: gets `calls.json`, `tensors/` and `outputs/NAME.safetensors`.
        phases: times and names the phases.

    Returns:
        `outputs` (name to digest) and `recorder_is_neutral`.
    """
    setting = prepare(cell, phases)
    with phases("plain"):
        plain = digests(steps.run(cell["step"], setting, read_inputs(cell)))
    with phases("record"):
        calls, outputs = _recorded(cell, setting, Shelf(os.path.join(out_dir, "tensors"), keep=cell.get("keep", True)))
    write_calls(os.path.join(out_dir, "calls.json"), calls)
    os.makedirs(os.path.join(out_dir, "outputs"), exist_ok=True)
    for name, tensor in outputs.items():
        _save(tensor, os.path.join(out_dir, "outputs", f"{name}.safetensors"))
    found = digests(outputs)
    return {"outputs": found, "recorder_is_neutral": found == plain, "calls": len(calls)}


def _resolve(call: dict[str, Any], modules: dict[str, Any], setting: Setting) -> Any:
    """What to call in this environment; `LookupError` where it does not exist."""
    name = call["name"]
    if call["kind"] == "step":
        return lambda given: steps.run(name, setting, given)
    if call["kind"] == "module":
        if name not in modules:
            raise LookupError(f"the model has no module {name} here")
        return modules[name]
    found: Any = torch.ops if call["kind"] == "operator" else torch
    parts = name.split(".")
    for part in parts if call["kind"] == "operator" else parts[1:]:
        if not hasattr(found, part):
            raise LookupError(f"{name} does not exist in torch {torch.__version__}")
        found = getattr(found, part)
    return found


def _replayed(call: dict[str, Any], function: Any, setting: Setting, source: Shelf, target: Shelf) -> dict[str, Any]:
    args, kwargs = decode(call["args"], source), decode(call["kwargs"], source)
    mixed = call["kind"] in {"module", "function"} and setting.has_model
    with torch.no_grad(), setting.model().amp_manager.context() if mixed else contextlib.nullcontext():
        result = function(*args, **kwargs)
    expected = [reference["tensor"] for reference in references(call["result"])]
    target.forget()
    target.keep = False
    got = references(encode(result, target))
    if [reference["tensor"] for reference in got] == expected:
        return {"status": "equal"}
    target.keep = True
    return {"status": "different", "result": encode(result, target)}


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
    setting = prepare(cell, phases)
    target = Shelf(os.path.join(out_dir, "tensors"), keep=False)
    with phases("plain"):
        # A first run also does what is only done once (lazy imports, some of which call torch).
        plain = digests(steps.run(cell["step"], setting, read_inputs(cell)))
    with phases("free run"):
        free, outputs = _recorded(cell, setting, target)
    write_calls(os.path.join(out_dir, "calls.json"), free)
    source = Shelf(os.path.join(cell["recording"], "tensors"))
    with open(os.path.join(cell["recording"], "calls.json"), encoding="utf-8") as file:
        calls = json.load(file)
    modules = _modules(cell, setting)
    found = []
    with phases("replay"):
        for call in calls:
            try:
                function = _resolve(call, modules, setting)
            except LookupError as error:
                found.append({"status": "absent", "reason": str(error)})
                continue
            try:
                found.append(_replayed(call, function, setting, source, target))
            except Exception as error:
                # A call that this version refuses is a row of the table; the other calls go on.
                found.append({"status": "refused", "reason": f"{type(error).__name__}: {error}"[:500]})
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
    function = _resolve(call, {}, Setting({**cell, "step": ""}))
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
                    found = _tensors(function(*args, **decode(call["kwargs"], source)))[cell["which"]]
            digest = None if found is None else tensor_digest(found)
            made.append(digest)
            fits = all(stop <= whole.shape[dimension] for dimension, _start, stop in window["result"])
            pinned.append(fits and digest == tensor_digest(_part(whole, window["result"])))
            if found is not None and number in cell["save"]:
                _save(found, os.path.join(out_dir, f"{number}.safetensors"))
    return {"digests": made, "pinned": pinned}


def step(cell: dict[str, Any], out_dir: str, phases: Any) -> dict[str, Any]:  # noqa: ARG001 - as every job
    """Run one step with nothing recorded.

    Args:
        cell: as for the job `record`.
        out_dir: gets nothing.
        phases: times and names the phases.

    Returns:
        `outputs` (name to digest).
    """
    setting = prepare(cell, phases)
    with phases("step"):
        return {"outputs": digests(steps.run(cell["step"], setting, read_inputs(cell)))}


def _save(tensor: torch.Tensor, path: str) -> None:
    save_file({"tensor": tensor.detach().to("cpu").contiguous().clone()}, path)

"""Recorded calls, made again: what to call in this environment, and what it makes of the call's own input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from harness.worker.randomness import generators, put_back, same
from harness.worker.recording import Shelf, decode, encode, outcome

Call = dict[str, Any]
Finds = Callable[[Call], Any]
"""What to call; `LookupError` where it does not exist here."""


def named_modules(model: Any) -> dict[str, Any]:
    """A model's modules by path, without the model itself."""
    return {path: module for path, module in model.named_modules() if path}


def resolve(call: Call, modules: dict[str, Any]) -> Any:
    """What a call of a module, a function or an operator calls in this environment.

    Raises:
        LookupError: it does not exist here.
    """
    name = call["name"]
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


def each_again(calls: list[Call], finds: Finds, source: Shelf, target: Shelf) -> list[dict[str, Any]]:
    """Make each call again with its own input, and with the random numbers that it drew from.

    Args:
        calls: of a recording.
        finds: what to call.
        source: the recording's tensors.
        target: gets the results that differ.

    Returns:
        For each call its `status`: `equal`, `different` (then `result`, and `drawn` where it draws, here or where it
        was recorded), `absent` or `refused` (then `reason`).
    """
    found = []
    for call in calls:
        try:
            function = finds(call)
        except LookupError as error:
            found.append({"status": "absent", "reason": str(error)})
            continue
        try:
            found.append(_again(call, function, source, target))
        except Exception as error:
            # A call that this version refuses is a row of the table; the other calls go on.
            found.append({"status": "refused", "reason": f"{type(error).__name__}: {error}"[:500]})
    return found


def _again(call: Call, function: Any, source: Shelf, target: Shelf) -> dict[str, Any]:
    args, kwargs = decode(call["args"], source), decode(call["kwargs"], source)
    before = generators()
    made = {"result": made_again(call, function, args, kwargs, source)}
    expected = {"result": _bits(call["result"])}
    if "drawn" in call:
        expected["drawn"] = _bits(call["drawn"]["to"])
    if "drawn" in call or not same(before, generators()):  # which is a difference, where it drew nothing before
        made["drawn"] = generators()
    target.forget()
    target.keep = False
    if {name: _bits(encode(value, target)) for name, value in made.items()} == expected:
        return {"status": "equal"}
    target.keep = True
    return {"status": "different", **{name: encode(value, target) for name, value in made.items()}}


def made_again(call: Call, function: Any, args: Any, kwargs: Any, source: Shelf) -> Any:
    """What a recorded call gives for these arguments, under the precision and from the random numbers that it had."""
    with torch.no_grad(), torch.autocast("cuda") if call["mixed"] else contextlib.nullcontext():
        if "drawn" in call:
            put_back(decode(call["drawn"]["from"], source))
        return outcome(function, args, kwargs, function(*args, **kwargs))


def _bits(value: Any) -> Any:
    """An encoded value without how its tensors lie in memory: numbers and structure count as tensors' bits do."""
    if isinstance(value, dict):
        return value["tensor"] if "tensor" in value else {name: _bits(part) for name, part in value.items()}
    return [_bits(part) for part in value] if isinstance(value, (list, tuple)) else value

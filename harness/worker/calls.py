"""Recorded calls, made again: what to call in this environment, and what it makes of the call's own input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from harness.worker.randomness import generators, put_back
from harness.worker.recording import Shelf, decode, encode, outcome, references

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
        For each call its `status`: `equal`, `different` (then `result`, and `drawn` where it draws), `absent` or
        `refused` (then `reason`).
    """
    found = []
    for call in calls:
        try:
            function = finds(call)
        except LookupError as error:
            found.append({"status": "absent", "reason": str(error)})
            continue
        try:
            with torch.no_grad(), torch.autocast("cuda") if call["mixed"] else contextlib.nullcontext():
                found.append(_again(call, function, source, target))
        except Exception as error:
            # A call that this version refuses is a row of the table; the other calls go on.
            found.append({"status": "refused", "reason": f"{type(error).__name__}: {error}"[:500]})
    return found


def _again(call: Call, function: Any, source: Shelf, target: Shelf) -> dict[str, Any]:
    args, kwargs = decode(call["args"], source), decode(call["kwargs"], source)
    if "drawn" in call:
        put_back(decode(call["drawn"]["from"], source))
    made = {"result": outcome(function, args, kwargs, function(*args, **kwargs))}
    if "drawn" in call:
        made["drawn"] = generators()
    expected = _digests(call["result"]) + (_digests(call["drawn"]["to"]) if "drawn" in call else [])
    target.forget()
    target.keep = False
    if [digest for value in made.values() for digest in _digests(encode(value, target))] == expected:
        return {"status": "equal"}
    target.keep = True
    return {"status": "different", **{name: encode(value, target) for name, value in made.items()}}


def _digests(value: Any) -> list[str]:
    return [reference["tensor"] for reference in references(value)]

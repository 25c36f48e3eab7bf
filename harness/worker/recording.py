"""Write down every module call, public function of torch and operator of a run, with its exact inputs and outputs.

Functions and operators have the module that they ran in. Tensors are kept once, by digest; how one lay in memory is
kept with each use of it, since kernels may be chosen by that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import types
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from harness.worker.graph_nodes import GraphNodes
from harness.worker.notes import patched
from harness.worker.randomness import generators, same

_DATA_FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "_local_scalar_dense",
}  # fmt: skip
"""Operators whose result is memory as it was found, or no tensor."""

_NO_ARITHMETIC = {"profiler", "c10d"}
"""Namespaces of operators that measure, or talk to other ranks: of one rank nothing is computed, and none of them can
be called again without its process group."""

_MOVES_NOTHING = {
    "__get__", "__set__", "size", "dim", "stride", "view", "view_as", "permute", "transpose", "t", "expand",
    "expand_as",
    "unsqueeze", "squeeze", "reshape", "flatten", "split", "numel", "is_floating_point", "is_complex", "__len__",
    "data_ptr", "tolist", "item", "detach", "numpy", "__array__", "__bool__", "__int__", "__format__", "__repr__",
    "cpu",
    "size_", "ndimension", "get_device", "is_contiguous", "type", "chunk", "unbind", "__iter__", "__contains__",
    "backward",  # of a loss: the whole backward pass
    "has_names", "element_size", "is_cuda", "storage_offset", "narrow", "__hash__", "requires_grad_",
}  # fmt: skip
"""Functions that compute nothing: seeing them as calls of their own would only repeat their neighbours' tensors."""


def tensor_digest(tensor: torch.Tensor) -> str:
    """Hex digest of a tensor's dtype, shape and elements."""
    plain = tensor.detach().to("cpu").contiguous()
    found = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode())
    if plain.numel():
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Name to digest."""
    return {name: tensor_digest(tensor) for name, tensor in tensors.items()}


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


class Shelf:
    """Tensors in a folder, one file each, named by digest.

    Args:
        folder: made if it does not exist.
        keep: False to take digests only.
    """

    def __init__(self, folder: str, *, keep: bool = True) -> None:
        self.folder, self.keep = folder, keep
        self._written: set[str] = set()
        # The same tensor is seen as one call's result and the next one's input. Holding the last few keeps their memory
        # from being given to others, so that the same address is the same tensor.
        self._recent: deque[tuple[torch.Tensor, str]] = deque(maxlen=16)
        os.makedirs(folder, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a tensor is, or would be."""
        return os.path.join(self.folder, f"{digest}.safetensors")

    def put(self, tensor: torch.Tensor) -> dict[str, Any]:
        """Keep a tensor; return how to find and to lay it out again."""
        digest = self._digest(tensor)
        if self.keep and digest not in self._written:
            save_file({"tensor": tensor.detach().to("cpu").contiguous().clone()}, self.path(digest))
            self._written.add(digest)
        return {
            "tensor": digest,
            "dtype": str(tensor.dtype).replace("torch.", ""),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "offset": int(tensor.storage_offset()) % 16,
            "device": tensor.device.type,
        }

    def _digest(self, tensor: torch.Tensor) -> str:
        place = _place(tensor)
        for held, digest in self._recent:
            if _place(held) == place:
                return digest
        digest = tensor_digest(tensor)
        self._recent.append((tensor.detach(), digest))
        return digest

    def forget(self) -> None:
        """Take no tensor for known any more: one may have been changed in place."""
        self._recent.clear()

    def get(self, reference: dict[str, Any]) -> torch.Tensor:
        """Return a kept tensor with the strides that it had, and its offset modulo 16 elements."""
        held = load_file(self.path(reference["tensor"]))["tensor"].to(reference["device"])
        shape, stride, offset = reference["shape"], reference["stride"], reference["offset"]
        if not held.numel() or (list(held.stride()) == stride and not offset):
            return held
        strides = list(zip(shape, stride))  # noqa: B905 - Python 3.9 knows no strict
        span = 1 + sum((size - 1) * step for size, step in strides)
        laid = torch.zeros(offset + span, dtype=held.dtype, device=held.device).as_strided(shape, stride, offset)
        # A dimension of stride 0 is one element seen many times: write it once.
        once = tuple(slice(0, 1) if step == 0 and size > 1 else slice(None) for size, step in strides)
        laid[once].copy_(held[once])
        return laid


def encode(value: Any, shelf: Shelf) -> Any:  # noqa: PLR0911 - one for each kind of value
    """Turn arguments or results into JSON, tensors into references; what cannot come back is `opaque`."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, torch.Tensor):
        return shelf.put(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return {type(value).__name__: str(value).replace("torch.", "")}
    if isinstance(value, torch.device):
        return {"place": str(value)}
    if isinstance(value, slice):
        return {"slice": [encode(part, shelf) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, dict):
        return {"dict": [[str(key), encode(part, shelf)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [encode(part, shelf) for part in value]}
    return {"opaque": type(value).__name__}


def decode(value: Any, shelf: Shelf) -> Any:  # noqa: PLR0911 - one for each kind of value
    """The opposite of `encode`.

    Raises:
        ValueError: something opaque.
    """
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return shelf.get(value)
    (kind, content), *_ = value.items()
    if kind == "float":
        return float.fromhex(content)
    if kind in {"dtype", "layout", "memory_format"}:
        return getattr(torch, content)
    if kind == "place":
        return torch.device(content)
    if kind == "opaque":
        raise ValueError(f"an argument of type {content} was not recorded")
    if kind == "dict":
        return {key: decode(part, shelf) for key, part in content}
    parts = [decode(part, shelf) for part in content]
    return slice(*parts) if kind == "slice" else tuple(parts) if kind == "tuple" else parts


def references(value: Any) -> list[dict[str, Any]]:
    """The tensor references inside an encoded value, in order."""
    if not isinstance(value, dict):
        return []
    if "tensor" in value:
        return [value]
    parts = next(iter(value.values()))
    if "dict" in value:
        parts = [part for _key, part in parts]
    return [found for part in parts for found in references(part)] if isinstance(parts, list) else []


def _is_view(operator: Any) -> bool:
    returned = operator._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)


def _written(function: Any) -> list[str]:
    """The arguments that an operator changes in place; none of anything else."""
    schema = getattr(function, "_schema", None)
    arguments = [] if schema is None else schema.arguments
    return [one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write]


def outcome(function: Any, args: Any, kwargs: Any, result: Any) -> Any:
    """What a call made: its result; of an operator that returns nothing, such as a fused optimizer, what it changed."""
    written = [] if result is not None else _written(function)
    names = [one.name for one in function._schema.arguments] if written else []
    given = {**dict(zip(names, args)), **kwargs}  # noqa: B905 - defaults are not given
    return tuple(given[name] for name in written if name in given) or result


class _Operators(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        space, short, *_ = name.split(".")
        if self._recorder.paused or _is_view(func) or short in _DATA_FREE or space in _NO_ARITHMETIC:
            return func(*args, **kwargs)
        return self._recorder.call("operator", name, func, args, kwargs)


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seen = not self._recorder.paused and getattr(func, "__name__", "") not in _MOVES_NOTHING
        name = _public_name(func) if seen else ""
        if not name or name.endswith("__get__"):
            return func(*args, **kwargs)
        return self._recorder.call("function", name, func, args, kwargs)


def _public_name(function: Any) -> str:
    """The name by which users call a function of torch; torch itself finds some of them in `torch.functional` first."""
    name = str(resolve_name(function) or "")
    short = name.removeprefix("torch.functional.")
    return f"torch.{short}" if short != name and getattr(torch, short, None) is function else name


def _patched_functions() -> list[tuple[Any, str, str, Any]]:
    """Public functions of torch that somebody replaced by a Python function: owner, attribute, full name, function."""
    found = []
    owners = ((torch, "torch"), (torch.Tensor, "torch.Tensor"), (torch.nn.functional, "torch.nn.functional"))
    for owner, prefix in owners:
        for name, value in vars(owner).items():
            private = name.startswith("_") and not name.endswith("__")
            foreign = isinstance(value, types.FunctionType) and (value.__module__ or "").split(".")[0] != "torch"
            if foreign and not private:
                found.append((owner, name, f"{prefix}.{name}", value))
    return found


class Recorder:
    """Writes calls down while `recording` is active.

    Args:
        shelf: for tensors.
        modules: the model's modules by path; empty where a step has no model.
        phases: the parts of the step (see `enter`) whose calls are wanted; None for all.
    """

    def __init__(self, shelf: Shelf, modules: dict[str, Any], phases: Collection[str] | None = None) -> None:
        self.shelf = shelf
        self.calls: list[dict[str, Any]] = []
        self.paused = False
        self.nodes = GraphNodes()
        self._paths = {id(module): path for path, module in modules.items()}
        self._numbers: Counter[tuple[str, str, str, str]] = Counter()
        self._module = [""]
        self._inside = 0
        self._phase, self._phases = "", phases

    def know(self, modules: dict[str, Any], parameters: Iterable[tuple[str, Any]]) -> None:
        """Learn the names of a model's modules and parameters, where it was not there when the recorder was made."""
        self._paths = {id(module): path for path, module in modules.items()}
        self.nodes.know(parameters)

    def enter(self, phase: str) -> None:
        """Say which part of the step begins: its calls are told from those of other parts."""
        self._phase = phase
        self.shelf.forget()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Write nothing down inside the `with` block."""
        paused, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = paused

    def call(self, kind: str, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """Run `function` and write the call down; the inputs first, because it may change them in place."""
        with self.quiet():
            node = self.nodes.running()
            place = node.module if node else self._module[-1]
            number = self._numbers[self._phase, kind, place, name]
            self._numbers[self._phase, kind, place, name] += 1
        if self._phases is not None and self._phase not in self._phases:
            return self._run(kind, name, number, function, args, kwargs)
        with self.quiet():
            record: dict[str, Any] = {
                "kind": kind, "module": place, "name": name, "number": number, "phase": self._phase,
                "node": node.name if node else "", "of": node.of if node else "",
                "args": encode(tuple(args), self.shelf), "kwargs": encode(dict(kwargs), self.shelf),
            }  # fmt: skip
            # Operators are below autocast.
            record["mixed"] = kind in {"module", "function"} and torch.is_autocast_enabled()
            before = generators()
        at = len(self.calls)
        self.calls.append(record)
        result = self._run(kind, name, number, function, args, kwargs)
        if _written(function):
            self.shelf.forget()
        with self.quiet():
            made = outcome(function, args, kwargs, result)
            record["result"], record["written"] = encode(made, self.shelf), made is not result
            if not same(before, after := generators()):
                record["drawn"] = {"from": encode(before, self.shelf), "to": encode(after, self.shelf)}
        record["inner"] = len(self.calls) - at - 1
        if kind == "function" and not record["inner"]:
            # It came down to no operator: a getter, or a change of layout.
            self.calls.pop(at)
            self._numbers[self._phase, kind, place, name] -= 1
        return result

    def _run(self, kind: str, name: str, number: int, function: Any, args: Any, kwargs: Any) -> Any:
        if kind == "module":
            self._module.append(f"{name}#{number}" if number else name)
        self._inside += kind == "function"
        try:
            result = function(*args, **kwargs)
        finally:
            self._inside -= kind == "function"
            if kind == "module":
                self._module.pop()
        if kind == "function" and torch.is_grad_enabled():
            with self.quiet():
                # One that returns nothing changes its first argument in place.
                self.nodes.mark(args[:1] if result is None else result, self._module[-1], name)
        return result

    def _one_call(self, name: str, patch: Any) -> Any:
        """What takes the place of a patched function while recording: one call of `name`, as for any other function.

        A function mode is handed the function that torch finds under its name. Called from inside a patch of
        `torch.Tensor.sort`, the original would thus come back to the patch, which would be applied twice.
        """

        def alone(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return patch(*args, **kwargs)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.paused or self._inside:
                return alone(*args, **kwargs)
            return self.call("function", name, alone, args, kwargs)

        return call

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Write down everything inside the `with` block."""
        original = torch.nn.Module.__call__

        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if path is None or self.paused:
                return original(module, *args, **kwargs)
            return self.call("module", path, lambda *a, **k: original(module, *a, **k), args, kwargs)

        with contextlib.ExitStack() as stack:
            for owner, attribute, name, patch in _patched_functions():
                stack.enter_context(patched(owner, attribute, self._one_call(name, patch)))
            stack.enter_context(patched(torch.nn.Module, "__call__", call))
            stack.enter_context(_Functions(self))
            stack.enter_context(_Operators(self))
            yield


def write_calls(path: str, calls: list[dict[str, Any]]) -> None:
    """Write calls, or what became of each, as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(calls, file)

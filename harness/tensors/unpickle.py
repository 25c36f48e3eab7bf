"""Interpreting the pickle of a torch file: plain containers and tensors, and nothing else."""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from pickletools import OpcodeInfo, opcodes  # descriptions: it runs nothing
from typing import Any

import numpy as np

from harness.errors import UnreadableTensor
from harness.tensors.archive import Archive, Storage
from harness.tensors.dtypes import DTYPES, Dtype
from harness.tensors.mapped import check_shape, view_bytes
from harness.tensors.tensor import Tensor

_COPY_LIMIT = 256 * 1024 * 1024  # bytes, beyond the file's own size, that reordered or expanded tensors may take
_LONG_LIMIT = 64  # bytes of an integer; torch writes none over 8

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}  # fmt: skip

# Attributes that torch.Tensor answers for itself: setting one raises, or changes the tensor (`data`, `imag`).
_OWN_ATTRIBUTES = frozenset((
    "H", "T", "_backward_hooks", "_base", "_cdata", "_grad", "_grad_fn", "_has_symbolic_sizes_strides",
    "_post_accumulate_grad_hooks", "_python_dispatch", "_version", "data", "device", "dtype", "grad", "grad_dtype",
    "grad_fn", "imag", "is_cpu", "is_cuda", "is_ipu", "is_leaf", "is_maia", "is_meta", "is_mkldnn", "is_mps",
    "is_mtia", "is_nested", "is_ort", "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu",
    "itemsize", "layout", "mH", "mT", "name", "names", "nbytes", "ndim", "output_nr", "real", "requires_grad",
    "retains_grad", "shape", "volatile",
))  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A global that the pickle names: a storage class, a dtype, a class of tensors, or a function of the table."""

    kind: str
    name: str


_FUNCTIONS = {
    ("collections", "OrderedDict"): "OrderedDict",
    ("torch._utils", "_rebuild_tensor"): "tensor",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor_v2",
    ("torch._utils", "_rebuild_tensor_v3"): "tensor_v3",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch._utils", "_rebuild_parameter_with_state"): "parameter_with_state",
    ("torch._tensor", "_rebuild_from_type_v2"): "from_type",
    ("torch", "Size"): "size",
}
_CLASSES = frozenset((("torch", "Tensor"), ("torch.nn.parameter", "Parameter")))


class Rebuilder:
    """Makes tensors of a file's storages, and counts what it copies."""

    def __init__(self, path: Path, archive: Archive) -> None:
        self.path = path
        self.archive = archive
        self.copied = 0

    def tensor(self, storage: Storage, dtype: Dtype, offset: object, size: object, stride: object) -> Tensor:
        """A view of a storage, as `torch._utils._rebuild_tensor` makes it; elements in C order.

        Contiguous tensors are views of the mapped file; others are copied into order.
        """
        shape, steps = check_shape(size, str(self.path)), steps_of(stride)
        if type(offset) is not int or offset < 0 or steps is None or len(steps) != len(shape):
            raise UnreadableTensor(f"{self.path} holds a tensor whose strides or offset are impossible.")
        if self.archive.swapped and storage.dtype.itemsize != dtype.itemsize:
            raise UnreadableTensor(f"{self.path} holds big-endian {dtype.name}, which torch does not turn round.")
        n = math.prod(shape)
        capacity = storage.raw.size // dtype.itemsize
        last = offset + sum((count - 1) * step for count, step in zip(shape, steps, strict=True)) if n else 0
        if last >= capacity and n:
            raise UnreadableTensor(
                f"{self.path} holds a tensor of shape {list(shape)} that reaches beyond its storage "
                f"of {capacity} elements."
            )
        begin = offset * dtype.itemsize
        if n == 0:
            return Tensor(dtype.name, shape, np.empty(shape, dtype.storage))
        if _contiguous(shape, steps):
            raw = storage.raw[begin : begin + n * dtype.itemsize]
            data = view_bytes(raw, dtype, shape)
        else:
            self._account(n * dtype.itemsize)
            flat = np.frombuffer(storage.raw[: capacity * dtype.itemsize], dtype.storage)
            strides = tuple(step * dtype.itemsize for step in steps)
            data = np.lib.stride_tricks.as_strided(flat[offset:], shape, strides, writeable=False).copy(order="C")
        if self.archive.swapped and dtype.itemsize > 1:
            self._account(n * dtype.itemsize)
            # Complex numbers are two floats, each in the file's byte order; NumPy's byteswap does just that. complex32
            # is held as bits, so its halves are swapped by hand.
            data = data.view("<u2").byteswap().view("<u4") if dtype.name == "complex32" else data.byteswap()
        return Tensor(dtype.name, shape, data.reshape(shape), storage.check)

    def resolved(self, tensor: Tensor, flags: object = None) -> Tensor:
        """Apply what torch puts off: a lazily conjugated or negated tensor is stored as it was, with a flag.

        torch/_utils.py: `_rebuild_tensor_v2` and `_rebuild_tensor_v3` take the flags as `metadata`.
        """
        if not flags:
            return tensor
        # torch takes a flag that is there for set, whatever its value.
        if not isinstance(flags, dict) or any(name not in ("conj", "neg") or flags[name] is not True for name in flags):
            raise TypeError("flags of a tensor that torch never writes")
        conj, neg = "conj" in flags, "neg" in flags
        kind = tensor.data.dtype.kind
        if kind not in ("c", "f") or (conj and kind != "c"):
            raise UnreadableTensor(
                f"{self.path} holds a {tensor.dtype} tensor that is flagged as conjugated or negated."
            )
        self._account(tensor.nbytes)
        data = tensor.data
        data = np.conjugate(data) if conj else data
        return replace(tensor, data=np.asarray(np.negative(data) if neg else data))

    def _account(self, nbytes: int) -> None:
        """Count a copy; stride 0, or one storage used many times, must not make a small file fill the memory."""
        self.copied += nbytes
        if self.copied > self.archive.raw.size + _COPY_LIMIT:
            raise UnreadableTensor(
                f"{self.path} expands to more than {self.copied} bytes, which its size cannot justify."
            )


class Interpreter:
    """Runs the pickle: a stack, a memo, and the opcodes below."""

    def __init__(self, path: Path, archive: Archive) -> None:
        self.path = path
        self.archive = archive
        self.stack: list[Any] = []
        self.outside: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.rebuild = Rebuilder(path, archive)
        self.code = io.BytesIO()
        self.size = 0

    def run(self, code: bytes) -> object:
        """Interpret a pickle and return its object."""
        self.code, self.size = io.BytesIO(code), len(code)
        while (opcode := self._opcode()).name != "STOP":
            _OPERATIONS[opcode.name](self, self._argument(opcode))
        return self.stack.pop()

    def _opcode(self) -> OpcodeInfo:
        byte = self.code.read(1)
        if not byte:
            raise self._cut()
        opcode = _OPCODES.get(byte)
        if opcode is None:
            raise UnreadableTensor(
                f"{self.path} holds more than tensors and plain containers: pickle opcode 0x{byte.hex()} is refused."
            )
        return opcode

    def _argument(self, opcode: OpcodeInfo) -> Any:  # noqa: ANN401 - a text, a number or bytes
        if opcode.name == "GLOBAL":  # pickletools would unescape the names, which no unpickler does
            return self._line(), self._line()
        try:
            return opcode.arg.reader(self.code) if opcode.arg else None
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            raise self._cut() from error

    def _line(self) -> str:
        line = self.code.readline()
        if not line.endswith(b"\n"):
            raise self._cut()
        return line[:-1].decode("utf-8")

    def _cut(self) -> UnreadableTensor:
        return UnreadableTensor(f"{self.path} is damaged: its pickle ends too early.")

    def _marked(self) -> list[Any]:
        """Pop everything above the last mark."""
        items, self.stack = self.stack, self.outside.pop()
        return items

    def mark(self) -> None:
        """MARK: nothing reaches below it before it is popped."""
        self.outside.append(self.stack)
        self.stack = []

    def frame(self, size: int) -> None:
        """FRAME: how many bytes follow at least."""
        if size > self.size - self.code.tell():
            raise self._cut()

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def long(self, value: int) -> None:
        """LONG1 and LONG4."""
        if (size := (value.bit_length() + 8) // 8) > _LONG_LIMIT:
            raise UnreadableTensor(f"{self.path} holds an integer of {size} bytes.")
        self.push(value)

    def find(self, module: str, name: str) -> None:
        """Look a global up in the tables; refuse any other, and import nothing."""
        if (module, name) in _FUNCTIONS:
            self.push(Name("function", _FUNCTIONS[module, name]))
        elif module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
            self.push(Name("storage", _STORAGES[name]))
        elif module == "torch" and name in DTYPES:
            self.push(Name("dtype", name))
        elif (module, name) in _CLASSES:
            self.push(Name("class", name))
        elif module == "torch" or (module.startswith("torch.") and name.endswith("Storage")):
            raise UnreadableTensor(
                f"{self.path} names {module}.{name}, which is no dtype or function of tensors that this harness knows; "
                "nothing in it was run."
            )
        elif module in ("torch._utils", "torch._tensor"):
            raise UnreadableTensor(
                f"{self.path} holds a kind of tensor that this harness does not read ({name}): it reads dense ones, "
                "such as ColBERT writes; nothing in it was run."
            )
        else:
            raise UnreadableTensor(
                f"{self.path} names {module}.{name}, which is not a tensor; "
                "nothing in it was run, because loading such a file can execute code."
            )

    def stack_global(self) -> None:
        """STACK_GLOBAL: module and name are the top two strings."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a global's name is not a string")
        self.find(module, name)

    def tuple_of(self, count: int) -> None:
        """TUPLE1 to TUPLE3."""
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(items)

    def append(self, items: list[Any]) -> None:
        """APPEND and APPENDS."""
        if type(self.stack[-1]) is not list:
            raise TypeError("append to something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """SETITEM and SETITEMS; keys are scalars whose hashes nobody can choose, so that hashing is cheap."""
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise TypeError("items set on something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int, bytes, type(None))) or (isinstance(key, int) and abs(key) >> 60):
                raise TypeError("a dict key is neither a text nor a number that is its own hash")
            self.stack[-1][key] = value

    def memoize(self, index: int) -> None:
        """Remember the top of the stack."""
        self.memo[index] = self.stack[-1]

    def persistent(self) -> None:
        """BINPERSID: `("storage", class, key, location, numel)`, torch's reference to a member of the archive."""
        match self.stack.pop():
            case ("storage", Name("storage", dtype), str(key), str(), int(numel)) if type(numel) is int:
                self.push(self.archive.storage(DTYPES[dtype], key, numel))
            case _:
                raise UnreadableTensor(f"{self.path} refers to a storage in a way that is not known here.")

    def reduce(self) -> None:
        """REDUCE: apply a function of the table to a tuple."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function.kind != "function" or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is not a known function")
        self.push(self._called(function.name, arguments))

    def _called(self, function: str, arguments: tuple[Any, ...]) -> object:
        """What a function of the table makes of its arguments; see torch/_utils.py and torch/_tensor.py."""
        made: object = None
        match function, arguments:
            case "OrderedDict", ():
                made = OrderedDict()
            case "size", (sizes,):
                made = check_shape(sizes, str(self.path))
            case "tensor", (Storage() as storage, offset, size, stride):
                made = self.rebuild.tensor(storage, storage.dtype, offset, size, stride)
            case "tensor_v2", (Storage() as storage, offset, size, stride, grad, hooks, *flags):
                tensor = self.rebuild.tensor(storage, storage.dtype, offset, size, stride)
                made = self.rebuild.resolved(_differentiable(tensor, grad, hooks), *flags)
            case "tensor_v3", (Storage() as storage, offset, size, stride, grad, hooks, Name("dtype", name), *flags):
                tensor = self.rebuild.tensor(storage, DTYPES[name], offset, size, stride)
                made = self.rebuild.resolved(_differentiable(tensor, grad, hooks), *flags)
            case "parameter", (Tensor() as tensor, grad, hooks):
                made = _differentiable(tensor, grad, hooks)
            case "parameter_with_state", (Tensor() as tensor, grad, hooks, state):
                made = _with_attributes(_differentiable(tensor, grad, hooks), state)
            case "from_type", (Name("function", inner), Name("class"), tuple() as inside, state) if inner != function:
                made = _with_attributes(self._called(inner, inside), state)
        if made is None:
            raise TypeError(f"{function} called with arguments that torch never writes")
        return made

    def build(self) -> None:
        """BUILD: torch writes it for an OrderedDict's `_metadata` only, which says nothing about the numbers."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict) or not isinstance(state, dict):
            raise TypeError("state set on something that is not an OrderedDict")


def _differentiable(tensor: Tensor, grad: object, hooks: object) -> Tensor:
    """Whether a tensor takes gradients says nothing about its numbers, but torch refuses some that would."""
    if not isinstance(grad, bool) or not isinstance(hooks, (dict, type(None))):
        raise TypeError("requires_grad or the hooks of a tensor are not such")
    if grad and DTYPES[tensor.dtype].kind not in ("float", "complex"):
        raise TypeError(f"a tensor of {tensor.dtype} takes no gradients")
    return tensor


def _with_attributes(tensor: object, state: object) -> Tensor:
    """Attributes that somebody set on a tensor say nothing about its numbers, unless torch has its own of the name.

    `state` is the object's `__dict__`, or that and its slots; None where there are none.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError("attributes set on something that is not a tensor")
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if not isinstance(part, (dict, type(None))):
            raise TypeError("the attributes of a tensor are no dict")
        for name in part or ():
            if not isinstance(name, str) or name in _OWN_ATTRIBUTES or name.startswith("__"):
                raise TypeError(f"{name!r} set on a tensor, which is torch's own")
    return tensor


def steps_of(stride: object) -> tuple[int, ...] | None:
    """Strides, in elements; None where they are none."""
    if isinstance(stride, (tuple, list)) and all(type(step) is int and step >= 0 for step in stride):
        return tuple(stride)
    return None


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether strides are those of C order; the stride of a dimension of size 1 does not matter."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _pop_two(machine: Interpreter) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


# By the names of `pickletools`, without those that torch never writes for tensors in plain containers.
_OPERATIONS: dict[str, Callable[[Interpreter, Any], None]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT"), Interpreter.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), Interpreter.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), Interpreter.push),
    **dict.fromkeys(("LONG1", "LONG4"), Interpreter.long),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), Interpreter.memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    "PROTO": lambda _m, _: None,
    "FRAME": Interpreter.frame,
    "MARK": lambda m, _: m.mark(),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "GLOBAL": lambda m, names: m.find(*names),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m._marked())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m._marked()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "SETITEM": lambda m, _: m.set_items(_pop_two(m)),
    "SETITEMS": lambda m, _: m.set_items(m._marked()),
    "MEMOIZE": lambda m, _: m.memoize(len(m.memo)),
    "BINPERSID": lambda m, _: m.persistent(),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
_OPCODES = {one.code.encode("latin-1"): one for one in opcodes if one.name == "STOP" or one.name in _OPERATIONS}

"""Reads torch's zip-format `.pt` files: a mapped archive and an interpreter for the harmless part of pickle.

Python's own unpickler is not used. It would import what the file names, and its C implementation allocates whatever a
memo index asks for; this interpreter knows the opcodes that `torch.save` writes for tensors in plain containers, a
dozen names, and nothing else. The idea is that of torch's `weights_only` unpickler (torch/_weights_only_unpickler.py).
"""

from __future__ import annotations

import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.tensors import DTYPES, Array, Dtype, Tensor, UnreadableTensor, check_shape, map_file, view_bytes

_PICKLE_LIMIT = 64 * 1024 * 1024  # a pickle holds names and shapes; the numbers are elsewhere in the archive
_COPY_LIMIT = 256 * 1024 * 1024  # bytes, beyond the file's own size, that reordered or expanded tensors may take
_DEPTH_LIMIT = 64
_LONG_LIMIT = 64  # bytes of an integer; torch writes none over 8
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py: MAGIC_NUMBER, pickled

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    """A stretch of the archive: bytes in the file, elements of `dtype`."""

    raw: Array
    dtype: Dtype


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names: a storage class, a dtype, or a function of the table."""

    kind: str
    name: str


_FUNCTIONS = {
    ("collections", "OrderedDict"): "OrderedDict",
    ("torch._utils", "_rebuild_tensor"): "tensor",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_tensor_v3"): "tensor_v3",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch._utils", "_rebuild_parameter_with_state"): "parameter",
    ("torch", "Size"): "size",
}


class _Stop(Exception):  # noqa: N818
    """The STOP opcode was reached."""


def read(path: Path) -> object:
    """Read one file; see `harness.tensors.read_pt`."""
    raw = map_file(path)
    archive = _Archive(path, raw)
    try:
        tree = _Interpreter(path, archive).run(archive.pickle())
    except UnreadableTensor:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, UnicodeDecodeError) as error:
        raise UnreadableTensor(f"{path} holds a damaged pickle ({type(error).__name__}: {error}).") from error
    return _plain(path, tree, swapped=archive.swapped)


class _Archive:
    """The members of the zip file, as stretches of the mapped file."""

    def __init__(self, path: Path, raw: Array) -> None:
        self.path = path
        self.raw = raw
        self.members: dict[str, zipfile.ZipInfo] = {}
        head = raw[:16].tobytes()
        if raw.size == 0:
            raise UnreadableTensor(f"{path} is empty, so it holds no tensor.")
        if not head.startswith(b"PK"):
            if head.startswith(_LEGACY_MAGIC):
                raise UnreadableTensor(
                    f"{path} is in the format of torch before 1.6, which only unpickling can read; "
                    "load it and save it again with a newer torch."
                )
            raise UnreadableTensor(f"{path} is not a file that torch.save wrote: it is no zip archive.")
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise UnreadableTensor(f"{path} is truncated or damaged: {error}.") from error
        for info in infos:
            if info.filename in self.members:
                raise UnreadableTensor(f"{path} holds the member {info.filename!r} twice.")
            self.members[info.filename] = info
        roots = [name for name in self.members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UnreadableTensor(f"{path} is a zip archive, but not one that torch.save wrote: it has no data.pkl.")
        self.root = roots[0].removesuffix("data.pkl")
        order = self._bytes(f"{self.root}byteorder").tobytes() if f"{self.root}byteorder" in self.members else b"little"
        if order not in (b"little", b"big"):
            raise UnreadableTensor(f"{path} names a byte order that is neither little nor big.")
        self.swapped = order == b"big"

    def _span(self, name: str) -> tuple[int, int]:
        """Where a stored member's bytes begin and end, from its local header, checked against the file."""
        info = self.members.get(name)
        if info is None:
            raise UnreadableTensor(f"{self.path} has no member {name!r}, which its pickle refers to.")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise UnreadableTensor(
                f"{self.path}: member {name!r} is compressed or encrypted; torch.save never does so."
            )
        start = info.header_offset
        header = self.raw[start : start + 30].tobytes() if 0 <= start <= self.raw.size - 30 else b""
        if header[:4] != b"PK\x03\x04":
            raise UnreadableTensor(f"{self.path} is damaged: member {name!r} has no local header.")
        # Local file header: lengths of name and extra field at bytes 26 and 28 (PKWARE APPNOTE 4.3.7).
        begin = start + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        end = begin + info.file_size
        if end > self.raw.size:
            raise UnreadableTensor(f"{self.path} is truncated: member {name!r} would end at byte {end}.")
        return begin, end

    def _bytes(self, name: str) -> Array:
        begin, end = self._span(name)
        return self.raw[begin:end]

    def pickle(self) -> bytes:
        """The pickle of the archive."""
        raw = self._bytes(f"{self.root}data.pkl")
        if raw.size > _PICKLE_LIMIT:
            raise UnreadableTensor(f"{self.path}: its pickle has {raw.size} bytes, which no file of tensors needs.")
        return raw.tobytes()

    def storage(self, dtype: Dtype, key: str, numel: int) -> _Storage:
        """The storage `key`, which must hold at least `numel` elements."""
        begin, end = self._span(f"{self.root}data/{key}")
        need = numel * dtype.itemsize
        if numel < 0 or need > end - begin:
            raise UnreadableTensor(
                f"{self.path} is damaged: storage {key!r} should hold {need} bytes and has {end - begin}."
            )
        return _Storage(self.raw[begin : begin + need], dtype)


class _Interpreter:
    """Runs the pickle: a stack, a memo, and the opcodes below."""

    def __init__(self, path: Path, archive: _Archive) -> None:
        self.path = path
        self.archive = archive
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.position = 0
        self.copied = 0
        self.code = b""

    def run(self, code: bytes) -> object:
        """Interpret a pickle and return its object."""
        self.code = code
        while True:
            opcode = self._take(1)[0]
            operation = _OPCODES.get(opcode)
            if operation is None:
                raise UnreadableTensor(
                    f"{self.path} holds more than tensors and plain containers: "
                    f"pickle opcode 0x{opcode:02x} is refused."
                )
            try:
                operation(self)
            except _Stop:
                return self.stack.pop()

    def _take(self, count: int) -> bytes:
        taken = self.code[self.position : self.position + count]
        if len(taken) != count:
            raise UnreadableTensor(f"{self.path} is damaged: its pickle ends too early.")
        self.position += count
        return taken

    def _integer(self, count: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(count), "little", signed=signed)

    def _line(self) -> str:
        end = self.code.find(b"\n", self.position)
        if end < 0:
            raise UnreadableTensor(f"{self.path} is damaged: its pickle ends too early.")
        line = self.code[self.position : end]
        self.position = end + 1
        return line.decode("utf-8")

    def _marked(self) -> list[Any]:
        """Pop everything above the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def long(self, width: int) -> None:
        """LONG1 and LONG4: a length in `width` bytes, then a signed integer of that many bytes."""
        count = self._integer(width)
        if count > _LONG_LIMIT:
            raise UnreadableTensor(f"{self.path} holds an integer of {count} bytes.")
        self.push(self._integer(count, signed=True))

    def text(self, width: int) -> None:
        """A string whose length takes `width` bytes."""
        self.push(self._take(self._integer(width)).decode("utf-8", "surrogatepass"))

    def octets(self, width: int) -> None:
        """A bytes object whose length takes `width` bytes."""
        self.push(self._take(self._integer(width)))

    def double(self) -> None:
        """BINFLOAT: eight big-endian bytes."""
        self.push(float(np.frombuffer(self._take(8), ">f8")[0]))

    def find(self, module: str, name: str) -> None:
        """Look a global up in the tables; refuse any other, and import nothing."""
        if (module, name) in _FUNCTIONS:
            self.push(_Name("function", _FUNCTIONS[module, name]))
        elif module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
            self.push(_Name("storage", _STORAGES[name]))
        elif module == "torch" and name in DTYPES:
            self.push(_Name("dtype", name))
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
            case ("storage", _Name("storage", dtype), str(key), str(), int(numel), *_):
                self.push(self.archive.storage(DTYPES[dtype], key, numel))
            case _:
                raise UnreadableTensor(f"{self.path} refers to a storage in a way that is not known here.")

    def reduce(self) -> None:
        """REDUCE: apply a function of the table to a tuple."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or function.kind != "function" or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is not a known function")
        match function.name, arguments:
            case "OrderedDict", ():
                self.push(OrderedDict())
            case "size", (sizes,):
                self.push(check_shape(sizes, str(self.path)))
            case "tensor", (_Storage() as storage, int(offset), tuple(size), tuple(stride), *rest):
                self.push(self._resolved(self._tensor(storage, storage.dtype, offset, size, stride), rest[2:3]))
            case "tensor_v3", (
                _Storage() as storage,
                int(offset),
                tuple(size),
                tuple(stride),
                _,
                _,
                _Name("dtype", name),
                *rest,
            ):
                self.push(self._resolved(self._tensor(storage, DTYPES[name], offset, size, stride), rest[:1]))
            case "parameter", (Tensor() as tensor, *_):
                self.push(tensor)
            case _:
                raise TypeError(f"{function.name} called with arguments that torch never writes")

    def build(self) -> None:
        """BUILD: torch writes it for an OrderedDict's `_metadata` only, which says nothing about the numbers."""
        self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict):
            raise TypeError("state set on something that is not an OrderedDict")

    def _tensor(
        self, storage: _Storage, dtype: Dtype, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]
    ) -> Tensor:
        """A view of a storage, as `torch._utils._rebuild_tensor` makes it; elements in C order.

        Contiguous tensors are views of the mapped file; others are copied into order.
        """
        shape = check_shape(size, str(self.path))
        if len(stride) != len(shape) or any(type(step) is not int or step < 0 for step in stride) or offset < 0:
            raise UnreadableTensor(f"{self.path} holds a tensor whose strides or offset are impossible.")
        n = math.prod(shape)
        capacity = storage.raw.size // dtype.itemsize
        last = offset + sum((count - 1) * step for count, step in zip(shape, stride, strict=True)) if n else 0
        if last >= capacity and n:
            raise UnreadableTensor(
                f"{self.path} holds a tensor of shape {list(shape)} that reaches beyond its storage "
                f"of {capacity} elements."
            )
        begin = offset * dtype.itemsize
        if n == 0:
            return Tensor(dtype.name, shape, np.empty(shape, dtype.storage))
        if _contiguous(shape, stride):
            raw = storage.raw[begin : begin + n * dtype.itemsize]
            data = view_bytes(raw, dtype, shape)
        else:
            self._account(n * dtype.itemsize)
            flat = np.frombuffer(storage.raw[: capacity * dtype.itemsize], dtype.storage)
            steps = tuple(step * dtype.itemsize for step in stride)
            data = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False).copy(order="C")
        if self.archive.swapped and dtype.itemsize > 1:
            self._account(n * dtype.itemsize)
            # Complex numbers are two floats, each in the file's byte order; NumPy's byteswap does just that. complex32
            # is held as bits, so its halves are swapped by hand.
            data = data.view("<u2").byteswap().view("<u4") if dtype.name == "complex32" else data.byteswap()
        return Tensor(dtype.name, shape, data.reshape(shape))

    def _resolved(self, tensor: Tensor, metadata: list[Any]) -> Tensor:
        """Apply what torch puts off: a lazily conjugated or negated tensor is stored as it was, with a flag.

        torch/_utils.py: `_rebuild_tensor_v2` and `_rebuild_tensor_v3` take the flags as `metadata`.
        """
        flags = metadata[0] if metadata and isinstance(metadata[0], dict) else {}
        conj, neg = bool(flags.get("conj")), bool(flags.get("neg"))
        if not (conj or neg):
            return tensor
        kind = tensor.data.dtype.kind
        if kind not in ("c", "f") or (conj and kind != "c"):
            raise UnreadableTensor(
                f"{self.path} holds a {tensor.dtype} tensor that is flagged as conjugated or negated."
            )
        self._account(tensor.nbytes)
        data = tensor.data
        data = np.conjugate(data) if conj else data
        return Tensor(tensor.dtype, tensor.shape, np.asarray(np.negative(data) if neg else data))

    def _account(self, nbytes: int) -> None:
        """Count a copy; stride 0, or one storage used many times, must not make a small file fill the memory."""
        self.copied += nbytes
        if self.copied > self.archive.raw.size + _COPY_LIMIT:
            raise UnreadableTensor(
                f"{self.path} expands to more than {self.copied} bytes, which its size cannot justify."
            )


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether strides are those of C order; the stride of a dimension of size 1 does not matter."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _plain(path: Path, tree: object, *, swapped: bool) -> object:
    """Check the depth of a result and turn bare storages into one-dimensional tensors.

    Every container is visited once, however often it is shared, so that a small pickle cannot unfold into a big tree.
    """
    done: dict[int, object] = {}

    def visit(node: object, depth: int) -> object:
        if depth > _DEPTH_LIMIT:
            raise UnreadableTensor(f"{path} nests its containers more than {_DEPTH_LIMIT} deep, or in a circle.")
        if isinstance(node, _Storage):
            shape = (node.raw.size // node.dtype.itemsize,)
            if swapped and node.dtype.itemsize > 1:
                raise UnreadableTensor(f"{path} holds big-endian numbers that belong to no tensor.")
            return Tensor(node.dtype.name, shape, view_bytes(node.raw, node.dtype, shape))
        if isinstance(node, _Name):
            return node.name
        if not isinstance(node, (list, tuple, dict)):
            return node
        if id(node) not in done:
            if isinstance(node, dict):
                done[id(node)] = {key: visit(value, depth + 1) for key, value in node.items()}
            else:
                done[id(node)] = type(node)(visit(item, depth + 1) for item in node)
        return done[id(node)]

    return visit(tree, 0)


def _pop_two(machine: _Interpreter) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


def _stop(_: _Interpreter) -> None:
    raise _Stop


# Opcode bytes as in CPython's Lib/pickle.py, without those that torch never writes for tensors in plain containers.
_OPCODES: dict[int, Callable[[_Interpreter], None]] = {
    0x80: lambda m: void(m._take(1)),  # PROTO
    0x95: lambda m: void(m._take(8)),  # FRAME
    ord("."): _stop,
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): lambda m: void(m.stack.pop()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m._integer(4, signed=True)),
    ord("K"): lambda m: m.push(m._integer(1)),
    ord("M"): lambda m: m.push(m._integer(2)),
    0x8A: lambda m: m.long(1),
    0x8B: lambda m: m.long(4),
    ord("G"): lambda m: m.double(),
    ord("X"): lambda m: m.text(4),
    0x8C: lambda m: m.text(1),
    0x8D: lambda m: m.text(8),
    ord("B"): lambda m: m.octets(4),
    ord("C"): lambda m: m.octets(1),
    0x8E: lambda m: m.octets(8),
    ord("c"): lambda m: m.find(m._line(), m._line()),
    0x93: lambda m: m.stack_global(),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m._marked())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("e"): lambda m: m.append(m._marked()),
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.set_items(_pop_two(m)),
    ord("u"): lambda m: m.set_items(m._marked()),
    ord("q"): lambda m: m.memoize(m._integer(1)),
    ord("r"): lambda m: m.memoize(m._integer(4)),
    0x94: lambda m: m.memoize(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m._integer(1)]),
    ord("j"): lambda m: m.push(m.memo[m._integer(4)]),
    ord("Q"): lambda m: m.persistent(),
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
}


def void(_: object) -> None:
    """Drop a value: the opcode table holds expressions."""

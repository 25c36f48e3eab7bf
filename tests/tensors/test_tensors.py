"""Reading tensors from files: what torch wrote, and what somebody else damaged or made up."""

from __future__ import annotations

import contextlib
import gc
import json
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UnreadableTensor
from harness.files import map_file
from harness.tensors import mapped
from harness.tensors.dtypes import DTYPES
from harness.tensors.npyfile import read_npy
from harness.tensors.safetensors import read_safetensors, write_safetensors
from harness.tensors.tensor import Tensor
from harness.tensors.threads import in_threads
from harness.tensors.torchfile import read_pt
from tests.support.pt_files import integer, rebuild, text, tuple_of, write_archive, write_pt

_TORCH = r"""
import collections, sys, torch
folder = sys.argv[1]
x = torch.arange(35, dtype=torch.float32).reshape(5, 7) / 8
values = {
    "float16": x.half(), "bfloat16": x.bfloat16(), "float32": x, "float64": x.double(), "uint8": x.byte(),
    "int8": x.char(), "int16": x.short(), "int32": x.int(), "int64": x.long(), "bool": x > 2,
    "complex64": x.cfloat(), "complex128": x.cdouble(),
    "transposed": x.t(), "slice": x[1:4, 2], "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3),
    "expanded": x[:1].expand(4, 7), "parameter": torch.nn.Parameter(x), "storage": x.untyped_storage(),
    "pair": (x.int(), x.long()), "nested": {"a": [x, 1, 2.5, None, True, "s", -3, 2**40], "b": (x, {"c": x})},
    "conj": torch.complex(x, -x).conj(), "neg": torch.imag(torch.complex(x, -x).conj()), "sparse": x.to_sparse(),
    "quantized": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "ordered": collections.OrderedDict(w=x, v=x), "size": x.size(), "state": torch.nn.Linear(2, 2).state_dict(),
}
for name in ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"):
    if hasattr(torch, name):
        values[name] = x.to(getattr(torch, name))
for name, value in values.items():
    torch.save(value, f"{folder}/{name}.pt")
torch.save(x, f"{folder}/protocol5.pt", pickle_protocol=5)
torch.save(x, f"{folder}/legacy.pt", _use_new_zipfile_serialization=False)
torch.save(torch.nn.Linear(2, 2), f"{folder}/module.pt")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, torch_interpreter: Path) -> Path:
    """A folder of files that a real torch wrote."""
    folder = tmp_path_factory.mktemp("saved")
    subprocess.run([str(torch_interpreter), "-W", "ignore", "-c", _TORCH, str(folder)], check=True)
    return folder


X = np.arange(35, dtype=np.float32).reshape(5, 7) / 8


def tensor_in(path: Path) -> Tensor:
    found = read_pt(path)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(
    "dtype", [name for name in DTYPES if DTYPES[name].kind != "complex" and name in vars(np)] + ["bool"]
)
def test_each_dtype_that_torch_saves(saved: Path, dtype: str) -> None:
    """Values and shape come back, mapped and read-only."""
    if not (saved / f"{dtype}.pt").exists():
        pytest.skip(f"this torch saves no {dtype}")
    found = tensor_in(saved / f"{dtype}.pt")

    assert (dtype, (5, 7)) == (found.dtype, found.shape)
    assert not found.data.flags.writeable
    np.testing.assert_array_equal(X > 2 if dtype == "bool" else X.astype(dtype), found.data)


def test_bfloat16_and_float8_are_held_as_bits(saved: Path) -> None:
    """NumPy has no such numbers, so the bits are there for others to decode."""
    found = tensor_in(saved / "bfloat16.pt")
    np.testing.assert_array_equal(X, (found.data.astype(np.uint32) << 16).view(np.float32))
    for name in ("float8_e4m3fn", "float8_e5m2"):
        if (saved / f"{name}.pt").exists():
            small = tensor_in(saved / f"{name}.pt")
            assert (name, "uint8") == (small.dtype, small.data.dtype.name)


def test_views_come_back_in_order(saved: Path) -> None:
    """Strides, offsets, scalars, empty and expanded tensors, parameters and bare storages."""
    np.testing.assert_array_equal(X.T, tensor_in(saved / "transposed.pt").data)
    np.testing.assert_array_equal(X[1:4, 2], tensor_in(saved / "slice.pt").data)
    np.testing.assert_array_equal(np.broadcast_to(X[:1], (4, 7)), tensor_in(saved / "expanded.pt").data)
    np.testing.assert_array_equal(X, tensor_in(saved / "parameter.pt").data)
    assert ((), 3.5) == (tensor_in(saved / "scalar.pt").shape, float(tensor_in(saved / "scalar.pt").data))
    assert (0, 3) == tensor_in(saved / "empty.pt").shape
    assert X.tobytes() == bytes(tensor_in(saved / "storage.pt").buffer())


def test_lazily_conjugated_and_negated_tensors(saved: Path) -> None:
    """Such a tensor is stored as it was, with a flag; what comes back is what the tensor stood for."""
    np.testing.assert_array_equal(X + 1j * X, tensor_in(saved / "conj.pt").data)
    negated = tensor_in(saved / "neg.pt")

    assert ("float32", (5, 7)) == (negated.dtype, negated.shape)
    np.testing.assert_array_equal(X, negated.data)


def test_other_kinds_of_tensors_are_refused_as_such(saved: Path) -> None:
    """A sparse or a quantized tensor is a tensor, and the sentence does not say otherwise."""
    for name in ("sparse", "quantized"):
        with pytest.raises(UnreadableTensor, match="a kind of tensor that this harness does not read"):
            read_pt(saved / f"{name}.pt")


def test_containers(saved: Path) -> None:
    """Tuples, lists, dicts and scalars keep their places."""
    pair: Any = read_pt(saved / "pair.pt")
    nested: Any = read_pt(saved / "nested.pt")
    ordered: Any = read_pt(saved / "ordered.pt")

    assert ["int32", "int64"] == [tensor.dtype for tensor in pair]
    assert [1, 2.5, None, True, "s", -3, 2**40] == nested["a"][1:]
    np.testing.assert_array_equal(X, nested["b"][1]["c"].data)
    assert ["w", "v"] == list(ordered)
    assert (5, 7) == read_pt(saved / "size.pt")
    assert isinstance(read_pt(saved / "state.pt"), dict)
    np.testing.assert_array_equal(X, tensor_in(saved / "protocol5.pt").data)


def test_old_format_and_modules_are_refused_in_words(saved: Path) -> None:
    """The format before torch 1.6, and a pickled module, each get a sentence."""
    with pytest.raises(UnreadableTensor, match=r"before 1\.6"):
        read_pt(saved / "legacy.pt")
    with pytest.raises(UnreadableTensor, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_pt(saved / "module.pt")


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    """A pickle that would call os.system is refused, and does not."""
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (__import__("os").system, (f"touch {marker}",))

    for protocol in (0, 2, 4):
        write_archive(tmp_path / "bomb.pt", pickle.dumps(Bomb(), protocol), {})
        with pytest.raises(UnreadableTensor):
            read_pt(tmp_path / "bomb.pt")
    assert not marker.exists()


def _bad_pickles() -> dict[str, bytes]:
    deep = b"]" * 200 + b"a" * 199
    return {
        "past the storage": rebuild("0", "FloatStorage", 4, (5,), (1,)),
        "strides past the storage": rebuild("0", "FloatStorage", 4, (2, 2), (3, 1)),
        "offset past the storage": rebuild("0", "FloatStorage", 4, (2,), (1,), 3),
        "negative stride": rebuild("0", "FloatStorage", 4, (2,), (-1,), 3),
        "negative size": rebuild("0", "FloatStorage", 4, (-2,), (1,)),
        "storage bigger than its member": rebuild("0", "FloatStorage", 5, (5,), (1,)),
        "no such storage": rebuild("../../etc/passwd", "FloatStorage", 4, (4,), (1,)),
        "absurd shape": rebuild("0", "FloatStorage", 4, (2**40, 2**40), (0, 0)),
        "expansion bomb": rebuild("0", "FloatStorage", 4, (2**32,), (0,)),
        "unknown storage class": rebuild("0", "NoStorage", 4, (4,), (1,)),
        "memo that is not there": b"h\x07",
        "stack underflow": b"\x87",
        "huge integer": b"\x8b" + (10**6).to_bytes(4, "little"),
        "string past the end": b"X\xff\xff\xff\x7f",
        "nested too deep": deep,
        "circle": b"]q\x00h\x00a",
        "reduce of a string": text("x") + tuple_of(integer(1)) + b"R",
        "no end": b"N",
        "mark missing": b"u",
    }


@pytest.mark.parametrize("name", _bad_pickles())
def test_damaged_pickles_end_in_a_sentence(tmp_path: Path, name: str) -> None:
    """Whatever a pickle claims, nothing outside the storages is read and nothing but UnreadableTensor is raised."""
    body = b"\x80\x02" + _bad_pickles()[name] + (b"" if name == "no end" else b".")
    write_archive(tmp_path / "x.pt", body, {"0": np.zeros(4, np.float32).tobytes()})

    with pytest.raises(UnreadableTensor, match=r"x\.pt"):
        read_pt(tmp_path / "x.pt")


def test_a_shared_container_does_not_unfold(tmp_path: Path) -> None:
    """Forty levels of a list that holds the one below twice are read in no time."""
    body = b"]q\x00" + b"".join(b"](h%ch%ce" % (k, k) + b"q" + bytes([k + 1]) for k in range(40))
    write_archive(tmp_path / "x.pt", b"\x80\x02" + body + b".", {})

    assert isinstance(read_pt(tmp_path / "x.pt"), list)


def test_truncated_and_foreign_files(tmp_path: Path) -> None:
    """A file cut short anywhere, an empty one, a missing one, a directory, text, and a compressed archive."""
    whole = tmp_path / "whole.pt"
    write_pt(whole, np.arange(64, dtype=np.float32))
    raw = whole.read_bytes()
    for length in range(0, len(raw), 37):
        (tmp_path / "cut.pt").write_bytes(raw[:length])
        with pytest.raises(UnreadableTensor, match=r"cut\.pt"):
            read_pt(tmp_path / "cut.pt")
    (tmp_path / "text.pt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
    for name in ("missing.pt", "text.pt", "packed.pt", "."):
        with pytest.raises(UnreadableTensor):
            read_pt(tmp_path / name)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any few bytes changed give a tree or a sentence."""
    path = tmp_path_factory.getbasetemp() / "flip.pt"
    write_pt(path, np.arange(8, dtype=np.int32), np.ones((2, 3), np.float16))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(UnreadableTensor):
        read_pt(path)


def test_big_endian_files(tmp_path: Path) -> None:
    """The byteorder member is obeyed."""
    body = b"\x80\x02" + rebuild("0", "FloatStorage", 3, (3,), (1,)) + b"."
    write_archive(tmp_path / "x.pt", body, {"0": np.array([1, 2, 3], ">f4").tobytes()}, byteorder=b"big")

    np.testing.assert_array_equal([1, 2, 3], tensor_in(tmp_path / "x.pt").data)


def test_big_endian_storages_without_a_tensor_are_refused(tmp_path: Path) -> None:
    """They would have to be copied, each as often as it is named."""
    body = tuple_of(text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), integer(3)) + b"Q."
    storages = {"0": np.array([1, 2, 3], "<f4").tobytes()}
    write_archive(tmp_path / "x.pt", b"\x80\x02" + body, storages, byteorder=b"little")
    np.testing.assert_array_equal([1, 2, 3], tensor_in(tmp_path / "x.pt").data)

    write_archive(tmp_path / "x.pt", b"\x80\x02" + body, storages, byteorder=b"big")
    with pytest.raises(UnreadableTensor, match="belong to no tensor"):
        read_pt(tmp_path / "x.pt")


def test_messages_carry_no_control_characters(tmp_path: Path) -> None:
    """A name from a file cannot speak to the terminal."""
    write_archive(tmp_path / "x.pt", b"\x80\x02cevil\x1b[31m\nname\n.", {})

    with pytest.raises(UnreadableTensor, match=r"\\x1b") as caught:
        read_pt(tmp_path / "x.pt")
    assert "\x1b" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from([name for name in DTYPES if DTYPES[name].code]),
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
)
def test_safetensors_round_trip(tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: tuple[int, ...]) -> None:
    """What is written is read again, whatever the dtype and shape."""
    path = tmp_path_factory.getbasetemp() / "x.safetensors"
    size = DTYPES[dtype].itemsize
    raw = np.arange(int(np.prod(shape)) * size, dtype=np.uint8) % 2
    one = Tensor.of(raw.view(DTYPES[dtype].storage).reshape(shape), dtype)
    write_safetensors(path, {"tensor": one, "other": Tensor.of(np.arange(3, dtype=np.uint8))}, {"made": "here"})
    found = read_safetensors(path)

    assert {"tensor", "other"} == set(found)
    assert (one.dtype, one.shape, one.digest()) == (
        found["tensor"].dtype,
        found["tensor"].shape,
        found["tensor"].digest(),
    )


def _header(record: object, data: bytes = b"") -> bytes:
    raw = json.dumps(record).encode() if not isinstance(record, bytes) else record
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff" * 8,
        _header(b"{"),
        _header([]),
        _header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 4),
        _header({"t": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        _header({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        _header({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        _header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8),
        _header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
        _header(b'{"t": 1, "t": 2}'),
        _header({"t": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}),
    ],
)
def test_bad_safetensors(tmp_path: Path, raw: bytes) -> None:
    """Each broken rule of the format gets a sentence."""
    (tmp_path / "x.safetensors").write_bytes(raw)

    with pytest.raises(UnreadableTensor, match=r"x\.safetensors"):
        read_safetensors(tmp_path / "x.safetensors")


def test_npy_files_in_several_threads(tmp_path: Path) -> None:
    """Python 3.11 parses no two headers at once: garbage that is collected meanwhile lets the next thread in."""
    np.save(tmp_path / "a.npy", np.arange(10))
    before = gc.get_threshold()
    gc.callbacks.append(_let_others_run)
    gc.freeze()  # what is there already would take seconds to look through
    gc.set_threshold(10)
    try:
        read = list(in_threads(lambda _: read_npy(tmp_path / "a.npy").shape, range(50), threads=4))
    finally:
        gc.callbacks.remove(_let_others_run)
        gc.set_threshold(*before)
        gc.unfreeze()

    assert {(10,)} == set(read)


def _let_others_run(*_: object) -> None:
    time.sleep(0)


def test_advice_stays_within_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that are given back are empty when they are no file's: an array may seem longer than what it shows."""
    (tmp_path / "a").write_bytes(bytes(10_000))
    raw = map_file(tmp_path / "a")
    given: list[tuple[int, int]] = []

    class Library:
        def madvise(self, first: Any, length: Any, _advice: int) -> None:
            given.append((first.value - mapped.address(raw), first.value + length.value - mapped.address(raw)))

    monkeypatch.setattr(mapped, "_libc", Library)
    mapped.give_back(raw, raw[5000:], np.broadcast_to(raw[5000:], (9, 5000)), raw[::-1])

    assert given == [(0, 10_000)] * 4


def test_digest_tells_dtype_shape_and_bytes_apart() -> None:
    """The digest is blake3 of a fixed header and the bytes, so other programs can compute it."""
    one = Tensor.of(np.arange(6, dtype=np.int32))
    header = b"harness.tensor.v1\0int32\x006\0"

    assert blake3(header + one.data.tobytes()).hexdigest() == one.digest()
    others = [one.data.reshape(2, 3), one.data.view(np.uint32), one.data + 1, one.data.reshape(6, 1)]
    assert len({one.digest(), *(Tensor.of(other).digest() for other in others)}) == 5
    assert Tensor.of(np.zeros((), np.float32)).digest() != Tensor.of(np.zeros(1, np.float32)).digest()


def test_a_big_file_is_hashed_in_little_memory(tmp_path: Path) -> None:
    """Pages that have been hashed are given back, so what is resident does not grow with the file."""
    with (tmp_path / "x").open("wb") as file:
        file.truncate(512 * 2**20)  # takes no space on the disk
    program = """
import sys
from pathlib import Path
from harness.tensors.dtypes import DTYPES
from harness.tensors.tensor import Tensor
from harness.files import map_file
from harness.tensors.mapped import view_bytes

def mib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) // 1024

raw = map_file(Path(sys.argv[1]))
tensor = Tensor("int32", (raw.size // 4,), view_bytes(raw, DTYPES["int32"], (raw.size // 4,)))
before = mib("VmRSS")
print(tensor.digest(), tensor.digest_and_nans()[0], mib("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    one, other, grown = done.stdout.split()

    assert one == other
    assert int(grown) < 192

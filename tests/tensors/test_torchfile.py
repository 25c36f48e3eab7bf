"""A `.pt` file is read as `torch.load` reads it, bit for bit, or it is not read: never as something else.

Each way of spoiling a file is put to a real torch too, and both verdicts are written down here. Where torch loads a
file that the harness refuses, the file leaves a choice (torch's own answer hangs on where it looks for an end record,
or on which of two members a heap sort leaves first), its pickle's checksum does not hold, or torch writes no such file.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from harness.artifacts.comparison import compare_sources
from harness.artifacts.directory import IndexDirectory
from harness.artifacts.ladder import all_digests, ladder
from harness.errors import UnreadableTensor
from harness.tensors import archive as archive_module
from harness.tensors import unpickle
from harness.tensors.tensor import Tensor
from harness.tensors.torchfile import read_pt
from tests.support.command import run
from tests.support.pt_files import Ending, Member, integer, rebuild, text, tuple_of, write_index, write_pt, zip_bytes
from tests.support.torch_oracle import LoadOracle

X, Y = np.arange(6, dtype=np.float32), np.arange(6, dtype=np.float32) + 100


def tensor(key: str = "0", storage: str = "FloatStorage", numel: int = 6, tail: bytes | None = None) -> bytes:
    """The opcodes of one tensor, with other arguments after the strides where `tail` is given."""
    made = rebuild(key, storage, numel, (numel,), (1,))
    return made if tail is None else made.removesuffix(b"\x89ccollections\nOrderedDict\n)RtR") + tail + b"tR"


PAIR = b"\x80\x02" + tuple_of(tensor("0"), tensor("1")) + b"."
HOOKS = b"ccollections\nOrderedDict\n)R"


def members(pickle: bytes = PAIR) -> dict[str, Member]:
    """What torch.save writes for two tensors; the name of each without its folder."""
    found = {
        "data.pkl": pickle,
        "byteorder": b"little",
        "data/0": X.tobytes(),
        "data/1": Y.tobytes(),
        "version": b"3\n",
    }
    return {name: Member(f"archive/{name}".encode(), content) for name, content in found.items()}


def archive(*more: Member, ending: Ending | None = None, pickle: bytes = PAIR, **changes: Any) -> bytes:
    """That as a file: with further members, changed ones (`name=dict(...)`; None to leave one out), another end."""
    found = members(pickle)
    for name, change in changes.items():
        place = name.replace("data_", "data/").replace("data/pkl", "data.pkl")
        if change is None:
            del found[place]
        else:
            found[place] = replace(found[place], **change)
    return zip_bytes([*found.values(), *more], ending)


def of(pickle: bytes) -> bytes:
    """A file with another pickle, its checksum right."""
    return archive(pickle=b"\x80\x02" + pickle + b".")


def other(size: int = 6) -> bytes:
    """Another file: of the same length, or not."""
    content = {"content": bytes(4 * size)}
    return archive(data_0=content, data_1=content)


def member(name: str, content: bytes, **claims: Any) -> Member:
    return Member(f"archive/{name}".encode(), content, **claims)


def compressed(content: bytes) -> dict[str, Any]:
    packer = zlib.compressobj(wbits=-15)
    return {"stored": packer.compress(content) + packer.flush(), "method": 8}


def tar() -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return raw.getvalue()


def from_type(state: bytes, name: bytes = b"ctorch\nTensor\n") -> bytes:
    """A tensor with attributes, as torch writes it."""
    call = tensor().removesuffix(b"R")
    function, _, arguments = call.partition(b"_rebuild_tensor_v2\n")
    function += b"_rebuild_tensor_v2\n"
    return b"ctorch._tensor\n_rebuild_from_type_v2\n" + tuple_of(function, name, arguments, state) + b"R"


def attributes(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


WIDE: dict[str, Any] = {"size": 2**32 - 1, "packed": 2**32 - 1}
SIZES = b"\x01\0\x10\0" + (b"\x18" + bytes(7)) * 2
NAMELESS = zip_bytes([replace(one, name=one.name[7:]) for one in members().values()])
WHOLE = archive()
CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    # What torch writes, or wrote.
    "as saved": (lambda: WHOLE, "both"),
    "without zip64": (lambda: archive(ending=Ending(zip64=False)), "both"),
    "without byteorder": (lambda: archive(byteorder=None), "both"),
    "padding in the headers": (lambda: archive(data_0={"local_extra": b"FB\x04\x00ZZZZ"}), "both"),
    "checksums not kept": (lambda: archive(data_0={"crc": 0}, data_pkl={"crc": 0}), "both"),
    "a serialization id": (lambda: archive(member(".data/serialization_id", b"1" * 40)), "both"),
    "an alignment": (lambda: archive(member(".storage_alignment", b"64"), member(".format_version", b"1")), "both"),
    "sizes in 64 bits": (lambda: archive(data_0=WIDE | {"extra": SIZES}), "both"),
    "another extra field first": (lambda: archive(data_0=WIDE | {"extra": b"UT\x01\0x" + SIZES}), "both"),
    "an extra field too short": (lambda: archive(data_0=WIDE | {"extra": SIZES[:12]}), ""),
    "no extra field": (lambda: archive(data_0=WIDE), ""),
    "big-endian": (lambda: archive(byteorder={"content": b"big"}), "both"),
    # Bytes before, after and instead.
    "two saves in one file": (lambda: WHOLE + other(), "torch"),
    "two saves, the second longer": (lambda: WHOLE + other(7), ""),
    "three saves": (lambda: WHOLE + other() + WHOLE, "torch"),
    "a header": (lambda: b"header" + WHOLE, ""),
    "a header like a zip's": (lambda: b"PKheader" + WHOLE, ""),
    "a header that is a member's signature": (lambda: b"PK\x03\x04" + WHOLE, ""),
    "a byte at the end": (lambda: WHOLE + b"\n", "torch"),
    "a page at the end of a small file": (lambda: WHOLE + bytes(4096), ""),
    "a page at the end of a bigger file": (lambda: other(3000) + bytes(4096), "torch"),
    "too much at the end": (lambda: WHOLE + bytes(80_000), ""),
    "a comment": (lambda: archive(ending=Ending(comment=b"made by us")), "torch"),
    "a comment that is an end record": (lambda: archive(ending=Ending(comment=WHOLE[-22:])), "torch"),
    # The old directory still holds, so this is what torch reads; the checksums show it where it differs.
    "written over a longer file": (lambda: WHOLE + other(600)[len(WHOLE) :], "both"),
    "cut short": (lambda: WHOLE[:-1], ""),
    "cut in the directory": (lambda: WHOLE[:-200], ""),
    "an old format, then a new one": (lambda: archive_module._LEGACY_MAGIC + WHOLE, ""),
    "a tar file": (tar, ""),
    "no bytes": (lambda: b"", ""),
    # The directory and its end.
    "members hidden": (lambda: archive(ending=Ending(count=4)), ""),
    "the last member hidden": (lambda: archive(member("more", b""), ending=Ending(count=5)), "torch"),
    "members invented": (lambda: archive(ending=Ending(count=6)), ""),
    "counts that disagree": (lambda: archive(ending=Ending(here=4)), ""),
    "a directory elsewhere": (lambda: archive(ending=Ending(begin=0)), ""),
    "the small end record lies": (lambda: archive(ending=Ending(small=(1, 1, 1))), "both"),
    "the locator lies": (lambda: archive(ending=Ending(locator=0)), "torch"),
    "the locator lies, and so does the small record": (lambda: archive(ending=Ending(locator=0, small=(1, 1, 1))), ""),
    "two disks": (lambda: archive(ending=Ending(disks=2)), ""),
    "the second disk": (lambda: archive(ending=Ending(disk=1)), ""),
    "a longer end record": (lambda: archive(ending=Ending(length=60)), "torch"),
    "a shorter end record": (lambda: archive(ending=Ending(length=4)), ""),
    # Members.
    "twice the same member": (lambda: archive(member("data/0", Y.tobytes())), "torch"),
    "names that differ in case": (lambda: archive(member("DATA/0", Y.tobytes())), "torch"),
    "a name in capitals": (lambda: archive(data_0={"name": b"archive/DATA/0"}), "both"),
    "a name with a zero byte": (lambda: archive(data_0={"name": b"archive/data/0\0x"}), ""),
    "a further member with a zero byte": (lambda: archive(member("data/0\0x", b"")), "torch"),
    "a storage left out": (lambda: archive(data_1=None), ""),
    "compressed": (lambda: archive(data_0=compressed(X.tobytes())), "torch"),
    "compressed pickle": (lambda: archive(data_pkl=compressed(PAIR)), "torch"),
    "encrypted": (lambda: archive(data_0={"flags": 1}), ""),
    "strongly encrypted": (lambda: archive(data_0={"flags": 64}), ""),
    "a patch": (lambda: archive(data_0={"flags": 32}), ""),
    "an unknown method": (lambda: archive(data_0={"method": 99}), ""),
    "a size too great": (lambda: archive(version={"size": 2**31, "packed": 2**31}), ""),
    "a size that reaches into the next": (lambda: archive(data_0={"size": 60, "packed": 60}), "both"),
    "sizes that disagree": (lambda: archive(data_0={"size": 28}), ""),
    "a size too small": (lambda: archive(data_0={"size": 20, "packed": 20}), "torch"),
    "another disk": (lambda: archive(data_0={"disk": 3}), ""),
    "marked as a folder": (lambda: archive(data_0={"attributes": 16}), "torch"),
    "a record marked as a folder": (lambda: archive(byteorder={"attributes": 16}), ""),
    "folders": (lambda: archive(member("data/", b"", attributes=16)), "both"),
    "the place of another member": (lambda: archive(data_0={"offset": members_end("data/0")}), "torch"),
    "a place that is none": (lambda: archive(data_0={"offset": 5}), ""),
    "a header without signature": (lambda: archive(data_0={"local_signature": b"PK\x03\x05"}), ""),
    "a header that names another": (lambda: archive(data_0={"local_name": b"archive/data/1"}), "torch"),
    "a header with a longer name": (lambda: archive(data_0={"local_name": b"archive/data/00"}), "torch"),
    "a header with more padding": (lambda: archive(data_0={"local_padding": 4}), "both"),
    "a header with another size": (lambda: archive(data_0={"local_size": 3}), "both"),
    "a flipped bit": (lambda: archive(data_0={"stored": bytes([64]) + X.tobytes()[1:]}), "both"),
    "a flipped bit of the pickle": (lambda: archive(data_pkl={"stored": PAIR.replace(b"cpu", b"cpv")}), "torch"),
    # Records about the archive.
    "in no folder": (lambda: zip_bytes([replace(m, name=m.name[8:]) for m in members().values()]), ""),
    "in a folder without a name": (lambda: NAMELESS, "both"),
    "a name that is no UTF-8": (lambda: archive(Member(b"archive/\xff", b"")), ""),
    "a serialization id that is no text": (lambda: archive(member(".data/serialization_id", b"\xff" * 40)), ""),
    "an alignment that is no number": (lambda: archive(member(".storage_alignment", b"x")), ""),
    "in two folders": (lambda: archive(Member(b"more/data/0", Y.tobytes())), ""),
    "no version": (lambda: archive(version=None), ""),
    "a version to come": (lambda: archive(version={"content": b"11\n"}), ""),
    "version 0": (lambda: archive(version={"content": b"0\n"}), ""),
    "a version that is no number": (lambda: archive(version={"content": b"x"}), ""),
    "a version as elsewhere": (lambda: archive(member(".data/version", b"4"), version=None), "both"),
    "the other version counts": (lambda: archive(member(".data/version", b"99")), ""),
    "TorchScript": (lambda: archive(member("constants.pkl", b"\x80\x02).")), ""),
    "an unknown byte order": (lambda: archive(byteorder={"content": b"middle"}), ""),
    "a byte order with a line end": (lambda: archive(byteorder={"content": b"little\n"}), ""),
    # Pickles.
    "one storage under two dtypes": (lambda: of(tuple_of(tensor(), tensor("0", "IntStorage"))), "torch"),
    "one storage of two sizes": (lambda: of(tuple_of(tensor(numel=2), tensor())), ""),
    "one storage of two sizes, the greater first": (lambda: of(tuple_of(tensor(), tensor(numel=2))), "torch"),
    "an integer that takes gradients": (lambda: of(tensor("0", "IntStorage", tail=b"\x88" + HOOKS)), ""),
    "gradients that are no boolean": (lambda: of(tensor(tail=b"N" + HOOKS)), ""),
    "a flag that is not set": (lambda: of(tensor(tail=b"\x89" + HOOKS + attributes(neg=b"\x89"))), "torch"),
    "a flag": (lambda: of(tensor(tail=b"\x89" + HOOKS + attributes(neg=b"\x88"))), "both"),
    "a class where a value is expected": (lambda: of(b"ctorch\nTensor\n"), "torch"),
    "one argument more": (lambda: of(tensor(tail=b"\x89" + HOOKS + b"}N")), ""),
    "a storage with one more word": (lambda: of(tensor().replace(b"tQ", b"NtQ")), ""),
    "an attribute": (lambda: of(from_type(attributes(trained_by=text("faiss")))), "both"),
    "an attribute in slots": (lambda: of(from_type(tuple_of(b"N", attributes(trained_by=b"N")))), "both"),
    "an attribute that is the tensor": (lambda: of(from_type(attributes(data=tensor("1")))), "torch"),
    "an attribute that torch keeps": (lambda: of(from_type(attributes(shape=b"N"))), ""),
    "a subclass": (lambda: of(from_type(b"N", b"c__main__\nTensor\n")), ""),
    "a mark that hides what is below": (lambda: of(b"K\x01(\x85"), ""),
    "an attribute of nothing": (lambda: of(from_type(b"N").replace(b"_tensor_v2", b"_tensor_v9")), ""),
}  # fmt: skip


def members_end(name: str) -> int:
    """Where the member after `name` begins."""
    found = list(members().values())
    return len(zip_bytes(found[: list(members()).index(name) + 1])) - len(zip_bytes([])) - sum(
        46 + len(one.name) for one in found[: list(members()).index(name) + 1]
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_the_harness_makes_of_a_spoiled_file(tmp_path: Path, name: str) -> None:
    """It reads the file where that is written above, and else says why not."""
    make, verdict = CASES[name]
    (tmp_path / "x.pt").write_bytes(make())
    if verdict == "both":
        read_pt(tmp_path / "x.pt")
        return
    with pytest.raises(UnreadableTensor, match=r"x\.pt"):
        read_pt(tmp_path / "x.pt")


@pytest.fixture(scope="module")
def oracle(torch_interpreter: Path) -> Iterator[LoadOracle]:
    found = LoadOracle(torch_interpreter)
    yield found
    found.close()


@pytest.mark.parametrize("name", CASES)
def test_what_torch_makes_of_a_spoiled_file(tmp_path: Path, oracle: LoadOracle, name: str) -> None:
    """The harness gives the same tensors or none; torch loads the file where that is written above."""
    make, verdict = CASES[name]
    (tmp_path / "x.pt").write_bytes(make())

    assert (verdict in ("both", "torch"), verdict == "both") == oracle.holds(tmp_path / "x.pt")


_SAVE = r"""
import sys, torch
x = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
attributed = x.clone()
attributed.trained_by = "faiss"
parameter = torch.nn.Parameter(x.clone())
parameter.note = 1
values = [x, x.half() + 1, (x.int(), x.long().t()), {"a": x.bfloat16(), "b": [x > 2, x[1:, 2], 1.5, None]}, attributed,
          parameter, torch.imag(torch.complex(x, x).conj()), torch.complex(x, x).conj(), x.untyped_storage(),
          torch.nn.Linear(2, 2).state_dict(), torch.zeros(0, 3), x.to(torch.float8_e5m2)]
for number, value in enumerate(values):
    torch.save(value, f"{sys.argv[1]}/{number}.pt")
with open(f"{sys.argv[1]}/buffer.pt", "wb") as file:
    torch.save(x, file)
torch.save(x, f"{sys.argv[1]}/legacy.pt", _use_new_zipfile_serialization=False)
torch.save(x, f"{sys.argv[1]}/protocol.pt", pickle_protocol=4)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, torch_interpreter: Path) -> list[bytes]:
    """Files that a real torch wrote."""
    folder = tmp_path_factory.mktemp("saved")
    subprocess.run([str(torch_interpreter), "-W", "ignore", "-c", _SAVE, str(folder)], check=True)
    return [path.read_bytes() for path in sorted(folder.glob("*.pt"))]


def test_every_file_that_torch_writes_is_read_as_torch_reads_it(
    tmp_path: Path, oracle: LoadOracle, saved: list[bytes]
) -> None:
    """All but the format of before 1.6."""
    for raw in saved:
        (tmp_path / "x.pt").write_bytes(raw)
        assert oracle.holds(tmp_path / "x.pt") == (True, raw.startswith(b"PK"))


NUMBERS = st.one_of(
    st.integers(0, 200), st.integers(0, 2**64 - 1), st.sampled_from([2**16 - 1, 2**32 - 1, 2**31, 2**63, 2**64 - 1])
)


def damaged(data: st.DataObject, raw: bytes, others: list[bytes]) -> bytes:
    """A file with a few things done to it that happen to files, most of them where its records are."""
    made = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        records = st.integers(0, min(500, len(made))) | st.integers(max(len(made) - 600, 0), len(made))
        at = data.draw(records | st.integers(0, len(made)))
        match data.draw(st.sampled_from(["flip", "flip", "number", "number", "cut", "drop", "put", "again", "more"])):
            case "flip" if at < len(made):
                made[at] ^= 1 << data.draw(st.integers(0, 7))
            case "number":
                width = data.draw(st.sampled_from([1, 2, 4, 8]))
                made[at : at + width] = (data.draw(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
            case "cut":
                del made[at:]
            case "drop":
                del made[at : at + data.draw(st.integers(1, 70))]
            case "put":
                made[at:at] = data.draw(st.binary(max_size=70) | st.just(b"PK\x03\x04") | st.just(raw[-22:]))
            case "again":
                made[at:at] = made[at : at + data.draw(st.integers(1, 200))]
            case _:
                more = data.draw(st.sampled_from(others))
                where = data.draw(st.sampled_from([0, len(made), at]))
                made[where:where] = more[data.draw(st.sampled_from([0, where % (len(more) + 1)])) :]
    return bytes(made)


@settings(max_examples=300)
@given(data=st.data())
def test_of_a_damaged_file_the_harness_reads_what_torch_reads_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, oracle: LoadOracle, saved: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(damaged(data, data.draw(st.sampled_from([*saved, WHOLE])), saved))

    oracle.holds(path)


PARTS = [tensor(), tensor("1"), integer(3), text("x"), HOOKS, from_type(attributes(a=b"N"))]
PARTS += [tensor(tail=b"\x88" + HOOKS + b"}"), tensor(tail=b"\x89" + HOOKS + attributes(neg=b"\x88"))]


@settings(max_examples=300)
@given(data=st.data())
def test_of_a_changed_pickle_the_harness_reads_what_torch_reads_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, oracle: LoadOracle, data: st.DataObject
) -> None:
    """With its checksum made right, or it would be refused for that."""
    path = tmp_path_factory.getbasetemp() / "pickle.pt"
    pickle = b"\x80\x02" + tuple_of(*data.draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3))) + b"."
    path.write_bytes(archive(pickle=damaged(data, pickle, PARTS)))

    oracle.holds(path)


CLAIMS: dict[str, st.SearchStrategy[Any]] = {
    "flags": st.integers(0, 2**16 - 1), "method": st.sampled_from([0, 8, 99]), "crc": st.integers(0, 2**32 - 1),
    "size": st.integers(0, 80), "packed": st.integers(0, 80), "disk": st.integers(0, 2),
    "attributes": st.integers(0, 2**32 - 1), "offset": st.integers(0, 400), "local_padding": st.integers(0, 80),
    "local_size": st.integers(0, 80), "local_extra": st.binary(max_size=40), "extra": st.binary(max_size=20),
    "name": st.sampled_from([b"archive/data/0", b"archive/DATA/1", b"archive/version", b"archive/", b"x", b"more/x"]),
    "local_name": st.sampled_from([b"archive/data/0", b"archive/DATA/1", b"", b"archive/data/0x"]),
    "content": st.sampled_from([b"big", b"3", b" 4", b"", X.tobytes(), b"little"]),
}  # fmt: skip
ENDINGS: dict[str, st.SearchStrategy[Any]] = {
    "zip64": st.booleans(), "count": st.integers(0, 8), "here": st.integers(0, 8), "size": st.integers(0, 600),
    "begin": st.integers(0, 900), "small": st.tuples(*[st.integers(0, 900)] * 3), "disk": st.integers(0, 1),
    "disks": st.integers(0, 2), "locator": st.integers(0, 1200), "length": st.sampled_from([0, 43, 44, 45, 2**40]),
    "comment": st.binary(max_size=30), "comment_length": st.integers(0, 40),
}  # fmt: skip


def lying(data: st.DataObject) -> bytes:
    """An archive of which up to four records say something else than is there."""
    found = [*members().values(), member("more", b"1")]
    for _ in range(data.draw(st.integers(0, 2))):
        at, claim = data.draw(st.integers(0, len(found) - 1)), data.draw(st.sampled_from(sorted(CLAIMS)))
        change: dict[str, Any] = {claim: data.draw(CLAIMS[claim])}
        found[at] = replace(found[at], **change)
    ending = Ending()
    for claim in data.draw(st.lists(st.sampled_from(sorted(ENDINGS)), max_size=2)):
        change = {claim: data.draw(ENDINGS[claim])}
        ending = replace(ending, **change)
    return zip_bytes(data.draw(st.permutations(found)) if data.draw(st.booleans()) else found, ending)


@settings(max_examples=300)
@given(data=st.data())
def test_of_an_archive_that_lies_the_harness_reads_what_torch_reads_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, oracle: LoadOracle, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "lies.pt"
    path.write_bytes(lying(data))

    oracle.holds(path)


_OWN = """
import inspect, json, torch
kinds = (torch.Tensor, torch.nn.Parameter)
names = {name for kind in kinds for name in dir(kind) if hasattr(type(inspect.getattr_static(kind, name)), "__set__")}
print(json.dumps(sorted(names)))
"""


def test_the_attributes_that_torch_keeps_for_itself_are_known(torch_interpreter: Path) -> None:
    """Setting any other changes no number of a tensor."""
    done = subprocess.run([str(torch_interpreter), "-c", _OWN], capture_output=True, text=True, check=True)

    assert {name for name in json.loads(done.stdout) if not name.startswith("__")} <= unpickle._OWN_ATTRIBUTES


# ---- damage is no divergence ----------------------------------------------------------------------------------------


def flip(path: Path, content: bytes) -> None:
    """Change one bit of `content`, which is in the file, as a disk or a network may."""
    raw = path.read_bytes()
    at = raw.index(content) + len(content) // 2
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])


@pytest.mark.parametrize("crc32", [isal_zlib.crc32, zlib.crc32], ids=["isal", "zlib"])
def test_a_flipped_bit_is_damage_and_no_divergence(
    crc32: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch loads such a file as if nothing were; the file's own checksum shows it, and the ladder goes by that too."""
    monkeypatch.setattr("harness.tensors.archive.crc32", crc32)
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        arrays = write_index(folder, chunks=1)
    flip(folders[1] / "centroids.pt", arrays["centroids"].tobytes())
    code, out, _ = run(capsys, "compare", *folders[:2], "--json")
    found = {one["name"]: one for one in json.loads(out)["artifacts"]}

    assert code == 2
    assert found["centroids"]["status"] == "unreadable"
    assert "B: " in found["centroids"]["reason"]
    assert "two/centroids.pt is damaged" in found["centroids"]["reason"]
    assert "'archive/data/0'" in found["centroids"]["reason"]
    assert "copy the file again" in found["centroids"]["reason"]
    assert {"origin", "inherited"}.isdisjoint(one["change"] for one in found.values())
    code, out, _ = run(capsys, "ladder", *folders, "--json")
    steps = json.loads(out)

    assert code == 2
    assert [["one", "three"], ["two"]] == steps["classes"]["centroids"]
    assert [[], []] == [step["changed"] for step in steps["steps"]]
    assert [] == steps["changes"]
    assert len(steps["unreadable"]) == 1
    assert run(capsys, "ladder", *folders)[1].startswith(
        "All 3 items have the same tensors, as far as they can be read. 1 file could not be read, and may have changed."
    )


def test_both_sides_damaged_alike_are_equal_and_not_asked(tmp_path: Path) -> None:
    """What is equal needs no proof: a checksum is computed only where a tensor differs."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        arrays = write_index(folder, chunks=1)
        flip(folder / "centroids.pt", arrays["centroids"].tobytes())
    found = compare_sources(IndexDirectory(folders[0]), IndexDirectory(folders[1]))

    assert {one.name for one in found.artifacts if not one.bit_equal} <= {"metadata"}


def test_a_real_change_is_a_divergence_whatever_a_checksum_costs(tmp_path: Path) -> None:
    """Checksums that hold, or that were not kept, are no damage; a change is not lost across what cannot be read."""
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        arrays = write_index(folder, chunks=1)
    flip(folders[1] / "centroids.pt", arrays["centroids"].tobytes())
    write_pt(folders[2] / "centroids.pt", arrays["centroids"] * 2)
    kept = replace(members()["data/0"], content=np.float32(7).tobytes(), crc=0)
    pickle = b"\x80\x02" + rebuild("0", "FloatStorage", 1, (), ()) + b"."
    (folders[2] / "avg_residual.pt").write_bytes(archive(pickle=pickle, data_0=vars(kept)))
    found = compare_sources(IndexDirectory(folders[0]), IndexDirectory(folders[2]))

    assert {"centroids", "avg_residual"} <= {one.name for one in found.divergent}
    sources = [IndexDirectory(folder) for folder in folders]
    digests = all_digests(sources)
    steps = ladder([(source.name, one) for source, (one, _) in zip(sources, digests, strict=True)]).steps
    assert [(), ("centroids", "avg_residual")] == [step.changed for step in steps]


# ---- files that were not downloaded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["compare", "ladder"])
def test_a_pointer_of_git_lfs_is_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A clone without git-lfs has a text of three lines in place of each big file, JSON too."""
    for name in ("one", "two"):
        write_index(tmp_path / name, chunks=1)
    for name in ("centroids.pt", "doclens.0.json", "metadata.json"):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 600\n"
        (tmp_path / "two" / name).write_text(pointer)
    code, out, _ = run(capsys, command, tmp_path / "one", tmp_path / "two")

    assert code == 2
    assert out.count("`git lfs pull`") == 3
    assert "no zip archive" not in out


@pytest.mark.parametrize("command", ["compare", "ladder"])
def test_a_link_of_a_cache_into_nowhere_is_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A hub's cache links to blobs; one that was not downloaded, or was cleaned away, is not a file that is missing."""
    for name in ("one", "two"):
        write_index(tmp_path / name, chunks=1)
    gone = ("centroids.pt", "ivf.pid.pt", "0.codes.pt", "doclens.0.json", "metadata.json")
    for name in gone:
        (tmp_path / "two" / name).unlink()
        (tmp_path / "two" / name).symlink_to(f"../../blobs/{name}")
    code, out, _ = run(capsys, command, tmp_path / "one", tmp_path / "two")

    assert code == 2
    for name in gone:
        assert f"{name} is a link to ../../blobs/{name}, which is not there" in " ".join(out.split())
    assert "download it again" in " ".join(out.split())


def test_an_index_of_links_into_nowhere_is_an_index(tmp_path: Path) -> None:
    """It is said what each of its files lacks, rather than that it is no index."""
    (tmp_path / "centroids.pt").symlink_to("../blobs/x")

    assert IndexDirectory(tmp_path).names() == ("centroids",)


# ---- tensors with attributes ----------------------------------------------------------------------------------------


def test_a_tensor_with_an_attribute_and_a_parameter_are_read(tmp_path: Path) -> None:
    """An attribute that somebody set on a dense tensor says nothing about its numbers."""
    hooked = tensor() + b"\x88" + HOOKS
    pickles = {
        "attribute": from_type(attributes(trained_by=text("faiss"))),
        "slots": from_type(tuple_of(attributes(a=b"N"), attributes(b=b"N"))),
        "parameter": b"ctorch._utils\n_rebuild_parameter\n" + tuple_of(hooked) + b"R",
        "both": b"ctorch._utils\n_rebuild_parameter_with_state\n" + tuple_of(hooked, attributes(a=b"N")) + b"R",
    }
    for name, pickle in pickles.items():
        (tmp_path / f"{name}.pt").write_bytes(of(pickle))
        found = read_pt(tmp_path / f"{name}.pt")
        assert isinstance(found, Tensor)
        np.testing.assert_array_equal(X, found.data)

"""Fuzzing of everything that reads a file: whatever the bytes, the answer is a value or one of the harness's sentences.

`python -m tests.fuzz [--minutes M] [--seed N] [READER …]` runs so long, prints what it tried, and ends with status 1 at
the first crash, whose smallest example it prints. Anything but a `HarnessError` is a crash, and so are an answer that
takes ten seconds and memory beyond two gigabytes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st

from harness.artifacts.comparison import compare_sources
from harness.artifacts.directory import IndexDirectory
from harness.environments.lockfile import read_lock
from harness.environments.supervise import Ended
from harness.errors import HarnessError
from harness.files import dumps
from harness.flock import owner
from harness.inputs.checkpoint import load_checkpoint_local
from harness.inputs.collection import load_local
from harness.inputs.hub import split_patterns
from harness.inputs.matrix_file import parse_matrix
from harness.report.comparison_text import text
from harness.report.tables import cell_rows, write_tables
from harness.running.choice import describe
from harness.running.runner import conclude
from harness.store.cell import Artifact
from harness.store.store import Store, says_less, tell_apart
from harness.store.stored import StoredCell
from harness.tensors.safetensors import read_safetensors, write_safetensors
from harness.tensors.tensor import Tensor
from harness.tensors.torchfile import read_pt
from tests.support.cell_specs import cell, spec
from tests.support.checkpoints import write_checkpoint
from tests.support.pt_files import integer, rebuild, tuple_of, write_archive, write_index, write_pt
from tests.support.pt_files import text as pickled_text

ROOT = Path(__file__).parent.parent
SECONDS_FOR_ONE = 10
MEMORY = 2 * 2**30

# ---- what is drawn -------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -1]),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "",
            "\x1b[2J",
            "[red]x[/]",
            "../../x",
            "/etc/passwd",
            "\ud800",
            "\0",
            "\n",
            "NaN",
            "1e999",
            "float16",
            "a" * 5000,
        ]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def places(tree: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, its own root first."""
    yield at
    for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(inner, (*at, key))


def changed(data: st.DataObject, tree: Any) -> Any:
    """A JSON value with some of its places replaced, removed or added to."""
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(list(places(tree))))
        if not place:
            if data.draw(st.integers(0, 20)) == 0:
                tree = data.draw(JSON)
            continue
        parent = tree
        for key in place[:-1]:
            parent = parent[key]
        match data.draw(st.integers(0, 4)):
            case 0:
                del parent[place[-1]]
            case 1 if isinstance(parent, dict):
                parent[data.draw(TEXTS)] = parent.pop(place[-1])
            case _:
                parent[place[-1]] = data.draw(JSON)
    return tree


def as_json(value: object) -> bytes:
    """JSON bytes; lone surrogates and NaN included, as Python's parser takes them."""
    return json.dumps(value).encode()


def mutated(data: st.DataObject, raw: bytes) -> bytes:
    """Bytes with a few of them changed, cut, repeated, removed or put in."""
    made = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(made)))
        match data.draw(st.integers(0, 6)):
            case 0:
                del made[at:]
            case 1:
                del made[at : at + data.draw(st.integers(1, 40))]
            case 2:
                made[at:at] = data.draw(st.binary(max_size=12))
            case 3:
                made[at:at] = made[at : at + data.draw(st.integers(1, 60))]
            case 4:
                width, number = data.draw(st.sampled_from([1, 2, 4, 8])), data.draw(NUMBERS)
                made[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
            case _:
                if at < len(made):
                    made[at] = data.draw(st.integers(0, 255))
    return bytes(made)


SIZES = st.lists(st.one_of(st.integers(0, 5), NUMBERS), max_size=3).map(tuple)
LEAVES = st.one_of(
    st.builds(
        rebuild,
        st.sampled_from(["0", "1", "../0", ""]),
        st.sampled_from(["FloatStorage", "HalfStorage", "BoolStorage", "LongStorage", "NoStorage", "UntypedStorage"]),
        st.integers(-1, 20),
        st.lists(st.integers(-1, 2**40), max_size=3).map(tuple),
        st.lists(st.integers(-1, 2**40), max_size=3).map(tuple),
        st.integers(-1, 20),
    ),
    st.integers(-(2**63), 2**63 - 1).map(integer),
    st.text(max_size=5).map(pickled_text),
    st.sampled_from([b"N", b"]", b"}", b")", b"\x88", b"K\x05", b"q\x00", b"h\x00", b"(", b"0", b"Q", b"R", b"b", b"s",
                     b"u", b"e", b"a", b"t", b"\x85", b"\x86", b"\x87", b"\x94", b"\x93", b"ctorch\nSize\n",
                     b"ccollections\nOrderedDict\n", b"ctorch\nfloat16\n", b"cbuiltins\neval\n", b"."]),
    st.binary(max_size=3),
)  # fmt: skip


# ---- readers -------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Something that reads a file; `read` draws one, writes it and reads it.

    Attributes:
        name: for the table.
        read: given a folder of its own and Hypothesis' data.
        tried: examples so far.
        refused: those that ended in a sentence.
    """

    name: str
    read: Callable[[Path, st.DataObject], None]
    tried: int = 0
    refused: int = 0


def _pt(folder: Path, data: st.DataObject) -> None:
    path = folder / "x.pt"
    if data.draw(st.booleans()):
        write_pt(
            path,
            np.arange(6, dtype=np.float32).reshape(2, 3),
            Tensor.of(np.ones(4, np.uint16).astype("<u2"), "bfloat16"),
        )
        path.write_bytes(mutated(data, path.read_bytes()))
    elif data.draw(st.booleans()):
        # Another pickle, whose checksum holds.
        pickle = b"\x80\x02" + tuple_of(
            rebuild("0", "FloatStorage", 6, (2, 3), (3, 1)), rebuild("1", "ByteStorage", 7, (7,), (1,))
        )
        write_archive(path, mutated(data, pickle + b"."), {"0": bytes(64), "1": b"x" * 7})
    else:
        parts = data.draw(st.lists(LEAVES, max_size=8))
        body = b"".join(parts) if data.draw(st.booleans()) else tuple_of(*parts)
        order = {"byteorder": data.draw(st.sampled_from([b"little", b"big", b"x"]))} if data.draw(st.booleans()) else {}
        with contextlib.suppress(UserWarning):
            write_archive(path, b"\x80\x02" + body + b".", {"0": bytes(64), "1": b"x" * 7}, **order)
    _use(read_pt(path))


def _legacy_pt(folder: Path, data: st.DataObject) -> None:
    path = folder / "x.pt"
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    path.write_bytes(mutated(data, magic + rebuild("0", "FloatStorage", 2, (2,), (1,)) + bytes(8)))
    _use(read_pt(path))


def _use(found: object) -> None:
    for one in found if isinstance(found, (list, tuple)) else [found]:
        if isinstance(one, Tensor):
            one.digest()


def _safetensors(folder: Path, data: st.DataObject) -> None:
    path = folder / "x.safetensors"
    if data.draw(st.booleans()):
        write_safetensors(path, {"tensor": Tensor.of(np.arange(6, dtype=np.int16)), "b": Tensor.of(np.ones(()))})
        path.write_bytes(mutated(data, path.read_bytes()))
    else:
        header = {"t": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"a": "b"}}
        made = as_json(changed(data, header))
        path.write_bytes(len(made).to_bytes(8, "little") + made + bytes(24))
    for one in read_safetensors(path).values():
        one.digest()


MATRIX = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
YAML_PARTS = [
    "&a ", "*a", "<<: *a", "!!int ", "!!python/name:os.system ", "? ", "- ", ": ", "{", "}", "[", "]", "|", ">", "'",
    '"', "\t", "---\n", "...\n", "%YAML 1.1\n", "!!binary ", "!!set ", "!!timestamp ", "!<tag> ", "0x", ".inf", "~",
    "2001-99-99", "\u2028", "\ufeff",
]  # fmt: skip


def _matrix(_folder: Path, data: st.DataObject) -> None:
    import yaml

    match data.draw(st.integers(0, 2)):
        case 0:
            made = mutated(data, MATRIX.encode()).decode("utf-8", "replace")
        case 1:
            lines = MATRIX.splitlines(keepends=True)
            for _ in range(data.draw(st.integers(1, 4))):
                at = data.draw(st.integers(0, len(lines) - 1))
                column = data.draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:column] + data.draw(st.sampled_from(YAML_PARTS)) + lines[at][column:]
            made = "".join(lines)
        case _:
            made = json.dumps(changed(data, json.loads(json.dumps(yaml.safe_load(MATRIX), default=str))))
    parse_matrix(made)


@dataclass
class _Indexes:
    """Two indexes; the first is changed by one file at a time."""

    folder: Path
    original: dict[str, bytes] = field(default_factory=dict)

    def make(self) -> None:
        for name in ("a", "b"):
            write_index(self.folder / name, seed=ord(name), chunks=1, passages=4, dim=8, k=4)
        self.original = {path.name: path.read_bytes() for path in sorted((self.folder / "a").iterdir())}


def _index(folder: Path, data: st.DataObject) -> None:
    indexes = _Indexes(folder)
    if not (folder / "a").exists():
        indexes.make()
    else:
        indexes.original = {p.name: p.read_bytes() for p in sorted((folder / "kept").iterdir())}
    if not (folder / "kept").exists():
        shutil.copytree(folder / "a", folder / "kept")
    name = data.draw(st.sampled_from(sorted(indexes.original)))
    raw = indexes.original[name]
    if name.endswith(".json") and data.draw(st.booleans()):
        raw = as_json(changed(data, json.loads(raw)))
    elif data.draw(st.booleans()) and name.endswith(".pt"):
        # Another tensor than the one that belongs there.
        other = data.draw(st.sampled_from([n for n in sorted(indexes.original) if n.endswith(".pt")]))
        raw = indexes.original[other]
    else:
        raw = mutated(data, raw)
    path = folder / "a" / name
    path.write_bytes(raw)
    try:
        comparison = compare_sources(IndexDirectory(folder / "a"), IndexDirectory(folder / "b"))
        shown = text(comparison)
        assert all(letter == "\n" or letter.isprintable() for letter in shown), "control codes"
        json.loads(dumps(comparison.to_json()))
    finally:
        path.write_bytes(indexes.original[name])


def _record(folder: Path, data: st.DataObject) -> None:
    store = Store(folder / "store")
    made = cell(artifacts={"centroids": Artifact("d1" * 32, "float16", (4, 8), "final", stored=True)},
                details={"provenance": {"torch": "2.8.0", "cpu": {"model_name": "x"}, "gpu": {}}, "wall_seconds": 1.5,
                         "observed": {"attention_class": "x"}, "peak_memory": {"host_bytes": 3}})  # fmt: skip
    if not (store.cell_folder(made.key) / "cell.json").exists():
        store.put(made)
    path = store.cell_folder(made.key) / "cell.json"
    kept = path.read_bytes()
    try:
        # Half of them carry no seal, as records of an earlier harness; the other half's is wrong.
        tree = json.loads(kept)
        if data.draw(st.booleans()):
            tree.pop("seal", None)
        path.write_bytes(mutated(data, kept) if data.draw(st.integers(0, 3)) == 0 else as_json(changed(data, tree)))
        found = store.get(made.key)
        for one in store.cells():
            shown = f"{one.label} {describe([one])} {tell_apart([one, made])[0]}"
            assert shown.isprintable()
            assert all(store.object_path(a.digest).is_relative_to(folder) for a in one.artifacts.values())
            assert all(".." not in str(store.object_path(a.digest)) for a in one.artifacts.values())
            list(cell_rows([one]))
            write_tables(folder / "tables", [one], [], {}, {})
            for name in one.artifacts:
                with contextlib.suppress(HarnessError):
                    StoredCell(store, one).load(name)
        if found is None:
            raise HarnessError("no cell")
    finally:
        path.write_bytes(kept)


RESULT = {
    "schema": 1, "outcome": "ok", "reason": "", "phase": "finalize", "seconds": {"total": 1.5},
    "provenance": {"torch": "2.8.0", "gpu": {}}, "observed": {"attention_class": "x"}, "peak_memory": {"host_bytes": 3},
}  # fmt: skip


def _result(folder: Path, data: st.DataObject) -> None:
    raw = as_json(RESULT)
    raw = as_json(changed(data, RESULT)) if data.draw(st.booleans()) else mutated(data, raw)
    out, store = folder / "out", Store(folder / "store")
    if not (out / "index").exists():
        write_index(out / "index", chunks=1, passages=2, dim=8, k=2)
    (out / "result.json").write_bytes(raw)
    ended = Ended(data.draw(st.sampled_from([0, 1, -9, -77])), "train", 1.0, data.draw(st.sampled_from(["", "index"])))
    stored = conclude(store, spec(), folder, out, "final", "cpu", ended, {"worker": "x"}, {})
    there = store.get(stored.key)
    assert there == stored or says_less(stored, there)
    if stored.outcome == "invalid_output":
        raise HarnessError("invalid")


def _lock(folder: Path, data: st.DataObject) -> None:
    path = folder / "lock.txt"
    lines = (ROOT / "locks" / "cpu" / "torch-2-8-0.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:40]
    for _ in range(data.draw(st.integers(0, 3))):
        lines[data.draw(st.integers(0, len(lines) - 1))] = data.draw(TEXTS) + "\n"
    raw = "".join(lines).encode("utf-8", "replace")
    path.write_bytes(mutated(data, raw) if data.draw(st.booleans()) else raw)
    lock = read_lock(path)
    lock.torch_closure()


def _owner(folder: Path, data: st.DataObject) -> None:
    raw = as_json({"pid": 1, "host": "x", "since": 5})
    (folder / "owner").write_bytes(mutated(data, raw) if data.draw(st.booleans()) else as_json(data.draw(JSON)))
    assert isinstance(owner(folder / "owner"), dict)


CARD = {"configs": [{"config_name": "c", "data_files": [{"split": "test", "path": "a/*.parquet"}]}], "license": "mit"}


def _card(_folder: Path, data: st.DataObject) -> None:
    front = json.dumps(changed(data, CARD)) if data.draw(st.booleans()) else data.draw(st.text(max_size=60))
    made = f"---\n{front}\n---\n"
    if data.draw(st.booleans()):
        made = mutated(data, made.encode("utf-8", "replace")).decode("utf-8", "replace")
    split_patterns(made, "who/what", "c", "test")


COLLECTIONS = {
    "c.jsonl": b'{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n',
    "c.tsv": b"0\tone\n1\ttwo\ttitle\n",
    "d.tsv": b"_id\ttext\n1\tone\n2\ttwo\n",
}


def _collection(folder: Path, data: st.DataObject) -> None:
    import gzip

    name = data.draw(st.sampled_from([*COLLECTIONS, "c.jsonl.gz", "c.parquet"]))
    path = folder / name
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"_id": ["1", "2"], "text": ["one", "two"]}), path)
        path.write_bytes(mutated(data, path.read_bytes()))
    elif name.endswith(".gz"):
        path.write_bytes(mutated(data, gzip.compress(COLLECTIONS["c.jsonl"])))
    elif name == "c.jsonl" and data.draw(st.booleans()):
        path.write_bytes(b"\n".join(as_json(changed(data, {"_id": "1", "text": "one"})) for _ in range(2)))
    else:
        path.write_bytes(mutated(data, COLLECTIONS[name]))
    assert len(load_local(path).digest) == 64


def _checkpoint(folder: Path, data: st.DataObject) -> None:
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        write_checkpoint(checkpoint)
    name = data.draw(st.sampled_from(["config.json", "artifact.metadata", "model.safetensors", "vocab.txt"]))
    kept = (checkpoint / name).read_bytes()
    raw = mutated(data, kept)
    if name in {"config.json", "artifact.metadata"} and data.draw(st.booleans()):
        raw = as_json(changed(data, json.loads(kept)))
    (checkpoint / name).write_bytes(raw)
    try:
        load_checkpoint_local(checkpoint)
    finally:
        (checkpoint / name).write_bytes(kept)


def readers() -> list[Reader]:
    """All of them, with counts of zero."""
    return [
        Reader(".pt", _pt),
        Reader(".pt, legacy", _legacy_pt),
        Reader("safetensors", _safetensors),
        Reader("matrix.yaml", _matrix),
        Reader("index folder", _index),
        Reader("cell.json", _record),
        Reader("result.json", _result),
        Reader("lock", _lock),
        Reader("lock's owner", _owner),
        Reader("data set card", _card),
        Reader("collection", _collection),
        Reader("checkpoint", _checkpoint),
    ]


# ---- the run -------------------------------------------------------------------------------------------------------


class Stalled(BaseException):
    """A reader took too long; no reader can take it for an error of its own."""


@contextlib.contextmanager
def limits(memory: int | None = MEMORY) -> Iterator[None]:
    """More memory than `memory` is a MemoryError, and a reader that stalls is stopped."""

    def stalled(_number: int, _frame: FrameType | None) -> None:
        raise Stalled(f"no answer in {SECONDS_FOR_ONE} s")

    old = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stalled)
    if memory is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, old[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, old)


def fuzz(reader: Reader, folder: Path, examples: int, seed: int) -> None:
    """Try so many examples.

    Raises:
        BaseException: what the reader raised for its smallest example, with that example as a note.
    """
    folder.mkdir(parents=True, exist_ok=True)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(data=st.data())
    def one(data: st.DataObject) -> None:
        signal.alarm(SECONDS_FOR_ONE)
        reader.tried += 1
        try:
            reader.read(folder, data)
        except HarnessError:
            reader.refused += 1
        finally:
            signal.alarm(0)

    one()


def main(arguments: list[str] | None = None, chosen: list[Reader] | None = None) -> int:
    """Fuzz in turns until the time is over; print a table."""
    parser = argparse.ArgumentParser(description="Fuzz everything that reads a file.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="Of the first round; later rounds count on from it.")
    parser.add_argument("readers", nargs="*", help="Names as in the table; all of them by default.")
    options = parser.parse_args(arguments)
    found = chosen or readers()
    if options.readers:
        found = [reader for reader in found if reader.name in options.readers]
    if not found:
        parser.error(f"no such reader; there are {', '.join(reader.name for reader in readers())}")
    first = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    started = time.monotonic()
    end = started + 60 * options.minutes
    crashed = None
    with tempfile.TemporaryDirectory() as folder, limits():
        for number, reader in enumerate(itertools.cycle(found)):
            if time.monotonic() > end:
                break
            try:
                fuzz(reader, Path(folder) / reader.name.replace("/", "-"), 100, first + number)
            except (Exception, Stalled) as error:  # noqa: BLE001 - whatever it is, it is what was looked for
                crashed = (reader, error)
                break
    print("| reader | files tried | refused with a sentence |\n|---|--:|--:|")
    for reader in found:
        print(f"| {reader.name} | {reader.tried:,} | {reader.refused:,} |")
    total, seconds = sum(reader.tried for reader in found), time.monotonic() - started
    if crashed:
        traceback.print_exception(crashed[1])
        name, kind = crashed[0].name, type(crashed[1]).__name__
        print(f"\nCRASH of the reader of {name}: {kind}: {crashed[1]}", file=sys.stderr)
        return 1
    print(f"\n{total:,} files in {seconds:.0f} s (seed {first}): no crash.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

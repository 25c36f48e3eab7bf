"""What comes from elsewhere (indexes, cells, checkpoints, collections, a Hub) can be wrong, and can be made to harm.

None of it is unpickled, leaves its folder, fills the memory, stops the harness, or speaks to the terminal.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.artifacts.comparison import compare_sources
from harness.artifacts.directory import IndexDirectory, index_tensors
from harness.artifacts.index_job import INDEX
from harness.artifacts.ladder import all_digests, ladder
from harness.errors import HarnessError, UnreadableTensor, UsageError, printable
from harness.explain.compared import ComparedCells
from harness.inputs.checkpoint import load_checkpoint_local
from harness.inputs.hub import split_patterns
from harness.inputs.matrix_file import parse_matrix
from harness.report.comparison_text import text
from harness.report.console import headline_text
from harness.report.headline import COLUMNS, Headline, headline_cells
from harness.report.ladder_text import ladder_text
from harness.report.readable import markdown_table
from harness.report.reduce import Reduced
from harness.report.screen import Screen
from harness.running.progress import Board, Row, render
from harness.store.store import Store
from harness.store.transfer import copy_cells
from harness.tensors.safetensors import read_safetensors
from harness.tensors.torchfile import read_pt
from tests.support.cell_specs import cell, spec
from tests.support.checkpoints import checkpoint_bytes, write_checkpoint
from tests.support.hub_server import HubServer
from tests.support.pt_files import rebuild, write_archive
from tests.support.small_index import write_index

EVIL = "\x1b[2J\x1b]0;owned\x07\r[red]bold[/red]\u202ereversed\nharness: all is well."
"""Clears the screen, renames the window, overwrites the line, is markup, turns text round, fakes a line."""


def harmless(shown: str) -> bool:
    """Whether a terminal would just print this: lines and letters only."""
    return all(letter == "\n" or letter.isprintable() for letter in shown)


@contextmanager
def little_memory(room: int = 400 * 2**20) -> Iterator[None]:
    """Allow this process only so many more bytes of address space."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


# ---- nothing is unpickled ------------------------------------------------------------------------------------------


def test_no_module_of_the_harness_can_unpickle() -> None:
    """Neither pickle nor anything that calls it is imported or named, outside the worker that runs beside torch."""
    package = Path(__file__).parent.parent / "harness"
    for path in package.rglob("*.py"):
        if "worker" in path.relative_to(package).parts:
            continue
        source = path.read_text(encoding="utf-8")
        for word in ("import pickle", "pickle.load", "allow_pickle=True", "import dill", "joblib", "read_pickle",
                     "yaml.load(", "yaml.unsafe", "shelve", "marshal"):  # fmt: skip
            assert word not in source, f"{path}: {word}"
        assert not re.search(r"\b(eval|exec)\(", source), path


def test_an_index_that_holds_a_pickle_in_place_of_each_file_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    index = write_index(tmp_path / "index")
    call = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    for path in list(index.glob("*.pt")):
        write_archive(path, b"\x80\x02" + call, {})

    comparison = compare_sources(IndexDirectory(index), IndexDirectory(write_index(tmp_path / "other")))

    assert len(comparison.unreadable) == len([a for a in comparison.artifacts if a.tensor and a.name != "doclens"])
    for path in list(index.glob("*.pt")):
        path.write_bytes(call)
    assert compare_sources(IndexDirectory(index), IndexDirectory(index)).unreadable
    with pytest.raises(UnreadableTensor):
        Store(tmp_path / "store").ingest(INDEX, index_tensors(index), tmp_path / "none", "full")
    assert not marker.exists()


# ---- sizes are those of the file -----------------------------------------------------------------------------------


def test_a_tensor_that_claims_more_than_its_file_allocates_nothing(tmp_path: Path) -> None:
    """An expanded tensor of 16 GiB over four bytes, and a zip member that claims 2 TiB."""
    write_archive(
        tmp_path / "a.pt", b"\x80\x02" + rebuild("0", "FloatStorage", 1, (2**32,), (0,)) + b".", {"0": b"abcd"}
    )
    header = json.dumps({"t": {"dtype": "F32", "shape": [2**39], "data_offsets": [0, 2**41]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "c.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with little_memory():
        with pytest.raises(UnreadableTensor):
            read_pt(tmp_path / "a.pt")
        for name in ("b", "c"):
            with pytest.raises(UnreadableTensor):
                read_safetensors(tmp_path / f"{name}.safetensors")


def test_a_compressed_member_is_not_inflated(tmp_path: Path) -> None:
    """A zip bomb: 64 MiB of zeros in 64 KiB; torch stores, so a member that is compressed is refused."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + rebuild("0", "ByteStorage", 2**26, (2**26,), (1,)) + b".")
        archive.writestr("archive/data/0", bytes(2**26))
    with zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N." + bytes(2**26))

    with little_memory(32 * 2**20):
        for name in ("x.pt", "y.pt"):
            with pytest.raises(UnreadableTensor, match="compressed"):
                read_pt(tmp_path / name)


def test_numbers_with_one_hash_do_not_stall_the_reader(tmp_path: Path) -> None:
    """Dict keys that all hash alike would make a megabyte take hours."""
    modulus = 2**61 - 1
    items = b"".join(b"\x8a\x0a" + (k * modulus).to_bytes(10, "little") + b"N" for k in range(1, 60_000))
    write_archive(tmp_path / "x.pt", b"\x80\x02}(" + items + b"u.", {})

    with pytest.raises(UnreadableTensor):
        read_pt(tmp_path / "x.pt")


DEEP = "[" * 50_000


@pytest.mark.parametrize(
    "content",
    [
        b"{" * 10,
        DEEP.encode(),
        (DEEP + "]" * 50_000).encode(),
        b'{"config": ' + DEEP.encode(),
        ('{"config": ' + "[" * 400 + "]" * 400 + "}").encode(),
        b'{"config": {"nbits": 1e999, "dim": -1}}',
        b'{"config": {"nbits": ' + b"9" * 4000 + b"}}",
        b'{"config": {"nbits": ' + b"9" * 9000 + b"}}",
        b'{"config": {"nbits": NaN}}',
        b"[1, 2]",
        b"\xff\xfe\x00",
        b'{"\\ud800": "\\udfff"}',
        json.dumps({EVIL: EVIL, "config": {EVIL: [EVIL], "nbits": EVIL}}).encode(),
    ],
    ids=range(13),
)
@pytest.mark.parametrize("file", ["metadata.json", "doclens.0.json", "plan.json"])
def test_whatever_an_index_s_json_holds_the_comparison_goes_on(tmp_path: Path, file: str, content: bytes) -> None:
    index, other = write_index(tmp_path / "a"), write_index(tmp_path / "b")
    if file == "plan.json":
        (index / "metadata.json").unlink()
    (index / file).write_bytes(content)

    comparison = compare_sources(IndexDirectory(index), IndexDirectory(other))

    assert harmless(text(comparison))
    assert {a.name for a in comparison.artifacts if a.bit_equal} >= {"centroids", "0.codes", "1.residuals"}
    if file == "doclens.0.json" and content != b"[1, 2]":
        assert [a.name for a in comparison.unreadable] == ["doclens"]
        with pytest.raises(UnreadableTensor):
            Store(tmp_path / "store").ingest(INDEX, index_tensors(index), tmp_path / "none", "full")


def test_pipes_and_devices_in_an_index_are_not_waited_for(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index")
    for name in ("centroids.pt", "metadata.json", "plan.json", "doclens.0.json"):
        (index / name).unlink()
    os.mkfifo(index / "centroids.pt")
    os.mkfifo(index / "metadata.json")
    (index / "plan.json").symlink_to("/dev/zero")
    (index / "doclens.0.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "x.safetensors")

    comparison = compare_sources(IndexDirectory(index), IndexDirectory(index))

    assert {a.name for a in comparison.unreadable} == {"centroids", "doclens", "metadata"}
    with pytest.raises(UnreadableTensor, match="regular file"):
        read_safetensors(tmp_path / "x.safetensors")


def test_inverted_lists_whose_lengths_wrap_around_are_a_note(tmp_path: Path) -> None:
    """Four lists of 2**62 entries add up to zero in 64 bits."""
    from tests.support.small_index import index_arrays, write_pt

    index, other = write_index(tmp_path / "a"), write_index(tmp_path / "b")
    write_pt(index / "ivf.pid.pt", index_arrays()["ivf"], np.full(4, 2**62, np.int64))

    with little_memory():
        comparison = compare_sources(IndexDirectory(index), IndexDirectory(other))

    (found,) = [a for a in comparison.artifacts if a.name == "ivf"]
    assert found.bit_equal or "do not add up" in found.facts["ivf_note"]


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "content",
    [LAUGHS, "a: &a [*a]\n", "a: " + "[" * 5000, "!!bool x: 1", "a: !!int ''", "a: !!timestamp x", "d: 2001-99-99",
     "!!python/object/apply:os.getpid []", '"\\e[31mred": 1', "a: \x00", "schema: " + "9" * 5000],
    ids=range(11),
)  # fmt: skip
def test_a_matrix_that_would_unfold_or_crash_the_parser_is_one_printable_sentence(content: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_matrix(content)

    assert str(caught.value).startswith("matrix.yaml, line ")
    assert harmless(str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_data_set_card_that_unfolds_is_refused() -> None:
    """`str` of a list that holds another ten times, nine deep, would be gigabytes."""
    card = f"---\n{LAUGHS}configs:\n- config_name: *j\n  data_files: *j\n- config_name: c\n  data_files:\n"
    card += "  - split: *j\n    path: [*j]\n---\n"

    with little_memory():
        for name in ("c", "d"):
            with pytest.raises(UsageError):
                split_patterns(card, "who/what", name, "test")
        for front in ("[" * 5000, "d: 2001-99-99", "a: !!int ''"):
            with pytest.raises(UsageError):
                split_patterns(f"---\n{front}\n---\n", "who/what", "c", "test")


# ---- names stay in their folder ------------------------------------------------------------------------------------

UP = "../../../outside"


def test_a_hub_cannot_name_a_file_or_a_commit_outside_the_cache(tmp_path: Path) -> None:
    from harness.inputs.checkpoint import load_checkpoint_hub

    files = checkpoint_bytes()
    with HubServer({"models/who/what": files | {"../../evil.model": b"x", "/etc/evil": b"x"}}) as hub:
        found = load_checkpoint_hub("who/what", cache=tmp_path / "in" / "cache", endpoint=hub.endpoint)
        asked = [line for line in hub.requests if "evil" in line]

    assert asked == []
    assert found.path.is_relative_to(tmp_path / "in" / "cache")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    revisions = (tmp_path / "in" / "cache" / "hub-revisions.json").read_text()
    assert "evil" not in revisions


def hostile_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(cell().to_json()))
    for field, value in changes.items():
        place, *parts = field.split("__")
        inner = record
        for part in parts:
            inner = inner.setdefault(place, {})
            place = part
        inner[place] = value
    return record


ARTIFACT = {"digest": "d1" * 32, "dtype": "float16", "shape": [4, 8], "kind": "final", "stored": True}
HOSTILE: dict[str, dict[str, Any]] = {
    "digest that climbs": {"artifacts": {"centroids": ARTIFACT | {"digest": UP}}},
    "digest that is absolute": {"artifacts": {"centroids": ARTIFACT | {"digest": "/etc/passwd"}}},
    "name that climbs": {"artifacts": {UP: ARTIFACT}},
    "name that is markup": {"artifacts": {EVIL: ARTIFACT}},
    "shape of absurd sizes": {"artifacts": {"centroids": ARTIFACT | {"shape": [2**40, 2**40]}}},
    "shape of texts": {"artifacts": {"centroids": ARTIFACT | {"shape": ["4"]}}},
    "dtype unknown": {"artifacts": {"centroids": ARTIFACT | {"dtype": "object"}}},
    "dtype unhashable": {"artifacts": {"centroids": ARTIFACT | {"dtype": []}}},
    "stored is a text": {"artifacts": {"centroids": ARTIFACT | {"stored": "yes"}}},
    "artifact is a list": {"artifacts": {"centroids": [1]}},
    "version that speaks": {"spec__version": f"2.8.0{EVIL}"},
    "version with a line": {"spec__version": "2.8.0\n"},
    "version with letters": {"spec__version": "2.8.x"},
    "a name that is a path": {"spec__version": "prod/../../up"},
    "an own environment of a number": {"spec__own": {"kind": 3}},
    "repeat infinite": {"spec__repeat": float("inf")},
    "repeat true": {"spec__repeat": True},
    "swap that speaks": {"spec__swap": {EVIL: "d1"}},
    "collection is a text": {"spec__collection": "embedded"},
    "collection's name is a number": {"spec__collection__name": 7},
    "passages beyond a table": {"spec__collection__passages": 10**30},
    "finished speaks": {"finished": EVIL},
    "capture speaks": {"capture": EVIL},
    "group speaks": {"group": EVIL},
    "reason is a list": {"reason": [1]},
    "details is a list": {"details": []},
    "provenance is a text": {"details__provenance": "torch"},
    "gpu is a list": {"details__provenance": {"gpu": [1]}},
    "observed is a number": {"details__observed": 3},
    "a reason that is a number": {"details__not_captured": {"D": 3}},
    "seconds not finite": {"details__wall_seconds": float("nan")},
    "unknown field": {"surprise": 1},
    "a deep one": {"details__x": json.loads("[" * 200 + "]" * 200)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_with_anything_unexpected_in_it_is_no_cell(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    key = store.put(cell()).key
    path = store.cell_folder(key) / "cell.json"
    path.write_text(json.dumps(hostile_record(**HOSTILE[name])))

    assert store.get(key) is None
    assert store.cells() == []


def test_the_record_that_the_hostile_ones_are_made_from_is_a_cell(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    key = store.put(cell()).key
    (store.cell_folder(key) / "cell.json").write_text(json.dumps(hostile_record()))

    assert store.get(key) is not None


def test_links_in_a_store_from_elsewhere_are_not_followed(tmp_path: Path) -> None:
    """A link named metadata.json must not carry a private file into the store."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    source, target = Store(tmp_path / "a"), Store(tmp_path / "b")
    put = source.put(cell())
    folder = source.cell_folder(put.key)
    (folder / "log.txt").symlink_to(secret)
    (folder / "index" / "metadata.json").symlink_to(secret)
    os.mkfifo(folder / "index" / "plan.json")

    assert copy_cells(source, target, source.cells(), "all") == (1, 0)
    copied = [path for path in target.root.rglob("*") if path.is_file()]
    assert copied
    assert all("private" not in path.read_text() for path in copied)


def test_a_safetensors_name_is_a_name_and_never_a_path(tmp_path: Path) -> None:
    header = json.dumps({UP: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    before = sorted(tmp_path.rglob("*"))

    assert list(read_safetensors(tmp_path / "x.safetensors")) == [UP]
    assert sorted(tmp_path.rglob("*")) == before


# ---- texts are only texts ------------------------------------------------------------------------------------------


def test_every_error_that_is_shown_is_printable() -> None:
    assert harmless(str(HarnessError(EVIL)))
    assert "\n" not in str(UsageError(EVIL))
    assert harmless(str(UnreadableTensor(EVIL)))
    assert printable("Grüße, 世界!") == "Grüße, 世界!"


def test_the_board_prints_texts_of_jobs_as_texts() -> None:
    """On a terminal and without one; what looks like markup stays as it is written."""
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=400, color_system=None, legacy_windows=False)
        board = Board(["2.8.0"], console)
        board.note(EVIL)
        board.phase("2.8.0", EVIL)
        board.done(replace(cell(), outcome="crashed", reason=EVIL), ran=True)
        console.print(render([Row("x", "crashed", EVIL)], [EVIL], 0.0))
        assert harmless(out.getvalue()), out.getvalue()
        assert "[red]bold[/red]" in out.getvalue()


def test_an_index_whose_folder_speaks_is_compared_in_silence(tmp_path: Path) -> None:
    name = EVIL.replace("/", "_")
    index, other = write_index(tmp_path / name), write_index(tmp_path / "b")
    sources = [IndexDirectory(index), IndexDirectory(other)]

    digests = (one for one, _ in all_digests(sources))
    found = ladder(list(zip((source.name for source in sources), digests, strict=True)), [])

    assert harmless(text(compare_sources(sources[0], sources[1])))
    assert harmless(ladder_text(found))


def test_the_headline_table_cannot_be_marked_up() -> None:
    row = Headline("2.7.1", "2.8.0", gap=f"2.8.0: {EVIL} | <script>alert(1)</script> [x](http://evil)")
    pair = ComparedCells(cell(), cell(outcome="crashed", artifacts={}), "consecutive")
    reduced = Reduced(f"collection {EVIL}", [pair], [row], [])
    for markdown in (False, True):
        shown = headline_text(reduced, Screen(60), markdown=markdown)
        assert harmless(shown)
        assert "[red]bold[/red]" in shown.replace("\\", "")
    table = markdown_table(COLUMNS, [headline_cells(row)])
    assert "<script" not in table.replace("\\<", "")
    assert "](" not in table.replace("\\]", "")
    assert len(table.splitlines()) == 3


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (
            lambda f: (
                (f / "c.jsonl").write_text('{"text": "a", "_id": ' + json.dumps(EVIL) + "}\n" * 1) and f / "c.jsonl"
            ),
            "",
        ),
        (lambda f: (f / "c.jsonl").write_text(json.dumps({EVIL: 1}) + "\n") and f / "c.jsonl", ""),
        (lambda f: (f / "c.tsv").write_text(f"id\t{EVIL[:8]}\n1\tx\n") and f / "c.tsv", ""),
        (
            lambda f: (
                (f / f"{EVIL.replace('/', '_')}.jsonl").write_text("{}") and f / f"{EVIL.replace('/', '_')}.jsonl"
            ),
            "",
        ),
    ],
)
def test_a_collection_that_speaks_is_not_heard(tmp_path: Path, make: Callable[[Path], Path], option: str) -> None:
    """`harness plan` over it, in a process of its own: what reaches the terminal is printable."""
    collection = make(tmp_path)
    checkpoint = write_checkpoint(tmp_path / "ck")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "plan", "2.8.0", "--collection", str(collection), "--checkpoint",
         str(checkpoint), "--threads", "1", "--device", "cpu", "--home", str(tmp_path / "home")],
        cwd=Path(__file__).parent.parent, capture_output=True, check=False, timeout=300,
    )  # fmt: skip

    assert done.returncode in {0, 2}
    assert harmless(done.stdout.decode())
    assert harmless(done.stderr.decode())


def test_a_stored_cell_s_reason_that_speaks_is_not_heard(tmp_path: Path) -> None:
    """`harness store list` and `harness compare` over a store that came from elsewhere."""
    store = Store(tmp_path / "home" / "store")
    collection = {"name": EVIL, "digest": "c0ffee", "passages": 10}
    store.put(cell(spec(collection=collection), outcome="crashed", reason=EVIL, artifacts={}))
    for arguments in (["store", "list"], ["compare", "2.8.0", "2.8.0"], ["consecutive"], ["all-pairs"]):
        done = subprocess.run(
            [sys.executable, "-m", "harness", *arguments, "--home", str(tmp_path / "home"),
             *(["--output", str(tmp_path / "out")] if arguments == ["consecutive"] else [])],
            cwd=Path(__file__).parent.parent, capture_output=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode in {0, 1, 2}, done.stderr.decode()
        assert harmless(done.stdout.decode()), arguments
        assert harmless(done.stderr.decode()), arguments


# ---- a checkpoint's own code never runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "value", [{"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, {}, None, ["evil.Tok", None]]
)
def test_a_checkpoint_that_brings_code_is_refused_before_anything_is_built(
    tmp_path: Path, name: str, value: Any
) -> None:
    files = checkpoint_bytes()
    files[name] = json.dumps({**json.loads(files.get(name, b"{}")), "auto_map": value}).encode()
    folder = write_checkpoint(tmp_path / "ck", files)

    with pytest.raises(UsageError, match=r"auto_map .*trust_remote_code") as caught:
        load_checkpoint_local(folder)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


_WORKER = """
import json, sys
from harness.worker import index
from harness.worker.outcomes import Ended
checkpoint, evil = sys.argv[1:]
for folder in (evil, evil + "-tokenizer"):
    try:
        index.refuse_remote_code(folder)
    except Ended as ended:
        print(ended.outcome, ended.reason)
index.refuse_remote_code(checkpoint)
import transformers
from colbert.modeling import hf_colbert
from colbert.modeling.base_colbert import AutoTokenizer
for load in (transformers.AutoConfig, transformers.AutoModel, transformers.AutoTokenizer, hf_colbert.AutoConfig,
             AutoTokenizer):
    for trust in ({"trust_remote_code": True}, {}):
        try:
            load.from_pretrained(evil, **trust)
            print("loaded", load.__name__)
        except (Ended, ValueError) as error:
            print("refused", load.__name__)
try:
    hf_colbert.class_factory(evil)
except (Ended, ValueError) as error:
    print("refused class_factory")
made = hf_colbert.class_factory(checkpoint)
print("good", type(hf_colbert.AutoConfig.from_pretrained(checkpoint)).__name__, made.__name__)
"""


@pytest.mark.integration
def test_the_worker_runs_no_code_of_a_checkpoint_whoever_asks_for_it(tmp_path: Path, torch_interpreter: Path) -> None:
    """With the real transformers and colbert-ai, which asks for trust_remote_code itself."""
    marker = tmp_path / "ran"
    code = (
        f"open({str(marker)!r}, 'a').write('x')\n"
        "from transformers import BertConfig, BertModel, BertTokenizer\n"
        "class EvilConfig(BertConfig): model_type = 'evil'\n"
        "class EvilModel(BertModel): config_class = EvilConfig\n"
        "class EvilPreTrainedModel(BertModel): config_class = EvilConfig\n"
        "class EvilTokenizer(BertTokenizer): pass\n"
    )
    small = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
             "intermediate_size": 8, "vocab_size": 4}  # fmt: skip
    auto_map = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}
    tokenizer = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
    for name, config, extra in (
        ("good", small, {}),
        ("evil", {**small, "model_type": "evil", "auto_map": auto_map}, tokenizer),
        ("evil-tokenizer", small, tokenizer),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer_config.json").write_text(json.dumps(extra))
        (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
        (folder / "evil.py").write_text(code)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1",
                   "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(Path(__file__).parent.parent)}  # fmt: skip

    done = subprocess.run(
        [str(torch_interpreter), "-W", "ignore", "-c", _WORKER, str(tmp_path / "good"), str(tmp_path / "evil")],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    lines = done.stdout.splitlines()
    assert lines[0] == "unsupported config.json of the checkpoint has auto_map: it wants to run code of its own."
    assert lines[1].startswith("unsupported tokenizer_config.json")
    assert not [line for line in lines if line.startswith("loaded")]
    assert len([line for line in lines if line.startswith("refused")]) == 11
    assert lines[-1] == "good BertConfig HF_ColBERT"

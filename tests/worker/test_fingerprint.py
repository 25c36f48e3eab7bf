"""Fingerprints: every fault of a quantity is found, nothing else is, and no bad file is taken for one."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.home import package_folder
from harness.worker import fingerprint
from harness.worker.fingerprint import KEPT, ORDER, SCHEMA, Finding, Unusable, judge, pack, read, write
from tests.support.checkpoints import write_checkpoint
from tests.support.real_environments import NEW, OLD, environments, home
from tests.support.searching import Searching
from tests.support.small_index import write_index

__all__ = ["environments", "home"]  # fixtures

FILE = package_folder() / "worker" / "fingerprint.py"
ENVIRONMENT = {"python": "cpython 3.11.7", "package torch": "2.7.1", "threads": "2"}
FLOATS = [name for name in ORDER if not name.endswith("tokens") and name != "cells"]


def quantities(dtype: str = "float32") -> dict[str, Any]:
    """What might be computed for 3 queries of 8 tokens, 4 passages, and an index of 50 centroids."""
    random = np.random.default_rng(7)
    made: dict[str, Any] = {
        "query_tokens": random.integers(0, 30_000, (3, 8)).astype(np.int32),
        "passage_tokens": random.integers(0, 30_000, (4, 12)).astype(np.int32),
        "query_embeddings": random.standard_normal((3, 8, 16)),
        "passage_embeddings": random.standard_normal((40, 16)),
        "centroid_scores": random.standard_normal((3, 50, 8)),
        "cells": np.sort(random.integers(0, 50, (3, 16)).astype(np.int32)),
        "decompressed_rows": random.standard_normal((100, 16)),
        "maxsim": random.standard_normal((3, 4)),
        "maxsim_of_index": random.standard_normal((3, 10)),
    }
    return {name: one if one.dtype == np.int32 else one.astype(dtype) for name, one in made.items()}


def taken(made: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A fingerprint of these quantities."""
    of = {name: {**pack(made[name]), "repeatable": True} for name in ORDER}
    return {
        "schema": SCHEMA, "index": {"centroids": "1"}, "checkpoint": {"config.json": "2"}, "queries": ["a", "b", "c"],
        "passages": ["d", "e", "f", "g"], "environment": ENVIRONMENT, "quantities": of, **changes,
    }  # fmt: skip


def found(now: dict[str, Any], record: dict[str, Any] | None = None, torch: str = "2.7.1") -> Finding:
    return judge(record or taken(quantities()), now, {**ENVIRONMENT, "package torch": torch})


def test_what_is_the_same_is_the_same_whatever_computed_it():
    same = found(quantities(), torch="2.8.0")

    assert (same.answer, same.differences, same.rankings) == ("same bits", [], [])
    assert same.environment == [("package torch", "2.7.1", "2.8.0")]
    assert "  package torch: 2.7.1 -> 2.8.0" in list(same.lines())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", FLOATS)
def test_one_ulp_in_any_quantity_is_found_with_its_size(name, dtype):
    now = quantities(dtype)
    place = tuple(size // 2 for size in now[name].shape)
    before = now[name][place]
    now[name][place] = after = np.nextafter(before, np.inf, dtype=dtype)
    changed = found(now, taken(quantities(dtype)))

    assert changed.answer != "same bits"
    (one,) = changed.differences
    assert (one.name, one.differ, one.kept) == (name, 1, now[name].size)
    assert one.greatest == float(after) - float(before) > 0


@pytest.mark.parametrize("name", ["query_tokens", "passage_tokens"])
def test_another_token_is_another_environment(name):
    now = quantities()
    now[name][-1, -1] += 1

    assert (found(now).answer, found(now).differences[0].name) == ("different", name)


def test_signs_of_zero_and_bits_of_nan_are_bits():
    before, now = quantities(), quantities()
    for side, zero, nan in ((before, 0.0, 0x7FC00000), (now, -0.0, 0x7FC00001)):
        side["decompressed_rows"][0, 0] = zero
        side["decompressed_rows"].view(np.uint32)[0, 1] = nan
    (one,) = found(now, taken(before)).differences

    assert (one.differ, one.greatest) == (2, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_what_is_no_number_on_one_side_is_another_environment(name, value):
    now = quantities()
    now[name].flat[3] = value
    now[name].flat[5] += 9  # a difference that is a number hides nothing

    assert found(now).answer == "different"
    assert next(one for one in found(now).differences if one.name == name).greatest is None


@pytest.mark.parametrize("name", ORDER)
def test_another_shape_or_dtype_is_another_environment(name):
    now = quantities()
    now[name] = now[name].astype(np.float64)
    assert found(now).answer == "different"
    assert "float64" in found(now).differences[0].words
    now = quantities()
    if name not in {"cells", "maxsim", "maxsim_of_index"}:
        now[name] = now[name][:-1]
        assert found(now).answer == "different"


def test_other_bits_that_find_the_same_are_told_from_other_rankings():
    now = quantities()
    for name in ("query_embeddings", "maxsim", "maxsim_of_index"):
        now[name] += np.float32(1e-5)
    assert (found(now).answer, found(now).differences[0].name) == ("same rankings", "query_embeddings")
    for name in ("maxsim", "maxsim_of_index"):
        now = quantities()
        now[name][1] = now[name][1, ::-1]
        assert found(now).answer == "different"
        assert found(now).rankings[0].startswith("query 1: ")
    now = quantities()
    now["cells"][2] = (now["cells"][2] + 1) % 50
    assert found(now).answer == "different"
    assert "candidates come from other centroids" in found(now).rankings[0]


def test_a_difference_beyond_what_is_kept_is_found_and_not_measured():
    before = quantities()
    before["passage_embeddings"] = np.random.default_rng(1).standard_normal((KEPT, 16)).astype(np.float32)
    now = {**before, "passage_embeddings": before["passage_embeddings"].copy()}
    now["passage_embeddings"][5] += 1  # rows 0, 16, 32, … are kept
    changed = found(now, taken(before))

    assert changed.answer == "same rankings"
    assert changed.differences[0].words == f"none of the {KEPT:,} kept values of {KEPT * 16:,}, but others"
    assert len(json.dumps(taken(before))) < 1 << 20


def test_what_was_not_repeatable_is_not_called_the_same_bits():
    record = taken(quantities())
    record["quantities"]["centroid_scores"]["repeatable"] = False
    now = quantities()
    assert found(now, record).answer == "same rankings"
    now["centroid_scores"] += 1

    assert (found(now, record).answer, found(now, record).unsteady) == ("same rankings", ["centroid_scores"])


def test_a_fingerprint_is_read_as_it_was_written_and_no_spoiled_one_is(tmp_path):
    path, record = tmp_path / "f.json", taken(quantities())
    write(record, str(path))
    assert read(str(path)) == record
    text = path.read_text()
    digest = record["quantities"]["maxsim"]["digest"]
    for spoiled in (text[:-9], text.replace(digest, digest[::-1]), "[]", "{}", '{"schema": "1"}', "\0", "[" * 10_000):
        path.write_text(spoiled)
        with pytest.raises(Unusable, match=r"f\.json (is spoiled|cannot be read)"):
            read(str(path))
    path.write_text(json.dumps({**record, "schema": SCHEMA + 1}))
    with pytest.raises(Unusable, match=f"schema {SCHEMA + 1}, and this file knows {SCHEMA}"):
        read(str(path))
    with pytest.raises(Unusable, match="There is no fingerprint"):
        read(str(tmp_path / "none.json"))
    with pytest.raises(Unusable, match="cannot be written"):
        write(record, str(tmp_path / "no" / "folder.json"))


def test_the_file_works_by_itself_and_a_missing_torch_is_no_divergence(tmp_path):
    shutil.copy(FILE, tmp_path / "mine.py")
    index = write_index(tmp_path / "index")
    (index / "metadata.json").write_text(json.dumps({"config": {"nbits": 2}}))
    cases = {
        ("check", "index"): (3, "No module named 'torch'"),
        ("check", "nowhere"): (2, "is not the folder of a whole ColBERT index"),
        ("take", "nowhere"): (2, "is not the folder of a whole ColBERT index"),
        # Said at once: taking it would have ended at the missing torch.
        ("take", "index", "--fingerprint", "no/f.json"): (2, "no/f.json cannot be written"),
    }  # fmt: skip
    for arguments, (code, said) in cases.items():
        done = subprocess.run(
            [sys.executable, "-I", "mine.py", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert said in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config.json": '{"auto_map": {}}'}, "wants to run code of its own"),
        ({"tokenizer_config.json": '{"auto_map": {}}'}, "wants to run code of its own"),
        ({"model.safetensors": None}, "has no .safetensors file"),
    ],
)
def test_a_checkpoint_that_could_run_code_is_refused(tmp_path, change, said):
    folder = write_checkpoint(tmp_path / "ck")
    for name, text in change.items():
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(Unusable, match=said):
        fingerprint._checkpoint(str(folder), {})


def test_the_file_needs_nothing_of_the_harness():
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}

    assert not [name for name in names if name and name.startswith("harness")]


def test_its_quantities_are_in_the_page():
    page = (Path(__file__).parents[2] / "docs" / "fingerprint.md").read_text(encoding="utf-8")

    assert not [name for name in ORDER if f"`{name}`" not in page]


_ORACLE = """
import os, shutil, sys, fingerprint as mine
from pathlib import Path
index, checkpoint, folder = map(Path, sys.argv[1:])
for action in ("take", "check"):
    assert mine.main([action, str(index), "--checkpoint", str(checkpoint)]) == 0
held = mine._Held(str(index))
# Decompressed by colbert-ai's own codec.
from colbert.indexing.codecs.residual import ResidualCodec
from colbert.indexing.codecs.residual_embeddings import ResidualEmbeddings
rows = ResidualCodec.load(str(index)).decompress(ResidualEmbeddings(held.codes, held.residuals))
assert rows.equal(mine._decompressed(held, held.centroids.float(), 2)) and len(rows) > 100
# One bit of a centroid, and one of a weight.
import torch
shutil.copytree(index, folder / "index")
held.centroids.view(torch.int16)[7, 3] ^= 1
torch.save(held.centroids, folder / "index" / "centroids.pt")
shutil.copytree(checkpoint, folder / "checkpoint")
weights = bytearray((folder / "checkpoint" / "model.safetensors").read_bytes())
weights[-7] ^= 1
(folder / "checkpoint" / "model.safetensors").write_bytes(weights)
for one, other in ((folder / "index", checkpoint), (index, folder / "checkpoint")):
    try:
        mine.check(str(one), str(other))
    except mine.Unusable as error:
        print(error)
# A file that runs code, in each form that torch writes.
class Bad:
    def __reduce__(self):
        return os.system, ("touch ran",)
for zipped in (True, False):
    torch.save(Bad(), folder / "index" / "centroids.pt", _use_new_zipfile_serialization=zipped)
    try:
        mine.take(str(folder / "index"))
    except mine.Unusable as error:
        print(error)
assert not os.path.exists("ran")
"""


@pytest.mark.integration
def test_two_versions_of_torch_and_what_is_of_something_else(searching: Searching, tmp_path):
    index, checkpoint = shutil.copytree(searching.made, tmp_path / "index"), searching.experiment.checkpoint.path
    (tmp_path / "bad").mkdir()

    def ran(version: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(searching.environments[version].python), "-B", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(FILE.parent)}
        )

    oracle = ran(NEW, "-c", _ORACLE, index, checkpoint, tmp_path / "bad")
    assert oracle.returncode == 0, oracle.stderr
    assert "same bits" in oracle.stdout.splitlines()
    said = [line for line in oracle.stdout.splitlines() if "is of another" in line or "cannot be read" in line]
    assert [line.partition(": ")[2] for line in said[:2]] == [
        f"centroids of {tmp_path / 'bad' / 'index'} is not what it was taken of.",
        f"model.safetensors of {tmp_path / 'bad' / 'checkpoint'} is not what it was taken of.",
    ]
    assert ["cannot be read as tensors" in line for line in said[2:]] == [True, True]
    assert (index / fingerprint.FILE).stat().st_size < 1 << 20

    other = ran(OLD, FILE, "check", index, "--checkpoint", checkpoint, "--json")
    told = json.loads(other.stdout)
    assert "package torch" in [what for what, _, _ in told["environment"]]
    assert (other.returncode, told["answer"] == "same bits") in ((1, False), (0, True))
    assert bool(told["differences"]) == bool(other.returncode)

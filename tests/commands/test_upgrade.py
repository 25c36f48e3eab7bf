"""A user's own environments on the command line: named once, found by name, compared, and one answer for an upgrade."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from harness.report.upgrade import most_changed
from tests.support.checkpoints import checkpoint_bytes, write_checkpoint
from tests.support.own_environments import make_virtualenv, site_folder
from tests.support.upgrades import World


@pytest.fixture
def world(tmp_path, capsys):
    return World(tmp_path, capsys)


def test_environments_are_named_once_and_their_cells_are_found_by_name(world):
    old, new = world.environment("old"), world.environment("new", seed=1)

    code, out, _ = world("index", f"prod={old}", f"next={new}")
    assert (code, out.split(",")[0]) == (0, "2 of 2 cells ended well and are stored")
    code, out, _ = world("plan", "prod", "next")
    assert "0 of 2 cells would run" in out

    code, out, _ = world("compare", "prod", "next")
    assert code == 1
    assert "1 package differs: transformers 4.49.0 -> 4.57.0" in out
    code, out, _ = world("consecutive", "prod", "next", "--output", str(world.folder / "tables"))
    assert code == 1
    assert "prod -> next changed 1 of" in out
    assert "prod -> next: 1 package differs: transformers 4.49.0 -> 4.57.0." in out
    code, out, _ = world("ladder", "prod", "next", "--json")
    assert json.loads(out)["steps"] == [{"a": "prod", "b": "next", "changed": ["centroids"]}]


def test_no_path_is_in_a_cell_and_nothing_was_written_into_the_environment(world):
    venv = world.environment("old")
    before = {path: path.lstat().st_mtime_ns for path in venv.rglob("*")}
    world("index", f"prod={venv}")
    record = next((world.folder / "home" / "store" / "cells").glob("*/cell.json")).read_text()

    assert json.loads(record)["spec"]["own"] == {"kind": "interpreter", "torch": "2.7.1"}
    assert str(venv) not in json.dumps(json.loads(record)["spec"])
    assert {path: path.lstat().st_mtime_ns for path in venv.rglob("*")} == before


def test_a_package_that_changed_after_the_environment_was_named_runs_nothing(world):
    venv = world.environment("old")
    world("index", f"prod={venv}")
    (site_folder(venv) / "torch" / "__init__.py").write_text("__version__ = 'patched'\n")

    code, _, err = world("index", "prod", "--repeat", "prod")
    assert code == 3
    assert "prod is not what it was when it was named: torch 2.7.1 -> 2.7.1" in err
    code, out, _ = world("index", f"prod={venv}")
    assert "1 of 1 cell ended well" in out


def test_an_upgrade_that_changes_nothing_is_unchanged(world):
    old, new = world.environment("old"), world.environment("new", numpy="2.0.0")

    code, out, _ = world.upgrade(str(old), str(new), "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["a"], found["b"]) == (0, "unchanged", "before", "after")
    assert found["packages"] == [{"name": "numpy", "a": None, "b": "2.0.0"}]
    assert set(found["deployments"]) == {"b_on_b", "b_on_a", "a_on_b"}
    assert found["index"]["summary"]["bit_equal"][0] == found["index"]["summary"]["bit_equal"][1]


def test_an_upgrade_that_changes_the_index_and_not_what_is_found_keeps_it(world):
    page = world.folder / "upgrade.html"
    old, new = world.environment("old"), world.environment("new", seed=1)
    code, out, _ = world.upgrade(f"a={old}", f"b={new}", "--report", str(page))

    assert code == 0
    assert out.splitlines()[0] == "keep"
    told = page.read_text(encoding="utf-8")
    assert told.index("a -&gt; b: keep the index.") < told.index("<main")
    assert "1 of 10 tensors of the index differs." in told
    assert '<b>centroids</b></th><td class="k"><span class="s changed">' in told
    assert "4.49.0</td><td>4.57.0" in told
    blamed = next(line for line in out.splitlines() if line.startswith("What made the index another one: "))
    assert f"<p>{blamed}" in told
    assert "a -> b: keep the index." in out
    assert "tensors differ" in out
    assert "With 95% confidence, at most 77.6% of queries like these" in out


def test_an_upgrade_that_finds_other_passages_wants_somebody_to_look(world):
    new = world.environment("new", seed=1, turned=True)
    code, out, _ = world.upgrade(f"a={world.environment('old')}", f"b={new}", "--json")

    assert code == 1
    assert json.loads(out)["verdict"] == "investigate"


def test_the_index_in_production_stands_for_that_of_the_environment_before(world):
    old, new = world.environment("old"), world.environment("new", seed=1)
    index = world.folder / "made-old" / "index"
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    code, out, _ = world.upgrade(f"a={old}", f"b={new}", "--index", str(index), "--json")

    assert (code, json.loads(out)["verdict"]) == (0, "keep")
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before
    code, out, _ = world("plan", "a")
    assert "1 of 1 cell would run" in out


def test_an_index_that_another_checkpoint_made_is_refused_before_anything_runs(world):
    old, new = world.environment("old"), world.environment("new", seed=1)
    files = checkpoint_bytes()
    for name, other in (("same", files), ("other", {**files, "vocab.txt": files["vocab.txt"] + b"another\n"})):
        index = shutil.copytree(world.folder / "made-old" / "index", world.folder / f"index-{name}")
        made = write_checkpoint(world.folder / name, other)
        text = json.loads((index / "metadata.json").read_text())
        (index / "metadata.json").write_text(json.dumps({**text, "config": {"checkpoint": str(made)}}))
        code, out, err = world.upgrade(f"a={old}", f"b={new}", "--index", str(index))
        assert code == {"same": 0, "other": 2}[name], err
    assert err.splitlines()[-1].startswith(
        f"harness: index-other was made with the checkpoint {made}, and ck is another one"
    )
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a={old}", "b={old}"], "are the same environment"),
        (["a={old}", "a={other}"], "a is used for two things"),
        (["a={old}", "b={empty}"], "b={empty}: the folder {empty} holds no bin/python"),
        (["a={old}", "nowhere"], "'nowhere' is not a version in matrix.yaml"),
        (["a={old}", "b={other}", "--index", "{empty}"], "not the folder of a ColBERT index"),
        (["{old}", "a={bare}"], "colbert-ai is not installed there"),
        (["a={old}", "b={tool}"], "is not a Python interpreter (it says: I am a shell script)"),
    ],
)
def test_bad_input_is_one_sentence(world, arguments, said):
    paths = {
        "old": world.environment("old"), "other": world.environment("other", numpy="2.0.0"),
        "empty": world.folder / "empty",
        "bare": make_virtualenv(world.folder / "bare", {"colbert-ai": None}),
    }  # fmt: skip
    paths["empty"].mkdir()
    paths["tool"] = world.folder / "tool"
    paths["tool"].write_text("#!/bin/sh\necho I am a shell script\n")
    paths["tool"].chmod(0o755)
    code, out, err = world.upgrade(*(one.format(**paths) for one in arguments))

    assert code == 2
    assert said.format(**paths) in err.splitlines()[-1]
    assert "Traceback" not in out + err


def test_the_bound_is_clopper_and_pearson_s():
    assert most_changed(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert most_changed(5, 5) == 1.0
    assert np.all(np.diff([most_changed(n, 50) for n in range(51)]) > 0)

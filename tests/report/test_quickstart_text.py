"""How a quickstart ends: the meaning, what was written, then a command that exists, with options that it takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from harness.artifacts.directory import index_tensors
from harness.artifacts.index_job import INDEX
from harness.cli import harness
from harness.inputs.matrix_file import load_matrix
from harness.report.quickstart_text import closing
from harness.report.reduce import Reduced, reduce_cells
from harness.running.choice import Choice
from harness.store.store import Store
from harness.words import typed
from tests.support.cell_specs import ROOT, cell, spec
from tests.support.small_index import index_arrays, write_index

OPTIONS = "--collection embedded --checkpoint embedded --device cpu"


def reduced(root: Path, *, change: bool, fails: bool = False) -> Reduced:
    store = Store(root / "store")
    for version in ("2.7.1", "2.8.0"):
        arrays = index_arrays()
        if change and version == "2.8.0":
            arrays["centroids"] = arrays["centroids"] + np.float16(1)
        index = write_index(root / version, arrays)
        artifacts = store.ingest(INDEX, index_tensors(index), root / "none", "full")
        if fails and version == "2.8.0":
            store.put(cell(spec(version), outcome="crashed", reason="It fell.", artifacts={}))
        else:
            store.put(cell(spec(version), artifacts=artifacts), index=index)
    choice = Choice(store, tuple(store.cells()), store.listed())
    return reduce_cells(load_matrix(ROOT / "matrix.yaml"), choice, ["2.7.1", "2.8.0"], root / "tables")


@pytest.mark.parametrize(
    ("change", "fails", "meaning", "named"),
    [
        (True, False, "makes another index than 2.7.1", ["locate", "blame"]),
        (False, False, "makes the same index as 2.7.1", ["plan"]),
        (False, True, "has no index", ["doctor"]),
    ],
)
def test_the_meaning_then_what_was_written_then_what_to_type(tmp_path, change, fails, meaning, named):
    found = list(closing(reduced(tmp_path, change=change, fails=fails), "harness", OPTIONS, ["Report: r", "Tables: t"]))

    assert found[0].startswith("What it means: ")
    assert meaning in found[0]
    assert found[1:3] == ["Report: r", "Tables: t"]
    commands = [line.replace("`", " ").partition("harness ")[2] for line in found[3:]]
    assert [line.split()[0] for line in commands] == named
    for line in commands if change else ():
        name, *arguments = shlex.split(line)
        command = harness.get_command(click.Context(harness), name)
        assert command is not None
        assert command.make_context(name, arguments).params["collection"] == "embedded"


def test_a_command_is_typed_by_its_name_where_the_shell_finds_it_and_else_by_its_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "harness"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", [str(program), "quickstart"])
    monkeypatch.chdir(tmp_path)

    monkeypatch.setenv("PATH", "/nowhere")
    assert typed() == "bin/harness"
    monkeypatch.setenv("PATH", str(program.parent))
    assert typed() == "harness"

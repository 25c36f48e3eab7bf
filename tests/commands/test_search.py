"""`harness search`, and `--job search` of the other commands, with a stand-in for the job."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import cli
from tests.support.standin import make_inputs, make_sites, ran

ROOT = Path(__file__).parents[2]


class Shell:
    """Command lines over one home; 2.7.1 and 2.8.0 make the same index, 2.7.0 another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_inputs(folder)
        texts = {f"p{n}": f"Passage {n} of some that are long enough" for n in range(10)}
        (folder / "ten.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
        (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
        (folder / "qrels.txt").write_text("q1 0 p9 1\n")
        self.sites = make_sites(folder / "made", seconds=0.01)
        self.cells = [
            "--matrix", str(ROOT / "matrix.yaml"), "--home", str(folder / "home"), "--device", "cpu", "--threads", "1",
            "--collection", str(folder / "ten.jsonl"), "--checkpoint", str(folder / "ck"),
        ]  # fmt: skip
        self.searches = ["--queries", str(folder / "queries.jsonl"), "--k", "3"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("searches"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], shell: Shell) -> Callable[..., tuple[int, str, str]]:
    def command(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *shell.cells, *shell.searches])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def test_a_search_makes_its_index_first_and_writes_run_files(run, shell):
    code, out, err = run(
        "search", "2.7.0", "2.8.0", "--qrels", str(shell.folder / "qrels.txt"), "--trec",
        str(shell.folder / "runs"), *shell.sites,
    )  # fmt: skip

    assert (code, out.splitlines()[0].startswith("2 of 2 cells ended well")) == (0, True), err
    assert ran(shell.folder / "made") == ["2.7.0", "2.8.0"] * 2
    assert re.findall(r"Run: .*/(.*)", out) == ["2.7.0.trec", "2.8.0.trec"]
    assert (shell.folder / "runs" / "2.8.0.trec").read_text().startswith("q1 Q0 p9 1 9.5 ")


def test_every_command_that_reads_the_store_means_searches_by_job(run, shell):
    assert run("search", "2.7.0", "2.7.1", "2.8.0", *shell.sites)[0] == 0
    assert run("search", "2.7.1", "2.8.0", "--on", "2.7.0", *shell.sites)[0] == 0
    before = ran(shell.folder / "made")

    code, out, _ = run("compare", "2.8.0", "2.8.0 on 2.7.0", "--job", "search")
    assert "bit for bit the same" not in out
    assert "`harness search 2.8.0 --repeat 2.8.0` with the same options runs one" in out
    assert code == 1
    code, out, _ = run("compare", "2.8.0", "2.8.0 on 2.7.1", "--job", "search")
    assert (code, "bit for bit the same in all 3 tensors of the answer" in out) == (0, True), out
    code, _, err = run("compare", "2.7.0", "2.8.0")
    assert (code, "--queries: of searches and trainings; give --job search or --job train, too" in err) == (2, True)

    tables = shell.folder / "tables"
    code, out, err = run("consecutive", "--job", "search", "--output", str(tables))
    assert (code, "No tensor of the answer changed" in out) == (0, True), (out, err)
    cells = pq.read_table(tables / "cells.parquet").to_pylist()
    assert [cell["version"] for cell in cells] == ["2.7.0", "2.7.1", "2.8.0"]
    code, out, err = run("consecutive", "--job", "search", "--on", "2.7.0", "--output", str(tables))
    assert code == 0, (out, err)

    code, out, _ = run("plan", "2.7.0", "2.8.0", "--job", "search", "--on", "2.7.0")
    assert "2.8.0 on 2.7.0" in out
    assert "0 of 2 cells would run" in out
    assert ran(shell.folder / "made") == before


def test_a_sweep_of_searches_is_resumed_and_reduced(run, shell):
    tables = ["--output", str(shell.folder / "swept")]
    code, out, err = run("sweep", "2.7.0", "2.7.1", "2.8.0", "--job", "search", *shell.sites, *tables)
    before = ran(shell.folder / "made")

    assert code == 0, (out, err)
    assert "changed" in out
    assert run("sweep", "2.7.0", "2.7.1", "2.8.0", "--job", "search", *shell.sites, *tables)[0] == 0
    assert ran(shell.folder / "made") == before


def test_all_deployments_of_a_pair_are_stored_once_and_a_table_of_indexes_answers_by_them(run, shell):
    pair = ["2.6.0", "2.7.0"]
    assert run("search", *pair, "--deployments", *shell.sites)[0] == 0
    before = ran(shell.folder / "made")

    for on in pair:
        code, out, _ = run("plan", *pair, "--job", "search", "--on", on)
        assert (code, "0 of 2 cells would run" in out) == (0, True), out
    code, out, err = run("search", *pair, "--deployments", *shell.sites)
    assert (code, out.startswith("4 of 4 cells ended well")) == (0, True), (out, err)
    _, out, err = run("sweep", *pair, *shell.sites, "--output", str(shell.folder / "indexed"))
    assert "Must I re-index?" in out, (out, err)
    assert ran(shell.folder / "made") == before
    rows = pq.read_table(shell.folder / "indexed" / "consecutive.parquet").to_pylist()
    # What is found is the same in all four, and the indexes are not.
    assert [(row["a"], row["b"], row["verdict"]) for row in rows] == [(*pair, "keep")]


def test_deployments_are_of_each_version_s_own_index(run, shell):
    code, _, err = run("search", "2.7.0", "2.8.0", "--deployments", "--on", "2.7.0", *shell.sites)

    assert (code, "leave --on and --index out" in err) == (2, True), err


def test_rankings_of_one_cell_and_of_its_repeat_are_identical(run, shell):
    """2.7.1 and 2.8.0 made the same index, so that `2.8.0 on 2.7.1` is the cell of 2.8.0."""
    assert run("search", "2.7.1", "2.8.0", "--repeat", "2.7.1", *shell.sites)[0] == 0

    for a, b in (("2.8.0", "2.8.0 on 2.7.1"), ("2.7.1", "2.7.1#1"), ("2.7.1", "2.8.0")):
        code, out, err = run("rankings", a, b, "--search-k", "3", "--json")
        assert code == 0, (out, err)
        assert json.loads(out)["identical"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "2.8.0", "--k", "11"], "Each search is to return 11 passages"),
        (["search", "2.8.0", "--on", "9.9.9"], "'9.9.9' is not a version in matrix.yaml"),
        (["search", "2.8.0", "--index", "MADE"], "holds no ColBERT index"),
        (["search", "2.8.0", "--qrels", "MADE/none"], "this file of qrels does not exist"),
        (["search", "2.8.0", "--limit", "2"], "Each search is to return 3 passages"),
    ],
)
def test_what_is_certain_to_fail_is_one_sentence_and_nothing_runs(run, shell, words, said):
    before = ran(shell.folder / "made")
    words = [word.replace("MADE", str(shell.folder / "made" / "sites")) for word in words]
    k = ["--k", "3"]
    shell.searches, kept = [one for one in shell.searches if "--k" not in words or one not in k], shell.searches
    try:
        code, _, err = run(*words, *shell.sites)
    finally:
        shell.searches = kept

    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert ran(shell.folder / "made") == before

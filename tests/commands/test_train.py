"""`harness train`, and `--job train` of the other commands, with a stand-in for the job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import cli
from tests.support.own_environments import make_virtualenv
from tests.support.standin import make_inputs, make_sites, ran, stand_in

ROOT = Path(__file__).parents[2]


class Shell:
    """Command lines over one home; 2.7.1 and 2.8.0 train the same model, 2.7.0 another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_inputs(folder)
        texts = {f"p{n}": f"Passage {n} of some that are long enough" for n in range(10)}
        (folder / "ten.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
        (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n')
        (folder / "qrels.txt").write_text("q1 0 p9 1\n")
        (folder / "missing.jsonl").write_text('["q1", "p9", "p1"]\n["q1", "p9", "p77"]\n')
        self.sites = make_sites(folder / "made", seconds=0.01)
        self.cells = [
            "--matrix", str(ROOT / "matrix.yaml"), "--home", str(folder / "home"), "--device", "cpu", "--threads", "1",
            "--collection", str(folder / "ten.jsonl"), "--queries", str(folder / "queries.jsonl"),
        ]  # fmt: skip
        self.base = ["--checkpoint", str(folder / "ck")]
        self.trainings = ["--qrels", str(folder / "qrels.txt"), "--maxsteps", "4", "--bsize", "2"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("trainings"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], shell: Shell) -> Callable[..., tuple[int, str, str]]:
    def command(*words: str) -> tuple[int, str, str]:
        kind = shell.trainings if words[0] == "train" or "train" in words else []
        with pytest.raises(SystemExit) as ended:
            # What is given twice counts as it is given last.
            cli.main([words[0], *kind, *shell.base, *shell.cells, *words[1:]])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def test_a_training_is_run_once_and_every_command_means_it_by_job(run, shell):
    code, out, err = run("train", "2.7.0", "2.7.1", "2.8.0", "--repeat", "2.7.1", *shell.sites)
    assert (code, out.splitlines()[0].startswith("4 of 4 cells ended well")) == (0, True), (out, err)
    before = ran(shell.folder / "made")

    code, out, _ = run("plan", "2.7.0", "2.8.0", "--job", "train")
    assert (code, "0 of 2 cells would run" in out) == (0, True), out
    code, out, _ = run("compare", "2.7.0", "2.7.1", "--job", "train")
    assert code == 1, out
    assert out.startswith("The first difference is in step 1, in the backward pass: gradients of 1 of 2 parameters")
    assert "It differs in 3 of 4 steps, first in step 1, in 1 of 2 parameters there: linear.weight" in out
    code, out, _ = run("compare", "2.7.1", "2.8.0", "--job", "train")
    assert (code, "bit for bit the same" in out) == (0, True), out
    code, out, _ = run("ladder", "2.7.0", "2.7.1", "2.8.0", "--job", "train", "--json")
    assert [step["changed"] for step in json.loads(out)["steps"]] == [
        ["scores", "loss", "gradients", "weights", "trained"], [],
    ]  # fmt: skip
    tables = shell.folder / "tables"
    code, out, err = run("consecutive", "--job", "train", "--output", str(tables))
    assert code == 1, (out, err)
    assert {cell["version"] for cell in pq.read_table(tables / "cells.parquet").to_pylist()} == {
        "2.7.0", "2.7.1", "2.8.0",
    }  # fmt: skip
    code, out, err = run("all-pairs", "--job", "train")
    assert (code, "1 of 2 steps changed a tensor: 2.7.0 -> 2.7.1." in out) == (1, True), (out, err)
    assert ran(shell.folder / "made") == before


def test_a_sweep_of_trainings_is_resumed_and_reduced_to_a_folder_of_its_own(run, shell):
    tables = ["--output", str(shell.folder / "swept")]
    code, out, err = run("sweep", "2.7.1", "2.8.0", "--job", "train", *shell.sites, *tables)
    before = ran(shell.folder / "made")

    assert code == 0, (out, err)
    assert run("sweep", "2.7.1", "2.8.0", "--job", "train", *shell.sites, *tables)[0] == 0
    assert ran(shell.folder / "made") == before


def test_a_trained_model_is_indexed_and_searched(run, shell):
    assert run("train", "2.7.0", "2.7.1", *shell.sites)[0] == 0
    for version in ("2.7.0", "2.7.1"):
        code, out, err = run("search", "2.8.0", "--k", "3", "--checkpoint", f"trained@{version}", *shell.sites)
        assert (code, out.startswith("1 of 1 cell ended well")) == (0, True), (out, err)
    code, out, _ = run("plan", "2.8.0", "--job", "search", "--k", "3", "--checkpoint", "trained@2.7.0")
    assert "checkpoint trained@2.7.0" in out
    assert "0 of 1 cell would run" in out


def test_what_two_trained_models_find_is_made_in_one_environment_and_compared(run, shell):
    assert run("train", "2.7.0", "2.7.1", "2.8.0", *shell.sites)[0] == 0
    before = len(ran(shell.folder / "made"))
    asked = ["--job", "train", "--search-k", "3", *shell.sites]
    code, out, err = run("rankings", "2.7.0", "2.7.1", "--with", "2.6.0", *asked)

    assert code == 0, (out, err)
    assert out.index("trained@2.7.0") < out.index("trained@2.7.1") < out.index("Both models indexed and searched")
    assert "in the environment of 2.6.0, so that nothing but the model differs." in out
    assert ran(shell.folder / "made")[before:] == ["2.6.0"] * 4
    code, out, err = run("rankings", "2.7.1", "2.8.0", "--with", "2.6.0", "--json", *asked)
    found = json.loads(out)
    # Models that are equal in every bit are one checkpoint, whose searches are there.
    assert (code, found["same_model"], found["with"], found["identical"]) == (0, True, "2.6.0", 1.0)
    assert ran(shell.folder / "made")[before:] == ["2.6.0"] * 4
    assert found["measures"]["RR"]["queries"] == 1


def test_environments_of_one_s_own_train_and_are_named_wherever_a_version_is(run, shell, tmp_path):
    made, venvs = shell.folder / "made", {}
    for name, version, transformers in (
        ("old", "2.7.0", "4.48.0"),
        ("cafe", "2.7.1", "4.49.0"),
        ("by", "2.8.0", "5.0"),
    ):
        job = stand_in(made, version=version)
        venvs[name] = f"{name}={make_virtualenv(tmp_path / name, {'transformers': transformers}, job=job)}"
    code, out, err = run("train", venvs["old"], venvs["cafe"])
    assert (code, out.splitlines()[0].startswith("2 of 2 cells ended well")) == (0, True), (out, err)

    code, out, err = run("compare", "old", "cafe", "--job", "train")
    assert code == 1, (out, err)
    assert out.startswith("The first difference is in step 1, in the backward pass")
    assert "1 package differs: transformers 4.48.0 -> 4.49.0" in out
    code, out, err = run("compare", "old", "cafe", "--job", "train", "--json")
    assert {"training", "packages"} <= json.loads(out).keys(), err
    code, out, err = run("locate", "old", venvs["cafe"], "--job", "train", "--no-replay", "--repeats", "0")
    assert (code, "step 1" in out) == (1, True), (out, err)
    code, out, err = run("blame", "old", "cafe", "--job", "train")
    # The stand-in trains no step by itself, so there is nothing to run in an environment with packages exchanged.
    assert (code, "No package could be blamed: old, trained again, did not come to step 1" in out) == (1, True), err

    before = len(ran(made))
    code, out, err = run("rankings", "old", "cafe", "--with", venvs["by"], "--job", "train", "--search-k", "3")
    assert code == 0, (out, err)
    assert ran(made)[before:] == ["2.8.0"] * 4
    # The name may look like the start of a key.
    code, out, err = run("plan", "by", "--job", "search", "--k", "3", "--checkpoint", "trained@cafe")
    assert "checkpoint trained@cafe" in out, err
    assert "0 of 1 cell would run" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["2.7.0", "2.7.1", "--with", "2.7.1"], "--with and --sites: of the searches that --job train makes"),
        (["2.7.0", "2.7.1", "--maxsteps", "4"], "--maxsteps: of trainings; give --job train, too"),
        (["2.7.0", "9.9.9", "--job", "train"], "'9.9.9'"),
        (["2.7.0", "2.7.1", "--job", "train", "--with", "9.9.9"], "9.9.9"),
    ],
)
def test_rankings_of_models_that_cannot_be_is_one_sentence(run, shell, words, said):
    assert run("train", "2.7.0", "2.7.1", *shell.sites)[0] == 0
    before = ran(shell.folder / "made")
    code, _, err = run("rankings", *words)

    assert (code, said in err) == (2, True), err
    assert "Traceback" not in err
    assert ran(shell.folder / "made") == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--triples", "FOLDER/missing.jsonl", "--maxsteps", "1", "--bsize", "2"], "line 2 names the passage 'p77'"),
        (["--triples", "FOLDER/missing.jsonl", "--maxsteps", "9", "--bsize", "1", "--limit", "9"], "passage 'p9'"),
        (["--triples", "FOLDER/none.jsonl"], "this file of triples does not exist"),
        (["--bsize", "3", "--accumsteps", "2"], "bsize is 3 and accumsteps 2"),
        (["--nway", "11"], "A triple is to have 11 passages"),
        (["--checkpoint", "trained@9.9.9"], "trained@9.9.9: no training of that name is stored"),
    ],
)
def test_what_is_certain_to_fail_is_one_sentence_and_nothing_runs(run, shell, words, said):
    before = ran(shell.folder / "made")
    code, _, err = run("train", "2.8.0", *(word.replace("FOLDER", str(shell.folder)) for word in words), *shell.sites)

    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert ran(shell.folder / "made") == before


def test_an_option_of_another_kind_of_job_is_refused(run):
    for words, said in (
        (["plan", "2.8.0", "--job", "train", "--k", "3"], "--k: of searches; give --job search, too"),
        (["plan", "2.8.0", "--job", "search", "--lr", "1"], "--lr: of trainings; give --job train, too"),
        (["sweep", "2.8.0", "--job", "train", "--on", "2.7.1"], "--on: of searches"),
    ):
        code, _, err = run(*words)
        assert (code, said in err) == (2, True), err

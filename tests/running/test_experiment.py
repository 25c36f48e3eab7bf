"""What a command line asks for: its files are found and checked once, and its cells planned against the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.running.experiment import Experiment
from harness.running.plan import plan_cells
from harness.running.selection import Selection
from tests.support.cell_specs import cell
from tests.support.checkpoints import write_checkpoint
from tests.support.programs import fake_nvidia_smi

ROOT = Path(__file__).parents[2]
COLLECTIONS = """
collections:
  mine:
    source: local
    path: data/passages.tsv
  bigger:
    source: scaled
    base: mine
    passages: 9
  bigger-file:
    source: scaled
    base: data/passages.tsv
    passages: 9
"""


@pytest.fixture
def make(tmp_path):
    """Make an experiment beside a matrix.yaml with collections of its own."""
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8").replace("\ncollections:\n", COLLECTIONS)
    (tmp_path / "matrix.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "locks").symlink_to(ROOT / "locks")
    (tmp_path / "data").mkdir()
    lines = [f"{n}\tPassage number {n} speaks of subject {n} and of matter {n * 7}" for n in range(6)]
    (tmp_path / "data" / "passages.tsv").write_text("id\ttext\n" + "\n".join(lines) + "\n")
    write_checkpoint(tmp_path / "ck")

    def experiment(**changes):
        options = {"collection": "mine", "checkpoint": str(tmp_path / "ck"), "device": "cpu", "threads": 1, **changes}
        return Experiment(Selection(matrix_path=tmp_path / "matrix.yaml", **options))

    return experiment


def test_a_local_collection_is_relative_to_the_matrix_wherever_the_user_stands(make, tmp_path, monkeypatch):
    monkeypatch.chdir("/")

    assert len(make().passages) == 6
    assert make().home.root == (tmp_path / ".harness").resolve()


def test_a_limit_takes_the_first_passages(make):
    assert make(limit=2).passages.texts == make().passages.texts[:2]
    assert len(make(collection="embedded", limit=3).passages) == 3


@pytest.mark.parametrize("name", ["bigger", "bigger-file"])
def test_a_scaled_collection_holds_its_base_first_and_a_limit_cuts_the_scaled_one(make, name):
    whole = make(collection=name).passages

    assert len(whole) == len(set(whole.texts)) == 9
    assert whole.texts[:6] == make().passages.texts
    for limit in (4, 8):
        cut = make(collection=name, limit=limit).passages
        assert (cut.ids, cut.texts) == (whole.ids[:limit], whole.texts[:limit])
        assert cut.digest != whole.digest


def test_the_same_passages_by_another_path_make_the_same_cell(make, tmp_path):
    shutil.copy(tmp_path / "data" / "passages.tsv", tmp_path / "renamed.tsv")

    named, by_path = make(), make(collection=str(tmp_path / "renamed.tsv"))

    assert named.spec("2.8.0").key == by_path.spec("2.8.0").key


def test_cells_of_two_versions_are_of_one_group(make):
    experiment = make()

    assert experiment.spec("2.7.1").group == experiment.spec("2.8.0").group
    assert experiment.spec("2.7.1").key != experiment.spec("2.8.0").key


def test_a_plan_lists_versions_and_repeats_in_order(make):
    planned = plan_cells(make(), ["2.8.0", "2.7.1"], {"2.7.1": 2})

    assert [(p.spec.version, p.spec.repeat, p.run) for p in planned] == [
        ("2.8.0", 0, True),
        ("2.7.1", 0, True),
        ("2.7.1", 1, True),
        ("2.7.1", 2, True),
    ]
    assert {p.why for p in planned} == {"not in the store"}


@pytest.mark.parametrize(
    ("changes", "run", "why"),
    [
        ({"capture": "full"}, False, "stored"),
        ({"capture": "final"}, True, "stored with capture final, full wanted"),
        ({"outcome": "unsupported", "reason": "No code."}, False, "unsupported: No code."),
        ({"outcome": "timeout", "reason": "Too slow."}, True, "ended as timeout: Too slow."),
    ],
)
def test_a_plan_says_why_a_cell_would_run_or_be_skipped(make, changes, run, why):
    experiment = make()
    stored = experiment.store.put(cell(experiment.spec("2.8.0"), **changes))

    (planned,) = plan_cells(experiment, ["2.8.0"], {})
    (patient,) = plan_cells(experiment, ["2.8.0"], {}, retry=False)

    assert (planned.run, planned.why, planned.stored) == (run, why, stored)
    assert patient.run == (run and changes.get("outcome") is None)


def test_no_retry_leaves_failures_alone_but_runs_what_is_missing(make):
    (planned,) = plan_cells(make(), ["2.8.0"], {}, retry=False)

    assert planned.run


def test_the_capture_level_of_the_command_line_wins_and_does_not_change_the_key(make):
    assert make(capture="final").job.capture == "final"
    assert make(capture="final").spec("2.8.0").key == make().spec("2.8.0").key


def test_a_version_without_a_lock_is_a_sentence(make, tmp_path):
    (tmp_path / "locks").unlink()

    with pytest.raises(UsageError, match="run `harness lock`"):
        make().spec("2.8.0")


def test_a_wheel_without_code_for_the_gpu_is_known_before_its_environment_is(make):
    h100 = make(identity="cuda NVIDIA H100 80GB HBM3 9.0")

    assert "none of which runs on NVIDIA H100 80GB HBM3 (compute capability 9.0)" in h100.unsupported("2.0.1")
    assert h100.unsupported("2.1.0") == ""
    assert make(identity="cuda NVIDIA A100-SXM4-40GB 8.0").unsupported("2.0.1") == ""
    assert make().unsupported("2.0.1") == ""


def test_an_environment_that_was_not_brought_is_an_outcome_of_its_version_only(make, tmp_path):
    import sys

    from harness.environments.uv import BuildFailed

    (tmp_path / "sites").mkdir()
    experiment = make(sites=tmp_path / "sites", site_python=Path(sys.executable))

    with pytest.raises(BuildFailed, match=r"bring the environment of 2\.1\.0") as raised:
        experiment.brought("2.1.0")
    assert (raised.value.outcome, raised.value.cause) == ("install_failed", "not_brought")
    assert experiment.lock("2.1.0").packages["torch"] == "2.1.0"


# ---- ranks


def test_ranks_on_a_cpu_are_refused_with_what_colbert_ai_does_there(make):
    with pytest.raises(UsageError, match=r"jobs.index.nranks is 2, .* ZeroDivisionError .* pass --nranks 1"):
        make(nranks=2)
    assert make(nranks=1).job.ranks == 1


@pytest.mark.parametrize("job", ["index", "train"])
def test_more_ranks_than_gpus_are_refused(make, monkeypatch, tmp_path, job):
    fake_nvidia_smi(tmp_path, monkeypatch, "0, GPU-0, Big, 9.0", "1, GPU-1, Big, 9.0", "2, GPU-2, Other, 8.0")

    assert make(device="cuda", nranks=2, job=job).job.ranks == 2
    with pytest.raises(UsageError, match=rf"jobs.{job}.nranks is 3 .* has 2 GPUs of the model cuda Big 9.0: pass"):
        make(device="cuda", nranks=3, job=job)
    # What another machine has is not known here.
    assert make(device="cuda", identity="cuda Big 9.0", nranks=3, job=job).job.ranks == 3


@pytest.mark.parametrize(
    ("options", "words"), [({"nranks": 9}, "--nranks 9: .* 8"), ({"threads": 5000}, "--threads 5000: .* 1024")]
)
def test_an_option_beyond_what_its_setting_can_be_is_one_sentence(make, options, words):
    with pytest.raises(UsageError, match=words):
        make(**options)


def test_a_search_has_one_rank_whatever_its_index_has(make):
    of = make(nranks=2, identity="cuda Big 9.0", device="cuda")

    assert of.search().job.ranks == 1
    assert of.search().index.job.ranks == 2

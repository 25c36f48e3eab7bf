"""Probes: what runs and what is stored, what counts as changed, and what is said of it."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.comparison import STATUSES
from harness.errors import UsageError
from harness.explain.probe_rows import ProbeRow, by_probe, compare_probes
from harness.home import Home
from harness.report.columns import OF_WHAT
from harness.report.parquet import write_table
from harness.report.probe_text import fact_lines, summaries, version_lines
from harness.running import probes
from harness.running.experiment import Experiment
from harness.running.job import JobResult
from harness.running.probes import (
    SAMPLE_BYTES,
    WHOLE_BYTES,
    check_probes,
    known_probes,
    probe_digest,
    run_probes,
    sample,
)
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.tensor import Tensor
from tests.support.checkpoints import write_checkpoint
from tests.support.fake_worker import fake_interpreter
from tests.support.probe_bench import SMALL, ProbeBench
from tests.support.real_environments import NEW, OLD, environments, harness, home

__all__ = ["environments", "home"]  # fixtures of the integration tests
ROOT = Path(__file__).parents[2]
LARGE = np.linspace(0, 1, WHOLE_BYTES, dtype=np.float32)


# ---- The set


def test_every_probe_of_the_issue_is_there_and_says_what_it_shows() -> None:
    wanted = {"layers", "precision", "identity", "batch_invariance", "normalize", "half", "sort", "quantile",
              "bucketize", "gemm"}  # fmt: skip

    assert set(known_probes()) >= wanted
    assert all(text.endswith(".") for text in known_probes().values())


def test_the_documentation_lists_every_probe() -> None:
    text = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")

    assert [name for name in known_probes() if f"| `{name}` |" not in text] == []


def test_every_probe_is_a_module_with_run() -> None:
    for name in known_probes():
        tree = ast.parse((ROOT / "harness" / "worker" / "probes" / f"{name}.py").read_text(encoding="utf-8"))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}

        assert [argument.arg for argument in functions["run"].args.args] == ["bench"], name


def test_an_unknown_probe_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'nonsense' is not a probe: choose from batch_invariance, .*sort\.$"):
        check_probes(["sort", "nonsense"])


def test_no_name_means_all_and_a_name_counts_once() -> None:
    assert check_probes([]) == list(known_probes())
    assert check_probes(["sort", "half", "sort"]) == ["sort", "half"]


def test_a_probe_s_digest_follows_its_own_code_and_what_all_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "probes"
    shutil.copytree(ROOT / "harness" / "worker" / "probes", folder)
    monkeypatch.setattr(probes, "_FOLDER", folder)

    def digests() -> dict[str, str]:
        probe_digest.cache_clear()
        return {name: probe_digest(name) for name in ("sort", "half")}

    try:
        before = digests()
        (folder / "sort.py").write_text((folder / "sort.py").read_text() + "# changed\n")
        own = digests()
        (folder / "bench.py").write_text((folder / "bench.py").read_text() + "# changed\n")
        shared = digests()
    finally:
        probe_digest.cache_clear()

    assert own["sort"] != before["sort"]
    assert own["half"] == before["half"]
    assert all(shared[name] != own[name] for name in shared)


@given(n=st.integers(1, 200_000), dtype=st.sampled_from(["float16", "float32", "int64", "uint8"]))
def test_a_sample_is_small_and_has_the_first_and_the_last_element(n: int, dtype: str) -> None:
    tensor = Tensor.of((np.arange(n) % 1000).astype(dtype))
    kept = sample(tensor)

    assert kept.nbytes <= SAMPLE_BYTES
    assert kept.n == min(n, SAMPLE_BYTES // tensor.flat.itemsize)
    if kept.n > 1:
        assert (kept.flat[0], kept.flat[-1]) == (tensor.flat[0], tensor.flat[-1])


# ---- Cells and rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Bench(ProbeBench):
    """Probes that are stored, and what is compared of them."""

    def rows(self, *versions: str) -> list[ProbeRow]:
        """All rows of what is stored."""
        return compare_probes(self.store, by_probe(self.store.cells()), versions or ("2.7.1", "2.8.0"))

    def pairs(self, *versions: str) -> list[ProbeRow]:
        """Rows of pairs."""
        return [row for row in self.rows(*versions) if row.fact is None]


def nudged(array: np.ndarray[Any, Any], place: int) -> np.ndarray[Any, Any]:
    """The same with one element one ULP up."""
    found = array.copy()
    found.flat[place] = np.nextafter(found.flat[place], np.float32(np.inf), dtype=np.float32)
    return found


def test_equal_tensors_are_equal_and_nothing_changed(bench: Bench) -> None:
    for version in ("2.7.1", "2.8.0"):
        bench.cell(version, [("cpu", "values", SMALL), ("cpu", "more", LARGE)])

    assert [(row.status, row.changed, row.default) for row in bench.pairs()] == [("bit_equal", False, True)] * 2
    assert summaries(bench.rows()) == ["2.7.1 -> 2.8.0  equal: sort"]


def test_a_small_tensor_is_measured_whole(bench: Bench) -> None:
    a = bench.cell("2.7.1", [("cpu", "values", SMALL)])
    b = bench.cell("2.8.0", [("cpu", "values", nudged(SMALL, 4))])
    (row,) = bench.pairs()

    assert (row.status, row.measured, row.n, row.n_mismatch, row.max_ulp) == ("close", "whole", 6, 1, 1)
    assert (row.key_a, row.key_b, row.changed, row.bit_equal) == (a.key, b.key, True, False)
    assert summaries([row])[0].startswith("2.7.1 -> 2.8.0  sort: 1 of 1 tensors differ, first cpu, values: 1 of 6 elem")


def test_of_a_large_tensor_a_sample_is_measured_and_the_digest_is_of_the_whole(bench: Bench) -> None:
    bench.cell("2.7.1", [("cpu", "values", LARGE)])
    cell = bench.cell("2.8.0", [("cpu", "values", LARGE + np.float32(1))])
    (row,) = bench.pairs()

    assert (row.status, row.measured, row.n) == ("different", "sample", SAMPLE_BYTES // 4)
    assert row.n_mismatch == row.n
    assert row.digest_b == Tensor.of(LARGE + np.float32(1)).digest()
    assert sum(bench.store.load(one).nbytes for one in cell.artifacts.values() if one.stored) == SAMPLE_BYTES


def test_a_difference_outside_the_sample_is_a_difference_without_a_verdict(bench: Bench) -> None:
    bench.cell("2.7.1", [("cpu", "values", LARGE)])
    bench.cell("2.8.0", [("cpu", "values", nudged(LARGE, 1))])
    (row,) = bench.pairs()

    assert (row.status, row.changed, row.n_mismatch, row.default, row.bnb) == ("different", True, 0, None, None)
    assert "outside the sample" in row.note
    assert "outside the sample" in summaries([row])[0]


def test_a_case_that_one_version_refuses_is_a_row_with_the_reason(bench: Bench) -> None:
    refused = {"case": "cpu half", "reason": "RuntimeError: not implemented for 'Half'"}
    bench.cell("2.7.1", [("cpu", "values", SMALL)], refused=[refused])
    bench.cell("2.8.0", [("cpu half", "values", SMALL), ("cpu", "values", SMALL)])
    found = {row.case: row for row in bench.pairs()}

    assert (found["cpu half"].status, found["cpu half"].note) == ("missing_a", refused["reason"])
    assert found["cpu"].bit_equal
    assert fact_lines(bench.rows()) == [f"2.7.1  sort: did not run: cpu half ({refused['reason']})"]


@pytest.mark.parametrize("array", [SMALL, LARGE], ids=["kept", "sampled"])
def test_shape_and_dtype_are_told_apart_from_values(bench: Bench, array: np.ndarray[Any, Any]) -> None:
    bench.cell("2.7.1", [("x", "shape", array), ("x", "dtype", array)])
    bench.cell("2.8.0", [("x", "shape", array[:-1]), ("x", "dtype", array.astype(np.float64))])

    assert [(row.tensor, row.status) for row in bench.pairs()] == [
        ("shape", "shape_mismatch"),
        ("dtype", "dtype_mismatch"),
    ]


def test_a_probe_that_failed_in_one_version_is_one_row_and_one_line(bench: Bench) -> None:
    bench.cell("2.7.1", [("cpu", "values", SMALL)])
    bench.cell("2.8.0", outcome="crashed", reason="RuntimeError: no")
    (row,) = bench.pairs()

    assert (row.status, row.changed) == ("missing_b", True)
    assert summaries([row]) == ["2.7.1 -> 2.8.0  sort: 2.8.0 ended as crashed: RuntimeError: no"]


def test_a_probe_that_failed_in_both_is_a_gap_and_no_change(bench: Bench) -> None:
    for version in ("2.7.1", "2.8.0"):
        bench.cell(version, outcome="crashed", reason="no")
    (row,) = bench.pairs()

    assert (row.status, row.changed) == ("unreadable", False)
    assert summaries([row])[0].startswith("2.7.1 -> 2.8.0  sort: not compared: 2.7.1 ended as crashed")


def test_a_version_that_was_not_probed_is_said(bench: Bench) -> None:
    bench.cell("2.8.0", [("cpu", "values", SMALL)])
    (row,) = bench.pairs()

    assert (row.status, row.note) == ("missing_a", "2.7.1 was not probed")


def test_what_a_repeat_changes_too_is_noise_and_no_change(bench: Bench) -> None:
    bench.cell("2.7.1", [("cpu", "noisy", SMALL), ("cpu", "steady", SMALL)])
    bench.cell("2.7.1", [("cpu", "noisy", SMALL + 1), ("cpu", "steady", SMALL)], repeat=1)
    bench.cell("2.8.0", [("cpu", "noisy", SMALL + 2), ("cpu", "steady", SMALL)])
    noisy, steady = bench.pairs()

    assert (noisy.noise, noisy.changed, noisy.bit_equal) == (True, False, False)
    assert (steady.noise, steady.bit_equal) == (False, True)
    assert summaries([noisy, steady]) == [
        "2.7.1 -> 2.8.0  equal: sort (1 noisy)",
        "2.7.1 -> 2.8.0  noise floor: a repeat changes 1 of 2 tensors",
    ]


def test_without_a_repeat_the_noise_floor_is_unknown(bench: Bench) -> None:
    for version in ("2.7.1", "2.8.0"):
        bench.cell(version, [("cpu", "values", SMALL + (version == "2.8.0"))])

    assert [row.noise for row in bench.pairs()] == [None]
    assert summaries(bench.pairs())[-1].startswith("2.7.1 -> 2.8.0  noise floor: not known")


def test_a_fact_is_a_row_of_one_version_and_its_pair_is_measured(bench: Bench) -> None:
    pair = [SMALL, nudged(SMALL, 0)]
    facts = [{"case": "layer.0.dense", "fact": "batch_invariant", "holds": False, "note": "n = 8-10", "arrays": pair},
             {"case": "layer.1.dense", "fact": "batch_invariant", "holds": True}]  # fmt: skip
    bench.cell("2.7.1", facts=facts)
    failing, holding = (row for row in bench.rows("2.7.1") if row.fact)

    assert (failing.a, failing.b, failing.holds, failing.n_mismatch) == ("2.7.1", "2.7.1", False, 1)
    assert (holding.holds, holding.status, holding.changed) == (True, "bit_equal", False)
    assert fact_lines([failing, holding]) == [
        "2.7.1  sort: batch invariant: not in 1 of 2 cases: layer.*.dense (n = 8-10)"
    ]


def test_a_fact_that_turned_between_two_versions_is_said(bench: Bench) -> None:
    for version, holds in (("2.7.1", True), ("2.8.0", False)):
        fact = {"case": "mixed dense", "fact": "batch_invariant", "holds": holds, "note": "" if holds else "n = 8-10"}
        bench.cell(version, [("mixed dense", "batch of 32", SMALL)], facts=[fact])

    assert "2.7.1 -> 2.8.0  sort: batch invariant: yes -> no (n = 8-10): mixed dense" in summaries(bench.rows())


def test_identity_says_without_which_linears_the_difference_is_gone(bench: Bench) -> None:
    labels = ("nothing", "layer.0.dense", "layer.1.dense")
    bench.cell("2.7.1", [(f"mixed without {one}", "embeddings", SMALL) for one in labels], "identity")
    changed = {"nothing", "layer.0.dense"}
    bench.cell("2.8.0", [(f"mixed without {one}", "embeddings", SMALL + (one in changed)) for one in labels],
               "identity")  # fmt: skip

    assert "2.7.1 -> 2.8.0  identity: the difference in mixed precision is gone without layer.1.dense" in summaries(
        bench.rows()
    )


def test_what_a_probe_left_may_be_unreadable(bench: Bench) -> None:
    folder = bench.folder / "broken"
    folder.mkdir()
    (folder / "done.json").write_text('{"tensors": [{"file": "0.safetensors", "role": "result"}]}')
    cell = probes.take_result(bench.store, bench.spec("2.8.0", "sort"), folder, JobResult("ok", "", folder, {}))

    assert (cell.outcome, cell.artifacts) == ("invalid_output", {})


def test_the_table_has_the_columns_of_the_contract(bench: Bench) -> None:
    bench.cell("2.7.1", [("cpu", "values", SMALL)])
    bench.cell("2.8.0", [("cpu", "values", nudged(SMALL, 1))])
    path = write_table(bench.folder, "probes", (row.to_row() for row in bench.rows()), device="cpu")
    table = pq.read_table(path)

    assert set(table.column_names) >= {"probe", "case", "tensor", "a", "b", "key_a", "key_b", "status", "dtype", "n",
                                       "n_mismatch", "max_abs", "max_ulp", "bit_equal", "default", "bnb"}  # fmt: skip
    assert table.schema.metadata[b"harness_schema"]
    assert set(table.column_names) == {*OF_WHAT, *ProbeRow("", "", "", "", "", "", "", "").to_row()}
    assert table.column("n_mismatch").to_pylist() == [1]


# ---- Jobs

PROBE_JOB = """
def tensor(path):
    header = b'{"tensor": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes([1, 2]))
def left(name):
    folder = out / name
    folder.mkdir()
    tensor(folder / "0.safetensors")
    done = {"outcome": "ok", "reason": "", "facts": [], "refused": [], "seconds": 0.1,
            "tensors": [{"case": "c", "tensor": "t", "file": "0.safetensors", "role": "result"}]}
    (folder / "done.json").write_text(json.dumps(done))
jobs = made / "jobs"
jobs.open("a").write(",".join(cell["probes"]) + chr(10))
for name in cell["probes"]:
    phase("probe " + name)
    BODY
result(phase="probe " + name, provenance={"torch": "2.8.0"})
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Cell]]:
    """Run probes in an environment that runs a few lines for each."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    selection = Selection(ROOT / "matrix.yaml", tmp_path / "home", checkpoint=str(checkpoint), device="cpu", threads=1)
    experiment = Experiment(selection)

    def command(body: str, *names: str, **options: Any) -> list[Cell]:
        shutil.rmtree(tmp_path / "fake", ignore_errors=True)
        interpreter = fake_interpreter(tmp_path / "fake", PROBE_JOB.replace("BODY", body))
        monkeypatch.setattr(probes, "interpreter_of", lambda *_: interpreter)
        with Board([]) as board:
            return run_probes(experiment, ["2.8.0"], names, board, **options)

    return command


def jobs(tmp_path: Path) -> list[str]:
    path = tmp_path / "fake" / "jobs"
    return path.read_text().splitlines() if path.exists() else []


def test_all_probes_run_in_one_job_and_stored_ones_do_not_run_again(
    run: Callable[..., list[Cell]], tmp_path: Path
) -> None:
    cells = run("left(name)", "sort", "half")
    ran = jobs(tmp_path)
    again = run("left(name)", "sort", "half", "gemm")

    assert [cell.outcome for cell in cells] == ["ok", "ok"]
    assert ran == ["sort,half"]
    assert again[:2] == cells
    assert jobs(tmp_path) == ["gemm"]
    assert version_lines(again) == ["2.8.0  3 of 3 probes are stored: 3 tensors, 0 s"]


def test_a_probe_that_kills_its_job_does_not_take_the_others_along(
    run: Callable[..., list[Cell]], tmp_path: Path
) -> None:
    cells = run("os.kill(os.getpid(), 9) if name == 'half' else left(name)", "sort", "half", "gemm")

    assert [cell.outcome for cell in cells] == ["ok", "crashed", "ok"]
    assert "SIGKILL" in cells[1].reason
    assert jobs(tmp_path) == ["sort,half,gemm", "gemm"]


def test_a_probe_that_failed_runs_again_the_next_time(run: Callable[..., list[Cell]], tmp_path: Path) -> None:
    (bad,) = run("pass", "sort")
    (good,) = run("left(name)", "sort")

    assert (bad.outcome, good.outcome) == ("invalid_output", "ok")
    assert bad.key == good.key


@pytest.mark.parametrize("body", ["pass", "os.kill(os.getpid(), 9)", "phase('import'); sys.exit(1)"])
def test_a_probe_that_fails_when_it_is_run_again_leaves_the_stored_one(
    run: Callable[..., list[Cell]], tmp_path: Path, body: str
) -> None:
    (good,) = run("left(name)", "sort")
    (bad,) = run(body, "sort", again=True)

    assert (good.outcome, bad.outcome == "ok") == ("ok", False)
    assert run("left(name)", "sort") == [good]
    assert Store(tmp_path / "home" / "store").attempts(good.key) == [bad]


def test_a_job_that_cannot_start_ends_all_its_probes_at_once(run: Callable[..., list[Cell]], tmp_path: Path) -> None:
    body = "phase('import'); result(outcome='unsupported', reason='no code for this GPU'); sys.exit()"
    cells = run(body, "sort", "half")

    assert [(cell.outcome, cell.reason) for cell in cells] == [("unsupported", "no code for this GPU")] * 2
    assert jobs(tmp_path) == ["sort,half"]
    assert run("left(name)", "sort", "half") == cells


def test_a_repeat_is_a_cell_of_its_own_and_probe_cells_are_no_index_cells(run: Callable[..., list[Cell]]) -> None:
    cells = run("left(name)", "sort", repeats={"2.8.0": 1})

    assert [cell.label for cell in cells] == ["2.8.0 sort", "2.8.0#1 sort"]
    assert cells[0].group == cells[1].group


# ---- Two real environments


@pytest.mark.integration
def test_two_real_versions_are_probed_and_a_against_a_changes_nothing(home: Home) -> None:
    selection = ("--probe", "sort", "--probe", "half", "--probe", "normalize", "--device", "cpu", "--threads", "1")
    checkpoint = ("--checkpoint", "embedded")
    done = harness(home, "probe", OLD, NEW, "--repeat", NEW, *selection, *checkpoint)
    assert done.returncode == 0, done.stderr
    stored = {(cell.version, cell.repeat, cell.spec.probe): cell for cell in Store(home.store).cells()
              if cell.spec.job == "probe"}  # fmt: skip
    again = harness(home, "probe", OLD, NEW, "--repeat", NEW, *selection, *checkpoint)
    compared = harness(home, "probes", *selection, "--output", str(home.root / "tables"))
    rows = pq.read_table(home.root / "tables" / "probes.parquet").to_pylist()

    for probe in ("sort", "half", "normalize"):
        first, repeat = stored[NEW, 0, probe], stored[NEW, 1, probe]
        assert first.outcome == repeat.outcome == "ok"
        assert first.artifacts == repeat.artifacts != {}
    assert f"{NEW}#1: stored" in again.stderr
    changed = {row["probe"] for row in rows if row["fact"] is None and not row["bit_equal"]}
    assert compared.returncode == int(bool(changed))
    assert not any(row["noise"] for row in rows)
    assert {name for name in ("sort", "half", "normalize") if f"-> {NEW}  {name}: " in compared.stdout} == changed
    assert all(row["status"] in STATUSES for row in rows)


@pytest.mark.integration
def test_the_probes_of_a_model_run_on_a_user_s_checkpoint_with_every_variant(home: Home, tmp_path: Path) -> None:
    """A folder as a user has it; its layers and Linears are found, whatever they are."""
    embedded = Experiment(Selection(ROOT / "matrix.yaml", home.root, "embedded", "embedded", 1, "cpu", threads=1))
    mine = tmp_path / "mine"
    shutil.copytree(embedded.checkpoint.path, mine)
    names = [name for name in known_probes() if name not in {"sort", "half", "normalize"}]
    chosen = [part for name in names for part in ("--probe", name)]
    done = harness(home, "probe", NEW, *chosen, "--device", "cpu", "--threads", "1", "--checkpoint", str(mine))
    assert done.returncode == 0, done.stderr
    cells = {cell.spec.probe: cell for cell in Store(home.store).cells() if cell.spec.job == "probe"}
    cases = {name: {one["case"] for one in cells[name].details["tensors"]} for name in names}
    layers = {one["tensor"] for one in cells["layers"].details["tensors"]}
    facts = [(fact["fact"], fact["case"]) for fact in cells["precision"].details["facts"]]
    linears = {case.removeprefix("full ") for case in cases["batch_invariance"] if case.startswith("full ")}
    invariant = [
        one["artifact"] for one in cells["batch_invariance"].details["tensors"] if one["tensor"] == "invariant"
    ]

    assert all(cells[name].spec.checkpoint.name.endswith("mine") for name in names)
    assert {"bert.embeddings", "bert.encoder.layer.0", "bert", "linear", "embeddings"} <= layers
    assert any(case.startswith("float32 Linear") for case in cases["gemm"])
    assert cases["precision"] == {f"{kind} batch {n:02}" for kind in ("full", "mixed") for n in range(1, 34)}
    assert [case for fact, case in facts if fact == "as_in_full_precision"] == [
        f"mixed batch {n:02}" for n in range(1, 34)
    ]
    assert {"linear", "bert.encoder.layer.0.intermediate.dense"} <= linears
    assert {cells["batch_invariance"].artifacts[name].shape for name in invariant} == {(32,)}
    assert len(invariant) == 2 * len(linears)
    for kind in ("full", "mixed"):
        assert {f"{kind} without {path}" for path in linears} | {f"{kind} without nothing"} <= cases["identity"]
    assert {case.split()[-2] for case in cases["bucketize"]} == {"1", "2", "4"}
    assert len(cases["quantile"]) > 1
    assert cells["layers"].details["provenance"]["torch"].startswith(NEW)

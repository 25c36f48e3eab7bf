"""Which stored cells are meant: those that `harness plan` names, and a line about what else is there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.environments.device import Device
from harness.environments.lockfile import lock_path, read_lock
from harness.errors import UsageError
from harness.inputs.collection import load_local
from harness.running.choice import Choice, planned_cells
from harness.running.finder import Finder
from harness.running.probes import probe_spec
from harness.store.cell import Artifact
from harness.store.repeats import noise_floor, repeats_of
from harness.store.spec import CellSpec, Collection
from harness.store.store import tell_apart
from tests.support.cell_specs import MATRIX, cell, planned, spec
from tests.support.command import run
from tests.support.stored import Place, artifacts

CPU = Device("cpu", "cpu Vendor 1/2 avx2")
GPU = "cuda NVIDIA H100 80GB HBM3 9.0"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def keys(choice: Choice) -> list[tuple[str, int, str]]:
    return [(one.version, one.repeat, one.key) for one in choice.cells]


def test_a_cell_of_a_lock_that_changed_is_left_out_and_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of an old lock must never be printed without a word, nor its repeats judge cells of the new one."""
    for version in ("2.7.1", "2.8.0"):
        place.put(planned(version))
    # Noise of the old lock: none of the new one's.
    place.put(planned("2.7.1", 1), centroids="noisy")
    for version in ("2.7.1", "2.8.0"):
        place.lock_again(version)
    new = [place.put(place.planned(v), centroids=f"of {v}") for v in ("2.7.1", "2.8.0")]

    choice = place.choose()

    assert keys(choice) == [(one.version, 0, one.key) for one in new]
    assert choice.note.startswith("Not used: 3 cells of another lock (2.7.1, 2.7.1#1, 2.8.0)")
    code, out, _err = run(capsys, "consecutive", *place.options, "--output", place.root / "tables")
    assert code == 1
    assert "changed 1 of 6 tensors of the index: centroids" in out
    assert "Not used: 3 cells of another lock" in out
    assert "does not repeat the job" not in out
    assert "Noise floor: not known for 2.7.1 -> 2.8.0" in out
    code, out, err = run(capsys, "ladder", "2.7.1", "2.8.0", "--json", *place.options)
    assert (code, json.loads(out)["noise"]) == (1, {})
    assert err.startswith("Not used: 3 cells of another lock")
    assert run(capsys, "all-pairs", *place.options)[0] == 1
    assert run(capsys, "compare", "2.7.1", "2.8.0", *place.options)[0] == 1


def with_insides(changes: dict[str, str] | None = None, *, lacking: Sequence[str] = ()) -> dict[str, Artifact]:
    """Artifacts of a cell that kept digests of what is inside the pipeline."""
    found = artifacts(**{"D": "same", "local_sample_embs": "same", **(changes or {})})
    return {name: replace(one, kind="intermediate") for name, one in found.items() if name not in lacking}


def test_a_repeat_that_kept_less_says_nothing_of_what_it_did_not_keep(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """An artifact that a repeat has no record of did not change in it: to call it noise would hide a divergence."""
    a = cell(place.planned("2.7.1"), artifacts=with_insides(), capture="digests")
    b = cell(place.planned("2.8.0"), artifacts=with_insides({"D": "other"}), capture="digests")
    again = cell(place.planned("2.7.1", 1), artifacts=artifacts(), capture="final")
    for one in (a, b, again):
        place.store.put(one)

    assert noise_floor(a, [again]) == frozenset()
    code, out, _err = run(capsys, "ladder", "2.7.1", "2.8.0", "--json", *place.options)
    assert (code, json.loads(out)["noise"]) == (1, {"2.7.1": []})
    code, out, _err = run(capsys, "compare", "2.7.1", "2.8.0", *place.options)
    assert code == 1
    assert "which changed no tensor" in out


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"capture": "final"}, ("D", "local_sample_embs")),
        ({"capture": "digests", "details": {"not_captured": {"D": "no hook"}}}, ("D",)),
    ],
)
def test_what_one_cell_has_no_record_of_is_no_change_for_any_command(
    place: Place, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], lacking: Sequence[str]
) -> None:
    place.store.put(cell(place.planned("2.7.1"), artifacts=with_insides(lacking=lacking), **changes))
    place.store.put(cell(place.planned("2.8.0"), artifacts=with_insides(), capture="digests"))
    place.store.put(cell(place.planned("2.8.0", 1), artifacts=with_insides(), capture="digests"))

    code, out, _err = run(capsys, "ladder", "2.7.1", "2.8.0", "--json", *place.options)
    assert (code, json.loads(out)["steps"][0]["changed"]) == (0, [])
    code, out, _err = run(capsys, "compare", "2.7.1", "2.8.0", "--json", *place.options)
    rows = {one["name"]: one for one in json.loads(out)["artifacts"]}
    assert code == 0
    assert {rows[name]["status"] for name in lacking} == {"missing_a"}
    unknown = {(rows[name]["bit_equal"], rows[name]["above_noise"], rows[name]["change"]) for name in lacking}
    assert unknown == {(None, None, None)}


def test_consecutive_of_versions_without_a_cell_says_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.put(place.planned("2.8.0"))

    code, out, err = run(capsys, "consecutive", "2.0.0", "2.1.0", *place.options)
    assert (code, out) == (2, "")
    assert "No cell of 2.0.0, 2.1.0 is stored for embedded (10 passages)" in err
    code, out, _err = run(capsys, "consecutive", "2.8.0", "2.8.0", *place.options)
    assert code == 2
    assert "There is one version, and no step to compare." in out
    code, out, err = run(capsys, "all-pairs", *place.options)
    assert (code, out) == (2, "")
    assert "Only 2.8.0 ended well in embedded" in err


def test_a_swapped_cell_of_another_lock_is_not_taken_by_its_label(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    old = place.put(replace(place.planned("2.7.1"), swap={"D": "ab" * 32}))
    place.put(place.planned("2.8.0"))
    assert run(capsys, "compare", "2.7.1+D", "2.8.0", *place.options)[0] == 0
    place.lock_again("2.7.1")

    code, out, err = run(capsys, "compare", "2.7.1+D", "2.8.0", *place.options)
    assert (code, out) == (2, "")
    assert "1 cell of another lock (2.7.1+D)" in err
    assert run(capsys, "compare", old.key[:12], "2.8.0", *place.options)[0] == 0


def test_every_command_takes_the_cells_that_plan_names(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.root / "p.tsv").write_text("id\ttext\n1\tone passage\n2\tanother passage\n")
    (place.root / "few.tsv").write_text("id\ttext\n1\tone passage\n")
    for name in ("p.tsv", "few.tsv"):
        record = load_local(place.root / name).record()
        for version in ("2.7.1", "2.8.0"):
            place.put(place.planned(version, collection=record), centroids=f"{name} of {version}")
    named = [*place.options, "--collection", str(place.root / "few.tsv")]

    code, out, _err = run(capsys, "consecutive", *named, "--output", place.root / "tables")

    assert code == 1
    assert "changed 1 of 6 tensors" in out
    assert "few (1 " in out
    code, out, err = run(capsys, "consecutive", *place.options)
    assert (code, out) == (2, "")
    assert err.count("--group ") == 2
    assert "p (2 passages)" in err
    group = re.findall(r"--group (\w+)", err)[0]
    assert run(capsys, "all-pairs", "--group", group, *place.options)[0] == 1


def test_sets_to_choose_from_are_lines_to_copy_that_differ(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for version in ("2.7.1", "2.8.0"):
        place.put(place.planned(version))
        place.put(place.planned(version, checkpoint={"name": "embedded", "digest": "dead", "dim": 8}), ivf=version)

    code, out, err = run(capsys, "consecutive", *place.options)

    assert (code, out) == (2, "")
    first, *lines = err.rstrip().split("\n")
    assert first.endswith("or with one of:")
    assert len(lines) == 2
    assert all(line.startswith("  --group ") for line in lines)
    assert len({line.partition("   ")[2] for line in lines}) == 2
    codes = [run(capsys, "consecutive", *place.options, *line.split()[:2])[0] for line in lines]
    assert sorted(codes) == [0, 1]
    code, _out, err = run(capsys, "compare", "2.7.1", "2.8.0", *place.options)
    assert (code, err.count("\n  --group ")) == (2, 2)


def test_a_version_without_a_chosen_cell_is_refused_by_name(place: Place) -> None:
    place.put(planned("2.7.1"))
    place.put(planned("2.8.0"))
    place.lock_again("2.8.0")

    with pytest.raises(UsageError, match=r"No cell 2\.8\.0 is stored .* Not used: 1 cell of another lock \(2\.8\.0\)"):
        Finder(place.chooser(), ["2.7.1", "2.8.0"])("2.8.0")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"job": MATRIX.jobs.index.model_copy(update={"nbits": 4})}, "with nbits 4"),
        ({"job": MATRIX.jobs.index.model_copy(update={"environment": {"MINE": "1"}})}, "with MINE 1"),
    ],
)
def test_cells_of_other_settings_are_not_taken_for_the_planned_ones(
    place: Place, changes: dict[str, Any], words: str
) -> None:
    other = place.put(planned("2.8.0", **changes))
    mine = place.put(planned("2.8.0"))

    choice = place.choose()

    assert keys(choice) == [("2.8.0", 0, mine.key)]
    assert choice.note == f"Not used: 1 cell {words} (2.8.0); `harness plan` names other cells."
    # A group that is named decides its settings itself.
    assert keys(place.choose(other.group[:8])) == [("2.8.0", 0, other.key)]


def test_a_cell_from_before_an_oddity_is_another_one_also_in_a_group_that_is_named(place: Place) -> None:
    before = place.put(planned("2.8.0"))
    text = (place.root / "matrix.yaml").read_text(encoding="utf-8")
    odd = '\n  - versions: ["2.8.0"]\n    environment: {MINE: "1"}\n    reason: Made up here.\n'
    (place.root / "matrix.yaml").write_text(text.replace("\ncollections:\n", f"{odd}collections:\n"), encoding="utf-8")
    of = planned("2.8.0")
    now = place.put(replace(of, environment={**of.environment, "MINE": "1"}, oddities={"MINE": None}))

    assert before.group == now.group
    assert keys(place.choose()) == keys(place.choose(now.group)) == [("2.8.0", 0, now.key)]


def test_cells_of_another_revision_of_the_job_are_of_another_experiment(place: Place) -> None:
    old = place.put(replace(planned("2.8.0"), revision=0))
    with pytest.raises(UsageError, match="1 cell of another revision of the job") as caught:
        place.choose()
    assert "run `harness index VERSION`" in str(caught.value)
    with pytest.raises(UsageError, match="names no set"):
        place.choose(old.group)


def test_a_cell_of_a_newer_harness_is_not_taken_for_a_planned_one(place: Place) -> None:
    place.put(replace(planned("2.8.0"), unknown={"shards": 2}))
    mine = place.put(planned("2.8.0"))

    choice = place.choose()

    assert keys(choice) == [("2.8.0", 0, mine.key)]
    assert "1 cell with a record of another form (2.8.0)" in choice.note


def test_without_options_the_only_set_is_meant_and_of_several_the_default_of_the_matrix(place: Place) -> None:
    config, size = "ConditionalQA-corpus", 69199
    default = {"name": config, "digest": "d00d", "passages": size}
    checkpoint = {"name": MATRIX.defaults.checkpoint, "digest": "beef", "dim": 8}
    first = place.put(planned("2.8.0"))
    assert keys(place.choose()) == [("2.8.0", 0, first.key)]

    wanted = place.put(planned("2.8.0", collection=default, checkpoint=checkpoint))
    assert keys(place.choose()) == [("2.8.0", 0, wanted.key)]
    place.put(planned("2.8.0", collection={**default, "digest": "limited", "passages": 100}, checkpoint=checkpoint))
    assert keys(place.choose()) == [("2.8.0", 0, wanted.key)]


def test_a_device_that_is_named_is_taken_wherever_the_command_runs(place: Place) -> None:
    cpu, gpu = place.put(planned("2.8.0")), place.put(planned("2.8.0", device=GPU))

    assert keys(place.choose(device="cuda")) == [("2.8.0", 0, gpu.key)]
    assert keys(place.choose(device="cpu")) == [("2.8.0", 0, cpu.key)]
    with pytest.raises(UsageError, match="2 sets of cells"):
        place.choose()


def test_the_environments_of_a_gpu_host_may_run_on_its_cpu_but_are_not_mixed_with_the_cpu_s_own(place: Place) -> None:
    own = planned("2.8.0")
    of_gpu = replace(own, lock=planned("2.8.0", device=GPU).lock)
    brought = place.put(of_gpu)
    assert keys(place.choose()) == [("2.8.0", 0, brought.key)]

    mine = place.put(own)
    assert keys(place.choose()) == [("2.8.0", 0, mine.key)]


def test_repeats_follow_their_own_cell(place: Place) -> None:
    made = [place.put(planned(v, n)) for v, n in (("2.8.0", 0), ("2.7.1", 1), ("2.7.1", 0), ("2.8.0", 1))]

    assert [(one.version, one.repeat) for one in place.choose().cells] == [
        ("2.7.1", 0), ("2.7.1", 1), ("2.8.0", 0), ("2.8.0", 1)
    ]  # fmt: skip
    assert repeats_of(made[0], made) == [made[3]]


def test_a_run_that_failed_is_what_its_sweep_is_about_though_the_good_cell_stays(place: Place) -> None:
    good, again = place.put(planned("2.8.0")), place.put(planned("2.8.0", 1))
    failed = replace(good, outcome="crashed", reason="It broke.", artifacts={})
    experiment: Any = SimpleNamespace(store=place.store, matrix=MATRIX, lock=lambda _version: None)

    choice = planned_cells(experiment, [failed, again])

    assert [(one.label, one.outcome) for one in choice.cells] == [("2.8.0", "crashed"), ("2.8.0#1", "ok")]
    assert [one.outcome for one in planned_cells(experiment, [good]).cells] == ["ok", "ok"]


def test_a_table_in_which_nothing_was_compared_is_no_good_end(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.put(planned("2.7.1"))
    output = ("--output", place.root / "tables")
    assert run(capsys, "consecutive", *place.options, *output)[0] == 2

    place.put(planned("2.8.0"), outcome="crashed")
    code, out, _err = run(capsys, "consecutive", *place.options, *output)
    assert (code, "1 of 1 step could not be compared" in out) == (2, True)


def test_a_version_that_left_the_matrix_is_not_compared(place: Place) -> None:
    place.put(spec("1.0.0"))
    mine = place.put(planned("2.8.0"))

    assert keys(place.choose()) == [("2.8.0", 0, mine.key)]


def test_an_empty_store_says_what_fills_it(place: Place) -> None:
    with pytest.raises(UsageError, match="holds no cells yet: run `harness index VERSION`"):
        place.choose()
    with pytest.raises(UsageError, match="holds no probes yet"):
        place.chooser().choose("probe")


def test_swapped_cells_are_in_no_table(place: Place) -> None:
    place.put(replace(planned("2.8.0"), swap={"sample": "d1" * 32}))
    mine = place.put(planned("2.8.0"))

    assert keys(place.choose()) == [("2.8.0", 0, mine.key)]


def test_noise_floor_of_cells() -> None:
    """Only a repeat of the same cell says anything about its noise."""
    first, again, far = (
        cell(spec(version, repeat=repeat), artifacts=artifacts(**changes))
        for version, repeat, changes in (("2.8.0", 0, {}), ("2.8.0", 1, {"ivf": "b"}), ("2.7.1", 1, {"ivf": "b"}))
    )
    cells = [first, again, far]

    assert repeats_of(first, cells) == [again]
    assert noise_floor(first, repeats_of(first, cells)) == frozenset({"ivf"})
    assert noise_floor(first, [cell(spec(repeat=2), artifacts=first.artifacts)]) == frozenset()
    assert noise_floor(first, []) is None
    assert noise_floor(first, [cell(spec(repeat=2), outcome="crashed", artifacts={})]) is None


# ---- probes


def test_probes_of_other_code_or_another_lock_are_left_out(place: Place) -> None:
    def of(version: str, **changes: Any) -> CellSpec:
        lock = read_lock(lock_path(place.root / "locks", version, "cpu"))
        made = probe_spec(MATRIX, MATRIX.jobs.index, version, lock, "sort", planned().checkpoint, CPU, "cpu x")
        return replace(made, **changes)

    old = of("2.8.0", collection=Collection("probe sort", "old code", 0))
    place.put(old)
    mine = place.put(of("2.8.0"))
    chooser = place.chooser()

    choice = chooser.choose("probe", probes=["sort"])

    assert [one.key for one in choice.cells] == [mine.key]
    assert "1 cell of another revision of the probe (2.8.0 sort)" in choice.note
    with pytest.raises(UsageError, match="holds no probes yet"):
        place.chooser().choose("probe", probes=["gelu"])


# ---- items


def test_a_cell_is_named_by_label_by_key_and_by_the_start_of_a_key(place: Place) -> None:
    put = place.put(planned("2.8.0", 1))

    for item in ("2.8.0#1", put.key, put.key[:6], put.key[:4]):
        assert Finder(place.chooser(), [item])(item).cell == put
    assert Finder(place.chooser(), [])("2.8.0#1").name == "2.8.0#1"


@pytest.mark.parametrize("item", ["2.7.1", "abcde", "", "nothing/here"])
def test_a_name_of_nothing_is_a_sentence(place: Place, item: str) -> None:
    place.put(planned("2.8.0"))

    with pytest.raises(UsageError, match="neither a ColBERT index directory nor a stored cell"):
        Finder(place.chooser(), [item])(item)


def test_a_cell_that_ended_badly_says_how(place: Place) -> None:
    place.put(planned("2.8.0"), outcome="timeout")

    with pytest.raises(UsageError, match=r"ended as timeout and has no artifacts: It broke\."):
        Finder(place.chooser(), ["2.8.0"])("2.8.0")


def test_a_label_of_several_swapped_cells_lists_their_keys(place: Place) -> None:
    made = [place.put(replace(planned("2.8.0"), swap={"sample": digest * 32})) for digest in ("d1", "d2")]

    with pytest.raises(UsageError, match="names 2 cells") as caught:
        Finder(place.chooser(), [])("2.8.0+sample")

    assert all(one.key[:12] in str(caught.value) for one in made)


def test_cells_of_one_label_are_told_apart_by_what_differs_between_them(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    old = place.put(planned("2.8.0"))
    place.lock_again("2.8.0")
    new = place.put(place.planned("2.8.0"), centroids="other")

    code, out, _err = run(capsys, "ladder", old.key[:8], new.key[:8], "--json", *place.options)

    first, second = json.loads(out)["items"]
    assert code == 1
    assert (first, second) == (f"2.8.0 (lock {old.spec.lock[:8]})", f"2.8.0 (lock {new.spec.lock[:8]})")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"settings": {"nbits": 2}}, {"settings": {"nbits": 4}}], ["2.8.0 (nbits 2)", "2.8.0 (nbits 4)"]),
        ([{}, {"device": "cpu other"}], ["2.8.0 (device cpu GenuineIntel 6/143 avx2)", "2.8.0 (device cpu other)"]),
        ([{}, {"version": "2.7.1"}], ["2.8.0", "2.7.1"]),
        ([{}, {"swap": {"D": "d1" * 32}}], ["2.8.0", "2.8.0+D"]),
        (
            [{"swap": {"D": "d1" * 32}}, {"swap": {"D": "d2" * 32}}],
            ["2.8.0+D (swapped D=d1d1d1d1)", "2.8.0+D (swapped D=d2d2d2d2)"],
        ),
        (
            [{"settings": {"threads": 1}, "environment": {"OMP_NUM_THREADS": "1"}}, {"settings": {"threads": 2}}],
            ["2.8.0 (threads 1)", "2.8.0 (threads 2)"],
        ),
        (
            [{}, {"settings": {"nbits": 2, "threads": 2, "nranks": 2}, "environment": {"NCCL_NVLS_ENABLE": "0"}}],
            ["2.8.0 (nranks 1)", "2.8.0 (nranks 2)"],
        ),
        ([{}, {"revision": 7}], ["2.8.0 (revision 1)", "2.8.0 (revision 7)"]),
    ],
)
def test_names_say_what_differs(changes: list[dict[str, Any]], names: list[str]) -> None:
    assert tell_apart([cell(spec(**one)) for one in changes]) == names


def test_a_lock_is_told_by_the_packages_that_differ_where_they_are_known() -> None:
    made = [
        replace(
            cell(spec(lock=lock)), details={"provenance": {"packages": {"torch": "2.8.0", "transformers": version}}}
        )
        for lock, version in (("one", "4.38.2"), ("two", "4.49.0"))
    ]

    assert tell_apart(made) == ["2.8.0 (transformers 4.38.2)", "2.8.0 (transformers 4.49.0)"]
    assert tell_apart([made[0], made[0]]) == ["2.8.0", "2.8.0"]

"""Which stored cells are meant: those that `harness plan` names, and a line about what else is there."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.environments.device import Device
from harness.environments.lockfile import lock_path, read_lock
from harness.errors import UsageError
from harness.inputs.collection import load_local
from harness.running.choice import Choice, Chooser, Finder
from harness.running.probes import probe_spec
from harness.running.selection import Selection
from harness.store.cell import Artifact, Cell
from harness.store.repeats import noise_floor, repeats_of
from harness.store.spec import CellSpec, Collection
from harness.store.store import Store, tell_apart
from tests.support.cell_specs import MATRIX, ROOT, cell, planned, spec
from tests.support.command import run

CPU = Device("cpu", "cpu Vendor 1/2 avx2")
GPU = "cuda NVIDIA H100 80GB HBM3 9.0"
FINAL = ("centroids", "avg_residual", "bucket_cutoffs", "bucket_weights", "ivf", "ivf_lengths")


def artifacts(**changes: str) -> dict[str, Artifact]:
    """Digests of an index, some of which are others."""
    digests = {name: f"{name}-same" for name in FINAL} | changes
    return {
        name: Artifact(digest.encode().hex().ljust(64, "0")[:64], "float32", (1,), "final", stored=False, nans=0)
        for name, digest in digests.items()
    }


class Place:
    """A matrix with locks of its own, and a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(ROOT / "matrix.yaml", root)
        shutil.copytree(ROOT / "locks", root / "locks")
        self.store = Store(root / ".harness" / "store")

    @property
    def options(self) -> list[str]:
        return ["--matrix", str(self.root / "matrix.yaml"), "--home", str(self.root / ".harness")]

    def put(self, of: CellSpec, outcome: str = "ok", **changes: str) -> Cell:
        made = artifacts(**changes) if outcome == "ok" else {}
        return self.store.put(cell(of, outcome=outcome, reason="" if outcome == "ok" else "It broke.", artifacts=made))

    def chooser(self, group: str | None = None, **options: Any) -> Chooser:
        return Chooser(Selection(self.root / "matrix.yaml", self.root / ".harness", **options), group)

    def choose(self, group: str | None = None, **options: Any) -> Choice:
        return self.chooser(group, **options).choose()

    def lock_again(self, version: str) -> None:
        """Change a version's lock, as another transformers would."""
        path = lock_path(self.root / "locks", version, "cpu")
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"transformers==[\d.]+", "transformers==4.38.1", text), encoding="utf-8")

    def planned(self, version: str, repeat: int = 0, **changes: Any) -> CellSpec:
        """What would be planned with the locks as they are now."""
        return planned(version, repeat, lock=read_lock(lock_path(self.root / "locks", version, "cpu")), **changes)


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
    assert "1 cell a record of another form (2.8.0)" in choice.note


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


def test_a_version_that_left_the_matrix_is_not_compared(place: Place) -> None:
    place.put(spec("1.0.0"))
    mine = place.put(planned("2.8.0"))

    assert keys(place.choose()) == [("2.8.0", 0, mine.key)]


def test_an_empty_store_says_what_fills_it(place: Place) -> None:
    with pytest.raises(UsageError, match="holds no cells yet: run `nox -s index-VERSION`"):
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

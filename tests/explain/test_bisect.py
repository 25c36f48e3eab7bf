"""A bisection finds the neighbours that a look at every build would find, and says so when it cannot."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.environments.offers import builds_between, offered, with_index
from harness.errors import UsageError
from harness.explain.bisect import next_to_look_at, search
from harness.inputs.matrix_file import parse_matrix
from harness.store.store import Store
from tests.support.command import run
from tests.support.package_index import PackageIndex
from tests.support.small_matrix import CP311, CP312, TEXT, SmallWorld
from tests.support.standin import make_inputs

# ---- the search


@given(st.integers(2, 200), st.data())
def test_the_answer_is_that_of_looking_at_every_build_and_takes_a_logarithm(number, data):
    change = data.draw(st.integers(1, number - 1))
    seen: list[int] = []

    def look(place: int) -> bool:
        seen.append(place)
        return bool(place >= change)

    assert search(number, look) == (change - 1, change)
    assert len(seen) == len(set(seen)) <= math.ceil(math.log2(number))


@given(st.lists(st.sampled_from([False, True]), max_size=40))
def test_where_it_changes_several_times_the_neighbours_differ_all_the_same(between):
    builds = [False, *between, True]

    low, high = search(len(builds), builds.__getitem__)

    assert high == low + 1
    assert (builds[low], builds[high]) == (False, True)


@given(st.integers(2, 60), st.data())
def test_builds_that_cannot_be_looked_at_leave_just_the_range_that_they_hide(number, data):
    change = data.draw(st.integers(1, number - 1))
    broken = data.draw(st.sets(st.integers(1, max(1, number - 2)))) - {0, number - 1}
    asked: list[int] = []

    def look(place: int) -> bool | None:
        asked.append(place)
        return None if place in broken else place >= change

    low, high = search(number, look)

    assert len(asked) == len(set(asked))
    assert low < change <= high
    assert low not in broken
    assert high not in broken
    assert all(place in broken and place in asked for place in range(low + 1, high))


def test_a_run_of_broken_builds_is_left_by_halves():
    """Twenty broken ones around the middle of a hundred cost a few looks where the change is elsewhere."""
    broken, asked = set(range(40, 60)), []

    def look(place: int) -> bool | None:
        asked.append(place)
        return None if place in broken else place >= 80

    assert search(100, look) == (79, 80)
    assert len(asked) <= 10


def test_nothing_is_left_where_all_between_was_looked_at():
    assert next_to_look_at(3, 4, ()) is None
    assert next_to_look_at(3, 6, (4, 5)) is None
    assert next_to_look_at(3, 6, (4,)) == 5


# ---- which builds there are


@pytest.fixture
def index():
    with PackageIndex() as made:
        yield made


def between(index: PackageIndex, a: str, b: str, *, named: bool = True) -> list[str]:
    matrix, name = with_index(parse_matrix(TEXT), f"nightly={index.url}")
    found = offered(matrix, name)
    return [one.version for one in builds_between(matrix, found, a, b, name if named else None, "cpu")]


def test_builds_between_two_releases_are_those_that_can_be_installed_in_order(index):
    index.add("torch", "2.8.0.dev20250110+cpu", tag=CP311)
    index.add("torch", "2.8.0.dev20250102+cpu", tag=CP311)
    index.add("torch", "2.8.0.dev20250103+cpu", tag=CP312)
    index.add("torch", "2.8.0.dev20250104+cpu", tag=CP311, yanked="broken")
    for outside in ("2.7.0.dev20240101+cpu", "2.9.0.dev20250301+cpu"):
        index.add("torch", outside, tag=CP311)

    assert between(index, "2.7.1", "2.8.0") == [
        "2.7.1", "2.8.0.dev20250102+cpu", "2.8.0.dev20250110+cpu", "2.8.0",
    ]  # fmt: skip


def test_pre_releases_count_where_they_are_asked_for(index):
    for version in ("2.7.2", "2.8.0rc1", "2.8.0rc2", "2.8.0"):
        index.add("torch", version, tag=CP311)

    assert between(index, "2.7.1", "2.8.0", named=False) == ["2.7.1", "2.7.2", "2.8.0"]
    assert between(index, "2.7.1", "2.8.0rc2", named=False) == ["2.7.1", "2.7.2", "2.8.0rc1", "2.8.0rc2"]


def test_one_kind_of_build_is_bisected(index):
    for day in (1, 2, 3):
        for label in ("cpu", "cu128"):
            index.add("torch", f"2.8.0.dev2025010{day}+{label}", tag=CP311)

    found = between(index, "2.8.0.dev20250101+cpu", "2.8.0.dev20250103+cpu")
    assert found == [f"2.8.0.dev2025010{day}+cpu" for day in (1, 2, 3)]
    with pytest.raises(UsageError, match=r"6 builds between 2\.7\.1 and 2\.8\.0, with the labels \+cpu, \+cu128: give"):
        between(index, "2.7.1", "2.8.0")


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("2.8.0", "2.7.1", "2.7.1 does not come after 2.8.0"),
        ("2.8.0", "2.8.0", "2.8.0 does not come after 2.8.0"),
        ("2.7.1", "2.9.9", "2.9.9 is neither a version in matrix.yaml nor on the index nightly"),
        ("two", "2.8.0", "'two' is not a version"),
    ],
)
def test_two_versions_that_cannot_be_bisected_are_a_sentence(index, a, b, said):
    index.add("torch", "2.8.0.dev1", tag=CP311)

    with pytest.raises(UsageError) as caught:
        between(index, a, b)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("other", r"--index other: give a name in `indexes` of matrix\.yaml \(nightly\), or NAME=URL\.$"),
        ("nightly=http://y", r"matrix\.yaml has http://x for it; give the URL another name\.$"),
        ("My Own=http://y", "give a name in"),
    ],
)
def test_an_index_that_is_not_said_well_is_a_sentence(wanted, said):
    matrix = parse_matrix(TEXT).with_versions([], {"nightly": "http://x"})

    assert with_index(matrix, "nightly") == (matrix, "nightly")
    assert with_index(matrix, None) == (matrix, None)
    with pytest.raises(UsageError, match=said):
        with_index(matrix, wanted)


# ---- the command, with the real uv and a torch that stands in for the job


@pytest.fixture
def world(tmp_path, index, monkeypatch):
    return SmallWorld(tmp_path / "world", index).in_use(monkeypatch)


def day(number: int) -> str:
    return f"2.8.0.dev202501{number:02}+cpu"


def nightlies(index: PackageIndex, world: SmallWorld, changes_at: int, *, crash=(), unlocked=(), days: int = 3) -> None:
    """Builds of which those from a day on make another index; some crash, and some cannot be resolved."""
    for number in range(1, days + 1):
        world.torch(
            day(number), None if number in crash else int(number >= changes_at), index=index, uploaded=None,
            requires=["nothing-of-this-name"] if number in unlocked else ["sympy"],
        )  # fmt: skip


def bisect(capsys, tmp_path, world: SmallWorld, *arguments: str) -> tuple[int, Any, str]:
    inputs = make_inputs(tmp_path)
    code, out, err = run(capsys, "bisect", *arguments, *inputs, "--device", "cpu", *world.options, "--json")
    return code, json.loads(out) if out else {}, err


@pytest.mark.slow
def test_the_change_between_nightly_builds_is_found_and_the_search_goes_on_from_the_store(capsys, tmp_path, world):
    with PackageIndex() as nightly:
        nightlies(nightly, world, changes_at=4, crash=[3], unlocked=[2], days=5)
        options = (day(1), day(5), "--index", f"nightly={nightly.url}")
        code, found, err = bisect(capsys, tmp_path, world, *options)
        started = world.started()
        again = bisect(capsys, tmp_path, world, *options)

    assert code == 1, err
    assert (found["last_same"], found["first_changed"]) == (day(1), day(4))
    assert [one["version"] for one in found["between"]] == [day(2), day(3)]
    assert found["between"][0]["reason"].startswith("resolve_failed: ")
    assert found["between"][1]["reason"].startswith("import_failed: ")
    assert found["changed"] == ["centroids"]
    assert found["later"] == found["noise"] == []
    # A twice, for noise, then B, the middle, and what is left.
    assert started == [day(1), day(1), day(5), day(3), day(4)]
    assert again[:2] == (code, found)
    assert world.started() == started
    assert {cell.version for cell in Store(tmp_path / "world" / "home" / "store").cells()} == {*started}


@pytest.mark.slow
def test_a_build_is_skipped_until_another_try_is_asked_for(capsys, tmp_path, world):
    with PackageIndex() as nightly:
        nightlies(nightly, world, changes_at=3, crash=[2])
        options = (day(1), day(3), "--index", f"nightly={nightly.url}")
        _, found, _ = bisect(capsys, tmp_path, world, *options)
        count = len(world.started())
        bisect(capsys, tmp_path, world, *options, "--retry")

    assert [one["version"] for one in found["between"]] == [day(2)]
    assert world.started()[count:] == [day(2)]


@pytest.mark.slow
def test_two_that_are_the_same_end_the_search_at_once(capsys, tmp_path, world):
    with PackageIndex() as nightly:
        nightlies(nightly, world, changes_at=99)
        code, found, err = bisect(capsys, tmp_path, world, day(1), day(3), "--index", f"nightly={nightly.url}")

    assert code == 0, err
    assert found["first_changed"] is None
    assert sorted(world.started()) == [day(1), day(1), day(3)]


@pytest.mark.slow
def test_releases_of_the_matrix_keep_their_locks_and_another_change_is_told(capsys, tmp_path, world):
    for version, made in (("2.7.1", 0), ("2.7.2", 1), ("2.7.3", 1), ("2.8.0", 2)):
        world.torch(version, made)
    assert run(capsys, "lock", *world.options)[0] == 0
    inputs = make_inputs(tmp_path)

    code, out, err = run(capsys, "bisect", "2.7.1", "2.8.0", *inputs, "--device", "cpu", *world.options)

    assert code == 1, err
    assert out.splitlines()[0] == (
        "2.7.2 is the first build that is not as 2.7.1: centroids changed from 2.7.1, its neighbour."
    )
    assert "`harness bisect 2.7.2 2.8.0` with the same options finds it." in out
    planned = run(capsys, "plan", *inputs, "--device", "cpu", *world.options, "--json")[1]
    # The same cells as those of a sweep, which keeps more of them.
    assert [cell["why"] for cell in json.loads(planned)["cells"]] == ["stored with capture final, full wanted"] * 2


@pytest.mark.slow
def test_an_artifact_can_be_named(capsys, tmp_path, world):
    """Nothing but the centroids changes, so the residual is as it was."""
    with PackageIndex() as nightly:
        nightlies(nightly, world, changes_at=2)
        options = (day(1), day(3), "--index", f"nightly={nightly.url}")
        same = bisect(capsys, tmp_path, world, *options, "--artifact", "avg_residual")
        changed = bisect(capsys, tmp_path, world, *options, "--artifact", "centroids")
        wrong = bisect(capsys, tmp_path, world, *options, "--artifact", "centroid")

    assert (same[0], same[1]["first_changed"]) == (0, None)
    assert (changed[0], changed[1]["first_changed"]) == (1, day(2))
    assert wrong[0] == 2
    assert "--artifact centroid: the job makes " in wrong[2]


@pytest.mark.slow
def test_an_end_that_does_not_run_is_no_answer(capsys, tmp_path, world):
    with PackageIndex() as nightly:
        nightlies(nightly, world, changes_at=2, crash=[3])
        code, _, err = bisect(capsys, tmp_path, world, day(1), day(3), "--index", f"nightly={nightly.url}")

    assert code == 3
    assert f"{day(3)} cannot be compared: import_failed: " in err

"""A point of an axis is one torch's environment with another version of one package, and of what that requires."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path

import pytest

from harness.environments.changes import undeclared
from harness.environments.chosen import Names
from harness.environments.lockfile import (
    Lock,
    difference,
    lock_of,
    lock_path,
    lock_text,
    only_difference,
    parse,
    read_lock,
)
from harness.errors import UsageError
from harness.home import Home
from harness.inputs.matrix import Flavour
from harness.inputs.matrix_file import load_matrix, parse_matrix
from harness.words import name_key
from tests.support.command import run
from tests.support.package_index import PackageIndex
from tests.support.small_matrix import TEXT, SmallWorld
from tests.support.standin import make_inputs

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"
MATRIX = load_matrix(ROOT / "matrix.yaml")
POINTS = [
    (name, flavour) for axis in MATRIX.axes for name in MATRIX.on_axis(axis) for flavour in MATRIX.flavours_of(name)
]
HASH = "--hash=sha256:" + "0123456789abcdef" * 4


@cache
def lock(name: str, flavour: Flavour) -> Lock:
    return lock_of(MATRIX, LOCKS, name, flavour)


# ---- the committed locks


@pytest.mark.parametrize(("name", "flavour"), POINTS)
def test_a_point_is_its_torch_s_lock_but_for_the_package_and_what_that_requires(name, flavour):
    point = MATRIX.point(name)
    assert point
    package, version = point
    mine, base = lock(name, flavour), lock(MATRIX.torch_of(name), flavour)

    changed = difference(base, mine)

    assert mine.varied == package
    assert mine.packages[package] == version
    assert mine.packages["torch"] == MATRIX.axes[package].torch
    for pin in MATRIX.requirements_of(name, flavour):
        assert mine.packages[pin.partition("==")[0]] == pin.partition("==")[2]
    # Nothing of the base is gone, and what is another or came along is what the package requires, or is declared.
    assert base.packages.keys() <= mine.packages.keys()
    assert all(one in mine.closure(package) or MATRIX.may_differ(one, [package]) for one in changed)
    # Only that is in the file, every pin of it with a hash, and no place of anybody's.
    text = lock_path(LOCKS, name, flavour).read_text(encoding="utf-8")
    assert [line.partition("==")[0] for line in text.splitlines() if line[:1].isalpha()] == sorted(changed)
    assert not any(sign in text for sign in ("://", "file:", " @ ", "/tmp", "/home", "/work"))


@pytest.mark.parametrize("axis", MATRIX.axes)
def test_between_any_two_points_nothing_undeclared_differs(axis):
    for a, b in itertools.combinations(MATRIX.on_axis(axis), 2):
        assert undeclared(MATRIX, lock(a, "cpu"), lock(b, "cpu")) == [], f"{a} and {b}"


def test_a_planted_difference_in_what_the_axis_holds_fixed_is_caught(tmp_path):
    """As between two versions of torch: transformers requires numpy, and torch does not require faiss."""
    mine = lock_path(LOCKS, "transformers-4.41.2", "cpu")
    (tmp_path / "torch-2-8-0.txt").write_text(lock_text(mine.with_name("torch-2-8-0.txt")))
    planted = f"{mine.read_text()}faiss-cpu==1.7.4 \\\n    {HASH}\n    # via matrix.yaml\n"
    (tmp_path / mine.name).write_text(planted)

    found = undeclared(MATRIX, lock("transformers-4.40.2", "cpu"), read_lock(tmp_path / mine.name))

    assert [one.title for one in found] == ["faiss-cpu 1.8.0.post1 -> 1.7.4"]


def test_a_lock_whose_torch_was_locked_again_is_refused_with_the_mend(tmp_path):
    mine = lock_path(LOCKS, "transformers-4.41.2", "cpu")
    base = lock_text(mine.with_name("torch-2-8-0.txt"))
    (tmp_path / "torch-2-8-0.txt").write_text(base.replace("numpy==1.26.4", "numpy==1.26.3"))
    (tmp_path / mine.name).write_text(mine.read_text())

    with pytest.raises(
        UsageError, match=r"torch-2-8-0\.txt is not the lock that this one was made from: run `harness lo"
    ):
        read_lock(tmp_path / mine.name)


def test_the_difference_and_its_base_give_the_whole_again(tmp_path):
    def text(**pins: str) -> str:
        return "".join(f"{name}=={version} \\\n    {HASH}\n" for name, version in pins.items())

    base, whole = text(a="1", b="1", c="1", torch="1"), text(a="1", b="2", d="1", torch="1")
    (tmp_path / "base.txt").write_text(base)
    (tmp_path / "point.txt").write_text(only_difference(base, "base.txt", whole, "b"))

    found = read_lock(tmp_path / "point.txt")

    assert found.packages == {"a": "1", "b": "2", "c": "1", "d": "1", "torch": "1"}
    assert found.digest == parse(text(**dict(sorted(found.packages.items()))))[2]
    assert "a==" not in (tmp_path / "point.txt").read_text()


# ---- names


def test_points_are_in_order_of_their_versions_after_those_of_torch():
    names = ["b-10.0", "transformers-4.9.0", "2.10.0", "mine", "transformers-4.10.0", "b-9.0", "2.9.1"]

    assert sorted(names, key=name_key) == [
        "2.9.1", "2.10.0", "b-9.0", "b-10.0", "mine", "transformers-4.9.0", "transformers-4.10.0",
    ]  # fmt: skip
    assert sorted(MATRIX.names, key=name_key) == MATRIX.names


def test_a_point_is_a_name_like_a_version_and_nobody_else_s(tmp_path):
    names = Names(Home(tmp_path))
    point = MATRIX.on_axis("transformers")[0]

    assert names.require(MATRIX, point) == point
    assert names.canonical(MATRIX, f"{point}#1 on {point}") == f"{point}#1 on {point}"
    assert MATRIX.label("4.28.1", "transformers") == "transformers-4.28.1"
    assert MATRIX.label("2.8.0", "transformers") == MATRIX.label("2.8.0", None) == "2.8.0"
    with pytest.raises(UsageError, match=f"an environment cannot be called '{point}'"):
        names.require(MATRIX, f"{point}=2.8.0")
    with pytest.raises(UsageError, match=r"transformers-4\.28\.1 … transformers-"):
        names.require(MATRIX, "transformers-1.0.0")


def test_a_point_has_the_oddities_and_the_python_of_its_torch():
    text = TEXT.replace("oddities: []\n", "axes: {stack: {torch: 2.7.1, versions: ['1.0', '2.0']}}\noddities:\n" + ODD)
    matrix = parse_matrix(text)

    assert matrix.python_of("stack-2.0", "cpu") == matrix.python_of("2.7.1", "cpu") == "3.12"
    assert matrix.requirements_of("stack-2.0", "cpu") == ["stack==2.0", "faiss-cpu==1.0", "torch==2.7.1"]
    assert matrix.common_axis(["stack-1.0", "stack-2.0"]) == "stack"
    assert matrix.common_axis(["stack-1.0", "2.7.1"]) is matrix.common_axis(["2.8.0", "2.7.1"]) is None


ODD = '  - {versions: ["2.7.1"], python: "3.12", reason: No wheel for 3.11 any more.}\n'


def test_an_axis_of_a_flavour_s_package_is_of_that_flavour():
    axes = (
        "axes: {faiss-cpu: {torch: 2.7.1, versions: ['1.0']}, stack: {torch: 2.7.1, versions: ['1.0']}}\noddities: []\n"
    )
    matrix = parse_matrix(TEXT.replace("oddities: []\n", axes))

    assert matrix.flavours_of("faiss-cpu-1.0") == ["cpu"]
    assert matrix.flavours_of("stack-1.0") == matrix.flavours_of("2.8.0") == ["cpu", "gpu"]


# ---- the commands, with the real uv and packages that stand in for the job


@pytest.fixture
def world(tmp_path, monkeypatch):
    with PackageIndex() as index:
        made = SmallWorld(tmp_path / "world", index).in_use(monkeypatch)
        made.torch("2.8.0")
        index.add("helper", "1.0")
        # Newer than the matrix's date, as is what it requires.
        made.torch("2.0", 1, package="stack", tags=["py3-none-any"], requires=["helper", "sympy"],
                   uploaded="2025-07-01T00:00:00Z")  # fmt: skip
        made.torch("3.0", None, package="stack", tags=["py3-none-any"], requires=(), uploaded="2025-07-01T00:00:00Z")
        made.torch("2.7.1")
        axis = 'axes: {stack: {torch: "2.8.0", versions: ["1.0", "2.0", "3.0"]}}\noddities: []\n'
        made.matrix.write_text(TEXT.replace("oddities: []\n", axis))
        yield made


def test_a_version_that_is_nowhere_is_a_sentence_before_anything_is_locked(world, capsys):
    world.matrix.write_text(world.matrix.read_text().replace('"3.0"', '"9.9"'))

    code, _out, err = run(capsys, "lock", *world.options)

    assert code == 2
    assert "matrix.yaml: axes.stack.versions: 9.9 is no release (" in err
    assert "has no stack 9.9): write one that is, or remove it." in err
    assert not (world.root / "locks").exists()


@pytest.mark.slow
def test_an_axis_is_locked_swept_and_reduced_like_versions_of_torch(world, capsys, tmp_path):
    assert run(capsys, "lock", *world.options)[0] == 0
    inputs = [*make_inputs(tmp_path), "--device", "cpu", *world.options]
    output = ("--output", str(tmp_path / "tables"))

    code, out, err = run(capsys, "sweep", "--axis", "stack", "--repeat", "1.0", *inputs, *output)
    again = run(capsys, "consecutive", "--axis", "stack", *inputs, *output)
    pairs = json.loads(run(capsys, "all-pairs", "--axis", "stack", *inputs, "--json")[1])

    locks = world.root / "locks" / "cpu"
    assert read_lock(locks / "stack-2-0.txt").packages.keys() == {"faiss-cpu", "helper", "stack", "sympy", "torch"}
    # What need not be another is not, though the date of the point would allow it.
    assert read_lock(locks / "stack-2-0.txt").packages["sympy"] == "1.0"
    assert code == 3, err
    assert [line.split()[:2] for line in out.splitlines()[:4]][2:] == [["1.0", "2.0"], ["2.0", "3.0"]]
    assert out.splitlines()[0].split()[:4] == ["stack", "A", "stack", "B"]
    assert "stack beside torch 2.8.0." in out
    assert "3.0: import_failed" in out
    assert "stack-1.0 -> stack-2.0 changed 1 of" in out
    assert again[1].splitlines()[:6] == out.splitlines()[:6]
    assert pairs["items"] == ["stack-1.0", "stack-2.0"]
    assert run(capsys, "compare", "stack-1.0", "stack-2.0", *inputs)[0] == 1
    # Those of torch are not among them.
    assert run(capsys, "consecutive", "2.8.0", *inputs, *output)[0] == 2


def test_an_axis_that_is_not_there_is_a_sentence(world, capsys, tmp_path):
    code, _out, err = run(capsys, "plan", "--axis", "numpy", *make_inputs(tmp_path), *world.options)

    assert code == 2
    assert "--axis numpy: matrix.yaml varies no numpy (but torch, stack): add it under `axes`" in err

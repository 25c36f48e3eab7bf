"""Blame between two environments of a user's own: whichever packages decide, alone, together or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.own_environments import site_folder
from tests.support.packages_decide import deciding
from tests.support.upgrades import World

ALL = {
    "torch": "2.8.0", "transformers": "4.57.0", "tokenizers": "0.22.0", "faiss-cpu": "1.11.0", "numpy": "2.0.0",
    "tqdm": "4.67.1",
}  # fmt: skip


class Decided(World):
    """Two virtualenvs that differ in six packages, of which a rule says which decide."""

    def pair(self, rule: str, broken: str = "False", new: dict[str, str] | None = None) -> list[str]:
        old = deciding(self.folder / "old", {}, rule, broken)
        after = deciding(self.folder / "new", ALL if new is None else new, rule, broken)
        return [f"old={old}", f"new={after}"]


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Decided:
    return Decided(tmp_path, capsys)


@pytest.mark.parametrize(
    ("rule", "blamed"),
    [
        ("has('tokenizers')", ["tokenizers"]),
        ("has('tqdm')", ["tqdm"]),
        # It takes both new ones to change the index; either of the old ones undoes it.
        ("has('torch') and has('numpy')", ["torch", "numpy"]),
    ],
)
def test_the_packages_that_decide_are_blamed_and_no_other(world: Decided, rule: str, blamed: list[str]) -> None:
    pair = world.pair(rule)
    before = {path: path.lstat().st_ctime_ns for path in world.folder.glob("*/lib/**/*")}
    code, out, err = world("blame", *pair)

    assert code == 1, err
    told = next(line for line in out.splitlines() if line.startswith(("Blamed:", "No package")))
    assert sorted(one for one in ALL if f"{one} " in told) == sorted(blamed), out
    assert {path: path.lstat().st_ctime_ns for path in before} == before
    assert not list((world.folder / "home" / "envs").glob("counterfactual-*"))


def test_the_answer_comes_before_what_it_rests_on(world: Decided) -> None:
    code, out, _ = world("blame", *world.pair("has('numpy')"))
    lines = out.splitlines()
    answer = next(number for number, line in enumerate(lines) if line.startswith("Blamed:"))

    assert code == 1
    assert lines[answer] == "Blamed: numpy 1.26.4 -> 2.0.0 (halve centroids)."
    assert "exchanging it alone exchanges the result, bit for bit, in both directions" in lines[answer + 1]
    # One that was not blamed is exchanged as a whole, and not taken apart.
    assert "new with transformers (with tokenizers) of old: as B" in lines[answer + 2 :]
    assert not [line for line in lines if line.startswith("new with tokenizers of old")]


def test_the_whole_job_is_made_with_the_one_package_that_is_asked_about(world: Decided) -> None:
    pair = world.pair("has('numpy')")
    code, out, _ = world("blame", *pair, "--whole", "--package", "numpy")
    step = next(line for line in out.splitlines() if line.startswith("halve centroids, in the whole job: "))

    assert code == 1
    assert "numpy 1.26.4 -> 2.0.0: exchanging it alone exchanges the result, bit for bit, in both directions" in step
    assert not [line for line in out.splitlines() if line.startswith("new with faiss-cpu of old")]

    code, out, _ = world("blame", "old", "new", "--whole", "--package", "tqdm")
    assert code == 1
    assert out.splitlines().count("new with tqdm of old: as B") == 1
    assert "Blamed:" not in out

    code, _, err = world("blame", "old", "new", "--package", "scipy")
    assert code == 2
    assert "--package 'scipy' is not what can be exchanged between old and new: torch, " in err


def test_what_cannot_be_imported_together_could_not_be_separated(world: Decided) -> None:
    pair = world.pair("has('numpy')", broken="has('numpy') != has('faiss')")
    _, out, _ = world("blame", *pair)

    assert "Blamed: faiss-cpu 1.8.0 -> 1.11.0 with numpy 1.26.4 -> 2.0.0 (halve centroids)." in out
    assert "they could not be separated (faiss-cpu alone: ImportError: numpy 2 is not for this faiss" in out


def test_files_of_no_package_can_be_to_blame(world: Decided) -> None:
    pair = world.pair("any(pathlib.Path(sys.prefix).glob('lib/*/*/patched.py'))", new={})
    (site_folder(world.folder / "new") / "patched.py").write_text("")
    _, out, _ = world("blame", *pair)

    assert "Blamed: files of no package" in out


def test_an_upgrade_says_which_package_and_where(world: Decided) -> None:
    pair = world.pair("has('faiss')")
    code, out, _ = world.upgrade(*pair, "--json")
    found = json.loads(out)

    assert (code, found["verdict"], found["blamed"]) == (0, "keep", ["faiss-cpu"])
    assert next((one["job"], one["step"], one["packages"]) for one in found["blame"]) == (
        "index", "halve centroids", ["faiss-cpu"],
    )  # fmt: skip
    code, out, _ = world.upgrade("old", "new")
    assert "What made the index another one: Blamed: faiss-cpu 1.8.0 -> 1.11.0 (halve centroids)." in out.replace(
        "\n", " "
    )


def test_nobody_is_asked_who_did_nothing_or_where_the_user_does_not_want_to_know(world: Decided) -> None:
    unchanged = world.upgrade(*world.pair("False"), "--json")
    assert json.loads(unchanged[1])["blamed"] == []
    assert json.loads(unchanged[1])["verdict"] == "unchanged"

    (world.folder / "again").mkdir()
    again = Decided(world.folder / "again", world._capsys)
    code, out, err = again.upgrade(*again.pair("has('numpy')"), "--no-blame", "--json")
    assert (code, json.loads(out)["blamed"], json.loads(out)["blame"]) == (0, [], [])
    assert "new with" not in err

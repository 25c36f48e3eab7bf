"""`harness versions` says what the index has and the matrix has not; `--add` writes line and locks, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.environments.lockfile import lock_path, read_lock
from harness.inputs.matrix_file import load_matrix
from tests.support.command import run
from tests.support.package_index import PackageIndex
from tests.support.small_matrix import CP311, CP312, SmallWorld


@pytest.fixture
def world(tmp_path, monkeypatch):
    with PackageIndex() as index:
        made = SmallWorld(tmp_path / "world", index).in_use(monkeypatch)
        for version in ("2.7.1", "2.8.0"):
            made.torch(version)
        made.torch("2.7.2", uploaded="2024-11-01T00:00:00Z")
        made.torch("2.9.0", tags=[CP311, CP312], uploaded="2025-03-01T00:00:00Z")
        made.torch("2.10.0", tags=[CP312])
        made.torch("2.9.1", yanked="It is slow")
        made.torch("2.11.0rc1")
        made.torch("2.6.0", tags=["cp39-cp39-manylinux1_x86_64"])
        yield made


def files(world: SmallWorld) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (world.root / "locks").rglob("*") if path.is_file()} | {
        world.matrix: world.matrix.read_bytes()
    }


def test_what_the_matrix_has_not_is_listed_with_what_speaks_against_it(capsys, world):
    code, out, _ = run(capsys, "versions", *world.options)

    assert code == 0
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "2.7.2 2024-11-01 older than the newest of the matrix",
        "2.9.0 2025-03-01 new",
        "2.9.1 2020-01-01 yanked: It is slow",
        "2.10.0 2020-01-01 no wheel for the matrix's Python (has wheels for 3.12)",
        "2.11.0rc1 2020-01-01 pre-release",
        "1 older version without a wheel for the matrix's Python and platform; --json has them.",
    ]


@pytest.mark.parametrize("form", ["json", "html"])
def test_the_same_as_json_whatever_the_index_speaks(capsys, world, form):
    world.index.json = form == "json"
    found = {
        one["version"]: one for one in json.loads(run(capsys, "versions", "--json", *world.options)[1])["versions"]
    }

    assert list(found) == ["2.6.0", "2.7.2", "2.9.0", "2.9.1", "2.10.0", "2.11.0rc1"]
    assert found["2.9.0"] == {
        "version": "2.9.0", "index": None, "uploaded": "2025-03-01T00:00:00+00:00" if form == "json" else None,
        "pythons": ["3.11", "3.12"], "installs": True, "newer": True, "prerelease": False, "yanked": None,
    }  # fmt: skip
    assert found["2.9.1"]["yanked"] == "It is slow"
    assert (found["2.10.0"]["pythons"], found["2.10.0"]["installs"]) == (["3.12"], False)
    assert (found["2.11.0rc1"]["prerelease"], found["2.6.0"]["newer"]) == (True, False)


@pytest.mark.slow
def test_adding_writes_the_line_and_both_locks(capsys, world):
    before = world.matrix.read_text()

    code, out, err = run(capsys, "versions", "--add", *world.options)

    assert code == 0, err
    assert world.matrix.read_text() == before.replace('  - "2.8.0"\n', '  - "2.8.0"\n  - "2.9.0"\n')
    assert load_matrix(world.matrix).versions == ["2.7.1", "2.8.0", "2.9.0"]
    for flavour in ("cpu", "gpu"):
        lock = read_lock(lock_path(world.root / "locks", "2.9.0", flavour))
        assert lock.packages == {"torch": "2.9.0", "stack": "1.0", f"faiss-{flavour}": "1.0", "sympy": "1.0"}
    assert "Added to matrix.yaml: 2.9.0." in out
    assert "Not added: 2.9.1: yanked: It is slow." in out
    assert "Not added: 2.10.0: no wheel" in out

    again = files(world)
    assert run(capsys, "versions", "--add", *world.options)[1].startswith("There is no new release that installs here.")
    assert files(world) == again


@pytest.mark.slow
def test_a_nightly_build_is_added_from_its_index(capsys, world):
    day = "2.12.0.dev20250301+cpu"
    with PackageIndex(json=False, hashes=False) as nightly:
        world.torch(day, index=nightly)
        code, _, err = run(capsys, "versions", "--add", day, "--index", f"nightly={nightly.url}", *world.options)

        assert code == 0, err
        matrix = load_matrix(world.matrix)
        assert (matrix.versions[-1], matrix.index_of(day), matrix.indexes) == (day, "nightly", {"nightly": nightly.url})
        assert read_lock(lock_path(world.root / "locks", day, "cpu")).indexes == ("nightly",)
        # And is locked again from what the matrix says.
        before = files(world)
        code, _, err = run(capsys, "lock", day, *world.options)
        assert code == 0, err
        assert files(world) == before


@pytest.mark.slow
def test_a_version_that_cannot_be_locked_leaves_everything_as_it_was(capsys, world):
    """2.9.0 could be; only the GPU's part of 2.12.0 cannot."""
    world.torch("2.12.0", requires=["faiss-cpu", "nothing-of-this-name"])
    before = files(world)

    code, _, err = run(capsys, "versions", "--add", *world.options)

    assert code == 3
    assert "Locking torch 2.12.0 failed" in err or "Locking torch-2-12-0.txt failed" in err
    assert files(world) == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["2.9.0"], 2, "VERSIONS are for --add"),
        (["--add", "2.8.0"], 2, "2.8.0 is in matrix.yaml already"),
        (["--add", "2.9.9"], 2, "2.9.9 is not on the package index"),
        (["--add", "2.9.1"], 2, "2.9.1 is yanked (It is slow)"),
        (["--add", "2.10.0"], 2, "2.10.0 has no wheel for Python 3.11 on x86_64-manylinux_2_28; it has one for 3.12."),
        (["--index", "nightly"], 2, "--index nightly: give a name in `indexes`"),
        (["--index", "gone=http://127.0.0.1:1"], 3, "The package index http://127.0.0.1:1 does not say"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(capsys, world, arguments, code, said):
    before = files(world)

    found, _, err = run(capsys, "versions", *arguments, *world.options)

    assert found == code
    assert said in err
    assert files(world) == before

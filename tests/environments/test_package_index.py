"""What an index says is read as uv would read it, whichever of the two forms it has, and locks follow from it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from harness.environments.build import ensure_environment
from harness.environments.lockfile import lock_path, read_lock
from harness.environments.package_index import index_url, releases, uploaded
from harness.environments.resolve import CannotBeLocked, write_locks
from harness.environments.uv import run_uv
from harness.errors import InfrastructureError, UsageError
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from tests.support.package_index import PackageIndex
from tests.support.small_matrix import CP311, CP312, SmallWorld

PLATFORM = "x86_64-manylinux_2_28"


@pytest.fixture
def index():
    with PackageIndex() as made:
        yield made


@pytest.fixture
def world(tmp_path, index, monkeypatch):
    """A small matrix whose packages are on an index that uv takes for its own."""
    return SmallWorld(tmp_path / "world", index).in_use(monkeypatch)


@pytest.mark.parametrize("form", ["json", "html"])
def test_releases_are_told_in_order_with_what_their_wheels_run_on(index, form):
    index.json = form == "json"
    index.add("torch", "2.10.0", tag=CP311)
    index.add("torch", "2.10.0", tag=CP312)
    index.add("torch", "2.9.1", tag="cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64")
    index.add("torch", "2.11.0.dev20260101+cpu", tag="cp311-cp311-linux_x86_64")
    index.add("torch", "2.8.0", tag="cp311-cp311-win_amd64")
    index.add("torch", "2.7.0", tag="cp311-cp311-manylinux_2_34_x86_64")
    index.add("torch", "2.6.0", tag="cp311-cp311t-manylinux_2_28_x86_64")

    found = {str(one.version): one for one in releases("torch", index.url)}

    assert list(found) == ["2.6.0", "2.7.0", "2.8.0", "2.9.1", "2.10.0", "2.11.0.dev20260101+cpu"]
    assert [v for v, one in found.items() if one.has_wheel("3.11", PLATFORM)] == ["2.10.0", "2.11.0.dev20260101+cpu"]
    assert found["2.10.0"].pythons(PLATFORM) == ["3.11", "3.12"]
    assert found["2.9.1"].pythons(PLATFORM) == ["3.12"]
    assert [found[v].pythons(PLATFORM) for v in ("2.8.0", "2.7.0", "2.6.0")] == [[], [], []]


@pytest.mark.parametrize("form", ["json", "html"])
@pytest.mark.parametrize(("said", "told"), [("too slow", "too slow"), (True, "no reason given"), (False, None)])
def test_a_yanked_release_is_told_as_such(index, form, said, told):
    index.json = form == "json"
    index.add("torch", "2.9.0", tag=CP311, yanked=said)

    (one,) = releases("torch", index.url)

    assert one.yanked == told
    assert one.has_wheel("3.11", PLATFORM) == (told is None)


def test_a_release_is_as_new_as_its_last_file_and_no_time_is_not_an_early_one(index):
    index.add("torch", "2.9.0", tag=CP311, uploaded="2025-10-15T10:00:00Z")
    index.add("torch", "2.9.0", tag=CP312, uploaded="2025-10-16T12:00:00+02:00")
    index.add("torch", "2.9.1", uploaded=None)

    assert uploaded("torch", "2.9.0", index.url) == datetime(2025, 10, 16, 10, tzinfo=UTC)
    assert uploaded("torch", "2.9.1", index.url) is None
    with pytest.raises(InfrastructureError, match=r"has no torch 2\.9\.2\.$"):
        uploaded("torch", "2.9.2", index.url)


def test_a_file_that_is_no_distribution_is_left_out(index):
    index.add("torch", "2.9.0", tag=CP311)
    for name in ("torch-2.9.1.exe", "torch-what.whl", "torch-not.a.version.tar.gz"):
        index.projects["torch"][name] = index.projects["torch"][f"torch-2.9.0-{CP311}.whl"]
    index.projects["torch"]["torch-1.0.tar.gz"] = index.projects["torch"]["torch-2.9.1.exe"]

    assert [str(one.version) for one in releases("torch", index.url)] == ["1.0", "2.9.0"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(500, "answers with 500"), (404, "has no torch"), (403, "answers with 403")],
)
def test_an_index_that_does_not_answer_well_is_a_sentence_without_the_password(index, status, said):
    index.status = status
    url = index.url.replace("://", "://me:secret@")

    with pytest.raises(InfrastructureError, match=said) as caught:
        releases("torch", url)

    assert "secret" not in str(caught.value)


def test_an_index_that_is_not_there_is_a_sentence(index):
    with pytest.raises(InfrastructureError, match=r"http://127\.0\.0\.1:1/simple does not say what it has of torch: "):
        releases("torch", "http://127.0.0.1:1/simple")


def test_a_password_in_the_url_is_used(index):
    index.password = "me:secret"
    index.add("torch", "2.9.0", tag=CP311)

    assert len(releases("torch", index.url.replace("://", "://me:secret@"))) == 1
    with pytest.raises(InfrastructureError, match="answers with 401"):
        releases("torch", index.url)


def test_the_index_is_uv_s_own():
    assert index_url({"UV_DEFAULT_INDEX": "a", "UV_INDEX_URL": "b"}) == "a"
    assert index_url({"UV_INDEX_URL": "b", "UV_INDEX": "other=c"}) == "b"
    assert index_url({}).startswith("https://")


def test_a_platform_whose_wheels_cannot_be_told_is_a_sentence(index):
    index.add("torch", "2.9.0", tag=CP311)
    (one,) = releases("torch", index.url)

    with pytest.raises(UsageError, match=r"platform is 'macos'.*such as x86_64-manylinux_2_28\.$"):
        one.has_wheel("3.11", "macos")


# ---- locks, by the real uv


def lock(world: SmallWorld, version: str, text: str | None = None):
    """Lock a version for the CPU; `text` is the matrix."""
    if text is not None:
        world.matrix.write_text(text, encoding="utf-8")
    home = Home(world.root / "home")
    write_locks(load_matrix(world.matrix), world.root / "locks", [version], partial(run_uv, home), ("cpu",))
    return read_lock(lock_path(world.root / "locks", version, "cpu"))


def edited(world: SmallWorld, old: str, new: str) -> str:
    text = world.matrix.read_text(encoding="utf-8")
    assert text.count(old) == 1
    return text.replace(old, new)


DEV = "2.9.0.dev20250801+cpu"


def with_nightly(world: SmallWorld, url: str) -> str:
    text = edited(world, '  - "2.8.0"\n', f'  - "2.8.0"\n  - {{version: {DEV}, index: nightly}}\n')
    return text.replace("\n# The versions.", f"\nindexes:\n  nightly: {url}\n\n# The versions.")


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("form", ["json", "html"])
def test_a_build_from_another_index_is_locked_and_installed_by_hash_like_any_other(world, hashes, form):
    """Only what torch brings along comes from there: that index has a newer sympy and another stack, too."""
    with PackageIndex(json=form == "json", hashes=hashes) as nightly:
        world.torch(DEV, index=nightly, uploaded=None, requires=["sympy", "triton==3.4.0+git1234"])
        nightly.add("triton", "3.4.0+git1234", uploaded=None)
        nightly.add("sympy", "3.0", uploaded=None)
        nightly.add("stack", "2.0", uploaded=None)

        found = lock(world, DEV, with_nightly(world, nightly.url))
        home = Home(world.root / "home")
        made = ensure_environment(home, load_matrix(world.matrix), world.root / "locks", DEV, "cpu")

    expected = {"torch": DEV, "triton": "3.4.0+git1234", "sympy": "1.0", "stack": "1.0", "faiss-cpu": "1.0"}
    assert found.packages == expected == made.packages
    assert found.indexes == ("nightly",)
    assert "127.0.0.1" not in found.path.read_text(encoding="utf-8")


def test_an_index_that_the_matrix_lost_is_a_sentence(world):
    with PackageIndex() as nightly:
        world.torch(DEV, index=nightly)
        lock(world, DEV, with_nightly(world, nightly.url))
    world.matrix.write_text(edited(world, f"{{version: {DEV}, index: nightly}}", f'"{DEV}"'))
    without = world.matrix.read_text().replace("indexes:\n  nightly:", "indexes:\n  other:")
    world.matrix.write_text(without)

    with pytest.raises(UsageError, match="no index 'nightly', which a lock names"):
        ensure_environment(Home(world.root / "home"), load_matrix(world.matrix), world.root / "locks", DEV, "cpu")


def test_what_does_not_fit_together_is_told_from_an_index_that_is_down(world):
    world.torch("2.8.0", requires=["nothing-of-this-name"])
    with pytest.raises(CannotBeLocked, match="No solution found"):
        lock(world, "2.8.0")

    world.index.status = 500
    with pytest.raises(InfrastructureError) as caught:
        lock(world, "2.8.0")
    assert not isinstance(caught.value, CannotBeLocked)


def test_a_version_that_stands_for_a_build_of_it_is_refused(world):
    """PEP 440: `==2.8.0` is also 2.8.0+cpu, which would be locked under another name."""
    world.torch("2.8.0")
    world.torch("2.8.0+cpu")

    with pytest.raises(CannotBeLocked, match=r"for torch 2\.8\.0 uv takes 2\.8\.0\+cpu; name that version"):
        lock(world, "2.8.0")


def test_a_newer_release_is_locked_as_of_its_own_upload(world):
    """Triton is torch's own and came with it; sympy keeps the matrix's date, and a later Triton does not enter."""
    world.torch("2.8.0", uploaded="2025-08-01T00:00:00Z", requires=["sympy", "triton>=3"])
    world.index.add("triton", "3.4.0", uploaded="2025-08-01T00:00:00Z")
    world.index.add("triton", "3.5.0", uploaded="2025-09-01T00:00:00Z")

    found = lock(world, "2.8.0")

    assert (found.packages["triton"], found.packages["sympy"]) == ("3.4.0", "1.0")


PYTHON = '  - {versions: ["2.8.0"], python: "3.12", reason: This one has no wheel for 3.11.}\n'


def test_another_python_is_part_of_the_lock_and_of_its_digest(world):
    world.torch("2.8.0", tags=[CP311, CP312])
    plain = lock(world, "2.8.0")
    other = lock(world, "2.8.0", edited(world, "oddities: []\n", f"oddities:\n{PYTHON}"))

    assert (plain.python, other.python) == (None, "3.12")
    assert plain.packages == other.packages
    assert plain.digest != other.digest


def test_a_version_without_a_wheel_for_the_matrix_s_python_can_name_another(world):
    world.torch("2.8.0", tags=[CP312])
    with pytest.raises(CannotBeLocked, match=r"2\.8\.0"):
        lock(world, "2.8.0")

    assert lock(world, "2.8.0", edited(world, "oddities: []\n", f"oddities:\n{PYTHON}")).packages["torch"] == "2.8.0"


def test_locks_without_such_lines_have_the_digest_that_they_had(tmp_path):
    """The cells of years are stored under it."""
    path = Path(__file__).parents[2] / "locks" / "cpu" / "torch-2-8-0.txt"
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    from blake3 import blake3

    content = "\n".join(line for line in lines if line and not line.startswith("#"))
    assert read_lock(path).digest == blake3(content.encode()).hexdigest()

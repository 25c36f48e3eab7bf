"""Blame: grouping, counterfactual locks, delta debugging, and claims in both directions only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.environments import counterfactual as counterfactual_module
from harness.environments.changes import Change
from harness.environments.counterfactual import Party, environment_with, remove_abandoned
from harness.environments.interpreter import Interpreter
from harness.environments.lockfile import exchanged, lock_of, read_lock
from harness.environments.uv import BuildFailed
from harness.errors import UsageError
from harness.explain.blame import Answer, find, suspects
from harness.explain.laboratory import Laboratory
from harness.explain.pair import Side
from harness.explain.probing import Probe, Seen, StepsAlone, WholeJob
from harness.explain.units import AS_A, AS_B, UNRESOLVED, Outcome, Unit, narrow, units_of
from harness.flock import hold
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from harness.report import blame_text
from harness.report.blame_text import sentence
from harness.report.older import blamed_by
from harness.running.recover import left_runs
from tests.support.observers import observer
from tests.support.sites import package

ROOT = Path(__file__).parents[2]
UNITS = tuple(Unit(name, (name,)) for name in ("torch", "cublas", "triton", "sympy"))


def changed(*packages: str | tuple[str, str, str]) -> tuple[Change, ...]:
    """Packages that differ, by name or with their versions."""
    rows = [(one, "1", "2") if isinstance(one, str) else one for one in packages]
    return tuple(Change(name, old, name, new) for name, old, new in rows)


def test_torch_itself_is_blamed_when_both_directions_show_it() -> None:
    found = find(UNITS, observer({"torch"}))

    assert found.guilty == ("torch",)
    assert "torch itself" in sentence(found, "2.7.1", "2.8.0")


def test_a_library_is_blamed_with_its_versions_and_what_torch_alone_does_is_said() -> None:
    differing = changed(
        ("torch", "2.6.0", "2.7.0"),
        ("nvidia-cublas-cu12", "12.4.5.8", "12.6.4.1"),
        ("nvidia-nccl-cu12", "1", "2"),
    )
    found = find(units_of(differing, apart=True), observer({"nvidia-cublas-cu12"}))

    assert found.guilty == ("nvidia-cublas-cu12",)
    assert sentence(found, "2.6.0", "2.7.0").startswith(
        "nvidia-cublas-cu12 12.4.5.8 -> 12.6.4.1: exchanging it alone exchanges the result"
    )
    assert "torch 2.6.0 -> 2.7.0 alone: exchanging it changes nothing, in either direction" in sentence(
        found, "2.6.0", "2.7.0"
    )
    assert {o.base for o in found.tried if o.units == ("torch",)} == {"A", "B"}


def test_a_torch_that_does_not_import_alone_is_said_beside_the_guilty_library() -> None:
    found = find(UNITS, observer({"cublas"}, [{"torch"}]))

    assert found.guilty == ("cublas",)
    assert "torch alone: could not be exchanged (it does not import)" in sentence(found, "a", "b")


def test_two_packages_that_only_matter_together_are_blamed_together() -> None:
    found = find(UNITS, observer({"cublas", "sympy"}))

    assert set(found.guilty) == {"cublas", "sympy"}
    assert "together" in sentence(found, "a", "b")


def test_no_part_is_tried_alone_where_it_takes_several_wholes() -> None:
    """Each counterfactual is an environment and a job: what the wholes already said is not asked of their parts."""
    whole = units_of(changed("torch", "triton", "transformers", "tokenizers", "numpy"))
    found = find(whole, observer({"torch", "transformers"}))

    assert [unit.name for unit in found.blamed] == ["torch", "transformers"]
    parts = {unit.name for unit in found.units} - {unit.name for unit in whole if not unit.parts}
    assert {"triton", "tokenizers"} <= parts
    assert not [one for one in found.tried if one.base == "B" and {*one.units} in ({"triton"}, {"tokenizers"})]


@pytest.mark.parametrize("probe", [
    StepsAlone(None, {"encode": {}, "buckets": {}}), WholeJob(None, None, {"encode": ["D"], "buckets": ["ivf"]}, ""),  # type: ignore[arg-type]
])  # fmt: skip
def test_what_shows_no_difference_is_not_run_in_other_environments(probe: Probe) -> None:
    assert [*probe.of(["encode"]).steps] == ["encode"]


def test_an_override_that_does_not_import_is_an_outcome_and_nothing_is_claimed() -> None:
    found = find(UNITS[:1], observer({"torch"}, [{"torch"}]))

    assert found.guilty == ()
    assert "it does not import" in sentence(found, "a", "b")
    assert found.tried[0].outcome == "import_failed"


def test_what_could_not_be_separated_is_said_so() -> None:
    found = find(UNITS[:2], observer({"torch"}, [{"torch"}, {"cublas"}]))

    assert set(found.guilty) == {"torch", "cublas"}
    assert "could not be separated (torch alone: it does not import; cublas alone" in sentence(found, "a", "b")


def test_what_a_part_does_in_the_direction_in_which_it_imports_is_said() -> None:
    whole = observer({"torch"})

    def observe(base: str, units: Sequence[Unit]) -> Outcome:
        if len(units) == 1 and (base == "B" or units[0].name == "torch"):
            return Outcome(base, (units[0].name,), UNRESOLVED, "import_failed", "it does not import")
        return whole(base, units)

    found = find(UNITS[:2], observe)

    assert set(found.guilty) == {"torch", "cublas"}
    assert "In a, exchanging cublas alone changes nothing" in sentence(found, "a", "b")


def test_one_direction_alone_is_not_enough() -> None:
    def observe(base: str, units: Sequence[Unit]) -> Outcome:
        return Outcome(base, tuple(u.name for u in units), AS_A)

    assert find(UNITS, observe).guilty == ()


def test_no_difference_of_packages_blames_none() -> None:
    assert find((), observer(set())).guilty == ()


@pytest.mark.parametrize("number", [9, 20, 6])
def test_narrowing_gives_a_set_of_which_nothing_can_be_left_out(number: int) -> None:
    many = tuple(Unit(str(n), (str(n),)) for n in range(number))
    wanted = {"1", "4", str(number - 1)}
    found = narrow(many, lambda some: wanted <= {unit.name for unit in some})

    assert {unit.name for unit in found} == wanted


def test_nvidia_libraries_are_exchanged_together_and_torch_is_tried_first() -> None:
    found = units_of(changed("triton", "nvidia-cublas-cu12", "torch", "nvidia-cudnn-cu12"))

    assert [unit.name for unit in found] == ["torch", "NVIDIA libraries", "triton"]


def test_on_a_gpu_the_libraries_that_compute_are_units_of_their_own() -> None:
    names = ["triton", "nvidia-cudnn-cu12", "torch", "nvidia-cublas-cu12", "nvidia-nccl-cu12", "nvidia-nvtx-cu12"]
    found = units_of(changed(*names), apart=True)

    assert [unit.name for unit in found] == [
        "torch", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "other NVIDIA libraries", "triton",
    ]  # fmt: skip
    assert sorted(name for unit in found for name in unit.packages) == sorted(names)


def test_a_counterfactual_lock_takes_versions_and_hashes_from_the_other_side(tmp_path: Path) -> None:
    base, other = tmp_path / "b.txt", tmp_path / "a.txt"
    base.write_text(
        "numpy==1 \\\n    --hash=sha256:n\n    # via torch\ntorch==2 \\\n    --hash=sha256:t2\n"
        "triton==3 \\\n    --hash=sha256:x\n"
    )
    other.write_text("# made by nox\nnumpy==1 \\\n    --hash=sha256:n\ntorch==1 \\\n    --hash=sha256:t1\n")

    text = exchanged(base.read_text(), other.read_text(), ["torch", "triton"])

    assert "torch==1 \\\n    --hash=sha256:t1" in text
    assert "triton" not in text
    assert "numpy==1" in text


def test_two_that_need_the_same_counterfactual_take_turns_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither loses the environment because the other is done with it."""
    home = Home(tmp_path / "home")
    for version in ("1", "2"):
        (tmp_path / f"{version}.txt").write_text(f"torch=={version} \\\n    --hash=sha256:{version}{'0' * 63}\n")

    def build(_home: Home, path: Path, *_more: object, **_options: object) -> None:
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").touch()
        package(path / "lib" / "python3.11" / "site-packages", "torch", "2", {})

    monkeypatch.setattr(counterfactual_module, "build_pinned", build)
    one, other = (
        Party(version, read_lock(tmp_path / f"{version}.txt"), lambda: Interpreter(Path("python")))
        for version in ("1", "2")
    )
    matrix: Any = SimpleNamespace(python="3.11")
    first_is_in, events = threading.Event(), []

    def second() -> None:
        first_is_in.wait(10)
        with environment_with(home, matrix, one, other, ["torch"]) as found:
            events.append(f"second has it: {found.python.exists()}")

    thread = threading.Thread(target=second)
    thread.start()
    with environment_with(home, matrix, one, other, ["torch"]) as interpreter:
        first_is_in.set()
        thread.join(0.3)
        events.append(f"first has it: {interpreter.python.exists()}")
    thread.join(10)

    assert events == ["first has it: True", "second has it: True"]
    assert list(home.environments.iterdir()) == []


def test_what_a_killed_blame_left_goes_with_the_next_one_and_what_another_uses_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    for version in ("1", "2"):
        (tmp_path / f"{version}.txt").write_text(f"torch=={version} \\\n    --hash=sha256:{version}{'0' * 63}\n")
    one, other = (
        Party(name, read_lock(tmp_path / f"{name}.txt"), lambda: Interpreter(Path("python"))) for name in "12"
    )

    def build(_home: Home, path: Path, *_more: object, **_options: object) -> None:
        package(path / "lib" / "python3.11" / "site-packages", "torch", "2", {})

    monkeypatch.setattr(counterfactual_module, "build_pinned", build)
    killed, used = (home.environments / f"counterfactual-{name}" for name in ("killed", "used"))
    for path in (killed, used):
        package(path, "torch", "1", {"torch/__init__.py": ""})
        path.with_suffix(".txt").write_text("torch==1")
    matrix: Any = SimpleNamespace(python="3.11")
    with hold(home.environments / ".counterfactual-used.lock"):
        assert [one.path for one in left_runs(home)] == ["envs/counterfactual-killed"]
        with environment_with(home, matrix, one, other, ["torch"]):
            assert (killed.exists(), killed.with_suffix(".txt").exists()) == (False, False)
        assert used.exists()
        assert used.with_suffix(".txt").exists()
    remove_abandoned(home)

    assert list(home.environments.iterdir()) == []


def test_an_environment_that_uv_built_with_other_packages_than_were_asked_for_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        (tmp_path / f"{version}.txt").write_text(f"torch=={version} \\\n    --hash=sha256:{version}{'0' * 63}\n")
    monkeypatch.setattr(counterfactual_module, "build_pinned", lambda _home, path, *_more, **_options: path.mkdir())
    one, other = (
        Party(name, read_lock(tmp_path / f"{name}.txt"), lambda: Interpreter(Path("python"))) for name in "12"
    )
    matrix: Any = SimpleNamespace(python="3.11")

    with (
        pytest.raises(BuildFailed, match="torch is missing instead of 2"),
        environment_with(Home(tmp_path / "home"), matrix, one, other, ["torch"]),
    ):
        pass


def test_a_version_and_an_interpreter_of_another_python_are_refused_before_anything_is_made() -> None:
    version = lock_of(load_matrix(ROOT / "matrix.yaml"), ROOT / "locks", "2.8.0", "cpu")
    own = replace(version, own={"kind": "interpreter", "torch": "2.8.0"}, interpreter="CPython 3.12.1")
    locks = {"2.8.0": version, "next": own}
    # It has nothing that could run or build.
    experiment: Any = SimpleNamespace(lock=locks.__getitem__, selection=SimpleNamespace(sites=None))

    with pytest.raises(UsageError, match=r"2\.8\.0 and next: one runs CPython 3\.11, the other CPython 3\.12"):
        suspects(experiment, "2.8.0", "next")


VERSIONS: dict[str, tuple[str | None, str | None]] = dict.fromkeys(
    ("torch", "nvidia-nccl-cu12", "nvidia-cusparselt-cu12", "nvidia-cublas-cu12"), ("1", "2")
)


def _brought(folder: Path, version: str, result: str) -> Path:
    """A site folder as of 2.7.1 and 2.8.0: the older torch loads only beside its own cuSPARSELt, the newer its NCCL."""
    package(folder, "torch", version, {"torch/lib/libtorch_cuda.so": result})
    package(folder, "nvidia-nccl-cu12", version, {"nvidia/nccl/lib/libnccl.so.2": f"\0ncclNew{version}\0"})
    package(folder, "nvidia-cusparselt-cu12", version, {f"lt{version}/libcusparseLt.so.{version}": ""})
    package(folder, "nvidia-cublas-cu12", version, {"nvidia/cublas/lib/libcublas.so.12": "ncclNew1 ncclNew2"})
    return folder


def _loads(site: Path) -> tuple[str, str, str]:
    """What the dynamic loader would say, and the result, which only torch decides."""
    result = (site / "torch/lib/libtorch_cuda.so").read_text()
    if result == "new" and "ncclNew2\0" not in (site / "nvidia/nccl/lib/libnccl.so.2").read_text():
        where = f"ImportError: {site}/torch/lib/libtorch_cuda.so"
        return "import_failed", f"{where}: undefined symbol: ncclNew2", ""
    if result == "old" and not (site / "lt1/libcusparseLt.so.1").exists():
        missing = "libcusparseLt.so.1: cannot open shared object file: No such file or directory"
        return "import_failed", f"ImportError: {missing}", ""
    return "ok", "", result


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    """Two brought environments that differ in four packages; jobs only load torch."""
    sites = {"1": _brought(tmp_path / "1", "1", "old"), "2": _brought(tmp_path / "2", "2", "new")}
    for version in sites:
        pins = (f"{name}=={version} \\\n    --hash=sha256:{version}{'0' * 63}\n" for name in VERSIONS)
        (tmp_path / f"{version}.txt").write_text("".join(pins))
    experiment: Any = SimpleNamespace(
        home=Home(tmp_path / "home"), matrix=None, brought=lambda version: Interpreter(Path("python"), sites[version]),
        lock=lambda version: read_lock(tmp_path / f"{version}.txt"),
    )  # fmt: skip
    a, b = (
        SimpleNamespace(
            cell=SimpleNamespace(version=version), interpreter=lambda site=site: Interpreter(Path("python"), site)
        )
        for version, site in sites.items()
    )

    return Laboratory(experiment, SimpleNamespace(a=a, b=b), Loading(), lambda _text: None)  # type: ignore[arg-type]


class Loading:
    """A probe that only loads torch; see `_loads`."""

    steps, means = ("load",), "alone"

    def __call__(self, _side: Side, interpreter: Interpreter) -> dict[str, Seen]:
        assert interpreter.site is not None
        return {"load": self.seen(interpreter.site)}

    def seen(self, site: Path) -> Seen:
        return Seen(*_loads(site))

    def own(self, side: Side) -> dict[str, Seen]:
        return self(side, side.interpreter())

    def of(self, _steps: Collection[str]) -> Loading:
        return self


def test_a_torch_that_needs_its_own_libraries_to_load_takes_them_along(laboratory: Laboratory) -> None:
    found = find(units_of(changed(*VERSIONS), apart=True), laboratory.observe("load", ("old", "new")))

    assert found.guilty == ("torch",)
    assert sentence(found, "1", "2").startswith(
        "torch 1 -> 2: exchanging it together with nvidia-cusparselt-cu12 and nvidia-nccl-cu12, without which it does "
        "not load, exchanges the result, bit for bit, in both directions. nvidia-cublas-cu12 1 -> 2 alone: exchanging "
        "it changes nothing, in either direction."
    )
    assert sentence(found, "1", "2").endswith(
        "Everything else, but for nvidia-cusparselt-cu12 and nvidia-nccl-cu12: exchanging it changes nothing, in "
        "either direction."
    )
    alone = next(o for o in found.tried if o.base == "B" and o.units == ("torch",))
    assert alone.along == ("nvidia-cusparselt-cu12",)


def test_a_library_without_which_torch_does_not_load_cannot_be_exchanged(laboratory: Laboratory) -> None:
    needed = Unit("nvidia-cusparselt-cu12", ("nvidia-cusparselt-cu12",))
    tried = laboratory.observe("load", ("old", "new"))("A", [needed])

    assert tried.result == UNRESOLVED
    assert "libcusparseLt.so.1: cannot open" in tried.reason
    assert (tried.along, tried.kept) == ((), ())


def test_a_module_that_torch_imports_comes_along_with_what_it_requires_itself(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """As with 1.13.1 and 2.0.0: torch says the same without sympy as with it and without mpmath, in a NameError."""
    with (tmp_path / "2.txt").open("a") as lock:
        for name, parent in (("sympy", "torch"), ("mpmath", "sympy"), ("lit", "torch")):
            package(tmp_path / "2", name, "2", {f"{name}/__init__.py": ""})
            lock.write(f"{name}==2 \\\n    --hash=sha256:2{'0' * 63}\n    # via {parent}\n")

    class Needing(Loading):
        def seen(self, site: Path) -> Seen:
            found = super().seen(site)
            if found.digest == "new" and not all((site / name).exists() for name in ("sympy", "mpmath")):
                return Seen("crashed", "NameError in phase import: name 'sympy' is not defined")
            return found

    laboratory = replace(laboratory, probe=Needing())

    tried = laboratory.observe("load", ("old", "new"))("A", [Unit("torch", ("torch",))])

    assert tried.result == AS_B
    assert tried.along == ("mpmath", "nvidia-nccl-cu12", "sympy")


def test_a_row_says_which_packages_were_exchanged_in_fact(laboratory: Laboratory) -> None:
    found = find(units_of(changed(*VERSIONS), apart=True), laboratory.observe("load", ("old", "new")))
    cell = SimpleNamespace(cell=SimpleNamespace(label="1"))
    answer = Answer(found.units, (found,))
    written = blame_text.rows(answer, SimpleNamespace(a=cell, b=cell), VERSIONS)  # type: ignore[arg-type]

    packages = {(row["base"], row["what"]): row["packages"] for row in written}
    assert {tuple(row["blamed"]) for row in written} == {("torch",)}
    assert blamed_by(written) == ["torch"]
    assert packages["B", "torch"] == "torch,nvidia-cusparselt-cu12"
    assert packages["A", "torch"] == "torch,nvidia-nccl-cu12"
    assert packages["B", "nvidia-cublas-cu12,other NVIDIA libraries"] == "nvidia-cublas-cu12,nvidia-cusparselt-cu12"


def test_what_the_other_unit_left_behind_is_said(laboratory: Laboratory) -> None:
    """Without the libraries apart, as on a CPU."""
    found = find(units_of(changed(*VERSIONS)), laboratory.observe("load", ("old", "new")))

    assert (
        " NVIDIA libraries, but for nvidia-cusparselt-cu12 and nvidia-nccl-cu12, alone: exchanging it changes nothing, "
        "in either direction." in sentence(found, "1", "2")
    )


def _world_in_which_torch_needs(library: str, guilty: str) -> Callable[[str, Sequence[Unit]], Outcome]:
    """Torch takes `library` along; whoever exchanges `guilty` exchanges the result."""

    def observe(base: str, units: Sequence[Unit]) -> Outcome:
        names = {unit.name for unit in units}
        along = {library} - names if "torch" in names else set()
        # The library can be exchanged without torch only in the newer.
        kept = {library} & names if "torch" not in names and base == "A" else set()
        taken = (names | along) - kept
        if not taken:
            return Outcome(base, tuple(names), UNRESOLVED, "import_failed", "it does not import")
        result = (AS_A if base == "B" else AS_B) if guilty in taken else (AS_B if base == "B" else AS_A)
        return Outcome(base, tuple(names), result, along=tuple(along), kept=tuple(kept))

    return observe


def test_a_library_that_torch_takes_along_is_not_cleared_by_torch() -> None:
    """It alone does it in the newer; in the older it was never exchanged without torch."""
    found = find(UNITS, _world_in_which_torch_needs("cublas", "cublas"))

    assert found.guilty != ("torch",)
    assert "cublas" in sentence(found, "a", "b")


def test_what_went_along_and_was_never_exchanged_alone_is_not_cleared() -> None:
    found = find(UNITS, _world_in_which_torch_needs("cublas", "torch"))

    assert set(found.guilty) == {"torch", "cublas"}
    assert "which of them does it could not be separated" in sentence(found, "a", "b")
    assert "Everything else, but for cublas: exchanging it changes nothing" in sentence(found, "a", "b")


def test_what_went_along_with_a_bystander_is_named() -> None:
    world = _world_in_which_torch_needs("sympy", "cublas")
    found = find(UNITS, world)

    assert found.guilty == ("cublas",)
    assert " torch alone (with sympy, to load): exchanging it changes nothing, in either direction." in sentence(
        found, "a", "b"
    )

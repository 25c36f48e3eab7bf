"""Both sides of a pair are repeated, what either changes is noise, and noise is followed to its step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.environments.interpreter import Interpreter
from harness.explain import pair as pairs
from harness.explain.locate import Location
from harness.explain.noise import Noise, noise_of
from harness.explain.pair import Pair, Side, prepare_pair
from harness.explain.replay import UNSTABLE, CallVerdict
from harness.report.location_text import noise_sentence, sentences
from harness.store.cell import Artifact, Cell
from tests.support.cell_specs import cell, spec

Prepare = Callable[..., Pair]


def _cell(version: str, repeat: int = 0, **digests: str) -> Cell:
    named = {"sample_pids": "same", "centroids_raw": "same"} | digests
    artifacts = {name: Artifact(digest, "float32", (1,), "intermediate", True) for name, digest in named.items()}
    return cell(spec(version, repeat=repeat), artifacts=artifacts)


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """`prepare_pair` over cells that are there already, by version and repeat."""

    def run(a: str, b: str, repeats: int, *different: tuple[str, int]) -> Pair:
        def plan(_experiment: object, versions: list[str], wanted: dict[str, int]) -> list[Any]:
            runs = [(v, repeat) for v in versions for repeat in range(wanted.get(v, 0) + 1)]
            return [SimpleNamespace(spec=SimpleNamespace(version=v, repeat=repeat, label=v)) for v, repeat in runs]

        def cells(_experiment: object, planned: list[Any], *_args: object, **_options: object) -> list[Cell]:
            named = [(one.spec.version, one.spec.repeat) for one in planned]
            return [_cell(*name, centroids_raw="other" if name in different else "same") for name in named]

        monkeypatch.setattr(pairs, "plan_cells", plan)
        monkeypatch.setattr(pairs, "run_needed", lambda _experiment, versions, _run: (versions, []))
        monkeypatch.setattr(pairs, "run_plan", cells)
        monkeypatch.setattr(pairs, "stopped_early", lambda *_: "")
        monkeypatch.setattr(pairs, "workbench", lambda _experiment: None)
        experiment: Any = SimpleNamespace(require=str, store=None, job=SimpleNamespace(ranks=1))
        return prepare_pair(experiment, a, b, repeats=repeats)

    return run


@pytest.mark.parametrize("noisy", ["2.7.1", "2.8.0"])
def test_what_a_repeat_of_either_side_changes_is_noise(prepare: Prepare, noisy: str) -> None:
    pair = prepare("2.7.1", "2.8.0", 1, (noisy, 1))

    assert pair.noise == {"centroids_raw"}
    assert (len(pair.again_a), len(pair.again_b)) == (1, 1)


def test_without_repeats_the_noise_floor_is_unknown(prepare: Prepare) -> None:
    pair = prepare("2.7.1", "2.8.0", 0)

    assert (pair.noise, pair.repeats, pair.again_a, pair.again_b) == (frozenset(), 0, (), ())


def test_a_version_against_itself_is_two_runs_and_a_third_for_the_noise_floor(prepare: Prepare) -> None:
    pair = prepare("2.7.1", "2.7.1", 1)

    assert [pair.a.cell.label, pair.b.cell.label] == ["2.7.1", "2.7.1#1"]
    assert [cell.label for cell in pair.again_a] == ["2.7.1#2"]
    assert pair.again_b == ()


def _pair(first: Cell, second: Cell) -> Pair:
    store: Any = None
    bench: Any = None
    sides = [Side(cell, lambda: Interpreter(Path("python"))) for cell in (first, second)]
    return Pair(sides[0], sides[1], frozenset(), 1, store, bench)


def test_equal_runs_have_no_noise(tmp_path: Path) -> None:
    pair = _pair(_cell("2.7.1"), _cell("2.8.0"))

    assert noise_of(pair, pair.a, [_cell("2.7.1", 1), _cell("2.7.1", 2)], tmp_path) is None


def test_noise_of_a_step_that_cannot_be_run_by_itself_is_named_without_a_call(tmp_path: Path) -> None:
    pair = _pair(_cell("2.7.1"), _cell("2.8.0"))
    noise = noise_of(pair, pair.a, [_cell("2.7.1", 1), _cell("2.7.1", 2, sample_pids="other")], tmp_path)

    assert noise is not None
    assert noise.sources == {"sample passages": ()}
    assert noise_sentence(noise).endswith("sample_pids change when it is run again, first in sample passages.")


def test_locate_says_where_noise_comes_from() -> None:
    noise = Noise("2.8.0", ("batches",), {"encode": (CallVerdict("operator", "m", "aten.mm", 0, UNSTABLE),)})
    said = sentences(Location("2.7.1", "2.8.0", 1, (), {}, (), (noise,)))

    assert "each was run 1 more time" in said[0]
    assert (
        said[-1] == "2.8.0 is not repeatable: batches change when it is run again, first in encode (operator aten.mm)."
    )

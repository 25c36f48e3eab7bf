"""Repro scripts: short, of torch only, of little data, and what they print is kept beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.environments.interpreter import Interpreter
from harness.explain import repro
from harness.explain.locate import StepFinding
from harness.explain.replay import CallVerdict
from harness.explain.repro import DATA_LIMIT, LIBRARIES, Data
from harness.explain.trim import SMALL, Window, windows
from harness.tensors.tensor import Tensor
from tests.support.scripts import imported

SCRIPTS = sorted((Path(__file__).parents[2] / "results" / "repro").glob("*/*.py"))

LARGEST_PRODUCT = 1 << 20
"""Bytes of a product's input that a repository should have to hold."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_kept_script_is_short_and_needs_only_torch(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    # One whose operator ran on a GPU asks for cuBLAS's version.
    more = {"importlib"} if '"cuda"' in text else set()

    assert len(text.splitlines()) <= 40
    assert imported(text) == {"os", "torch"} | more


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_kept_script_has_its_data_and_showed_no_difference_in_a_and_one_in_b(script: Path) -> None:
    a, b = script.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[:2]
    data = script.with_suffix(".bin")

    # cuBLAS and MKL choose a kernel by the shape, so that a product may show its difference only with all columns of
    # its matrix, or as a part of its batch.
    assert 0 < data.stat().st_size <= (LARGEST_PRODUCT if "mm_" in script.name else SMALL)
    assert LARGEST_PRODUCT < DATA_LIMIT
    assert ": 0 of " in a
    assert ": 0 of " not in b
    assert script.parent.name.split("-")[0] in a
    assert script.parent.name.split("-")[1] in b


@pytest.mark.parametrize(
    ("cuda", "installed", "said"),
    [
        ("13.0", ["nvidia-cublas 13.1.0.3", "nvidia-cublas-cu12 12.9.1.4"], "CUDA 13.0, nvidia-cublas 13.1.0.3"),
        ("11.7", ["torch 2.0.1", "nvidia-cublas-cu11 11.10.3.66"], "CUDA 11.7, nvidia-cublas-cu11 11.10.3.66"),
        ("12.8", ["torch 2.8.0"], "CUDA 12.8"),
    ],
)
def test_a_script_on_a_gpu_names_the_cublas_of_its_torch_and_not_the_one_of_faiss(
    cuda: str, installed: list[str], said: str
) -> None:
    there = [SimpleNamespace(name=one.split()[0], version=one.split()[1]) for one in installed]
    names: dict[str, Any] = {
        "distributions": lambda: there, "torch": SimpleNamespace(version=SimpleNamespace(cuda=cuda)),
    }  # fmt: skip
    exec(LIBRARIES, names)

    assert names["libraries"] == said


@pytest.mark.parametrize("mixed", [True, False])
def test_a_call_under_autocast_is_made_under_autocast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, mixed: bool
) -> None:
    """Without, a matrix product would be one in float32, and no such kernel ran."""
    held = Tensor.of(np.ones((2, 2), np.float32))
    reference = {"tensor": "one", "dtype": "float32", "shape": [2, 2], "stride": [2, 1], "offset": 0, "device": "cuda"}
    call = {**_call(reference, reference), "kind": "function", "name": "torch.mm", "result": reference, "inner": 0,
            "mixed": mixed}  # fmt: skip
    result = {"result": {**reference, "tensor": "another"}}
    monkeypatch.setattr(repro, "trim", lambda *_: (Window({}, [], 4), held, ""))
    monkeypatch.setattr(repro, "tensor", lambda *_: held)
    verdict = CallVerdict("function", "", "torch.mm", 0, "origin", index=0)
    side = SimpleNamespace(cell=SimpleNamespace(version="2.7.1", spec=SimpleNamespace(settings={})))
    pair = SimpleNamespace(
        a=side, b=side, bench=SimpleNamespace(device_kind="cuda"), kind=SimpleNamespace(name="train")
    )
    script = tmp_path / "mm.py"

    repro._write(pair, StepFinding("forward", (), "ok"), verdict, [call], [result], (tmp_path, tmp_path), script)  # type: ignore[arg-type]

    around = next(line for line in script.read_text().splitlines() if line.startswith("with torch.inference_mode()"))
    assert ('torch.autocast("cuda")' in around) is mixed


def _argument(*shape: int) -> dict[str, Any]:
    return {"tensor": "digest", "dtype": "float32", "shape": list(shape)}


def _call(*args: Any) -> dict[str, Any]:
    return {"args": {"tuple": list(args)}, "kwargs": {"dict": []}}


def test_windows_hold_the_element_that_differs_and_come_by_size_with_the_whole_last() -> None:
    found = windows(_call(_argument(3, 100), 0.5), (3, 100), (1, 70))

    assert all(a.size <= b.size for a, b in pairwise(found))
    assert found[0].args == {0: [(0, 1, 2), (1, 70, 71)]}
    assert (found[-1].args, found[-1].size) == ({}, 300)
    for window in found:
        for dimension, start, stop in window.result:
            assert start <= (1, 70)[dimension] < stop <= (3, 100)[dimension]


def test_an_argument_is_cut_where_it_is_as_long_as_the_result_counted_from_the_last_dimension() -> None:
    """A bias is cut with the columns of a product, the left factor with its rows, and the inner dimension never is."""
    found = windows(_call(_argument(6), _argument(4, 5), _argument(5, 6)), (4, 6), (0, 2))
    cuts = {(place, dimension) for window in found for place, some in window.args.items() for dimension, *_ in some}

    assert cuts == {(0, 0), (1, 0), (2, 1)}
    assert found[0].size == 1 + 5 + 5


def test_however_many_dimensions_there_are_the_windows_are_few() -> None:
    assert len(windows(_call(_argument(*[5000] * 5)), [5000] * 5, [17] * 5)) <= 601


def test_a_result_that_no_argument_resembles_is_not_cut() -> None:
    (whole,) = windows(_call(_argument(5)), (), ())

    assert whole.args == {}


def test_the_data_file_holds_each_tensor_where_the_script_looks_for_it() -> None:
    data = Data("cpu")
    three, halves = np.arange(3, dtype=np.float32), np.array([1, 2], np.uint16)
    calls = [data.add(Tensor.of(three)), data.add(Tensor.of(halves, "bfloat16"), ", (1,)")]

    assert calls == ["tensor(0, torch.float32, (3,))", "tensor(64, torch.bfloat16, (2,), (1,))"]
    assert data.content[:12] == three.tobytes()
    assert data.content[64:] == halves.tobytes()
    assert data.add(Tensor.of(np.zeros((0, 4), np.float32))).startswith("torch.empty((0, 4)")


def test_a_script_runs_when_it_is_its_turn_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, told = tmp_path / "script.py", []
    script.write_text("import os; print(os.path.exists('mine')); print('done')")
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def turn(_home: object, kind: str, _say: object) -> Iterator[list[int]]:
        Path("mine").touch()
        yield []
        told.append(kind)
        Path("mine").unlink()

    monkeypatch.setattr(repro, "gpu_turn", turn)
    pair: Any = SimpleNamespace(bench=SimpleNamespace(home=None, device_kind="cuda", say=print))
    side: Any = SimpleNamespace(
        interpreter=lambda: Interpreter(Path(sys.executable)),
        cell=SimpleNamespace(spec=SimpleNamespace(environment={})),
    )

    assert repro.run_script(pair, side, script) == "True; done"
    assert told == ["cuda"]

"""A step of the index or search job, run by itself from stored artifacts."""

from __future__ import annotations

import functools
from typing import Any

import torch
from safetensors.torch import load_file

from harness.worker import steps
from harness.worker.calls import Call, each_again, named_modules, resolve
from harness.worker.recording import Recorder, Shelf
from harness.worker.setting import Setting


class StepAlone:
    """A step, as the jobs `record`, `replay` and `step` run it.

    Args:
        cell: of one of these jobs: `step`, `inputs` (name to a safetensors file, or to those of all chunks), `rows`
            (name to the rows that are used), `checkpoint`, `settings`, `device`.
        phases: times and names the phases.

    Raises:
        Ended: `unsupported` where the step cannot run here.
    """

    def __init__(self, cell: dict[str, Any], phases: Any) -> None:
        self._cell, self._setting = cell, Setting.imported(cell, phases)
        with phases("load"):
            if cell["step"] in steps.ENCODING:
                self._setting.model()

    def run(self) -> steps.Tensors:
        """Run it as the job does; returns its outputs by name."""
        return self._run(self._cell["step"], self._inputs())

    def record(self, shelf: Shelf) -> tuple[list[Call], steps.Tensors]:
        """Run it with every call written down; returns its calls and its outputs."""
        recorder, name = Recorder(shelf, self._modules()), self._cell["step"]
        inputs = self._inputs()
        with recorder.recording():
            outputs = recorder.call("step", name, functools.partial(self._run, name), (inputs,), {})
        return recorder.calls, outputs

    def again(self, calls: list[Call], source: Shelf, target: Shelf) -> list[dict[str, Any]]:
        """Make each call of a recording again here; see `each_again`."""
        modules = self._modules()

        def finds(call: Call) -> Any:
            step = functools.partial(self._run, call["name"])
            return step if call["kind"] == "step" else resolve(call, modules)

        return each_again(calls, finds, source, target)

    def _run(self, name: str, given: steps.Tensors) -> steps.Tensors:
        return steps.run(name, self._setting, given)

    def _inputs(self) -> steps.Tensors:
        """The tensors of `inputs`, of which `rows` names the rows that are used.

        Those of an input that has its segments' lengths beside it, as `NAME_lengths`, are its segments.
        """
        whole = {name: _read(files) for name, files in self._cell["inputs"].items()}
        found = dict(whole)
        for name, bounds in self._cell.get("rows", {}).items():
            lengths = whole.get(f"{name}_lengths")
            start, stop = bounds if lengths is None else (int(lengths[:bound].sum()) for bound in bounds)
            found[name] = whole[name][start:stop].clone()
        return found

    def _modules(self) -> dict[str, Any]:
        return named_modules(self._setting.model()) if self._cell["step"] in steps.ENCODING else {}


def _read(files: str | list[str]) -> torch.Tensor:
    """A tensor, or those of several files one after the other."""
    if isinstance(files, str):
        return load_file(files)["tensor"]
    return torch.cat([load_file(file)["tensor"] for file in files])

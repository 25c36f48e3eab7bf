"""Interpreters for the versions of an experiment, built when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable

from harness.environments.build import ensure_environment
from harness.environments.interpreter import Interpreter
from harness.files import disk_errors
from harness.running.experiment import Experiment
from harness.running.job import Workbench


def interpreters(experiment: Experiment, note: Callable[[str], None]) -> Callable[[str], Callable[[], Interpreter]]:
    """Version to a function that returns its interpreter, building the environment if it is needed."""

    def of(version: str) -> Callable[[], Interpreter]:
        def interpreter() -> Interpreter:
            brought = experiment.brought(version)
            if brought is not None:
                return brought
            with disk_errors(experiment.home):
                environment = ensure_environment(
                    experiment.home,
                    experiment.matrix,
                    experiment.locks,
                    version,
                    experiment.device.flavour,
                    report=note,
                )
            return Interpreter(environment.python)

        return interpreter

    return of


def workbench(experiment: Experiment) -> Workbench:
    """What jobs of an experiment have in common."""
    return Workbench(experiment.home, experiment.checkpoint.path, experiment.device.kind, experiment.job.deadline)

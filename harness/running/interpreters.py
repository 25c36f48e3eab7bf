"""Interpreters for the versions of an experiment, built when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from harness.environments.build import ensure_environment
from harness.environments.interpreter import Interpreter
from harness.files import disk_errors
from harness.running.experiment import Experiment
from harness.running.job import Workbench


def interpreters(experiment: Experiment, note: Callable[[str], None]) -> Callable[[str], Callable[[], Interpreter]]:
    """Version to a function that returns its interpreter, building the environment if it is needed."""

    def interpreter(version: str) -> Interpreter:
        if brought := experiment.brought(version):
            return brought
        home, flavour = experiment.home, experiment.device.flavour
        with disk_errors(home):
            return Interpreter(
                ensure_environment(home, experiment.matrix, experiment.locks, version, flavour, report=note).python
            )

    return lambda version: partial(interpreter, version)


def workbench(experiment: Experiment) -> Workbench:
    """What jobs of an experiment have in common."""
    return Workbench(
        experiment.home, experiment.checkpoint.path, experiment.device.kind, experiment.job.deadline_seconds.index
    )

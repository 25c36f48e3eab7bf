"""What a command asks for, checked before anything is built, fetched from a node, or run.

A command that builds or runs something begins with `to_run`. What only the job can tell, `harness.running.causes` says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from harness.environments.device import jobs_at_a_time
from harness.errors import UsageError
from harness.files import writable_folder
from harness.running.experiment import Experiment
from harness.running.selection import Selection


def to_run(selection: Selection) -> Experiment:
    """The experiment of a command that builds or runs something.

    Raises:
        UsageError: what the machine must have for it is not there: a home that can be written, the interpreter of
            `--sites`, a sensible HARNESS_JOBS.
    """
    experiment = Experiment(selection)
    writable_folder(experiment.home.root, "--home (or HARNESS_HOME)")
    jobs_at_a_time()
    sites, python = selection.sites, selection.site_python
    if sites is None and python is not None:
        raise UsageError("--site-python runs the environments of --sites: give both, or neither.")
    if sites is not None and (python is None or not os.access(python, os.X_OK)):
        shown = "is missing" if python is None else f"{python}: cannot be run"
        raise UsageError(f"--site-python {shown}: --sites needs the Python that was brought along.")
    return experiment


class Known(Protocol):
    """What knows environments by what a command line calls them: an experiment, or a matrix alone."""

    @property
    def versions(self) -> list[str]:
        """Those of the matrix."""

    def require(self, item: str, /) -> str:
        """The name of the environment that an item means.

        Raises:
            UsageError: it means none.
        """


def versions_of(known: Known, named: Sequence[str]) -> list[str]:
    """The environments that a command line means, by name, each once; all versions for none, or for `all`.

    Raises:
        UsageError: one that is not known.
    """
    if not named or tuple(named) == ("all",):
        return list(known.versions)
    return list(dict.fromkeys(map(known.require, named)))


def parse_repeats(known: Known, values: Sequence[str], versions: Sequence[str]) -> dict[str, int]:
    """`--repeat` values as version to number of extra runs.

    Raises:
        UsageError: not VERSION or VERSION=N, or a version that is unknown, not among `versions`, or given twice.
    """
    parsed: dict[str, int] = {}
    for value in values:
        version, _, number = value.partition("=")
        if number and not (number.isdecimal() and int(number) > 0):
            raise UsageError(f"--repeat {value!r}: write VERSION=N with N at least 1, such as 2.4.1=2.")
        version = known.require(version)
        if version not in versions:
            raise UsageError(
                f"--repeat {value}: {version} is not among the versions of this command ({', '.join(versions)}): name "
                "it there too, or leave its repeat out."
            )
        if version in parsed:
            raise UsageError(f"--repeat {value}: {version} is given twice: write {version}=N once.")
        parsed[version] = int(number or 1)
    return parsed


def two_versions(known: Known, a: str, b: str, command: str, job: str = "index") -> tuple[str, str]:
    """The two versions of a command that explains the difference of two cells of a kind of job.

    Raises:
        UsageError: one is unknown, or they are the same.
    """
    a, b = known.require(a), known.require(b)
    if a == b:
        raise UsageError(
            f"A and B are both {a}, and {command} explains the difference between two versions: `harness doctor "
            f"--repeats 2 --version {a}` says what changes from run to run of one, `harness {job} {a} --repeat {a}` "
            f"and `harness compare --job {job} {a} {a}#1` with the same options compare two of its runs."
        )
    return a, b

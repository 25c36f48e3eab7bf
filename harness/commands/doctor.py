"""`harness doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import place_options, sites_options
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.environments.doctor import Check
    from harness.home import Home


@click.command(name="doctor")
@click.option(
    "--repeats",
    type=click.IntRange(min=2),
    metavar="N",
    help="Also index a few passages N times with each of several thread counts, and say what is not repeatable.",
)
@click.option("--version", "version", help="The version for --repeats (default: the newer one of quickstart).")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="What has to work: with cuda, a machine without a GPU is a problem. --repeats runs there.",
)
@click.option(
    "--env",
    "env",
    metavar="[NAME=]WHAT",
    help="Say instead what cannot run in an environment, and why: a virtualenv, a `python`, a lock file or a version, "
    "which are built for it (docs/environments.md).",
)
@sites_options
@place_options
def command(
    env: str | None,
    repeats: int | None,
    version: str | None,
    device: str,
    sites: Path | None,
    site_python: Path | None,
    matrix_path: Path,
    home: Home,
) -> int:
    """Say what this machine can run, what it cannot, and why. Exit code 3 when something will not work.

    With --repeats, also what makes the job unrepeatable here: the number of threads, or an operator that is not
    deterministic.
    """
    from harness.environments.device import gpus
    from harness.environments.doctor import examine
    from harness.inputs.matrix_file import load_matrix

    matrix = load_matrix(matrix_path)
    if env is not None:
        if repeats is not None or version or sites or site_python:
            raise UsageError("--env looks at one environment alone: leave --repeats, --version and --sites out.")
        from harness.environments.chosen import interpreter_for
        from harness.environments.device import choose_device
        from harness.environments.doctor_own import examine_own

        chosen_device = choose_device(device)
        python = interpreter_for(env, home, matrix, matrix_path.parent / "locks", chosen_device)
        checks = list(examine_own(python, env, chosen_device))
        _print(checks)
        return int(ExitCode.INFRASTRUCTURE if any(check.verdict == "problem" for check in checks) else ExitCode.OK)
    if version is not None:
        from harness.environments.chosen import Names

        Names(home).require(matrix, version)
    if repeats is None and (version or sites or site_python):
        raise UsageError("--version, --sites and --site-python say where --repeats runs: give --repeats N, too.")
    checks = examine(matrix, home, matrix_path.parent / "locks", device)
    _print(checks)
    # Without the device that has to be there, there is nothing to run on, which has been said.
    if repeats is not None and not (device == "cuda" and not gpus()):
        from harness.environments.doctor import cores_check
        from harness.explain.repeatability import PASSAGES, examine_repeats
        from harness.report.repeatability_text import repeatability_checks
        from harness.running.selection import Selection

        chosen = Selection(
            matrix_path,
            home.root,
            "embedded",
            "embedded",
            PASSAGES,
            device,
            sites=sites,
            site_python=site_python,
            capture="full",
        )
        found = examine_repeats(chosen, version, repeats, report=lambda text: click.echo(text, err=True))
        more = [cores_check(), *repeatability_checks(found)]
        _print(more)
        checks += more
    return int(ExitCode.INFRASTRUCTURE if any(check.verdict == "problem" for check in checks) else ExitCode.OK)


def _print(checks: list[Check]) -> None:
    for check in checks:
        click.echo(f"{check.verdict:8} {check.name:9} {check.detail}")

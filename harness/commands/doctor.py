"""`harness doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import home_option, matrix_option
from harness.errors import ExitCode


@click.command(name="doctor")
@matrix_option
@home_option
def command(matrix_path: Path | None, home: Path | None) -> int:
    """Say what this machine can run, what it cannot, and why. Exit code 3 when something will not work."""
    from harness.doctor import examine
    from harness.home import resolve_home
    from harness.matrix import find_matrix, load_matrix

    path = (matrix_path or find_matrix()).resolve()
    checks = examine(load_matrix(path), resolve_home(home, path), path.parent / "locks")
    for check in checks:
        click.echo(f"{check.verdict:8} {check.name:9} {check.detail}")
    return int(ExitCode.INFRASTRUCTURE if any(check.verdict == "problem" for check in checks) else ExitCode.OK)

"""`harness fingerprint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import json_option, place_options

if TYPE_CHECKING:
    from harness.home import Home


@click.command(name="fingerprint")
@click.argument("action", type=click.Choice(["take", "check"]))
@click.argument("index", type=click.Path())
@click.option(
    "--env",
    "env",
    metavar="[NAME=]WHAT",
    help="Where: a `python`, a virtualenv, a lock file or a version, which are built (default: this shell's `python`).",
)
@click.option("--checkpoint", type=click.Path(), help="A folder (default: the one that the index names).")
@click.option("--fingerprint", "file", type=click.Path(), help="The file (default: fingerprint.json in the index).")
@click.option("--rankings", is_flag=True, help="Exit with 0 where the rankings are the same, too.")
@json_option
@place_options
def command(
    action: str,
    index: str,
    env: str | None,
    checkpoint: str | None,
    file: str | None,
    rankings: bool,
    as_json: bool,
    matrix_path: Path,
    home: Home,
) -> int:
    """Keep what an environment computes for an INDEX beside it, or check whether another computes the same.

    Exit code 0 where the bits are the same, 1 where they are not, 2 where nothing can be said, 3 where the environment
    cannot compute it. harness/worker/fingerprint.py does the same by itself, without the harness
    (docs/fingerprint.md).
    """
    from harness.environments.interpreter import run_here, shell_python
    from harness.home import package_folder

    if env is None:
        python = shell_python("--env")
        click.echo(f"With {python}, the python of this shell; --env names another.", err=True)
    else:
        from harness.environments.chosen import interpreter_for
        from harness.environments.device import choose_device
        from harness.environments.installed import ask
        from harness.inputs.matrix_file import load_matrix

        python = interpreter_for(
            env, home, load_matrix(matrix_path), matrix_path.parent / "locks", choose_device("auto")
        )
        ask(python, f"--env {env}")
    options = [*(["--rankings"] if rankings else []), *(["--json"] if as_json else [])]
    for name, value in (("--checkpoint", checkpoint), ("--fingerprint", file)):
        options += [name, value] if value else []
    return run_here(python, [str(package_folder() / "worker" / "fingerprint.py"), action, index, *options])

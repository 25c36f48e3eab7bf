"""`harness pack`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.commands.options import Writable, home_option, matrix_option
from harness.errors import ExitCode


@click.command(name="pack")
@click.argument("output", type=Writable(file=True, dash=True))
@click.argument("versions", nargs=-1, required=True)
@click.option(
    "--flavour", type=click.Choice(["gpu", "cpu"]), default="gpu", show_default=True, help="Which locks to build from."
)
@click.option(
    "--extra",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="A file or folder to bring along as extra/NAME, such as a checkpoint. May be given again.",
)
@matrix_option
@home_option
def command(
    output: Path, versions: tuple[str, ...], flavour: str, extra: tuple[Path, ...], matrix_path: Path | None,
    home: Path | None,
) -> int:  # fmt: skip
    """Write everything that a host without a package index needs to OUTPUT, a tar file; - writes to a pipe.

    Environments of VERSIONS are built if needed. docs/gpu-host.md says what to do with the file there.
    """
    from typing import cast

    from harness.environments.build import ensure_environment
    from harness.environments.pack import pack
    from harness.files import disk_errors
    from harness.home import resolve_home
    from harness.inputs.matrix import Flavour
    from harness.inputs.matrix_file import find_matrix, load_matrix
    from harness.running.checks import versions_of
    from harness.words import count, size

    path = (matrix_path or find_matrix()).resolve()
    matrix, place = load_matrix(path), resolve_home(home, path)
    chosen = versions_of(matrix, versions)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with disk_errors(place):
        environments = [
            ensure_environment(place, matrix, path.parent / "locks", version, cast("Flavour", flavour), report=say)
            for version in chosen
        ]
        if str(output) == "-":
            packed = pack(sys.stdout.buffer, environments, path.parent, extra=extra, report=say)
        else:
            with output.open("wb") as file:
                packed = pack(file, environments, path.parent, extra=extra, report=say)
    say(f"{count(packed.files, 'file')}, {size(packed.bytes)}, {count(len(chosen), 'version')}: {output}")
    return int(ExitCode.OK)

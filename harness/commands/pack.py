"""`harness pack`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.options import Writable, place_options

if TYPE_CHECKING:
    from harness.home import Home
    from harness.inputs.matrix import Flavour


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
@place_options
def command(
    output: Path, versions: tuple[str, ...], flavour: Flavour, extra: tuple[Path, ...], matrix_path: Path, home: Home
) -> None:
    """Write everything that a host without a package index needs to OUTPUT, a tar file; - writes to a pipe.

    Environments of VERSIONS are built if needed. docs/gpu-host.md says what to do with the file there.
    """
    from harness.environments.build import ensure_environment
    from harness.environments.pack import pack
    from harness.files import disk_errors
    from harness.inputs.matrix_file import load_matrix
    from harness.running.checks import versions_of
    from harness.words import count, size

    matrix, folder = load_matrix(matrix_path), matrix_path.parent
    chosen = versions_of(matrix, versions)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with disk_errors(home):
        environments = [
            ensure_environment(home, matrix, folder / "locks", version, flavour, report=say) for version in chosen
        ]
        if str(output) == "-":
            packed = pack(sys.stdout.buffer, environments, folder, extra=extra, report=say)
        else:
            with output.open("wb") as file:
                packed = pack(file, environments, folder, extra=extra, report=say)
    say(f"{count(packed.files, 'file')}, {size(packed.bytes)}, {count(len(chosen), 'version')}: {output}")

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

matrix_option = click.option(
    "--matrix",
    "matrix_path",
    type=click.Path(path_type=Path),
    default=None,
    help="matrix.yaml (default: the one in this folder or above it).",
)
home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=None,
    envvar="HARNESS_HOME",
    help="Folder of environments, caches and the store (default: .harness beside matrix.yaml).",
)

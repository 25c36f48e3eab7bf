"""The settings by which two rankings are compared."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.rankings.settings import Settings


def settings_for(matrix_path: Path | None) -> Settings:
    """Those of `matrix.yaml`; the built-in ones where none is given and none is found, as beside two files of others.

    Raises:
        UsageError: the file is not what it should be.
    """
    from harness.inputs.matrix_file import find_matrix, load_matrix

    try:
        path = matrix_path or find_matrix()
    except UsageError:
        return Settings()
    return load_matrix(path).rankings.settings

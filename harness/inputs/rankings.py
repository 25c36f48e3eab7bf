"""The settings by which two rankings are compared."""

from __future__ import annotations

from pathlib import Path

from harness.rankings.settings import Settings


def settings_for(matrix_path: Path | None) -> Settings:
    """Those of `matrix.yaml`.

    Raises:
        UsageError: the file is not what it should be.
    """
    from harness.inputs.matrix_file import load_matrix

    return load_matrix(matrix_path).rankings.settings

"""The tolerance profiles that comparisons are judged by."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.tensors.profiles import BUILTIN, Profile


def profiles_for(matrix_path: Path | None, names: tuple[str, ...]) -> list[Profile]:
    """The built-in profiles, and those of matrix.yaml where one is named that is not built in, or a matrix is given.

    Raises:
        UsageError: a profile that exists nowhere.
    """
    profiles = {profile.name: profile for profile in BUILTIN}
    if matrix_path is not None or any(name not in profiles for name in names):
        from harness.inputs.matrix import profiles_of
        from harness.inputs.matrix_file import load_matrix

        profiles |= {profile.name: profile for profile in profiles_of(load_matrix(matrix_path))}
    for name in names:
        if name not in profiles:
            raise UsageError(
                f"There is no profile {name!r}: use one of {', '.join(profiles)}, or add it to matrix.yaml."
            )
    return list(profiles.values())

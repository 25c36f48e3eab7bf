"""What the versions of an experiment vary along: today PyTorch's release, whose order is numeric."""

from __future__ import annotations


def version_key(version: str) -> tuple[int, ...]:
    """Sort key of a release number: `2.10.0` comes after `2.9.1`."""
    return tuple(int(part) for part in version.split("."))

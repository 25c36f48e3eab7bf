"""Environments that were brought to this host as files, and how one contradicts its lock."""

from __future__ import annotations

from pathlib import Path

from harness.environments.lockfile import Lock
from harness.environments.packages import mismatches, site_packages
from harness.environments.uv import BuildFailed


def contradictions(lock: Lock, site: Path) -> list[str]:
    """How a site folder contradicts a lock.

    Packages that an index job never loads may have been left behind to save bytes; another version may not be there.
    """
    return [text for text in mismatches(lock, site_packages(site)) if " is missing " not in text]


def not_brought(reason: str) -> BuildFailed:
    """The failure of a version whose environment should have been brought as files."""
    return BuildFailed(reason, "install_failed", "", "not_brought")

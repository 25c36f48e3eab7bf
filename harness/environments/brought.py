"""Environments that were brought to this host as files, and how one contradicts its lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environments.interpreter import Interpreter
from harness.environments.lockfile import Lock
from harness.environments.packages import mismatches, site_packages
from harness.environments.uv import BuildFailed
from harness.errors import UsageError


@dataclass(frozen=True)
class Brought:
    """What the user brought along.

    Attributes:
        sites: a folder with a site folder for each version.
        python: the interpreter that came with them.
    """

    sites: Path
    python: Path | None

    def interpreter(self, version: str, lock: Callable[[], Lock]) -> Interpreter:
        """The interpreter of a version's environment.

        Args:
            version: PyTorch release.
            lock: called for the lock that the environment has to match.

        Raises:
            UsageError: there is no such interpreter.
            BuildFailed: there is no such folder, or what is in it does not match the version's lock.
        """
        if self.python is None or not self.python.exists():
            raise UsageError(
                f"--site-python {self.python}: no such interpreter; --sites needs the Python that was brought along."
            )
        site = (self.sites / version).resolve()
        if not (site / "torch").is_dir():
            raise _not_brought(f"--sites: {site} holds no torch; bring the environment of {version} or leave it out.")
        wrong = contradictions(lock(), site)
        if wrong:
            raise _not_brought(f"--sites: {site} does not match the lock of {version}: {'; '.join(wrong[:3])}.")
        return Interpreter(self.python.absolute(), site)

    def closest(self, version: str, locks: Sequence[Lock]) -> Lock:
        """The lock that a version's environment contradicts least; the first of several."""
        return min(locks, key=lambda lock: len(contradictions(lock, self.sites / version)))


def contradictions(lock: Lock, site: Path) -> list[str]:
    """How a site folder contradicts a lock.

    Packages that an index job never loads may have been left behind to save bytes; another version may not be there.
    """
    return [text for text in mismatches(lock, site_packages(site)) if " is missing " not in text]


def _not_brought(reason: str) -> BuildFailed:
    return BuildFailed(reason, "install_failed", "", "not_brought")

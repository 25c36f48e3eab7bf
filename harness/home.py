"""Where environments, caches and the store are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def package_folder() -> Path:
    """This package's own folder: the one place from which the worker is found, digested and copied."""
    return Path(__file__).parent


@dataclass(frozen=True)
class Home:
    """The folder of everything heavy, ignored by git; all of it can be made again.

    Attributes:
        root: absolute; `.harness` beside `matrix.yaml` unless the user names another.
    """

    root: Path

    @property
    def environments(self) -> Path:
        """One virtualenv a folder."""
        return self.root / "envs"

    @property
    def uv_cache(self) -> Path:
        """The cache of uv, on the same filesystem as the environments, so that files are hard-linked."""
        return self.root / "cache" / "uv"

    @property
    def data_cache(self) -> Path:
        """Collections and checkpoints that were downloaded or made."""
        return self.root / "cache" / "data"

    @property
    def build_locks(self) -> Path:
        """Locks of builds that are not in the matrix, which `harness bisect` makes."""
        return self.root / "build-locks"

    @property
    def own(self) -> Path:
        """What the names of the user's own environments stand for, and what those are built from."""
        return self.root / "own"

    @property
    def store(self) -> Path:
        """Finished cells and their artifacts."""
        return self.root / "store"

    @property
    def runs(self) -> Path:
        """Folders of jobs under way; nothing here outlives its job."""
        return self.root / "runs"

    @property
    def locks(self) -> Path:
        """Lock files between processes; a file that nobody holds means nothing."""
        return self.root / "locks"

    def cell_lock(self, key: str) -> Path:
        """Held by whoever runs a cell."""
        return self.locks / "cells" / f"{key}.lock"

    @property
    def workers(self) -> Path:
        """Copies of `harness/worker`, each named by its digest: what jobs import."""
        return self.root / "workers"


def resolve_home(home: Path | None, matrix_path: Path) -> Home:
    """Return the home that the user named, or the default beside `matrix.yaml`."""
    return Home((home or matrix_path.parent / ".harness").resolve())

"""Where environments, caches and the store are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def user_cache() -> Path | None:
    """The folder of what the user's commands keep for one another, which may not be there yet.

    It is the user's own, never a shared one, because what is in it is believed. None where the user has no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colbert-torch-harness"
    except RuntimeError:
        return None


def package_folder() -> Path:
    """This package's own folder: the one place from which the worker is found, digested and copied."""
    return Path(__file__).parent


def default_matrix() -> Path:
    """The `matrix.yaml` that travels with this package, beside its `locks`: a wheel's own, or the checkout's."""
    packed = package_folder() / "default" / "matrix.yaml"
    return packed if packed.is_file() else package_folder().parent / "matrix.yaml"


def is_packed(matrix_path: Path) -> bool:
    """Whether a `matrix.yaml` is part of the installed package, which nobody writes to."""
    return matrix_path.resolve().is_relative_to(package_folder().resolve())


@dataclass(frozen=True)
class Home:
    """The folder of everything heavy, ignored by git; all of it can be made again.

    Attributes:
        root: absolute; unless the user names another, `.harness` beside `matrix.yaml`, or in the current folder where
            that is the package's.
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
    def tables(self) -> Path:
        """Tables of the user's own sweeps, a folder each, where no other was named."""
        return self.root / "tables"

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
    """Return the home that the user named, or the default: see `Home.root`."""
    beside = Path.cwd() if is_packed(matrix_path) else matrix_path.parent
    return Home((home or beside / ".harness").resolve())

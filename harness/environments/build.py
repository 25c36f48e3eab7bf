"""One uv virtualenv for each version and flavour, built from its lock, under a file lock, and marked complete last.

Three locks keep sweeps that run at once from each other's environments: `.NAME.lock` is held by whoever builds or
deletes an environment, `.NAME.use` is shared by those who run jobs in it, and `uv-cache.lock` is shared by those who
install and held alone by whoever deletes from uv's cache.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.environments.interpreter import installed_packages, mismatches
from harness.environments.lockfile import Lock, lock_of, lock_path, lock_text, read_lock
from harness.environments.supervise import Control, Deadline, wait_for
from harness.environments.uv import BuildFailed, cache_lock, index_arguments, run_logged, run_uv, uv_command
from harness.files import write_json
from harness.flock import Held, hold, try_hold
from harness.home import Home
from harness.inputs.matrix import Build, Flavour, Matrix
from harness.words import count

_SENTINEL = "harness-complete.json"


@dataclass(frozen=True)
class Environment:
    """A complete environment.

    Attributes:
        version: the PyTorch release.
        flavour: `cpu` or `gpu` (which faiss it holds).
        path: the virtualenv's folder.
        lock: the lock it was built from.
        packages: name to version, as found installed.
        seconds_to_build: wall seconds, 0 when it was reused.
    """

    version: str
    flavour: Flavour
    path: Path
    lock: Lock
    packages: dict[str, str]
    seconds_to_build: float

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.path / "bin" / "python"


def environment_path(home: Home, version: str, flavour: Flavour, lock: Lock) -> Path:
    """Where an environment is: its name carries its lock's digest, so a changed lock never reuses an old one."""
    return home.environments / f"{version}-{flavour}-{lock.digest[:12]}"


def find_environment(
    home: Home, locks: Path, version: str, flavour: Flavour, build: Build | None = None
) -> Environment | None:
    """Return the complete environment of a version, or of another build of it, or None if it is not built."""
    lock = read_lock(lock_path(locks, build.version if build else version, flavour))
    return complete_environment(environment_path(home, version, flavour, lock), version, flavour, lock)


def complete_environment(path: Path, version: str, flavour: Flavour, lock: Lock) -> Environment | None:
    """What is installed at `path`, if it was built to the end and holds what the lock names; otherwise None."""
    if not complete_mark(path, lock.digest) or not (path / "bin" / "python").exists():
        return None
    found = installed_packages(path)
    # Somebody's `pip install` into the environment would go unnoticed otherwise.
    if mismatches(lock, found):
        return None
    return Environment(version, flavour, path, lock, found, 0.0)


def complete_mark(path: Path, digest: str, **more: str) -> bool:
    """Whether an environment was built to the end, of a lock with this digest; and of what else `mark_built` noted."""
    try:
        sentinel = json.loads((path / _SENTINEL).read_text(encoding="utf-8"))
        return all(sentinel[name] == value for name, value in {"lock": digest, **more}.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def ensure_environment(
    home: Home,
    matrix: Matrix,
    locks: Path,
    version: str,
    flavour: Flavour,
    build: Build | None = None,
    *,
    report: Callable[[str], None] = lambda _text: None,
    deadline: float | None = None,
    control: Control | None = None,
) -> Environment:
    """Return a version's environment, building it if it is missing, half-built, damaged or of another lock.

    Two processes that need the same environment build it once: the second waits for the first.

    Args:
        home: where it is.
        matrix: names the Python.
        locks: folder of the locks.
        version: of torch.
        flavour: `cpu` or `gpu`.
        build: of the version, for a GPU that its own wheel has no code for.
        report: says what is under way.
        deadline: wall seconds for building it; none when absent.
        control: stops the building.

    Raises:
        BuildFailed: uv could not build it; `outcome` and `log` say more.
        UsageError: there is no lock for the version, or it is for another Python.
        Stopped: `control` said so.
    """
    lock = lock_of(matrix, locks, version, flavour, build)
    path = environment_path(home, version, flavour, lock)

    def make(keep: Sequence[int]) -> Environment:
        report(f"{version}: building the environment ({count(len(lock.packages), 'package')})")
        started = time.monotonic()
        found = build_environment(home, matrix, path, lock, version, deadline=deadline, control=control, keep=keep)
        seconds = time.monotonic() - started
        mark_complete(path, lock)
        return Environment(version, flavour, path, lock, found, seconds)

    def there() -> Environment | None:
        return complete_environment(path, version, flavour, lock)

    return ensure_built(home, path, version, there, make, report=report, control=control)


Made = TypeVar("Made")


def ensure_built(
    home: Home,
    path: Path,
    label: str,
    there: Callable[[], Made | None],
    make: Callable[[Sequence[int]], Made],
    *,
    report: Callable[[str], None],
    control: Control | None = None,
) -> Made:
    """What is at `path`, made if it is not there; whoever comes meanwhile waits, and finds it.

    Args:
        home: where it is.
        path: a folder of `home.environments`.
        label: what it is called in a sentence.
        there: what is there, if it is whole.
        make: makes it; is given descriptors of locks that are to be held until that has ended.
        report: says what is under way.
        control: stops the waiting.

    Raises:
        Stopped: `control` said so.
    """
    home.environments.mkdir(parents=True, exist_ok=True)
    with wait_for([_building(path)], control) as held:
        existing = there()
        if existing is not None:
            return existing
        if path.exists():
            report(f"{label}: rebuilding an environment that is incomplete or does not match its lock")
            _delete(path)
        try:
            return make([held.fileno()])
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


def _building(path: Path) -> Path:
    """The lock of whoever builds or deletes an environment."""
    return path.parent / f".{path.name}.lock"


def use_environment(home: Home, version: str, flavour: Flavour, lock: Lock) -> Held:
    """A lock that keeps other sweeps from deleting an environment; take it before `ensure_environment`."""
    return use_folder(environment_path(home, version, flavour, lock))


def use_folder(path: Path) -> Held:
    """A lock that keeps other sweeps from deleting the environment at `path`."""
    return hold(_use(path), shared=True)


def _use(path: Path) -> Path:
    return path.parent / f".{path.name}.use"


def _delete(path: Path) -> None:
    """Delete an environment; the mark goes first, so that what an interrupt leaves is not taken for complete."""
    (path / _SENTINEL).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def build_pinned(
    home: Home,
    path: Path,
    pins: Path,
    python: str,
    label: str,
    *,
    indexes: Mapping[str, str],
    hashed: bool = True,
    deadline: float | None = None,
    control: Control | None = None,
    keep: Sequence[int] = (),
) -> None:
    """Make a virtualenv at `path` and have uv install pins into it, without resolving.

    Args:
        home: has uv's cache.
        path: must not exist.
        pins: a requirements file, or a pylock.toml.
        python: what uv is asked for.
        label: what it is called in a sentence.
        indexes: beside uv's own, by name.
        hashed: whether every package must have a hash.
        deadline: wall seconds for all of it.
        control: stops it.
        keep: locks that uv holds on if this process is killed.

    Raises:
        BuildFailed: uv could not.
        Stopped: `control` said so.
    """
    commands = {
        "a virtualenv": ["venv", "--quiet", "--python", python, "--no-project", str(path)],
        "the locked packages": [
            "pip", "install", "--python", str(path / "bin" / "python"), "--no-deps",
            *(["--require-hashes"] if hashed else []), *index_arguments(indexes, always=True),
            "--requirements", str(pins),
        ],
    }  # fmt: skip
    end = None if deadline is None else time.monotonic() + deadline
    with wait_for([cache_lock(home)], control, shared=True) as cache:
        for what, command in commands.items():
            left = [] if end is None else [Deadline("install", max(0.0, end - time.monotonic()))]
            run_logged([*uv_command(), *command], home, label, what, left, control, [cache.fileno(), *keep])


def build_environment(
    home: Home,
    matrix: Matrix,
    path: Path,
    lock: Lock,
    version: str,
    *,
    deadline: float | None = None,
    control: Control | None = None,
    keep: Sequence[int] = (),
) -> dict[str, str]:
    """Make a virtualenv and install a lock's packages; `keep` are locks that uv holds on if this process is killed."""
    # All of it in one file, as that of a point of an axis only says how it differs from another.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=f"-{lock.path.name}") as whole:
        whole.write(lock_text(lock.path))
        whole.flush()
        build_pinned(
            home, path, Path(whole.name), lock.python or matrix.python, version, deadline=deadline, control=control,
            keep=keep, indexes={name: matrix.index_url(name) for name in lock.indexes},
        )  # fmt: skip
    found = installed_packages(path)
    wrong = mismatches(lock, found)
    if wrong:
        raise BuildFailed(
            f"{version}: uv installed other packages than the lock names: {'; '.join(wrong[:3])}.", "install_failed", ""
        )
    return found


def mark_complete(path: Path, lock: Lock) -> None:
    """Write the mark that makes an environment count as complete, once everything in it is on the disk."""
    mark_built(path, lock.digest, lock_file=lock.path.name)


def mark_built(path: Path, digest: str, **more: str) -> None:
    """The same, by the digest of what it was built from; see `complete_mark`."""
    temporary = path / f"{_SENTINEL}.tmp"
    write_json(temporary, {"lock": digest, **more})
    temporary.replace(path / _SENTINEL)


def evict(home: Home, environment: Environment, keep: list[Lock]) -> int | None:
    """Delete an environment, and from uv's cache the packages that no lock in `keep` has in the same version.

    Without the second part the files would stay on the disk: uv hard-links an environment's files to its cache.

    Returns:
        Bytes by which the disk's free space grew; None, and nothing is deleted, where another sweep uses it.
    """
    before = shutil.disk_usage(home.root).free
    used = try_hold(_use(environment.path))
    if used is None:
        return None
    with used, hold(_building(environment.path)):
        _delete(environment.path)
    kept = {(name, version) for lock in keep for name, version in lock.packages.items()}
    gone = [name for name, version in environment.lock.packages.items() if (name, version) not in kept]
    if gone:
        run_uv(home, "cache", "clean", "--quiet", *gone, alone=True)
    return shutil.disk_usage(home.root).free - before

"""Environments that exist for one question: those of one side of a pair, with some packages of the other.

From pins uv builds one, hash for hash and without resolving. Where a side has no pins, because it is an interpreter
that is used as it is or was brought as files, one is put together from the files of both, and neither is written into.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.environments.build import build_pinned
from harness.environments.changes import NO_PACKAGE, PYTHON
from harness.environments.exchange import exchange
from harness.environments.installed import ask
from harness.environments.interpreter import Interpreter, installed_packages, mismatches
from harness.environments.lockfile import Lock, all_hashed, exchanged, head_of, lock_text
from harness.environments.sites import Sites
from harness.environments.uv import BuildFailed
from harness.files import disk_errors
from harness.flock import Held, hold, try_hold
from harness.home import Home
from harness.inputs.matrix import Matrix

_PINNED = {"requirements", "uv.lock"}
"""Kinds of the user's own environments that uv built from pins, of which each has a line of its own."""
_NAMED = "counterfactual-"
"""How the names of their folders begin."""
_BUILT_OF = re.compile(r"^(\w+ \d+\.\d+)")


@dataclass(frozen=True)
class Party:
    """One side of an exchange.

    Attributes:
        name: what its environment is called.
        lock: what is in it.
        make: returns its interpreter, with the environment built if it is missing; called once.
    """

    name: str
    lock: Lock
    make: Callable[[], Interpreter]

    @cached_property
    def interpreter(self) -> Interpreter:
        """What runs there."""
        return self.make()

    @property
    def pinned(self) -> bool:
        """Whether there is a file of pins from which it was built, or could have been."""
        return _pinned(self.lock)

    @cached_property
    def sites(self) -> Sites:
        """Its files.

        Raises:
            UsageError: its interpreter cannot be asked.
        """
        return Sites.of(self.interpreter)

    @cached_property
    def base(self) -> tuple[Path, str]:
        """The interpreter that its own is a virtualenv's of, and the folder of its library's name.

        Raises:
            UsageError: it cannot be asked.
        """
        told = ask(self.interpreter.python, str(self.interpreter.python))
        return Path(told["base"]), f"python{'.'.join(told['version'].split('.')[:2])}"


def _pinned(lock: Lock) -> bool:
    return lock.own is None or lock.own["kind"] in _PINNED


def separate_pythons(a: Lock, b: Lock, *, brought: bool = False) -> str:
    """Why nothing can be exchanged between two environments of which one has no pins; empty where something can.

    Compiled packages are files for one Python: `x.cpython-311-….so` is not even seen by another.

    Args:
        a: what is in one of them.
        b: what is in the other.
        brought: whether versions of the matrix were brought along as files.
    """
    versions = [_BUILT_OF.match(lock.interpreter) for lock in (a, b)]
    one, other = (found[1] if found else "" for found in versions)
    built = all(_pinned(lock) and not (brought and lock.own is None) for lock in (a, b))
    if not one or not other or one == other or built:
        return ""
    return (
        f"one runs {one}, the other {other}, and the files of packages for one are not for the other: no package can "
        "be exchanged. Name lock files (NAME=requirements.txt) for both, and blame builds what it needs for either "
        "Python"
    )


@contextmanager
def environment_with(
    home: Home, matrix: Matrix, base: Party, other: Party, packages: Sequence[str]
) -> Iterator[Interpreter]:
    """The environment `base` with packages as `other` has them, for as long as the `with` block.

    Args:
        home: gets it meanwhile.
        matrix: names the Python, and package indexes.
        base: whose environment it is but for these.
        other: whose packages these are.
        packages: names as in a lock; `PYTHON` for the interpreter, `NO_PACKAGE` for files of none.

    Raises:
        BuildFailed: it cannot be made.
        UsageError: an interpreter cannot be asked.
    """
    brought = any(one.lock.own is None and one.interpreter.site is not None for one in (base, other))
    way = _built if base.pinned and other.pinned and not brought else _put_together
    with way(home, matrix, base, other, packages) as made:
        yield made


@contextmanager
def _put_together(
    home: Home, _matrix: Matrix, base: Party, other: Party, packages: Sequence[str]
) -> Iterator[Interpreter]:
    """One of the files of both; see `environment_with`."""
    with _place(home, secrets.token_hex(6)) as (folder, _held), disk_errors(home):
        folder.mkdir()
        source = other if PYTHON in packages else base
        if base.interpreter.site is not None:
            found = Interpreter(source.interpreter.python, folder / "site")
        else:
            found = Interpreter(_virtualenv(source, folder))
        exchange(base.sites, other.sites, packages, found.site or folder / "lib" / source.base[1] / "site-packages")
        yield found


def _virtualenv(of: Party, folder: Path) -> Path:
    """Make the skeleton of a virtualenv of the same interpreter; returns its own."""
    base, library = of.base
    if not base.exists():
        raise BuildFailed(
            f"{of.interpreter.python} is of {base}, which is not on this machine, so no other environment can be made "
            "of it.", "unsupported", "",
        )  # fmt: skip
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(base)
    (folder / "lib" / library).mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    return python


@contextmanager
def _built(home: Home, matrix: Matrix, base: Party, other: Party, packages: Sequence[str]) -> Iterator[Interpreter]:
    """One that uv builds, and that is deleted afterwards; another `blame` that needs the same one waits."""
    text = exchanged(lock_text(base.lock.path), lock_text(other.lock.path), packages)
    source = other if PYTHON in packages else base
    python = head_of(lock_text(source.lock.path))[0] or matrix.python
    label = f"{base.name} with packages of {other.name}"
    with _place(home, hashlib.sha256(f"{python} {text}".encode()).hexdigest()[:12]) as (path, held):
        with disk_errors(home):
            pins = path.with_suffix(".txt")
            pins.write_text(text, encoding="utf-8")
            build_pinned(
                home, path, pins, python, label, hashed=all_hashed(text), keep=[held.fileno()],
                indexes={name: matrix.index_url(name) for name in head_of(text)[1]},
            )  # fmt: skip
            _check(path, label, base.lock, other.lock, packages)
        yield Interpreter(path / "bin" / "python")


@contextmanager
def _place(home: Home, name: str) -> Iterator[tuple[Path, Held]]:
    """Where one is made, held as long as it is there, and deleted with the file of its pins."""
    remove_abandoned(home)
    path = home.environments / f"{_NAMED}{name}"
    with hold(_lock_of(path)) as held:
        try:
            yield path, held
        finally:
            _remove(path)


def abandoned(home: Home) -> Iterator[tuple[Path, Held]]:
    """What a process left that was killed, each with its lock, which nobody held and which is released afterwards."""
    left = home.environments.glob(f"{_NAMED}*")
    for path in sorted({one.with_suffix("") for one in left}):
        if held := try_hold(_lock_of(path)):
            with held:
                yield path, held


def remove_abandoned(home: Home) -> None:
    """Delete what a process left that was killed; what somebody uses stays."""
    for path, _held in abandoned(home):
        _remove(path)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _remove(path: Path) -> None:
    """To be called with the lock held: whoever opened its file and locks it after this finds that it is gone."""
    shutil.rmtree(path, ignore_errors=True)
    path.with_suffix(".txt").unlink(missing_ok=True)
    _lock_of(path).unlink(missing_ok=True)


def _check(path: Path, label: str, base: Lock, other: Lock, packages: Sequence[str]) -> None:
    """Refuse an environment that does not hold what it is to hold."""
    taken = set(packages) - {PYTHON, NO_PACKAGE}
    wanted = {name: version for name, version in base.packages.items() if name not in taken}
    wanted |= {name: version for name, version in other.packages.items() if name in taken}
    if wrong := mismatches(Lock(Path(), wanted, {}, ""), installed_packages(path)):
        raise BuildFailed(
            f"{label}: uv installed other packages than the pins name: {'; '.join(wrong[:3])}.", "install_failed", ""
        )

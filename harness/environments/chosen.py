"""The one place where an environment is chosen: what a name on a command line stands for, and what runs jobs there.

A version of the matrix, a site folder that was brought along, and an environment of the user's own are each an
`UnderTest`. Nothing above this wing asks which it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.environments.build import Environment, ensure_environment, find_environment, use_environment
from harness.environments.device import Device, build_for, missing_code
from harness.environments.interpreter import Brought, Interpreter
from harness.environments.lockfile import Lock, lock_of
from harness.environments.own import Own, Say, interpreter_of, make, read_record, recognise, write_record
from harness.environments.supervise import Control
from harness.errors import UsageError
from harness.flock import Held
from harness.home import Home
from harness.inputs.matrix import Build, Flavour, Matrix
from harness.words import NAME


class UnderTest(Protocol):
    """An environment under test: how it is known before it is there, and what runs jobs in it."""

    @property
    def lock(self) -> Lock:
        """Every package of it, and the digest that its cells have.

        Raises:
            UsageError: there is none.
        """

    @property
    def unsupported(self) -> str:
        """Why no job runs there on this device, known before it is there; empty if nothing speaks against."""

    def hold(self) -> Held | None:
        """A lock that keeps other sweeps from deleting it; None where nobody deletes it."""

    def there(self, flavour: Flavour) -> Environment | None:
        """What may be deleted when its cells have ended; None where nothing may, or it is not there."""

    def ensure(self, report: Say, deadline: float | None = None, control: Control | None = None) -> Interpreter:
        """Its interpreter, with the environment made if it is missing, and checked if it is there.

        Args:
            report: says what is under way.
            deadline: wall seconds for building it.
            control: stops the building.

        Raises:
            BuildFailed: it cannot be made, or does not hold what it should.
            UsageError: something that it needs is not there.
            Stopped: `control` said so.
        """


@dataclass(frozen=True)
class OfMatrix:
    """A version of the matrix, built from its lock; see `UnderTest`."""

    home: Home
    matrix: Matrix
    locks: Path
    version: str
    device: Device

    @property
    def build(self) -> Build | None:
        """The other build of the version that the device needs, for want of code in its own wheel."""
        return build_for(self.matrix, self.version, self.device.identity)

    @property
    def lock(self) -> Lock:
        """See `UnderTest`."""
        return self.lock_for(self.device.flavour)

    def lock_for(self, flavour: Flavour) -> Lock:
        """The lock of one of its flavours."""
        return lock_of(self.matrix, self.locks, self.version, flavour, self.build if flavour == "gpu" else None)

    @property
    def unsupported(self) -> str:
        """See `UnderTest`."""
        return missing_code(self.matrix, self.version, self.device.identity)

    def hold(self) -> Held | None:
        """See `UnderTest`."""
        return use_environment(self.home, self.version, self.device.flavour, self.lock)

    def there(self, flavour: Flavour) -> Environment | None:
        """See `UnderTest`."""
        return find_environment(self.home, self.locks, self.version, flavour, self.build)

    def ensure(self, report: Say, deadline: float | None = None, control: Control | None = None) -> Interpreter:
        """See `UnderTest`."""
        made = ensure_environment(
            self.home, self.matrix, self.locks, self.version, self.device.flavour, self.build, report=report,
            deadline=deadline, control=control,
        )  # fmt: skip
        return Interpreter(made.python)


@dataclass(frozen=True)
class OfSites:
    """A version of the matrix that was brought along as files (`--sites`); see `UnderTest`."""

    of: OfMatrix
    brought: Brought

    @property
    def lock(self) -> Lock:
        """See `UnderTest`."""
        # A GPU host's environments also run on a CPU (a dry run before the GPU is there), with their own lock.
        flavours: tuple[Flavour, ...] = ("cpu", "gpu") if self.of.device.flavour == "cpu" else ("gpu", "cpu")
        return self.brought.closest(self.of.version, [self.of.lock_for(flavour) for flavour in flavours])

    @property
    def unsupported(self) -> str:
        """See `UnderTest`."""
        return self.of.unsupported

    def hold(self) -> Held | None:
        """See `UnderTest`."""
        return None

    def there(self, flavour: Flavour) -> Environment | None:  # noqa: ARG002 - part of the protocol
        """See `UnderTest`."""
        return None

    def ensure(
        self,
        report: Say,  # noqa: ARG002 - part of the protocol
        deadline: float | None = None,  # noqa: ARG002
        control: Control | None = None,  # noqa: ARG002
    ) -> Interpreter:
        """See `UnderTest`."""
        return self.brought.interpreter(self.of.version, lambda: self.lock)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


class Names:
    """What the names of one command line stand for: versions of the matrix, and environments of the user's own.

    Args:
        home: remembers the user's own.
        say: called with what is under way while one is read or built.
    """

    def __init__(self, home: Home, say: Say = _say) -> None:
        self.home, self._say = home, say
        self._given: dict[str, str] = {}  # name to what this command line says that it is; empty for one known before
        self._to_make: dict[str, Callable[[], Own]] = {}
        self._known: dict[str, Own | str | None] = {}

    def require(self, matrix: Matrix, item: str) -> str:
        """The name of the environment that an item of a command line means: a version, a name, or `NAME=WHAT`.

        Nothing is built or read for it before `own` asks for it, so that a mistake elsewhere is found first.

        Raises:
            UsageError: it means none, or a name is used for two things.
        """
        name, defined, what = item.partition("=")
        if defined:
            self._define(matrix, name, what)
        if matrix.has(name) or name in self._to_make:
            return name
        found = self._find(name)
        if isinstance(found, str):
            return matrix.require(found)
        if found is None:
            mine = ", ".join(sorted(path.stem for path in self.home.own.glob("*.json")))
            raise UsageError(
                f"{item!r} is not a version in matrix.yaml: choose from {matrix.choices}, or add it with "
                f"`harness versions --add`. Nor is an environment of your own called so (there is {mine or 'none'}): "
                "write NAME=WHAT to name one, where WHAT is a virtualenv, a `python` or a lock file."
            )
        self._given.setdefault(name, "")
        return name

    def own(self, name: str) -> Own | None:
        """The environment of the user's own that has a name; None where none has.

        Raises:
            UsageError: it cannot be resolved, installed or read, or is the same as another of this command line.
            BuildFailed: a lock file cannot be built, and the machine or the package index is at fault.
        """
        if name in self._to_make:
            self._known[name] = self._to_make[name]()
            del self._to_make[name]
        found = self._find(name)
        if not isinstance(found, Own):
            return None
        for other in self._given.keys() - {name, *self._to_make} if name in self._given else ():
            one = self._find(other)
            if isinstance(one, Own) and one.digest == found.digest:
                first, second = sorted((name, other), key=[*self._given].index)
                raise UsageError(
                    f"{first} and {second} are the same environment: the same Python, and the same packages, file for "
                    "file. There is nothing to compare."
                )
        return found

    def canonical(self, matrix: Matrix, item: str) -> str:
        """An item of a command line that may be a label (`old#1`, `2.8.0 on old`), with the names that cells have.

        An item that is no name is returned as it is.
        """
        if "=" in item:
            return self.require(matrix, item)

        def named(found: re.Match[str]) -> str:
            stands_for = None if matrix.has(found[0]) else self._find(found[0])
            return stands_for if isinstance(stands_for, str) else found[0]

        return re.sub(rf"^{NAME}(?=$|#| on )|(?<= on ){NAME}$", named, item)

    def _find(self, name: str) -> Own | str | None:
        if name not in self._known:
            self._known[name] = read_record(self.home, name) if re.fullmatch(NAME, name) else None
        return self._known[name]

    def _define(self, matrix: Matrix, name: str, what: str) -> None:
        item = f"{name}={what}"
        if matrix.has(name) or name == "all" or not re.fullmatch(NAME, name):
            raise UsageError(
                f"{item}: an environment cannot be called {name!r}: begin with a letter, use letters, digits, dots, "
                "hyphens and underscores, 40 at most, and no word that means something else."
            )
        # As part of a label (`2.8.0 on old`) it may have been looked up already.
        before = self._given.setdefault(name, what if self._known.get(name) is None else "")
        if before != what:
            told = before or "what it was called for before"
            raise UsageError(f"{name} is used for two things, {told} and {what}: give each its own name.")
        if name in self._known or name in self._to_make:
            return
        if matrix.has(what):
            write_record(self.home, name, {"name": name, "version": what})
            self._known[name] = what
            return
        source = recognise(item, what)
        self._to_make[name] = partial(make, self.home, name, item, source, matrix.python, self._say)


def interpreter_for(item: str, home: Home, matrix: Matrix, locks: Path, device: Device, say: Say = _say) -> Path:
    """What runs in an environment, whether or not jobs could: that of a version, or of a lock file, is built for it.

    Args:
        item: a version, `NAME=WHAT`, `WHAT`, or what the user called one before.
        home: gets what is built.
        matrix: has the versions, and the Python to build with.
        locks: folder of the versions' locks.
        device: what a version is built for.
        say: called with what is under way.

    Raises:
        UsageError: it is no environment, or one that cannot be built.
        BuildFailed: as `Names.require`.
    """
    if matrix.has(item):
        return OfMatrix(home, matrix, locks, item, device).ensure(say).python
    known = None if "=" in item else Names(home).own(item)
    if known is not None:
        return known.ensure(say).python
    name, defined, what = item.partition("=") if not Path(item).exists() else ("", "", "")
    source = recognise(item, what if defined else item)
    return interpreter_of(home, name or "--env", item, source, matrix.python, say)[0]


def under_test(
    name: str, names: Names, matrix: Matrix, locks: Path, device: Device, brought: Brought | None = None
) -> UnderTest:
    """The environment that has a name.

    Args:
        name: as `Names.require` returned it.
        names: the user's own.
        matrix: the versions.
        locks: folder of their locks.
        device: where jobs run.
        brought: versions that were brought along as files.
    """
    own = None if matrix.has(name) else names.own(name)
    if own is not None:
        return own
    version = OfMatrix(names.home, matrix, locks, name, device)
    return OfSites(version, brought) if brought is not None else version

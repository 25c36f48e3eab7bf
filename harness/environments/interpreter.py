"""Interpreters under test, built or brought as files, and the packages in their site folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environments.lockfile import Lock
from harness.environments.uv import BuildFailed
from harness.errors import UsageError
from harness.words import said


@dataclass(frozen=True)
class Interpreter:
    """What runs the worker.

    Attributes:
        python: an interpreter.
        site: a site folder that it needs on its path beside its own, for environments that were brought as files.
        as_is: whether it is the user's own, into which nothing may be written.
    """

    python: Path
    site: Path | None = None
    as_is: bool = False


def shell_python(option: str) -> Path:
    """The `python` that the user's shell would start.

    Args:
        option: names another one, for a sentence.

    Raises:
        UsageError: there is none.
    """
    found = shutil.which("python") or shutil.which("python3")
    if found is None:
        raise UsageError(f"This shell finds no python: name the environment with {option}.")
    return Path(found)


def run_here(python: Path, arguments: Sequence[str]) -> int:
    """Run a script in an interpreter as the user's shell would, to its end; returns its exit status.

    Nothing is written into the interpreter's packages, and nothing of this Python's is on its path.

    Raises:
        UsageError: it cannot be started.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        return subprocess.run([str(python), "-B", *arguments], env=variables, check=False).returncode
    except OSError as error:
        raise UsageError(f"{python} cannot be started: {said(error)}.") from error


def site_of(interpreter: Interpreter) -> Path:
    """The site folder of an environment, brought or built."""
    if interpreter.site is not None:
        return interpreter.site
    return next((interpreter.python.parent.parent / "lib").glob("python3*/site-packages"))


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
        wrong = ""
        if not (site / "torch").is_dir():
            wrong = f"{site} holds no torch; bring the environment of {version} or leave it out."
        elif against := contradictions(lock(), site):
            wrong = f"{site} does not match the lock of {version}: {'; '.join(against[:3])}."
        if wrong:
            raise BuildFailed(f"--sites: {wrong}", "install_failed", "", "not_brought")
        return Interpreter(self.python.absolute(), site)

    def closest(self, version: str, locks: Sequence[Lock]) -> Lock:
        """The lock that a version's environment contradicts least; the first of several."""
        return min(locks, key=lambda lock: len(contradictions(lock, self.sites / version)))


def contradictions(lock: Lock, site: Path) -> list[str]:
    """How a site folder contradicts a lock.

    Packages that an index job never loads may have been left behind to save bytes; another version may not be there.
    """
    return [text for text in mismatches(lock, site_packages(site)) if " is missing " not in text]


def files_below(folder: Path, skip: Iterable[str] = ()) -> Iterator[Path]:
    """Files and links in a folder, relative to it, in order; not those in `__pycache__` or folders named in `skip`."""
    left_out = {"__pycache__", *skip}
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one not in left_out)
        links = [one for one in folders if Path(here, one).is_symlink()]
        yield from (Path(here, one).relative_to(folder) for one in sorted([*files, *links]))


def installed_packages(path: Path) -> dict[str, str]:
    """Name to version of everything installed in a virtualenv, read from its metadata without starting Python."""
    return {k: v for site in path.glob("lib/python3*/site-packages") for k, v in site_packages(site).items()}


def site_packages(site: Path) -> dict[str, str]:
    """Name to version of everything installed in a site folder."""
    found = {}
    for metadata in site.glob("*.dist-info/METADATA"):
        name = version = ""
        with metadata.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Name:"):
                    name = line[5:].strip()
                elif line.startswith("Version:"):
                    version = line[8:].strip()
                if (name and version) or not line.strip():
                    break
        found[normal_name(name)] = version
    return dict(sorted(found.items()))


def normal_name(name: str) -> str:
    """A package's name in the form in which locks and metadata can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def mismatches(lock: Lock, found: dict[str, str]) -> list[str]:
    """How the installed packages differ from a lock, one sentence fragment each; empty when they are the same."""
    wanted = {normal_name(name): version for name, version in lock.packages.items()}
    return [
        f"{name} is {found.get(name, 'missing')} instead of {wanted.get(name, 'absent')}"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]

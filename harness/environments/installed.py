"""What an interpreter that the user brought has installed: read, and nothing is written into it.

An environment is known by its contents and never by its path: each file of its packages counts, as it is on the disk
and not as a RECORD says, because a package that was patched in place would otherwise pass for the one that it was.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from blake3 import blake3
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement

from harness.environments.contents import STRAY, contents, files_in
from harness.environments.interpreter import normal_name
from harness.errors import UsageError
from harness.files import write_json
from harness.words import said

NEEDED = {
    "torch": "torch",
    "colbert": "colbert-ai",
    "faiss": "faiss-cpu, or a build of faiss for the GPU",
    "transformers": "transformers",
    "safetensors": "safetensors",
}
"""Modules that a job imports, and the package that has each."""
OLDEST, NEWEST = (3, 9), (3, 13)
"""The Pythons that the worker is tested with."""
VARIABLES = {
    "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip
"""What an interpreter is started with that is only asked something; nothing of the caller's shell reaches it."""

IMPORT_SECONDS = 900
"""Importing all of it from a cold disk, on a busy machine, takes minutes."""
_SECONDS = 120
_ASK = r"""
import json, platform, sys, sysconfig
try:
    from importlib.util import find_spec
except ImportError:
    find_spec = lambda name: None
def there(name):
    try:
        return find_spec(name) is not None
    except Exception:
        return False
print("harness:" + json.dumps({
    "version": platform.python_version(), "implementation": platform.python_implementation(),
    "platform": sysconfig.get_platform(), "modules": [name for name in MODULES if there(name)],
    "path": sys.path, "prefix": sys.prefix, "base": getattr(sys, "_base_executable", None) or sys.executable,
    "library": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")],
}))
"""
_SITES = {"site-packages", "dist-packages"}
_INSTALLERS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}
"""Files in a package's metadata that say how it came here, and where to."""
_LINKED = re.compile(r"(__editable__.*|.*\.pth|.*\.egg-link)")
"""Files in a site folder that only name the folder of a package that is installed in place."""
_OTHERS = 4
"""Of so many other environments, those looked at last, the digests of files are looked at, too."""
_OF_VIRTUALENV = {"_virtualenv.py", "_virtualenv.pth"}


@dataclass(frozen=True)
class Installed:
    """What an interpreter is, and what it has.

    Attributes:
        version: of Python, such as `3.12.1`.
        implementation: such as `CPython`.
        platform: such as `linux-x86_64`.
        modules: those of `NEEDED` that it finds.
        packages: name to version.
        digests: name to the digest of its files; of those that are no package's, under `STRAY`.
        parents: name to the packages that require it.
        site: the site folder that holds torch, or the first.
    """

    version: str
    implementation: str
    platform: str
    modules: tuple[str, ...]
    packages: dict[str, str]
    digests: dict[str, str]
    parents: dict[str, tuple[str, ...]]
    site: Path | None

    @property
    def interpreter(self) -> str:
        """What kind of Python it is, and which."""
        return f"{self.implementation} {self.version}"

    @property
    def digest(self) -> str:
        """Of the interpreter and all files of all packages; no path is in it."""
        told = [self.version, self.implementation, self.platform, sorted(self.digests.items())]
        return blake3(json.dumps(told).encode()).hexdigest()

    @property
    def missing(self) -> list[str]:
        """Packages without which no job can run."""
        return [package for module, package in NEEDED.items() if module not in self.modules]


def ask(python: Path, what: str) -> dict[str, Any]:
    """What an interpreter is: its version, implementation and platform, its path, and which modules it finds.

    `base` is the interpreter that a virtualenv was made of, or itself.

    Args:
        python: is run; nothing is written.
        what: what the user called it, for a sentence.

    Raises:
        UsageError: it cannot be run, is no Python, or one that no job runs in.
    """
    script = f"MODULES = {sorted(NEEDED)!r}\n{_ASK}"
    # Not as an argument, which a program that is no Python would print in its complaint.
    done = run_quietly(python, ["-"], what, program=script)
    line = next((one for one in done.stdout.splitlines() if one.startswith("harness:")), "")
    try:
        found = json.loads(line.removeprefix("harness:"))
        number = tuple(int(part) for part in found["version"].split(".")[:2])
    except (ValueError, KeyError, TypeError) as error:
        shown = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        told = f" (it says: {shown[0][:200]})" if shown else ""
        raise UsageError(
            f"{what}: {python} is not a Python interpreter{told}: give the path of a `python`, or of a virtualenv."
        ) from error
    if number < OLDEST:
        raise UsageError(
            f"{what}: {python} is Python {found['version']}, and jobs need {OLDEST[0]}.{OLDEST[1]} or newer."
        )
    return dict(found)


def failing_import(python: Path, what: str) -> str:
    """What importing all modules of `NEEDED` ends with, in Python's words; empty where they can be imported.

    Raises:
        UsageError: as `run_quietly`.
    """
    done = run_quietly(python, ["-c", f"import {', '.join(NEEDED)}"], what, IMPORT_SECONDS)
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return last[:300].rstrip(".") if done.returncode else ""


def run_quietly(
    python: Path, arguments: list[str], what: str, seconds: float = _SECONDS, *, program: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter to its end without writing into it, and with nothing of the caller's shell.

    Args:
        python: the interpreter.
        arguments: its own.
        what: what the user called it, for a sentence.
        seconds: how long it may take.
        program: is its standard input.

    Raises:
        UsageError: it cannot be run, or does not end.
    """
    variables = {**VARIABLES, "PATH": os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])}
    try:
        return subprocess.run(
            [str(python), "-B", *arguments], env=variables, cwd="/", input=program, capture_output=True, text=True,
            errors="replace", timeout=seconds, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{what}: {python} cannot be run as a Python interpreter: {said(error)}.") from error


def examine(python: Path, what: str, cache: Path) -> Installed:
    """What an interpreter has installed, by the contents of every file.

    Args:
        python: an interpreter.
        what: what the user called it, for a sentence.
        cache: a folder; gets a file for each interpreter, with the digests of its files by inode, size and times.

    Raises:
        UsageError: as `ask`, or a file of a package cannot be read.
    """
    told = ask(python, what)
    folders = _folders(told)
    known = _Known(cache / f"{blake3(str(python).encode()).hexdigest(length=8)}.json")
    found = _Found()
    sites = site_folders(told)
    try:
        found.add_sites(sites, known)
        for folder in folders:
            if folder not in sites and not any(folder.is_relative_to(one) for one in found.in_place):
                found.add(STRAY, ((place, known(path)) for path, place in files_in(folder, sources=True)))
        found.add_conda(Path(told["prefix"]))
    except OSError as error:
        raise UsageError(f"{what}: {error.filename} cannot be read: {said(error)}.") from error
    known.save()
    return Installed(
        told["version"], told["implementation"], told["platform"], tuple(told["modules"]),
        dict(sorted(found.packages.items())), found.digests(), found.parents(told["version"]),
        next((site for site in sites if (site / "torch").is_dir()), sites[0] if sites else None),
    )  # fmt: skip


def site_folders(told: Mapping[str, Any]) -> list[Path]:
    """The site folders of an interpreter, by what it said of itself (see `ask`), in the order of its path."""
    return [one for one in _folders(told) if one.name in _SITES]


def _folders(told: Mapping[str, Any]) -> list[Path]:
    """Where an interpreter imports from, beside its own library.

    In the order in which it does: the first of two packages of one name is the one that is used.
    """
    library = {os.path.realpath(one) for one in told["library"] if one}
    folders = [Path(one) for one in dict.fromkeys(map(os.path.realpath, filter(None, told["path"])))]
    return [one for one in folders if one.is_dir() and str(one) not in library and one.name != "lib-dynload"]


class _Known:
    """Digests of files, of which those that did not change since they were read are not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine = _read_digests(path)
        # Installers hard-link what two environments have in common, so that one's files may be known from another.
        others = [_read_digests(one) for one in sorted(path.parent.glob("*.json"), key=_written)[-_OTHERS:]]
        self._before = {key: digest for known in (*others, self._mine) for key, digest in known.items()}
        self._now: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        about = Path(path).stat()
        # No write leaves a file's change time as it was, whatever is done to its modification time.
        key = f"{about.st_dev}:{about.st_ino}:{about.st_size}:{about.st_mtime_ns}:{about.st_ctime_ns}"
        if key not in self._now:
            known = self._before.get(key)
            if known is None:
                hasher = blake3(max_threads=blake3.AUTO)
                known = (hasher.update_mmap(path) if about.st_size else hasher).hexdigest(length=16)
            self._now[key] = known
        return self._now[key]

    def save(self) -> None:
        """Keep the digests of this time's files, and of no others."""
        if self._now != self._mine:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            write_json(temporary, self._now)
            temporary.replace(self._path)


def _read_digests(path: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        read = json.loads(path.read_text(encoding="utf-8"))
        return read if isinstance(read, dict) else {}
    return {}


def _written(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


class _Found:
    """Packages as they are found, site folder after site folder."""

    def __init__(self) -> None:
        self.packages: dict[str, str] = {}
        self.in_place: list[Path] = []
        self._files: dict[str, list[tuple[str, str]]] = {}
        self._requires: dict[str, list[str]] = {}

    def add(self, package: str, files: Iterable[tuple[str, str]]) -> None:
        """Files of a package, by their places and digests."""
        self._files.setdefault(package, []).extend(files)

    def digests(self) -> dict[str, str]:
        """Package to the digest of its files, and of its name and version."""
        return {
            name: blake3(json.dumps([name, self.packages.get(name), sorted(files)]).encode()).hexdigest(length=16)
            for name, files in sorted(self._files.items())
        }

    def parents(self, version: str) -> dict[str, tuple[str, ...]]:
        """Package to those that require it, as a resolver would note it."""
        found: dict[str, set[str]] = {name: set() for name in self.packages}
        about: Mapping[str, Any] = {
            **default_environment(), "extra": "", "python_full_version": version,
            "python_version": ".".join(version.split(".")[:2]),
        }  # fmt: skip
        for name, lines in self._requires.items():
            for line in lines:
                with suppress(InvalidRequirement):
                    asked = Requirement(line)
                    wanted = normal_name(asked.name)
                    if wanted in found and (asked.marker is None or asked.marker.evaluate(dict(about))):
                        found[wanted].add(name)
        return {name: tuple(sorted(who)) for name, who in found.items()}

    def add_conda(self, prefix: Path) -> None:
        """What conda or pixi has installed below an interpreter's prefix that is no package of Python, such as MKL.

        These are known by their records, which have the digest of the archive that each came in.
        """
        for record in sorted((prefix / "conda-meta").glob("*.json")):
            with suppress(ValueError, KeyError, TypeError):
                about = json.loads(record.read_text(encoding="utf-8"))
                name, version, build = (str(about[field]) for field in ("name", "version", "build"))
                # Python itself is the interpreter, which has a place of its own.
                if (name := normal_name(name)) not in self.packages and name != "python":
                    self.packages[name] = version
                    self.add(name, [(build, str(about.get("sha256") or about.get("md5")))])

    def add_sites(self, sites: Iterable[Path], known: _Known) -> None:
        """All packages of site folders, and the files in them that are no package's."""
        found = contents(sites)
        linked = set()
        for name, package in found.packages.items():
            self.packages[name], self._requires[name] = package.version, list(package.requires)
            self._files.setdefault(name, [])
            if source := _in_place(package.metadata):
                linked.add(name)
                self.in_place.append(source)
                self.add(name, ((place, known(path)) for path, place in files_in(source, sources=True)))
        imported = ((name, place, path) for name, files in found.files.items() for place, path in files.items())
        # Nobody is known to import what is hidden, and nobody is sure not to.
        for name, place, path in (*imported, *found.hidden):
            top, _, rest = place.partition("/")
            skipped = (
                (top.endswith(".dist-info") and rest in _INSTALLERS)
                or (name in linked and _LINKED.fullmatch(place))
                or (name == STRAY and place in _OF_VIRTUALENV)
            )
            if not skipped:
                self.add(name, [(place, known(path))])


def _in_place(metadata: Path) -> Path | None:
    """The source tree of a package that is installed in place (`pip install -e`)."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads((metadata / "direct_url.json").read_text(encoding="utf-8"))
        if about["dir_info"]["editable"]:
            folder = Path(unquote(urlsplit(about["url"]).path))
            return folder if folder.is_dir() else None
    return None

"""An environment of the user's own: an interpreter that is used as it is, or a lock file from which uv builds one.

Whatever it is, it is known by what is installed in it (`harness.environments.installed`). What a name stands for is
kept in the home, so that later commands find the cells and the interpreter by the name alone.
"""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from harness.environments.build import (
    Environment,
    build_pinned,
    complete_mark,
    ensure_built,
    mark_built,
    use_folder,
)
from harness.environments.installed import Installed, examine, failing_import
from harness.environments.interpreter import Interpreter
from harness.environments.lockfile import Lock, all_hashed, head
from harness.environments.supervise import Control
from harness.environments.uv import BuildFailed, index_failed, run_uv, uv_words
from harness.errors import InfrastructureError, UsageError
from harness.files import read_json, write_json
from harness.flock import Held
from harness.home import Home
from harness.inputs.matrix import Flavour
from harness.words import said

SourceKind = Literal["interpreter", "requirements", "pylock", "uv.lock"]
Say = Callable[[str], None]

_HASHED = re.compile(r"--hash[= ]")
_ELSEWHERE = re.compile(r"^\s*(?:-r|-c|-e|--requirement|--constraint|--editable|\.{1,2}/)", re.MULTILINE)
"""Lines of a requirements file that name something beside it."""
_FORMS = (
    "a version of matrix.yaml, the folder of a virtualenv, the path of a `python`, a requirements file (.txt), a "
    "pylock.toml, or a uv.lock beside its pyproject.toml"
)


@dataclass(frozen=True)
class Source:
    """What the user gave, recognised.

    Attributes:
        kind: what it is.
        path: absolute; of a virtualenv, its interpreter. No link is followed: a virtualenv's interpreter is one.
    """

    kind: SourceKind
    path: Path


def recognise(item: str, what: str) -> Source:
    """Say what kind of environment a path is.

    Args:
        item: the whole argument, `NAME=WHAT`, for a sentence.
        what: the path.

    Raises:
        UsageError: there is no such path, or it is none of these.
    """
    path = Path(what).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"{item}: there is no {what}: give {_FORMS}.")
    if path.is_dir():
        for name, kind in (("bin/python", "interpreter"), ("uv.lock", "uv.lock"), ("pylock.toml", "pylock")):
            if (path / name).exists():
                return Source(kind, path / name)  # type: ignore[arg-type]  # the kinds just above
        hint = " (run `uv lock` there first)" if (path / "pyproject.toml").exists() else ""
        raise UsageError(f"{item}: the folder {what} holds no bin/python, uv.lock or pylock.toml{hint}: give {_FORMS}.")
    if path.name == "uv.lock":
        if not (path.parent / "pyproject.toml").exists():
            raise UsageError(f"{item}: there is no pyproject.toml beside {what}, and uv reads a uv.lock only with it.")
        return Source("uv.lock", path)
    if re.fullmatch(r"pylock(\..+)?\.toml", path.name):
        return Source("pylock", path)
    if path.suffix in {".txt", ".in"}:
        return Source("requirements", path)
    if os.access(path, os.X_OK):
        return Source("interpreter", path)
    raise UsageError(f"{item}: {what} is no environment that is known here: give {_FORMS}.")


@dataclass(frozen=True)
class Own:
    """An environment of the user's own.

    Attributes:
        home: where it is built, if it is.
        name: what the user calls it.
        kind: see `Source`.
        path: what the user gave, absolute. It is in no cell.
        pins: what it is built from: every package with its version, and with hashes where the user's file has them;
            None for an interpreter.
        python: of what is built, the Python that uv is asked for; of an interpreter, itself.
        digest: of the interpreter and all that is installed; see `Installed`.
        packages: name to version.
        digests: package to the digest of its files.
        parents: package to those that require it.
        interpreter: implementation and version of its Python.
    """

    home: Home
    name: str
    kind: SourceKind
    path: Path
    pins: Path | None
    python: str
    digest: str
    packages: Mapping[str, str]
    digests: Mapping[str, str]
    parents: Mapping[str, Sequence[str]]
    interpreter: str = ""

    @property
    def lock(self) -> Lock:
        """What is installed in it, as the lock of an environment of the matrix."""
        return Lock(
            self.pins or record_path(self.home, self.name),
            dict(self.packages),
            {name: frozenset(who) for name, who in self.parents.items()},
            self.digest,
            own={"kind": self.kind, "torch": self.packages["torch"]},
            digests=self.digests,
            interpreter=self.interpreter,
        )

    @property
    def unsupported(self) -> str:
        """Nothing is known before its job asks its own torch."""
        return ""

    def hold(self) -> Held | None:
        """A lock that keeps other sweeps from deleting it, where it was built here."""
        return use_folder(_folder(self.home, self.pins, self.python)) if self.pins else None

    def there(self, flavour: Flavour) -> Environment | None:
        """What may be deleted, because it can be built again."""
        if self.pins is None:
            return None
        path = _folder(self.home, self.pins, self.python)
        if not complete_mark(path, path.name):
            return None
        return Environment(self.name, flavour, path, self.lock, dict(self.packages), 0.0)

    def ensure(self, report: Say, deadline: float | None = None, control: Control | None = None) -> Interpreter:
        """Its interpreter with all that was installed when it was named; built again if it was deleted or changed.

        Raises:
            BuildFailed: it cannot be built, or is not what it was.
            Stopped: `control` said so.
        """
        try:
            if self.pins is None:
                python, found = Path(self.python), examine(Path(self.python), self.name, _files(self.home))
            else:
                python, found = _build(self.home, self.name, self.pins, self.python, report, deadline, control)
        except UsageError as error:
            raise BuildFailed(str(error), "install_failed", "") from error
        if found.digest != self.digest:
            raise BuildFailed(
                f"{self.name} is not what it was when it was named: {_told(self, found)}. Name it again, "
                f"{self.name}={self.path}, for what it is now.", "install_failed", "",
            )  # fmt: skip
        return Interpreter(python, as_is=self.pins is None)


def interpreter_of(
    home: Home, name: str, item: str, source: Source, default_python: str, report: Say
) -> tuple[Path, Path | None, str]:
    """What runs there, what it was built from, and the Python that was asked for; see `make`, whose arguments they are.

    Raises:
        UsageError: it cannot be resolved or installed.
        BuildFailed: the package index or the machine is at fault.
    """
    if source.kind == "interpreter":
        return source.path, None, str(source.path)
    asked = _python_for(source, item, default_python)
    pins = _pinned(home, item, source, asked, report)
    try:
        return _build(home, name, pins, asked, report)[0], pins, asked
    except BuildFailed as error:
        if error.cause or error.outcome in {"timeout", "lost"}:
            raise
        raise UsageError(f"{item}: {str(error).removeprefix(f'{name}: ')}") from error


def make(home: Home, name: str, item: str, source: Source, default_python: str, report: Say) -> Own:
    """Read an environment of the user's own, after building it if it is a lock file, and keep what its name stands for.

    Args:
        home: gets the environment, and the record of the name.
        name: what the user calls it.
        item: the whole argument, for a sentence.
        source: what the user gave.
        default_python: the Python to build with where neither a `.python-version` beside the file nor the file itself
            says one.
        report: says what is under way.

    Raises:
        UsageError: it cannot be resolved or installed, is no Python, or lacks what a job needs.
        BuildFailed: the package index or the machine is at fault.
    """
    python, pins, asked = interpreter_of(home, name, item, source, default_python, report)
    if pins is None:
        report(f"{name}: reading what is installed")
    found = examine(python, item, _files(home))
    if found.missing:
        raise UsageError(
            f"{item}: {', '.join(found.missing)} {'is' if len(found.missing) == 1 else 'are'} not installed there, and "
            "no job can run without: `harness doctor --env` says what else is missing."
        )
    if "torch" not in found.packages:
        raise UsageError(f"{item}: its torch has no metadata, which says its version: install it as a package.")
    own = Own(
        home, name, source.kind, source.path, pins, asked, found.digest, found.packages, found.digests, found.parents,
        found.interpreter,
    )  # fmt: skip
    # Known by its contents, it was tried when it was named for the first time.
    if _digest_before(home, name) != own.digest and (wrong := failing_import(python, item)):
        mend = _what_to_do(home, python, built=pins is not None)
        raise UsageError(f"{item}: importing what a job needs fails there, {wrong}. {mend}")
    _keep(own)
    return own


_REQUIRED = re.compile(r"requires `([^ `]+).*`, but it's not installed")
"""In a line of `uv pip check`."""


def _what_to_do(home: Home, python: Path, *, built: bool) -> str:
    """What is missing where an import fails, as the installed packages themselves say."""
    missing = []
    with suppress(InfrastructureError):  # without uv nobody says it
        missing = sorted(_REQUIRED.findall(run_uv(home, "pip", "check", "--python", str(python)).stderr))
    if not missing:
        where = "add it to the file, where an installer had added it by itself, too" if built else "install it"
        return f"If something is missing, {where}."
    told = f"Required and not installed there: {_first(missing)}"
    return told + (": if the file was made for another platform, resolve it for this one." if built else ".")


def _digest_before(home: Home, name: str) -> str:
    """Of what a name stood for until now; empty for nothing that can be read."""
    with suppress(UsageError):
        before = read_record(home, name)
        return before.digest if isinstance(before, Own) else ""
    return ""


def record_path(home: Home, name: str) -> Path:
    """Where it is kept what a name stands for."""
    return home.own / f"{name}.json"


def _keep(own: Own) -> None:
    record = {key: value for key, value in asdict(own).items() if key != "home"}
    write_record(own.home, own.name, {**record, "path": str(own.path), "pins": own.pins and own.pins.name})


def write_record(home: Home, name: str, record: Mapping[str, Any]) -> None:
    """Keep what a name stands for, at once."""
    path = record_path(home, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(temporary, {"schema": 1, **record}, indent=1)
    temporary.replace(path)


def read_record(home: Home, name: str) -> Own | str | None:
    """What a name stands for: an environment, or a version of the matrix; None where nobody used it.

    Raises:
        UsageError: its record cannot be read.
    """
    path = record_path(home, name)
    if not path.exists():
        return None
    try:
        record = read_json(path)
        if not isinstance(record, dict):
            raise TypeError("it is no object")
        if "version" in record:
            return str(record["version"])
        fields = {one: record[one] for one in ("name", "kind", "python", "digest", "packages", "digests", "parents")}
        fields["parents"] = {one: tuple(who) for one, who in fields["parents"].items()}
        pins = home.own / "pins" / record["pins"] if record["pins"] else None
        # A name that was kept before it was read stands for the same environment.
        return Own(home=home, path=Path(record["path"]), pins=pins, interpreter=record.get("interpreter", ""), **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read ({said(error)}): name {name} again, {name}=WHAT.") from error


def _files(home: Home) -> Path:
    return home.own / "cache"


def _told(own: Own, found: Installed) -> str:
    """How an environment differs from what it was, for a sentence."""
    names = sorted({*own.digests, *found.digests})
    differ = [name for name in names if own.digests.get(name) != found.digests.get(name)]
    words = [f"{one} {own.packages.get(one, 'absent')} -> {found.packages.get(one, 'absent')}" for one in differ]
    return _first(words) or "another interpreter"


def _first(words: Sequence[str]) -> str:
    """The first of many, for a sentence."""
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


# ---- building


def _python_for(source: Source, item: str, default: str) -> str:
    """The Python to ask uv for."""
    beside = source.path.with_name(".python-version")
    if beside.exists():
        words = beside.read_text(encoding="utf-8", errors="replace").split()
        if words:
            return words[0]
    if source.kind == "requirements":
        return default
    try:
        asked = str(tomllib.loads(source.path.read_text(encoding="utf-8")).get("requires-python", ""))
        fits = not asked or SpecifierSet(asked).contains(f"{default}.999")
    except (OSError, ValueError, InvalidSpecifier) as error:
        raise UsageError(f"{item}: {source.path} cannot be read as a lock file: {said(error)}.") from error
    return default if fits else asked


def _pinned(home: Home, item: str, source: Source, python: str, report: Say) -> Path:
    """The file to build from: what the user gave where it has hashes, otherwise what uv resolves it to."""
    if source.kind == "uv.lock":
        text = _asked(
            home, item, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-workspace", "--no-header", "--format",
            "requirements.txt", "--project", str(source.path.parent),
        )  # fmt: skip
        return _kept(home, head(python, ()) + text, "txt")
    try:
        text = source.path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{item}: {source.path} cannot be read: {said(error)}.") from error
    if source.kind == "pylock":
        return _kept(home, text, "pylock.toml")
    if _HASHED.search(text):
        if _ELSEWHERE.search(text):
            raise UsageError(
                f"{item}: {source.path} has hashes and names other files (-r, -c, -e or a path): give one file with "
                "all packages, as `uv pip compile --generate-hashes` writes it."
            )
        return _kept(home, head(python, ()) + text, "txt", "hashed")
    # Resolved once for a text: the same name must not mean another environment tomorrow without a word.
    resolved = _of(home, "resolved", f"{python}\n{_with_included(source.path)}", "txt")
    if not resolved.exists():
        report(f"{item.partition('=')[0]}: resolving {source.path.name}")
        text = _asked(
            home, item, "pip", "compile", "--quiet", "--no-header", "--generate-hashes", "--emit-index-url",
            "--index-strategy", "unsafe-best-match", "--python", python, str(source.path),
        )  # fmt: skip
        _put(resolved, head(python, ()) + text)
    return resolved


def _with_included(path: Path, depth: int = 8) -> str:
    """The text of a requirements file and of those that it includes."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    names = re.findall(r"^\s*(?:-[rc]|--requirement|--constraint)[ =]*(\S+)", text, re.MULTILINE) if depth else ()
    return "\n".join(itertools.chain([text], (_with_included(path.parent / name, depth - 1) for name in names)))


def _asked(home: Home, item: str, *arguments: str) -> str:
    done = run_uv(home, *arguments)
    if done.returncode:
        cause, hint = uv_words(done.stderr)
        if index_failed(done.stderr):
            raise BuildFailed(f"{item}: uv gets no answer from the package index: {cause}.{hint}", "resolve_failed", "")
        raise UsageError(f"{item}: uv cannot resolve it: {cause}.{hint}")
    return done.stdout


def _of(home: Home, kind: str, text: str, ending: str) -> Path:
    digest = blake3(text.encode()).hexdigest(length=8)
    # uv knows a pylock by its name.
    return home.own / "pins" / (f"pylock.{digest}.toml" if ending == "pylock.toml" else f"{kind}-{digest}.{ending}")


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _kept(home: Home, text: str, ending: str, kind: str = "pins") -> Path:
    path = _of(home, kind, text, ending)
    if not path.exists():
        _put(path, text)
    return path


def _folder(home: Home, pins: Path, python: str) -> Path:
    """Where an environment is built: the same pins and the same Python are the same environment, whatever its name."""
    digest = blake3(python.encode()).update(b"\0").update(pins.read_bytes() if pins.exists() else b"")
    return home.environments / f"own-{digest.hexdigest(length=6)}"


def _build(
    home: Home,
    name: str,
    pins: Path,
    python: str,
    report: Say,
    deadline: float | None = None,
    control: Control | None = None,
) -> tuple[Path, Installed]:
    """Make a virtualenv of pins, if it is not there as it was built; returns its interpreter and what it has.

    Raises:
        BuildFailed: uv could not.
        UsageError: what uv made cannot be read.
        Stopped: `control` said so.
    """
    path = _folder(home, pins, python)
    made = path / "bin" / "python"

    def build(keep: Sequence[int]) -> Installed:
        report(f"{name}: building the environment from {pins.name}")
        build_pinned(
            home, path, pins, python, name, indexes={}, deadline=deadline, control=control, keep=keep,
            # What uv resolved may hold packages without a hash, such as those of a repository. The user's own may not.
            hashed=pins.name.startswith("hashed-") or (pins.suffix == ".txt" and all_hashed(pins.read_text("utf-8"))),
        )  # fmt: skip
        report(f"{name}: reading what is installed")
        found = examine(made, name, _files(home))
        mark_built(path, path.name, installed=found.digest)
        return found

    def there() -> Installed | None:
        if not complete_mark(path, path.name) or not made.exists():
            return None
        with suppress(UsageError):
            found = examine(made, name, _files(home))
            # Somebody's `pip install` into it would go unnoticed otherwise.
            if complete_mark(path, path.name, installed=found.digest):
                return found
        return None

    return made, ensure_built(home, path, name, there, build, report=report, control=control)

"""Locks: the shared part resolved once, then one hash-carrying lock for each version and flavour.

The lock of a point on an axis (`transformers-4.44.2`) holds only what it does not have in common with the lock of the
axis's torch, which it names with its digest; `lock_text` puts the two together.

A lock is a requirements file with hashes, made by `uv pip compile`. Resolving each version by itself would pick other
versions of shared packages (a plain resolve beside colbert-ai gives datasets 5.0.1 with one torch and 2.14.4 with
another), so the shared part is resolved without torch and constrains every version's lock.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from blake3 import blake3
from packaging.utils import canonicalize_name

from harness.errors import UsageError
from harness.inputs.matrix import Build, Flavour, Matrix
from harness.words import NAME

FLAVOURS: tuple[Flavour, ...] = ("cpu", "gpu")
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+) ?\\?$")
_PACKAGE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(?:===?|@)")
"""The first line of a package in any requirements file that pins it."""
_HASH = re.compile(r"^\s+--hash=sha256:[0-9a-f]{64}(?: \\)?$")
_HEAD = re.compile(r"^# (?P<field>python|indexes|axis|base): (?P<value>\S+)$")
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?(?P<parent>(?!via\s*$)[A-Za-z0-9._-]+)\s*$")


@dataclass(frozen=True)
class Lock:
    """One lock file as read.

    Attributes:
        path: the file.
        packages: name to version.
        parents: name to what requires it, as the resolver noted it: packages, `matrix.yaml`, `shared.txt`.
        digest: blake3 of the pins and hashes, without comments, so that a new note does not rebuild an environment;
            and of `python`.
        python: what it was resolved for, where that is not the matrix's.
        indexes: names of the indexes that have what uv's own does not.
        varied: the package that is exchanged from lock to lock: torch, or that of the axis that this is a point of.
        own: kind and torch of an environment of the user's own (`harness.environments.own`), of which this says what
            is installed; None for a version of the matrix.
        digests: package to the digest of its files, where these were read; a package of the same version may be
            another build, or may have been changed in place.
        interpreter: implementation and version of its Python, such as `CPython 3.11.7`; without the last number where
            only that is known, and empty where nothing is.
    """

    path: Path
    packages: dict[str, str]
    parents: dict[str, frozenset[str]]
    digest: str
    python: str | None = None
    indexes: tuple[str, ...] = ()
    varied: str = "torch"
    own: Mapping[str, str] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    interpreter: str = ""

    def torch_closure(self) -> frozenset[str]:
        """See `closure`."""
        return self.closure("torch")

    def closure(self, package: str) -> frozenset[str]:
        """A package and everything that it, directly or not, requires, whoever else requires it too."""
        closure = {package}
        while True:
            grown = closure | {name for name, parents in self.parents.items() if parents & closure}
            if grown == closure:
                return frozenset(closure)
            closure = grown


def lock_path(locks: Path, name: str, flavour: Flavour) -> Path:
    """Where the lock of one environment is: of a version of torch, or of a point of an axis."""
    label = name if re.match(NAME, name) else f"torch-{name}"
    return locks / flavour / f"{label.replace('.', '-')}.txt"


def shared_path(locks: Path, flavour: Flavour) -> Path:
    """Where the constraints of one flavour are."""
    return locks / flavour / "shared.txt"


def lock_of(matrix: Matrix, locks: Path, version: str, flavour: Flavour, build: Build | None = None) -> Lock:
    """The lock of a version of the matrix, or of another build of it.

    Raises:
        UsageError: the matrix has no such version, there is no lock, or it was made for another Python.
    """
    found = read_lock(lock_path(locks, build.version if build else matrix.require(version), flavour))
    made, wanted = found.python or matrix.python, matrix.python_of(version, flavour)
    if made != wanted:
        raise UsageError(
            f"{found.path} is for Python {made}, and matrix.yaml has {wanted} for {version}: run `harness lock "
            f"{version}`."
        )
    return replace(found, interpreter=f"CPython {wanted}")


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        UsageError: there is no such file, or a line is not a pin with hashes.
    """
    text = lock_text(path)
    try:
        return Lock(path, *parse(text), *head_of(text), varied=_fields(_read(path)).get("axis", "torch"))
    except ValueError as error:
        raise UsageError(f"{path}{error}: run `harness lock`.") from error


def lock_text(path: Path) -> str:
    """All of a lock, also where its file holds only how it differs from another.

    Raises:
        UsageError: there is no such file, or the other one is not the one that it was made from.
    """
    text = _read(path)
    fields = _fields(text)
    if "base" not in fields:
        return text
    name, _, digest = fields["base"].partition("@")
    base = lock_text(path.with_name(Path(name).name))
    try:
        there = parse(base)[2]
    except ValueError as error:
        raise UsageError(f"{path.with_name(name)}{error}: run `harness lock`.") from error
    if not digest or not there.startswith(digest):
        raise UsageError(f"{path}: {name} is not the lock that this one was made from: run `harness lock`.")
    return exchanged(base, text, _blocks(text))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: no lock for this version ({error.strerror}): run `harness lock`.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a lock (it is not UTF-8 text): run `harness lock`.") from error


def head(python: str | None, indexes: Iterable[str], **more: str) -> str:
    """The lines with which a lock begins where it is not for the matrix's Python, or not from uv's own index alone.

    `more` are those of a lock that only says how it differs from another.
    """
    fields = {"python": python or "", "indexes": ",".join(indexes), **more}
    return "".join(f"# {name}: {value}\n" for name, value in fields.items() if value)


def head_of(text: str) -> tuple[str | None, tuple[str, ...]]:
    """Python and indexes of a lock's first lines; see `head`."""
    fields = _fields(text)
    return fields.get("python"), tuple(name for name in fields.get("indexes", "").split(",") if name)


def _fields(text: str) -> dict[str, str]:
    found = itertools.takewhile(bool, map(_HEAD.match, text.splitlines()))
    return {line["field"]: line["value"] for line in found if line}


def exchanged(base: str, other: str, packages: Iterable[str]) -> str:
    """The text of a lock with `packages` as another has them: in its version, with its hashes, or not at all.

    Any requirements file will do of which each package has lines of its own.
    """
    mine, theirs, wanted = _blocks(base), _blocks(other), {canonicalize_name(name) for name in packages}
    merged = {name: block for name, block in mine.items() if name not in wanted}
    merged |= {name: theirs[name] for name in wanted if name in theirs}
    (python, own), (_other, more) = head_of(base), head_of(other)
    first = _options(base)
    options = dict.fromkeys((*first, *(_second(option, first) for option in _options(other))))
    top = head(python, dict.fromkeys((*own, *more)))
    return top + "".join((*options, *(merged[name] for name in sorted(merged))))


def _second(option: str, first: Sequence[str]) -> str:
    """An option beside those of another file, of which one may already say what the index is."""
    main = "--index-url"
    if option in first or not option.startswith(main) or not any(one.startswith(main) for one in first):
        return option
    return option.replace(main, "--extra-index-url", 1)


def all_hashed(text: str) -> bool:
    """Whether every package of a requirements file has a hash."""
    return all("--hash" in block for block in _blocks(text).values())


def only_difference(base: str, base_name: str, whole: str, axis: str) -> str:
    """The text of a point's lock: what of the lock `whole` is not in `base`.

    What only `base` has stays, as somebody may look whether it is there (transformers did for safetensors, before it
    required it).
    """
    mine, theirs = _blocks(base), _blocks(whole)
    changed = [block for name, block in theirs.items() if _pinned(block) != _pinned(mine.get(name, ""))]
    made_from = f"{base_name}@{parse(base)[2][:16]}"
    return head(None, (), axis=axis, base=made_from) + "".join(changed)


def _pinned(block: str) -> list[str]:
    return [line.strip() for line in block.splitlines() if not line.lstrip().startswith("#")]


def _blocks(text: str) -> dict[str, str]:
    """The lines of each package."""
    blocks: dict[str, str] = {}
    current = ""
    for line in text.splitlines(keepends=True):
        if pin := _PACKAGE.match(line):
            current = canonicalize_name(pin["name"])
            # A package may have a line for each of several markers.
            blocks.setdefault(current, "")
        if current and not line.startswith(("#", "--")):
            blocks[current] += line
    return blocks


def _options(text: str) -> list[str]:
    """The lines that are of no package, such as where packages come from."""
    return [line for line in text.splitlines(keepends=True) if line.startswith("--")]


# By content: thousands of cells share the same few dozen locks, and a file that changed is another text.
@functools.lru_cache(maxsize=128)
def parse(text: str) -> tuple[dict[str, str], dict[str, frozenset[str]], str]:
    """Packages, parents and digest of a lock's text; a `ValueError` goes on after the file's name."""
    packages: dict[str, str] = {}
    parents: dict[str, set[str]] = {}
    unhashed: set[str] = set()
    content: list[str] = []
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip()
        if not plain or plain.startswith("#"):
            if current and (via := _VIA.match(line)):
                # A direct requirement's note is `matrix.yaml`, that of a constrained package `shared.txt` besides.
                parents[current].add(via["parent"].lower())
            continue
        content.append(plain)
        if current and _HASH.match(line):  # as most lines
            unhashed.discard(current)
        elif (pin := _PIN.match(line)) and pin["name"].lower() not in packages:
            current = pin["name"].lower()
            packages[current], parents[current] = pin["version"], set()
            unhashed.add(current)
        else:
            raise ValueError(f", line {number}: not a pin with hashes, or a second one")
    if not packages or unhashed:
        what = f"{min(unhashed)} has no hash" if unhashed else "it pins nothing"
        raise ValueError(f": not a lock ({what})")
    python, _indexes = head_of(text)
    # The same pins in another Python are another environment.
    digest = blake3("\n".join([*([python] if python else []), *content]).encode()).hexdigest()
    return packages, {name: frozenset(who) for name, who in parents.items()}, digest


def difference(a: Lock, b: Lock) -> dict[str, tuple[str | None, str | None]]:
    """Packages whose version differs between two locks: name to (version in `a`, version in `b`), None where absent."""
    names = sorted({*a.packages, *b.packages})
    return {
        name: (a.packages.get(name), b.packages.get(name))
        for name in names
        if a.packages.get(name) != b.packages.get(name)
    }

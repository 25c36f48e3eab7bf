"""Locks: the shared part resolved once, then one hash-carrying lock for each version and flavour.

A lock is a requirements file with hashes, made by `uv pip compile`. Resolving each version by itself would pick other
versions of shared packages (a plain resolve beside colbert-ai gives datasets 5.0.1 with one torch and 2.14.4 with
another), so the shared part is resolved without torch and constrains every version's lock.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from harness.errors import InfrastructureError, UsageError
from harness.matrix import Flavour, Matrix

FLAVOURS: tuple[Flavour, ...] = ("cpu", "gpu")
_HEADER = "nox -s lock"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+) ?\\?$")
_HASH = re.compile(r"^\s+--hash=sha256:[0-9a-f]{64}(?: \\)?$")
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?(?P<parent>[A-Za-z0-9._-]+)\s*$")


@dataclass(frozen=True)
class Lock:
    """One lock file as read.

    Attributes:
        path: the file.
        packages: name to version.
        parents: name to what requires it, as the resolver noted it: packages, `matrix.yaml`, `shared.txt`.
        digest: blake3 of the pins and hashes, without comments, so that a new note does not rebuild an environment.
    """

    path: Path
    packages: dict[str, str]
    parents: dict[str, frozenset[str]]
    digest: str

    def torch_closure(self) -> frozenset[str]:
        """`torch` and everything that torch, directly or not, requires, whoever else requires it too."""
        closure = {"torch"}
        while True:
            grown = closure | {name for name, parents in self.parents.items() if parents & closure}
            if grown == closure:
                return frozenset(closure)
            closure = grown


def lock_path(locks: Path, version: str, flavour: Flavour) -> Path:
    """Where the lock of one environment is."""
    return locks / flavour / f"torch-{version.replace('.', '-')}.txt"


def shared_path(locks: Path, flavour: Flavour) -> Path:
    """Where the constraints of one flavour are."""
    return locks / flavour / "shared.txt"


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        UsageError: there is no such file, or a line is not a pin with hashes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: no lock for this version ({error.strerror}): run `nox -s lock`.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a lock (it is not UTF-8 text): run `nox -s lock`.") from error
    try:
        return Lock(path, *_parse(text))
    except ValueError as error:
        raise UsageError(f"{path}{error}: run `nox -s lock`.") from error


# By content: thousands of cells share the same few dozen locks, and a file that changed is another text.
@functools.lru_cache(maxsize=128)
def _parse(text: str) -> tuple[dict[str, str], dict[str, frozenset[str]], str]:
    """Packages, parents and digest of a lock's text; a `ValueError` goes on after the file's name."""
    packages: dict[str, str] = {}
    parents: dict[str, set[str]] = {}
    unhashed: set[str] = set()
    content: list[str] = []
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        via = _VIA.match(line)
        if via and current:
            # A direct requirement's note is `matrix.yaml`, that of a constrained package `shared.txt` besides.
            parents[current].add(via["parent"].lower())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        content.append(line.strip())
        pin = _PIN.match(line)
        if pin and pin["name"].lower() not in packages:
            current = pin["name"].lower()
            packages[current], parents[current] = pin["version"], set()
            unhashed.add(current)
        elif current and _HASH.match(line):
            unhashed.discard(current)
        else:
            raise ValueError(f", line {number}: not a pin with hashes, or a second one")
    if not packages or unhashed:
        what = f"{min(unhashed)} has no hash" if unhashed else "it pins nothing"
        raise ValueError(f": not a lock ({what})")
    digest = blake3("\n".join(content).encode()).hexdigest()
    return packages, {name: frozenset(who) for name, who in parents.items()}, digest


def difference(a: Lock, b: Lock) -> dict[str, tuple[str | None, str | None]]:
    """Packages whose version differs between two locks: name to (version in `a`, version in `b`), None where absent."""
    names = sorted({*a.packages, *b.packages})
    return {
        name: (a.packages.get(name), b.packages.get(name))
        for name in names
        if a.packages.get(name) != b.packages.get(name)
    }


def undeclared(matrix: Matrix, a: Lock, b: Lock) -> list[str]:
    """Packages that differ between two locks although neither torch requires them nor the allow-list names them."""
    allowed = a.torch_closure() | b.torch_closure()
    return [name for name in difference(a, b) if name not in allowed and not matrix.may_differ(name)]


Uv = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs uv with some arguments."""


def write_locks(
    matrix: Matrix, locks: Path, versions: list[str], uv: Uv, flavours: tuple[Flavour, ...] = FLAVOURS
) -> list[Path]:
    """Resolve the shared part of each flavour and the lock of each version; returns the files written.

    All of them or none: when one cannot be resolved, the locks stay as they were.

    Args:
        matrix: says what is locked.
        locks: the folder.
        versions: of torch.
        uv: the resolver.
        flavours: of environments.

    Raises:
        InfrastructureError: the resolver failed; its own words are in the sentence.
    """
    made: dict[Path, str] = {}
    undated: dict[str, list[str]] = {}
    for flavour in flavours:
        shared = [*matrix.requirements.shared, *matrix.requirements.flavours.get(flavour, [])]
        path = shared_path(locks, flavour)
        text = _compile(matrix, shared, path.name, None, [], uv, hashes=False)
        # A CUDA library in the shared part (faiss' GPU build needs cuBLAS) belongs to torch, which pins its own.
        constraints = [line for line in text.splitlines() if not line.startswith("nvidia-")]
        made[path] = "\n".join(constraints) + "\n"
        for version in versions:
            path = lock_path(locks, version, flavour)
            requirements = matrix.requirements_of(version, flavour)
            if version not in undated:
                undated[version] = _pinned_by_torch(matrix, version, uv)
            replaced = {old.partition("==")[0] for o in matrix.oddities_of(version, flavour) for old in o.replace}
            overrides = [pin for oddity in matrix.oddities_of(version, flavour) for pin in oddity.override]
            made[path] = _compile(
                matrix, requirements, path.name, _without(constraints, replaced), overrides, uv, hashes=True,
                undated=undated[version],
            )  # fmt: skip
    _replace_all(made)
    return list(made)


def _replace_all(texts: Mapping[Path, str]) -> None:
    """Write files beside their places first, so that a full disk leaves the old ones."""
    beside = {path: path.with_name(f".{path.name}.new") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside[path].write_text(text, encoding="utf-8")
        for path, new in beside.items():
            new.replace(path)
    finally:
        for new in beside.values():
            new.unlink(missing_ok=True)


def _pinned_by_torch(matrix: Matrix, version: str, uv: Uv) -> list[str]:
    """A torch release and the packages that it requires in exactly one version: CUDA's libraries and Triton.

    A release that is newer than `exclude_newer` brings them along. What they are follows from the release alone, so
    they need no date; what torch requires loosely (sympy, networkx) keeps it, and is the same for every version.
    """
    text = _compile(matrix, [f"torch=={version}"], f"torch {version}", None, [], uv, hashes=True, dated=False)
    _packages, parents, _digest = _parse(text)
    # Where torch is not the one that requires it, as with nvJitLink up to torch 2.4, the version is anyone's choice.
    exact = [name for name, who in parents.items() if "torch" in who and name.startswith(("nvidia-", "triton"))]
    return ["torch", *exact]


def _without(constraints: Sequence[str], names: set[str]) -> str:
    return "\n".join(line for line in constraints if line.partition("==")[0] not in names) + "\n"


def _compile(
    matrix: Matrix,
    requirements: list[str],
    name: str,
    constraints: str | None,
    overrides: list[str],
    uv: Uv,
    *,
    hashes: bool,
    dated: bool = True,
    undated: Sequence[str] = (),
) -> str:
    """Resolve requirements; the text of a lock, whose name is for the sentence of a failure."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements) + "\n")
        # An existing output would be preferred by the resolver; a lock must follow from the matrix alone.
        made = Path(folder) / "lock.txt"
        command = [
            "pip", "compile", str(source), "--output-file", str(made), "--quiet",
            "--python-version", matrix.python, "--python-platform", matrix.platform,
            "--custom-compile-command", _HEADER,
            # Their defaults, which a configuration file of the user might change.
            "--resolution", "highest", "--prerelease", "if-necessary-or-explicit",
            "--no-emit-index-url", "--no-emit-find-links", "--only-binary", ":all:", "--no-binary", "colbert-ai",
            "--no-binary", "lit",
        ]  # fmt: skip
        if dated:
            command += ["--exclude-newer", matrix.exclude_newer.isoformat()]
        for package in undated:
            command += ["--exclude-newer-package", f"{package}=false"]
        if hashes:
            command.append("--generate-hashes")
        else:
            command.append("--no-annotate")
        if constraints is not None:
            path = Path(folder) / "constraints.txt"
            path.write_text(constraints)
            command += ["--constraints", str(path)]
        if overrides:
            path = Path(folder) / "overrides.txt"
            path.write_text("\n".join(overrides) + "\n")
            command += ["--override", str(path)]
        done = uv(*command)
        if done.returncode:
            raise InfrastructureError(
                f"Locking {name} failed: `uv pip compile` said: "
                f"{' '.join((done.stderr.strip() or done.stdout).split())[-1500:]}"
            )
        text = made.read_text()
        # Notes name the temporary input file; say what it is instead.
        text = re.sub(r"-r \S*requirements\.in", "matrix.yaml", text)
        text = re.sub(r"-c \S*constraints\.txt", "shared.txt", text)
        return re.sub(r"--override \S*overrides\.txt", "matrix.yaml", text)

"""Writing the locks: the shared part is resolved once, and every version is constrained by it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.environments.lockfile import FLAVOURS, lock_path, parse, shared_path
from harness.errors import InfrastructureError
from harness.inputs.matrix import Flavour, Matrix

_HEADER = "nox -s lock"

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
    _packages, parents, _digest = parse(text)
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

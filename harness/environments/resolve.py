"""Writing the locks: the shared part is resolved once, and every version is constrained by it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from harness.environments.changes import NVIDIA
from harness.environments.lockfile import FLAVOURS, lock_path, parse, shared_path
from harness.environments.package_index import uploaded
from harness.errors import InfrastructureError
from harness.inputs.matrix import Flavour, Matrix

_HEADER = "nox -s lock"

_OWN = (*NVIDIA, "triton")
"""How the names of CUDA's libraries and of Triton begin, which belong to torch whoever else requires them."""

Uv = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs uv with some arguments."""
Uploaded = Callable[[str, str], datetime | None]
"""When a release of a project was uploaded; None where the index does not say."""


def write_locks(
    matrix: Matrix,
    locks: Path,
    versions: list[str],
    uv: Uv,
    flavours: tuple[Flavour, ...] = FLAVOURS,
    uploaded: Uploaded = uploaded,
) -> list[Path]:
    """Resolve the shared part of each flavour and the lock of each version; returns the files written.

    All of them or none: when one cannot be resolved, the locks stay as they were.

    Args:
        matrix: says what is locked.
        locks: the folder.
        versions: of torch.
        uv: the resolver.
        flavours: of environments.
        uploaded: says when a release of a project was uploaded.

    Raises:
        InfrastructureError: the package index or the resolver failed; its own words are in the sentence.
    """
    made: dict[Path, str] = {}
    dates: dict[str, dict[str, str]] = {}
    for flavour in flavours:
        shared = [*matrix.requirements.shared, *matrix.requirements.flavours.get(flavour, [])]
        path = shared_path(locks, flavour)
        newest = matrix.exclude_newer.isoformat()
        text = _compile(matrix, shared, path.name, None, [], uv, hashes=False, newest=newest)
        # A CUDA library in the shared part (faiss' GPU build needs cuBLAS) belongs to torch, which pins its own.
        constraints = [line for line in text.splitlines() if not line.startswith(_OWN)]
        made[path] = "\n".join(constraints) + "\n"
        for version in versions:
            path = lock_path(locks, version, flavour)
            requirements = matrix.requirements_of(version, flavour)
            if version not in dates:
                dates[version] = _own_date(matrix, version, uv, uploaded)
            replaced = {old.partition("==")[0] for o in matrix.oddities_of(version, flavour) for old in o.replace}
            overrides = [pin for oddity in matrix.oddities_of(version, flavour) for pin in oddity.override]
            made[path] = _compile(
                matrix, requirements, path.name, _without(constraints, replaced), overrides, uv, hashes=True,
                newest=newest, dates=dates[version],
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


def _own_date(matrix: Matrix, version: str, uv: Uv, uploaded: Uploaded) -> dict[str, str]:
    """Package to its date, for uv: torch and its own libraries where the release is newer than `exclude_newer`.

    It is the day after the release's upload: nothing that came later enters the lock, even where torch leaves a version
    open (cuBLAS from 2.12, nvJitLink from 2.13). What torch requires beside CUDA's libraries and Triton (sympy,
    networkx) keeps the matrix's date, and so is the same for every version.
    """
    at = uploaded("torch", version)
    if at is not None and at <= matrix.exclude_newer:
        return {}
    date = None if at is None else (at + timedelta(days=1)).replace(microsecond=0).isoformat()
    text = _compile(matrix, [f"torch=={version}"], f"torch {version}", None, [], uv, hashes=True, newest=date)
    names = [name for name in parse(text)[0] if name == "torch" or name.startswith(_OWN)]
    return dict.fromkeys(names, date or "false")


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
    newest: str | None,
    dates: Mapping[str, str] | None = None,
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
        if newest:
            command += ["--exclude-newer", newest]
        for package, date in (dates or {}).items():
            command += ["--exclude-newer-package", f"{package}={date}"]
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

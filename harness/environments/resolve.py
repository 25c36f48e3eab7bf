"""Writing the locks: the shared part is resolved once, and every version is constrained by it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from harness.environments.changes import NVIDIA
from harness.environments.lockfile import (
    FLAVOURS,
    head,
    lock_path,
    lock_text,
    only_difference,
    parse,
    shared_path,
)
from harness.environments.package_index import NoSuchRelease, uploaded
from harness.environments.uv import index_arguments, index_failed, no_solution
from harness.errors import InfrastructureError, UsageError
from harness.inputs.matrix import Build, Flavour, Matrix

_HEADER = "nox -s lock"

_OWN = (*NVIDIA, "triton")
"""How the names of CUDA's libraries and of Triton begin, which belong to torch whoever else requires them."""

Uv = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs uv with some arguments."""
Uploaded = Callable[[str, str, str | None], datetime | None]
"""When a release of a project was uploaded to the index of that URL; None where the index does not say."""


class CannotBeLocked(InfrastructureError):  # noqa: N818 - what became of a version rather than an error of the harness
    """No packages fit together; it is the version's doing, and not that of the machine or of the index."""


def write_locks(
    matrix: Matrix,
    locks: Path,
    versions: list[str],
    uv: Uv,
    flavours: tuple[Flavour, ...] = FLAVOURS,
    uploaded: Uploaded = uploaded,
) -> list[Path]:
    """Resolve and write locks, all of them or none; see `resolve_locks`. Returns the files written."""
    made = resolve_locks(matrix, locks, versions, uv, flavours, uploaded)
    replace_all(made)
    return list(made)


def resolve_locks(
    matrix: Matrix,
    locks: Path,
    versions: list[str],
    uv: Uv,
    flavours: tuple[Flavour, ...] = FLAVOURS,
    uploaded: Uploaded = uploaded,
) -> dict[Path, str]:
    """Resolve the shared part of each flavour, the lock of each version and each other build of it, and of each point.

    Args:
        matrix: says what is locked.
        locks: the folder.
        versions: of torch, and points of axes.
        uv: the resolver.
        flavours: of environments.
        uploaded: says when a release of a project was uploaded.

    Returns:
        The text of each file; nothing is written.

    Raises:
        CannotBeLocked: no packages fit together.
        UsageError: an axis has a version that is nowhere, or there is no lock for its torch.
        InfrastructureError: the package index or the resolver failed; its own words are in the sentence.
    """
    made: dict[Path, str] = {}
    dates: dict[_Target, dict[str, str]] = {}
    newest = matrix.exclude_newer.isoformat()
    torchs = [name for name in versions if not matrix.axis_of(name)]
    uploads = _uploads(matrix, [name for name in versions if matrix.axis_of(name)], uploaded)
    for flavour in flavours:
        shared = [*matrix.requirements.shared, *matrix.requirements.flavours.get(flavour, [])]
        path = shared_path(locks, flavour)
        text = _compile(matrix, _Target(matrix.python), shared, path.name, uv, hashes=False, newest=newest)
        # A CUDA library in the shared part (faiss' GPU build needs cuBLAS) belongs to torch, which pins its own.
        constraints = [line for line in text.splitlines() if not line.startswith(_OWN)]
        made[path] = "\n".join(constraints) + "\n"
        for version, build in _environments(matrix, torchs, flavour):
            torch, index = (build.version, build.index) if build else (version, matrix.index_of(version))
            path = lock_path(locks, torch, flavour)
            target = _Target(matrix.python_of(version, flavour), torch, index)
            if target not in dates:
                dates[target] = _own_date(matrix, target, uv, uploaded)
            replaced = {old.partition("==")[0] for o in matrix.oddities_of(version, flavour) for old in o.replace}
            text = _compile(
                matrix, target, matrix.requirements_of(version, flavour, build), path.name, uv, hashes=True,
                constraints=_without(constraints, replaced), newest=newest, dates=dates[target],
                overrides=[pin for oddity in matrix.oddities_of(version, flavour) for pin in oddity.override],
            )  # fmt: skip
            found = parse(text)[0]["torch"]
            if found != torch:
                # A version without a local label stands for one with any.
                raise CannotBeLocked(
                    f"Locking {path.name} failed: for torch {torch} uv takes {found}; name that version."
                )
            other = target.python if target.python != matrix.python else None
            made[path] = head(other, [index] if index else []) + text
        for label, at in uploads.items():
            if flavour in matrix.flavours_of(label):
                release = matrix.torch_of(label)
                target = _Target(matrix.python_of(label, flavour), release, matrix.index_of(label))
                if target not in dates:
                    dates[target] = _own_date(matrix, target, uv, uploaded)
                path = lock_path(locks, release, flavour)
                base = made[path] if path in made else lock_text(path)
                text = _point(matrix, label, flavour, target, base, uv, at, dates[target])
                package = matrix.axis_of(label) or ""
                made[lock_path(locks, label, flavour)] = only_difference(base, path.name, text, package)
    return made


def _uploads(matrix: Matrix, labels: Sequence[str], uploaded: Uploaded) -> dict[str, datetime | None]:
    """When the package of each point was uploaded.

    Raises:
        UsageError: it never was.
    """
    found: dict[str, datetime | None] = {}
    for label in labels:
        package, version = matrix.point(label) or ("", "")
        try:
            found[label] = uploaded(package, version, None)
        except NoSuchRelease as error:
            raise UsageError(
                f"matrix.yaml: axes.{package}.versions: {version} is no release ({str(error).rstrip('.')}): write one "
                "that is, or remove it."
            ) from error
    return found


def _point(
    matrix: Matrix, label: str, flavour: Flavour, target: _Target, base: str, uv: Uv, at: datetime | None,
    dates: Mapping[str, str],
) -> str:  # fmt: skip
    """The whole lock of a point of an axis: that of the axis's torch, but for what the package's version will not take.

    The resolver prefers what `base` has, and so takes another version of nothing that need not be another. What must be
    is as it was on the day after the package's upload, or on the matrix's date if that is later.
    """
    package = matrix.axis_of(label) or ""
    newest = matrix.exclude_newer if at is None else max(matrix.exclude_newer, _day_after(at))
    return _compile(
        matrix, target, matrix.requirements_of(label, flavour), label, uv, hashes=True, newest=newest.isoformat(),
        dates={**dates, **({package: "false"} if at is None else {})}, preferred=base,
        overrides=[pin for oddity in matrix.oddities_of(label, flavour) for pin in oddity.override],
    )  # fmt: skip


def _day_after(at: datetime) -> datetime:
    return (at + timedelta(days=1)).replace(microsecond=0)


@dataclass(frozen=True)
class _Target:
    """What a lock is resolved for: a Python, and a torch from an index (None: uv's own)."""

    python: str
    torch: str = ""
    index: str | None = None


def _environments(matrix: Matrix, versions: Sequence[str], flavour: Flavour) -> Iterator[tuple[str, Build | None]]:
    """Versions, each followed by its other builds of this flavour."""
    for version in versions:
        yield version, None
        for build in matrix.builds_of(version) if flavour == "gpu" else ():
            yield version, build


def replace_all(texts: Mapping[Path, str]) -> None:
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


def _own_date(matrix: Matrix, target: _Target, uv: Uv, uploaded: Uploaded) -> dict[str, str]:
    """Package to its date, for uv: torch and its own libraries, where the release is newer than `exclude_newer`.

    The day after its upload, even where torch leaves a version open (cuBLAS from 2.12); what else it requires (sympy,
    networkx) keeps the matrix's date, and so is the same for every version.
    """
    url = matrix.indexes[target.index] if target.index else None
    at = uploaded("torch", target.torch, url)
    if at is not None and at <= matrix.exclude_newer:
        return {}
    date = None if at is None else _day_after(at).isoformat()
    wanted = [f"torch=={target.torch}"]
    text = _compile(matrix, target, wanted, f"torch {target.torch}", uv, hashes=True, newest=date)
    names = [name for name in parse(text)[0] if name == "torch" or name.startswith(_OWN)]
    return dict.fromkeys(names, date or "false")


def _without(constraints: Sequence[str], names: set[str]) -> str:
    return "\n".join(line for line in constraints if line.partition("==")[0] not in names) + "\n"


def _compile(
    matrix: Matrix,
    target: _Target,
    requirements: list[str],
    name: str,
    uv: Uv,
    *,
    hashes: bool,
    newest: str | None,
    constraints: str | None = None,
    overrides: Sequence[str] = (),
    dates: Mapping[str, str] | None = None,
    preferred: str = "",
) -> str:
    """Resolve requirements; the text of a lock, whose name is for the sentence of a failure.

    Of what fits, it takes the versions in the lock `preferred`.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements) + "\n")
        # What is in an existing output is preferred by the resolver; a lock must follow from the matrix alone.
        made = Path(folder) / "lock.txt"
        if preferred:
            made.write_text(preferred, encoding="utf-8")
        command = [
            "pip", "compile", str(source), "--output-file", str(made), "--quiet",
            "--python-version", target.python, "--python-platform", matrix.platform,
            "--custom-compile-command", _HEADER,
            # Their defaults, which a configuration file of the user might change.
            "--resolution", "highest", "--prerelease", "if-necessary-or-explicit",
            "--no-emit-index-url", "--no-emit-find-links", "--only-binary", ":all:", "--no-binary", "colbert-ai",
            "--no-binary", "lit",
        ]  # fmt: skip
        command += index_arguments({target.index: matrix.indexes[target.index]} if target.index else {})
        if newest:
            command += ["--exclude-newer", newest]
        for package, date in (dates or {}).items():
            command += ["--exclude-newer-package", f"{package}={date}"]
        command.append("--generate-hashes" if hashes else "--no-annotate")
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
            said = done.stderr.strip() or done.stdout
            kind = CannotBeLocked if no_solution(said) and not index_failed(said) else InfrastructureError
            raise kind(f"Locking {name} failed: `uv pip compile` said: {' '.join(said.split())[-1500:]}")
        text = made.read_text()
        # Notes name the temporary input file; say what it is instead.
        text = re.sub(r"-r \S*requirements\.in", "matrix.yaml", text)
        text = re.sub(r"-c \S*constraints\.txt", "shared.txt", text)
        return re.sub(r"--override \S*overrides\.txt", "matrix.yaml", text)

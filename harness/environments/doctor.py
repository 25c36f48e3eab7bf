"""What this machine can run and what it cannot, and why: each check is one line with its verdict."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.environments.device import cpu_device, gpus, missing_code, usable_cores
from harness.environments.lockfile import FLAVOURS, lock_of, lock_path
from harness.errors import HarnessError, InfrastructureError
from harness.files import writable_folder
from harness.home import Home
from harness.inputs.matrix import Matrix
from harness.words import count, said

Verdict = Literal["ok", "warning", "problem"]

GIB = 2**30
ENVIRONMENT_GIB = 7
"""What the largest environment of the matrix takes, its CUDA libraries included; measured with `du` for 2.8.0."""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    verdict: Verdict
    detail: str


def _pythons(matrix: Matrix, home: Home) -> Iterator[Check]:
    """One check for each Python of the matrix, the one of most versions first."""
    others: dict[str, list[str]] = {}
    for version in matrix.versions:
        for python in {matrix.python_of(version, flavour) for flavour in FLAVOURS} - {matrix.python}:
            others.setdefault(python, []).append(version)
    yield _python(matrix.python, "all wheels of the matrix need", home)
    for python, versions in others.items():
        yield _python(python, f"{', '.join(versions)} need{'s' if len(versions) == 1 else ''}", home)


def _python(python: str, who: str, home: Home) -> Check:
    from harness.environments.uv import run_uv, uv_words

    try:
        done = run_uv(home, "python", "find", "--no-project", python, timeout=60)
    except InfrastructureError as error:
        return Check("uv", "warning", str(error))
    except subprocess.SubprocessError as error:
        return Check("uv", "problem", f"uv does not answer: {said(error)}.")
    except OSError as error:
        return Check("uv", "problem", f"uv cannot be run: {error.filename}: {said(error)}.")
    if done.returncode:
        cause, hint = uv_words(done.stderr)
        if "No interpreter found" not in cause:
            return Check("uv", "problem", f"uv cannot look for Python {python}: {cause}.{hint}")
        return Check("python", "problem", f"uv finds no Python {python}, which {who}: install it ({cause}).{hint}")
    return Check("python", "ok", f"Python {python} is there for the environments.")


def _platform() -> Check:
    libc, version = platform.libc_ver()
    machine = platform.machine()
    if platform.system() != "Linux" or machine != "x86_64":
        return Check(
            "platform", "problem", f"The locks are for Linux on x86-64; this is {platform.system()} on {machine}."
        )
    if libc != "glibc" or tuple(int(n) for n in version.split(".")[:2]) < (2, 28):
        needed = f"torch 2.6 and later need glibc 2.28; this machine has {libc or 'no glibc'} {version}."
        return Check("platform", "problem", needed)
    return Check("platform", "ok", f"Linux, x86-64, glibc {version}.")


def _disk(home: Home) -> Check:
    try:
        writable_folder(home.root, "--home (or HARNESS_HOME)")
    except HarnessError as error:
        return Check("disk", "problem", str(error))
    folder = next(one for one in (home.root, *home.root.parents) if one.exists())
    free = shutil.disk_usage(folder).free / GIB
    room = f"{free:.0f} GiB free for {home.root}"
    if free < ENVIRONMENT_GIB:
        return Check("disk", "problem", f"{room}; one environment takes up to {ENVIRONMENT_GIB} GiB.")
    if free < 2 * ENVIRONMENT_GIB + 1:
        return Check("disk", "warning", f"{room}: index one version at a time, with --evict.")
    if free < 60:
        return Check("disk", "ok", f"{room}: enough for two environments; sweep all versions with --evict.")
    return Check("disk", "ok", f"{room}: enough for all environments.")


def _memory() -> Check:
    import psutil

    total = psutil.virtual_memory().available / GIB
    if total < 3:
        return Check("memory", "warning", f"{total:.1f} GiB of memory are available; a job on the CPU needs about 2.")
    return Check("memory", "ok", f"{total:.1f} GiB of memory are available.")


def _threads(matrix: Matrix) -> Check:
    cores, threads = usable_cores(), matrix.jobs.index.threads
    if cores < threads:
        return Check(
            "threads",
            "problem",
            f"jobs.index.threads is {threads} but this machine has {count(cores, 'usable core')}: pass "
            f"--threads {cores}; such cells are compared only with cells of as many threads.",
        )
    return Check(
        "threads", "ok", f"{count(cores, 'usable core')}; jobs use {count(threads, 'thread')}, as matrix.yaml says."
    )


def _devices(matrix: Matrix, wanted: str) -> Iterator[Check]:
    yield Check("cpu", "ok", f"{cpu_device().identity}. A table holds for this CPU family only.")
    found = gpus()
    if not found and wanted == "cuda":
        yield Check("gpu", "problem", "--device cuda: nvidia-smi lists no GPU on this machine; use --device cpu.")
        return
    if not found:
        yield Check("gpu", "warning", "nvidia-smi lists no GPU: jobs run on the CPU, without mixed precision.")
        return
    for identity in dict.fromkeys(found):
        yield Check("gpu", "ok", f"{found.count(identity)} x {identity.removeprefix('cuda ')}.")
        for reason, versions in unsupported(matrix, identity).items():
            yield Check("gpu", "warning", f"{reason} Cells of {', '.join(versions)} will be `unsupported`.")


def unsupported(matrix: Matrix, identity: str) -> dict[str, list[str]]:
    """Why, to the versions whose wheels hold no code for a GPU: the reason of the first, for those with the same."""
    found: dict[str, list[str]] = {}
    architectures: dict[str, str] = {}
    for version in matrix.versions:
        reason = missing_code(matrix, version, identity)
        if reason:
            first = architectures.setdefault(reason.partition(" holds ")[2], reason)
            found.setdefault(first, []).append(version)
    return found


def _locks(matrix: Matrix, locks: Path) -> Check:
    missing, problems = [], []
    for version, flavour in ((name, flavour) for name in matrix.names for flavour in matrix.flavours_of(name)):
        for build in (None, *(matrix.builds_of(version) if flavour == "gpu" else ())):
            name = f"{build.version if build else version} ({flavour})"
            if not lock_path(locks, build.version if build else version, flavour).exists():
                missing.append(name)
                continue
            try:
                lock_of(matrix, locks, version, flavour, build)
            except HarnessError as error:
                problems.append(str(error))
    if problems:
        return Check("locks", "problem", problems[0])
    if missing:
        return Check("locks", "problem", f"no lock for {', '.join(missing)}: run `harness lock`.")
    points = sum(len(axis.versions) for axis in matrix.axes.values())
    more = f" and {count(points, 'point')} of {count(len(matrix.axes), 'axis', 'axes')}" if points else ""
    return Check(
        "locks", "ok", f"there is one for each of {count(len(matrix.versions), 'version')}{more}, for CPU and GPU."
    )


def _compiler(matrix: Matrix) -> Check:
    if not matrix.jobs.index.native_extensions:
        return Check("compiler", "ok", "none is needed: native_extensions is off.")
    found = [name for name in ("c++", "nvcc") if shutil.which(name)]
    verdict: Verdict = "ok" if "c++" in found else "problem"
    return Check("compiler", verdict, f"native_extensions is on; found {', '.join(found) or 'no compiler'}.")


def examine(matrix: Matrix, home: Home, locks: Path, device: str = "auto") -> list[Check]:
    """Run all checks; without a GPU, `device` `cuda` is a problem, and `auto` is a machine that indexes on its CPU."""
    return [
        _platform(),
        *_pythons(matrix, home),
        _locks(matrix, locks),
        _disk(home),
        _memory(),
        _threads(matrix),
        *_devices(matrix, device),
        _compiler(matrix),
    ]


def cpu_kinds(cpuinfo: str) -> int:
    """How many kinds of cores `/proc/cpuinfo` shows, by model and instruction sets."""
    told = re.compile(r"^(model name|flags|model|stepping)\s*:(.*)$", re.MULTILINE)
    return len({tuple(told.findall(core)) for core in cpuinfo.split("\n\n")} - {()})


def cores_check(path: Path = Path("/proc/cpuinfo")) -> Check:
    """Whether all cores are of one kind: libraries choose kernels by the core that they start on."""
    try:
        kinds = cpu_kinds(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return Check("cores", "warning", f"{path} cannot be read ({error.strerror}): the kinds of cores are not known.")
    if kinds > 1:
        return Check(
            "cores", "problem",
            f"The cores are of {kinds} kinds, and libraries choose kernels by the core they start on: pin the harness "
            "to cores of one kind with taskset.",
        )  # fmt: skip
    return Check("cores", "ok", "All cores are of one kind.")

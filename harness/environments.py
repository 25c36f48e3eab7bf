"""One uv virtualenv for each version and flavour, built from its lock, under a file lock, and marked complete last.

Three locks keep sweeps that run at once from each other's environments: `.NAME.lock` is held by whoever builds or
deletes an environment, `.NAME.use` is shared by those who run jobs in it, and `uv-cache.lock` is shared by those who
install and held alone by whoever deletes from uv's cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, InfrastructureError
from harness.flock import Held, hold, try_hold
from harness.home import Home
from harness.lock import Lock, lock_path, read_lock
from harness.matrix import Flavour, Matrix
from harness.supervise import Control, Deadline, Stopped, supervise

_SENTINEL = "harness-complete.json"
DISK_SIGNS = re.compile(r"No space left on device|os error 28\b|Disk quota exceeded|os error 122\b")
_OFFLINE_SIGNS = re.compile(
    r"dns error|failed to lookup|error sending request|connection refused|network is unreachable|timed out|"
    r"tcp connect error|network connectivity is disabled|network was disabled|could not connect",
    re.IGNORECASE,
)

_REGISTRY_SIGNS = re.compile(
    r"HTTP status server error|HTTP status client error \((?:408|425|429)\b|error decoding response body|"
    r"error reading a body|connection (?:was )?(?:reset|closed)|end of file before message length",
    re.IGNORECASE,
)
"""What uv says of an index that answers with an error of its own, or in the middle of an answer no more."""

# uv's error reports: a tree drawn beside the causes, and words before each; hints come after them.
_TREE = re.compile(r"^[\s\u2500-\u257f\u25b6\u00d7]+")
_CAUSE = re.compile(r"^(error|cause|caused by):\s*", re.IGNORECASE)
_HINT = re.compile(r"^hint:\s*", re.IGNORECASE)
_HINTS_TOLD = 2

_OF_UV_AND_PYTHON = re.compile(r"(?:UV|PIP|PYTHON|CONDA|VIRTUAL_ENV|RUST_|FORCE_COLOR|CLICOLOR).*")
"""Variables that may decide what uv resolves, installs, links or says, and which interpreter it takes."""
REACHES_AN_INDEX = (
    r"UV_(?:(?:DEFAULT_|NO_)?INDEX(?:_.*)?|EXTRA_INDEX_URL|FIND_LINKS|KEYRING_PROVIDER|CREDENTIALS_DIR|INSECURE_HOST|"
    r"NATIVE_TLS|SYSTEM_CERTS|OFFLINE|HTTP_.*|REQUEST_TIMEOUT|CONCURRENT_DOWNLOADS|\w+_ENDPOINT_URL|CONFIG_FILE|"
    r"NO_CONFIG|PYTHON_DOWNLOADS(?:_JSON_URL)?|PYTHON_INSTALL_(?:DIR|MIRROR))|PYTHON_KEYRING_BACKEND"
)
"""Those among them that say how this machine gets packages and Pythons, and so are left as the caller has them."""


class BuildFailed(InfrastructureError):  # noqa: N818 - an outcome of a cell rather than an error of the harness
    """An environment could not be built.

    Attributes:
        outcome: `resolve_failed`, `install_failed`, `timeout` or `lost`, as a cell records it.
        log: the command and everything it printed.
        cause: `offline`, `registry_error`, `disk_full` or `lost` where the machine is at fault and not the version;
            otherwise empty.
    """

    def __init__(self, message: str, outcome: str, log: str, cause: str = "") -> None:
        super().__init__(message)
        self.outcome, self.log, self.cause = outcome, log, cause


@dataclass(frozen=True)
class Environment:
    """A complete environment.

    Attributes:
        version: the PyTorch release.
        flavour: `cpu` or `gpu` (which faiss it holds).
        path: the virtualenv's folder.
        lock: the lock it was built from.
        packages: name to version, as found installed.
        seconds_to_build: wall seconds, 0 when it was reused.
    """

    version: str
    flavour: Flavour
    path: Path
    lock: Lock
    packages: dict[str, str]
    seconds_to_build: float

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.path / "bin" / "python"


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


def environment_path(home: Home, version: str, flavour: Flavour, lock: Lock) -> Path:
    """Where an environment is: its name carries its lock's digest, so a changed lock never reuses an old one."""
    return home.environments / f"{version}-{flavour}-{lock.digest[:12]}"


def find_environment(home: Home, locks: Path, version: str, flavour: Flavour) -> Environment | None:
    """Return the complete environment of a version, or None if it would have to be built."""
    lock = read_lock(lock_path(locks, version, flavour))
    path = environment_path(home, version, flavour, lock)
    return complete_environment(path, version, flavour, lock)


def complete_environment(path: Path, version: str, flavour: Flavour, lock: Lock) -> Environment | None:
    """What is installed at `path`, if it was built to the end and holds what the lock names; otherwise None."""
    try:
        sentinel = json.loads((path / _SENTINEL).read_text(encoding="utf-8"))
        if sentinel["lock"] != lock.digest or not (path / "bin" / "python").exists():
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    found = installed_packages(path)
    # Somebody's `pip install` into the environment would go unnoticed otherwise.
    if mismatches(lock, found):
        return None
    return Environment(version, flavour, path, lock, found, 0.0)


def ensure_environment(
    home: Home,
    matrix: Matrix,
    locks: Path,
    version: str,
    flavour: Flavour,
    *,
    report: Callable[[str], None] = lambda _text: None,
    deadline: float | None = None,
    control: Control | None = None,
) -> Environment:
    """Return a version's environment, building it if it is missing, half-built, damaged or of another lock.

    Two processes that need the same environment build it once: the second waits for the first.

    Args:
        home: where it is.
        matrix: names the Python.
        locks: folder of the locks.
        version: of torch.
        flavour: `cpu` or `gpu`.
        report: says what is under way.
        deadline: wall seconds for building it; none when absent.
        control: stops the building.

    Raises:
        BuildFailed: uv could not build it; `outcome` and `log` say more.
        UsageError: there is no lock for the version.
        Stopped: `control` said so.
    """
    lock = read_lock(lock_path(locks, version, flavour))
    path = environment_path(home, version, flavour, lock)
    home.environments.mkdir(parents=True, exist_ok=True)
    with _exclusive(path, control) as held:
        existing = complete_environment(path, version, flavour, lock)
        if existing:
            return existing
        if path.exists():
            report(f"{version}: rebuilding an environment that is incomplete or does not match its lock")
            _delete(path)
        report(f"{version}: building the environment ({len(lock.packages)} packages)")
        started = time.monotonic()
        try:
            found = build_environment(
                home, matrix, path, lock, version, deadline=deadline, control=control, keep=[held.fileno()]
            )
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        seconds = time.monotonic() - started
        mark_complete(path, lock)
    return Environment(version, flavour, path, lock, found, seconds)


def _exclusive(path: Path, control: Control | None = None) -> Held:
    """The lock of whoever builds or deletes an environment."""
    held = hold(
        path.parent / f".{path.name}.lock",
        cancelled=control.stopping.is_set if control else lambda: False,
    )
    if held is None:
        raise Stopped
    return held


def use_environment(home: Home, version: str, flavour: Flavour, lock: Lock) -> Held:
    """A lock that keeps other sweeps from deleting an environment; take it before `ensure_environment`."""
    held = hold(_use(environment_path(home, version, flavour, lock)), shared=True)
    assert held is not None
    return held


def _use(path: Path) -> Path:
    return path.parent / f".{path.name}.use"


def _cache_lock(home: Home) -> Path:
    return home.locks / "uv-cache.lock"


def _delete(path: Path) -> None:
    """Delete an environment; the mark goes first, so that what an interrupt leaves is not taken for complete."""
    (path / _SENTINEL).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def build_environment(
    home: Home,
    matrix: Matrix,
    path: Path,
    lock: Lock,
    version: str,
    *,
    deadline: float | None = None,
    control: Control | None = None,
    keep: Sequence[int] = (),
) -> dict[str, str]:
    """Make a virtualenv and install a lock's packages; `keep` are locks that uv holds on if this process is killed."""
    uv = uv_command()
    commands = {
        "a virtualenv": [*uv, "venv", "--quiet", "--python", matrix.python, "--no-project", str(path)],
        "the locked packages": [
            *uv, "pip", "install", "--python", str(path / "bin" / "python"), "--no-deps", "--require-hashes",
            "--requirements", str(lock.path),
        ],
    }  # fmt: skip
    end = None if deadline is None else time.monotonic() + deadline
    cache = hold(_cache_lock(home), shared=True, cancelled=control.stopping.is_set if control else lambda: False)
    if cache is None:
        raise Stopped
    with cache:
        for what, command in commands.items():
            left = [] if end is None else [Deadline("install", max(0.0, end - time.monotonic()))]
            _run(command, home, version, what, left, control, [cache.fileno(), *keep])
    found = installed_packages(path)
    wrong = mismatches(lock, found)
    if wrong:
        raise BuildFailed(
            f"{version}: uv installed other packages than the lock names: {'; '.join(wrong[:3])}.", "install_failed", ""
        )
    return found


def uv_command() -> list[str]:
    """The uv that is installed beside the harness, so that its version is the pinned one.

    Raises:
        InfrastructureError: it is not here; its package may be all the same, where it was brought as files.
    """
    try:
        from uv import find_uv_bin

        return [find_uv_bin()]
    except (ImportError, FileNotFoundError) as error:
        raise InfrastructureError(
            "uv is not installed: environments cannot be built here, only brought as files (--sites, docs/gpu-host.md)."
        ) from error


def uv_environment(home: Home) -> dict[str, str]:
    """All variables of uv: the caller's, without those that may change what is built, and with the harness's cache.

    The cache is beside the environments, because only then does uv hard-link instead of copy (docs/sweeps.md).
    """
    reaches = re.compile(REACHES_AN_INDEX)
    kept = {k: v for k, v in os.environ.items() if reaches.fullmatch(k) or not _OF_UV_AND_PYTHON.fullmatch(k)}
    return {"UV_HTTP_TIMEOUT": "300", **kept, "UV_CACHE_DIR": str(home.uv_cache), "NO_COLOR": "1"}


UV_FOLDER = Path("/")
"""Where uv runs: in no project, whose files would decide with it."""


def run_uv(
    home: Home, *arguments: str, timeout: float | None = None, alone: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run uv to its end, whatever that is.

    Args:
        home: has the cache.
        arguments: paths in them are absolute.
        timeout: seconds.
        alone: whether nobody else may use the cache meanwhile.

    Raises:
        InfrastructureError: uv is not here.
        OSError: it cannot be started, or the home not be written.
        subprocess.TimeoutExpired: it took longer.
    """
    command = [*uv_command(), *arguments]
    cache = hold(_cache_lock(home), shared=not alone)
    assert cache is not None
    with cache:
        return subprocess.run(
            command, env=uv_environment(home), cwd=UV_FOLDER, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout,
        )  # fmt: skip


def _run(
    command: list[str],
    home: Home,
    version: str,
    what: str,
    deadlines: Sequence[Deadline] = (),
    control: Control | None = None,
    keep: Sequence[int] = (),
) -> None:
    # Not in the home: what uv says must be read when that disk is full.
    with tempfile.TemporaryDirectory(prefix="harness-uv-") as folder:
        run = Path(folder)
        try:
            ended = supervise(
                command, environment=uv_environment(home), run=run, deadlines=deadlines, control=control, hold=keep,
                cwd=UV_FOLDER,
            )  # fmt: skip
        except OSError as error:
            raise BuildFailed(f"{version}: uv cannot be started: {error}.", "install_failed", str(error)) from error
        said = (run / "log.txt").read_text(encoding="utf-8", errors="replace") + ended.unwritten
    if ended.exit_code == 0 and not (ended.deadline or ended.lost or ended.from_outside):
        return
    log = f"$ {' '.join(command)}\n{said}"
    if ended.deadline:
        raise BuildFailed(
            f"{version}: installing {what} was stopped after {ended.wall_seconds:.0f} s, at the deadline of install "
            "(deadline_seconds in matrix.yaml).", "timeout", log,
        )  # fmt: skip
    if ended.lost or ended.from_outside or ended.exit_code in {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}:
        raise BuildFailed(
            f"{version}: somebody or something else stopped the installing of {what}.", "lost", log, "lost"
        )
    (last, hint), cause = uv_words(said), ""
    if DISK_SIGNS.search(log):
        last, cause = f"the disk of {home.root} is full: free some space, or sweep with --evict", "disk_full"
    elif _OFFLINE_SIGNS.search(log):
        last = f"the package index cannot be reached and uv's cache does not hold it all ({last})"
        cause = "offline"
    elif _REGISTRY_SIGNS.search(log):
        last, cause = f"the package index answers, but not as it should ({last})", "registry_error"
    elif "Hash mismatch" in log:
        last = f"a downloaded file does not have the hash that the lock names ({last})"
    outcome = "resolve_failed" if "No solution found" in log or "was not found in the" in log else "install_failed"
    raise BuildFailed(f"{version}: installing {what} failed: {last}.{hint}", outcome, log, cause)


def uv_words(said: str) -> tuple[str, str]:
    """What uv says of a failure: the deepest cause that it names, and its hints as sentences that follow; on one line.

    What it prints below a cause is left out.
    """
    lines: list[str] = []
    hints: list[list[str]] = []
    into = lines
    for line in said.splitlines():
        text = _TREE.sub("", line).strip()
        if _HINT.match(text):
            hints.append([])
            into = hints[-1]
        elif not text or _CAUSE.match(text):
            into = lines
        if text:
            into.append(_HINT.sub("", text))
    causes = [line for line in lines if _CAUSE.match(line)] or lines
    told = "".join(f" uv's hint: {' '.join(hint).rstrip('.')[:400]}." for hint in hints[:_HINTS_TOLD])
    return _CAUSE.sub("", causes[-1]).rstrip(".")[:400] if causes else "uv printed nothing", told


def mark_complete(path: Path, lock: Lock) -> None:
    """Write the mark that makes an environment count as complete, once everything in it is on the disk."""
    temporary = path / f"{_SENTINEL}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"lock": lock.digest, "lock_file": lock.path.name}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / _SENTINEL)


def evict(home: Home, environment: Environment, keep: list[Lock]) -> int | None:
    """Delete an environment, and from uv's cache the packages that no lock in `keep` has in the same version.

    Without the second part the files would stay on the disk: uv hard-links an environment's files to its cache.

    Returns:
        Bytes by which the disk's free space grew; None, and nothing is deleted, where another sweep uses it.
    """
    before = shutil.disk_usage(home.root).free
    used = try_hold(_use(environment.path))
    if used is None:
        return None
    with used, _exclusive(environment.path):
        _delete(environment.path)
    kept = {(name, version) for lock in keep for name, version in lock.packages.items()}
    gone = [name for name, version in environment.lock.packages.items() if (name, version) not in kept]
    if gone:
        run_uv(home, "cache", "clean", "--quiet", *gone, alone=True)
    return shutil.disk_usage(home.root).free - before


@contextmanager
def disk_errors(home: Home) -> Iterator[None]:
    """Turn "no space left", "read-only" and a disk's own errors into sentences.

    Raises:
        HarnessError: with exit code 2, naming the folder and the mend; with 3 where the disk itself fails.
    """
    try:
        yield
    except OSError as error:
        import errno

        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise HarnessError(
                f"The disk of {home.root} is full: free some space, or point --home (or HARNESS_HOME) to another disk."
            ) from error
        if error.errno in {errno.EIO, errno.ESTALE, errno.ENODEV, errno.EREMOTEIO}:
            raise InfrastructureError(
                f"The disk of {error.filename or home.root} answers with errors ({error.strerror}); what was stored "
                "before is kept, and the same command goes on once it works again."
            ) from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST}:
            raise HarnessError(
                f"{error.filename or home.root} cannot be written ({error.strerror}): point --home (or HARNESS_HOME) "
                "to a folder that can."
            ) from error
        raise

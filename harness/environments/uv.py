"""Running uv: its command, its variables, and one sentence for what went wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.environments.supervise import Control, Deadline, supervise
from harness.errors import InfrastructureError
from harness.flock import hold
from harness.home import Home

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


def cache_lock(home: Home) -> Path:
    """Held while uv's cache is used; alone while it is emptied."""
    return home.locks / "uv-cache.lock"


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
    with hold(cache_lock(home), shared=not alone):
        return subprocess.run(
            command, env=uv_environment(home), cwd=UV_FOLDER, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout,
        )  # fmt: skip


def run_logged(
    command: list[str],
    home: Home,
    version: str,
    what: str,
    deadlines: Sequence[Deadline] = (),
    control: Control | None = None,
    keep: Sequence[int] = (),
) -> None:
    # Not in the home: what uv says must be read when that disk is full.
    """Run uv; its output goes to the log of a failure, which is explained in one sentence."""
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
    outcome = "resolve_failed" if no_solution(log) else "install_failed"
    raise BuildFailed(f"{version}: installing {what} failed: {last}.{hint}", outcome, log, cause)


def no_solution(said: str) -> bool:
    """Whether uv says that no packages fit together."""
    return "No solution found" in said or "was not found in the" in said


def index_failed(said: str) -> bool:
    """Whether uv says that it could not get what it asked a package index for."""
    return bool(_OFFLINE_SIGNS.search(said) or _REGISTRY_SIGNS.search(said))


def index_arguments(indexes: Mapping[str, str], *, always: bool = False) -> list[str]:
    """Arguments of uv for indexes beside its own, by name and URL.

    A package is taken from whichever of them has the wanted version: such an index often has some versions of packages
    of which the locks pin others. That is safe where files are told by their hashes, as in every lock. `always` says so
    where none is named, because a file of pins may name some itself.
    """
    named = [word for name, url in indexes.items() for word in ("--index", f"{name}={url}")]
    return [*named, "--index-strategy", "unsafe-best-match"] if named or always else []


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
    told = "".join(f" uv's hint: {' '.join(hint).rstrip('.')[:400]}." for hint in hints[:2])
    return _CAUSE.sub("", causes[-1]).rstrip(".")[:400] if causes else "uv printed nothing", told

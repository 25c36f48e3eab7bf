# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5.1", "uv>=0.8", "pyyaml>=6"]
# ///
"""The front door. `nox -l` lists the sessions; each is a few lines that call `harness`.

Plain `nox` reads the header above and provides itself with what it needs. All sessions share one environment, the
reducer's, installed from `locks/`; the environments under test are built by `harness`, not by nox.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import nox
import uv
import yaml

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "typecheck", "tests"]

ROOT = Path(__file__).parent
PYTHON = "3.11"
UV = uv.find_uv_bin()
FOUND_OR_NOT = (0, 1)
"""Exit codes that are no failure of a session: 1 says that a divergence was found, which is what we are looking for."""

OF_UV_AND_PYTHON = r"(?:UV|PIP|PYTHON|CONDA|VIRTUAL_ENV|RUST_|FORCE_COLOR|CLICOLOR).*"
"""Variables that may decide what uv resolves, installs or says, and which Python it takes: it does not get them."""
REACHES_AN_INDEX = (
    r"UV_(?:(?:DEFAULT_|NO_)?INDEX(?:_.*)?|EXTRA_INDEX_URL|FIND_LINKS|KEYRING_PROVIDER|CREDENTIALS_DIR|INSECURE_HOST|"
    r"NATIVE_TLS|SYSTEM_CERTS|OFFLINE|HTTP_.*|REQUEST_TIMEOUT|CONCURRENT_DOWNLOADS|\w+_ENDPOINT_URL|CONFIG_FILE|"
    r"NO_CONFIG|PYTHON_DOWNLOADS(?:_JSON_URL)?|PYTHON_INSTALL_(?:DIR|MIRROR))|PYTHON_KEYRING_BACKEND"
)
"""But for these, which say how this machine gets packages and Pythons."""


def environments() -> tuple[list[str], dict[str, list[str]]]:
    """The versions in `matrix.yaml`, and the points of each axis; what else is wrong with it, `harness` says."""
    try:
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text(encoding="utf-8"))
        # One that is not from the package index says from which it is.
        versions = [str(one["version"] if isinstance(one, dict) else one) for one in matrix["versions"]]
        axes = (matrix.get("axes") or {}).items()
        return versions, {package: [f"{package}-{one}" for one in axis["versions"]] for package, axis in axes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "a list of `versions` is what the sessions are made from: give it one"
        print(f"matrix.yaml{line}: {why}.", file=sys.stderr)
        sys.exit(2)


def reducer(name: str) -> Callable[[Callable[[nox.Session], None]], object]:
    """Make a session that runs in the reducer's environment, which `prepare` builds once for all of them."""
    return nox.session(name=name, venv_backend="none")


def uv_environment() -> dict[str, str]:
    """The variables for uv, as `harness/environments/uv.py` chooses them; a test compares, as nothing is imported."""
    return {
        name: text
        for name, text in os.environ.items()
        if re.fullmatch(REACHES_AN_INDEX, name) or not re.fullmatch(OF_UV_AND_PYTHON, name)
    }


def prepare(session: nox.Session, lock: str = "reducer") -> str:
    """Install a pinned environment (a moment when it is already there); return its folder of commands."""
    folder = ROOT / ".nox" / lock
    install = [UV, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--no-deps"]
    commands = [
        [UV, "venv", "--quiet", "--python", PYTHON, "--no-project", str(folder)],
        [*install, "--require-hashes", "--requirements", f"locks/{lock}.txt"],
        [*install, "--editable", "."],
    ]
    for command in commands[(folder / "bin" / "python").exists() :]:
        session.run_install(*command, external=True, env=uv_environment(), include_outer_env=False)
    return str(folder / "bin")


def harness(session: nox.Session, *arguments: str, well: Sequence[int] = (0,), stdout: IO[str] | None = None) -> None:
    """Run `harness` in the reducer's environment; it ends as it does without nox.

    An exit code in `well` is that of a session that ended well; any other ends nox, and is its own: 1 a divergence,
    2 wrong use, 3 infrastructure, 130 interrupted.

    Not `session.run`, which knows only success and failure, and which kills a command 0.3 s after Ctrl-C: a sweep lets
    its running cells end after the first one, and every command cleans up behind its jobs.
    """
    command = [f"{prepare(session)}/harness", *arguments]
    session.log(" ".join(command))
    interrupts: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.SIG_IGN:
        # No SIG_IGN, which the command would inherit; and before it starts, lest an early Ctrl-C end nox alone.
        signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        code = subprocess.Popen(command, stdout=stdout).wait()
    finally:
        signal.signal(signal.SIGINT, handler)
    if code not in well:
        sys.exit(code if code >= 0 else 128 - code)
    if interrupts:
        # Also where this session was about to end well: no other is to start.
        sys.exit(0)


@reducer("quickstart")
def quickstart(session: nox.Session) -> None:
    """Compare the index of two PyTorch versions on this machine's CPU: about ten minutes, 15 GB of disk."""
    harness(session, "quickstart", *session.posargs, well=FOUND_OR_NOT)


@reducer("sweep")
def sweep(session: nox.Session) -> None:
    """Index with every version, then reduce to tables; options of `harness sweep` after --. Ends with its exit code."""
    harness(session, "sweep", *session.posargs)


@reducer("compare-consecutive")
def compare_consecutive(session: nox.Session) -> None:
    """Reduce stored cells to Parquet tables and print the headline table; options of `harness consecutive` after --."""
    harness(session, "consecutive", *session.posargs, well=FOUND_OR_NOT)


@reducer("compare")
def compare(session: nox.Session) -> None:
    """Compare two cells or any two ColBERT index directories: nox -s compare -- A B."""
    harness(session, "compare", *session.posargs, well=FOUND_OR_NOT)


@reducer("rankings")
def rankings(session: nox.Session) -> None:
    """Compare the rankings of two stored searches, or of two TREC run files: nox -s rankings -- A B."""
    harness(session, "rankings", *session.posargs, well=FOUND_OR_NOT)


@reducer("report")
def report(session: nox.Session) -> None:
    """Turn folders of tables into one HTML page: nox -s report -- results/FOLDER [FOLDER ...] --output report.html."""
    harness(session, "report", *session.posargs)


@reducer("upgrade")
def upgrade(session: nox.Session) -> None:
    """Say whether an upgrade of your own environment wants a new index: nox -s upgrade -- old.txt .venv-new."""
    harness(session, "upgrade", *session.posargs, well=FOUND_OR_NOT)


@reducer("locate")
def locate(session: nox.Session) -> None:
    """Say where a difference starts, down to the operator: nox -s locate -- 2.7.1 2.8.0."""
    harness(session, "locate", *session.posargs, well=FOUND_OR_NOT)


@reducer("swap")
def swap(session: nox.Session) -> None:
    """Swap artifacts between two versions, both ways: nox -s swap -- 2.4.1 2.5.0 local_sample_embs."""
    harness(session, "swap", *session.posargs, well=FOUND_OR_NOT)


@reducer("probes")
def probes(session: nox.Session) -> None:
    """Compare stored probes between versions: nox -s probes -- 2.7.1 2.8.0."""
    harness(session, "probes", *session.posargs, well=FOUND_OR_NOT)


@reducer("blame")
def blame(session: nox.Session) -> None:
    """Say which package changed the index, by exchanging packages: nox -s blame -- 2.7.1 2.8.0."""
    harness(session, "blame", *session.posargs, well=FOUND_OR_NOT)


@reducer("versions")
def versions_session(session: nox.Session) -> None:
    """List what the package index has and matrix.yaml has not; with --add after --, add the new releases and lock."""
    harness(session, "versions", *session.posargs)


@reducer("bisect")
def bisect(session: nox.Session) -> None:
    """Find the two builds between which the index changed: nox -s bisect -- 2.15.0 2.16.0 --index nightly."""
    harness(session, "bisect", *session.posargs, well=FOUND_OR_NOT)


@reducer("nightly")
def nightly(session: nox.Session) -> None:
    """Compare a night's tables with those of the nights before; options of `harness nightly` after --."""
    harness(session, "nightly", *session.posargs)


@reducer("doctor")
def doctor(session: nox.Session) -> None:
    """Say what this machine can run, what it cannot, and why."""
    harness(session, "doctor", *session.posargs)


@reducer("lock")
def lock(session: nox.Session) -> None:
    """Write the locks of all versions (or of those after --), and those of the reducer and the developer tools."""
    upgrade = ["--upgrade"] if "--upgrade" in session.posargs else []
    with tempfile.TemporaryDirectory() as folder:
        # Beside their places, so that a failure leaves all of them as they were.
        for name, extra in (("reducer", []), ("dev", ["--group", "dev"])):
            made = shutil.copy(f"locks/{name}.txt", folder)
            session.run(
                UV, "pip", "compile", "pyproject.toml", "--all-extras", *extra, "--output-file", made, "--quiet",
                "--generate-hashes", "--python-version", PYTHON, "--universal",
                "--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "nox -s lock", *upgrade,
                external=True, env=uv_environment(), include_outer_env=False,
            )  # fmt: skip
        harness(session, "lock", *(arg for arg in session.posargs if not arg.startswith("-")))
        with (Path(folder) / "matrix.schema.json").open("w", encoding="utf-8") as schema:
            harness(session, "schema", stdout=schema)
        for made, place in (("reducer.txt", "locks"), ("dev.txt", "locks"), ("matrix.schema.json", "docs")):
            shutil.copyfile(Path(folder) / made, ROOT / place / made)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests: quick ones first, then those with two real torch environments; pytest options after --."""
    # Two at a time, in the order of tests/conftest.py: a job has two threads, and memory for one index.
    two = ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"]
    session.run(f"{prepare(session, 'dev')}/pytest", *two, *session.posargs, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, the layers of docs/design.md with import-linter, workflows with zizmor."""
    command = prepare(session, "dev")
    session.run(f"{command}/ruff", "check", ".", external=True)
    session.run(f"{command}/ruff", "format", "--check", ".", external=True)
    session.run(f"{command}/lint-imports", "--no-cache", "--no-logo", external=True)
    session.run(f"{command}/zizmor", "--offline", "--quiet", ".github/workflows", external=True)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation as a site into site/, with warnings as errors."""
    # Never --quiet: a warning that is not printed does not count, either.
    build = [f"{prepare(session, 'dev')}/mkdocs", "build", "--strict", "--site-dir", "site"]
    session.run(*build, external=True, env={"NO_MKDOCS_2_WARNING": "1"})  # of a successor, at each build


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Build the wheel and the source archive into dist/, and check that a package index would take them."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    command = prepare(session, "dev")
    session.run(
        UV, "build", "--quiet", "--out-dir", "dist", external=True, env=uv_environment(), include_outer_env=False
    )
    session.run(f"{command}/twine", "check", "--strict", *map(str, sorted(Path("dist").glob("*.*"))), external=True)


@nox.session(venv_backend="none")
def typecheck(session: nox.Session) -> None:
    """Check types with mypy --strict, this file and the tests included."""
    session.run(f"{prepare(session, 'dev')}/mypy", external=True)


JOBS = {
    "index": "Index with {} and store the cell",
    "search": "Search with {}, in its own index, and store the cell",
    "train": "Train with {}, and store the cell",
    "probe": "Run small experiments with {} and store them",
}
LISTING = not {"-l", "--list", "--list-sessions"}.isdisjoint(sys.argv)
"""Whether the sessions are to be listed: then each axis is one line a job, and not as many as it has points."""


def _job_session(job: str, name: str, who: str) -> None:
    def run(session: nox.Session) -> None:
        harness(session, job, name, *session.posargs)

    run.__doc__ = f"{JOBS[job].format(who)}; options of `harness {job}` after --."
    reducer(f"{job}-{name}")(run)


# Last, because they are many: the list of sessions is to show the others at a glance.
VERSIONS, AXES = environments()
for _job in JOBS:
    for _version in VERSIONS:
        _job_session(_job, _version, f"torch {_version}")
for _job in JOBS:
    for _points in AXES.values():
        for _point in _points[-1:] if LISTING else _points:
            others = f", or any other from {_points[0]} on," if LISTING and len(_points) > 1 else ""
            _job_session(_job, _point, f"{_point}{others}")

"""A place for one fault: a home, two versions with a stand-in job, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from rich.console import Console

from harness.environments import build, supervise, uv
from harness.report.reduce import reduce_cells
from harness.running.choice import planned_cells
from harness.running.experiment import Experiment
from harness.running.plan import plan_cells
from harness.running.progress import Board
from harness.running.selection import Selection
from harness.running.sweep import LocalExecutor
from harness.store.audit import DAMAGED, MISSING, collect, verify
from harness.store.cell import Cell
from harness.store.store import Store
from tests.support.programs import FAKE
from tests.support.standin import harness_program, make_inputs, make_sites

ROOT = Path(__file__).parent.parent.parent
VERSIONS = ("2.7.0", "2.7.1")
HIT = VERSIONS[1]
"""The version that most faults happen to; the other must not notice."""
PATIENCE = 300.0

BODY = """
version = version if (made / version).exists() else '2.8.0'
def fault(place):
    path = made / f"fault-{version}-{place}"
    if path.exists():
        text = path.read_text()
        path.unlink()
        exec(text, {**globals(), 'again': lambda: path.write_text(text)})
ran()
fault('start'); phase('import'); fault('import'); time.sleep(SECONDS)
phase('encode'); fault('encode'); index(); fault('index')
phase('finalize'); fault('finalize'); result(); fault('end')
"""
"""The stand-in job: at each place, a fault that was put there happens once."""


class Unexpected(Exception):  # noqa: N818 - a finding
    """Something was not as it should have been."""


class Skipped(Exception):  # noqa: N818 - not an error
    """The fault cannot be injected on this machine."""


def expect(condition: object, words: str) -> None:
    """Go on if something holds.

    Raises:
        Unexpected: it does not.
    """
    if not condition:
        raise Unexpected(words)


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something holds.

    Raises:
        Unexpected: it did not come.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Unexpected(f"{what} did not come in {seconds:.0f} s")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended; a zombie has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def shown(cell: Cell | None) -> str:
    """A cell's end in words, short."""
    if cell is None:
        return "no cell"
    reason = cell.reason if len(cell.reason) <= 140 else f"{cell.reason[:137]}…"
    before = cell.details.get("tried")
    tries = f" (after {', '.join(one['outcome'] for one in before)})" if isinstance(before, list) and before else ""
    return f"`{cell.outcome}`{tries}" + (f": {reason}" if reason else "")


@dataclass
class Truth:
    """What an undisturbed sweep makes: version to artifact to digest, and the tables."""

    digests: dict[str, dict[str, str]]
    tables: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """One fault's place.

    Attributes:
        folder: everything is below it; short, since it is part of every message.
        truth: of sweeps over the site folders.
        built: environments are built, by uv or its stand-in, instead of brought as site folders.
        settings: options of the experiment.
        real_uv: whether it is uv itself.
    """

    folder: Path
    truth: Truth | None = None
    built: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    real_uv: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made = self.folder / "made"
        self.made.mkdir()
        self.inputs = make_inputs(self.folder)
        self.sites = make_sites(self.made, BODY, 0.1)
        self.home = self.folder / "home"
        self.uv = self.folder / "uv"
        self.uv.mkdir()
        self.said = io.StringIO()
        self.write_matrix()

    # ---- what a user has

    def write_matrix(self, **deadlines: float) -> None:
        """A copy of `matrix.yaml` with short waits; deadlines are wall seconds by their names there."""
        project = self.folder / "project"
        project.mkdir(exist_ok=True)
        data = yaml.safe_load((ROOT / "matrix.yaml").read_text(encoding="utf-8"))
        data["exclude_newer"] = data["exclude_newer"].isoformat()
        index = data["jobs"]["index"]
        index["deadline_seconds"] = {"install": 300, "import": 300, "index": 300, **deadlines}
        index["retry"] = {"tries": 3, "first_wait_seconds": 0.05, "longest_wait_seconds": 0.1}
        (project / "matrix.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        if not (project / "locks").exists():
            (project / "locks").symlink_to(ROOT / "locks")

    @property
    def matrix(self) -> Path:
        """The matrix that the sweeps read."""
        return self.folder / "project" / "matrix.yaml"

    @property
    def store(self) -> Store:
        """Where the cells are."""
        return Store(self.home / "store")

    def experiment(self, **changes: Any) -> Experiment:
        """As `harness sweep` makes it of its options."""
        options: dict[str, Any] = {
            "matrix_path": self.matrix, "home": self.home, "collection": self.inputs[1], "checkpoint": self.inputs[3],
            "threads": 1, "device": "cpu", **self.settings, **changes,
        }  # fmt: skip
        if not self.built:
            options |= {"sites": Path(self.sites[1]), "site_python": Path(self.sites[3])}
        return Experiment(Selection(**options))

    # ---- faults and sweeps

    def inject(self, place: str, code: str, version: str = HIT) -> None:
        """Let a version's job run some lines once: at its `start`, `import`, `encode`, `index`, `finalize` or `end`."""
        (self.made / f"fault-{version if not self.built else '2.8.0'}-{place}").write_text(code)

    def sweep(self, versions: tuple[str, ...] = VERSIONS, *, again: bool = False, **changes: Any) -> dict[str, Cell]:
        """Run a sweep in this process, `again` also of what is stored; cells by label."""
        experiment = self.experiment(**changes)
        plan = [replace(one, run=one.run or again) for one in plan_cells(experiment, list(versions), {})]
        with self.patched(), Board([], Console(file=self.said, width=300)) as board:
            cells = LocalExecutor().run(experiment, plan, board, evict_after=False)
        return {cell.label: cell for cell in cells}

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Less patience with jobs that ignore SIGTERM, and a stand-in for uv where environments are built."""
        before = supervise.GRACE_SECONDS, uv.uv_command, build.Environment.python
        supervise.GRACE_SECONDS = 0.5
        if self.built:
            if not self.real_uv:
                build.uv_command = uv.uv_command = lambda: [sys.executable, "-S", str(FAKE), str(self.uv)]  # type: ignore[attr-defined]
            python = Path(self.sites[3])
            build.Environment.python = property(lambda _self: python)  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            supervise.GRACE_SECONDS = before[0]
            build.uv_command = uv.uv_command = before[1]  # type: ignore[attr-defined]
            build.Environment.python = before[2]  # type: ignore[method-assign]

    def line(
        self, *more: str, patches: tuple[str, ...] = (), home: Path | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start `harness sweep` in a process of its own."""
        patched = [
            "from harness.environments import build as environments, supervise, uv",
            "from harness.running import sweep",
            "supervise.GRACE_SECONDS = 0.5",
            *patches,
        ]
        if self.built:
            patched += [
                "from pathlib import Path",
                (
                    "environments.uv_command = uv.uv_command = "
                    f"lambda: {[sys.executable, '-S', str(FAKE), str(self.uv)]!r}"
                ),
                f"environments.Environment.python = property(lambda _self: Path({self.sites[3]!r}))",
            ]
        arguments = [*VERSIONS, *self.inputs, "--device", "cpu", *([] if self.built else self.sites)]
        arguments += ["--matrix", str(self.matrix), "--home", str(home or self.home)]
        arguments += ["--output", str(self.folder / "line-tables"), *more]
        return subprocess.Popen(
            [*harness_program(*patched), "sweep", *arguments],
            cwd=ROOT, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
        )  # fmt: skip

    def ran(self) -> list[tuple[str, int]]:
        """Version and process number of every job that was started, in order."""
        path = self.made / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[1], int(line.split()[2])) for line in lines if len(line.split()) >= 3]

    def started(self, version: str = HIT) -> int:
        """Wait for a version's job; its process number."""
        wait_for(lambda: any(name == version for name, _pid in self.ran()), f"the job of {version}")
        return next(pid for name, pid in reversed(self.ran()) if name == version)

    # ---- what must hold

    def right(self) -> None:
        """Check that each cell that is `ok` has exactly the tensors of an undisturbed sweep, on the disk too."""
        if self.truth is None:
            return
        for cell in self.store.cells():
            if cell.outcome == "ok":
                wanted = self.truth.digests["2.8.0" if self.built else cell.version]
                found = {name: artifact.digest for name, artifact in cell.artifacts.items()}
                expect(found == wanted, f"{cell.label} is ok with other tensors than it should have")
        wrong = [f for f in verify(self.store).findings if f.kind in {DAMAGED, MISSING}]
        expect(not wrong, f"the store holds what is damaged: {[f'{f.path}: {f.text}' for f in wrong][:3]}")

    def nothing_left(self) -> None:
        """Check that no job and no run's folder is left."""
        left = [pid for _version, pid in self.ran() if alive(pid)]
        expect(not left, f"jobs are still running: {left}")
        runs = self.home / "runs"
        found = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
        expect(not found, f"folders of runs are left: {found}")

    def mend(self) -> None:
        """Give the same command without the fault; everything must be as if nothing had ever happened."""
        cells = self.sweep()
        expect(
            [cell.outcome for cell in cells.values()] == ["ok"] * len(VERSIONS),
            f"not mended: {list(map(shown, cells.values()))}",
        )
        self.right()
        self.nothing_left()
        collect(self.store)
        findings = verify(self.store).findings
        expect(not findings, f"left in the store: {[f'{f.kind} {f.path}' for f in findings][:3]}")
        if self.truth is not None and not self.built and not self.settings:
            expect(
                self.tables(list(cells.values())) == self.truth.tables,
                "the tables are not those of an undisturbed sweep",
            )

    def tables(self, cells: list[Cell]) -> dict[str, Any]:
        """The tables of some cells; of the cells' own table all but times and earlier tries."""
        experiment = self.experiment()
        folder = self.folder / "tables"
        reduce_cells(experiment.matrix, planned_cells(experiment, cells), list(VERSIONS), folder)
        found: dict[str, Any] = {
            name: pq.read_table(folder / f"{name}.parquet").to_pylist()
            for name in ("artifacts", "comparisons", "consecutive", "env_delta")
        }
        found["cells"] = pq.read_table(folder / "cells.parquet").drop_columns(["wall_seconds", "finished"]).to_pylist()
        return found

    def close(self) -> None:
        """End what a fault that went wrong may have left."""
        for _version, pid in self.ran():
            if alive(pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def undisturbed(folder: Path) -> Truth:
    """What a sweep makes to which nothing happens."""
    bench = Bench(folder)
    cells = bench.sweep((*VERSIONS, "2.8.0"))
    digests = {c.version: {name: a.digest for name, a in c.artifacts.items()} for c in cells.values()}
    expect(all(cell.outcome == "ok" for cell in cells.values()), f"the undisturbed sweep failed: {cells}")
    truth = Truth(digests)
    truth.tables = bench.tables([cell for cell in cells.values() if cell.version in VERSIONS])
    return truth


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what happens, in a few words.
        injected: how it is made to happen.
        expected: what the harness should make of it.
        run: does it, in a place of its own; returns what was seen.
        built: see `Bench`.
        settings: options of the experiment.
        mends: whether the sweep is given again afterwards and must end well.
        damages: whether the store is left damaged until then, on purpose.
    """

    name: str
    injected: str
    expected: str
    run: Callable[[Bench], str]
    built: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    mends: bool = True
    damages: bool = False


@dataclass(frozen=True)
class Row:
    """What came of a fault or a case.

    Attributes:
        told: its name, how it was made, and what should come of it.
        seen: what came.
        verdict: `yes`, `NO` or `skipped`.
    """

    told: tuple[str, str, str]
    seen: str
    verdict: str
    seconds: float = 0.0


def judged(told: tuple[str, str, str], look: Callable[[], str]) -> Row:
    """Look, and say what was seen and whether it is as it should be."""
    started = time.monotonic()
    try:
        seen, verdict = look(), "yes"
    except Skipped as reason:
        seen, verdict = str(reason), "skipped"
    except Unexpected as error:
        seen, verdict = str(error), "NO"
    except Exception as error:  # noqa: BLE001 - a crash of the harness is a result
        seen, verdict = f"{type(error).__name__}: {error}", "NO"
    return Row(told, seen, verdict, time.monotonic() - started)


def try_fault(fault: Fault, folder: Path, truth: Truth) -> Row:
    """Inject a fault and look."""

    def look() -> str:
        bench = Bench(folder, truth, fault.built, fault.settings)
        try:
            seen = fault.run(bench)
            if not fault.damages:
                bench.right()
            if not fault.mends:
                return seen
            bench.mend()
            return f"{seen}; given again, the sweep ends well"
        finally:
            bench.close()

    return judged((fault.name, fault.injected, fault.expected), look)


def cells_of(bench: Bench) -> dict[str, Cell]:
    """What the store holds, by label."""
    return {cell.label: cell for cell in bench.store.cells()}

"""Faults of the harness itself and of those who share its folders: kills, signals, other sweeps, locks, the clock."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from harness.artifacts.directory import index_tensors
from harness.artifacts.index_job import INDEX
from harness.running.recover import collect_runs
from harness.store.audit import verify
from harness.store.cell import Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from tests.reliability.bench import (
    HIT,
    PATIENCE,
    VERSIONS,
    Bench,
    Fault,
    Skipped,
    alive,
    cells_of,
    expect,
    shown,
    wait_for,
)
from tests.support.cell_specs import spec
from tests.support.small_index import write_index

HANG = "time.sleep(600)"


def _killed_while(place: str) -> Callable[[Bench], str]:
    """Kill -9 of the harness while its job is at a place; the next sweep says what was lost."""

    def run(bench: Bench) -> str:
        bench.inject(place, f"(made / 'there').touch(); {HANG}")
        line = bench.line()
        wait_for((bench.made / "there").exists, f"the job at {place}")
        pid = bench.started()
        line.kill()
        line.communicate()
        wait_for(lambda: not alive(pid), "the end of the job")
        lost = collect_lost(bench)
        expect([cell.outcome for cell in lost] == ["lost"], f"recorded: {list(map(shown, lost))}")
        return f"the job ended with it; {shown(lost[0])}"

    return run


def collect_lost(bench: Bench) -> list[Cell]:
    """What the next command records of runs whose harness is gone."""
    before = set(cells_of(bench))
    home = bench.experiment().home

    def collected() -> bool:
        # The job's supervisor, which holds the run's lock too, ends a moment after the job.
        collect_runs(home, bench.store)
        return not list(home.runs.iterdir())

    wait_for(collected, "the end of the run")
    return [cell for label, cell in cells_of(bench).items() if label not in before]


def store_cell(bench: Bench, store: Store, of: CellSpec) -> None:
    """What the harness does with a finished job, apart from the job."""
    index = bench.folder / "index"
    with store.writing():
        artifacts = store.ingest(INDEX, index_tensors(index), bench.folder / "none", "full")
        store.put(Cell.of(of, "ok", capture="full", artifacts=artifacts), index=index)


def forked(work: Callable[[], None]) -> int:
    """Do some work in a child process, which may die of it; its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(PATIENCE)
    expect(child.exitcode is not None, "a child did not end")
    assert child.exitcode is not None
    return child.exitcode


def _killed_at_each_write(bench: Bench) -> str:
    """A child stores a cell and is killed before the n-th time that it syncs, renames or opens a file, for each n."""
    write_index(bench.folder / "index", chunks=1)
    of = spec(HIT)

    def deadly(number: int, store: Store) -> Callable[[], None]:
        def work() -> None:
            count = itertools.count()

            def counted(original: Callable[..., object]) -> Callable[..., object]:
                def call(*arguments: object, **options: object) -> object:
                    if next(count) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(*arguments, **options)

                return call

            os.fsync, os.replace, os.rename = map(counted, (os.fsync, os.replace, os.rename))  # type: ignore[assignment,arg-type]
            shutil.copyfile = counted(shutil.copyfile)  # type: ignore[assignment]
            store_cell(bench, store, of)

        return work

    points = whole = 0
    for number in itertools.count():
        store = Store(bench.folder / f"store{number}")
        code = forked(deadly(number, store))
        cell = store.get(of.key)
        found = verify(store).findings
        expect({f.kind for f in found} <= {"leftover", "orphan"}, f"killed at write {number}: {found}")
        if code == 0:
            expect(cell is not None, "an undisturbed writer stored nothing")
            break
        points += 1
        whole += cell is not None
        store_cell(bench, store, of)
        again = store.get(of.key)
        expect(again is not None and not store.missing(again), f"not mended after write {number}")
        shutil.rmtree(store.root)
    expect(points > 20, f"only {points} points")
    return f"{points} points: {points - whole} without the cell, {whole} with the whole cell, none with half of one"


def _killed_while_installing(bench: Bench) -> str:
    (bench.uv / "hang").touch()
    line = bench.line()
    wait_for((bench.uv / "pid").exists, "the install")
    line.kill()
    line.communicate()
    pid = int((bench.uv / "pid").read_text())
    wait_for(lambda: not alive(pid), "the end of uv")
    (bench.uv / "hang").unlink()
    expect(not cells_of(bench), "a cell is stored")
    half = [path for path in (bench.home / "envs").iterdir() if path.is_dir()]
    expect(half, "nothing was left half-built, so nothing is tested")
    expect(not list(half[0].glob("harness-complete.json")), "the half-built environment is marked complete")
    return "uv ended with it; the half-built environment is not marked complete"


def _signalled(numbers: list[int], code: int, outcome: list[str], words: str) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        first = VERSIONS[0]
        hold, log = bench.made / "hold", bench.folder / "said"
        hold.touch()
        then = "while (made / 'hold').exists(): time.sleep(0.02)" if outcome else HANG
        bench.inject("encode", f"(made / 'there').touch()\n{then}", first)
        with log.open("w") as file:
            line = bench.line(patches=("sweep._TERM_PATIENCE = 0.5",), stderr=file)
        pid = bench.started(first)
        wait_for((bench.made / "there").exists, "the job at encode")
        for count, number in enumerate(numbers):
            # A second one that came before the first was heard would be the same one.
            wait_for(lambda: not count or "Stopping: " in log.read_text(), "the first signal's answer")  # noqa: B023
            line.send_signal(number)
        wait_for(lambda: line.poll() is not None or "Stopping: " in log.read_text(), "the answer")
        hold.unlink()
        line.communicate(timeout=PATIENCE)
        err = log.read_text()
        expect(line.returncode == code, f"exit code {line.returncode}: {err[-200:]}")
        expect("Traceback" not in err, err[-300:])
        expect(words in err, f"{words!r} is not in: {err[-300:]}")
        expect([cell.outcome for cell in cells_of(bench).values()] == outcome, f"stored: {cells_of(bench)}")
        expect(not alive(pid), "the job is still running")
        bench.nothing_left()
        said = next(line for line in reversed(err.splitlines()) if words in line)
        return f"exit code {code}; “{said.strip()}”"

    return run


def _two_sweeps(bench: Bench) -> str:
    outputs = [bench.folder / f"tables{n}" for n in range(2)]
    lines = [bench.line("--output", str(output)) for output in outputs]
    said = [line.communicate(timeout=PATIENCE)[1] for line in lines]
    expect([line.returncode for line in lines] == [1, 1], f"exit codes {[line.returncode for line in lines]}: {said}")
    versions = sorted(version for version, _pid in bench.ran())
    expect(versions == sorted(VERSIONS), f"the jobs that ran: {versions}")
    for name in ("artifacts", "comparisons", "consecutive"):
        one, other = ((output / f"{name}.parquet").read_bytes() for output in outputs)
        expect(one == other, f"{name} is not the same")
    return "both end well with the same tables; each job ran once"


def _two_writers(bench: Bench) -> str:
    """Two processes store the same cell 30 times each while this one reads it."""
    write_index(bench.folder / "index")
    of, store = spec(HIT), Store(bench.folder / "shared")
    store_cell(bench, store, of)

    def write() -> None:
        for _ in range(30):
            store_cell(bench, store, of)

    children = [multiprocessing.get_context("fork").Process(target=write) for _ in range(2)]
    for child in children:
        child.start()
    reads = absent = 0
    while any(child.is_alive() for child in children):
        cell = store.get(of.key)
        reads, absent = reads + 1, absent + (cell is None)
        if cell is not None:
            expect(cell.outcome == "ok", "half a cell was read")
            expect(not store.missing(cell), "a cell was read whose tensors are not there")
    expect([child.exitcode for child in children] == [0, 0], "a writer failed")
    expect(verify(store).findings == (), f"left: {verify(store).findings}")
    return f"{reads:,} reads meanwhile: the whole cell, or none ({absent} times, while the folders change places)"


def _stale_locks(bench: Bench) -> str:
    """Lock files of a process that no longer exists, wherever the harness keeps one."""
    e = bench.experiment()
    dead = json.dumps({"pid": 2**22 - 3, "host": "elsewhere", "since": 0})
    paths = [e.home.cell_lock(e.spec(version).key) for version in VERSIONS]
    paths += [bench.store.lock_path, e.home.locks / "uv-cache.lock", e.home.environments / ".x.lock"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dead)
    cells = bench.sweep()
    expect([cell.outcome for cell in cells.values()] == ["ok", "ok"], str(list(map(shown, cells.values()))))
    return f"{len(paths)} lock files held nobody up"


_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
/* The wall clock jumps at every look: a year ahead, a year back. The monotonic clock is left alone. */
static long jump(void) { static int n; return (n++ % 2 ? 1 : -1) * 31536000L; }
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += jump();
    return done;
}
time_t time(time_t *p) {
    struct timespec t; clock_gettime(CLOCK_REALTIME, &t);
    if (p) *p = t.tv_sec;
    return t.tv_sec;
}
int gettimeofday(struct timeval *v, void *z) {
    struct timespec t; (void)z; clock_gettime(CLOCK_REALTIME, &t);
    v->tv_sec = t.tv_sec; v->tv_usec = t.tv_nsec / 1000;
    return 0;
}
"""


def _clock(bench: Bench) -> str:
    """A library before the C library: harness and supervisor see a wall clock that jumps; one job hangs."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Skipped("there is no C compiler (cc) to make a library that changes the clock")
    library = bench.folder / "clock.so"
    (bench.folder / "clock.c").write_text(_CLOCK)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(bench.folder / "clock.c"), "-ldl"], check=True
    )
    bench.write_matrix(index=3.0)
    bench.inject("encode", HANG)
    started = time.monotonic()
    line = bench.line(env={**os.environ, "LD_PRELOAD": str(library)})
    _, err = line.communicate(timeout=PATIENCE)
    took = time.monotonic() - started
    cells = cells_of(bench)
    expect(line.returncode == 3, f"exit code {line.returncode}: {err[-300:]}")
    expect(cells[VERSIONS[0]].outcome == "ok", shown(cells[VERSIONS[0]]))
    expect(cells[HIT].outcome == "timeout", shown(cells[HIT]))
    wall = cells[HIT].details["wall_seconds"]
    expect(3.0 <= wall < PATIENCE, f"the job was stopped after {wall} s")
    years = {cell.finished[:4] for cell in cells.values()}
    now = {str(time.gmtime(time.time() + jump).tm_year) for jump in (-31536000, 31536000)}
    expect(years <= now, f"the clock did not jump: {years}")
    expect(re.search(r"stopped after \d+ s", cells[HIT].reason), shown(cells[HIT]))
    bench.write_matrix()
    return f"the other job is `ok`; {shown(cells[HIT])}; {took:.0f} s in all"


def _no_terminal(bench: Bench) -> str:
    """Standard output and standard error are pipes that nobody reads: the terminal is gone."""
    reader, writer = os.pipe()
    line = bench.line(stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    line.wait(timeout=PATIENCE)
    cells = cells_of(bench)
    expect(line.returncode == 1, f"exit code {line.returncode}, though the versions differ")
    expect([cell.outcome for cell in cells.values()] == ["ok", "ok"], str(list(map(shown, cells.values()))))
    bench.nothing_left()
    return f"exit code {line.returncode}; all {len(cells)} cells are stored"


_SAYS_LOST = "the job ends with it; the cell is `lost`, with the phase"
FAULTS = (
    Fault("kill -9 of the harness, job in import", "`harness sweep` is killed", _SAYS_LOST, _killed_while("import")),
    Fault("kill -9 of the harness, job in encode", "`harness sweep` is killed", _SAYS_LOST, _killed_while("encode")),
    Fault(
        "kill -9 of the harness, job in finalize", "`harness sweep` is killed", _SAYS_LOST, _killed_while("finalize")
    ),
    Fault(
        "kill -9 of the harness while it stores a cell",
        "a writer is killed before each sync, rename and copy, one after the other",
        "the cell is whole or not there; written again, it is whole",
        _killed_at_each_write,
    ),
    Fault(
        "kill -9 of the harness while it installs",
        "`harness sweep` is killed while uv installs",
        "uv ends too; what it left is not taken for an environment",
        _killed_while_installing,
        built=True,
    ),
    Fault(
        "Ctrl-C once",
        "SIGINT to `harness sweep`",
        "the running cell ends and is stored, no other starts, exit code 3",
        _signalled([signal.SIGINT], 3, ["ok"], "cells did not run; the same command goes on"),
    ),
    Fault(
        "Ctrl-C twice",
        "SIGINT twice",
        "the job is ended at once, nothing is stored, exit code 130",
        _signalled([signal.SIGINT, signal.SIGINT], 130, [], "interrupted"),
    ),
    Fault(
        "SIGTERM to the harness",
        "as a scheduler ends it; half a second of patience",
        "the job is ended, exit code 130",
        _signalled([signal.SIGTERM], 130, [], "interrupted"),
    ),
    Fault(
        "terminal is gone",
        "standard output and error are pipes without a reader",
        "the sweep goes on and stores its cells; its exit code says what it found, though nobody reads it",
        _no_terminal,
    ),
    Fault("two sweeps at once", "two `harness sweep` in one home", "each job runs once; the same tables", _two_sweeps),
    Fault(
        "two writers of the same cell",
        "two processes write it 30 times each, a third reads",
        "whole or none at every read",
        _two_writers,
    ),
    Fault(
        "stale locks of a dead process",
        "lock files of cells, store, cache and environments with its number in them",
        "nobody waits",
        _stale_locks,
    ),
    Fault(
        "clock jumps by years",
        "a library before the C library: every look at the wall clock is a year ahead or behind",
        "deadlines hold: a good job ends well, one that hangs is stopped in time",
        _clock,
    ),
)

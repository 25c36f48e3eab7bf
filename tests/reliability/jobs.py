"""Faults of the job: how it dies, hangs, grows, talks and lies."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from harness.environments import supervise
from tests.reliability.bench import HIT, VERSIONS, Bench, Fault, Skipped, alive, expect, shown, wait_for

_KILL = "os.kill(os.getpid(), 9)"
FILL = "x = bytearray(2 ** 30); x[::4096] = b'x' * (2 ** 18)"
CHILD = (
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'], stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); (made / 'child').write_text(str(child.pid))\n"
)
DAEMON = (
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "        (made / 'new').write_text(str(os.getpid())); (made / 'new').rename(made / 'child')\n"
    "        time.sleep(600)\n"
    "    os._exit(0)\n"
    "while not (made / 'child').exists(): time.sleep(0.01)\n"
)


def ends(
    place: str, code: str, outcome: str, reason: str = "", *, phase: str = "", **deadlines: float
) -> Callable[[Bench], str]:
    """A job that runs some lines at a place, once, and how its cell should end; the other version ends well."""

    def run(bench: Bench) -> str:
        if deadlines:
            bench.write_matrix(**deadlines)
        bench.inject(place, code)
        cells = bench.sweep()
        hit = cells[HIT]
        expect(hit.outcome == outcome, f"{shown(hit)} instead of {outcome}")
        expect(re.search(reason, hit.reason), f"another reason than /{reason}/: {hit.reason}")
        expect(not phase or hit.phase == phase, f"phase {hit.phase} instead of {phase}")
        expect(cells[VERSIONS[0]].outcome == "ok", f"the other version: {shown(cells[VERSIONS[0]])}")
        expect(outcome == "ok" or not hit.artifacts, "a cell that did not end well has artifacts")
        expect((bench.store.cell_folder(hit.key) / "log.txt").exists(), "there is no log")
        bench.nothing_left()
        return shown(hit)

    return run


def _child(code: str, ending: str, outcome: str) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        seen = ends("finalize", code + ending, outcome)(bench)
        pid = int((bench.made / "child").read_text())
        expect(not alive(pid), f"the child, process {pid}, is still there")
        return f"{seen}; the child is gone"

    return run


def _much_output(bench: Bench) -> str:
    seen = ends(
        "encode", "for _ in range(100): sys.stdout.write(('x' * 99 + '\\n') * 10000)\nsys.stdout.flush()", "ok"
    )(bench)
    cell = next(c for c in bench.store.cells() if c.version == HIT)
    size = (bench.store.cell_folder(cell.key) / "log.txt").stat().st_size
    expect(size >= 100_000_000, f"the log has {size} bytes")
    expect(len(str(cell.details)) < 20_000, "the record holds more than the log's end")
    return f"{seen}; a log of {size / 1e6:.0f} MB, its last lines in the record"


def _endless_output(bench: Bench) -> str:
    limits = supervise.LOG_LIMITS
    supervise.LOG_LIMITS = (2**20, 2**20)
    try:
        code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: sys.stdout.write(('x' * 99 + '\\n') * 10000)"
        seen = ends("encode", code, "timeout", index=5.0)(bench)
    finally:
        supervise.LOG_LIMITS = limits
    cell = next(c for c in bench.store.cells() if c.version == HIT)
    log = (bench.store.cell_folder(cell.key) / "log.txt").read_text()
    expect(len(log) < 4 * 2**20, f"the log has {len(log)} bytes")
    said = re.findall(r"\[harness: (\d+) bytes are left out here", log)
    expect(len(said) == 1, f"what is left out is said {len(said)} times")
    expect(int(said[0]) > len(log), f"only {said[0]} bytes were left out")
    return f"{seen}; a log of {len(log) / 2**20:.0f} MiB, which says how much is left out"


def _supervisor(number: int) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        bench.inject("encode", f"os.kill(os.getppid(), {number}); time.sleep(600)")
        cells = bench.sweep()
        hit = cells[HIT]
        tried = hit.details.get("tried") or [{}]
        expect(hit.outcome == "ok", shown(hit))
        expect(tried[0].get("outcome") == "lost", f"the first try is {tried}")
        bench.nothing_left()
        return f"{shown(hit)}: {tried[0]['reason'][:100]}"

    return run


def _cgroup(bench: Bench) -> str:
    """A memory cgroup of 48 MiB, of either version, for the job alone."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, limit = (new, "memory.max") if (new / "cgroup.controllers").exists() else (old, "memory.limit_in_bytes")
    group = root / f"harness-{os.getpid()}-{bench.folder.name}"
    try:
        group.mkdir()
        (group / limit).write_text(str(48 * 2**20))
    except OSError as error:
        group.rmdir() if group.exists() else None
        raise Skipped(f"no memory cgroup can be made here: {error.strerror}") from error
    try:
        code = f"open('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n{FILL}"
        return ends("encode", code, "out_of_memory", phase="encode")(bench)
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().strip(), "the end of the job in the cgroup")
        group.rmdir()


def _no_pickle(bench: Bench) -> str:
    marker = bench.made / "unpickled"
    code = (
        "index(); import zipfile\n"
        "with zipfile.ZipFile(out / 'index' / 'centroids.pt', 'w') as file:\n"
        f"    file.writestr('archive/data.pkl', b\"\\x80\\x02cposix\\nsystem\\n(S'touch {marker}'\\ntR.\")\n"
        "    file.writestr('archive/version', b'3\\n')\n"
        "result(); os._exit(0)"
    )
    seen = ends("encode", code, "invalid_output", "posix.system, which is not a tensor")(bench)
    expect(not marker.exists(), "what was in the file was run")
    return f"{seen}; nothing was run"


def _link(bench: Bench) -> str:
    secret = bench.folder / "secret.json"
    secret.write_text('"private"')
    ends("index", f"(out / 'index' / 'extra.json').symlink_to({str(secret)!r})", "ok")(bench)
    found = [p for p in bench.store.root.rglob("*") if p.is_file() and b"private" in p.read_bytes()]
    expect(not found, f"the file came into the store: {found}")
    return "`ok`; what the link points to did not come into the store"


def _gpu(bench: Bench) -> str:
    bench.inject(
        "encode", "print('RuntimeError: CUDA error: uncorrectable ECC error encountered', flush=True); sys.exit(1)"
    )
    cells = bench.sweep()
    tried = cells[HIT].details.get("tried") or [{}]
    expect(cells[HIT].outcome == "ok", shown(cells[HIT]))
    expect(tried[0].get("cause") == "gpu_lost", f"the first try is {tried}")
    return f"{shown(cells[HIT])}: {tried[0]['reason'][:110]}"


_SIG = "killed by SIGKILL in phase"


def _again(bench: Bench) -> str:
    before = bench.sweep()
    bench.inject("encode", _KILL)
    after = bench.sweep(again=True)
    hit = after[HIT]
    expect(hit.outcome == "crashed", shown(hit))
    expect(bench.store.get(hit.key) == before[HIT], "the stored cell is another one")
    expect(bench.store.attempts(hit.key) == [hit], "the run that failed is not beside it")
    expect(bench.store.get(after[VERSIONS[0]].key) == after[VERSIONS[0]], "the other version is not the new one")
    bench.nothing_left()
    return f"{shown(hit)}; the cell of before stays, with this run beside it"


FAULTS = (
    Fault(
        "kill -9 of the worker as it starts",
        "the job kills itself before it names a phase",
        "`crashed`, the signal named",
        ends("start", _KILL, "crashed", f"{_SIG} start"),
    ),
    Fault(
        "kill -9 of the worker in import",
        "the job kills itself",
        "`crashed`, the phase named",
        ends("import", _KILL, "crashed", f"{_SIG} import", phase="import"),
    ),
    Fault(
        "kill -9 of the worker in encode",
        "the job kills itself",
        "`crashed`, the phase named",
        ends("encode", _KILL, "crashed", f"{_SIG} encode", phase="encode"),
    ),
    Fault(
        "kill -9 of the worker with its index written",
        "the job kills itself before it writes result.json",
        "`crashed`: an index without a result does not count",
        ends("finalize", _KILL, "crashed", f"{_SIG} finalize"),
    ),
    Fault(
        "kill -9 of the worker after its result",
        "the job kills itself after result.json",
        "`ok` with the right tensors",
        ends("end", _KILL, "ok"),
    ),
    Fault(
        "segmentation fault",
        "SIGSEGV in the job",
        "`crashed`, the signal named",
        ends("encode", "os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV in phase encode"),
    ),
    Fault(
        "job hangs on import",
        "sleeps; deadline of 5 s",
        "`timeout` at the deadline of import",
        ends("import", "time.sleep(600)", "timeout", "deadline of import", phase="import", **{"import": 5.0}),
    ),
    Fault(
        "job hangs while it indexes",
        "sleeps; deadline of 5 s",
        "`timeout` at the deadline of index",
        ends("encode", "time.sleep(600)", "timeout", "deadline of index", phase="encode", index=5.0),
    ),
    Fault(
        "job hangs after its result",
        "sleeps; deadline of 5 s",
        "`timeout`: only a job that ended counts",
        ends("end", "time.sleep(600)", "timeout", "deadline of index", index=5.0),
    ),
    Fault(
        "job hangs and ignores SIGTERM",
        "SIG_IGN, then sleeps; deadline of 5 s",
        "SIGKILL, `timeout`",
        ends(
            "encode", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(600)", "timeout", index=5.0
        ),
    ),
    Fault(
        "child that outlives its job",
        "a child that ignores SIGTERM; the job ends well",
        "`ok`, the child is ended",
        _child(CHILD, "", "ok"),
    ),
    Fault(
        "daemon that outlives its job",
        "two forks and a session of its own; the job crashes",
        "`crashed`, the daemon is ended",
        _child(DAEMON, "os._exit(3)", "crashed"),
    ),
    Fault(
        "kill -9 of the worker of a cell that is run again",
        "both versions are stored, and run again; one job kills itself",
        "the stored cell stays, the run that failed is kept beside it; the other version is replaced",
        _again,
    ),
    Fault("100 MB of output", "the job prints 100 MB", "`ok`, the log whole, its end in the record", _much_output),
    Fault(
        "output without end",
        "the job prints on and ignores SIGTERM; deadline of 5 s; 1 MiB to keep of either end, for 64 and 32",
        "`timeout`; of the log, the beginning and the end, with a sentence between them",
        _endless_output,
    ),
    Fault(
        "memory runs out under an rlimit",
        "RLIMIT_AS in the job, then 4 GiB",
        "`out_of_memory`",
        ends(
            "encode",
            "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2 ** 29, 2 ** 29))\nbytearray(2 ** 32)",
            "out_of_memory",
            phase="encode",
        ),
    ),
    Fault(
        "memory runs out in a cgroup",
        "48 MiB for the job; the kernel kills it",
        "`out_of_memory`, and not just SIGKILL",
        _cgroup,
    ),
    Fault(
        "result.json is cut short",
        "half of its bytes",
        "`invalid_output`",
        ends(
            "end",
            "t = (out / 'result.json').read_text(); (out / 'result.json').write_text(t[:len(t) // 2])",
            "invalid_output",
            "cannot be read",
        ),
    ),
    Fault(
        "result.json holds values of wrong kinds",
        "lists and texts in place of objects and numbers",
        "`invalid_output`",
        ends(
            "finalize",
            "result(seconds=[1], provenance='x', peak_memory={'host_bytes': 1e400}); os._exit(0)",
            "invalid_output",
        ),
    ),
    Fault(
        "job says `ok` without an index",
        "result.json alone",
        "`invalid_output`",
        ends("encode", "result(); os._exit(0)", "invalid_output", "said that it ended well, but"),
    ),
    Fault(
        "job says `ok` with half an index",
        "centroids.pt cut in the middle",
        "`invalid_output`, the file named",
        ends(
            "index",
            "p = out / 'index' / 'centroids.pt'; p.write_bytes(p.read_bytes()[:300])",
            "invalid_output",
            r"centroids\.pt",
        ),
    ),
    Fault(
        "job leaves a pickle that would run a command",
        "os.system in centroids.pt",
        "`invalid_output`, nothing run",
        _no_pickle,
    ),
    Fault("job leaves a link to another file", "extra.json in the index points outside", "not followed", _link),
    Fault(
        "supervisor is killed",
        "kill -9 of the job's parent",
        "tried again; the first try is `lost`",
        _supervisor(signal.SIGKILL),
    ),
    Fault(
        "somebody else stops the job",
        "SIGTERM to the supervisor, as a scheduler does",
        "tried again; the first try is `lost`",
        _supervisor(signal.SIGTERM),
    ),
    Fault(
        "GPU is lost",
        "the job says what CUDA says of an ECC error, once (device pretended)",
        "tried again; the first try is `lost`",
        _gpu,
        settings={"identity": "cuda Pretended 9.0"},
    ),
)

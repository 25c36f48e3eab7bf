"""Faults of disks and of what lies on them: full, read-only, cut short, changed, swapped; environments half there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.artifacts.comparison import compare_sources
from harness.environments.build import environment_path
from harness.errors import HarnessError, UnreadableTensor
from harness.inputs.tolerances import profiles_for
from harness.store.audit import collect, verify
from harness.store.store import Store
from harness.store.stored import StoredCell
from tests.reliability.bench import HIT, PATIENCE, VERSIONS, Bench, Fault, Skipped, Unexpected, cells_of, expect, shown
from tests.reliability.harness_faults import forked, store_cell
from tests.support.cell_specs import spec
from tests.support.small_index import write_index


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A disk of its own at `place`, which is made."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"mounting a disk needs root ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def small_disk(place: Path, size: str) -> contextlib.AbstractContextManager[Path]:
    """A tmpfs of so many bytes."""
    return mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def fill(disk: Path, leave: int) -> None:
    """Write to a disk until it is full, then give some bytes back."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - leave))


def _refused(bench: Bench, words: str) -> str:
    """What `harness sweep` says; it must be one sentence of the contract with exit code 2 or 3."""
    line = bench.line()
    _, err = line.communicate(timeout=PATIENCE)
    expect("Traceback" not in err, err[-400:])
    said = [text for text in err.splitlines() if text.startswith("harness: ")]
    expect(said, f"no sentence: {err[-300:]}")
    expect(words in said[-1], f"{words!r} is not in: {said[-1]}")
    expect(line.returncode in {2, 3}, f"exit code {line.returncode}")
    return f"exit code {line.returncode}; “{said[-1].removeprefix('harness: ')}”"


def _full_while_installing(bench: Bench) -> str:
    with small_disk(bench.home, "512k") as disk:
        fill(disk, 8192)
        seen = _refused(bench, "is full: free some space")
        (disk / "filler").unlink()
        bench.right()
        return seen


def _full_while_running(bench: Bench) -> str:
    """The job writes more than there is, at every try; then the disk gets room."""
    with small_disk(bench.home, "3m") as disk:
        bench.inject("encode", "again(); open(out / 'big', 'wb').write(bytes(2 ** 24))")
        line = bench.line()
        _, err = line.communicate(timeout=PATIENCE)
        expect(line.returncode == 3 and "Traceback" not in err, f"exit code {line.returncode}: {err[-400:]}")
        expect(len(bench.ran()) == 4, f"{len(bench.ran()) - 1} tries")
        cells = cells_of(bench)
        expect(cells[VERSIONS[0]].outcome == "ok", shown(cells[VERSIONS[0]]))
        expect(cells[HIT].details.get("cause") == "disk_full", shown(cells[HIT]))
        expect("free some space" in cells[HIT].reason, shown(cells[HIT]))
        seen = f"exit code 3; {shown(cells[HIT])}"
        bench.right()
        bench.nothing_left()
        (bench.made / f"fault-{HIT}-encode").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        bench.mend()
        return f"{seen}; the other version is stored; with room, the sweep ends well"


def _full_while_storing(bench: Bench) -> str:
    """A disk with ever more room, page by page, until a whole cell fits."""
    write_index(bench.folder / "index", chunks=1)
    of = spec(HIT)
    points = 0
    for free in range(0, 400 * 4096, 4096):
        with small_disk(bench.folder / "disk", "2m") as disk:
            fill(disk, free)
            store = Store(disk / "store")
            code = forked(lambda store=store: _quietly(lambda: store_cell(bench, store, of)))  # type: ignore[misc]
            cell = store.get(of.key)
            expect((cell is not None) == (code == 0), f"{free} bytes: exit code {code} and {shown(cell)}")
            found = {finding.kind for finding in verify(store).findings} if store.root.exists() else set()
            expect(found <= {"leftover", "orphan"}, f"{free} bytes left {found}")
            if cell is not None:
                expect(points > 10, f"only {points} points")
                return f"{points} points: the cell is not there and nothing is damaged; then it fits"
            points += 1
            (disk / "filler").unlink()
            if points % 8 == 1:
                store_cell(bench, store, of)
                expect(not store.missing(store.get(of.key)), "not mended")  # type: ignore[arg-type]
    raise Unexpected("a cell never fitted")


def _quietly(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError:
        os._exit(28)


def _read_only(bench: Bench) -> str:
    """The home on a disk that is mounted read-only; root itself cannot write there."""
    bench.sweep((VERSIONS[0],))
    with mounted(bench.home, "--bind", str(bench.home)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(bench.home)], check=True)
        seen = _refused(bench, "cannot be written")
        bench.right()
        expect(set(cells_of(bench)) == {VERSIONS[0]}, f"the store holds {set(cells_of(bench))}")
    return seen


def _lengths(size: int) -> list[int]:
    """Places at which a file is cut: each of the first bytes, then ever coarser, and just before the end."""
    return sorted({*range(min(16, size)), *(size * k // 12 for k in range(12)), size - 1})


def _cut(pattern: str, cells_lost: bool) -> Callable[[Bench], str]:
    """Cut a stored file at each of many lengths: `store verify` finds each, and nothing when the file is whole."""

    def run(bench: Bench) -> str:
        bench.sweep()
        paths = sorted(bench.store.root.glob(pattern))
        expect(paths, f"no file matches {pattern}")
        points = 0
        for path in paths[:3]:
            whole = path.read_bytes()
            for length in _lengths(len(whole)):
                path.write_bytes(whole[:length])
                findings = verify(bench.store).findings
                expect(any(f.kind == "damaged" for f in findings), f"{path.name} cut at {length}: {findings}")
                if cells_lost:
                    expect(len(bench.store.cells()) == 1, f"{path.name} cut at {length} is read as a cell")
                points += 1
            path.write_bytes(whole)
        expect(verify(bench.store).findings == (), "something is found in a whole store")
        paths[0].write_bytes(paths[0].read_bytes()[:-1])
        if not cells_lost and "objects" not in pattern:
            collect(bench.store, damaged=True)
        return f"{points} cuts in {min(3, len(paths))} files, each found"

    return run


def _flip(bench: Bench) -> str:
    """One bit of a tensor, which changes neither its length nor its header."""
    cells = bench.sweep((*VERSIONS, "2.8.0"))
    a, b = (cells[version] for version in VERSIONS)
    path = bench.store.object_path(b.artifacts["centroids"].digest)
    # 2.8.0 has the same centroids.
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    sources = [StoredCell(bench.store, cell) for cell in (a, b)]
    found = compare_sources(sources[0], sources[1], profiles_for(None, ()))
    (row,) = [one for one in found.artifacts if one.name == "centroids"]
    expect(row.status == "different", f"the comparison says {row.status}")
    expect(row.metrics is None, "numbers of damaged bytes are reported")
    expect("damaged" in row.reason, f"the reason is {row.reason!r}")
    findings = [f for f in verify(bench.store).findings if f.kind == "damaged"]
    expect(len(findings) == 1, f"store verify: {findings}")
    expect(len(findings[0].cells) == 2, f"it concerns {findings[0].cells}")
    removed = collect(bench.store, damaged=True).removed
    return (
        f"store verify names it and both cells; the comparison gives no numbers; store gc removes {len(removed)} paths"
    )


def _missing(bench: Bench) -> str:
    cells = bench.sweep()
    bench.store.object_path(cells[HIT].artifacts["ivf"].digest).unlink()
    findings = verify(bench.store).findings
    expect([f.kind for f in findings if f.cells] == ["missing", "missing"], f"store verify: {findings}")
    return "store verify names it and the cells that need it; the next sweep makes them again"


def _lying(bench: Bench) -> str:
    """A record whose text is good JSON and whose content somebody or something changed: crashed becomes ok."""
    bench.inject("encode", "os._exit(1)")
    cells = bench.sweep()
    expect(cells[HIT].outcome == "crashed", shown(cells[HIT]))
    path = bench.store.cell_folder(cells[HIT].key) / "cell.json"
    good = bench.store.cell_folder(cells[VERSIONS[0]].key) / "cell.json"
    record = json.loads(path.read_text())
    record |= {"outcome": "ok", "reason": "", "artifacts": json.loads(good.read_text())["artifacts"]}
    path.write_text(json.dumps(record))
    expect(HIT not in cells_of(bench), "it is taken for a cell")
    findings = verify(bench.store).findings
    expect([f.kind for f in findings] == ["damaged"], f"store verify: {findings}")
    return "no cell; store verify names it; the next sweep runs it"


def _exchanged(bench: Bench) -> str:
    cells = bench.sweep()
    one, other = (bench.store.cell_folder(cell.key) for cell in cells.values())
    one.rename(one.parent / "aside")
    other.rename(one)
    (one.parent / "aside").rename(other)
    expect(cells_of(bench) == {}, f"taken for cells: {cells_of(bench)}")
    expect({f.kind for f in verify(bench.store).findings} >= {"damaged"}, str(verify(bench.store).findings))
    return "neither is taken for a cell; the next sweep runs both"


def _environment(damage: Callable[[Path], object]) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        bench.sweep()
        e = bench.experiment()
        folder = environment_path(e.home, HIT, "cpu", e.lock(HIT))
        expect(folder.is_dir(), f"{folder} is not there")
        damage(folder)
        built = (bench.uv / "calls").read_text().count("pip install")
        shutil.rmtree(bench.store.cell_folder(e.spec(HIT).key))
        cells = bench.sweep()
        expect(cells[HIT].outcome == "ok", shown(cells[HIT]))
        again = (bench.uv / "calls").read_text().count("pip install") - built
        expect(again == 1, f"installed {again} times")
        said = [line for line in bench.said.getvalue().splitlines() if "rebuilding" in line]
        expect(said, "nothing was said")
        return f"“{said[-1].strip()}”"

    return run


def _half_built(folder: Path) -> None:
    (folder / "harness-complete.json").unlink()
    for path in sorted(folder.glob("lib/python3*/site-packages/*.dist-info"))[::2]:
        shutil.rmtree(path)


def _upgraded(folder: Path) -> None:
    path = next(folder.glob("lib/python3*/site-packages/numpy-*.dist-info"))
    (path / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n\n")


def _unreadable_index(bench: Bench) -> str:
    """An index from elsewhere, compared while one file after the other is cut in the middle."""
    from harness.artifacts.directory import IndexDirectory

    index, other = write_index(bench.folder / "a"), write_index(bench.folder / "b")
    rows = 0
    for path in sorted(index.glob("*.pt")):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        try:
            found = compare_sources(IndexDirectory(index), IndexDirectory(other), profiles_for(None, ()))
        except (HarnessError, UnreadableTensor) as error:
            raise Unexpected(f"{path.name}: the whole comparison ends: {error}") from error
        names = {one.name for one in found.unreadable}
        expect(names, f"{path.name} cut in the middle is read")
        expect(all(one.bit_equal for one in found.artifacts if one.name not in names), f"{path.name} spoils others")
        rows += len(names)
        path.write_bytes(whole)
    return f"{rows} rows are `unreadable`, each with its file; all others are compared"


_FOUND = "`store verify` finds it; the next sweep makes it again"
_REBUILT = "noticed before the job starts; built anew"
FAULTS = (
    Fault(
        "disk is full while installing",
        "home on a tmpfs with 8 KiB left",
        "one sentence, exit code 2",
        _full_while_installing,
        mends=False,
    ),
    Fault(
        "disk is full while the job runs",
        "home on a tmpfs of 3 MiB; the job writes 16 MiB, at every try",
        "tried three times; the cell says so, exit code 3; the other version is stored",
        _full_while_running,
        mends=False,
    ),
    Fault(
        "disk is full at each point of storing a cell",
        "a tmpfs with 0, 4, 8, … KiB left",
        "no cell, or a whole one",
        _full_while_storing,
        mends=False,
    ),
    Fault(
        "read-only home",
        "a bind mount, read-only; also for root",
        "one sentence, exit code 2; what is stored stays",
        _read_only,
    ),
    Fault(
        "tensor cut at each point",
        "objects of the store, cut at 28 lengths each",
        _FOUND,
        _cut("objects/*/*.safetensors", cells_lost=False),
        damages=True,
    ),
    Fault(
        "record cut at each point",
        "cell.json, cut at 28 lengths each",
        "never taken for a cell; " + _FOUND,
        _cut("cells/*/cell.json", cells_lost=True),
        damages=True,
    ),
    Fault(
        "other files cut at each point",
        "the index's JSON files beside the record",
        _FOUND,
        _cut("cells/*/index/*.json", cells_lost=False),
        damages=True,
    ),
    Fault(
        "one bit of a tensor changes",
        "the last byte of an object that two cells share",
        "no numbers of it are reported; " + _FOUND,
        _flip,
        damages=True,
    ),
    Fault("tensor is gone", "an object is deleted", _FOUND, _missing, damages=True),
    Fault(
        "record is changed",
        "a crashed cell's record says ok, with another's tensors",
        "not taken for a cell; " + _FOUND,
        _lying,
        damages=True,
    ),
    Fault(
        "records are exchanged",
        "two cells' folders change names",
        "not taken for cells; " + _FOUND,
        _exchanged,
        damages=True,
    ),
    Fault(
        "index from elsewhere is cut short",
        "each .pt in its middle, `harness compare`",
        "a row `unreadable`, the others right",
        _unreadable_index,
        mends=False,
    ),
    Fault(
        "environment without its mark",
        "harness-complete.json is garbage",
        _REBUILT,
        _environment(lambda f: (f / "harness-complete.json").write_text('{"lock": ')),
        built=True,
    ),
    Fault("environment half built", "no mark, half of the packages", _REBUILT, _environment(_half_built), built=True),
    Fault("environment changed behind our back", "another NumPy in it", _REBUILT, _environment(_upgraded), built=True),
    Fault(
        "environment without its interpreter",
        "bin/python is deleted",
        _REBUILT,
        _environment(lambda f: (f / "bin" / "python").unlink()),
        built=True,
    ),
)

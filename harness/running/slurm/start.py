"""Sweeps over Slurm: started, followed from another terminal, and kept in the home meanwhile.

```
slurm/lock                     held while jobs are submitted
slurm/sweeps/ID.json           what was asked for; there until the sweep is reduced
slurm/arrays/NAME/array.json   which cells an array runs; written before sbatch is called
slurm/arrays/NAME/job.json     the array's job id; written after
slurm/arrays/NAME/3.run        written by the node: host and phase of task 3
slurm/arrays/NAME/3.end        how task 3 ended, said once: by the node, or by a follower once the job is gone
```
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import UsageError
from harness.home import Home, resolve_home
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.running.experiment import Experiment, Selection
from harness.running.progress import Board
from harness.running.slurm.nodes import node_device
from harness.running.slurm.queue import check_options, require_slurm
from harness.running.slurm.record import (
    Ledger,
    Options,
    Sweep,
    from_record,
    read_record,
    root_of,
    to_record,
    write_record,
)
from harness.words import count, said


def start_sweep(
    selection: Selection,
    versions: list[str],
    repeats: dict[str, int],
    options: Options,
    board: Board,
    *,
    evict: bool,
    output: Path | None,
) -> Sweep:
    """Check what the user asked for, ask the nodes what they are, and keep a record of it.

    Raises:
        HarnessError: something is missing, here or on the nodes.
    """
    require_slurm()
    check_options(options.extra)
    selection = absolute_paths(selection)
    # What is wrong with the files is said before a node is asked for anything.
    experiment = Experiment(replace(selection, identity="cpu of a node"))
    experiment.check()
    identity = node_device(experiment.home, options, selection.device, board)
    now = datetime.now(UTC)
    sweep = Sweep(
        # A name that sorts by time.
        id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        created=now.isoformat(timespec="seconds"),
        selection=replace(selection, identity=identity),
        versions=versions,
        repeats=repeats,
        options=options,
        evict=evict,
        output=output.absolute() if output else None,
    )
    save_sweep(experiment.home, sweep)
    return sweep


def absolute_paths(selection: Selection) -> Selection:
    """The same selection with paths that mean the same in another folder."""
    matrix_path = (selection.matrix_path or find_matrix()).resolve()
    matrix = load_matrix(matrix_path)

    def absolute(path: Path | None) -> Path | None:
        # Not resolved: a virtualenv's interpreter is a link, and means another environment when it is followed.
        return path.absolute() if path else None

    def named(name: str | None, known: Iterable[str]) -> str | None:
        return str(Path(name).absolute()) if name and name not in known and Path(name).exists() else name

    return replace(
        selection,
        matrix_path=matrix_path,
        home=resolve_home(selection.home, matrix_path).root,
        collection=named(selection.collection, matrix.collections),
        checkpoint=named(selection.checkpoint, matrix.checkpoints),
        sites=absolute(selection.sites),
        site_python=absolute(selection.site_python),
    )


def attach_sweep(selection: Selection, name: str) -> Sweep:
    """The unfinished sweep of this home whose id starts with `name`; the only one where no name is given.

    Raises:
        UsageError: there is none, or there are several.
    """
    home = resolve_home(selection.home, (selection.matrix_path or find_matrix()).resolve())
    found = open_sweeps(home)
    if not found:
        raise UsageError(f"--attach: no sweep over Slurm is under way in {home.root}.")
    chosen = [sweep for sweep in found if sweep.id.startswith(name)]
    if len(chosen) != 1:
        listing = ", ".join(f"{sweep.id} ({count(len(sweep.versions), 'version')}, {sweep.created})" for sweep in found)
        raise UsageError(f"--attach {name}".rstrip() + f": name one of the sweeps that are under way: {listing}.")
    require_slurm()
    return chosen[0]


def save_sweep(home: Home, sweep: Sweep) -> None:
    """Keep a sweep until `close_sweep`."""
    path = sweep_path(home, sweep.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, to_record(sweep))


def sweep_path(home: Home, name: str) -> Path:
    """Where a sweep's record is."""
    return root_of(home) / "sweeps" / f"{name}.json"


def open_sweeps(home: Home) -> list[Sweep]:
    """Sweeps that were started and not reduced yet, oldest first."""
    sweeps = []
    for path in sorted((root_of(home) / "sweeps").glob("*.json")):
        # It may have been closed a moment ago.
        if record := read_record(path):
            try:
                sweeps.append(from_record(Sweep, record))
            except ValueError as error:
                raise UsageError(
                    f"{path}: not a sweep's record ({said(error)}): delete it, and start the sweep again."
                ) from error
    return sweeps


def close_sweep(home: Home, sweep: Sweep) -> None:
    """Forget a sweep whose cells are all stored, and its arrays."""
    ledger = Ledger(root_of(home))
    for array in ledger.arrays():
        if array.sweep == sweep.id:
            ledger.drop(array)
    sweep_path(home, sweep.id).unlink(missing_ok=True)
    sweep_path(home, sweep.id).with_suffix(".lock").unlink(missing_ok=True)

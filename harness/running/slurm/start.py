"""Starting a sweep on a cluster, and following one that was started before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import UsageError
from harness.home import resolve_home
from harness.inputs.matrix_file import find_matrix, load_matrix
from harness.running.experiment import Experiment, Selection
from harness.running.progress import Board
from harness.running.slurm.nodes import node_device
from harness.running.slurm.queue import check_options, require_slurm
from harness.running.slurm.record import Options, Sweep
from harness.running.slurm.sweeps import new_id, open_sweeps, save_sweep
from harness.words import count

# ---- beginning and going on


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
    sweep = Sweep(
        id=new_id(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
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
        queries=named(selection.queries, ()),
        qrels=named(selection.qrels, ()),
        index=absolute(selection.index),
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

"""Run planned cells one after the other: build the environment if needed, run the job, store the cell, maybe evict.

One version that fails never stops the others: its outcome becomes its cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from harness.environments import BuildFailed, disk_errors, ensure_environment, evict
from harness.experiment import Experiment, Planned
from harness.lock import Lock
from harness.progress import Board
from harness.runner import Interpreter, run_index
from harness.store import Cell


def run_plan(experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
    """Run what a plan says; return the cells of the whole plan, those that were already stored included.

    Args:
        experiment: collection, checkpoint, device and settings.
        plan: from `Experiment.plan`.
        board: shows progress.
        evict_after: delete each environment as soon as its cells are stored.
    """
    cells: list[Cell] = []
    groups = [(version, list(group)) for version, group in itertools.groupby(plan, key=lambda p: p.spec.version)]
    for position, (version, group) in enumerate(groups):
        if not any(planned.run for planned in group):
            for planned in group:
                assert planned.stored is not None
                board.done(planned.stored, ran=False)
                cells.append(planned.stored)
            continue
        later = [experiment.lock(other) for other, rest in groups[position + 1 :] if any(p.run for p in rest)]
        with disk_errors(experiment.home):
            cells += _run_version(experiment, version, group, board, later if evict_after else None)
    return cells


def _run_version(
    experiment: Experiment, version: str, group: list[Planned], board: Board, keep: list[Lock] | None
) -> Iterator[Cell]:
    board.phase(version, "environment")
    try:
        environment = ensure_environment(
            experiment.home, experiment.matrix, experiment.locks, version, experiment.device.flavour, board.note
        )
    except BuildFailed as error:
        for planned in group:
            if not planned.run and planned.stored:
                yield planned.stored
                continue
            yield board.done(_not_built(experiment, planned, error), ran=True)
        return
    for planned in group:
        if not planned.run and planned.stored:
            board.done(planned.stored, ran=False)
            yield planned.stored
            continue
        label = version if not planned.spec.repeat else f"{version}#{planned.spec.repeat}"
        board.phase(label, "start")
        cell = run_index(
            experiment.home,
            experiment.store,
            planned.spec,
            Interpreter(environment.python),
            experiment.passages,
            experiment.checkpoint,
            device_kind=experiment.device.kind,
            capture=experiment.job.capture,
            deadline=experiment.job.deadline_seconds,
            on_phase=lambda phase, label=label: board.phase(label, phase),  # type: ignore[misc]
        )
        yield board.done(cell, ran=True)
    if keep is not None:
        freed = evict(experiment.home, environment, keep)
        board.note(f"{version}: deleted the environment ({freed / 2**30:.1f} GiB freed)")


def _not_built(experiment: Experiment, planned: Planned, error: BuildFailed) -> Cell:
    spec = planned.spec
    log = experiment.home.runs / f"{spec.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(error.log)
    cell = Cell(
        key=spec.key,
        group=spec.group,
        spec=spec.to_json(),
        outcome=error.outcome,
        reason=str(error),
        phase="environment",
        capture=experiment.job.capture,
        details={"log_tail": "\n".join(error.log.splitlines()[-40:])},
    )
    try:
        return experiment.store.put(cell, log=log)
    finally:
        log.unlink(missing_ok=True)

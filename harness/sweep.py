"""Run planned cells one after the other: build the environment if needed, run the job, store the cell, maybe evict.

One version that fails never stops the others: its outcome becomes its cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from harness.environments import BuildFailed, Environment, disk_errors, ensure_environment, evict
from harness.errors import UsageError
from harness.experiment import Experiment, Planned
from harness.lock import Lock
from harness.progress import Board
from harness.runner import Interpreter, run_index
from harness.store import Cell

_MEND_FIRST = {"offline", "disk_full", "not_brought"}
"""Causes of a failure that say something about this machine and nothing about the version."""


def run_plan(experiment: Experiment, plan: list[Planned], board: Board, *, evict_after: bool) -> list[Cell]:
    """Run what a plan says; return the cells of the whole plan, those that were already stored included.

    Args:
        experiment: collection, checkpoint, device and settings.
        plan: from `Experiment.plan`.
        board: shows progress.
        evict_after: delete each environment as soon as its cells are stored.

    Raises:
        UsageError: not one cell could start, because there is no network and the cache is cold, or the disk is full.
            The outcomes are stored all the same.
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
    if cells and all(cell.details.get("cause") in _MEND_FIRST for cell in cells):
        raise UsageError(cells[0].reason)
    return cells


def _run_version(
    experiment: Experiment, version: str, group: list[Planned], board: Board, keep: list[Lock] | None
) -> Iterator[Cell]:
    board.phase(version, "environment")
    environment: Environment | None = None
    try:
        reason = experiment.unsupported(version)
        if reason:
            raise BuildFailed(reason, "unsupported", "")
        interpreter = experiment.brought(version)
        if interpreter is None:
            environment = ensure_environment(
                experiment.home,
                experiment.matrix,
                experiment.locks,
                version,
                experiment.device.flavour,
                report=board.note,
            )
            interpreter = Interpreter(environment.python)
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
            interpreter,
            experiment.passages,
            experiment.checkpoint,
            device_kind=experiment.device.kind,
            capture=experiment.job.capture,
            deadline=experiment.job.deadline_seconds.index,
            import_deadline=experiment.job.deadline_seconds.import_,
            on_phase=lambda phase, label=label: board.phase(label, phase),  # type: ignore[misc]
        )
        yield board.done(cell, ran=True)
    if keep is not None and environment is not None:
        freed = evict(experiment.home, environment, keep)
        if freed is not None:
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
        details={"cause": error.cause, "log_tail": "\n".join(error.log.splitlines()[-40:])},
    )
    try:
        return experiment.store.put(cell, log=log)
    finally:
        log.unlink(missing_ok=True)

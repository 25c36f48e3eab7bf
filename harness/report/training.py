"""`training.parquet`: each pair of trainings, step by step."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.artifacts.train_job import TRAIN
from harness.explain.compared import ComparedCells
from harness.explain.training import TRAINED, Quantity, Training
from harness.report.parquet import schema_of, write_batches
from harness.tensors.dtypes import Array

_TOGETHER = 1 << 14
"""Rows of which Arrow makes a table at once."""


def write_training(folder: Path, pairs: Sequence[ComparedCells], about: Mapping[str, str]) -> None:
    """Write `training.parquet`, a row for each step and quantity; without trainings, remove that of before."""
    if any(pair.training is not None for pair in pairs):
        write_batches(folder, "training", _tables(pairs), **about)
    else:
        (folder / "training.parquet").unlink(missing_ok=True)


def _tables(pairs: Iterable[ComparedCells]) -> Iterator[pa.Table]:
    """Tables of some thousand rows: each costs as much again as rows by the hundred."""
    schema = schema_of("training")
    columns: dict[str, list[Any]] = {one.name: [] for one in schema}
    for pair in pairs:
        for part in _columns(pair):
            rows = len(part["quantity"])
            for name, held in columns.items():
                held.extend(part.get(name, [None] * rows))
        if len(columns["quantity"]) >= _TOGETHER:
            yield pa.Table.from_pydict(columns, schema=schema)
            columns = {name: [] for name in columns}
    yield pa.Table.from_pydict(columns, schema=schema)


def _columns(pair: ComparedCells) -> Iterator[dict[str, Sequence[Any]]]:
    """The rows of a pair as columns, a part at a time: each quantity's, and then those without a step, in their order.

    A column that a part lacks is null.
    """
    if pair.training is None:
        return
    own = {"kind": pair.kind, "a": pair.a.label, "b": pair.b.label, "key_a": pair.a.key, "key_b": pair.b.key}
    parts = [_steps(pair.training, quantity) for quantity in pair.training.quantities]
    parts += [{name: [value] for name, value in row.items()} for row in _whole(pair.training)]
    for part in parts:
        yield part | {name: [value] * len(part["quantity"]) for name, value in own.items()}


def _steps(training: Training, quantity: Quantity) -> dict[str, Sequence[Any]]:
    """Columns of a quantity, with a row for each step."""
    count, start = len(quantity.different), training.start
    of_repeats = [found for one in training.repeats if (found := one.quantity(quantity.name)) is not None]
    first = start.step if start and quantity in start.quantities else None

    def numbers(values: Array | None) -> Sequence[Any]:
        return [None] * count if values is None else values.tolist()

    return {
        "step": range(count),
        "phase": [quantity.phase] * count,
        "quantity": [quantity.name] * count,
        "first": [step == first for step in range(count)],
        "n": [quantity.parts] * count,
        "n_mismatch": numbers(quantity.changed),
        "value_a": numbers(quantity.a),
        "value_b": numbers(quantity.b),
        "diff": numbers(quantity.apart),
        "noise_mismatch": _greatest([one.changed for one in of_repeats], count),
        "noise_diff": _greatest([one.apart for one in of_repeats if one.apart is not None], count),
    }


def _greatest(repeats: Sequence[Array], length: int) -> Sequence[Any]:
    """The greatest of any repeat in each step; null in steps that no repeat has."""
    if repeats and all(len(one) >= length for one in repeats):
        found: list[Any] = functools.reduce(np.fmax, [one[:length] for one in repeats]).tolist()
        return found
    return [max((one[step] for one in repeats if step < len(one)), default=None) for step in range(length)]


def _whole(training: Training) -> Iterator[dict[str, Any]]:
    """Rows without a step: the trained weights, and what could not be compared."""
    phases = {made.name: made.step for made in TRAIN.made}
    trained = training.trained
    if trained is not None:
        for parameter, one in [(None, trained.whole), *trained.parameters.items()]:
            row: dict[str, Any] = {"quantity": TRAINED, "phase": phases[TRAINED], "parameter": parameter}
            row |= {"first": False} if training.start is not None or trained.equal else {}
            if one is not None:
                row |= {"n": one.n, "n_mismatch": one.n_mismatch, "relative_distance": one.distance}
            if parameter is None and training.repeats:
                again = [of.trained.whole for of in training.repeats if of.trained and of.trained.whole]
                row["noise_mismatch"] = max((one.n_mismatch for one in again), default=None)
            yield row
    for name, reason in training.unseen.items():
        yield {"quantity": name, "phase": phases[name], "unseen": reason}

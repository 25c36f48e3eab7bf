"""`training.parquet`: each pair of trainings, step by step."""

from __future__ import annotations

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


def write_training(folder: Path, pairs: Sequence[ComparedCells], about: Mapping[str, str]) -> None:
    """Write `training.parquet`, a row for each step and quantity; without trainings, remove that of before."""
    if any(pair.training is not None for pair in pairs):
        write_batches(folder, "training", _tables(pairs), **about)
    else:
        (folder / "training.parquet").unlink(missing_ok=True)


def _tables(pairs: Iterable[ComparedCells]) -> Iterator[pa.Table]:
    for pair in pairs:
        if pair.training is None:
            continue
        own = {"kind": pair.kind, "a": pair.a.label, "b": pair.b.label, "key_a": pair.a.key, "key_b": pair.b.key}
        for quantity in pair.training.quantities:
            yield _steps(own, pair.training, quantity)
        yield pa.Table.from_pylist([own | row for row in _whole(pair.training)], schema=schema_of("training"))


def _steps(own: Mapping[str, str], training: Training, quantity: Quantity) -> pa.Table:
    """A row for each step of a quantity."""
    steps, start = np.arange(len(quantity.different)), training.start
    of_repeats = [found for one in training.repeats if (found := one.quantity(quantity.name)) is not None]
    columns: dict[str, Any] = {
        **own,
        "step": steps,
        "phase": quantity.phase,
        "quantity": quantity.name,
        "first": (steps == start.step) & (quantity in start.quantities) if start else np.zeros(len(steps), np.bool_),
        "n": np.full(len(steps), quantity.parts),
        "n_mismatch": quantity.changed,
        "value_a": quantity.a,
        "value_b": quantity.b,
        "diff": quantity.apart,
        "noise_mismatch": _greatest([one.changed for one in of_repeats], len(steps)),
        "noise_diff": _greatest([one.apart for one in of_repeats if one.apart is not None], len(steps)),
    }
    schema = schema_of("training")
    return pa.Table.from_arrays([_column(columns.get(one.name), one.type, len(steps)) for one in schema], schema=schema)


def _column(values: Any, kind: pa.DataType, length: int) -> Any:  # noqa: ANN401 - an array, or one value for all
    return pa.array([values] * length if values is None or isinstance(values, str) else values, kind)


def _greatest(repeats: Sequence[Array], length: int) -> list[Any]:
    """The greatest of any repeat in each step; null in steps that no repeat has."""
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

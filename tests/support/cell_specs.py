"""Specifications and cells for tests of what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.environments.device import Device
from harness.environments.lockfile import lock_path, read_lock
from harness.inputs.matrix_file import load_matrix
from harness.running.specs import job_spec
from harness.store.cell import Artifact, Cell
from harness.store.spec import CellSpec, Checkpoint, Collection

ROOT = Path(__file__).parents[2]
MATRIX = load_matrix(ROOT / "matrix.yaml")


def spec(version: str = "2.8.0", **changes: Any) -> CellSpec:
    """A specification with some fields changed."""
    fields: dict[str, Any] = {
        "job": "index",
        "version": version,
        "lock": "lock-digest",
        "collection": {"name": "embedded", "digest": "c0ffee", "passages": 10},
        "checkpoint": {"name": "embedded", "digest": "beef", "dim": 8},
        "settings": {"nbits": 2, "threads": 2},
        "device": "cpu GenuineIntel 6/143 avx2",
        "environment": {"OMP_NUM_THREADS": "2"},
    }
    return CellSpec.of({**fields, **changes})


def planned(version: str = "2.8.0", repeat: int = 0, device: str = "cpu Vendor 1/2 avx2", **changes: Any) -> CellSpec:
    """The specification that `harness plan` has for a version today, on a device of that identity."""
    where = Device(device.split(" ", 1)[0], device)
    fields: dict[str, Any] = {
        "job": MATRIX.jobs.index,
        "lock": read_lock(lock_path(ROOT / "locks", version, where.flavour)),
        "collection": {"name": "embedded", "digest": "c0ffee", "passages": 10},
        "checkpoint": {"name": "embedded", "digest": "beef", "dim": 8},
        **changes,
    }
    fields |= {"collection": Collection.of(fields["collection"]), "checkpoint": Checkpoint.of(fields["checkpoint"])}
    return job_spec(MATRIX, version=version, device=where, **fields).again(repeat)


def cell(of: CellSpec | None = None, **changes: Any) -> Cell:
    """A cell that ended well, with one artifact that only its digest is kept of."""
    of = of or spec()
    fields: dict[str, Any] = {
        "key": of.key,
        "group": of.group,
        "spec": of,
        "outcome": "ok",
        "artifacts": {"centroids": Artifact("d1" * 32, "float16", (4, 8), "final", stored=False)},
        "seconds": {"total": 1.5},
    }
    return Cell(**{**fields, **changes})

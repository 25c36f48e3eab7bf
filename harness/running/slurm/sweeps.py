"""What a sweep over Slurm leaves in the home to survive its terminal: sweeps, arrays, and how each task ended.

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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import UsageError
from harness.home import Home
from harness.running.slurm.ledger import Ledger
from harness.running.slurm.record import (
    Options,
    Sweep,
    read_record,
    root_of,
    selection_from_json,
    selection_to_json,
    write_record,
)


def save_sweep(home: Home, sweep: Sweep) -> None:
    """Keep a sweep until `close_sweep`."""
    record = {**asdict(sweep), "selection": selection_to_json(sweep.selection)}
    record["output"] = str(sweep.output) if sweep.output else None
    path = sweep_path(home, sweep.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, record)


def sweep_path(home: Home, name: str) -> Path:
    """Where a sweep's record is."""
    return root_of(home) / "sweeps" / f"{name}.json"


def new_id() -> str:
    """A name that sorts by time, such as `20261122-064532-3fa9`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def open_sweeps(home: Home) -> list[Sweep]:
    """Sweeps that were started and not reduced yet, oldest first."""
    sweeps = []
    for path in sorted((root_of(home) / "sweeps").glob("*.json")):
        record = read_record(path)
        if not record:
            continue
        try:
            del record["schema"]
            record["selection"] = selection_from_json(record["selection"])
            record["options"] = Options(**record["options"])
            record["output"] = Path(record["output"]) if record["output"] else None
            sweeps.append(Sweep(**record))
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not a sweep's record ({error}): delete it, and start the sweep again."
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

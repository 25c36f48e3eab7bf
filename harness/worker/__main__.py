"""`python -m harness.worker CELL.json OUT_DIR`: run one job in this interpreter's environment and say how it ended.

The result is `OUT_DIR/result.json`, written last and renamed into place. `OUT_DIR/phase` names the phase that is under
way, so that whoever supervises this process knows where it stood when it was killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from harness.worker.outcomes import Ended, ending
from harness.worker.reports import Phases, write_result


def _run(cell: dict[str, Any], out_dir: str, phases: Phases, result: dict[str, Any]) -> None:
    with phases("import"):
        try:
            from harness.worker import index, provenance
            from harness.worker.notes import Notes
        except ImportError as error:
            raise Ended("import_failed", f"{type(error).__name__}: {error}") from error
    notes = Notes()
    # Here from the start, so that it is in the result however the job ends.
    result["not_captured"] = notes.reasons
    result["provenance"] = provenance.collect(cell, notes)
    job = cell.get("job", "index")
    make: Callable[..., dict[str, Any]]
    # Not imported for the main job, so that what it loads does not depend on the others.
    if job == "search":
        from harness.worker import search

        make = search.run
    elif job == "train":
        from harness.worker import train

        make = train.run
    elif job == "index":
        make = index.run
    else:
        from harness.worker import jobs

        result.update(jobs.run(job, cell, out_dir, phases))
        return
    index.require_device(cell)
    if cell["settings"].get("nranks", 1) > 1:
        from harness.worker import ranks

        made = ranks.run(job, cell, out_dir, phases, notes)
        after = made.pop("provenance")
    else:
        made = make(cell, out_dir, phases, notes)
        after = provenance.after(cell, notes)
    result.update(made)
    result["provenance"].update(after)


def main(argv: list[str]) -> int:
    """Run a cell; exit status 0 when a result was written, whatever the outcome in it."""
    if len(argv) != 3:
        print("usage: python -m harness.worker CELL.json OUT_DIR", file=sys.stderr)
        return 2
    cell_path, out_dir = argv[1:]
    os.makedirs(out_dir, exist_ok=True)
    with open(cell_path, encoding="utf-8") as file:
        cell = json.load(file)
    phases = Phases(out_dir)
    result: dict[str, Any] = {"schema": 1, "outcome": "ok", "reason": ""}
    started = time.perf_counter()
    try:
        _run(cell, out_dir, phases, result)
    except Exception as error:
        traceback.print_exc()
        outcome, reason = ending(error, phases.current)
        result.update(outcome=outcome, reason=reason)
    result["phase"] = phases.current
    result["seconds"] = {**phases.seconds, "total": round(time.perf_counter() - started, 4)}
    write_result(out_dir, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""Why a job ended badly, whether the machine or the version is to blame, and what mends it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.environments.supervise import Ended
from harness.environments.uv import DISK_SIGNS
from harness.store.cell import Cell

_LAST_LINES = 5
_TRIES_KEPT = 20
INFRASTRUCTURE = frozenset({"offline", "registry_error", "disk_full", "gpu_lost", "lost"})
"""Values of a cell's `cause` that say something about the machine and nothing about the version: tried again."""
GPU_SIGNS = re.compile(
    r"CUDA-capable device\(s\) is/are busy or unavailable|no CUDA-capable device is detected|CUDA unknown error|"
    r"uncorrectable (?:NVLink|ECC) error|\bXid\b|GPU is lost|fallen off the bus|"
    r"CUDA_ERROR_(?:NO_DEVICE|DEVICE_UNAVAILABLE|ECC_UNCORRECTABLE)|cudaError(?:NoDevice|DevicesUnavailable|ECCUncorrectable)"
)
"""What CUDA and the driver say when a GPU went away, as opposed to a kernel that is wrong."""
_MEMORY_SIGNS = re.compile(
    r"can't allocate memory|std::bad_alloc|Cannot allocate memory|CUDA out of memory|CUDA error: out of memory|"
    r"CUBLAS_STATUS_ALLOC_FAILED|^MemoryError",
    re.MULTILINE,
)
MENDS: dict[str, str] = {
    r"Number of training points \((\d+)\) should be at least as large as number of clusters \((\d+)\)": (
        r"The passages gave k-means \1 embeddings, fewer than the \2 clusters that colbert-ai asks for: use more "
        r"passages, or a larger --limit."
    ),
    r"quantile\(\) input tensor is too large": (
        r"torch takes quantiles of at most 16 million values, and colbert-ai asks for those of 5 % of its sample (at "
        r"most 50,000 embeddings) times dim: use a checkpoint with a smaller dim (at most 328), or fewer passages."
    ),
    r"in phase (?:sample|encode): The expanded size of the tensor \((\d+)\) must match the existing size \((\d+)\)": (
        r"A passage has \1 tokens and the checkpoint takes \2: set jobs.index.doc_maxlen in matrix.yaml to at most \2."
    ),
}
"""A pattern of what faiss, torch or colbert-ai says, to one sentence with the mend; `\\1` is a group of the pattern.

What is certain to fail is refused before the job (`harness.running.checks`); these depend on how many tokens the
passages have.
"""


def tried(cell: Cell | None) -> list[dict[str, Any]]:
    """What a new run of a cell keeps of one that something around the experiment ended: how each try ended."""
    if cell is None or not is_infrastructure(cell):
        return []
    last = {
        "outcome": cell.outcome,
        "cause": cell.details["cause"],
        "reason": cell.reason,
        "finished": cell.finished,
        "log_tail": "\n".join(str(cell.details.get("log_tail", "")).splitlines()[-_LAST_LINES:]),
    }
    earlier = cell.details.get("tried")
    return [*(earlier if isinstance(earlier, list) else []), last][-_TRIES_KEPT:]


def is_infrastructure(cell: Cell) -> bool:
    """Whether a cell ended for a reason around the experiment, which may not be there the next time."""
    return cell.details.get("cause") in INFRASTRUCTURE


def classify(outcome: str, reason: str, tail: str, runs: Path, device_kind: str, ended: Ended) -> tuple[str, str, str]:
    """Outcome, reason and cause, once the log is looked at: what the machine did is not the version's doing."""
    if outcome == "lost":
        return outcome, reason, "lost"
    if outcome in {"ok", "timeout", "out_of_memory"}:
        return outcome, reason, ""
    said = f"{reason}\n{tail}"
    if outcome != "unsupported" and DISK_SIGNS.search(said):
        reason = (
            f"The disk of {runs} was full in phase {ended.phase or 'start'}: free some space, or point --home (or "
            "HARNESS_HOME) to another disk."
        )
        return outcome, reason, "disk_full"
    # torch that sees no GPU calls the device unsupported; its log says when the driver failed instead.
    if device_kind != "cpu" and (sign := GPU_SIGNS.search(said)):
        return "lost", f"The GPU was lost in phase {ended.phase or 'start'} ({sign[0]}): {reason}", "gpu_lost"
    last = "\n".join(tail.splitlines()[-_LAST_LINES:])
    if outcome in {"crashed", "import_failed"} and _MEMORY_SIGNS.search(f"{reason}\n{last}"):
        return "out_of_memory", f"Memory ran out in phase {ended.phase or 'start'}: {reason}", ""
    return outcome, with_mend(reason, last), ""


def with_mend(reason: str, log: str = "") -> str:
    """A job's reason, followed by the mend of what it or the end of its log says, where one is known."""
    for pattern, mend in MENDS.items():
        found = re.search(pattern, reason) or re.search(pattern, log)
        if found:
            return f"{reason.rstrip('.')}. {found.expand(mend)}"
    return reason

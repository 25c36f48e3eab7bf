"""What to do about words of faiss, torch and colbert-ai with which a job can end, for whoever reads the cell's reason.

What is certain to fail is refused before the job (`harness.running.checks`); these depend on how many tokens the
passages have.
"""

from __future__ import annotations

import re

_TOO_FEW = r"Number of training points \((\d+)\) should be at least as large as number of clusters \((\d+)\)"
_TOO_LONG = (
    r"in phase (?:sample|encode): "
    r"The expanded size of the tensor \((\d+)\) must match the existing size \((\d+)\)"
)
MENDS: dict[str, str] = {
    _TOO_FEW: (
        r"The passages gave k-means \1 embeddings, fewer than the \2 clusters that colbert-ai asks for: use more "
        r"passages, or a larger --limit."
    ),
    r"quantile\(\) input tensor is too large": (
        r"torch takes quantiles of at most 16 million values, and colbert-ai asks for those of 5 % of its sample (at "
        r"most 50,000 embeddings) times dim: use a checkpoint with a smaller dim (at most 328), or fewer passages."
    ),
    _TOO_LONG: (
        r"A passage has \1 tokens and the checkpoint takes \2: set jobs.index.doc_maxlen in matrix.yaml to at most \2."
    ),
}
"""A pattern of what a library says, to one sentence with the mend; `\\1` is a group of the pattern."""


def with_mend(reason: str, log: str = "") -> str:
    """A job's reason, followed by the mend of what it or the end of its log says, where one is known."""
    for pattern, mend in MENDS.items():
        found = re.search(pattern, reason) or re.search(pattern, log)
        if found:
            return f"{reason.rstrip('.')}. {found.expand(mend)}"
    return reason

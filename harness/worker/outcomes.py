"""How a job can end other than well."""

from __future__ import annotations


class Ended(Exception):  # noqa: N818 - an ending is not always an error: `unsupported` is a finding
    """The job ended with a known outcome.

    Attributes:
        outcome: one of the design's outcomes, such as `unsupported` or `import_failed`.
        reason: one sentence for a person.
    """

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome, self.reason = outcome, reason


def ending(error: Exception, phase: str) -> tuple[str, str]:
    """The outcome that an exception of a job means, and one sentence."""
    if isinstance(error, Ended):
        return error.outcome, error.reason
    if isinstance(error, MemoryError):
        return "out_of_memory", f"The host ran out of memory in phase {phase}: {error}"
    # torch.cuda.OutOfMemoryError exists under two names between 1.13 and 2.8; its class name is the stable part.
    memory = type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(error)
    first_line = (str(error).strip().splitlines() or [""])[0]
    return (
        "out_of_memory" if memory else "crashed",
        f"{type(error).__name__} in phase {phase}: {first_line}"[:2000],
    )

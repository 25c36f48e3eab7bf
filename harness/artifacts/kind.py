"""What a job kind says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """How one artifact is made: by which step, from which others (`*` is the same chunk, or every chunk)."""

    step: str
    inputs: tuple[str, ...] = ()

"""A stored cell and its artifacts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from harness.artifacts.kind import JobKind
from harness.artifacts.kinds import kind_named
from harness.store.spec import CellSpec, as_object

SCHEMA = 1
LEVELS = ("final", "digests", "full")
"""How much of the inside of a job is kept, from the least to the most; see `Cell.capture`."""
OUTCOMES = (
    "ok",
    "unsupported",
    "resolve_failed",
    "install_failed",
    "import_failed",
    "out_of_memory",
    "timeout",
    "crashed",
    "lost",
    "invalid_output",
)


@dataclass(frozen=True)
class Artifact:
    """What a cell knows of one artifact.

    Attributes:
        digest: blake3 of dtype, shape and bytes.
        dtype: torch's name for it, without `torch.`.
        shape: sizes of the dimensions.
        kind: `final` (in the index), `intermediate` or `value` (not a tensor in colbert-ai: a count, a list).
        stored: whether the tensor itself is in the store, or only its digest.
        nans: how many elements are NaN, which equal nothing, themselves included; None in records that did not count.
    """

    digest: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    stored: bool
    nans: int | None = None


@dataclass(frozen=True)
class Listed:
    """A cell as the list of a store has it: what it is of and how it ended, and nothing of what it made.

    Attributes:
        key: see `CellSpec`; `group` too.
        spec: what decided it.
        outcome: one of `OUTCOMES`.
        capture: `final`, `digests` or `full`.
    """

    key: str
    group: str
    spec: CellSpec
    outcome: str
    capture: str = "final"

    @property
    def version(self) -> str:
        """The PyTorch release, or the name of the user's own environment."""
        return self.spec.version

    @property
    def repeat(self) -> int:
        """0, or the number of the repeat."""
        return self.spec.repeat

    @property
    def label(self) -> str:
        """See `CellSpec.label`."""
        return self.spec.label


@dataclass(frozen=True)
class Cell(Listed):
    """A finished cell, well or badly.

    Attributes:
        reason: why it is not `ok`; one sentence.
        phase: the phase in which it ended.
        artifacts: by name; empty unless the outcome is `ok`.
        seconds: wall seconds per phase.
        details: provenance, peak memory, exit code, the end of the log and what else was observed.
        finished: UTC time, ISO 8601.
    """

    reason: str = ""
    phase: str = ""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    finished: str = ""
    schema: int = SCHEMA

    @classmethod
    def of(cls, spec: CellSpec, outcome: str, reason: str = "", **more: Any) -> Cell:  # noqa: ANN401 - fields of it
        """The cell of a specification, and how it ended; `more` are other fields."""
        return cls(spec.key, spec.group, spec, outcome, reason=reason, **more)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self, dict_factory=as_object)

    @property
    def job_kind(self) -> JobKind:
        """What is declared of the kind of job that made it."""
        return kind_named(self.spec.job)

    @property
    def not_captured(self) -> dict[str, str]:
        """Why artifacts that the job made could not be recorded; its details have the facts (`provenance.cpu`) too."""
        found: dict[str, str] = self.details.get("not_captured", {})
        return {name: reason for name, reason in found.items() if self.job_kind.role(name)}

    def unrecorded(self, name: str) -> str:
        """Why nothing is known of an artifact that the job makes; empty where it is known, or was never made."""
        if name in self.artifacts:
            return ""
        kind = self.job_kind
        not_kept = self.capture == LEVELS[0] and kind.is_captured(name) and name != "doclens"
        words = (
            f"only the {kind.product} was kept; {kind.name} with `--capture digests` or more for this artifact"
            if not_kept
            else ""
        )
        return self.not_captured.get(name, words)

    @property
    def failed(self) -> bool:
        """Whether it ended badly; `unsupported` is a finding."""
        return self.outcome not in {"ok", "unsupported"}


def nans(found: object) -> int | None:
    """A record's count of NaNs, where it has one."""
    return found if type(found) is int and found >= 0 else None

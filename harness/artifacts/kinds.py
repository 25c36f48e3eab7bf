"""The kinds of job that there are, and of which kind what is at hand is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.artifacts.index_job import INDEX
from harness.artifacts.search_job import SEARCH
from harness.artifacts.train_job import TRAIN

if TYPE_CHECKING:
    from harness.artifacts.kind import JobKind
    from harness.artifacts.source import ArtifactSource

KINDS: Mapping[str, JobKind] = {kind.name: kind for kind in (INDEX, SEARCH, TRAIN)}


def kind_named(job: object) -> JobKind:
    """The kind that a cell's specification names; what no kind of job made is ordered as an index is."""
    return KINDS.get(str(job), INDEX)


def kind_of(source: Any) -> JobKind:  # noqa: ANN401 - an `ArtifactSource`, of which a stored cell is one of several
    """The kind of job that made a source's artifacts: that of its cell; a directory is an index."""
    return getattr(getattr(source, "cell", None), "job_kind", INDEX)


def other_formula(a: ArtifactSource, b: ArtifactSource, name: str) -> str:
    """Why an artifact of two sources says nothing of whether they differ; empty where it does.

    Digests that were taken by two formulas differ of equal numbers. Each formula is a revision of the kind of job; what
    is no stored cell has no digests.
    """
    made = kind_of(a).known(name)
    if made is None or not made.digests:
        return ""
    old, new = (getattr(getattr(getattr(one, "cell", None), "spec", None), "revision", None) for one in (a, b))
    if old == new:
        return ""
    return f"its digests were taken by another formula in A than in B (revisions {old} and {new})"

"""The kinds of job that there are, and of which kind what is at hand is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.artifacts.index_job import INDEX
from harness.artifacts.search_job import SEARCH
from harness.artifacts.train_job import TRAIN

if TYPE_CHECKING:
    from harness.artifacts.kind import JobKind

KINDS: Mapping[str, JobKind] = {kind.name: kind for kind in (INDEX, SEARCH, TRAIN)}


def kind_named(job: object) -> JobKind:
    """The kind that a cell's specification names; what no kind of job made is ordered as an index is."""
    return KINDS.get(str(job), INDEX)


def kind_of(source: Any) -> JobKind:  # noqa: ANN401 - an `ArtifactSource`, of which a stored cell is one of several
    """The kind of job that made a source's artifacts: that of its cell; a directory is an index."""
    return getattr(getattr(source, "cell", None), "job_kind", INDEX)

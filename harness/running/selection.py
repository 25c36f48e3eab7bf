"""The options of a command, as the user gave them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from harness.errors import UsageError
from harness.inputs.jobs import JobSettings
from harness.inputs.matrix import Matrix


@dataclass(frozen=True)
class Selection:
    """Options of `plan`, `index`, `search`, `train`, `sweep` and `consecutive`, as the user gave them.

    `identity` is that of another machine's device, where the cells will run there: on a cluster, of the nodes. `job` is
    the kind of cells that is meant. A search is over the index of its own version, of the version `on`, or of the
    folder `index`. Where no version is named, those on `axis` are meant: torch's, or those of a package. An option
    that a kind of job has a setting of the same name for is given in place of that.
    """

    matrix_path: Path | None = None
    home: Path | None = None
    collection: str | None = None
    checkpoint: str | None = None
    limit: int | None = None
    device: str = "auto"
    capture: str | None = None
    threads: int | None = None
    sites: Path | None = None
    site_python: Path | None = None
    scale_to: int | None = None
    identity: str | None = None
    job: str = "index"
    queries: str | None = None
    qrels: str | None = None
    limit_queries: int | None = None
    on: str | None = None
    index: Path | None = None
    k: int | None = None
    triples: str | None = None
    maxsteps: int | None = None
    bsize: int | None = None
    accumsteps: int | None = None
    nway: int | None = None
    lr: float | None = None
    warmup: int | None = None
    nranks: int | None = None
    axis: str | None = None

    @property
    def searched(self) -> str | None:
        """What the one index is called that all searches are in; None where each is in its own."""
        return self.on or (self.index.resolve().name if self.index else None)

    def over_one_index(self, version: str) -> Selection:
        """The same for two cells that are to differ in nothing but their versions: both search the index of this one.

        Unless the user named an index; what searches none is not changed by it.
        """
        return self if self.on or self.index else replace(self, on=version)


def job_of(matrix: Matrix, selection: Selection) -> JobSettings:
    """The settings of the job that is meant, with what the user asked for instead.

    Raises:
        UsageError: a setting cannot be what the user asked for.
    """
    own = matrix.jobs.named(selection.job)
    asked = {name: value for name, value in vars(selection).items() if name in type(own).model_fields}
    try:
        return own.model_validate(own.model_dump() | {name: one for name, one in asked.items() if one is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg'].lower()}."
        ) from error

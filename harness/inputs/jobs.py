"""The settings of each kind of job, as `jobs` of `matrix.yaml` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of `matrix.yaml`: a key that is not known is a mistake, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


MOST_RANKS = 8
"""As many GPUs as one machine usually has: colbert-ai starts all ranks of a job on one."""
CaptureLevel = Literal["final", "digests", "full"]


class _Deadlines(Part):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    install: float = Field(default=3600, gt=0, allow_inf_nan=False, description="To build an environment.")
    import_: float = Field(
        default=600, gt=0, allow_inf_nan=False, alias="import", description="To start and import torch and colbert-ai."
    )


class Deadlines(_Deadlines):
    """Wall seconds after which a phase is ended; the cell's outcome is `timeout` then."""

    index: float = Field(default=7200, gt=0, allow_inf_nan=False, description="For the rest of the job.")


class SearchDeadlines(_Deadlines):
    """Wall seconds after which a phase is ended; the cell's outcome is `timeout` then."""

    search: float = Field(default=7200, gt=0, allow_inf_nan=False, description="For the rest of the job.")


class TrainDeadlines(_Deadlines):
    """Wall seconds after which a phase is ended; the cell's outcome is `timeout` then."""

    train: float = Field(default=7200, gt=0, allow_inf_nan=False, description="For the rest of the job.")


class Retry(Part):
    """How often, and after which waits, a try is made again that the machine spoilt; a job that crashes is not."""

    tries: int = Field(default=3, ge=1, le=20, description="In all; 1 never tries again.")
    first_wait_seconds: float = Field(default=5, ge=0, le=3600, description="Each further wait is twice as long.")
    longest_wait_seconds: float = Field(default=120, ge=0, le=86400, description="No wait is longer.")


class JobSettings(Part):
    """What every job's settings have; those that colbert-ai knows have colbert-ai's names."""

    NAME: ClassVar[str]
    """What a cell's specification calls the job."""
    DECISIVE: ClassVar[frozenset[str]] = frozenset({"native_extensions", "threads"})
    """Those that may change what the job makes, and are part of its cells' keys."""
    GIVEN: ClassVar[frozenset[str]] = frozenset()
    """Those that its inputs decide, where they are not set here."""
    UNSAID: ClassVar[Mapping[str, Any]] = {}
    """Decisive ones with the value at which no key has them: that of all cells from before there was the setting."""

    native_extensions: bool = Field(default=False, description="Whether colbert-ai's own kernels are built.")
    capture: CaptureLevel = Field(default="full", description="How much of the inside of the pipeline is kept.")
    threads: int = Field(default=2, ge=1, le=1024, description="CPU threads, which decide the order of summation.")
    environment: dict[str, str] = Field(default={}, description="Variables added to the job's environment.")
    retry: Retry = Retry()

    @property
    def deadlines(self) -> _Deadlines:
        """How long each phase may take."""
        found: _Deadlines = self.deadline_seconds  # type: ignore[attr-defined]  # each job has its own
        return found

    @property
    def deadline(self) -> float:
        """Wall seconds for the job, after its imports."""
        return float(getattr(self.deadlines, self.NAME))

    @property
    def ranks(self) -> int:
        """How many processes the job is spread over, each on a GPU of its own."""
        return 1

    def decisive(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a cell; `given` are those that its inputs decide (`GIVEN`, and the checkpoint's `dim`)."""
        held = self.model_dump(include=set(self.DECISIVE), exclude_none=True)
        return {**given, **{name: value for name, value in held.items() if value != self.UNSAID.get(name)}}


class _OnRanks(JobSettings):
    """What the settings of a job have beside that colbert-ai spreads over several GPUs of one machine."""

    DECISIVE: ClassVar[frozenset[str]] = JobSettings.DECISIVE | {"nranks"}
    UNSAID: ClassVar[Mapping[str, Any]] = {"nranks": 1}

    nranks: int = Field(default=1, ge=1, le=MOST_RANKS, description="Processes, each on a GPU of its own.")

    @property
    def ranks(self) -> int:
        """See `JobSettings.ranks`."""
        return self.nranks


class IndexJob(_OnRanks):
    """Settings of the index job."""

    NAME: ClassVar[str] = "index"
    DECISIVE: ClassVar[frozenset[str]] = _OnRanks.DECISIVE | {"nbits", "index_bsize", "doc_maxlen", "kmeans_niters"}

    nbits: Literal[1, 2, 4, 8] = Field(default=2, description="Bits of each dimension of a residual.")
    index_bsize: int = Field(default=32, ge=1, description="Passages that are encoded at once.")
    doc_maxlen: int = Field(default=300, ge=8, description="Tokens of a passage, at most.")
    kmeans_niters: int = Field(default=4, ge=1, description="Iterations of k-means.")
    deadline_seconds: Deadlines = Deadlines()


class SearchJob(JobSettings):
    """Settings of the search job; what is absent is what colbert-ai's `Searcher.dense_search` takes for `k`."""

    NAME: ClassVar[str] = "search"
    DECISIVE: ClassVar[frozenset[str]] = JobSettings.DECISIVE | {
        "k", "ncells", "centroid_score_threshold", "ndocs", "query_maxlen",
    }  # fmt: skip

    GIVEN: ClassVar[frozenset[str]] = frozenset({"nbits", "query_maxlen"})

    k: int = Field(default=100, ge=1, description="Passages that each search returns.")
    ncells: int | None = Field(default=None, ge=1, description="Cells looked up for each token of a query.")
    centroid_score_threshold: float | None = Field(
        default=None, ge=-1, le=1, description="Tokens of passages whose centroid scores less are left out at first."
    )
    ndocs: int | None = Field(default=None, ge=4, description="Passages after the first stage; a quarter is scored.")
    query_maxlen: int | None = Field(default=None, ge=4, description="The checkpoint's own when absent.")
    deadline_seconds: SearchDeadlines = SearchDeadlines()

    def decisive(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """See `JobSettings.decisive`."""
        k = self.k
        ncells, threshold, ndocs = (
            (1, 0.5, 256) if k <= 10 else (2, 0.45, 1024) if k <= 100 else (4, 0.4, max(4 * k, 4096))
        )
        return super().decisive({"ncells": ncells, "centroid_score_threshold": threshold, "ndocs": ndocs, **given})


class TrainJob(_OnRanks):
    """Settings of the training job; what colbert-ai has a default for is that here, save for what makes it long."""

    NAME: ClassVar[str] = "train"
    DECISIVE: ClassVar[frozenset[str]] = _OnRanks.DECISIVE | {
        "maxsteps", "bsize", "accumsteps", "nway", "lr", "warmup", "use_ib_negatives", "ignore_scores",
        "distillation_alpha", "query_maxlen", "doc_maxlen", "similarity", "amp",
    }  # fmt: skip
    GIVEN: ClassVar[frozenset[str]] = frozenset({"query_maxlen", "doc_maxlen", "similarity"})

    maxsteps: int = Field(default=50, ge=1, description="Steps of the optimizer; colbert-ai's own is 500,000.")
    bsize: int = Field(default=4, ge=1, description="Triples of a step; colbert-ai's own is 32.")
    accumsteps: int = Field(default=1, ge=1, description="Into how many parts a step's triples are cut.")
    nway: int = Field(default=2, ge=2, description="Passages of a triple, of which the first is the relevant one.")
    lr: float = Field(default=3e-6, gt=0, allow_inf_nan=False, description="The full learning rate.")
    warmup: int | None = Field(
        default=None, ge=0, description="Steps to the full learning rate, which then falls to 0; constant when absent."
    )
    use_ib_negatives: bool = Field(default=False, description="Passages of a step's other triples are negatives, too.")
    ignore_scores: bool = Field(default=False, description="Train without the scores of triples that have some.")
    distillation_alpha: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="What scores of triples are multiplied by."
    )
    query_maxlen: int | None = Field(default=None, ge=4, description="The checkpoint's own when absent.")
    doc_maxlen: int | None = Field(default=None, ge=8, description="The checkpoint's own when absent.")
    similarity: Literal["cosine", "l2"] | None = Field(default=None, description="The checkpoint's own when absent.")
    amp: bool | None = Field(default=None, description="Mixed precision; as colbert-ai has it when absent.")
    full_steps: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description="Steps, from 0, of which capture full keeps the numbers of all parameters, not only digests.",
    )
    deadline_seconds: TrainDeadlines = TrainDeadlines()

    def decisive(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """See `JobSettings.decisive`; what is left to colbert-ai is None."""
        return super().decisive({"warmup": None, "amp": None, **given})


class Jobs(Part):
    """Settings per job."""

    index: IndexJob = IndexJob()
    search: SearchJob = SearchJob()
    train: TrainJob = TrainJob()

    def named(self, job: str) -> JobSettings:
        """The settings of a job, by its name."""
        found: JobSettings = getattr(self, job)
        return found

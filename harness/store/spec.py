"""What decides a cell, and the key that is the digest of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from blake3 import blake3


@dataclass(frozen=True)
class _Record:
    """A JSON object with fields of its own, and those that a newer harness may have written beside them."""

    unknown: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a JSON object that was looked at before (`harness.store.records`).

        Raises:
            TypeError: a field without a default is missing.
        """
        names = cls.__dataclass_fields__
        if record.keys() <= names.keys() and "unknown" not in record:
            return cls(**record)
        known = {name: value for name, value in record.items() if name in names and name != "unknown"}
        return cls(**known, unknown={name: value for name, value in record.items() if name not in known})

    def to_json(self) -> dict[str, Any]:
        """As the JSON object that it was read from."""
        return asdict(self, dict_factory=as_object)


def as_object(fields_of_one: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The `dict_factory` of `asdict` for whatever holds a record: unknown fields stand where they stood.

    What a kind of job does not have (None) is not written, so that a kind that is added changes no other's records.
    """
    found = dict(fields_of_one)
    unknown = found.pop("unknown", {})
    return {**unknown, **{name: value for name, value in found.items() if value is not None}}


@dataclass(frozen=True)
class Collection(_Record):
    """The passages of a cell: what they are called, their digest and how many they are."""

    name: str
    digest: str
    passages: int


@dataclass(frozen=True)
class Checkpoint(_Record):
    """The checkpoint of a cell: what it is called, its digest and the size of its embeddings."""

    name: str
    digest: str
    dim: int


@dataclass(frozen=True)
class Queries(_Record):
    """What a cell searches for: what the queries are called, their digest and how many they are."""

    name: str
    digest: str
    queries: int


@dataclass(frozen=True)
class Triples(_Record):
    """What a cell trains from: what the triples are called, the digest of those that it reads and how many they are."""

    name: str
    digest: str
    triples: int


@dataclass(frozen=True)
class Index(_Record):
    """The index that a cell searches: the version whose index it is, or a folder's name, and the index's digest."""

    name: str
    digest: str


_GIVEN: dict[str, type[_Record]] = {
    "collection": Collection, "checkpoint": Checkpoint, "queries": Queries, "index": Index, "triples": Triples,
}  # fmt: skip
"""Fields of a specification that say what a job is given. Of these the digest counts, and no name."""


@dataclass(frozen=True)
class CellSpec(_Record):
    """Everything that may decide what a job makes. Two cells with equal specifications have equal keys.

    Attributes:
        job: the kind of job, or `probe`.
        version: PyTorch release, or what the user calls an environment of their own.
        lock: digest of the environment's lock; of one of the user's own, of all that is installed in it.
        collection: what is indexed; of a probe, what it computes.
        checkpoint: the model.
        settings: the job's settings without those that cannot change the result (capture level, deadline).
        device: the device's identity.
        environment: variables that the job's process is started with, apart from paths of one run.
        swap: artifact name to the digest of the tensor that is put in its place.
        repeat: 0 for the cell, 1, 2, … for its repeats (A against A).
        queries: what is searched for, by a job that searches; what triples are of, by one that trains.
        index: what is searched, by a job that searches.
        triples: what is trained from, by a job that trains.
        oddities: variables in `environment` that only this version has, because of an oddity in the matrix, with what
            they are without it (None: absent). Counted in the key through `environment`, and not in the group.
        revision: of its kind of job, see `harness.artifacts.kind.JobKind`.
        own: of an environment of the user's own, its kind and its torch. Not counted: `lock` says more.
        unknown: fields of a newer harness, which count, too.
    """

    job: str
    version: str
    lock: str
    collection: Collection
    checkpoint: Checkpoint
    settings: dict[str, Any]
    device: str
    environment: dict[str, str]
    swap: dict[str, str] = field(default_factory=dict)
    repeat: int = 0
    revision: int = 1
    queries: Queries | None = None
    index: Index | None = None
    triples: Triples | None = None
    oddities: dict[str, str | None] = field(default_factory=dict)
    own: dict[str, str] | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a specification; see `_Record.of`."""
        return super().of(
            {**record, **{name: kind.of(record[name]) for name, kind in _GIVEN.items() if name in record}}
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What its kind of job is given beside what every job is."""
        return {name: getattr(self, name) for name in _GIVEN.keys() - {"collection", "checkpoint"}}

    @property
    def key(self) -> str:
        """32 hex digits: blake3 of the canonical JSON. Of what a cell is given the digests count, and no names."""
        return digest_of(self._counted())

    @property
    def group(self) -> str:
        """Like the key, without the version, its lock, its oddities and its index, swaps and the repeat.

        These are what may differ between cells that can be compared.
        """
        counted = self._counted()
        plain = {**self.environment, **self.oddities}
        counted["environment"] = {name: value for name, value in plain.items() if value is not None}
        for name in ("version", "lock", "index", "swap", "repeat"):
            counted.pop(name, None)
        return digest_of(counted)

    @property
    def label(self) -> str:
        """The version, with what is swapped, the repeat, another version's index and the probe: `2.5.0#1 on 2.4.1`."""
        swap = f"+{','.join(sorted(self.swap))}" if self.swap else ""
        repeat = f"#{self.repeat}" if self.repeat else ""
        index = f" on {self.index.name}" if self.index and self.index.name != self.version else ""
        probe = f" {self.probe}" if self.job == "probe" else ""
        return f"{self.version}{swap}{repeat}{index}{probe}"

    @property
    def probe(self) -> str:
        """The name of the probe; empty for any other job."""
        return str(self.settings.get("probe", ""))

    @property
    def ranks(self) -> int:
        """How many processes the job is spread over, each on a GPU of its own."""
        return int(self.settings.get("nranks", 1))

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.split(" ", 1)[0]

    def _counted(self) -> dict[str, Any]:
        counted = self.to_json()
        for name in _GIVEN:
            if name in counted:
                counted[name] = getattr(self, name).digest
        del counted["oddities"]
        counted.pop("own", None)
        return counted

    def again(self, repeat: int) -> CellSpec:
        """The same cell as its `repeat`-th repetition."""
        return replace(self, repeat=repeat)


def digest_of(value: object) -> str:
    """32 hex digits: blake3 of a value's canonical JSON."""
    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest(length=16)

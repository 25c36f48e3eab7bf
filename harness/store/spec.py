"""What decides a cell, and the key that is the digest of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from blake3 import blake3

from harness.store.cell import label_of

JOB_REVISION = 1
"""Part of every key: raised when the worker changes in a way that can change what a job makes."""


@dataclass(frozen=True)
class CellSpec:
    """Everything that may decide what a job makes. Two cells with equal specifications have equal keys.

    Attributes:
        job: `index`.
        version: PyTorch release.
        lock: digest of the environment's lock.
        collection: name, digest and number of passages.
        checkpoint: name, digest and dim.
        settings: the job's settings without those that cannot change the result (capture level, deadline).
        device: the device's identity.
        environment: variables that the job's process is started with, apart from paths of one run.
        swap: artifact name to the digest of the tensor that is put in its place.
        repeat: 0 for the cell, 1, 2, … for its repeats (A against A).
        oddities: variables in `environment` that only this version has, because of an oddity in the matrix, with what
            they are without it (None: absent). Counted in the key through `environment`, and not in the group.
    """

    job: str
    version: str
    lock: str
    collection: dict[str, Any]
    checkpoint: dict[str, Any]
    settings: dict[str, Any]
    device: str
    environment: dict[str, str]
    swap: dict[str, str] = field(default_factory=dict)
    repeat: int = 0
    revision: int = JOB_REVISION
    oddities: dict[str, str | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @property
    def key(self) -> str:
        """32 hex digits: blake3 of the canonical JSON. The collection's and the checkpoint's names do not count."""
        return digest_of(self._counted())

    @property
    def group(self) -> str:
        """Like the key, without the version, its lock and its oddities, swaps and the repeat: what can be compared."""
        counted = self._counted()
        plain = {**self.environment, **self.oddities}
        counted["environment"] = {name: value for name, value in plain.items() if value is not None}
        for name in ("version", "lock", "swap", "repeat"):
            del counted[name]
        return digest_of(counted)

    @property
    def label(self) -> str:
        """What boards and lists call the cell; see `label_of`."""
        return label_of(self.to_json())

    def _counted(self) -> dict[str, Any]:
        counted = self.to_json()
        counted["collection"] = self.collection["digest"]
        counted["checkpoint"] = self.checkpoint["digest"]
        del counted["oddities"]
        return counted

    def again(self, repeat: int) -> CellSpec:
        """The same cell as its `repeat`-th repetition."""
        return replace(self, repeat=repeat)


def digest_of(value: object) -> str:
    """32 hex digits: blake3 of a value's canonical JSON."""
    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest(length=16)

"""A stored cell as a source of artifacts, found by the start of its key or by its version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UnreadableTensor
from harness.files import read_json, too_deep
from harness.store.cell import Cell
from harness.store.store import Store
from harness.tensors.tensor import Tensor

_SMALL, _KEPT = 1 << 16, 256  # bytes of a tensor that is kept in memory, and how many of these


@dataclass(frozen=True)
class StoredCell:
    """A cell as a source of artifacts for the comparer."""

    store: Store
    cell: Cell
    title: str = ""

    @property
    def name(self) -> str:
        """The cell's label, or its title where a label does not tell it from others that are shown with it."""
        return self.title or self.cell.label

    def names(self) -> tuple[str, ...]:
        """Names of its artifacts, in the order of the pipeline."""
        return tuple(self.cell.artifacts)

    def unrecorded(self, name: str) -> str:
        """See `Cell.unrecorded`."""
        return self.cell.unrecorded(name)

    def load(self, name: str) -> Tensor:
        """Map a tensor; see `Store.load`.

        Its bytes are read once against its digest: numbers of a tensor that was damaged since would be taken for what a
        PyTorch release did.

        Raises:
            UnreadableTensor: also where they are not those that were stored.
        """
        artifact, small = self.cell.artifacts[name], self.store.small
        if (known := small.get(artifact.digest)) is not None and artifact.stored:
            return known
        tensor = self.store.load(artifact)
        if artifact.digest not in self.store.verified:
            if tensor.digest() != artifact.digest:
                raise UnreadableTensor(
                    f"{self.store.object_path(artifact.digest)} is damaged: its bytes are not those that were stored; "
                    "`harness store gc --damaged` removes it, and the next sweep makes it again."
                )
            self.store.verified.add(artifact.digest)
        if tensor.nbytes <= _SMALL:
            if len(small) >= _KEPT:
                small.clear()
            small[artifact.digest] = tensor = replace(tensor, data=tensor.data.copy())
        return tensor

    def digest(self, name: str) -> str | None:
        """The digest that was taken when the cell was stored."""
        return self.cell.artifacts[name].digest

    @property
    def folder(self) -> Path:
        """Where an index's JSON files are."""
        return self.store.cell_folder(self.cell.key) / "index"

    def metadata(self) -> dict[str, Any]:
        """The index's own `metadata.json`; empty if it cannot be read."""
        try:
            found = read_json(self.folder / "metadata.json")
        except UnreadableTensor:
            return {}
        return found if isinstance(found, dict) and not too_deep(found) else {}

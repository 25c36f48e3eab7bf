"""A store with cells that nobody ran, beside a matrix whose locks may be changed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from harness.environments.lockfile import lock_path, read_lock
from harness.running.choice import Choice, Chooser
from harness.running.selection import Selection
from harness.store.cell import Artifact, Cell
from harness.store.spec import CellSpec
from harness.store.store import Store
from tests.support.cell_specs import ROOT, cell, planned

FINAL = ("centroids", "avg_residual", "bucket_cutoffs", "bucket_weights", "ivf", "ivf_lengths")


def artifacts(**changes: str) -> dict[str, Artifact]:
    """Digests of an index, some of which are others."""
    digests = {name: f"{name}-same" for name in FINAL} | changes
    return {
        name: Artifact(digest.encode().hex().ljust(64, "0")[:64], "float32", (1,), "final", stored=False, nans=0)
        for name, digest in digests.items()
    }


class Place:
    """A matrix with locks of its own, and a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(ROOT / "matrix.yaml", root)
        shutil.copytree(ROOT / "locks", root / "locks")
        self.store = Store(root / ".harness" / "store")

    @property
    def options(self) -> list[str]:
        return ["--matrix", str(self.root / "matrix.yaml"), "--home", str(self.root / ".harness")]

    def put(self, of: CellSpec, outcome: str = "ok", **changes: str) -> Cell:
        made = artifacts(**changes) if outcome == "ok" else {}
        return self.store.put(cell(of, outcome=outcome, reason="" if outcome == "ok" else "It broke.", artifacts=made))

    def chooser(self, group: str | None = None, **options: Any) -> Chooser:
        return Chooser(Selection(self.root / "matrix.yaml", self.root / ".harness", **options), group)

    def choose(self, group: str | None = None, **options: Any) -> Choice:
        return self.chooser(group, **options).choose()

    def lock_again(self, version: str) -> None:
        """Change a version's lock, as another transformers would."""
        path = lock_path(self.root / "locks", version, "cpu")
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"transformers==[\d.]+", "transformers==4.38.1", text), encoding="utf-8")

    def planned(self, version: str, repeat: int = 0, **changes: Any) -> CellSpec:
        """What would be planned with the locks as they are now."""
        return planned(version, repeat, lock=read_lock(lock_path(self.root / "locks", version, "cpu")), **changes)

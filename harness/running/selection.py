"""What the user chose on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Selection:
    """Options of `plan`, `index`, `sweep` and `consecutive`, as the user gave them.

    `identity` is that of another machine's device, where the cells will run there: on a cluster, of the nodes.
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

"""From the store to tables, the headline and one plain sentence: what `consecutive`, `sweep` and `quickstart` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.inputs.matrix import Matrix, profiles_of
from harness.report.headline import ComparedCells, Headline, headline, noise_of, pairs_of
from harness.report.tables import write_tables
from harness.running.choice import Choice, describe


@dataclass(frozen=True)
class Reduced:
    """What a reduction gave.

    Attributes:
        about: one line that says of what collection, checkpoint and device the table is.
        pairs: all comparisons.
        rows: the headline table.
        repeats: headline rows of A against A.
        files: tables written.
        note: one line that says what is stored besides and was not used; empty where there is nothing.
    """

    about: str
    pairs: list[ComparedCells]
    rows: list[Headline]
    repeats: list[Headline]
    files: list[Path]
    note: str = ""

    @property
    def diverged(self) -> bool:
        """Whether any pair differs beyond what A against A shows."""
        return any(row.changed and len(row.noisy or ()) < row.total - row.bit_equal for row in self.rows)


def reduce_cells(matrix: Matrix, choice: Choice, versions: Sequence[str], output: Path) -> Reduced:
    """Compare the chosen cells over `versions`, and write the tables below `output`."""
    cells = [cell for cell in choice.cells if cell.version in versions]
    pairs = pairs_of(choice.store, cells, versions, profiles_of(matrix))
    noise = noise_of(pairs)
    spec = cells[0].spec
    collection = spec["collection"]
    files = write_tables(
        output,
        cells,
        pairs,
        choice.locks,
        {
            "device": spec["device"],
            "collection": f"{collection['name']} {collection['passages']} {collection['digest']}",
            "checkpoint": f"{spec['checkpoint']['name']} {spec['checkpoint']['digest']}",
            "group": cells[0].group,
        },
    )
    rows = [(pair.kind, headline(pair, noise)) for pair in pairs]
    return Reduced(
        describe(cells),
        pairs,
        [row for kind, row in rows if kind == "consecutive"],
        [row for kind, row in rows if kind == "repeat"],
        files,
        choice.note,
    )


def results_name(spec: dict[str, Any]) -> str:
    """Name of the tables' folder: device, collection and number of passages."""
    from harness.environments.device import Device

    kind = spec["device"].split(" ", 1)[0]
    collection = "".join(c if c.isalnum() else "-" for c in Path(spec["collection"]["name"]).stem).strip("-")
    return f"{Device(kind, spec['device']).slug}--{collection}-{spec['collection']['passages']}"

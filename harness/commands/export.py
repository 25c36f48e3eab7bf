"""`harness export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import Writable, cell_options, group_option
from harness.errors import UsageError


@click.command(name="export")
@click.argument("version")
@click.argument("folder", type=Writable())
@cell_options
@group_option
def command(version: str, folder: Path, group: str | None, **options: Any) -> None:
    """Write the stored index of VERSION to FOLDER as colbert-ai's `Searcher` loads it.

    VERSION is a version, a label, or the start of a cell's key, and means the cell that `harness plan` names for the
    same options. Each tensor is read against its digest, so what is written is what was measured, bit for bit.
    """
    import json

    from harness.artifacts.exported import export_index
    from harness.running.named import named_sources
    from harness.store.stored import StoredCell
    from harness.words import size

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: name a folder that does not exist yet, or an empty one.")
    (source,), note = named_sources((version,), group, options)
    if note:
        click.echo(note, err=True)
    if not isinstance(source, StoredCell):
        raise UsageError(f"{version} is a folder of an index already; name a version that is stored.")
    if source.cell.spec.job != "index":
        raise UsageError(
            f"{source.name} is the cell of a {source.cell.spec.job} job, and holds no index: name an index."
        )
    files = export_index(source, folder)
    bytes_written = sum((folder / name).stat().st_size for name in files)
    click.echo(f"Wrote the index of {source.name} to {folder} ({len(files)} files, {size(bytes_written)}). To load it:")
    index, root = json.dumps(folder.resolve().name), json.dumps(str(folder.resolve().parent))
    checkpoint = json.dumps(
        str(source.metadata().get("config", {}).get("checkpoint", source.cell.spec.checkpoint.name))
    )
    click.echo(f"  Searcher(index={index}, index_root={root}, checkpoint={checkpoint})")

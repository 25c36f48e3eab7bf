"""Which packages differ between the environments of two cells, by what each cell's record says was installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.environments.changes import Change, changes
from harness.environments.lockfile import Lock
from harness.store.cell import Cell


def package_changes(a: Cell, b: Cell) -> tuple[Change, ...]:
    """The packages that differ between two cells; none where one of them does not know its own.

    A package of the same version differs, too, where both know its files and these are not the same.
    """
    one, other = _lock_of(a), _lock_of(b)
    return () if one is None or other is None else changes(one, other)


def _lock_of(cell: Cell) -> Lock | None:
    """What a record says, as a lock; a record may have come from elsewhere."""
    provenance = cell.details.get("provenance")
    found = cell.details.get("installed") or provenance
    if not isinstance(found, dict):
        return None
    packages, digests = _texts(found.get("packages")), _texts(found.get("digests"))
    if not packages:
        return None
    parents: dict[str, frozenset[str]] = {name: frozenset() for name in packages}
    python = provenance.get("python") if isinstance(provenance, dict) else None
    return Lock(Path(), packages, parents, "", digests=digests, interpreter=_interpreter(python))


def _interpreter(version: object) -> str:
    """As `Lock` has it, of a `sys.version`."""
    told = version if isinstance(version, str) else ""
    return f"{'PyPy' if 'PyPy' in told else 'CPython'} {told.split()[0]}" if told.split() else ""


def _texts(found: object) -> dict[str, str]:
    if not isinstance(found, Mapping):
        return {}
    return {name: text for name, text in found.items() if isinstance(name, str) and isinstance(text, str)}

"""An interpreter under test, and the packages in its site folder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from harness.environments.packages import normal_name

_METADATA = ".dist-info"


def packages_in(site: Path) -> dict[str, Path]:
    """Package to its metadata folder, for every package of a site folder."""
    found = {}
    for metadata in sorted(site.glob(f"*{_METADATA}")):
        name, _, _version = metadata.name.removesuffix(_METADATA).rpartition("-")
        found[normal_name(name)] = metadata
    return found


def files_of(site: Path, metadata: Path) -> list[Path]:
    """The files of a package that are there, relative to the site folder; compiled ones are left out."""
    try:
        with (metadata / "RECORD").open(encoding="utf-8", newline="") as file:
            listed = [Path(row[0]) for row in csv.reader(file) if row]
    except OSError:
        listed = [path.relative_to(site) for path in metadata.rglob("*")]
    return [
        path
        for path in listed
        if not path.is_absolute()
        and ".." not in path.parts
        and "__pycache__" not in path.parts
        and (site / path).is_file()
    ]


def site_of(interpreter: Interpreter) -> Path:
    """The site folder of an environment, brought or built."""
    if interpreter.site is not None:
        return interpreter.site
    return next((interpreter.python.parent.parent / "lib").glob("python3*/site-packages"))


@dataclass(frozen=True)
class Interpreter:
    """What runs the worker.

    Attributes:
        python: an interpreter.
        site: a site folder that it needs on its path beside its own, for environments that were brought as files.
    """

    python: Path
    site: Path | None = None

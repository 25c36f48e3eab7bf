"""The record of a sweep on a cluster: what was asked for, and how it is written and read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.home import Home
from harness.running.experiment import Selection
from harness.words import said

ANSWER = "device.json"
REACH = "reach.lock"
"""Held by whoever asks what a node is, to see whether locks reach from one machine to another."""

SCHEMA = 1


@dataclass(frozen=True)
class Options:
    """How jobs are submitted.

    Attributes:
        partition: of Slurm; its default one when absent.
        extra: further options of sbatch, by name.
        retries: how often a job that was lost is submitted again.
        at_once: how many jobs of an array may run at once.
    """

    partition: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    retries: int = 2
    at_once: int = 256


@dataclass(frozen=True)
class Sweep:
    """What a user asked for.

    Attributes:
        id: names it.
        created: UTC, ISO 8601.
        selection: with absolute paths and the device's identity.
        versions: in order.
        repeats: version to the number of extra runs.
        options: how jobs are submitted.
        evict: delete environments that no cell needs any more.
        output: folder of the tables; absent for the default.
    """

    id: str
    created: str
    selection: Selection
    versions: list[str]
    repeats: dict[str, int]
    options: Options
    evict: bool = False
    output: Path | None = None


def root_of(home: Home) -> Path:
    """The folder of all this."""
    return home.root / "slurm"


# ---- records


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record beside and rename it into place, synced: whoever reads sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    put_record(temporary, value)
    temporary.replace(path)


def put_record(path: Path, value: dict[str, Any]) -> None:
    """Write a record, with its schema's number, so that it is on disk afterwards."""
    with path.open("w", encoding="utf-8") as file:
        json.dump({"schema": SCHEMA, **value}, file)
        file.flush()
        os.fsync(file.fileno())


def read_record(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({said(error)}): delete it, and start the sweep again.") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"{path}: not written by this version of the harness: delete it, and start the sweep again.")
    return found


def selection_to_json(selection: Selection) -> dict[str, Any]:
    """A selection as a JSON object."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(selection).items()}


def selection_from_json(value: dict[str, Any]) -> Selection:
    """The selection of `selection_to_json`."""
    paths = {f.name for f in fields(Selection) if "Path" in str(f.type)}
    values: dict[str, Any] = {k: Path(v) if k in paths and v is not None else v for k, v in value.items()}
    return Selection(**values)

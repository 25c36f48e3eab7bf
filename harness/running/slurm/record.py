"""The record of a sweep on a cluster: what was asked for, and how it is written and read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, with_config

from harness.errors import UsageError
from harness.home import Home
from harness.running.experiment import Selection
from harness.words import said

_Record = TypeVar("_Record")

ANSWER = "device.json"
REACH = "reach.lock"
"""Held by whoever asks what a node is, to see whether locks reach from one machine to another."""

SCHEMA = 1
ONLY_KNOWN = ConfigDict(extra="forbid")
"""Of what is kept as a record: a field of another release would be lost without a word."""


@with_config(ONLY_KNOWN)
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


@with_config(ONLY_KNOWN)
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


def to_record(value: object) -> dict[str, Any]:
    """A dataclass as a JSON object."""
    found: dict[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
    return found


def from_record(kind: type[_Record], record: dict[str, Any]) -> _Record:
    """The dataclass of `to_record`.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    return TypeAdapter(kind).validate_python({name: value for name, value in record.items() if name != "schema"})

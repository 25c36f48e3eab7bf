"""Passages, and texts of any kind, as every loader hands them on: checked, counted and digested."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from harness.errors import InfrastructureError, UsageError
from harness.words import said

Row: TypeAlias = tuple[str, Any, Any]
"""Where it stands ("line 3"), its id or None, its text; neither checked yet."""


@dataclass(frozen=True)
class Texts:
    """Texts with distinct ids, in memory.

    `ids` and `texts` have the same length and order. `source` says where they came from and never holds an absolute
    path, so that it can be shown and compared across machines.
    """

    NOUN: ClassVar[str] = "text"
    NOUNS: ClassVar[str] = "texts"

    ids: list[str]
    texts: list[str]
    name: str
    source: dict[str, str | int]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """Hex blake3 over ids and texts in order; each is preceded by its length, so that no two lists share bytes."""
        import blake3

        digest = blake3.blake3(f"harness {self.NOUNS} 1\n".encode())
        for pair in zip(self.ids, self.texts, strict=True):
            for part in pair:
                encoded = part.encode()
                digest.update(len(encoded).to_bytes(8, "little"))
                digest.update(encoded)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a cell's specification keeps of them: name, digest and number."""
        return {"name": self.name, "digest": self.digest, self.NOUNS: len(self)}


@dataclass(frozen=True)
class Passages(Texts):
    """A collection, in its own order, which is that of the index."""

    NOUN: ClassVar[str] = "passage"
    NOUNS: ClassVar[str] = "passages"


def collect(
    rows: Iterable[Row],
    what: str,
    *,
    limit: int | None,
    text_column: str = "text",
    allow_blank: bool = False,
    of: type[Texts] = Passages,
) -> tuple[list[str], list[str]]:
    """Check rows and gather them into ids and texts.

    Args:
        rows: As the readers give them.
        what: Names the collection, or the queries, in a sentence.
        limit: Stop after so many rows.
        text_column: Names the field in a sentence.
        allow_blank: Accept a text of white space only.
        of: What they are.

    Raises:
        UsageError: With the row, for the first that is none; also for no rows at all.
    """
    if limit is not None and limit < 1:
        raise UsageError(
            f"The limit of {limit} {of.NOUNS} for {what} is below 1; give a positive number, or none for all."
        )
    texts: list[str] = []
    seen: dict[str, str] = {}
    for where, raw_id, text in itertools.islice(rows, limit):
        problem = _text_problem(text, allow_blank=allow_blank)
        if problem is not None:
            raise UsageError(f"{what}: the field {text_column} in {where} {problem}; give it a text, or drop the row.")
        row_id = str(len(texts)) if raw_id is None else _id_text(raw_id, where, what)
        if row_id in seen:
            raise UsageError(
                f"{what}: the id {row_id!r} is in {seen[row_id]} and again in {where}; ids must be distinct."
            )
        seen[row_id] = where
        texts.append(text)
    if not texts:
        raise UsageError(f"{what}: this is empty; it needs at least one {of.NOUN}.")
    return list(seen), texts


def _text_problem(text: object, *, allow_blank: bool) -> str | None:
    """What keeps `text` from being a passage, as the rest of a sentence; None if nothing."""
    if text is None:
        return "is null or missing"
    if not isinstance(text, str):
        return f"is a {type(text).__name__} and not a string"
    if not allow_blank and not text.strip():
        return "is blank"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None


def _id_text(raw: object, where: str, what: str) -> str:
    if isinstance(raw, str) or (isinstance(raw, int) and not isinstance(raw, bool)):
        return str(raw)
    raise UsageError(f"{what}: the id in {where} is a {type(raw).__name__}; an id is a string or a whole number.")


def write_jsonl(passages: Passages, path: Path) -> None:
    """Write the texts for a worker: one JSON string a line, in order; the file appears whole or not at all.

    Everything beyond ASCII is escaped, so that no locale and no way of splitting lines can change a text.

    Raises:
        InfrastructureError: If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{json.dumps(text)}\n" for text in passages.texts)
        temporary.replace(path)
    except OSError as error:
        raise InfrastructureError(
            f"{path}: the passages cannot be written: {said(error)}; free some space or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()

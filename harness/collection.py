"""Collections: the passages a cell indexes, where they came from, and their digest.

Every loader gives the same `Passages`, already checked: what reaches a worker is a list of texts with distinct ids.
What is wrong with a user's file is said in one sentence with its row or line.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from harness.embedded import PASSAGES_SEED, Draws, embedded_passages
from harness.errors import InfrastructureError, UsageError
from harness.words import count

Row: TypeAlias = tuple[str, Any, Any]
"""Where it stands ("line 3"), its id or None, its text; neither checked yet."""
Reader: TypeAlias = Callable[[Path, str, str | None], Iterator[Row]]
"""Given a file, its text column and its id column, the rows."""


@dataclass(frozen=True)
class Passages:
    """A collection in memory.

    `ids` and `texts` have the same length, in the collection's own order, which is the order of the index. `source`
    says where they came from and never holds an absolute path, so that it can be shown and compared across machines.
    """

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

        digest = blake3.blake3(b"harness passages 1\n")
        for pair in zip(self.ids, self.texts, strict=True):
            for part in pair:
                encoded = part.encode()
                digest.update(len(encoded).to_bytes(8, "little"))
                digest.update(encoded)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a cell's specification keeps of it: name, digest and number of passages."""
        return {"name": self.name, "digest": self.digest, "passages": len(self)}


def load_embedded(n: int = 1000, seed: int = PASSAGES_SEED) -> Passages:
    """The embedded collection: `n` passages made by the seeded recipe in `harness.embedded`."""
    texts = embedded_passages(n, seed)
    ids = [f"embedded-{i}" for i in range(n)]
    return Passages(ids, texts, "embedded", {"kind": "embedded", "rows": n, "seed": seed})


def load_local(
    path: Path,
    *,
    text_column: str = "text",
    id_column: str | None = "_id",
    limit: int | None = None,
    allow_blank: bool = False,
) -> Passages:
    """Read a collection from a Parquet, TSV or JSONL file; the last two also gzipped.

    A TSV file is either ColBERT's own (`pid<TAB>text`, or `pid<TAB>text<TAB>title`, which ColBERT indexes as
    `title | text`; pids are numbers) or has a header that names its columns. A line of a JSONL file is an object, or
    just a string. Fields are taken as they stand: TSV knows no quotes.

    Args:
        path: The file; its suffix decides the format.
        text_column: Name of the column that holds the text.
        id_column: Name of the column that holds the ids. Rows are numbered from 0 where it is None, or where it is the
            default and the file has no such column.
        limit: Take the first so many passages; the rest of the file is not read.
        allow_blank: Accept texts that are empty or white space, as some published collections have them.

    Raises:
        UsageError: If the file is missing or unreadable, or holds something that is not a passage.
    """
    kind = _format(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        msg = f"{path}: this collection file {what}; check the path given as the collection."
        raise UsageError(msg)
    rows = _reader(path)(path, text_column, id_column)
    ids, texts = collect(rows, str(path), limit=limit, text_column=text_column, allow_blank=allow_blank)
    name = path.name.removesuffix(".gz").removesuffix(".GZ").rsplit(".", 1)[0]
    return Passages(ids, texts, name, {"kind": "local", "format": kind, "file": path.name, "rows": len(texts)})


def load_hub(
    repo: str,
    config: str,
    split: str,
    *,
    revision: str | None = None,
    text_column: str = "text",
    id_column: str | None = "_id",
    expected_rows: int | None = None,
    cache: Path,
    limit: int | None = None,
    endpoint: str | None = None,
) -> Passages:
    """Read a collection from a dataset repository of the Hugging Face Hub.

    The revision is pinned at first use, files are checked against the Hub's checksums, and a second use makes no
    request.

    Args:
        repo: `owner/name`.
        config: Name of a config in the repository's dataset card, for example `ConditionalQA-corpus`.
        split: Name of a split of that config.
        revision: Branch, tag or commit; by default the one pinned in the cache, or else `main`, which is pinned now.
        text_column: Name of the column that holds the text.
        id_column: Name of the column that holds the ids.
        expected_rows: Number of rows that the whole split must have.
        cache: The harness's folder for downloads.
        limit: Take the first so many passages.
        endpoint: Another Hub.

    Raises:
        UsageError: If the Hub has no such thing, the rows are not what was expected, or there is no network and the
            cache is cold.
        InfrastructureError: If the Hub does not answer properly, or a checksum is wrong.
    """
    from harness import hub

    files = hub.dataset_files(repo, config, split, revision=revision, cache=cache, endpoint=endpoint)
    what = f"{repo} ({config}, {split})"
    total = sum(_count_rows(path) for path in files.paths)
    if expected_rows is not None and total != expected_rows:
        msg = (
            f"{what} has {count(total, 'passage')} at revision {files.revision}, and {expected_rows:,} are expected; "
            f"give the collection its revision in matrix.yaml, or correct its expected_passages."
        )
        raise UsageError(msg)
    rows: Iterable[Row] = itertools.chain.from_iterable(
        ((f"{path.name} {where}", raw_id, text) for where, raw_id, text in _reader(path)(path, text_column, id_column))
        for path in files.paths
    )
    # The collection is the one that others published: a blank passage (ConditionalQA has some) belongs to it.
    ids, texts = collect(rows, what, limit=limit, text_column=text_column, allow_blank=True)
    source: dict[str, str | int] = {
        "kind": "hub", "repo": repo, "config": config, "split": split, "revision": files.revision, "rows": len(texts),
        "blank_rows": sum(not text.strip() for text in texts),
    }  # fmt: skip
    return Passages(ids, texts, config, source)


def collect(
    rows: Iterable[Row], what: str, *, limit: int | None, text_column: str = "text", allow_blank: bool = False
) -> tuple[list[str], list[str]]:
    """Check rows and gather them into ids and texts.

    Args:
        rows: As the readers give them.
        what: Names the collection in a sentence.
        limit: Stop after so many rows.
        text_column: Names the field in a sentence.
        allow_blank: Accept a text of white space only.

    Raises:
        UsageError: With the row, for the first that is not a passage; also for no rows at all.
    """
    if limit is not None and limit < 1:
        msg = f"The limit of {limit} passages for {what} is below 1; give a positive number, or none for all passages."
        raise UsageError(msg)
    texts: list[str] = []
    seen: dict[str, str] = {}
    for where, raw_id, text in itertools.islice(rows, limit):
        problem = _text_problem(text, allow_blank=allow_blank)
        if problem is not None:
            msg = f"{what}: the field {text_column} in {where} {problem}; give it a text, or drop the row."
            raise UsageError(msg)
        row_id = str(len(texts)) if raw_id is None else _id_text(raw_id, where, what)
        if row_id in seen:
            msg = f"{what}: the id {row_id!r} is in {seen[row_id]} and again in {where}; ids must be distinct."
            raise UsageError(msg)
        seen[row_id] = where
        texts.append(text)
    if not texts:
        msg = f"{what}: the collection is empty; it needs at least one passage."
        raise UsageError(msg)
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
    msg = f"{what}: the id in {where} is a {type(raw).__name__}; an id is a string or a whole number."
    raise UsageError(msg)


# --- Parquet --------------------------------------------------------------------------------------------------------


def _open_parquet(path: Path) -> Any:  # noqa: ANN401 - pyarrow is not typed here
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        # The last few: names of columns that are not UTF-8, sizes that nothing can have.
        raise _bad_parquet(path, error) from error


def _bad_parquet(path: Path, error: Exception) -> UsageError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return UsageError(f"{path}: this is not a readable Parquet file, or it is cut short ({reason}); write it again.")


def _read_parquet(path: Path, text_column: str, id_column: str | None) -> Iterator[Row]:
    import pyarrow as pa

    with _open_parquet(path) as file:
        try:
            present = list(file.schema_arrow.names)
        except (pa.ArrowException, ValueError) as error:
            raise _bad_parquet(path, error) from error
        id_column = _check_columns(str(path), present, text_column, id_column)
        columns = [text_column] if id_column is None else [text_column, id_column]
        number = 0
        try:
            for batch in file.iter_batches(batch_size=8192, columns=columns):
                texts = batch.column(text_column).to_pylist()
                ids = [None] * len(texts) if id_column is None else batch.column(id_column).to_pylist()
                for raw_id, text in zip(ids, texts, strict=True):
                    number += 1
                    if id_column is not None and raw_id is None:
                        msg = f"{path}: the field {id_column} in row {number} is null; every passage needs an id."
                        raise UsageError(msg)
                    yield f"row {number}", raw_id, text
        except UnicodeDecodeError as error:
            msg = f"{path}: a text near row {number + 1} is not valid UTF-8; write the file again as UTF-8."
            raise UsageError(msg) from error
        except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
            raise _bad_parquet(path, error) from error


def _check_columns(what: str, present: list[str], text_column: str, id_column: str | None) -> str | None:
    """The id column to use; a sentence when a column that was asked for is not there."""
    if text_column not in present:
        msg = (
            f"{what}: the collection has no column {text_column}; it has {', '.join(present) or 'none'}: "
            f"rename the one that holds the text."
        )
        raise UsageError(msg)
    if id_column is None or id_column in present:
        return id_column
    if id_column == "_id":
        return None
    msg = f"{what}: the collection has no column {id_column} for ids; it has {', '.join(present)}."
    raise UsageError(msg)


# --- TSV and JSONL --------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their ends (LF or CR LF, nothing else); empty lines are skipped."""
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        msg = f"{path}: line {number} is not valid UTF-8; save the file as UTF-8."
        raise UsageError(msg) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{path}: the gzip stream is damaged or cut short after line {number}; compress the file again."
        raise UsageError(msg) from error
    except OSError as error:
        msg = f"{path}: the collection cannot be read: {error.strerror or error}; check its permissions."
        raise UsageError(msg) from error


def _read_tsv(path: Path, text_column: str, id_column: str | None) -> Iterator[Row]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    header = first[1].split("\t")
    if header[0].strip().isdecimal() and text_column not in header:
        yield from _read_colbert_tsv(path, itertools.chain([first], lines))
        return
    id_column = _check_columns(str(path), header, text_column, id_column)
    text_at = header.index(text_column)
    id_at = None if id_column is None else header.index(id_column)
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header):
            msg = (
                f"{path}: line {number} has {len(fields)} fields, and the header names {len(header)}; "
                f"take tabs out of the texts, or use JSONL."
            )
            raise UsageError(msg)
        yield f"line {number}", None if id_at is None else fields[id_at], fields[text_at]


def _read_colbert_tsv(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) not in (2, 3) or not fields[0].strip().isdecimal():
            msg = (
                f"{path}: line {number} is not pid<TAB>text or pid<TAB>text<TAB>title with a number as pid; "
                f"take tabs and line breaks out of the texts, or use JSONL."
            )
            raise UsageError(msg)
        text = fields[1] if len(fields) == 2 else f"{fields[2]} | {fields[1]}"
        yield f"line {number}", fields[0].strip(), text if fields[1].strip() else fields[1]


def _read_jsonl(path: Path, text_column: str, id_column: str | None) -> Iterator[Row]:
    use_ids: bool | None = None
    for number, line in _lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            msg = f"{path}: line {number} is not valid JSON ({reason}); each line must be one JSON object."
            raise UsageError(msg) from error
        if isinstance(value, str):
            value = {text_column: value}
        if not isinstance(value, dict):
            msg = f"{path}: line {number} is a JSON {type(value).__name__}; each line must be one JSON object."
            raise UsageError(msg)
        if use_ids is None:
            # The first line decides, as a header would; a later line without an id is then a mistake in that line.
            use_ids = _check_columns(str(path), list(value), text_column, id_column) is not None
        if use_ids and value.get(id_column or "") is None:
            msg = f"{path}: line {number} has no {id_column}, though the first line has one; every passage needs an id."
            raise UsageError(msg)
        yield f"line {number}", value[id_column or ""] if use_ids else None, value.get(text_column)


_FORMATS = {".parquet": "parquet", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_READERS: dict[str, Reader] = {"parquet": _read_parquet, "tsv": _read_tsv, "jsonl": _read_jsonl}


def _format(path: Path) -> str:
    """The format that a file's suffix says; a sentence if it is none of ours."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    kind = _FORMATS.get(suffix)
    if kind is None or (kind == "parquet" and name.endswith(".gz")):
        msg = (
            f"{path}: the suffix {path.suffix or '(none)'} is not one that a collection can have; "
            f"use .parquet, .tsv, .jsonl or .ndjson (the last three also with .gz)."
        )
        raise UsageError(msg)
    return kind


def _reader(path: Path) -> Reader:
    return _READERS[_format(path)]


def _count_rows(path: Path) -> int:
    """Rows of a file that the Hub gave; a header of a TSV file is not one."""
    if _format(path) == "parquet":
        with _open_parquet(path) as file:
            return int(file.metadata.num_rows)
    first = next(_lines(path), (0, ""))[1]
    header = _format(path) == "tsv" and not first.split("\t")[0].strip().isdecimal()
    return sum(1 for _ in _lines(path)) - header


# --- Larger collections, and the way to the worker ------------------------------------------------------------------


def scale_up(passages: Passages, n: int, seed: int) -> Passages:
    """Make `n` passages out of fewer real ones, with the same distribution of lengths.

    The real passages come first, untouched. Each further one starts with the first words of a real passage and goes on
    with words from passages near it, which are mostly of the same document, until it has as many words as that real
    passage; real passages take turns in a seeded order, so that lengths keep their shares. A made passage is never
    equal to another; where the neighbourhood is used up, it is taken wider, and at last the passage grows by a word.

    Args:
        passages: The real ones; at least one.
        n: How many to end up with, at least `len(passages)`.
        seed: Of the recipe; the result depends on nothing else.

    Raises:
        UsageError: If there are more than `n` already, or their words do not give so many distinct ones.
    """
    real = len(passages)
    if n < real:
        msg = f"{passages.name} has {count(real, 'passage')}, more than the {n:,} to scale it up to; use --limit."
        raise UsageError(msg)
    draws = Draws(seed)
    words = [text.split() for text in passages.texts]
    seen = {*passages.texts, ""}
    ids, texts = list(passages.ids), list(passages.texts)
    taken = set(ids)
    order = list(range(real))
    for made in range(n - real):
        turn = made % real
        if turn == 0:
            for i in range(real - 1, 0, -1):  # Fisher-Yates
                j = draws.below(i + 1)
                order[i], order[j] = order[j], order[i]
        text = _splice(words, order[turn], draws, seen) if any(words) else None
        if text is None:
            limit = len(texts)
            msg = f"{passages.name} has too few different words for {n:,} distinct passages; ask for at most {limit:,}."
            raise UsageError(msg)
        seen.add(text)
        texts.append(text)
        new_id = f"scaled-{seed}-{made}"
        while new_id in taken:
            new_id += "x"
        taken.add(new_id)
        ids.append(new_id)
    source: dict[str, str | int] = {
        **{f"from_{key}": value for key, value in passages.source.items()},
        "kind": "scaled", "rows": n, "real_rows": real, "seed": seed,
    }  # fmt: skip
    return Passages(ids, texts, f"scaled-from-{passages.name}", source)


_MOST_TRIES = 128 * 16


def _splice(words: list[list[str]], at: int, draws: Draws, seen: set[str]) -> str | None:
    """A new text of as many words as passage `at`, from it and its neighbours; None if there seems to be none."""
    length = max(1, len(words[at]))
    tries = 0
    while True:
        # 16 tries among the 4 nearest on each side, then wider and wider; then a longer text.
        window = min(4 << (tries // 16), len(words))
        head = words[at][: length // 3 + draws.below(length - length // 3)]
        near = (at + draws.below(2 * window + 1) - window) % len(words)
        start = draws.below(max(1, len(words[near])))
        tail = words[near][start:]
        while len(tail) < length - len(head):
            near = (near + 1) % len(words)
            tail = tail + words[near]
        text = " ".join(head + tail[: length - len(head)])
        if text not in seen:
            return text
        tries += 1
        if tries % 128 == 0:
            length += 1
        if tries == _MOST_TRIES:
            return None


def write_jsonl(passages: Passages, path: Path) -> None:
    """Write the texts for a worker: one JSON string a line, in order; the file appears whole or not at all.

    Everything beyond ASCII is escaped, so that no locale and no way of splitting lines can change a text.

    Raises:
        InfrastructureError: If the file cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for text in passages.texts:
                file.write(json.dumps(text))
                file.write("\n")
        Path(temporary).replace(path)
    except OSError as error:
        reason = error.strerror or error
        msg = f"{path}: the passages cannot be written: {reason}; free some space or choose another folder."
        raise InfrastructureError(msg) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)

"""Collections: the passages a cell indexes, where they came from, and their digest.

Every loader gives the same `Passages`, already checked: what reaches a worker is a list of texts with distinct ids.
What is wrong with a user's file is said in one sentence with its row or line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from harness.errors import UsageError
from harness.inputs.passages import Passages, Row, collect
from harness.inputs.readers import count_rows, format_of, reader, require_file
from harness.inputs.recipe import PASSAGES_SEED, embedded_passages
from harness.words import count


def load_embedded(n: int = 1000, seed: int = PASSAGES_SEED) -> Passages:
    """The embedded collection: `n` passages made by the seeded recipe in `harness.inputs.embedded_checkpoint`."""
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
    kind = format_of(path)
    require_file(path, "collection file")
    rows = reader(path)(path, text_column, id_column)
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

    The arguments and errors are those of `hub.dataset_files`, and the columns and the limit those of `load_local`. The
    whole split must have `expected_rows` rows.
    """
    from harness.inputs import hub

    files = hub.dataset_files(repo, config, split, revision=revision, cache=cache, endpoint=endpoint)
    what = f"{repo} ({config}, {split})"
    total = sum(count_rows(path) for path in files.paths)
    if expected_rows is not None and total != expected_rows:
        raise UsageError(
            f"{what} has {count(total, 'passage')} at revision {files.revision}, and {expected_rows:,} are expected; "
            f"give the collection its revision in matrix.yaml, or correct its expected_passages."
        )
    rows: Iterable[Row] = itertools.chain.from_iterable(
        ((f"{path.name} {where}", raw_id, text) for where, raw_id, text in reader(path)(path, text_column, id_column))
        for path in files.paths
    )
    # The collection is the one that others published: a blank passage (ConditionalQA has some) belongs to it.
    ids, texts = collect(rows, what, limit=limit, text_column=text_column, allow_blank=True)
    source: dict[str, str | int] = {
        "kind": "hub", "repo": repo, "config": config, "split": split, "revision": files.revision, "rows": len(texts),
        "blank_rows": sum(not text.strip() for text in texts),
    }  # fmt: skip
    return Passages(ids, texts, config, source)

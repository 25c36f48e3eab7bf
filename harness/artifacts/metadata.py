"""What an index's `metadata.json` says of the index itself, and how two of them differ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# Settings that say where and when an index was made, not what is in it.
_RUN_ONLY = frozenset((
    "root", "experiment", "name", "index_root", "index_path", "index_name", "avoid_fork_if_possible", "gpus",
    "total_visible_gpus", "rank", "nranks", "overwrite", "resume", "checkpoint", "collection", "queries", "meta",
    "triples", "verbose", "amp",
))  # fmt: skip

_PATH = re.compile(r"~|\.{0,2}/|file:|[A-Za-z]:[\\/]")  # how a path begins, and no model's name on a hub


def metadata_changes(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, tuple[object, object]], list[str]]:
    """Keys of metadata.json whose values differ, with both, None where a side lacks one; and keys that do not count.

    A key is its path through the objects, joined by dots: `config.nbits`.
    """
    whole = [{".".join(key): value for key, value in _flatten(side)} for side in (a, b)]
    real = [identity(side) for side in (a, b)]

    def changed(left: dict[str, object], right: dict[str, object]) -> dict[str, tuple[object, object]]:
        names = sorted({*left, *right})
        return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}

    changes = changed(*real)
    return changes, [name for name in changed(*whole) if name not in changes]


def identity(record: dict[str, Any]) -> dict[str, object]:
    """What metadata.json says of the index itself: its keys and values without names, paths and dates.

    These do not count at any depth, nor where somebody who wraps colbert-ai repeats them under a key of his own.
    """
    flat = list(_flatten(record))
    told = {value for key, value in flat if not _RUN_ONLY.isdisjoint(key) and isinstance(value, str)}
    return {
        ".".join(key): value
        for key, value in flat
        if _RUN_ONLY.isdisjoint(key)
        and not (isinstance(value, str) and (_PATH.match(value) or (key[0] != "config" and value in told)))
    }


def _flatten(node: object, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every value that holds no others, or nothing, with the keys that lead to it; lists are numbered."""
    if isinstance(node, (dict, list)) and (node or not key):
        for name, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _flatten(inner, (*key, str(name)))
    else:
        yield key, node

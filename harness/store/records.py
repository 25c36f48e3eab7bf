"""Whether a cell's record, which may have come from elsewhere, is what its readers take it for.

Names and digests in it become parts of paths and of tables, and other fields are shown or written to Parquet; so a
record with anything else in them is no cell at all, rather than a surprise later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from harness.errors import UnreadableTensor
from harness.files import too_deep
from harness.tensors.dtypes import DTYPES
from harness.tensors.mapped import check_shape
from harness.words import NAME, VERSION_SUFFIX

_KEY = re.compile(r"[0-9A-Za-z]{1,64}")
_PLAIN = re.compile(r"[0-9A-Za-z:.+-]{0,40}")
_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,5}" + VERSION_SUFFIX + "|" + NAME)
_INTEGER_LIMIT = 1 << 53

_TEXT, _OBJECT, _NUMBER = (str,), (dict,), (int, float)
_TEXT_OR_NONE, _OBJECT_OR_NONE = (str, type(None)), (dict, type(None))
FIELDS: dict[str, tuple[type, ...]] = {
    "group": _TEXT, "reason": _TEXT, "phase": _TEXT, "capture": _TEXT, "finished": _TEXT, "outcome": _TEXT,
    "spec": _OBJECT, "artifacts": _OBJECT, "seconds": _OBJECT, "details": _OBJECT,
    "spec.job": _TEXT, "spec.version": _TEXT, "spec.repeat": (int,), "spec.device": _TEXT, "spec.lock": _TEXT,
    "spec.settings": _OBJECT, "spec.environment": _OBJECT, "spec.swap": _OBJECT, "spec.oddities": _OBJECT,
    "spec.revision": (int,), "spec.own": _OBJECT, "spec.own.kind": _TEXT, "spec.own.torch": _TEXT,
    "spec.collection": _OBJECT, "spec.collection.name": _TEXT, "spec.collection.digest": _TEXT,
    "spec.collection.passages": (int,),
    "spec.checkpoint": _OBJECT, "spec.checkpoint.name": _TEXT, "spec.checkpoint.digest": _TEXT,
    "spec.checkpoint.dim": (int,),
    "spec.queries": _OBJECT, "spec.queries.name": _TEXT, "spec.queries.digest": _TEXT, "spec.queries.queries": (int,),
    "spec.triples": _OBJECT, "spec.triples.name": _TEXT, "spec.triples.digest": _TEXT, "spec.triples.triples": (int,),
    "spec.index": _OBJECT, "spec.index.name": _TEXT, "spec.index.digest": _TEXT,
    "seconds.total": _NUMBER,
    "details.wall_seconds": _NUMBER, "details.cause": _TEXT, "details.log_tail": _TEXT,
    "details.observed": _OBJECT_OR_NONE, "details.observed.attention_class": _TEXT_OR_NONE,
    "details.peak_memory": _OBJECT, "details.peak_memory.host_bytes": (int,),
    "details.peak_memory.gpu_reserved_bytes": (int,),
    "details.not_captured": _OBJECT, "details.provenance": _OBJECT, "details.provenance.torch": _TEXT_OR_NONE,
    "details.provenance.torch_git": _TEXT_OR_NONE, "details.provenance.cuda": _TEXT_OR_NONE,
    "details.provenance.cpu": _OBJECT_OR_NONE, "details.provenance.cpu.model_name": _TEXT_OR_NONE,
    "details.provenance.gpu": _OBJECT_OR_NONE, "details.provenance.gpu.name": _TEXT_OR_NONE,
    "details.provenance.gpu.driver": _TEXT_OR_NONE,
}  # fmt: skip
"""Field to the types that it may have where it is there; a dot leads into an object."""

REQUIRED = (
    "job", "version", "repeat", "lock", "device", "settings", "environment",
    "collection.name", "collection.digest", "collection.passages",
    "checkpoint.name", "checkpoint.digest", "checkpoint.dim",
)  # fmt: skip
"""Fields that a specification must have."""


_LONG = tuple(b'\n "%s": {\n' % name for name in (b"artifacts", b"details"))


def cut_for_list(raw: bytes) -> bytes:
    """A record's text without its two long fields, of which a list says nothing; parsing them is most of its time.

    A record is written with an indent of one space for each level, and no text in JSON has a line break of its own: the
    next line of one space and a brace ends the field. What is written in another way is parsed as a whole.
    """
    for start in _LONG:
        at = raw.find(start)
        end = raw.find(b"\n }", at)
        if at >= 0 <= end:
            raw = raw[: at + len(start) - 1] + raw[end:]
    return raw


def is_listed(record: object, key: str, schema: int, outcomes: tuple[str, ...]) -> TypeGuard[dict[str, Any]]:
    """Whether the part of `record` can be used that says of what the cell `key` is, and how it ended."""
    return (
        isinstance(record, dict)
        and record.get("schema") == schema
        and record.get("key") == key
        and _KEY.fullmatch(key) is not None
        and record.get("outcome") in outcomes
        and _is_plain(record.get("group", ""), _KEY)
        and _is_plain(record.get("capture", ""), _PLAIN)
        and isinstance(record.get("spec"), dict)
        and _is_spec(record["spec"])
    )


def is_record(record: object, key: str, schema: int, outcomes: tuple[str, ...]) -> TypeGuard[dict[str, Any]]:
    """Whether `record` is the record of the cell `key`, with every field of a type and form that readers can use."""
    return (
        is_listed(record, key, schema, outcomes)
        and not too_deep(record)
        and _fit(record, _REST)
        and _is_plain(record.get("finished", ""), _PLAIN)
        and all(isinstance(reason, str) for reason in record.get("details", {}).get("not_captured", {}).values())
        and all(_is_artifact(name, one) for name, one in record.get("artifacts", {}).items())
    )


_PLAIN_TYPES = (str, dict)
_Tree = dict[str, tuple[tuple[type, ...] | None, "_Tree"]]
"""Field to the types that it may have, None for any, and to the fields in it."""


def _tree(fields: Mapping[str, tuple[type, ...]]) -> _Tree:
    """Fields by their place, so that a record is gone through once, and not once for each field."""
    tree: _Tree = {}
    for path, kinds in fields.items():
        *outer, name = path.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, (None, {}))[1]
        place[name] = kinds, place.get(name, (None, {}))[1]
    return tree


_REST = _tree(FIELDS)
_SPEC = _REST.pop("spec")[1]
_NEEDED: dict[str, dict[str, Any]] = {}
for _field in REQUIRED:
    _outer, _, _inner = _field.partition(".")
    _NEEDED.setdefault(_outer, {}).update({_inner: {}} if _inner else {})


def _fit(record: dict[str, Any], tree: _Tree) -> bool:
    """Whether all fields that are there have types that they may have."""
    for name, value in record.items():
        if name not in tree:
            continue
        kinds, inner = tree[name]
        # Most are a text or an object, of which the type says all: a list of a store asks this of every record.
        plain = type(value)
        if kinds is not None and not (plain in kinds if plain in _PLAIN_TYPES else _fits(value, kinds)):
            return False
        if inner and plain is dict and not _fit(value, inner):
            return False
    return True


def _has(record: dict[str, Any], needed: Mapping[str, Any]) -> bool:
    """Whether all fields that must be there are; what is in another is looked at where that is an object."""
    return record.keys() >= needed.keys() and all(_has(record[name], inner) for name, inner in needed.items() if inner)


def _is_plain(text: object, form: re.Pattern[str]) -> bool:
    """Whether a field is a text of some form; it may be empty."""
    return isinstance(text, str) and (not text or form.fullmatch(text) is not None)


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of these types; numbers must be ones that a table can hold."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    if isinstance(value, int):
        return abs(value) < _INTEGER_LIMIT
    return not isinstance(value, float) or math.isfinite(value)


def _is_spec(spec: dict[str, Any]) -> bool:
    return (
        _fit(spec, _SPEC)
        and not too_deep(spec)
        and _has(spec, _NEEDED)
        and _VERSION.fullmatch(spec["version"]) is not None
        and spec["repeat"] >= 0
        and all(_NAME.fullmatch(name) for name in spec.get("swap", {}))
    )


def _is_artifact(name: str, one: object) -> bool:
    if not isinstance(one, dict) or not _NAME.fullmatch(name):
        return False
    digest, dtype, kind, stored = (one.get(field) for field in ("digest", "dtype", "kind", "stored"))
    try:
        check_shape(one.get("shape"), name)
    except UnreadableTensor:
        return False
    return (
        isinstance(digest, str)
        and _DIGEST.fullmatch(digest) is not None
        and isinstance(dtype, str)
        and dtype in DTYPES
        and isinstance(kind, str)
        and isinstance(stored, bool)
    )

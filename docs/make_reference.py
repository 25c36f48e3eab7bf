"""Write docs/tables.md and docs/matrix.md from the code: `python docs/make_reference.py`. A test holds them current."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.commands.schema import schema_text
from harness.report.columns import OF_WHAT, TABLES
from harness.report.parquet import SCHEMA

HERE = Path(__file__).parent

_TABLES = f"""# Tables

Made by `python docs/make_reference.py` from `harness/report/columns.py`; edit that instead of this page.

A folder of tables holds Parquet files of these names; those of `locate`, `blame`, `swap` and `probes` are written where
`--output` says. Any column may be null, which means not known, and never "equal". Each file says in its metadata what
it is of (`device`, `collection` with its digest, `checkpoint` with its digest, `group`), which table it is, and its
schema (`harness_schema`, today {SCHEMA}). Types: text, int (64 bits), float (64 bits), bool, ints and texts (lists).
`docs/querying.md` asks them seven questions.
"""

_MATRIX = """# matrix.yaml

Made by `python docs/make_reference.py` from the model that checks the file (`harness schema`); edit that instead of
this page. An editor that knows JSON schemas checks the file as you type, by `docs/matrix.schema.json`. A mistake in it
is one sentence with its line. The file itself says why each thing in it is as it is.
"""


def _table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def tables() -> str:
    """The page of tables: every column with type and meaning."""
    parts = [_TABLES, "\n## In every table\n\n", _of(OF_WHAT)]
    for name, table in TABLES.items():
        own = {column: said for column, said in table.columns.items() if column not in OF_WHAT}
        parts.append(f"\n## {name}.parquet\n\nA row is {table.rows}.\n\n{_of(own)}")
    return "".join(parts)


def _of(columns: Mapping[str, tuple[str, str]]) -> str:
    rows = ((f"`{name}`", kind, meaning) for name, (kind, meaning) in columns.items())
    return _table(("column", "type", "meaning"), rows)


def matrix() -> str:
    """The page of `matrix.yaml`: every key with what it may hold, its default and its meaning."""
    schema = json.loads(schema_text())
    parts = [_MATRIX, "\n## The file\n\n", _keys(schema, schema["$defs"])]
    for name, part in schema["$defs"].items():
        parts.append(f"\n## {name}\n\n{part.get('description', '')}\n\n")
        parts.append(_keys(part, schema["$defs"]) if "properties" in part else f"{_kind(part)}\n")
    return "".join(parts)


def _keys(part: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    required = part.get("required", ())

    def rows() -> Iterator[tuple[str, ...]]:
        for name, value in part["properties"].items():
            default = value.get("default")
            shown = "required" if name in required else _shown(default)
            # What is a part of its own says there what it is.
            other = others.get(value.get("$ref", "").rpartition("/")[2], {})
            yield f"`{name}`", _kind(value), shown, value.get("description", other.get("description", ""))

    return _table(("key", "value", "default", "meaning"), rows())


def _shown(default: object) -> str:
    """A default; of a mapping only that there is one, as its own keys have theirs."""
    text = "" if default is None else json.dumps(default)
    return text if len(text) < 40 else "see there"


def _kind(value: Mapping[str, Any]) -> str:
    """What a key may hold, in words."""
    several = next((value[word] for word in ("anyOf", "oneOf", "allOf") if word in value), None)
    if several is not None:
        return " or ".join(_kind(one) for one in several if one.get("type") != "null")
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := value.get("enum", [value["const"]] if "const" in value else []):
        return ", ".join(f"`{one}`" for one in choices)
    return _of_type(value)


def _of_type(value: Mapping[str, Any]) -> str:
    kind = value.get("type", "")
    if kind == "array":
        return f"list of {_kind(value['items'])}" if "items" in value else "list"
    if kind == "object":
        inner = value.get("additionalProperties") or next(iter(value.get("patternProperties", {}).values()), None)
        return f"name to {_kind(inner)}" if isinstance(inner, dict) else "mapping"
    plain = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    limits = [f"{said} {value[name]}" for name, said in _BOUNDS.items() if name in value]
    return ", ".join([value.get("format", plain.get(kind, kind)), *limits])


_BOUNDS = {
    "minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than",
}  # fmt: skip
PAGES = {"tables.md": tables, "matrix.md": matrix}

if __name__ == "__main__":
    for page, text in PAGES.items():
        (HERE / page).write_text(text(), encoding="utf-8")

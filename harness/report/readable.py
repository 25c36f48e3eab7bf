"""Numbers, shares and tables as a person reads them; nothing that came from a file can do more than be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from harness.errors import printable

_DEPLOYMENTS = {
    "b_on_a": "{b} in the index of {a}", "b_on_b": "{b} in an index of its own", "a_on_b": "{a} in the index of {b}",
}  # fmt: skip


def deployments(a: str = "A", b: str = "B") -> dict[str, str]:
    """What each deployment is called that is held against the fourth, A in an index of its own."""
    return {name: title.format(a=a, b=b) for name, title in _DEPLOYMENTS.items()}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table for pasting."""
    # Neither a bar nor HTML nor a link can come out of a cell.
    escaped = str.maketrans({mark: f"\\{mark}" for mark in "|<>[]`*\\"})
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(':-:' for _ in columns)}|"]
    lines += [f"| {' | '.join(printable(cell).translate(escaped) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def clean(text: str, limit: int = 200) -> str:
    """Text from a file, with control characters escaped, and cut at `limit`; no markup is read where it is shown."""
    shown = printable(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def share(part: int, total: int) -> str:
    """A percentage that is 0 % or 100 % only when it is exactly that."""
    if total == 0 or part == 0:
        return "0 %"
    if part == total:
        return "100 %"
    percent = 100 * part / total
    for digits in (1, 2, 3, 4, 6, 8):
        text = f"{percent:.{digits}f}"
        if float(text) not in (0.0, 100.0):
            return f"{text} %"
    return f"{percent:.1e} %" if percent < 50 else "all but " + share(total - part, total)


def number(value: float | int | complex | None) -> str:
    """A measured number: seven significant digits, integers in full."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}"


def value(found: float | int | complex, dtype: str | None) -> str:
    """An element, with the fewest digits that tell it from every other number of its dtype."""
    if isinstance(found, int):
        return f"{found:,}"
    if isinstance(found, complex):
        kind = "float64" if dtype == "complex128" else "float16" if dtype == "complex32" else "float32"
        return f"{value(found.real, kind)}{'' if found.imag < 0 else '+'}{value(found.imag, kind)}j"
    if dtype == "bfloat16":
        return f"{found:.4g}"  # 8 significant bits
    kinds: dict[str | None, type[np.floating[Any]]] = {"float16": np.float16, "float32": np.float32}
    return str(kinds.get(dtype, np.float64)(found))

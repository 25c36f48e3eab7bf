"""Where results are printed: how wide it is, whether it shows colours, and text and tables that fit.

rich decides the same way and does more, but importing it takes a fifth of the time of a whole `harness compare`. A test
holds these decisions against rich's.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TextIO

_CODES = {"bold": "1", "red": "31", "yellow": "33"}
_WIDTH = 80  # of a terminal that does not say how wide it is
_FOLDED = 24  # a column is folded to this width before another is left out, and no further
_GAP = "  "
# A word. These stay in one piece too: `[8, 17]`, `A -0.5`, `0.5 %`, `codes (3 of 16 chunks)`.
_WORD = re.compile(r"(?:\(?[AB] (?=[-\d]))?(?:\[[\d, ]*\]|[^ ])+(?: %[^ ]*| \(\d[\d,]*(?: of \d+)? \w+\)[^ ]*)?")


@dataclass(frozen=True)
class Screen:
    """What text is made for.

    Attributes:
        width: columns of a terminal; None where a line may have any length, as in a file or a pipe: nothing is folded
            or left out there.
        styles: whether escape codes are understood.
        colours: whether these may be colours.
    """

    width: int | None = None
    styles: bool = False
    colours: bool = False

    @classmethod
    def of(cls, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> Screen:
        """Look at standard output, or `stream`: NO_COLOR, FORCE_COLOR, TTY_COMPATIBLE, TERM and COLUMNS as rich does.

        Only where it is no terminal and COLUMNS is not set, rich takes 80 columns.
        """
        stream = stream or sys.stdout
        terminal = stream.isatty()
        understands = {"0": False, "1": True}.get(environ.get("TTY_COMPATIBLE", ""))
        if understands is None:
            understands = environ["FORCE_COLOR"] != "" if "FORCE_COLOR" in environ else terminal
        dumb = environ.get("TERM", "").lower() in {"dumb", "unknown"}
        told = environ.get("COLUMNS", "")
        width = int(told) if told.isdecimal() else 0
        if not width and terminal:
            width = _WIDTH
            with contextlib.suppress(OSError, ValueError):
                width = _WIDTH if dumb else os.get_terminal_size(stream.fileno()).columns or _WIDTH
        styles = understands and not dumb
        return cls(width or None, styles, styles and not environ.get("NO_COLOR"))

    def paint(self, text: str, style: str) -> str:
        """Text in bold, red or yellow, where that is understood."""
        code = _CODES.get(style) if self.styles and (self.colours or style == "bold") else None
        return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


PLAIN = Screen()
"""No terminal: lines of any length, no colour."""


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in {"Mn", "Me"} for letter in text)


def wrap(text: str, width: int | None, margin: int = 0) -> list[str]:
    """One line as lines no longer than `width`, unless a word is longer: words are never split.

    The first line keeps its indent, the others begin at `margin`.
    """
    if width is None or cells(text) <= width:
        return [text]
    lines, indent, start, end = [], len(text) - len(text.lstrip(" ")), -1, 0
    for word in _WORD.finditer(text):
        if start >= 0 and indent + cells(text[start : word.end()]) > width:
            lines.append(" " * indent + text[start:end])
            indent, start = margin, -1
        start, end = (word.start() if start < 0 else start), word.end()
    return [*lines, " " * indent + text[start:end]]


def table(
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    screen: Screen = PLAIN,
    *,
    lesser: Sequence[int] = (),
    elsewhere: str = "--json",
    styles: Sequence[str] = (),
) -> list[str]:
    """A plain table, columns two spaces apart, as lines that fit the screen.

    Cells are folded between words. Of the lesser columns those are left out that do not fit beside the more important
    ones, and a last line names them. Other columns that do not fit follow in tables of their own, each of which begins
    with the first column.

    Args:
        header: titles.
        body: rows of as many cells.
        screen: what to fit.
        lesser: numbers of the columns that may be left out, the least important first.
        elsewhere: the option that shows them.
        styles: a style for each row.
    """
    rows = [header, *body]
    painted = ["bold", *(styles or [""] * len(body))]
    columns = [_Column.of([row[k] for row in rows]) for k in range(len(header))]
    kept = [number for number in range(len(header)) if number not in lesser]
    for number in reversed(lesser):
        more = sorted([*kept, number])
        kept = more if _fit([columns[k] for k in more], screen.width) else kept
    left_out = [header[number] for number in lesser if number not in kept]
    lines: list[str] = []
    blocks = list(_blocks(columns, kept, screen.width))
    for numbers in blocks:
        if lines:
            lines.append("")
        picked = [[row[k] for k in numbers] for row in rows]
        shown = [k for k, row in enumerate(picked) if k == 0 or len(blocks) == 1 or any(row[1:])]
        widths = _fit([columns[k] for k in numbers], screen.width) or [columns[k].word for k in numbers]
        lines += _lines([picked[k] for k in shown], widths, [painted[k] for k in shown], screen)
    if left_out:
        said = f"Left out at this width: {', '.join(left_out)}. A wider terminal or {elsewhere} shows all."
        lines += wrap(said, screen.width)
    return lines


@dataclass(frozen=True)
class _Column:
    """How wide a column would be, and how wide its longest word is."""

    most: int
    word: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Column:
        return cls(
            max(map(cells, texts)), max((cells(word[0]) for text in texts for word in _WORD.finditer(text)), default=0)
        )


def _fit(columns: Sequence[_Column], width: int | None) -> list[int] | None:
    """Widths of columns side by side; None where they do not fit, each no narrower than its words and `_FOLDED`."""
    if width is None:
        return [column.most for column in columns]
    room = width - len(_GAP) * (len(columns) - 1)
    # The last two have nowhere else to go.
    folded = _FOLDED if len(columns) > 2 else 0
    least = [min(column.most, max(column.word, folded)) for column in columns]
    if sum(least) > room:
        return None
    widths = [min(column.most, room) for column in columns]
    while sum(widths) > room:
        # What the widest has above its least is taken first.
        number = max((k for k in range(len(columns)) if widths[k] > least[k]), key=widths.__getitem__)
        widths[number] -= 1
    return widths


def _blocks(columns: Sequence[_Column], kept: list[int], width: int | None) -> Iterator[list[int]]:
    """Numbers of the columns that fit side by side, the first of all in each block."""
    counts = range(len(kept), 2, -1)
    count = next((count for count in counts if _fit([columns[k] for k in kept[:count]], width)), 2)
    yield kept[:count]
    if kept[count:]:
        yield from _blocks(columns, [kept[0], *kept[count:]], width)


def _lines(rows: list[list[str]], widths: list[int], styles: list[str], screen: Screen) -> Iterator[str]:
    folded = [[wrap(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    taken = [max(cells(line) for row in folded for line in row[k]) for k in range(len(widths))]
    for number, (row, style) in enumerate(zip(folded, styles, strict=True)):
        for line in zip_longest(*row, fillvalue=""):
            padded = (cell + " " * (width - cells(cell)) for cell, width in zip(line, taken, strict=True))
            yield screen.paint(_GAP.join(padded).rstrip(), style)
        if number == 0:
            yield _GAP.join("-" * width for width in taken)

"""Progress of long work: a live board on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from harness.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from harness.store.cell import Cell

# rich is imported where there is a terminal to draw on: whoever only reads a store does without it.

EVERY = 10.0
"""Seconds between two lines of what goes on as it should, where there is no terminal."""


@dataclass
class Row:
    """One line of the board."""

    label: str
    state: str = "waiting"
    detail: str = ""
    started: float | None = None
    seconds: float | None = None


_STYLES = {"ok": "green", "stored": "green", "unsupported": "yellow", "waiting": "dim"}


def render(rows: list[Row], notes: list[str], now: float) -> Table:
    """The board as a table: label, state, seconds, detail."""
    from rich.markup import escape
    from rich.table import Table

    def shown(text: str) -> str:
        # Text that a job or a file may have written, without markup of ours and without words to the terminal.
        return escape(printable(text))

    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        spent = row.seconds if row.seconds is not None else now - row.started if row.started is not None else None
        style = _STYLES.get(row.state, "cyan" if row.seconds is None else "red")
        table.add_row(
            shown(row.label),
            f"[{style}]{shown(row.state)}[/]",
            f"{spent:6.0f} s" if spent is not None else "",
            shown(row.detail),
        )
    for note in notes[-3:]:
        table.add_row("", f"[dim]{shown(note)}[/]", "", "")
    return table


def _terminal() -> Console | None:
    """Standard error, so that standard output carries results only; None where it is no terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    class Patient(Console):
        """Falls silent when nobody reads it any more; rich would end the program, with status 1."""

        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Patient(stderr=True)


class Board:
    """Shows what each cell is doing; use as a context manager, from any thread.

    On a terminal it is drawn anew four times a second. Elsewhere what goes on as it should is a line with counts, at
    most one every ten seconds and the newest that there is; what did not end well and what is noted is a line at once.

    Args:
        labels: cells in the order in which they run.
        console: where to show it; standard error by default.
        every: seconds between two lines where there is no terminal.
    """

    def __init__(self, labels: Iterable[str], console: Console | None = None, every: float = EVERY) -> None:
        self.rows = {label: Row(label) for label in labels}
        self.notes: list[str] = []
        self._console, self._every = console, every
        self._live: Live | None = None
        self._lock = threading.RLock()
        self._said = float("-inf")
        self._due: str | None = None
        self._later: threading.Timer | None = None

    def __enter__(self) -> Board:
        console = self._console or _terminal()
        if console is not None and console.is_terminal:
            from rich.live import Live

            self._live = Live(get_renderable=self._renderable, console=console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()
        with self._lock:
            self._say_what_is_due()

    def _renderable(self) -> Table:
        with self._lock:
            return render(list(self.rows.values()), self.notes, time.monotonic())

    def _line(self, text: str) -> None:
        if self._live is not None:
            return
        if self._console is None:
            click.echo(printable(text), err=True)
        else:
            self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _sometimes(self, text: str) -> None:
        """Say something now, or when the last such line is old enough, unless something newer is said then."""
        self._due = f"{self._counts()}{text}"
        wait = self._said + self._every - time.monotonic()
        if wait <= 0:
            self._say_what_is_due()
        elif self._later is None and self._live is None:
            self._later = threading.Timer(wait, self._say_later)
            self._later.daemon = True
            self._later.start()

    def _say_later(self) -> None:
        with self._lock:
            self._say_what_is_due()

    def _say_what_is_due(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._due is not None:
            self._line(self._due)
            self._due, self._said = None, time.monotonic()

    def _counts(self) -> str:
        """How many cells have ended, where there are several."""
        ended = sum(row.seconds is not None for row in self.rows.values())
        return f"[{ended} of {len(self.rows)}] " if len(self.rows) > 1 else ""

    def note(self, text: str) -> None:
        """Say something that is not about one cell's phase."""
        with self._lock:
            self.notes.append(text)
            self._line(text)

    def note_once(self, text: str) -> None:
        """Say something, unless it was said before."""
        with self._lock:
            if text not in self.notes:
                self.note(text)

    def phase(self, label: str, phase: str) -> None:
        """Say that a cell entered a phase."""
        with self._lock:
            row = self.rows.setdefault(label, Row(label))
            row.started = row.started if row.started is not None else time.monotonic()
            if row.state != phase:
                row.state, row.detail = phase, ""
                self._sometimes(f"{label}: {phase}")

    def progress(self, label: str, far: str) -> None:
        """Say how far a cell is in its phase."""
        with self._lock:
            row = self.rows.setdefault(label, Row(label))
            if row.detail != far:
                row.detail = far
                self._sometimes(f"{label}: {row.state}, {far}")

    def done(self, cell: Cell, *, ran: bool) -> Cell:
        """Say how a cell ended; returns the cell."""
        with self._lock:
            row = self.rows.setdefault(cell.label, Row(cell.label))
            row.state = cell.outcome if ran else "stored" if cell.outcome == "ok" else cell.outcome
            row.seconds = float(cell.details.get("wall_seconds", cell.seconds.get("total", 0.0)))
            row.detail = cell.reason
            reason = f": {cell.reason}" if cell.reason else ""
            text = f"{cell.label}: {row.state} ({row.seconds:.0f} s){reason}"
            if cell.outcome == "ok":
                self._sometimes(text)
            else:
                self._due = None
                self._line(f"{self._counts()}{text}")
        return cell

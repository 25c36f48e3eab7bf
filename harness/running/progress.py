"""Progress of long work: a live board on a terminal, plain lines elsewhere.

What is shown is made by `render`, a pure function of the board's rows, so that it can be tested without a terminal.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.errors import printable
from harness.store.cell import Cell


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
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        spent = row.seconds if row.seconds is not None else now - row.started if row.started is not None else None
        style = _STYLES.get(row.state, "cyan" if row.seconds is None else "red")
        table.add_row(
            _shown(row.label),
            f"[{style}]{_shown(row.state)}[/]",
            f"{spent:6.0f} s" if spent is not None else "",
            _shown(row.detail),
        )
    for note in notes[-3:]:
        table.add_row("", f"[dim]{_shown(note)}[/]", "", "")
    return table


def _shown(text: str) -> str:
    """Text that a job or a file may have written, without markup of ours and without words to the terminal."""
    return escape(printable(text))


class _Patient(Console):
    """A console that falls silent when nobody reads it any more; rich would end the program, with status 1."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on: a sweep goes on without its terminal."""
        self.quiet = True


class Board:
    """Shows what each cell is doing; use as a context manager, from any thread.

    Args:
        labels: cells in the order in which they run.
        console: where to show it; standard error by default, so that standard output carries results only.
    """

    def __init__(self, labels: list[str], console: Console | None = None) -> None:
        self.console = console or _Patient(stderr=True)
        self.rows = {label: Row(label) for label in labels}
        self.notes: list[str] = []
        self._live: Live | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._renderable, console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()

    def _renderable(self) -> Table:
        with self._lock:
            return render(list(self.rows.values()), self.notes, time.monotonic())

    def _line(self, text: str) -> None:
        if self._live is None:
            self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

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
                row.state = phase
                self._line(f"{label}: {phase}")

    def done(self, cell: Cell, *, ran: bool) -> Cell:
        """Say how a cell ended; returns the cell."""
        with self._lock:
            row = self.rows.setdefault(cell.label, Row(cell.label))
            row.state = cell.outcome if ran else "stored" if cell.outcome == "ok" else cell.outcome
            row.seconds = float(cell.details.get("wall_seconds", cell.seconds.get("total", 0.0)))
            row.detail = cell.reason
            reason = f": {cell.reason}" if cell.reason else ""
            self._line(f"{cell.label}: {row.state} ({row.seconds:.0f} s){reason}")
        return cell

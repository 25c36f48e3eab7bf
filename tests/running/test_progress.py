"""A live board on a terminal and plain lines elsewhere, both from the same rows."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.environments.supervise import Control
from harness.home import Home
from harness.running.progress import Board, Row, render
from harness.running.work import Work
from tests.support.cell_specs import cell, spec


def shown(rows: list[Row], notes: list[str] | None = None, now: float = 0.0) -> list[str]:
    """The board as lines of text, without styles."""
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(render(rows, notes or [], now))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def styled(row: Row) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(render([row], [], 0.0))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def plain() -> Console:
    return Console(file=io.StringIO(), width=60, force_terminal=False)


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_row_has_label_state_seconds_and_detail():
    (line,) = shown([Row("2.5.0", "train", "detail", started=10.0)], now=52.4)

    assert line.split() == ["2.5.0", "train", "42", "s", "detail"]


def test_a_row_that_waits_has_no_seconds_and_one_that_ended_has_its_own():
    waiting, ended = shown([Row("2.5.0"), Row("2.6.0", "ok", started=10.0, seconds=7.0)], now=100.0)

    assert waiting.split() == ["2.5.0", "waiting"]
    assert ended.split() == ["2.6.0", "ok", "7", "s"]


def test_rows_keep_their_order():
    assert [line.split()[0] for line in shown([Row("b"), Row("a"), Row("c")])] == ["b", "a", "c"]


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "[link=file:///etc]y", "a [b] c", "[bold"])
@pytest.mark.parametrize("field", ["label", "state", "detail"])
def test_markup_in_what_is_shown_is_shown_and_not_obeyed(field, text):
    row = Row(**{"label": "2.5.0", field: text})

    assert text in shown([row])[0]


def test_markup_in_a_note_is_shown_and_not_obeyed():
    assert "[red]x[/]" in shown([], ["[red]x[/]"])[0]


def test_only_the_last_notes_are_shown():
    assert [line.strip() for line in shown([], [f"note {n}" for n in range(9)])] == ["note 6", "note 7", "note 8"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (Row("a", "ok", seconds=1.0), "32"),
        (Row("a", "stored", seconds=1.0), "32"),
        (Row("a", "unsupported", seconds=1.0), "33"),
        (Row("a", "crashed", seconds=1.0), "31"),
        (Row("a", "train", started=0.0), "36"),
        (Row("a"), "2"),
    ],
)
def test_states_have_colours(row, code):
    assert f"\x1b[{code}m{row.state}" in styled(row)


def test_without_a_terminal_there_is_a_plain_line_for_each_phase():
    console = plain()
    with Board(["2.5.0"], console, every=0) as board:
        board.phase("2.5.0", "start")
        board.phase("2.5.0", "train")
        board.phase("2.5.0", "train")
        board.progress("2.5.0", "7 passages")
        board.note("2.5.0: a note [with] brackets")
        board.done(cell(spec("2.5.0"), details={"wall_seconds": 12.3}), ran=True)

    assert lines(console) == [
        "2.5.0: start",
        "2.5.0: train",
        "2.5.0: train, 7 passages",
        "2.5.0: a note [with] brackets",
        "2.5.0: ok (12 s)",
    ]
    assert "\x1b" not in "".join(lines(console))


def test_elsewhere_what_goes_well_is_one_line_with_counts_now_and_then():
    """However many cells and phases there are; the last word is said, and what went wrong is said at once."""
    console = plain()
    labels = [f"2.{number}.0" for number in range(30)]
    bad = cell(spec("2.7.0"), outcome="crashed", reason="It fell.", artifacts={})
    with Board(labels, console, every=600) as board:
        for label in labels:
            board.phase(label, "train")
            board.done(bad if label == "2.7.0" else cell(spec(label)), ran=True)

    assert lines(console) == [
        "[0 of 30] 2.0.0: train", "[8 of 30] 2.7.0: crashed (2 s): It fell.", "[30 of 30] 2.29.0: ok (2 s)",
    ]  # fmt: skip


def test_what_is_due_is_said_when_its_time_comes_though_nothing_else_happens():
    console = plain()
    board = Board(["2.5.0", "2.6.0"], console, every=0.05)
    board.phase("2.5.0", "start")
    board.phase("2.5.0", "train")
    until = time.monotonic() + 30
    while len(lines(console)) < 2 and time.monotonic() < until:
        time.sleep(0.01)

    assert lines(console) == ["[0 of 2] 2.5.0: start", "[0 of 2] 2.5.0: train"]


def test_a_long_line_is_not_broken_where_there_is_no_terminal():
    console = plain()
    with Board([], console) as board:
        board.note("word " * 40)

    assert len(lines(console)) == 1


def test_how_a_cell_ended_is_said_with_its_reason():
    console = plain()
    ended = cell(spec("2.5.0", repeat=1), outcome="timeout", reason="The job was stopped.", artifacts={})
    with Board(["2.5.0#1"], console) as board:
        assert board.done(ended, ran=True) == ended

    assert lines(console) == ["2.5.0#1: timeout (2 s): The job was stopped."]


@pytest.mark.parametrize(
    ("outcome", "state"), [("ok", "stored"), ("unsupported", "unsupported"), ("crashed", "crashed")]
)
def test_a_cell_that_was_there_already_is_stored_and_a_failed_one_says_so(outcome, state):
    with Board(["2.8.0"], plain()) as board:
        board.done(cell(outcome=outcome), ran=False)

    assert board.rows["2.8.0"].state == state


def test_on_a_terminal_the_board_is_drawn_and_no_lines_are_printed():
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    with Board(["2.5.0", "2.6.0"], console) as board:
        board.phase("2.5.0", "train")

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2.6.0" in text
    assert "2.5.0: train" not in text


def test_progress_goes_to_standard_error(capsys):
    with Board(["2.5.0"]) as board:
        board.note("a note")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a note\n")


def ensured(tmp_path: Path, console: Console, *, ready: bool) -> None:
    """A sweep that needs an environment, which is there or is built."""

    def ensure(report: Callable[[str], None], _deadline: float, _control: object) -> str:
        if not ready:
            report("2.8.0: building the environment (9 packages)")
            time.sleep(1.3)
        return "interpreter"

    experiment = SimpleNamespace(
        environment=lambda _version: SimpleNamespace(ensure=ensure), home=Home(tmp_path),
        job=SimpleNamespace(deadlines=SimpleNamespace(install=1.0)),
    )  # fmt: skip
    with Board(["2.8.0"], console, every=0) as board:
        of = Work(experiment, [], board, 1, evict_after=False)  # type: ignore[arg-type]
        assert of.ensure("2.8.0", Control(), "2.8.0") == "interpreter"  # type: ignore[comparison-overlap]


def test_only_an_environment_that_is_not_ready_is_said_to_be_built_and_how_much_is_written(tmp_path):
    ready, built = plain(), plain()
    ensured(tmp_path, ready, ready=True)
    ensured(tmp_path, built, ready=False)

    assert lines(ready) == []
    assert lines(built)[:2] == ["2.8.0: building the environment (9 packages)", "2.8.0: building the environment"]
    assert re.fullmatch(r"2\.8\.0: building the environment, \d+\.\d GB written", lines(built)[2])

"""The page's charts as files, for release notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.report.headline import VersionPair
from harness.report.page import charts
from harness.report.page.folder import Folder
from harness.report.page.ladder import ladder_of
from harness.report.page.steps import changes, moved

Drawing = tuple[str, str, Callable[..., Any], Any]
"""Name of the file, what it shows, the chart, and what it is drawn from."""


def write_plots(folder: Folder, output: Path) -> tuple[list[Path], list[str]]:
    """Write each chart that the tables have data for as SVG and PNG; returns the files, and what could not be drawn."""
    written, missing = [], []
    for name, title, draw, data in _drawings(folder):
        figure = charts.drawn(draw, data)
        if figure is None:
            missing.append(f"No {name}: {folder.path} holds nothing to draw it from.")
            continue
        output.mkdir(parents=True, exist_ok=True)
        svg, png = (output / f"{name}.{kind}" for kind in ("svg", "png"))
        svg.write_text(charts.svg(figure, name, title), encoding="utf-8")
        png.write_bytes(charts.png(figure))
        written += [svg, png]
    return written, missing


def _drawings(folder: Folder) -> Iterator[Drawing]:
    """Every chart that a folder may have."""
    steps = [step for step in folder.steps if changes(folder, step)]
    yield "ladder", f"All steps of {folder.title}", charts.ladder_chart, ladder_of(folder)
    for step in steps:
        rows = [one.row for one in moved(folder, step)]
        yield f"spread-{_file(step)}", f"{_name(step)}: how far apart elements are", charts.spread_chart, rows
    if folder.makes != "index":
        for step in steps:
            rows = [row for row in folder.rows("training", step) if row["kind"] == "consecutive"]
            yield f"loss-{_file(step)}", f"{_name(step)}: losses", charts.loss_chart, rows
    searched = [(_name(step), folder.rows("retrieval", step)) for step in steps]
    yield "rankings", f"Rankings that change, {folder.title}", charts.ranks_chart, searched


def _name(step: VersionPair) -> str:
    return " → ".join(step)


def _file(step: VersionPair) -> str:
    return "-".join(step)

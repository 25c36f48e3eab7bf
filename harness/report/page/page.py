"""The page: tables and charts put into the template, and nothing that a browser would have to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import UsageError, printable
from harness.report.headline import VersionPair
from harness.report.page import charts
from harness.report.page.folder import Folder, Row, read_folders
from harness.report.page.ladder import EQUAL, MEANING, UNKNOWN, ladder_of
from harness.report.page.steps import (
    Exchange,
    Grid,
    Moved,
    Origin,
    batch_grid,
    blamed,
    exchanges,
    headline_row,
    moved,
    origins,
    probe_changes,
    repeats,
    repro_scripts,
)
from harness.report.page.verdict import StepLine, arrow, step_lines, verdict
from harness.report.readable import deployments, number, share
from harness.words import count, size, ulps

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 1_000_000
"""Bytes that a page has at most."""


@dataclass(frozen=True)
class Panel:
    """What one folder says of one step; `charts` are SVG elements by name, or empty."""

    folder: Folder
    number: int
    row: Row
    packages: Sequence[Row]
    origins: Sequence[Origin]
    exchanges: Mapping[str, Sequence[Exchange]]
    blamed: Sequence[str]
    moved: Sequence[Moved]
    unknown: Sequence[str]
    grid: Grid | None
    probes: Sequence[str]
    retrieval: Mapping[str, Mapping[str, Row]]
    training: Sequence[Row]
    trained: Row | None
    charts: Mapping[str, str]
    texts: Sequence[Path]


@dataclass(frozen=True)
class Section:
    """A step that changes something: a panel for each folder that shows it, and a word on the others."""

    line: StepLine
    panels: Sequence[Panel]
    others: Sequence[str]
    scripts: Sequence[Path]


def write_page(paths: Sequence[Path], target: Path) -> Path:
    """Write the page of folders of tables to a file; returns the file.

    Raises:
        UsageError: one is no folder of tables, or the page would be too large.
    """
    target.write_text(page(read_folders(paths), target), encoding="utf-8")
    return target


def page(folders: Sequence[Folder], target: Path) -> str:
    """The page of some folders.

    Args:
        folders: from `read_folders`; their order is that of columns.
        target: where it will be written: links are relative to it.

    Raises:
        UsageError: it would be larger than `LIMIT`.
    """
    lines = step_lines(folders)
    ladders = [ladder_of(folder) for folder in folders]
    text = render(
        "page.html", target,
        folders=folders, ladders=ladders, lines=lines, verdict=verdict(folders, lines),
        sections=[_section(folders, line) for line in lines if line.changes],
        repeats=[repeats(folder) for folder in folders],
        cells=[list(_cells(folder)) for folder in folders],
    )  # fmt: skip
    if len(text.encode()) > LIMIT:
        raise UsageError(
            f"The page would have {size(len(text.encode()))}, more than {size(LIMIT)}: name fewer folders of tables."
        )
    return text


def _section(folders: Sequence[Folder], line: StepLine) -> Section:
    panels, others = [], []
    for k, folder in enumerate(folders):
        row = headline_row(folder, line.step)
        state = line.states[k]
        shown = moved(folder, line.step)
        if row is not None and state != UNKNOWN and any(one.state != UNKNOWN for one in shown):
            panels.append(_panel(folder, k, row, line.step, shown))
        elif row is None:
            others.append(f"{folder.title}: lacks this step.")
        else:
            equal = "bit for bit the same" if state == EQUAL else f"not compared ({row['gap'] or 'nobody knows why'})"
            others.append(f"{folder.title}: {equal}.")
    return Section(line, panels, others, repro_scripts(folders, line.step))


def _panel(folder: Folder, k: int, row: Row, step: VersionPair, shown: Sequence[Moved]) -> Panel:
    retrieval = folder.rows("retrieval", step)
    measures: dict[str, dict[str, Row]] = {}
    for one in retrieval:
        measures.setdefault(one["measure"], {})[one["deployment"]] = one
    training = [one for one in folder.rows("training", step) if one["kind"] == "consecutive"]
    name = f"c{k}-{'-'.join(step)}"
    drawn = {
        "spread": (charts.spread_chart, [one.row for one in shown], "how far apart elements are"),
        "interval": (charts.interval_chart, retrieval, "differences of measures with their intervals"),
        "loss": (charts.loss_chart, training, "losses of both trainings"),
    }
    return Panel(
        folder, k, row, folder.rows("env_delta", step), origins(folder, step), exchanges(folder, step),
        blamed(folder, step),
        [one for one in shown if one.state != UNKNOWN], [one.name for one in shown if one.state == UNKNOWN],
        batch_grid(folder, step), probe_changes(folder, step), measures,
        [one for one in training if one["first"] and one["step"] is not None],
        next((one for one in training if one["step"] is None and one["relative_distance"] is not None
              and one["parameter"] is None), None),
        {which: _svg(draw, data, f"{name}-{which}", f"{' → '.join(step)}: {what}")
         for which, (draw, data, what) in drawn.items()},
        [path for path in folder.texts if f"-{'-'.join(step)}" in path.stem],
    )  # fmt: skip


def _svg(draw: Callable[..., Any], data: Sequence[Row], name: str, title: str) -> str:
    figure = charts.drawn(draw, data)
    return "" if figure is None else charts.svg(figure, name, title, page=True)


_SHARED = ("settings", "environment", "switches", "sources")
"""Columns of a cell that are long, and mostly the same for all cells of a folder."""


def _cells(folder: Folder) -> Iterator[tuple[str, Sequence[str]]]:
    """What is the same for all cells or for some: column, with its value and who has it."""
    cells = folder.rows("cells")
    for column in _SHARED:
        found: dict[str, list[str]] = {}
        for row in cells:
            if row[column]:
                found.setdefault(row[column], []).append(label(row))
        for text, labels in found.items():
            who = "all cells" if len(labels) == len(cells) else ", ".join(dict.fromkeys(labels))
            yield f"{column} of {who}", _settings(text)


def _settings(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    return [f"{key} = {value}" for key, value in found.items()] if isinstance(found, dict) else [text]


def label(row: Row) -> str:
    """A cell by its version, and its index and repeat where it has them."""
    searched = f" in {row['index']}" if row["job"] == "search" and row["index"] else ""
    return f"{row['version']}{searched}" + (f"#{row['repeat']}" if row["repeat"] else "")


# ---- the template


def render(template: str, target: Path, **data: Any) -> str:  # noqa: ANN401 - whatever the template names
    """A template of this folder, with what all of them share; nothing from a table can become markup."""
    environment = _environment()
    script, _, _ = environment.loader.get_source(environment, "script.js")  # type: ignore[union-attr]
    style, _, _ = environment.loader.get_source(environment, "style.css")  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {"script": script, "style": style, "digest": digest, "version": __version__, "meaning": MEANING}

    def link(path: Path) -> str:
        return os.path.relpath(path.resolve(), target.resolve().parent)

    return environment.get_template(template).render(**shared, link=link, **data)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def shown(value: object) -> object:
        """What a template prints: markup of ours as it is, all else without what would reorder or hide text."""
        return value if value is None or hasattr(value, "__html__") else printable(value)

    environment = Environment(
        loader=PackageLoader("harness.report.page"), autoescape=True, undefined=StrictUndefined, finalize=shown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number, "short": short, "share": share, "label": label,
        "count": count, "size": size, "measured": measured, "arrow": arrow,
    }  # fmt: skip
    environment.globals |= {"deployments": deployments(), "UNKNOWN": UNKNOWN}
    return environment


def short(value: float | None) -> str:
    """A measured number, three digits of it."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def measured(row: Row) -> str:
    """How much of an operator's result differs."""
    if row["n"] is None:
        return row["reason"] or "differs"
    much = f"{row['n_mismatch']:,} of {row['n']:,} elements"
    # Tables of locations that are older than the column say it in no unit that is right everywhere.
    return f"{much}, at most {short(row['max_abs'])}" + (f" ({ulps(row['max_abs_ulp'])})" if row["max_abs_ulp"] else "")

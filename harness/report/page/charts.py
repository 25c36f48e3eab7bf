"""Charts that the page and `harness plot` share: drawn without a display, as SVG whose text stays text, or as PNG."""

from __future__ import annotations

import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from harness.artifacts.comparison import OCTAVES
from harness.errors import printable
from harness.report.page.folder import Row
from harness.report.page.ladder import CHANGED, CLOSE, EQUAL, NOISE, UNKNOWN, Ladder
from harness.report.readable import clean, deployments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, FIRST, SECOND, PAPER = "#1d2433", "#5b6472", "#d7dce3", "#0b5cad", "#b0431b", "#ffffff"
_THEME = {INK: "ink", MUTED: "muted", GRID: "line", FIRST: "first", SECOND: "second", PAPER: "paper"}
"""Colours of a file; on the page each is the variable of this name, which has a value for light and one for dark."""

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "text.parse_math": False,  # a name with $ in it is a name
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": GRID,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.linewidth": 0.8, "legend.frameon": False, "legend.fontsize": 8,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.titlesize": 9, "axes.titlelocation": "left",
    "xtick.minor.visible": False, "ytick.minor.visible": False, "axes.unicode_minus": True,
    "path.simplify_threshold": 1.0,
}  # fmt: skip


def _label(text: str) -> str:
    """A name as it stands in a chart: short enough to leave the chart some room."""
    return clean(text, 32)


@contextmanager
def _settings(**more: str) -> Iterator[None]:
    """All that is drawn or written is so with these settings, whatever the user's own are."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update(_SETTINGS | {name.replace("_", "."): value for name, value in more.items()})
        yield


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches with axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.set_facecolor("none")
    return figure, list(axes)


def drawn(draw: Any, *data: Any) -> Figure | None:  # noqa: ANN401 - any chart below, with what it takes
    """A chart with the settings of all charts; None where there is nothing to draw."""
    with _settings():
        figure: Figure | None = draw(*data)
        if figure is not None:
            # Once and for all; an engine that stays has a figure drawn twice whenever it is written.
            layout = figure.get_layout_engine()
            if layout is not None:
                layout.execute(figure)
            figure.set_layout_engine(None)
        return figure


def svg(figure: Figure, name: str, title: str, *, page: bool = False) -> str:
    """A figure as an SVG element.

    Args:
        figure: from `drawn`.
        name: unique on a page: what is referred to inside gets names from it.
        title: what it shows, for those who do not see it.
        page: with the page's colours, without a background and of any width; else a file that stands alone.
    """
    stream = io.StringIO()
    with _settings(svg_hashsalt=name):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing, transparent=page)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Groups are numbered from 1 in every figure, and an id may be on a page only once.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    if page:
        for colour, variable in _THEME.items():
            text = re.sub(rf"(fill|stroke): {colour}", rf"\1: var(--{variable})", text)
        text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", text)
        text = re.sub(r"font-family: [^;\"]*; ?", "", text)
        text = re.sub(r' transform="rotate\(-0[^"]*"', "", text)
        text = text.replace("stroke-linejoin: miter", "").replace('; "', '"')
        text = re.sub(r'xmlns(:xlink)?="[^"]*" ?', "", text, count=2).replace("xlink:href", "href")
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
        text = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), text)
        text = re.sub(r"\s*\n\s*", "\n", _styled_once(text, f"s{zlib.crc32(name.encode()):x}"))
    described = f'<svg role="img" aria-label="{escape(printable(title))}"'
    return text.replace("<svg", described, 1)


def _styled_once(text: str, prefix: str) -> str:
    """The same with each style written once, as a class: a figure has a thousand elements of a dozen styles."""
    classes: dict[str, str] = {}
    text = re.sub(
        r'style="([^"]*)"',
        lambda found: f'class="{classes.setdefault(found[1], f"{prefix}-{len(classes)}")}"',
        text,
    )
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    return text.replace("</style>", f"{rules}</style>", 1)


def png(figure: Figure) -> bytes:
    """A figure as a PNG of twice the usual density."""
    stream = io.BytesIO()
    with _settings():
        figure.savefig(stream, format="png", dpi=200)
    return stream.getvalue()


# ---- charts

_MARKERS = {EQUAL: ("_", MUTED, MUTED), CLOSE: ("s", PAPER, FIRST), CHANGED: ("s", SECOND, SECOND),
            NOISE: ("x", MUTED, MUTED), UNKNOWN: ("", MUTED, MUTED)}  # fmt: skip


def ladder_chart(ladder: Ladder) -> Figure | None:
    """Artifacts that differ somewhere as rows, steps as columns, a mark of its own shape for each state."""
    rows = [(one.artifact, one.states) for one in ladder.moved]
    if ladder.still:
        named = ladder.still[0].artifact if len(ladder.still) == 1 else f"{len(ladder.still)} others"
        rows.append((named, ladder.together))
    if not rows or not ladder.steps:
        return None
    figure, [axes] = _figure(4 + 0.3 * len(ladder.steps), 1.7 + 0.2 * len(rows))
    for state, (marker, face, edge) in _MARKERS.items():
        places = [(x, y) for y, (_, states) in enumerate(rows) for x, one in enumerate(states) if one == state]
        if places:
            xs, ys = zip(*places, strict=True)
            if state == UNKNOWN:
                for x, y in places:
                    axes.text(x, y, "?", ha="center", va="center", color=MUTED, fontsize=8)
                axes.plot([], [], " ", label="? unknown")
                continue
            axes.plot(xs, ys, linestyle="", marker=marker, markerfacecolor=face, markeredgecolor=edge, markersize=6,
                      label=state)  # fmt: skip
    axes.set_yticks(range(len(rows)), [_label(name) for name, _ in rows])
    axes.set_xticks(range(len(ladder.steps)), [_label(f"{a} → {b}") for a, b in ladder.steps], rotation=90)
    axes.set_xlim(-0.6, len(ladder.steps) - 0.4)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.2, handletextpad=0.3)
    return figure


def spread_chart(rows: Sequence[Row]) -> Figure | None:
    """How far apart elements are, |A - B| and ULP, one line of bars an artifact; from rows of `comparisons`.

    Bars are octaves, from a power of two to the next; elements that do not differ are not drawn.
    """
    found = [(row["artifact"], *octaves(row)) for row in rows]
    found = [one for one in found if one[1]]
    if not found:
        return None
    kinds = [(1, "|A - B|"), *([(2, "ULP")] if any(ulp for _, _, ulp in found) else [])]
    figure, axes = _figure(3.4 * len(kinds) + 0.6, 0.7 + 0.34 * len(found), len(kinds))
    for one, (column, title) in zip(axes, kinds, strict=True):
        for y, entry in enumerate(found):
            counts: Mapping[int, int] = entry[column]
            if not counts:
                continue
            edges = range(min(counts), max(counts) + 2)
            # A single element is to be seen beside millions.
            most = math.log1p(max(counts.values()))
            heights = [0.8 * math.log1p(counts.get(power, 0)) / most for power in edges[:-1]]
            bottom = -y - 0.4
            one.stairs([bottom + height for height in heights], list(edges), baseline=bottom, fill=True, color=FIRST,
                       linewidth=0, clip_on=False)  # fmt: skip
        one.set_yticks([-y for y in range(len(found))], [_label(name) for name, *_ in found])
        if column == 2:
            one.set_yticklabels([])
        one.set_ylim(-len(found) + 0.45, 0.5)
        one.set_title(f"{title}, elements by power of two")
        drawn_powers = [power for entry in found for power in entry[column]] or [0]
        one.set_xlim(min(drawn_powers) - 0.5, max(drawn_powers) + 1.5)
        marks = _ticks(min(drawn_powers), max(drawn_powers) + 1)
        one.set_xticks(marks, [_power(mark) for mark in marks])
        one.tick_params(axis="y", length=0)
        one.grid(visible=False, axis="y")
    return figure


def octaves(row: Row) -> tuple[dict[int, int], dict[int, int]]:
    """The two histograms of a row of `comparisons`; empty where the table was made without them."""
    try:
        details = json.loads(row["details"] or "{}")
        return tuple(  # type: ignore[return-value]
            {int(power): int(number) for power, number in (details.get(name) or {}).items()} for name in OCTAVES
        )
    except (ValueError, TypeError, AttributeError):
        return {}, {}


def _ticks(low: float, high: float) -> list[int]:
    every = max(1, math.ceil((high - low) / 6))
    return list(range(math.ceil(low), math.floor(high) + 1, every))


def _power(exponent: int) -> str:
    """2 to the power, as a short number."""
    value = 2.0**exponent
    return f"{value:,.0f}" if 1 <= value < 10000 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def loss_chart(rows: Sequence[Row]) -> Figure | None:
    """Losses of both trainings, and how far apart they are beside the noise floor; from rows of `training`."""
    curve = sorted(
        (row for row in rows if row["quantity"] == "loss" and row["step"] is not None), key=lambda row: row["step"]
    )
    if not any(row["value_a"] is not None and row["value_b"] is not None for row in curve):
        return None
    steps = [row["step"] for row in curve]

    def values(name: str) -> list[float]:
        return [math.nan if row[name] is None else float(row[name]) for row in curve]

    figure, [left, right] = _figure(7.2, 2.3, 2)
    left.plot(steps, values("value_a"), color=FIRST, linewidth=1.6, label=_label(curve[0]["a"]))
    left.plot(steps, values("value_b"), color=SECOND, linewidth=1.2, linestyle=(0, (3, 2)),
              label=_label(curve[0]["b"]))  # fmt: skip
    left.set_title("loss")
    left.set_xlabel("step")
    left.legend()
    right.plot(steps, values("diff"), color=SECOND, linewidth=1.4, label="|A - B|")
    if any(row["noise_diff"] for row in curve):
        right.plot(steps, values("noise_diff"), color=MUTED, linewidth=1, linestyle=":", label="noise floor")
    smallest = min((one for one in values("diff") if one > 0), default=1e-8)
    right.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(smallest)))
    low, high = math.floor(math.log10(smallest)), math.ceil(math.log10(max((*values("diff"), smallest * 10))))
    every = max(1, math.ceil((high - low) / 4))
    right.set_yticks([0, *(10.0**power for power in range(low, high + 1, every))],
                     ["0", *(f"1e{power}" for power in range(low, high + 1, every))])  # fmt: skip
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set_title("|A - B| of the loss")
    right.set_xlabel("step")
    right.legend()
    return figure


_DEPLOYMENTS = deployments()


def interval_chart(rows: Iterable[Row]) -> Figure | None:
    """Differences of measures by judgements with their intervals, against how large one may be that nobody minds."""
    judged = [row for row in rows if row["diff"] is not None]
    if not judged:
        return None
    measures = list(dict.fromkeys(row["measure"] for row in judged))
    figure, axes = _figure(2.1 * len(measures) + 1.2, 0.6 + 0.22 * len(_DEPLOYMENTS), len(measures))
    for k, (one, measure) in enumerate(zip(axes, measures, strict=True)):
        delta = next((row["delta"] for row in judged if row["measure"] == measure and row["delta"]), None)
        for y, name in enumerate(_DEPLOYMENTS):
            for row in judged:
                if (row["measure"], row["deployment"]) == (measure, name):
                    low, high = _interval(row)
                    one.plot([low, high], [-y, -y], color=FIRST, linewidth=2.2, solid_capstyle="butt")
                    one.plot([row["diff"]], [-y], marker="|", color=FIRST, markersize=7)
        furthest = max(abs(end) for row in judged if row["measure"] == measure for end in _interval(row))
        if delta:
            for edge in (-delta, delta):
                one.axvline(edge, color=SECOND, linewidth=0.9, linestyle=(0, (3, 2)))
            reach = 1.25 * max(delta, furthest)
            one.set_xlim(-reach, reach)
            one.set_xticks([-delta, 0, delta], [f"-{delta:g}", "0", f"+{delta:g}"])
        one.set_yticks([-y for y in range(len(_DEPLOYMENTS))], list(_DEPLOYMENTS.values()) if k == 0 else [""] * 3)
        one.set_ylim(-len(_DEPLOYMENTS) + 0.4, 0.6)
        one.set_title(_label(measure))
        one.tick_params(axis="y", length=0)
        one.grid(visible=False, axis="y")
    return figure


def _interval(row: Row) -> tuple[float, float]:
    """The ends of a difference's interval; the difference itself where it has none."""
    low, high = (float(row["diff"] if row[end] is None else row[end]) for end in ("ci_low", "ci_high"))
    return low, high


def ranks_chart(steps: Sequence[tuple[str, Sequence[Row]]]) -> Figure | None:
    """Of how many queries the list changes, in B on A's index and in B on its own, a bar a step.

    Args:
        steps: name of each step, and its rows of `retrieval`.
    """
    bars = []
    for name, rows in steps:
        for deployment in ("b_on_a", "b_on_b"):
            found = {row["measure"]: row["value"] for row in rows if row["deployment"] == deployment}
            if found.get("identical") is not None:
                ties = found.get("tie_only") or 0.0
                bars.append(
                    (f"{_label(name)}, {_DEPLOYMENTS[deployment]}", ties, max(1 - found["identical"] - ties, 0.0))
                )
    if not bars:
        return None
    figure, [axes] = _figure(7.2, 0.9 + 0.24 * len(bars))
    places = [-y for y in range(len(bars))]
    moved = [100 * one for _, _, one in bars]
    axes.barh(places, moved, height=0.6, color=SECOND, label="another order")
    axes.barh(places, [100 * one for _, one, _ in bars], left=moved, height=0.6, facecolor=PAPER, edgecolor=FIRST,
              hatch="////", label="only equal scores in another order")  # fmt: skip
    for y, (_, ties, other) in zip(places, bars, strict=True):
        axes.text(100 * (ties + other) + 0.6, y, f"{100 * (ties + other):.1f} %", va="center", fontsize=8, color=INK)
    axes.set_yticks(places, [name for name, _, _ in bars])
    axes.set_xlim(0, max(10.0, 1.15 * max(100 * (ties + other) for _, ties, other in bars)))
    axes.set_xlabel("% of queries that get another list than from A in its own index")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure

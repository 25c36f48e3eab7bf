"""From the store to tables, the headline and one plain sentence: what `consecutive`, `sweep` and `quickstart` share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from rich.console import Console

from harness.choice import Choice, describe
from harness.compare import ArtifactComparison
from harness.errors import UsageError, printable
from harness.ladder import Step, ladder
from harness.matrix import Matrix
from harness.metrics import Profile
from harness.pipeline import is_final
from harness.repeats import noise_floors
from harness.screen import PLAIN, Screen, table, wrap
from harness.store import Cell
from harness.tables import (
    COLUMNS,
    Headline,
    Pair,
    headline,
    headline_cells,
    markdown_table,
    pairs_of,
    repeat_pairs,
    write_tables,
)
from harness.words import count

_LESSER = [COLUMNS.index(name) for name in ("All shapes match", "bnb", "Bit-equal")]
"""Columns that a narrow screen does without."""


@dataclass(frozen=True)
class Reduced:
    """What a reduction gave.

    Attributes:
        about: one line that says of what collection, checkpoint and device the table is.
        pairs: all comparisons.
        rows: the headline table.
        repeats: headline rows of A against A.
        files: tables written.
        note: one line that says what is stored besides and was not used; empty where there is nothing.
        across: steps over versions that could not be compared, whose sides differ beyond noise.
    """

    about: str
    pairs: list[Pair]
    rows: list[Headline]
    repeats: list[Headline]
    files: list[Path]
    note: str = ""
    across: tuple[Step, ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether any pair differs beyond what A against A shows, or the two sides of what could not be compared."""
        beyond = (row.changed and len(row.noisy or ()) < row.total - row.bit_equal for row in self.rows)
        return bool(self.across) or any(beyond)


def profiles_of(matrix: Matrix) -> list[Profile]:
    """The matrix's tolerance profiles as the comparer takes them."""
    return [
        Profile(
            name,
            (rules["other"].atol, rules["other"].rtol),
            {dtype: (rule.atol, rule.rtol) for dtype, rule in rules.items() if dtype != "other"},
        )
        for name, rules in matrix.tolerances.items()
    ]


def reduce_cells(matrix: Matrix, choice: Choice, versions: Sequence[str], output: Path) -> Reduced:
    """Compare the chosen cells over `versions`, and write the tables below `output`.

    Raises:
        UsageError: none of the cells is of these versions.
    """
    cells = [cell for cell in choice.cells if cell.version in versions]
    if not cells:
        raise UsageError(
            f"No cell of {', '.join(versions)} is stored for {describe(choice.cells)}: `harness plan` shows what is."
            + (f" {choice.note}" if choice.note else "")
        )
    pairs = pairs_of(choice.store, cells, versions, profiles_of(matrix))
    noise = repeat_pairs(pairs)
    spec = cells[0].spec
    collection = spec["collection"]
    files = write_tables(
        output,
        cells,
        pairs,
        choice.locks,
        {
            "device": spec["device"],
            "collection": f"{collection['name']} {collection['passages']} {collection['digest']}",
            "checkpoint": f"{spec['checkpoint']['name']} {spec['checkpoint']['digest']}",
            "group": cells[0].group,
        },
    )
    rows = [(pair.kind, headline(pair, noise)) for pair in pairs]
    return Reduced(
        describe(cells),
        pairs,
        [row for kind, row in rows if kind == "consecutive"],
        [row for kind, row in rows if kind == "repeat"],
        files,
        choice.note,
        _across(cells, versions),
    )


def _across(cells: Sequence[Cell], versions: Sequence[str]) -> tuple[Step, ...]:
    """Steps from one version with an index to the next such, over others between them, that changed the index.

    By digest: a version that did not end well must not hide that the one after it is not the one before it.
    """
    good = {cell.version: cell for cell in cells if cell.outcome == "ok" and not cell.repeat}
    shown = [version for version in versions if version in good]
    found = ladder(
        [(v, {name: one.digest for name, one in good[v].artifacts.items() if is_final(name)}) for v in shown],
        noise=noise_floors(good, cells),
    )
    neighbours = set(itertools.pairwise(versions))
    steps = (replace(step, changed=found.beyond_noise(step)) for step in found.steps)
    return tuple(step for step in steps if step.changed and (step.a, step.b) not in neighbours)


def result_console() -> Console:
    """Standard output for what rich prints, as wide as the screen; where that has no width, wide enough for a tree."""
    return Console(width=Screen.of().width or 160)


def headline_text(reduced: Reduced, screen: Screen = PLAIN, *, markdown: bool = False) -> str:
    """The table, the noise floor and the sentence."""
    cells = [headline_cells(row) for row in reduced.rows]
    if markdown:
        lines = [markdown_table(COLUMNS, cells)]
    else:
        cells = [tuple(map(printable, row)) for row in cells]
        styles = ["red" if row.gap else "yellow" if row.changed else "" for row in reduced.rows]
        lines = table(COLUMNS, cells, screen, lesser=_LESSER, elsewhere="--markdown", styles=styles)
    told = (wrap(printable(line), None if markdown else screen.width) for line in sentences(reduced))
    return "\n".join([*lines, "", *(part for parts in told for part in parts)])


def print_headline(reduced: Reduced, *, markdown: bool) -> None:
    """Print it to standard output."""
    screen = Screen.of()
    click.echo(headline_text(reduced, screen, markdown=markdown), color=screen.styles)


_SHOWN = 3
"""Steps that a sentence names before it counts the rest."""


def sentences(reduced: Reduced) -> list[str]:
    """What was found, in plain words: of what, the noise floor, then one sentence for each pair that changed."""
    lines = [f"{reduced.about}.", *([reduced.note] if reduced.note else [])]
    for row in reduced.repeats:
        name = row.a
        if row.gap:
            lines.append(f"Noise floor: {name} could not be repeated ({row.gap}).")
        elif row.changed:
            lines.append(
                f"Noise floor: {name} against itself changes {row.total - row.bit_equal} of {row.total} tensors, so "
                "this machine does not repeat the job; differences in the same tensors that are no greater mean "
                "nothing."
            )
        else:
            lines.append(f"Noise floor: {name} against itself is bit for bit the same in all {row.total} tensors.")
    shown = [pair for pair in reduced.pairs if pair.kind == "consecutive"]
    compared = [(row, pair) for row, pair in zip(reduced.rows, shown, strict=True) if not row.gap]
    unknown = [f"{row.a} -> {row.b}" for row, _ in compared if row.changed and row.noisy is None]
    if unknown:
        first = unknown[0].split()[0]
        more = f" and {len(unknown) - _SHOWN} more steps" if len(unknown) > _SHOWN else ""
        lines.append(
            f"Noise floor: not known for {', '.join(unknown[:_SHOWN])}{more}, because neither version is stored with a "
            f"repeat: `harness index {first} --repeat {first}` with the same options makes one."
        )
    gaps = len(reduced.rows) - len(compared)
    if gaps:
        steps = count(len(reduced.rows), "step")
        lines.append(f"{gaps} of {steps} could not be compared; the Outcome column says why.")
    lines += [
        f"{step.a} -> {step.b}, with what could not be compared between them, changed {', '.join(step.changed)}: "
        f"`harness compare {step.a} {step.b}` with the same options says by how much."
        for step in reduced.across
    ]
    if not reduced.rows:
        lines.append("There is one version, and no step to compare.")
    changed = [(row, pair) for row, pair in compared if row.changed]
    if compared and not changed:
        steps = "step" if len(compared) == 1 else "steps"
        lines.append(f"No tensor of the index changed by a bit in {len(compared)} {steps}.")
    lines += [_changed(row, pair) for row, pair in changed]
    return lines


def _changed(row: Headline, pair: Pair) -> str:
    final = [artifact for artifact in pair.final() if not artifact.bit_equal]
    names = [artifact.name for artifact in final]
    noise = ", none of them more than a repeat does" if set(names) <= set(row.noisy or ()) else ""
    start = (
        f"{row.a} -> {row.b} changed {len(final)} of {row.total} tensors of the index{noise}: "
        f"{', '.join(map(_how, final))}"
    )
    failing = {
        profile: [artifact.name for artifact in final if not artifact.close(profile)] for profile in ("default", "bnb")
    }
    verdicts = []
    for profile, failed in failing.items():
        if not failed:
            verdicts.append(f"all pass {profile}")
        elif failed == names:
            verdicts.append(f"{'none passes' if len(names) > 1 else 'it fails'} {profile}")
        else:
            verdicts.append(f"{', '.join(failed)} fail{'' if len(failed) > 1 else 's'} {profile}")
    first = pair.first_changed
    origin = f" The first artifact of the pipeline that differs is {first}." if first and first not in names else ""
    return f"{start}; {' and '.join(verdicts)}.{origin}"


def _how(artifact: ArtifactComparison) -> str:
    if artifact.status == "shape_mismatch":
        return f"{artifact.name} (shape {list(artifact.shape_a or ())} against {list(artifact.shape_b or ())})"
    facts = artifact.to_json()
    n, n_mismatch, max_ulp = (facts.get(name) for name in ("n", "n_mismatch", "max_ulp"))
    if n_mismatch is None:
        return f"{artifact.name} ({artifact.status})"
    buckets, buckets_n = (facts.get(name) for name in ("buckets_n_mismatch", "buckets_n"))
    if buckets is not None and buckets_n is not None:
        # A byte of packed residuals holds several bucket numbers, so a count of bytes would misstate the change.
        return f"{artifact.name} ({buckets:,} of {buckets_n:,} bucket numbers)"
    ulp = f", at most {max_ulp:,} ULP" if max_ulp else ""
    return f"{artifact.name} ({n_mismatch:,} of {n:,} elements{ulp})"

"""What a sweep's end prints: the headline table, and what changed, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import click
from rich.console import Console

from harness.artifacts.comparison import ArtifactComparison
from harness.errors import printable
from harness.explain.compared import ComparedCells
from harness.rankings.verdict import Verdict
from harness.report.headline import COLUMNS, Headline, VersionPair, headline_cells, headline_columns
from harness.report.packages_text import packages_sentence
from harness.report.readable import markdown_table
from harness.report.reduce import Reduced
from harness.report.screen import PLAIN, Screen, table, wrap
from harness.report.training_text import answer, notes
from harness.words import count, ulps

_LESSER = [COLUMNS.index(name) for name in ("All shapes match", "bnb", "Bit-equal")]
"""Columns that a narrow screen does without."""


def result_console() -> Console:
    """Standard output for what rich prints, as wide as the screen; where that has no width, wide enough for a tree."""
    return Console(width=Screen.of().width or 160)


def headline_text(reduced: Reduced, screen: Screen = PLAIN, *, markdown: bool = False) -> str:
    """The table, the noise floor and the sentence."""
    cells: list[tuple[str, ...]] = [headline_cells(row, reduced.axis) for row in reduced.rows]
    columns = headline_columns(reduced.axis)
    if reduced.verdicts:
        columns = (*columns, "Must I re-index?")
        cells = [(*of, row.must_reindex or "-") for of, row in zip(cells, reduced.rows, strict=True)]
    if markdown:
        lines = [markdown_table(columns, cells)]
    else:
        cells = [tuple(map(printable, row)) for row in cells]
        styles = ["red" if row.gap else "yellow" if row.changed else "" for row in reduced.rows]
        lines = table(columns, cells, screen, lesser=_LESSER, elsewhere="--markdown", styles=styles)
    told = (wrap(printable(line), None if markdown else screen.width) for line in sentences(reduced))
    return "\n".join([*lines, "", *(part for parts in told for part in parts)])


def _ends(pairs: Iterable[ComparedCells]) -> Iterator[str]:
    """How cells that were run did not end well: one line for all that ended alike."""
    ended: dict[str, list[str]] = {}
    for cell in {cell.label: cell for pair in pairs for cell in (pair.a, pair.b)}.values():
        if cell.key and cell.outcome != "ok":
            ended.setdefault(f"{cell.outcome}: {cell.reason}", []).append(cell.label)
    for told, labels in ended.items():
        yield f"{', '.join(labels)} {told.rstrip('.')}."


def print_headline(reduced: Reduced, *, markdown: bool) -> None:
    """Print it to standard output."""
    screen = Screen.of()
    click.echo(headline_text(reduced, screen, markdown=markdown), color=screen.styles)


_SHOWN = 3
"""Steps that a sentence names before it counts the rest."""


def sentences(reduced: Reduced) -> list[str]:
    """What was found, in plain words: of what, the noise floor, then one sentence for each pair that changed."""
    lines = [f"{reduced.about}.", *reduced.note.splitlines()]
    for row in reduced.repeats:
        if row.gap:
            lines.append(f"Noise floor: {row.a} could not be repeated ({row.gap}).")
        elif row.changed:
            lines.append(
                f"Noise floor: {row.a} against itself changes {row.total - row.bit_equal} of {row.total} tensors, so "
                "this machine does not repeat the job; differences in the same tensors that are no greater mean "
                "nothing."
            )
        else:
            lines.append(f"Noise floor: {row.a} against itself is bit for bit the same in all {row.total} tensors.")
    shown = [pair for pair in reduced.pairs if pair.kind == "consecutive"]
    compared = [(row, pair) for row, pair in zip(reduced.rows, shown, strict=True) if not row.gap]
    unknown = [f"{row.a} -> {row.b}" for row, _ in compared if row.changed and row.noisy is None]
    if unknown:
        first = unknown[0].split()[0]
        more = f" and {len(unknown) - _SHOWN} more steps" if len(unknown) > _SHOWN else ""
        lines.append(
            f"Noise floor: not known for {', '.join(unknown[:_SHOWN])}{more}, because neither version is stored with a "
            f"repeat: `harness {shown[0].a.job_kind.name} {first} --repeat {first}` with the same options makes one."
        )
    if gaps := len(reduced.rows) - len(compared):
        steps = count(len(reduced.rows), "step")
        lines.append(f"{gaps} of {steps} could not be compared; the Outcome column says why.")
        lines += _ends(shown)
    lines += [
        f"{step.a} -> {step.b}, with what could not be compared between them, changed {', '.join(step.changed)}: "
        f"`harness compare {step.a} {step.b}` with the same options says by how much."
        for step in reduced.across
    ]
    if not reduced.rows:
        lines.append("There is one version, and no step to compare.")
    for row, pair in compared:
        if pair.training is not None:
            lines += [f"{row.a} -> {row.b}: {answer(pair.training)}", *notes(pair.training)]
    changed = [(row, pair) for row, pair in compared if row.changed]
    if compared and not changed:
        product = shown[0].a.job_kind.product
        lines.append(f"No tensor of the {product} changed by a bit in {count(len(compared), 'step')}.")
    lines += [_changed(row, pair) for row, pair in changed]
    lines += [packages_sentence(*step, found) for step, found in reduced.packages.items()]
    lines += [found.sentence for found in reduced.verdicts.values()]
    lines += not_covered(reduced.verdicts)
    return lines


def not_covered(verdicts: Mapping[VersionPair, Verdict]) -> Iterator[str]:
    """What the answers say nothing of, with the steps that it is so for where others know it."""
    steps: dict[str, list[str]] = {}
    for (a, b), found in verdicts.items():
        for one in found.uncovered:
            steps.setdefault(one, []).append(f"{a} -> {b}")
    for one, those in steps.items():
        of = f" for {'; '.join(those)}" if len(those) < len(verdicts) else ""
        yield f"Not covered{of}: {one}"


def _changed(row: Headline, pair: ComparedCells) -> str:
    final = [artifact for artifact in pair.final() if not artifact.bit_equal]
    names = [artifact.name for artifact in final]
    noise = ", none of them more than a repeat does" if set(names) <= set(row.noisy or ()) else ""
    start = (
        f"{row.a} -> {row.b} changed {len(final)} of {row.total} tensors of the {pair.a.job_kind.product}{noise}: "
        f"{', '.join(map(_how, final))}"
    )
    verdicts = []
    for profile in ("default", "bnb"):
        if not (failed := [artifact.name for artifact in final if not artifact.close(profile)]):
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
    n, n_mismatch, steps = (facts.get(name) for name in ("n", "n_mismatch", "max_abs_ulp"))
    if n_mismatch is None:
        return f"{artifact.name} ({artifact.status})"
    buckets, buckets_n = (facts.get(name) for name in ("buckets_n_mismatch", "buckets_n"))
    if buckets is not None and buckets_n is not None:
        # A byte of packed residuals holds several bucket numbers, so a count of bytes would misstate the change.
        return f"{artifact.name} ({buckets:,} of {buckets_n:,} bucket numbers)"
    ulp = f", at most {ulps(steps)}" if steps else ""
    return f"{artifact.name} ({n_mismatch:,} of {n:,} elements{ulp})"

"""`harness rankings`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.options import matrix_option


@click.command(name="rankings")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--qrels", type=click.Path(path_type=Path), help="TREC's judgements, `qid 0 docid grade` a line: adds measures."
)
@click.option(
    "--k", "cutoffs", type=click.IntRange(min=1), multiple=True, metavar="K",
    help="Depth at which overlap is measured (default: `overlap` of `rankings` in matrix.yaml). May be given again.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@matrix_option
def command(
    a: Path, b: Path, qrels: Path | None, cutoffs: tuple[int, ...], as_json: bool, matrix_path: Path | None
) -> int:
    """Compare the rankings of A with those of B: TREC run files, `qid Q0 docid rank score tag` a line.

    The order of a list is that of its ranks; its scores only say what is tied. Exit code 0 when no list differs by more
    than the order of equal scores, or when with --qrels every measure is equivalent: the whole interval of its
    difference within delta (matrix.yaml). 1 when lists differ and that is not so. 2 when something cannot be read, and
    when nothing differs but one side has queries that the other has not.
    """
    import dataclasses

    from harness.artifacts.source import unique_names
    from harness.files import dumps
    from harness.inputs.rankings import settings_for
    from harness.rankings.comparison import compare_runs
    from harness.rankings.measures import Judge
    from harness.rankings.trec import read_qrels, read_run
    from harness.report.rankings_text import rankings_text
    from harness.report.screen import Screen

    settings = settings_for(matrix_path)
    if cutoffs:
        settings = dataclasses.replace(settings, overlap=tuple(sorted(set(cutoffs))))
    names = unique_names([a.name, b.name], [a, b])
    judge = Judge(read_qrels(qrels), settings.measures) if qrels is not None else None
    left, right = (read_run(path, name) for path, name in zip((a, b), names, strict=True))
    found = compare_runs(left, right, settings, judge)
    screen = Screen.of()
    click.echo(dumps(found.to_json()) if as_json else rankings_text(found, settings, screen), color=screen.styles)
    return int(found.outcome)

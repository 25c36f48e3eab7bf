"""`harness rankings`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import (
    group_option,
    refuse_others,
    selection_options,
    sites_options,
    training_options,
)


@click.command(name="rankings")
@click.argument("a")
@click.argument("b")
@click.option("--qrels", help="Judgements, for measures: TREC's qrels, or a .parquet file.")
@click.option(
    "--k", "cutoffs", type=click.IntRange(min=1), multiple=True, metavar="K",
    help="Depth at which overlap is measured (default: `overlap` of `rankings` in matrix.yaml). May be given again.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--queries", help="What stored searches searched for, where it is not the collection's own.")
@click.option("--limit-queries", type=click.IntRange(min=1), help="Only the first N queries, as they were searched.")
@click.option(
    "--search-k", "k", type=click.IntRange(min=1),
    help="Passages that stored searches were to return (their --k), where it is not matrix.yaml's.",
)  # fmt: skip
@click.option(
    "--job", type=click.Choice(["search", "train"]), default="search", show_default=True,
    help="train: A and B are stored trainings, each of whose models indexes and searches the collection first.",
)  # fmt: skip
@click.option(
    "--with", "version", metavar="VERSION",
    help="The version in whose environment both trained models index and search (default: A's).",
)  # fmt: skip
@training_options
@selection_options
@sites_options
@group_option
def command(
    a: str, b: str, cutoffs: tuple[int, ...], as_json: bool, group: str | None, job: str, version: str | None,
    **options: Any,
) -> int:  # fmt: skip
    """Compare the rankings of A with those of B: TREC run files, or stored searches such as `2.8.0 on 2.7.1`.

    With --job train, compare what two trained models find (docs/training.md); an index or a search that is not stored
    is made first.

    A line of a run file is `qid Q0 docid rank score tag`. The order of a list is that of its ranks; scores only say
    what is tied. Exit code 0 when no list differs by more than the order of equal scores, or when with judgements every
    measure is equivalent: the whole interval of its difference within delta (matrix.yaml). 1 when lists differ and that
    is not so. 2 when something cannot be read, and when nothing differs but one side has queries that the other has
    not.
    """
    import dataclasses

    from harness.errors import UsageError
    from harness.files import dumps
    from harness.inputs.rankings import settings_for
    from harness.rankings.comparison import compare_runs
    from harness.rankings.measures import Judge
    from harness.report.rankings_text import rankings_text
    from harness.report.screen import Screen, wrap

    refuse_others(job, options, ("queries", "limit_queries", "qrels", "k"))
    settings = settings_for(options["matrix_path"])
    if cutoffs:
        settings = dataclasses.replace(settings, overlap=tuple(sorted(set(cutoffs))))
    below, also = "", {}
    if job == "train":
        from harness.running.retrained import search_with_models

        retrained = search_with_models((a, b), group, options, version)
        (left, right), judged, note = retrained.runs, retrained.qrels, retrained.note
        same = " The two models are equal in every bit." if retrained.same else ""
        below = (
            f"Both models indexed and searched {retrained.collection} in the environment of {retrained.version}, so "
            f"that nothing but the model differs.{same}"
        )
        also = {"with": retrained.version, "same_model": retrained.same}
    else:
        from harness.running.run_files import named_runs

        if version or options["sites"]:
            raise UsageError(
                "--with and --sites: of the searches that --job train makes; give it, too, or leave them out."
            )
        (left, right), judged, note = named_runs((a, b), group, options)
    if note:
        click.echo(note, err=True)
    # Of the collection's own judgements, none may be of these queries; those that were given must be.
    judge = Judge(judged or {}, settings.measures) if judged or options["qrels"] else None
    found = compare_runs(left, right, settings, judge)
    screen = Screen.of()
    if as_json:
        click.echo(dumps(found.to_json() | also))
    else:
        click.echo(rankings_text(found, settings, screen), color=screen.styles)
        if below:
            click.echo("\n".join(["", *wrap(below, screen.width)]))
    return int(found.outcome)

"""`harness bisect`."""

from __future__ import annotations

from typing import Any

import click

from harness.commands.options import index_option, selection_options
from harness.errors import ExitCode, printable


@click.command(name="bisect")
@click.argument("a")
@click.argument("b")
@selection_options
@index_option
@click.option("--artifact", help="Only this artifact counts (default: every tensor of the index).")
@click.option("--repeats", type=click.IntRange(min=0), default=1, show_default=True, help="Extra runs of A, for noise.")
@click.option("--retry", is_flag=True, help="Try builds again that did not install or run before.")
@click.option("--evict", is_flag=True, help="Delete each environment as soon as its cell is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    a: str,
    b: str,
    index: str | None,
    artifact: str | None,
    repeats: int,
    retry: bool,
    evict: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Find the two neighbouring builds between A and B, releases or nightly builds, between which the index changed.

    A and B are versions in matrix.yaml or on the index. As many builds are looked at as a binary search needs; those
    that do not install are skipped. Each is a cell in the store, so the same command goes on after an interruption.
    Exit code 1 when something changed.
    """
    from harness.environments.offers import builds_between, offered, with_index
    from harness.explain.bisect import bisect
    from harness.files import dumps
    from harness.report.bisect_text import sentences, to_json
    from harness.running.checks import to_run
    from harness.running.selection import Selection
    from harness.words import count

    experiment = to_run(Selection(**options, capture="digests" if artifact else "final"))
    experiment.matrix, name = with_index(experiment.matrix, index)
    found = offered(experiment.matrix, name)
    builds = builds_between(experiment.matrix, found, a, b, name, experiment.device.flavour)
    click.echo(f"{count(len(builds) - 2, 'build')} between {a} and {b}.", err=True)
    result = bisect(
        experiment, builds, artifact=artifact, repeats=repeats, retry=retry, evict=evict,
        report=lambda text: click.echo(printable(text), err=True),
    )  # fmt: skip
    click.echo(dumps(to_json(result)) if as_json else "\n".join(map(printable, sentences(result))))
    return int(ExitCode.DIVERGENCE if result.first_changed else ExitCode.OK)

"""`harness upgrade`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.commands.options import (
    Writable,
    evict_option,
    json_option,
    local_options,
    selection_options,
    sites_options,
)
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.report.upgrade import Upgrade
    from harness.running.experiment import Experiment


@click.command(name="upgrade")
@click.argument("before")
@click.argument("after")
@click.option("--queries", help="A .parquet, .tsv or .jsonl file (default: the collection's own).")
@click.option("--qrels", help="Which passages answer them: TREC's qrels, or a .parquet file.")
@click.option("--limit-queries", type=click.IntRange(min=1), help="Only the first N queries.")
@click.option(
    "--index",
    type=click.Path(path_type=str),
    help="The index in production, which then stands for BEFORE's own, and is not written to.",
)
@click.option("--report", type=Writable(file=True), help="Also write the answer as one HTML page, to hand on.")
@click.option("--k", type=click.IntRange(min=1), help="Passages that a search returns (part of its key).")
@selection_options
@sites_options
@local_options
@click.option(
    "--repeats/--no-repeats",
    default=True,
    help="Where something differs, also run BEFORE's job and each search again, for the noise floor.",
)
@click.option(
    "--blame/--no-blame",
    default=True,
    help="Where something differs, exchange packages between the two until it is known which made it so.",
)
@evict_option
@json_option
def command(
    before: str,
    after: str,
    index: str | None,
    report: Path | None,
    repeats: bool,
    blame: bool,
    evict: bool,
    as_json: bool,
    gpus: str | None,
    jobs: int,
    **options: Any,
) -> int:
    """Say whether an upgrade from BEFORE to AFTER wants a new index, and which package made it so.

    It indexes with both, searches in four ways, and exchanges packages where something differs.

    BEFORE and AFTER are versions, names, or NAME=WHAT: a virtualenv, a `python`, a requirements file, a pylock.toml or
    a uv.lock (docs/environments.md). A path alone is called `before` or `after`. Exit code 0 where the index can stay
    (`unchanged`, `keep`), 1 where it cannot or nobody knows (`re-index`, `investigate`), 3 when a cell ended badly.
    """
    from dataclasses import replace
    from functools import partial
    from pathlib import Path

    from harness.artifacts.directory import is_index
    from harness.commands.cells import run_cells
    from harness.files import dumps
    from harness.report.screen import Screen
    from harness.report.upgrade import judge_upgrade, upgrade_text, with_blame
    from harness.running.checks import to_run, two_versions
    from harness.running.selection import Selection

    write_page = _page_writer(report)
    folder = None if index is None else Path(index)
    if folder is not None and not is_index(folder):
        raise UsageError(f"--index {index}: not the folder of a ColBERT index: give the one with its metadata.json.")
    selection = Selection(job="search", **options)
    experiment = to_run(selection)
    a, b = _named(experiment, "before", before), _named(experiment, "after", after)
    a, b = two_versions(experiment, a, b, "upgrade", "search")
    # What is wrong with the files is said before anything is built, and with the environments before anything runs.
    experiment.check()
    if folder is not None:
        experiment.search(index=folder).check()
    for name in (a, b):
        experiment.lock(name)
    run = partial(run_cells, evict=evict, again=False, gpus=gpus, jobs=jobs, quiet=True)

    def searched(again: list[str]) -> ExitCode:
        if folder is None:
            return run(selection, [a, b], again, deployments=True)[2]
        codes = [
            run(replace(selection, index=folder), [a, b], again)[2], run(replace(selection, on=b), [a, b], [])[2],
        ]  # fmt: skip
        return max(codes)

    if code := searched([]):
        return int(code)
    found = judge_upgrade(experiment, a, b, folder)
    if repeats and found.verdict.answer != "unchanged":
        if folder is None and (code := run(replace(selection, job="index"), [a], [a])[2]):
            return int(code)
        if code := searched([a, b]):
            return int(code)
        found = judge_upgrade(experiment, a, b, folder)
    if blame and found.verdict.answer != "unchanged":
        found = with_blame(found, experiment, folder, repeats=int(repeats), report=partial(click.echo, err=True))
    write_page(found)
    screen = Screen.of()
    click.echo(dumps(found.to_json()) if as_json else upgrade_text(found, screen), color=screen.styles)
    return int(found.outcome)


def _page_writer(path: Path | None) -> Callable[[Upgrade], object]:
    """What writes the page, if it is wanted; a package that it needs is missed now, and not when all is measured."""
    if path is None:
        return lambda _found: None
    from harness.report.page.upgrade_page import upgrade_page

    return lambda found: path.write_text(upgrade_page(found, path), encoding="utf-8")


def _named(experiment: Experiment, name: str, item: str) -> str:
    """An argument, with a name for a path that has none."""
    from pathlib import Path

    from harness.environments.own import record_path

    # As on every other command line, what was named before comes before a folder that is called so.
    known = "=" in item or item in experiment.versions or record_path(experiment.home, item).is_file()
    # What is spelt like a path and is none is told as that: nobody wants to hear which versions there are instead.
    path = Path(item).exists() or "/" in item or item.startswith(".") or Path(item).suffix in (".txt", ".toml", ".lock")
    return f"{name}={item}" if path and not known else item

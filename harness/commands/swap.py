"""`harness swap`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.options import cell_options, gathering_option, sites_options
from harness.errors import ExitCode


@click.command(name="swap")
@click.argument("a")
@click.argument("b")
@click.argument("artifacts", nargs=-1, required=True)
@cell_options
@sites_options
@click.option("--gates/--no-gates", default=True, help="Also swap A into A, and capture on and off.")
@gathering_option("swaps", "swaps")
def command(a: str, b: str, artifacts: tuple[str, ...], gates: bool, output: Path | None, **options: Any) -> int:
    """Run B's job with ARTIFACTS of A in their place and compare with A; then A's with B's, and compare with B.

    ARTIFACTS are swapped together; with --job train they are those of a step, such as weights_0 or random_3. What is
    not stored yet is run first. Exit code 3 when a gate fails, 1 when the result still differs from that of the side
    whose artifacts were put in.
    """
    from harness.artifacts.kinds import KINDS
    from harness.explain.pair import prepare_pair
    from harness.explain.swap import Swapper, check_names, kept, steps_named
    from harness.report.console import result_console
    from harness.report.parquet import Gathering
    from harness.report.swap_text import rows, sentence, table
    from harness.running.checks import to_run, two_versions
    from harness.running.progress import Board
    from harness.running.selection import Selection

    # Swapped artifacts are tensors, whatever matrix.yaml keeps of other cells.
    experiment = to_run(Selection(**options, capture="full").over_one_index(a))
    a, b = two_versions(experiment, a, b, "swap", experiment.selection.job)
    kind = KINDS[experiment.job.NAME]
    # Of a job that goes in steps, those are kept that are to be swapped.
    steps = getattr(experiment.job, "maxsteps", None) if kind.stepwise else None
    check_names(artifacts, lambda: len(experiment.passages), kind, steps)
    if kind.stepwise:
        experiment.job = experiment.job.model_copy(update={"full_steps": steps_named(artifacts, kind)})
    gathering = Gathering(output, "swaps", experiment, a) if output else None
    pair = prepare_pair(experiment, a, b, repeats=0)
    names = kept(pair.a, artifacts)
    kept(pair.b, names)
    lines = []
    with Board([]) as board:
        swapper = Swapper(pair, experiment.inputs, board)
        found = swapper.both(names, gates=gates)
        failed = any(one.gate and one.differences for one in found)
        if gates:
            with pair.bench.scratch("capture-gate") as folder:
                changed = swapper.capture_gate(folder)
            failed = failed or bool(changed)
            product = pair.kind.product
            lines.append(f"Gate: capturing changes {', '.join(changed) or 'nothing'} in the {product} of {a}.")
        else:
            lines.append(f"The noise floor is not known: --no-gates, so {a} was not run again.")
    console = result_console()
    for one in found:
        if not one.gate:
            console.print(table(one))
            console.print()
    for line in [*lines, *map(sentence, found)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if gathering:
        click.echo(f"Table: {gathering.write(rows(found))}")
    if failed:
        return int(ExitCode.INFRASTRUCTURE)
    return int(ExitCode.OK if all(one.resolved for one in found) else ExitCode.DIVERGENCE)

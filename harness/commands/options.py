"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class Writable(click.Path):
    """A path that the command will write to at its end, tried before it begins: a folder, or with `file`, a file.

    With `dash`, a file may also be `-`, standard output.
    """

    def __init__(self, *, file: bool = False, dash: bool = False) -> None:
        super().__init__(path_type=Path, file_okay=file, dir_okay=not file, allow_dash=dash)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002 - part of click's protocol
    ) -> str | bytes | os.PathLike[str]:
        """The path.

        Raises:
            UsageError: it cannot be written.
        """
        from harness.files import writable_file, writable_folder

        name = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name if param else ""
        if self.allow_dash and str(value) == "-":
            return Path(value)
        return (writable_folder if self.dir_okay else writable_file)(Path(value), name)


def together(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator; `--help` shows them in this order."""
    return lambda function: functools.reduce(lambda made, option: option(made), reversed(options), function)


matrix_option = click.option(
    "--matrix",
    "matrix_path",
    type=click.Path(path_type=Path),
    default=None,
    help="matrix.yaml (default: the one in this folder or above it, or else the package's own).",
)
home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=None,
    envvar="HARNESS_HOME",
    help="Folder of environments, caches and the store (default: .harness beside matrix.yaml, or in this folder).",
)
checkpoint_option = click.option(
    "--checkpoint", help="A checkpoint in matrix.yaml, a folder, or trained@VERSION: the model of a stored training."
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="auto: the GPU if there is one.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of a job (part of a cell's key)."
)
ranks_option = click.option(
    "--nranks",
    type=click.IntRange(min=1),
    help="Processes of a job, each on a GPU of its own (part of a cell's key).",
)
group_option = click.option(
    "--group", help="Start of the digest of one set of comparable cells, where the store holds several."
)
index_option = click.option(
    "--index",
    metavar="NAME[=URL]",
    help="A package index by its name in matrix.yaml, or with its URL (default: uv's own).",
)
chunks_option = click.option(
    "--chunks", "apart", is_flag=True, help="Show each chunk by itself, not all chunks of a kind in one row."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
markdown_option = click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
evict_option = click.option("--evict", is_flag=True, help="Delete each environment as soon as its cells are stored.")
capture_option = click.option(
    "--capture",
    type=click.Choice(["final", "digests", "full"]),
    help="How much of the inside of the pipeline to keep (default: matrix.yaml).",
)

selection_options = together(
    click.option("--collection", help="A collection in matrix.yaml, or a .parquet, .tsv or .jsonl file."),
    checkpoint_option,
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N passages."),
    click.option(
        "--scale-to",
        type=click.IntRange(min=1),
        metavar="N",
        help="Make N passages out of the collection's by the seeded recipe (docs/data.md).",
    ),
    device_option,
    threads_option,
    matrix_option,
    home_option,
)
"""Options that say which experiment is meant: `Selection`'s fields."""

query_options = together(
    click.option("--queries", help="A .parquet, .tsv or .jsonl file (default: the collection's own)."),
    click.option("--qrels", help="Which passages answer them: TREC's qrels, or a .parquet file."),
    click.option("--limit-queries", type=click.IntRange(min=1), help="Only the first N queries."),
)
"""Options that say what is searched for, or what triples are of: `Selection`'s fields, as all that follow are."""

_search_options = together(
    click.option("--on", metavar="VERSION", help="Search this version's index, not each version its own."),
    click.option(
        "--index",
        type=click.Path(path_type=Path),
        help="Search the ColBERT index in this folder, whoever made it.",
    ),
    click.option("--k", type=click.IntRange(min=1), help="Passages that a search returns (part of its key)."),
)
_triples_option = click.option(
    "--triples", help="Train from this .jsonl file (default: the collection's own, or drawn from qrels)."
)
training_options = together(
    click.option("--maxsteps", type=click.IntRange(min=1), help="Steps of a training."),
    click.option("--bsize", type=click.IntRange(min=1), help="Triples of a training's step."),
    click.option("--accumsteps", type=click.IntRange(min=1), help="Into how many parts a step is cut."),
    click.option("--nway", type=click.IntRange(min=2), help="Passages of a triple."),
    click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate of a training."),
    click.option("--warmup", type=click.IntRange(min=0), help="Steps to the full learning rate, which then falls."),
)
"""Options that say how a model is trained, from whatever triples."""
search_options = together(query_options, _search_options)
"""Options that say what is searched for, and in which index."""
train_options = together(query_options, _triples_option, training_options)
"""Options that say what is trained from, and how; part of a cell's key."""

_KINDS = {"index": "indexes", "search": "searches", "train": "trainings"}
_OF = {
    **dict.fromkeys(("queries", "qrels", "limit_queries"), ("search", "train")),
    **dict.fromkeys(("on", "index", "k"), ("search",)),
    **dict.fromkeys(("triples", "maxsteps", "bsize", "accumsteps", "nway", "lr", "warmup"), ("train",)),
    "nranks": ("index", "train"),
}
"""Options that are not for every kind of job, and for which they are."""


def refuse_others(job: str, options: Mapping[str, Any], beside: Iterable[str] = ()) -> None:
    """Refuse options that are of other kinds of job than the one that is meant, but for those `beside` it.

    Raises:
        UsageError: one is given.
    """
    from harness.errors import UsageError

    given = [name for name in _OF if options.get(name) is not None and name not in beside]
    for kinds in dict.fromkeys(_OF[name] for name in given if job not in _OF[name]):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given if _OF[name] == kinds)
        whose = " and ".join(_KINDS[kind] for kind in kinds)
        meant = " or ".join(f"--job {kind}" for kind in kinds)
        raise UsageError(f"{named}: of {whose}; give {meant}, too, or leave this out.")


def cell_options(function: Callable[..., Any], beside: Iterable[str] = ()) -> Callable[..., Any]:
    """Options that say which cells are meant, of any kind of job: `Selection`'s fields.

    Those of other kinds than the one that is meant are refused. Those `beside` an index are not: they say what is done
    with it.
    """
    allowed = frozenset(beside)

    @functools.wraps(function)
    def fitting(*, job: str, **options: Any) -> Any:
        refuse_others(job, options, allowed if job == "index" else ())
        return function(job=job, **options)

    kind = click.option(
        "--job",
        type=click.Choice([*_KINDS]),
        default="index",
        show_default=True,
        help="The kind of cells that is meant; of searches and trainings, these options say which (docs/search.md, "
        "docs/training.md).",
    )
    return together(
        kind, query_options, _search_options, _triples_option, training_options, ranks_option, selection_options
    )(fitting)


def table_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a table, which of indexes says what the searches in them return, too."""
    return cell_options(function, beside=("queries", "qrels", "limit_queries", "k"))


probe_options = together(
    click.option(
        "--probe",
        "names",
        multiple=True,
        metavar="NAME",
        help="Only this probe. May be given again. (default: all, docs/probes.md)",
    ),
    checkpoint_option,
    device_option,
    threads_option,
    matrix_option,
    home_option,
)
"""Options that say which probe cells are meant; a probe needs no collection."""

axis_option = click.option(
    "--axis",
    metavar="PACKAGE",
    callback=lambda _context, _option, value: None if value == "torch" else value,
    help="VERSIONS are of this package, an axis in matrix.yaml, each beside the same torch (docs/axes.md).",
)

sites_options = together(
    click.option(
        "--sites",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="Folder with one site folder for each version, instead of building environments (air-gapped hosts).",
    ),
    click.option(
        "--site-python",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The interpreter that runs the environments of --sites.",
    ),
)
"""Environments that were brought to a host without a package index as files."""

local_options = together(
    click.option(
        "--gpus",
        metavar="all|N,N…",
        help="GPUs to run cells on, by nvidia-smi's numbers (default: all that are of the first's model).",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1, max=64),
        default=1,
        envvar="HARNESS_JOBS",
        show_envvar=True,
        help="How many cells run at a time on each GPU, or on the CPU.",
    ),
)
"""How many cells run at a time on this machine."""

repeats_option = click.option(
    "--repeat",
    "repeats",
    multiple=True,
    metavar="VERSION[=N]",
    help="Run a version N times more (default 1), for the noise floor. May be given again.",
)


def again_option(what: str) -> Callable[[Function], Function]:
    """`--again`, to run cells or probes that are stored."""
    return click.option(
        "--again",
        is_flag=True,
        help=f"Run {what} that are already stored again; one that ends well takes the place of the stored one.",
    )


def gathering_option(name: str, others: str = "pairs") -> Callable[[Function], Function]:
    """`--output` of a command whose table gathers what it found at several times."""
    return click.option(
        "--output", type=Writable(), help=f"Write to {name}.parquet here, beside the rows of other {others}."
    )


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--matrix` and `--home`, which the command gets as the resolved `matrix_path` and as a `Home`."""

    @functools.wraps(function)
    def placed(matrix_path: Path | None, home: Path | None, **options: Any) -> Any:
        from harness.home import resolve_home
        from harness.inputs.matrix_file import find_matrix

        path = (matrix_path or find_matrix()).resolve()
        return function(matrix_path=path, home=resolve_home(home, path), **options)

    return together(matrix_option, home_option)(placed)


_CLUSTER = together(
    click.option(
        "--executor",
        "executor_name",
        type=click.Choice(["local", "slurm"]),
        default="local",
        help="slurm: one job for each missing cell (docs/cluster.md).",
    ),
    click.option("--partition", help="Slurm's partition (default: the cluster's own)."),
    click.option(
        "--slurm",
        "extra",
        multiple=True,
        metavar="NAME=VALUE",
        help="An option of sbatch, such as account=me, mem=64G or gres=gpu:h100:1. May be given again.",
    ),
    click.option(
        "--at-once",
        type=click.IntRange(min=1),
        default=256,
        help="How many jobs of an array Slurm may run at once.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=2,
        help="How often a job that was lost or preempted is submitted again.",
    ),
    click.option(
        "--attach",
        is_flag=False,
        flag_value="",
        metavar="[ID]",
        help="Follow the jobs of a sweep over Slurm whose terminal is gone, and reduce.",
    ),
)


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where a sweep's cells run; the command gets them as `cluster`."""

    @functools.wraps(function)
    def gathered(**options: Any) -> Any:
        names = ("executor_name", "partition", "extra", "at_once", "retries", "attach")
        return function(cluster={name: options.pop(name) for name in names}, **options)

    return _CLUSTER(gathered)


job_options = together(
    selection_options,
    axis_option,
    sites_options,
    repeats_option,
    local_options,
    capture_option,
    evict_option,
    again_option("cells"),
)
"""What runs cells of one kind takes, whatever the kind: what `harness.commands.cells.selected` takes apart."""

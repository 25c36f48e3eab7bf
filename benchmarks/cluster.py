"""What thousands of cells cost before and after they run: planning, submission, one look at the queue, and reduction.

    python benchmarks/cluster.py [--versions 19] [--devices 20] [--configurations 10] [--passages 1000] [--folder DIR]

One sweep for each device and configuration, as a user would start them: 19 versions x 20 GPU types x 10 configurations
are 200 sweeps of 19 cells. The cells themselves do not run. Submission goes to a real slurmctld of our own, whose one
node has no GPU of these types, so that everything waits in its queue; without Slurm installed it goes to an sbatch that
answers at once, and the table says so. What a job would have stored is written before the reduction: an index of the
embedded collection's size, whose centroids change at every third version, so that tensors are read and compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


from harness.report.reduce import reduce_cells  # noqa: E402
from harness.running.choice import planned_cells  # noqa: E402
from harness.running.experiment import Experiment  # noqa: E402
from harness.running.plan import Planned, plan_cells  # noqa: E402
from harness.running.progress import Board  # noqa: E402
from harness.running.selection import Selection  # noqa: E402
from harness.running.slurm.follower import Follower  # noqa: E402
from harness.running.slurm.record import Options, Sweep  # noqa: E402
from harness.running.slurm.start import save_sweep  # noqa: E402
from harness.store.cell import Artifact, Cell  # noqa: E402
from harness.store.store import Store  # noqa: E402
from harness.tensors.tensor import Tensor  # noqa: E402
from tests.support.slurm_cluster import SlurmCluster, missing  # noqa: E402

ANSWERS = """#!/bin/sh
case "$0" in
  */sbatch) n=$(($(cat "$COUNTER" 2>/dev/null || echo 0) + 1)); echo $n > "$COUNTER"; echo $n ;;
  */scontrol) echo "MaxArraySize            = 1001" ;;
esac
"""


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Slurm's commands on the PATH, and in words what answers them."""
    if not missing():
        # Cells ask for a GPU of a type that the node lacks, so its nodes are told not to run anything instead.
        with SlurmCluster(folder / "slurm", gpus=4) as made:
            made.command("scontrol", "update", "PartitionName=gpu", "State=DOWN")
            os.environ["SLURM_CONF"] = str(made.conf)
            yield "a real slurmctld on this machine"
            jobs = made.command("squeue", "-h", "-o", "%A").split()
            made.command("scancel", *jobs)
        return
    for name in ("sbatch", "squeue", "scontrol", "srun", "scancel"):
        path = folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ANSWERS)
        path.chmod(0o755)
    os.environ |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "COUNTER": str(folder / "counter")}
    yield "an sbatch that answers at once (Slurm is not installed)"


def matrices(folder: Path, configurations: int) -> list[Path]:
    """Copies of `matrix.yaml`, each with another number of k-means iterations, beside the locks."""
    made = []
    for number in range(configurations):
        place = folder / f"configuration-{number}"
        place.mkdir()
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text(encoding="utf-8"))
        matrix["jobs"]["index"]["kmeans_niters"] = number + 1
        (place / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
        (place / "locks").symlink_to(ROOT / "locks")
        made.append(place / "matrix.yaml")
    return made


def artifacts(store: Store, passages: int, steps: int) -> list[dict[str, Artifact]]:
    """An index as 1,000 passages make it, once for each of `steps` versions; every third has other centroids."""
    random = np.random.default_rng(0)
    embeddings, centroids, dim = passages * 40, 1024, 96
    kept: dict[str, Artifact] = {}

    def keep(array: np.ndarray) -> Artifact:
        tensor = Tensor.of(array)
        digest = tensor.digest()
        store.put_object(tensor, digest)
        return Artifact(digest, tensor.dtype, tensor.shape, "final", stored=True)

    kept["0.codes"] = keep(random.integers(0, centroids, embeddings).astype(np.int32))
    kept["0.residuals"] = keep(random.integers(0, 256, (embeddings, dim // 4)).astype(np.uint8))
    base = random.standard_normal((centroids, dim)).astype(np.float16)
    kept["centroids"] = keep(base)
    kept["avg_residual"] = keep(np.array(0.25, dtype=np.float16))
    kept["bucket_cutoffs"] = keep(np.sort(random.standard_normal(3)).astype(np.float32))
    kept["bucket_weights"] = keep(np.sort(random.standard_normal(4)).astype(np.float32))
    kept["ivf"] = keep(np.arange(embeddings, dtype=np.int32))
    kept["ivf_lengths"] = keep(np.full(centroids, embeddings // centroids, dtype=np.int64))
    made = []
    for step in range(steps):
        if step % 3 == 2:
            base = base.copy()
            base[step] += np.float16(0.001)
            kept = {**kept, "centroids": keep(base)}
        made.append(kept)
    return made


def store_cells(plans: list[tuple[Experiment, list[Planned]]], made: list[dict[str, Artifact]]) -> None:
    """Store what the jobs would have: the same tensors in each sweep, another record for each cell."""
    for experiment, planned in plans:
        for place, item in enumerate(planned):
            cell = Cell.of(item.spec, "ok", artifacts=made[place], seconds={"total": 45.0})
            experiment.store.put(replace(cell, details={"log_tail": "x" * 2000, "wall_seconds": 45.0}))


def timed(what: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds of a call, and seconds of this process on a core."""
    wall, core = time.perf_counter(), time.process_time()
    what()
    return time.perf_counter() - wall, time.process_time() - core


def main() -> None:
    """Run the simulation and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("versions", 19), ("devices", 20), ("configurations", 10), ("passages", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="Where to work (default: a temporary folder).")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=options.folder))
    try:
        simulate(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def simulate(folder: Path, options: argparse.Namespace) -> None:
    """Plan, submit, look and reduce, each timed over all sweeps."""
    home = folder / "home"
    devices = [f"cuda Pretended GPU {number} 9.0" for number in range(options.devices)]
    paths = matrices(folder, options.configurations)
    first = Experiment(Selection(paths[0], home, "embedded", "embedded", options.passages, identity=devices[0]))
    # Made once, as on any machine: the collection and the checkpoint are not part of what is measured.
    passages, checkpoint = first.passages, first.checkpoint
    versions = first.matrix.versions[: options.versions]
    plans: list[tuple[Experiment, list[Planned]]] = []

    def plan() -> None:
        for path, device in itertools.product(paths, devices):
            experiment = Experiment(Selection(path, home, "embedded", "embedded", options.passages, identity=device))
            experiment.passages, experiment.checkpoint = passages, checkpoint
            plans.append((experiment, plan_cells(experiment, versions, {})))

    seconds = {"planning": timed(plan)}
    cells = sum(len(planned) for _, planned in plans)
    followers: list[Follower] = []
    with contextlib.ExitStack() as stack:
        answers = stack.enter_context(cluster(folder))
        quiet = Board([], Console(file=io.StringIO()))

        def submit() -> None:
            for experiment, planned in plans:
                sweep = Sweep(secrets.token_hex(8), "", experiment.selection, versions, {}, Options("gpu", {}))
                save_sweep(experiment.home, sweep)
                follower = Follower(sweep, experiment, planned, quiet, evict_after=False)
                follower.pending = {p.spec.key: p for p in planned}
                follower.step()
                followers.append(follower)

        seconds["submission"] = timed(submit)
        looks = f"one look at the queue by each of {len(followers)} followers"

        def look() -> None:
            for follower in followers:
                follower.step()

        seconds[looks] = timed(look)
    store_cells(plans, artifacts(first.store, options.passages, len(versions)))
    tables = folder / "tables"

    def reduce() -> None:
        for number, (experiment, planned) in enumerate(plans):
            found = [experiment.store.get(item.spec.key) for item in planned]
            choice = planned_cells(experiment, [cell for cell in found if cell])
            reduced = reduce_cells(experiment.matrix, choice, versions, tables / str(number))
            assert len(reduced.rows) == len(versions) - 1
            assert sum(row.changed for row in reduced.rows) == sum(step % 3 == 2 for step in range(1, len(versions)))

    seconds["reduction"] = timed(reduce)
    print(
        f"{len(versions)} versions x {len(devices)} GPU types x {len(paths)} configurations: {cells:,} cells in "
        f"{len(plans)} sweeps; submitted to {answers}; {os.cpu_count()} cores"
    )
    print("| what | seconds | milliseconds for each cell | of which on a core, s |")
    print("|:-:|:-:|:-:|:-:|")
    for what, (wall, core) in seconds.items():
        print(f"| {what} | {wall:.1f} | {1000 * wall / cells:.2f} | {core:.1f} |")
    if max(seconds[name][0] for name in ("planning", "submission", "reduction")) > 60:
        sys.exit("More than a minute.")


if __name__ == "__main__":
    main()

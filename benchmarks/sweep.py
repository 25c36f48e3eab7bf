"""What a sweep costs beside its jobs: a stand-in job of known length, over one GPU and over several simulated ones.

    python benchmarks/sweep.py [--cells 12] [--seconds 8] [--build 1] [--gpus 1 2 4]

Everything but the job and uv is real: environments are built ahead and checked, each job has its supervisor, its index
is digested and stored, its record written. The ideal is the cells' job times over the number of GPUs, without anything
for building and storing. Exit code 1 when a sweep takes more than 1.1 times that over one GPU, 1.15 times over several.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from rich.console import Console

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' stand-ins


from harness.environments import build as build_module  # noqa: E402
from harness.environments import device, interpreter  # noqa: E402
from harness.environments.device import Gpu  # noqa: E402
from harness.environments.lockfile import Lock  # noqa: E402
from harness.home import Home  # noqa: E402
from harness.inputs.matrix import Matrix  # noqa: E402
from harness.running import sweep  # noqa: E402
from harness.running.experiment import Experiment  # noqa: E402
from harness.running.plan import plan_cells  # noqa: E402
from harness.running.progress import Board  # noqa: E402
from harness.running.selection import Selection  # noqa: E402
from tests.support.fake_worker import fake_interpreter  # noqa: E402
from tests.support.standin import make_inputs  # noqa: E402

IDENTITY = "cuda Simulated 8.0"
LIMITS = {1: 1.1}
LIMIT_OF_SEVERAL = 1.15


def build(seconds: float) -> Callable[..., dict[str, str]]:
    """A stand-in for installing with uv: takes a known time, and writes what an installed lock looks like."""

    def install(_home: Home, _matrix: Matrix, path: Path, lock: Lock, _version: str, **_: object) -> dict[str, str]:
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").symlink_to(sys.executable)
        for name, version in lock.packages.items():
            metadata = path / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
            metadata.mkdir(parents=True)
            (metadata / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n\n")
        time.sleep(seconds)
        return interpreter.installed_packages(path)

    return install


def measure(folder: Path, count: int, cells: int, seconds: float, build_seconds: float) -> float:
    """Wall seconds of a sweep over `count` simulated GPUs."""
    body = f"phase('import'); phase('encode'); time.sleep({seconds}); index(); result()\n"
    python = fake_interpreter(folder, body).python
    build_module.Environment.python = property(lambda _self: python)  # type: ignore[assignment,method-assign]
    build_module.build_environment = build(build_seconds)
    mock.patch.object(device, "query_driver", return_value=[]).start()  # no nvidia-smi is asked about simulated GPUs
    inputs = make_inputs(folder)
    selection = Selection(
        matrix_path=ROOT / "matrix.yaml", home=folder / "home", collection=inputs[1], checkpoint=inputs[3],
        threads=1, identity=IDENTITY,
    )  # fmt: skip
    experiment = Experiment(selection)
    versions = [v for v in experiment.matrix.versions if not experiment.unsupported(v)][:cells]
    repeats = {versions[-1]: cells - len(versions)} if cells > len(versions) else {}
    plan = plan_cells(experiment, versions, repeats)
    assert len(plan) == cells
    simulated = [Gpu(str(n), f"GPU-{n}", IDENTITY) for n in range(count)]
    started = time.perf_counter()
    with Board([], Console(file=io.StringIO())) as board:
        done = sweep.LocalExecutor(simulated).run(experiment, plan, board, evict_after=False)
    spent = time.perf_counter() - started
    assert [cell.outcome for cell in done] == ["ok"] * cells
    assert {cell.details["gpu"]["index"] for cell in done} == {gpu.index for gpu in simulated}
    return spent


def main() -> int:
    """Print the table; say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each job")
    parser.add_argument("--build", type=float, default=1.0, help="seconds to build each environment")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    print(f"{options.cells} cells, jobs of {options.seconds:g} s, environments of {options.build:g} s")
    print("| GPUs | ideal | sweep | ratio | limit |\n|---|---|---|---|---|")
    held = True
    for count in options.gpus:
        # The last round of jobs may not fill all GPUs; that is in the ideal.
        ideal = -(-options.cells // count) * options.seconds
        with tempfile.TemporaryDirectory() as folder:
            spent = measure(Path(folder), count, options.cells, options.seconds, options.build)
        limit = LIMITS.get(count, LIMIT_OF_SEVERAL)
        held = held and spent <= limit * ideal
        print(f"| {count} | {ideal:.1f} s | {spent:.1f} s | {spent / ideal:.3f} | {limit:.2f} |", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""Faults planted in B's training, and what `locate` and `blame` say of them; see `tests.support.planted`.

`python -m tests.support.planted_training [--home HOME] [CASE …]` prints the table that is kept in docs/training.md, and
exits with 1 if any answer is wrong.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.environments.build import ensure_environment
from harness.explain.locate import Location
from tests.support import planted
from tests.support.planted import VERSION, Case, PlantedExperiment, Planter

SETTINGS = {"maxsteps": 3, "bsize": 2, "threads": 1, "lr": 1e-3, "doc_maxlen": 40, "query_maxlen": 16}
AFTER = "colbert.training.training"


@dataclass(frozen=True)
class TrainCase(Case):
    """A fault in a training.

    Attributes:
        step: the training step in which it must be seen first.
        stream: whether each call that is named must be said to draw other random numbers.
        sided: part of the name of an operator that must be said to run on one side only.
    """

    step: int = 0
    stream: bool = False
    sided: str = ""

    def right(self, found: Location) -> bool:
        """Also the step, the random stream, and what runs on one side only."""
        calls = [verdict for finding in found.findings for verdict in finding.verdicts]
        alone = [verdict.name for verdict in calls if verdict.status in {"missing_a", "missing_b"}]
        return (
            super().right(found)
            and (self.noise or found.step == self.step)
            and all(verdict.stream == self.stream for _step, verdict in found.origins)
            and (not self.sided or any(self.sided in name for name in alone))
        )


def _case(fault: str, phase: str, call: str = "", **more: object) -> TrainCase:
    return TrainCase(fault, frozenset([phase]), (call,) if call else (), **more)  # type: ignore[arg-type]


CASES = (
    _case("dropout seed", "random state"),
    _case("dropout draws", "forward", "aten.bernoulli_", stream=True),
    _case("dropout rate", "forward", "torch.nn.functional.dropout", stream=True),
    _case("loss in half precision", "loss", "torch.nn.functional.cross_entropy"),
    _case("gelu backward", "backward", "aten.gelu_backward"),
    _case("one gradient by one ULP", "backward", "backward", sided="aten.nextafter"),
    _case("nondeterministic scatter", "backward", "aten.embedding_dense_backward", noise=True),
    _case("clip threshold", "clip", "aten.mul"),
    _case("AdamW's eps", "optimizer", "aten.add_"),
    _case("fused optimizer", "optimizer", "optimizer", sided="aten._fused_adamw_"),
    _case("stale moment", "optimizer", "optimizer", step=1, sided="aten.copy_"),
    _case("skipped step", "scaler", "scaler", step=1),
    _case("batch order", "batch", step=1),
    _case("gelu backward", "backward", "aten.gelu_backward", comes_with_package=True),
)


def planter(home: Path | None, folder: Path) -> Planter:
    """Runs cases on trainings of a tiny checkpoint, which is made in `folder`."""
    experiment = PlantedExperiment(home, folder, str(folder / "bert"), "train", SETTINGS)
    e = experiment
    python = ensure_environment(e.home, e.matrix, e.locks, VERSION, "cpu").python
    script = Path(__file__).parent / "tiny_checkpoints.py"
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [str(python), str(script), str(folder), "bert"], check=True, capture_output=True, timeout=600,
        env={"PYTHONPATH": root, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return Planter(home, folder, experiment, AFTER)


if __name__ == "__main__":
    sys.exit(planted.main(CASES, planter))

"""A command line on environments of a user's own whose jobs do what a test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.command import run
from tests.support.own_environments import make_virtualenv
from tests.support.small_index import index_arrays, write_index
from tests.support.standin import stand_in

ROOT = Path(__file__).parents[2]


class World:
    """Two virtualenvs whose job makes the index, and finds the passages, that the test says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        # As many as the stand-in's index is of.
        rows = [{"text": f"Passage {n} of a collection that is just large enough to be clustered"} for n in range(10)]
        (folder / "passages.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
        self.inputs = [
            "--collection", str(folder / "passages.jsonl"), "--checkpoint", str(write_checkpoint(folder / "ck")),
            "--threads", "1", "--device", "cpu", "--home", str(folder / "home"), "--matrix", str(ROOT / "matrix.yaml"),
        ]  # fmt: skip

    def environment(self, name: str, seed: int = 0, *, turned: bool = False, **packages: str) -> Path:
        """A virtualenv whose index has centroids of a seed, and whose searches may be turned around."""
        made = self.folder / f"made-{name}"
        made.mkdir()
        arrays = index_arrays(dim=16)
        arrays["centroids"] = index_arrays(seed=seed, dim=16)["centroids"]
        write_index(made / "index", arrays)
        # Two environments with the same packages are the same one, whatever they make.
        packages = {"transformers": "4.57.0" if seed else "4.49.0"} | packages
        return make_virtualenv(self.folder / name, packages, job=stand_in(made, turned=turned))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        return run(self._capsys, *arguments, *self.inputs)

    def upgrade(self, *arguments: str) -> tuple[int, str, str]:
        return self("upgrade", *arguments, "--queries", str(self.folder / "queries.jsonl"), "--k", "2")

"""A folder in which the documents' commands run as they stand: what they name is there, and what they start is played.

Played, in this process, are those that `harness.environments.supervise` starts: uv, which installs packages of a line
each, and jobs, whose result is decided by the packages that are installed. All else is the harness itself. What is not
as the documents have it: `matrix.yaml` has the versions that they name and no others, and its collections and
checkpoints are files of this folder; the locks have a dozen packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from packaging.version import Version

from harness.environments.interpreter import installed_packages, site_packages
from harness.environments.lockfile import FLAVOURS, lock_path, lock_text, only_difference, read_lock
from harness.environments.own import write_record
from harness.environments.supervise import Ended
from harness.home import Home
from harness.inputs.matrix import Flavour
from harness.tensors.safetensors import read_safetensors, write_safetensors
from harness.tensors.tensor import Tensor
from tests.support.checkpoints import write_checkpoint
from tests.support.own_environments import MODULES, PACKAGES, make_virtualenv
from tests.support.programs import fake_nvidia_smi
from tests.support.sites import package
from tests.support.small_index import index_arrays, write_index
from tests.support.standin import stand_in

ROOT = Path(__file__).parents[2]
PASSAGES, QUERIES = 320, 120
KEPT = re.compile(rf"({'|'.join(PACKAGES)}|faiss-gpu\S*|numpy|tokenizers|nvidia-cublas\S*|triton)==")
"""Packages that the locks here have."""
FULL_STEPS = [1]
NAMES = {"A": "2.7.1", "B": "2.8.0", "VERSION": "2.8.0"}
"""What stands for a version in the documents."""
INPUTS = {"queries": "queries.tsv", "qrels": "qrels.txt"}
CHANGES = {"torch": ("2.5.0", "2.7.0", "2.8.0"), "transformers": ("4.41.0",)}
"""Package to those of its versions from which on a job makes another index."""
_TURN = threading.Lock()


@dataclass(frozen=True)
class Page:
    """Where the commands of a page are typed, with a home of its own.

    Attributes:
        here: a folder; what is there belongs to all pages, but for `results`.
        home: it has the environments of all others.
    """

    here: Path
    home: Home


class Stage:
    """See the module.

    Args:
        folder: gets everything.
        versions: of the matrix and of its axes that are left in it.
    """

    def __init__(self, folder: Path, versions: Collection[str]) -> None:
        self.folder, self.here = folder, folder / "root" / "project"
        self.here.mkdir(parents=True)
        (folder / "envs").mkdir()
        self._write_matrix(versions)
        self._write_inputs()
        self._write_indexes()
        self._write_environments()

    def page(self, name: str, after: Page | None = None) -> Page:
        """A new page; it knows the cells and the names of one that it comes after."""
        page = Page(self.here.with_name(name), Home(self.folder / f"home-{name}"))
        page.here.mkdir()
        for path in self.here.iterdir():
            (page.here / path.name).symlink_to(path)
        (page.here / "results").mkdir()
        for path in (ROOT / "results").iterdir():
            if path.is_dir():
                (page.here / "results" / path.name).symlink_to(path)
        page.home.root.mkdir()
        page.home.environments.symlink_to(self.folder / "envs")
        if after is not None:
            for folder in ("store", "own"):
                # Nothing in them is ever changed in place.
                shutil.copytree(after.home.root / folder, page.home.root / folder, copy_function=os.link)
        else:
            for one, stands_for in NAMES.items():
                write_record(page.home, one, {"name": one, "version": stands_for})
        return page

    def enter(self, monkeypatch: pytest.MonkeyPatch, page: Page, *, gpu: bool = False) -> None:
        """Play, on a page, to the end of the test, with GPUs if wanted."""
        monkeypatch.chdir(page.here)
        monkeypatch.setattr("harness.environments.uv.supervise", self._supervise)
        monkeypatch.setattr("harness.running.job.supervise", self._supervise)
        monkeypatch.setenv("HARNESS_HOME", str(page.home.root))
        monkeypatch.setenv("SHELL", "/bin/bash")
        for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(variable, str(self.folder / "user"))
        if gpu:
            fake_nvidia_smi(self.folder, monkeypatch, *(f"{n}, GPU-{n}, NVIDIA A100-SXM4-80GB, 8.0" for n in range(2)))

    # ---- what the commands name

    def _write_matrix(self, versions: Collection[str]) -> None:
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text(encoding="utf-8"))
        for has in (matrix, *matrix["axes"].values()):
            has["versions"] = [one for one in has["versions"] if one in versions]
        for oddity in matrix["oddities"]:
            oddity["versions"] = [one for one in oddity.get("versions", ()) if one in versions]
        matrix["oddities"] = [one for one in matrix["oddities"] if one["versions"] or "since" in one]
        for oddity in matrix["oddities"]:
            if "since" in oddity:
                del oddity["versions"]
        for name in matrix["collections"]:
            matrix["collections"][name] = {"source": "local", "path": "passages.parquet", **INPUTS}
        for name in matrix["checkpoints"]:
            matrix["checkpoints"][name] = {"source": "local", "path": "CHECKPOINT"}
        matrix["jobs"]["train"] |= {"full_steps": FULL_STEPS, "capture": "full"}
        (self.here / "matrix.yaml").write_text(yaml.safe_dump(matrix), encoding="utf-8")
        names = [
            *matrix["versions"],
            *(f"{of}-{one}" for of, axis in matrix["axes"].items() for one in axis["versions"]),
        ]
        for flavour in FLAVOURS:
            (self.here / "locks" / flavour).mkdir(parents=True)
            for name in names:
                self._write_lock(name, flavour)

    def _write_lock(self, name: str, flavour: Flavour) -> None:
        """A version's lock, or how that of a point of an axis differs from it, without most of its packages."""
        whole, path = (lock_path(folder / "locks", name, flavour) for folder in (ROOT, self.here))
        text = _short(lock_text(whole))
        if made_from := re.search(r"^# base: (.*)@", whole.read_text(encoding="utf-8"), re.MULTILINE):
            base = path.with_name(made_from[1]).read_text(encoding="utf-8")
            text = only_difference(base, made_from[1], text, name.rpartition("-")[0])
        path.write_text(text, encoding="utf-8")

    def _write_inputs(self) -> None:
        here, extra = self.here, self.here.parent / "extra"
        texts = [f"Passage {n} of a collection that is large enough to be clustered" for n in range(PASSAGES)]
        passages = pa.table({"_id": [f"d{n}" for n in range(PASSAGES)], "text": texts})
        for name in ("passages.parquet", "conditionalqa.parquet"):
            pq.write_table(passages, here / name)
        numbers = range(QUERIES)
        queries = {"_id": [f"q{n}" for n in numbers], "text": [f"which is passage {n}" for n in numbers]}
        # What a played search finds first, and what is there with any --limit.
        judged = [(n, f"d{one}") for n in numbers for one in (n % 50, PASSAGES - 1 - n)]
        qrels = [{"query_id": f"q{n}", "corpus_id": one, "score": 1} for n, one in judged]
        pq.write_table(pa.table(queries), here / "queries.parquet")
        pq.write_table(pa.Table.from_pylist(qrels), here / "qrels.parquet")
        lines = ["_id\ttext", *map("\t".join, zip(*queries.values(), strict=True))]
        (here / "queries.tsv").write_text("".join(f"{line}\n" for line in lines))
        (here / "qrels.txt").write_text("".join(f"q{n} 0 {one} 1\n" for n, one in judged))
        triples = (json.dumps([f"q{n % QUERIES}", f"d{n % QUERIES}", f"d{PASSAGES - 1}"]) for n in range(2000))
        (here / "triples.jsonl").write_text("".join(f"{one}\n" for one in triples))
        for name in ("CHECKPOINT", "checkpoint", "bert", "path/to/checkpoint"):
            write_checkpoint(here / name)
        extra.mkdir()
        for name in ("CHECKPOINT", "passages.parquet"):
            (extra / name).symlink_to(here / name)

    def _write_indexes(self) -> None:
        here = self.here
        for number, name in enumerate(("OLD_INDEX", "NEW_INDEX", "INDEX_1", "INDEX_2", "INDEX_3", "A", "B", "DIR")):
            write_index(here / name, index_arrays(seed=number))
        for name, of in (("DIR_A", "A"), ("DIR_B", "B")):
            (here / name).symlink_to(here / of)
        for name, scores in (("A", (2.0, 1.0)), ("B", (1.0, 2.0))):
            run = (f"q{q} Q0 d{n} {n + 1} {score} {name}\n" for q in range(3) for n, score in enumerate(scores))
            (here / f"{name}.run").write_text("".join(run))
        (here / "JUDGED").write_text("".join(f"q{q} 0 d0 1\n" for q in range(3)))
        (here / "docs").mkdir()
        (here / "docs" / "article.csv").symlink_to(ROOT / "docs" / "article.csv")
        for name in ("TABLES", "TABLES_OF_ONE_SWEEP", "TABLES_OF_ANOTHER", "TABLES_ON_A_CPU", "TABLES_ON_A_GPU"):
            (here / name).symlink_to(ROOT / "results" / "cpu-authenticamd-25-17--conditionalqa-300--transformers")
        for name in ("nights", "NIGHTS"):
            (here / name).mkdir()
            (here / name / "2026-01-30").symlink_to(here / "TABLES")
        _write_index_of(here / "index", PASSAGES, 0)

    def _write_environments(self) -> None:
        here = self.here
        old, new = (read_lock(lock_path(here / "locks", version, "cpu")) for version in ("2.5.0", "2.8.0"))
        for name, lock in (("old.txt", old), ("before.txt", old), ("after.txt", new)):
            (here / name).write_text(lock.path.read_text(encoding="utf-8"))
        _install(here / ".venv-new", {**new.packages, "transformers": "4.57.0"})
        _install(here / ".venv", old.packages)
        for number in range(9, 14):
            _install(here / "PATH" / f"py3{number}", {**old.packages, "tqdm": f"4.{number}"})
        for path in (here / "locks" / "cpu").glob("torch-*"):
            lock = read_lock(path)
            for sites in (here.parent / "site", here / "sites"):
                for name, version in lock.packages.items():
                    module = MODULES.get(name, name.replace("-", "_"))
                    package(sites / lock.packages["torch"], name, version, {f"{module}/__init__.py": ""})
        python = here.parent / "python" / "bin" / "python3.11"
        python.parent.mkdir(parents=True)
        for path in (python, here / "OUTPUT"):
            path.symlink_to(sys.executable)

    # ---- what they start

    def _supervise(self, command: Sequence[str], *, environment: Mapping[str, str], run: Path, **_more: Any) -> Ended:
        (run / "log.txt").touch()
        words = [*command]
        if "harness.worker" in words:
            cell = json.loads(Path(words[-2]).read_text(encoding="utf-8"))
            return Ended(_play(self.folder, cell, words, environment), "finalize", 0.1)
        if words[1:3] == ["pip", "install"]:
            pins = Path(words[words.index("--requirements") + 1]).read_text(encoding="utf-8")
            folder = Path(words[words.index("--python") + 1]).parents[1]
            _install(folder, dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", pins, re.MULTILINE)))
        return Ended(0, "", 0.1)


def _play(folder: Path, cell: dict[str, Any], words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do what a job does; returns its exit status."""
    site, out, made = environment["PYTHONPATH"].partition(os.pathsep)[2], Path(words[-1]), folder / "made"
    packages = site_packages(Path(site)) if site else installed_packages(Path(words[0]).parents[1])
    seed = sum(Version(packages[name]) >= Version(one) for name, since in CHANGES.items() for one in since)
    version = "index"
    if cell["job"] == "index":
        with Path(cell["passages"]).open(encoding="utf-8") as lines:
            number = sum(1 for _ in lines)
        for swapped in cell.get("swap", {}).values():
            seed = int(read_safetensors(Path(swapped))["tensor"].data.flat[0])
        version = f"{number}-{seed}"
        _write_index_of(made / version, number, seed)
        _keep(cell, out, ("local_sample_embs", "embs_0"), np.full((number, 16), seed, np.float16))
    elif cell["job"] == "search":
        with Path(cell["queries"]).open(encoding="utf-8") as lines:
            _keep(cell, out, ("Q",), np.zeros((sum(1 for _ in lines), 32, 16), np.float32))
    elif cell["job"] == "train":
        version = ("2.6.0", "2.7.0", "2.8.0")[min(seed, 2)]
        for names, array in _training(cell["settings"]["maxsteps"], seed).items():
            _keep(cell, out, names.split(), array)
    elif cell["job"] == "probe":
        return _probe(cell["probes"], out, seed)
    else:
        return 1
    with _TURN, mock.patch.object(sys, "argv", words):
        exec(compile(stand_in(made, version=version), "standin", "exec"), {"__name__": "standin"})
    return 0


def _write_index_of(folder: Path, passages: int, seed: int) -> None:
    """An index of two embeddings a passage, in one chunk; the seed decides the centroids."""
    if folder.exists():
        return
    random, arrays = np.random.default_rng(0), index_arrays(chunks=1, dim=16)
    arrays["0.codes"] = random.integers(0, 4, 2 * passages).astype(np.int32)
    arrays["0.residuals"] = random.integers(0, 256, (2 * passages, 4)).astype(np.uint8)
    arrays["centroids"] = index_arrays(seed=seed, dim=16)["centroids"]
    arrays["ivf"] = np.tile(np.arange(passages, dtype=np.int64), 4)
    arrays["ivf_lengths"] = np.full(4, passages, dtype=np.int64)
    write_index(folder, arrays, chunks=1)
    (folder / "doclens.0.json").write_text(json.dumps([2] * passages))
    (folder / "0.metadata.json").write_text(json.dumps({"num_embeddings": 2 * passages}))
    (folder / "metadata.json").write_text(json.dumps({"num_chunks": 1, "num_embeddings": 2 * passages}))


def _keep(cell: dict[str, Any], out: Path, names: Sequence[str], array: np.ndarray[Any, Any]) -> None:
    """What a job also leaves of its inside, if it is asked to."""
    if cell["capture"] == "full":
        (out / "intermediates").mkdir(exist_ok=True)
        for name in names:
            write_safetensors(out / "intermediates" / f"{name}.safetensors", {"tensor": Tensor.of(array)})


def _training(steps: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """What the stand-in of a training does not leave of its two parameters; names to the numbers that each has."""
    states = (f"{name}_{step}" for name in ("weights", "first_moments", "second_moments") for step in FULL_STEPS)
    return {
        "input_ids": np.zeros((steps, 2), np.int64),
        "random_before": np.zeros((steps, 4, 2), np.int64),
        "clipped first_moments second_moments": np.zeros((steps, 2, 2), np.int64),
        "scale learning_rate": np.ones(steps),
        "gradient_norm": np.ones(steps, np.float32),
        "skipped": np.zeros(steps, np.int64),
        " ".join(states): np.full(16 * 8 + 2 * 3, seed, np.float32),
    }


def _probe(names: Sequence[str], out: Path, seed: int) -> int:
    for name in names:
        (out / name).mkdir()
        write_safetensors(out / name / "0.safetensors", {"tensor": Tensor.of(np.array([seed], np.float32))})
        tensor = {"case": "one", "tensor": "result", "file": "0.safetensors", "role": "result"}
        done = {"outcome": "ok", "reason": "", "tensors": [tensor], "facts": [], "refused": [], "seconds": 0.1}
        (out / name / "done.json").write_text(json.dumps(done))
    (out / "result.json").write_text(json.dumps({"outcome": "ok", "reason": "", "phase": "probe", "seconds": {}}))
    return 0


def _short(lock: str) -> str:
    """The text of a lock without packages that nothing here asks for."""
    top, *blocks = re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)
    return top + "".join(block for block in blocks if KEPT.match(block))


def _install(folder: Path, packages: Mapping[str, str]) -> None:
    """A virtualenv with these packages, and no others."""
    make_virtualenv(folder, {**dict.fromkeys(PACKAGES), **packages})

"""Virtualenvs that differ in patched packages, and what `harness upgrade` says of them and blames.

`python -m tests.support.planted_environments [--home HOME] [--environment VENV] [--index-only] [ROW …]` prints the
table that is kept in docs/environments.md, or only the rows named, and exits with 1 if any answer is wrong. With
`--index-only` it is `harness blame` of the index, which takes half as long. Both are made of one real environment: the
matrix's, which is built, or a virtualenv that is there already, as on a host without a package index. The second also
has a comment more in a file of torch, transformers, tokenizers, faiss, numpy, colbert-ai and two others, so that there
are eight packages that could be blamed, and only the fault tells which.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.environments.build import ensure_environment
from harness.explain.blame import blame
from harness.explain.pair import prepare_pair
from harness.home import Home
from harness.inputs.matrix_file import load_matrix
from harness.report.blame_text import answer_json
from harness.running.checks import to_run, two_versions
from harness.running.selection import Selection

ROOT = Path(__file__).parents[2]
VERSION = "2.8.0"
SELECTED: dict[str, Any] = {
    "collection": "embedded", "checkpoint": "embedded", "limit": 60, "device": "cpu", "threads": 1,
}  # fmt: skip
OPTIONS = [f"--{name}={value}" for name, value in SELECTED.items()]

HARMLESS = (
    "torch/_appdirs.py", "transformers/file_utils.py", "tokenizers/tools/__init__.py", "faiss/loader.py",
    "numpy/_globals.py", "colbert/parameters.py", "tqdm/_main.py", "requests/__version__.py",
)  # fmt: skip
"""A file of each of eight packages that gets a comment."""
_COMMENT = "\n# Not the same file any more.\n"


@dataclass(frozen=True)
class Fault:
    """A patch of one package.

    Attributes:
        name: what the table calls it.
        package: the package that is to be blamed, as a shell has patterns: each flavour has a faiss of its own.
        file: in the site folder.
        added: lines at its end.
        steps: those that it changes, one of which must be named.
    """

    name: str
    package: str
    file: str
    added: str
    steps: tuple[str, ...]


FAULTS = (
    Fault(
        "transformers' GELU by tanh", "transformers", "transformers/activations.py",
        "ACT2FN['gelu'] = PytorchGELUTanh\n", ("encode",),
    ),
    Fault(
        "transformers' normaliser keeps capitals", "transformers",
        "transformers/models/bert/tokenization_bert_fast.py",
        "_made = BertTokenizerFast.__init__\n"
        "def _cased(self, *args, **kwargs):\n"
        "    _made(self, *args, **kwargs)\n"
        "    self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)\n"
        "BertTokenizerFast.__init__ = _cased\n", ("tokenize",),
    ),
    Fault(
        "tokenizers' normaliser replaces a letter", "tokenizers", "tokenizers/__init__.py",
        # Nothing can be derived from the class, which is compiled.
        "class _Tokenizer:\n"
        "    def __call__(self, *args, **kwargs):\n"
        "        return _real_tokenizer(*args, **kwargs)\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(_real_tokenizer, name)\n"
        "    def from_file(self, path):\n"
        "        made = _real_tokenizer.from_file(path)\n"
        "        made.normalizer = normalizers.Sequence([normalizers.Replace('e', 'a'), made.normalizer])\n"
        "        return made\n"
        "_real_tokenizer, Tokenizer = Tokenizer, _Tokenizer()\n", ("tokenize",),
    ),
    Fault(
        "faiss' k-means seed", "faiss-*", "faiss/extra_wrappers.py",
        "_train = Kmeans.train\n"
        "def _seeded(self, *args, **kwargs):\n"
        "    self.cp.seed += 1\n"
        "    return _train(self, *args, **kwargs)\n"
        "Kmeans.train = _seeded\n", ("k-means",),
    ),
    Fault(
        "numpy's ascontiguousarray by one ULP", "numpy", "numpy/__init__.py",
        "_contiguous = ascontiguousarray\n"
        "def ascontiguousarray(a, dtype=None, **options):\n"
        "    made = _contiguous(a, dtype, **options)\n"
        "    return nextafter(made, float32(2)) if made.dtype == float32 and made.ndim == 2 else made\n", ("k-means",),
    ),
    Fault(
        "numpy's log2 is one less", "numpy", "numpy/__init__.py",
        "_log2 = log2\n"
        "def log2(*args, **kwargs):\n"
        "    return _log2(*args, **kwargs) - 1\n", ("k-means",),
    ),
    Fault(
        "colbert-ai's seed of k-means", "colbert-ai", "colbert/indexing/collection_indexer.py",
        "class _Faiss:\n"
        "    def Kmeans(self, *args, seed, **kwargs):\n"
        "        return _real_faiss.Kmeans(*args, seed=seed + 1, **kwargs)\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(_real_faiss, name)\n"
        "_real_faiss, faiss = faiss, _Faiss()\n", ("k-means",),
    ),
    Fault(
        "a sitecustomize that rounds GELU", "files of no package", "sitecustomize.py",
        "import importlib.abc, sys\n"
        "class _After(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'transformers.activations':\n"
        "            import torch.nn.functional as functional\n"
        "            real = functional.gelu\n"
        "            functional.gelu = lambda x, *args, **kwargs: real(x, *args, **kwargs).half().to(x.dtype)\n"
        "            sys.meta_path.remove(self)\n"
        "        return None\n"
        "sys.meta_path.insert(0, _After())\n", ("encode",),
    ),
)  # fmt: skip
BY_NAME = {fault.name: fault for fault in FAULTS}
CASES: dict[str, tuple[str, ...]] = {
    "nothing that matters": (),
    **{name: (name,) for name in BY_NAME},
    "transformers' GELU by tanh and faiss' k-means seed": ("transformers' GELU by tanh", "faiss' k-means seed"),
}
"""The faults of each row."""


def copy_of(environment: Path, folder: Path, harmless: Iterable[str] = (), faults: Iterable[str] = ()) -> Path:
    """Make a virtualenv with the files of another one, of which some are patched; the other one is not changed.

    Args:
        environment: the folder of a virtualenv; links in it may lead to folders elsewhere.
        folder: made, of symbolic links: a hard link would touch the inodes of files that others use.
        harmless: files that get a comment.
        faults: names of `FAULTS`.
    """
    # A folder that is a link is made anew, too, so that nothing is written through it; `lib64` would be a second one.
    folder.mkdir()
    parts = [str(environment.resolve() / part) for part in ("bin", "lib", "pyvenv.cfg")]
    subprocess.run(["cp", "--recursive", "--dereference", "--symbolic-link", *parts, str(folder)], check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    added = dict.fromkeys(harmless, _COMMENT)
    for name in faults:
        fault = BY_NAME[name]
        added[fault.file] = added.get(fault.file, "") + fault.added
    for file, text in added.items():
        path = site / file
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        path.unlink(missing_ok=True)
        path.write_text(before + text, encoding="utf-8")
    return folder


def upgrade(home: Home, before: Path, after: Path, name: str) -> tuple[dict[str, Any], str]:
    """What `harness upgrade --json` prints of two virtualenvs, and what it says meanwhile."""
    done = subprocess.run(
        [
            sys.executable, "-m", "harness", "upgrade", f"before={before}", f"{name}={after}", *OPTIONS,
            "--limit-queries", "20", "--k", "20", "--no-repeats", "--json", "--home", str(home.root),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return json.loads(done.stdout), done.stderr
    except ValueError as error:
        raise SystemExit(f"exit code {done.returncode}: {done.stderr}") from error


def blame_alone(home: Home, before: Path, after: Path, name: str) -> tuple[dict[str, Any], str]:
    """What `harness blame` finds of the index, in the form of `upgrade`, without the searches of a verdict."""
    experiment = to_run(Selection(home=home.root, **SELECTED))
    a, b = two_versions(experiment, f"before={before}", f"{name}={after}", "blame", "index")
    said: list[str] = []
    answer = blame(experiment, prepare_pair(experiment, a, b, repeats=0), said.append)
    told = answer_json(answer, a, b)
    verdict = "differs" if answer.diverged else "unchanged"
    return {"verdict": verdict, "blamed": answer.packages, "blame": told}, "\n".join(said)


def wrong(case: tuple[str, ...], found: Mapping[str, Any]) -> str:
    """What is wrong with an answer; empty where nothing is."""
    faults = [BY_NAME[name] for name in case]

    def pattern(package: str) -> str:
        return next((fault.package for fault in faults if fnmatchcase(package, fault.package)), package)

    if (found["verdict"] == "unchanged") == bool(faults):
        return f"the verdict is {found['verdict']}"
    if {pattern(package) for package in found["blamed"]} != {fault.package for fault in faults}:
        return f"{', '.join(found['blamed']) or 'no package'} blamed"
    told = {(step["step"], pattern(package)) for step in found["blame"] for package in step["packages"]}
    lost = [fault.name for fault in faults if not told & {(step, fault.package) for step in fault.steps}]
    return f"not told where: {', '.join(lost)}" if lost else ""


def _steps(found: Mapping[str, Any]) -> str:
    told: dict[str, list[str]] = {}
    for step in found["blame"]:
        for package in step["packages"]:
            told.setdefault(package, []).append(step["step"])
    return "; ".join(f"{package} ({', '.join(dict.fromkeys(steps))})" for package, steps in told.items())


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--environment", type=Path, metavar="VENV", help="a virtualenv in place of the matrix's")
    parser.add_argument("--index-only", action="store_true", help="blame the index, without the searches of upgrade")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of: {'; '.join(CASES)}")
    options = parser.parse_args()
    if unknown := sorted(set(options.rows) - CASES.keys()):
        parser.error(f"no row is named {', '.join(unknown)}")
    home = Home((options.home or Path(os.environ.get("HARNESS_HOME") or ROOT / ".harness")).resolve())
    real = options.environment or (
        ensure_environment(home, load_matrix(ROOT / "matrix.yaml"), ROOT / "locks", VERSION, "cpu").path
    )
    bad = 0
    print("| planted in AFTER | verdict | blamed (for what it changed) | right |\n|---|---|---|:-:|", flush=True)
    home.environments.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="planted-", dir=home.root) as folder:
        before = copy_of(real, Path(folder, "before"))
        for number, title in enumerate(options.rows or CASES):
            case = CASES[title]
            started = time.monotonic()
            # At one place, so that files that do not differ are read once.
            after = copy_of(real, Path(folder, "after"), HARMLESS, case)
            ask = blame_alone if options.index_only else upgrade
            found, said = ask(home, before, after, f"after-{number}")
            shutil.rmtree(after)
            why = wrong(case, found)
            bad += bool(why)
            blamed, well = _steps(found) or "no package", f"NO: {why}" if why else "yes"
            print(f"| {title} | {found['verdict']} | {blamed} | {well} |", flush=True)
            print(f"{title}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            if why:
                print(said, json.dumps({**found, "index": ..., "deployments": ...}, default=str), file=sys.stderr)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

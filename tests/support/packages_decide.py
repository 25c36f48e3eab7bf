"""Virtualenvs whose packages decide what a job makes, wherever they are put together: for environments exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.own_environments import make_virtualenv, site_folder
from tests.support.sites import package
from tests.support.small_index import index_arrays, write_index
from tests.support.standin import stand_in

_HOOK = "standin_job.pth"
_JOB = """
import sys
if "harness.worker" in sys.orig_argv:
    import os, pathlib, traceback
    sys.argv = sys.orig_argv[-3:]
    site = pathlib.Path(__file__).parent
    def has(name):
        return "new" in (site / name / "__init__.py").read_text()
    try:
        exec(compile(SCRIPT, "standin", "exec"), {"has": has, "__name__": "standin"})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""
"""A site folder's `.pth` runs it before anything else, in whatever virtualenv the folder is."""


def deciding(folder: Path, new: Mapping[str, str], rule: str, broken: str = "False") -> Path:
    """A virtualenv whose job makes one index or another.

    Args:
        folder: of the virtualenv; what jobs make is beside it, the same for all of them.
        new: package to its version, of those that are not the old ones.
        rule: Python that says whether it is the new index, by `has(MODULE)`: whether a package is a new one.
        broken: the same for whether numpy does not load.
    """
    made = folder.parent / "made"
    if not made.exists():
        for name, seed in (("old", 0), ("new", 1)):
            arrays = index_arrays(dim=16)
            arrays["centroids"] = index_arrays(seed=seed, dim=16)["centroids"]
            write_index(made / name, arrays)
    script = stand_in(made, version="old").replace("'old'", f"'new' if {rule} else 'old'")
    script = script.replace(
        "ran(); ",
        f"ran(); broken = {broken}\nif broken:\n    phase('import')\n"
        "    result(outcome='import_failed', reason='ImportError: numpy 2 is not for this faiss', phase='import')\n"
        "    raise SystemExit\n",
    )
    make_virtualenv(folder, {"numpy": "1.26.4", "tqdm": "4.60.0", "tokenizers": "0.21.0", **new})
    site = site_folder(folder)
    for name in new:
        module = {"faiss-cpu": "faiss", "colbert-ai": "colbert"}.get(name, name)
        (site / module / "__init__.py").write_text("'new'\n")
    package(site, "standin", "1", {_HOOK: "import standin_job\n", "standin_job.py": f"SCRIPT = {script!r}\n{_JOB}"})
    return folder

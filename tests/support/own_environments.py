"""Environments of a user's own that are real interpreters with packages that do nothing, and jobs that do little."""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.sites import package

PACKAGES = {
    "torch": "2.7.1", "colbert-ai": "0.2.22", "faiss-cpu": "1.8.0", "transformers": "4.49.0", "safetensors": "0.6.2",
}  # fmt: skip
"""What a job needs, by the names of the packages."""
CONFIG = f"home = {Path(sys.base_prefix) / 'bin'}\ninclude-system-site-packages = false\n"
MODULES = {"colbert-ai": "colbert", "faiss-cpu": "faiss"}


def make_virtualenv(
    folder: Path, packages: Mapping[str, str | None] | None = None, files: dict[str, str] | None = None, job: str = ""
) -> Path:
    """A virtualenv whose packages are one line each.

    Args:
        folder: of the virtualenv.
        packages: package to version, instead of those of `PACKAGES`; None leaves one out.
        files: file in the site folder to its text, written after the packages.
        job: lines of Python that are run in place of the worker, as `fake_worker` has them.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / f"python{version}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text(CONFIG)
    real = folder / "bin" / ("python-real" if job else "python")
    real.symlink_to(Path(sys.base_prefix) / "bin" / f"python{version}")
    if job:
        script = folder / "job.py"
        script.write_text(job)
        fake = folder / "bin" / "python"
        fake.write_text(
            '#!/bin/sh\nif [ "$1" = "-m" ]; then exec "$(dirname "$0")/python-real" "'
            f'{script}" "$3" "$4"; fi\nexec "$(dirname "$0")/python-real" "$@"\n'
        )
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    for name, number in {**PACKAGES, **(packages or {})}.items():
        if number is not None:
            module = MODULES.get(name, name.replace("-", "_"))
            package(site, name, number, {f"{module}/__init__.py": f"__version__ = {number!r}\n"})
    for name, text in (files or {}).items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    return folder


def site_folder(folder: Path) -> Path:
    """The site folder of such a virtualenv."""
    return next((folder / "lib").glob("python3*/site-packages"))

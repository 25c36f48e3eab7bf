"""One tar file with everything that a host without a package index needs to run the harness: see docs/gpu-host.md.

Environments share most of their files, which uv hard-links; a tar file keeps such a file once.
"""

from __future__ import annotations

import io
import sysconfig
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.environments.build import Environment
from harness.environments.interpreter import Interpreter, files_below, site_of
from harness.errors import UsageError
from harness.home import package_folder

_PYTHON_SKIPS = {"site-packages", "test", "idlelib", "tkinter", "ensurepip", "turtledemo", "share"}
_READ_ME = """\
python/bin/{python} runs everything here:
  export PYTHONPATH=$PWD/reducer:$PWD/project
  cd project
  ../python/bin/{python} -m harness doctor
  ../python/bin/{python} -m harness index {version} --sites ../site --site-python ../python/bin/{python} --device cuda
Versions: {versions}.
"""


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        files: how many, those that share their content included.
        bytes: of contents written, each shared one counted once.
    """

    files: int
    bytes: int


def pack(
    target: IO[bytes],
    environments: Sequence[Environment],
    project: Path,
    *,
    extra: Iterable[Path] = (),
    report: Callable[[str], None] = lambda _text: None,
) -> Packed:
    """Write environments, their interpreter, the reducer's packages and the project as an uncompressed tar stream.

    In it are `site/VERSION/`, `python/`, `reducer/`, `project/` (the package, `matrix.yaml`, `locks/`), `extra/NAME`
    and `READ-ME`.

    Args:
        target: written from start to end, never read: a pipe will do.
        environments: complete ones.
        project: the folder with `matrix.yaml` and `locks`.
        extra: files and folders to bring along, such as a checkpoint and passages.
        report: says what is under way.

    Raises:
        UsageError: the environments' interpreter belongs to the system and cannot be taken along.
    """
    prefix, python = _interpreter(environments[0])
    versions = [environment.version for environment in environments]
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        writer = _Writer(tar)
        writer.text("READ-ME", _READ_ME.format(python=python, version=versions[0], versions=", ".join(versions)))
        report(f"site/ with {', '.join(versions)}")
        writer.trees({f"site/{one.version}": site_of(Interpreter(one.python)) for one in environments})
        report("python, reducer, project")
        writer.tree(prefix, "python", skip=_PYTHON_SKIPS)
        writer.tree(Path(sysconfig.get_paths()["purelib"]), "reducer")
        writer.tree(package_folder(), "project/harness")
        for name in ("matrix.yaml", "locks"):
            writer.tree(project / name, f"project/{name}")
        for path in extra:
            writer.tree(path, f"extra/{path.resolve().name}")
        return Packed(writer.files, writer.bytes)


def _interpreter(environment: Environment) -> tuple[Path, str]:
    """The folder of the Python installation that an environment was made from, and its command's name."""
    python = (environment.path / "bin" / "python").resolve()
    prefix = python.parent.parent
    if prefix in {Path("/usr"), Path("/usr/local"), Path("/")}:
        raise UsageError(
            f"The environments were made with {python}, which belongs to the system and cannot be taken along: install "
            "a Python of its own (`uv python install 3.11`), delete the environments, and pack again."
        )
    return prefix, python.name


class _Writer:
    """Adds trees to a tar stream."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files = self.bytes = 0

    def text(self, name: str, text: str) -> None:
        """Add a small file."""
        raw = text.encode()
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(raw), 0o644
        self._tar.addfile(member, io.BytesIO(raw))

    def tree(self, path: Path, name: str, skip: Iterable[str] = ()) -> None:
        """Add a file, or a folder with what is in it; without compiled Python, static libraries and `skip`."""
        if not path.is_dir():
            self._add(path, name)
            return
        for inside in _inside(path, skip):
            self._add(path / inside, f"{name}/{inside}")

    def trees(self, folders: Mapping[str, Path]) -> None:
        """Add several folders, file by file and not folder by folder.

        Libraries of neighbouring versions have much in common. Side by side they are within reach of a compressor
        with a long window, such as `zstd --long=31`.
        """
        files = ((inside, number) for number, path in enumerate(folders.values()) for inside in _inside(path))
        names = list(folders)
        for inside, number in sorted(files):
            self._add(folders[names[number]] / inside, f"{names[number]}/{inside}")

    def _add(self, path: Path, name: str) -> None:
        if not (path.is_file() or path.is_symlink()):
            return
        member = self._tar.gettarinfo(path, arcname=name)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        self.files += 1
        if member.isreg():
            self.bytes += member.size
            with path.open("rb") as file:
                self._tar.addfile(member, file)
        else:
            self._tar.addfile(member)


def _inside(path: Path, skip: Iterable[str] = ()) -> Iterator[str]:
    return (one.as_posix() for one in files_below(path, skip) if not one.name.endswith((".pyc", ".a")))

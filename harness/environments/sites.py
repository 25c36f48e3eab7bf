"""The site folders of an environment as one: which file is of which package, and how a file gets into another."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import cache_from_source
from pathlib import Path

from harness.environments.changes import NO_PACKAGE
from harness.environments.contents import STRAY, Contents, contents
from harness.environments.installed import ask, site_folders
from harness.environments.interpreter import Interpreter


@dataclass(frozen=True)
class Sites:
    """Site folders, in the order in which they are imported from.

    Attributes:
        folders: resolved.
        lent: whether they are the user's own: not even a hard link is made to a file of theirs, which would change its
            inode.
    """

    folders: tuple[Path, ...]
    lent: bool = False

    @classmethod
    def of(cls, interpreter: Interpreter) -> Sites:
        """Those of an environment, built, brought or the user's own.

        Raises:
            UsageError: its interpreter cannot be asked.
        """
        if interpreter.site is not None:
            return cls((interpreter.site.resolve(),))
        told = ask(interpreter.python, str(interpreter.python))
        return cls(tuple(site_folders(told)), interpreter.as_is)

    @cached_property
    def _contents(self) -> Contents:
        return contents(self.folders)

    @cached_property
    def packages(self) -> Mapping[str, Mapping[Path, Path]]:
        """Package to its files that are imported, as `Contents.files`; those of no package are under `NO_PACKAGE`."""
        return {
            NO_PACKAGE if name == STRAY else name: {Path(place): Path(path) for place, path in files.items()}
            for name, files in self._contents.files.items()
        }

    def as_few(self, files: Mapping[Path, Path], others: Mapping[Path, Path]) -> Iterator[tuple[Path, Path]]:
        """Places, and what is to be linked there: single files, and of folders that are lent, whole ones.

        Half of an environment is headers and data. What Python or the loader reads is linked file by file: Python would
        write what it compiles into the user's folder, and a library finds others from the folder that it is in.

        Args:
            files: some of theirs, by place.
            others: what comes from elsewhere; a folder that has any of it cannot be linked.
        """
        there = [(place, file) for places in self.packages.values() for place, file in places.items()]
        apart = {Path()}
        roots: dict[Path, Path] = {}
        for place, file in there:
            whole = self.lent and place in files and place.suffix != ".py" and ".so" not in place.name
            root = file.parents[len(place.parts) - 1]
            # What comes of two site folders is no folder of either.
            apart.update(one for one in place.parents if not whole or roots.setdefault(one, root) != root)
        for place in (*others, *(Path(place) for _name, place, _path in self._contents.hidden)):
            apart.update(place.parents)
        linked: dict[Path, Path] = {}
        for place, file in files.items():
            top = next((one for one in reversed(place.parents) if one not in apart), place)
            linked[top] = file.parents[len(place.parts) - len(top.parts) - 1] if top != place else file
        yield from linked.items()

    def link(self, file: Path, target: Path) -> None:
        """Put a file of theirs at `target` and, if it is Python that ran already, what it was compiled to.

        Compiling torch takes long.
        """
        self._link(file, target)
        if file.suffix == ".py":
            compiled = Path(cache_from_source(str(file)))
            if compiled.is_file():
                self._link(compiled, Path(cache_from_source(str(target))))

    def _link(self, file: Path, target: Path) -> None:
        # Folders are made with their first file: an empty metadata folder would still be taken for a package.
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.lent:
            target.symlink_to(file)
            return
        try:
            os.link(file, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK}:
                raise
            shutil.copy2(file, target, follow_symlinks=False)

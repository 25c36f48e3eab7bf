"""Digests of the tensors of index directories, remembered in the user's cache folder from one command to the next."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from harness import __version__
from harness.artifacts.source import ArtifactSource, files_of
from harness.errors import UnreadableTensor
from harness.files import fetch_file, read_json
from harness.home import user_cache
from harness.tensors.mapped import HASH_SLICE

_FORMULA = ("harness.tensor.v1", __version__, 1)
"""What a digest is of, and who read the file: another reader may find another tensor in it, which raises the number."""
_SETTLED = 2_000_000_000  # nanoseconds: within a clock's step, a file may change without a new time of change
_MOST = 20_000  # digests that are remembered, a few hundred bytes each


class Remembered:
    """What is known of files that nobody has touched since they were read.

    A file is known by device, inode, size, and the times of its content and of itself (ctime), which nobody can set
    back: one that was written in place, with its old size and date, is read again. A file that changed within the two
    seconds before it was read is not remembered, for it could change again without another time.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file that it is kept in; without one, nothing is known and nothing kept."""
        self._path = path
        self._known: dict[str, tuple[str, bool]] = _kept(path) if path is not None else {}
        self._new = False

    @classmethod
    def of_user(cls) -> Remembered:
        """The user's own; empty where there is no cache folder."""
        cache = user_cache()
        return cls(cache / "digests.json" if cache is not None else None)

    def digest(self, source: ArtifactSource, name: str) -> str:
        """The digest of an artifact; a directory's tensor is hashed, mapped, where it is not known.

        Raises:
            UnreadableTensor: it cannot be read.
        """
        own = source.digest(name)
        if own is not None:
            return own
        key, settled = self._key(source, name)
        known = self._known.pop(key, None)
        if known is not None:
            self._known[key] = known  # used last, so that it is forgotten last
            return known[0]
        found = source.load(name).digest()
        if settled:
            self._keep(source, name, key, (found, False))
        return found

    def fetch(self, source: ArtifactSource, name: str) -> None:
        """Have the disk read meanwhile what `digest` will look at first; nothing where that is known."""
        if source.digest(name) is None and self._key(source, name)[0] not in self._known:
            for file in files_of(source, name):
                fetch_file(file, HASH_SLICE)

    def verify(self, source: ArtifactSource, name: str) -> None:
        """Hold an artifact against its file's checksum, if that was not done before.

        Raises:
            UnreadableTensor: it is not what was saved, or cannot be read.
        """
        key, settled = self._key(source, name)
        known = self._known.get(key)
        if source.digest(name) is not None or (known is not None and known[1]):
            return
        source.load(name).verify()
        if known is not None and settled:
            self._keep(source, name, key, (known[0], True))

    def save(self) -> None:
        """Keep what is known for other commands; where the folder cannot be written, it is not kept."""
        if self._path is None or not self._new:
            return
        last = dict(list(self._known.items())[-_MOST:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                try:
                    json.dump(last, file)
                    file.close()
                    Path(file.name).replace(self._path)
                finally:
                    Path(file.name).unlink(missing_ok=True)

    def _key(self, source: ArtifactSource, name: str) -> tuple[str, bool]:
        """What an artifact's files are known by, empty where it has none; whether they are as they were a while ago."""
        files = files_of(source, name) if self._path else ()
        states = []
        try:
            for file in files:
                about = os.stat(file)  # noqa: PTH116 - many files, and a path's own is slower
                states.append((about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
        except OSError:
            return "", False
        if not states:
            return "", False
        newest = max(max(state[3:]) for state in states)
        text = json.dumps([_FORMULA, name, [file.name for file in files], states])
        return hashlib.sha256(text.encode()).hexdigest(), time.time_ns() - newest > _SETTLED

    def _keep(self, source: ArtifactSource, name: str, key: str, known: tuple[str, bool]) -> None:
        """Remember it unless its files changed while they were read."""
        if self._key(source, name)[0] == key:
            self._known[key] = known
            self._new = True


def _kept(path: Path) -> dict[str, tuple[str, bool]]:
    """What is in the file; nothing of one that another user wrote, or that is not whole."""
    with suppress(OSError, UnreadableTensor):
        found = read_json(path) if path.stat().st_uid == os.geteuid() else {}
        entries = found.items() if isinstance(found, dict) else ()
        return {key: (one[0], one[1]) for key, one in entries if _is_entry(one)}
    return {}


def _is_entry(one: object) -> bool:
    return (
        isinstance(one, list)
        and len(one) == 2
        and isinstance(one[0], str)
        and len(one[0]) == 64
        and isinstance(one[1], bool)
    )

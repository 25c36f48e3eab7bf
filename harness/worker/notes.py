"""Record, or note the reason: what is only recorded of a job can never end it.

Whatever watches a job without being part of it (copies of values, provenance, clocks, peak memory) is done inside
`Notes.recording`, or through `gather` and `hook`, which use it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.worker.outcomes import Ended

_REAL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122", "CUDA error")
"""What an error says that is the job's own, whoever meets it first: a full disk, or a kernel that failed earlier."""


@contextlib.contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Put `replacement` in the place of an owner's attribute for as long as the `with` block lasts."""
    inherited = name not in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


def _is_the_jobs(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    return full or isinstance(error, Ended) or any(sign in str(error) for sign in _REAL)


class Notes:
    """Why something was not recorded, by name: an artifact, or a fact such as `provenance.cpu`."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Note a reason; the first one stays."""
        self.reasons.setdefault(name, reason)

    @contextlib.contextmanager
    def recording(self, *names: str) -> Iterator[None]:
        """Do what records `names`; if that fails, note why.

        Raises:
            Exception: what is the job's own trouble: a full disk, a GPU that failed, or `Ended`.
        """
        try:
            yield
        except Exception as error:
            if _is_the_jobs(error):
                raise
            lines = str(error).strip().splitlines() or [""]
            for name in names:
                self.add(name, f"{type(error).__name__}: {lines[0]}"[:300])

    def gather(self, kind: str, facts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Ask for each fact in order; return those that could be had, as JSON. Notes of the others are `KIND.NAME`."""
        found = {}
        for name, fact in facts.items():
            with self.recording(f"{kind}.{name}"):
                value = fact()
                json.dumps(value, sort_keys=True)
                found[name] = value
        return found

    @contextlib.contextmanager
    def hook(self, names: tuple[str, ...], root: Any, path: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
        """Wrap a function that is looked up at run time for as long as the `with` block lasts.

        Args:
            names: what is recorded there; noted if there is no such function.
            root: an object, or the name of a module.
            path: attributes from there, with dots.
            wrap: is given the function and returns what takes its place.
        """
        with contextlib.ExitStack() as stack:
            with self.recording(*names):
                owner_path, _, name = path.rpartition(".")
                owner = importlib.import_module(root) if isinstance(root, str) else root
                owner = functools.reduce(getattr, owner_path.split(".") if owner_path else [], owner)
                stack.enter_context(patched(owner, name, wrap(getattr(owner, name))))
            yield

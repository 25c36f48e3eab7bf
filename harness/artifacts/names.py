"""Names of artifacts: their order, their chunks, and which of them are the index itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.artifacts.index_job import FINAL, ORDER, VALUES

_CHUNK = re.compile(r"(?P<chunk>\d+)\.(?P<what>codes|residuals)|embs_(?P<embs>\d+)")


def is_final(name: str) -> bool:
    """Say whether an artifact is one of the tensors of the index itself (12 of them with three chunks)."""
    match = _CHUNK.fullmatch(name)
    return name in FINAL or bool(match and match["what"])


def is_captured(name: str) -> bool:
    """Say whether an artifact is made on the way, and is no tensor of the index itself."""
    return name in VALUES or (_place(name)[0] < len(ORDER) and not is_final(name))


def is_artifact(name: str) -> bool:
    """Say whether the pipeline makes an artifact of this name."""
    return _place(name)[0] < len(ORDER)


def _place(name: str) -> tuple[int, int, str]:
    match = _CHUNK.fullmatch(name)
    if match is None:
        return (ORDER.index(name) if name in ORDER else len(ORDER), 0, name)
    if match["embs"]:
        return (ORDER.index("embs_*"), int(match["embs"]), name)
    return (ORDER.index(f"*.{match['what']}"), int(match["chunk"]), name)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort artifact names by their place in the pipeline; names that it does not have come last."""
    return sorted(set(names), key=_place)


_CHUNKED = re.compile(r"(?P<number>\d+)\.(?P<what>codes|residuals)|embs_(?P<embs>\d+)")


def pattern(name: str) -> tuple[str, str | None]:
    """An artifact's name with its chunk as `*`, and the chunk; None for one that has none."""
    match = _CHUNKED.fullmatch(name)
    if match is None:
        return name, None
    if match["embs"] is not None:
        return "embs_*", match["embs"]
    return f"*.{match['what']}", match["number"]

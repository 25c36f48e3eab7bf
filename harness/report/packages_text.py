"""Which packages differ between two environments, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from harness.environments.changes import Change
from harness.errors import printable
from harness.words import count

_FIRST = ("python", "torch", "transformers", "tokenizers", "colbert-ai", "numpy", "safetensors")
"""What is named first where many differ."""
_SHOWN = 12


def packages_sentence(a: str, b: str, found: Sequence[Change]) -> str:
    """One sentence: those that a job's numbers most likely hang on first, and how many more there are."""
    if not found:
        return f"{a} -> {b}: no package differs."

    def place(one: Change) -> tuple[int, str]:
        name = "faiss" if one.name.startswith("faiss") else one.name
        first = (*_FIRST, "faiss")
        return (first.index(name) if name in first else len(first), one.name)

    shown = [one.title for one in sorted(found, key=place)[:_SHOWN]]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    differ = f"{count(len(found), 'package')} {'differs' if len(found) == 1 else 'differ'}"
    return printable(f"{a} -> {b}: {differ}: {', '.join(shown)}{more}.")


def packages_json(found: Sequence[Change]) -> list[dict[str, str | None]]:
    """As `harness upgrade --json` and `harness compare --json` print them."""
    return [{"name": one.name, "a": one.version_a, "b": one.version_b} for one in found]

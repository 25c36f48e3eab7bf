"""What a generated script imports."""

from __future__ import annotations

import ast


def imported(text: str) -> set[str]:
    """The modules that a script imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {name.split(".")[0] for name in names | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}

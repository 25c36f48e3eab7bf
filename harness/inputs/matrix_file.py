"""Finding and reading `matrix.yaml`; each mistake in it becomes a sentence with a line number."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harness.errors import UsageError
from harness.home import default_matrix, is_packed
from harness.inputs.fields import Located
from harness.inputs.matrix import Matrix
from harness.words import said

_PLACES_LIMIT = 20_000  # the whole matrix has some 150


def find_matrix(start: Path | None = None) -> Path:
    """Return the `matrix.yaml` in `start` (default: the current folder) or the nearest folder above it.

    Where there is none, it is the one that travels with this package.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / "matrix.yaml").is_file():
            return candidate / "matrix.yaml"
    return default_matrix()


def own_matrix(path: Path) -> Path:
    """The same path, of a file that is to be written to.

    Raises:
        UsageError: it is the package's own.
    """
    if is_packed(path):
        raise UsageError(
            "There is no matrix.yaml in this folder or above it, and the one that comes with the package is not "
            "written to: `harness init` writes one of your own here."
        )
    return path


def load_matrix(path: Path | None = None) -> Matrix:
    """Read and check `matrix.yaml`.

    Raises:
        UsageError: with the file, the line and the mend.
    """
    path = path or find_matrix()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--matrix {path}: it cannot be read ({said(error)}); name a matrix.yaml, or leave it out for the one in "
            "this folder or above it."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: it is not UTF-8 text ({said(error)}); save it as UTF-8.") from error
    return parse_matrix(text, path.name)


def parse_matrix(text: str, name: str = "matrix.yaml") -> Matrix:
    """Check the text of a `matrix.yaml`; see `load_matrix`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str, ...], int] = {}
        _index_lines(root, (), lines, name)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{name}, line {line}: not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        # The last few come from inside PyYAML, for an explicit tag such as `!!bool x`.
        raise UsageError(f"{name}, line 1: not valid YAML: {error}.") from error
    if not isinstance(data, dict):
        raise UsageError(f"{name}, line 1: expected a mapping with `versions`, `requirements` and so on.")
    try:
        return Matrix.model_validate(data)
    except ValidationError as error:
        raise UsageError(_sentence(error, lines, name)) from error


def _index_lines(node: yaml.Node | None, place: tuple[str, ...], lines: dict[tuple[str, ...], int], name: str) -> None:
    if node is None or len(place) > 40:
        return
    if len(lines) > _PLACES_LIMIT:
        # Aliases of aliases unfold a short text into a tree without end.
        raise UsageError(f"{name}, line 1: it unfolds to more than {_PLACES_LIMIT:,} entries: use fewer aliases.")
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            text = str(key.value)
            if text in seen:
                raise UsageError(f"{name}, line {key.start_mark.line + 1}: {text!r} is given twice: remove one.")
            seen.add(text)
            _index_lines(value, (*place, text), lines, name)
            lines[(*place, text)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _index_lines(value, (*place, str(number)), lines, name)


_MENDS = {
    "extra_forbidden": "this key is not known here: check its spelling or remove it",
    "missing": "this key is required: add it",
    "union_tag_not_found": "this key is required: add it",
    "union_tag_invalid": "'{tag}' is not one of {expected_tags}: write one of them",
    "string_type": "{found} is not text: put it in quotes",
    "list_type": "{found} is not a list: write one item a line, each after `- `",
    "too_short": "it needs at least {min_length} entries and has {actual_length}: add what is missing",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "{found} is not a whole number: write one"),
    **dict.fromkeys(("float_type", "float_parsing"), "{found} is not a number: write one"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "{found} is neither true nor false: write one of them"),
    **dict.fromkeys(
        ("datetime_type", "datetime_parsing", "datetime_from_date_parsing"),
        "{found} is not a time: write one such as 2025-09-14T00:00:00Z",
    ),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type"),
        "{found} is not a mapping: write `name: value`, one a line",
    ),
}
"""By pydantic's type of error; `found` is the value as it was read, the other fields are pydantic's own."""


def _sentence(error: ValidationError, lines: dict[tuple[str, ...], int], name: str) -> str:
    # A misspelt key is also a missing one; the misspelling is what the user has to see.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    cause = first.get("ctx", {}).get("error")
    place = tuple(str(part) for part in first["loc"])
    if isinstance(cause, Located):
        # Keys may hold dots themselves, as versions do.
        place = next((one for one in lines if ".".join(one) == cause.where), tuple(cause.where.split(".")))
    # pydantic names the member of a union in the location; the file has no such level.
    if first["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        # pydantic blames the whole entry; the mistake is in the key by which it tells one kind from another.
        place = (*place, str(first["ctx"]["discriminator"]).strip("'"))
    known = place
    while known not in lines and known:
        shorter = [known[:i] + known[i + 1 :] for i in range(len(known))]
        known = next((s for s in shorter if s in lines), known[:-1])
    absent = first["type"] in {"missing", "union_tag_not_found"}
    field = ".".join((*known, place[-1]) if absent else known) or "the file"
    message = str(cause) if isinstance(cause, ValueError) else _mend(first)
    more = f" ({error.error_count() - 1} more after this)" if error.error_count() > 1 else ""
    return f"{name}, line {lines.get(known, 1)}: {field}: {message}.{more}"


def _mend(error: ErrorDetails) -> str:
    shown = repr(error["input"]) if error["input"] is not None else "an empty value"
    shown = shown if len(shown) < 60 else shown[:57] + "..."
    known = _MENDS.get(error["type"])
    if known:
        context = {name: str(value).replace("'", "") for name, value in error.get("ctx", {}).items()}
        return known.format(found=shown, **context)
    message = re.sub(r"^\w+ should ", "it should ", error["msg"])
    return f"{message[:1].lower()}{message[1:]}, found {shown}"

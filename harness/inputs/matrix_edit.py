"""Adding versions to `matrix.yaml` as text, so that its comments and its layout stay."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import yaml

from harness.errors import UsageError
from harness.inputs.matrix import Listed, Matrix
from harness.inputs.matrix_file import parse_matrix
from harness.words import version_key


def with_versions(text: str, versions: Sequence[Listed], indexes: Mapping[str, str], name: str) -> tuple[str, Matrix]:
    """The text of a matrix with more versions, each in its place, and the indexes that they come from; and as it reads.

    Args:
        text: of a valid matrix.
        versions: that it has not.
        indexes: name to URL, of those that the versions name.
        name: of the file, for a sentence.

    Raises:
        UsageError: the file is written in a way into which nothing can be put.
    """
    before = parse_matrix(text, name)
    for one in sorted(versions, key=lambda one: version_key(one.version)):
        text = _with_entry(text, _entry(one), one.version, name)
    more = {one.index: indexes[one.index] for one in versions if one.index and one.index not in before.indexes}
    for index, url in more.items():
        text = _with_index(text, index, url)
    wanted = before.with_versions(versions, more)
    try:
        made = parse_matrix(text, name)
    except UsageError as error:
        raise _by_hand(name, versions) from error
    if made != wanted:
        raise _by_hand(name, versions)
    return text, made


def _by_hand(name: str, versions: Sequence[Listed]) -> UsageError:
    listed = ", ".join(one.version for one in versions)
    return UsageError(f"{name}: `versions` is not a plain list, so add {listed} by hand, and run `harness lock`.")


def _entry(one: Listed) -> str:
    return f'{{version: "{one.version}", index: {one.index}}}' if one.index else f'"{one.version}"'


def _with_entry(text: str, entry: str, version: str, name: str) -> str:
    """The text with one more entry of `versions`, after the last that comes before it."""
    items = _sequence(text, name)
    known = parse_matrix(text, name).versions
    place = sum(version_key(other) < version_key(version) for other in known)
    if items.flow_style:
        if place:
            at = items.value[place - 1].end_mark.index
            return f"{text[:at]}, {entry}{text[at:]}"
        at = items.value[0].start_mark.index
        return f"{text[:at]}{entry}, {text[at:]}"
    lines = text.splitlines(keepends=True)
    # A comment above an entry belongs to it, so the new line stands directly below the entry before it.
    mark = items.value[max(0, place - 1)].start_mark
    number = items.value[place - 1].end_mark.line + 1 if place else mark.line
    line = f"{lines[mark.line][: mark.column]}{entry}\n"
    if number == len(lines) and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines[:number], line, *lines[number:]])


def _with_index(text: str, index: str, url: str) -> str:
    """The text with one more entry of `indexes`, which is made below `versions` where there is none."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    found = {key.value: (key, value) for key, value in root.value}
    lines = text.splitlines(keepends=True)
    if "indexes" in found:
        node = found["indexes"][1]
        assert isinstance(node, yaml.MappingNode)
        if node.flow_style:
            at = node.end_mark.index - 1
            return f"{text[:at]}{', ' if node.value else ''}{index}: {url}{text[at:]}"
        key, value = node.value[-1]
        number = value.end_mark.line + 1
        return "".join([*lines[:number], f"{' ' * key.start_mark.column}{index}: {url}\n", *lines[number:]])
    number = found["versions"][0].start_mark.line
    while number and lines[number - 1].startswith("#"):
        number -= 1
    above = "# Package indexes beside uv's own.\n"
    return "".join([*lines[:number], f"{above}indexes:\n  {index}: {url}\n\n", *lines[number:]])


def _sequence(text: str, name: str) -> yaml.SequenceNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    node = next(value for key, value in root.value if key.value == "versions")
    assert isinstance(node, yaml.SequenceNode)
    marks = [one.start_mark.index for one in node.value]
    if any(a >= b for a, b in itertools.pairwise(marks)):  # an alias stands where its anchor is
        raise UsageError(f"{name}: `versions` has aliases in it: write its entries out.")
    return node

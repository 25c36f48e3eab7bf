"""The fields of `matrix.yaml` that are text of a certain form, and where in the file a mistake is."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from harness.words import VERSION_SUFFIX

VERSION = re.compile(r"\d+\.\d+\.\d+" + VERSION_SUFFIX)
_INDEX = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PYTHON = re.compile(r"3\.\d{1,2}")
_POINT = re.compile(r"\d+(\.\d+){1,3}(rc\d{1,3})?(\.post\d{1,3})?")
_PACKAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")


def whole(pattern: re.Pattern[str]) -> str:
    """A pattern of JSON schema that holds for the whole text."""
    return f"^{pattern.pattern}$"


def is_version(value: str) -> bool:
    """Whether a matrix can hold a version of this form."""
    return VERSION.fullmatch(value) is not None


def _is_version(value: str) -> str:
    if not is_version(value):
        raise ValueError(f"{value!r} is not a PyTorch release such as 2.5.0, or a build such as 2.5.0.dev20240801+cpu")
    return value


def _is_pinned(value: str) -> str:
    if not _PINNED.fullmatch(value):
        raise ValueError(f"{value!r} is not pinned: write NAME==VERSION")
    return value


def _is_point(value: str) -> str:
    if not _POINT.fullmatch(value):
        raise ValueError(f"{value!r} is not a version of a package such as 4.44.2: write one")
    return value


# The patterns in the JSON schema are for editors; the sentences come from the validators.
Version = Annotated[str, AfterValidator(_is_version), WithJsonSchema({"type": "string", "pattern": whole(VERSION)})]
Pinned = Annotated[str, AfterValidator(_is_pinned), WithJsonSchema({"type": "string", "pattern": whole(_PINNED)})]
Point = Annotated[str, AfterValidator(_is_point), WithJsonSchema({"type": "string", "pattern": whole(_POINT)})]
Package = Annotated[str, Field(pattern=whole(_PACKAGE))]
Architecture = Annotated[str, Field(pattern=r"^sm_\d{2,3}$")]
IndexName = Annotated[str, Field(pattern=whole(_INDEX))]
IndexUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+\S*$")]
Python = Annotated[str, Field(pattern=whole(_PYTHON))]


class Located(ValueError):  # noqa: N818 - raised inside validators only, and carries a place
    """A validation error of the whole model that knows the part of the file it is about."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where


def package_of(pin: str) -> str:
    """The normal name of the package that a requirement pins."""
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()

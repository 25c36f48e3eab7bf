"""What a package index says of a project: its releases, their wheels, and when they came.

The JSON form of the simple API (PEP 691, 700) where the index has it, and its HTML (PEP 503) otherwise.
"""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from harness.errors import InfrastructureError, UsageError

_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PUBLIC = "https://pypi.org/simple"
_TIMEOUT = 60
_PLATFORM = re.compile(r"(?P<machine>\w+?)-manylinux_2_(?P<glibc>\d+)")
_OLD_NAMES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_CPYTHON = re.compile(r"cp3(\d+)")


def index_url(environment: Mapping[str, str] = os.environ) -> str:
    """The package index that uv takes by default, from the variables by which it can be another."""
    return environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL") or _PUBLIC


@dataclass(frozen=True)
class File:
    """A file of a release.

    Attributes:
        version: from its name.
        tags: of a wheel; empty for a source distribution.
        uploaded: where the index says.
        yanked: the index's reason, or some words; None where it is not yanked.
    """

    version: Version
    tags: frozenset[Tag]
    uploaded: datetime | None
    yanked: str | None


@dataclass(frozen=True)
class Release:
    """One version of a project as an index has it."""

    version: Version
    files: tuple[File, ...]

    @property
    def yanked(self) -> str | None:
        """Why every file is yanked; None where one is not."""
        reasons = [file.yanked for file in self.files]
        return None if None in reasons else reasons[0]

    @property
    def uploaded(self) -> datetime | None:
        """When the last file came; None where the index does not say."""
        return max((file.uploaded for file in self.files if file.uploaded), default=None)

    def pythons(self, platform: str) -> list[str]:
        """The Pythons that have a wheel for a platform, oldest first; a wheel for any Python counts for none."""
        fits = set(_platforms(platform))
        minors = {
            int(found[1])
            for file in self.files
            for tag in file.tags
            if tag.platform in fits and tag.abi in {tag.interpreter, f"{tag.interpreter}m"}
            if (found := _CPYTHON.fullmatch(tag.interpreter))
        }
        return [f"3.{minor}" for minor in sorted(minors)]

    def has_wheel(self, python: str, platform: str) -> bool:
        """Whether a wheel that is not yanked installs in a Python on a platform."""
        tags = _tags(python, platform)
        return any(file.tags & tags for file in self.files if file.yanked is None)


def _platforms(platform: str) -> list[str]:
    """Platform tags of wheels that a platform of uv's (`x86_64-manylinux_2_28`) takes."""
    found = _PLATFORM.fullmatch(platform)
    if found is None:
        raise UsageError(
            f"matrix.yaml: platform is {platform!r}, whose wheels cannot be told: write one such as "
            "x86_64-manylinux_2_28."
        )
    newest, machine = int(found["glibc"]), found["machine"]
    old = [name for number, name in _OLD_NAMES.items() if number <= newest]
    names = [*(f"manylinux_2_{number}" for number in range(newest, 4, -1)), *old, "linux"]
    return [f"{name}_{machine}" for name in names]


def _tags(python: str, platform: str) -> frozenset[Tag]:
    major, minor = (int(part) for part in python.split("."))
    platforms = _platforms(platform)
    own = cpython_tags((major, minor), platforms=platforms)
    return frozenset((*own, *compatible_tags((major, minor), f"cp{major}{minor}", platforms)))


def releases(project: str, url: str | None = None) -> list[Release]:
    """All releases of a project that an index has, in order; a file whose name says no version is left out.

    Args:
        project: its normal name.
        url: of the index; uv's own when absent.

    Raises:
        InfrastructureError: the index cannot be reached, does not answer as it should, or has no such project.
    """
    where = (url or index_url()).rstrip("/")
    by_version: dict[Version, list[File]] = {}
    for entry in _entries(where, project):
        file = _file(entry)
        if file is not None:
            by_version.setdefault(file.version, []).append(file)
    return [Release(version, tuple(files)) for version, files in sorted(by_version.items())]


class NoSuchRelease(InfrastructureError):  # noqa: N818 - what a caller may know better than that it is an error
    """The index does not have what was asked for."""


def uploaded(project: str, version: str, url: str | None = None) -> datetime | None:
    """When the last file of a release was uploaded; None where the index does not say (PEP 700).

    Raises:
        NoSuchRelease: the index does not have it.
        InfrastructureError: the index cannot be reached.
    """
    found = next((one for one in releases(project, url) if one.version == Version(version)), None)
    if found is None:
        raise NoSuchRelease(f"The package index {shown(url or index_url())} has no {project} {version}.")
    return found.uploaded


def shown(url: str) -> str:
    """An index's URL without the password in it, for a sentence."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _entries(where: str, project: str) -> list[dict[str, Any]]:
    """Files of a project, each with the fields of the JSON form."""
    parts = urlsplit(where)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(  # noqa: S310 - whatever uv reads
        f"{urlunsplit(parts._replace(netloc=host))}/{project}/", headers={"Accept": _ACCEPT}
    )
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(unquote(user).encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            text = answer.read().decode("utf-8")
            if answer.headers.get_content_type().endswith("json"):
                return list(json.loads(text)["files"])
            return list(_links(text))
    except HTTPError as error:
        error.close()
        if error.code == 404:
            raise InfrastructureError(f"The package index {shown(where)} has no {project}.") from error
        raise InfrastructureError(f"The package index {shown(where)} answers with {error.code} {error.msg}.") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = getattr(error, "reason", None) or error
        raise InfrastructureError(
            f"The package index {shown(where)} does not say what it has of {project}: {why}."
        ) from error


def _file(entry: dict[str, Any]) -> File | None:
    name = entry["filename"]
    try:
        if name.endswith(".whl"):
            _project, version, _build, tags = parse_wheel_filename(name)
        else:
            (_project, version), tags = parse_sdist_filename(name), frozenset()
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    when, yanked = entry.get("upload-time"), entry.get("yanked")
    reason = yanked if isinstance(yanked, str) and yanked else "no reason given"
    return File(
        version,
        tags,
        datetime.fromisoformat(when).astimezone(UTC) if when else None,
        # An empty reason is one: a file is not yanked where the field is false or absent.
        None if yanked is None or yanked is False else reason,
    )


def _links(text: str) -> Iterator[dict[str, Any]]:
    """The links of an HTML page as the JSON form has them; `data-yanked` may be there without a reason."""
    reader = _Page()
    reader.feed(text)
    for href, attributes in reader.links:
        name = unquote(urlsplit(href).path.rpartition("/")[2])
        yield {"filename": name, "yanked": "data-yanked" in attributes and (attributes["data-yanked"] or True)}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        href = found.get("href")
        if tag == "a" and href:
            self.links.append((href, found))

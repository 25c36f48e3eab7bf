"""What a package index says of a project: when each release was uploaded (the JSON form of its simple API, PEP 691)."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.error import URLError

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from harness.errors import InfrastructureError

_JSON = "application/vnd.pypi.simple.v1+json"
_PUBLIC = "https://pypi.org/simple"
_TIMEOUT = 60


def index_url(environment: Mapping[str, str] = os.environ) -> str:
    """The package index that uv takes by default, from the variables by which it can be another."""
    return environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL") or _PUBLIC


def uploaded(project: str, version: str, url: str | None = None) -> datetime | None:
    """When the last file of a release was uploaded; None where the index does not say (PEP 700).

    Raises:
        InfrastructureError: the index cannot be reached, or does not know the release.
    """
    where = (url or index_url()).rstrip("/")
    files = [one for one in _files(where, project) if _version_of(one["filename"]) == Version(version)]
    if not files:
        raise InfrastructureError(f"The package index {where} has no {project} {version}.")
    times = [datetime.fromisoformat(one["upload-time"]) for one in files if one.get("upload-time")]
    return max(time.astimezone(UTC) for time in times) if times else None


def _files(where: str, project: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{where}/{project}/", headers={"Accept": _JSON})  # noqa: S310 - as uv reads it
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            said = json.load(answer)
    except (URLError, OSError, ValueError) as error:
        raise InfrastructureError(f"The package index {where} does not say what {project} has: {error}.") from error
    return list(said["files"])


def _version_of(filename: str) -> Version | None:
    try:
        if filename.endswith(".whl"):
            return parse_wheel_filename(filename)[1]
        return parse_sdist_filename(filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None

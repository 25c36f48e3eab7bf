"""Installed packages by normal name, and how they differ from a lock."""

from __future__ import annotations

import re
from pathlib import Path

from harness.environments.lockfile import Lock


def installed_packages(path: Path) -> dict[str, str]:
    """Name to version of everything installed in a virtualenv, read from its metadata without starting Python."""
    return {k: v for site in path.glob("lib/python3*/site-packages") for k, v in site_packages(site).items()}


def site_packages(site: Path) -> dict[str, str]:
    """Name to version of everything installed in a site folder."""
    found = {}
    for metadata in site.glob("*.dist-info/METADATA"):
        name = version = ""
        with metadata.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Name:"):
                    name = line[5:].strip()
                elif line.startswith("Version:"):
                    version = line[8:].strip()
                if (name and version) or not line.strip():
                    break
        found[normal_name(name)] = version
    return dict(sorted(found.items()))


def normal_name(name: str) -> str:
    """A package's name in the form in which locks and metadata can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def mismatches(lock: Lock, found: dict[str, str]) -> list[str]:
    """How the installed packages differ from a lock, one sentence fragment each; empty when they are the same."""
    wanted = {normal_name(name): version for name, version in lock.packages.items()}
    return [
        f"{name} is {found.get(name, 'missing')} instead of {wanted.get(name, 'absent')}"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]

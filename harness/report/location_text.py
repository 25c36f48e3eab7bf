"""What `locate` found as a tree, as sentences, and as rows of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from harness.artifacts.graph import Change, Place, main_input, origins
from harness.explain.difference import Difference, amount
from harness.explain.locate import Location, StepFinding
from harness.explain.noise import Noise
from harness.explain.replay import MISSING_A, MISSING_B, CallVerdict
from harness.report.parquet import MEASURED, picked
from harness.words import count

_MARK = {
    Change.EQUAL: ("=", "green"),
    Change.ORIGIN: ("ORIGIN", "bold red"),
    Change.INHERITED: ("inherited", "yellow"),
    Change.NOISE: ("noise", "magenta"),
    Change.SWAPPED: ("swapped in", "cyan"),
}
_SHOWN = 3  # calls of a step that are named before the rest is counted
_INSIDE = 8  # the same of a module in which a difference starts


def tree(places: Sequence[Place], differences: Mapping[str, Difference]) -> Tree:
    """The pipeline as a tree: each artifact below the input that its difference would come from."""
    inside = {place.name for place in places}
    root = Tree("collection, checkpoint, settings")
    nodes: dict[str | None, Tree] = {None: root}
    for place in places:
        parent = main_input(place, inside)
        word, style = _MARK[place.change]
        line = Text.assemble((f"{place.name} ", ""), (word, style))
        if place.name in differences:
            line.append(f"  {how(differences[place.name])}", "dim")
        if place.change is Change.ORIGIN:
            line.append(f"  (step: {place.step})", "bold")
        nodes[place.name] = nodes.get(parent, root).add(line)
    return root


def how(found: Difference) -> str:
    """How an artifact differs, in words."""
    a, b = found.a, found.b
    if a is None or b is None:
        return f"only in {'B' if a is None else 'A'}"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} against {list(b.shape)}"
    if a.dtype != b.dtype:
        return f"{a.dtype} against {b.dtype}"
    return amount(found.metrics) if found.metrics else "differs; only digests were kept"


def sentences(location: Location) -> list[str]:
    """What was found, in plain words."""
    sides = location.a if location.a.split("#")[0] == location.b.split("#")[0] else "each"
    floor = (
        f"{sides} was run {count(location.repeats, 'more time')} for the noise floor"
        if location.repeats
        else "the noise floor was not measured"
    )
    lines = []
    if not location.diverged:
        equal = sum(place.change is Change.EQUAL for place in location.places)
        lines.append(
            f"{location.a} and {location.b}: nothing differs beyond the noise floor ({equal} of {len(location.places)} "
            f"artifacts are bit for bit equal; {floor})."
        )
    else:
        inherited = sum(place.change is Change.INHERITED for place in location.places)
        when = "" if location.step is None else f"step {location.step}, "
        starts = "; ".join(f"{step} ({', '.join(names)})" for step, names in origins(location.places).items())
        nowhere = "what cannot be read" if location.unread else "nothing but noise"
        lines.append(
            f"{location.a} -> {location.b}: the difference starts in {when}{starts or nowhere}; "
            f"{count(inherited, 'more artifact')} inherit{'s' if inherited == 1 else ''} it ({floor})."
        )
    lines += [
        f"{name} differs, and nobody can tell whether it does before all else: {why}"
        for name, why in location.unread.items()
    ]
    lines += [
        f"{label} has no {name}, which could not be recorded: {why}" for label, name, why in location.not_captured
    ]
    if noisy := [place.name for place in location.places if place.change is Change.NOISE]:
        lines.append(f"Noise, of which nothing follows: {', '.join(noisy)}.")
    lines += map(noise_sentence, location.noise)
    for finding in location.findings:
        lines += _finding(finding)
    return lines


def noise_sentence(noise: Noise) -> str:
    """What changes when a cell is run again, and where that starts."""
    starts = "; ".join(noisy_calls(step, verdicts) for step, verdicts in noise.sources.items())
    names = ", ".join(noise.artifacts)
    return f"{noise.label} is not repeatable: {names} change when it is run again, first in {starts}."


def noisy_calls(step: str, verdicts: Sequence[CallVerdict]) -> str:
    """A step, and the calls in it."""
    names = list(dict.fromkeys(f"{v.kind} {v.name}" for v in verdicts))
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return step + (f" ({', '.join(names[:_SHOWN] + more)})" if names else "")


def _finding(finding: StepFinding) -> list[str]:
    head = f"{finding.step}: "
    if finding.outcome != "ok":
        return [] if finding.inherited else [f"{head}not replayed ({finding.outcome}): {finding.reason}"]
    if failed := [name for name, held in finding.gates.items() if not held]:
        return [f"{head}nothing is claimed, because a gate failed: {'; '.join(failed)}."]
    found = Counter(verdict.status for verdict in finding.verdicts)
    total = found.total() - found[MISSING_A]
    lines = summary(finding.verdicts, gpu=finding.gpu)
    rest = f"{found['propagates']} of {total} calls only pass a difference on"
    sided = one_sided(finding.verdicts)
    if structure := found[MISSING_A] + found[MISSING_B]:
        rest += f", {count(structure, 'call')} on one side only"
    rest += f" ({sided})" if sided else ""
    looked = f" ({finding.request['where']})" if "where" in finding.request else ""
    if not lines and finding.inherited:
        return [f"{head}gives the same with A's exact input{looked}: it only inherits."]
    if not lines:
        besides = f" {finding.request['besides']}" if "besides" in finding.request else ""
        return [f"{head}no call differs when it gets A's exact input; {rest}.{besides}"]
    if finding.inherited:
        head = f"{finding.step} (a difference of its own, besides what it inherits): "
    where = [f"{head}looked at {finding.request['where']}."] if "where" in finding.request else []
    return [*where, *(f"{head}{line}." for line in lines), f"{head}{rest}."]


def one_sided(verdicts: Iterable[CallVerdict], most: int = _SHOWN) -> str:
    """Which operators each side runs more often than the other, and how AdamW goes through the parameters.

    `most` are named of each side, those with the most calls first.
    """
    verdicts = [verdict for verdict in verdicts if verdict.kind == "operator"]
    said = []
    for status, side in ((MISSING_B, "A"), (MISSING_A, "B")):
        names = Counter(verdict.name for verdict in verdicts if verdict.status == status)
        drawing = {verdict.name for verdict in verdicts if verdict.status == status and verdict.draws}
        shown = [f"{name}{', which draws random numbers,' * (name in drawing)} {n}x" for name, n in names.most_common()]
        more = [f"{len(shown) - most} more"] if len(shown) > most else []
        if shown:
            said.append(f"only in {side}: {', '.join(shown[:most] + more)}")
    ways = [_way(v for v in verdicts if v.status != other) for other in (MISSING_A, MISSING_B)]
    if ways[0] != ways[1]:
        said.append(f"AdamW runs {ways[0]} in A, {ways[1]} in B")
    return "; ".join(said)


def _way(verdicts: Iterable[CallVerdict]) -> str:
    """How an optimizer goes through the parameters, by the operators of its phase."""
    names = {verdict.name.split(".")[1] for verdict in verdicts if verdict.phase == "optimizer"}
    if any(name.startswith("_fused_") for name in names):
        return "fused"
    return "foreach" if any(name.startswith("_foreach_addcdiv") for name in names) else "one parameter at a time"


def summary(verdicts: Iterable[CallVerdict], *, gpu: bool = False) -> list[str]:
    """One line for each function of origin: how many of its calls, where first, by how much.

    Args:
        verdicts: of the calls of one step.
        gpu: whether the job had a GPU; then a call that ran on the CPU all the same is said to.
    """
    verdicts = list(verdicts)
    total = Counter((v.kind, v.name) for v in verdicts if v.index >= 0)
    grouped: dict[tuple[str, str], list[CallVerdict]] = {}
    for verdict in verdicts:
        if verdict.starts:
            grouped.setdefault((verdict.kind, verdict.name), []).append(verdict)
    lines, seen = [], set[str]()
    for (kind, name), found in grouped.items():
        first, one, of = found[0], kind in {"module", "step"}, ""
        what = first.where if one else f"{kind} {name}"
        if gpu and first.device == "cpu":
            what += " on the CPU"
        if not one:
            of = f", {len(found)} of {total[kind, name]} calls, first in {first.place}"
        if first.stream:
            of += ", draws other random numbers from the same state"
        if kind == "module":
            # What it is made of is not the same: by which operators either side computes it.
            inside = (v for v in verdicts if v.module == name or v.module.startswith(f"{name}."))
            sided = one_sided(inside, _INSIDE)
            of = f" ({'as above' if sided in seen else sided})" if sided else ""
            seen.add(sided)
        much = f": {amount(first.metrics) if first.metrics else first.reason}" if first.metrics or first.reason else ""
        lines.append(f"{what}{of}{much}")
    return lines


def answer(location: Location) -> str:
    """The answer in a line: the steps that a difference starts in, and the operators of each that make it."""
    if not location.diverged:
        return f"Starts in: nothing; {location.a} and {location.b} do not differ beyond the noise floor."
    said = []
    for step in origins(location.places):
        # Only what a trusted replay claims; where there is none, the step is all that is known.
        calls = [call for of, call in location.origins if of == step]
        names = list(dict.fromkeys(call.name for call in calls if call.kind == "operator"))
        more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        said.append(f"{step} ({', '.join(names[:_SHOWN] + more)})" if names else step)
    when = "" if location.step is None else f"step {location.step}, "
    return f"Starts in: {when}{'; '.join(said) or 'nothing but noise'}."


def show(location: Location, console: Console) -> None:
    """Print the answer, the tree and the sentences."""
    console.print(escape(answer(location)), style="bold", highlight=False, soft_wrap=True)
    console.print()
    console.print(tree(location.places, location.differences))
    console.print()
    for line in sentences(location):
        console.print(escape(line), highlight=False, soft_wrap=True)


def rows(location: Location) -> list[dict[str, Any]]:
    """One row per call of each replayed step, for `locations.parquet`."""
    return [
        {
            **picked(location, "a", "b"),
            **picked(finding, "step", "trusted"),
            "artifacts": ",".join(finding.artifacts),
            **picked(verdict, "kind", "module", "name", "number", "status", "reason"),
            "ran_on": verdict.device,
            **picked(verdict, "node", "of", "draws", "stream"),
            **picked(verdict.metrics, *MEASURED),
        }
        for finding in location.findings
        for verdict in finding.verdicts
    ]

"""From the files of the jobs `record` and `replay` to a verdict on every call: origin, or only passing it on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from harness.environments.interpreter import Interpreter
from harness.explain.difference import measured
from harness.explain.pair import Side
from harness.running.job import JobResult, Workbench
from harness.store.spec import CellSpec
from harness.tensors.metrics import Metrics
from harness.tensors.safetensors import read_safetensors
from harness.tensors.tensor import Tensor

ORIGIN = "origin"
ARGUMENTS = "arguments"
UNSTABLE = "unstable"
MISSING_A = "missing_a"
MISSING_B = "missing_b"


@dataclass(frozen=True)
class CallVerdict:
    """What one call of the recorded step showed.

    Attributes:
        kind: `step`, `module`, `function` or `operator`.
        module: the module that it ran in; empty outside of all.
        name: path of a module, or name of a function or operator.
        number: how many calls of that name ran in the same module before it.
        status: `origin` (differs with A's exact input, and nothing inside it does), `contains_origin`, `propagates`
            (equal with A's exact input, different in B's own run), `arguments` (the same, though B's own run gave it
            the same tensors: what it was told beside them differs), `equal`, `unstable` (differs even in A: not
            repeatable), `absent` or `refused` (cannot be called in B), `missing_a` or `missing_b` (structure).
        reason: why it is absent or refused, or what it was told.
        index: its place in the recording; -1 for `missing_a`.
        metrics: the difference of the first tensor of the result that differs, for origins.
        shapes: shapes of its tensor inputs.
        device: kind of device that its tensors are on, `cuda` or `cpu`, or both with a comma where it copies between;
            empty if it has none.
        phase: the part of the step that it is of; empty where a step has no parts.
        node: the node of autograd's graph that ran it; empty outside of the backward pass.
        of: what made the node, a function or a parameter; empty where that is not known.
        draws: whether it draws random numbers.
        stream: whether it is other numbers that it drew, from the same state, and not only what it made of them.
    """

    kind: str
    module: str
    name: str
    number: int
    status: str
    reason: str = ""
    index: int = -1
    metrics: Metrics | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    device: str = ""
    phase: str = ""
    node: str = ""
    of: str = ""
    draws: bool = False
    stream: bool = False

    @property
    def starts(self) -> bool:
        """Whether a difference starts in it: it differs with A's exact input, or is told something else."""
        return self.status in {ORIGIN, ARGUMENTS}

    @property
    def place(self) -> str:
        """The module, or what of the backward pass, that it ran in."""
        if not self.node:
            return self.module or "the step itself"
        made = f" of {self.of}" if self.of else ""
        return f"{self.node}{made}" + (f" in {self.module}" if self.module and self.module not in self.of else "")

    @property
    def where(self) -> str:
        """One phrase: which call."""
        call = f", call {self.number + 1}" if self.number else ""
        if self.kind in {"module", "step"}:
            return f"{self.kind} {self.name}{call}"
        return f"{self.name} in {self.place}{call}"


@dataclass(frozen=True)
class Runs:
    """The three jobs of one step.

    Attributes:
        recorded: `record` in A.
        again: `replay` of it in A, which must change nothing; None where the recording failed.
        in_b: `replay` of it in B; None where the recording failed.
    """

    recorded: JobResult
    again: JobResult | None = None
    in_b: JobResult | None = None


def run_steps(bench: Workbench, a: Side, b: Side, requests: Sequence[dict[str, Any]], folder: Path) -> list[Runs]:
    """Record steps in A, and replay them in A and in B: three processes, however many steps there are.

    Args:
        bench: runs jobs.
        a: whose calls are recorded.
        b: who gets their inputs.
        requests: of a `record` job, one for each step.
        folder: for what the jobs write (hundreds of MB for a batch of long passages).
    """

    def together(side: Side, job: str, asked: Sequence[dict[str, Any]], name: str) -> list[JobResult]:
        return run_together(bench, side.cell.spec, side.interpreter(), job, asked, folder / name) if asked else []

    recorded = together(a, "record", requests, "recorded")
    done = [number for number, job in enumerate(recorded) if job.ok]
    replays = [{**requests[number], "recording": str(recorded[number].out)} for number in done]
    again = dict(zip(done, together(a, "replay", replays, "again"), strict=True))
    in_b = dict(zip(done, together(b, "replay", replays, "in_b"), strict=True))
    return [Runs(job, again.get(number), in_b.get(number)) for number, job in enumerate(recorded)]


def run_together(
    bench: Workbench, spec: CellSpec, interpreter: Interpreter, job: str, requests: Sequence[dict[str, Any]],
    folder: Path,
) -> list[JobResult]:  # fmt: skip
    """Run a job on several steps in one process.

    Args:
        bench: runs jobs.
        spec: gives variables and settings.
        interpreter: of the environment.
        job: one that takes `steps`.
        requests: one for each step.
        folder: for what the job writes.
    """
    done = bench.run(spec, interpreter, job, {"steps": list(requests)}, folder)
    if done.ok:
        return [
            JobResult(step["outcome"], step["reason"], folder / str(number), step, done.log_tail)
            for number, step in enumerate(done.result["steps"])
        ]
    if len(requests) == 1:
        return [done]
    # A step that ends the process (a signal, the deadline) takes the others with it: give each a process of its own.
    alone = enumerate(requests)
    return [run_together(bench, spec, interpreter, job, [one], folder / f"alone-{n}")[0] for n, one in alone]


def references(value: object) -> list[dict[str, Any]]:
    """The tensor references inside an encoded value, in order (see `harness.worker.recording`)."""
    if not isinstance(value, dict):
        return []
    if "tensor" in value:
        return [value]
    parts = next(iter(value.values()))
    if "dict" in value:
        parts = [part for _key, part in parts]
    return [found for part in parts for found in references(part)] if isinstance(parts, list) else []


def read_calls(folder: Path) -> list[dict[str, Any]]:
    """The calls of a `record` job, or of a `replay` job's free run."""
    return cast("list[dict[str, Any]]", json.loads((folder / "calls.json").read_text(encoding="utf-8")))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """What a `replay` job says of each recorded call."""
    return cast("list[dict[str, Any]]", json.loads((folder / "replay.json").read_text(encoding="utf-8")))


def _identity(call: dict[str, Any]) -> tuple[str, str, str, str, int]:
    return call.get("phase", ""), call["kind"], call["module"], call["name"], call["number"]


def _digests(*values: object) -> list[str]:
    return [reference["tensor"] for value in values for reference in references(value)]


def _drawn(call: dict[str, Any], which: str) -> object:
    return call["drawn"][which] if "drawn" in call else None


def _verdict(call: dict[str, Any], status: str) -> CallVerdict:
    """A call's verdict, with what its record says of it."""
    known = {name: call[name] for name in ("kind", "module", "name", "number")}
    known |= {name: call.get(name, "") for name in ("phase", "node", "of")}
    return CallVerdict(**known, status=status, draws="drawn" in call)


def _told(call: dict[str, Any], mine: dict[str, Any] | None) -> str:
    """What B's own run told a call that got A's tensors, and made something else of them; empty where it is the same.

    Args:
        call: of A's recording; B gives the same result for what A told it.
        mine: the same call of B's own run; None where it has none.
    """
    if mine is None or _digests(mine["result"]) == _digests(call["result"]):
        return ""
    given = [_digests(one["args"], one["kwargs"], _drawn(one, "from")) for one in (call, mine)]
    if given[0] != given[1]:
        return ""
    for name, one, other in _arguments(call, mine):
        if (in_a := _plain(one)) != (in_b := _plain(other)):
            return f"{name} is {in_a} in A, {in_b} in B"
    return ""


def _arguments(call: dict[str, Any], mine: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
    places = zip_longest(call["args"]["tuple"], mine["args"]["tuple"], fillvalue="nothing")
    yield from ((f"argument {number + 1}", *pair) for number, pair in enumerate(places))
    one, other = (dict(side["kwargs"]["dict"]) for side in (call, mine))
    yield from ((name, one.get(name, "nothing"), other.get(name, "nothing")) for name in {**one, **other})


def _plain(value: object) -> str:
    """An encoded value in short; of a tensor how it lies in memory, which may choose a kernel."""
    if not isinstance(value, dict):
        return repr(value)
    if "tensor" in value:
        return f"a tensor with strides {value['stride']} and offset {value['offset']}"
    (kind, content), *_ = value.items()
    if kind == "float":
        return repr(float.fromhex(content))
    return f"[{', '.join(map(_plain, content))}]" if isinstance(content, list) else str(content)


def _other_numbers(call: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a call drew other numbers from the same state, or some where it drew none.

    A dropout kernel gives a mask beside its product; what draws and gives none gives the numbers themselves.
    """
    if "drawn" not in call:
        return "drawn" in found
    pairs = [*zip(references(call["result"]), references(found["result"]), strict=False)]
    masks = [(one, other) for one, other in pairs if one["dtype"] == "bool"]
    return any(one["tensor"] != other["tensor"] for one, other in masks or pairs) or (
        _digests(_drawn(call, "to")) != _digests(found.get("drawn"))
    )


def judge(recording: Path, replayed: Path, repeated: Path) -> list[CallVerdict]:
    """Judge every call of a recording.

    Args:
        recording: folder of the `record` job in A.
        replayed: folder of its `replay` in B.
        repeated: folder of its `replay` in A: what differs there is not repeatable, and blames nothing.

    Returns:
        One verdict per recorded call, in order, then one per call that only B's own run made.
    """
    calls = read_calls(recording)
    in_a, in_b = read_results(repeated), read_results(replayed)
    free = {_identity(call): call for call in read_calls(replayed)}
    known = {_identity(call) for call in calls}
    unstable = [found["status"] == "different" for found in in_a]
    # What cannot be called again even where it was recorded says nothing of B.
    sound = [found["status"] == "equal" for found in in_a]
    differs = [found["status"] == "different" and sound[index] for index, found in enumerate(in_b)]
    told = [
        _told(call, free.get(_identity(call))) if found["status"] == "equal" and sound[index] else ""
        for index, (call, found) in enumerate(zip(calls, in_b, strict=True))
    ]
    verdicts = []
    for index, (call, found) in enumerate(zip(calls, in_b, strict=True)):
        inside = range(index + 1, index + 1 + call["inner"])
        status, metrics, stream, reason = "equal", None, False, found.get("reason", "")
        if unstable[index]:
            status = UNSTABLE
        elif (differs[index] or told[index]) and any(differs[i] or told[i] for i in inside):
            status = "contains_origin"
        elif not sound[index]:
            status, reason = in_a[index]["status"], in_a[index].get("reason", "")
        elif differs[index]:
            status, stream = ORIGIN, _other_numbers(call, found)
            metrics = _measure(call["result"], found["result"], recording, replayed)
        elif told[index]:
            status, reason = ARGUMENTS, told[index]
        elif found["status"] in {"absent", "refused"}:
            status = found["status"]
        elif _identity(call) not in free:
            status = MISSING_B
        elif _digests(free[_identity(call)]["result"]) != _digests(call["result"]):
            status = "propagates"
        inputs = references(call["args"]) + references(call["kwargs"])
        shapes = tuple(tuple(r["shape"]) for r in inputs)
        device = ",".join(sorted({r["device"] for r in inputs + references(call["result"])}))
        verdict = replace(_verdict(call, status), reason=reason, index=index, metrics=metrics)
        verdicts.append(replace(verdict, shapes=shapes, device=device, stream=stream))
    return verdicts + [_verdict(call, MISSING_A) for identity, call in free.items() if identity not in known]


def unstable_calls(recording: Path, *repeated: Path) -> list[CallVerdict]:
    """The innermost calls whose output changes although they get the same input in the same environment.

    Args:
        recording: folder of a `record` job.
        repeated: folders of its `replay` in the same environment.
    """
    calls = read_calls(recording)
    replays = [read_results(folder) for folder in repeated]
    differs = [any(replay[index]["status"] == "different" for replay in replays) for index in range(len(calls))]
    return [
        replace(_verdict(call, UNSTABLE), index=index)
        for index, call in enumerate(calls)
        if differs[index] and not any(differs[index + 1 : index + 1 + call["inner"]])
    ]


def _measure(a: object, b: object, folder_a: Path, folder_b: Path) -> Metrics | None:
    pairs = zip(references(a), references(b), strict=False)
    first = next(((left, right) for left, right in pairs if left["tensor"] != right["tensor"]), None)
    return first and measured(lambda: tensor(folder_a, first[0]), lambda: tensor(folder_b, first[1]))


def tensor(folder: Path, reference: dict[str, Any]) -> Tensor:
    """A recorded tensor."""
    return read_safetensors(folder / "tensors" / f"{reference['tensor']}.safetensors")["tensor"]

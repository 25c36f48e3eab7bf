"""A standalone script for an origin: one operator, one small data file, torch and nothing else, for an upstream issue.

The input is cut along every dimension to the smallest part that still shows the difference. Each script is run in both
environments, and is said to show it only if it prints no difference in A and one in B.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.gpus import gpu_turn
from harness.locate import StepFinding
from harness.pair import Pair, Side
from harness.replay import Verdict, amount, read_calls, references, tensor
from harness.runner import from_outside
from harness.tensors import DTYPES, Tensor, read_safetensors

_SIZES = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
"""Elements that are tried along one dimension, beside all of them; kernels work on powers of two at a time."""
_WINDOWS = 600
"""So many parts of the input are tried at most; of a result with many long dimensions fewer sizes along each."""
DATA_LIMIT = 16 * 1024 * 1024
"""Bytes of input above which no repro is written: it would not be a small data file."""
SMALL = 128 * 1024
"""Above so many bytes, a smaller part is taken on which the two versions differ in another way than on the whole."""
_ALIGNED = 64
"""Bytes; each tensor of a data file starts at a multiple."""

_SCRIPT = '''\
"""{title}

{found}
{cut}
Needs torch and {name}.bin beside this file. Run it under both versions.
"""
import os
{imports}
import torch

torch.set_num_threads({threads})
with open(os.path.splitext(os.path.abspath(__file__))[0] + ".bin", "rb") as file:
    data = bytearray(file.read())
{libraries}

def tensor(offset, dtype, shape, stride=None):
    count = torch.Size(shape).numel()
    found = torch.frombuffer(data, dtype=dtype, count=count, offset=offset).reshape(shape).to("{device}")
    if stride is None:
        return found
    return torch.empty_strided(shape, stride, dtype=dtype, device=found.device).copy_(found)


with torch.inference_mode():
    result = {call}
result = (result if torch.is_tensor(result) else result[{which}]).cpu().contiguous()
expected = {expected}.cpu()
bits = {{1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}}[expected.element_size()]
differs = result.view(bits) != expected.view(bits)
count = f"{{int(differs.sum())}} of {{differs.numel()}} elements"
print(f"torch {{torch.__version__}}{shown}: {{count}} differ from torch {a}'s")
if differs.any():
    where = tuple(differs.nonzero()[0].tolist())
    apart = (result.double() - expected.double()).abs().max().item()
    print(f"at most {{apart:.4g}} apart; at {{where}} {{result[where].item()!r}}, not {{expected[where].item()!r}}")
'''


_IMPORT = "from importlib.metadata import distributions\n"
_LIBRARIES = """\
cublas = [f"{d.name} {d.version}" for d in distributions() if str(d.name).startswith("nvidia-cublas")]
libraries = ", ".join([f"CUDA {torch.version.cuda}", *cublas])
"""
"""What a script on a GPU says beside torch's version; cuBLAS is a package of its own."""


@dataclass(frozen=True)
class Repro:
    """A script that was written and run in both environments.

    Attributes:
        script: the file.
        printed_a: what it prints under A.
        printed_b: what it prints under B.
        shows: whether A shows no difference and B does.
    """

    script: Path
    printed_a: str
    printed_b: str
    shows: bool


def write_repros(pair: Pair, finding: StepFinding, recorded: Path, in_b: Path, folder: Path) -> list[str]:
    """Write a script for each operator of origin, for its call with the least input; returns lines for the console."""
    if finding.outcome != "ok" or not finding.trusted:
        return []
    calls = read_calls(recorded)
    results = json.loads((in_b / "replay.json").read_text(encoding="utf-8"))
    lines = []
    for verdict in _smallest(finding.origins, calls):
        name = re.sub(r"[^a-z0-9]+", "_", f"{finding.step}_{verdict.name}".lower()).strip("_")
        made = _write(pair, finding, verdict, calls, results, (recorded, in_b), folder / f"{name}.py")
        if made is None:
            lines.append(f"{verdict.where}: no repro; its input is too large or cannot be written down.")
            continue
        state = "shows the difference" if made.shows else "does NOT show the difference by itself"
        lines += [f"Repro {made.script} {state}:", f"  {made.printed_a}", f"  {made.printed_b}"]
    return lines


def _smallest(verdicts: Iterable[Verdict], calls: list[dict[str, Any]]) -> list[Verdict]:
    """For each operator or function, the call with the fewest input elements."""
    chosen: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.kind not in {"operator", "function"} or _opaque(calls[verdict.index]):
            continue
        best = chosen.get(verdict.name)
        if best is None or _elements(verdict) < _elements(best):
            chosen[verdict.name] = verdict
    return list(chosen.values())


def _elements(verdict: Verdict) -> int:
    return sum(int(np.prod(shape)) for shape in verdict.shapes)


def _opaque(call: dict[str, Any]) -> bool:
    return '"opaque"' in json.dumps([call["args"], call["kwargs"]])


def _write(
    pair: Pair,
    finding: StepFinding,
    verdict: Verdict,
    calls: list[dict[str, Any]],
    results: list[dict[str, Any]],
    folders: tuple[Path, Path],
    script: Path,
) -> Repro | None:
    call, recorded = calls[verdict.index], folders[0]
    outs, outs_b = references(call["result"]), references(results[verdict.index]["result"])
    which = next((i for i, (x, y) in enumerate(zip(outs, outs_b, strict=False)) if x["tensor"] != y["tensor"]), None)
    if which is None:
        return None
    trimmed = _trim(pair, call, which, folders, outs_b[which])
    on_gpu = pair.bench.device_kind != "cpu" and outs[which]["device"] != "cpu"
    data = Data("cuda" if on_gpu else "cpu")
    expected = data.add(trimmed.expected)
    source = _call_source(call, recorded, trimmed.window, data)
    if len(data.content) > DATA_LIMIT:
        return None
    script.parent.mkdir(parents=True, exist_ok=True)
    script.with_suffix(".bin").write_bytes(data.content)
    parent = next(
        (c["name"] for i, c in enumerate(calls) if c["kind"] == "function" and i < verdict.index <= i + c["inner"]), ""
    )
    a, b = pair.a.cell.version, pair.b.cell.version
    place = f"step {finding.step!r}" + (f", module {verdict.module}" if verdict.module else "")
    script.write_text(
        _SCRIPT.format(
            title=f"torch {a} and {b} give different results for {verdict.name} on the same input.",
            found=f"Found in colbert-ai's indexer: {place}"
            + (f", from {parent}" if parent else "")
            + f"{amount(verdict.metrics)}.",
            cut=trimmed.said,
            name=script.stem,
            threads=pair.a.spec.settings.get("threads", 1),
            device=data.device,
            call=source,
            imports=_IMPORT if on_gpu else "",
            libraries=_LIBRARIES if on_gpu else "",
            shown=" ({libraries})" if on_gpu else "",
            which=which,
            expected=expected,
            a=a,
        ),
        encoding="utf-8",
    )
    printed_a, printed_b = (run_script(pair, side, script) for side in (pair.a, pair.b))
    script.with_suffix(".txt").write_text(f"{printed_a}\n{printed_b}\n", encoding="utf-8")
    return Repro(script, printed_a, printed_b, ": 0 of " in printed_a and ": 0 of " not in printed_b)


class Data:
    """The data file of a script: the elements of tensors one after the other, as torch itself reads them.

    Args:
        device: where the script wants them.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.content = b""

    def add(self, held: Tensor, stride: str = "") -> str:
        """Append a tensor; returns the script's call that reads it."""
        if not held.n:
            return f'torch.empty({held.shape}, dtype=torch.{held.dtype}, device="{self.device}")'
        self.content += bytes(-len(self.content) % _ALIGNED)
        offset = len(self.content)
        self.content += np.ascontiguousarray(held.data).tobytes()
        return f"tensor({offset}, torch.{held.dtype}, {held.shape}{stride})"


@dataclass(frozen=True)
class Window:
    """A part of a call's input, and of its result.

    Attributes:
        args: for each place of an argument that is cut, `(dimension, start, stop)`s.
        result: the same of the result.
        size: elements of input that are left.
    """

    args: dict[int, list[tuple[int, int, int]]]
    result: list[tuple[int, int, int]]
    size: int

    def to_json(self) -> dict[str, Any]:
        """As the job `trim` wants it."""
        return {"args": [[place, *cut] for place, cuts in self.args.items() for cut in cuts], "result": self.result}


@dataclass(frozen=True)
class Trimmed:
    """What a script needs of a call.

    Attributes:
        window: the part of its input.
        expected: A's result for it.
        said: how it was cut, for the script's reader.
    """

    window: Window
    expected: Tensor
    said: str


_WHOLE = "The input is the whole of that call's."
_PINNED = "The input is cut to a part on which both versions give the bits that they give on the whole."
_OTHERWISE = "The input is cut to a part on which they differ as well, though not by the same bits as on the whole."


def windows(call: dict[str, Any], shape: Sequence[int], position: Sequence[int]) -> list[Window]:
    """Parts of a call's input around one element of its result, the smallest first; the last one is the whole.

    An argument is cut along a dimension where it is as long as the result, dimensions counted from the last, as in
    broadcasting. Whether the result is cut by that in the same way is for an experiment to say.

    Args:
        call: as recorded.
        shape: of the result.
        position: of an element that differs.
    """
    shapes = {
        place: tuple(arg["shape"])
        for place, arg in enumerate(call["args"]["tuple"])
        if isinstance(arg, dict) and "tensor" in arg
    }

    def cuts(sizes: Sequence[int]) -> list[list[tuple[int, int, int] | None]]:
        """For each dimension, where it may be cut; None leaves it whole."""
        found: list[list[tuple[int, int, int] | None]] = []
        for dimension, (length, at) in enumerate(zip(shape, position, strict=True)):
            starts = {size: min(at, length - size) for size in sizes if size < length}
            found.append([*((dimension, start, start + size) for size, start in starts.items()), None])
        return found

    step = 1
    while math.prod(map(len, cuts(_SIZES[::step]))) > _WINDOWS and step < len(_SIZES):
        step += 1
    found = []
    for chosen in itertools.product(*cuts(_SIZES[::step])):
        result = [cut for cut in chosen if cut is not None]
        args: dict[int, list[tuple[int, int, int]]] = {}
        for dimension, start, stop in result:
            for place, known in shapes.items():
                own = dimension - len(shape) + len(known)
                if own >= 0 and known[own] == shape[dimension]:
                    args.setdefault(place, []).append((own, start, stop))
        size = sum(_size(known, args.get(place, ())) for place, known in shapes.items())
        found.append(Window(args, result, size))
    found.sort(key=lambda window: (window.size, len(window.result)))
    whole = Window({}, [], found[-1].size)
    useful = [window for window in found if window.args and window.size < whole.size]
    return [*useful, whole]


def _size(shape: Sequence[int], cuts: Iterable[tuple[int, int, int]]) -> int:
    left = list(shape)
    for dimension, start, stop in cuts:
        left[dimension] = stop - start
    return math.prod(left)


def _trim(
    pair: Pair, call: dict[str, Any], which: int, folders: tuple[Path, Path], result_b: dict[str, Any]
) -> Trimmed:
    """The smallest part of a call's input on which the two versions still differ, in the same way if there is one."""
    recorded, in_b = folders
    result_a = references(call["result"])[which]
    x, y = tensor(recorded, result_a), tensor(in_b, result_b)
    whole = Trimmed(Window({}, [], 0), x, _WHOLE)
    if x.shape != y.shape or x.dtype != y.dtype or not x.n:
        return whole
    bits_x, bits_y = (one.flat.view(np.uint8).reshape(one.n, -1) for one in (x, y))
    first_differing = int(np.flatnonzero((bits_x != bits_y).any(axis=1))[0])
    parts = windows(call, x.shape, [int(at) for at in np.unravel_index(first_differing, x.shape)])
    request = {"call": call, "recording": str(recorded), "which": which, "windows": [w.to_json() for w in parts]}
    with pair.bench.scratch("trim") as folder:

        def run(side: Side, whole: Path, save: Sequence[int] = ()) -> tuple[dict[str, Any], Path] | None:
            out = folder / f"{side.cell.label}-{len(save)}"
            more = {"whole": str(whole), "save": list(save)}
            done = pair.bench.run(side.spec, side.interpreter(), "trim", request | more, out)
            return (done.result, out) if done.ok else None

        file_a = recorded / "tensors" / f"{result_a['tensor']}.safetensors"
        first = run(pair.a, file_a)
        second = run(pair.b, in_b / "tensors" / f"{result_b['tensor']}.safetensors")
        if first is None or second is None:
            return whole
        (found_a, _), (found_b, _) = first, second
        pinned = [all(both) for both in zip(found_a["pinned"], found_b["pinned"], strict=True)]
        digests = list(zip(found_a["digests"], found_b["digests"], strict=True))
        number = next((n for n, held in enumerate(pinned) if held and parts[n].args), None)
        if number is not None and _bytes(call, parts[number]) <= SMALL:
            return Trimmed(parts[number], _cut(x, parts[number].result), _PINNED)
        other = next(
            (n for n, (left, right) in enumerate(digests) if None not in (left, right) and left != right), None
        )
        if other is not None and (number is None or other < number) and parts[other].args:
            again = run(pair.a, file_a, [other])
            if again is not None:
                kept = read_safetensors(again[1] / f"{other}.safetensors")["tensor"]
                return Trimmed(parts[other], Tensor(kept.dtype, kept.shape, np.array(kept.data)), _OTHERWISE)
    return whole if number is None else Trimmed(parts[number], _cut(x, parts[number].result), _PINNED)


def _bytes(call: dict[str, Any], window: Window) -> int:
    """Bytes of a window's input, as if all its arguments had the widest of their dtypes."""
    widths = [DTYPES[r["dtype"]].itemsize for r in references(call["args"])]
    return window.size * max(widths, default=1)


def _cut(held: Tensor, cuts: Iterable[tuple[int, int, int]]) -> Tensor:
    part = held.data
    for dimension, start, stop in cuts:
        part = part[(slice(None),) * dimension + (slice(start, stop),)]
    return Tensor.of(np.array(part), held.dtype)


def _call_source(call: dict[str, Any], recorded: Path, window: Window, data: Data) -> str:
    """The call as Python source; its tensors go to `data`."""

    def tensor_source(reference: dict[str, Any], cuts: Sequence[tuple[int, int, int]]) -> str:
        plain = bool(cuts) or _is_contiguous(reference) or 0 in reference["stride"]
        stride = "" if plain else f", {tuple(reference['stride'])}"
        return data.add(_cut(tensor(recorded, reference), cuts), stride)

    def source(value: object, cuts: Sequence[tuple[int, int, int]] = ()) -> str:
        if not isinstance(value, dict):
            return repr(value)
        if "tensor" in value:
            return tensor_source(value, cuts)
        (kind, content), *_ = value.items()
        if kind == "float":
            number = float.fromhex(content)
            return repr(number) if np.isfinite(number) else f'float("{number}")'
        if kind in {"dtype", "layout", "memory_format"}:
            return f"torch.{content}"
        if kind == "place":
            return f'torch.device("{content}")'
        before, after = {"list": ("[", "]"), "slice": ("slice(", ")")}.get(kind, ("(", ",)"))
        return before + ", ".join(source(part) for part in content) + after

    arguments = [source(value, window.args.get(place, ())) for place, value in enumerate(call["args"]["tuple"])] + [
        f"{name}={source(value)}" for name, value in call["kwargs"]["dict"]
    ]
    function = f"torch.ops.{call['name']}" if call["kind"] == "operator" else call["name"]
    return f"{function}({', '.join(arguments)})"


def _is_contiguous(reference: dict[str, Any]) -> bool:
    step = 1
    for size, stride in zip(reversed(reference["shape"]), reversed(reference["stride"]), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


_PATIENCE = 600.0


def run_script(pair: Pair, side: Side, script: Path) -> str:
    """What a script prints in one environment: its lines, joined; or the last line of its error."""
    interpreter = side.interpreter()
    environment = dict(side.spec.environment)
    if interpreter.site is not None:
        environment["PYTHONPATH"] = str(interpreter.site)
    if pair.bench.device_kind != "cpu":
        environment |= from_outside()
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    bench = pair.bench
    with gpu_turn(bench.home, bench.device_kind, bench.say) as held:
        done = subprocess.run(
            [str(interpreter.python), str(script.resolve())],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            pass_fds=held,
        )
    printed = done.stdout.strip() or (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return "; ".join(printed.splitlines())

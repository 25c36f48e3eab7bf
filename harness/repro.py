"""A standalone script for an origin: one operator, one small data file, nothing of ours, fit for an upstream issue.

The input is cut to the fewest rows that still show the difference. A script is kept only if, run in both environments,
it prints no difference in A and one in B.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.locate import StepFinding
from harness.pair import Pair, Side
from harness.replay import Verdict, read_calls, references, tensor
from harness.tensors import Array, Tensor, UnreadableTensor, read_safetensors

_WINDOWS = (1, 2, 4, 8, 16, 64, 256, 1024, 2048, 4096, 8192)
DATA_LIMIT = 16 * 1024 * 1024
"""Bytes of input above which no repro is written: it would not be a small data file."""

_SCRIPT = '''\
"""{title}

{found}
Needs torch, NumPy and {name}.npz beside this file. Run it under both versions.
"""
import os
{imports}
import numpy as np
import torch

torch.set_num_threads({threads})
data = np.load(os.path.splitext(os.path.abspath(__file__))[0] + ".npz")
{libraries}

def tensor(name, dtype, stride=None):
    found = torch.from_numpy(data[name]).view(getattr(torch, dtype)).to("{device}")
    if stride is None:
        return found
    return torch.empty_strided(found.shape, stride, dtype=found.dtype, device=found.device).copy_(found)


with torch.inference_mode():
    result = {call}
result = (result if torch.is_tensor(result) else result[{which}]).cpu().contiguous()
expected = tensor("expected", "{dtype}").cpu()
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
    cut, window, expected = _trim(pair, call, which, folders, outs_b[which]) or (
        [],
        None,
        tensor(recorded, outs[which]),
    )
    arrays: dict[str, Array] = {"expected": _storable(expected)}
    source = _call_source(call, recorded, cut, window, arrays)
    if sum(array.nbytes for array in arrays.values()) > DATA_LIMIT:
        return None
    script.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(script.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    parent = next(
        (c["name"] for i, c in enumerate(calls) if c["kind"] == "function" and i < verdict.index <= i + c["inner"]), ""
    )
    a, b = pair.a.cell.version, pair.b.cell.version
    on_gpu = pair.bench.device_kind != "cpu" and outs[which]["device"] != "cpu"
    place = f"step {finding.step!r}" + (f", module {verdict.module}" if verdict.module else "")
    script.write_text(
        _SCRIPT.format(
            title=f"torch {a} and {b} give different results for {verdict.name} on the same input.",
            found=f"Found in colbert-ai's indexer: {place}" + (f", from {parent}." if parent else "."),
            name=script.stem,
            threads=pair.a.spec.settings.get("threads", 1),
            device="cuda" if on_gpu else "cpu",
            call=source,
            imports=_IMPORT if on_gpu else "",
            libraries=_LIBRARIES if on_gpu else "",
            shown=" ({libraries})" if on_gpu else "",
            which=which,
            dtype=expected.dtype,
            a=a,
        ),
        encoding="utf-8",
    )
    printed_a, printed_b = (run_script(pair, side, script) for side in (pair.a, pair.b))
    script.with_suffix(".txt").write_text(f"{printed_a}\n{printed_b}\n", encoding="utf-8")
    return Repro(script, printed_a, printed_b, ": 0 of " in printed_a and ": 0 of " not in printed_b)


def _trim(
    pair: Pair, call: dict[str, Any], which: int, folders: tuple[Path, Path], result_b: dict[str, Any]
) -> tuple[list[int], list[int], Tensor] | None:
    """The arguments to cut along their first dimension, the fewest rows that still differ, and A's result for them."""
    recorded, in_b = folders
    args = call["args"]["tuple"]
    result = references(call["result"])[which]
    cut = [
        place
        for place, arg in enumerate(args)
        if isinstance(arg, dict) and "tensor" in arg and result["shape"] and len(arg["shape"]) == len(result["shape"])
        and arg["shape"][0] == result["shape"][0] > 1
    ]  # fmt: skip
    if not cut:
        return None
    x, y = tensor(recorded, result), tensor(in_b, result_b)
    if x.shape != y.shape:
        return None
    rows = x.shape[0]
    first = int(np.flatnonzero((x.data != y.data).reshape(rows, -1).any(axis=1))[:1].sum())
    windows = [[first, min(first + n, rows)] for n in _WINDOWS if first + n <= rows] + [[0, rows]]
    found = []
    with pair.bench.scratch("trim") as folder:
        for side in (pair.a, pair.b):
            request = {"call": call, "recording": str(recorded), "windows": windows, "cut": cut}
            out = folder / side.cell.label
            if not pair.bench.run(side.spec, side.interpreter(), "trim", request, out).ok:
                return None
            found.append(out)
        for number, window in enumerate(windows):
            try:
                left, right = (read_safetensors(out / f"{number}-{which}.safetensors")["tensor"] for out in found)
            except UnreadableTensor:
                continue
            if left.digest() != right.digest():
                return cut, window, Tensor(left.dtype, left.shape, np.array(left.data))
    return None


def _storable(held: Tensor) -> Array:
    """An array for a `.npz`; bfloat16 as its bits, signed, because torch knows no uint16 everywhere."""
    return held.data.view("<i2") if held.dtype == "bfloat16" else np.asarray(held.data)


def _call_source(
    call: dict[str, Any], recorded: Path, cut: list[int], window: list[int] | None, arrays: dict[str, Array]
) -> str:
    """The call as Python source; its tensors go to `arrays`."""

    def tensor_source(reference: dict[str, Any], rows: list[int] | None) -> str:
        held = tensor(recorded, reference)
        name = f"x{len(arrays) - 1}"
        array = _storable(held)
        arrays[name] = array[slice(*rows)] if rows else array
        plain = rows is not None or _is_contiguous(reference) or 0 in reference["stride"]
        stride = "" if plain else f", {tuple(reference['stride'])}"
        return f'tensor("{name}", "{reference["dtype"]}"{stride})'

    def source(value: object, rows: list[int] | None = None) -> str:
        if not isinstance(value, dict):
            return repr(value)
        if "tensor" in value:
            return tensor_source(value, rows)
        (kind, content), *_ = value.items()
        if kind == "float":
            number = float.fromhex(content)
            return repr(number) if np.isfinite(number) else f'float("{number}")'
        if kind in {"dtype", "layout", "memory_format"}:
            return f"torch.{content}"
        if kind == "place":
            return f'torch.device("{content}")'
        parts = [source(part) for part in content]
        return f"[{', '.join(parts)}]" if kind == "list" else f"({', '.join(parts)},)"

    arguments = [
        source(value, window if place in cut else None) for place, value in enumerate(call["args"]["tuple"])
    ] + [f"{name}={source(value)}" for name, value in call["kwargs"]["dict"]]
    function = f"torch.ops.{call['name']}" if call["kind"] == "operator" else call["name"]
    return f"{function}({', '.join(arguments)})"


def _is_contiguous(reference: dict[str, Any]) -> bool:
    step = 1
    for size, stride in zip(reversed(reference["shape"]), reversed(reference["stride"]), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


_FROM_OUTSIDE = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_PATIENCE = 600.0


def run_script(pair: Pair, side: Side, script: Path) -> str:
    """What a script prints in one environment: its lines, joined; or the last line of its error."""
    interpreter = side.interpreter()
    environment = dict(side.spec.environment)
    if interpreter.site is not None:
        environment["PYTHONPATH"] = str(interpreter.site)
    if pair.bench.device_kind != "cpu":
        # As for a job: the driver may only be found through the first, and the choice of GPU must hold.
        environment |= {name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ}
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    done = subprocess.run(
        [str(interpreter.python), str(script.resolve())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    printed = done.stdout.strip() or (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return "; ".join(printed.splitlines())

"""A standalone script for an origin, for an upstream issue: one operator, a small data file, torch and nothing else."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.environments.device import gpu_turn
from harness.explain.difference import amount
from harness.explain.locate import StepFinding
from harness.explain.pair import Pair, Side
from harness.explain.replay import ORIGIN, CallVerdict, read_calls, read_results, references, tensor
from harness.explain.trim import Window, cut, trim
from harness.running.job import gpu_variables
from harness.tensors.tensor import Tensor

DATA_LIMIT = 16 * 1024 * 1024
"""Bytes of input above which no repro is written: it would not be a small data file."""
_CODE = {"index": "colbert-ai's indexer", "search": "colbert-ai's searcher", "train": "colbert-ai's training"}
"""What a kind of job runs."""
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
    held = torch.frombuffer(data, dtype=dtype, count=count, offset=offset).reshape(shape).to("{device}")
    return held if stride is None else torch.empty_strided(shape, stride, dtype=dtype, device=held.device).copy_(held)

{seeded}
with torch.inference_mode(){precision}:
    result = {call}
result = [one for one in ([result] if torch.is_tensor(result) else result) if one is not None][{which}]
result = result.cpu().contiguous()
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
LIBRARIES = """\
cublas = [f"{d.name} {d.version}" for d in distributions() if str(d.name).startswith("nvidia-cublas")]
own = [one for one in cublas if one.split()[1].split(".")[0] == str(torch.version.cuda).split(".")[0]]
libraries = ", ".join([f"CUDA {torch.version.cuda}", *own])
"""
"""What a script on a GPU says beside torch's version; cuBLAS is a package of its own, and faiss may bring another."""


def write_repros(pair: Pair, finding: StepFinding, recorded: Path, in_b: Path, folder: Path) -> list[str]:
    """Write a script for each operator of origin, for its call with the least input; returns lines for the console."""
    if finding.outcome != "ok" or not finding.trusted:
        return []
    calls = read_calls(recorded)
    results = read_results(in_b)
    lines = []
    for verdict in _smallest(finding.origins, calls):
        name = re.sub(r"[^a-z0-9]+", "_", f"{finding.step}_{verdict.name}".lower()).strip("_")
        script = folder / f"{name}.py"
        if not _write(pair, finding, verdict, calls, results, (recorded, in_b), script):
            lines.append(f"{verdict.where}: no repro; its input is too large or cannot be written down.")
            continue
        in_a, in_other = printed = [run_script(pair, side, script) for side in (pair.a, pair.b)]
        script.with_suffix(".txt").write_text("".join(f"{line}\n" for line in printed), encoding="utf-8")
        shows = ": 0 of " in in_a and ": 0 of " not in in_other
        state = "shows the difference" if shows else "does NOT show the difference by itself"
        lines += [f"Repro {script} {state}:", *(f"  {line}" for line in printed)]
    return lines


def _smallest(verdicts: Iterable[CallVerdict], calls: list[dict[str, Any]]) -> list[CallVerdict]:
    """For each operator or function, the call with the fewest input elements."""
    found: dict[str, list[CallVerdict]] = {}
    for verdict in verdicts:
        call = calls[verdict.index]
        plain = verdict.status == ORIGIN and verdict.kind in {"operator", "function"} and not call.get("written")
        if plain and '"opaque"' not in json.dumps([call["args"], call["kwargs"]]):
            found.setdefault(verdict.name, []).append(verdict)
    return [min(of_one, key=lambda verdict: sum(map(math.prod, verdict.shapes))) for of_one in found.values()]


def _write(
    pair: Pair,
    finding: StepFinding,
    verdict: CallVerdict,
    calls: list[dict[str, Any]],
    results: list[dict[str, Any]],
    folders: tuple[Path, Path],
    script: Path,
) -> bool:
    """Write the script of a call and its data file; False where there is none to write."""
    call, recorded = calls[verdict.index], folders[0]
    outs, outs_b = references(call["result"]), references(results[verdict.index]["result"])
    which = next((i for i, (x, y) in enumerate(zip(outs, outs_b, strict=False)) if x["tensor"] != y["tensor"]), None)
    if which is None:
        return False
    window, wanted, said = trim(pair, call, which, folders, outs_b[which])
    on_gpu = pair.bench.device_kind != "cpu" and outs[which]["device"] != "cpu"
    data = Data("cuda" if on_gpu else "cpu")
    expected = data.add(wanted)
    source = _call_source(call, recorded, window, data)
    seeded = _seeded(call, recorded, data)
    if len(data.content) > DATA_LIMIT:
        return False
    script.parent.mkdir(parents=True, exist_ok=True)
    script.with_suffix(".bin").write_bytes(data.content)
    parent = next(
        (c["name"] for i, c in enumerate(calls) if c["kind"] == "function" and i < verdict.index <= i + c["inner"]), ""
    )
    a, b = pair.a.cell.version, pair.b.cell.version
    place = f"step {finding.step!r}"
    if verdict.node:
        place += f", {verdict.place}"
    elif verdict.module:
        place += f", module {verdict.module}"
    script.write_text(
        _SCRIPT.format(
            title=f"torch {a} and {b} give different results for {verdict.name} on the same input.",
            found=f"Found in {_CODE[pair.kind.name]}: {place}"
            + (f", from {parent}" if parent else "")
            + (f": {amount(verdict.metrics)}." if verdict.metrics else "."),
            cut=said,
            name=script.stem,
            threads=pair.a.cell.spec.settings.get("threads", 1),
            device=data.device,
            call=source,
            seeded=seeded,
            precision=', torch.autocast("cuda")' if call.get("mixed") else "",
            imports=_IMPORT if on_gpu else "",
            libraries=LIBRARIES if on_gpu else "",
            shown=" ({libraries})" if on_gpu else "",
            which=which,
            expected=expected,
            a=a,
        ),
        encoding="utf-8",
    )
    return True


def _seeded(call: dict[str, Any], recorded: Path, data: Data) -> str:
    """The lines that make torch's generators draw what they drew; none for a call that draws nothing."""
    states = references(call["drawn"]["from"]) if "drawn" in call else []
    setters = ("torch.set_rng_state", "torch.cuda.set_rng_state")
    lines = [f"{f}({data.add(tensor(recorded, r))}.cpu())\n" for f, r in zip(setters, states, strict=False)]
    return "".join(lines)


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


def _call_source(call: dict[str, Any], recorded: Path, window: Window, data: Data) -> str:
    """The call as Python source; its tensors go to `data`."""

    def tensor_source(reference: dict[str, Any], cuts: Sequence[tuple[int, int, int]]) -> str:
        plain = bool(cuts) or _is_contiguous(reference) or 0 in reference["stride"]
        stride = "" if plain else f", {tuple(reference['stride'])}"
        return data.add(cut(tensor(recorded, reference), cuts), stride)

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

    arguments = [source(value, window.args.get(place, ())) for place, value in enumerate(call["args"]["tuple"])]
    arguments += [f"{name}={source(value)}" for name, value in call["kwargs"]["dict"]]
    function = f"torch.ops.{call['name']}" if call["kind"] == "operator" else call["name"]
    return f"{function}({', '.join(arguments)})"


def _is_contiguous(reference: dict[str, Any]) -> bool:
    step = 1
    for size, stride in zip(reversed(reference["shape"]), reversed(reference["stride"]), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def run_script(pair: Pair, side: Side, script: Path) -> str:
    """What a script prints in one environment: its lines, joined; or the last line of its error."""
    interpreter = side.interpreter()
    bench = pair.bench
    environment = side.cell.spec.environment | gpu_variables(bench.device_kind)
    if interpreter.site is not None:
        environment["PYTHONPATH"] = str(interpreter.site)
    with gpu_turn(bench.home, bench.device_kind, bench.say) as held:
        done = subprocess.run(
            [str(interpreter.python), str(script.resolve())],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600.0,
            check=False,
            pass_fds=held,
        )
    printed = done.stdout.strip() or (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return "; ".join(printed.splitlines())

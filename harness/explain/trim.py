"""Cutting a call's tensors down to the smallest window in which both versions still differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.explain.pair import Pair, Side
from harness.explain.replay import references, tensor
from harness.tensors.dtypes import DTYPES
from harness.tensors.safetensors import read_safetensors
from harness.tensors.tensor import Tensor

_SIZES = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
"""Elements that are tried along one dimension, beside all of them; kernels work on powers of two at a time."""
_WINDOWS = 600
"""So many parts of the input are tried at most; of a result with many long dimensions fewer sizes along each."""
SMALL = 128 * 1024
"""Above so many bytes, a smaller part is taken on which the two versions differ in another way than on the whole."""


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
        left = {place: dict(enumerate(known)) for place, known in shapes.items()}
        for place, parts in args.items():
            left[place] |= {own: stop - start for own, start, stop in parts}
        found.append(Window(args, result, sum(math.prod(sizes.values()) for sizes in left.values())))
    found.sort(key=lambda window: (window.size, len(window.result)))
    whole = Window({}, [], found[-1].size)
    useful = [window for window in found if window.args and window.size < whole.size]
    return [*useful, whole]


def trim(
    pair: Pair, call: dict[str, Any], which: int, folders: tuple[Path, Path], result_b: dict[str, Any]
) -> tuple[Window, Tensor, str]:
    """The smallest part of a call's input on which the two versions still differ, in the same way if there is one.

    Returns:
        The part, A's result for it, and how it was cut, for the reader of a script.
    """
    recorded, in_b = folders
    result_a = references(call["result"])[which]
    x, y = tensor(recorded, result_a), tensor(in_b, result_b)
    whole = Window({}, [], 0), x, _WHOLE
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
            return parts[number], cut(x, parts[number].result), _PINNED
        other = next(
            (n for n, (left, right) in enumerate(digests) if None not in (left, right) and left != right), None
        )
        if other is not None and (number is None or other < number) and parts[other].args:
            again = run(pair.a, file_a, [other])
            if again is not None:
                kept = read_safetensors(again[1] / f"{other}.safetensors")["tensor"]
                return parts[other], Tensor(kept.dtype, kept.shape, np.array(kept.data)), _OTHERWISE
    return whole if number is None else (parts[number], cut(x, parts[number].result), _PINNED)


def _bytes(call: dict[str, Any], window: Window) -> int:
    """Bytes of a window's input, as if all its arguments had the widest of their dtypes."""
    widths = [DTYPES[r["dtype"]].itemsize for r in references(call["args"])]
    return window.size * max(widths, default=1)


def cut(held: Tensor, cuts: Iterable[tuple[int, int, int]]) -> Tensor:
    """A copy of the part of a tensor that cuts along its dimensions leave."""
    part = held.data
    for dimension, start, stop in cuts:
        part = part[(slice(None),) * dimension + (slice(start, stop),)]
    return Tensor.of(np.array(part), held.dtype)

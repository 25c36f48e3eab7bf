"""Batch invariance of each Linear: the first n rows of a batch of 32 against a batch of n, n = 1 to 32."""

from __future__ import annotations

import torch

from harness.worker.probes.bench import Bench, Case, same_bits

_LARGEST = 32


def _runs(numbers: list[int]) -> str:
    """1, 8, 9, 10 as `1, 8-10`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _check(case: Case, linear: torch.nn.Linear, x: torch.Tensor) -> None:
    """One Linear: `invariant` says it for each n; the first n that is not is measured, on its first such row."""
    whole = linear(x)
    invariant = torch.ones(_LARGEST, dtype=torch.bool)
    pair = None
    for n in range(1, _LARGEST + 1):
        part = linear(x[:n])
        if same_bits(whole[:n], part):
            continue
        invariant[n - 1] = False
        if pair is None:
            row = next(i for i in range(n) if not same_bits(whole[i], part[i]))
            pair = (whole[row].clone(), part[row].clone())
    case.put("batch of 32", whole)
    case.put("invariant", invariant)
    failing = [n for n in range(1, _LARGEST + 1) if not invariant[n - 1]]
    case.fact("batch_invariant", not failing, f"n = {_runs(failing)}" if failing else "", pair)


def run(bench: Bench) -> None:
    """Feed each Linear seeded numbers of the shape that it gets while encoding."""
    # On a CPU every row costs: half the length, 32 times for each Linear.
    length = bench.length if bench.setting.gpu else bench.length // 2
    for precision, context in bench.precisions().items():
        for path, linear in bench.linears().items():
            with bench.case(f"{precision} {path}") as case:
                x = bench.normal(path, _LARGEST, length, linear.in_features).to(bench.device)
                with context():
                    _check(case, linear, x)

"""Tolerance profiles, and what one says about a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.tensors.passes import Rule


@dataclass(frozen=True)
class Profile:
    """A tolerance: atol and rtol per dtype; integers and booleans are equal or not under every profile.

    `rules` maps torch's dtype names to (atol, rtol); `default` serves the other floats.
    """

    name: str
    default: Rule
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for dtype, rule in (("default", self.default), *self.rules.items()):
            if len(rule) != 2 or not all(math.isfinite(value) and value >= 0 for value in rule):
                raise UsageError(
                    f"Profile {self.name!r}: {dtype} must be a pair of atol and rtol, both finite and not negative."
                )

    def rule(self, dtype: str) -> Rule:
        """The atol and rtol for a dtype."""
        return self.rules.get(dtype, self.default)


DEFAULT = Profile("default", (1e-8, 1e-5))
"""`torch.allclose`'s own defaults, whatever the dtype."""
BNB = Profile("bnb", (1e-4, 1e-3), {"float32": (1e-6, 1e-5), "bfloat16": (1e-3, 1e-2)})
"""The tolerances of bitsandbytes' optimizer tests."""
BUILTIN = (DEFAULT, BNB)


@dataclass(frozen=True)
class ProfileVerdict:
    """What one profile says about all values of two tensors: whether they are close, and by how much they are or not.

    `profile` is its name; `atol` and `rtol` are its tolerance for their dtype, zero for integers, which are equal or
    not. `close` is `torch.allclose`'s answer; None where torch raises (float8). `min_rtol` is the smallest rtol with
    which |a-b| <= atol + rtol*|b| holds everywhere at this atol, in exact arithmetic on float64; infinite where no rtol
    would do; None for integers. `min_rtol_index` is the place that needs it.
    """

    profile: str
    atol: float
    rtol: float
    close: bool | None
    min_rtol: float | None = None
    min_rtol_index: tuple[int, ...] | None = None

"""What cannot be exchanged by itself: torch and the libraries of its CUDA, where its major version differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.environments.changes import NVIDIA, Change, cuda_of
from harness.environments.lockfile import Lock

_SUFFIX = re.compile(r"-cu\d+$")


@dataclass(frozen=True)
class Bound:
    """Packages that are exchanged together or not at all.

    Attributes:
        changes: what differs of them; torch among it.
        versions: torch's, with its CUDA, in A and in B.
        reason: why none of them can be exchanged without the others; part of a sentence.
    """

    changes: frozenset[Change]
    versions: str
    reason: str


def bound(a: Lock, b: Lock, found: Sequence[Change]) -> Bound | None:
    """What of the changes between two locks is bound together; None where both torches are built for one CUDA.

    A torch that is built for CUDA 13 asks for `libcublas.so.13`, which no package for CUDA 12 has: with torch go the
    libraries of NVIDIA's that either torch requires, and whatever differs and requires one of those, such as a faiss
    for another CUDA. A package with a CUDA version in its name that both have is for one CUDA, and stays out of it:
    faiss keeps `nvidia-cublas-cu12`.
    """
    older, newer = cuda_of(a), cuda_of(b)
    if older is None or newer is None or older == newer:
        return None
    torchs = a.torch_closure() | b.torch_closure()
    free = {one for one in found if one.name_a == one.name_b and _SUFFIX.search(one.name)}
    members = {
        one
        for one in found
        if one not in free and (one.name == "torch" or (one.name.startswith(NVIDIA) and torchs.intersection(one.names)))
    }
    while more := {one for one in found if one not in members and _requires(one, members, a, b)}:
        members |= more
    old, new = a.packages["torch"], b.packages["torch"]
    return Bound(
        frozenset(members),
        f"{old} (CUDA {older}) -> {new} (CUDA {newer})",
        f"torch {old} is built for CUDA {older} and asks for libcublas.so.{older}, torch {new} for CUDA {newer} and "
        f"libcublas.so.{newer}; a library for one cannot take the place of the other's",
    )


def _requires(one: Change, members: set[Change], a: Lock, b: Lock) -> bool:
    """Whether a package requires one of the libraries in `members`, in either lock; torch itself binds none."""
    return any(
        name in lock.parents.get(member, ())
        for lock in (a, b)
        for name in one.names
        for of in members
        if of.name != "torch"
        for member in of.names
    )

"""Kernel for two orders of the same kind of thing: what their tops share, and how many pairs are turned round."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"
# Kernels take arrays, records and named tuples, which only numba gives types.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from harness.tensors.kernels.compiler import CACHE


class Lists(NamedTuple):
    """Lists one after the other, best first.

    `starts` is one longer than there are lists. `things` are numbers, no number twice in a list; of each, `scores`, and
    the place in its list where the group of equal scores begins (`tops`) and the place behind its end (`ends`).
    """

    starts: Any
    things: Any
    scores: Any
    tops: Any
    ends: Any


class _Work(NamedTuple):
    """Arrays that a list needs, made once: as long as there are things (`at_a`, `at_b`, -1), or as the longest list."""

    at_a: Any
    at_b: Any
    within: Any
    common: Any
    x: Any
    y: Any
    seen: Any
    tree: Any


@njit(nogil=True, cache=CACHE)
def compare_orders(a, b, cutoffs, p, count, found):
    """Compare list `i` of `a` with list `i` of `b`, for every `i`.

    Args:
        a: `Lists`.
        b: as many lists.
        cutoffs: depths at which overlaps are measured.
        p: persistence of RBO.
        count: how many things there are.
        found: a record for each list, filled. `identical`: the same things in the same order. `tie_only`: not that, but
            either order is one in which the other side's scores fall, so that all pairs that are turned round are ties
            on both sides. `top1_same`. `overlap`: of the things down to a cutoff, or to the end of the longer list, the
            share that both have there. `rbo`: see `_agreement`. `tau_b`: of the things that both have; see `_tau`.
            `max_score_diff`: of the same; NaN where there are none.
    """
    longest = 0
    for i in range(a.starts.size - 1):
        longest = max(longest, a.starts[i + 1] - a.starts[i], b.starts[i + 1] - b.starts[i])
    zeros = np.zeros((5, longest), np.int64)
    work = _Work(
        np.full(count, -1), np.full(count, -1), zeros[0], zeros[1], zeros[2], zeros[3], zeros[4],
        np.zeros(longest + 1, np.int64),
    )  # fmt: skip
    for i in range(a.starts.size - 1):
        _compare(_cut(a, i), _cut(b, i), cutoffs, p, work, found[i])


@njit(nogil=True, cache=CACHE)
def _cut(lists, i):
    start, stop = lists.starts[i], lists.starts[i + 1]
    return Lists(
        lists.starts[i : i + 2], lists.things[start:stop], lists.scores[start:stop], lists.tops[start:stop],
        lists.ends[start:stop],
    )  # fmt: skip


@njit(nogil=True, cache=CACHE)
def _compare(a, b, cutoffs, p, work, row):
    n, m = a.things.size, b.things.size
    for k in range(n):
        work.at_a[a.things[k]] = k
    for k in range(m):
        work.at_b[b.things[k]] = k
    work.within[: max(n, m)] = 0
    work.common[: max(n, m)] = 0
    shared = stay = 0
    gap = np.nan
    for k in range(n):
        place = work.at_b[a.things[k]]
        if place < 0:
            continue
        stay += place == k
        work.within[max(k, place)] += 1
        work.common[max(a.tops[k], b.tops[place])] += 1
        work.x[shared], work.y[shared] = a.tops[k], b.tops[place]
        distance = abs(a.scores[k] - b.scores[place])
        gap = distance if shared == 0 else max(gap, distance)
        shared += 1
    row.max_score_diff = gap
    row.identical = stay == n == m
    row.tie_only = (
        stay < shared == n == m and _falls(a.things, work.at_b, b.tops) and _falls(b.things, work.at_a, a.tops)
    )
    row.top1_same = n == m == 0 or (min(n, m) > 0 and a.things[0] == b.things[0])
    for c in range(cutoffs.size):
        depth = min(cutoffs[c], max(n, m))
        row.overlap[c] = work.within[:depth].sum() / depth if depth else 1.0
    row.rbo = _agreement(a.ends, b.ends, work.common, p) if n <= m else _agreement(b.ends, a.ends, work.common, p)
    row.tau_b = _tau(work.x[:shared], work.y[:shared], work.tree, work.seen)
    for k in range(n):
        work.at_a[a.things[k]] = -1
    for k in range(m):
        work.at_b[b.things[k]] = -1


@njit(nogil=True, cache=CACHE)
def _falls(things, at, tops):
    """Whether a list's order is one in which the scores of the other side, of the same things, never rise."""
    for k in range(1, things.size):  # noqa: SIM110 - numba compiles no generator
        if tops[at[things[k]]] < tops[at[things[k - 1]]]:
            return False
    return True


@njit(nogil=True, cache=CACHE)
def _agreement(ends_s, ends_l, common, p):
    """RBO_EXT of a list S and a list L that is not shorter, tied things all at the first rank of their group.

    Webber, Moffat, Zobel 2010, equation 32, with section 4.5 for ties; what Corsi and Urbano 2024 call RBO^w. Two lists
    of nothing agree, one alone does not.

    Args:
        ends_s: of S, by place, where the group of the thing there ends: so many are at that rank or above.
        ends_l: of L.
        common: by place, how many things come in there whose worse rank of the two is that one; summed up here.
        p: persistence.
    """
    s, l = ends_s.size, ends_l.size  # noqa: E741 - as in the paper
    if s == 0:
        return 1.0 if l == 0 else 0.0
    total, weight, agreement, both = 0.0, 1.0, 0.0, 0
    for d in range(l):
        weight *= p
        both += common[d]
        if d < s:
            agreement = 2 * both / (ends_s[d] + ends_l[d])
            total += weight * agreement
        else:
            # What S does not tell agrees as often as what it tells to its end.
            total += weight * 2 * (both + (d + 1 - s) * agreement) / (d + 1 + ends_l[d])
    return (1 - p) / p * total + (both + (l - s) * agreement) / l * weight


@njit(nogil=True, cache=CACHE)
def _tau(x, y, tree, seen):
    """Kendall's tau-b of pairs whose `x` never falls; NaN where all are one tie on a side.

    Each pair is held against those of smaller `x`, which a Fenwick tree counts by `y`.

    Args:
        x: whole numbers, from 0.
        y: whole numbers, from 0.
        tree: zeros, two longer than the greatest `y`, or more; zeros again at the end.
        seen: zeros, one longer than the greatest `y`, or more; zeros again at the end.
    """
    n = x.size
    concordant = discordant = ties_x = ties_y = start = 0
    while start < n:
        stop = start
        while stop < n and x[stop] == x[start]:
            ties_x += stop - start
            below = _counted(tree, y[stop])
            concordant += below
            discordant += start - below - (_counted(tree, y[stop] + 1) - below)
            ties_y += seen[y[stop]]
            seen[y[stop]] += 1
            stop += 1
        for k in range(start, stop):
            place = y[k] + 1
            while place < tree.size:
                tree[place] += 1
                place += place & -place
        start = stop
    tree[:] = 0
    seen[:] = 0
    pairs = n * (n - 1) // 2
    if pairs in (ties_x, ties_y):
        return np.nan
    return (concordant - discordant) / np.sqrt(float(pairs - ties_x) * float(pairs - ties_y))


@njit(nogil=True, cache=CACHE)
def _counted(tree, number):
    """How many numbers below `number` the tree has counted."""
    total = 0
    while number > 0:
        total += tree[number]
        number -= number & -number
    return total

"""Must somebody who upgrades index again? An answer from what each deployment of a step returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.rankings.comparison import Comparison
from harness.words import count

Answer = Literal["unchanged", "keep", "re-index", "investigate"]
DEPLOYMENTS: Mapping[str, tuple[str, str]] = {
    "a_on_a": ("a", "a"), "b_on_b": ("b", "b"), "b_on_a": ("b", "a"), "a_on_b": ("a", "b"),
}  # fmt: skip
"""Which side's environment searches, and whose index; `b_on_a` is what people run after an upgrade."""
MUST_REINDEX: Mapping[str, str] = {
    "unchanged": "no: unchanged",
    "keep": "no: keep",
    "re-index": "yes: re-index",
    "investigate": "not known: investigate",
}
"""What an answer is in the table's column."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a step from A to B.

    Attributes:
        a: what the older side is called.
        b: what the newer is called.
        same_index: whether both made the same index, bit for bit; None where one is not there.
        found: deployment to its rankings against those of `a_on_a`; only what was searched.
        repeats: deployment, `a_on_a` included, to its rankings against those of the same search again.
        caveats: sentences about the collection, the checkpoint or the queries, which the answer does not cover either.
    """

    a: str
    b: str
    same_index: bool | None
    found: Mapping[str, Comparison]
    repeats: Mapping[str, Comparison] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The answer for a step.

    Attributes:
        answer: `unchanged`, `keep`, `re-index` or `investigate`.
        sentence: the same in words, with the numbers that it rests on.
        uncovered: what it says nothing of, a sentence each.
    """

    answer: Answer
    sentence: str
    uncovered: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"verdict": self.answer, "reason": self.sentence, "not_covered": list(self.uncovered)}


def judge(evidence: Evidence) -> Verdict:
    """Say whether A's index must be made again.

    `unchanged`: the index and what B finds in it are the same bit for bit. `keep`: B finds equivalent rankings in A's
    index; see `Comparison.equivalent`, which without judgements is the same lists but for the order of equal scores.
    `re-index`: it does not, and in an index of its own it does. `investigate`: neither, or nobody can know.
    """
    answer, words = _answer(evidence)
    return Verdict(answer, f"{evidence.a} -> {evidence.b}: {words}", tuple(_uncovered(evidence)))


def _answer(of: Evidence) -> tuple[Answer, str]:
    why = _unusable(of)
    if why:
        return "investigate", f"investigate, for {why}."
    mixed, new = of.found["b_on_a"], of.found.get("b_on_b")
    if of.same_index and _same_bits(mixed):
        return "unchanged", f"unchanged. The index is the same bit for bit, and so is what {of.b} finds in it."
    if mixed.equivalent:
        index = {True: "The index is the same, and", False: "A new index would differ, and", None: ""}[of.same_index]
        found = f"{index} {of.b} finds equivalent rankings in the old index: {_told(mixed)}.".strip()
        return "keep", f"keep the index. {found}"
    no = "not the same" if mixed.equivalent is None else "not equivalent"
    lost = f"What {of.b} finds in the old index is {no} ({_told(mixed)})"
    if new is not None and new.equivalent:
        return "re-index", f"index again. {lost}, and what it finds in a new one is: {_told(new)}."
    return "investigate", f"investigate. {lost}, {_no_way_out(of, mixed, new)}."


def _unusable(of: Evidence) -> str:
    """Why the rankings that are there decide nothing; empty where they may."""
    if "b_on_a" not in of.found:
        return f"nobody searched the index of {of.a} with {of.b}"
    if any(one.only_a or one.only_b for one in of.found.values()):
        return "the searches are not of the same queries"
    for name, one in of.repeats.items():
        if not one.equivalent:
            return f"the same search again ({name}) does not give its rankings: {_lists(one)}"
    return ""


def _no_way_out(of: Evidence, mixed: Comparison, new: Comparison | None) -> str:
    """Why a new index is not known to help."""
    if mixed.equivalent is None:
        few = "too few queries are judged" if mixed.measures else "there are no judgements"
        return f"and {few} to say whether that matters"
    if of.same_index:
        return "and a new one would be no other"
    return "and nobody searched a new one" if new is None else f"nor is what it finds in a new one ({_told(new)})"


def _same_bits(found: Comparison) -> bool:
    """Whether all passages and all scores are the same."""
    return bool(found.each["identical"].all()) and not found.max_score_diff


def _lists(found: Comparison) -> str:
    ties = int(found.each["tie_only"].sum())
    n = int(found.changed.sum()) + ties
    if not n:
        return f"all {found.queries:,} lists are the same"
    of_them = "of them " if n > ties else ""
    but = f", {ties:,} {of_them}only in the order of equal scores" if ties else ""
    return f"{n:,} of {count(found.queries, 'list')} {'differs' if n == 1 else 'differ'}{but}"


def _told(found: Comparison) -> str:
    """The numbers behind an answer."""
    parts = [_lists(found)]
    for name, one in found.measures.items():
        ends = "" if one.interval is None else f" [{one.interval[0]:+.4f}, {one.interval[1]:+.4f}]"
        parts.append(f"{name} {one.diff:+.4f}{ends}")
    return "; ".join(parts)


def _uncovered(of: Evidence) -> Iterator[str]:
    some = next(iter(of.found.values()), None)
    if some is not None:
        longest = int(max(some.a.lengths.max(initial=0), some.b.lengths.max(initial=0)))
        yield (
            f"Other queries than these {some.queries:,}, more than {count(longest, 'passage')} a query, other devices, "
            "and passages that the newer version adds to the older one's index."
        )
        if not some.measures:
            yield "Whether the rankings are good: there are no judgements of these queries and passages."
    if not of.repeats:
        yield "Whether the same search again gives the same rankings: none was run again."
    yield from of.caveats

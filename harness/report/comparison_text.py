"""Comparisons as text: one plain sentence, a table, then a paragraph for each kind of artifact that differs.

The chunks of one kind are told together, and never look equal unless all are. What comes from files is cleaned.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from harness.artifacts.comparison import DIVERGENT, STATUSES, ArtifactComparison, Comparison
from harness.artifacts.graph import Change
from harness.artifacts.kind import JobKind
from harness.report.kinds import Kinds
from harness.report.readable import clean, number, share, value
from harness.report.screen import PLAIN, Screen, table, wrap
from harness.tensors.metrics import Metrics, Mismatch
from harness.tensors.profiles import ProfileVerdict
from harness.words import count

Group = Sequence[ArtifactComparison]
"""What is told together: the chunks of one kind, or one artifact by itself."""

# A status in the table: of one artifact, and of some chunks of a kind; and in a paragraph, after the number of chunks.
_SAID = {
    "bit_equal": ("bit-equal", "bit-equal", "the same, bit for bit"),
    "value_equal": ("value-equal", "value-equal", "equal in value, not in bits"),
    "close": ("close", "close", "different within the tolerance"),
    "different": ("DIFFERENT", "differ", "different beyond the tolerance"),
    "shape_mismatch": ("SHAPE", "differ in shape", "different in shape"),
    "dtype_mismatch": ("DTYPE", "differ in dtype", "different in dtype"),
    "missing_a": ("missing in A", "missing in A", "only in B"),
    "missing_b": ("missing in B", "missing in B", "only in A"),
    "unreadable": ("UNREADABLE", "unreadable", "unreadable"),
}
_TOLD = 3  # chunks of a kind whose shapes or reasons are told one by one
LISTED = 6  # names in a sentence


def kinds_of(comparison: Comparison, *, apart: bool = False) -> Kinds:
    """The kinds of a comparison's artifacts; `apart` tells every chunk by itself."""
    return Kinds((one.name for one in comparison.artifacts), apart=apart, job=comparison.kind)


def groups_of(comparison: Comparison, kinds: Kinds) -> list[Group]:
    """The artifacts as they are told together."""
    named = {one.name: one for one in comparison.artifacts}
    return [[named[name] for name in names] for names in kinds.groups(named)]


def sentence(comparison: Comparison, kinds: Kinds) -> str:
    """What was found, in one sentence."""
    a, b = clean(comparison.a), clean(comparison.b)
    if a == b:  # two directories of one name
        a, b = f"A ({a})", f"B ({b})"
    final = comparison.final or tuple(one for one in comparison.artifacts if one.tensor)
    total = len(final)
    names = ", ".join(map(clean, kinds.labels(one.name for one in comparison.unreadable)))
    unreadable = f"{count(len(comparison.unreadable), 'artifact')} could not be read: {names}." if names else ""
    # No agreement is told before what is missing from it.
    known, unreadable = (f"{unreadable} What can be read of ", f" {unreadable}") if names else ("", "")
    if len(comparison.empty) == 2:
        return f"{a} and {b} hold no tensors to compare.{unreadable}"
    if comparison.empty:
        return f"{a if 'a' in comparison.empty else b} holds no tensor to compare.{unreadable}"
    cut = " and ".join({"a": a, "b": b}[side] for side in comparison.incomplete)
    cut += f" {'is' if len(comparison.incomplete) == 1 else 'are'} not whole"
    vain = f" This is no verdict on whole indexes: {cut}." if comparison.incomplete else ""
    equal = sum(one.bit_equal for one in final)
    unread = sum(one.status == "unreadable" for one in final)
    if equal == total - unread and not comparison.divergent:
        are = "is" if known else "are"
        there = (
            f"that {'is' if total == 1 else 'are'} there"
            if comparison.incomplete
            else f"of the {comparison.kind.product}"
        )
        every = "the one tensor" if total == 1 else f"all {total} tensors"
        of = f"{equal} of {count(total, 'tensor')}" if unread else every
        return f"{known}{a} and {b} {are} bit for bit the same in {of} {there}.{vain}"
    passing = sum(one.close(comparison.chosen) is True for one in final)
    close = sum(one.close(comparison.chosen) is True and not one.bit_equal for one in final)
    noise = sum(one.status in DIVERGENT and one.above_noise is False for one in final)
    noisy = (
        f" {count(noise, 'more tensor')} differ{'s' if noise == 1 else ''} no more than repeats of one cell do."
        if noise
        else ""
    )
    different = [one.name for one in comparison.divergent if not comparison.cut_off(one)]
    if comparison.divergent and not different:
        return (
            f"{cut}, and all else{' that can be read' if names else ''} passes {comparison.chosen!r}: {passing} of "
            f"{count(total, 'tensor')} of the {comparison.kind.product} are on both sides, {equal} are "
            f"bit-equal.{noisy}{unreadable}"
        )
    groups = kinds.groups(different)
    differ = ", ".join(clean(kinds.label(group)) for group in groups[:LISTED])
    more = f" and {sum(map(len, groups[LISTED:]))} more" if len(groups) > LISTED else ""
    if not comparison.divergent:
        return (
            f"{known}{a} and {b} agree{'s' if known else ''} within {comparison.chosen!r}: "
            f"{equal} of {count(total, 'tensor')} are bit-equal, {close} more are close.{noisy}{vain}"
        )
    return (
        f"{a} and {b} differ beyond {comparison.chosen!r} in {differ}{more}: {passing} of {total} tensors of the "
        f"{comparison.kind.product} pass, {equal} are bit-equal.{noisy}{unreadable}"
    )


def columns(comparison: Comparison) -> list[str]:
    """The table's header."""
    measured = ("differ", "max abs", "in ULP", "min rtol")
    return ["artifact", "status", "change", "dtype", "shape", *comparison.profiles, *measured]


def lesser(comparison: Comparison) -> list[int]:
    """Numbers of the columns that a narrow screen does without, the least important first."""
    _artifact, _status, change, dtype, shape, *profiles, differ, max_abs, ulp, min_rtol = range(
        len(columns(comparison))
    )
    named = list(zip(comparison.profiles, profiles, strict=True))
    chosen = [number for name, number in named if name == comparison.chosen]
    others = [number for name, number in reversed(named) if name != comparison.chosen]
    return [min_rtol, ulp, shape, dtype, *others, change, max_abs, differ, *chosen]


def rows(comparison: Comparison, kinds: Kinds) -> Iterator[list[str]]:
    """The table's rows, one for each kind: counts are sums over its chunks, and numbers the greatest of any."""
    for group in groups_of(comparison, kinds):
        measured = [one.metrics for one in group if one.metrics is not None]
        needed = [one.profiles[comparison.chosen].min_rtol for one in group if comparison.chosen in one.profiles]
        yield [
            clean(kinds.label([one.name for one in group])),
            _status(group),
            ", ".join(dict.fromkeys(one.place.change.value for one in group if one.place and not one.bit_equal)) or "-",
            _common(_either(one.dtype_a, one.dtype_b) for one in group),
            _common(_either(_shape(one.shape_a), _shape(one.shape_b)) for one in group),
            *(_verdict(group, name) for name in comparison.profiles),
            _differ(measured, len(group)),
            number(_greatest(metrics.max_abs for metrics in measured)),
            number(_greatest(metrics.max_abs_ulp for metrics in measured)),
            number(_greatest(needed) if measured else None),
        ]


def _status(group: Group) -> str:
    """A status; of several chunks "all differ", "3 of 16 differ" where the others are bit-equal, else each count."""
    if len(group) == 1:
        return _SAID[group[0].status][0]
    counts = Counter(one.status for one in group)
    if len(counts) == 1:
        return f"all {_SAID[group[0].status][1]}"
    if len(counts) == 2 and counts["bit_equal"]:
        status = next(status for status in counts if status != "bit_equal")
        return f"{counts[status]} of {len(group)} {_SAID[status][1]}"
    return ", ".join(f"{counts[status]} {_SAID[status][1]}" for status in STATUSES if counts[status])


def _common(texts: Iterable[str]) -> str:
    """What is the same for all chunks, or that it is not."""
    found = set(texts)
    return found.pop() if len(found) == 1 else "various"


def _greatest(numbers: Iterable[Any]) -> Any:  # noqa: ANN401 - an int stays one
    return max((found for found in numbers if found is not None), default=None)


def _differ(measured: Sequence[Metrics], of: int) -> str:
    """How many elements differ; not all chunks may have been compared."""
    if not measured:
        return "-"
    n, n_mismatch = sum(one.n for one in measured), sum(one.n_mismatch for one in measured)
    among = "" if len(measured) == of else f" in {count(len(measured), 'chunk')}"
    return (f"{n_mismatch:,} ({share(n_mismatch, n)})" if n_mismatch else "0") + among


def _verdict(group: Group, profile: str) -> str:
    """What a profile says of all chunks: the worst that it says of any."""
    judged = [one.tensor and one.status != "unreadable" for one in group]
    words = {True: "yes", False: "NO", None: "no verdict"}
    said = {words[one.close(profile)] if known else "-" for one, known in zip(group, judged, strict=True)}
    return next(word for word in ("NO", "no verdict", "-", "yes") if word in said)


def _shape(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape)) or "scalar"


def _either(a: str | None, b: str | None) -> str:
    return (a or "-") if a == b else f"{a or '-'} / {b or '-'}"


def _style(group: Group) -> str:
    """Red for what makes the exit code, yellow for what else is not the same."""
    if any(one.divergent or one.status == "unreadable" for one in group):
        return "red"
    return "yellow" if any(map(_worth_telling, group)) else ""


def _worth_telling(one: ArtifactComparison) -> bool:
    """Whether an artifact is not bit-equal, or holds NaN, or may."""
    return not one.bit_equal or bool(one.reason) or (one.metrics is not None and one.metrics.nan_a > 0)


def paragraph(group: Group, chosen: str, kinds: Kinds) -> list[str]:
    """What there is to say about a kind, in the order in which `torch.testing.assert_close` says it.

    Counts are sums over the chunks. A greatest difference is that of the chunk that is named.
    """
    name = clean(kinds.label([one.name for one in group]))
    opening = [_opening(group[0])] if len(group) == 1 else [_openings(group, kinds), *_reasons(group)]
    lines = [f"{name}: {opening[0]}", *opening[1:]]
    compared = [(one, one.metrics) for one in group if one.metrics is not None and chosen in one.profiles]
    if differing := [(one, metrics) for one, metrics in compared if metrics.n_mismatch]:
        n, n_mismatch = (sum(getattr(metrics, field) for _, metrics in compared) for field in ("n", "n_mismatch"))
        among = "" if len(compared) == len(group) else f" in the {count(len(compared), 'chunk')} that were compared"
        lines.append(f"Mismatched elements: {n_mismatch:,} / {n:,} ({share(n_mismatch, n)}){among}")
        lines += _differences(differing, chosen, named=len(group) > 1)
    lines += _special([metrics for one in group if (metrics := one.metrics)])
    lines += [*_meanings(group, kinds), *_standing(group, kinds)]
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _differences(differing: Sequence[tuple[ArtifactComparison, Metrics]], chosen: str, *, named: bool) -> Iterator[str]:
    """The greatest differences of any chunk, each with its place; a chunk is `named` where there are several."""

    def where(one: ArtifactComparison) -> str:
        return f" in {clean(one.name)}" if named else ""

    def worst(of: Callable[[Metrics], Any]) -> tuple[Any, ArtifactComparison, Any] | None:
        """The greatest of what any chunk has, the chunk, and its metrics; None where none has it."""
        found = [(most, one, m) for one, m in differing if (most := of(m)) is not None]
        return max(found, key=itemgetter(0), default=None)

    if found := worst(lambda m: m.max_abs_at and m.max_abs):
        greatest, one, m = found
        allowed = _allowed(one.profiles[chosen], m.max_abs_at)
        yield f"Greatest absolute difference: {number(greatest)}{where(one)}{_at(m.max_abs_at, one.dtype_a)}{allowed}"
    if found := worst(lambda m: m.max_rel_at and abs(m.max_rel_at.a - m.max_rel_at.b) / abs(m.max_rel_at.b)):
        greatest, one, m = found
        yield f"Greatest relative difference: {number(greatest)}{where(one)}{_at(m.max_rel_at, one.dtype_a)}"
    if infinite := sum(m.n_rel_inf for _, m in differing):
        yield f"Where B is zero and A is not: {count(infinite, 'element')} (relative difference infinite)"
    if found := worst(lambda m: m.mean_abs if m.n > 1 else None):
        mean, one, m = found
        yield (
            f"|A-B|{where(one)}: mean {number(mean)}, p50 {number(m.p50_abs)}, p99 {number(m.p99_abs)}, "
            f"p99.9 {number(m.p999_abs)}; relative L2 {number(m.rel_l2)}, cosine {number(m.cosine)}"
        )
    if found := worst(lambda m: m.max_ulp_at and m.max_ulp):
        ulp, one, m = found
        p99 = f", p99 {number(m.p99_ulp)}" if m.n > 1 else ""
        yield f"Floats from one value to the other: at most {ulp:,}{where(one)}{_at(m.max_ulp_at, one.dtype_a)}{p99}"
    verdicts = [one.profiles[chosen] for one, _ in differing]
    if needed := [(verdict.min_rtol, verdict) for verdict in verdicts if verdict.min_rtol is not None]:
        yield _needed(*max(needed, key=itemgetter(0)))
    # A scalar has been shown; of equal digests only the number of NaNs is known.
    one, first = next(((one, m.first) for one, m in differing if one.shape_a and m.first), (differing[0][0], ()))
    if first:
        yield f"First mismatches{where(one)}: " + "; ".join(_place(at, one.dtype_a) for at in first)


def _openings(group: Group, kinds: Kinds) -> str:
    """How many chunks of a kind are what, and which."""
    said: dict[str, list[str]] = {}
    for one in sorted(group, key=lambda one: STATUSES.index(one.status)):
        judged = one.status != "different" or one.profiles
        said.setdefault(_SAID[one.status][2] if judged else "different", []).append(one.name)
    if len(said) == 1:
        return f"all {len(group)} {next(iter(said))}."
    return "; ".join(f"{len(names)} {what} ({kinds.chunks(names)})" for what, names in said.items()) + "."


def _reasons(group: Group) -> Iterator[str]:
    """Why chunks could not be compared, where the count of them does not say it."""
    apart = {"shape_mismatch", "dtype_mismatch", "unreadable"}
    told = [one for one in group if one.reason or one.status in apart]
    yield from (f"{clean(one.name)}: {_opening(one)}" for one in told[:_TOLD])
    if len(told) > _TOLD:
        yield f"And {len(told) - _TOLD} more of these, which --chunks shows one by one."


def _meanings(group: Group, kinds: Kinds) -> Iterator[str]:
    """What the numbers mean, put together over the chunks of which the same can be said."""
    alike: dict[str, list[ArtifactComparison]] = {}
    for one in group:
        same = sorted((name, repr(fact)) for name, fact in one.facts.items() if name not in kinds.job.united)
        alike.setdefault(repr(same), []).append(one)
    united = [(part, _put_together([one.facts for one in part], kinds.job)) for part in alike.values()]
    told = [(part, _meaning(facts)) for part, facts in united]
    yield from _by_chunks([(part, lines) for part, lines in told if lines], kinds)


def _put_together(facts: Sequence[Mapping[str, Any]], job: JobKind) -> dict[str, Any]:
    """Facts of chunks of a kind as those of the kind; those of one chunk stay what they are."""
    if len(facts) == 1:
        return dict(facts[0])
    found: dict[str, Any] = {}
    for name, fact in (item for one in facts for item in one.items()):
        # Any other fact is the same for all of them.
        unite = job.united.get(name, lambda one, _other: one)
        if unite is not None:
            found[name] = unite(found[name], fact) if name in found else fact
    return found


def _by_chunks(parts: Sequence[tuple[Group, Sequence[str]]], kinds: Kinds) -> Iterator[str]:
    """Lines about parts of a kind, each with its chunks unless there is one part only."""
    for part, lines in parts:
        of = kinds.chunks(one.name for one in part)
        yield from (line if len(parts) == 1 else f"{of[0].upper()}{of[1:]}: {line}" for line in lines)


def _standing(group: Group, kinds: Kinds) -> Iterator[str]:
    """Where the difference starts, and whether it is more than noise."""
    parts: dict[tuple[Change, str], list[ArtifactComparison]] = {}
    for one in group:
        if one.place is not None and not one.bit_equal:
            parts.setdefault((one.place.change, one.place.step), []).append(one)
    told = []
    for (change, step), part in parts.items():
        changed = dict.fromkeys(name for one in part if one.place for name in one.place.changed_inputs)
        inputs = ", ".join(map(clean, kinds.labels(changed)))
        lines = {
            Change.ORIGIN: f"Origin (step: {step}): of what it is computed from, nothing that is known differs.",
            Change.INHERITED: f"Inherited: what it is computed from differs ({inputs or 'an earlier step'}).",
            Change.NOISE: "Noise: running a cell again changes it about as much.",
        }
        if change in lines:
            told.append((part, [lines[change]]))
    yield from _by_chunks(told, kinds)


def _opening(one: ArtifactComparison) -> str:  # noqa: PLR0911 - one sentence a status
    if one.status == "shape_mismatch":
        return f"the shapes differ, {_shape(one.shape_a)} in A against {_shape(one.shape_b)} in B; no values compared."
    if one.status == "dtype_mismatch":
        return f"the dtypes differ, {one.dtype_a} in A against {one.dtype_b} in B; no values compared."
    if one.status in ("missing_a", "missing_b"):
        has, lacks = ("B", "A") if one.status == "missing_a" else ("A", "B")
        why = f" {lacks} has no record of it: {clean(one.reason, 600)}" if one.reason else ""
        return f"only {has} has it.{why}"
    if one.status == "unreadable" or one.reason:
        return clean(one.reason, 600)
    if one.status == "bit_equal":
        return "the same, bit for bit."
    if one.status == "value_equal":
        return "all values are equal, their bits are not." if one.tensor else "only names, paths and dates differ."
    if one.status == "close":
        return "differs, within the tolerance."
    return "differs." if not one.profiles else "differs beyond the tolerance."


def _place(at: Mismatch, dtype: str | None) -> str:
    return f"{list(at.index)} (A {value(at.a, dtype)}, B {value(at.b, dtype)})"


def _at(at: Mismatch, dtype: str | None) -> str:
    """Where, and both values; a scalar has no index."""
    return f" at {_place(at, dtype)}" if at.index else f" (A {value(at.a, dtype)}, B {value(at.b, dtype)})"


def _allowed(verdict: ProfileVerdict, at: Mismatch) -> str:
    if verdict.min_rtol is None:
        return " (integers must be equal)"
    return f", {number(verdict.atol + verdict.rtol * abs(at.b))} allowed there by {verdict.profile!r}"


def _needed(rtol: float, verdict: ProfileVerdict) -> str:
    passing = f"would pass at the atol of {verdict.profile!r} ({number(verdict.atol)})"
    if math.isinf(rtol):
        return f"No rtol {passing}."
    return f"Smallest rtol that {passing}: {number(rtol)} (it is {number(verdict.rtol)})"


def _special(measured: Sequence[Metrics]) -> list[str]:
    counts = [
        (name, *(sum(getattr(metrics, f"{field}_{side}") for metrics in measured) for side in "ab"))
        for name, field in (("NaN", "nan"), ("+inf", "posinf"), ("-inf", "neginf"))
    ]
    shown = ", ".join(f"{name} {a:,} in A and {b:,} in B" for name, a, b in counts if a or b)
    if not shown:
        return []
    apart = sum(metrics.specials_apart for metrics in measured)
    where = f"in different places at {count(apart, 'element')}" if apart else "in the same places"
    return [f"Not finite: {shown}, {where}; left out of the differences above. NaN equals nothing, itself included."]


def _meaning(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if not facts.get("rows_line_up", True):
        lines.append("Its rows do not line up: that they differ does not say that anything moved or changed.")
    if facts.get("buckets_n_mismatch"):
        steps = ", ".join(f"{times:,} by {step}" for step, times in facts["buckets_steps"].items())
        lines.append(
            f"Bucket numbers ({facts['nbits']} bits): {facts['buckets_n_mismatch']:,} of {facts['buckets_n']:,} changed"
            f" ({share(facts['buckets_n_mismatch'], facts['buckets_n'])}): {steps}"
        )
    if "steps_n" in facts:
        lines.append(
            f"It differs in {facts['steps_differ']:,} of {count(facts['steps_n'], 'step')}, first in step "
            f"{facts['first_step']:,}{_in_step(facts)}"
        )
    if "relative_distance" in facts:
        far = facts.get("largest_parameter")
        of = f", greatest of {clean(far)}: {number(facts['largest_relative_distance'])}" if far is not None else ""
        lines.append(f"|A-B| / |B| is {number(facts['relative_distance'])} over all{of}")
    if "queries_n" in facts:
        lines.append(f"It differs for {facts['queries_n_mismatch']:,} of {facts['queries_n']:,} queries")
    if "codes_n_mismatch_unpermuted" in facts:
        lines.append(f"With the centroids' permutation undone: {facts['codes_n_mismatch_unpermuted']:,} codes differ")
    if facts.get("codes_margin_source"):
        captured = facts["codes_margin_source"] == "embeddings"
        by = "captured embeddings" if captured else "embeddings rebuilt from residuals"
        judged, moved = facts["codes_judged"], facts["codes_n_moved"]
        among = f"{judged:,}" if judged == moved else f"{judged:,} of {moved:,}, the first of each chunk"
        p50 = f"p50 {number(facts['codes_margin_p50'])}, " if "codes_margin_p50" in facts else ""  # of one chunk
        lines.append(
            f"Moved codes: {facts['codes_near_ties']:,} near-ties and {facts['codes_real_moves']:,} real moves among "
            f"{among}, by {by}; margin {p50}max {number(facts['codes_margin_max'])} "
            f"(near-tie: {facts['codes_near_tie_rule']})"
        )
    if "permutation_moved" in facts:
        how = "bit-identical" if facts["permutation_exact"] else "nearest"
        lost = f" ({facts['permutation_unmatched']:,} without a counterpart)" if facts["permutation_unmatched"] else ""
        lines.append(
            f"The centroids are permuted: {facts['permutation_moved']:,} rows moved, matched by {how} rows{lost}; "
            f"undone, {facts['unpermuted_n_mismatch']:,} elements differ, "
            f"by at most {number(facts['unpermuted_max_abs'])}"
        )
    if "ivf_lists_n" in facts:
        lines.append(
            f"Inverted lists as sets: {facts['ivf_lists_n_mismatch']:,} of {facts['ivf_lists_n']:,} centroids differ; "
            f"{facts['ivf_entries_only_a']:,} entries only in A, {facts['ivf_entries_only_b']:,} only in B "
            f"(padding {facts['ivf_padding_a']:,} and {facts['ivf_padding_b']:,})"
        )
    lines += [clean(str(facts[name])) for name in ("ivf_note", "note") if name in facts]
    for key, (a, b) in list(facts.get("metadata_changes", {}).items())[:10]:
        lines.append(f"{clean(key)}: {clean(repr(a))} in A, {clean(repr(b))} in B")
    if facts.get("metadata_run_only"):
        lines.append("Not counted: " + clean(", ".join(facts["metadata_run_only"]), 400))
    return lines


def _in_step(facts: Mapping[str, Any]) -> str:
    """Of what an artifact differs in the first step that does."""
    if "streams" in facts:
        return f": {', '.join(facts['streams'])}"
    if "parameters_n" not in facts:
        return ""
    named = ", ".join(map(clean, facts["first_parameters"]))
    more = " and so on" if facts["parameters_differ"] > len(facts["first_parameters"]) else ""
    of = f"{facts['parameters_differ']:,} of {count(facts['parameters_n'], 'parameter')}"
    return f", in {of} there: {named}{more}"


def told_in_short(lines: Iterable[str], screen: Screen) -> list[str]:
    """Lines as wide as the screen."""
    return [part for line in lines for part in wrap(line, screen.width)]


def text(comparison: Comparison, screen: Screen = PLAIN, *, apart: bool = False) -> str:
    """The whole of it; `apart` shows every chunk by itself."""
    kinds = kinds_of(comparison, apart=apart)
    groups = groups_of(comparison, kinds)
    styles = [_style(group) for group in groups]
    told = [comparison.first] if comparison.first else []
    notes = (clean(note, 600) for note in comparison.notes if note not in told)
    lines = told_in_short([*told, sentence(comparison, kinds), *notes], screen)
    body = [*rows(comparison, kinds)]
    lines += ["", *table(columns(comparison), body, screen, lesser=lesser(comparison), styles=styles)]
    for group in groups:
        if any(map(_worth_telling, group)):
            told = paragraph(group, comparison.chosen, kinds)
            lines += ["", *(part for line in told for part in wrap(line, screen.width, 4))]
    return "\n".join(lines)

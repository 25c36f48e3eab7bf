"""Comparisons as text: one plain sentence, a table, then a paragraph for each artifact that differs.

Pure: a comparison in, lines or a rich table out. Whatever comes from files is cleaned before it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.compare import DIVERGENT, ArtifactComparison, Comparison
from harness.errors import printable
from harness.graph import Change
from harness.ladder import Ladder, Pair
from harness.metrics import Mismatch, Verdict

LABELS = {
    "bit_equal": "bit-equal",
    "value_equal": "value-equal",
    "close": "close",
    "different": "DIFFERENT",
    "shape_mismatch": "SHAPE",
    "dtype_mismatch": "DTYPE",
    "missing_a": "missing in A",
    "missing_b": "missing in B",
    "unreadable": "UNREADABLE",
}


def clean(text: str, limit: int = 200) -> str:
    """Text from a file, with control characters escaped, and cut at `limit`; no markup is read where it is shown."""
    shown = printable(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def share(count: int, total: int) -> str:
    """A percentage that is 0 % or 100 % only when it is exactly that."""
    if total == 0 or count == 0:
        return "0 %"
    if count == total:
        return "100 %"
    percent = 100 * count / total
    for digits in (1, 2, 3, 4, 6, 8):
        text = f"{percent:.{digits}f}"
        if float(text) not in (0.0, 100.0):
            return f"{text} %"
    return f"{percent:.1e} %" if percent < 50 else "all but " + share(total - count, total)


def number(value: float | int | complex | None) -> str:
    """A measured number: seven significant digits, integers in full."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}"


def value(found: float | int | complex, dtype: str | None) -> str:
    """An element, with the fewest digits that tell it from every other number of its dtype."""
    if isinstance(found, int):
        return f"{found:,}"
    if isinstance(found, complex):
        kind = "float64" if dtype == "complex128" else "float16" if dtype == "complex32" else "float32"
        return f"{value(found.real, kind)}{'' if found.imag < 0 else '+'}{value(found.imag, kind)}j"
    if dtype == "bfloat16":
        return f"{found:.4g}"  # 8 significant bits
    kinds: dict[str | None, type[np.floating[Any]]] = {"float16": np.float16, "float32": np.float32}
    return str(kinds.get(dtype, np.float64)(found))


def sentence(comparison: Comparison) -> str:
    """What was found, in one sentence."""
    a, b = clean(comparison.a), clean(comparison.b)
    if a == b:  # two directories of one name
        a, b = f"A ({a})", f"B ({b})"
    final = comparison.final or tuple(one for one in comparison.artifacts if one.tensor)
    total = len(final)
    if total == 0:
        return f"{a} and {b} hold no tensors to compare."
    names = ", ".join(clean(one.name) for one in comparison.unreadable)
    unreadable = f" {_count(len(comparison.unreadable), 'artifact')} could not be read: {names}." if names else ""
    known = "What can be read of " if names else ""
    equal = sum(one.bit_equal for one in final)
    if equal == total and not comparison.divergent:
        are = "is" if known else "are"
        return f"{known}{a} and {b} {are} bit for bit the same in all {total} tensors of the index.{unreadable}"
    passing = sum(one.close(comparison.chosen) is True for one in final)
    close = sum(one.close(comparison.chosen) is True and not one.bit_equal for one in final)
    noise = sum(one.status in DIVERGENT and not one.divergent for one in final)
    noisy = (
        f" {_count(noise, 'more tensor')} differ{'s' if noise == 1 else ''} no more than repeats of one cell do."
        if noise
        else ""
    )
    differ = ", ".join(clean(one.name) for one in comparison.divergent[:6])
    more = f" and {len(comparison.divergent) - 6} more" if len(comparison.divergent) > 6 else ""
    if not comparison.divergent:
        return (
            f"{known}{a} and {b} agree{'s' if known else ''} within {comparison.chosen!r}: "
            f"{equal} of {total} tensors are bit-equal, {close} more are close.{noisy}{unreadable}"
        )
    return (
        f"{a} and {b} differ beyond {comparison.chosen!r} in {differ}{more}: {passing} of {total} tensors of the index "
        f"pass, {equal} are bit-equal.{noisy}{unreadable}"
    )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def columns(comparison: Comparison) -> list[str]:
    """The table's header."""
    measured = ("differ", "max abs", "max ULP", "min rtol")
    return ["artifact", "status", "change", "dtype", "shape", *comparison.profiles, *measured]


def rows(comparison: Comparison) -> Iterable[list[str]]:
    """The table's rows."""
    for one in comparison.artifacts:
        metrics = one.metrics
        chosen = one.profiles.get(comparison.chosen)
        differ = "-" if metrics is None else "0" if metrics.n_mismatch == 0 else _differ(one)
        yield [
            clean(one.name),
            LABELS[one.status],
            one.place.change.value if one.place and not one.bit_equal else "-",
            _either(one.dtype_a, one.dtype_b),
            _either(_shape(one.shape_a), _shape(one.shape_b)),
            *(_verdict(one, name) for name in comparison.profiles),
            differ,
            number(metrics.max_abs) if metrics else "-",
            number(metrics.max_ulp) if metrics else "-",
            number(chosen.min_rtol) if chosen and metrics else "-",
        ]


def _differ(one: ArtifactComparison) -> str:
    assert one.metrics is not None
    return f"{one.metrics.n_mismatch:,} ({share(one.metrics.n_mismatch, one.metrics.n)})"


def _verdict(one: ArtifactComparison, profile: str) -> str:
    if not one.tensor or one.status == "unreadable":
        return "-"
    close = one.close(profile)
    return "no verdict" if close is None else "yes" if close else "NO"


def _shape(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape)) or "scalar"


def _either(a: str | None, b: str | None) -> str:
    if a is None and b is None:
        return "-"
    return a if a == b and a is not None else f"{a or '-'} / {b or '-'}"


def paragraphs(comparison: Comparison) -> list[str]:
    """One paragraph for each artifact that is not bit-equal, or holds NaN, or may."""
    return [paragraph(one, comparison.chosen) for one in comparison.artifacts if _worth_telling(one)]


def _worth_telling(one: ArtifactComparison) -> bool:
    return not one.bit_equal or bool(one.reason) or (one.metrics is not None and one.metrics.nan_a > 0)


def paragraph(one: ArtifactComparison, chosen: str) -> str:
    """What there is to say about an artifact, in the order in which `torch.testing.assert_close` says it."""
    lines = [f"{clean(one.name)}: {_opening(one)}"]
    metrics = one.metrics
    verdict = one.profiles.get(chosen)
    if metrics is not None and verdict is not None and metrics.n_mismatch:
        lines.append(
            f"Mismatched elements: {metrics.n_mismatch:,} / {metrics.n:,} ({share(metrics.n_mismatch, metrics.n)})"
        )
        if metrics.max_abs_at is not None:
            lines.append(
                f"Greatest absolute difference: {number(metrics.max_abs)}{_at(metrics.max_abs_at, one.dtype_a)}"
                f"{_allowed(verdict, metrics.max_abs_at)}"
            )
        if metrics.max_rel_at is not None:
            found = abs(metrics.max_rel_at.a - metrics.max_rel_at.b) / abs(metrics.max_rel_at.b)
            lines.append(f"Greatest relative difference: {number(found)}{_at(metrics.max_rel_at, one.dtype_a)}")
        if metrics.n_rel_inf:
            lines.append(
                f"Where B is zero and A is not: {_count(metrics.n_rel_inf, 'element')} (relative difference infinite)"
            )
        lines += _distribution(one)
        if verdict.min_rtol is not None:
            lines.append(_needed(verdict))
        if one.shape_a:  # a scalar has been shown
            lines.append("First mismatches: " + "; ".join(_place(at, one.dtype_a) for at in metrics.first))
    lines += _special(one) + _meaning(one) + _standing(one)
    return "\n  ".join(lines)


def _standing(one: ArtifactComparison) -> list[str]:
    """Where the difference starts, and whether it is more than noise."""
    if one.place is None or one.bit_equal:
        return []
    inputs = ", ".join(map(clean, one.place.changed_inputs))
    lines = {
        Change.ORIGIN: f"Origin (step: {one.place.step}): of what it is computed from, nothing that is known differs.",
        Change.INHERITED: f"Inherited: what it is computed from differs ({inputs}).",
        Change.NOISE: "Noise: running a cell again changes it about as much.",
    }
    return [lines[one.place.change]] if one.place.change in lines else []


def _opening(one: ArtifactComparison) -> str:  # noqa: PLR0911 - one sentence a status
    if one.status == "shape_mismatch":
        return f"the shapes differ, {_shape(one.shape_a)} in A against {_shape(one.shape_b)} in B; no values compared."
    if one.status == "dtype_mismatch":
        return f"the dtypes differ, {one.dtype_a} in A against {one.dtype_b} in B; no values compared."
    if one.status in ("missing_a", "missing_b"):
        return f"only {'B' if one.status == 'missing_a' else 'A'} has it."
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


def _allowed(verdict: Verdict, at: Mismatch) -> str:
    if verdict.min_rtol is None:
        return " (integers must be equal)"
    return f", {number(verdict.atol + verdict.rtol * abs(at.b))} allowed there by {verdict.profile!r}"


def _needed(verdict: Verdict) -> str:
    assert verdict.min_rtol is not None
    if math.isinf(verdict.min_rtol):
        return f"No rtol would pass at the atol of {verdict.profile!r} ({number(verdict.atol)})."
    return (
        f"Smallest rtol that would pass at the atol of {verdict.profile!r} ({number(verdict.atol)}): "
        f"{number(verdict.min_rtol)} (it is {number(verdict.rtol)})"
    )


def _distribution(one: ArtifactComparison) -> list[str]:
    metrics = one.metrics
    assert metrics is not None
    lines = []
    if metrics.mean_abs is not None and metrics.n > 1:
        lines.append(
            f"|A-B|: mean {number(metrics.mean_abs)}, p50 {number(metrics.p50_abs)}, p99 {number(metrics.p99_abs)}, "
            f"p99.9 {number(metrics.p999_abs)}; relative L2 {number(metrics.rel_l2)}, cosine {number(metrics.cosine)}"
        )
    if metrics.max_ulp is not None and metrics.max_ulp_at is not None:
        lines.append(
            f"ULP: max {metrics.max_ulp:,}{_at(metrics.max_ulp_at, one.dtype_a)}"
            + (f", p99 {number(metrics.p99_ulp)}" if metrics.n > 1 else "")
        )
    return lines


def _special(one: ArtifactComparison) -> list[str]:
    metrics = one.metrics
    if metrics is None:
        return []
    counts = [
        (name, getattr(metrics, f"{field}_a"), getattr(metrics, f"{field}_b"))
        for name, field in (("NaN", "nan"), ("+inf", "posinf"), ("-inf", "neginf"))
    ]
    if not any(a or b for _, a, b in counts):
        return []
    shown = ", ".join(f"{name} {a:,} in A and {b:,} in B" for name, a, b in counts if a or b)
    where = (
        "in the same places"
        if metrics.specials_apart == 0
        else f"in different places at {_count(metrics.specials_apart, 'element')}"
    )
    return [f"Not finite: {shown}, {where}; left out of the differences above. NaN equals nothing, itself included."]


def _meaning(one: ArtifactComparison) -> list[str]:
    facts = one.facts
    lines = []
    if facts.get("buckets_n_mismatch"):
        steps = ", ".join(f"{count:,} by {step}" for step, count in facts["buckets_steps"].items())
        lines.append(
            f"Bucket numbers ({facts['nbits']} bits): {facts['buckets_n_mismatch']:,} of {facts['buckets_n']:,} changed"
            f" ({share(facts['buckets_n_mismatch'], facts['buckets_n'])}): {steps}"
        )
    if "codes_n_mismatch_unpermuted" in facts:
        lines.append(f"With the centroids' permutation undone: {facts['codes_n_mismatch_unpermuted']:,} codes differ")
    if facts.get("codes_margin_source"):
        by = (
            "captured embeddings"
            if facts["codes_margin_source"] == "embeddings"
            else "embeddings rebuilt from residuals"
        )
        judged, moved = facts["codes_judged"], facts["codes_n_moved"]
        among = f"{judged:,}" if judged == moved else f"the first {judged:,} of {moved:,}"
        lines.append(
            f"Moved codes: {facts['codes_near_ties']:,} near-ties and {facts['codes_real_moves']:,} real moves among "
            f"{among}, by {by}; margin p50 {number(facts['codes_margin_p50'])}, "
            f"max {number(facts['codes_margin_max'])} (near-tie: {facts['codes_near_tie_rule']})"
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


def table_text(header: list[str], body: list[list[str]]) -> str:
    """A plain table: columns two spaces apart, as wide as needed. No library, so that a comparison starts fast."""
    widths = [max(len(row[k]) for row in [header, *body]) for k in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *body]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def text(comparison: Comparison) -> str:
    """The whole of it."""
    parts = [sentence(comparison), *(clean(note) for note in comparison.notes)]
    parts.append("\n" + table_text(columns(comparison), [list(row) for row in rows(comparison)]))
    parts += [f"\n{one}" for one in paragraphs(comparison)]
    return "\n".join(parts)


def ladder_text(found: Ladder) -> str:
    """A ladder: one sentence, what changed at each step, and the classes of equal items per artifact."""
    steps = [step for step in found.steps if step.changed]
    if found.empty:
        parts = [f"None of the {len(found.items)} items holds a tensor."]
    elif not steps:
        known = ", as far as they can be read" if found.unreadable else ""
        parts = [f"All {len(found.items)} items have the same tensors{known}."]
    else:
        names = ", ".join(f"{clean(step.a)} -> {clean(step.b)}" for step in steps[:6])
        more = f" and {len(steps) - 6} more" if len(steps) > 6 else ""
        parts = [f"{len(steps)} of {len(found.steps)} steps changed a tensor: {names}{more}."]
    if found.unreadable:
        parts[0] += f" {_count(len(found.unreadable), 'file')} could not be read, and may have changed."
    body = [
        [f"{clean(one.a)} -> {clean(one.b)}", str(len(one.changed)), clean(", ".join(one.changed), 2000) or "-"]
        for one in found.steps
    ]
    parts += ["", table_text(["step", "changed", "tensors"], body), "", *noise_lines(found), ""]
    body = []
    for name, groups in found.classes.items():
        shown = " | ".join(" ".join(clean(item) for item in group) for group in groups)
        body.append([clean(name), str(len(groups)), shown])
    parts.append(table_text(["artifact", "classes", "items that are equal"], body))
    back = [replace(one, back_to=clean(one.back_to)) for one in found.changes if one.back_to is not None]
    if back:
        parts.append("")
        parts += [f"{clean(one.artifact)} changed back at {clean(one.b)}: as in {one.back_to} again." for one in back]
    return "\n".join([*parts, *(["", *(clean(line, 600) for line in found.unreadable)] if found.unreadable else [])])


def noise_lines(found: Ladder) -> list[str]:
    """What running items again changed."""
    lines = [
        f"Noise floor: running {clean(item)} again changes {clean(', '.join(names), 2000)}."
        for item, names in found.noise.items()
        if names
    ]
    quiet = ", ".join(clean(item) for item, names in found.noise.items() if not names)
    if quiet:
        lines.append(f"Noise floor: running {quiet} again changes no tensor.")
    return lines or ["Noise floor: not known, because no item is stored with a repeat."]


def pairs_text(items: Sequence[str], pairs: Sequence[Pair]) -> str:
    """All pairs as a triangle: how many tensors differ between each two items."""
    counts = {(one.a, one.b): str(len(one.changed)) for one in pairs}
    body = [[clean(item), *(counts.get((item, other), "") for other in items)] for item in items[:-1]]
    return f"Tensors that differ, {len(pairs)} pairs:\n\n" + table_text(["", *map(clean, items)], body)

"""Two rankings in words: first what it comes to, then the numbers, then the queries that changed most."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from harness.rankings.comparison import Comparison
from harness.rankings.measures import Measured
from harness.rankings.settings import Settings
from harness.report.readable import clean, number, share
from harness.report.screen import PLAIN, Screen, table, wrap
from harness.words import count


def rankings_text(found: Comparison, settings: Settings, screen: Screen = PLAIN) -> str:
    """The whole comparison as text."""
    paragraphs = [
        [line for told in sentences(found, settings) for line in wrap(told, screen.width)],
        table(["over all queries", "value"], list(_numbers(found)), screen),
    ]
    if found.measures:
        header = ["measure", clean(found.a.name), clean(found.b.name), "B - A", _interval_name(settings), "equivalent"]
        body = [_measure(name, one) for name, one in found.measures.items()]
        paragraphs.append(table(header, body, screen))
    paragraphs += [_query(found, query, screen) for query in found.most_changed]
    return "\n\n".join("\n".join(lines) for lines in paragraphs)


def sentences(found: Comparison, settings: Settings) -> Iterator[str]:
    """What it comes to, and what must be known to read the numbers."""
    a, b = clean(found.a.name), clean(found.b.name)
    queries = count(found.queries, "query", "queries")
    changed, ties = int(found.changed.sum()), int(found.each["tie_only"].sum())
    same = int(found.each["identical"].sum())
    if same == found.queries:
        yield f"{a} and {b} give the same list for each of {queries}."
    elif not changed:
        yield f"{a} and {b} give the same lists for {queries}, but for the order of equal scores in {ties:,} of them."
    else:
        but = f", {ties:,} only in the order of equal scores" if ties else ""
        yield f"{a} and {b} give another list for {found.queries - same:,} of {queries}{but}."
    if some := found.tied_on_one_side:
        yield (
            f"In {count(some, 'list')} of the same order, passages have equal scores on one side only: RBO and tau-b "
            "count ties, and are below 1 there for no other reason."
        )
    if found.measures:
        yield from _of_measures(found, settings)
    elif changed:
        yield "Whether anybody would notice cannot be said without judgements: --qrels takes them."
    for name, only in ((a, found.only_a), (b, found.only_b)):
        if only:
            yield (
                f"Only {name} has {count(len(only), 'query', 'queries')} more ({clean(only[0])}"
                f"{' and so on' if len(only) > 1 else ''}): nothing is said of {'it' if len(only) == 1 else 'them'}."
            )
    for run in (found.a, found.b):
        if run.rising:
            yield (
                f"In {count(run.rising, 'list')} of {clean(run.name)} a score is greater than the one before it; the "
                "order is that of the ranks all the same."
            )


def _of_measures(found: Comparison, settings: Settings) -> Iterator[str]:
    bound = f"±{number(settings.delta)}"
    measures = found.measures
    first = next(iter(measures.values()))
    judged = count(first.queries, "judged query", "judged queries")
    unknown = [name for name, one in measures.items() if one.equivalent is None]
    beyond = [name for name, one in measures.items() if one.equivalent is False]
    if unknown:
        be = "is" if first.queries == 1 else "are"
        yield (
            f"{judged[:1].upper()}{judged[1:]} {be} too few to say whether a difference is within {bound}: "
            f"{settings.least_queries} or more are needed (least_queries in matrix.yaml)."
        )
    elif beyond:
        be = "is" if len(beyond) == 1 else "are"
        yield (
            f"{' and '.join(beyond)} {be} not equivalent over {judged}: the interval of the difference is not within "
            f"{bound}."
        )
    else:
        be, each = ("is", "the") if len(measures) == 1 else ("are", "each")
        yield (
            f"{', '.join(measures)} {be} equivalent over {judged}: the whole interval of {each} difference is within "
            f"{bound}."
        )
    if found.unjudged:
        without = count(found.unjudged, "query", "queries")
        yield f"{without} without a relevant passage in the judgements count for no measure."


def _numbers(found: Comparison) -> Iterator[tuple[str, str]]:
    each, n = found.each, found.queries
    for name, told in (
        ("identical", "identical lists"),
        ("tie_only", "only the order of equal scores differs"),
        ("top1_same", "same first passage"),
    ):
        some = int(each[name].sum())
        yield told, f"{share(some, n)} ({some:,} of {n:,})"
    for k, mean in found.overlap.items():
        yield f"overlap@{k}", number(mean)
    yield "RBO (p = 0.9)", number(found.mean("rbo"))
    yield "Kendall's tau-b", number(found.mean("tau_b"))
    yield "greatest score difference", number(found.max_score_diff)
    for run in (found.a, found.b):
        if run.tied is not None:
            yield f"neighbours with equal scores, {clean(run.name)}", f"{100 * run.tied:.1f} %"


def _interval_name(settings: Settings) -> str:
    return f"{100 * settings.confidence:g} % interval"


def _measure(name: str, one: Measured) -> list[str]:
    interval = "-" if one.interval is None else f"[{one.interval[0]:.5f}, {one.interval[1]:.5f}]"
    answer = {True: "yes", False: "no", None: "not known"}[one.equivalent]
    return [clean(name), f"{one.a:.5f}", f"{one.b:.5f}", f"{one.diff:+.5f}", interval, answer]


def _query(found: Comparison, query: int, screen: Screen) -> list[str]:
    row = found.each[query]
    changes = [
        f"{clean(name)} {one.differences[query]:+.4f}"
        for name, one in found.measures.items()
        if abs(one.differences[query]) > 0  # and not NaN
    ]
    ties = ["only the order of equal scores"] if row["tie_only"] else []
    told = ", ".join([f"RBO {row['rbo']:.4f}", *changes, *ties])
    title = f"Query {clean(found.a.qids[query])}: {told}"
    first, sides = found.shown(query)
    if first > 1:
        title += f" (the first {first} passages are the same)"
    body = [
        [str(rank), *_entry(pair[0]), *_entry(pair[1])] for rank, pair in enumerate(zip_longest(*sides), start=first)
    ]
    names = [clean(run.name) for run in (found.a, found.b)]
    return [*wrap(title, screen.width), "", *table(["rank", names[0], "score", names[1], "score"], body, screen)]


def _entry(entry: tuple[str, float] | None) -> tuple[str, str]:
    return ("", "") if entry is None else (clean(entry[0], 40), number(entry[1]))

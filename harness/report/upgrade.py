"""What an upgrade does to an index and to searches, and whether to index again: one answer with what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scipy.stats import beta

from harness.artifacts.comparison import Comparison as IndexComparison
from harness.artifacts.comparison import compare_sources
from harness.artifacts.directory import IndexDirectory
from harness.artifacts.source import ArtifactSource
from harness.environments.changes import Change
from harness.errors import ExitCode, HarnessError, InfrastructureError
from harness.explain.blame import Answer, blame, suspects
from harness.explain.marks import mark
from harness.explain.packages import package_changes
from harness.explain.pair import prepare_pair
from harness.inputs.matrix import profiles_of
from harness.rankings.comparison import Comparison
from harness.rankings.verdict import Verdict
from harness.report.blame_text import answer_json, headline
from harness.report.blame_text import sentence as step_sentence
from harness.report.packages_text import packages_json, packages_sentence
from harness.report.readable import deployments, share
from harness.report.retrieval import retrieve, same_index
from harness.report.screen import PLAIN, Screen, table, wrap
from harness.running.deployments import Searches
from harness.running.experiment import Experiment
from harness.store.stored import StoredCell
from harness.words import count

CONFIDENCE = 0.95
_ACT: Mapping[str, ExitCode] = {
    "unchanged": ExitCode.OK, "keep": ExitCode.OK,
    "re-index": ExitCode.DIVERGENCE, "investigate": ExitCode.DIVERGENCE,
}  # fmt: skip
"""The exit code of an answer: 0 where nobody has to do anything."""
_JOBS = {"index": "What made the index another one", "search": "What made searches in the old index other ones"}


@dataclass(frozen=True)
class Upgrade:
    """The answer.

    Attributes:
        a: what the environment before is called.
        b: what the one after is called.
        verdict: whether to index again, and why.
        packages: those that differ.
        index: A's index, or the one in production, against B's.
        deployments: each against A in A's index.
        sample: passages that were taken of a larger collection; None where all were.
        blame: kind of job to which packages changed what it makes; empty where nobody asked.
        not_blamed: why nobody could be asked, a sentence each.
    """

    a: str
    b: str
    verdict: Verdict
    packages: tuple[Change, ...]
    index: IndexComparison
    deployments: Mapping[str, Comparison]
    sample: int | None = None
    blame: Mapping[str, Answer] = field(default_factory=dict)
    not_blamed: tuple[str, ...] = ()

    @property
    def blamed(self) -> tuple[str, ...]:
        """The packages that are to blame, by name."""
        return tuple(dict.fromkeys(package for one in self.blame.values() for package in one.packages))

    @property
    def outcome(self) -> ExitCode:
        """0 where the index can stay, 1 where it cannot or nobody knows."""
        return _ACT[self.verdict.answer]

    @property
    def sure(self) -> str:
        """How far the answer reaches, by the number of queries; empty where B was not searched in A's index."""
        mixed = self.deployments.get("b_on_a")
        if mixed is None or not mixed.queries:
            return ""
        changed = int(mixed.changed.sum())
        most = most_changed(changed, mixed.queries)
        of = f" over these {count(self.sample, 'passage')}" if self.sample else ""
        return (
            f"With {CONFIDENCE:.0%} confidence, at most {most:.1%} of queries like these{of} get another list from "
            f"{self.b} in the old index ({changed:,} of {mixed.queries:,} did)."
        )

    @property
    def uncovered(self) -> tuple[str, ...]:
        """What the answer says nothing of, a sentence each."""
        part = f"Passages beyond the first {self.sample:,}: run it again without --limit." if self.sample else ""
        return (*([part] if part else ()), *self.verdict.uncovered)

    @property
    def blame_sentences(self) -> tuple[str, ...]:
        """Who is to blame for what each kind of job makes, and why nobody is; none where nobody asked."""
        said = []
        for job, answer in self.blame.items():
            said.append(f"{_JOBS[job]}: {headline(answer, self.a, self.b)}")
            said += [step_sentence(step, self.a, self.b) for step in answer.steps]
        return (*said, *(f"Not blamed: {reason}" for reason in self.not_blamed))

    def to_json(self) -> dict[str, Any]:
        """The contract's object, and what else the text tells."""
        return {
            "verdict": self.verdict.answer,
            "reason": self.verdict.sentence,
            "a": self.a,
            "b": self.b,
            "packages": packages_json(self.packages),
            "index": self.index.to_json(),
            "deployments": {name: one.to_json() for name, one in self.deployments.items()},
            "blamed": list(self.blamed),
            "blame": [
                {**one, "job": job} for job, answer in self.blame.items() for one in answer_json(answer, self.a, self.b)
            ],
            "not_blamed": [
                *self.not_blamed,
                *(reason for answer in self.blame.values() for reason in answer.reasons),
            ],
            "sure": self.sure,
            "not_covered": list(self.uncovered),
        }


def most_changed(changed: int, queries: int) -> float:
    """The greatest share of queries that may change, at `CONFIDENCE`: Clopper and Pearson's one-sided upper bound."""
    return 1.0 if changed >= queries else float(beta.ppf(CONFIDENCE, changed + 1, queries - changed))


def judge_upgrade(experiment: Experiment, a: str, b: str, index: Path | None = None) -> Upgrade:
    """Compare what is stored of an upgrade.

    Args:
        experiment: of the searches.
        a: the environment before.
        b: the one after.
        index: of production, where it stands for A's.

    Raises:
        InfrastructureError: a cell that is needed is not there.
        UsageError: a search or the index cannot be read.
    """
    sides: list[ArtifactSource] = [] if index is None else [IndexDirectory(index)]
    for name in (a, b)[len(sides) :]:
        cell = experiment.index.stored(name)
        if cell is None:
            failed = experiment.store.get(experiment.index.spec(name).key)
            raise InfrastructureError(
                f"There is no index of {name}: {failed.outcome if failed else 'missing'}: "
                f"{failed.reason if failed else 'it was not made'}"
            )
        sides.append(StoredCell(experiment.store, cell))
    left, right = sides
    compared = mark(compare_sources(left, right, profiles_of(experiment.matrix)), left, right)
    searches = Searches(experiment, {} if index is None else {a: index})
    found = retrieve(searches, {(a, b): same_index(compared.final)})
    if (a, b) not in found.verdicts:
        raise InfrastructureError(f"No search of {a} or {b} ended well, so nothing is known: see above.")
    keys = found.keys[a, b]
    own = [found.cells[keys[name]] for name in ("a_on_a", "b_on_b") if name in keys]
    limit = experiment.selection.limit  # of a collection that has fewer passages, none is left out
    return Upgrade(
        a, b, found.verdicts[a, b], package_changes(*own) if len(own) == 2 else (), compared, found.found[a, b],
        limit if limit is not None and limit <= len(experiment.passages) else None,
    )  # fmt: skip


def with_blame(
    found: Upgrade, experiment: Experiment, index: Path | None, *, repeats: int, report: Callable[[str], None]
) -> Upgrade:
    """The same with the packages that made the index, or what is found in it, another one.

    Args:
        found: of cells that are stored.
        experiment: of the searches.
        index: of production, where it stands for A's.
        repeats: how often each job is run again for the noise floor, where it was not yet.
        report: says what is under way.
    """
    asked: dict[str, Experiment] = {}
    reasons = []
    if not all(one.bit_equal for one in found.index.artifacts if one.tensor):
        if index is None:
            asked["index"] = experiment.index
        else:
            reasons.append(
                f"{index.name} was made elsewhere, so it is not known which package makes it differ from the index of "
                f"{found.b}: `harness blame {found.a} {found.b}` compares what both make."
            )
    mixed = found.deployments.get("b_on_a")
    if mixed is not None and not (mixed.each["identical"].all() and not mixed.max_score_diff):
        asked["search"] = experiment.search(on=None if index else found.a, index=index)
    answers = {}
    for job, of in asked.items():
        try:
            # Where nothing can be exchanged, nothing is run.
            suspects(of, found.a, found.b)
            answers[job] = blame(of, prepare_pair(of, found.a, found.b, repeats=repeats), report)
        # The answer is worth having whether or not this is known.
        except HarnessError as error:
            reasons.append(str(error))
    return replace(found, blame=answers, not_blamed=tuple(dict.fromkeys(reasons)))


def upgrade_text(found: Upgrade, screen: Screen = PLAIN) -> str:
    """The answer first, then what it rests on."""
    return "\n".join(line for text in _lines(found, screen) for line in text)


def _lines(found: Upgrade, screen: Screen) -> Iterator[Sequence[str]]:
    def sentence(text: str) -> list[str]:
        return wrap(text, screen.width)

    yield [screen.paint(found.verdict.answer, "bold" if found.outcome is ExitCode.OK else "red")]
    yield sentence(found.verdict.sentence)
    yield [""]
    yield sentence(packages_sentence(found.a, found.b, found.packages))
    yield sentence(_index(found))
    titles = deployments(found.a, found.b)
    rows = [
        (
            titles[name],
            f"{one.queries - int(one.changed.sum()):,} of {one.queries:,}",
            *(f"{value:.4f}" for value in one.overlap.values()),
            *(f"{measured.diff:+.4f}" for measured in one.measures.values()),
        )
        for name, one in found.deployments.items()
    ]
    if blamed := found.blame_sentences:
        yield [""]
        yield from map(sentence, blamed)
    first = next(iter(found.deployments.values()), None)
    if first is not None:
        overlaps, measures = [f"overlap@{k}" for k in first.overlap], list(first.measures)
        yield [""]
        yield sentence(f"Against {found.a} in its own index:")
        yield table(("", "Same lists", *overlaps, *measures), rows, screen)
        yield [""]
    if found.sure:
        yield sentence(found.sure)
    if found.outcome is not ExitCode.OK or not all(one.bit_equal for one in found.index.final):
        ask = "" if found.blame or found.not_blamed else f", and `harness blame {found.a} {found.b}` which package"
        yield sentence(
            f"`harness locate {found.a} {found.b}` with the same options says which operator it starts in{ask}."
        )
    for gap in found.uncovered:
        yield sentence(f"Not covered: {gap}")


def _index(found: Upgrade) -> str:
    final = found.index.final
    differ = [one.name for one in final if not one.bit_equal]
    if not differ:
        return f"Index: all {count(len(final), 'tensor')} are the same, bit for bit."
    first = next((one.name for one in found.index.artifacts if one.tensor and not one.bit_equal), differ[0])
    noisy = [one.name for one in final if not one.bit_equal and one.above_noise is False]
    noise = f" ({', '.join(noisy)} no more than a repeat does)" if noisy else ""
    return (
        f"Index: {len(differ)} of {len(final)} tensors differ ({share(len(differ), len(final))}): "
        f"{', '.join(differ)}{noise}. The first artifact that differs is {first}."
    )

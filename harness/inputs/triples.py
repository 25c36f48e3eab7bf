"""Triples to train from: read from a file as ColBERT has them, or drawn from judgements by a seeded recipe."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import UsageError
from harness.inputs.jobs import TrainJob
from harness.inputs.passages import Passages
from harness.inputs.queries import Qrels, Queries
from harness.inputs.readers import lines_of, require_file
from harness.inputs.recipe import Draws
from harness.words import count

TRIPLES_SEED = 20250803
_FORM = "[query, passage, passage, …] or [query, [passage, score], …]"
Triple: TypeAlias = tuple[int, tuple[int, ...]]
"""The row of a query, and those of its passages: first the relevant one."""


@dataclass(frozen=True)
class Triples:
    """What a training reads, in its order, by the rows of queries and passages.

    Attributes:
        name: what tables call them.
        rows: as many as the training reads, each with as many passages.
        scores: of each row the scores of its passages; None where there are none.
        source: where they come from; no absolute paths.
    """

    name: str
    rows: list[Triple]
    scores: list[tuple[float, ...]] | None
    source: dict[str, str | int]

    def __len__(self) -> int:
        return len(self.rows)

    def lines(self) -> Iterator[str]:
        """As ColBERT reads them, one line each, with numbers alone."""
        for number, (query, passages) in enumerate(self.rows):
            scored = zip(passages, self.scores[number], strict=True) if self.scores is not None else passages
            yield json.dumps([query, *scored]) + "\n"

    @cached_property
    def digest(self) -> str:
        """Hex blake3 over the lines; what the rows are of has digests of its own."""
        import blake3

        digest = blake3.blake3(b"harness triples 1\n")
        for line in self.lines():
            digest.update(line.encode())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a cell's specification keeps of them: name, digest and number."""
        return {"name": self.name, "digest": self.digest, "triples": len(self)}


# ---- from a file


def local_triples(path: Path, queries: Queries, passages: Passages, wanted: int, nway: int) -> Triples:
    """Read triples from JSON lines as ColBERT has them: `[query, passage, …]` or `[query, [passage, score], …]`.

    A text is the id of a query or of a passage. A number is, as it is for ColBERT, the id of a query, and the row of a
    passage in the collection, from 0. Of a line the first `nway` passages count, and lines after `wanted` are not read.

    Args:
        path: The file, which may be gzipped.
        queries: Those that lines name.
        passages: The collection.
        wanted: How many lines the training reads.
        nway: How many passages of a line it reads.

    Raises:
        UsageError: The file is missing or unreadable, a line is no triple or names what is not there, or there are
            fewer lines than the training reads.
    """
    require_file(path, "file of triples")
    rows: list[Triple] = []
    scores: list[tuple[float, ...]] = []
    places = _Places(queries, passages)
    for number, line in itertools.islice(lines_of(path), wanted):
        where = f"{path}: line {number}"
        query, scored = _parsed(line, where, nway)
        if rows and bool(scores) != (scored[0][1] is not None):
            now, before = ("has scores", "have none") if not scores else ("has no scores", "have some")
            raise UsageError(f"{where} {now}, and the lines before it {before}; give scores in every line, or in none.")
        rows.append((places.query(query, where), tuple(places.passage(one, where) for one, _score in scored)))
        if scored[0][1] is not None:
            scores.append(tuple(score for _passage, score in scored if score is not None))
    if not rows:
        raise UsageError(f"{path}: this is empty; it needs a line {_FORM} for each triple.")
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return Triples(name, rows, scores or None, {"kind": "local", "file": path.name})


def _parsed(line: str, where: str, nway: int) -> tuple[Any, list[tuple[Any, float | None]]]:
    """The query of a line, and its first passages, each with its score or None."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(f"{where} is not valid JSON ({reason}); a line of triples is {_FORM}.") from error
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} is no JSON list with a query in it; a line of triples is {_FORM}.")
    query, *passages = value
    if len(passages) < nway:
        raise UsageError(
            f"{where} has {count(len(passages), 'passage')}, and nway is {nway}: give each line {nway} passages or "
            "more, or train with a smaller nway (--nway, or jobs.train in matrix.yaml)."
        )
    scored = [_scored(one, where) for one in passages[:nway]]
    if len({score is None for _passage, score in scored}) > 1:
        raise UsageError(f"{where} has a score for some of its passages; give one to each of them, or to none.")
    return query, scored


def _scored(one: Any, where: str) -> tuple[Any, float | None]:  # noqa: ANN401 - anything that JSON has
    if not isinstance(one, list):
        return one, None
    if len(one) != 2:
        raise UsageError(f"{where} has a passage with {count(len(one) - 1, 'score')}; write it as [passage, score].")
    passage, score = one
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise UsageError(f"{where} gives the passage {passage!r} the score {score!r}; a score is a finite number.")
    return passage, float(score)


class _Places:
    """The rows of queries and passages, by what a file of triples calls them."""

    def __init__(self, queries: Queries, passages: Passages) -> None:
        self.queries, self.passages = queries, passages
        self._queries = {one: row for row, one in enumerate(queries.ids)}
        self._passages = {one: row for row, one in enumerate(passages.ids)}

    def query(self, name: Any, where: str) -> int:  # noqa: ANN401 - anything that JSON has
        """The row of a query."""
        row = self._queries.get(_text(name, "query", where))
        if row is None:
            raise UsageError(
                f"{where} names the query {name!r}, which is not among the {len(self.queries):,} of "
                f"{self.queries.name}: give the queries that the triples are of (--queries)."
            )
        return row

    def passage(self, name: Any, where: str) -> int:  # noqa: ANN401 - anything that JSON has
        """The row of a passage."""
        by_id = self._passages.get(_text(name, "passage", where))
        row = by_id if isinstance(name, str) else int(name) if 0 <= name < len(self.passages) else None
        if row is None:
            last = f", whose rows are 0 to {len(self.passages) - 1:,}" if isinstance(name, int) else ""
            raise UsageError(
                f"{where} names the passage {name!r}, which is not in the collection {self.passages.name}{last}: give "
                "the collection that the triples are of, without a --limit that leaves it out."
            )
        if by_id not in (None, row):
            raise UsageError(
                f"{where} names the passage {name}, which is a row of the collection {self.passages.name}, and the id "
                f"of row {by_id} as well: write ids in quotes."
            )
        return row


def _text(name: Any, what: str, where: str) -> str:  # noqa: ANN401 - anything that JSON has
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise UsageError(f"{where} has {name!r} for a {what}; it is named by a text or a whole number.")
    return str(name)


# ---- drawn


def drawn_triples(qrels: Qrels, queries: Queries, passages: Passages, wanted: int, nway: int) -> Triples:
    """Draw triples from judgements, by a recipe that depends on its seed and on nothing else.

    Queries with a relevant passage take turns, in an order that is shuffled anew for each round. A triple is such a
    query, one of its relevant passages, and others of the collection that are not judged relevant to it, all different.
    The first k triples are the same however many are wanted.

    Args:
        qrels: Which passages are relevant.
        queries: In the order from which it is drawn.
        passages: The collection.
        wanted: How many triples.
        nway: Passages of a triple.

    Raises:
        UsageError: No query has a relevant passage, or one has too few others.
    """
    places = {one: row for row, one in enumerate(passages.ids)}
    relevant = {
        row: [places[one] for one, grade in qrels.grades.get(query, {}).items() if grade > 0 and one in places]
        for row, query in enumerate(queries.ids)
    }
    turns = [row for row, found in relevant.items() if found]
    if not turns:
        raise UsageError(
            f"{qrels.name} says of no query of {queries.name} which passage of {passages.name} is relevant to it, so "
            "there is nothing to draw triples from: give --triples FILE, or the qrels of these queries."
        )
    most = max(turns, key=lambda row: len(relevant[row]))
    if len(passages) - len(relevant[most]) < nway - 1:
        raise UsageError(
            f"A triple is to have {nway} passages, and the collection {passages.name} has "
            f"{count(len(passages) - len(relevant[most]), 'passage')} that {'is' if nway == 2 else 'are'} not relevant "
            f"to the query {queries.ids[most]!r}: use more passages (a larger --limit), or a smaller --nway."
        )
    draws, rows = Draws(TRIPLES_SEED), list[Triple]()
    while len(rows) < wanted:
        for place in range(len(turns) - 1, 0, -1):  # Fisher-Yates
            other = draws.below(place + 1)
            turns[place], turns[other] = turns[other], turns[place]
        for row in turns[: wanted - len(rows)]:
            known = relevant[row]
            rows.append((row, (known[draws.below(len(known))], *_others(draws, known, len(passages), nway - 1))))
    source: dict[str, str | int] = {"kind": "drawn", "seed": TRIPLES_SEED}
    return Triples(f"{queries.name}-drawn", rows, None, source)


def _others(draws: Draws, known: Iterable[int], passages: int, number: int) -> Sequence[int]:
    """So many different rows of passages that are not among the known ones."""
    taken, found = set(known), list[int]()
    while len(found) < number:
        row = draws.below(passages)
        if row not in taken:
            taken.add(row)
            found.append(row)
    return found


# ---- whether they fit


def triples_of(job: TrainJob) -> int:
    """How many triples a training reads."""
    return job.maxsteps * job.bsize


def check_job(job: TrainJob) -> None:
    """Refuse settings that do not go together; of batches, those that colbert-ai would cut otherwise than it was told.

    Raises:
        UsageError: `accumsteps` or `nranks` does not divide `bsize`, or a step is to be kept that there is not.
    """
    beyond = [step for step in job.full_steps if step >= job.maxsteps]
    if beyond:
        raise UsageError(
            f"matrix.yaml: jobs.train.full_steps has {beyond[0]}, and the steps of a training with maxsteps "
            f"{job.maxsteps} are 0 to {job.maxsteps - 1:,}: take it out, or train for more steps."
        )
    if job.bsize % job.ranks:
        works = -(-job.bsize // job.ranks) * job.ranks
        raise UsageError(
            f"bsize is {job.bsize} and nranks {job.ranks}, which does not divide it, and colbert-ai gives each rank as "
            f"many triples of a step: set bsize to a multiple of nranks, such as {works} (--bsize, or jobs.train in "
            "matrix.yaml), or use fewer ranks."
        )
    share, of = job.bsize // job.ranks, "bsize / nranks" if job.ranks > 1 else "bsize"
    if share % job.accumsteps:
        works = max(number for number in range(1, job.accumsteps) if share % number == 0)
        raise UsageError(
            f"{of} is {share} and accumsteps {job.accumsteps}, which does not divide it, so that colbert-ai would "
            f"cut a step into other parts than it was told: set accumsteps to a divisor of {of}, such as {works} "
            "(--accumsteps, or jobs.train in matrix.yaml), or bsize to a multiple of accumsteps."
        )


def check_steps(job: TrainJob, triples: Triples) -> None:
    """Refuse a training for which there are too few triples: colbert-ai would end it early and say that it is done.

    Raises:
        UsageError: with as many steps as the triples are enough for.
    """
    if len(triples) < triples_of(job):
        steps = len(triples) // job.bsize
        mend = f"train for {count(steps, 'step')} (--maxsteps {steps})" if steps else "use a smaller --bsize"
        raise UsageError(
            f"{triples.name} has {count(len(triples), 'triple')}, and {count(job.maxsteps, 'step')} of {job.bsize} "
            f"need {triples_of(job):,}: {mend}, or give more triples."
        )

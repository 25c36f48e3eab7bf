"""What a job kind says about itself: everything that is known of its artifacts before a job of it has run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from harness.artifacts.source import ArtifactSource
    from harness.tensors.tensor import Tensor

Role = Literal["final", "value", "intermediate"]
"""A tensor of the result; what is no tensor in it, and alone is nothing to compare; what is made on the way."""


@dataclass(frozen=True)
class Made:
    """One artifact of a job, or one for each chunk.

    Attributes:
        name: `*` stands for the number of a chunk.
        step: what makes it.
        inputs: what it is computed from, by name; `*` is the same chunk, or every chunk.
        role: see `Role`.
        swappable: whether its place in the job's code can be given another value before it is used.
        by_passage: whether its rows, or what is in them, belong to single passages.
        digests: whether its numbers are digests of what was too large to keep: they are equal or not, and no more.
        rounded: whether the job may round it to float16 before it keeps it, after the step that makes it.
        small: whether it is kept itself, and not only its digest, as soon as anything of the inside is.
        once: whether a job that goes in steps makes it at its end, with no row for each step.
        packed: whether a byte of it holds several numbers, of which is told how they changed.
    """

    name: str
    step: str
    inputs: tuple[str, ...] = ()
    role: Role = "intermediate"
    swappable: bool = False
    by_passage: bool = False
    digests: bool = False
    rounded: bool = False
    small: bool = False
    once: bool = False
    packed: bool = False


@dataclass(frozen=True)
class Batches:
    """How a step goes through a collection, so that a batch that was not kept can be made again from its texts.

    Attributes:
        kept: the step's output, and the artifact that it is for the first outer batch, whose inputs were kept.
        size: the setting that says how many passages a batch has.
        outer: batches that are tokenized, and sorted by length, at once.
        lengths: the artifact with the number of rows of each passage of the collection.
        rows: artifacts with a passage's rows one after the other: which says what passages these are; None for the
            whole collection, chunk by chunk.
    """

    kept: str
    size: str
    outer: int
    lengths: str
    rows: Mapping[str, str | None]


@dataclass(frozen=True)
class Blocks:
    """The rows of its inputs that a step computes at once, where it would not run on all of them, or too long.

    Attributes:
        of: the step's names for these inputs, which have as many rows as each other. Those of a ragged one are its
            segments, whose lengths are an input `NAME_lengths`.
        rows: as many rows are a block.
        elements: and as many numbers of a block are computed at once, `width` a row.
        width: one of `JobKind.sizes`; empty where a whole block is computed at once.
    """

    of: tuple[str, ...]
    rows: int
    elements: int = 0
    width: str = ""


@dataclass(frozen=True)
class Replay:
    """How a step is run by itself.

    Attributes:
        inputs: the step's name for an input, and the artifact that it is.
        run_as: the step that is run, where it is another.
        outputs: the artifacts that its outputs must equal, each with the output's name; None for the step's own, by
            their own names.
        batches: where it runs on a batch.
        blocks: where it runs on a block.
        after: of a part of a larger step, another part before it that is looked at with it unless that differs itself:
            it makes something for this one that is no artifact.
        besides: a sentence on what of the step cannot be run alone, for where all that can does not differ.
    """

    inputs: Mapping[str, str]
    run_as: str | None = None
    outputs: Mapping[str, str] | None = None
    batches: Batches | None = None
    blocks: Blocks | None = None
    after: str | None = None
    besides: str = ""


class Meaning(Protocol):
    """What the numbers of two sources of one kind mean, side by side; found out where something differs."""

    @property
    def first(self) -> str:
        """What is to be told before anything else where rows do not line up."""

    def facts(self, name: str, left: Tensor | None, right: Tensor | None) -> dict[str, Any]:
        """What an artifact that differs, or that a side lacks, means; the names say what they count.

        `rows_line_up` is there where that is in question: where it is False, no row is said to differ, nor the artifact
        to be where anything starts.

        Raises:
            UnreadableTensor: another artifact, by which this one is understood, cannot be read.
        """

    def prepare(self) -> None:
        """Find out what more than one artifact needs, before processes look at them that tell each other nothing."""

    def notes(self, facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Sentences without which the comparison, whose rows' facts these are, cannot be understood."""


@cache
def _with_chunk(pattern: str) -> re.Pattern[str]:
    before, after = map(re.escape, pattern.split("*"))
    return re.compile(rf"{before}(\d+){after}")


def chunk_of(name: str, pattern: str) -> str | None:
    """The chunk of an artifact of this pattern, such as `7` of `7.codes` for `*.codes`; None for any other."""
    match = _with_chunk(pattern).fullmatch(name)
    return match and match[1]


def all_chunks(pattern: str) -> str:
    """What the chunks of a pattern are called together, such as `codes` for `*.codes`."""
    return pattern.strip("*._-")


@dataclass(frozen=True, eq=False)
class JobKind:
    """A kind of job. All that reads, compares or explains its cells goes by this.

    Attributes:
        name: what a cell's specification calls it.
        product: what its result is called.
        made: its artifacts, in the order in which it makes them.
        meaning: tells what the numbers of two sources, A and B, mean.
        added: artifacts that it does not make, and that other programs add to the same kind of result.
        replays: the steps that can be run by themselves.
        sizes: numbers that such a step must be told: the length of the first of these artifacts that is there.
        folder: where, in what a finished job left, a ColBERT index is with the artifacts that it did not write as
            files of `intermediates/`; None where there is none.
        united: facts that differ from chunk to chunk, each with how those of two chunks become that of both; None where
            no fact of both follows. A fact that is not here is only told together of chunks that have the same.
        stepwise: whether the rows of its intermediates are steps, each of which begins with what the steps before left.
            Inputs are those of the same step then, and chunks are steps whose numbers were kept.
        revision: part of every cell's key: raised when the worker changes in a way that can change what a job makes, or
            the formula of its digests.
    """

    name: str
    made: tuple[Made, ...]
    meaning: Callable[[ArtifactSource, ArtifactSource], Meaning]
    added: tuple[Made, ...] = ()
    replays: Mapping[str, Replay] = field(default_factory=dict)
    sizes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folder: str | None = None
    united: Mapping[str, Callable[[Any, Any], Any] | None] = field(default_factory=dict)
    product: str = "index"
    stepwise: bool = False
    revision: int = 1

    @cached_property
    def _places(self) -> dict[str, tuple[int, Made]]:
        return {one.name: (place, one) for place, one in enumerate(self.made)}

    @cached_property
    def _known(self) -> dict[str, Made]:
        return {one.name: one for one in (*self.made, *self.added)}

    @cached_property
    def _chunked(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.made if "*" in one.name)

    @cached_property
    def by_step(self) -> tuple[Made, ...]:
        """Artifacts with a row for each step, in order; none of a job that does not go in steps."""
        return tuple(one for one in self.made if self.stepwise and "*" not in one.name and not one.once)

    @lru_cache(maxsize=4096)  # noqa: B019 - of the few kinds that there are, all of which live as long as the process
    def pattern(self, name: str) -> tuple[str, str | None]:
        """An artifact's name with its chunk as `*`, and the chunk; None for one that has none."""
        for pattern in self._chunked:
            chunk = chunk_of(name, pattern)
            if chunk is not None:
                return pattern, chunk
        return name, None

    def chunk(self, name: str) -> int:
        """The number of an artifact's chunk; -1 for one that has none."""
        return int(self.pattern(name)[1] or -1)

    def known(self, name: str) -> Made | None:
        """What is declared of an artifact; None of one that neither the job nor another program makes."""
        return self._known.get(self.pattern(name)[0])

    def role(self, name: str) -> Role | None:
        """What an artifact is to the result; None for one that the job does not make."""
        place = self._places.get(self.pattern(name)[0])
        return place and place[1].role

    def is_final(self, name: str) -> bool:
        """Whether an artifact is one of the tensors of the result itself."""
        return self.role(name) == "final"

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Tensors of every result that are not among these; chunks, of which there may be any number, aside."""
        there = frozenset(names)
        final = (one.name for one in self.made if one.role == "final" and "*" not in one.name)
        return [name for name in final if name not in there]

    def is_captured(self, name: str) -> bool:
        """Whether the job makes an artifact on the way, or beside the tensors of the result."""
        return self.role(name) in ("intermediate", "value")

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Sort artifact names by their place in the job; names that it does not have come last."""

        def place(name: str) -> tuple[int, int, str]:
            pattern, chunk = self.pattern(name)
            at = self._places.get(pattern)
            return at[0] if at else len(self.made), int(chunk or 0), name

        return sorted(set(names), key=place)

    @cached_property
    def values(self) -> frozenset[str]:
        """Artifacts that are shown, but alone are nothing to compare."""
        return frozenset(one.name for one in self.made if one.role == "value")

    @cached_property
    def swappable(self) -> tuple[str, ...]:
        """Artifacts that can be given another value, in order; `*` stands for a chunk."""
        return tuple(one.name for one in self.made if one.swappable)

    def inputs_of(self, name: str, present: Iterable[str]) -> tuple[str, ...]:
        """The artifacts that `name` is computed from, among those that are present.

        An input that was not captured is replaced by its own inputs, so that a cell with final artifacts only still has
        a graph. Chunks are those that are present.
        """
        present = frozenset(present)  # no copy of one that is frozen already
        found: dict[str, None] = {}
        seen: set[str] = set()

        def visit(of: str) -> None:
            chunk, known = self.pattern(of)[1], self.known(of)
            for wanted in known.inputs if known else ():
                for input_ in self._expand(wanted, chunk, present):
                    if input_ in present:
                        found[input_] = None
                    elif input_ not in seen:
                        seen.add(input_)
                        visit(input_)

        visit(name)
        return tuple(self.in_order(found))

    def _expand(self, wanted: str, chunk: str | None, present: frozenset[str]) -> list[str]:
        if "*" not in wanted:
            return [wanted]
        if chunk is not None:
            return [wanted.replace("*", chunk)]
        numbers = sorted({number for _pattern, number in map(self.pattern, present) if number is not None}, key=int)
        return [wanted.replace("*", number) for number in numbers]

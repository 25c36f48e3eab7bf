"""Texts made from a seed: the embedded collection, queries for passages, and a small collection scaled up."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import UsageError
from harness.inputs.passages import Passages
from harness.inputs.topics import ITEMS, MONTHS, PERIODS, PLACES, SENTENCES, TOPICS, Topic
from harness.words import count

PASSAGES_SEED = 20250801
"""Seed of the embedded collection; another seed is another collection with the same look."""

_MASK = (1 << 64) - 1


class Draws:
    """SplitMix64 (Steele, Lea and Flood, 2014): a stream of 64-bit integers that no library release can change.

    Args:
        seed: Any integer; only its low 64 bits count.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def bits(self) -> int:
        """The next 64 bits of the stream."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """An integer in [0, n). The bias of the multiply-and-shift is below n / 2**64, and the same everywhere."""
        return (self.bits() * n) >> 64

    def choice(self, items: Sequence[str]) -> str:
        """One of `items`."""
        return items[self.below(len(items))]


def _sentences_wanted(draws: Draws) -> int:
    """How many sentences a passage gets: 0 is a list item. Weights follow guidance prose: short, with a long tail."""
    roll = draws.below(100)
    for below, many in ((12, 0), (30, 1), (51, 2), (69, 3), (82, 4), (91, 5), (97, 7)):
        if roll < below:
            return many
    return 9


def _slots(topic: Topic, draws: Draws) -> dict[str, str]:
    """One value for every slot of a pattern. Every slot is drawn every time, so the stream never depends on a text."""
    paper = draws.below(len(topic.paper))
    fact = draws.below(len(topic.fact))
    return {
        "scheme": draws.choice(topic.scheme),
        "body": draws.choice(topic.body),
        "paper": topic.paper[paper],
        "paper2": topic.paper[(paper + 1) % len(topic.paper)],
        "person": draws.choice(topic.person),
        "act": draws.choice(topic.act),
        "fact": topic.fact[fact],
        "fact2": topic.fact[(fact + 1) % len(topic.fact)],
        "amount": f"{5 + draws.below(4000) * 5:,}",
        "amount2": f"{1 + draws.below(400)}.{draws.below(20) * 5:02d}",
        "days": str(2 + draws.below(88)),
        "weeks": str(2 + draws.below(50)),
        "years": str(2 + draws.below(9)),
        "period": draws.choice(PERIODS),
        "date": f"{1 + draws.below(28)} {draws.choice(MONTHS)} {1998 + draws.below(28)}",
        "place": draws.choice(PLACES),
    }


def _passage(draws: Draws) -> str:
    """One passage about one topic."""
    topic = TOPICS[draws.below(len(TOPICS))]
    count = _sentences_wanted(draws)
    if count == 0:
        return draws.choice(ITEMS).format_map(_slots(topic, draws))
    sentences: list[str] = []
    used: set[str] = set()
    while len(sentences) < count:
        pattern = draws.choice(SENTENCES)
        if pattern in used:
            continue
        used.add(pattern)
        sentence = pattern.format_map(_slots(topic, draws))
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def embedded_passages(n: int = 1000, seed: int = PASSAGES_SEED) -> list[str]:
    """Make `n` different passages; the first k of them are the same for every n.

    Args:
        n: How many, at least 1.
        seed: Another seed gives another collection with the same look.

    Returns:
        English-looking guidance prose without line breaks, of about 8 to 250 word pieces each.

    Raises:
        UsageError: If `n` is not a positive number.
    """
    if n < 1:
        raise UsageError(f"The embedded collection cannot have {n} passages; ask for 1 or more.")
    draws = Draws(seed)
    seen: dict[str, None] = {}
    while len(seen) < n:
        # A list item can come up twice; a repeated passage would make k-means and the ivf look better than they are.
        seen.setdefault(_passage(draws))
    return list(seen)


QUERIES_SEED = 20250802
_FEWEST_WORDS = 4


def known_items(texts: Sequence[str], n: int, seed: int = QUERIES_SEED) -> list[tuple[int, str]]:
    """Make `n` queries, each of words of one passage, as somebody who has seen it might ask for it again.

    Passages are drawn without putting one back. A query is about two thirds of the words of one of its sentences, in
    their order and without the punctuation around them; no two queries are equal.

    Args:
        texts: The passages; those with fewer than four words are left out.
        n: How many, or as many as there are passages for.
        seed: Of the recipe; the result depends on nothing else.

    Returns:
        The place of the passage and the query.
    """
    draws = Draws(seed)
    left = [place for place, text in enumerate(texts) if len(_words(text)) >= _FEWEST_WORDS]
    found: dict[str, int] = {}
    while left and len(found) < n:
        place = left.pop(draws.below(len(left)))
        sentences = [s for s in texts[place].split(". ") if len(_words(s)) >= _FEWEST_WORDS] or [texts[place]]
        words = _words(draws.choice(sentences))
        kept = [word for word in words if draws.below(3)]
        query = " ".join(kept if len(kept) >= _FEWEST_WORDS else words)
        # What two passages have in common is a query for neither.
        found.setdefault(query, place)
    return [(place, query) for query, place in found.items()]


def _words(text: str) -> list[str]:
    return [word for part in text.split() if (word := part.strip(".,;:!?()\"'"))]


def scale_up(passages: Passages, n: int, seed: int) -> Passages:
    """Make `n` passages out of fewer real ones, with the same distribution of lengths.

    The real passages come first, untouched. Each further one starts with the first words of a real passage and goes on
    with words from passages near it, which are mostly of the same document, until it has as many words as that real
    passage; real passages take turns in a seeded order, so that lengths keep their shares. A made passage is never
    equal to another; where the neighbourhood is used up, it is taken wider, and at last the passage grows by a word.

    Args:
        passages: The real ones; at least one.
        n: How many to end up with, at least `len(passages)`.
        seed: Of the recipe; the result depends on nothing else.

    Raises:
        UsageError: If there are more than `n` already, or their words do not give so many distinct ones.
    """
    real = len(passages)
    if n < real:
        raise UsageError(
            f"{passages.name} has {count(real, 'passage')}, more than the {n:,} to scale it up to; use --limit."
        )
    draws = Draws(seed)
    words = [text.split() for text in passages.texts]
    seen = {*passages.texts, ""}
    ids, texts = list(passages.ids), list(passages.texts)
    taken = set(ids)
    order = list(range(real))
    for made in range(n - real):
        turn = made % real
        if turn == 0:
            for i in range(real - 1, 0, -1):  # Fisher-Yates
                j = draws.below(i + 1)
                order[i], order[j] = order[j], order[i]
        text = _splice(words, order[turn], draws, seen) if any(words) else None
        if text is None:
            limit = len(texts)
            raise UsageError(
                f"{passages.name} has too few different words for {n:,} distinct passages; ask for at most {limit:,}."
            )
        seen.add(text)
        texts.append(text)
        new_id = f"scaled-{seed}-{made}"
        while new_id in taken:
            new_id += "x"
        taken.add(new_id)
        ids.append(new_id)
    source: dict[str, str | int] = {
        **{f"from_{key}": value for key, value in passages.source.items()},
        "kind": "scaled", "rows": n, "real_rows": real, "seed": seed,
    }  # fmt: skip
    return Passages(ids, texts, f"scaled-from-{passages.name}", source)


_MOST_TRIES = 128 * 16


def _splice(words: list[list[str]], at: int, draws: Draws, seen: set[str]) -> str | None:
    """A new text of as many words as passage `at`, from it and its neighbours; None if there seems to be none."""
    length = max(1, len(words[at]))
    tries = 0
    while True:
        # 16 tries among the 4 nearest on each side, then wider and wider; then a longer text.
        window = min(4 << (tries // 16), len(words))
        head = words[at][: length // 3 + draws.below(length - length // 3)]
        near = (at + draws.below(2 * window + 1) - window) % len(words)
        start = draws.below(max(1, len(words[near])))
        tail = words[near][start:]
        while len(tail) < length - len(head):
            near = (near + 1) % len(words)
            tail = tail + words[near]
        text = " ".join(head + tail[: length - len(head)])
        if text not in seen:
            return text
        tries += 1
        if tries % 128 == 0:
            length += 1
        if tries == _MOST_TRIES:
            return None

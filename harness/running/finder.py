"""Items of a command line that name stored cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from harness.artifacts.kinds import KINDS
from harness.artifacts.source import ArtifactSource
from harness.errors import UsageError
from harness.running.choice import Choice, Chooser, describe, unused_words
from harness.store.cell import Listed
from harness.store.store import KEY_SHOWN, keys_of, tell_apart
from harness.store.stored import StoredCell


class Finder:
    """Stored cells that items of a command line name: a version or a label, or the start of a key.

    Args:
        chooser: says which cells a version means.
        items: all that will be asked for, so that versions come from one set of cells.
    """

    def __init__(self, chooser: Chooser, items: Sequence[str]) -> None:
        self._chooser = chooser
        self._items = [chooser.names.canonical(chooser.matrix, item) for item in items]

    @cached_property
    def choice(self) -> Choice:
        """The set that versions come from."""
        return self._chooser.choose(labels=self._items)

    @property
    def note(self) -> str:
        """What was not chosen; empty where no item was a version."""
        return self.choice.note if "choice" in self.__dict__ else ""

    def __call__(self, item: str) -> StoredCell:
        """The stored cell of an item.

        Raises:
            UsageError: there is none, more than one, or one that did not end well.
        """
        store, listed = self._chooser.store, self._chooser.listed
        item = self._chooser.names.canonical(self._chooser.matrix, item)
        label = self._is_label(item)
        # What the user calls an environment may look like the start of a key.
        found = [] if label else store.named(item)
        if label:
            found = [cell for cell in self.choice.cells if cell.label == item]
            if not found:
                raise UsageError(
                    f"No cell {item} is stored for {describe(self.choice.cells)}: `harness plan` shows what is."
                    + (f" {self.choice.note}" if self.choice.note else "")
                )
        if not found:
            # Swapped cells and probes: of the locks and settings of today, too.
            judged = [self._chooser.judge(one) for one in listed if self._is_called(one, item)]
            found = [cell for one in judged if not one.differs and (cell := store.get(one.cell.key))]
            if judged and not found:
                raise UsageError(
                    f"No cell {item} that `harness plan` could make is stored (there is {unused_words(judged)}); its "
                    f"key names it all the same: {', '.join(one.cell.key[:KEY_SHOWN] for one in judged)}."
                )
        if not found:
            raise UsageError(
                f"{item!r} is neither a ColBERT index directory nor a stored cell: give a directory, a version that "
                "`harness plan` shows as stored, or the start of a cell's key, four characters or more."
            )
        if len(found) > 1 and found[0].spec.index is not None:
            # A search of another version's index is meant to be compared with those of the set.
            found = [cell for cell in found if cell.group == self.choice.cells[0].group] or found
        if len(found) > 1:
            raise UsageError(f"{item!r} names {len(found)} cells; give the start of a key instead:", keys_of(found))
        if found[0].outcome != "ok":
            raise UsageError(f"The cell {item} ended as {found[0].outcome} and has no artifacts: {found[0].reason}")
        return StoredCell(store, found[0])

    def _is_label(self, item: str) -> bool:
        return item.partition("#")[0] in {one.version for one in self._chooser.listed if one.spec.job in KINDS}

    def _is_called(self, cell: Listed, item: str) -> bool:
        """Whether a cell has this label, or could have it: of equal indexes a search names only one."""
        label, _, version = item.partition(" on ")
        own = replace(cell.spec, index=None).label
        searches = bool(version) and cell.spec.index is not None
        return cell.label == item or (searches and own == label and self._chooser.searched(cell, version))

    def titled(self, sources: Sequence[ArtifactSource]) -> list[ArtifactSource]:
        """The same sources, the stored cells with names that tell them apart by what differs between them."""
        names = iter(tell_apart([source.cell for source in sources if isinstance(source, StoredCell)]))
        seen: Counter[str] = Counter()
        found: list[ArtifactSource] = []
        for one in sources:
            title = next(names) if isinstance(one, StoredCell) else ""
            seen[title] += 1
            # The same cell once more: neither a number nor a repeat of it.
            again = "" if seen[title] == 1 else " again" if seen[title] == 2 else f" again ({seen[title]})"
            found.append(replace(one, title=title + again) if isinstance(one, StoredCell) else one)
        return found

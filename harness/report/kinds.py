"""How artifacts are named where they are shown: the chunks of one kind together, `codes (16 chunks)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.artifacts.index_job import INDEX
from harness.artifacts.kind import JobKind, all_chunks


class Kinds:
    """The kinds of a set of artifacts of one kind of job. `apart` has every chunk be a kind of its own."""

    def __init__(self, names: Iterable[str], *, apart: bool = False, job: JobKind = INDEX) -> None:
        self._apart, self.job = apart, job
        self._sizes = {kind: len(members) for kind, members in self._sorted(dict.fromkeys(names)).items()}

    def _sorted(self, names: Iterable[str]) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for name in names:
            kinds.setdefault(name if self._apart else self.job.pattern(name)[0], []).append(name)
        return kinds

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """Names by kind, in the order of the first of each."""
        return list(self._sorted(names).values())

    def label(self, names: Sequence[str], *, numbered: bool = False) -> str:
        """What to call some artifacts of one kind: one by its name, more by their number.

        `numbered` says which of the chunks these are, where they are not all.
        """
        if len(names) == 1:
            return names[0]
        generic = self.job.pattern(names[0])[0]
        size = self._sizes.get(generic, len(names))
        some = self.chunks(names) if numbered else f"{len(names)} of {size} chunks"
        return f"{all_chunks(generic)} ({f'{size} chunks' if len(names) == size else some})"

    def labels(self, names: Iterable[str]) -> list[str]:
        """What to call artifacts of any kinds, in order."""
        return [self.label(group) for group in self.groups(names)]

    def chunks(self, names: Iterable[str]) -> str:
        """Which chunks these artifacts are of, as ranges: `chunk 7`, `chunks 0-3, 7`."""
        numbers = sorted(int(chunk) for _, chunk in map(self.job.pattern, names) if chunk is not None)
        runs: list[list[int]] = []
        for number in numbers:
            if runs and number <= runs[-1][1] + 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
        return f"chunk{'' if len(numbers) == 1 else 's'} {shown}"

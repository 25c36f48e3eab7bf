"""The tables of docs/reliability.md: `python -m tests.reliability [--cases] [WORD …]`; status 1 if a row says NO."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.words import count
from tests.reliability.bench import Row, try_fault, undisturbed
from tests.reliability.cases import CASES, try_case
from tests.reliability.faults import FAULTS

_KEY = r"\b[0-9a-f]{32}\b"


def in_table(row: Row) -> str:
    """A row of the table."""
    cells = (*row.told, row.seen, row.verdict)
    line = f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"
    # What differs from run to run and from machine to machine says nothing.
    for pattern, words in (
        (r"\d{4}-\d\d-\d\dT[\d:+]+", "DATE"),
        (r"process \d+ on \S+", "process N on HOST"),
        (r"-[\w]{8}-\w{8}/", "-…/"),
        (_KEY, "KEY"),
    ):
        line = re.sub(pattern, words, line)
    return line


def print_table(what: str, header: str, attempts: Sequence[Callable[[Path], Row]], folder: Path) -> int:
    """Print a row of each, and how many are as they should be; 1 if one is not, or there is none."""
    rows = []
    print(f"| {header} | as expected |\n|---|---|---|---|:-:|", flush=True)
    for number, attempt in enumerate(attempts):
        place = folder / str(number)
        row = attempt(place)
        rows.append(row)
        print(in_table(row).replace(str(place), "…"), flush=True)
        print(f"{row.seconds:6.1f} s  {row.verdict:8} {row.told[0]}", file=sys.stderr, flush=True)
    verdicts = Counter(row.verdict for row in rows)
    good, bad, skipped = (verdicts[word] for word in ("yes", "NO", "skipped"))
    print(f"\n{count(len(rows), what)}: {good} as expected, {bad} not, {skipped} skipped.")
    return int(bad > 0 or not rows)


def main(arguments: list[str] | None = None) -> int:
    """Inject all faults, or ask all cases; or those whose name contains one of the words given."""
    parser = argparse.ArgumentParser(description="Inject faults, or ask cases, and print what came of them.")
    parser.add_argument("--cases", action="store_true", help="Cases that were once answered falsely, not faults.")
    parser.add_argument("words", nargs="*", help="Only those whose name has one of these.")
    options = parser.parse_args(arguments)

    def wanted(name: str) -> bool:
        return not options.words or any(word in name for word in options.words)

    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        if options.cases:
            asked = [partial(try_case, case) for case in CASES if wanted(case.name)]
            return print_table("case", "case | asked | what is true | answer", asked, Path(folder))
        truth = undisturbed(Path(folder) / "whole")
        injected = [partial(try_fault, fault, truth=truth) for fault in FAULTS if wanted(fault.name)]
        return print_table("fault", "fault | injected how | expected | seen", injected, Path(folder))


if __name__ == "__main__":
    sys.exit(main())

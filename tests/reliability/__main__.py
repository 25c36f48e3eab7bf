"""`python -m tests.reliability [WORD …]`: the table of docs/reliability.md; status 1 if a row is not as expected."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from tests.reliability.bench import Row, try_fault, undisturbed
from tests.reliability.faults import FAULTS

_KEY = r"\b[0-9a-f]{32}\b"


def in_table(row: Row) -> str:
    """A row of the table."""
    cells = (row.fault.name, row.fault.injected, row.fault.expected, row.seen, row.verdict)
    line = f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"
    # What differs from run to run and from machine to machine says nothing.
    for pattern, words in ((r"process \d+ on \S+", "process N on HOST"), (r"-[\w]{8}-\w{8}/", "-…/"), (_KEY, "KEY")):
        line = re.sub(pattern, words, line)
    return line


def main(arguments: list[str] | None = None) -> int:
    """Inject all faults, or those whose name contains one of the words given."""
    parser = argparse.ArgumentParser(description="Inject faults and print what came of them.")
    parser.add_argument("words", nargs="*", help="Only faults whose name has one of these.")
    options = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if not options.words or any(word in f.name for word in options.words)]
    rows = []
    print("| fault | injected how | expected | seen | as expected |\n|---|---|---|---|:-:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        truth = undisturbed(Path(folder) / "whole")
        for number, fault in enumerate(chosen):
            row = try_fault(fault, Path(folder) / str(number), truth)
            rows.append(row)
            place = str(Path(folder) / str(number))
            print(in_table(row).replace(place, "…"), flush=True)
            print(f"{row.seconds:6.1f} s  {row.verdict:8} {fault.name}", file=sys.stderr, flush=True)
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("yes", "NO", "skipped")}
    print(f"\n{len(rows)} faults: {count['yes']} as expected, {count['NO']} not, {count['skipped']} skipped.")
    return int(count["NO"] > 0 or not rows)


if __name__ == "__main__":
    sys.exit(main())

"""What mkdocs does with a page of docs/ beside reading it: names of other pages become links to them.

The pages are written for whoever reads them in the repository, where `docs/sweeps.md` is a path; on the site it is a
link. A name of a page that does not exist stays as it is, and the test of documents finds it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_NAMED = re.compile(r"(?<![\[`])`docs/([\w-]+\.md)`")


def on_page_markdown(markdown: str, **_about: Any) -> str:  # noqa: ANN401 - mkdocs passes page, config and files
    """The page with links."""
    return _NAMED.sub(lambda found: _linked(found[1], found[0]), markdown)


def _linked(name: str, as_written: str) -> str:
    page = _HERE / name
    if not page.is_file():
        return as_written
    title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{title}]({name})"

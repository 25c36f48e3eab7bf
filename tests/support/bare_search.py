# mypy: ignore-errors
"""Runs in an environment under test: what a user would write to search with colbert-ai, and nothing of the harness.

`PYTHON bare_search.py CELL.json INDEX OUT.json` searches `INDEX`, a folder that colbert-ai wrote, with the queries and
settings of a search job's request, with colbert-ai's own kernels. OUT.json gets, for each query, (pid, rank, score).
"""

import json
import sys
from pathlib import Path

from colbert import Searcher
from colbert.infra import ColBERTConfig
from colbert.search.index_storage import IndexScorer


def main():
    """Search."""
    cell, index, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])
    queries = [json.loads(line)["text"] for line in Path(cell["queries"]).read_text().splitlines()]
    names = ("ncells", "centroid_score_threshold", "ndocs", "query_maxlen")
    config = ColBERTConfig(
        checkpoint=cell["checkpoint"], model_name=cell["checkpoint"], **{n: cell["settings"][n] for n in names}
    )
    searcher = Searcher(
        index.name, checkpoint=cell["checkpoint"], collection=["none"], config=config, index_root=str(index.parent)
    )
    assert type(IndexScorer.filter_pids).__name__ == "builtin_function_or_method", IndexScorer.filter_pids
    ranking = searcher.search_all(dict(enumerate(queries)), k=cell["settings"]["k"])
    out.write_text(json.dumps([ranking.data[number] for number in range(len(queries))]))


if __name__ == "__main__":
    main()

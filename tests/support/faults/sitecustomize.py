# mypy: ignore-errors
"""Test-only: plant one divergence in a worker's process.

A test puts this folder on the worker's path beside the worker; Python imports `sitecustomize` by itself. The variable
`HARNESS_TEST_FAULT` names one or more faults of `planted`, joined by `+`. They are planted when colbert-ai's indexer
has been imported, or the module `HARNESS_TEST_FAULT_AFTER`: after `torch`, where a fault needs no more, it is also in a
script that has nothing of colbert-ai; after a module of its searcher, they are those of `planted_search`, after one of
its training those of `planted_train`, and after one of its utilities those of `planted_ranks`. Nothing of this is part
of the package.
"""

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from pathlib import Path

_AFTER = os.environ.get("HARNESS_TEST_FAULT_AFTER", "colbert.indexing.collection_indexer")

_FAULTS = {
    "colbert.search": "planted_search", "colbert.training": "planted_train", "colbert.utils": "planted_ranks",
}  # fmt: skip
"""How the name of a module begins to the faults that are planted after it."""


class _Finder(importlib.abc.MetaPathFinder):
    """Calls `planted.plant` as soon as that module has been imported."""

    def find_spec(self, name, path, target=None):
        if name != _AFTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            sys.path.insert(0, str(Path(__file__).resolve().parent))
            planted = importlib.import_module(next((_FAULTS[of] for of in _FAULTS if name.startswith(of)), "planted"))
            for fault in os.environ["HARNESS_TEST_FAULT"].split("+"):
                planted.plant(fault, module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("HARNESS_TEST_FAULT"):
    sys.meta_path.insert(0, _Finder())

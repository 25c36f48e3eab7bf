"""A folder of tables with planted rows: two steps, of which the second changes something, and hostile text all over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.parquet import write_table

HOSTILE = """<script>window.hacked = 1</script>"'<img src=x onerror="window.hacked=2">{{ 7 * 7 }}$x^2$"""
"""Text that a collection, a passage or a label may hold."""

EQUAL_STEP, CHANGED_STEP, GAP_STEP = ("2.7.0", "2.7.1"), ("2.7.1", "2.8.0"), ("2.8.0", "2.9.0")
_KEYS: dict[str, Any] = {"key_a": "a" * 32, "key_b": "b" * 32}


def write_tables_of(folder: Path, *, device: str = "cpu GenuineTest 6/1 avx2+fma", hostile: str = "plain") -> Path:
    """Write every table of a page: one step that is equal, one that changes, and one that could not be compared.

    Args:
        folder: where; made.
        device: as in a table's metadata.
        hostile: a text that is put wherever text from elsewhere may stand.
    """
    about = {"device": device, "collection": f"{hostile} 1000 {'c' * 64}", "checkpoint": "tiny 0", "job": "index"}

    def table(name: str, *rows: Mapping[str, Any]) -> None:
        write_table(folder, name, rows, **about)

    a, b = ({**_KEYS, "a": step[0], "b": step[1]} for step in (EQUAL_STEP, CHANGED_STEP))
    counts = {"outcome_a": "ok", "outcome_b": "ok", "total": 2, "shapes_match": 2, "noisy": [], "gap": ""}
    table(
        "consecutive",
        a | counts | {"default_match": 2, "bnb_match": 2, "bit_equal": 2, "changed": False, "verdict": "unchanged"},
        b | counts | {"default_match": 1, "bnb_match": 2, "bit_equal": 1, "changed": True, "first_changed": "embs_0",
                      "verdict": "keep", "verdict_reason": f"keep the index: {hostile}"},
        {"a": GAP_STEP[0], "b": GAP_STEP[1], "outcome_a": "ok", "outcome_b": "crashed", "gap": f"crashed: {hostile}"},
    )  # fmt: skip
    artifacts = [("embs_0", False, "different"), ("centroids", True, "different"), (hostile, False, "different")]
    rows: list[dict[str, Any]] = []
    for kind, step in (("consecutive", a), ("consecutive", b), ("repeat", {"a": "2.8.0", "b": "2.8.0#1"})):
        for name, final, status in artifacts:
            equal = step is not b or status == "bit_equal"
            measured = {"n": 1000, "n_mismatch": 0 if equal else 40, "max_abs": 0.0 if equal else 0.25}
            octaves = {} if equal else {"abs_octaves": {"-4": 30, "-3": 10}, "ulp_octaves": {"0": 38, "20": 2}}
            rows.append(step | _KEYS | measured | {
                "kind": kind, "artifact": name, "final": final, "status": "bit_equal" if equal else status,
                "default": equal, "bnb": equal, "failing": [] if equal else ["default", "bnb"], "bit_equal": equal,
                "value_equal": equal, "noise": False, "max_ulp": 0 if equal else 1 << 20,
                "max_abs_ulp": 0.0 if equal else 4.0, "p999_abs": 0.0, "details": json.dumps(octaves),
            })  # fmt: skip
    table("comparisons", *rows)
    table("env_delta", b | {"package": "torch", "version_a": "2.7.1", "version_b": "2.8.0", "required_by": [hostile]})
    call = b | {"step": "encode", "artifacts": "embs_0", "kind": "operator", "number": 0, "ran_on": "cpu",
                "reason": "", "trusted": True, "n": 96, "n_mismatch": 3, "max_abs": 1e-7, "max_ulp": 2}  # fmt: skip
    table(
        "locations",
        call | {"name": "aten.norm.default", "module": f"model.{hostile}", "status": "origin"},
        call | {"name": "aten.norm.default", "module": "model", "status": "equal"},
        call | {"name": "aten.untrusted.default", "module": "model", "status": "origin", "trusted": False},
    )
    tried = b | {"packages": "torch", "versions": "{}", "outcome": "ok", "reason": "", "verdict": f"torch. {hostile}",
             "blamed": ["torch"]}  # fmt: skip
    table(
        "blame",
        tried | {"base": "B", "what": "torch", "result": "as A"},
        tried | {"base": "A", "what": "torch", "result": "as B"},
        tried | {"base": "B", "what": "triton", "result": "as B"},
        tried | {"base": "A", "what": "triton", "result": "as A"},
    )
    table("probes", *(
        b | _KEYS | {"probe": "precision", "case": f"mixed batch {size:02}", "tensor": "bert", "bit_equal": size != 2,
                     "status": "different" if size == 2 else "bit_equal", "noise": False}
        for size in (1, 2, 3)
    ))  # fmt: skip
    judged = {"value_a": 0.5, "value": 0.5, "diff": 0.0, "ci_low": -0.001, "ci_high": 0.001, "delta": 0.01,
              "equivalent": True, "queries": 50, "changed": 1}  # fmt: skip
    table("retrieval", *(
        b | _KEYS | {"deployment": deployment, "measure": measure} | found
        for deployment in ("b_on_b", "b_on_a", "a_on_b")
        for measure, found in (("identical", {"value": 0.9}), ("tie_only", {"value": 0.04}), ("nDCG@10", judged))
    ))  # fmt: skip
    cell = {"group": "g", "repeat": 0, "reason": "", "lock": "d" * 64, "settings": '{"nbits": 2}'}
    table("cells", *(
        cell | {"key": version * 6, "version": version, "outcome": "ok" if version != "2.9.0" else "crashed",
                "torch": f"{version}+{hostile}", "wall_seconds": 12.5}
        for version in ("2.7.0", "2.7.1", "2.8.0", "2.9.0")
    ))  # fmt: skip
    return folder

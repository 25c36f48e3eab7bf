"""Recorded calls, made again: which of them an environment makes otherwise, results and random numbers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.real_environments import ROOT

_PROGRAM = r"""
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from harness.worker.calls import each_again
from harness.worker.recording import Recorder, Shelf

source, target = Shelf(sys.argv[2] + "/source"), Shelf(sys.argv[2] + "/target")
recorder = Recorder(source, {})
with recorder.recording():
    given = torch.relu(torch.tensor([-1.0, 2.0]))
    torch.nn.functional.dropout(given, 0.5, training=True)
calls = json.loads(json.dumps([call for call in recorder.calls if call["kind"] == "function"]))

def drawing(function):
    def drawn(*args, **kwargs):
        torch.rand(1)
        return function(*args, **kwargs)
    return drawn

def finds(**functions):
    by_name = {"torch.relu": torch.relu, "torch.nn.functional.dropout": torch.nn.functional.dropout, **functions}
    found = each_again(calls, lambda call: by_name[call["name"]], source, target)
    return [[one["status"], "drawn" in one] for one in found]

names = [call["name"] for call in calls]
print(json.dumps({
    "names": names,
    "same": finds(),
    "relu draws": finds(**{"torch.relu": drawing(torch.relu)}),
    "relu is another": finds(**{"torch.relu": lambda one: one + 1}),
    "dropout draws more": finds(**{"torch.nn.functional.dropout": drawing(torch.nn.functional.dropout)}),
}))
"""


def test_a_call_that_draws_where_it_drew_nothing_is_not_the_same(torch_interpreter: Path, tmp_path: Path) -> None:
    """Though its result is: what is drawn after it would be other numbers."""
    done = subprocess.run(
        [str(torch_interpreter), "-c", _PROGRAM, str(ROOT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)

    assert said.pop("names") == ["torch.relu", "torch.nn.functional.dropout"]
    equal = ["equal", False]
    assert said == {
        "same": [equal, equal],
        "relu draws": [["different", True], equal],
        "relu is another": [["different", False], equal],
        "dropout draws more": [equal, ["different", True]],
    }

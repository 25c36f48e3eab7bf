"""What a job on a GPU has done with copies of its tensors: all of it, in order, and nobody waits but at the end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_environments import ROOT

_PROGRAM = r"""
import json, sys, threading, time
sys.path.insert(0, ROOT)
import torch
from harness.worker import behind

class Event:  # of a GPU that takes its time
    def __init__(self, blocking): pass
    def record(self): pass
    def synchronize(self): time.sleep(0.005)

torch.cuda.Event = Event
gpu, fails_at = GPU, FAILS_AT
taken, threads, told = [], set(), ""

def take(name, tensor):
    if len(taken) == fails_at:
        raise OSError(28, "No space left on device")
    taken.append([name, tensor.tolist()])
    threads.add(threading.current_thread() is threading.main_thread())

given, most = behind.Behind(take, gpu=gpu), 0
held = torch.zeros(2)
try:
    for number in range(40):
        for name in "ab":
            held.fill_(number)
            given.add(name, held)
            held.fill_(-1)
        given.send()
        most = max(most, number + 1 - len(taken) // 2)
    given.join()
except OSError as error:
    told = str(error)
print(json.dumps({"taken": taken, "in_main": sorted(threads), "most": most, "told": told}))
"""


def run(python: Path, *, gpu: bool, fails_at: int = -1) -> dict[str, Any]:
    text = _PROGRAM.replace("ROOT", repr(str(ROOT))).replace("GPU", str(gpu)).replace("FAILS_AT", str(fails_at))
    done = subprocess.run([python, "-c", text], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("gpu", [True, False])
def test_everything_is_taken_in_order_as_it_was_when_it_was_added(torch_interpreter, gpu):
    found = run(torch_interpreter, gpu=gpu)

    assert found["taken"] == [[name, [number, number]] for number in range(40) for name in "ab"]
    # A job on a CPU does it itself.
    assert found["in_main"] == [not gpu]


def test_what_waits_is_bounded(torch_interpreter):
    assert 0 < run(torch_interpreter, gpu=True)["most"] <= 5


@pytest.mark.parametrize("fails_at", [0, 31, 79])
def test_what_goes_wrong_in_the_thread_is_the_jobs_to_meet(torch_interpreter, fails_at):
    found = run(torch_interpreter, gpu=True, fails_at=fails_at)

    assert "No space left on device" in found["told"]
    assert len(found["taken"]) == fails_at

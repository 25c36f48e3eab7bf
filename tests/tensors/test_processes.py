"""Loops in processes: results as from threads, and nothing left behind, whatever happens to one of them.

Each runs in an interpreter of its own, for in one with other threads nothing is forked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="processes are forked on Linux with two cores"
)
BEGIN = "import os, time, threading\nfrom harness.tensors.threads import in_processes\n"


def interpreter(code: str) -> subprocess.Popen[str]:
    """Python with this code."""
    command = [sys.executable, "-W", "error", "-c", BEGIN + textwrap.dedent(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def said(code: str) -> str:
    """What it printed; it must end well and complain of nothing."""
    with interpreter(code) as process:
        try:
            out, problems = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:  # with what it forked, or nobody would ever end them
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, problems
    assert not problems
    return out.strip()


def test_results_come_in_order_from_two_processes_that_can_hold_anything() -> None:
    found = said("""
        secret = {"lock": threading.Lock()}
        def look(piece):
            time.sleep(0.02)
            with secret["lock"]:
                return piece * 2, os.getpid()
        found = list(in_processes(look, range(8), 2))
        print([one for one, _ in found] == list(range(0, 16, 2)), len({pid for _, pid in found} - {os.getpid()}))
    """)
    assert found == "True 2"


def test_tensors_are_digested_after_this_process_digested_some_in_the_threads_of_a_library() -> None:
    found = said("""
        import numpy as np
        from harness.tensors.tensor import Tensor
        tensor = Tensor.of(np.arange(1 << 23, dtype=np.uint8))
        own = tensor.digest()
        print(all(one == own for one in in_processes(lambda _: tensor.digest(), range(4), 2)))
    """)
    assert found == "True"


@pytest.mark.parametrize(
    ("before", "pieces", "most"),
    [("threading.Thread(target=time.sleep, args=(1,), daemon=True).start()", 4, 2), ("", 1, 2), ("", 4, 1)],
)
def test_nothing_is_forked_beside_other_threads_or_for_one_piece_or_on_one_core(
    before: str, pieces: int, most: int
) -> None:
    found = said(f"""
        {before or "pass"}
        print({{pid == os.getpid() for pid in in_processes(lambda _: os.getpid(), range({pieces}), {most})}})
    """)
    assert found == "{True}"


def test_the_first_exception_ends_it_as_itself() -> None:
    found = said("""
        from harness.errors import UnreadableTensor
        def look(piece):
            if piece == 2:
                raise UnreadableTensor("a.pt is cut off.")
            return piece
        got = []
        try:
            for one in in_processes(look, range(100), 2):
                got.append(one)
        except UnreadableTensor as error:
            print(got, error)
    """)
    assert found == "[0, 1] a.pt is cut off."


def test_whoever_stops_asking_waits_for_nobody_else() -> None:
    found = said("""
        start = time.monotonic()
        def look(piece):
            time.sleep(0.05)
            return piece
        print(next(in_processes(look, range(1000), 2)), time.monotonic() - start < 10)
    """)
    assert found == "0 True"


def test_a_process_that_the_system_ends_is_one_sentence() -> None:
    found = said("""
        from harness.errors import InfrastructureError
        try:
            list(in_processes(lambda piece: os.kill(os.getpid(), 9), range(4), 2))
        except InfrastructureError as error:
            print(error)
    """)
    assert "most likely for lack of memory" in found


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_forked_them(sent: signal.Signals, tmp_path: Path) -> None:
    with interpreter(f"""
        def look(piece):
            open(f"{tmp_path}/{{os.getpid()}}", "w").close()
            time.sleep(0.3)
        list(in_processes(look, range(1000), 2))
    """) as process:
        deadline = time.monotonic() + 30
        while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        _, problems = process.communicate(timeout=60)
        assert problems.count("Traceback") == (sent == signal.SIGINT)  # its own, and nobody else's
    assert process.returncode != 0
    while any(Path(f"/proc/{pid}/stat").exists() and _alive(pid) for pid in pids):
        assert time.monotonic() < deadline + 30
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Whether it is more than what its parent has not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

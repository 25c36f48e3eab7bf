"""Faults of a package index, with uv itself and an index on loopback: errors, silence, cuts, wrong files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from harness.environments.lockfile import lock_path
from harness.errors import HarnessError, UsageError
from tests.reliability.bench import HIT, VERSIONS, Bench, Fault, cells_of, expect, shown

PACKAGES = {("torch", version) for version in VERSIONS} | {("tiny", "1.0")}


def wheel(name: str, version: str, code: bytes = b"") -> bytes:
    """A wheel of one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}_stand_in.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    rows.append(f"{info}/RECORD,,")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in (*files.items(), (f"{info}/RECORD", ("\n".join(rows) + "\n").encode())):
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


WHEELS = {f"{name}-{version}-py3-none-any.whl": wheel(name, version) for name, version in sorted(PACKAGES)}


@dataclass
class Index:
    """A package index on loopback; use as a context manager.

    Attributes:
        fault: `error` (500), `stall`, `drop` (in the middle of the body), `missing` (404), `corrupt` or nothing.
        where: part of the path that it happens to.
        times: how often it still happens.
        requests: what was asked for.
    """

    fault: str = ""
    where: str = ""
    times: int = 10**9
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.released = threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"index": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        """What uv takes for the index."""
        return f"http://127.0.0.1:{self.server.server_port}/simple"

    def due(self, path: str) -> str:
        """The fault that happens to this request."""
        with self.lock:
            self.requests.append(path)
            if not self.fault or self.where not in path or self.times <= 0:
                return ""
            self.times -= 1
            return self.fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    index: Index

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self) -> None:
        fault = self.index.due(self.path)
        if fault == "stall":
            self.index.released.wait(300)
            self.close_connection = True
            return
        if fault == "error":
            self._send(500, b"broken", "text/plain")
            return
        page = re.fullmatch(r"/simple/([\w-]+)/", self.path)
        name = self.path.rsplit("/", 1)[1]
        if page:
            links = "".join(
                f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a>\n'
                for file, content in WHEELS.items()
                if file.startswith(f"{page[1]}-")
            )
            self._send(200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
        elif name in WHEELS and fault != "missing":
            content = WHEELS[name]
            if fault == "corrupt":
                content = wheel(name.split("-")[0], name.split("-")[1], b"print('somebody else was here')\n")
            self._send(200, content, "application/octet-stream", cut=len(content) // 2 if fault == "drop" else None)
        else:
            self._send(404, b"", "text/plain")

    def _send(self, status: int, content: bytes, kind: str, cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Environment variables of this process, which uv gets; its own cache and configuration are not used."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def with_index(bench: Bench, index: Index, patience: int = 60) -> contextlib.AbstractContextManager[None]:
    """Let environments come from an index on loopback, by locks with the right hashes; uv waits so many seconds."""
    bench.real_uv = True
    locks = bench.folder / "project" / "locks"
    if locks.is_symlink():
        locks.unlink()
        for version in VERSIONS:
            path = lock_path(locks, version, "cpu")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_pin(name, v) for name, v in (("tiny", "1.0"), ("torch", version))))
    return _variables(
        UV_DEFAULT_INDEX=index.url, UV_NO_CONFIG="1", UV_HTTP_TIMEOUT=str(patience), UV_HTTP_RETRIES="0",
        NO_PROXY="127.0.0.1", no_proxy="127.0.0.1",
    )  # fmt: skip


def _pin(name: str, version: str) -> str:
    digest = hashlib.sha256(WHEELS[f"{name}-{version}-py3-none-any.whl"]).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"


def _for_a_moment(fault: str, where: str, times: int) -> Callable[[Bench], str]:
    """A fault that passes: the sweep tries again by itself."""

    def run(bench: Bench) -> str:
        with Index(fault, where, times) as index, with_index(bench, index):
            cells = bench.sweep()
            expect([cell.outcome for cell in cells.values()] == ["ok", "ok"], str(list(map(shown, cells.values()))))
            tries = bench.said.getvalue().count("Try 2 of 3")
            expect(tries >= 1, f"nothing was tried again: {bench.said.getvalue()[-300:]}")
            bench.mend()
        return f"`ok` for both, at the second or third try ({len(index.requests)} requests)"

    return run


def _for_good(fault: str, words: str, *, retried: bool = True) -> Callable[[Bench], str]:
    """A fault of one version's wheel that stays; then it is mended."""

    def run(bench: Bench) -> str:
        patience = 1 if fault == "stall" else 60
        with Index(fault, f"torch-{HIT}-py3-none-any.whl") as index, with_index(bench, index, patience):
            started = time.monotonic()
            cells = bench.sweep()
            took = time.monotonic() - started
            expect(cells[VERSIONS[0]].outcome == "ok", shown(cells[VERSIONS[0]]))
            expect(cells[HIT].outcome == "install_failed", shown(cells[HIT]))
            expect(re.search(words, cells[HIT].reason), f"{words} is not in: {cells[HIT].reason}")
            expect(took < 300, f"it took {took:.0f} s")
            tries = bench.said.getvalue().count("of 3 in")
            expect((tries > 0) == retried, f"{tries} more tries")
            half = [
                p for p in (bench.home / "envs").iterdir() if p.is_dir() and not (p / "harness-complete.json").exists()
            ]
            expect(not half, f"left half-built: {half}")
            bench.right()
            index.fault = ""
            bench.mend()
            return re.sub(r"http://127\.0\.0\.1:\d+", "http://INDEX", shown(cells[HIT]))

    return run


def _nobody(bench: Bench) -> str:
    with Index() as index:
        pass
    try:
        with with_index(bench, index):
            bench.sweep()
    except UsageError as error:
        said = re.sub(r"http://127\.0\.0\.1:\d+", "http://INDEX", str(error))
    else:
        expect(False, "the sweep went on without packages")
    outcomes = {cell.outcome for cell in cells_of(bench).values()}
    expect(outcomes == {"install_failed"}, f"stored: {outcomes}")
    with Index() as index, with_index(bench, index):
        bench.mend()
    return f"exit code 2; “{said}”"


def _hub(kind: str, words: str) -> Callable[[Bench], str]:
    """A checkpoint from a Hub on loopback."""

    def run(bench: Bench) -> str:
        from harness.inputs import hub as client
        from harness.inputs.checkpoint import load_checkpoint_hub
        from tests.support.checkpoints import checkpoint_bytes
        from tests.support.hub_server import Fault as HubFault
        from tests.support.hub_server import HubServer

        before, client.BACKOFF_S = client.BACKOFF_S, 0.01
        try:
            with HubServer({"models/who/what": checkpoint_bytes()}, [HubFault(kind, "model.safetensors")]) as hub:
                try:
                    load_checkpoint_hub("who/what", cache=bench.folder / "cache", endpoint=hub.endpoint)
                except HarnessError as error:
                    said = str(error)
                else:
                    expect(False, "it was taken")
                expect(words in said, said)
                hub.faults.clear()
                load_checkpoint_hub("who/what", cache=bench.folder / "cache", endpoint=hub.endpoint)
        finally:
            client.BACKOFF_S = before
        return f"“{said}”; asked again, it comes"

    return run


_INSTALLS = "`install_failed` with the reason; the other version is `ok`"
FAULTS = (
    Fault(
        "package index answers 500 for a moment",
        "the first 2 requests for a wheel; real uv, index on loopback",
        "tried again by itself, `ok`",
        _for_a_moment("error", ".whl", 2),
        built=True,
        mends=False,
    ),
    Fault(
        "package index answers 500",
        "every request for one version's wheel",
        _INSTALLS,
        _for_good("error", "answers, but not as it should .*500"),
        built=True,
        mends=False,
    ),
    Fault(
        "package index stalls",
        "one version's wheel never comes; uv's time limit is 1 s",
        _INSTALLS,
        _for_good("stall", "cannot be reached"),
        built=True,
        mends=False,
    ),
    Fault(
        "package index drops the connection",
        "in the middle of one version's wheel",
        _INSTALLS,
        _for_good("drop", "answers, but not as it should"),
        built=True,
        mends=False,
    ),
    Fault(
        "package is gone from the index",
        "404 for one version's wheel",
        _INSTALLS,
        _for_good("missing", "404", retried=False),
        built=True,
        mends=False,
    ),
    Fault(
        "wheel with a wrong hash",
        "another wheel under the name of one version's",
        _INSTALLS + "; never installed",
        _for_good("corrupt", "does not have the hash that the lock names", retried=False),
        built=True,
        mends=False,
    ),
    Fault(
        "nobody listens at the package index",
        "its port is closed",
        "one sentence, exit code 2; outcomes are stored",
        _nobody,
        built=True,
        mends=False,
    ),
    Fault(
        "Hub answers 500 for a checkpoint",
        "every request for its weights; a Hub on loopback",
        "one sentence; nothing half-loaded",
        _hub("error", "status 500, 4 times in a row"),
        mends=False,
    ),
    Fault(
        "checkpoint arrives damaged",
        "one byte of its weights is changed",
        "one sentence; the file is deleted",
        _hub("corrupt", "wrong checksum and was deleted"),
        mends=False,
    ),
)

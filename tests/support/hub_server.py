"""A small Hugging Face Hub on loopback, with faults to order, for the real huggingface_hub client."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

LFS_FROM = 1000
"""Files of at least so many bytes are in LFS, as on the Hub, where it is 10 MB or a binary suffix."""


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Fault:
    """What goes wrong with a request whose path contains `where`, the first `times` times.

    `corrupt` changes a byte, `missing` denies a listed file, `drop` closes the connection in the middle of the body,
    `cut` closes it before the first byte of the body, `stall` goes silent, `error` answers 500.
    """

    kind: str
    where: str
    times: int = 10**9
    methods: tuple[str, ...] = ("GET",)


@dataclass
class HubServer:
    """Serves repositories until closed; use as a context manager.

    `repos` maps `models/owner/name` or `datasets/owner/name` to files. `requests` lists what was asked for.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.released = threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.httpd.daemon_threads = True
        self.httpd.block_on_close = False
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()

    @property
    def endpoint(self) -> str:
        """What a client takes for the Hub."""
        return f"http://127.0.0.1:{self.httpd.server_port}"

    def commit(self, repo: str) -> str:
        """The commit of a repository: a hash of its files, so it changes when they do."""
        listing = [(name, git_blob_id(content)) for name, content in sorted(self.repos[repo].items())]
        return hashlib.sha1(json.dumps(listing).encode()).hexdigest()

    def fault(self, method: str, path: str) -> str | None:
        """Note a request; the kind of the first fault that is due for it, or None."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.where in path and method in fault.methods and fault.times > 0:
                    fault.times -= 1
                    return fault.kind
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing; the tests read `requests`."""

    def _answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        fault = self.hub.fault(self.command, path)
        if fault == "stall":
            self.hub.released.wait(300)
            self.close_connection = True
        elif fault == "error":
            self._send(500, b"broken", {})
        elif info := re.fullmatch(r"api/((?:models|datasets)/[^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(info[1], info[2] or "main")
        elif file := re.fullmatch(r"(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file((file[1] or "models/") + file[2], file[3], file[4], fault)
        else:
            self._refuse("EntryNotFound")

    def _refuse(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _known(self, repo: str, revision: str) -> bool:
        if repo not in self.hub.repos:
            self._refuse("RepoNotFound")
        elif revision not in ("main", self.hub.commit(repo)):
            self._refuse("RevisionNotFound")
        else:
            return True
        return False

    def _info(self, repo: str, revision: str) -> None:
        if not self._known(repo, revision):
            return
        siblings: list[dict[str, object]] = []
        for name, content in self.hub.repos[repo].items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_blob_id(content)}
            if len(content) >= LFS_FROM:
                entry["lfs"] = {
                    "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130,
                }  # fmt: skip
            siblings.append(entry)
        body = {"_id": "1", "id": repo.split("/", 1)[1], "sha": self.hub.commit(repo), "siblings": siblings}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str, fault: str | None) -> None:
        if not self._known(repo, revision):
            return
        content = self.hub.repos[repo].get(name)
        headers = {"X-Repo-Commit": self.hub.commit(repo), "Accept-Ranges": "bytes"}
        if content is None or fault == "missing":
            self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            return
        if len(content) >= LFS_FROM:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
        headers["ETag"] = f'"{git_blob_id(content)}"'
        if fault == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:]
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self._send(status, content, headers, cut={"drop": len(content) // 2, "cut": 0}.get(fault or ""))

    def _send(self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

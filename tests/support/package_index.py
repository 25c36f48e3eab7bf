"""A small package index on loopback, with tiny wheels made on the spot, for the real uv."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote

JSON = "application/vnd.pypi.simple.v1+json"


def wheel(
    name: str,
    version: str,
    requires: Sequence[str] = (),
    files: dict[str, str] | None = None,
    tag: str = "py3-none-any",
) -> tuple[str, bytes]:
    """File name and bytes of a wheel with these files; by default a module of the package's name that says nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    written = files if files is not None else {f"{name.replace('-', '_')}.py": ""}
    written = {
        **written,
        f"{stem}.dist-info/METADATA": metadata,
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text.encode())}\n"
        for path, text in written.items()
    )
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for path, text in {**written, f"{stem}.dist-info/RECORD": f"{record}{stem}.dist-info/RECORD,,\n"}.items():
            # One time for all, so that the same wheel has the same hash.
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return f"{stem}-{tag}.whl", held.getvalue()


@dataclass
class Entry:
    """A file as the index tells of it."""

    content: bytes
    uploaded: str | None = "2020-01-01T00:00:00Z"
    yanked: str | bool = False


@dataclass
class PackageIndex:
    """Serves projects until closed; use as a context manager.

    `projects` maps a normal name to its files. `json` says whether the JSON form is offered, `hashes` whether hashes
    are told, `status` whether every answer is an error of that number; `password` is asked for if there is one.
    `requests` lists what was asked for.
    """

    projects: dict[str, dict[str, Entry]] = field(default_factory=dict)
    json: bool = True
    hashes: bool = True
    status: int = 200
    password: str = ""
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"index": self})
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.httpd.daemon_threads = True
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()

    @property
    def url(self) -> str:
        """What uv and the harness take for an index."""
        return f"http://127.0.0.1:{self.httpd.server_port}/simple"

    def add(
        self, name: str, version: str, *, uploaded: str | None = "2020-01-01T00:00:00Z", yanked: str | bool = False,
        requires: Sequence[str] = (), files: dict[str, str] | None = None, tag: str = "py3-none-any",
    ) -> None:  # fmt: skip
        """Put a wheel into it."""
        filename, content = wheel(name, version, requires, files, tag)
        self.projects.setdefault(name, {})[filename] = Entry(content, uploaded, yanked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    index: PackageIndex

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        index = self.index
        index.requests.append(self.path)
        parts = unquote(self.path).strip("/").split("/")
        wanted = base64.b64encode(index.password.encode()).decode()
        if index.status != 200:
            self._send(index.status, "text/plain", b"")
        elif index.password and self.headers.get("Authorization") != f"Basic {wanted}":
            self._send(401, "text/plain", b"")
        elif parts[0] == "simple" and len(parts) == 2 and parts[1] in index.projects:
            self._page(parts[1])
        elif parts[0] == "files" and len(parts) == 3 and parts[2] in index.projects.get(parts[1], {}):
            self._send(200, "application/octet-stream", index.projects[parts[1]][parts[2]].content)
        else:
            self._send(404, "text/plain", b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing; the tests read `requests`."""

    def _page(self, name: str) -> None:
        index = self.index
        files = index.projects[name]
        digests = {file: hashlib.sha256(one.content).hexdigest() if index.hashes else "" for file, one in files.items()}
        if index.json and JSON in self.headers.get("Accept", ""):
            found = [
                {
                    "filename": file, "url": f"/files/{name}/{file}", "yanked": one.yanked,
                    "hashes": {"sha256": digests[file]} if digests[file] else {},
                    **({"upload-time": one.uploaded} if one.uploaded else {}),
                }
                for file, one in files.items()
            ]  # fmt: skip
            body = {"meta": {"api-version": "1.1"}, "name": name, "files": found}
            self._send(200, JSON, json.dumps(body).encode())
            return
        links = "".join(
            f'<a href="/files/{name}/{file.replace("+", "%2B")}{f"#sha256={digests[file]}" if digests[file] else ""}"'
            f"{_yanked(one.yanked)}>{file}</a><br/>\n"
            for file, one in files.items()
        )
        self._send(200, "text/html", f"<!DOCTYPE html><html><body>\n{links}</body></html>".encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _yanked(yanked: str | bool) -> str:
    return f' data-yanked="{yanked}"' if isinstance(yanked, str) else " data-yanked" if yanked else ""

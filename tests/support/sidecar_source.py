"""A source shaped like Cassandra Sidecar: its routes, answers and faults, written from its facts.

Not the product and nothing of it: what a Sidecar does wrong is done wrong here. Names in the list
are not percent-encoded; an empty file is answered 416; a file that leaves while it is read is a
500, and so is a list from which a file leaves; in the old revision the total of Content-Range is
the length of the range and the cap answers 429.

In a test: `with SidecarSource({"data/0": path}) as source: ... source.port`. As a process of its
own: `python -m tests.support.sidecar_source data/0=/path commitlog/0=/other`, which prints its port
and serves until it is killed.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import xxhash

BASE = "/api/v1/live-migration"
_PHRASES = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    416: "Requested Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(slots=True, kw_only=True)
class Faults:
    """What a source does wrong, changeable while it runs."""

    old_revision: bool = False
    """429 over the cap, and the wrong total in Content-Range."""
    busy_answers: int = 0
    """So many requests for files are refused as over the cap, with Retry-After 1."""
    vanishing: set[str] = field(default_factory=set)
    """Files (`data/0/name`) that answer 500, as one that leaves between check and read."""
    cut_after_bytes: dict[str, int] = field(default_factory=dict)
    """Files whose next body ends with the connection after so many bytes."""
    rotten: dict[str, bytes] = field(default_factory=dict)
    """Files of which other bytes are sent than they have, of the same length."""
    short: dict[str, int] = field(default_factory=dict)
    """Files every body of which ends with the connection after so many bytes."""
    endless: set[str] = field(default_factory=set)
    """Files whose body has no length and no end."""
    is_list_cut: bool = False
    """Whether the list ends with the connection, before its end."""
    digest_s: float = 0.0
    """How long it takes to digest a file, before it answers anything."""
    cut_digests: int = 0
    """So many answers to digests end with the connection behind their headers."""
    digests: dict[str, str] = field(default_factory=dict)
    """What is said to be the digest of a file instead."""
    sizes: dict[str, int] = field(default_factory=dict)
    """What the list says of the sizes of files instead."""
    list_answer: bytes | None = None
    """What is sent for the list instead."""
    list_status: int = 200
    completed: bool = False
    token: str | None = None
    """Asked for as a bearer's; 401 without."""


class SidecarSource:
    """A server on loopback, in threads of the test's own process."""

    def __init__(self, directories: Mapping[str, Path], *, cap: int = 20) -> None:
        self.directories = dict(directories)
        self.faults = Faults()
        self.requests: list[tuple[str, str | None]] = []
        """Each request line's target, and its Range."""
        self.permits = threading.BoundedSemaphore(cap)
        source = self

        class Handler(_Handler):
            served = source

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def list_files(self) -> dict[str, object]:
        """Return the list: everything below the roots, links followed, names as they are."""
        files: list[dict[str, object]] = []
        for name, root in self.directories.items():
            for directory, directories, names in os.walk(root):
                for each in sorted(directories) + sorted(names):
                    path = os.path.join(directory, each)
                    found = os.stat(path)
                    is_directory = os.path.isdir(path)
                    inside = f"{name}/{os.path.relpath(path, root)}"
                    size_bytes = self.faults.sizes.get(inside, found.st_size)
                    files.append(
                        {
                            "fileUrl": f"{BASE}/files/{inside}",
                            "size": -1 if is_directory else size_bytes,
                            "fileType": "DIRECTORY" if is_directory else "FILE",
                            "lastModifiedTime": found.st_mtime_ns // 1_000_000,
                        }
                    )
        total = sum(int(str(f["size"])) for f in files if f["fileType"] == "FILE")
        return {"files": files, "totalSize": total}


class _Refusal(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: SidecarSource
    # Small answers of two writes wait for nobody's acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        source = self.served
        source.requests.append((self.path, self.headers.get("Range")))
        parts = urlsplit(self.path)
        try:
            self._check_token()
            if parts.path == f"{BASE}/status":
                state = "COMPLETED" if source.faults.completed else "NOT_COMPLETED"
                self._json(200, {"state": state, "endTime": None})
            elif parts.path == f"{BASE}/files":
                self._list()
            elif parts.path.startswith(f"{BASE}/files/"):
                self._file(parts.path.removeprefix(f"{BASE}/files/"), parse_qs(parts.query))
            else:
                self._json(404, {"status": "Not Found"})
        except _Refusal as refusal:
            body = {
                "status": _PHRASES.get(refusal.status, "Error"),
                "code": refusal.status,
                "message": refusal.message,
            }
            self._json(refusal.status, body, refusal.headers)

    def _check_token(self) -> None:
        token = self.served.faults.token
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            raise _Refusal(401, "Unauthorized")

    def _list(self) -> None:
        faults = self.served.faults
        if faults.is_list_cut:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"files":[{"fileUrl":"')
            self.close_connection = True
        elif faults.list_answer is not None or faults.list_status != 200:
            self._send(faults.list_status, faults.list_answer or b"{}", "application/json")
        else:
            try:
                self._json(200, self.served.list_files())
            except OSError as error:
                raise _Refusal(500, str(error)) from error

    def _file(self, rest: str, query: dict[str, list[str]]) -> None:
        faults = self.served.faults
        busy = faults.busy_answers > 0
        faults.busy_answers -= busy
        if busy or not self.served.permits.acquire(blocking=False):
            raise _Refusal(
                429 if faults.old_revision else 503,
                "Server is busy processing live migration file requests, please try again later",
                {"Retry-After": "1"},
            )
        try:
            kind, index, path = rest.split("/", 2)
            self._serve(f"{kind}/{index}", unquote(path), query.get("digestAlgorithm"))
        except ValueError as error:
            raise _Refusal(400, "Invalid directoryIndex") from error
        finally:
            if not busy:
                self.served.permits.release()

    def _serve(self, name: str, path: str, algorithm: list[str] | None) -> None:
        faults = self.served.faults
        root = self.served.directories.get(name)
        if root is None:
            raise _Refusal(400, f"Invalid directory type: {name}")
        where = root / path
        if ".." in Path(path).parts:
            raise _Refusal(400, f"Tried to access file using relative path: {path}")
        if f"{name}/{path}" in faults.vanishing:
            raise _Refusal(500, "java.nio.file.NoSuchFileException")
        if not where.exists():
            raise _Refusal(404, "File not found")
        if not where.resolve().is_relative_to(root.resolve()):
            raise _Refusal(403, "Forbidden")
        if where.is_dir():
            raise _Refusal(400, "Cannot transfer directory")
        data = faults.rotten.get(f"{name}/{path}") or where.read_bytes()
        if algorithm:
            time.sleep(faults.digest_s)
            if faults.cut_digests:
                faults.cut_digests -= 1
                self.send_response(200)
                self.send_header("Content-Length", "70")
                self.end_headers()
                self.close_connection = True
                return
            told = faults.digests.get(f"{name}/{path}") or digest(data, algorithm[0])
            self._json(200, {"digest": told, "digestAlgorithm": algorithm[0]})
            return
        self._bytes(f"{name}/{path}", data)

    def _bytes(self, name: str, data: bytes) -> None:
        faults = self.served.faults
        if not data:
            raise _Refusal(416, "The requested file is empty")
        start, end = parse_range(self.headers.get("Range"), len(data))
        part = data[start:end]
        whole = len(part) == len(data)
        if name in faults.endless:
            self._send_for_ever()
            return
        total = len(part) if faults.old_revision else len(data)
        self.send_response(200 if whole else 206)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if not whole:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        self.end_headers()
        cut = faults.cut_after_bytes.pop(name, faults.short.get(name))
        try:
            self.wfile.write(part if cut is None else part[:cut])
        except ConnectionError:
            cut = 0
        if cut is not None:
            self.close_connection = True

    def _send_for_ever(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def _json(
        self, status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> None:
        # Names outside UTF-8 come out as replacement characters, as Java has them.
        text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        self._send(status, text, "application/json", headers)

    def _send(
        self,
        status: int,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status, _PHRASES.get(status))
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True


def parse_range(text: str | None, size: int) -> tuple[int, int]:
    """Return [start, end) of a single range as Sidecar reads them; everything else is a 416."""
    if text is None:
        return 0, size
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", text)
    if found is None or not (found[1] or found[2]):
        raise _Refusal(416, "Invalid range")
    if not found[1]:
        length = min(int(found[2]), size)
        start, end = size - length, size
    else:
        start = int(found[1])
        end = min(int(found[2]) + 1, size) if found[2] else size
    if start >= end:
        raise _Refusal(416, "Invalid range")
    return start, end


def digest(data: bytes, algorithm: str) -> str:
    """Return a digest as Sidecar spells it."""
    match algorithm.lower():
        case "md5":
            return base64.b64encode(hashlib.md5(data).digest()).decode("ascii")
        case "xxhash32":
            return f"{xxhash.xxh32_intdigest(data):x}"
        case _:
            raise _Refusal(400, f"Unsupported digest algorithm {algorithm}")


def main(arguments: list[str]) -> None:
    """Serve the directories named `kind/index=path` until killed; the port is printed first."""
    pairs = [argument.split("=", 1) for argument in arguments]
    with SidecarSource({name: Path(path) for name, path in pairs}) as source:
        print(source.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])

"""A heads service and an object store as processes, and a plain HTTP client for both."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object in the body."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def json_list(self) -> list[dict[str, Any]]:
        """The JSON array of objects in the body."""
        value = json.loads(self.body)
        assert isinstance(value, list)
        return value


def ask(
    url: str,
    method: str,
    path: str = "/",
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    ca: Path | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """Send one request on a connection of its own; headers come back in lower case."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        held = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, held, response.read())
    finally:
        connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProcess:
    """tests/support/store_server.py, running."""

    url: str
    ca: Path | None = None

    def put(self, path: str, body: bytes = b"copy") -> str:
        """Put an object below /v1/; return its URL."""
        owner = {"X-Auth-Token": "owner"}
        answer = ask(self.url, "PUT", path, headers=owner, body=body, ca=self.ca)
        assert answer.status == 201
        return self.url + path

    def asked_count(self) -> int:
        """Return how many requests it has had."""
        return int(ask(self.url, "GET", "/count").body)


@contextmanager
def running_store(
    *arguments: str, certificate: tuple[Path, Path] | None = None, ca: Path | None = None
) -> Iterator[StoreProcess]:
    """Run the small store, with TLS if there is a certificate."""
    if certificate is not None:
        arguments = (*arguments, "--certificate", str(certificate[0]), "--key", str(certificate[1]))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.store_server", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        scheme = "http" if certificate is None else "https"
        port = int(process.stdout.readline())
        yield StoreProcess(url=f"{scheme}://127.0.0.1:{port}", ca=ca)
    finally:
        process.kill()
        process.communicate()


@dataclass(slots=True, kw_only=True)
class ServiceProcess:
    """`holdfast heads serve`, running; requests name an object and carry a token."""

    process: "subprocess.Popen[bytes]"
    url: str
    admin_url: str
    log: Path
    ca: Path | None = None
    stopped: list[int] = field(default_factory=list)

    def __call__(
        self,
        method: str,
        path: str,
        storage_url: str | None,
        *,
        token: str = "owner",
        body: bytes | None = None,
        timeout_s: float = 30.0,
        **headers: str,
    ) -> Answer:
        """Send one request; `if_match="x"` becomes the header If-Match."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if storage_url is not None:
            sent["X-Storage-Url"] = storage_url
        if token:
            sent["X-Auth-Token"] = token
        return ask(
            self.url,
            method,
            path,
            headers=sent,
            body=body,
            ca=self.ca,
            timeout_s=timeout_s,
        )

    def write(self, storage_url: str, value: bytes, path: str = "/w") -> Answer:
        """PUT and POST."""
        put = self("PUT", path, storage_url, body=value)
        assert put.status == 204, put
        return self("POST", path, storage_url)

    def value(self, storage_url: str) -> bytes:
        """GET, which must be answered 200."""
        answer = self("GET", "/", storage_url)
        assert answer.status == 200, answer
        return answer.body

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        self.process.wait(timeout=60)
        return self.process.returncode


@contextmanager
def running_service(directory: Path, *overrides: str) -> Iterator[ServiceProcess]:
    """Run the service with free ports, its register and its log in `directory`."""
    directory.mkdir(exist_ok=True)
    conf = directory / "ickpt.conf"
    conf.write_text(
        f"[ICKPT]\nIPAddr: 127.0.0.1\nPort: 0\nAdminPort: 0\nDataBasePath: {directory}/db\n"
    )
    service = start_service(directory, conf, *overrides)
    try:
        yield service
    finally:
        service.stop(signal.SIGKILL)


def start_service(directory: Path, conf: Path, *overrides: str) -> ServiceProcess:
    """Start it, and return once both of its ports take connections."""
    log = directory / "log"
    with open(log, "ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "heads", "serve", "--conf", conf, "-v", *overrides],
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    line = process.stdout.readline().decode().split()
    process.stdout.close()
    assert line[:2] == ["holdfast", "heads:"], (line, log.read_text())
    return ServiceProcess(process=process, url=line[2], admin_url=line[4], log=log)

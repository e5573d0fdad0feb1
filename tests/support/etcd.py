"""Real etcd members on loopback, started, stopped, killed and continued by their own pid.

A machine without etcd skips, and says so; `make deps` installs it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

START_TIMEOUT_S = 30.0


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class EtcdMember:
    """One etcd process and its directory; survives a kill and can be started again."""

    def __init__(self, name: str, directory: Path, client_url: str, options: list[str]) -> None:
        self.name = name
        self.client_url = client_url
        self._options = [*options, "--name", name, "--data-dir", str(directory / name)]
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        assert self._process is None
        environment = {**os.environ, "ETCD_UNSUPPORTED_ARCH": ""}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                ["etcd", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def kill(self) -> None:
        """End the process at once, as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Hold the process: it keeps its sockets and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped process run again."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def log(self) -> str:
        """Return the end of what it printed."""
        return self._log.read_text(errors="replace")[-4000:]


class EtcdCluster:
    """Members that know each other."""

    def __init__(
        self,
        directory: Path,
        size: int,
        extra: list[str] | None = None,
        *,
        scheme: str = "http",
    ) -> None:
        if shutil.which("etcd") is None:
            pytest.skip("etcd is not installed; 'make deps' installs it")
        directory.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * size)
        peers = [f"http://127.0.0.1:{port}" for port in ports[size:]]
        cluster = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
        self.members = []
        for number in range(size):
            client_url = f"{scheme}://127.0.0.1:{ports[number]}"
            options = [
                *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
                *("--listen-peer-urls", peers[number]),
                *("--initial-advertise-peer-urls", peers[number]),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                *("--log-level", "error", "--logger", "zap", *(extra or [])),
            ]
            self.members.append(EtcdMember(f"m{number}", directory, client_url, options))

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return the client URLs of all members."""
        return tuple(member.client_url for member in self.members)

    def start(self) -> None:
        """Start all members and wait until the cluster commits."""
        for member in self.members:
            member.start()
        self.wait()

    def wait(self) -> None:
        """Wait until some member commits; with TLS, until it is listened to."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if any(_commits(member.client_url) for member in self.members):
                return
            time.sleep(0.05)
        raise AssertionError("etcd did not come up:\n" + "\n".join(m.log() for m in self.members))

    def leader(self) -> EtcdMember | None:
        """Return the member that leads, if one does."""
        for member in self.members:
            status = _ask(member.client_url, "/v3/maintenance/status", {})
            if status and status.get("leader") == status["header"]["member_id"]:
                return member
        return None

    def kill(self) -> None:
        """End all members."""
        for member in self.members:
            member.kill()


def _commits(url: str) -> bool:
    if url.startswith("https:"):
        host, _, port = url.removeprefix("https://").partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0
    return _ask(url, "/v3/kv/put", {"key": "c3RhcnQ=", "value": "c3RhcnQ="}) is not None


def _ask(url: str, path: str, body: dict[str, object]) -> dict[str, Any] | None:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=1) as answer:
            decoded: dict[str, Any] = json.loads(answer.read())
            return decoded
    except (OSError, urllib.error.URLError):
        return None

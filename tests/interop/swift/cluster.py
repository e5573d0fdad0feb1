"""OpenStack Swift on loopback: one proxy with tempauth, N replicas, every server a process.

No daemon replicates, so that replicas that differ stay different for as long as a test wants.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support.heads import Answer, ask

ROOT = Path(__file__).resolve().parents[3]
KINDS = ("object", "container", "account")
START_S = 40.0

_SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = holdfast
swift_hash_path_suffix = tests
[storage-policy:0]
name = gold
default = yes
"""
_DEFAULT = """\
[DEFAULT]
swift_dir = {etc}
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
log_address = /dev/null
log_level = ERROR
"""
_SERVER = """\
devices = {devices}
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
recon_cache_path = {devices}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
[{kind}-replicator]
[{kind}-auditor]
"""
_PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_interval = 0.1
error_suppression_limit = 1000000
conn_timeout = 0.5
node_timeout = 5
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
paste.filter_factory = swift_cache:filter_factory
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
dns_compliant_bucket_names = no
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
"""


def find_swift() -> Path | None:
    """Return the directory of Swift's programs, or None."""
    own = ROOT / ".venv-swift" / "bin"
    if (own / "swift-proxy-server").exists():
        return own
    found = shutil.which("swift-proxy-server")
    return Path(found).parent if found else None


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Cluster:
    """The servers; whoever makes it stops it."""

    def __init__(self, programs: Path, directory: Path, replicas: int) -> None:
        self._programs = programs
        self._directory = directory
        self._etc = directory / "etc"
        self._etc.mkdir(parents=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            "SWIFT_CONF_FILE": str(self._etc / "swift.conf"),
            "PYTHONPATH": str(Path(__file__).parent / "filters"),
        }
        self._replicas = replicas
        self._ports = {
            f"{kind}-{number}": free_port() for number in range(replicas) for kind in KINDS
        }
        self._ports["proxy"] = free_port()
        self.url = f"http://127.0.0.1:{self._ports['proxy']}"
        self._write_files()

    def start(self) -> None:
        """Start every server and wait until the proxy lets a user in."""
        for name in self._ports:
            self.start_server(name)
        deadline = time.monotonic() + START_S
        while True:
            try:
                if ask(self.url, "GET", "/healthcheck", timeout_s=5).status == 200:
                    storage = self.login("tester", "testing")
                    probe = ask(self.url, "PUT", "/v1/AUTH_test/ready", headers=storage)
                    if probe.status in (201, 202):
                        return
            except (OSError, KeyError):
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"Swift did not start:\n{self._said()}")
            time.sleep(0.2)

    def login(self, user: str, password: str) -> dict[str, str]:
        """Return the header that carries a user's token."""
        answer = ask(
            self.url,
            "GET",
            "/auth/v1.0",
            headers={"X-Storage-User": f"test:{user}", "X-Storage-Pass": password},
        )
        return {"X-Auth-Token": answer.headers["x-auth-token"]}

    def ask(self, method: str, path: str, login: dict[str, str], **kept: bytes) -> Answer:
        """Send one request below the account."""
        return ask(self.url, method, f"/v1/AUTH_test{path}", headers=login, body=kept.get("body"))

    def start_server(self, name: str) -> None:
        """Start one server: `proxy`, `object-0`, ..."""
        kind = name.partition("-")[0]
        with open(self._directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._programs / f"swift-{kind}-server", self._etc / f"{name}.conf", "-v"],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_for(self, name: str) -> None:
        """Wait until a server takes connections."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._ports[name]), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, f"{name} did not start"
                time.sleep(0.1)

    def stop_server(self, name: str) -> None:
        """Kill one server, by its pid."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Kill every server."""
        for name in list(self._processes):
            self.stop_server(name)

    def _write_files(self) -> None:
        (self._etc / "swift.conf").write_text(_SWIFT_CONF)
        for kind in KINDS:
            builder = [self._programs / "swift-ring-builder", self._etc / f"{kind}.builder"]
            self._run([*builder, "create", "4", str(self._replicas), "0"])
            for number in range(self._replicas):
                port = self._ports[f"{kind}-{number}"]
                # A zone of its own: the three copies of an object are on three servers.
                device = f"r1z{number + 1}-127.0.0.1:{port}/d{number}"
                self._run([*builder, "add", device, "1"])
            self._run([*builder, "rebalance"])
        for number in range(self._replicas):
            devices = self._directory / f"node{number}"
            (devices / f"d{number}").mkdir(parents=True)
            for kind in KINDS:
                name = f"{kind}-{number}"
                head = _DEFAULT.format(etc=self._etc, port=self._ports[name])
                (self._etc / f"{name}.conf").write_text(
                    head + _SERVER.format(devices=devices, kind=kind)
                )
        head = _DEFAULT.format(etc=self._etc, port=self._ports["proxy"])
        (self._etc / "proxy.conf").write_text(head + _PROXY)

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, env=self._environment
        )
        # 1: a warning, such as that nothing had to be moved.
        assert done.returncode in (0, 1), done.stdout + done.stderr

    def _said(self) -> str:
        logs = sorted(self._directory.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-600:]}" for log in logs) or sys.version

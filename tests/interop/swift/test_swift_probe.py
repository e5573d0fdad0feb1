"""Goal: a store whose conditional writes are not atomic is refused as a home for heads.

Method: races at Swift's S3 API and at rclone's, both known to be unfit, at a small server that
checks first and writes later, and at the same server made atomic, which must pass.
"""

import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.interop.swift.cluster import Cluster, free_port
from tests.support.command import Completed, Holdfast
from tests.support.heads import running_store


def _probe(state: Path, url: str, access_key: str = "", secret_key: str = "") -> Completed:
    keys = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    holdfast = Holdfast(state=state, environment=keys if access_key else {})
    return holdfast("heads", "probe", url, "--json")


def _why(probed: Completed) -> str:
    assert probed.exit == 18, probed
    assert probed.json["code"] == "store-not-atomic"
    return str(probed.json["message"])


def test_store_that_checks_before_it_writes_is_refused(tmp_path: Path) -> None:
    with running_store("--race-s", "0.02") as store:
        why = _why(_probe(tmp_path, f"{store.url}/bucket/probe"))

    assert "several writers create one object in 20 of 20" in why
    assert "several writers replace one version in 20 of 20" in why


def test_store_that_is_atomic_passes(tmp_path: Path) -> None:
    with running_store() as store:
        probed = _probe(tmp_path, f"{store.url}/bucket/probe")

    assert (probed.exit, probed.json) == (0, {"fit": True, "rounds": 20})


def test_swift_is_refused(
    swift: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = swift.login("tester", "testing")
    assert swift.ask("PUT", "/races", owner).status < 300

    why = _why(_probe(tmp_path, f"{swift.url}/races/p", "test:tester", "testing"))

    with capsys.disabled():
        print(f"\nSwift: {why}")
    assert "create one object" in why


def test_rclone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rclone = shutil.which("rclone")
    if rclone is None:
        pytest.skip("no rclone; 'make deps' installs it")
    (tmp_path / "root" / "races").mkdir(parents=True)
    port = free_port()
    serving = subprocess.Popen(
        [
            *(rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", "key,secret-key", str(tmp_path / "root")),
        ],
        stderr=subprocess.PIPE,
    )
    try:
        if not _listens(port, serving):
            pytest.skip("this rclone does not serve s3")
        why = _why(_probe(tmp_path, f"http://127.0.0.1:{port}/races/p", "key", "secret-key"))
    finally:
        serving.kill()
        serving.communicate()

    with capsys.disabled():
        print(f"\nrclone: {why}")


def _listens(port: int, process: "subprocess.Popen[bytes]") -> bool:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            if process.poll() is not None:
                return False
            threading.Event().wait(0.1)
    return False

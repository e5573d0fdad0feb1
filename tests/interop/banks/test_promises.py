"""Goal: what a store does not keep is found out by racing it, and a bank does without.

Method: the probe at SeaweedFS, which keeps all; at Swift, whose conditional put is checked at the
proxy and written later; at rclone's S3, which ignores conditions, where it can be run.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.ports import StorePromises
from holdfast.server.checkpoints import open_store
from holdfast.stores.objects.racing import measure_promises
from holdfast.stores.system import SystemEntropy
from tests.contract.objects import KEYS
from tests.interop.banks.conftest import BankServer
from tests.interop.swift.cluster import free_port

pytestmark = pytest.mark.slow

ROUNDS = 20


def measured(url: str) -> StorePromises:
    store = open_store(url)
    try:
        return measure_promises(store, SystemEntropy(), rounds=ROUNDS)
    finally:
        store.close()


def test_seaweedfs_keeps_all_and_swift_lets_two_win(server: BankServer) -> None:
    promises = measured(server.bank())

    assert promises.reads_own_writes
    assert promises.creates_once is (server.kind == "s3")


@pytest.fixture
def rclone_url(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("rclone")
    if program is None:
        pytest.skip("no rclone; 'make deps' installs it")
    (tmp_path / "root" / "races").mkdir(parents=True)
    port = free_port()
    keys = f"{KEYS.access_key},{KEYS.secret_key}"
    serving = subprocess.Popen(
        [
            program,
            "serve",
            "s3",
            "--addr",
            f"127.0.0.1:{port}",
            "--auth-key",
            keys,
            tmp_path / "root",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while serving.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        if serving.poll() is not None:
            pytest.skip("this rclone does not serve s3; version 1.65 and later do")
        yield f"s3+http://127.0.0.1:{port}/races/bank"
    finally:
        serving.kill()
        serving.wait()


def test_rclone_ignores_conditions(rclone_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)

    assert not measured(rclone_url).creates_once

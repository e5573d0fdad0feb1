"""Goal: what was wrong with the original server is gone, shown where a caller would see it.

Method: the real service and a real HTTP store as processes; the numbers are those of the list in
docs/guide/heads.md. Bugs 4 and 18 have more tests in tests/unit/heads, 8 and 14 to 17 (of the
client) theirs in tests/unit/heads/test_quorum.py.
"""

import json
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.command import Holdfast
from tests.support.heads import (
    ServiceProcess,
    StoreProcess,
    running_service,
    running_store,
)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProcess]:
    with running_store() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    store: StoreProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """One for all that leave it as it was, but for heads of their own."""
    directory = tmp_path_factory.mktemp("heads")
    with running_service(directory, f"ICKPT.StoreEndpoints={store.url}/v1/") as running:
        yield running


@pytest.fixture
def own_service(store: StoreProcess, tmp_path: Path) -> Iterator[ServiceProcess]:
    """One for a test that ends it, or looks below `tmp_path / "heads"`."""
    with running_service(tmp_path / "heads", f"ICKPT.StoreEndpoints={store.url}/v1/") as running:
        yield running


def test_bug_1_post_with_nothing_pending_blocks_nobody(
    service: ServiceProcess, store: StoreProcess
) -> None:
    one, other = store.put("/v1/a/bug-1/one"), store.put("/v1/a/bug-1/other")

    assert service("POST", "/x1", one).status == 410
    assert service.write(one, b"v").status == 200
    assert service.write(other, b"v").status == 200


def test_bug_2_delete_of_a_key_never_put_blocks_nobody(
    service: ServiceProcess, store: StoreProcess
) -> None:
    one = store.put("/v1/a/bug-2/one")

    assert service("DELETE", "/x2", one).status == 204
    assert service("POST", "/x2", one).status == 200
    assert service.write(one, b"v").status == 200
    assert service.value(one) == b"v"


def test_bug_3_register_that_cannot_write_ends_the_service_and_a_restart_recovers(
    own_service: ServiceProcess, store: StoreProcess, tmp_path: Path
) -> None:
    one = store.put("/v1/a/c/one")
    for number in range(10):
        own_service.write(one, b"%d" % number * 4096)
    own_service.write(one, b"v1")
    if shutil.which("prlimit") is None:
        pytest.skip("no prlimit")
    # From here on the register's files cannot grow, though the log can: a disk that fails.
    subprocess.run(["prlimit", f"--pid={own_service.process.pid}", "--fsize=30000"], check=True)

    put = own_service("PUT", "/x", one, body=b"v2")
    post = own_service("POST", "/x", one)

    assert (put.status, post.status) in [(204, 500), (204, 504)]
    assert own_service.process.wait(timeout=30) == 21
    assert "closed to all but a restart" in own_service.log.read_text()
    with running_service(tmp_path / "heads", f"ICKPT.StoreEndpoints={store.url}/v1/") as again:
        assert again.value(one) == b"v1"
        assert again.write(one, b"v3").status == 200


def test_bug_4_long_and_strange_names_have_heads(
    service: ServiceProcess, store: StoreProcess
) -> None:
    url = store.put("/v1/a/" + "n" * 900 + "/%3F%E2%82%AC")

    assert service.write(url, b"v").status == 200
    assert service.value(url) == b"v"


def test_bug_5_database_directory_can_be_searched_by_its_owner_only(
    own_service: ServiceProcess, tmp_path: Path
) -> None:
    mode = stat.S_IMODE((tmp_path / "heads" / "db").stat().st_mode)

    assert mode == 0o700


def test_bug_6_acknowledged_commit_is_flushed_and_survives_a_kill(
    own_service: ServiceProcess, store: StoreProcess, tmp_path: Path
) -> None:
    one = store.put("/v1/a/c/one")
    own_service.write(one, b"v1")
    own_service.stop(signal.SIGKILL)

    with running_service(tmp_path / "heads", f"ICKPT.StoreEndpoints={store.url}/v1/") as again:
        assert again.value(one) == b"v1"
        told = again("GET", "/", one, x_transaction_id="/w")
        assert told.json["status"] == "done"


def test_bug_7_deleted_head_never_comes_back_from_the_store(
    service: ServiceProcess, store: StoreProcess
) -> None:
    one = store.put("/v1/a/bug-7/one", b"older")
    service.write(one, b"newer")
    service("DELETE", "/d7", one)
    service("POST", "/d7", one)

    assert service("GET", "/", one).status == 404


def test_bug_9_right_to_read_does_not_move_a_head(
    service: ServiceProcess, store: StoreProcess
) -> None:
    one = store.put("/v1/a/bug-9/one")
    service.write(one, b"v1")
    service("PUT", "/p9", one, body=b"v2")

    refused = [
        service(method, "/p9", one, token="reader", body=b"mine").status
        for method in ("PUT", "DELETE", "POST")
    ]

    assert refused == [403] * 3
    assert service("GET", "/", one, token="reader").body == b"v1"
    assert service("PUT", "/p9", one, token="").status == 401


def test_bug_10_service_fetches_nothing_for_others_and_shows_no_foreign_body(
    service: ServiceProcess, store: StoreProcess
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.3)
        port = canary.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "169.254.169.254"):
            answer = service("GET", "/", f"http://{host}:{port}/v1/a/bug-10/o")
            assert (answer.status, answer.json["code"]) == (403, "store-not-allowed")
        with pytest.raises(TimeoutError):
            canary.accept()
    secret = store.put("/v1/a/bug-10/secret", b"body of the store")
    for method in ("PUT", "DELETE", "POST"):
        assert b"body of the store" not in service(method, "/x10", secret).body


def test_bug_11_port_in_use_is_a_start_error(service: ServiceProcess, tmp_path: Path) -> None:
    port = service.url.rpartition(":")[2]
    conf = tmp_path / "ickpt.conf"
    conf.write_text(f"[ICKPT]\nPort: {port}\nAdminPort: 0\nDataBasePath: {tmp_path}/other\n")

    started = Holdfast(state=tmp_path / "state")("heads", "serve", "--conf", conf)

    assert started.exit == 11
    assert f"port {port}" in started.stderr
    assert started.stdout == ""


def test_bug_12_store_behind_a_private_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with running_store(certificate=authority.issue("store"), ca=authority.path) as store:
        url = store.put("/v1/a/c/one")
        endpoints = f"ICKPT.StoreEndpoints={store.url}/v1/"
        with running_service(tmp_path / "untrusting", endpoints) as service:
            distrusted = service("GET", "/", url)
        with running_service(
            tmp_path / "trusting", endpoints, f"ICKPT.StoreCACertFilePath={authority.path}"
        ) as service:
            trusted = service("GET", "/", url)

    assert (distrusted.status, trusted.status) == (502, 200)


def _checkpoint(super_block: int, nonce: int) -> bytes:
    return b"%016X %016X %016X %016X" % (1, super_block, 4096, nonce)


def test_bug_13_old_writer_cannot_replace_a_newer_head(store: StoreProcess, tmp_path: Path) -> None:
    one = store.put("/v1/a/c/one")
    with running_service(
        tmp_path / "heads", f"ICKPT.StoreEndpoints={store.url}/v1/", "ICKPT.Monotonic=true"
    ) as service:
        first = service.write(one, _checkpoint(5, 100), "/1")
        service.write(one, _checkpoint(7, 200), "/2")

        behind = service.write(one, _checkpoint(5, 100), "/3")
        fork = service.write(one, _checkpoint(6, 300), "/4")
        conditional = service(
            "PUT", "/5", one, body=_checkpoint(9, 300), if_match=first.headers["etag"]
        )

        assert (behind.status, behind.json["code"]) == (409, "head-behind")
        assert (fork.status, fork.json["code"]) == (409, "head-forked")
        assert fork.json["context"]["current"] == _checkpoint(7, 200).decode()
        assert fork.json["context"]["proposed"] == _checkpoint(6, 300).decode()
        assert conditional.status == 412
        assert service("PUT", "/6", one, body=b"no checkpoint").status == 400
        assert service.value(one) == _checkpoint(7, 200)


def test_command_line_uses_service_and_file(
    own_service: ServiceProcess, store: StoreProcess, tmp_path: Path
) -> None:
    one = store.put("/v1/a/c/one")
    holdfast = Holdfast(state=tmp_path / "state", environment={"HOLDFAST_TOKEN": "owner"})
    at = ("--server", own_service.url)

    copy = holdfast("heads", "get", one, *at, "--json")
    put = holdfast("heads", "put", one, "v1", *at, "--json")
    got = holdfast("heads", "get", one, *at)
    got_json = holdfast("heads", "get", one, *at, "--json")
    moved = holdfast("heads", "put", one, "v2", "--if-revision", "99", *at)
    deleted = holdfast("heads", "delete", one, *at)
    gone = holdfast("heads", "get", one, *at)
    told = holdfast("heads", "status", one, "/none", *at, "--json")
    past = holdfast("heads", "history", one, *at)
    own_service.stop()
    silent = holdfast("heads", "get", one, *at)
    (file,) = (tmp_path / "heads" / "db").glob("*.sqlite")
    lines = holdfast("heads", "history", f"ickpt/{one}", "--register", file, "--json")

    assert copy.json == {"value": "copy", "revision": 0, "source": "store"}
    assert got_json.json == {"value": "v1", "source": "head"} | put.json
    assert got.stderr == ""
    assert (put.exit, got.stdout, moved.exit) == (0, "v1", 11)
    assert (deleted.exit, gone.exit, told.json["status"]) == (0, 10, "unknown")
    assert "(deleted)" in past.stdout
    assert silent.exit == 14
    values = [json.loads(line)["value"] for line in lines.stdout.splitlines()]
    assert values == [None, "v1"]

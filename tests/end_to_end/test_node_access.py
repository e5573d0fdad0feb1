"""Goal: who is not known gets nothing, on either port; what is wrong is said before it serves.

Method: two real nodes with TLS, tokens and client certificates on loopback; and nodes that must
not start, run to their end.
"""

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.command import Completed, Holdfast
from tests.support.heads import ask
from tests.support.node_process import (
    COPIES,
    SOURCE,
    STATUS,
    TARGET,
    NodePair,
    NodeProcess,
    running_pair,
)
from tests.support.trees import read_tree

NODE = "/api/v1/node"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePair]:
    """Two nodes with TLS; the target shows the source its certificate, and has a token of ours."""
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory / "certificates")
    certificate, key = authority.issue("node")
    tokens = directory / "tokens"
    lines = (("operator", "copy,verify,read", "0perator"), ("viewer", "read", "v1ewer"))
    tokens.write_text(
        "".join(f"{n} {p} sha256:{hashlib.sha256(t.encode()).hexdigest()}\n" for n, p, t in lines)
    )
    tokens.chmod(0o600)
    tls = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\nclient_ca = "{authority.path}"\n'
    access = f'[access]\ntoken_file = "{tokens}"\n[access.certificates]\nlocalhost = ["copy"]\n'
    with running_pair(
        directory,
        more=tls + access,
        peer=f'tls = true\nca = "{authority.path}"\ncertificate = "{certificate}"\nkey = "{key}"\n',
        ca=authority.path,
        token="0perator",
    ) as pair:
        (pair.source.data / "file").write_bytes(os.urandom(100_000))
        yield pair


def test_nodes_with_tls_and_certificates_migrate(secured: NodePair) -> None:
    target = secured.target
    assert target.wait_until_ended(target.start_copy())["state"] == "completed"
    assert read_tree(target.data) == read_tree(secured.source.data)
    assert target.command("verify").exit == 0


def test_tokens_give_their_permissions_and_no_more(secured: NodePair) -> None:
    target = secured.target
    assert target.ask("GET", NODE, Authorization="Bearer v1ewer").json["permissions"] == ["read"]
    assert target.ask("POST", COPIES, {}, Authorization="Bearer v1ewer").status == 403
    assert target.ask("GET", STATUS, Authorization="Bearer wrong").status == 401
    assert ask(target.url, "GET", STATUS, ca=target.ca).status == 401
    assert ask(target.url, "GET", "/healthz", ca=target.ca).status == 200
    log = (target.directory / "log").read_text()
    assert not {"0perator", "v1ewer", "wrong"} & set(log.split('"'))


@pytest.mark.slow
def test_the_stream_lets_nobody_in_whom_http_would_not(secured: NodePair, tmp_path: Path) -> None:
    source = secured.source
    tree = f"{source.name}:{source.stream_port}/main/data/0"
    assert source.ca is not None

    def copy(token: str) -> Completed:
        holdfast = Holdfast(state=tmp_path / "state", environment={"HOLDFAST_TOKEN": token})
        return holdfast("copy", tree, tmp_path / "out", "--ca", str(source.ca), "--json")

    for token in ("", "wrong", "v1ewer"):
        refused = copy(token)
        assert refused.exit == 17, refused
    done = copy("0perator")
    assert done.exit == 0, done
    assert read_tree(tmp_path / "out") == read_tree(source.data)


def test_hang_up_reads_certificates_and_tokens_anew(secured: NodePair) -> None:
    target = secured.target
    tokens = target.directory.parent / "tokens"
    before = tokens.read_text()
    digest = hashlib.sha256(b"fresh").hexdigest()
    try:
        tokens.write_text(f"{before}new read sha256:{digest}\n")
        assert target.process is not None
        target.process.send_signal(signal.SIGHUP)
        answer = target.ask("GET", NODE, Authorization="Bearer fresh")
        for _ in range(100):
            if answer.status == 200:
                break
            answer = target.ask("GET", NODE, Authorization="Bearer fresh")
        assert answer.status == 200
    finally:
        tokens.write_text(before)


def run_node(directory: Path, settings: str, *options: str) -> Completed:
    directory.mkdir(exist_ok=True)
    config = directory / "node.toml"
    config.write_text(settings)
    return Holdfast(state=directory / "cli")("node", "--config", config, *options, timeout_s=30)


def plain(directory: Path, more: str = "", port: int = 0) -> str:
    return (
        f'[node]\nnames = ["{TARGET}"]\nstate = "{directory}/state"\n'
        f"[listen]\nport = {port}\nstream_port = 0\n{more}"
    )


@pytest.mark.parametrize(
    ("more", "exit_code", "words"),
    [
        ('address = "0.0.0.0"', 2, "nobody would be asked who they are"),
        ('[tls]\ncertificate = "/none"\nkey = "/none"', 2, "certificate files do not load"),
        ('[access]\ntoken_file = "/none"', 2, "token file /none"),
        ("[lissen]", 2, "setting lissen"),
    ],
)
def test_settings_that_would_not_do_are_refused_at_the_start(
    tmp_path: Path, more: str, exit_code: int, words: str
) -> None:
    ended = run_node(tmp_path, plain(tmp_path, more), "--check")
    assert (ended.exit, ended.stdout) == (exit_code, "")
    assert words in ended.stderr


def test_settings_that_do_are_said_to(tmp_path: Path) -> None:
    ended = run_node(tmp_path, plain(tmp_path), "--check")
    assert (ended.exit, ended.stderr) == (0, "")
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_port_in_use_and_a_state_in_use_are_refused(secured: NodePair, tmp_path: Path) -> None:
    """Invariant 1 of node.py."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_node(tmp_path, plain(tmp_path, port=taken.getsockname()[1]))
    assert (ended.exit, "cannot listen" in ended.stderr) == (11, True), ended
    ended = run_node(tmp_path, plain(secured.target.directory))
    assert (ended.exit, "another node runs" in ended.stderr) == (11, True), ended


@pytest.mark.slow
def test_a_copy_under_a_running_database_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        target = NodeProcess(
            name=TARGET,
            directory=tmp_path,
            more=f'database_addresses = ["127.0.0.1:{port}"]\n[peers."{SOURCE}"]\nport = 1\n',
        )
        target.start()
        try:
            request = {"maxIterations": 1, "successThreshold": 1.0, "maxConcurrency": 1}
            answer = target.ask("POST", COPIES, request)
            assert (answer.status, "database" in answer.json["message"]) == (400, True)
            database.close()
            assert target.ask("POST", COPIES, request).status == 202
        finally:
            target.stop(signal.SIGKILL)

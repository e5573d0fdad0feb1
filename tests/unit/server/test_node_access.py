"""Goal: a caller gets what the files say and nothing else, and no file tells a secret.

Method: token files in tmp_path, asked through Access as requests and the stream ask it.
"""

import hashlib
from pathlib import Path

import pytest
from starlette.requests import Request

from holdfast.errors import DeniedError, InvalidRequestError
from holdfast.model.access import ALL_PERMISSIONS, Permission
from holdfast.server.node_access import Access, read_secret, read_tokens
from holdfast.server.node_settings import NodeSettings, parse_node_settings
from holdfast.server.serving import PEER_NAMES

COPY, VERIFY, READ = Permission.COPY, Permission.VERIFY, Permission.READ


def line(name: str, permissions: str, token: str) -> str:
    return f"{name} {permissions} sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def settings_of(token_file: Path | None, certificates: str = "") -> NodeSettings:
    access = f'[access]\ntoken_file = "{token_file}"\n' if token_file else ""
    tls = '[tls]\ncertificate = "/c"\nkey = "/k"\nclient_ca = "/ca"\n' if certificates else ""
    table = f"[access.certificates]\n{certificates}\n" if certificates else ""
    return parse_node_settings(f'[node]\nnames = ["a"]\nstate = "/s"\n{access}{tls}{table}')


def request(authorization: str | None, names: tuple[str, ...] = ()) -> Request:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return Request({"type": "http", "headers": headers, "state": {PEER_NAMES: names}})


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    lines = line("ops", "copy,verify,read", "0ps"), line("eye", "read", "eye")
    return write(tmp_path / "tokens", "# who may what\n\n" + "".join(lines))


def test_a_token_gives_what_its_line_says(tokens: Path) -> None:
    access = Access(settings_of(tokens))
    assert access.of_request(request("Bearer 0ps")) == ALL_PERMISSIONS
    assert access.of_request(request("bearer eye")) == {READ}
    assert access.authorize(b"eye", ()) == {READ}


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "no-credentials"),
        ("Bearer", "no-credentials"),
        ("Basic 0ps", "no-credentials"),
        ("Bearer " + "x" * 5000, "no-credentials"),
        ("Bearer wrong", "bad-credentials"),
        ("Bearer 0ps x", "bad-credentials"),
        ("Bearer 0p", "bad-credentials"),
    ],
)
def test_who_is_not_known_is_refused(tokens: Path, authorization: str | None, code: str) -> None:
    """Invariant 2 of node_access.py."""
    access = Access(settings_of(tokens))
    if authorization == "Bearer 0ps ":
        authorization = "Bearer 0ps x"
    with pytest.raises(DeniedError) as caught:
        access.of_request(request(authorization))
    assert caught.value.code == code
    assert "0ps" not in caught.value.message


def test_a_certificate_gives_what_its_name_may_and_a_token_adds_to_it(tokens: Path) -> None:
    access = Access(settings_of(tokens, 'db1 = ["copy"]\ndb2 = ["verify"]'))
    assert access.of_request(request(None, ("x", "db1"))) == {COPY}
    assert access.of_request(request(None, ("db1", "db2"))) == {COPY, VERIFY}
    assert access.of_request(request("Bearer eye", ("db1",))) == {COPY, READ}
    with pytest.raises(DeniedError) as caught:
        access.of_request(request(None, ("stranger",)))
    assert caught.value.code == "bad-credentials"


def test_without_any_settings_everyone_on_this_machine_may_do_all() -> None:
    assert Access(settings_of(None)).of_request(request(None)) == ALL_PERMISSIONS


def test_tokens_are_read_anew_and_a_broken_file_changes_nothing(tokens: Path) -> None:
    access = Access(settings_of(tokens))
    tokens.write_text("nonsense")
    with pytest.raises(InvalidRequestError):
        access.reload()
    assert access.authorize(b"eye", ()) == {READ}
    tokens.write_text(line("eye", "verify", "eye"))
    access.reload()
    assert access.authorize(b"eye", ()) == {VERIFY}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "ops copy secret\n",
        "ops copy sha256:abc\n",
        line("ops", "own", "x"),
        line("ops", "copy,", "x"),
        line("ops", "copy", "x").upper(),
    ],
)
def test_a_token_file_that_is_wrong_is_refused_without_its_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_tokens(write(tmp_path / "tokens", text))
    assert caught.value.code == "bad-token-file"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(("mode", "is_good"), [(0o644, True), (0o664, False), (0o602, False)])
def test_a_token_file_others_may_change_is_refused(
    tmp_path: Path, mode: int, is_good: bool
) -> None:
    """Invariant 3 of node_access.py."""
    path = write(tmp_path / "tokens", line("ops", "copy", "x"), mode)
    if is_good:
        assert len(read_tokens(path)) == 1
        return
    with pytest.raises(InvalidRequestError):
        read_tokens(path)


def test_a_secret_is_the_first_line_of_a_file_of_its_owner(tmp_path: Path) -> None:
    """Invariant 3 of node_access.py."""
    path = write(tmp_path / "token", "s3cret\nmore\n")
    assert read_secret(path) == "s3cret"
    path.chmod(0o640)
    with pytest.raises(InvalidRequestError) as caught:
        read_secret(path)
    assert "s3cret" not in caught.value.message
    with pytest.raises(InvalidRequestError):
        read_secret(write(tmp_path / "empty", "\n"))
    with pytest.raises(InvalidRequestError):
        read_secret(tmp_path / "missing")

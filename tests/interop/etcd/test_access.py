"""Goal: etcd lets in who has the certificate or the password, and refuses in clear words.

Method: real members with client certificates demanded, and with users switched on through etcdctl.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import DeniedError, InvalidRequestError, UnavailableError
from holdfast.model.head import Advanced, Epoch, Revision
from holdfast.stores.registers.etcd import EtcdRegister
from holdfast.stores.registers.etcd_client import EtcdClient, EtcdSettings
from tests.support.certificates import Authority
from tests.support.etcd import EtcdCluster

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(settings: EtcdSettings) -> AsyncIterator[EtcdRegister]:
    register = EtcdRegister(EtcdClient(settings))
    try:
        yield register
    finally:
        await register.close()


async def works(register: EtcdRegister, key: str = "k") -> bool:
    outcome = await register.advance(
        key, expected=Revision(0), value=b"v", epoch=Epoch(0), write_id="w"
    )
    return isinstance(outcome, Advanced) and await register.read(key) == outcome.state


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[EtcdSettings]:
    """An etcd that demands client certificates, and settings that have one."""
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("server")
    options = [
        *("--cert-file", str(certificate), "--key-file", str(key)),
        *("--client-cert-auth", "--trusted-ca-file", str(authority.path)),
    ]
    cluster = EtcdCluster(tmp_path / "etcd", 1, options, scheme="https")
    client_certificate, client_key = authority.issue("client")
    try:
        cluster.start()
        yield EtcdSettings(
            endpoints=cluster.endpoints,
            ca_path=authority.path,
            certificate_path=client_certificate,
            key_path=client_key,
            deadline_s=5,
        )
    finally:
        cluster.kill()


async def test_certificates_let_in_and_keep_out(secured: EtcdSettings, tmp_path: Path) -> None:
    async with opened(secured) as register:
        assert await works(register)

    stranger = Authority(tmp_path / "stranger")
    certificate, key = stranger.issue("client")
    without = replace(secured, certificate_path=None, key_path=None, deadline_s=1)
    strange = replace(secured, certificate_path=certificate, key_path=key, deadline_s=1)
    untrusting = replace(secured, ca_path=stranger.path, deadline_s=1)
    for settings in (without, strange, untrusting):
        async with opened(settings) as register:
            with pytest.raises(UnavailableError):
                await register.read("k")


def test_unreadable_certificate_is_an_error_of_the_settings(secured: EtcdSettings) -> None:
    for settings in (
        replace(secured, certificate_path=secured.ca_path),
        replace(secured, ca_path=Path("missing.pem")),
    ):
        with pytest.raises(InvalidRequestError):
            EtcdClient(settings)


def etcdctl(endpoint: str, *arguments: str) -> None:
    if shutil.which("etcdctl") is None:
        pytest.skip("etcdctl is not installed; 'make deps' installs it")
    subprocess.run(
        ["etcdctl", "--endpoints", endpoint, *arguments],
        env={**os.environ, "ETCDCTL_API": "3"},
        check=True,
        capture_output=True,
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EtcdCluster]:
    """An etcd with users: `heads` may use holdfast/, root everything."""
    cluster = EtcdCluster(tmp_path / "etcd", 1)
    try:
        cluster.start()
        endpoint = cluster.endpoints[0]
        etcdctl(endpoint, "user", "add", "root:rootword")
        etcdctl(endpoint, "user", "add", "heads:headword")
        etcdctl(endpoint, "role", "add", "heads")
        permission = ("--prefix=true", "heads", "readwrite", "holdfast/")
        etcdctl(endpoint, "role", "grant-permission", *permission)
        etcdctl(endpoint, "user", "grant-role", "heads", "heads")
        etcdctl(endpoint, "auth", "enable")
        yield cluster
    finally:
        cluster.kill()


async def test_users_are_let_in_by_password_and_rights(guarded: EtcdCluster) -> None:
    settings = EtcdSettings(endpoints=guarded.endpoints, user="heads", password="headword")

    async with opened(settings) as register:
        assert await works(register)
        await register.check()
        # Its tokens are forgotten with the process; a new one is asked for.
        guarded.members[0].kill()
        guarded.members[0].start()
        assert await works(register, "after")
        state = await register.read("k")
        assert state.value == b"v"
    for refused in (replace(settings, password="wrong"), replace(settings, user="", password="")):
        async with opened(refused) as register:
            with pytest.raises(DeniedError) as caught:
                await register.read("k")
            assert "wrong" not in str(caught.value)
    register = EtcdRegister(EtcdClient(settings), "elsewhere/")
    with pytest.raises(DeniedError):
        await register.read("k")
    await register.close()


def test_password_is_not_shown() -> None:
    settings = EtcdSettings(endpoints=("http://a",), user="u", password="secret-word")

    assert "secret-word" not in repr(settings)

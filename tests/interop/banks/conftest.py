"""Real object stores for this folder: SeaweedFS as S3, and OpenStack Swift all in one."""

import os
from dataclasses import dataclass

import pytest

from tests.contract.objects import BUCKET, KEYS, Weed, swift_alone, weed
from tests.interop.swift.cluster import Cluster

__all__ = ["swift_alone", "weed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BankServer:
    """A store that runs, its login in the environment."""

    kind: str
    url: str

    def bank(self, url: str = "") -> str:
        """Return the URL of an empty place for a bank; of the server as seen at another URL."""
        place = os.urandom(5).hex()
        if self.kind == "s3":
            return f"s3+{url or self.url}/{BUCKET}/{place}"
        return f"swift:banks-{place}/here"


@pytest.fixture(params=["s3", "swift"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BankServer:
    if request.param == "s3":
        seaweed: Weed = request.getfixturevalue("weed")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
        return BankServer(kind="s3", url=seaweed.url)
    cluster: Cluster = request.getfixturevalue("swift_alone")
    monkeypatch.setenv("ST_AUTH", f"{cluster.url}/auth/v1.0")
    monkeypatch.setenv("ST_USER", "test:tester")
    monkeypatch.setenv("ST_KEY", "testing")
    return BankServer(kind="swift", url=cluster.url)

"""Goal: before a real Swift, heads are never stale and move only for who may write the object.

Method: three replicas on loopback. Rights by tempauth and a container's read ACL. Staleness on
demand: the object is overwritten while one object server is down, which then comes back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.swift.cluster import Cluster
from tests.support.heads import ServiceProcess, running_service

READS = 200


@dataclass(frozen=True, slots=True)
class World:
    cluster: Cluster
    service: ServiceProcess
    owner: dict[str, str]
    reader: dict[str, str]

    def heads(
        self, method: str, path: str, name: str, login: dict[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]:
        url = f"{self.cluster.url}/v1/AUTH_test{name}"
        answer = self.service(method, path, url, token=login["X-Auth-Token"], body=body)
        return answer.status, answer.body


@pytest.fixture
def world(swift: Cluster, tmp_path: Path) -> Iterator[World]:
    with running_service(
        tmp_path / "heads", f"ICKPT.StoreEndpoints={swift.url}/v1/AUTH_test/"
    ) as service:
        owner, reader = swift.login("tester", "testing"), swift.login("reader", "reading")
        assert swift.ask("PUT", "/c", owner | {"X-Container-Read": "test:reader"}).status < 300
        yield World(swift, service, owner, reader)


def test_right_to_write_moves_a_head_and_right_to_read_only_reads(world: World) -> None:
    assert world.cluster.ask("PUT", "/c/o", world.owner, body=b"copy").status == 201
    assert world.heads("GET", "/", "/c/o", world.reader) == (200, b"copy")
    assert world.heads("PUT", "/1", "/c/o", world.owner, b"v1")[0] == 204
    assert world.heads("POST", "/1", "/c/o", world.reader)[0] == 403
    assert world.heads("POST", "/1", "/c/o", world.owner)[0] == 200

    refused = [
        world.heads(method, "/2", "/c/o", world.reader, b"mine")[0] for method in ("PUT", "DELETE")
    ]

    assert refused == [403, 403]
    assert world.heads("GET", "/", "/c/o", world.reader) == (200, b"v1")
    assert world.heads("GET", "/", "/c/o", {"X-Auth-Token": "wrong"})[0] == 401
    assert world.heads("GET", "/", "/c/none", world.owner)[0] == 404


def test_direct_reads_go_stale_and_reads_through_heads_never_do(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, name = world.cluster, "/c/stale"
    assert cluster.ask("PUT", name, world.owner, body=b"v1").status == 201
    assert world.heads("PUT", "/1", name, world.owner, b"v1")[0] == 204
    assert world.heads("POST", "/1", name, world.owner)[0] == 200

    cluster.stop_server("object-0")
    assert cluster.ask("PUT", name, world.owner, body=b"v2").status == 201
    assert world.heads("PUT", "/2", name, world.owner, b"v2")[0] == 204
    assert world.heads("POST", "/2", name, world.owner)[0] == 200
    cluster.start_server("object-0")
    cluster.wait_for("object-0")

    direct = [cluster.ask("GET", name, world.owner).body for _ in range(READS)]
    through_heads = [world.heads("GET", "/", name, world.owner) for _ in range(READS)]

    stale, stale_heads = direct.count(b"v1"), READS - through_heads.count((200, b"v2"))
    with capsys.disabled():
        print(
            f"\nstale after an acknowledged overwrite: {stale} of {READS} reads of Swift, "
            f"{stale_heads} of {READS} reads through heads"
        )
    assert stale > 0
    assert stale_heads == 0


def test_deleted_head_stays_deleted_while_swift_serves_the_object_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, name = world.cluster, "/c/deleted"
    assert cluster.ask("PUT", name, world.owner, body=b"v1").status == 201
    assert world.heads("PUT", "/1", name, world.owner, b"v1")[0] == 204
    assert world.heads("POST", "/1", name, world.owner)[0] == 200
    assert world.heads("DELETE", "/2", name, world.owner)[0] == 204
    assert world.heads("POST", "/2", name, world.owner)[0] == 200
    cluster.stop_server("object-1")
    assert cluster.ask("DELETE", name, world.owner).status == 204
    cluster.start_server("object-1")
    cluster.wait_for("object-1")

    direct = [cluster.ask("GET", name, world.owner).status for _ in range(READS)]
    through_heads = [world.heads("GET", "/", name, world.owner)[0] for _ in range(READS)]

    with capsys.disabled():
        print(
            f"\nback after an acknowledged delete: {direct.count(200)} of {READS} reads of Swift, "
            f"{READS - through_heads.count(404)} of {READS} reads through heads"
        )
    assert direct.count(200) > 0
    assert set(through_heads) == {404}


def test_rights_are_proven_at_the_s3_api_too(swift: Cluster, tmp_path: Path) -> None:
    owner = swift.login("tester", "testing")
    readable = owner | {"X-Container-Read": "test:reader"}
    assert swift.ask("PUT", "/bucket", readable).status < 300
    assert swift.ask("PUT", "/bucket/a%20name", owner, body=b"copy").status == 201
    url = f"{swift.url}/bucket/a%20name"
    writer, reader, stranger = "test:tester:testing", "test:reader:reading", "test:tester:wrong"
    with running_service(
        tmp_path / "heads", f"ICKPT.StoreEndpoints=s3+{swift.url}/bucket/"
    ) as service:
        copy = service("GET", "/", url, token=reader)
        put = service("PUT", "/1", url, token=writer, body=b"v1")
        refused = [
            service("POST", "/1", url, token=token).status
            for token in (reader, stranger, "no-colon")
        ]
        post = service("POST", "/1", url, token=writer)
        got = service("GET", "/", url, token=reader)
        log = service.log.read_text()

    assert (copy.status, copy.body, put.status) == (200, b"copy", 204)
    assert refused == [403, 403, 401]
    assert (post.status, got.body) == (200, b"v1")
    assert "testing" not in log

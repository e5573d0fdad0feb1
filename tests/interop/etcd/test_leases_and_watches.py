"""Goal: leases end when not kept, and a watch misses nothing, whatever becomes of its stream.

Method: a real etcd, with a member that is killed and started again, and history compacted away.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.stores.registers.etcd_client import EtcdClient, EtcdSettings
from holdfast.stores.registers.etcd_watch import Snapshot, watch
from holdfast.stores.registers.etcd_wire import (
    Changed,
    as_operation,
    compare_mod_revision,
    delete_request,
    end_of_prefix,
    put_request,
    range_request,
    transaction_request,
)
from tests.support.etcd import EtcdCluster

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(EtcdSettings(endpoints=etcd.endpoints, deadline_s=8, request_timeout_s=1))
    yield made
    await made.close()


async def test_key_lives_as_long_as_its_lease_is_kept(client: EtcdClient, prefix: str) -> None:
    key = prefix.encode()
    kept, left = await client.grant_lease(1), await client.grant_lease(1)
    await client.put(put_request(key + b"kept", b"1", kept))
    await client.put(put_request(key + b"left", b"1", left))

    async def names() -> list[bytes]:
        content = await client.range(range_request(key, end_of_prefix(key)))
        return [pair.key.removeprefix(key) for pair in content.pairs]

    assert await names() == [b"kept", b"left"]
    for _ in range(9):
        assert await client.keep_lease(kept) > 0
        await asyncio.sleep(0.4)
    assert await names() == [b"kept"]
    assert await client.keep_lease(left) == 0
    await client.revoke_lease(kept)
    assert await names() == []
    await client.revoke_lease(kept)


async def test_transaction_makes_a_key_once(client: EtcdClient, prefix: str) -> None:
    key = prefix.encode()
    request = transaction_request(
        [compare_mod_revision(key, 0)],
        [as_operation("put", put_request(key, b"mine"))],
        [as_operation("range", range_request(key))],
    )

    first, second = await client.transact(request), await client.transact(request)

    assert (first.has_succeeded, second.has_succeeded) == (True, False)
    assert second.replies[0].pairs[0].value == b"mine"
    assert second.replies[0].pairs[0].mod_revision == first.revision


class Watcher:
    """Collects what a watch yields, in the background."""

    def __init__(self, client: EtcdClient, prefix: bytes, start_revision: int = 0) -> None:
        self.items: list[Snapshot | Changed] = []
        self._stream = watch(client, prefix, end_of_prefix(prefix), start_revision=start_revision)
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for item in self._stream:
            self.items.append(item)

    async def until(self, count: int) -> list[Snapshot | Changed]:
        async with asyncio.timeout(15):
            while len(self.items) < count:
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.02)
        return self.items

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._stream.aclose()  # type: ignore[attr-defined]


async def test_watch_begins_with_a_snapshot_and_follows(client: EtcdClient, prefix: str) -> None:
    key = prefix.encode()
    await client.put(put_request(key + b"a", b"1"))
    watcher = Watcher(client, key)
    await watcher.until(1)
    await client.put(put_request(key + b"b", b"2"))
    await client.repeat("/v3/kv/deleterange", delete_request(key + b"a"))

    snapshot, put, deleted = await watcher.until(3)

    assert isinstance(snapshot, Snapshot)
    assert [pair.value for pair in snapshot.content.pairs] == [b"1"]
    assert isinstance(put, Changed)
    assert isinstance(deleted, Changed)
    assert (put.key, put.value) == (key + b"b", b"2")
    assert (deleted.key, deleted.value) == (key + b"a", None)
    assert snapshot.content.revision < put.mod_revision < deleted.mod_revision
    await watcher.close()


async def test_watch_goes_on_after_its_member_was_killed(
    client: EtcdClient, etcd: EtcdCluster, prefix: str
) -> None:
    key = prefix.encode()
    watcher = Watcher(client, key)
    await watcher.until(1)
    for number in range(40):
        await client.put(put_request(key + b"n", b"%d" % number))
        if number in (10, 30):
            etcd.members[0].kill()
            etcd.members[0].start()

    items = await watcher.until(41)

    values = [item.value for item in items[1:] if isinstance(item, Changed)]
    # A put whose answer was lost in the kill may have been repeated.
    assert [value for i, value in enumerate(values) if value not in values[:i]] == [
        b"%d" % number for number in range(40)
    ]
    revisions = [item.mod_revision for item in items[1:] if isinstance(item, Changed)]
    assert revisions == sorted(set(revisions))
    await watcher.close()


async def test_watch_from_compacted_history_takes_a_snapshot(
    client: EtcdClient, prefix: str
) -> None:
    key = prefix.encode()
    start = (await client.range(range_request(key))).revision + 1
    for number in range(5):
        await client.put(put_request(key + b"n", b"%d" % number))
    await client.compact((await client.range(range_request(key))).revision)

    watcher = Watcher(client, key, start)
    (snapshot,) = await watcher.until(1)
    await client.put(put_request(key + b"n", b"last"))
    *_, last = await watcher.until(2)

    assert isinstance(snapshot, Snapshot)
    assert [pair.value for pair in snapshot.content.pairs] == [b"4"]
    assert isinstance(last, Changed)
    assert last.value == b"last"
    await watcher.close()


async def test_watch_resumes_from_a_revision(client: EtcdClient, prefix: str) -> None:
    key = prefix.encode()
    for number in range(5):
        await client.put(put_request(key + b"n", b"%d" % number))
    third = (await client.range(range_request(key + b"n"))).revision - 2

    watcher = Watcher(client, key, third)
    items = await watcher.until(3)

    assert [item.value for item in items if isinstance(item, Changed)] == [b"2", b"3", b"4"]
    await watcher.close()

"""Goal: a request to etcd whose answer is lost is decided by reading back, and never done twice.

Method: a proxy before a real etcd cuts off transactions before or after they arrive, keeps silent,
or holds one up and lets it go later.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.errors import UnavailableError, UnsupportedError
from holdfast.model.head import ABSENT, Advanced, Epoch, HeadState, Refused, Revision, Unknown
from holdfast.stores.registers.etcd import EtcdRegister
from holdfast.stores.registers.etcd_client import EtcdClient, EtcdSettings
from tests.support.etcd import EtcdCluster
from tests.support.lossy_proxy import Loss, LossyProxy

pytestmark = pytest.mark.anyio


class Net:
    """A register behind a lossy proxy, and one beside it."""

    def __init__(self, etcd: EtcdCluster, prefix: str) -> None:
        self._url = etcd.endpoints[0]
        self._prefix = prefix
        self.proxy = LossyProxy(self._url, b"/v3/kv/txn")
        self._made: list[EtcdRegister] = []

    async def start(self) -> None:
        url = await self.proxy.start()
        self.register = self.make((url,))
        self.other = self.make((self._url,))

    def make(self, endpoints: tuple[str, ...], deadline_s: float = 3.0) -> EtcdRegister:
        settings = EtcdSettings(
            endpoints=endpoints, deadline_s=deadline_s, request_timeout_s=deadline_s / 6
        )
        register = EtcdRegister(EtcdClient(settings), self._prefix)
        self._made.append(register)
        return register

    async def close(self) -> None:
        for register in self._made:
            await register.close()
        await self.proxy.close()


@pytest.fixture
async def net(etcd: EtcdCluster, prefix: str) -> AsyncIterator[Net]:
    made = Net(etcd, prefix)
    await made.start()
    yield made
    await made.close()


async def first_advance(register: EtcdRegister, write_id: str = "w1") -> object:
    return await register.advance(
        "k", expected=Revision(0), value=b"a", epoch=Epoch(0), write_id=write_id
    )


@pytest.mark.parametrize("losses", [[Loss.REQUEST], [Loss.REPLY], [Loss.SILENCE], list(Loss)[:3]])
async def test_advance_gets_through_once(net: Net, losses: list[Loss]) -> None:
    net.proxy.losses = list(losses)

    outcome = await first_advance(net.register)

    assert isinstance(outcome, Advanced)
    assert net.proxy.struck_count >= 1
    assert await net.other.history("k", 10) == [outcome.state]


async def test_lost_reply_is_found_though_superseded(net: Net) -> None:
    net.proxy.losses = [Loss.HELD]
    running = asyncio.create_task(first_advance(net.register))
    await asyncio.sleep(0.1)
    net.proxy.release()
    await net.proxy.forwarded.wait()
    state = await net.other.read("k")
    for number in range(3):
        state = await advanced(net.other, state, f"other-{number}")

    outcome = await running

    oldest = (await net.other.history("k", 10))[-1]
    assert outcome == Advanced(state=oldest)
    assert oldest.write_id == "w1"


async def test_lost_request_is_refused_once_somebody_else_was_first(net: Net) -> None:
    net.proxy.losses = [Loss.SILENCE]
    running = asyncio.create_task(first_advance(net.register))
    await asyncio.sleep(0.1)
    state = await advanced(net.other, ABSENT, "other")
    state = await advanced(net.other, state, "another")

    assert await running == Refused(current=state, reason="revision")  # type: ignore[arg-type]


async def test_request_that_arrives_late_changes_nothing_twice(net: Net) -> None:
    net.proxy.losses = [Loss.HELD]

    outcome = await first_advance(net.register)
    assert isinstance(outcome, Advanced)
    net.proxy.release()
    await net.proxy.forwarded.wait()

    assert await net.other.history("k", 10) == [outcome.state]


async def test_undecidable_is_unknown_and_told_later(net: Net) -> None:
    net.proxy.losses = [Loss.HELD] + [Loss.SILENCE] * 100

    assert await first_advance(net.register) == Unknown(write_id="w1")

    assert await net.other.read("k") == ABSENT
    net.proxy.release()
    await net.proxy.forwarded.wait()
    net.proxy.losses = []
    outcome = await first_advance(net.register)
    assert isinstance(outcome, Advanced)
    assert await net.other.history("k", 10) == [outcome.state]


async def test_history_lost_to_compaction_leaves_unknown_what_was_in_doubt(
    net: Net, etcd: EtcdCluster
) -> None:
    net.proxy.losses = [Loss.HELD]
    running = asyncio.create_task(first_advance(net.register))
    await asyncio.sleep(0.1)
    net.proxy.release()
    await net.proxy.forwarded.wait()
    state = await advanced(net.other, await net.other.read("k"), "other")
    client = EtcdClient(EtcdSettings(endpoints=etcd.endpoints))
    await client.compact(state.revision)
    await client.close()

    assert await running == Unknown(write_id="w1")


async def test_nobody_there_is_unavailable(net: Net) -> None:
    register = net.make(("http://127.0.0.1:9", "http://127.0.0.1:10"), deadline_s=0.6)

    with pytest.raises(UnavailableError):
        await first_advance(register)
    with pytest.raises(UnavailableError):
        await register.read("k")
    with pytest.raises(UnavailableError):
        await register.check()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_answer_that_is_not_of_etcd_is_never_believed(net: Net, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    register = net.make((url,), deadline_s=0.5)

    with pytest.raises((UnavailableError, UnsupportedError)):
        await register.read("k")
    assert await first_advance(register) == Unknown(write_id="w1")
    server.close()


async def test_endpoints_that_are_gone_or_mute_are_passed_over(net: Net, etcd: EtcdCluster) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    register = net.make(("http://127.0.0.1:9", f"http://127.0.0.1:{port}", *etcd.endpoints))

    assert isinstance(await first_advance(register), Advanced)
    mute.close()


async def advanced(register: EtcdRegister, seen: HeadState, write_id: str) -> HeadState:
    outcome = await register.advance(
        "k", expected=seen.revision, value=b"o", epoch=Epoch(0), write_id=write_id
    )
    assert isinstance(outcome, Advanced)
    return outcome.state

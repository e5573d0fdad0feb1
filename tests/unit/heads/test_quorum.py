"""Goal: what was wrong with the original's client of N services is gone (bugs 8 and 14 to 17).

Method: the real client over services that are down, hang, have been wiped or refuse, made here.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest

from holdfast.client.heads import HeadName, ServedHead
from holdfast.client.quorum import QuorumClient, greatest
from holdfast.errors import (
    ConflictError,
    DeniedError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.model.head import Revision
from holdfast.testing.clock import SimEntropy

NAME = HeadName(storage_url="http://store/v1/a/c/o", token="secret")


@dataclass(slots=True)
class Service:
    """One service with a fault: it holds a value, and commits what was prepared."""

    value: bytes | None = None
    """None: it has no head, and answers with the store's copy."""
    fault: str = ""
    pending: dict[str, bytes | None] = field(default_factory=dict)

    async def get(self, name: HeadName) -> ServedHead:
        await self._suffer("get")
        if self.value is None:
            return ServedHead(value=b"1 1", revision=Revision(0), is_from_store=True)
        return ServedHead(value=self.value, revision=Revision(1), is_from_store=False)

    async def prepare(
        self,
        name: HeadName,
        transaction_id: str,
        value: bytes | None,
        if_revision: Revision | None = None,
    ) -> Revision:
        await self._suffer("prepare")
        self.pending[transaction_id] = value
        return Revision(1)

    async def commit(self, name: HeadName, transaction_id: str) -> Revision:
        await self._suffer("commit")
        self.value = self.pending.pop(transaction_id)
        return Revision(2)

    async def _suffer(self, call: str) -> None:
        if self.fault in ("down", f"{call} down"):
            raise UnavailableError("down", code="heads-unreachable")
        if self.fault == "401":
            raise DeniedError("no", code="store-said-no")
        if self.fault == "hangs":
            await asyncio.Event().wait()


def _components(value: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in value.split())


def _client(*services: Service, is_growing: bool = False) -> QuorumClient:
    return QuorumClient(services, SimEntropy(1), components_of=_components if is_growing else None)


def _soon(coroutine: Awaitable[object]) -> object:
    async def bounded() -> object:
        async with asyncio.timeout(5):
            return await coroutine

    return asyncio.run(bounded())


@pytest.mark.parametrize("fault", ["down", "hangs", "commit down"])
def test_bug_14_write_returns_with_one_service_down(fault: str) -> None:
    services = Service(), Service(fault=fault), Service()

    _soon(_client(*services).write(NAME, b"2 2"))

    assert [service.value for service in services] == [b"2 2", None, b"2 2"]


@pytest.mark.parametrize("is_growing", [False, True])
@pytest.mark.parametrize("fault", ["down", "hangs"])
def test_bug_15_read_does_not_wait_for_all(fault: str, is_growing: bool) -> None:
    client = _client(Service(b"2 2"), Service(fault=fault), Service(b"2 2"), is_growing=is_growing)

    assert _soon(client.read(NAME)) == b"2 2"


def test_bug_8_wiped_service_does_not_vote_with_the_store_copy() -> None:
    # The store's stale copy is b"1 1", which the third holds too: together they were a majority.
    services = Service(b"2 2"), Service(None), Service(b"1 1")

    with pytest.raises((UnavailableError, ConflictError)):
        _soon(_client(*services).read(NAME))
    assert _soon(_client(*services, is_growing=True).read(NAME)) == b"2 2"


def test_bug_16_half_written_value_is_completed_by_the_next_reader() -> None:
    services = Service(b"2 2"), Service(b"1 1"), Service(b"0 0")

    with pytest.raises(ConflictError) as caught:
        _soon(_client(*services).read(NAME))
    assert caught.value.code == "no-majority"
    seen = _soon(_client(*services, is_growing=True).read(NAME))

    assert sum(service.value == seen for service in services) >= 2


def test_bug_17_one_401_is_no_veto_and_a_majority_of_them_is_said() -> None:
    one = _client(Service(b"2 2"), Service(fault="401"), Service(b"2 2"))
    two = _client(Service(b"2 2"), Service(fault="401"), Service(fault="401"))

    assert _soon(one.read(NAME)) == b"2 2"
    _soon(one.write(NAME, b"3 3"))
    with pytest.raises(UnavailableError, match="store-said-no"):
        _soon(two.read(NAME))


def test_write_without_a_majority_changes_nothing() -> None:
    services = Service(b"1 1"), Service(fault="down"), Service(fault="down")

    with pytest.raises(UnavailableError) as caught:
        _soon(_client(*services).write(NAME, b"2 2"))

    assert caught.value.code == "no-quorum"
    assert services[0].value == b"1 1"


def test_write_committed_by_too_few_is_unknown() -> None:
    services = Service(), Service(fault="commit down"), Service(fault="commit down")

    with pytest.raises(OutcomeUnknownError) as caught:
        _soon(_client(*services).write(NAME, b"2 2"))

    assert caught.value.code == "half-written"


def test_fork_is_reported_with_both_values() -> None:
    with pytest.raises(ConflictError) as caught:
        greatest([b"5 1", b"1 5"], _components)

    assert {caught.value.context["current"], caught.value.context["proposed"]} == {b"5 1", b"1 5"}


def test_growing_head_cannot_be_deleted() -> None:
    with pytest.raises(UnsupportedError):
        _soon(_client(Service(), is_growing=True).write(NAME, None))


def test_token_is_not_in_the_name_as_text() -> None:
    assert "secret" not in repr(NAME)

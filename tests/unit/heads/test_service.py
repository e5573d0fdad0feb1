"""Goal: whatever the register does to a commit, the caller is told what is true of it, and no key
is left stuck (original's bugs 1 to 3).

Method: the real service over a simulated register that fails on command, and a store that says yes.
"""

import asyncio
from collections.abc import Coroutine, Iterator

import pytest

from holdfast.errors import (
    HoldfastError,
    OutcomeUnknownError,
    StateError,
    StorageFailedError,
    UnavailableError,
)
from holdfast.heads.address import Dialect, parse_realm
from holdfast.heads.gate import Gate, check_token
from holdfast.heads.lanes import Lanes
from holdfast.heads.model import Fate, Operation
from holdfast.heads.rules import Transactions
from holdfast.heads.service import Caller, Heads, Surroundings
from holdfast.ports import StoreAnswer
from holdfast.testing.clock import SimClock, SimEntropy
from holdfast.testing.register import RegisterFault, SimRegister

CALLER = Caller(storage_url="http://store/v1/a/c/o", token="t")
ELSEWHERE = Caller(storage_url="http://store/v1/a/c/other", token="t")
TIMEOUT_S = 10


class YesStore:
    """An object store where everyone may do everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def read(self, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        self.asked.append("read")
        return StoreAnswer(200, b"copy")

    async def prove_write(self, url: str, token: str) -> StoreAnswer:
        self.asked.append("write")
        return StoreAnswer(201, b"")


def _faults(*script: RegisterFault | None) -> Iterator[RegisterFault | None]:
    yield from script
    while True:
        yield None


class World:
    def __init__(self, *script: RegisterFault | None, cache_s: int = 0) -> None:
        self.clock = SimClock()
        self.store = YesStore()
        self.failures: list[StorageFailedError] = []
        self.register = SimRegister(_faults(*script))
        self.heads = Heads(
            Surroundings(
                register=self.register,
                gate=Gate({Dialect.SWIFT: self.store}, self.clock, cache_ns=cache_s * 10**9),
                realms=(parse_realm("http://store/"),),
                transactions=Transactions(
                    timeout_ns=TIMEOUT_S * 10**9, pending_max=2, outcomes_max=10
                ),
                store_lanes=Lanes(width=4, waiting_max=4, timeout_s=5),
                commit_lanes=Lanes(width=1, waiting_max=4, timeout_s=5),
                clock=self.clock,
                entropy=SimEntropy(1),
                commit_timeout_s=5,
                on_failure=self.failures.append,
            )
        )

    async def put(self, name: str, value: bytes, caller: Caller = CALLER) -> None:
        await self.heads.prepare(caller, name, Operation.PUT, value, None)

    async def write(self, name: str, value: bytes, caller: Caller = CALLER) -> None:
        await self.put(name, value, caller)
        await self.heads.commit(caller, name)


def _run(coroutine: Coroutine[object, object, None]) -> None:
    asyncio.run(coroutine)


@pytest.mark.parametrize(
    "fault", [RegisterFault.UNAVAILABLE, RegisterFault.LOST_BEFORE, RegisterFault.LOST_AFTER]
)
def test_commit_that_fails_can_be_tried_again_and_happens_once(fault: RegisterFault) -> None:
    async def scenario() -> None:
        # The reads of PUT go through; the advance of POST is struck.
        world = World(None, fault)
        await world.put("/a", b"v1")
        try:
            await world.heads.commit(CALLER, "/a")
        except (UnavailableError, OutcomeUnknownError):
            told = await world.heads.fate(CALLER, "/a")
            assert told.fate is Fate.UNKNOWN
        done = await world.heads.commit(CALLER, "/a")

        history = await world.register.history("ickpt/http://store/v1/a/c/o", 10)
        assert [state.value for state in history] == [b"v1"]
        assert done.revision == history[0].revision
        assert (await world.heads.fate(CALLER, "/a")).fate is Fate.DONE

    _run(scenario())


def test_bug_3_failing_register_leaves_other_keys_and_later_requests_alone() -> None:
    async def scenario() -> None:
        world = World(RegisterFault.UNAVAILABLE, None, RegisterFault.UNAVAILABLE)
        with pytest.raises(UnavailableError):
            await world.put("/a", b"v1")
        await world.put("/a", b"v1")
        with pytest.raises(HoldfastError):
            await world.heads.commit(CALLER, "/a")
        await world.write("/b", b"v2", ELSEWHERE)
        await world.write("/c", b"v3")
        assert (await world.heads.read(CALLER)).value == b"v3"

    _run(scenario())


def test_commit_held_up_and_superseded_meanwhile_tells_the_truth() -> None:
    async def scenario() -> None:
        world = World(None, RegisterFault.LATE)
        await world.put("/a", b"v1")
        with pytest.raises(OutcomeUnknownError):
            await world.heads.commit(CALLER, "/a")
        await world.put("/b", b"v2")
        try:
            await world.heads.commit(CALLER, "/b")
        except StateError:
            # The late one came first; then the second did not happen, and is not there.
            assert (await world.heads.read(CALLER)).value == b"v1"
            assert (await world.heads.fate(CALLER, "/b")).fate is Fate.REFUSED
        else:
            assert (await world.heads.read(CALLER)).value == b"v2"

    _run(scenario())


def test_caller_that_goes_away_does_not_cut_its_commit_short() -> None:
    async def scenario() -> None:
        world = World(None, RegisterFault.DELAYED)
        await world.put("/a", b"v1")
        posting = asyncio.create_task(world.heads.commit(CALLER, "/a"))
        for _ in range(3):
            await asyncio.sleep(0)
        posting.cancel()
        await world.heads.finish()
        assert (await world.heads.read(CALLER)).value == b"v1"

    _run(scenario())


def test_pending_transactions_are_bounded_and_make_room_when_they_expire() -> None:
    async def scenario() -> None:
        world = World()
        for name in ("one", "two"):
            await world.put("/a", b"v", Caller(storage_url=f"http://store/{name}", token="t"))
        with pytest.raises(HoldfastError) as caught:
            await world.put("/a", b"v")
        assert caught.value.code == "transactions-full"
        world.clock.sleep(TIMEOUT_S)
        await world.put("/a", b"v")

    _run(scenario())


def test_store_is_asked_each_time_unless_a_cache_is_set() -> None:
    async def scenario() -> None:
        always, cached = World(), World(cache_s=5)
        for world in (always, cached):
            await world.write("/a", b"v")
            world.store.asked.clear()
            for _ in range(3):
                await world.heads.read(CALLER)
        assert (always.store.asked, cached.store.asked) == (["read"] * 3, ["read"])
        cached.clock.sleep(5)
        await cached.heads.read(CALLER)
        assert cached.store.asked == ["read"] * 2
        other = Caller(storage_url=CALLER.storage_url, token="another")
        await cached.heads.read(other)
        assert cached.store.asked == ["read"] * 3

    _run(scenario())


def test_right_to_read_in_the_cache_is_no_right_to_write() -> None:
    async def scenario() -> None:
        world = World(cache_s=5)
        await world.heads.read(CALLER)
        world.store.asked.clear()
        await world.put("/a", b"v")
        assert "write" in world.store.asked

    _run(scenario())


@pytest.mark.parametrize("token", ["a\nb", "é", "\x7f", "x" * 9000])
def test_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(HoldfastError):
        check_token(token)

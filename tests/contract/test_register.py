"""Goal: a register is linearizable, fenced, idempotent and remembers deletions, whatever is behind.

Method: each rule of the port Register and each invariant of model/head.py on the simulated one, on
SQLite and on a real etcd.
"""

import asyncio

import pytest

from holdfast.errors import InvalidRequestError
from holdfast.model.head import (
    ABSENT,
    Advanced,
    AdvanceOutcome,
    Epoch,
    HeadState,
    RefusalReason,
    Refused,
    Revision,
)
from holdfast.model.limits import (
    HEAD_HISTORY_MAX,
    HEAD_KEY_BYTES_MAX,
    HEAD_VALUE_BYTES_MAX,
    WRITE_ID_BYTES_MAX,
)
from holdfast.ports import Register
from holdfast.testing.linearizability import Recorder, find_violation
from tests.contract.registers import etcd_endpoints, register

__all__ = ["etcd_endpoints", "register"]

pytestmark = pytest.mark.anyio

KEY = "volumes/ä b/%2F?x=1"


async def advance(
    register: Register,
    expected: int,
    value: bytes | None,
    *,
    epoch: int = 0,
    write_id: str = "",
    key: str = KEY,
) -> AdvanceOutcome:
    return await register.advance(
        key,
        expected=Revision(expected),
        value=value,
        epoch=Epoch(epoch),
        write_id=write_id or f"from-{expected}-{value!r}-{epoch}",
    )


async def made(
    register: Register,
    expected: int,
    value: bytes | None,
    *,
    epoch: int = 0,
    write_id: str = "",
    key: str = KEY,
) -> HeadState:
    outcome = await advance(register, expected, value, epoch=epoch, write_id=write_id, key=key)
    assert isinstance(outcome, Advanced)
    return outcome.state


async def test_key_never_written_is_absent(register: Register) -> None:
    assert await register.read(KEY) == ABSENT
    assert await register.history(KEY, 10) == []


@pytest.mark.parametrize("value", [b"", b"\0\xff", b"x" * HEAD_VALUE_BYTES_MAX])
async def test_what_was_advanced_is_read(register: Register, value: bytes) -> None:
    state = await made(register, 0, value, epoch=7, write_id="w1")

    assert await register.read(KEY) == state
    assert state.revision > 0
    assert (state.value, state.epoch, state.is_tombstone, state.write_id) == (value, 7, False, "w1")


async def test_revisions_grow(register: Register) -> None:
    first = await made(register, 0, b"a")
    second = await made(register, first.revision, b"b")
    third = await made(register, second.revision, None)

    assert 0 < first.revision < second.revision < third.revision


async def test_other_than_expected_revision_is_refused(register: Register) -> None:
    first = await made(register, 0, b"a")
    second = await made(register, first.revision, b"b")

    for expected in (0, first.revision, second.revision + 1):
        outcome = await advance(register, expected, b"c", write_id=f"other-{expected}")
        assert outcome == Refused(current=second, reason=RefusalReason.REVISION)
    assert await register.read(KEY) == second


async def test_expecting_something_of_an_absent_key_is_refused(register: Register) -> None:
    outcome = await advance(register, 3, b"c")

    assert outcome == Refused(current=ABSENT, reason=RefusalReason.REVISION)
    assert await register.read(KEY) == ABSENT


async def test_older_epoch_is_fenced(register: Register) -> None:
    first = await made(register, 0, b"a", epoch=5)
    second = await made(register, first.revision, b"b", epoch=(1 << 63) - 1)

    for epoch in (0, 5, (1 << 63) - 2):
        outcome = await advance(register, second.revision, b"c", epoch=epoch)
        assert outcome == Refused(current=second, reason=RefusalReason.EPOCH)
    assert await register.read(KEY) == second


async def test_fence_is_named_before_the_revision(register: Register) -> None:
    first = await made(register, 0, b"a", epoch=5)

    outcome = await advance(register, first.revision + 9, b"c", epoch=4)

    assert outcome == Refused(current=first, reason=RefusalReason.EPOCH)


async def test_same_epoch_goes_on(register: Register) -> None:
    first = await made(register, 0, b"a", epoch=16)
    second = await made(register, first.revision, b"b", epoch=16)

    assert await register.read(KEY) == second


async def test_deleting_leaves_a_tombstone(register: Register) -> None:
    first = await made(register, 0, b"a", epoch=3)
    gone = await made(register, first.revision, None, epoch=4)

    assert (gone.value, gone.is_tombstone, gone.epoch) == (None, True, 4)
    assert await register.read(KEY) == gone
    outcome = await advance(register, 0, b"b", epoch=9)
    assert outcome == Refused(current=gone, reason=RefusalReason.REVISION)
    outcome = await advance(register, gone.revision, b"b", epoch=3)
    assert outcome == Refused(current=gone, reason=RefusalReason.EPOCH)
    again = await made(register, gone.revision, b"b", epoch=4)
    assert again.revision > gone.revision
    assert not again.is_tombstone


async def test_deleting_an_absent_key_leaves_a_tombstone_too(register: Register) -> None:
    gone = await made(register, 0, None)

    assert gone.is_tombstone
    assert await register.read(KEY) == gone


async def test_same_advance_again_changes_nothing(register: Register) -> None:
    first = await made(register, 0, b"a", write_id="w1")

    assert await made(register, 0, b"a", write_id="w1") == first
    second = await made(register, first.revision, None, write_id="w2", epoch=8)
    assert await made(register, first.revision, None, write_id="w2", epoch=8) == second
    # Superseded, and fenced, and still known.
    assert await made(register, 0, b"a", write_id="w1") == first
    assert await register.history(KEY, 10) == [second, first]


async def test_advance_is_known_again_as_long_as_its_state_is_kept(register: Register) -> None:
    states = [ABSENT]
    for number in range(HEAD_HISTORY_MAX - 1):
        states.append(await made(register, states[-1].revision, b"%d" % number))

    outcome = await advance(register, 0, b"0", write_id=states[1].write_id)

    assert outcome == Advanced(state=states[1])


async def test_history_is_newest_first_and_bounded(register: Register) -> None:
    states = [ABSENT]
    for number in range(HEAD_HISTORY_MAX + 6):
        value = None if number % 5 == 4 else b"%d" % number
        states.append(await made(register, states[-1].revision, value, write_id=f"w{number}"))

    newest_first = states[:0:-1]
    assert await register.history(KEY, 3) == newest_first[:3]
    assert await register.history(KEY, 1000) == newest_first[:HEAD_HISTORY_MAX]
    assert await register.history(KEY, 0) == []


async def test_keys_do_not_meet(register: Register) -> None:
    first = await made(register, 0, b"a", key="a")

    assert await register.read("a/") == ABSENT
    assert await register.read("A") == ABSENT
    other = await made(register, 0, b"b", key="a/", write_id=first.write_id)
    assert await register.read("a") == first
    assert await register.read("a/") == other


async def test_keys_are_listed_in_pages(register: Register) -> None:
    keys = ["a", "a/1", "a/2", "a/é", "a/\U0001f600", "a0", "b", "%", "a/_"]
    for key in keys:
        state = await made(register, 0, b"x", key=key)
        await made(register, state.revision, None, key=key)
    in_order = sorted(key for key in keys if key.startswith("a/"))

    assert await register.list_keys("a/", "", 100) == in_order
    assert await register.list_keys("a/", "", 2) == in_order[:2]
    assert await register.list_keys("a/", in_order[1], 2) == in_order[2:4]
    assert await register.list_keys("a/", in_order[-1], 2) == []
    assert await register.list_keys("a/", "a", 1) == in_order[:1]
    assert await register.list_keys("a/", "b", 1) == []
    assert await register.list_keys("", "", 100) == sorted(keys)
    assert await register.list_keys("zz", "", 100) == []
    assert await register.list_keys("", "", 0) == []


@pytest.mark.parametrize(
    ("key", "value", "epoch", "write_id"),
    [
        ("", b"", 0, "w"),
        ("k" * (HEAD_KEY_BYTES_MAX + 1), b"", 0, "w"),
        ("k\0", b"", 0, "w"),
        ("k\ud800", b"", 0, "w"),
        ("k", b"x" * (HEAD_VALUE_BYTES_MAX + 1), 0, "w"),
        ("k", b"", -1, "w"),
        ("k", b"", 1 << 63, "w"),
        ("k", b"", 0, ""),
        ("k", b"", 0, "w" * (WRITE_ID_BYTES_MAX + 1)),
        ("k", b"", 0, "w\n"),
        ("k", b"", 0, "ä"),
    ],
)
async def test_arguments_over_their_limits_are_refused(
    register: Register, key: str, value: bytes, epoch: int, write_id: str
) -> None:
    with pytest.raises(InvalidRequestError):
        await register.advance(
            key, expected=Revision(0), value=value, epoch=Epoch(epoch), write_id=write_id
        )
    assert await register.list_keys("", "", 1) == []


async def test_longest_arguments_are_taken(register: Register) -> None:
    key, write_id = "é" * (HEAD_KEY_BYTES_MAX // 2), "w" * WRITE_ID_BYTES_MAX
    value = b"\xff" * HEAD_VALUE_BYTES_MAX

    state = await made(register, 0, value, key=key, write_id=write_id, epoch=(1 << 63) - 1)

    assert await register.read(key) == state


async def test_check_commits(register: Register) -> None:
    await register.check()
    await register.check()

    assert await register.list_keys("", "", 10) == []


async def test_of_two_from_the_same_revision_one_wins(register: Register) -> None:
    state = ABSENT
    for round_number in range(20):
        outcomes = await asyncio.gather(
            *(
                advance(
                    register, state.revision, b"%d" % client, write_id=f"{round_number}-{client}"
                )
                for client in range(2)
            )
        )
        won = [outcome for outcome in outcomes if isinstance(outcome, Advanced)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        assert (len(won), len(lost)) == (1, 1)
        state = await register.read(KEY)
        assert won[0].state == lost[0].current == state


async def test_histories_of_many_clients_are_linearizable(register: Register) -> None:
    recorder = Recorder(register)

    async def work(client: int) -> int:
        wins_count = 0
        for number in range(25):
            key = f"k{(client + number) % 2}"
            seen = await recorder.read(key)
            assert seen is not None
            outcome = await recorder.advance(key, seen, b"v", f"{client}-{number}")
            wins_count += isinstance(outcome, Advanced)
        return wins_count

    wins = await asyncio.gather(*(work(client) for client in range(6)))

    assert find_violation(recorder.operations) is None
    assert sum(wins) >= 25
    assert recorder.unknown_count == 0

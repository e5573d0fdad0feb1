"""Goal: the checker of histories passes what an atomic register may do and nothing else.

Method: histories made by hand, legal and illegal; small random ones compared with a search through
every order; and registers broken on purpose, each of which must be caught.
"""

import asyncio
from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.head import ABSENT, Advanced, AdvanceOutcome, Epoch, HeadState, Revision
from holdfast.testing.linearizability import Operation, Recorder, find_violation
from holdfast.testing.register import SimRegister, random_faults


def op(
    called: int, returned: int | None, before: str, after: str | None = None, key: str = "k"
) -> Operation:
    return Operation(
        key=key,
        called_ns=called,
        returned_ns=returned,
        before=before,
        after=before if after is None else after,
    )


LEGAL = {
    "nothing": [],
    "read of nothing": [op(0, 1, "")],
    "write then read": [op(0, 1, "", "a"), op(2, 3, "a")],
    "concurrent read before": [op(0, 5, "", "a"), op(1, 2, "")],
    "concurrent read after": [op(0, 5, "", "a"), op(1, 2, "a")],
    "unknown that happened": [op(0, None, "", "a"), op(8, 9, "a")],
    "unknown that did not": [op(0, None, "", "a"), op(8, 9, "")],
    "unknown that happened late": [op(0, None, "", "a"), op(7, 8, ""), op(8, 9, "a")],
    "chain against the order of calls": [op(0, 9, "a", "b"), op(1, 8, "", "a"), op(10, 11, "b")],
    "two keys apart": [op(0, 1, "", "a"), op(2, 3, "", key="other")],
}
ILLEGAL = {
    "stale read": [op(0, 1, "", "a"), op(2, 3, "")],
    "read of what nobody wrote": [op(0, 1, "a")],
    "lost write": [op(0, 1, "", "a"), op(2, 3, "", "b")],
    "both win": [op(0, 5, "", "a"), op(1, 4, "", "b")],
    "read goes back": [op(0, 9, "", "a"), op(1, 2, "a"), op(3, 4, "")],
    "read from the future": [op(0, 1, "a"), op(2, 3, "", "a")],
    "unknown undone": [op(0, None, "", "a"), op(2, 3, "a"), op(4, 5, "")],
    "second key is looked at": [op(0, 1, "", "a"), op(2, 3, "x", key="other")],
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_history_passes(name: str) -> None:
    assert find_violation(LEGAL[name]) is None


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_history_is_found(name: str) -> None:
    assert find_violation(ILLEGAL[name])


def _has_an_order(history: list[Operation]) -> bool:
    """Try every subset of the unknown and every order."""
    certain = [operation for operation in history if operation.returned_ns is not None]
    unknown = [operation for operation in history if operation.returned_ns is None]
    for mask in range(1 << len(unknown)):
        chosen = certain + [each for bit, each in enumerate(unknown) if mask >> bit & 1]
        if any(_is_legal(order) for order in permutations(chosen)):
            return True
    return False


def _is_legal(order: tuple[Operation, ...]) -> bool:
    state = ""
    for place, operation in enumerate(order):
        if operation.before != state:
            return False
        for later in order[place + 1 :]:
            if later.returned_ns is not None and later.returned_ns < operation.called_ns:
                return False
        state = operation.after
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    moments = draw(st.permutations(range(10)))
    history = []
    for number in range(5):
        first, second = sorted(moments[2 * number : 2 * number + 2])
        before = draw(st.sampled_from(["", "w0", "w1", "w2"]))
        is_write = number < 3
        is_known = not is_write or draw(st.booleans())
        after = f"w{number}" if is_write else before
        history.append(op(first, second if is_known else None, before, after))
    return history


@given(histories())
def test_checker_agrees_with_trying_everything(history: list[Operation]) -> None:
    assert (find_violation(history) is None) == _has_an_order(history)


class StaleReads(SimRegister):
    """Answers one read in three with the state before."""

    reads_count = 0

    async def read(self, key: str) -> HeadState:
        self.reads_count += 1
        states = await self.history(key, 2)
        return (
            states[1] if self.reads_count % 3 == 0 and len(states) == 2 else (states or [ABSENT])[0]
        )


class Forgets(SimRegister):
    """Acknowledges one advance in five without making it."""

    advances_count = 0

    async def advance(
        self, key: str, *, expected: Revision, value: bytes | None, epoch: Epoch, write_id: str
    ) -> AdvanceOutcome:
        self.advances_count += 1
        if self.advances_count % 5:
            return await super().advance(
                key, expected=expected, value=value, epoch=epoch, write_id=write_id
            )
        state = HeadState(
            value=value,
            revision=Revision(expected + 1000),
            epoch=epoch,
            is_tombstone=False,
            write_id=write_id,
        )
        return Advanced(state=state)


@dataclass(slots=True)
class Trial:
    recorder: Recorder
    wins: int = 0

    async def work(self, client: int) -> None:
        for number in range(30):
            seen = await self.recorder.read("k")
            if seen is None:
                continue
            outcome = await self.recorder.advance("k", seen, b"v", f"{client}-{number}")
            self.wins += isinstance(outcome, Advanced)


def _try(register: SimRegister) -> Trial:
    async def run() -> Trial:
        trial = Trial(Recorder(register))
        await asyncio.gather(*(trial.work(client) for client in range(5)))
        return trial

    return asyncio.run(run())


@pytest.mark.parametrize("register", [StaleReads(), Forgets()], ids=lambda r: type(r).__name__)
def test_broken_register_is_caught(register: SimRegister) -> None:
    assert find_violation(_try(register).recorder.operations)


@pytest.mark.parametrize("seed", range(20))
def test_faulty_replies_leave_a_register_linearizable(seed: int) -> None:
    trial = _try(SimRegister(random_faults(seed, percent=30)))

    assert find_violation(trial.recorder.operations) is None
    assert trial.wins > 5
    assert trial.recorder.unknown_count > 0

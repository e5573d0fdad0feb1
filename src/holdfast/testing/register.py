"""A register in memory behind the port Register, which loses replies and comes late on command.

Linearizable by construction: each call takes effect in one step between two points where other
coroutines may run. What it is told to lose is lost by a script, so that a run repeats.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat

from holdfast.errors import UnavailableError
from holdfast.model.head import (
    ABSENT,
    Advanced,
    AdvanceOutcome,
    Epoch,
    HeadState,
    Revision,
    Unknown,
    check_advance,
    check_key,
    decide_advance,
)
from holdfast.model.limits import HEAD_HISTORY_MAX, HEAD_KEYS_PAGE_MAX


class RegisterFault(StrEnum):
    """What may happen to one call. A read only knows UNAVAILABLE and DELAYED."""

    UNAVAILABLE = "unavailable"
    """Nothing happens, and the caller is told so."""
    LOST_BEFORE = "lost-before"
    """The request is lost: unknown, and it never happens."""
    LOST_AFTER = "lost-after"
    """The reply is lost: unknown, and it happened."""
    LATE = "late"
    """The request is held up: unknown, and it is tried before some later call."""
    DELAYED = "delayed"
    """Others go first."""


FaultScript = Iterator[RegisterFault | None]
"""The fate of each call in turn."""


def random_faults(seed: int, *, percent: int) -> FaultScript:
    """Yield a fault for so many of a hundred calls, for ever; the same for the same seed."""
    chance = random.Random(seed)
    while True:
        is_struck = chance.randrange(100) < percent
        yield chance.choice(list(RegisterFault)) if is_struck else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    key: str
    expected: Revision
    value: bytes | None
    epoch: Epoch
    write_id: str


class SimRegister:
    """See the port Register."""

    def __init__(self, faults: FaultScript | None = None) -> None:
        self.faults: FaultScript = repeat(None) if faults is None else faults
        self._states: dict[str, list[HeadState]] = {}
        """Oldest first."""
        self._late: list[_Request] = []
        self._is_open = True

    async def read(self, key: str) -> HeadState:
        """See Register.read."""
        check_key(key)
        await self._begin()
        state = self._current(key)
        await asyncio.sleep(0)
        return state

    async def advance(
        self,
        key: str,
        *,
        expected: Revision,
        value: bytes | None,
        epoch: Epoch,
        write_id: str,
    ) -> AdvanceOutcome:
        """See Register.advance."""
        check_advance(key, expected=expected, value=value, epoch=epoch, write_id=write_id)
        fault = await self._begin()
        request = _Request(key=key, expected=expected, value=value, epoch=epoch, write_id=write_id)
        if fault is RegisterFault.LATE:
            self._late.append(request)
        outcome: AdvanceOutcome = Unknown(write_id=write_id)
        if fault not in (RegisterFault.LOST_BEFORE, RegisterFault.LATE):
            outcome = self._apply(request)
        await asyncio.sleep(0)
        if fault is RegisterFault.LOST_AFTER:
            return Unknown(write_id=write_id)
        return outcome

    async def history(self, key: str, limit: int) -> list[HeadState]:
        """See Register.history."""
        check_key(key)
        await self._begin()
        return self._states.get(key, [])[::-1][: max(0, limit)]

    async def list_keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """See Register.list_keys."""
        await self._begin()
        keys = sorted(key for key in self._states if key.startswith(prefix) and key > after)
        return keys[: max(0, min(limit, HEAD_KEYS_PAGE_MAX))]

    async def check(self) -> None:
        """See Register.check."""
        await self._begin()

    async def close(self) -> None:
        """See Register.close."""
        self._is_open = False

    async def _begin(self) -> RegisterFault | None:
        fault = next(self.faults)
        for _ in range(8 if fault is RegisterFault.DELAYED else 1):
            await asyncio.sleep(0)
        if not self._is_open or fault is RegisterFault.UNAVAILABLE:
            raise UnavailableError("the simulated register is unavailable", code="simulated")
        if self._late and fault is RegisterFault.DELAYED:
            self._apply(self._late.pop(0))
        return fault

    def _apply(self, request: _Request) -> AdvanceOutcome:
        states = self._states.get(request.key, [])
        current = self._current(request.key)
        decided = decide_advance(
            current,
            next((state for state in states if state.revision > request.expected), None),
            expected=request.expected,
            epoch=request.epoch,
            write_id=request.write_id,
        )
        if decided is not None:
            return decided
        state = HeadState(
            value=request.value,
            revision=Revision(current.revision + 1),
            epoch=request.epoch,
            is_tombstone=request.value is None,
            write_id=request.write_id,
        )
        self._states[request.key] = [*states, state][-HEAD_HISTORY_MAX:]
        return Advanced(state=state)

    def _current(self, key: str) -> HeadState:
        return self._states[key][-1] if key in self._states else ABSENT

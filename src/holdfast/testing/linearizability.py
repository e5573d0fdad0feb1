"""Decides whether a recorded history of one register could have been that of a single, atomic one.

The search of Wing and Gong with Lowe's memory of configurations seen: try the operations that may
come first, in every order that real time leaves open, and take back what leads nowhere. States are
named by the write ids that made them, each written at most once, so that little is left open.

1. An operation takes effect at one moment between its call and its return.
2. One whose outcome is unknown takes effect at one moment after its call, or never.
3. A successful advance finds the state it expects; a read, and a refusal, the state it reports.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.errors import CapacityError, HoldfastError, UnavailableError
from holdfast.model.head import (
    Advanced,
    AdvanceOutcome,
    Epoch,
    HeadState,
    RefusalReason,
    Refused,
    Revision,
)
from holdfast.ports import Register

STEPS_MAX: Final = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call on one key, as its client saw it."""

    key: str
    called_ns: int
    returned_ns: int | None
    """None: the outcome is unknown."""
    before: str
    """The write id of the state it must find; empty: never written."""
    after: str
    """The write id of the state it leaves; of a read, the same as `before`."""


def find_violation(operations: Iterable[Operation]) -> list[Operation] | None:
    """Return the operations of a key that no order explains, or None if there is no such key.

    Raises:
        CapacityError: The search took more than STEPS_MAX steps.
    """
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    for history in by_key.values():
        stuck = _Search(history).run()
        if stuck is not None:
            return stuck
    return None


class _Search:
    """One search over the history of one key."""

    def __init__(self, history: Sequence[Operation]) -> None:
        # One in doubt whose state nobody ever found may as well never have happened.
        found = {operation.before for operation in history}
        self._operations = sorted(
            (each for each in history if each.returned_ns is not None or each.after in found),
            key=lambda operation: operation.called_ns,
        )
        self._certain = sum(
            1 << number
            for number, operation in enumerate(self._operations)
            if operation.returned_ns is not None
        )
        self._deepest = 0

    def run(self) -> list[Operation] | None:
        """Return None once all certain operations have a place, else what is left at best."""
        seen: set[tuple[int, str]] = set()
        trail: list[tuple[int, str]] = [(0, "")]
        steps_count = 0
        while trail:
            done, state = trail.pop()
            if self._certain & ~done == 0:
                return None
            if (done, state) in seen:
                continue
            seen.add((done, state))
            steps_count += 1
            if steps_count > STEPS_MAX:
                raise CapacityError("the history is too entangled to decide", code="search-limit")
            if done.bit_count() > self._deepest.bit_count():
                self._deepest = done
            trail += self._next(done, state)
        return [
            operation
            for number, operation in enumerate(self._operations)
            if not self._deepest >> number & 1 and operation.returned_ns is not None
        ][:20]

    def _next(self, done: int, state: str) -> list[tuple[int, str]]:
        """Return every configuration that one more operation leads to."""
        found = []
        earliest_return: float = float("inf")
        # The first that is not done yet: the lowest bit that is not set.
        first = (~done & (done + 1)).bit_length() - 1
        for number in range(first, len(self._operations)):
            operation = self._operations[number]
            if operation.called_ns > earliest_return:
                break
            if done >> number & 1:
                continue
            if operation.returned_ns is not None:
                earliest_return = min(earliest_return, operation.returned_ns)
            if operation.before != state:
                continue
            step = (done | 1 << number, operation.after)
            if operation.before == operation.after and operation.returned_ns is not None:
                # What changes nothing and may go now loses nothing by going now.
                return [step]
            found.append(step)
        return found[::-1]


@dataclass(slots=True)
class Recorder:
    """Calls a register for a client and notes when, and with what outcome.

    An advance that is unknown is asked for again, with the same arguments, as its contract wants.
    """

    register: Register
    operations: list[Operation] = field(default_factory=list)
    unknown_count: int = 0
    unavailable_count: int = 0
    _ids: dict[tuple[str, int], str] = field(default_factory=dict)

    async def read(self, key: str) -> HeadState | None:
        """Read; None if the register is unavailable, which is no operation."""
        called_ns = time.monotonic_ns()
        try:
            state = await self.register.read(key)
        except UnavailableError:
            self.unavailable_count += 1
            return None
        self._note(key, called_ns, state.write_id, state.write_id)
        self._learn(key, state)
        return state

    async def advance(
        self, key: str, seen: HeadState, value: bytes, write_id: str, *, attempts_max: int = 3
    ) -> AdvanceOutcome | None:
        """Advance from a state this recorder has seen; None if nothing was ever sent."""
        called_ns = time.monotonic_ns()
        outcome: AdvanceOutcome | None = None
        for _ in range(attempts_max):
            try:
                answer = await self.register.advance(
                    key,
                    expected=Revision(seen.revision),
                    value=value,
                    epoch=Epoch(seen.epoch),
                    write_id=write_id,
                )
            except UnavailableError:
                self.unavailable_count += 1
                await asyncio.sleep(0)
                continue
            except (HoldfastError, asyncio.CancelledError):
                self._note(key, called_ns, seen.write_id, write_id, is_known=False)
                raise
            outcome = answer
            match answer:
                case Advanced(state=state):
                    self._learn(key, state)
                    self._note(key, called_ns, seen.write_id, write_id)
                    return outcome
                case Refused(current=current, reason=reason):
                    assert reason is RefusalReason.EPOCH or current.revision != seen.revision
                    self._learn(key, current)
                    self._note(key, called_ns, current.write_id, current.write_id)
                    return outcome
                case _:
                    self.unknown_count += 1
        if outcome is not None:
            self._note(key, called_ns, seen.write_id, write_id, is_known=False)
        return outcome

    def _learn(self, key: str, state: HeadState) -> None:
        known = self._ids.setdefault((key, state.revision), state.write_id)
        assert known == state.write_id, f"revision {state.revision} of {key} names two states"

    def _note(
        self, key: str, called_ns: int, before: str, after: str, *, is_known: bool = True
    ) -> None:
        returned_ns = time.monotonic_ns() if is_known else None
        self.operations.append(
            Operation(
                key=key, called_ns=called_ns, returned_ns=returned_ns, before=before, after=after
            )
        )

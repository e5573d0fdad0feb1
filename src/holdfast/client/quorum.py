"""The client of N independent heads services: ickpt's way to high availability, corrected.

A write is prepared and committed at a majority, a read is what a majority says. Where values only
grow (`components_of`), a read takes the greatest of a majority and first brings a majority up to
it: then reads and writes are linearizable, and a write that stopped half-way is completed by the
next reader. Without that rule the half-written state is reported, not guessed at. It is no
consensus: a compare-and-set over N services needs a register that they share.

Invariants:

1. No call waits for more than a majority, but for the grace that a write gives the others to take
   part: a service that is down or slow holds up nobody.
2. A copy from the object store is no vote: a service that has been wiped does not take part.
3. One refusal is no veto, and one yes no majority.
4. Of a write that is neither known to be done nor known to be undone the caller is told so.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from holdfast.client.heads import HeadName, HeadsInstance, ServedHead
from holdfast.errors import (
    ConflictError,
    HoldfastError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.ports import Entropy

GRACE_S: Final = 0.25

ComponentsOf = Callable[[bytes], tuple[int, ...]]
ResultT = TypeVar("ResultT")


def majority_of(instances_count: int) -> int:
    """Return how many of N any two groups of which share a member."""
    return instances_count // 2 + 1


def greatest(values: Sequence[bytes], components_of: ComponentsOf) -> bytes:
    """Return the value that all others may be followed by; ConflictError for a fork."""
    best = max(values, key=components_of)
    for value in values:
        parts = zip(components_of(value), components_of(best), strict=True)
        is_equal = components_of(value) == components_of(best)
        if any(part > top for part, top in parts) or (is_equal and value != best):
            raise ConflictError(
                "two writers: neither value follows the other",
                code="head-forked",
                advice="find the other writer; nothing was changed",
                current=best,
                proposed=value,
            )
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumRules:
    """What the protocol rests on; changed only to show what breaks without it."""

    majority: Callable[[int], int] = majority_of
    choose: Callable[[Sequence[bytes], ComponentsOf], bytes] = greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What came back until enough did: by instance, a result or an error."""

    results: dict[int, object] = field(default_factory=dict)
    errors: dict[int, HoldfastError] = field(default_factory=dict)

    def take(
        self, done: "set[asyncio.Task[object]]", asked: "dict[asyncio.Task[object], int]"
    ) -> None:
        """Add what has come back, in the order of the instances."""
        for task in sorted(done, key=asked.__getitem__):
            try:
                self.results[asked[task]] = task.result()
            except HoldfastError as error:
                self.errors[asked[task]] = error


class QuorumClient:
    """Reads and writes heads at a majority of independent services."""

    def __init__(
        self,
        instances: Sequence[HeadsInstance],
        entropy: Entropy,
        *,
        components_of: ComponentsOf | None = None,
        grace_s: float = GRACE_S,
        rules: QuorumRules | None = None,
    ) -> None:
        assert instances
        self._grace_s = grace_s
        self._instances = instances
        self._entropy = entropy
        self._components_of = components_of
        self._rules = rules or QuorumRules()
        self._majority = self._rules.majority(len(instances))
        self._stragglers: set[asyncio.Task[object]] = set()

    async def read(self, name: HeadName) -> bytes | None:
        """Return what a majority holds; None if it is deleted or was never written there.

        Raises:
            UnavailableError: Fewer than a majority answered (`no-quorum`).
            ConflictError: A majority answered, and agrees on nothing (`no-majority`).
        """
        answers = await self._ask(
            lambda instance: _vote(instance, name), range(len(self._instances)), self._agrees
        )
        votes = {index: vote for index, vote in answers.results.items() if vote is not None}
        heads = {index: vote for index, vote in votes.items() if isinstance(vote, ServedHead)}
        if len(votes) < self._majority:
            raise _no_quorum(answers)
        if self._components_of is not None and heads:
            values = [head.value for head in heads.values()]
            value = self._rules.choose(values, self._components_of)
            await self._bring_up(name, value, heads, votes)
            return value
        value_counts = Counter(_value_of(vote) for vote in votes.values())
        (common, count), *_ = value_counts.most_common(1)
        if count < self._majority:
            raise ConflictError(
                "a majority answered and agrees on no value: a write stopped half-way",
                code="no-majority",
                advice="write the head anew, or let values only grow",
                values=[value for value in value_counts if value is not None],
            )
        return common

    async def write(self, name: HeadName, value: bytes | None) -> None:
        """Put a value (None deletes) at a majority; when this returns, every read sees it.

        Raises:
            UnavailableError: No majority took it; nothing was changed (`no-quorum`).
            OutcomeUnknownError: Fewer than a majority committed it (`half-written`).
        """
        if value is None and self._components_of is not None:
            raise UnsupportedError(
                "a head whose values only grow cannot be deleted: nothing is greater than a value",
                code="grown-head-stays",
            )
        transaction_id = "/" + self._entropy.random_bytes(8).hex().upper()
        prepared = await self._ask(
            lambda instance: instance.prepare(name, transaction_id, value),
            range(len(self._instances)),
            self._is_enough,
            self._grace_s,
        )
        if len(prepared.results) < self._majority:
            raise _no_quorum(prepared)
        committed = await self._ask(
            lambda instance: instance.commit(name, transaction_id),
            prepared.results,
            self._is_enough,
        )
        if len(committed.results) < self._majority:
            raise OutcomeUnknownError(
                f"{len(committed.results)} of {len(self._instances)} services committed it",
                code="half-written",
                advice="read it back, or write again",
                reasons=sorted({error.code for error in committed.errors.values()}),
            )

    async def finish(self) -> None:
        """Wait for requests whose answers nobody needed any more."""
        await asyncio.gather(*self._stragglers, return_exceptions=True)

    async def _bring_up(
        self, name: HeadName, value: bytes, heads: dict[int, ServedHead], votes: dict[int, object]
    ) -> None:
        """Have a majority hold `value` before it is returned, or raise."""
        holding = sum(head.value == value for head in heads.values())
        if holding >= self._majority:
            return
        transaction_id = "/" + self._entropy.random_bytes(8).hex().upper()

        async def repair(index: int, instance: HeadsInstance) -> None:
            revision = heads[index].revision if index in heads else None
            await instance.prepare(name, transaction_id, value, revision)
            await instance.commit(name, transaction_id)

        behind = [i for i in votes if i not in heads or heads[i].value != value]
        repaired = await self._ask_each(repair, behind, lambda a: holding + len(a.results))
        if holding + len(repaired.results) < self._majority:
            raise _no_quorum(repaired)

    def _agrees(self, answers: _Answers) -> bool:
        """Whether enough has been heard for a read."""
        votes = [vote for vote in answers.results.values() if vote is not None]
        if self._components_of is not None:
            return len(votes) >= self._majority
        counts = Counter(_value_of(vote) for vote in votes)
        return bool(counts) and max(counts.values()) >= self._majority

    def _is_enough(self, answers: _Answers) -> bool:
        return len(answers.results) >= self._majority

    async def _ask(
        self,
        call: Callable[[HeadsInstance], Awaitable[object]],
        indexes: Sequence[int] | dict[int, object],
        is_enough: Callable[[_Answers], bool],
        grace_s: float = 0.0,
    ) -> _Answers:
        return await self._ask_until(
            lambda _, instance: call(instance), indexes, is_enough, grace_s
        )

    async def _ask_each(
        self,
        call: Callable[[int, HeadsInstance], Awaitable[object]],
        indexes: Sequence[int],
        count: Callable[[_Answers], int],
    ) -> _Answers:
        return await self._ask_until(call, indexes, lambda a: count(a) >= self._majority)

    async def _ask_until(
        self,
        call: Callable[[int, HeadsInstance], Awaitable[object]],
        indexes: Sequence[int] | dict[int, object],
        is_enough: Callable[[_Answers], bool],
        grace_s: float = 0.0,
    ) -> _Answers:
        """Ask many at once; return when enough is known. The others go on and are left alone.

        Args:
            grace_s: How long the others are still waited for then.
        """
        answers = _Answers()
        asked: dict[asyncio.Task[object], int] = {
            asyncio.ensure_future(_awaited(call(index, self._instances[index]))): index
            for index in indexes
        }
        waiting = set(asked)
        while waiting and not is_enough(answers):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answers.take(done, asked)
        if waiting and grace_s:
            done, waiting = await asyncio.wait(waiting, timeout=grace_s)
            answers.take(done, asked)
        for task in waiting:
            self._stragglers.add(task)
            task.add_done_callback(self._let_go)
        return answers

    def _let_go(self, task: "asyncio.Task[object]") -> None:
        self._stragglers.discard(task)
        if not task.cancelled():
            task.exception()


class _Absent:
    """A vote: this service knows that there is no head."""


_ABSENT = _Absent()


async def _vote(instance: HeadsInstance, name: HeadName) -> object:
    """Return the head a service votes for, _ABSENT for a deleted one, None for no vote."""
    try:
        head = await instance.get(name)
    except NotFoundError as error:
        if error.code == "head-deleted":
            return _ABSENT
        raise
    return None if head.is_from_store else head


def _value_of(vote: object) -> bytes | None:
    return vote.value if isinstance(vote, ServedHead) else None


async def _awaited(awaitable: Awaitable[ResultT]) -> ResultT:
    return await awaitable


def _no_quorum(answers: _Answers) -> UnavailableError:
    reasons = sorted({error.code for error in answers.errors.values()})
    said = f" ({', '.join(reasons)})" if reasons else ""
    return UnavailableError(
        f"too few heads services agreed to it{said}",
        code="no-quorum",
        advice="bring a majority of them up; a wiped one has to be written to first",
        reasons=", ".join(reasons),
    )

"""N heads services in one loop, each with the real rules, behind a network that loses and delays.

A run repeats from its seed: nothing waits but by giving way to others a drawn number of times.
"""

import asyncio
import random
from dataclasses import dataclass, field

from holdfast.client.heads import HeadName, ServedHead
from holdfast.errors import (
    ConflictError,
    HoldfastError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    UnavailableError,
)
from holdfast.heads.advance import decide_growth
from holdfast.heads.model import (
    Done,
    Mismatched,
    Operation,
    Proposal,
    Transaction,
)
from holdfast.heads.rules import Transactions
from holdfast.model.head import ABSENT, Advanced, AdvanceOutcome, HeadState, Revision
from holdfast.testing.clock import SimEntropy

KEY = "k"


def components(value: bytes) -> tuple[int, ...]:
    """Return the numbers of a value such as b"3 7"."""
    return tuple(int(part) for part in value.split())


@dataclass(slots=True)
class Faults:
    """What may happen to a request, in percent."""

    chance: random.Random
    loss_percent: int = 5
    delay_max: int = 8
    duplicate_percent: int = 5


@dataclass(slots=True)
class SimInstance:
    """One service: HeadsInstance for the quorum client."""

    faults: Faults
    is_growing: bool = True
    """Whether values may only grow, as Monotonic says."""
    is_down: bool = False
    state: HeadState = ABSENT
    entropy: SimEntropy = field(default_factory=lambda: SimEntropy(0))
    transactions: Transactions = field(
        default_factory=lambda: Transactions(timeout_ns=1, pending_max=9, outcomes_max=99)
    )

    async def get(self, name: HeadName) -> ServedHead:
        await self._travel()
        head = self._head()
        await self._travel_back(OutcomeUnknownError)
        return head

    async def prepare(
        self,
        name: HeadName,
        transaction_id: str,
        value: bytes | None,
        if_revision: Revision | None = None,
    ) -> Revision:
        await self._travel()
        proposal = Proposal(
            id=transaction_id,
            operation=Operation.DELETE if value is None else Operation.PUT,
            value=value,
            if_revision=if_revision,
            write_id=self.entropy.random_bytes(8).hex(),
        )
        answer = self.transactions.prepare(KEY, proposal, self.state, 0)
        await self._travel_back(UnavailableError)
        if isinstance(answer, Mismatched):
            raise ConflictError("moved", code="head-moved")
        return self.state.revision

    async def commit(self, name: HeadName, transaction_id: str) -> Revision:
        await self._travel()
        revision = self._commit(transaction_id)
        if self.faults.chance.randrange(100) < self.faults.duplicate_percent:
            try:
                self._commit(transaction_id)
            except HoldfastError:
                pass
        await self._travel_back(OutcomeUnknownError)
        return revision

    def restart(self) -> None:
        """Lose what was only in memory."""
        self.transactions = Transactions(timeout_ns=1, pending_max=9, outcomes_max=99)
        self.is_down = False

    def wipe(self) -> None:
        """Lose the disk too."""
        self.restart()
        self.state = ABSENT

    def _head(self) -> ServedHead:
        if self.state.is_tombstone:
            raise NotFoundError("deleted", code="head-deleted")
        return ServedHead(
            value=self.state.value or b"0 0",
            revision=self.state.revision,
            is_from_store=self.state.value is None,
        )

    def _commit(self, transaction_id: str) -> Revision:
        begun = self.transactions.begin_commit(KEY, transaction_id, 0)
        if isinstance(begun, Transaction):
            begun_answer = self.transactions.end_commit(KEY, begun, self._advance(begun))
        else:
            begun_answer = begun
        if isinstance(begun_answer, Done):
            return begun_answer.revision
        raise StateError("gone", code="transaction-gone")

    def _advance(self, transaction: Transaction) -> AdvanceOutcome:
        if self.is_growing and transaction.value is not None:
            decided = decide_growth(self.state, transaction.value, components)
            if decided is not None:
                return decided
        self.state = HeadState(
            value=transaction.value,
            revision=Revision(self.state.revision + 1),
            epoch=self.state.epoch,
            is_tombstone=transaction.value is None,
            write_id=transaction.write_id,
        )
        return Advanced(state=self.state)

    async def _travel(self) -> None:
        await self._give_way()
        if self.is_down or self._is_lost():
            raise UnavailableError("lost", code="heads-silent")

    async def _travel_back(self, kind: type[HoldfastError]) -> None:
        await self._give_way()
        if self._is_lost():
            raise kind("lost", code="heads-silent")

    async def _give_way(self) -> None:
        for _ in range(self.faults.chance.randrange(self.faults.delay_max)):
            await asyncio.sleep(0)

    def _is_lost(self) -> bool:
        return self.faults.chance.randrange(100) < self.faults.loss_percent

"""Use cases of the heads service: read a head, prepare a change, commit it, ask what became of it.

Carries out what rules.py decides, over a Register and a Gate; knows no HTTP.

Invariants:

1. The store is asked before the key's lane is entered: a slow store holds up nobody else, and of
   its connections one key uses a bounded part.
2. A commit that began is ended whatever happens: an answer that did not come is in doubt, and
   settled by reading back what its write id made, or by the same advance again.
3. Nothing of another's pending transaction can be seen.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from holdfast.errors import (
    CapacityError,
    ConflictError,
    FencedError,
    HoldfastError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    StorageFailedError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.heads.address import Address, Realm, parse_address
from holdfast.heads.advance import ComponentsOf, decide_growth
from holdfast.heads.gate import Gate, check_token
from holdfast.heads.lanes import Lanes
from holdfast.heads.model import (
    Done,
    Fate,
    FateReport,
    Full,
    Gone,
    GoneReason,
    InDoubt,
    Mismatched,
    Operation,
    Prepared,
    Proposal,
    Transaction,
)
from holdfast.heads.rules import Transactions
from holdfast.model.head import Advanced, AdvanceOutcome, HeadState, Revision, Unknown
from holdfast.model.limits import HEAD_HISTORY_MAX
from holdfast.ports import Clock, Entropy, Register

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a GET answers with."""

    value: bytes
    revision: Revision
    is_from_store: bool
    """There is no head: this is the store's copy, which may be stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request it is and about which object, as the headers said."""

    storage_url: str | None
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the service works with."""

    register: Register
    gate: Gate
    realms: tuple[Realm, ...]
    transactions: Transactions
    store_lanes: Lanes
    commit_lanes: Lanes
    clock: Clock
    entropy: Entropy
    commit_timeout_s: float
    on_failure: Callable[[StorageFailedError], None]
    """Told that the register is done for: only a restart helps."""
    components_of: ComponentsOf | None = None
    """Set: values of a head only grow."""


class Heads:
    """The service; one for each process, all calls from one loop."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._register = around.register
        self._transactions = around.transactions
        self._committing: set[asyncio.Future[Done | Gone | InDoubt]] = set()

    async def read(self, caller: Caller) -> Head:
        """Return the committed value, else the store's copy.

        Raises:
            NotFoundError: The head was deleted (`head-deleted`), or the store has no such object.
        """
        address, copy = await self._prove_read(caller, may_remember=True)
        state = await self._in_time(self._register.read(address.key))
        if state.value is not None:
            return Head(value=state.value, revision=state.revision, is_from_store=False)
        if state.is_tombstone:
            raise NotFoundError(
                "the head was deleted",
                code="head-deleted",
                revision=state.revision,
            )
        if copy is None:
            _, copy = await self._prove_read(caller, may_remember=False)
        if copy is None:
            raise UnsupportedError(
                "there is no head yet, and the object in the store is too long to be one",
                code="store-copy-too-long",
                advice="check X-Storage-Url: it must name the checkpoint object",
            )
        return Head(value=copy, revision=state.revision, is_from_store=True)

    async def prepare(
        self,
        caller: Caller,
        transaction_id: str,
        operation: Operation,
        value: bytes | None,
        if_revision: Revision | None,
    ) -> Prepared:
        """Take a PUT or DELETE; the change waits for its POST.

        Raises:
            ConflictError: The head is at another revision than If-Match says (`head-moved`).
            CapacityError: Too many transactions are pending (`transactions-full`).
        """
        if value is not None and self._around.components_of is not None:
            self._around.components_of(value)
        address = await self._prove_write(caller)
        proposal = Proposal(
            id=transaction_id,
            operation=operation,
            value=value,
            if_revision=if_revision,
            write_id=self._write_id(transaction_id),
        )
        async with self._around.commit_lanes.enter(address.key):
            current = await self._in_time(self._register.read(address.key))
            answer = self._transactions.prepare(
                address.key, proposal, current, self._around.clock.monotonic_ns()
            )
        match answer:
            case Prepared():
                return answer
            case Mismatched(current=current):
                raise _moved(current.revision)
            case Full():
                raise CapacityError(
                    "too many transactions are pending",
                    code="transactions-full",
                    advice="commit them, or try again when some have expired",
                )

    async def commit(self, caller: Caller, transaction_id: str) -> Done:
        """Take a POST; when this returns, the change is durable and seen by every read.

        Raises:
            StateError: There is nothing to commit under this id (`transaction-gone`).
            ConflictError: The head has moved from If-Match's revision (`head-moved`), or values
                only grow and this one does not (`head-forked`, `head-behind`).
            OutcomeUnknownError: `commit-in-doubt`; the same POST again tells.
        """
        address = await self._prove_write(caller)
        # In a task of its own: a caller that goes away must not cut it short.
        committing = asyncio.ensure_future(self._commit_in_lane(address.key, transaction_id))
        self._committing.add(committing)
        committing.add_done_callback(self._committing.discard)
        answer = await asyncio.shield(committing)
        match answer:
            case Done():
                return answer
            case Gone():
                raise _gone(answer)
            case InDoubt():
                raise OutcomeUnknownError(
                    "the commit was begun and its outcome is not known",
                    code="commit-in-doubt",
                    advice="send the same POST again, or ask with X-Transaction-Id",
                )

    async def fate(self, caller: Caller, transaction_id: str) -> FateReport:
        """Say what became of a transaction; after a restart, as far as the history tells."""
        address, _ = await self._prove_read(caller, may_remember=True)
        told = self._transactions.fate(
            address.key, transaction_id, self._around.clock.monotonic_ns()
        )
        if told.fate is not Fate.UNKNOWN:
            return told
        prefix = _write_id_prefix(transaction_id)
        past = await self._in_time(self._register.history(address.key, HEAD_HISTORY_MAX))
        for state in past:
            if state.write_id.startswith(prefix):
                return FateReport(fate=Fate.DONE, revision=state.revision)
        return told

    async def history(self, caller: Caller, limit: int) -> list[HeadState]:
        """Return up to `limit` past states of a head, newest first."""
        address, _ = await self._prove_read(caller, may_remember=True)
        return await self._in_time(self._register.history(address.key, limit))

    async def finish(self) -> None:
        """Wait until no commit is under way."""
        await asyncio.gather(*self._committing, return_exceptions=True)

    async def check(self) -> None:
        """Make a real commit, or raise UnavailableError within the commit timeout."""
        await self._in_time(self._register.check())

    async def _prove_read(
        self, caller: Caller, *, may_remember: bool
    ) -> tuple[Address, bytes | None]:
        address = self._address(caller)
        if may_remember and self._around.gate.remembers_read(address, caller.token):
            return address, None
        async with self._around.store_lanes.enter(address.key):
            return address, await self._around.gate.read(address, caller.token)

    async def _prove_write(self, caller: Caller) -> Address:
        address = self._address(caller)
        async with self._around.store_lanes.enter(address.key):
            await self._around.gate.prove_write(address, caller.token)
        return address

    async def _in_time(self, call: Awaitable[ResultT]) -> ResultT:
        """Await what changes nothing, for as long as a commit may take."""
        try:
            async with asyncio.timeout(self._around.commit_timeout_s):
                return await call
        except StorageFailedError as error:
            self._around.on_failure(error)
            raise
        except TimeoutError:
            raise UnavailableError(
                "the register did not answer in time",
                code="register-slow",
                advice="try again; look at /readyz",
            ) from None

    def _address(self, caller: Caller) -> Address:
        address = parse_address(caller.storage_url, self._around.realms)
        check_token(caller.token)
        return address

    async def _commit_in_lane(self, key: str, transaction_id: str) -> Done | Gone | InDoubt:
        async with self._around.commit_lanes.enter(key):
            begun = self._transactions.begin_commit(
                key, transaction_id, self._around.clock.monotonic_ns()
            )
            if isinstance(begun, Transaction):
                return await self._carry_out(key, begun)
            return begun

    async def _carry_out(self, key: str, transaction: Transaction) -> Done | Gone | InDoubt:
        outcome: AdvanceOutcome = Unknown(write_id=transaction.write_id)
        try:
            async with asyncio.timeout(self._around.commit_timeout_s):
                outcome = await self._advance(key, transaction)
        except TimeoutError:
            pass
        except StorageFailedError as error:
            self._around.on_failure(error)
            raise
        finally:
            # Whatever was raised, the transaction must not stay as it was: at worst it is in doubt.
            answer = self._transactions.end_commit(key, transaction, outcome)
        return answer

    async def _advance(self, key: str, transaction: Transaction) -> AdvanceOutcome:
        refusal = await self._refuse_by_growth(key, transaction)
        if refusal is not None:
            return refusal
        outcome = await self._register.advance(
            key,
            expected=transaction.expected,
            value=transaction.value,
            epoch=transaction.epoch,
            write_id=transaction.write_id,
        )
        if isinstance(outcome, Unknown):
            for state in await self._register.history(key, HEAD_HISTORY_MAX):
                if state.write_id == transaction.write_id:
                    return Advanced(state=state)
        return outcome

    async def _refuse_by_growth(self, key: str, transaction: Transaction) -> AdvanceOutcome | None:
        if self._around.components_of is None or transaction.value is None:
            return None
        current = await self._register.read(key)
        if current.write_id == transaction.write_id:
            return Advanced(state=current)
        return decide_growth(current, transaction.value, self._around.components_of)

    def _write_id(self, transaction_id: str) -> str:
        return _write_id_prefix(transaction_id) + self._around.entropy.random_bytes(16).hex()


def _write_id_prefix(transaction_id: str) -> str:
    digest = hashlib.blake2b(transaction_id.encode("utf-8", "surrogateescape"), digest_size=16)
    return f"ickpt-{digest.hexdigest()}-"


def _moved(revision: Revision) -> ConflictError:
    return ConflictError(
        "the head is at another revision than If-Match names",
        code="head-moved",
        advice="read it again and decide",
        revision=revision,
    )


_GONE: dict[GoneReason, Callable[[Gone], HoldfastError]] = {
    GoneReason.REVISION: lambda _: ConflictError(
        "the head has moved from the revision that If-Match named", code="head-moved"
    ),
    GoneReason.FENCED: lambda _: FencedError(
        "a newer epoch has written this head", code="head-fenced"
    ),
    GoneReason.FORK: lambda gone: _fork("head-forked", "two writers: neither value follows", gone),
    GoneReason.BEHIND: lambda gone: _fork("head-behind", "the value is older than the head", gone),
}


def _gone(gone: Gone) -> HoldfastError:
    make = _GONE.get(gone.reason)
    if make is not None:
        return make(gone)
    return StateError(
        f"there is nothing to commit under this id ({gone.reason})",
        code="transaction-gone",
        advice="begin again with a new id",
        reason=str(gone.reason),
    )


def _fork(code: str, message: str, gone: Gone) -> ConflictError:
    current, proposed = gone.evidence or (None, None)
    return ConflictError(
        message,
        code=code,
        advice="find the other writer; nothing was changed",
        current=current,
        proposed=proposed,
    )

"""The transactions of ickpt: what is pending for each key, what may commit, what is remembered.

Decides alone, from values and a time that is passed in; whoever calls it reads the register before
`prepare`, and between `begin_commit` and `end_commit` of a key makes no other call for that key.

Invariants:

1. A key has at most one pending transaction; preparing another supersedes it.
2. A transaction whose time is up cannot begin to commit, whether it was cleared away or not. One
   that began in time and is in doubt may be tried again: that is the only way to know.
3. The outcome of a commit is remembered, so a repeated POST is answered as the first one was.
4. Reading changes nothing: there is no method by which a GET could discard a transaction.
5. Memory is bounded: `pending_max` transactions, `outcomes_max` outcomes without their values.
6. No call raises, whatever came before it: there is no state in which a key is stuck.

Source: the table of answers in docs/guide/heads.md.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import assert_never

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
from holdfast.model.head import (
    Advanced,
    AdvanceOutcome,
    HeadState,
    RefusalReason,
    Refused,
    Revision,
    Unknown,
)

_GONE_REASONS = {
    RefusalReason.REVISION: GoneReason.REVISION,
    RefusalReason.EPOCH: GoneReason.FENCED,
    RefusalReason.FORK: GoneReason.FORK,
    RefusalReason.BEHIND: GoneReason.BEHIND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    """What became of a transaction that is no longer pending."""

    outcome: Done | Gone | InDoubt
    digest: bytes
    transaction: Transaction | None = None
    """Kept only while in doubt."""


class Transactions:
    """All transactions of one instance; owned by the service, one call at a time."""

    def __init__(self, *, timeout_ns: int, pending_max: int, outcomes_max: int) -> None:
        assert min(timeout_ns, pending_max, outcomes_max) > 0
        self._timeout_ns = timeout_ns
        self._pending_max = pending_max
        self._outcomes_max = outcomes_max
        # In the order of their preparing, which is the order of their expiry.
        self._pending: OrderedDict[str, Transaction] = OrderedDict()
        self._outcomes: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()

    @property
    def pending_count(self) -> int:
        """How many transactions wait, some of them perhaps expired."""
        return len(self._pending)

    @property
    def outcomes_count(self) -> int:
        """How many outcomes are remembered."""
        return len(self._outcomes)

    def prepare(
        self, key: str, proposal: Proposal, current: HeadState, now_ns: int
    ) -> Prepared | Mismatched | Full:
        """Take a PUT or DELETE; the same one again changes nothing."""
        self._expire(now_ns)
        if self._is_repeat(key, proposal, current):
            return Prepared(revision=current.revision)
        if proposal.if_revision is not None and proposal.if_revision != current.revision:
            return Mismatched(current=current)
        if key not in self._pending and len(self._pending) >= self._pending_max:
            return Full()
        superseded = self._pending.pop(key, None)
        if superseded is not None and superseded.id != proposal.id:
            self._remember(key, superseded, Gone(reason=GoneReason.SUPERSEDED))
        self._pending[key] = Transaction(
            id=proposal.id,
            operation=proposal.operation,
            value=proposal.value,
            expected=current.revision,
            is_conditional=proposal.if_revision is not None,
            epoch=current.epoch,
            write_id=proposal.write_id,
            expires_ns=now_ns + self._timeout_ns,
        )
        return Prepared(revision=current.revision)

    def begin_commit(self, key: str, transaction_id: str, now_ns: int) -> Transaction | Done | Gone:
        """Take a POST: the transaction to advance the register with, or the answer.

        A transaction is given out again and again until `end_commit` has been told its outcome.
        """
        self._expire(now_ns)
        pending = self._pending.get(key)
        if pending is not None and pending.id == transaction_id:
            return pending
        remembered = self._outcomes.get((key, transaction_id))
        if remembered is None:
            return Gone(reason=GoneReason.NEVER_PREPARED)
        if isinstance(remembered.outcome, InDoubt):
            assert remembered.transaction is not None
            return remembered.transaction
        return remembered.outcome

    def end_commit(
        self, key: str, transaction: Transaction, outcome: AdvanceOutcome
    ) -> Done | Gone | InDoubt:
        """Take what the register said of a transaction that `begin_commit` gave out."""
        answer = _answer(transaction, outcome)
        if self._pending.get(key) is transaction:
            del self._pending[key]
        self._remember(key, transaction, answer)
        return answer

    def fate(self, key: str, transaction_id: str, now_ns: int) -> FateReport:
        """Say what became of a transaction, as far as it is remembered."""
        pending = self._pending.get(key)
        if pending is not None and pending.id == transaction_id:
            if now_ns < pending.expires_ns:
                return FateReport(fate=Fate.PENDING)
            return FateReport(fate=Fate.REFUSED, reason=GoneReason.EXPIRED)
        remembered = self._outcomes.get((key, transaction_id))
        if remembered is None:
            return FateReport(fate=Fate.UNKNOWN, reason="never-heard-of")
        match remembered.outcome:
            case Done(revision=revision):
                return FateReport(fate=Fate.DONE, revision=revision)
            case Gone(reason=reason):
                return FateReport(fate=Fate.REFUSED, reason=reason)
            case InDoubt():
                return FateReport(fate=Fate.UNKNOWN, reason="in-doubt")
        assert_never(remembered.outcome)

    def _is_repeat(self, key: str, proposal: Proposal, current: HeadState) -> bool:
        """Whether this very change already waits, is in doubt, or is what the head now holds."""
        pending = self._pending.get(key)
        if pending is not None:
            same = _digest(pending.operation, pending.value) == _proposed(proposal)
            # If the head has moved meanwhile it is not a repeat: prepared anew, it can commit.
            return pending.id == proposal.id and same and pending.expected == current.revision
        remembered = self._outcomes.get((key, proposal.id))
        if remembered is None or remembered.digest != _proposed(proposal):
            return False
        match remembered.outcome:
            case Done(revision=revision):
                return revision == current.revision
            case Gone():
                return False
            case InDoubt():
                return True
        assert_never(remembered.outcome)

    def _expire(self, now_ns: int) -> None:
        while self._pending:
            key, oldest = next(iter(self._pending.items()))
            if now_ns < oldest.expires_ns:
                return
            del self._pending[key]
            self._remember(key, oldest, Gone(reason=GoneReason.EXPIRED))

    def _remember(self, key: str, transaction: Transaction, outcome: Done | Gone | InDoubt) -> None:
        name = (key, transaction.id)
        self._outcomes.pop(name, None)
        self._outcomes[name] = _Remembered(
            outcome=outcome,
            digest=_digest(transaction.operation, transaction.value),
            transaction=transaction if isinstance(outcome, InDoubt) else None,
        )
        while len(self._outcomes) > self._outcomes_max:
            self._outcomes.popitem(last=False)


def _answer(transaction: Transaction, outcome: AdvanceOutcome) -> Done | Gone | InDoubt:
    match outcome:
        case Advanced(state=state):
            return Done(revision=Revision(state.revision))
        case Refused(current=current, reason=reason):
            if reason is RefusalReason.REVISION and not transaction.is_conditional:
                # Another instance committed in between: there, this one was superseded.
                return Gone(reason=GoneReason.SUPERSEDED)
            is_fork = reason in (RefusalReason.FORK, RefusalReason.BEHIND)
            evidence = (current.value, transaction.value) if is_fork else None
            return Gone(reason=_GONE_REASONS[reason], evidence=evidence)
        case Unknown():
            return InDoubt()
    assert_never(outcome)


def _proposed(proposal: Proposal) -> bytes:
    return _digest(proposal.operation, proposal.value)


def _digest(operation: Operation, value: bytes | None) -> bytes:
    return hashlib.blake2b(operation.encode() + b"\0" + (value or b""), digest_size=16).digest()

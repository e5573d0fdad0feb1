"""Goal: the transactions of ickpt keep the invariants of heads/rules.py, whatever the order.

Method: hypothesis drives the machine and a model of plain dictionaries that keeps everything for
ever (another instance's commits and lost replies included), and compares every answer.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast.heads.model import (
    Done,
    Fate,
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
from holdfast.model.head import (
    ABSENT,
    Advanced,
    AdvanceOutcome,
    HeadState,
    RefusalReason,
    Refused,
    Revision,
    Unknown,
)

TIMEOUT_NS = 10
PENDING_MAX = 2
KEYS = st.sampled_from(["k1", "k2", "k3"])
IDS = st.sampled_from(["/", "/a", "/b"])
VALUES = st.sampled_from([b"v1", b"v2", None])


@dataclass
class World:
    """The register as it is, and what the model believes of every transaction."""

    heads: dict[str, HeadState] = field(default_factory=dict)
    pending: dict[str, tuple[str, bytes | None, int, int]] = field(default_factory=dict)
    """By key: id, value, expected revision, expiry."""
    fates: dict[tuple[str, str], tuple[str, bytes | None, int]] = field(default_factory=dict)
    """By key and id: fate, value, revision."""

    def head(self, key: str) -> HeadState:
        return self.heads.get(key, ABSENT)

    def write(self, key: str, value: bytes | None, write_id: str) -> HeadState:
        state = HeadState(
            value=value,
            revision=Revision(self.head(key).revision + 1),
            epoch=self.head(key).epoch,
            is_tombstone=value is None,
            write_id=write_id,
        )
        self.heads[key] = state
        return state


class TransactionsMachine(RuleBasedStateMachine):
    """Runs the machine beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Transactions(
            timeout_ns=TIMEOUT_NS, pending_max=PENDING_MAX, outcomes_max=1000
        )
        self.world = World()
        self.now_ns = 0
        self.write_ids = 0
        self.landing: dict[str, str] = {}

    def _expire(self) -> None:
        for key, (name, value, _, expires_ns) in list(self.world.pending.items()):
            if self.now_ns >= expires_ns:
                del self.world.pending[key]
                self.world.fates[key, name] = ("expired", value, 0)

    @rule(by=st.integers(1, TIMEOUT_NS + 1))
    def time_passes(self, by: int) -> None:
        self.now_ns += by

    @rule(key=KEYS, value=VALUES)
    def another_instance_commits(self, key: str, value: bytes | None) -> None:
        self.world.write(key, value, "other")

    @rule(key=KEYS, name=IDS, value=VALUES, condition=st.sampled_from(["", "current", "stale"]))
    def prepare(self, key: str, name: str, value: bytes | None, condition: str) -> None:
        self._expire()
        head = self.world.head(key)
        conditions = {"": None, "current": head.revision, "stale": Revision(head.revision + 7)}
        self.write_ids += 1
        answer = self.machine.prepare(
            key,
            Proposal(
                id=name,
                operation=Operation.DELETE if value is None else Operation.PUT,
                value=value,
                if_revision=conditions[condition],
                write_id=f"w{self.write_ids}",
            ),
            head,
            self.now_ns,
        )
        waiting = self.world.pending.get(key)
        if waiting is not None:
            repeat = waiting[:3] == (name, value, head.revision)
        else:
            fate = self.world.fates.get((key, name))
            repeat = fate is not None and (
                fate == ("done", value, head.revision) or fate[:2] == ("in-doubt", value)
            )
        if repeat:
            assert answer == Prepared(revision=head.revision)
        elif condition == "stale":
            assert answer == Mismatched(current=head)
        elif waiting is None and len(self.world.pending) == PENDING_MAX:
            assert answer == Full()
        else:
            assert answer == Prepared(revision=head.revision)
            if waiting is not None and waiting[0] != name:
                self.world.fates[key, waiting[0]] = ("superseded", waiting[1], 0)
            expiry = self.now_ns + TIMEOUT_NS
            self.world.pending[key] = (name, value, head.revision, expiry)

    @rule(key=KEYS, name=IDS, reply=st.sampled_from(["seen", "lost-done", "lost-undone"]))
    def commit(self, key: str, name: str, reply: str) -> None:
        self._expire()
        begun = self.machine.begin_commit(key, name, self.now_ns)
        waiting = self.world.pending.get(key)
        fate = self.world.fates.get((key, name), ("never-prepared", None, 0))
        is_waiting = waiting is not None and waiting[0] == name
        if not is_waiting and fate[0] != "in-doubt":
            if fate[0] == "done":
                assert begun == Done(revision=Revision(fate[2]))
            else:
                assert isinstance(begun, Gone)
                assert begun.reason == fate[0]
            return
        assert isinstance(begun, Transaction)
        assert begun.value == (waiting[1] if is_waiting and waiting is not None else fate[1])
        assert self.machine.begin_commit(key, name, self.now_ns) is begun
        outcome = self._advance(key, begun, reply)
        answer = self.machine.end_commit(key, begun, outcome)
        if is_waiting:
            del self.world.pending[key]
        match outcome:
            case Advanced(state=state):
                assert answer == Done(revision=state.revision)
                self.world.fates[key, name] = ("done", begun.value, state.revision)
            case Refused():
                reason = GoneReason.REVISION if begun.is_conditional else GoneReason.SUPERSEDED
                assert answer == Gone(reason=reason)
                self.world.fates[key, name] = (reason.value, begun.value, 0)
            case Unknown():
                assert answer == InDoubt()
                self.world.fates[key, name] = ("in-doubt", begun.value, 0)

    def _advance(self, key: str, transaction: Transaction, reply: str) -> AdvanceOutcome:
        head = self.world.head(key)
        if head.write_id == transaction.write_id:
            return Advanced(state=head)
        if head.revision != transaction.expected:
            return Refused(current=head, reason=RefusalReason.REVISION)
        if reply == "lost-undone":
            return Unknown(write_id=transaction.write_id)
        state = self.world.write(key, transaction.value, transaction.write_id)
        if reply == "lost-done":
            return Unknown(write_id=transaction.write_id)
        return Advanced(state=state)

    @invariant()
    def fates_are_told(self) -> None:
        self._expire()
        words = {"done": Fate.DONE, "in-doubt": Fate.UNKNOWN}
        for (key, name), (fate, _, _) in self.world.fates.items():
            told = self.machine.fate(key, name, self.now_ns).fate
            waiting = self.world.pending.get(key)
            if waiting is not None and waiting[0] == name:
                assert told is Fate.PENDING
            else:
                assert told is words.get(fate, Fate.REFUSED)

    @invariant()
    def pending_is_bounded(self) -> None:
        assert self.machine.pending_count <= PENDING_MAX


TransactionsMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestTransactions = TransactionsMachine.TestCase


def test_outcomes_are_bounded_and_the_oldest_go_first() -> None:
    machine = Transactions(timeout_ns=TIMEOUT_NS, pending_max=10, outcomes_max=3)
    for number in range(10):
        proposal = Proposal(
            id=f"/{number}",
            operation=Operation.PUT,
            value=b"v",
            if_revision=None,
            write_id=f"w{number}",
        )
        machine.prepare("k", proposal, ABSENT, number * TIMEOUT_NS)

    assert machine.outcomes_count == 3
    now_ns = 10 * TIMEOUT_NS
    assert machine.fate("k", "/0", now_ns).fate is Fate.UNKNOWN
    assert machine.fate("k", "/8", now_ns).reason == GoneReason.EXPIRED

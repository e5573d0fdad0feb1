"""How many requests for files are served at once, and how long a reader may stand still.

Invariants:

1. Permits out plus permits free is the capacity, always; a permit is given back exactly once.
2. No permit is kept by a client that does not take a piece in CLIENT_TIMEOUT_S (or as set).
3. No address keeps all permits from another by standing still: when all are out, whoever holds
   fewer takes one whose reader has not taken a piece for STILL_S from whoever holds the most.
"""

from collections import Counter
from types import TracebackType
from typing import Final, Protocol

from holdfast.errors import UnavailableError

CLIENT_TIMEOUT_S: Final = 30.0
"""How long a client may take to send a body, or to take one piece of an answer."""
STILL_S: Final = 5.0


class Answering(Protocol):
    """An answer that is being sent."""

    def still_s(self) -> float:
        """Return since when the client has not taken the piece that is being sent."""

    def break_off(self) -> None:
        """End it soon, unfinished."""


class Permits:
    """A cap that refuses instead of making wait; owned by the event loop."""

    def __init__(self, capacity: int, refusal: str) -> None:
        """Hold `capacity` permits.

        Args:
            refusal: What to tell whoever comes when all are out.
        """
        assert capacity >= 1
        self._capacity = capacity
        self._refusal = refusal
        self._held: set[Permit] = set()

    @property
    def in_use(self) -> int:
        """How many are out."""
        return len(self._held)

    def take(self, owner: str = "") -> "Permit":
        """Return a permit, or raise UnavailableError (`too-many-requests`).

        Args:
            owner: The address it is for.
        """
        if self.in_use >= self._capacity and not self._reclaim(owner):
            raise UnavailableError(
                self._refusal,
                code="too-many-requests",
                advice="wait as long as Retry-After says, then ask again",
                retry_after_s=1,
            )
        permit = Permit(self._held, owner)
        self._held.add(permit)
        return permit

    def _reclaim(self, owner: str) -> bool:
        """Free the permit of the stillest reader of whoever holds the most (invariant 3)."""
        held = Counter(permit.owner for permit in self._held)
        ((greediest, most),) = held.most_common(1)
        if most <= held[owner] + 1:
            return False
        candidates = [
            (permit.answering.still_s(), permit.answering, permit)
            for permit in self._held
            if permit.owner == greediest and permit.answering is not None
        ]
        if not candidates:
            return False
        still_s, answering, permit = max(candidates, key=lambda candidate: candidate[0])
        if still_s < STILL_S:
            return False
        answering.break_off()
        permit.release()
        return True


class Permit:
    """One place under the cap; use it in `with`, or release it."""

    __slots__ = ("_held", "answering", "owner")

    def __init__(self, held: "set[Permit]", owner: str) -> None:
        self._held = held
        self.owner = owner
        self.answering: Answering | None = None
        """What it is held for, once a client can be waited for."""

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._held.discard(self)

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

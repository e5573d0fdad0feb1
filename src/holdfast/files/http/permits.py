"""How many requests for files are served at once, and how long a reader may stand still.

Invariants:

1. Permits out plus permits free is the capacity, always; a permit is given back exactly once.
2. No permit is kept by a client that does not take a piece in CLIENT_TIMEOUT_S (or as set).
"""

from types import TracebackType
from typing import Final

from holdfast.errors import UnavailableError

CLIENT_TIMEOUT_S: Final = 30.0
"""How long a client may take to send a body, or to take one piece of an answer."""


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
        self.in_use = 0

    def take(self) -> "Permit":
        """Return a permit, or raise UnavailableError (`too-many-requests`)."""
        if self.in_use >= self._capacity:
            raise UnavailableError(
                self._refusal,
                code="too-many-requests",
                advice="wait as long as Retry-After says, then ask again",
                retry_after_s=1,
            )
        self.in_use += 1
        return Permit(self)


class Permit:
    """One place under the cap; use it in `with`, or release it."""

    __slots__ = ("_permits",)

    def __init__(self, permits: Permits) -> None:
        self._permits: Permits | None = permits

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self._permits is not None:
            self._permits.in_use -= 1
            self._permits = None

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

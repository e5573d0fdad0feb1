"""Registers: small values, advanced linearizably."""

from typing import Protocol

from holdfast.model.head import AdvanceOutcome, Epoch, HeadState, Revision


class Register(Protocol):
    """Small values under keys, read and advanced linearizably; the invariants of model/head.py.

    A read that begins after an advance was answered sees it or something later, whoever asks and
    through whichever instance. Any call may raise UnavailableError: then nothing happened, and a
    StorageFailedError (`register-failed`): then this instance is done for and must be reopened.
    """

    async def read(self, key: str) -> HeadState:
        """Return the current state; ABSENT if the key was never written."""
        ...

    async def advance(
        self,
        key: str,
        *,
        expected: Revision,
        value: bytes | None,
        epoch: Epoch,
        write_id: str,
    ) -> AdvanceOutcome:
        """Put a state after the one at `expected`, or say why not; durable when this returns.

        The same call again, with the same arguments, is answered with what it did the first time as
        long as that state is kept. Cancelling the call leaves the outcome unknown.

        Args:
            expected: The revision of the state it follows; 0 if the key was never written.
            value: At most HEAD_VALUE_BYTES_MAX bytes; None deletes and leaves a tombstone.
            epoch: Not below the current state's, or it is refused.
            write_id: Unique to this advance; never used with other arguments.

        Raises:
            InvalidRequestError: Key, value, epoch or write id is over its limit.
        """
        ...

    async def history(self, key: str, limit: int) -> list[HeadState]:
        """Return up to `limit` states, the current one first, as far back as they are kept."""
        ...

    async def list_keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """Return up to `limit` keys with this prefix and greater than `after`, in order.

        The order is that of the keys' UTF-8 bytes. Keys with a tombstone are among them.
        """
        ...

    async def check(self) -> None:
        """Make a real commit; raise UnavailableError if an advance would not get through now."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then release everything. Calls after that are refused."""
        ...

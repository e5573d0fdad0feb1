"""Object stores: whole objects, conditional writes, and what a caller may do at one."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, Protocol

from holdfast.ports.buffers import Buffer


class StoreAnswer(NamedTuple):
    """What an object store answered to a request made with its caller's token."""

    status: int
    """Of HTTP; 2xx means that the caller may do what was tried."""
    body: bytes | None
    """None if it was longer than asked for."""


class ObjectAccess(Protocol):
    """Tries at an object store what a caller may do there, with the caller's own token.

    Redirects are not followed: they are answers like others. Raises UnavailableError:
    `store-unreachable` if no connection was possible or it broke, `store-slow` if time ran out.
    """

    async def read(self, url: str, token: str, limit_bytes: int) -> StoreAnswer:
        """Read an object, the newest copy of those that answer."""
        ...

    async def prove_write(self, url: str, token: str) -> StoreAnswer:
        """Write an empty object beside this one, which only who may write the one can."""
        ...


class ConditionalOutcome(StrEnum):
    """What became of a conditional write."""

    WON = "won"
    LOST = "lost"
    """The condition did not hold, or another write was under way."""
    UNSUPPORTED = "unsupported"
    """The store does not know the condition."""


class ConditionalObjects(Protocol):
    """Objects with conditional writes, as some stores have them and others say they have.

    Raises UnavailableError if the store cannot be reached, DeniedError if it lets nobody in.
    """

    async def create(self, name: str, data: bytes) -> ConditionalOutcome:
        """Write an object only if there is none of this name."""
        ...

    async def replace(self, name: str, data: bytes, etag: str) -> ConditionalOutcome:
        """Write an object only if its present one has this ETag."""
        ...

    async def read(self, name: str) -> tuple[bytes, str]:
        """Return an object and its ETag; NotFoundError if there is none."""
        ...

    async def delete(self, name: str) -> None:
        """Remove an object if it is there."""
        ...


class ObjectInfo(NamedTuple):
    """One object as a store lists it."""

    name: str
    size_bytes: int
    modified_ns: int
    """By the store's clock, which is not ours."""


class PutOutcome(StrEnum):
    """What became of a create-only put."""

    CREATED = "created"
    EXISTS = "exists"
    """An object of this name was there, and stays as it is."""


class StorePromises(NamedTuple):
    """What an object store was seen to keep; measured, never taken from its documentation."""

    creates_once: bool
    """Of several create-only puts of one name at once, exactly one wins."""
    reads_own_writes: bool
    """What was put is read, listed, and gone when deleted, at once."""


class ObjectStore(Protocol):
    """Whole objects under names of model/objects.py; each store's promises are measured.

    Whoever names objects never makes one name the beginning of another up to a slash: a directory
    cannot be a file.

    Threads may share one; `settle` is about what its own thread staged. Any call may raise
    UnavailableError (`store-unreachable`, `store-slow`, `store-busy`: it may be tried again),
    DeniedError (`store-denied`), CapacityError (`disk-full`) and StorageFailedError. A put that
    raised may have happened.
    """

    is_forkable: bool
    """Whether a process forked after the first call may go on with it."""

    def describe(self) -> str:
        """Return where it is, for people; no secret is part of it."""
        ...

    def put(self, name: str, data: Buffer) -> None:
        """Make or replace an object; when this returns it is whole and durable."""
        ...

    def create(self, name: str, data: Buffer) -> PutOutcome:
        """Make an object unless there is one; when this returns, whichever is there is durable."""
        ...

    def stage(self, name: str, data: Buffer) -> None:
        """As `put`, but seen and durable at the latest when `settle` has returned, never in part.

        For many at once: a medium takes them in one flush. Where it raises, nothing that this
        thread staged counts any more.
        """
        ...

    def settle(self) -> None:
        """Make durable and visible all that this thread staged.

        Raises:
            StorageFailedError: `flush-failed`; nothing staged counts, all is to be staged anew.
        """
        ...

    def get(self, name: str, limit_bytes: int) -> bytes:
        """Return an object; NotFoundError (`no-object`), CapacityError (`object-too-long`)."""
        ...

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer at its end; NotFoundError (`no-object`)."""
        ...

    def head(self, name: str) -> ObjectInfo | None:
        """Return what a listing would say of one object; None if there is none."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose names start with `prefix`, above `after`, in order of names."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object if it is there; durable when this returns."""
        ...

    def tidy(self, before_ns: int) -> int:
        """Remove what puts cut off before this moment of the wall clock left; return how many."""
        ...

    def close(self) -> None:
        """Release it. Never raises."""
        ...

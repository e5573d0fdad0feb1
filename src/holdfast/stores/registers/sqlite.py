"""A register in one SQLite file: the home of heads for a single instance.

Owns the file's connections and the two threads that use them, one for writing and one for reading;
decides nothing (model/head.py does) and knows no tables' making (sqlite_file.py does) nor rows
(sqlite_states.py does).

1. Advances that wait together are decided in order and made durable by one commit; no answer leaves
   before that commit has returned.
2. What is read was committed, and so flushed, before.
3. If a commit fails, its advances are unknown and the register is done for: the connection that
   failed is never written to again. Reopening recovers.
4. Of a key, the HEAD_HISTORY_MAX newest states are kept, tombstones like values.
"""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from holdfast.errors import HoldfastError, StorageFailedError, UnavailableError
from holdfast.model.head import (
    AdvanceOutcome,
    Epoch,
    HeadState,
    Revision,
    Unknown,
    check_advance,
    check_key,
)
from holdfast.model.limits import (
    HEAD_KEYS_PAGE_MAX,
    REGISTER_BATCH_MAX,
    REGISTER_QUEUE_MAX,
)
from holdfast.stores.registers.lane import Lane
from holdfast.stores.registers.sqlite_file import (
    error_of,
    failed,
    open_for_reading,
    open_for_writing,
)
from holdfast.stores.registers.sqlite_states import Advance, read_states, write_advance

ResultT = TypeVar("ResultT")
Row = tuple[int, int, bytes | None, str]
Query = Callable[[sqlite3.Connection], object]

# From one key to the next by the index: a key's other states are not walked over.
_KEYS: Final = """
    WITH RECURSIVE found(key, number) AS (
        SELECT min(key), 1 FROM states WHERE key >= :start AND key <> :after
        UNION ALL
        SELECT (SELECT min(key) FROM states WHERE key > found.key), number + 1 FROM found
        WHERE found.key IS NOT NULL AND number < :limit
            AND substr(found.key, 1, length(:prefix)) = :prefix
    )
    SELECT key FROM found
    WHERE key IS NOT NULL AND substr(key, 1, length(:prefix)) = :prefix
"""


class _Check:
    """Asks for a commit of its own account."""


class SqliteRegister:
    """See the port Register. Several processes of one machine may have the same file open."""

    def __init__(self, path: Path) -> None:
        """Open the file, making and recovering it as needed; blocks meanwhile."""
        self._path = path
        self._failure: StorageFailedError | None = None
        self._writer = open_for_writing(path)
        self._reader = open_for_reading(path)
        self._writing: Lane[Advance | _Check, AdvanceOutcome | None] = Lane(
            "register's writer",
            self._commit,
            queue_max=REGISTER_QUEUE_MAX,
            batch_max=REGISTER_BATCH_MAX,
        )
        self._reading: Lane[Query, object] = Lane(
            "register's reader",
            self._query,
            queue_max=REGISTER_QUEUE_MAX,
            batch_max=REGISTER_BATCH_MAX,
        )

    async def read(self, key: str) -> HeadState:
        """See Register.read."""
        check_key(key)
        return await self._read(lambda connection: read_states(connection, key, 1)[0])

    async def advance(
        self,
        key: str,
        *,
        expected: Revision,
        value: bytes | None,
        epoch: Epoch,
        write_id: str,
    ) -> AdvanceOutcome:
        """See Register.advance."""
        check_advance(key, expected=expected, value=value, epoch=epoch, write_id=write_id)
        outcome = await self._writing.submit(
            Advance(key=key, expected=expected, value=value, epoch=epoch, write_id=write_id)
        )
        assert outcome is not None
        return outcome

    async def history(self, key: str, limit: int) -> list[HeadState]:
        """See Register.history."""
        check_key(key)
        states = await self._read(lambda connection: read_states(connection, key, limit))
        return [state for state in states if state.revision]

    async def list_keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """See Register.list_keys."""
        if limit < 1:
            return []
        values = {
            "prefix": prefix,
            "start": max(prefix, after),
            "after": after,
            "limit": min(limit, HEAD_KEYS_PAGE_MAX),
        }
        return await self._read(
            lambda connection: [key for (key,) in connection.execute(_KEYS, values)]
        )

    async def check(self) -> None:
        """See Register.check."""
        try:
            await self._writing.submit(_Check())
        except StorageFailedError as error:
            raise UnavailableError(
                error.message, code="register-failed", advice=error.advice
            ) from error

    async def close(self) -> None:
        """See Register.close."""
        await self._writing.close()
        await self._reading.close()
        self._reader.close()
        self._writer.close()

    async def _read(self, query: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        answer: ResultT = await self._reading.submit(query)  # type: ignore[assignment]
        return answer

    def _query(self, queries: Sequence[Query]) -> list[object]:
        if self._failure:
            return [_again(self._failure)] * len(queries)
        try:
            return [query(self._reader) for query in queries]
        except sqlite3.Error as error:
            raise error_of(error, self._path) from error

    def _commit(
        self, jobs: Sequence[Advance | _Check]
    ) -> Sequence[AdvanceOutcome | HoldfastError | None]:
        """Decide all in order, commit once, and only then answer."""
        if self._failure:
            return [_again(self._failure)] * len(jobs)
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            outcomes = [self._decide(job) for job in jobs]
        except sqlite3.Error as error:
            return [self._on_failed_statement(error)] * len(jobs)
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._failure = failed(self._path, f"a commit failed: {error}")
            return [self._in_doubt(job) for job in jobs]
        return outcomes

    def _decide(self, job: Advance | _Check) -> AdvanceOutcome | None:
        if isinstance(job, _Check):
            self._writer.execute("UPDATE checks SET count = count + 1")
            return None
        return write_advance(self._writer, job)

    def _on_failed_statement(self, error: sqlite3.Error) -> HoldfastError:
        """Leave the batch undone; give up the connection where it can no longer be trusted."""
        ours = error_of(error, self._path)
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error as another:
            ours = failed(self._path, f"undoing failed: {another}")
        if not isinstance(ours, HoldfastError):
            raise ours
        if isinstance(ours, StorageFailedError):
            self._failure = ours
        return ours

    def _in_doubt(self, job: Advance | _Check) -> AdvanceOutcome | HoldfastError:
        assert self._failure
        return Unknown(write_id=job.write_id) if isinstance(job, Advance) else self._failure


def _again(failure: StorageFailedError) -> StorageFailedError:
    # A fresh one for each caller: a raised exception carries the trace of one.
    return StorageFailedError(failure.message, code=failure.code, advice=failure.advice)

"""A register in etcd: the home of heads that several instances share.

Turns each call into etcd's transactions and reads; decides nothing that model/head.py decides.

1. A revision is the key's mod revision: etcd never gives one twice, and a tombstone is a put.
2. An advance is one transaction that compares the revision, and the epoch in the record, and whose
   other branch returns the current record.
3. After a request whose answer was lost the current record is read, again and again until the
   deadline. Its write id, or that of the state that followed the expected one, decides. While the
   key still stands at the expected revision nothing is decided, for the request may be on its way;
   then the same transaction is sent again: both compare the same revision, so at most one wins.
4. History is etcd's own: as far back as it is not compacted.
"""

import asyncio
from typing import Final

from holdfast.errors import HoldfastError, NotFoundError, OutcomeUnknownError, UnavailableError
from holdfast.model.head import (
    ABSENT,
    Advanced,
    AdvanceOutcome,
    Epoch,
    HeadState,
    Revision,
    Unknown,
    check_advance,
    check_key,
    decide_advance,
)
from holdfast.model.limits import HEAD_HISTORY_MAX, HEAD_KEYS_PAGE_MAX
from holdfast.stores.registers.etcd_client import EtcdClient
from holdfast.stores.registers.etcd_record import decode_record, encode_epoch, encode_record
from holdfast.stores.registers.etcd_wire import (
    KeyValue,
    Message,
    Relation,
    as_operation,
    compare_mod_revision,
    compare_value,
    end_of_prefix,
    put_request,
    range_request,
    transaction_request,
)

PREFIX: Final = "holdfast/"
_PAUSE_S: Final = 0.05


class EtcdRegister:
    """See the port Register. Owns its client; used in one event loop."""

    def __init__(self, client: EtcdClient, prefix: str = PREFIX) -> None:
        """Keep heads under `prefix`, which nobody else writes under."""
        self._client = client
        self._heads = (prefix + "heads/").encode()
        self._check_key = (prefix + "check").encode()

    async def read(self, key: str) -> HeadState:
        """See Register.read."""
        check_key(key)
        return await self._read_at(self._name(key), 0)

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
        name = self._name(key)
        record = encode_record(value=value, epoch=epoch, write_id=write_id)
        request = _advance_request(name, record, expected, epoch)
        until = self._client.deadline()
        # Whether a request of this call may have happened, or may still.
        is_in_doubt = False
        try:
            while True:
                try:
                    reply = await self._client.transact(request, until)
                except OutcomeUnknownError:
                    is_in_doubt = True
                    current = await self._read_at(name, 0, until)
                else:
                    if reply.has_succeeded:
                        return Advanced(state=decode_record(name, record, reply.revision))
                    current = _state(name, reply.replies[0].pairs)
                follower = await self._follower(name, current, expected, write_id, until)
                if follower is None and current.revision > expected and is_in_doubt:
                    return Unknown(write_id=write_id)
                decided = decide_advance(
                    current, follower, expected=expected, epoch=epoch, write_id=write_id
                )
                if decided is not None:
                    return decided
                await asyncio.sleep(_PAUSE_S)
        except HoldfastError:
            if is_in_doubt:
                return Unknown(write_id=write_id)
            raise

    async def history(self, key: str, limit: int) -> list[HeadState]:
        """See Register.history; limited to HEAD_HISTORY_MAX."""
        check_key(key)
        name = self._name(key)
        states: list[HeadState] = []
        state = await self._read_at(name, 0) if limit > 0 else ABSENT
        while state.revision and len(states) < min(limit, HEAD_HISTORY_MAX):
            states.append(state)
            try:
                state = await self._read_at(name, state.revision - 1)
            except NotFoundError:
                break  # Compacted.
        return states

    async def list_keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """See Register.list_keys."""
        if limit < 1:
            return []
        wanted = self._heads + prefix.encode()
        content = await self._client.range(
            range_request(
                max(wanted, self._name(after) + b"\0"),
                end_of_prefix(wanted),
                limit=min(limit, HEAD_KEYS_PAGE_MAX),
                is_keys_only=True,
            )
        )
        return [pair.key.removeprefix(self._heads).decode() for pair in content.pairs]

    async def check(self) -> None:
        """See Register.check."""
        try:
            await self._client.put(put_request(self._check_key, b"commit"))
        except HoldfastError as error:
            raise UnavailableError(
                f"etcd does not commit: {error.message}", code="etcd-unavailable"
            ) from error

    async def close(self) -> None:
        """See Register.close."""
        await self._client.close()

    def _name(self, key: str) -> bytes:
        return self._heads + key.encode()

    async def _read_at(self, name: bytes, revision: int, until: float | None = None) -> HeadState:
        content = await self._client.range(range_request(name, revision=revision), until)
        return _state(name, content.pairs)

    async def _follower(
        self, name: bytes, current: HeadState, expected: Revision, write_id: str, until: float
    ) -> HeadState | None:
        """Return the state that followed the expected one; None: none did, or it is forgotten."""
        state = current
        if state.revision <= expected or state.write_id == write_id:
            return state if state.revision > expected else None
        for _ in range(HEAD_HISTORY_MAX):
            try:
                previous = await self._read_at(name, state.revision - 1, until)
            except NotFoundError:
                return None
            if previous.revision <= expected:
                return state
            state = previous
        return None


def _advance_request(name: bytes, record: bytes, expected: Revision, epoch: Epoch) -> Message:
    compare = [compare_mod_revision(name, expected)]
    if expected:
        compare.append(compare_value(name, Relation.LESS, encode_epoch(epoch + 1)))
    return transaction_request(
        compare,
        [as_operation("put", put_request(name, record))],
        [as_operation("range", range_request(name))],
    )


def _state(name: bytes, pairs: list[KeyValue]) -> HeadState:
    return decode_record(name, pairs[0].value, pairs[0].mod_revision) if pairs else ABSENT

"""A watch on keys of etcd that survives its connection, its endpoint and compaction.

Knows streams and revisions; knows nothing of what the keys mean.

1. Every change after the start revision is yielded once, in order of revisions.
2. Where the changes wanted are compacted away, a Snapshot is yielded instead, which replaces
   everything yielded before it; changes go on after its revision.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import aiohttp

from holdfast.errors import HoldfastError, OutcomeUnknownError, UnavailableError
from holdfast.model.limits import ETCD_MESSAGE_BYTES_MAX
from holdfast.stores.registers.etcd_client import EtcdClient, decode_message
from holdfast.stores.registers.etcd_wire import (
    Changed,
    Pairs,
    WatchReply,
    error_of,
    parse_watch,
    range_request,
    unreadable,
    watch_request,
)

SILENCE_S: Final = 30.0
"""A stream silent for so long is opened anew: its member may be cut off."""
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All pairs as of one revision."""

    content: Pairs


async def watch(
    client: EtcdClient, key: bytes, range_end: bytes = b"", *, start_revision: int = 0
) -> AsyncIterator[Snapshot | Changed]:
    """Yield what happens to [key, range_end) from a revision on, or from a snapshot taken now.

    Args:
        start_revision: The first revision wanted, one more than the last one seen; 0: begin with a
            snapshot.

    Raises:
        UnavailableError: No endpoint answers within the client's deadline; watch again from the
            last revision seen.
    """
    next_revision = start_revision
    while True:
        if not next_revision:
            content = await client.range(range_request(key, range_end))
            yield Snapshot(content=content)
            next_revision = content.revision + 1
        try:
            async for reply in _replies(client, watch_request(key, range_end, next_revision)):
                if reply.compact_revision:
                    next_revision = 0
                for event in reply.events:
                    yield event
                    next_revision = max(next_revision, event.mod_revision + 1)
        except (UnavailableError, OutcomeUnknownError):
            pass
        await asyncio.sleep(_PAUSE_S)
        # Finds an endpoint that answers, or says that there is none, and renews credentials.
        await client.range(range_request(key, limit=1, is_keys_only=True))


async def _replies(client: EtcdClient, request: dict[str, object]) -> AsyncIterator[WatchReply]:
    """Yield the messages of one stream until it is cancelled or ends."""
    endpoint = client.next_endpoint()
    try:
        async with client.open_stream(
            endpoint, "/v3/watch", request, timeout_s=SILENCE_S
        ) as response:
            async for line in _lines(response):
                message = decode_message(line)
                if response.status != 200 or "error" in message:
                    raise error_of(response.status, message, endpoint)
                reply = parse_watch(message)
                yield reply
                if reply.is_cancelled:
                    break
    except HoldfastError:
        client.turn_from(endpoint)
        raise


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for piece in response.content.iter_any():
        buffer += piece
        *lines, rest = bytes(buffer).split(b"\n")
        for line in lines:
            if line:
                yield line
        buffer = bytearray(rest)
        if len(buffer) > ETCD_MESSAGE_BYTES_MAX:
            raise unreadable(f"a message has more than {ETCD_MESSAGE_BYTES_MAX} bytes")

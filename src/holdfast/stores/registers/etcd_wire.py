"""etcd's JSON gateway on the wire: requests as dictionaries, replies as values, errors as ours.

Knows spelling, not connections. Source: the gateway of etcd 3.4 and later under /v3/; keys and
values travel in base64, 64-bit numbers as strings, and what is zero, false or empty is left out.

1. An error is of one of three kinds: nothing happened, nothing happened and credentials are stale,
   or it cannot be told from the answer. What is not known for certain is of the last.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NewType

from holdfast.errors import (
    CapacityError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedError,
)

LeaseId = NewType("LeaseId", int)
Message = dict[str, Any]
"""A decoded JSON object of etcd, before its fields are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """One key as of one revision of the store."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 0
    lease: LeaseId = LeaseId(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What a range held when the store was at `revision`."""

    pairs: list[KeyValue]
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionReply:
    """Which branch ran, the store's revision after it, and the reply to each of its operations."""

    has_succeeded: bool
    revision: int
    replies: list[Pairs]
    """Of operations that are not ranges, with no pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One key was put, or deleted (value None)."""

    key: bytes
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReply:
    """One message of a watch."""

    events: list[Changed]
    revision: int
    is_cancelled: bool = False
    compact_revision: int = 0
    """Not 0: the history wanted is gone up to here."""


class Relation(StrEnum):
    """How a compared thing must be to its operand."""

    EQUAL = "EQUAL"
    LESS = "LESS"
    GREATER = "GREATER"


def end_of_prefix(prefix: bytes) -> bytes:
    """Return the range end for all keys that begin with `prefix`."""
    for length in range(len(prefix), 0, -1):
        if prefix[length - 1] < 0xFF:
            return prefix[: length - 1] + bytes([prefix[length - 1] + 1])
    return b"\0"


def compare_mod_revision(key: bytes, revision: int) -> Message:
    """Compare: the key was last changed at `revision`; 0: it does not exist."""
    return {
        "key": _encode(key),
        "target": "MOD",
        "result": Relation.EQUAL,
        "mod_revision": str(revision),
    }


def compare_value(key: bytes, relation: Relation, value: bytes) -> Message:
    """Compare the value, as bytes; false for a key that does not exist."""
    return {"key": _encode(key), "target": "VALUE", "result": relation, "value": _encode(value)}


def put_request(key: bytes, value: bytes, lease: LeaseId | None = None) -> Message:
    """Put, under a lease or for ever."""
    message: Message = {"key": _encode(key), "value": _encode(value)}
    if lease:
        message["lease"] = str(lease)
    return message


def range_request(
    key: bytes,
    range_end: bytes = b"",
    *,
    revision: int = 0,
    limit: int = 0,
    is_keys_only: bool = False,
) -> Message:
    """Range over [key, range_end), one key without an end; linearizable, in order of keys."""
    message: Message = {"key": _encode(key)}
    if range_end:
        message["range_end"] = _encode(range_end)
    if revision:
        message["revision"] = str(revision)
    if limit:
        message["limit"] = str(limit)
    if is_keys_only:
        message["keys_only"] = True
    return message


def delete_request(key: bytes, range_end: bytes = b"") -> Message:
    """Delete one key, or [key, range_end)."""
    message: Message = {"key": _encode(key)}
    if range_end:
        message["range_end"] = _encode(range_end)
    return message


def transaction_request(
    compare: Sequence[Message], success: Sequence[Message], failure: Sequence[Message]
) -> Message:
    """Do `success` if all of `compare` hold, else `failure`; operations as `as_operation` makes."""
    return {"compare": list(compare), "success": list(success), "failure": list(failure)}


def as_operation(kind: str, request: Message) -> Message:
    """Wrap a put, range or delete_range for a transaction."""
    return {f"request_{kind}": request}


def watch_request(key: bytes, range_end: bytes, start_revision: int) -> Message:
    """Watch [key, range_end) from a revision on."""
    return {
        "create_request": {
            "key": _encode(key),
            "range_end": _encode(range_end),
            "start_revision": str(start_revision),
            "progress_notify": True,
        }
    }


def parse_pairs(message: Message) -> Pairs:
    """Read the reply to a range; only etcd's own says of a key that there is none."""
    pairs = [_parse_pair(pair) for pair in message.get("kvs", [])]
    return Pairs(pairs=pairs, revision=_stated_revision(message))


def parse_transaction(message: Message) -> TransactionReply:
    """Read the reply to a transaction."""
    return TransactionReply(
        has_succeeded=message.get("succeeded", False) is True,
        revision=_stated_revision(message),
        replies=[_parse_reply(reply, message["header"]) for reply in message.get("responses", [])],
    )


def parse_watch(message: Message) -> WatchReply:
    """Read one message of a watch."""
    result = message.get("result", {})
    return WatchReply(
        events=[_parse_event(event) for event in result.get("events", [])],
        revision=_revision_of(result),
        is_cancelled=result.get("canceled", False) is True,
        compact_revision=parse_number(result.get("compact_revision", 0)),
    )


def parse_number(value: object) -> int:
    """Read a 64-bit number, which travels as a string."""
    try:
        return int(str(value))
    except ValueError:
        raise unreadable(f"{value!r} is not a number") from None


def unreadable(why: str) -> UnsupportedError:
    """Return the error for an answer that etcd does not give."""
    return UnsupportedError(
        f"the answer is not one of etcd's: {why}",
        code="etcd-unreadable",
        advice="check that the endpoint is the client URL of an etcd of version 3.4 or later",
    )


STALE_CREDENTIALS = "etcd-stale-credentials"

_DEFINITE: Mapping[int, tuple[type[HoldfastError], str]] = {
    3: (InvalidRequestError, "etcd-refused"),
    5: (NotFoundError, "etcd-not-found"),
    7: (DeniedError, "etcd-denied"),
    8: (CapacityError, "etcd-full"),
    9: (InvalidRequestError, "etcd-refused"),
    11: (NotFoundError, "revision-compacted"),
    12: (UnsupportedError, "etcd-unsupported"),
    16: (DeniedError, STALE_CREDENTIALS),
}
"""By the code of gRPC; everything else leaves the outcome open."""


def error_of(status: int, message: Message, endpoint: str) -> HoldfastError:
    """Return the error that an answer other than 200 stands for."""
    detail = message.get("error", {})
    nested: Message = detail if isinstance(detail, dict) else message
    text = str(nested.get("message") or detail or f"HTTP status {status}")
    code = parse_number(nested.get("code", nested.get("grpc_code", 0)))
    if "too many requests" in text:
        return UnavailableError(f"etcd at {endpoint} is overloaded", code="etcd-busy")
    if "auth token" in text or "revision of auth store is old" in text:
        return DeniedError(f"etcd at {endpoint} says: {text}", code=STALE_CREDENTIALS)
    if "authentication failed" in text or "user name is empty" in text:
        code = 7
    if "required revision has been compacted" in text:
        code = 11
    kind, name = _DEFINITE.get(code, (OutcomeUnknownError, "etcd-outcome-unknown"))
    return kind(
        f"etcd at {endpoint} says: {text}",
        code=name,
        advice="look at the health of the etcd cluster" if kind is OutcomeUnknownError else "",
    )


def _parse_reply(reply: Message, header: Message) -> Pairs:
    return parse_pairs({"header": header, "kvs": reply.get("response_range", {}).get("kvs", [])})


def _parse_pair(pair: Message) -> KeyValue:
    return KeyValue(
        key=_decode(pair.get("key", "")),
        value=_decode(pair.get("value", "")),
        mod_revision=parse_number(pair.get("mod_revision", 0)),
        create_revision=parse_number(pair.get("create_revision", 0)),
        lease=LeaseId(parse_number(pair.get("lease", 0))),
    )


def _parse_event(event: Message) -> Changed:
    pair = _parse_pair(event.get("kv", {}))
    is_deleted = event.get("type", "PUT") == "DELETE"
    return Changed(
        key=pair.key, value=None if is_deleted else pair.value, mod_revision=pair.mod_revision
    )


def _stated_revision(message: Message) -> int:
    revision = _revision_of(message)
    if revision < 1:
        raise unreadable("it names no revision")
    return revision


def _revision_of(message: Message) -> int:
    return parse_number(message.get("header", {}).get("revision", 0))


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise unreadable("a key or value is not base64") from None

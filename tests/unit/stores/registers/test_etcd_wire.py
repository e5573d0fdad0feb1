"""Goal: answers of etcd are read as it means them, and no error looks more certain than it is.

Method: messages as the gateway of etcd 3.4 spells them, and messages no etcd sends.
"""

import pytest

from holdfast.errors import (
    CapacityError,
    DeniedError,
    HoldfastError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    UnsupportedError,
)
from holdfast.stores.registers.etcd_wire import (
    STALE_CREDENTIALS,
    Message,
    end_of_prefix,
    error_of,
    parse_pairs,
    parse_transaction,
    parse_watch,
)


def test_what_is_left_out_is_zero_false_or_empty() -> None:
    reply = parse_transaction({"header": {"revision": "12"}})

    assert (reply.has_succeeded, reply.revision, reply.replies) == (False, 12, [])
    assert parse_pairs({"header": {"revision": "1"}}).pairs == []
    (pair,) = parse_pairs({"header": {"revision": "1"}, "kvs": [{"key": "aw=="}]}).pairs
    assert (pair.key, pair.value, pair.mod_revision) == (b"k", b"", 0)


def test_watch_tells_put_from_delete() -> None:
    events: list[Message] = [
        {"kv": {"key": "aw==", "value": "dg==", "mod_revision": "7"}},
        {"type": "DELETE", "kv": {"key": "aw==", "mod_revision": "8"}},
    ]

    reply = parse_watch({"result": {"header": {"revision": "8"}, "events": events}})

    assert [(e.key, e.value, e.mod_revision) for e in reply.events] == [
        (b"k", b"v", 7),
        (b"k", None, 8),
    ]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"header": {}, "kvs": []},
        {"header": {"revision": "1"}, "kvs": [{"key": "*"}]},
        {"header": {"revision": "1"}, "kvs": [{"key": "aw==", "mod_revision": "x"}]},
        {"header": {"revision": "1"}, "kvs": [{"key": 7}]},
    ],
)
def test_what_no_etcd_sends_is_refused(message: Message) -> None:
    with pytest.raises(UnsupportedError):
        parse_pairs(message)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"ab/", b"ab0")],
)
def test_end_of_prefix(prefix: bytes, end: bytes) -> None:
    assert end_of_prefix(prefix) == end


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (503, {"error": "etcdserver: request timed out", "code": 14}, OutcomeUnknownError, None),
        (503, {"error": "etcdserver: leader changed", "code": 14}, OutcomeUnknownError, None),
        (500, {}, OutcomeUnknownError, None),
        (502, {"error": "bad gateway"}, OutcomeUnknownError, None),
        (
            429,
            {"error": "etcdserver: mvcc: database space exceeded", "code": 8},
            CapacityError,
            None,
        ),
        (429, {"error": "etcdserver: too many requests", "code": 8}, UnavailableError, None),
        (
            401,
            {"error": "etcdserver: invalid auth token", "code": 16},
            DeniedError,
            STALE_CREDENTIALS,
        ),
        (403, {"error": "etcdserver: permission denied", "code": 7}, DeniedError, "etcd-denied"),
        (
            400,
            {"error": "etcdserver: mvcc: required revision has been compacted", "code": 11},
            NotFoundError,
            "revision-compacted",
        ),
        (
            200,
            {"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}},
            OutcomeUnknownError,
            None,
        ),
    ],
)
def test_error_is_as_certain_as_the_answer(
    status: int, message: Message, kind: type[HoldfastError], code: str | None
) -> None:
    error = error_of(status, message, "http://e")

    assert type(error) is kind
    assert code in (None, error.code)

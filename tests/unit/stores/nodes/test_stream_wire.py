"""Goal: the stream's frames are what docs/formats/stream.md says, and no bytes break a reader.

Method: golden bytes for the fixed parts; every message there and back; arbitrary bytes, and valid
frames with bytes changed, into every decoder (invariants 1 to 3 of wire.py).
"""

import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    CancelledError,
    CapacityError,
    ConflictError,
    FencedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from holdfast.model.limits import FRAME_BYTES_MAX, HELLO_BYTES_MAX, NAME_BYTES_MAX
from holdfast.model.tree import FileKind, Stat
from holdfast.stores.nodes import messages, wire
from holdfast.stores.nodes.messages import Kind
from holdfast.stores.nodes.replies import BundleReply, DigestsReply, ListingReply

STAT = Stat(
    kind=FileKind.FILE,
    size_bytes=0x0102030405,
    mtime_ns=-1,
    ctime_ns=1_700_000_000_123_456_789,
    inode=7,
    device=0xFF,
    mode=0o4755,
    uid=1000,
    gid=4_294_967_295,
    links_count=2,
    allocated_bytes=4096,
)
STAT_BYTES = bytes.fromhex(
    "01 00 09ed 000003e8 ffffffff 00000002 0000000102030405 0000000000001000"
    "ffffffffffffffff 17979cfe3d85cd15 0000000000000007 00000000000000ff"
)
HELLO_FRAME = bytes.fromhex(
    "0000001b 00000000 01 01 000094 c408 686f6c6466617374 01 a9 64622f646174612f30 c403 746f6b"
)

MESSAGES: list[tuple[Kind, object]] = [
    (Kind.HELLO, messages.Hello(b"holdfast", 1, "db/data/0", b"tok")),
    (Kind.WELCOME, messages.Welcome(1, "host", "/x", 1, 2, ["blake3"], 5)),
    (Kind.LIST, messages.PathRequest(b"a/b")),
    (Kind.STAT, messages.PathsRequest([b"", b"a"])),
    (Kind.OPEN, messages.OpenRequest(1, b"a", "blake3")),
    (Kind.READ, messages.ReadRequest(1, 0, 1 << 40)),
    (Kind.EXTENTS, messages.SizeRequest(1, 5)),
    (Kind.CLOSE, messages.HandleRequest(1)),
    (Kind.BUNDLE, messages.BundleRequest([b"a"], "xxh3-128")),
    (Kind.DIGEST, messages.DigestRequest([b"a"], "sha256", True)),
    (Kind.LISTING, messages.ListingPage([b"a", b"b"], STAT_BYTES * 2, [], [])),
    (Kind.STATS, messages.StatsReply(STAT_BYTES, [])),
    (Kind.LINK, messages.LinkReply(b"to")),
    (Kind.ATTRIBUTES, messages.AttributesReply({b"user.a": b"1"})),
    (Kind.RANGES, messages.RangesReply([(0, 5)])),
    (Kind.FINISHED, messages.FinishedReply(STAT_BYTES, {}, b"d" * 32)),
    (
        Kind.DIGESTS,
        messages.DigestsPart(5, [(messages.DigestedFile(STAT_BYTES, b"d", b"", True), None)]),
    ),
    (Kind.FAILURE, messages.Failure("not-found", "no-entry", "gone", "look", 1.5)),
]
MESSAGE_TYPES = sorted({type(message) for _, message in MESSAGES}, key=lambda t: t.__name__)


def test_golden_stat() -> None:
    assert wire.pack_stat(STAT) == STAT_BYTES
    assert wire.unpack_stat(STAT_BYTES) == STAT


def test_golden_greeting() -> None:
    frame = wire.encode_frame(Kind.HELLO, 0, MESSAGES[0][1])

    assert frame == HELLO_FRAME
    assert wire.decode_header(frame[: wire.HEADER_BYTES]) == wire.Header(27, 0, Kind.HELLO, True)


def test_numbers_of_kinds_never_change() -> None:
    assert {kind.name: int(kind) for kind in Kind} == {
        "HELLO": 1, "LIST": 2, "STAT": 3, "READ_LINK": 4, "XATTRS": 5, "OPEN": 6, "READ": 7,
        "EXTENTS": 8, "FINISH": 9, "DROP_CACHE": 10, "CLOSE": 11, "BUNDLE": 12, "DIGEST": 13,
        "CONTINUE": 14, "HASH": 15, "WELCOME": 64, "FAILURE": 65, "LISTING": 66, "STATS": 67,
        "LINK": 68, "ATTRIBUTES": 69, "RANGES": 70, "FINISHED": 71, "DATA": 72, "FILES": 73,
        "DIGESTS": 74, "DONE": 75, "HASHED": 76, "WORKING": 77,
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "message"), MESSAGES, ids=lambda value: str(value)[:20])
def test_every_message_comes_back(kind: Kind, message: Any) -> None:
    frame = wire.encode_frame(kind, 9, message)
    header = wire.decode_header(frame[: wire.HEADER_BYTES])

    assert header == wire.Header(len(frame) - wire.HEADER_BYTES, 9, kind, True)
    assert wire.decode_message(type(message), frame[wire.HEADER_BYTES :]) == message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
        wire._HEADER.pack(FRAME_BYTES_MAX + 1, 0, Kind.DATA, 0),
        wire._HEADER.pack(HELLO_BYTES_MAX + 1, 0, Kind.HELLO, 1),
        wire._HEADER.pack(0, 0, 200, 0),
        wire._HEADER.pack(0, 0, Kind.DATA, 2),
    ],
)
def test_what_is_no_header_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        wire.decode_header(raw)
    assert raised.value.code == "bad-frame"


@given(st.binary(max_size=400))
def test_any_bytes_are_a_header_within_limits_or_refused(raw: bytes) -> None:
    try:
        header = wire.decode_header(raw[: wire.HEADER_BYTES])
    except InvalidRequestError:
        return
    assert header.size_bytes <= FRAME_BYTES_MAX


@settings(max_examples=200)
@given(st.sampled_from(MESSAGE_TYPES), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(kind: type[Any], raw: bytes) -> None:
    try:
        found = wire.decode_message(kind, raw)
    except InvalidRequestError:
        return
    assert isinstance(found, kind)


@settings(max_examples=300)
@given(st.sampled_from(MESSAGES), st.data())
def test_changed_frames_raise_nothing_else(made: tuple[Kind, Any], data: st.DataObject) -> None:
    """One byte changed or the end cut off: read or refused, by replies too."""
    _, message = made
    payload = bytearray(wire.encode_frame(Kind.DONE, 0, message)[wire.HEADER_BYTES :])
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    view = memoryview(payload[: data.draw(st.integers(1, len(payload)))])

    for feed in (
        lambda: wire.decode_message(type(message), view),
        lambda: ListingReply(b"d").feed(Kind.LISTING, view, is_last=True),
        lambda: BundleReply([b"a"]).feed(Kind.FILES, view, is_last=True),
        lambda: DigestsReply(1).feed(Kind.DIGESTS, view, is_last=True),
    ):
        with suppress(InvalidRequestError):
            feed()


def test_a_promise_of_many_entries_takes_no_memory() -> None:
    """An array that says it has 2^32 - 1 entries, in a few bytes, is refused for a few bytes."""
    tracemalloc.start()
    try:
        for raw in (
            b"\x94\xdd\xff\xff\xff\xff",
            b"\x91\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
        ):
            for kind in MESSAGE_TYPES:
                with pytest.raises(InvalidRequestError):
                    wire.decode_message(kind, raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "names",
    [
        [b".."], [b"."], [b"a/b"], [b"/etc"], [b"a\0"], [b"b", b"a"], [b"a", b"a"],
        [b"n" * (NAME_BYTES_MAX + 1)], [b""],
    ],
)  # fmt: skip
def test_names_no_directory_has_are_refused_by_name(names: list[bytes]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        wire.check_names(b"dir", names, b"")
    assert raised.value.code == "bad-listing"
    assert "dir" in raised.value.message


def test_order_is_checked_across_pages() -> None:
    wire.check_names(b"", [b"c"], b"b")
    with pytest.raises(InvalidRequestError):
        wire.check_names(b"", [b"a"], b"b")


@pytest.mark.parametrize(
    "raw",
    [STAT_BYTES[:-1], b"\x07" + STAT_BYTES[1:], b"\x01\x00\xff\xff" + STAT_BYTES[4:],
     STAT_BYTES[:16] + b"\xff" + STAT_BYTES[17:], bytes(64)],
)  # fmt: skip
def test_impossible_states_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        wire.unpack_stat(raw)


def test_sizes_of_a_bundle_must_sum_up() -> None:
    sent = messages.SentFile(STAT_BYTES, 3, {}, True, b"")
    head = wire.encode_files(1, messages.FilesPart([(sent, None)]), 2, is_last=True)

    with pytest.raises(InvalidRequestError):
        wire.decode_files(memoryview(head[wire.HEADER_BYTES :] + b"ab"))


def test_too_long_a_frame_is_not_sent() -> None:
    with pytest.raises(CapacityError):
        wire.encode_frame(Kind.LINK, 0, messages.LinkReply(bytes(FRAME_BYTES_MAX)))


def test_errors_keep_what_they_say() -> None:
    error = ConflictError("x: not a directory", code="not-a-directory", advice="look")
    found = wire.error_of(wire.failure_of(error))

    assert (type(found), found.message, found.code, found.advice) == (
        ConflictError, "x: not a directory", "not-a-directory", "look",
    )  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        CancelledError("stopped", code="stopped"),
        FencedError("fenced", code="fenced"),
        CapacityError("full", code="disk-full"),
        NotFoundError("odd", code="Not A Code\n"),
    ],
)
def test_no_peer_stops_the_receivers_own_work(error: HoldfastError) -> None:
    found = wire.error_of(wire.failure_of(error))

    assert not isinstance(found, CancelledError | FencedError)
    if not isinstance(error, CancelledError | FencedError):
        assert found.code == "source-failed"
    else:
        assert isinstance(found, UnavailableError)


def test_messages_of_a_peer_are_shown_safely() -> None:
    failure = messages.Failure("denied", "forbidden", "a\x1b[31mred\nline", "", 0.0)

    assert wire.error_of(failure).message.isprintable()

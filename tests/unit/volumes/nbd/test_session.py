"""Goal: each request of NBD does what the protocol says, is answered once, and refused whole.

Method: bytes of requests go in, bytes of replies come out, on a plain volume in memory whose errors
and full log are told. Invariants: session 1-4 and, of front ends, 51 (one reply to each request),
52 (what is advertised is done) and 54 (errors stay distinct).
"""

import struct

import pytest
from tests.support.nbd_client import request, split_replies, write
from tests.unit.volumes.nbd.conftest import VOLUME_BYTES, SessionBench

from holdfast import errors
from holdfast.errors import HoldfastError
from holdfast.model.limits import NBD_OUTBOX_BYTES_MAX, NBD_REQUEST_BYTES_MAX
from holdfast.volumes.nbd.codec import Command, Errno, MalformedError
from holdfast.volumes.nbd.errnos import ERRNOS
from holdfast.volumes.nbd.session import Wait

FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
MAGIC = bytes.fromhex("25609513")
A, B = b"a" * 4096, b"b" * 4096


def test_write_and_read_byte_for_byte(bench: SessionBench) -> None:
    write_bytes = MAGIC + bytes.fromhex("0000 0001 0102030405060708 0000000000001000 00000003")
    read_bytes = MAGIC + bytes.fromhex("0000 0000 1112131415161718 0000000000000fff 00000005")

    bench.receive(write_bytes + b"xyz")
    assert bench.sent() == bytes.fromhex("67446698 00000000 0102030405060708")
    bench.receive(read_bytes)
    assert bench.sent() == bytes.fromhex("67446698 00000000 1112131415161718") + b"\0xyz\0"


def test_structured_read_byte_for_byte(structured: SessionBench) -> None:
    structured.receive(write(1, 4096, b"xyz"))
    structured.sent()

    structured.receive(request(Command.READ, 7, 4096, 4, flags=DF))

    head = bytes.fromhex("668e33ef 0001 0001 0000000000000007 0000000c")
    assert structured.sent() == head + bytes.fromhex("0000000000001000") + b"xyz\0"


def test_writes_of_a_wakeup_are_one_run_in_their_order(bench: SessionBench) -> None:
    bench.receive(write(1, 0, A) + request(Command.READ, 9, 0, 4096) + write(2, 0, B))

    assert bench.volume.runs == [[(0, 4096), (0, 4096)]]
    replies = bench.replies({9: 4096})
    assert sorted(reply.cookie for reply in replies) == [1, 2, 9]
    assert replies[-1].payload == B


def test_flush_is_answered_when_all_before_it_is_durable(bench: SessionBench) -> None:
    bench.receive(write(1, 0, A) + request(Command.FLUSH, 2))
    assert [reply.cookie for reply in bench.replies()] == [1]

    bench.settle()

    assert [(reply.cookie, reply.errno) for reply in bench.replies()] == [(2, 0)]
    assert bench.volume.durable_lsn == bench.volume.last_lsn == 1


@pytest.mark.parametrize("command", [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES])
def test_fua_is_answered_when_durable(bench: SessionBench, command: Command) -> None:
    data = A if command is Command.WRITE else b""
    bench.receive(write(1, 0, B) + request(command, 2, 4096, 4096, flags=FUA) + data)
    assert [reply.cookie for reply in bench.replies()] == [1]

    bench.settle()

    assert [reply.cookie for reply in bench.replies()] == [2]
    assert bench.volume.durable_lsn == 2
    assert bench.late_replies_count == 1


def test_flush_waits_for_a_sync_that_began_after_it(bench: SessionBench) -> None:
    bench.volume.flush_gate.clear()
    bench.receive(write(1, 0, A) + request(Command.FLUSH, 2))
    bench.receive(write(3, 4096, B) + request(Command.FLUSH, 4))
    assert [reply.cookie for reply in bench.replies()] == [1, 3]

    bench.volume.flush_gate.set()
    bench.settle()

    assert [reply.cookie for reply in bench.replies()] == [2, 4]
    assert (bench.counters.syncs_count, bench.volume.durable_lsn) == (2, 2)


def test_failed_flush_is_said_to_all_who_wait(bench: SessionBench) -> None:
    bench.volume.flush_error = errors.StorageFailedError("no", code="flush-failed")

    bench.receive(write(1, 0, A, flags=FUA) + request(Command.FLUSH, 2))
    bench.settle()

    assert sorted((r.cookie, r.errno) for r in bench.replies()) == [(1, Errno.EIO), (2, Errno.EIO)]
    assert bench.volume.durable_lsn == 0


def test_trim_and_zeroes(bench: SessionBench) -> None:
    bench.receive(write(1, 0, A * 4) + request(Command.TRIM, 2, 0, 4096))
    bench.receive(request(Command.WRITE_ZEROES, 3, 4096, 4096))
    bench.receive(request(Command.WRITE_ZEROES, 4, 8192, 4096, flags=NO_HOLE | FAST_ZERO))

    assert [(r.cookie, r.errno) for r in bench.replies()] == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert bench.volume.trims == [("trim", 0, 4096), ("punch", 4096, 4096), ("keep", 8192, 4096)]
    assert bench.volume.content[: 4 * 4096] == bytes(3 * 4096) + A


def test_cache_reads_and_answers(bench: SessionBench) -> None:
    bench.receive(request(Command.CACHE, 1, 0, VOLUME_BYTES))
    bench.volume.error = errors.IntegrityError("rot", code="rot")
    bench.receive(request(Command.CACHE, 2, 0, 4096))

    assert [(r.cookie, r.errno) for r in bench.replies()] == [(1, 0), (2, Errno.EIO)]


def test_block_status_in_every_context(structured: SessionBench) -> None:
    structured.receive(write(1, 4096, A) + write(2, 8192, B) + write(3, 65536, B))
    structured.sent()

    structured.receive(request(Command.BLOCK_STATUS, 4, 0, 16384))

    chunks = structured.replies()
    assert [(c.cookie, c.kind, c.is_last) for c in chunks] == [(4, 5, False), (4, 5, True)]
    assert chunks[0].payload == struct.pack(">7I", 1, 4096, 3, 8192, 0, 4096, 3)
    assert chunks[1].payload == struct.pack(">7I", 2, 8192, 0, 4096, 1, 4096, 0)


def test_block_status_of_one_extent(structured: SessionBench) -> None:
    structured.receive(write(1, 4096, A))
    structured.sent()

    structured.receive(request(Command.BLOCK_STATUS, 2, 0, 16384, flags=REQ_ONE))

    assert structured.replies()[0].payload == struct.pack(">3I", 1, 4096, 3)


@pytest.mark.parametrize(
    ("command", "start", "size", "flags", "errno"),
    [
        (Command.READ, VOLUME_BYTES, 1, 0, Errno.EINVAL),
        (Command.READ, 0, 0, 0, Errno.EINVAL),
        (Command.READ, 0, 1, NO_HOLE, Errno.EINVAL),
        (Command.READ, 0, 1, 1 << 9, Errno.EINVAL),
        (Command.READ, (1 << 64) - 1, 1, 0, Errno.EINVAL),
        (Command.FLUSH, 1, 0, 0, Errno.EINVAL),
        (Command.FLUSH, 0, 1, 0, Errno.EINVAL),
        (Command.TRIM, VOLUME_BYTES - 1, 2, 0, Errno.EINVAL),
        (Command.TRIM, 0, 1, FAST_ZERO, Errno.EINVAL),
        (Command.WRITE_ZEROES, VOLUME_BYTES - 1, 2, 0, Errno.ENOSPC),
        (Command.WRITE_ZEROES, 0, 1, REQ_ONE, Errno.EINVAL),
        (Command.CACHE, VOLUME_BYTES, 1, 0, Errno.EINVAL),
        (Command.BLOCK_STATUS, 0, 4096, 0, Errno.EINVAL),
        (77, 0, 1, 0, Errno.EINVAL),
    ],
)
def test_what_is_refused_changes_nothing(
    bench: SessionBench, command: int, start: int, size: int, flags: int, errno: Errno
) -> None:
    bench.receive(request(command, 5, start, size, flags=flags))

    assert [(r.cookie, r.errno) for r in bench.replies()] == [(5, errno)]
    assert bench.volume.last_lsn == 0
    assert bench.volume.trims == []


@pytest.mark.parametrize(
    ("start", "flags", "errno"),
    [(VOLUME_BYTES - 1, 0, Errno.ENOSPC), (1 << 63, 0, Errno.ENOSPC), (0, DF, Errno.EINVAL)],
)
def test_write_that_is_refused_leaves_its_neighbours(
    bench: SessionBench, start: int, flags: int, errno: Errno
) -> None:
    bench.receive(write(1, 0, A) + write(2, start, B, flags=flags) + write(3, 4096, A))

    answered = {reply.cookie: reply.errno for reply in bench.replies()}
    assert answered == {1: 0, 2: errno, 3: 0}
    assert bench.volume.runs == [[(0, 4096), (4096, 4096)]]


def test_read_over_the_limit(bench: SessionBench) -> None:
    bench.volume.geometry = type(bench.volume.geometry)(size_bytes=1 << 30)
    over = NBD_REQUEST_BYTES_MAX + 1

    bench.receive(request(Command.READ, 1, 0, over) + request(Command.READ, 2, 0, over, flags=DF))

    assert [r.errno for r in bench.replies()] == [Errno.EINVAL, Errno.EOVERFLOW]


def test_structured_error_of_a_read_carries_the_message(structured: SessionBench) -> None:
    structured.volume.error = errors.IntegrityError("block 7 is rotten", code="rot")

    structured.receive(request(Command.READ, 3, 0, 4096))

    head = bytes.fromhex("668e33ef 0001 8001 0000000000000003 00000017")
    assert structured.sent() == head + b"\0\0\0\5\0\x11block 7 is rotten"


def test_long_read_comes_in_pieces_unless_df(structured: SessionBench) -> None:
    structured.receive(b"".join(write(n, n << 16, bytes([n]) * 65536) for n in range(16)))
    structured.sent()

    structured.receive(request(Command.READ, 1, 100, VOLUME_BYTES - 200))
    data = structured.sent()
    while structured.wait is not Wait.INPUT:
        structured.advance()
        data += structured.sent()
    pieces = split_replies(data)
    structured.receive(request(Command.READ, 2, 100, VOLUME_BYTES - 200, flags=DF))
    (whole,) = structured.replies()

    assert [piece.is_last for piece in pieces] == [False, False, False, True]
    offsets = [struct.unpack(">Q", piece.payload[:8])[0] for piece in pieces]
    assert offsets == [100 + index * 262144 for index in range(4)]
    joined = b"".join(piece.payload[8:] for piece in pieces)
    assert joined == whole.payload[8:] == structured.volume.content[100:-100]


def test_long_read_that_fails_half_way_ends_with_the_error(structured: SessionBench) -> None:
    structured.receive(request(Command.READ, 1, 0, VOLUME_BYTES) + request(Command.READ, 2, 0, 1))
    assert structured.wait is Wait.OUTPUT
    structured.sent()
    structured.volume.error = errors.IntegrityError("rot", code="rot")
    structured.advance()

    chunks = structured.replies()
    assert [(c.cookie, c.errno, c.is_last) for c in chunks] == [
        (1, Errno.EIO, True),
        (2, Errno.EIO, True),
    ]


@pytest.mark.parametrize("kind", list(ERRNOS))
def test_every_kind_of_error_is_told(bench: SessionBench, kind: type[HoldfastError]) -> None:
    bench.volume.error = kind("no", code="no")

    bench.receive(write(1, 0, A) + request(Command.TRIM, 2, 0, 1) + request(Command.READ, 3, 0, 1))

    assert [(r.cookie, r.errno) for r in bench.replies()] == [
        (cookie, ERRNOS[kind]) for cookie in (1, 2, 3)
    ]


def test_table_of_errors_is_total_and_keeps_them_apart() -> None:
    assert set(ERRNOS) == set(HoldfastError.__subclasses__())
    fenced, full = ERRNOS[errors.FencedError], ERRNOS[errors.CapacityError]
    assert len({fenced, full, ERRNOS[errors.StorageFailedError], ERRNOS[errors.DeniedError]}) == 4


def test_full_log_holds_the_run_and_whatever_follows(bench: SessionBench) -> None:
    bench.volume.stalls_left = 1

    bench.receive(write(1, 0, A) + write(2, 4096, B) + request(Command.TRIM, 3, 0, 512))
    assert bench.wait is Wait.ROOM
    assert bench.sent() == b""

    bench.volume.stalls_left = 0
    assert bench.advance() is Wait.INPUT
    assert [reply.cookie for reply in bench.replies()] == [1, 2, 3]
    assert bench.volume.content[512:8192] == A[512:] + B


def test_full_log_given_up_is_no_space_and_nothing_happened(bench: SessionBench) -> None:
    bench.volume.stalls_left = 1

    bench.receive(write(1, 0, A) + request(Command.WRITE_ZEROES, 2, 0, 4096))
    bench.session.give_up(Errno.ENOSPC)
    bench.volume.stalls_left = 0
    bench.advance()

    assert [(r.cookie, r.errno) for r in bench.replies()] == [(1, Errno.ENOSPC), (2, Errno.ENOSPC)]
    assert bench.volume.last_lsn == 0


def test_answers_that_are_not_taken_hold_up_reads(bench: SessionBench) -> None:
    size = 64 << 10
    reads = [request(Command.READ, cookie, 0, size) for cookie in range(100)]

    bench.receive(b"".join(reads))
    assert bench.wait is Wait.OUTPUT
    assert bench.outbox.size_bytes <= NBD_OUTBOX_BYTES_MAX + size + 16

    answered = []
    while bench.outbox.size_bytes:
        answered += [r.cookie for r in bench.replies(dict.fromkeys(range(100), size))]
        bench.advance()
    assert answered == list(range(100))


def test_nothing_is_taken_after_disc(bench: SessionBench) -> None:
    bench.receive(write(1, 0, A) + request(Command.FLUSH, 2) + request(Command.DISC, 3))
    assert bench.wait is Wait.END
    bench.receive(write(4, 0, B))
    bench.settle()

    assert [reply.cookie for reply in bench.replies()] == [1, 2]
    assert bench.volume.content[:4096] == A


@pytest.mark.parametrize(
    "bad", [b"\0" * 28, request(Command.WRITE, 2, 0, NBD_REQUEST_BYTES_MAX + 1)]
)
def test_malformed_request_ends_it_after_what_came_before(bench: SessionBench, bad: bytes) -> None:
    with pytest.raises(MalformedError):
        bench.receive(write(1, 0, A) + bad + write(3, 4096, B))

    assert [reply.cookie for reply in bench.replies()] == [1]
    assert bench.volume.runs == [[(0, 4096)]]


def test_write_longer_than_the_buffer_is_taken_whole(bench: SessionBench) -> None:
    bench.volume.geometry = type(bench.volume.geometry)(size_bytes=64 << 20)
    bench.volume.content = bytearray(64 << 20)
    data = bytes(range(256)) * (NBD_REQUEST_BYTES_MAX // 256)

    bench.receive(write(1, 4096, data) + write(2, 0, A))

    assert [reply.cookie for reply in bench.replies()] == [1, 2]
    assert bench.volume.content[4096 : 4096 + len(data)] == data
    bench.inbox.room()
    assert not bench.inbox.is_grown


def test_counters_count_requests_bytes_and_errors(bench: SessionBench) -> None:
    bench.receive(write(1, 0, A) + write(2, VOLUME_BYTES, A) + request(Command.READ, 3, 0, 512))
    bench.receive(request(Command.FLUSH, 4))
    bench.settle()

    counters = bench.counters
    assert (counters.write.count, counters.write.size_bytes) == (1, 4096)
    assert counters.write.errors_count == 1
    assert (counters.read.count, counters.read.size_bytes) == (1, 512)
    assert (counters.flush.count, counters.syncs_count) == (1, 1)

"""Goal: replies leave as they were packed. Method: bytes in, bytes out. Cites outbox 1-2."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.volumes.nbd.outbox import Outbox


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.integers(0, 12)), max_size=60))
def test_everything_is_sent_once_in_order(steps: list[tuple[bytes, int]]) -> None:
    outbox = Outbox()
    added, sent = b"", b""
    for data, size_bytes in steps:
        outbox.add(data * 50_000)
        added += data * 50_000
        size = min(size_bytes * 50_000, outbox.size_bytes)
        sent += bytes(outbox.unsent()[:size])
        outbox.sent(size)
    sent += bytes(outbox.unsent())

    assert sent == added


def test_what_is_filled_in_later_is_sent_from_where_it_was_filled_in() -> None:
    outbox = Outbox()
    outbox.add(b"head")
    room = outbox.reserve(4)
    room[:] = b"data"
    outbox.add(b"end")
    outbox.reserve(9)
    outbox.take_back(9)

    assert bytes(outbox.unsent()) == b"headdataend"

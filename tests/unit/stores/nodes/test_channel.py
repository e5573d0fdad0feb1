"""Goal: no peer holds a reader longer than it is allowed to, however it spreads its bytes.

Method: a pair of sockets; a thread sends a byte now and then.
"""

import contextlib
import socket
import threading
import time

import pytest

from holdfast.stores.nodes.channel import Channel
from holdfast.stores.nodes.messages import Kind
from holdfast.stores.nodes.wire import encode_header
from holdfast.stores.system import SystemClock


@pytest.mark.parametrize("part", ["header", "payload"])
def test_a_frame_that_trickles_is_given_up(part: str) -> None:
    """The time is for the whole frame, not for each byte of it."""
    one, other = socket.socketpair()
    stop = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            if part == "payload":
                other.sendall(encode_header(Kind.DATA, 1, 1000, is_last=True))
            while not stop.wait(0.05):
                other.sendall(b"\0")

    thread = threading.Thread(target=trickle)
    thread.start()
    channel = Channel(one, SystemClock())
    began = time.monotonic()
    if part == "header":
        with pytest.raises(TimeoutError):
            channel.receive_header(5.0, 0.3)
    else:
        size_bytes = channel.receive_header(5.0, 0.3).size_bytes
        with pytest.raises(TimeoutError):
            channel.receive_payload(size_bytes, 0.3)
    assert 0.25 < time.monotonic() - began < 2
    stop.set()
    thread.join()
    channel.close()
    other.close()

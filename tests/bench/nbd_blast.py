"""A client of NBD that costs next to nothing, to see how much a server can do.

It sends batches made beforehand, each with one call, and counts the bytes that come back; fio takes
more of a processor than the servers measured here.
"""

import hashlib
import random
import socket
import struct
import time

from holdfast.volumes.nbd import codec
from holdfast.volumes.nbd.codec import Command, Request

BLOCK_BYTES = 4096
BATCHES_COUNT = 16


def connect(port: int, name: str) -> socket.socket:
    """Return a connection to loopback in transmission, with simple replies."""
    connected = socket.create_connection(("127.0.0.1", port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    receive(connected, 18)
    payload = codec.pack_string(name) + codec.U16.pack(0)
    head = codec.OPTION.pack(codec.OPTION_MAGIC, codec.Option.GO, len(payload))
    connected.sendall(codec.CLIENT_FLAGS.pack(3) + head + payload)
    while True:
        _, _, kind, size_bytes = codec.OPTION_REPLY.unpack(receive(connected, 20))
        receive(connected, size_bytes)
        if kind == codec.OptionReply.ACK:
            return connected
        if kind != codec.OptionReply.INFO:
            raise SystemExit(f"the server refused: {kind:#x}")


def receive(connected: socket.socket, size_bytes: int) -> bytes:
    """Return exactly so many bytes."""
    data = bytearray(size_bytes)
    view = memoryview(data)
    while view:
        taken = connected.recv_into(view)
        if not taken:
            raise SystemExit("the server hung up")
        view = view[taken:]
    return bytes(data)


def fill(connected: socket.socket, volume_bytes: int) -> None:
    """Write a whole volume once, and flush it: what is measured after meets no holes."""
    step = 1 << 20
    data = hashlib.shake_128(b"holdfast").digest(step)
    for start in range(0, volume_bytes, step):
        connected.sendall(_request(Command.WRITE, 0, start, step) + data)
        _check(receive(connected, 16))
    connected.sendall(_request(Command.FLUSH, 0, 0, 0))
    _check(receive(connected, 16))


def blast(
    connected: socket.socket,
    *,
    writes: bool,
    batch_count: int,
    volume_bytes: int,
    duration_s: float,
) -> tuple[int, float]:
    """Return how many requests were answered in how many seconds."""
    chance = random.Random(1)
    data = chance.randbytes(BLOCK_BYTES)
    blocks = volume_bytes // BLOCK_BYTES
    command = Command.WRITE if writes else Command.READ
    batches = [
        b"".join(
            _request(command, cookie, chance.randrange(blocks) * BLOCK_BYTES, BLOCK_BYTES)
            + (data if writes else b"")
            for cookie in range(batch_count)
        )
        for _ in range(BATCHES_COUNT)
    ]
    answers = memoryview(bytearray(batch_count * (16 if writes else 16 + BLOCK_BYTES)))
    count = 0
    began_s = time.perf_counter()
    while True:
        for batch in batches:
            connected.sendall(batch)
            taken = 0
            while taken < len(answers):
                taken += connected.recv_into(answers[taken:])
        count += BATCHES_COUNT * batch_count
        took_s = time.perf_counter() - began_s
        if took_s >= duration_s:
            return count, took_s


def _request(command: int, cookie: int, start: int, size_bytes: int) -> bytes:
    return codec.pack_request(Request(0, command, cookie.to_bytes(8, "big"), start, size_bytes))


def _check(reply: bytes) -> None:
    magic, errno, _ = struct.unpack(">IIQ", reply)
    if magic != codec.SIMPLE_REPLY_MAGIC or errno:
        raise SystemExit(f"the server answered {errno}")

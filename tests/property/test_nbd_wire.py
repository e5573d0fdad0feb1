"""Goal: whatever a client sends, cut however the network likes, nothing but what it says happens.

Method: random bytes, and streams of mostly proper messages with damage in them, are fed whole and
in random pieces to two machines; both must answer, agree and change their volumes alike, hold no
more than the limits, and raise nothing but MalformedError. Invariants: negotiation 1 and 2, inbox
1-3, session 1, codec 1, outbox 1, and, of front ends, 51.
"""

import asyncio
import itertools
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.volume_world import VolumeWorld
from tests.support.nbd_client import go, option, request, set_contexts, split_replies, write
from tests.support.plain_volume import PlainVolume

from holdfast.model.limits import (
    NBD_BUFFER_BYTES,
    NBD_OPTION_BYTES_MAX,
    NBD_OUTBOX_BYTES_MAX,
    NBD_REQUEST_BYTES_MAX,
)
from holdfast.stores.system import SystemClock
from holdfast.volumes.counters import Counters
from holdfast.volumes.model import Geometry, VolumeState
from holdfast.volumes.nbd import codec
from holdfast.volumes.nbd.codec import Command, ExportFlag, MalformedError, Option, Request
from holdfast.volumes.nbd.contexts import Context
from holdfast.volumes.nbd.inbox import Inbox
from holdfast.volumes.nbd.negotiation import Agreement, Negotiation, Stage, TlsMode
from holdfast.volumes.nbd.outbox import Outbox
from holdfast.volumes.nbd.session import Session, Wait
from holdfast.volumes.running import RunningVolume
from holdfast.volumes.served import ServedVolume

VOLUME_BYTES = 1 << 16
U16 = st.integers(0, 0xFFFF)


@dataclass(frozen=True)
class _Export:
    name: str = "disk"
    description: str = ""
    size_bytes: int = VOLUME_BYTES
    flags: ExportFlag = ExportFlag.HAS_FLAGS


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


options = st.one_of(
    st.binary(max_size=40),
    st.builds(option, st.integers(0, 12), st.binary(max_size=40)),
    st.sampled_from(
        [
            go("disk"),
            go("none"),
            option(Option.STRUCTURED_REPLY),
            option(Option.LIST),
            option(Option.STARTTLS),
            set_contexts("disk", "base:allocation", "holdfast:changed-since:1"),
        ]
    ),
)


def _negotiate(pieces: list[bytes], tls: TlsMode) -> tuple[bytes, str, object, bytes]:
    negotiation = Negotiation((_Export(),), tls)
    answered = b""
    ending = ""
    try:
        for piece in pieces:
            answered += negotiation.receive(piece)
            assert len(negotiation._held) <= NBD_OPTION_BYTES_MAX + 16 + len(piece)
    except MalformedError:
        ending = "malformed"
    rest = negotiation.take_rest() if negotiation.stage is Stage.AGREED else b""
    return answered, ending or negotiation.stage, negotiation.agreement, rest


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"\0\0\0\3", b"\0\0\0\1", b"\0\0\0\0", b"\xff\0\0\0"]),
    st.lists(options, max_size=6),
    st.lists(st.integers(0, 500), max_size=6),
    st.sampled_from(TlsMode),
)
def test_negotiation_is_the_same_however_it_is_cut(
    flags: bytes, messages: list[bytes], cuts: list[int], tls: TlsMode
) -> None:
    data = flags + b"".join(messages)

    whole = _negotiate([data], tls)
    pieces = _negotiate(_cut(data, cuts), tls)

    if whole[1] == "malformed":
        # What was answered before the bad bytes is sent, if they came in a piece of their own.
        assert pieces[1] == "malformed"
    else:
        assert pieces == whole


starts = st.one_of(st.integers(0, VOLUME_BYTES), st.integers(0, (1 << 64) - 1))
sizes = st.one_of(st.integers(0, 9000), st.integers(0, 0xFFFF_FFFF))
others = [command for command in Command if command is not Command.WRITE]
requests = st.one_of(
    st.builds(
        write, st.integers(0, 9), starts, st.binary(max_size=9000), flags=st.sampled_from([0, 0, 1])
    ),
    st.builds(
        request,
        st.one_of(st.sampled_from(others), U16.filter(lambda number: number != Command.WRITE)),
        st.integers(0, (1 << 64) - 1),
        starts,
        sizes,
        flags=st.one_of(st.just(0), st.integers(0, 31), U16),
    ),
)
streams = st.lists(st.one_of(requests, requests, requests, st.binary(max_size=40)), max_size=12)


class _Machine:
    """A session fed piece by piece, which takes its answers at once."""

    def __init__(
        self, runner: asyncio.Runner, is_structured: bool, volume: ServedVolume | None = None
    ) -> None:
        self._runner = runner
        self.plain = PlainVolume(VOLUME_BYTES)
        self.volume: ServedVolume = volume or self.plain
        self._running = runner.run(self._begin())
        self._inbox, self._outbox = Inbox(), Outbox()
        context = Context(number=1, name="base:allocation", since_lsn=None)
        agreement = Agreement(export_name="disk", is_structured=is_structured, contexts=(context,))
        self._session = Session(agreement, self._running, self._inbox, self._outbox, lambda: None)
        self.sent = b""
        self.is_over = False

    async def _begin(self) -> RunningVolume:
        return RunningVolume(self.volume, clock=SystemClock(), counters=Counters())

    def receive(self, piece: bytes) -> None:
        try:
            while piece and not self.is_over:
                if self._inbox.needs_growth:
                    self._inbox.grow()
                room = self._inbox.room()
                assert len(self._inbox.view) <= max(
                    NBD_BUFFER_BYTES, NBD_REQUEST_BYTES_MAX + codec.REQUEST_BYTES
                )
                size = min(len(room), len(piece))
                room[:size] = piece[:size]
                self._inbox.received(size)
                piece = piece[size:]
                self._go_on()
        except MalformedError:
            self._runner.run(self._settle())
            self._take()
            self.is_over = True

    def _go_on(self) -> None:
        wait = Wait.TURN
        while wait in (Wait.TURN, Wait.OUTPUT):
            wait = self._session.advance(0)
            assert self._outbox.size_bytes <= NBD_OUTBOX_BYTES_MAX + VOLUME_BYTES + (64 << 10)
            self._take()
            self._runner.run(self._settle())
            self._take()
        self.is_over = wait is Wait.END

    def _take(self) -> None:
        self.sent += bytes(self._outbox.unsent())
        self._outbox.sent(self._outbox.size_bytes)

    async def _settle(self) -> None:
        while self._session.waiting_count:
            await asyncio.sleep(0)

    def close(self) -> None:
        self._runner.run(self._running.close())


def _asked(data: bytes) -> list[Request]:
    """Return the requests that must be answered: all before the first bad header or DISC."""
    asked = []
    at = 0
    while len(data) - at >= codec.REQUEST_BYTES:
        magic, *rest = codec.REQUEST.unpack_from(data, at)
        found = Request(*rest)
        at += codec.REQUEST_BYTES
        if found.command == Command.WRITE:
            at += found.size_bytes
        is_bad = found.command == Command.WRITE and found.size_bytes > NBD_REQUEST_BYTES_MAX
        if magic != codec.REQUEST_MAGIC or is_bad or at > len(data):
            break
        if found.command == Command.DISC:
            break
        asked.append(found)
    return asked


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(0, 30_000), max_size=8), st.booleans())
def test_transmission_is_the_same_however_it_is_cut(
    messages: list[bytes], cuts: list[int], is_structured: bool
) -> None:
    data = b"".join(messages)
    with asyncio.Runner() as runner:
        whole, pieces = _Machine(runner, is_structured), _Machine(runner, is_structured)
        try:
            whole.receive(data)
            for piece in _cut(data, cuts):
                pieces.receive(piece)
        finally:
            whole.close()
            pieces.close()
    asked = _asked(data)
    cookies = [int.from_bytes(found.cookie, "big") for found in asked]
    reads = {
        cookie: found.size_bytes
        for cookie, found in zip(cookies, asked, strict=True)
        if found.command == Command.READ
    }
    if len(set(cookies)) == len(cookies):
        for machine in (whole, pieces):
            answered = [r.cookie for r in split_replies(machine.sent, reads) if r.is_last]
            assert sorted(answered) == sorted(cookies)
    assert whole.is_over is pieces.is_over
    assert bytes(whole.plain.content) == bytes(pieces.plain.content)
    assert whole.plain.trims == pieces.plain.trims


@settings(max_examples=60, deadline=None)
@given(streams, st.booleans())
def test_engine_and_model_answer_and_end_alike(messages: list[bytes], is_structured: bool) -> None:
    """The same bytes for the real engine, which overwrites headers of requests in place."""
    world = VolumeWorld(Geometry(size_bytes=VOLUME_BYTES, slot_bytes=8192, segment_bytes=1 << 20))
    data = b"".join(message for message in messages if message[6:8] != b"\0\7")
    with asyncio.Runner() as runner:
        model = _Machine(runner, is_structured)
        engine = _Machine(runner, is_structured, world.volume)
        try:
            model.receive(data)
            engine.receive(data)
        finally:
            model.close()
            engine.close()
    image = bytearray(VOLUME_BYTES)
    world.volume.read_into(0, memoryview(image))
    assert image == model.plain.content
    assert engine.sent == model.sent
    assert world.volume.state is VolumeState.HEALTHY


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_are_no_requests(data: bytes) -> None:
    inbox = Inbox()
    inbox.room()[: len(data)] = data
    inbox.received(len(data))
    try:
        batch = inbox.take()
    except MalformedError:
        assert not data.startswith(b"\x25\x60\x95\x13")
    else:
        assert batch is None or data.startswith(b"\x25\x60\x95\x13")

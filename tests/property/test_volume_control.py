"""Goal: no bytes on a control socket crash a data process, change anything, or make it hold much.

Method: hypothesis cuts, mutates and makes up frames for the protocol without I/O, and sends them
over a real socket to a server whose answers are counted; invariants of volumes/control.py and
volumes/control_server.py.
"""

import asyncio
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import errors
from holdfast.errors import HoldfastError, InvalidRequestError, OutcomeUnknownError
from holdfast.model.limits import (
    CONTROL_CONNECTIONS_MAX,
    CONTROL_REPLY_BYTES_MAX,
    CONTROL_REQUEST_BYTES_MAX,
    DAMAGE_REPORTED_MAX,
)
from holdfast.volumes.control import (
    CommitExpand,
    DamagedRange,
    Frames,
    GetScrub,
    PrepareExpand,
    Request,
    ScrubProgress,
    SetFence,
    decode_answer,
    decode_request,
    encode_problem,
    encode_request,
    encode_result,
)
from holdfast.volumes.control_client import ControlClient
from holdfast.volumes.control_server import ControlServer
from holdfast.volumes.local_socket import bind_local, connect_local

KINDS = HoldfastError.__subclasses__()

requests = st.one_of(
    st.builds(PrepareExpand, size_bytes=st.integers(0, 2**63)),
    st.builds(
        SetFence,
        epoch=st.integers(0, 2**63),
        role=st.text(max_size=20),
        lease_ms=st.none() | st.integers(0, 2**31),
    ),
    *(st.just(kind()) for kind in get_args(Request) if kind not in (PrepareExpand, SetFence)),
)


@given(st.lists(requests, max_size=5), st.data())
def test_frames_are_the_same_however_they_are_cut(sent: list[Request], data: st.DataObject) -> None:
    stream = b"".join(encode_request(request) for request in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames = Frames(CONTROL_REQUEST_BYTES_MAX)

    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    got = [decode_request(body) for piece in pieces for body in frames.feed(piece)]

    assert got == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    """Invariant 2."""
    with suppress(InvalidRequestError):
        decode_request(body)


@given(requests, st.data())
def test_changed_request_is_a_request_or_refused(request: Request, data: st.DataObject) -> None:
    body = bytearray(encode_request(request)[4:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))

    with suppress(InvalidRequestError):
        assert isinstance(decode_request(bytes(body)), get_args(Request))


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_an_error(body: bytes) -> None:
    with suppress(HoldfastError):
        assert isinstance(decode_answer(body, ScrubProgress), ScrubProgress)


@pytest.mark.parametrize(
    "body",
    [b"[" * 4000, b'{"do":"status","x":1}', b'{"do":"nothing"}', b'{"do":"prepare-expand"}', b"1"],
)
def test_no_request(body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        decode_request(body)

    assert raised.value.code == "bad-control-request"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_crosses_whole(kind: type[HoldfastError]) -> None:
    """Invariant 3."""
    sent = kind("it broke", code="some-code", advice="mend it", size=7, path="a")

    with pytest.raises(HoldfastError) as raised:
        decode_answer(encode_problem(sent)[4:], ScrubProgress)

    assert type(raised.value) is kind
    assert raised.value.as_problem() == sent.as_problem()
    assert kind.__module__ == errors.__name__


def test_frame_over_the_limit_is_refused_at_its_header() -> None:
    """Invariant 1: before any of its bytes came."""
    frames = Frames(CONTROL_REQUEST_BYTES_MAX)

    with pytest.raises(InvalidRequestError) as raised:
        list(frames.feed(struct.pack(">I", CONTROL_REQUEST_BYTES_MAX + 1)))

    assert raised.value.code == "frame-too-large"


class Answers:
    """Counts what reached the other side."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def __call__(self, request: Request) -> object:
        self.asked.append(request)
        if request == CommitExpand():
            raise RuntimeError("a defect")
        return ScrubProgress(state="done")


async def _served(path: Path, answers: Answers) -> ControlServer:
    server = ControlServer(answers)
    await server.start(bind_local(path, for_others=False))
    return server


@settings(max_examples=30, deadline=None)
@given(junk=st.binary(min_size=1, max_size=200))
def test_junk_on_a_socket_asks_for_nothing(
    junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.sock"

    async def scenario() -> list[Request]:
        answers = Answers()
        server = await _served(path, answers)
        with connect_local(path, 5.0) as junk_socket:
            junk_socket.sendall(junk)
        async with await ControlClient.connect(path) as client:
            assert (await client.scrub()).state == "done"
        await server.close()
        return answers.asked

    asked = asyncio.run(scenario())

    assert asked == [GetScrub()], "framed JSON of a request does not come about by chance"


def test_too_long_frame_is_answered_and_ends_the_connection(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        server = await _served(tmp_path / "s", Answers())
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"\xff" * 100)
        answered = await reader.read(-1)
        writer.close()
        await server.close()
        return answered

    answered = asyncio.run(scenario())

    assert json.loads(answered[4:])["problem"]["code"] == "frame-too-large"


def test_defect_is_answered_and_the_connection_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = await _served(tmp_path / "s", Answers())
        async with await ControlClient.connect(tmp_path / "s") as client:
            with pytest.raises(HoldfastError) as raised:
                await client.commit_expand()
            assert raised.value.code == "internal"
            assert (await client.scrub()).state == "done"
        await server.close()

    asyncio.run(scenario())


def test_connections_are_limited(tmp_path: Path) -> None:
    """Invariant 1 of the server: one more is closed without an answer; then there is room again."""

    async def scenario() -> None:
        server = await _served(tmp_path / "s", Answers())
        clients = [await ControlClient.connect(tmp_path / "s") for _ in range(17)]
        assert len(clients) == CONTROL_CONNECTIONS_MAX + 1
        for client in clients[:-1]:
            assert (await client.scrub()).state == "done"
        with pytest.raises(OutcomeUnknownError) as raised:
            await clients[-1].scrub()
        assert raised.value.code == "control-lost"
        for client in clients:
            await client.__aexit__()
        await asyncio.sleep(0.05)
        async with await ControlClient.connect(tmp_path / "s") as client:
            assert (await client.scrub()).state == "done"
        await server.close()

    asyncio.run(scenario())


def test_greatest_answer_fits() -> None:
    """The limits agree: as many damaged ranges as are told fit one frame."""
    damage = DamagedRange(place="extent", start=2**62, end=2**62, what="x" * 200)
    frame = encode_result(ScrubProgress(damage=(damage,) * DAMAGE_REPORTED_MAX))

    assert len(frame) < CONTROL_REPLY_BYTES_MAX

"""The control protocol of a data process: its words and its frames, without I/O.

A frame is four bytes of length, big-endian, and that many bytes of JSON. A request is one object
with its kind in `do`; the answer to each is one object: `{"ok": ...}` or `{"problem": ...}`, in the
order of the requests. The socket lies in the volume's directory; who may open that may ask.

Invariants:

1. No frame over its limit is held or decoded: a longer one ends the connection at its header.
2. Bytes that are no request change nothing: the answer is a problem, and framing goes on.
3. Every kind of error crosses whole: kind, code, message, advice and context.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from holdfast import errors
from holdfast.errors import HoldfastError, InvalidRequestError, UnavailableError
from holdfast.model.limits import CONTROL_REPLY_BYTES_MAX, CONTROL_REQUEST_BYTES_MAX
from holdfast.volumes.counters import Counters

_LENGTH: Final = struct.Struct(">I")
_KINDS: Final[dict[str, type[HoldfastError]]] = {
    kind.kind: kind for kind in HoldfastError.__subclasses__() if kind.__module__ == errors.__name__
}

ResultT = TypeVar("ResultT")


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"
):
    pass


class GetStatus(_Request, frozen=True, tag="status"):
    """Tell the state; answered by a VolumeStatus."""


class GetMetrics(_Request, frozen=True, tag="metrics"):
    """Tell what was counted; answered by a MetricsSnapshot."""


class PrepareExpand(_Request, frozen=True, kw_only=True, tag="prepare-expand"):
    """Make room for a greater size, durably; nobody sees it yet. Answered by a VolumeStatus."""

    size_bytes: int


class CommitExpand(_Request, frozen=True, tag="commit-expand"):
    """Show the prepared size, durably. Answered by a VolumeStatus."""


class CancelExpand(_Request, frozen=True, tag="cancel-expand"):
    """Forget the prepared size. Answered by a VolumeStatus."""


class StartScrub(_Request, frozen=True, tag="start-scrub"):
    """Begin to read everything back. Answered by a ScrubProgress."""


class GetScrub(_Request, frozen=True, tag="scrub"):
    """Tell how far the last scrub is. Answered by a ScrubProgress."""


class CancelScrub(_Request, frozen=True, tag="cancel-scrub"):
    """Stop the scrub at its next step. Answered by a ScrubProgress."""


class SetFence(_Request, frozen=True, kw_only=True, tag="fence"):
    """Take a role in an epoch, and the right to acknowledge for a while."""

    epoch: int
    role: str
    lease_ms: int | None = None
    """From now; None means without end."""


class Flush(_Request, frozen=True, tag="flush"):
    """Make everything acknowledged durable. Answered by a VolumeStatus."""


class Stop(_Request, frozen=True, tag="stop"):
    """End orderly: answer what is under way, checkpoint, close. Answered before the end."""


Request = (
    GetStatus
    | GetMetrics
    | PrepareExpand
    | CommitExpand
    | CancelExpand
    | StartScrub
    | GetScrub
    | CancelScrub
    | SetFence
    | Flush
    | Stop
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRange:
    """Bytes that are not what was stored, and what is wrong with them.

    `place` is extent, log, slots or superblock; the bytes are the volume's for an extent, the
    file's otherwise.
    """

    place: str
    start: int
    end: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubProgress:
    """How far a scrub is, and what it found."""

    state: str = "none"
    """none, running, done, cancelled or failed."""
    done_bytes: int = 0
    total_bytes: int = 0
    checked_bytes: int = 0
    """Of what was done, what held data with a checksum."""
    damage: tuple[DamagedRange, ...] = ()
    """The first ones; `damaged_bytes` counts all."""
    damaged_bytes: int = 0
    ended_ns: int = 0
    """Wall clock; 0 while it runs."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """What a data process says of its volume."""

    name: str
    volume_id: str
    pid: int
    state: str
    """A VolumeState."""
    reason: str
    """Why the state is not healthy; empty otherwise."""
    size_bytes: int
    prepared_size_bytes: int
    """0 unless an expansion was prepared and neither shown nor cancelled."""
    used_bytes: int
    """Held on the medium by the volume's data, its log not counted."""
    block_bytes: int
    role: str
    epoch: int
    may_acknowledge: bool
    """Whether role, epoch and lease let it."""
    last_lsn: int
    durable_lsn: int
    checkpoint_lsn: int
    log_size_bytes: int
    log_used_bytes: int
    dirty_bytes: int
    checkpoint_age_ns: int
    """Since the last checkpoint; 0 if everything is in it."""
    is_stalled: bool
    """Whether a connection waits now because the log is full."""
    connections_count: int
    listening: tuple[str, ...]
    """URIs."""
    scrub: ScrubProgress = field(default_factory=ScrubProgress)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    """Counters and the state they belong to, taken at one moment."""

    status: VolumeStatus
    counters: Counters


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    ok: msgspec.Raw = msgspec.Raw(b"")
    problem: dict[str, object] | None = None


_requests: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_answers: Final = msgspec.json.Decoder(_Answer)
_encoder: Final = msgspec.json.Encoder()


class Frames:
    """Cuts a stream of bytes into frames; one for each connection and direction."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the bodies of all frames that are complete now.

        Raises:
            InvalidRequestError: `frame-too-large`; the connection is of no more use.
        """
        self._held += data
        while len(self._held) >= _LENGTH.size:
            (size_bytes,) = _LENGTH.unpack_from(self._held)
            if size_bytes > self._limit_bytes:
                raise InvalidRequestError(
                    f"a frame of {size_bytes} bytes; at most {self._limit_bytes} are taken",
                    code="frame-too-large",
                    advice="both ends must be of one version",
                )
            end = _LENGTH.size + size_bytes
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield body


def encode_request(request: Request) -> bytes:
    """Return a request as a frame."""
    return _frame(_encoder.encode(request), CONTROL_REQUEST_BYTES_MAX)


def decode_request(body: bytes) -> Request:
    """Return the request in a body, or raise InvalidRequestError (`bad-control-request`)."""
    try:
        return _requests.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"not a request of the control protocol: {error}",
            code="bad-control-request",
            advice="both ends must be of one version",
        ) from error


def encode_result(result: object) -> bytes:
    """Return what was asked for as the frame of an answer."""
    return _frame(_encoder.encode({"ok": result}), CONTROL_REPLY_BYTES_MAX)


def encode_problem(error: HoldfastError) -> bytes:
    """Return an error as the frame of an answer."""
    return _frame(_encoder.encode({"problem": error.as_problem()}), CONTROL_REPLY_BYTES_MAX)


def decode_answer(body: bytes, kind: type[ResultT]) -> ResultT:
    """Return the result in a frame's body.

    Raises:
        HoldfastError: Of the kind the other side raised.
        UnavailableError: The body is no answer (`bad-control-answer`).
    """
    try:
        answer = _answers.decode(body)
        if answer.problem is None and bytes(answer.ok):
            return msgspec.json.decode(answer.ok, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_answer(str(error)) from error
    if answer.problem is None:
        raise _bad_answer("neither a result nor a problem")
    raise error_of_problem(answer.problem)


def error_of_problem(problem: dict[str, object]) -> HoldfastError:
    """Return the error that `as_problem` described."""
    kind = _KINDS.get(str(problem.get("kind")))
    context = problem.get("context")
    if kind is None:
        return _bad_answer(f"an unknown kind of error, {problem.get('kind')!r}")
    error = kind(
        str(problem.get("message", "")),
        code=str(problem.get("code", "")),
        advice=str(problem.get("advice", "")),
    )
    if isinstance(context, dict):
        error.context.update(context)
    return error


def _frame(body: bytes, limit_bytes: int) -> bytes:
    assert len(body) <= limit_bytes
    return _LENGTH.pack(len(body)) + body


def _bad_answer(what: str) -> UnavailableError:
    return UnavailableError(
        f"the data process did not answer in the control protocol: {what}",
        code="bad-control-answer",
        advice="both ends must be of one version; restart 'holdfast volumes serve'",
    )

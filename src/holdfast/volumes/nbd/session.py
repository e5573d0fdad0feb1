"""Transmission: carries out the requests of one connection on a volume, packs replies. No sockets.

Bytes go in through the inbox, replies come out in the outbox; `advance` does what can be done now
and tells what it waits for. Reads and writes that are under way together are carried out writes
first, as one run; every other request waits for those before it.

Invariants:

1. Every request is answered exactly once, after it was carried out; after a DISC nothing is taken.
2. A write or zeroes with FUA, and a flush, are answered only when durable; a flush covers every
   write answered on any connection before it came.
3. What is refused changes nothing: out of bounds, unknown flags, read-only, or no room in the log.
4. Replies and waiting requests that are held are bounded; above that nothing more is taken.
"""

from collections.abc import Callable
from enum import StrEnum, auto
from functools import partial
from operator import attrgetter
from typing import Final

from holdfast.errors import HoldfastError
from holdfast.model.limits import (
    KIB,
    MIB,
    NBD_BATCH_MAX,
    NBD_EXTENTS_MAX,
    NBD_REQUEST_BYTES_MAX,
    NBD_WAITING_MAX,
)
from holdfast.volumes.counters import OperationCounter
from holdfast.volumes.model import Lsn, Stalled, WriteRun
from holdfast.volumes.model import Request as WriteRequest
from holdfast.volumes.nbd import codec
from holdfast.volumes.nbd.codec import AllocationFlag, Command, CommandFlag, Errno, Request
from holdfast.volumes.nbd.contexts import CHANGED, Context
from holdfast.volumes.nbd.errnos import errno_of
from holdfast.volumes.nbd.inbox import Batch, Inbox
from holdfast.volumes.nbd.negotiation import Agreement
from holdfast.volumes.nbd.outbox import Outbox
from holdfast.volumes.running import RunningVolume

_FUA: Final = int(CommandFlag.FUA)
_HOLE: Final = int(AllocationFlag.HOLE)
_ZERO: Final = int(AllocationFlag.ZERO)
_PIECE_BYTES: Final = 256 * KIB
"""Longer reads are answered in pieces of this size, where the client can take pieces."""
_MORE: Final = 1 << 16
"""Flag of a piece, beyond those of the protocol: another piece of the same read follows."""
_size_of: Final = attrgetter("size_bytes")
_pack_data_head: Final = codec.DATA_HEAD.pack_into
_pack_simple: Final = codec.SIMPLE_REPLY.pack_into
_CHUNK: Final = codec.STRUCTURED_REPLY_MAGIC
_DATA: Final = int(codec.ChunkType.OFFSET_DATA)
_PREFETCH_BYTES: Final = 1 * MIB
_STATUS_BYTES_MAX: Final = 32 * MIB
"""How far a reply to BLOCK_STATUS looks at most, however much was asked about: others wait."""
_KEEP_BYTES: Final = 64 * MIB
"""Zeroes that keep their space are done up to multiples of this: no slot lies across one."""
# Plain integers: the complement of a flag of an enumeration leaves unknown bits out.
_FLAGS_KNOWN: Final[dict[int, int]] = {
    Command.READ: int(CommandFlag.FUA | CommandFlag.DF),
    Command.WRITE: int(CommandFlag.FUA),
    Command.FLUSH: int(CommandFlag.FUA),
    Command.TRIM: int(CommandFlag.FUA),
    Command.CACHE: int(CommandFlag.FUA),
    Command.WRITE_ZEROES: int(CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO),
    Command.BLOCK_STATUS: int(CommandFlag.FUA | CommandFlag.REQ_ONE),
}


class Wait(StrEnum):
    """What a session needs before it can go on."""

    INPUT = auto()
    TURN = auto()
    """Nothing; but others have their turn first."""
    ROOM = auto()
    """The log is full: go on after the next checkpoint, or `give_up`."""
    OUTPUT = auto()
    """The client must take answers first."""
    DURABILITY = auto()
    """Too many requests wait for a flush."""
    END = auto()
    """Nothing more will be taken; end once all is answered and sent."""


_INPUT: Final = Wait.INPUT
"""Looking up a member of an enumeration costs as much as a small call, in each request."""


class Session:
    """One connection in transmission.

    Args:
        agreement: What was negotiated.
        running: The volume; its event thread is the only caller.
        inbox: Where the requests arrive.
        outbox: Where the replies go.
        on_reply: Called when a reply was added outside of `advance`.
    """

    def __init__(
        self,
        agreement: Agreement,
        running: RunningVolume,
        inbox: Inbox,
        outbox: Outbox,
        on_reply: Callable[[], None],
    ) -> None:
        self._agreement = agreement
        self._running = running
        self._volume = running.volume
        self._counters = running.counters
        self._inbox = inbox
        self._outbox = outbox
        self._on_reply = on_reply
        self._is_structured = agreement.is_structured
        self._read_head_bytes = codec.DATA_HEAD.size if self._is_structured else 16
        self._writes: list[WriteRequest] = []
        self._cookies: list[bytes] = []
        self._write_flags: dict[int, int] = {}
        self._reads: list[Request] = []
        self._other: Request | None = None
        self._is_ending = False
        self._is_advancing = False
        self._began_ns = 0
        self.is_alone = False
        """Whether only this client asks, and waits for each answer."""
        self.waiting_count = 0
        self._zeroed_bytes = 0
        """How much of the zeroes under way is done: each piece of them may wait for room."""
        self.pieces_count = 0
        """Such pieces so far: while they get on, waiting for room is no failure."""
        self.has_written = False
        """Set by every run of writes; whoever slows writers clears it."""

    def advance(self, now_ns: int) -> Wait:
        """Carry out what can be carried out now.

        Raises:
            MalformedError: The connection is of no use any more; nothing after the last whole
                request was looked at.
        """
        self._is_advancing = True
        try:
            return self._advance(now_ns)
        finally:
            self._is_advancing = False

    def give_up(self, errno: Errno) -> None:
        """Answer what waits for room with an error."""
        self._refuse_writes(errno)
        if self._other is not None:
            self._refuse(self._other, errno, self._counters.trim)
            self._other = None
            self._zeroed_bytes = 0

    def _advance(self, now_ns: int) -> Wait:
        served_count = 0
        self._began_ns = now_ns
        outbox, inbox = self._outbox, self._inbox
        while True:
            if self._writes and not self._write():
                return Wait.ROOM
            if self._reads and not self._read():
                return Wait.OUTPUT
            if self._other is not None:
                if not self._serve(self._other):
                    return Wait.ROOM
                self._other = None
            if self._is_ending:
                return Wait.END
            if outbox.is_full:
                return Wait.OUTPUT
            if self.waiting_count >= NBD_WAITING_MAX:
                return Wait.DURABILITY
            if served_count >= NBD_BATCH_MAX:
                return Wait.TURN
            batch = inbox.take()
            if batch is None:
                return _INPUT
            count = len(batch.writes) + len(batch.reads) + (batch.other is not None)
            served_count += count
            self.is_alone = self._running.is_alone(self, count)
            self._admit(batch)

    def _admit(self, batch: Batch) -> None:
        """Take what may be carried out; answer the rest."""
        self._writes, self._cookies, self._write_flags, self._reads, self._other = batch
        volume_bytes = self._volume.geometry.size_bytes
        if not batch.write_flags:
            for _, _, start, size_bytes in batch.writes:
                if not size_bytes or start + size_bytes > volume_bytes:
                    self._admit_writes(batch)
                    break
        else:
            self._admit_writes(batch)
        for flags, _, _, start, size_bytes in batch.reads:
            if flags or not 0 < size_bytes <= _PIECE_BYTES or start + size_bytes > volume_bytes:
                self._reads = self._admit_reads(batch.reads)
                break

    def _admit_writes(self, batch: Batch) -> None:
        self._writes, self._cookies, self._write_flags = [], [], {}
        for index, write in enumerate(batch.writes):
            flags, cookie = batch.write_flags.get(index, 0), batch.cookies[index]
            request = Request(flags, Command.WRITE, cookie, write.start, write.size_bytes)
            errno = self._refusal(request)
            if errno is not None:
                self._refuse(request, errno, self._counters.write)
                continue
            if flags:
                self._write_flags[len(self._writes)] = flags
            self._writes.append(write)
            self._cookies.append(cookie)

    def _admit_reads(self, reads: list[Request]) -> list[Request]:
        admitted = []
        for request in reads:
            errno = self._refusal(request)
            if errno is not None:
                self._refuse(request, errno, self._counters.read)
            elif self._is_structured and not request.flags & CommandFlag.DF:
                admitted.extend(_pieces_of(request))
            else:
                admitted.append(request)
        return admitted

    def _write(self) -> bool:
        """Carry out the writes as one run; False if the log has no room."""
        try:
            lsn = self._volume.write_run(WriteRun(self._inbox.view, self._writes))
        except HoldfastError as error:
            if error.code == "run-too-large" and len(self._writes) > 1:
                return self._write_in_two()
            self._refuse_writes(errno_of(error))
            return True
        if isinstance(lsn, Stalled):
            return False
        size_bytes = sum(map(_size_of, self._writes))
        if self._write_flags:
            durable = [self._cookies[index] for index in self._write_flags]
            self._cookies = [
                cookie
                for index, cookie in enumerate(self._cookies)
                if index not in self._write_flags
            ]
            self._answer_durable(lsn, durable, self._counters.write)
        self._outbox.add(codec.pack_successes(self._cookies))
        self._count(self._counters.write, len(self._writes), size_bytes)
        self._writes = []
        self.has_written = True
        self._running.written(size_bytes)
        return True

    def _write_in_two(self) -> bool:
        """Carry out a run that no half of a small log could hold as two; False if one stalls."""
        middle = len(self._writes) // 2
        later, cookies, flags = self._writes[middle:], self._cookies, self._write_flags
        self._writes, self._cookies = self._writes[:middle], cookies[:middle]
        self._write_flags = {at: flag for at, flag in flags.items() if at < middle}
        is_done = self._write()
        if is_done:
            self._cookies, self._write_flags = [], {}
        shift = len(self._writes) - middle
        self._write_flags |= {at + shift: flag for at, flag in flags.items() if at >= middle}
        self._cookies = self._cookies + cookies[middle:]
        self._writes = self._writes + later
        return is_done and self._write()

    def _refuse_writes(self, errno: Errno) -> None:
        self._counters.write.errors_count += len(self._writes)
        replies = [codec.pack_simple_reply(cookie, errno) for cookie in self._cookies]
        self._outbox.add(b"".join(replies))
        self._writes = []

    def _read(self) -> bool:
        """Carry out reads until there are none, or the answers are too many for now: False."""
        reads, done = self._reads, 0
        while done < len(reads) and not self._outbox.is_full:
            done += self._read_some(reads[done:] if done else reads)
        self._count(self._counters.read, done, sum(map(_size_of, reads[:done])))
        self._reads = reads[done:]
        return not self._reads

    def _read_some(self, reads: list[Request]) -> int:
        """Carry out reads up to the first that fails; return how many are answered."""
        outbox, head_bytes = self._outbox, self._read_head_bytes
        room_bytes, wanted_bytes, stop = outbox.room_bytes, 0, 0
        for request in reads:
            wanted_bytes += head_bytes + request[4]
            stop += 1
            if wanted_bytes >= room_bytes:
                break
        answers, at = outbox.reserve(wanted_bytes), 0
        run = []
        for flags, _, cookie, start, size_bytes in reads if stop == len(reads) else reads[:stop]:
            if self._is_structured:
                last = 0 if flags & _MORE else codec.CHUNK_DONE
                _pack_data_head(answers, at, _CHUNK, last, _DATA, cookie, 8 + size_bytes, start)
            else:
                _pack_simple(answers, at, codec.SIMPLE_REPLY_MAGIC, 0, cookie)
            data_at = at + head_bytes
            at = data_at + size_bytes
            run.append((start, answers[data_at:at]))
        try:
            done = self._volume.read_run(run)
        except HoldfastError as error:
            outbox.take_back(wanted_bytes)
            self._refuse(reads[0], errno_of(error), self._counters.read, error.message)
            return 1 + _count_following(reads, 0)
        if done < stop:  # The next one fails, and will say why as the first.
            outbox.take_back(sum(head_bytes + len(buffer) for _, buffer in run[done:]))
        return done

    def _serve(self, request: Request) -> bool:
        """Carry out a request that is no read and no write; False if the log has no room."""
        if request.command == Command.DISC:
            self._is_ending = True
            return True
        errno = self._refusal(request)
        if errno is not None:
            self._refuse(request, errno, self._counters.flush)
            return True
        try:
            match request.command:
                case Command.FLUSH:
                    self._flush(request)
                case Command.TRIM | Command.WRITE_ZEROES:
                    return self._zero(request)
                case Command.CACHE:
                    self._prefetch(request)
                case _:
                    self._tell_status(request)
        except HoldfastError as error:
            self._zeroed_bytes = 0
            self._refuse(request, errno_of(error), self._counters.flush, error.message)
        return True

    def _flush(self, request: Request) -> None:
        self._answer_durable(self._volume.last_lsn, [request.cookie], self._counters.flush)

    def _zero(self, request: Request) -> bool:
        start, size_bytes = request.start, request.size_bytes
        if request.command == Command.TRIM:
            lsn = self._volume.trim(start, size_bytes)
        elif request.flags & CommandFlag.NO_HOLE:
            lsn = self._zero_keeping(request)
        else:
            lsn = self._volume.zero(start, size_bytes, punch=True)
        if isinstance(lsn, Stalled):
            return False
        if request.flags & _FUA:
            self._answer_durable(lsn, [request.cookie], self._counters.trim)
        else:
            self._outbox.add(codec.pack_simple_reply(request.cookie))
            self._count(self._counters.trim, 1, size_bytes)
        self._running.written(codec.REQUEST_BYTES)
        return True

    def _zero_keeping(self, request: Request) -> Lsn | Stalled:
        """Zero piece by piece what is to keep its space; go on where it stalled."""
        end = request.start + request.size_bytes
        while True:
            at = request.start + self._zeroed_bytes
            stop = min(end, at - at % _KEEP_BYTES + _KEEP_BYTES)
            lsn = self._volume.zero(at, stop - at, punch=False)
            if isinstance(lsn, Stalled):
                return lsn
            self.pieces_count += 1
            self._zeroed_bytes = stop - request.start
            if stop == end:
                self._zeroed_bytes = 0
                return lsn

    def _prefetch(self, request: Request) -> None:
        end = request.start + min(request.size_bytes, NBD_REQUEST_BYTES_MAX)
        scratch = memoryview(bytearray(min(_PREFETCH_BYTES, end - request.start)))
        for start in range(request.start, end, _PREFETCH_BYTES):
            self._volume.read_into(start, scratch[: end - start])
        self._outbox.add(codec.pack_simple_reply(request.cookie))

    def _tell_status(self, request: Request) -> None:
        contexts = self._agreement.contexts
        extents_max = 1 if request.flags & CommandFlag.REQ_ONE else NBD_EXTENTS_MAX
        told = [(context, self._status_in(context, request)) for context in contexts]
        for index, (context, extents) in enumerate(told, 1):
            flags = codec.CHUNK_DONE if index == len(contexts) else 0
            self._outbox.add(
                codec.pack_status_chunk(
                    request.cookie, context.number, extents[:extents_max], flags
                )
            )

    def _status_in(self, context: Context, request: Request) -> list[tuple[int, int]]:
        start, size_bytes = request.start, min(request.size_bytes, _STATUS_BYTES_MAX)
        if context.since_lsn is None:
            extents = self._volume.allocation(start, size_bytes)
            return [(size, _HOLE * is_hole | _ZERO * is_zero) for size, is_hole, is_zero in extents]
        changed = self._volume.changed_since(Lsn(context.since_lsn), start, size_bytes)
        return [(size, CHANGED if is_changed else 0) for size, is_changed in changed]

    def _refusal(self, request: Request) -> Errno | None:
        """Return why a request may not even be tried; None if it may."""
        flags, command, _, start, size_bytes = request
        known = _FLAGS_KNOWN.get(command)
        if known is None or flags & ~known:
            return Errno.EINVAL
        if command == Command.FLUSH:
            return Errno.EINVAL if start or size_bytes else None
        if not size_bytes:
            return Errno.EINVAL
        if start + size_bytes > self._volume.geometry.size_bytes:
            past_the_end = command in (Command.WRITE, Command.WRITE_ZEROES)
            return Errno.ENOSPC if past_the_end else Errno.EINVAL
        if command == Command.READ and size_bytes > NBD_REQUEST_BYTES_MAX:
            return Errno.EOVERFLOW if flags & CommandFlag.DF else Errno.EINVAL
        if command == Command.BLOCK_STATUS and not self._agreement.contexts:
            return Errno.EINVAL
        return None

    def _answer_durable(self, lsn: Lsn, cookies: list[bytes], counter: OperationCounter) -> None:
        """Answer requests once everything up to `lsn` is durable, or with why it is not."""
        self.waiting_count += len(cookies)
        durable = partial(self._durable, cookies, counter, self._began_ns)
        self._running.sync(lsn, durable, is_alone=self.is_alone)

    def _durable(
        self,
        cookies: list[bytes],
        counter: OperationCounter,
        began_ns: int,
        error: HoldfastError | None,
    ) -> None:
        self.waiting_count -= len(cookies)
        if error is not None:
            errno = errno_of(error)
            counter.errors_count += len(cookies)
            replies = [codec.pack_simple_reply(cookie, errno) for cookie in cookies]
            self._outbox.add(b"".join(replies))
        else:
            self._outbox.add(codec.pack_successes(cookies))
            counter.add(len(cookies), 0, self._running.clock.monotonic_ns() - began_ns)
        if not self._is_advancing:
            self._on_reply()

    def _refuse(
        self, request: Request, errno: Errno, counter: OperationCounter, message: str = ""
    ) -> None:
        counter.errors_count += 1
        needs_chunk = request.command in (Command.READ, Command.BLOCK_STATUS)
        if self._is_structured and needs_chunk:
            self._outbox.add(codec.pack_error_chunk(request.cookie, errno, message))
        else:
            self._outbox.add(codec.pack_simple_reply(request.cookie, errno))

    def _count(self, counter: OperationCounter, count: int, size_bytes: int) -> None:
        if count:
            took_ns = self._running.clock.monotonic_ns() - self._began_ns
            counter.add(count, size_bytes, took_ns)


def _pieces_of(request: Request) -> list[Request]:
    """Return a read as pieces that are read and sent one after the other."""
    end = request.start + request.size_bytes
    starts = range(request.start, end, _PIECE_BYTES)
    pieces = [request._replace(flags=_MORE, start=at, size_bytes=_PIECE_BYTES) for at in starts]
    pieces[-1] = request._replace(start=starts[-1], size_bytes=end - starts[-1])
    return pieces


def _count_following(reads: list[Request], index: int) -> int:
    """Return how many further pieces of the read at `index` there are."""
    stop = index
    while reads[stop].flags & _MORE:
        stop += 1
    return stop - index

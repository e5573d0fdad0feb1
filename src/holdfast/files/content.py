"""Copies the content of one large file: data and holes, and on from what an earlier run left.

Runs in worker processes; names nothing and flushes nothing, which transfer.py does.
"""

from dataclasses import dataclass

from holdfast.errors import ConflictError, IntegrityError
from holdfast.model.limits import BLOCK_BYTES, WINDOW_BYTES
from holdfast.ports import Pace, ReadableFile, WritableFile
from holdfast.proof.digests import Algorithm, Digest, new_digest

_ZEROS = bytes(BLOCK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeCopy:
    """One copy of a file larger than a block, or sparse."""

    algorithm: Algorithm
    pace: Pace
    blocks: tuple[memoryview, memoryview]
    """Two buffers of BLOCK_BYTES, of the worker's."""

    def run(self, reader: ReadableFile, writer: WritableFile, size_bytes: int) -> tuple[bytes, int]:
        """Copy data and leave holes, going on after what an earlier run left in the partial.

        What is there already is never trusted: where bytes travel, it is digested on both sides
        and read from where the digests agree; else it is compared with the source block by block,
        and only blocks that differ are written. The digest is of the source's bytes either way.

        Raises:
            ConflictError: `cut-short`: the source ends before its size, whatever it says that is.
            IntegrityError: `digest-mismatch`, of what an earlier run left.
        """
        digest = new_digest(self.algorithm)
        present_bytes = min(writer.size_bytes(), size_bytes)
        position = flushed = agreed = self._agree(reader, writer, digest, present_bytes)
        written = 0
        for start, end in reader.data_extents(size_bytes):
            if end <= agreed:
                continue
            start = max(start, agreed)
            self._skip_hole(digest, writer, position, start, present_bytes)
            position = start
            while position < end:
                block = self.blocks[0][: min(BLOCK_BYTES, end - position)]
                self.pace.take(len(block))
                done = reader.read_into(block, position)
                if not done:
                    raise cut_short(position, size_bytes)
                data = block[:done]
                digest.update(data)
                if not self._is_there(writer, data, position, present_bytes):
                    writer.write_at(data, position)
                    written += done
                self.pace.moved(done)
                position += done
                if position - flushed >= WINDOW_BYTES:
                    writer.start_writeback(flushed, position - flushed)
                    flushed = position
        self._skip_hole(digest, writer, position, size_bytes, present_bytes)
        writer.truncate(size_bytes)
        return digest.digest(), written

    def _agree(
        self, reader: ReadableFile, writer: WritableFile, digest: Digest, present_bytes: int
    ) -> int:
        """Return up to where the partial is the source's by digest, which is taken up to there.

        Raises:
            IntegrityError: It is not (`digest-mismatch`); then the partial was cut there.
        """
        agreed = 0
        while agreed + BLOCK_BYTES <= present_bytes:
            end = min(agreed + WINDOW_BYTES, present_bytes // BLOCK_BYTES * BLOCK_BYTES)
            self.pace.take(0)
            given = reader.digest_prefix(end)
            if given is None:
                break
            for position in range(agreed, end, BLOCK_BYTES):
                block = self.blocks[0][: end - position]
                digest.update(block[: writer.read_into(block, position)])
                self.pace.moved(len(block))
            if digest.digest() != given:
                writer.truncate(agreed)
                raise mismatch("what an earlier run left of it is not what the source has")
            agreed = end
        return agreed

    def _skip_hole(
        self, digest: Digest, writer: WritableFile, start: int, end: int, present_bytes: int
    ) -> None:
        """Take zeros into the digest and make sure that the partial has none but zeros there."""
        for offset in range(start, end, BLOCK_BYTES):
            self.pace.take(0)
            digest.update(memoryview(_ZEROS)[: end - offset])
        if end > start:
            self.pace.moved(end - start)
            if start < present_bytes:
                writer.punch(start, min(end, present_bytes))

    def _is_there(
        self, writer: WritableFile, data: memoryview, position: int, present_bytes: int
    ) -> bool:
        if position + len(data) > present_bytes:
            return False
        other = self.blocks[1][: len(data)]
        return writer.read_into(other, position) == len(data) and other == data


def cut_short(position: int, size_bytes: int) -> ConflictError:
    """Return the error for a file that ends before its end."""
    return ConflictError(f"it ends at {position} of {size_bytes} bytes", code="cut-short")


def mismatch(message: str) -> IntegrityError:
    """Return the error for bytes that are not those the source has."""
    return IntegrityError(
        message,
        code="digest-mismatch",
        advice="look for bad memory or a bad network card on the way; nothing was written under "
        "its name",
    )

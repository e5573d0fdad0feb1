"""Mends a damaged file in place, block by block; runs in worker processes."""

from holdfast.errors import DeniedError
from holdfast.files.hashing import describe_damage, find_damage
from holdfast.files.model import CopyOutcome, PlanItem, SettleResult, no_result
from holdfast.model.limits import BLOCK_BYTES
from holdfast.model.tree import digest_xattrs, metadata_of, signature_of
from holdfast.ports import Directory, Pace, ReadableDirectory, ReadableFile, WritableFile
from holdfast.proof.digests import Algorithm, Digest, new_digest


def patch_file(
    source: ReadableDirectory,
    target: Directory,
    algorithm: Algorithm,
    pace: Pace,
    item: PlanItem,
) -> SettleResult | None:
    """Rewrite the damaged blocks of a file in place; None if it must be made anew instead.

    The one write that does not go through a partial file. At every moment each block is either
    as damaged as it was or right; cut off, the next verification finds what is left.
    """
    reader = source.open_file(item.path)
    try:
        before = reader.stat()
        damaged = target.open_file(item.path)
        try:
            found = damaged.stat()
            if found.size_bytes != before.size_bytes or found.links_count > 1:
                return None  # What else has this inode for its own must not change with it.
            damaged.drop_cache()
            runs = find_damage(reader, damaged, before.size_bytes, pace)
        finally:
            damaged.close()
        writer = target.create_file(item.path, resume=True)
        try:
            digest = new_digest(algorithm)
            written, position = _write_runs(reader, writer, runs, digest, pace)
            if signature_of(reader.stat()) != signature_of(before) or position < before.size_bytes:
                return no_result(item, CopyOutcome.CHANGED, "changed while it was read")
            xattrs = reader.xattrs()
            losses = writer.set_metadata(metadata_of(before, xattrs))
            writer.flush()
        finally:
            writer.close()
    except DeniedError:
        return None  # It may be replaced even where it may not be written.
    finally:
        reader.close()
    return no_result(item, CopyOutcome.SETTLED, describe_damage(runs))._replace(
        size_bytes=before.size_bytes,
        written_bytes=written,
        digest=digest.digest(),
        xattrs=digest_xattrs(xattrs),
        losses=tuple(losses),
    )


def _write_runs(
    reader: ReadableFile,
    writer: WritableFile,
    runs: list[tuple[int, int]],
    digest: Digest,
    pace: Pace,
) -> tuple[int, int]:
    """Copy these runs, take the whole source into `digest`; return what was written and read."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    written = position = 0
    while True:
        pace.take(BLOCK_BYTES)
        data = buffer[: reader.read_into(buffer, position)]
        if not data:
            return written, position
        digest.update(data)
        if any(start <= position < end for start, end in runs):
            writer.write_at(data, position)
            written += len(data)
        pace.moved(len(data))
        position += len(data)

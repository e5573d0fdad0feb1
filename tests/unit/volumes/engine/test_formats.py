"""Goal: the bytes of a volume are those of docs/formats/volume.md for ever, and no others pass.

Method: a small life written twice gives the golden files; hypothesis alters valid bytes and makes
up others: decoders answer None, or a description, and never fail. Cites engine/formats 1-3
and inspecting 1-2.
"""

import hashlib
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.volume_world import SMALL, VolumeWorld
from xxhash import xxh3_64_intdigest

from holdfast.errors import UnsupportedError
from holdfast.volumes.engine.formats import (
    HINT_BYTES,
    SECTOR_BYTES,
    SUPERBLOCK_BYTES,
    BatchHeader,
    decode_batch_header,
    decode_hint,
    decode_records,
    decode_sector,
    decode_superblock,
    encode_batch_header,
    encode_superblock,
)
from holdfast.volumes.engine.recovery import LogReader
from holdfast.volumes.engine.superblocks import newest_superblock
from holdfast.volumes.inspecting import inspect_files
from holdfast.volumes.model import VolumeState

GOLDEN = Path(__file__).parents[3] / "golden" / "volume-1.json"


def small_life() -> VolumeWorld:
    """Return a volume with one of everything."""
    world = VolumeWorld()
    world.write_run([1, 2, 30])
    world.write(3 * SMALL.slot_bytes, 2 * SMALL.slot_bytes)
    world.flush()
    world.drain()
    world.trim(2 * 4096, 4 * 4096)
    world.write(100, 50)
    world.zero_kept(7, 1)
    world.flush()
    return world


def described(world: VolumeWorld) -> dict[str, object]:
    """Return the golden form: digests of the files, and the structures in hexadecimal."""
    image = world.disk.image()
    log = world.volume.log
    return {
        "sha256": {name: hashlib.sha256(image[name]).hexdigest() for name in sorted(image)},
        "superblocks": [image["meta"][at : at + 176].hex() for at in (0, 4096)],
        "hint": image["meta"][8192 : 8192 + HINT_BYTES].hex(),
        "slots": image["slots"][:SECTOR_BYTES].hex(),
        "log_head": image["log"][log.segment_at : log.segment_at + 300].hex(),
    }


def test_files_are_the_golden_ones() -> None:
    assert described(small_life()) == json.loads(GOLDEN.read_text())


def test_what_is_described_is_what_was_done() -> None:
    world = small_life()
    found = list(inspect_files(world.files()))
    assert [each["kind"] for each in found if each["what"] == "record"] == [
        "trim",
        "write",
        "placed",
    ]
    assert found[-1]["last_lsn"] == world.volume.last_lsn
    assert found[-1]["lost_last_lsn"] == 0


def test_looking_goes_step_by_step_and_writes_nothing() -> None:
    world = small_life()
    before, reads = world.disk.image(), world.disk.counts["reads"]
    found = inspect_files(world.files())
    next(found)
    first = world.disk.counts["reads"] - reads
    assert len(list(found)) > 5
    assert first <= 4 < world.disk.counts["reads"] - reads
    assert world.disk.image() == before


SUPERBLOCK = encode_superblock(newest_superblock(small_life().files().meta))


@given(at=st.integers(0, SUPERBLOCK_BYTES - 1), mask=st.integers(1, 255))
def test_altered_superblock_is_none(at: int, mask: int) -> None:
    data = bytearray(SUPERBLOCK)
    data[at] ^= mask
    assert decode_superblock(bytes(data)) is None


fields = st.sampled_from([at for at in range(8, 144) if not (60 <= at < 64 or 113 <= at < 120)])


@given(changes=st.lists(st.tuples(fields, st.integers(0, 255)), min_size=1, max_size=9))
def test_superblock_that_makes_no_sense_is_none_though_its_digest_is_right(
    changes: list[tuple[int, int]],
) -> None:
    body = bytearray(SUPERBLOCK[:-8])
    for at, byte in changes:
        body[at] = byte
    try:
        found = decode_superblock(bytes(body) + xxh3_64_intdigest(body).to_bytes(8, "little"))
    except UnsupportedError:
        return
    assert found is None or encode_superblock(found)[:-8] == body


@given(data=st.binary(max_size=600))
def test_made_up_bytes_are_nothing(data: bytes) -> None:
    assert decode_superblock(data.ljust(SUPERBLOCK_BYTES, b"\0")) is None
    assert decode_batch_header(data) is None
    assert decode_hint(data[:HINT_BYTES].ljust(HINT_BYTES, b"\0"), 5) is None
    assert decode_sector(data[:SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0"), 3, 7) is None


@given(payload=st.binary(max_size=400), count=st.integers(0, 20))
def test_records_of_any_payload_are_records_or_an_error(payload: bytes, count: int) -> None:
    """Only a client that knows the incarnation could come this far; still nothing breaks."""
    found = decode_batch_header(encode_batch_header(_header(count, payload))[0])
    assert found is not None
    try:
        records = decode_records(memoryview(payload), found[0], SMALL)
    except ValueError:
        return
    assert sum(record.data_bytes + 28 for record in records) <= len(payload)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_log_of_any_bytes_is_read_without_failing_and_unchanged(data: st.DataObject) -> None:
    world = small_life()
    file = world.disk.file("log")
    at = world.volume.log.segment_at
    for _ in range(data.draw(st.integers(1, 4))):
        offset = at + data.draw(st.integers(0, 9000))
        file.pwrite(data.draw(st.binary(min_size=1, max_size=40)), offset)
    before = world.disk.image()
    reader = LogReader(file, newest_superblock(world.files().meta))
    assert sum(len(batch.payload) for batch in reader.batches()) <= SMALL.segment_bytes
    list(inspect_files(world.files()))
    assert world.disk.image() == before
    assert world.open().state in VolumeState


def _header(count: int, payload: bytes) -> BatchHeader:
    return BatchHeader(1, 1, 1, 0, 0, 0, count, len(payload), 0, 0)

"""Goal: chunks, segments, cuts and manifests are read back as written, and nothing else is.

Method: round trips, and every kind of damage to each; the invariants of sealing.py, manifest.py and
segments.py.
"""

import json
import os
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.checkpoints.bank import Bank, BankIdentity, read_identity
from holdfast.checkpoints.cutting import Cutter
from holdfast.checkpoints.holds import read_hold
from holdfast.checkpoints.manifest import (
    Body,
    Statement,
    decode_body,
    decode_manifest,
    encode_body,
    encode_manifest,
)
from holdfast.checkpoints.model import (
    BankId,
    CheckpointId,
    ChunkId,
    ChunkRef,
    PlanId,
    Resource,
    ResourceRecord,
    ResourceStatus,
    Retention,
)
from holdfast.checkpoints.packing import is_fresh
from holdfast.checkpoints.results import fitted
from holdfast.checkpoints.sealing import BankKey, Sealer
from holdfast.checkpoints.segments import Entry, Part, chunks_of, decode_segment, encode_segments
from holdfast.checkpoints.verdicts import decode_verdict
from holdfast.errors import DeniedError, IntegrityError, UnsupportedError
from holdfast.model.limits import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN
from holdfast.model.tree import FileKind, Stat
from holdfast.proof.signature import SigningKey
from holdfast.testing.clock import SimClock, SimEntropy
from holdfast.testing.objects import SimObjectStore

KEY = BankKey(bytes(range(32)))
SIGNER = SigningKey.from_seed(bytes(32))


@pytest.fixture(params=[None, KEY], ids=["plain", "encrypted"])
def sealer(request: pytest.FixtureRequest) -> Sealer:
    return Sealer(request.param, SimEntropy(1))


@pytest.mark.parametrize("data", [b"", b"x", b"holdfast " * 9999, os.urandom(70_000)])
def test_chunk_is_opened_as_sealed(sealer: Sealer, data: bytes) -> None:
    chunk = sealer.name(data)

    assert sealer.open(chunk, sealer.seal(chunk, data)) == data


def test_no_byte_of_a_chunk_can_change(sealer: Sealer) -> None:
    """Invariant 1 of sealing: each byte turned, and each length, is found."""
    data = b"some text that is worth compressing " * 9
    chunk = sealer.name(data)
    sealed = sealer.seal(chunk, data)

    for at in range(len(sealed)):
        turned = bytearray(sealed)
        turned[at] ^= 0x10
        try:
            # The packed form has a bit or two without meaning: then the content is the same.
            assert sealer.open(chunk, bytes(turned)) == data
            assert at >= 32
        except (IntegrityError, DeniedError, UnsupportedError):
            continue
    for end in range(len(sealed)):
        with pytest.raises(IntegrityError):
            sealer.open(chunk, sealed[:end])
    with pytest.raises(IntegrityError):
        sealer.open(chunk, sealed + b"x")


def test_chunk_of_another_name_is_refused(sealer: Sealer) -> None:
    one, other = sealer.name(b"one"), sealer.name(b"other")

    with pytest.raises(IntegrityError, match=one.hex()):
        sealer.open(one, sealer.seal(other, b"other"))


def test_key_is_needed_and_shown_nowhere() -> None:
    """Invariant 3 of sealing."""
    sealer = Sealer(KEY, SimEntropy(1))
    chunk = sealer.name(b"secret words")
    sealed = sealer.seal(chunk, b"secret words" * 100)

    assert b"secret" not in sealed
    assert KEY.secret.hex() not in repr(KEY)
    assert chunk != Sealer(None, SimEntropy(1)).name(b"secret words")
    with pytest.raises(DeniedError, match=KEY.id):
        Sealer(None, SimEntropy(1)).open(chunk, sealed)


def test_bomb_is_not_unpacked() -> None:
    """Invariant 2 of sealing."""
    import zstandard

    sealer = Sealer(None, SimEntropy(1))
    bomb = zstandard.compress(bytes(CHUNK_BYTES_MAX * 4))
    for claimed in (CHUNK_BYTES_MAX * 4, 100):
        header = struct.pack(">4sB3xI8s12s", b"HFC1", 1, claimed, bytes(8), bytes(12))
        with pytest.raises(IntegrityError):
            sealer.open(ChunkId(bytes(32)), header + bomb)


def test_cuts_stay_where_content_stays() -> None:
    """An insertion near the beginning moves no later cut; every length is within its limits."""
    cutter = Cutter.of_seed(b"seed")
    data = os.urandom(24 << 20)

    def chunks(content: bytes) -> list[bytes]:
        found, at = [], 0
        while at < len(content):
            end = cutter.cut(content, at, len(content))
            found.append(content[at:end])
            at = end
        return found

    before, after = chunks(data), chunks(data[:1000] + b"inserted" + data[1000:])

    assert b"".join(before) == data
    assert all(CHUNK_BYTES_MIN <= len(c) <= CHUNK_BYTES_MAX for c in before[:-1])
    assert len(set(before) & set(after)) >= len(before) - 3


def entry(path: bytes, **changed: object) -> Entry:
    values: dict[str, object] = {
        "path": path, "kind": "f", "size_bytes": 0, "mode": 0o644, "mtime_ns": 1, "uid": 0,
        "gid": 0, "ctime_ns": 0, "inode": 0,
    }  # fmt: skip
    return Entry(**(values | changed))  # type: ignore[arg-type]


@given(st.lists(st.binary(min_size=1, max_size=40), unique=True, max_size=30))
def test_entries_are_read_as_listed(names: list[bytes]) -> None:
    clean = sorted({name.translate(bytes.maketrans(b"\0/.", b"xyz")) for name in names})
    parts = (Part(bytes(32), 3, 4), Part(b"", 0, 3))
    entries = [entry(name, size_bytes=7, parts=parts, xattrs={b"a": b"b"}) for name in clean]
    read = [e for data, _ in encode_segments(entries) for e in decode_segment(data, None)]

    assert read == entries
    assert chunks_of(read) == ({bytes(32): 7} if entries else {})


def test_unchanged_stretch_gives_the_same_segment() -> None:
    entries = [entry(b"%06d" % number) for number in range(30_000)]
    before = {data for data, _ in encode_segments(entries)}
    after = [data for data, _ in encode_segments([entry(b"00"), *entries])]

    assert len(before) > 3
    assert sum(data not in before for data in after) <= 2


@pytest.mark.parametrize(
    "wrong",
    [
        [entry(b"b"), entry(b"a")],
        [entry(b"../a")],
        [entry(b"a", kind="x")],
        [entry(b"a", size_bytes=5)],
        [entry(b"a", size_bytes=5, parts=(Part(b"short", 0, 5),))],
        [entry(b"a", mode=0o70000)],
    ],
)
def test_listing_that_cannot_be_is_refused(wrong: list[Entry]) -> None:
    (data, _), *_ = encode_segments(wrong)

    with pytest.raises(IntegrityError):
        decode_segment(data, None)


STATEMENT = Statement(
    bank_id=BankId("0" * 32),
    checkpoint_id=CheckpointId("1" * 36),
    plan_id=PlanId("2" * 36),
    created_ns=1,
    task_id="t",
    key_id="",
    body=ChunkRef(ChunkId(bytes(32)), 10),
    previous="",
    total_bytes=1,
    added_bytes=2,
    entries=3,
    left_out_count=0,
)


def test_manifest_is_read_as_written_and_no_byte_of_it_can_change() -> None:
    """Invariant 2 of manifest."""
    data = encode_manifest(STATEMENT, SIGNER)

    assert decode_manifest(data, STATEMENT.bank_id, STATEMENT.checkpoint_id).statement == STATEMENT
    for at in range(len(data)):
        turned = bytearray(data)
        turned[at] ^= 1
        with pytest.raises((IntegrityError, UnsupportedError)):
            decode_manifest(bytes(turned), STATEMENT.bank_id, STATEMENT.checkpoint_id)
    for end in range(len(data)):
        with pytest.raises((IntegrityError, UnsupportedError)):
            decode_manifest(data[:end], STATEMENT.bank_id, STATEMENT.checkpoint_id)


def test_manifest_in_the_place_of_another_is_found() -> None:
    """Invariant 1 of manifest, for checkpoint and bank."""
    data = encode_manifest(STATEMENT, SIGNER)

    for bank, other in (("0" * 32, "9" * 36), ("9" * 32, "1" * 36)):
        with pytest.raises(IntegrityError, match="that of"):
            decode_manifest(data, BankId(bank), CheckpointId(other))


def test_body_is_read_as_written() -> None:
    resource = Resource(type="T", id="/ä", depends_on=("T#x",), parameters={"exclude": ["*.o"]})
    record = ResourceRecord(
        resource=resource,
        status=ResourceStatus.AVAILABLE,
        segments=(ChunkRef(ChunkId(bytes(32)), 5),),
        left_out=(("a", "changed"),),
        left_out_count=1,
        info={"a": 1},
    )
    body = Body(
        plan_name="p", retention=Retention(last=3), plan_resources=(resource,), records=(record,)
    )

    assert decode_body(encode_body(body)) == body
    with pytest.raises(IntegrityError):
        decode_body(b"{}")
    assert replace(body, plan_name="q") != body


def test_file_written_in_this_tick_may_change_without_a_trace() -> None:
    """Packing invariant 1 rests on it: such a file is read again a little later."""
    now_ns = 1_700_000_000_123_000_000
    stat = Stat(FileKind.FILE, 1, 0, now_ns, 1, 1, 0o644, 0, 0, 1, 1)

    assert is_fresh(stat, now_ns + 5_000_000)
    assert not is_fresh(stat, now_ns + 300_000_000)
    assert not is_fresh(stat._replace(ctime_ns=now_ns + 10**12), now_ns)
    whole_second = stat._replace(ctime_ns=1_700_000_000_000_000_000)
    assert is_fresh(whole_second, now_ns)
    assert not is_fresh(whole_second, now_ns + 2 * 10**9)


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=30), st.text(max_size=20), max_size=40),
    st.lists(st.lists(st.text(max_size=20), max_size=30), max_size=20),
    st.integers(1500, 4000),
)
def test_result_that_is_too_long_is_cut_and_says_so(
    reasons: dict[str, str], paths: list[list[str]], limit: int
) -> None:
    """What has its place keeps it; what fits is not touched."""
    result = {"verdict": "fail", "count": 7, "reasons": reasons, "checkpoints": paths}

    told = fitted(result, limit)

    assert set(told) - {"isCut"} == set(result)
    assert (told["verdict"], told["count"]) == ("fail", 7)
    if len(json.dumps(result)) <= limit:
        assert told == result
    else:
        assert told["isCut"]
        assert len(json.dumps(told)) < len(json.dumps(result))
        assert len(json.dumps(told)) <= limit


@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN"])
def test_numbers_that_are_none_are_damage(number: str) -> None:
    """Of a manifest, a body, an identity, a lease and a hold: told as such, never a defect."""
    clock = SimClock()
    store = SimObjectStore(clock)
    nested = b"[" * 100_000
    store.put("bank.json", b'{"version":1,"id":"x","key":"","createdNs":%s}' % number.encode())
    with pytest.raises(IntegrityError):
        read_identity(store)
    for data in (b'{"planName":%s,"retention":{}}' % number.encode(), nested):
        with pytest.raises(IntegrityError):
            decode_body(data)
    line = b'{"bank":"b","checkpoint":"c","plan":"p","createdNs":%s}\n' % number.encode()
    for statement in (line, nested + b"\n"):
        data = b"holdfast-checkpoint/1\n" + statement + b'{"publicKey":"00","value":"00"}\n'
        with pytest.raises(IntegrityError):
            decode_manifest(data, BankId("b"), CheckpointId("c"))
    assert decode_verdict(b'{"atNs":%s}' % number.encode()) is None
    assert decode_verdict(nested) is None
    store.put("holds/c", b'{"protected":false,"lockedUntilNs":%s}' % number.encode())
    assert read_hold(store, CheckpointId("c")) == (True, 0)
    identity = BankIdentity(id=BankId("b"), key_id="", created_ns=1)
    for place in ("leases", "sweeps"):
        store.put(f"{place}/task-x", b'{"expiresNs":%s}' % number.encode())
    assert Bank(store, identity, clock).begin_sweep("task-y", lambda _task: False) is None

"""Proof file: what is written is read back, and each way a file can be wrong is named by its line.

Method: one small proof with odd names; each flaw is one edit of it.
"""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast.errors import CapacityError, IntegrityError, InvalidRequestError, UnsupportedError
from holdfast.model.limits import PROOF_LINE_BYTES_MAX
from holdfast.model.tree import FileKind
from holdfast.proof.digests import Algorithm
from holdfast.proof.document import ProofWriter, read_proof
from holdfast.proof.manifest import ManifestEntry
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import (
    Claims,
    VerificationClaim,
    VerificationMode,
    canonical_json,
    parse_statement,
    statement_document,
)

KEY = SigningKey.from_seed(bytes(range(32)))
CLAIMS = Claims(
    product="holdfast 0.1.0",
    source={"path": "/a", "inode": 7, "device": None},
    target={"path": "/b", "labels": [True, "ü"]},
    task_ids=("task-1",),
    created_at="2026-01-02T03:04:05.678Z",
    exclusions=("*.tmp",),
    unproven={"changed": 1},
    verification=VerificationClaim(
        mode=VerificationMode.SAMPLE, cache_dropped=False, verdict="equal", details={"percent": 5}
    ),
)
ENTRIES = [
    ManifestEntry(b"a", FileKind.DIRECTORY, 0, 0o755, None, None),
    ManifestEntry(b'a/\n\\"\x7f', FileKind.FILE, 3, 0o4755, None, b"\xab" * 4),
    ManifestEntry(b"a/link", FileKind.SYMLINK, 3, 0o777, b"\xfe/x", None),
    ManifestEntry("a/ü\U0001f600".encode(), FileKind.FILE, 0, 0, None, bytes(4)),
    ManifestEntry(b"a/\xff\xed\xa0\x80", FileKind.FILE, 1, 0o644, None, bytes(4)),
]


def proof_of(entries: list[ManifestEntry], claims: Claims = CLAIMS) -> bytes:
    stream = io.BytesIO()
    writer = ProofWriter(stream, Algorithm.CRC32)
    for entry in entries:
        writer.add(entry)
    writer.finish(claims, KEY)
    return stream.getvalue()


PROOF = proof_of(ENTRIES)


def read_all(proof: bytes) -> list[ManifestEntry]:
    return list(read_proof(io.BytesIO(proof)))


def with_statement(edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the proof with its statement edited and spelled canonically; not signed anew."""
    *before, last = PROOF.splitlines(keepends=True)
    document = json.loads(last)
    edit(document["statement"])
    spelled = [
        f"{json.dumps(name)}:" + json.dumps(document[name], sort_keys=True, separators=(",", ":"))
        for name in ("statement", "signature")
    ]
    return b"".join(before) + ("{" + ",".join(spelled) + "}\n").encode()


def test_round_trip() -> None:
    reader = read_proof(io.BytesIO(PROOF))
    assert reader.algorithm is Algorithm.CRC32
    assert list(reader) == ENTRIES
    statement = reader.statement
    for name in Claims.__dataclass_fields__:
        assert getattr(statement, name) == getattr(CLAIMS, name)
    assert statement.counts == {FileKind.FILE: 3, FileKind.DIRECTORY: 1, FileKind.SYMLINK: 1}
    assert statement.total_bytes == 4
    assert statement.root_digest == reader.tally.root_digest()
    assert reader.signature.public_key == KEY.public_key


def test_statement_parses_from_its_own_encoding() -> None:
    """Statement invariant 1."""
    reader = read_proof(io.BytesIO(PROOF))
    assert list(reader) == ENTRIES
    encoded = canonical_json(statement_document(reader.statement))
    assert parse_statement(json.loads(encoded)) == reader.statement


def test_writer_returns_the_statement_a_reader_finds_and_the_same_chain_digest() -> None:
    stream = io.BytesIO()
    writer = ProofWriter(stream, Algorithm.CRC32)
    written = writer.finish(CLAIMS, KEY)
    stream.seek(0)
    reader = read_proof(stream)
    assert list(reader) == []
    assert reader.statement == written
    assert reader.chain_digest == writer.chain_digest

    next_proof = proof_of([], replace(CLAIMS, previous=writer.chain_digest, epoch=3, lsn=0))
    reader = read_proof(io.BytesIO(next_proof))
    assert list(reader) == []
    assert reader.statement.previous == writer.chain_digest
    assert (reader.statement.epoch, reader.statement.lsn) == (3, 0)


def test_editing_the_statement_back_to_itself_is_a_proof() -> None:
    """The edits below fail for what they edit, and not for how `with_statement` spells it."""
    assert with_statement(lambda statement: None) == PROOF


def test_longest_names_fit_a_line() -> None:
    path = b"/".join([b"\x01" * 250 + b"\xff"] * 16)
    target = b"\xc2\x80" * 2047 + b"\xff"
    entry = ManifestEntry(path, FileKind.SYMLINK, len(target), 0o777, target, None)
    assert read_all(proof_of([entry])) == [entry]


def entry_line(**members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def file_line(**changes: object) -> bytes:
    members = {"path": "z", "type": "file", "size": 1, "mode": "0644", "digest": "00000000"}
    return entry_line(**(members | changes))


def test_a_plain_line_is_good() -> None:
    """The bad lines below differ from a good one in nothing but their flaw."""
    lines = PROOF.splitlines(keepends=True)
    link = entry_line(
        path="\\xff", pathBase64="/w==", type="symlink", size=1, mode="0777", target="x"
    )
    assert [e.path for e in read_all(lines[0] + file_line() + link + lines[-1])] == [b"z", b"\xff"]


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"not json\n",
        b"\xff\n",
        b"[" * 20_000 + b"\n",
        b'{"path":' * 5_000 + b"\n",
        file_line(path=""),
        file_line(path="/etc/passwd"),
        file_line(path="a/../../b"),
        file_line(path="a\0b"),
        file_line(path="\ud800"),
        file_line(path=5),
        file_line(path="n" * 256),
        file_line(type="fifo"),
        file_line(type="other"),
        file_line(type=None),
        file_line(size=-1),
        file_line(size=1 << 63),
        file_line(size="1"),
        file_line(size=True),
        file_line(size=1.0),
        file_line(size=float("nan")),
        file_line(size=0).replace(b'"size":0', b'"size":-0'),
        file_line(size=1).replace(b'"size":1', b'"size":' + b"1" * 5000),
        file_line(mode=420),
        file_line(mode="644"),
        file_line(mode="10000"),
        file_line(mode="0o644"),
        file_line(mode="-001"),
        file_line(mode=" 0644"),
        file_line(digest="00"),
        file_line(digest="0000000G"),
        file_line(digest="ABCDEF00"),
        file_line(digest=" 00000000"),
        file_line(digest=None),
        file_line(target="x"),
        file_line(extra=1),
        file_line().replace(b"{", b"{ "),
        file_line().replace(b'"path":"z"', b'"path":"z","path":"z"'),
        file_line().replace(b'"z"', b'"\\u007a"'),
        file_line().replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + file_line(),
        entry_line(path="z", type="file", size=1, mode="0644"),
        entry_line(path="z", size=1, mode="0644", type="file", digest="00000000"),
        entry_line(path="z", pathBase64="eg==", type="directory", size=0, mode="0755"),
        entry_line(path="?", pathBase64="/w==", type="directory", size=0, mode="0755"),
        entry_line(path="\\xff", pathBase64="/w=", type="directory", size=0, mode="0755"),
        entry_line(path="\\xff", pathBase64="/x==", type="directory", size=0, mode="0755"),
        entry_line(path="z", type="symlink", size=1, mode="0777", target=""),
        entry_line(path="z", type="symlink", size=2, mode="0777", target="x"),
    ],
)
def test_bad_entry_is_named_by_its_line(line: bytes) -> None:
    header, rest = PROOF.split(b"\n", 1)
    with pytest.raises(IntegrityError, match="line 2 ") as caught:
        read_all(header + b"\n" + line + rest)
    assert caught.value.code == "bad-proof"
    assert caught.value.context["line"] == 2


def test_duplicate_and_disorder_are_named_by_their_line() -> None:
    lines = PROOF.splitlines(keepends=True)
    for order in ([0, 1, 1, 2, 3, 4, 5, 6], [0, 2, 1, 3, 4, 5, 6]):
        with pytest.raises(IntegrityError, match=r"line 3 .*ascend"):
            read_all(b"".join(lines[index] for index in order))


def test_proof_cut_anywhere_is_refused() -> None:
    for end in range(len(PROOF)):
        with pytest.raises(IntegrityError, match="the file ends here"):
            read_all(PROOF[:end])


@pytest.mark.parametrize("garbage", [b"\n", b" ", b"\0", PROOF, b"{}\n"])
def test_nothing_may_follow_the_statement(garbage: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"line 8 .*nothing may follow"):
        read_all(PROOF + garbage)


def test_endless_line_is_refused_at_the_limit() -> None:
    header = PROOF[: PROOF.index(b"\n") + 1]
    stream = io.BytesIO(header + b'{"path":"' + b"x" * 10 * PROOF_LINE_BYTES_MAX)
    with pytest.raises(IntegrityError, match=r"line 2 .*longer than 65536 bytes"):
        list(read_proof(stream))
    assert stream.tell() <= len(header) + PROOF_LINE_BYTES_MAX


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"version":1', b'"version":2'),
        (b'"version":1', b'"version":"1"'),
        (b"holdfast-proof", b"other-proof"),
        (b'"kind":"files"', b'"kind":"ranges"'),
        (b'"format":"holdfast-proof",', b""),
    ],
)
def test_other_formats_and_versions_are_not_read(before: bytes, after: bytes) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_proof(io.BytesIO(PROOF.replace(before, after, 1)))
    assert caught.value.code == "format-newer"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"algorithm":"crc32"', b'"algorithm":"crc33"'),
        (b'"algorithm":"crc32"', b'"algorithm":7'),
        (b'"version":1', b'"version":true'),
        (b'"version":1', b'"version":1.0'),
        (b'"version":1', b'"version":1,"version":1'),
        (b'"kind"', b' "kind"'),
        (b"{", b"["),
    ],
)
def test_header_with_a_flaw_is_line_1(before: bytes, after: bytes) -> None:
    with pytest.raises(IntegrityError, match="line 1 "):
        read_proof(io.BytesIO(PROOF.replace(before, after, 1)))


def test_header_and_statement_name_the_same_algorithm() -> None:
    header = PROOF[: PROOF.index(b"\n") + 1].replace(b"crc32", b"xxh32")
    with pytest.raises(IntegrityError, match=r"line 7 .*algorithm"):
        read_all(header + PROOF[PROOF.index(b"\n") + 1 :])


@pytest.mark.parametrize(
    ("member", "value"),
    [
        (member, value)
        for member in json.loads(PROOF.splitlines()[-1])["statement"]
        for value in [None, 5.5, [1], {"x": 1.5}, "\ud800", -1, True, "absent"]
        if value is not None or member not in ("previous", "epoch", "lsn")
    ],
)
def test_statement_member_of_a_wrong_type_is_refused(member: str, value: object) -> None:
    def edit(statement: dict[str, Any]) -> None:
        if value == "absent":
            del statement[member]
        else:
            statement[member] = value

    with pytest.raises(IntegrityError, match="line 7 "):
        read_all(with_statement(edit))


def nested(depth: int) -> dict[str, object]:
    document: dict[str, object] = {}
    for _ in range(depth):
        document = {"x": document}
    return document


@pytest.mark.parametrize(
    "edit",
    [
        lambda statement: statement.update(extra=1),
        lambda statement: statement.update(kind="ranges"),
        lambda statement: statement.update(algorithm="crc33"),
        lambda statement: statement.update(rootDigest="00"),
        lambda statement: statement.update(rootDigest="A" * 64),
        lambda statement: statement.update(previous="00"),
        lambda statement: statement.update(createdAt="yesterday"),
        lambda statement: statement.update(createdAt="2026-01-02 03:04:05Z"),
        lambda statement: statement.update(source=nested(8)),
        lambda statement: statement.update(source=nested(100)),
        lambda statement: statement["entries"].pop("file"),
        lambda statement: statement["entries"].update(fifo=0),
        lambda statement: statement["entries"].update(file=True),
        lambda statement: statement["unproven"].update(changed="1"),
        lambda statement: statement["exclusions"].append(1),
        lambda statement: statement["verification"].update(extra=1),
        lambda statement: statement["verification"].update(mode="quick"),
        lambda statement: statement["verification"].update(cacheDropped=1),
        lambda statement: statement["verification"].pop("verdict"),
        lambda statement: statement["verification"].update(details=[]),
    ],
)
def test_statement_with_a_flaw_is_refused(edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(IntegrityError, match="line 7 "):
        read_all(with_statement(edit))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"algorithm":"ed25519"', b'"algorithm":"none"'),
        (b'"publicKey":"', b'"publicKey":"00'),
        (b'"value":"', b'"value":"AA'),
        (b'"value":"', b'"extra":1,"value":"'),
        (b'},"signature"', b'} ,"signature"'),
        (b'{"statement"', b'{"statement":{},"statement"'),
    ],
)
def test_signature_with_a_flaw_is_refused(before: bytes, after: bytes) -> None:
    assert PROOF.count(before) == 1
    with pytest.raises(IntegrityError, match="line 7 "):
        read_all(PROOF.replace(before, after))


@pytest.mark.parametrize(
    "claims",
    [
        replace(CLAIMS, source={"load": 0.5}),
        replace(CLAIMS, source={"path": b"/a"}),
        replace(CLAIMS, source={"path": "/\udcff"}),
        replace(CLAIMS, source=nested(2000)),
        replace(CLAIMS, created_at="now"),
        replace(CLAIMS, previous="00"),
        replace(CLAIMS, unproven={"changed": -1}),
        replace(CLAIMS, epoch=-1),
    ],
)
def test_claims_no_reader_would_take_are_not_written(claims: Claims) -> None:
    stream = io.BytesIO()
    writer = ProofWriter(stream, Algorithm.CRC32)
    size_before = stream.tell()
    with pytest.raises(InvalidRequestError) as caught:
        writer.finish(claims, KEY)
    assert caught.value.code == "bad-claims"
    assert stream.tell() == size_before
    writer.finish(CLAIMS, KEY)
    assert read_all(stream.getvalue()) == []


def test_statement_over_the_line_limit_is_not_written() -> None:
    with pytest.raises(CapacityError) as caught:
        proof_of([], replace(CLAIMS, exclusions=("x" * PROOF_LINE_BYTES_MAX,)))
    assert caught.value.code == "statement-too-long"


def test_writer_refuses_disorder_and_bad_entries() -> None:
    writer = ProofWriter(io.BytesIO(), Algorithm.CRC32)
    writer.add(ENTRIES[1])
    for entry in (ENTRIES[1], ENTRIES[0], ENTRIES[3]._replace(digest=None)):
        with pytest.raises(InvalidRequestError):
            writer.add(entry)


def test_key_other_than_ed25519_size_is_refused_by_the_reader() -> None:
    short = PROOF.replace(KEY.public_key.hex().encode(), KEY.public_key.hex()[2:].encode())
    assert short != PROOF
    with pytest.raises(IntegrityError, match="32 bytes"):
        read_all(short)

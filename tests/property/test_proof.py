"""Proof: the root is RFC 6962's and depends on everything; no altered proof is ever called good.

Method: random trees against a naive recursive reference; every single byte of a proof flipped;
random edits of its lines and of its JSON.
"""

import io
import json
from hashlib import sha256
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.errors import IntegrityError, UnsupportedError
from holdfast.model.tree import FileKind
from holdfast.proof.check import check_proof
from holdfast.proof.digests import Algorithm, size_of
from holdfast.proof.document import ProofWriter, read_proof
from holdfast.proof.manifest import ManifestEntry, ManifestTally, leaf_bytes
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import Claims, VerificationClaim, VerificationMode

KEY = SigningKey.from_seed(bytes(range(32)))
CLAIMS = Claims(
    product="holdfast 0.1.0",
    source={"path": "/a"},
    target={"path": "/b"},
    task_ids=("task-1",),
    created_at="2026-01-02T03:04:05Z",
    exclusions=("*.tmp",),
    unproven={"changed": 1},
    verification=VerificationClaim(
        mode=VerificationMode.FULL, cache_dropped=True, verdict="equal", details={}
    ),
)

modes = st.integers(0, 0o7777)
names = st.binary(min_size=1, max_size=12).map(
    lambda name: name.translate(None, b"/\0").lstrip(b".") or b"n"
)
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
targets = st.binary(min_size=1, max_size=20).map(lambda t: t.replace(b"\0", b"x"))


@st.composite
def entries_of(draw: st.DrawFn, algorithm: Algorithm, min_size: int = 0) -> list[ManifestEntry]:
    """Any list of entries a tree could have, in order."""
    entries = []
    for path in sorted(draw(st.sets(paths, min_size=min_size, max_size=20))):
        kind = draw(st.sampled_from([FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK]))
        entry = ManifestEntry(path, kind, 0, draw(modes), None, None)
        if kind is FileKind.FILE:
            length = size_of(algorithm)
            digest = draw(st.binary(min_size=length, max_size=length))
            entry = entry._replace(size_bytes=draw(st.integers(0, 2**63 - 1)), digest=digest)
        elif kind is FileKind.SYMLINK:
            target = draw(targets)
            entry = entry._replace(size_bytes=len(target), link_target=target)
        entries.append(entry)
    return entries


algorithms = st.sampled_from(Algorithm)
trees = algorithms.flatmap(lambda a: st.tuples(st.just(a), entries_of(a)))
trees_not_empty = algorithms.flatmap(lambda a: st.tuples(st.just(a), entries_of(a, min_size=1)))


def root_of(entries: list[ManifestEntry], algorithm: Algorithm) -> bytes:
    tally = ManifestTally(algorithm)
    for entry in entries:
        tally.add(entry)
    return tally.root_digest()


def rfc_6962(inputs: list[bytes]) -> bytes:
    """The definition of section 2.1, word for word."""
    n = len(inputs)
    if n == 0:
        return sha256().digest()
    if n == 1:
        return sha256(b"\x00" + inputs[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    return sha256(b"\x01" + rfc_6962(inputs[:k]) + rfc_6962(inputs[k:])).digest()


def proof_of(entries: list[ManifestEntry], algorithm: Algorithm) -> bytes:
    stream = io.BytesIO()
    writer = ProofWriter(stream, algorithm)
    for entry in entries:
        writer.add(entry)
    writer.finish(CLAIMS, KEY)
    return stream.getvalue()


def is_good(proof: bytes) -> bool:
    """Whether the check finds nothing wrong; only the two documented errors may come out of it."""
    try:
        return check_proof(io.BytesIO(proof), expected_public_key=KEY.public_key).good
    except (IntegrityError, UnsupportedError):
        return False


@given(trees)
def test_root_is_that_of_rfc_6962(tree: tuple[Algorithm, list[ManifestEntry]]) -> None:
    algorithm, entries = tree
    assert root_of(entries, algorithm) == rfc_6962([leaf_bytes(e, algorithm) for e in entries])


@given(trees_not_empty, st.data())
def test_any_change_of_an_entry_changes_the_root(
    tree: tuple[Algorithm, list[ManifestEntry]], data: st.DataObject
) -> None:
    """One entry removed, added or exchanged for another: another root. Manifest invariants 1, 2."""
    algorithm, entries = tree
    index = data.draw(st.integers(0, len(entries) - 1))
    other = data.draw(entries_of(algorithm, min_size=1))[0]
    without = entries[:index] + entries[index + 1 :]
    replaced = sorted([*without, other])
    assume(other not in entries and len({e.path for e in replaced}) == len(replaced))
    roots = {root_of(entries, algorithm), root_of(without, algorithm), root_of(replaced, algorithm)}
    assert len(roots) == 3


@given(st.data())
def test_leaf_bytes_are_unambiguous(data: st.DataObject) -> None:
    """Manifest invariant 1, also across algorithms."""
    leaves: dict[bytes, tuple[ManifestEntry, Algorithm]] = {}
    for _ in range(3):
        algorithm, entries = data.draw(trees)
        for entry in entries:
            key = (entry, algorithm)
            assert leaves.setdefault(leaf_bytes(entry, algorithm), key) == key


@given(trees)
def test_round_trip(tree: tuple[Algorithm, list[ManifestEntry]]) -> None:
    algorithm, entries = tree
    proof = proof_of(entries, algorithm)
    assert list(read_proof(io.BytesIO(proof))) == entries
    check = check_proof(io.BytesIO(proof), expected_public_key=KEY.public_key)
    assert check.good
    assert check.entries_count == len(entries)


SMALL = proof_of(
    [
        ManifestEntry(b"d", FileKind.DIRECTORY, 0, 0o755, None, None),
        ManifestEntry(b"d/l", FileKind.SYMLINK, 2, 0o777, b"\xe9x", None),
        ManifestEntry(b"d/\xff", FileKind.FILE, 10, 0o644, None, bytes(4)),
    ],
    Algorithm.CRC32C,
)


def test_no_proof_with_a_flipped_bit_is_good() -> None:
    """Every bit of every byte: check invariant 1."""
    assert is_good(SMALL)
    for position in range(len(SMALL)):
        for bit in range(8):
            changed = bytearray(SMALL)
            changed[position] ^= 1 << bit
            assert not is_good(bytes(changed)), (position, bit)


@given(st.integers(0, len(SMALL)), st.integers(0, 40), st.binary(max_size=40))
def test_no_proof_with_an_exchanged_stretch_is_good(start: int, length: int, put: bytes) -> None:
    changed = SMALL[:start] + put + SMALL[start + length :]
    assert is_good(changed) == (changed == SMALL)


@given(st.lists(st.integers(0, 4), max_size=8))
def test_no_other_selection_or_order_of_lines_is_good(indexes: list[int]) -> None:
    lines = SMALL.splitlines(keepends=True)
    changed = b"".join(lines[index] for index in indexes)
    assert is_good(changed) == (changed == SMALL)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places_in(document: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside a JSON document."""
    keys = list(document) if isinstance(document, dict) else range(len(document))
    found = []
    for key in keys:
        found.append((document, key))
        if isinstance(document[key], dict | list):
            found += places_in(document[key])
    return found


@given(st.integers(0, 4), values, st.data())
def test_no_proof_with_another_value_is_good(line: int, value: Any, data: st.DataObject) -> None:
    """Any member of any line, at any depth, set to any value, spelled as the writer would."""
    lines = SMALL.splitlines(keepends=True)
    document = json.loads(lines[line])
    container, key = data.draw(st.sampled_from(places_in(document)))
    assume(repr(container[key]) != repr(value))
    container[key] = value
    lines[line] = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    assert not is_good(b"".join(lines))


HEADER = SMALL[: SMALL.index(b"\n") + 1]


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda garbage: HEADER + garbage))
def test_arbitrary_bytes_are_refused_and_raise_nothing_undocumented(garbage: bytes) -> None:
    assert not is_good(garbage)

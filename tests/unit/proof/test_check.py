"""Check: each of its four answers is wrong exactly when that part of the proof is.

Method: proofs that are right but for one thing, made by signing what should not be signed.
"""

import io
import json

from holdfast.model.tree import FileKind
from holdfast.proof.check import ProofCheck, check_proof
from holdfast.proof.digests import Algorithm
from holdfast.proof.document import ProofWriter
from holdfast.proof.manifest import ManifestEntry
from holdfast.proof.signature import SigningKey, fingerprint
from holdfast.proof.statement import (
    SIGNED_PREFIX,
    Claims,
    VerificationClaim,
    VerificationMode,
    canonical_json,
)

KEY = SigningKey.from_seed(bytes(range(32)))
OTHER_KEY = SigningKey.from_seed(bytes(32))


def make_proof(size_bytes: int = 5) -> bytes:
    stream = io.BytesIO()
    writer = ProofWriter(stream, Algorithm.CRC32)
    writer.add(ManifestEntry(b"a", FileKind.FILE, size_bytes, 0o644, None, bytes(4)))
    verification = VerificationClaim(
        mode=VerificationMode.NONE, cache_dropped=False, verdict="unverified", details={}
    )
    claims = Claims(
        product="holdfast 0.1.0",
        source={},
        target={},
        task_ids=(),
        created_at="2026-01-02T03:04:05Z",
        exclusions=(),
        unproven={},
        verification=verification,
    )
    writer.finish(claims, KEY)
    return stream.getvalue()


def signed_again(proof: bytes, **changes: object) -> bytes:
    """Return the proof with its statement changed and signed again by the right key."""
    *before, last = proof.splitlines(keepends=True)
    statement = canonical_json(json.loads(last)["statement"] | changes)
    signature = {
        "algorithm": "ed25519",
        "publicKey": KEY.public_key.hex(),
        "value": KEY.sign(SIGNED_PREFIX + statement).hex(),
    }
    line = b'{"statement":' + statement + b',"signature":' + canonical_json(signature) + b"}\n"
    return b"".join(before) + line


def check(proof: bytes, key: SigningKey | None = KEY) -> ProofCheck:
    expected = None if key is None else key.public_key
    return check_proof(io.BytesIO(proof), expected_public_key=expected)


def answers(found: ProofCheck) -> tuple[bool, bool, bool, bool]:
    return found.signature_good, found.key_good, found.root_good, found.counts_good


def test_good_proof() -> None:
    found = check(make_proof())
    assert found.good
    assert answers(found) == (True, True, True, True)
    assert found.entries_count == 1
    assert found.fingerprint == fingerprint(KEY.public_key)
    assert check(make_proof(), key=None).good
    assert signed_again(make_proof()) == make_proof()


def test_another_key_than_expected() -> None:
    found = check(make_proof(), OTHER_KEY)
    assert answers(found) == (True, False, True, True)
    assert not found.good


def test_statement_changed_after_signing() -> None:
    found = check(make_proof().replace(b"unverified", b"equal"))
    assert answers(found) == (False, True, True, True)
    assert not found.good


def test_key_exchanged_in_the_file() -> None:
    proof = make_proof()
    exchanged = proof.replace(KEY.public_key.hex().encode(), OTHER_KEY.public_key.hex().encode())
    assert answers(check(exchanged, key=None)) == (False, True, True, True)


def test_entry_changed() -> None:
    found = check(make_proof().replace(b'"mode":"0644"', b'"mode":"4755"'))
    assert answers(found) == (True, True, False, True)
    assert not found.good


def test_statement_of_other_counts_signed_by_the_right_key() -> None:
    entries = {"file": 2, "directory": 0, "symlink": 0}
    proof = make_proof()
    for wrong in (signed_again(proof, entries=entries), signed_again(proof, totalBytes=6)):
        assert answers(check(wrong)) == (True, True, True, False)
        assert not check(wrong).good


def test_statement_of_another_tree_signed_by_the_right_key() -> None:
    found = check(signed_again(make_proof(), rootDigest="00" * 32))
    assert answers(found) == (True, True, False, True)
    assert not found.good


def test_statement_moved_to_another_proof() -> None:
    small, large = (make_proof(size).splitlines(keepends=True) for size in (5, 6))
    assert answers(check(b"".join([*large[:-1], small[-1]]))) == (True, True, False, False)


def test_signature_without_the_domain_prefix_is_not_accepted() -> None:
    """Statement invariant 2."""
    proof = make_proof()
    last = json.loads(proof.splitlines()[-1])
    bare = KEY.sign(canonical_json(last["statement"])).hex()
    assert not check(proof.replace(last["signature"]["value"].encode(), bare.encode())).good

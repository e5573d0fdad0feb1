"""Checks a proof with nothing but the proof itself, and a public key where one is known.

Not a comparison with a tree, and no policy: what follows from an answer is for the caller.

1. `ProofCheck.good` holds only for a proof of which no byte changed since its key signed it: each
   entry is under the root, the root, counts and claims are under the signature, and the format has
   one spelling for what is left.
2. Without an expected key anyone may have signed; the fingerprint says who did.
"""

from dataclasses import dataclass
from typing import IO

from holdfast.proof.document import ProofReader, read_proof
from holdfast.proof.signature import fingerprint, verify_signature
from holdfast.proof.statement import Statement, signed_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofCheck:
    """What a check of a proof found."""

    signature_good: bool
    """The statement is what the owner of the key in the proof signed."""
    key_good: bool
    """That key is the expected one, or none was expected."""
    root_good: bool
    """The entries are those whose root the statement gives."""
    counts_good: bool
    """The statement counts the entries and their bytes right."""
    statement: Statement
    fingerprint: str
    """Of the key in the proof."""
    entries_count: int
    """Entries seen."""

    @property
    def good(self) -> bool:
        """Whether nothing at all was found wrong."""
        return self.signature_good and self.key_good and self.root_good and self.counts_good


def check_proof(stream: IO[bytes], *, expected_public_key: bytes | None) -> ProofCheck:
    """Read a whole proof and return what is right and wrong with it.

    Raises:
        IntegrityError: `bad-proof`: it breaks the format at the line named.
        UnsupportedError: `format-newer`.
    """
    reader = read_proof(stream)
    for _ in reader:
        pass
    return check_read(reader, expected_public_key=expected_public_key)


def check_read(reader: ProofReader, *, expected_public_key: bytes | None) -> ProofCheck:
    """Return the check of a proof whose entries have all been taken from `reader`."""
    statement, signature, tally = reader.statement, reader.signature, reader.tally
    return ProofCheck(
        signature_good=verify_signature(
            signature.public_key, signed_bytes(statement), signature.value
        ),
        key_good=expected_public_key in (None, signature.public_key),
        root_good=statement.root_digest == tally.root_digest(),
        counts_good=(statement.counts, statement.total_bytes) == (tally.counts, tally.total_bytes),
        statement=statement,
        fingerprint=fingerprint(signature.public_key),
        entries_count=tally.entries_count(),
    )

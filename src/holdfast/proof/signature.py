"""Ed25519 signatures (RFC 8032): keys, signing, checking, and a fingerprint people can compare.

Not where keys are kept, nor whom to trust. Nothing here makes a key from chance: a seed is given.
The library is loaded when a key is first used: most commands never need it.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Self

from holdfast.errors import InvalidRequestError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. Never printed: its repr shows nothing of it."""

    _private: "Ed25519PrivateKey" = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the key that RFC 8032 derives from 32 secret bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        assert len(seed) == SEED_BYTES
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Return the key in an unencrypted PKCS #8 PEM file.

        Raises:
            InvalidRequestError: `bad-key`: not PEM, encrypted, or not an Ed25519 key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidRequestError(
                "the signing key is not an unencrypted Ed25519 private key in PEM",
                code="bad-key",
                advice="make one with: openssl genpkey -algorithm ed25519",
            )
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM; whoever reads it can sign."""
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that check what this key signs."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes; the same message gives the same one."""
        return self._private.sign(message)


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether the owner of `public_key` signed exactly `message`; malformed ones did not."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """Return the first 128 bits of the key's SHA-256 as eight groups of four hex digits."""
    text = sha256(public_key).hexdigest()
    return "-".join(text[start : start + 4] for start in range(0, 32, 4))

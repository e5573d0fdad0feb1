"""Signatures: Ed25519 as RFC 8032 defines it, and nothing malformed is ever accepted or raised.

Method: test 1 and test 2 of RFC 8032 section 7.1, then every kind of wrong input.
"""

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from holdfast.errors import InvalidRequestError
from holdfast.proof.signature import SigningKey, fingerprint, verify_signature

VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
KEY = SigningKey.from_seed(bytes(range(32)))


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), VECTORS)
def test_rfc_8032(seed: str, public_key: str, message: str, signature: str) -> None:
    key = SigningKey.from_seed(bytes.fromhex(seed))
    assert key.public_key.hex() == public_key
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify_signature(key.public_key, bytes.fromhex(message), bytes.fromhex(signature))


def test_other_message_key_or_signature_is_not_accepted() -> None:
    signature = KEY.sign(b"message")
    other = SigningKey.from_seed(bytes(32))
    assert verify_signature(KEY.public_key, b"message", signature)
    assert not verify_signature(KEY.public_key, b"messagf", signature)
    assert not verify_signature(other.public_key, b"message", signature)
    for position in range(64):
        changed = bytearray(signature)
        changed[position] ^= 1
        assert not verify_signature(KEY.public_key, b"message", bytes(changed))


@pytest.mark.parametrize(("key_bytes", "signature_bytes"), [(0, 64), (31, 64), (33, 64), (32, 63)])
def test_wrong_lengths_are_not_accepted(key_bytes: int, signature_bytes: int) -> None:
    assert not verify_signature(bytes(key_bytes), b"", bytes(signature_bytes))


def test_pem_round_trip() -> None:
    again = SigningKey.from_pem(KEY.to_pem())
    assert KEY.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert again.public_key == KEY.public_key


def test_pem_that_is_no_usable_key_is_refused() -> None:
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    encrypted = load_pem_private_key(KEY.to_pem(), password=None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    plain_rsa = rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (b"", b"not pem", KEY.to_pem()[:60], encrypted, plain_rsa):
        with pytest.raises(InvalidRequestError) as caught:
            SigningKey.from_pem(pem)
        assert caught.value.code == "bad-key"


def test_fingerprint_is_eight_groups_of_four() -> None:
    # sha256 of 32 zero bytes.
    assert fingerprint(bytes(32)) == "6668-7aad-f862-bd77-6c8f-c18b-8e9f-8e20"


def test_repr_shows_nothing_secret() -> None:
    assert repr(KEY) == "SigningKey()"

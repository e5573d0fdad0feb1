"""Digests: every algorithm gives what its public definition says, however the bytes arrive.

Method: known answers from the standards and reference suites; the same data whole, in pieces, and
in every kind of buffer.
"""

import subprocess
import sys

import pytest

from holdfast.errors import InvalidRequestError
from holdfast.ports import Buffer
from holdfast.proof.digests import (
    Algorithm,
    digest_of,
    is_cryptographic,
    new_digest,
    parse_algorithm,
    size_of,
)

KNOWN_ANSWERS = [
    (Algorithm.XXH3_128, b"", "99aa06d3014798d86001c324468d497f"),
    (Algorithm.SHA256, b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    # FIPS 180-2, appendix B.1.
    (Algorithm.SHA256, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    # The BLAKE3 reference test vectors, input lengths 0 and 1.
    (Algorithm.BLAKE3, b"", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    (Algorithm.BLAKE3, b"\0", "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
    # RFC 1321, appendix A.5.
    (Algorithm.MD5, b"abc", "900150983cd24fb0d6963f7d28e17f72"),
    # The xxHash specification.
    (Algorithm.XXH32, b"", "02cc5d05"),
    (Algorithm.XXH32, b"Nobody inspects the spammish repetition", "e2293b2f"),
    # The check values of the CRC catalogue.
    (Algorithm.CRC32, b"123456789", "cbf43926"),
    (Algorithm.CRC32C, b"123456789", "e3069283"),
    # RFC 3720, appendix B.4.
    (Algorithm.CRC32C, bytes(32), "8a9136aa"),
]


@pytest.mark.parametrize(("algorithm", "data", "expected"), KNOWN_ANSWERS)
def test_known_answers(algorithm: Algorithm, data: bytes, expected: str) -> None:
    assert digest_of(algorithm, data).hex() == expected
    digest = new_digest(algorithm)
    digest.update(data)
    assert digest.digest().hex() == expected


def test_every_algorithm_has_a_known_answer() -> None:
    assert {algorithm for algorithm, _, _ in KNOWN_ANSWERS} == set(Algorithm)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_pieces_and_buffers_do_not_matter(algorithm: Algorithm) -> None:
    data = bytes(range(256)) * 1000
    digest = new_digest(algorithm)
    pieces: list[Buffer] = [
        data[:1],
        bytearray(data[1:70_000]),
        b"",
        memoryview(data)[70_000:200_000],
        memoryview(bytearray(data))[200_000:],
    ]
    for piece in pieces:
        digest.update(piece)

    assert digest.digest() == digest_of(algorithm, data)
    assert digest.digest() == digest_of(algorithm, memoryview(data))
    assert digest.digest() == digest_of(algorithm, bytearray(data))
    assert len(digest.digest()) == size_of(algorithm)
    assert digest.digest() != digest_of(algorithm, data[:-1])


@pytest.mark.parametrize(
    ("algorithm", "seed", "expected"),
    [
        # The sanity vectors of the xxHash reference: no bytes, the seed PRIME32 2654435761.
        (Algorithm.XXH32, 2654435761, "36b78ae7"),
        (Algorithm.XXH32, 0, "02cc5d05"),
    ],
)
def test_seeded_known_answers(algorithm: Algorithm, seed: int, expected: str) -> None:
    assert new_digest(algorithm, seed).digest().hex() == expected


def test_seed_changes_the_digest_and_has_its_full_width() -> None:
    digests = {new_digest(Algorithm.XXH3_128, seed).digest() for seed in (0, 1, 2**32, 2**64 - 1)}
    assert len(digests) == 4


SEEDLESS = set(Algorithm) - {Algorithm.XXH32, Algorithm.XXH3_128}


@pytest.mark.parametrize(
    ("algorithm", "seed"),
    [
        *((algorithm, 1) for algorithm in sorted(SEEDLESS)),
        (Algorithm.XXH32, 1 << 32),
        (Algorithm.XXH32, -1),
        (Algorithm.XXH3_128, 1 << 64),
    ],
)
def test_seed_an_algorithm_cannot_take_is_refused(algorithm: Algorithm, seed: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        new_digest(algorithm, seed)
    assert caught.value.code == "bad-seed"


def test_names_parse_and_others_are_refused_with_the_choices() -> None:
    assert [parse_algorithm(algorithm.value) for algorithm in Algorithm] == list(Algorithm)
    with pytest.raises(InvalidRequestError, match="'sha1'") as caught:
        parse_algorithm("sha1")
    assert caught.value.code == "bad-algorithm"
    assert "sha256" in caught.value.advice


def test_only_unbroken_algorithms_count_as_cryptographic() -> None:
    assert {a for a in Algorithm if is_cryptographic(a)} == {Algorithm.SHA256, Algorithm.BLAKE3}


def test_importing_digests_or_documents_does_not_load_cryptography() -> None:
    program = (
        "import sys, holdfast.proof.digests, holdfast.proof.document;"
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

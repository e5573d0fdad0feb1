"""Digest algorithms: their names, their lengths, and objects that compute them.

Not a choice of algorithm and not a comparison: callers name one and compare bytes. All digests are
in the byte order their public definition prints, the CRCs and XXH32 big-endian.

Every algorithm is computed by a library in compiled code that lets other threads run meanwhile
(CRC-32C excepted, which is short); BLAKE3 stays on the calling thread, for callers hash several
files at once.
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

import google_crc32c
import xxhash
from blake3 import blake3
from isal import isal_zlib

from holdfast.errors import InvalidRequestError
from holdfast.ports import Buffer


class Algorithm(StrEnum):
    """The name of a digest algorithm; part of the proof format, append-only."""

    XXH3_128 = "xxh3-128"
    SHA256 = "sha256"
    BLAKE3 = "blake3"
    MD5 = "md5"
    XXH32 = "xxh32"
    CRC32 = "crc32"
    CRC32C = "crc32c"


class Digest(Protocol):
    """A digest being computed over bytes given in order."""

    def update(self, data: Buffer, /) -> object:
        """Take the next bytes; `data` may change once this returns. The result means nothing."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far; more may follow."""
        ...


class _Crc32:
    __slots__ = ("_crc",)

    def __init__(self, data: Buffer = b"") -> None:
        self._crc = isal_zlib.crc32(data)

    def update(self, data: Buffer, /) -> None:
        self._crc = isal_zlib.crc32(data, self._crc)

    def digest(self) -> bytes:
        return self._crc.to_bytes(4, "big")


class _Crc32c:
    __slots__ = ("_crc",)

    def __init__(self, data: Buffer = b"") -> None:
        self._crc: int = google_crc32c.value(bytes(data))

    def update(self, data: Buffer, /) -> None:
        # The library takes nothing but bytes; bytes() of bytes is no copy.
        self._crc = google_crc32c.extend(self._crc, bytes(data))

    def digest(self) -> bytes:
        return self._crc.to_bytes(4, "big")


def _md5(data: Buffer = b"") -> Digest:
    # Not for security: also works where the operating system forbids MD5 for that.
    return hashlib.md5(data, usedforsecurity=False)


_STARTERS: Final[dict[Algorithm, Callable[[Buffer], Digest]]] = {
    Algorithm.XXH3_128: xxhash.xxh3_128,
    Algorithm.SHA256: hashlib.sha256,
    Algorithm.BLAKE3: blake3,
    Algorithm.MD5: _md5,
    Algorithm.XXH32: xxhash.xxh32,
    Algorithm.CRC32: _Crc32,
    Algorithm.CRC32C: _Crc32c,
}
_SIZES_BYTES: Final = {
    Algorithm.XXH3_128: 16,
    Algorithm.SHA256: 32,
    Algorithm.BLAKE3: 32,
    Algorithm.MD5: 16,
    Algorithm.XXH32: 4,
    Algorithm.CRC32: 4,
    Algorithm.CRC32C: 4,
}
_SEED_BITS: Final = {Algorithm.XXH32: 32, Algorithm.XXH3_128: 64}

assert _STARTERS.keys() == _SIZES_BYTES.keys() == set(Algorithm)


def new_digest(algorithm: Algorithm, seed: int = 0) -> Digest:
    """Return a digest over no bytes yet.

    Args:
        algorithm: Which.
        seed: Unsigned, 32 bits for xxh32 and 64 for xxh3-128; 0 for all others, which have none.

    Raises:
        InvalidRequestError: `bad-seed`.
    """
    if seed == 0:
        return _STARTERS[algorithm](b"")
    if not 0 <= seed < 1 << _SEED_BITS.get(algorithm, 0):
        raise InvalidRequestError(
            f"{algorithm} does not take the seed {seed}",
            code="bad-seed",
            advice="xxh32 takes a seed of 32 bits and xxh3-128 one of 64, unsigned; others none",
            algorithm=algorithm.value,
            seed=seed,
        )
    if algorithm is Algorithm.XXH32:
        return xxhash.xxh32(seed=seed)
    return xxhash.xxh3_128(seed=seed)


def digest_of(algorithm: Algorithm, data: Buffer) -> bytes:
    """Return the unseeded digest of `data`, which is all of it."""
    return _STARTERS[algorithm](data).digest()


def size_of(algorithm: Algorithm) -> int:
    """Return the length of a digest in bytes."""
    return _SIZES_BYTES[algorithm]


def is_cryptographic(algorithm: Algorithm) -> bool:
    """Say whether equal digests exclude a forger and not only an accident. MD5 no longer does."""
    return algorithm in (Algorithm.SHA256, Algorithm.BLAKE3)


def parse_algorithm(text: str) -> Algorithm:
    """Return the algorithm called `text`, or raise InvalidRequestError (`bad-algorithm`)."""
    try:
        return Algorithm(text)
    except ValueError:
        raise InvalidRequestError(
            f"{text[:100]!r} is not a digest algorithm",
            code="bad-algorithm",
            advice=f"choose one of {', '.join(Algorithm)}",
        ) from None

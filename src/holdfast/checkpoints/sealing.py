"""How a chunk is written: compressed where that helps, encrypted where the bank has a key.

docs/formats/bank.md is the definition, byte for byte. A header of 32 bytes, then the payload. The
name of a chunk and its header are authenticated with the payload, so that of two encrypted chunks
neither can stand in for the other; of plain ones the digest shows it.

Invariants:
1. What `open` returns has the digest asked for: damage, exchange and a wrong key are errors.
2. Nothing larger than CHUNK_BYTES_MAX is unpacked, whatever a header says.
3. The key is in no chunk, name, repr or error.
"""

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import zstandard
from blake3 import blake3

from holdfast.checkpoints.model import ChunkId
from holdfast.errors import DeniedError, IntegrityError, UnsupportedError
from holdfast.model.limits import CHUNK_BYTES_MAX, KIB
from holdfast.ports import Buffer, Entropy

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"HFC1"
_HEADER: Final = struct.Struct(">4sB3xI8s12s")
_COMPRESSED: Final = 1
_ENCRYPTED: Final = 2
_LEVEL: Final = 1
_SAMPLE_BYTES: Final = 32 * KIB
_NO_KEY: Final = bytes(8)

HEADER_BYTES: Final = 32

assert _HEADER.size == HEADER_BYTES


@dataclass(frozen=True, slots=True)
class BankKey:
    """The secret of an encrypted bank: 32 bytes from which the others are derived."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """How it is named in manifests and chunks: 16 hexadecimal digits that tell nothing."""
        return _derive("holdfast bank 1 key id", self.secret)[:8].hex()

    @property
    def sealing(self) -> bytes:
        """The AES-256 key."""
        return _derive("holdfast bank 1 sealing", self.secret)

    @property
    def naming(self) -> bytes:
        """The key of chunk ids: who lacks it cannot tell whether a known file is in the bank."""
        return _derive("holdfast bank 1 naming", self.secret)


def _derive(context: str, secret: bytes) -> bytes:
    return blake3(secret, derive_key_context=context).digest()


class Sealer:
    """Seals and opens chunks of one bank; owned by one thread."""

    def __init__(self, key: BankKey | None, entropy: Entropy) -> None:
        self._key_id = bytes.fromhex(key.id) if key else _NO_KEY
        self._naming = key.naming if key else None
        self._entropy = entropy
        self._cipher = _cipher(key) if key else None
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def name(self, data: Buffer) -> ChunkId:
        """Return the id of a chunk with these bytes."""
        if self._naming is None:
            return ChunkId(blake3(data).digest())
        return ChunkId(blake3(data, key=self._naming).digest())

    def seal(self, chunk: ChunkId, data: Buffer) -> bytes:
        """Return the object that holds a chunk."""
        assert len(data) <= CHUNK_BYTES_MAX
        flags, payload = self._compress(data)
        if self._cipher is None:
            return b"".join((_HEADER.pack(MAGIC, flags, len(data), _NO_KEY, bytes(12)), payload))
        nonce = self._entropy.random_bytes(12)
        header = _HEADER.pack(MAGIC, flags | _ENCRYPTED, len(data), self._key_id, nonce)
        return b"".join((header, self._cipher.encrypt(nonce, payload, header + chunk)))

    def open(self, chunk: ChunkId, sealed: bytes) -> bytes:
        """Return the bytes of a chunk.

        Raises:
            IntegrityError: `chunk-damaged`: they are not what was sealed under this id.
            DeniedError: `key-missing`: it is encrypted with a key that is not here.
            UnsupportedError: `format-newer`.
        """
        if len(sealed) < _HEADER.size:
            raise _damaged(chunk, "its header is cut")
        magic, flags, size_bytes, key_id, nonce = _HEADER.unpack_from(sealed)
        if magic != MAGIC:
            raise _damaged(chunk, "it does not begin like one")
        if flags & ~(_COMPRESSED | _ENCRYPTED):
            raise UnsupportedError(
                f"chunk {chunk.hex()} is of a newer format",
                code="format-newer",
                advice="use the newer holdfast that wrote it",
            )
        is_plain = not flags & _ENCRYPTED
        if any(sealed[5:8]) or (is_plain and (key_id, nonce) != (_NO_KEY, bytes(12))):
            raise _damaged(chunk, "its header holds what no writer puts there")
        if size_bytes > CHUNK_BYTES_MAX:
            raise _damaged(chunk, "its header gives an impossible length")
        payload = self._decrypt(chunk, sealed, flags, key_id, nonce)
        data = self._decompress(chunk, payload, size_bytes) if flags & _COMPRESSED else payload
        if len(data) != size_bytes or self.name(data) != chunk:
            raise _damaged(chunk, "its bytes have another digest")
        return bytes(data)

    def _compress(self, data: Buffer) -> tuple[int, bytes | memoryview]:
        view = memoryview(data)
        # A sample tells cheaply of what is compressed already.
        middle = max(0, len(view) // 2 - _SAMPLE_BYTES // 2)
        sample = view[middle : middle + _SAMPLE_BYTES]
        if len(self._compressor.compress(sample)) > len(sample) * 0.95:
            return 0, view
        packed = self._compressor.compress(view)
        if len(packed) > len(view) * 0.97:
            return 0, view
        return _COMPRESSED, packed

    def _decrypt(
        self, chunk: ChunkId, sealed: bytes, flags: int, key_id: bytes, nonce: bytes
    ) -> memoryview | bytes:
        payload = memoryview(sealed)[_HEADER.size :]
        if not flags & _ENCRYPTED:
            if self._cipher is not None:
                raise _damaged(chunk, "it is not encrypted, although the bank is")
            return payload
        if self._cipher is None or key_id != self._key_id:
            raise DeniedError(
                f"chunk {chunk.hex()} is encrypted with the key {key_id.hex()}, which is not here",
                code="key-missing",
                advice="bring the key file of this bank, or name it with --key-file",
            )
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(nonce, payload, sealed[: _HEADER.size] + chunk)
        except InvalidTag:
            raise _damaged(chunk, "its seal is broken") from None

    def _decompress(self, chunk: ChunkId, payload: Buffer, size_bytes: int) -> bytes:
        try:
            if zstandard.frame_content_size(bytes(payload[:18])) != size_bytes:
                raise _damaged(chunk, "its payload gives another length")
            return self._decompressor.decompress(
                payload, max_output_size=size_bytes, allow_extra_data=False
            )
        except zstandard.ZstdError:
            raise _damaged(chunk, "it cannot be unpacked") from None


def _cipher(key: BankKey) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key.sealing)


def _damaged(chunk: bytes, why: str) -> IntegrityError:
    return IntegrityError(
        f"chunk {chunk.hex()} is damaged: {why}",
        code="chunk-damaged",
        advice="run 'holdfast checkpoints doctor' to see what shares it, and heal it",
        chunk=chunk.hex(),
    )

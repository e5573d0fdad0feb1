"""The proof file: lines of JSON, written and read as a stream in memory that does not grow.

First line a header, then one line for each entry in ascending order of raw path bytes, last line
the statement with its signature. docs/formats/proof.md is the definition, byte for byte. Not a
check: a proof that can be read may still be forged or altered, which check.py finds out.

1. A proof has one spelling. A line is read only if writing what it says gives the same bytes; so
   duplicate members, other spacing, other escapes and unknown members are all refused.
2. Every entry read has a path that may stand in a tree, above the one before it.
3. No line longer than PROOF_LINE_BYTES_MAX is read or written.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Final, NoReturn

from holdfast.errors import CapacityError, IntegrityError, InvalidRequestError, UnsupportedError
from holdfast.model.limits import PROOF_LINE_BYTES_MAX
from holdfast.model.tree import FileKind
from holdfast.proof.digests import Algorithm
from holdfast.proof.manifest import ManifestEntry, ManifestTally
from holdfast.proof.statement import (
    PROOF_KIND,
    Claims,
    Statement,
    canonical_json,
    make_statement,
    parse_statement,
    signed_bytes,
    statement_document,
)

if TYPE_CHECKING:
    from holdfast.proof.signature import SigningKey

FORMAT: Final = "holdfast-proof"
VERSION: Final = 1
SIGNATURE_ALGORITHM: Final = "ed25519"

_STATEMENT_START: Final = b'{"statement":'


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureLine:
    """Who signed a proof, and the signature; nothing of it is checked yet."""

    public_key: bytes
    value: bytes


class ProofWriter:
    """Writes one proof to a stream. Making it durable is for whoever opened the stream."""

    def __init__(self, stream: IO[bytes], algorithm: Algorithm) -> None:
        """Write the header; every digest of the proof is of `algorithm`."""
        self._stream = stream
        self._tally = ManifestTally(algorithm)
        self._last_line: bytes | None = None
        stream.write(_encode_header(algorithm))

    def add(self, entry: ManifestEntry) -> None:
        """Write the next entry.

        Raises:
            InvalidRequestError: `bad-path`, `bad-entry` or `bad-entry-order`; nothing was written.
        """
        assert self._last_line is None
        self._tally.add(entry)
        self._stream.write(_encode_entry(entry))

    def finish(self, claims: Claims, key: "SigningKey") -> Statement:
        """Write the statement over all entries, signed, and return it. The proof is then complete.

        Raises:
            InvalidRequestError: `bad-claims`: a claim that JSON or the format cannot hold.
            CapacityError: `statement-too-long`. After either, nothing of the statement is written.
        """
        assert self._last_line is None
        try:
            statement = make_statement(claims, self._tally)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRequestError(
                f"a proof cannot hold this statement: {error}",
                code="bad-claims",
                advice="give source, target and details as plain JSON values without fractions",
            ) from error
        signature = SignatureLine(
            public_key=key.public_key, value=key.sign(signed_bytes(statement))
        )
        line = _encode_statement(statement, signature)
        if len(line) > PROOF_LINE_BYTES_MAX:
            raise CapacityError(
                f"the statement of the proof takes {len(line)} bytes,"
                f" but a line may have {PROOF_LINE_BYTES_MAX}",
                code="statement-too-long",
                advice="use fewer or shorter exclusion patterns",
            )
        self._stream.write(line)
        self._last_line = line
        return statement

    @property
    def chain_digest(self) -> str:
        """What the next proof gives as `previous`. Only after `finish`."""
        assert self._last_line is not None
        return sha256(self._last_line).hexdigest()


def read_proof(stream: IO[bytes]) -> "ProofReader":
    """Read the header of a proof and return a reader that yields its entries.

    Raises:
        UnsupportedError: `format-newer`: this is no proof, or of a version or kind not known here.
        IntegrityError: `bad-proof`.
    """
    return ProofReader(stream)


class ProofReader:
    """Yields the entries of a proof once, in order; then holds its statement.

    Iteration raises IntegrityError (`bad-proof`, with the line number) at the first line that no
    writer could have written; what was yielded before then deserves no trust either.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._line_number = 0
        line = self._read_line()
        self.algorithm = self._parse_header(line)
        self.tally = ManifestTally(self.algorithm)
        """What the entries yielded so far amount to."""
        self._last: tuple[Statement, SignatureLine, str] | None = None

    def __iter__(self) -> Iterator[ManifestEntry]:
        assert self._line_number == 1, "a proof is read once"
        while not (line := self._read_line()).startswith(_STATEMENT_START):
            try:
                entry = _decode_entry(line)
                self.tally.add(entry)
            except _FLAWS as error:
                self._refuse(error)
            yield entry
        self._last = self._parse_last_line(line)
        if self._stream.read(1):
            self._line_number += 1
            self._refuse("nothing may follow the statement")

    @property
    def statement(self) -> Statement:
        """What the proof states. Only after the last entry."""
        assert self._last is not None
        return self._last[0]

    @property
    def signature(self) -> SignatureLine:
        """The signature, not checked. Only after the last entry."""
        assert self._last is not None
        return self._last[1]

    @property
    def chain_digest(self) -> str:
        """What a proof that follows this one gives as `previous`. Only after the last entry."""
        assert self._last is not None
        return self._last[2]

    def _read_line(self) -> bytes:
        self._line_number += 1
        line = self._stream.readline(PROOF_LINE_BYTES_MAX)
        if not line.endswith(b"\n"):
            if len(line) == PROOF_LINE_BYTES_MAX:
                self._refuse(f"longer than {PROOF_LINE_BYTES_MAX} bytes")
            self._refuse("the file ends here, before its statement is complete")
        return line

    def _parse_header(self, line: bytes) -> Algorithm:
        try:
            members = _decode_object(line)
        except _FLAWS as error:
            self._refuse(error)
        known = (members.get("format"), members.get("version"), members.get("kind"))
        if known != (FORMAT, VERSION, PROOF_KIND):
            raise UnsupportedError(
                f"the file calls itself {known[0]!s:.40} version {known[1]!s:.40}"
                f" of {known[2]!s:.40}; this program reads"
                f" {FORMAT} version {VERSION} of {PROOF_KIND}",
                code="format-newer",
                advice="read it with the version of holdfast that wrote it, or a later one",
            )
        try:
            algorithm = Algorithm(str(members.get("algorithm")))
        except ValueError as error:
            self._refuse(error)
        if line != _encode_header(algorithm):
            self._refuse(_OTHER_SPELLING)
        return algorithm

    def _parse_last_line(self, line: bytes) -> tuple[Statement, SignatureLine, str]:
        try:
            members = _decode_object(line)
            statement = parse_statement(members["statement"])
            signature = _decode_signature(members["signature"])
            spelled = _encode_statement(statement, signature)
        except _FLAWS as error:
            self._refuse(error)
        if line != spelled:
            self._refuse(_OTHER_SPELLING)
        if statement.algorithm is not self.algorithm:
            self._refuse("the algorithm is another than in line 1")
        return statement, signature, sha256(line).hexdigest()

    def _refuse(self, flaw: Exception | str) -> NoReturn:
        cause = flaw if isinstance(flaw, Exception) else None
        flaw = f"member {flaw} is missing" if isinstance(flaw, KeyError) else flaw
        raise IntegrityError(
            f"line {self._line_number} of the proof is damaged: {flaw!s:.300}",
            code="bad-proof",
            advice="fetch the proof again from where it was first written; do not trust this one",
            line=self._line_number,
        ) from cause


_OTHER_SPELLING: Final = "it is not spelled as a proof is"
_FLAWS: Final = (ValueError, TypeError, KeyError, RecursionError, InvalidRequestError)
"""What decoding a hostile line may raise. UnicodeError and JSON's and base64's are ValueErrors."""


def _encode_header(algorithm: Algorithm) -> bytes:
    return (
        f'{{"format":"{FORMAT}","version":{VERSION},"kind":"{PROOF_KIND}",'
        f'"algorithm":"{algorithm}"}}\n'
    ).encode("ascii")


def _encode_entry(entry: ManifestEntry) -> bytes:
    path, kind, size_bytes, mode, target, digest = entry
    line = f'{{{_encode_name("path", path)},"type":"{kind}","size":{size_bytes},"mode":"{mode:04o}"'
    if target is not None:
        line += "," + _encode_name("target", target)
    if digest is not None:
        line += f',"digest":"{digest.hex()}"'
    line += "}\n"
    return line.encode("ascii")


def _encode_name(member: str, name: bytes) -> str:
    """Return the members that spell a raw name: its text, and its exact bytes if it has none."""
    try:
        return f'"{member}":{json.dumps(name.decode("utf-8"))}'
    except UnicodeDecodeError:
        shown = json.dumps(name.decode("utf-8", "backslashreplace"))
        return f'"{member}":{shown},"{member}Base64":"{b64encode(name).decode("ascii")}"'


def _decode_entry(line: bytes) -> ManifestEntry:
    """Return the entry of a line, or raise one of _FLAWS; its path and sizes are not checked."""
    members = _decode_object(line)
    digest = members.get("digest")
    entry = ManifestEntry(
        path=_decode_name(members, "path"),
        kind=FileKind(str(members["type"])),
        size_bytes=_integer(members["size"]),
        mode=int(str(members["mode"]), 8),
        link_target=_decode_name(members, "target") if "target" in members else None,
        digest=None if digest is None else bytes.fromhex(str(digest)),
    )
    if line != _encode_entry(entry):
        raise ValueError(_OTHER_SPELLING)
    return entry


def _decode_name(members: dict[str, object], member: str) -> bytes:
    exact = members.get(f"{member}Base64")
    if exact is not None:
        return b64decode(str(exact))
    return str(members[member]).encode("utf-8")


def _integer(value: object) -> int:
    if type(value) is int:
        return value
    raise ValueError("size must be an integer")


def _encode_statement(statement: Statement, signature: SignatureLine) -> bytes:
    signed = canonical_json(statement_document(statement))
    shown = (
        f'"signature":{{"algorithm":"{SIGNATURE_ALGORITHM}",'
        f'"publicKey":"{signature.public_key.hex()}","value":"{signature.value.hex()}"}}'
    )
    return _STATEMENT_START + signed + b"," + shown.encode("ascii") + b"}\n"


def _decode_signature(value: object) -> SignatureLine:
    match value:
        case {"publicKey": str(public_key), "value": str(signature)}:
            key, signed = bytes.fromhex(public_key), bytes.fromhex(signature)
            if (len(key), len(signed)) == (32, 64):
                return SignatureLine(public_key=key, value=signed)
    raise ValueError("signature must have a publicKey of 32 bytes and a value of 64, in hex")


def _decode_object(line: bytes) -> dict[str, object]:
    document = json.loads(line.decode("ascii"))
    if isinstance(document, dict):
        return document
    raise ValueError("it is not a JSON object")

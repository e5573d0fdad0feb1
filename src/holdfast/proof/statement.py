"""The statement of a proof: what its signature vouches for, and the exact bytes that are signed.

Not the lines around it (document.py). A statement has one encoding, canonical JSON: keys sorted by
code point, no spaces, everything outside ASCII escaped, no floating-point number anywhere.

1. What `parse_statement` returns can be encoded, and is parsed from its encoding to the same value.
2. The signed bytes begin with the format and its version, so that a signature made for anything
   else never fits a proof.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from holdfast.model.tree import FileKind
from holdfast.proof.digests import Algorithm
from holdfast.proof.manifest import KIND_CODES, ManifestTally

PROOF_KIND: Final = "files"
SIGNED_PREFIX: Final = b"holdfast-proof/1 statement\n"

_DEPTH_MAX: Final = 8
"""Deepest nesting in a statement, itself and its innermost values counted."""
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_HEX_32: Final = re.compile("[0-9a-f]{64}")


class VerificationMode(StrEnum):
    """How much was read again on both sides before the proof was made."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SAMPLE = "sample"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationClaim:
    """How the target was verified."""

    mode: VerificationMode
    cache_dropped: bool
    """Whether the target was read from its medium and not from memory."""
    verdict: str
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the maker of a proof says beside the entries.

    `source`, `target` and `details` are free JSON objects: null, booleans, integers, text, lists
    and objects, to the eighth level, the statement being the first.
    """

    product: str
    """Name and version of what made the proof."""
    source: Mapping[str, object]
    target: Mapping[str, object]
    task_ids: tuple[str, ...]
    created_at: str
    """RFC 3339."""
    exclusions: tuple[str, ...]
    unproven: Mapping[str, int]
    """Counts by outcome of entries the manifest does not hold: changed, failed, skipped."""
    verification: VerificationClaim
    previous: str | None = None
    """SHA-256, in hex, of the last line of the proof before this one, its line feed included."""
    epoch: int | None = None
    lsn: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Claims):
    """Everything the signature of a proof vouches for."""

    algorithm: Algorithm
    root_digest: bytes
    counts: Mapping[FileKind, int]
    total_bytes: int
    """Sum of the sizes of the files."""


def make_statement(claims: Claims, tally: ManifestTally) -> Statement:
    """Return the statement of these claims over these entries.

    Raises:
        ValueError: A claim that a proof cannot hold.
    """
    claimed = {field.name: getattr(claims, field.name) for field in fields(Claims)}
    statement = Statement(
        algorithm=tally.algorithm,
        root_digest=tally.root_digest(),
        counts=dict(tally.counts),
        total_bytes=tally.total_bytes,
        **claimed,
    )
    # What was made is read back by the reader's rules: no proof is written that none can read.
    encoded = canonical_json(statement_document(statement))
    return parse_statement(json.loads(encoded))


def canonical_json(document: object) -> bytes:
    """Return the one encoding of a JSON document."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def signed_bytes(statement: Statement) -> bytes:
    """Return exactly what is signed."""
    return SIGNED_PREFIX + canonical_json(statement_document(statement))


def statement_document(statement: Statement) -> dict[str, object]:
    """Return the statement as the JSON document a proof shows."""
    verification = statement.verification
    return {
        "product": statement.product,
        "kind": PROOF_KIND,
        "algorithm": statement.algorithm.value,
        "rootDigest": statement.root_digest.hex(),
        "entries": {kind.value: count for kind, count in statement.counts.items()},
        "totalBytes": statement.total_bytes,
        "source": dict(statement.source),
        "target": dict(statement.target),
        "taskIds": list(statement.task_ids),
        "createdAt": statement.created_at,
        "exclusions": list(statement.exclusions),
        "unproven": dict(statement.unproven),
        "verification": {
            "mode": verification.mode.value,
            "cacheDropped": verification.cache_dropped,
            "verdict": verification.verdict,
            "details": dict(verification.details),
        },
        "previous": statement.previous,
        "epoch": statement.epoch,
        "lsn": statement.lsn,
    }


def parse_statement(document: object) -> Statement:
    """Return the statement in a decoded JSON document, or raise ValueError with what is wrong.

    Unknown members are passed over, absent ones that may be null are null: whoever reads a file
    compares the encoding of what is returned with the bytes.
    """
    members = _object(document, "statement")
    entries = _counts(members.get("entries"), "entries")
    if entries.keys() != {kind.value for kind in KIND_CODES}:
        raise ValueError("entries must count file, directory and symlink")
    if members.get("kind") != PROOF_KIND:
        raise ValueError(f"kind must be {PROOF_KIND}")
    root_digest = _text(members.get("rootDigest"), "rootDigest")
    if not _HEX_32.fullmatch(root_digest):
        raise ValueError("rootDigest must be 64 hexadecimal digits")
    created_at = _text(members.get("createdAt"), "createdAt")
    if not _TIME.fullmatch(created_at):
        raise ValueError("createdAt must be a time as in RFC 3339")
    return Statement(
        product=_text(members.get("product"), "product"),
        algorithm=Algorithm(_text(members.get("algorithm"), "algorithm")),
        root_digest=bytes.fromhex(root_digest),
        counts={FileKind(kind): count for kind, count in entries.items()},
        total_bytes=_count(members.get("totalBytes"), "totalBytes"),
        source=_object(members.get("source"), "source"),
        target=_object(members.get("target"), "target"),
        task_ids=_texts(members.get("taskIds"), "taskIds"),
        created_at=created_at,
        exclusions=_texts(members.get("exclusions"), "exclusions"),
        unproven=_counts(members.get("unproven"), "unproven"),
        verification=_parse_verification(members.get("verification")),
        previous=_parse_previous(members.get("previous")),
        epoch=_count_or_none(members.get("epoch"), "epoch"),
        lsn=_count_or_none(members.get("lsn"), "lsn"),
    )


def _parse_verification(value: object) -> VerificationClaim:
    members = _object(value, "verification")
    cache_dropped = members.get("cacheDropped")
    if cache_dropped is not True and cache_dropped is not False:
        raise ValueError("cacheDropped must be true or false")
    return VerificationClaim(
        mode=VerificationMode(_text(members.get("mode"), "mode")),
        cache_dropped=cache_dropped,
        verdict=_text(members.get("verdict"), "verdict"),
        details=_object(members.get("details"), "details"),
    )


def _parse_previous(value: object) -> str | None:
    if value is not None and not _HEX_32.fullmatch(_text(value, "previous")):
        raise ValueError("previous must be 64 hexadecimal digits or null")
    return None if value is None else str(value)


def _object(value: object, name: str) -> dict[str, object]:
    """Return a copy of a JSON object that a statement may hold."""
    if isinstance(value, dict):
        _check_json(value, name, _DEPTH_MAX)
        return dict(value)
    raise ValueError(f"{name} must be an object")


def _text(value: object, name: str) -> str:
    if isinstance(value, str):
        _check_json(value, name, 1)
        return value
    raise ValueError(f"{name} must be text")


def _texts(value: object, name: str) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(text, name) for text in value)
    raise ValueError(f"{name} must be a list of texts")


def _count(value: object, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be an integer, 0 or more")
    return value


def _count_or_none(value: object, name: str) -> int | None:
    return None if value is None else _count(value, name)


def _counts(value: object, name: str) -> dict[str, int]:
    return {member: _count(count, name) for member, count in _object(value, name).items()}


def _check_json(value: object, name: str, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"{name} is nested too deep")
    match value:
        case None | bool() | int():
            return
        case str():
            value.encode()  # Lone surrogates raise UnicodeEncodeError, a ValueError.
        case list():
            for item in value:
                _check_json(item, name, depth - 1)
        case dict():
            for member, item in value.items():
                _check_json(member, name, 1)
                _check_json(item, name, depth - 1)
        case _:
            raise ValueError(f"{name} holds {type(value).__name__}")

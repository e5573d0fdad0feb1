"""The manifest of a checkpoint: what its signature vouches for, and the bytes of the object.

Three lines: the format, the statement and the signature, the last two in canonical JSON. The
statement binds bank, checkpoint, plan and the digest of the *body*, a chunk that tells plan and
resources; the body binds the segments, and these the chunks. docs/formats/bank.md defines all.

Invariants:
1. A manifest read is of the bank and checkpoint asked for, or it is an error: one put in the place
   of another is found, whoever signed it.
2. No byte of a manifest, body, segment or chunk can change without a digest or signature failing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from blake3 import blake3

from holdfast.checkpoints.model import (
    BankId,
    CheckpointId,
    ChunkId,
    ChunkRef,
    PlanId,
    Resource,
    ResourceRecord,
    ResourceStatus,
    Retention,
)
from holdfast.errors import IntegrityError, UnsupportedError
from holdfast.proof.signature import fingerprint, verify_signature
from holdfast.proof.statement import canonical_json

if TYPE_CHECKING:
    from holdfast.proof.signature import SigningKey

MALFORMED: Final = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading JSON of another's raises where that is not what it should be."""
FIRST_LINE: Final = b"holdfast-checkpoint/1\n"
LEFT_OUT_MAX: Final = 100
"""Entries left out that a manifest names; the count tells of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is signed."""

    bank_id: BankId
    checkpoint_id: CheckpointId
    plan_id: PlanId
    created_ns: int
    task_id: str
    key_id: str
    body: ChunkRef
    previous: str
    """Digest of the manifest of the plan's checkpoint before; empty for none."""
    total_bytes: int
    added_bytes: int
    entries: int
    left_out_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What was protected."""

    plan_name: str
    retention: Retention
    plan_resources: tuple[Resource, ...]
    records: tuple[ResourceRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatement:
    """A statement as it was read, its signature good, whoever's it is."""

    statement: Statement
    digest: str
    """BLAKE3 of the object's bytes, in hex."""
    signer: str
    """Fingerprint of the key."""


def encode_manifest(statement: Statement, key: "SigningKey") -> bytes:
    """Return the bytes of a manifest."""
    line = canonical_json(_statement_document(statement)) + b"\n"
    return FIRST_LINE + line + _signature_line(key.public_key, key.sign(FIRST_LINE + line))


def _signature_line(public_key: bytes, value: bytes) -> bytes:
    signature = {"algorithm": "ed25519", "publicKey": public_key.hex(), "value": value.hex()}
    return canonical_json(signature) + b"\n"


def decode_manifest(data: bytes, bank_id: BankId, checkpoint_id: CheckpointId) -> SignedStatement:
    """Return what a manifest states.

    Raises:
        IntegrityError: `bad-manifest`: not of this format, not what was signed, or of another
            bank or checkpoint.
        UnsupportedError: `format-newer`.
    """
    if not data.startswith(FIRST_LINE):
        if data.startswith(b"holdfast-checkpoint/"):
            raise UnsupportedError(
                f"the manifest of checkpoint {checkpoint_id} is of a newer format",
                code="format-newer",
                advice="use the newer holdfast that wrote it",
            )
        _refuse(checkpoint_id, "it does not begin like one")
    try:
        first, line, last, _ = data.split(b"\n", 3)
        signature = json.loads(last)
        public_key = bytes.fromhex(signature["publicKey"])
        value = bytes.fromhex(signature["value"])
        statement = _parse_statement(json.loads(line))
        spelt = canonical_json(_statement_document(statement)) + b"\n"
        is_one_spelling = data == FIRST_LINE + spelt + _signature_line(public_key, value)
    except MALFORMED as error:
        _refuse(checkpoint_id, f"it cannot be read ({type(error).__name__})")
    if not is_one_spelling:
        _refuse(checkpoint_id, "it is not spelt as this format is")
    if not verify_signature(public_key, first + b"\n" + line + b"\n", value):
        _refuse(checkpoint_id, "its signature is not over these bytes")
    if (statement.bank_id, statement.checkpoint_id) != (bank_id, checkpoint_id):
        _refuse(checkpoint_id, f"it is that of {statement.checkpoint_id}")
    return SignedStatement(
        statement=statement, digest=blake3(data).hexdigest(), signer=fingerprint(public_key)
    )


def encode_body(body: Body) -> bytes:
    """Return the bytes of a body, in canonical JSON."""
    return canonical_json(
        {
            "planName": body.plan_name,
            "retention": asdict(body.retention),
            "planResources": [resource_document(each) for each in body.plan_resources],
            "records": [_record_document(each) for each in body.records],
        }
    )


def decode_body(data: bytes) -> Body:
    """Return a body, or raise IntegrityError (`bad-manifest`)."""
    try:
        document = json.loads(data)
        return Body(
            plan_name=str(document["planName"]),
            retention=Retention(**document["retention"]),
            plan_resources=tuple(parse_resource(each) for each in document["planResources"]),
            records=tuple(_parse_record(each) for each in document["records"]),
        )
    except MALFORMED as error:
        raise IntegrityError(
            f"the body of a manifest cannot be read ({type(error).__name__})",
            code="bad-manifest",
            advice="restore another checkpoint, and tell whoever keeps this bank",
        ) from error


def resource_document(resource: Resource) -> dict[str, object]:
    """Return a resource as JSON."""
    return {
        "type": resource.type,
        "id": resource.id,
        "name": resource.name,
        "dependsOn": list(resource.depends_on),
        "parameters": dict(resource.parameters),
    }


def parse_resource(document: Mapping[str, Any]) -> Resource:
    """Return a resource from JSON; KeyError, TypeError or ValueError if it is none."""
    return Resource(
        type=str(document["type"]),
        id=str(document["id"]),
        name=str(document.get("name", "")),
        depends_on=tuple(str(key) for key in document.get("dependsOn", ())),
        parameters=dict(document.get("parameters", {})),
    )


def _record_document(record: ResourceRecord) -> dict[str, object]:
    return {
        "resource": resource_document(record.resource),
        "status": record.status.value,
        "reason": record.reason,
        "segments": [[chunk.hex(), size_bytes] for chunk, size_bytes in record.segments],
        "entries": record.entries,
        "totalBytes": record.total_bytes,
        "leftOut": [list(each) for each in record.left_out],
        "leftOutCount": record.left_out_count,
        "info": dict(record.info),
    }


def _parse_record(document: Mapping[str, Any]) -> ResourceRecord:
    return ResourceRecord(
        resource=parse_resource(document["resource"]),
        status=ResourceStatus(document["status"]),
        reason=str(document["reason"]),
        segments=tuple(_parse_ref(each) for each in document["segments"]),
        entries=int(document["entries"]),
        total_bytes=int(document["totalBytes"]),
        left_out=tuple((str(path), str(why)) for path, why in document["leftOut"]),
        left_out_count=int(document["leftOutCount"]),
        info=dict(document["info"]),
    )


def _parse_ref(pair: list[Any]) -> ChunkRef:
    chunk = bytes.fromhex(pair[0])
    if len(chunk) != 32:
        raise ValueError("not a chunk id")
    return ChunkRef(ChunkId(chunk), int(pair[1]))


def _statement_document(statement: Statement) -> dict[str, object]:
    return {
        "bank": statement.bank_id,
        "checkpoint": statement.checkpoint_id,
        "plan": statement.plan_id,
        "createdNs": statement.created_ns,
        "task": statement.task_id,
        "key": statement.key_id,
        "body": [statement.body.id.hex(), statement.body.size_bytes],
        "previous": statement.previous,
        "totalBytes": statement.total_bytes,
        "addedBytes": statement.added_bytes,
        "entries": statement.entries,
        "leftOutCount": statement.left_out_count,
    }


def _parse_statement(document: Mapping[str, Any]) -> Statement:
    return Statement(
        bank_id=BankId(document["bank"]),
        checkpoint_id=CheckpointId(document["checkpoint"]),
        plan_id=PlanId(document["plan"]),
        created_ns=int(document["createdNs"]),
        task_id=str(document["task"]),
        key_id=str(document["key"]),
        body=_parse_ref(document["body"]),
        previous=str(document["previous"]),
        total_bytes=int(document["totalBytes"]),
        added_bytes=int(document["addedBytes"]),
        entries=int(document["entries"]),
        left_out_count=int(document["leftOutCount"]),
    )


def _refuse(checkpoint_id: str, why: str) -> NoReturn:
    raise IntegrityError(
        f"the manifest of checkpoint {checkpoint_id} is damaged or was replaced: {why}",
        code="bad-manifest",
        advice="restore another checkpoint, and tell whoever keeps this bank",
        checkpoint=checkpoint_id,
    )

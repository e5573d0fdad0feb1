"""The result of a verification as it is kept in a bank, beside what it is about."""

import json

from holdfast.checkpoints.manifest import MALFORMED
from holdfast.checkpoints.model import Depth, Verdict, Verified
from holdfast.proof.statement import canonical_json


def encode_verdict(checkpoint_id: str, verified: Verified) -> bytes:
    """Return the result of a verification as it is kept in the bank."""
    document = {
        "checkpoint": checkpoint_id,
        "atNs": verified.at_ns,
        "depth": verified.depth.value,
        "verdict": verified.verdict.value,
        "coverageMilli": round(verified.coverage_percent * 1000),
        "task": verified.task_id,
        "bad": list(verified.bad),
    }
    return canonical_json(document) + b"\n"


def decode_verdict(data: bytes) -> Verified | None:
    """Return a verdict kept in a bank; None if it cannot be read."""
    try:
        document = json.loads(data)
        return Verified(
            at_ns=int(document["atNs"]),
            depth=Depth(document["depth"]),
            verdict=Verdict(document["verdict"]),
            coverage_percent=document["coverageMilli"] / 1000,
            task_id=str(document["task"]),
            bad=tuple(str(key) for key in document["bad"]),
        )
    except MALFORMED:
        return None

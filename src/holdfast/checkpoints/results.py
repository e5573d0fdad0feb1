"""Checkpoints, plans and schedules as JSON objects: what `--json` prints and HTTP answers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from holdfast.checkpoints.manifest import resource_document
from holdfast.checkpoints.model import Checkpoint, Plan
from holdfast.model.limits import TASK_RESULT_BYTES_MAX

if TYPE_CHECKING:
    from holdfast.checkpoints.rules import Fate
    from holdfast.checkpoints.scheduling import Schedule


_LONG: Final = frozenset(
    {"resources", "reasons", "paths", "reports", "newIds"}
    | {"damagedManifests", "unknownSigners", "notHealed"}
)
"""Members of results that hold a value for each of many things, as lists do."""


def fitted(
    result: Mapping[str, object], limit_bytes: int = TASK_RESULT_BYTES_MAX
) -> Mapping[str, object]:
    """Return a result as it fits into a task: what is long of it cut, and told so by `isCut`.

    What was done is done: that there is too much to tell of it must not make it fail. All that is
    long is cut to one length, so what matters most stands first.
    """
    told, most = result, _longest(result)
    while most > 1 and len(json.dumps(told)) > limit_bytes:
        most = -(-most // 2)
        told = {**_cut(result, most), "isCut": True}
    return told


def _longest(value: Any, name: str = "") -> int:
    if isinstance(value, Mapping):
        inner = max((_longest(each, key) for key, each in value.items()), default=0)
        return max(inner, len(value) if name in _LONG else 0)
    if isinstance(value, list | tuple):
        return max(len(value), max(map(_longest, value), default=0))
    return 0


def _cut(value: Any, most: int, name: str = "") -> Any:
    if isinstance(value, Mapping):
        count = most if name in _LONG else len(value)
        return {key: _cut(each, most, key) for key, each in islice(value.items(), count)}
    if isinstance(value, list | tuple):
        return [_cut(each, most) for each in value[:most]]
    return value


def time_text(at_ns: int) -> str | None:
    """Spell a moment in UTC, to the second; None for never."""
    if not at_ns:
        return None
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def checkpoint_result(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint."""
    verified = checkpoint.verified
    return {
        "id": checkpoint.id,
        "plan": checkpoint.plan_name,
        "planId": checkpoint.plan_id,
        "bankId": checkpoint.bank_id,
        "createdAt": time_text(checkpoint.created_ns),
        "createdNs": checkpoint.created_ns,
        "state": checkpoint.state.value,
        "error": checkpoint.error,
        "taskId": checkpoint.task_id,
        "manifestDigest": checkpoint.manifest_digest,
        "signer": checkpoint.signer,
        "totalBytes": checkpoint.total_bytes,
        "addedBytes": checkpoint.added_bytes,
        "entries": checkpoint.entries,
        "leftOutCount": checkpoint.left_out_count,
        "protected": checkpoint.is_protected,
        "lockedUntil": time_text(checkpoint.locked_until_ns),
        "verified": None
        if verified is None
        else {
            "at": time_text(verified.at_ns),
            "depth": verified.depth.value,
            "verdict": verified.verdict.value,
            "coveragePercent": verified.coverage_percent,
            "taskId": verified.task_id,
            "bad": list(verified.bad),
        },
    }


def plan_result(plan: Plan) -> dict[str, Any]:
    """Return a plan."""
    return {
        "id": plan.id,
        "name": plan.name,
        "bank": plan.bank_url,
        "bankId": plan.bank_id,
        "keyId": plan.key_id,
        "resources": [resource_document(each) for each in plan.resources],
        "retention": asdict(plan.retention),
        "createdAt": time_text(plan.created_ns),
    }


def fate_result(fate: "Fate") -> dict[str, Any]:
    """Return what retention decides of a checkpoint, and why."""
    return {
        "checkpoint": fate.checkpoint.id,
        "createdAt": time_text(fate.checkpoint.created_ns),
        "keep": fate.keep,
        "reasons": list(fate.reasons),
    }


def schedule_result(schedule: "Schedule", plans: Mapping[str, str]) -> dict[str, Any]:
    """Return a schedule, with the name of its plan."""
    return {
        "id": schedule.id,
        "plan": plans.get(schedule.plan_id, schedule.plan_id),
        "operation": schedule.operation.value,
        "cron": schedule.cron,
        "parameters": dict(schedule.parameters),
        "lastRunAt": time_text(schedule.last_ns),
        "nextRunAt": time_text(schedule.next_ns),
        "lastResult": schedule.last_result,
    }

"""Checkpoints, plans and schedules as JSON objects: what `--json` prints and HTTP answers."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.checkpoints.manifest import resource_document
from holdfast.checkpoints.model import Checkpoint, Plan

if TYPE_CHECKING:
    from holdfast.checkpoints.rules import Fate
    from holdfast.checkpoints.scheduling import Schedule


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

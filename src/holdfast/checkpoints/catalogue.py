"""What is remembered of banks, plans and checkpoints, in one SQLite file beside the task journal.

Not the truth of what a bank holds: that is its manifests, and `doctor` writes this anew from them.
What is not in a bank (plans not yet protected, schedules, when each chunk was last read) is lost
with it and nothing else.

Invariants:
1. A checkpoint is AVAILABLE here only after its manifest is durable in the bank.
2. What is written in one call is written whole or not at all, and survives loss of power.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.checkpoints.chunk_table import ChunkTable
from holdfast.checkpoints.database import Database
from holdfast.checkpoints.manifest import (
    Body,
    SignedStatement,
    parse_resource,
    resource_document,
)
from holdfast.checkpoints.model import (
    BankId,
    Checkpoint,
    CheckpointId,
    CheckpointState,
    Depth,
    Plan,
    PlanId,
    ResourceStatus,
    Retention,
    Verdict,
    Verified,
)
from holdfast.errors import (
    ConflictError,
    NotFoundError,
    StateError,
)


class ScheduleTable:
    """Schedules as rows; part of a Catalogue. What they mean: scheduling.py."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, row: Mapping[str, object]) -> None:
        """Add or replace a schedule."""
        with self._database.transaction():
            self._database.sql.execute(
                """INSERT OR REPLACE INTO schedules VALUES (:id, :plan, :operation, :cron,
                :parameters, :last_ns, :next_ns, :last_result)""",
                dict(row),
            )

    def move_on(self, row: Mapping[str, object]) -> None:
        """Keep how a schedule stands after a run; nothing, if it was removed meanwhile."""
        with self._database.transaction():
            self._database.sql.execute(
                """UPDATE schedules SET last_ns = :last_ns, next_ns = :next_ns,
                last_result = :last_result WHERE id = :id""",
                dict(row),
            )

    def delete(self, schedule_id: str) -> bool:
        """Remove a schedule; return whether there was one."""
        with self._database.transaction():
            done = self._database.sql.execute("DELETE FROM schedules WHERE id = ?", (schedule_id,))
            return done.rowcount > 0

    def rows(self) -> list[dict[str, Any]]:
        """Return every schedule, the next due first."""
        return [
            dict(row) for row in self._database.rows("SELECT * FROM schedules ORDER BY next_ns, id")
        ]


class Catalogue:
    """The file; used by one process's one thread, never by a fork of it."""

    def __init__(self, path: Path) -> None:
        """Open or make it; UnsupportedError (`format-newer`)."""
        database = Database(path)
        self._database = database
        self._sql = database.sql
        self.chunks = ChunkTable(database)
        self.schedules = ScheduleTable(database)

    def close(self) -> None:
        """Release it."""
        self._database.close()

    def add_bank(self, bank_id: BankId, url: str, key_id: str, promises: str) -> None:
        """Remember where a bank is and what its store was seen to keep."""
        with self._database.transaction():
            self._sql.execute(
                "INSERT OR REPLACE INTO banks VALUES (?, ?, ?, ?)", (bank_id, url, key_id, promises)
            )

    def banks(self) -> list[tuple[BankId, str, str, str]]:
        """Return (id, URL, key id, promises) of each."""
        return [tuple(row) for row in self._database.rows("SELECT * FROM banks ORDER BY url")]

    def put_plan(self, plan: Plan) -> None:
        """Add or replace a plan; ConflictError (`plan-exists`) if another has its name."""
        resources = json.dumps([resource_document(each) for each in plan.resources])
        values = (
            plan.id,
            plan.name,
            plan.bank_id,
            resources,
            json.dumps(asdict(plan.retention)),
            plan.created_ns,
        )
        with self._database.transaction():
            same = self._sql.execute("SELECT id FROM plans WHERE name = ?", (plan.name,)).fetchone()
            if same is not None and same["id"] != plan.id:
                raise ConflictError(
                    f"there is a plan {plan.name!r} already",
                    code="plan-exists",
                    advice="choose another name, or delete that one",
                )
            self._sql.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?, ?, ?)", values)

    def plans(self) -> list[Plan]:
        """Return every plan, by name."""
        rows = self._database.rows(
            """SELECT plans.*, banks.url, banks.key FROM plans
            JOIN banks ON banks.id = plans.bank ORDER BY name"""
        )
        return [_plan_of(row) for row in rows]

    def plan(self, name_or_id: str) -> Plan:
        """Return a plan; NotFoundError (`no-plan`)."""
        for plan in self.plans():
            if name_or_id in (plan.name, plan.id):
                return plan
        raise NotFoundError(
            f"there is no plan {name_or_id!r}",
            code="no-plan",
            advice="see 'holdfast checkpoints plan', or make one with --resource",
        )

    def remove_plan(self, plan: Plan) -> None:
        """Forget a plan and its schedules.

        Raises:
            StateError: `plan-in-use`: it has checkpoints, of which some may be in the making.
        """
        with self._database.transaction():
            (count,) = self._sql.execute(
                "SELECT count(*) FROM checkpoints WHERE plan = ? AND state <> 'deleted'", (plan.id,)
            ).fetchone()
            if count:
                # They would bring it back: a manifest holds the plan too.
                raise StateError(
                    f"plan {plan.name} has {count} checkpoints",
                    code="plan-in-use",
                    advice="delete them first; see 'holdfast checkpoints list'",
                )
            self._sql.execute("DELETE FROM schedules WHERE plan = ?", (plan.id,))
            self._sql.execute("DELETE FROM plans WHERE id = ?", (plan.id,))

    def begin(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint that is being made; the same again changes nothing."""
        values = (
            checkpoint.id,
            checkpoint.plan_id,
            checkpoint.plan_name,
            checkpoint.bank_id,
            checkpoint.created_ns,
            checkpoint.state.value,
            checkpoint.task_id,
        )
        with self._database.transaction():
            self._sql.execute(
                """INSERT INTO checkpoints (id, plan, plan_name, bank, created_ns, state, task)
                VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state,
                error = '' WHERE checkpoints.state <> 'available'""",
                values,
            )

    def record(
        self,
        signed: SignedStatement,
        body: Body,
        uses: Mapping[bytes, Iterable[bytes]],
        sizes: Mapping[bytes, int],
    ) -> None:
        """Write what a manifest says, whatever was here of that checkpoint before.

        Args:
            signed: The manifest.
            body: Its body.
            uses: The chunks of each segment.
            sizes: The length of each chunk, segments and body included, where known.
        """
        said = signed.statement
        failed = [r.resource.key for r in body.records if r.status is ResourceStatus.ERROR]
        state = CheckpointState.ERROR if failed else CheckpointState.AVAILABLE
        why = f"not all of it was protected: {', '.join(failed)}"[:1000] if failed else ""
        with self._database.transaction():
            self._sql.execute(
                """INSERT INTO checkpoints (id, plan, plan_name, bank, created_ns, state, task)
                VALUES (?, ?, ?, ?, ?, 'available', ?) ON CONFLICT (id) DO NOTHING""",
                (
                    said.checkpoint_id,
                    said.plan_id,
                    body.plan_name,
                    said.bank_id,
                    said.created_ns,
                    said.task_id,
                ),
            )
            self._sql.execute(
                """UPDATE checkpoints SET state = ?, manifest = ?, signer = ?, error = ?,
                total_bytes = ?, added_bytes = ?, entries = ?, left_out = ?, body = ?
                WHERE id = ?""",
                (
                    state.value,
                    signed.digest,
                    signed.signer,
                    why,
                    said.total_bytes,
                    said.added_bytes,
                    said.entries,
                    said.left_out_count,
                    said.body.id.hex(),
                    said.checkpoint_id,
                ),
            )
            self.chunks.forget_uses(said.checkpoint_id)
            for record in body.records:
                self._sql.execute(
                    "INSERT OR IGNORE INTO resources VALUES (?, ?)",
                    (said.checkpoint_id, record.resource.key),
                )
            self.chunks.add_uses(said, body, uses, sizes)

    def set_state(
        self,
        checkpoint_id: CheckpointId,
        state: CheckpointState,
        why: str = "",
        *,
        only_from: CheckpointState | None = None,
    ) -> None:
        """Change where a checkpoint stands; nothing, if it stands elsewhere than `only_from`."""
        with self._database.transaction():
            self._sql.execute(
                """UPDATE checkpoints SET state = :state, error = :why
                WHERE id = :id AND (:was IS NULL OR state = :was)""",
                {"state": state.value, "why": why, "id": checkpoint_id, "was": only_from},
            )
            if state is CheckpointState.DELETED:
                self.chunks.forget_uses(checkpoint_id)

    def set_protection(
        self, checkpoint_id: CheckpointId, *, is_protected: bool | None, locked_until_ns: int
    ) -> None:
        """Say whether it may be deleted (None: as before), and when; a lock is never shortened."""
        with self._database.transaction():
            self._sql.execute(
                """UPDATE checkpoints SET protected = coalesce(?, protected),
                locked_until_ns = max(locked_until_ns, ?) WHERE id = ?""",
                (is_protected, locked_until_ns, checkpoint_id),
            )

    def set_verified(self, checkpoint_id: CheckpointId, verified: Verified) -> None:
        """Keep the result of a verification."""
        with self._database.transaction():
            self._sql.execute(
                """UPDATE checkpoints SET verified_ns = ?, depth = ?, verdict = ?, coverage = ?,
                verified_by = ?, bad = ? WHERE id = ?""",
                (
                    verified.at_ns,
                    verified.depth.value,
                    verified.verdict.value,
                    verified.coverage_percent,
                    verified.task_id,
                    json.dumps(verified.bad),
                    checkpoint_id,
                ),
            )

    def checkpoint(self, checkpoint_id: CheckpointId) -> Checkpoint:
        """Return a checkpoint; NotFoundError (`no-checkpoint`)."""
        rows = self._database.rows("SELECT * FROM checkpoints WHERE id = ?", (checkpoint_id,))
        if rows:
            return _checkpoint_of(rows[0])
        raise NotFoundError(
            f"there is no checkpoint {checkpoint_id}",
            code="no-checkpoint",
            advice="see 'holdfast checkpoints list'; 'doctor' finds what only the bank knows",
        )

    def list_checkpoints(
        self,
        *,
        plan_id: str | None = None,
        bank_id: str | None = None,
        state: CheckpointState | None = None,
        verdict: Verdict | None = None,
        verified_before_ns: int | None = None,
        limit: int = 1 << 30,
        before: tuple[int, str] | None = None,
    ) -> list[Checkpoint]:
        """Return checkpoints that match all that is given, newest first; deleted ones if asked.

        Args:
            verified_before_ns: Only those not verified since.
            limit: At most so many.
            before: (created_ns, id) of the last of the page before.
        """
        before_ns, before_id = before or (1 << 62, "")
        rows = self._database.rows(
            """SELECT * FROM checkpoints WHERE (created_ns, id) < (:before_ns, :before_id)
            AND (:plan IS NULL OR plan = :plan) AND (:bank IS NULL OR bank = :bank)
            AND (CASE WHEN :state IS NULL THEN state <> 'deleted' ELSE state = :state END)
            AND (:verdict IS NULL OR verdict = :verdict)
            AND (:stale IS NULL OR verified_ns IS NULL OR verified_ns < :stale)
            ORDER BY created_ns DESC, id DESC LIMIT :limit""",
            {
                "before_ns": before_ns,
                "before_id": before_id,
                "plan": plan_id,
                "bank": bank_id,
                "state": state,
                "verdict": verdict,
                "stale": verified_before_ns,
                "limit": limit,
            },
        )
        return [_checkpoint_of(row) for row in rows]

    def resource_keys(self, checkpoint_id: CheckpointId) -> list[str]:
        """Return the keys of a checkpoint's resources as the catalogue has them."""
        rows = self._database.rows(
            "SELECT resource FROM resources WHERE checkpoint = ? ORDER BY 1", (checkpoint_id,)
        )
        return [row["resource"] for row in rows]


def _plan_of(row: sqlite3.Row) -> Plan:
    return Plan(
        id=PlanId(row["id"]),
        name=row["name"],
        bank_url=row["url"],
        bank_id=BankId(row["bank"]),
        key_id=row["key"],
        resources=tuple(parse_resource(each) for each in json.loads(row["resources"])),
        retention=Retention(**json.loads(row["retention"])),
        created_ns=row["created_ns"],
    )


def _checkpoint_of(row: sqlite3.Row) -> Checkpoint:
    verified = None
    if row["verified_ns"] is not None:
        verified = Verified(
            at_ns=row["verified_ns"],
            depth=Depth(row["depth"]),
            verdict=Verdict(row["verdict"]),
            coverage_percent=row["coverage"],
            task_id=row["verified_by"],
            bad=tuple(json.loads(row["bad"])),
        )
    return Checkpoint(
        id=CheckpointId(row["id"]),
        plan_id=PlanId(row["plan"]),
        plan_name=row["plan_name"],
        bank_id=BankId(row["bank"]),
        created_ns=row["created_ns"],
        state=CheckpointState(row["state"]),
        task_id=row["task"],
        manifest_digest=row["manifest"],
        signer=row["signer"],
        total_bytes=row["total_bytes"],
        added_bytes=row["added_bytes"],
        entries=row["entries"],
        left_out_count=row["left_out"],
        is_protected=bool(row["protected"]),
        locked_until_ns=row["locked_until_ns"],
        error=row["error"],
        verified=verified,
    )

"""Use cases of the checkpoints facet: plan, protect, verify, restore, delete, retain, keep well.

Each piece of long work runs as a durable task. What no two tasks may do at once: protect one plan;
verify or delete one checkpoint; sweep one bank. What only some of them need is imported there: a
protect in which nothing changed takes about as long as its imports.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from holdfast.checkpoints.bank import (
    BankIdentity,
    make_bank,
    measured,
    read_identity,
    refuse_unfit,
)
from holdfast.checkpoints.holds import read_hold, write_hold
from holdfast.checkpoints.manifest import Body
from holdfast.checkpoints.model import (
    BankId,
    Budget,
    Checkpoint,
    CheckpointId,
    CheckpointState,
    Depth,
    Plan,
    PlanId,
    Resource,
    Retention,
    Verdict,
    parse_checkpoint_id,
    uuid_text,
)
from holdfast.checkpoints.places import check_place
from holdfast.checkpoints.protecting import ProtectRun
from holdfast.checkpoints.results import fate_result, fitted
from holdfast.checkpoints.rules import (
    Fate,
    check_deletable,
    check_restorable,
    check_targets,
    plan_retention,
    plan_walk,
)
from holdfast.checkpoints.running import (
    Manner,
    OpenBank,
    Parameters,
    Surroundings,
    opened,
    plain_parameters,
)
from holdfast.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from holdfast.ports import StorePromises
from holdfast.proof.signature import fingerprint
from holdfast.tasks.model import Task, TaskState
from holdfast.tasks.runner import TaskContext

GRACE_S = 24 * 3600.0

MeasurePromises = Callable[[Any], StorePromises]


class Checkpoints:
    """The checkpoints facet on one machine."""

    def __init__(self, around: Surroundings, measure_promises: MeasurePromises) -> None:
        self.around = around
        self.catalogue = around.catalogue
        self._measure_promises = measure_promises

    def make_plan(
        self,
        name: str,
        bank_url: str,
        resources: Sequence[Resource],
        *,
        retention: Retention,
        key_id: str = "",
    ) -> Plan:
        """Make a plan, and the bank where there is none; or change the plan of that name.

        With a key id, a bank that is made is encrypted with that key.

        Raises:
            ConflictError: `other-key`: the bank that is there has another key, or none.
        """
        if not name or len(name) > 200 or not name.isprintable():
            raise InvalidRequestError(
                "a plan needs a name of up to 200 printable characters", code="bad-plan"
            )
        if not resources:
            raise InvalidRequestError(
                "a plan protects at least one resource", code="bad-plan", advice="name some"
            )
        check_place(bank_url)
        checked = tuple(self.around.plugins.of(each).check(each) for each in resources)
        plan_walk(checked)
        bank_id, bank_key = self._make_bank(bank_url, key_id)
        same = next((plan for plan in self.catalogue.plans() if plan.name == name), None)
        plan = Plan(
            id=same.id if same else PlanId(uuid_text(self.around.entropy.random_bytes(16).hex())),
            name=name,
            bank_url=bank_url,
            bank_id=bank_id,
            key_id=bank_key,
            resources=checked,
            retention=retention,
            created_ns=same.created_ns if same else self.around.clock.now_ns(),
        )
        self.catalogue.put_plan(plan)
        return plan

    def protect(self, plan_name: str, manner: Manner, parameters: Parameters | None = None) -> Task:
        """Protect a plan's resources into a new checkpoint; verify again what that healed."""
        plan = self.catalogue.plan(plan_name)
        given = parameters or {}

        def work(context: TaskContext) -> Mapping[str, object]:
            with opened(self.around, plan.bank_url, plan.bank_id) as open_bank:
                run = ProtectRun(
                    self.around,
                    open_bank,
                    plan,
                    parameters=given,
                    manner=manner,
                    context=context,
                )
                return run.run()

        request = {"plan": plan.id, "parameters": plain_parameters(given)}
        task = self._run("checkpoints.protect", f"plan {plan.id}", request, work, manner)
        self._verify_again(plan.bank_id, (task.result or {}).get("healed"), manner)
        return task

    def verify(
        self,
        checkpoints: Sequence[Checkpoint],
        manner: Manner,
        *,
        depth: Depth = Depth.DIGEST,
        resource: str | None = None,
        budget: Budget | None = None,
    ) -> Task:
        """Verify checkpoints of one bank, or one resource of them, within a budget.

        Raises:
            NotFoundError: `nothing-to-verify`.
            InvalidRequestError: `several-banks`.
            ConflictError: `busy`: one of them is being verified or deleted.
        """
        if not checkpoints:
            raise NotFoundError(
                "there is no checkpoint to verify",
                code="nothing-to-verify",
                advice="see 'holdfast checkpoints list'",
            )
        bank_ids = {each.bank_id for each in checkpoints}
        if len(bank_ids) > 1:
            raise InvalidRequestError(
                "these checkpoints lie in several banks",
                code="several-banks",
                advice="verify one bank after the other",
            )
        bank_id = bank_ids.pop()
        limits = budget or Budget()

        def work(context: TaskContext) -> Mapping[str, object]:
            from holdfast.checkpoints.verifying import VerifyRun

            with opened(self.around, self._url_of(bank_id), bank_id) as open_bank:
                run = VerifyRun(
                    self.around,
                    open_bank,
                    depth=depth,
                    resource=resource,
                    budget=limits,
                    manner=manner,
                    context=context,
                )
                return run.run([self.catalogue.checkpoint(each.id) for each in checkpoints])

        ids = [str(each.id) for each in checkpoints]
        one = len(ids) == 1
        request = {
            "checkpoints": ids[:100],
            "depth": depth.value,
            "resource": resource,
            "budget": {k: v for k, v in asdict(limits).items() if v is not None},
        }
        subject = f"checkpoint {ids[0]}" if one else f"bank {bank_id} verification"
        return self._run("checkpoints.verify", subject, request, work, manner)

    def restore(
        self,
        checkpoint_id: str,
        manner: Manner,
        *,
        parameters: Parameters | None = None,
        resource: str | None = None,
        force: bool = False,
    ) -> Task:
        """Restore a checkpoint, or one resource of it.

        Raises:
            StateError: `verification-failed` without force; `not-available`.
            InvalidRequestError: `ambiguous-target`.
        """
        checkpoint = self.get(checkpoint_id)
        if not (force and checkpoint.manifest_digest):
            check_restorable(checkpoint, force=force)
        given = parameters or {}
        keys = [
            key for key in self.catalogue.resource_keys(checkpoint.id) if resource in (None, key)
        ]
        check_targets(keys, given)

        def work(context: TaskContext) -> Mapping[str, object]:
            from holdfast.checkpoints.restoring import RestoreRun

            url = self._url_of(checkpoint.bank_id)
            with opened(self.around, url, checkpoint.bank_id) as open_bank:
                run = RestoreRun(
                    self.around,
                    open_bank,
                    checkpoint,
                    parameters=given,
                    resource=resource,
                    context=context,
                )
                return run.run()

        request = {
            "checkpoint": checkpoint.id,
            "resource": resource,
            "parameters": plain_parameters(given),
            "force": force,
        }
        subject = f"restore of {checkpoint.id} {request['parameters']}"
        return self._run("checkpoints.restore", subject, request, work, manner)

    def delete(self, checkpoint_id: str, manner: Manner) -> Task:
        """Delete a checkpoint; StateError where it is protected, locked or being made."""
        checkpoint = self.get(checkpoint_id)
        check_deletable(checkpoint, self.around.clock.now_ns())

        def work(context: TaskContext) -> Mapping[str, object]:
            from holdfast.checkpoints.upkeep import delete_checkpoint

            context.enter("deleting")
            url = self._url_of(checkpoint.bank_id)
            with opened(self.around, url, checkpoint.bank_id) as open_bank:
                return delete_checkpoint(self.around, open_bank.bank, checkpoint)

        subject = f"checkpoint {checkpoint.id}"
        request = {"checkpoint": checkpoint.id}
        return self._run("checkpoints.delete", subject, request, work, manner)

    def retain(self, plan_name: str, manner: Manner, *, dry_run: bool) -> list[Fate]:
        """Decide what of a plan is kept, and delete the rest unless it is a dry run."""
        plan = self.catalogue.plan(plan_name)
        fates = plan_retention(
            self.list(plan_name=plan.id), plan.retention, self.around.clock.now_ns()
        )
        for fate in fates:
            if not fate.keep and not dry_run:
                self.delete(fate.checkpoint.id, manner)
        return fates

    def retain_durably(self, plan_name: str, manner: Manner) -> Task:
        """As `retain` without a dry run, as one task of which each deletion is another."""
        plan = self.catalogue.plan(plan_name)

        def work(context: TaskContext) -> Mapping[str, object]:
            context.enter("deleting")
            quiet = Manner(jobs=manner.jobs)
            fates = self.retain(plan.id, quiet, dry_run=False)
            deleted = sum(not fate.keep for fate in fates)
            named = [fate_result(fate) for fate in fates]
            return {"keptCount": len(fates) - deleted, "deletedCount": deleted, "fates": named}

        subject = f"plan {plan.id} retention"
        return self._run("checkpoints.retain", subject, {"plan": plan.id}, work, manner)

    def sweep(self, bank_url: str, manner: Manner, *, grace_s: float = GRACE_S) -> Task:
        """Delete chunks of a bank that no checkpoint needs."""

        def work(open_bank: OpenBank, context: TaskContext) -> Mapping[str, object]:
            from holdfast.checkpoints.upkeep import sweep_bank

            return sweep_bank(self.around, open_bank, grace_s, context)

        return self._run_on_bank("checkpoints.sweep", bank_url, {"graceS": grace_s}, work, manner)

    def examine(self, bank_url: str, manner: Manner, signers: Sequence[str] = ()) -> Task:
        """Compare catalogue and bank, make the catalogue right, measure the store's promises."""
        own = fingerprint(self.around.load_key().public_key)
        trusted = frozenset({own, *signers})
        request = {"signers": sorted(signers)}

        def work(open_bank: OpenBank, context: TaskContext) -> Mapping[str, object]:
            from holdfast.checkpoints.upkeep import examine_bank, recover_plans

            promises = measured(self._measure_promises, open_bank.bank.store)
            identity = open_bank.bank.identity
            self._remember_bank(bank_url, identity, promises)
            result = examine_bank(self.around, open_bank, trusted, context)
            recover_plans(self.around, open_bank, self._url_of(identity.id))
            return result | {"promises": promises._asdict() if promises else {}}

        return self._run_on_bank("checkpoints.examine", bank_url, request, work, manner)

    def heal(self, bank_url: str, other_url: str, manner: Manner) -> Task:
        """Store anew from another bank what is known to be bad, then verify what that touched."""

        def work(open_bank: OpenBank, context: TaskContext) -> Mapping[str, object]:
            from holdfast.checkpoints.upkeep import heal_bank

            with opened(self.around, other_url) as other:
                return heal_bank(self.around, open_bank, other, context)

        request = {"from": check_place(other_url)}
        task = self._run_on_bank("checkpoints.heal", bank_url, request, work, manner)
        manner = replace(manner, idempotency_key=None)
        for checkpoint_id in (task.result or {}).get("affected", []):  # type: ignore[attr-defined]
            self.verify([self.catalogue.checkpoint(checkpoint_id)], manner)
        return task

    def get(self, checkpoint_id: str) -> Checkpoint:
        """Return a checkpoint by its id, or by the beginning of one that only it has."""
        self._settle()
        known = self.catalogue.list_checkpoints() if len(checkpoint_id) >= 4 else []
        found = [each for each in known if each.id.startswith(checkpoint_id.lower())]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise ConflictError(
                f"{checkpoint_id} begins several checkpoint ids",
                code="ambiguous-id",
                advice="write more of it",
            )
        return self.catalogue.checkpoint(parse_checkpoint_id(checkpoint_id))

    def list(
        self,
        *,
        plan_name: str | None = None,
        state: CheckpointState | None = None,
        verdict: Verdict | None = None,
        verified_before_ns: int | None = None,
        limit: int = 1 << 30,
        before: tuple[int, str] | None = None,
    ) -> list[Checkpoint]:
        """Return checkpoints that match all that is given, newest first."""
        self._settle()
        return self.catalogue.list_checkpoints(
            plan_id=self.catalogue.plan(plan_name).id if plan_name else None,
            state=state,
            verdict=verdict,
            verified_before_ns=verified_before_ns,
            limit=limit,
            before=before,
        )

    def show(self, checkpoint_id: str) -> tuple[Checkpoint, Body | None]:
        """Return a checkpoint and what its manifest says; None where the bank has none."""
        checkpoint = self.get(checkpoint_id)
        if not checkpoint.manifest_digest:
            return checkpoint, None
        with opened(self.around, self._url_of(checkpoint.bank_id), checkpoint.bank_id) as bank:
            return checkpoint, bank.read_manifest(checkpoint.id)[1]

    def set_protection(
        self, checkpoint_id: str, *, is_protected: bool | None, locked_until_ns: int = 0
    ) -> Checkpoint:
        """Say whether a checkpoint may be deleted; a lock is never shortened, and lifts no hold."""
        checkpoint = self.get(checkpoint_id)
        url = self._url_of(checkpoint.bank_id)
        with opened(self.around, url, checkpoint.bank_id) as open_bank:
            # In the bank first: other machines delete there too.
            store = open_bank.bank.store
            was_held, was_locked_ns = read_hold(store, checkpoint.id)
            locked_ns = max(locked_until_ns, was_locked_ns, checkpoint.locked_until_ns)
            held = was_held or checkpoint.is_protected if is_protected is None else is_protected
            write_hold(store, checkpoint.id, is_protected=held, locked_until_ns=locked_ns)
        self.catalogue.set_protection(checkpoint.id, is_protected=held, locked_until_ns=locked_ns)
        return self.catalogue.checkpoint(checkpoint.id)

    def _make_bank(self, url: str, key_id: str) -> tuple[BankId, str]:
        around = self.around
        store = around.open_store(url)
        try:
            identity = read_identity(store)
            if identity is None:
                around.load_bank_key(key_id)  # Before a bank is made that nobody can open.
                promises = refuse_unfit(self._measure_promises(store), store.describe())
                wanted = BankIdentity(
                    id=BankId(around.entropy.random_bytes(16).hex()),
                    key_id=key_id,
                    created_ns=around.clock.now_ns(),
                )
                identity = make_bank(store, wanted)
                if not promises.creates_once:
                    # Another may have made one in the same moment; the one that stays is right.
                    around.clock.sleep(2.0)
                    identity = read_identity(store) or identity
                self._remember_bank(url, identity, promises)
            elif all(bank[:2] != (identity.id, url) for bank in self.catalogue.banks()):
                self._remember_bank(url, identity, self._measure_promises(store))
        finally:
            store.close()
        if key_id and key_id != identity.key_id:
            raise ConflictError(
                f"the bank in {url} "
                + ("has another key" if identity.key_id else "is not encrypted"),
                code="other-key",
                advice="leave the key out to use the bank as it is, or name an empty place",
            )
        around.load_bank_key(identity.key_id)
        return identity.id, identity.key_id

    def _remember_bank(self, url: str, bank: BankIdentity, promises: StorePromises | None) -> None:
        kept = promises._asdict().items() if promises else ()
        told = ",".join(name for name, holds in kept if holds)
        self.catalogue.add_bank(bank.id, url, bank.key_id, told)

    def _url_of(self, bank_id: BankId) -> str:
        for known, url, _, _ in self.catalogue.banks():
            if known == bank_id:
                return url
        raise NotFoundError(
            f"where the bank {bank_id} is is not known",
            code="no-bank",
            advice="name it: holdfast checkpoints doctor BANK",
        )

    def _verify_again(self, bank_id: BankId, healed: object, manner: Manner) -> None:
        if not isinstance(healed, list) or not healed:
            return
        manner = replace(manner, idempotency_key=None)
        affected: set[CheckpointId] = set()
        for chunk in healed:
            for checkpoint_id, _ in self.catalogue.chunks.sharers(bank_id, bytes.fromhex(chunk)):
                affected.add(checkpoint_id)
        for checkpoint_id in sorted(affected):
            checkpoint = self.catalogue.checkpoint(checkpoint_id)
            if checkpoint.verified and checkpoint.verified.verdict is Verdict.FAIL:
                self.verify([checkpoint], manner)

    def _settle(self) -> None:
        """Find checkpoints that nobody makes any more: their process died."""
        unsettled = self.catalogue.list_checkpoints(state=CheckpointState.PROTECTING)
        if not unsettled:
            return
        self.around.runner.settle()
        for each in unsettled:
            if self.around.task_state(each.task_id) is not TaskState.RUNNING:
                why = "it was interrupted; protect the plan again to go on from there"
                # It may have ended well since it was looked up.
                self.catalogue.set_state(
                    each.id, CheckpointState.ERROR, why, only_from=CheckpointState.PROTECTING
                )

    def _run_on_bank(
        self,
        kind: str,
        bank_url: str,
        request: Mapping[str, object],
        work: Callable[[OpenBank, TaskContext], Mapping[str, object]],
        manner: Manner,
    ) -> Task:
        def opened_work(context: TaskContext) -> Mapping[str, object]:
            with opened(self.around, bank_url) as open_bank:
                return work(open_bank, context)

        subject = f"bank {check_place(bank_url)} upkeep"
        return self._run(kind, subject, {"bank": bank_url, **request}, opened_work, manner)

    def _run(
        self,
        kind: str,
        subject: str,
        request: Mapping[str, object],
        work: Callable[[TaskContext], Mapping[str, object]],
        manner: Manner,
    ) -> Task:
        def fitted_work(context: TaskContext) -> Mapping[str, object]:
            return fitted(work(context))

        key, listener = manner.idempotency_key, manner.listener
        return self.around.runner.run(
            kind, subject, request, fitted_work, idempotency_key=key, listener=listener
        )

"""Copies an instance in passes while its source still runs, until one pass has succeeded.

One pass: open the source, list and plan every directory, decide on all plans together, then carry
out each directory's plan and, only if all went well, the deletions of all. What is replaced by
something of another kind, or deleted, stays in quarantine until the migration is marked complete.

A pass that was cut off is begun anew under its number by the next attempt of the task: listings
tell what is left, partial files are gone on with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.errors import CancelledError, CapacityError, HoldfastError, StateError
from holdfast.files.ledger import Ledger
from holdfast.files.migration.model import (
    ITERATION_ENDS,
    CopyRequest,
    Instance,
    Iteration,
    IterationState,
    SourcePeer,
    VerificationRequest,
)
from holdfast.files.migration.opening import (
    MigrationSurroundings,
    OpenDirectory,
    Opening,
    refuse_completed,
)
from holdfast.files.migration.outages import Outages
from holdfast.files.migration.requests import spell_algorithm
from holdfast.files.migration.rules import (
    MAKING,
    Again,
    GiveUp,
    Judgement,
    Succeeded,
    check_migration_deletions,
    decide_next,
    is_curable,
    is_success,
    judge_plans,
    making_count,
    may_delete_all,
    pass_of_all,
    room_short,
    tally_made,
)
from holdfast.files.migration.telling import Telling, told_iterations
from holdfast.files.migration.verification import VerificationRun
from holdfast.files.model import (
    Action,
    CopyOptions,
    CopyOutcome,
    CopyReport,
    Finding,
    Pass,
    PlanSummary,
    SettleResult,
)
from holdfast.files.results import FINDINGS_MAX, findings_result, plain, plain_object
from holdfast.files.rules import trend_of
from holdfast.files.side_directory import partial_bytes
from holdfast.model.tree import ROOT_PATH, display_path
from holdfast.proof.statement import VerificationMode
from holdfast.tasks.runner import TaskContext


class CopyPasses:
    """One attempt of a copy. Owned by the thread of its task; run once."""

    def __init__(
        self,
        surroundings: MigrationSurroundings,
        instance: Instance,
        source: SourcePeer,
        request: CopyRequest,
        context: TaskContext,
    ) -> None:
        self._in = surroundings
        self._instance = instance
        self._request = request
        self._source = source
        self._context = context
        self._clock = surroundings.clock
        self._opening = Opening(
            surroundings=surroundings,
            instance=instance,
            source=source,
            context=context,
            rate_bytes_per_s=request.rate_bytes_per_s,
            jobs=request.max_concurrency,
            make_roots=True,
        )
        self._names = [directory.name for directory in instance.directories]
        self._ended = [
            each for each in told_iterations(context.task.detail) if each.state in ITERATION_ENDS
        ]
        self._now = Iteration(iteration=len(self._ended))
        self._began_ns = surroundings.clock.now_ns()
        """Of the last pass, by the wall clock."""
        self._trend: dict[str, object] | None = None
        self._telling = Telling(context, surroundings.clock, self._names, self._compose)
        self._outages = Outages(self._telling, surroundings.clock, surroundings.entropy)
        self._result: dict[str, object] = {}

    def run(self) -> Mapping[str, object]:
        """Do it and return the result of the task.

        Raises:
            StateError: `passes-failed`, and what is_curable says no of.
        """
        while True:
            self._now = Iteration(iteration=len(self._ended))
            self._run_pass()
            match decide_next(self._ended, self._request.max_iterations, self._outages.draw()):
                case Succeeded():
                    return self._result | self._verify()
                case GiveUp():
                    raise self._passes_failed()
                case Again(after_s=after_s):
                    self._outages.wait(after_s)

    def _compose(self) -> Mapping[str, object]:
        passes = self._ended if self._now in self._ended else [*self._ended, self._now]
        return {"iterations": [plain_object(each) for each in passes], "trend": self._trend}

    def _to(self, now: Iteration) -> None:
        self._now = now
        self._telling.now()

    def _end(self, state: IterationState, reason: str = "") -> None:
        self._now = replace(self._now, state=state, reason=reason)
        self._ended.append(self._now)
        self._telling.last()

    def _run_pass(self) -> None:
        """Make a pass, waiting for a source that is away; it ends in an end state."""
        while True:
            try:
                self._pass()
            except CancelledError:
                self._end(IterationState.CANCELLED)
                raise
            except HoldfastError as error:
                heard = self._now.bytes_downloaded > 0
                if self._outages.is_worth_waiting(error, was_heard=heard):
                    self._begin_anew(error)
                    continue
                self._end(IterationState.FAILED, error.message)
                if not is_curable(error):
                    raise
            return

    def _begin_anew(self, error: HoldfastError) -> None:
        self._now = Iteration(iteration=len(self._ended), reason=error.message)
        try:
            self._outages.sit_out(error)
        except CancelledError:
            self._end(IterationState.CANCELLED)
            raise

    def _pass(self) -> None:
        refuse_completed(self._instance)
        self._telling.enter(f"pass {self._now.iteration}: listing")
        algorithm = self._request.algorithm
        self._began_ns, began = self._clock.now_ns(), self._clock.monotonic_ns()
        with self._opening.all(
            self._telling.of_directories, lambda path: Ledger(path, algorithm)
        ) as opened:
            for each in opened:
                each.recognise_source(self._context.task.id)
            self._to(replace(self._now, state=IterationState.CLEANING))
            planned = [self._plan(each) for each in opened]
            plans = [plan for plan, _ in planned]
            self._to(
                replace(
                    self._now,
                    state=IterationState.PREPARING,
                    total_size=sum(plan.source_bytes for plan in plans),
                    total_files=sum(plan.source_entries for plan in plans),
                    planning_s=(self._clock.monotonic_ns() - began) / 1e9,
                )
            )
            check_migration_deletions(
                self._names, plans, self._request.delete_limit, self._request.allow_emptied
            )
            findings = [found for _, listing in planned for found in listing]
            self._decide(opened, plans, findings)

    def _decide(
        self,
        opened: list[OpenDirectory],
        plans: list[PlanSummary],
        findings: list[Finding],
    ) -> None:
        judgement = judge_plans(
            plans,
            iteration=self._now.iteration,
            max_iterations=self._request.max_iterations,
            threshold=self._request.success_threshold,
        )
        match judgement:
            case Judgement.GOOD_ENOUGH:
                self._remember_result(opened, plans, findings)
                left = sum(making_count(plan.counts) for plan in plans)
                self._end(IterationState.SUCCESS, f"{left} entries are left for a later copy")
            case Judgement.OVER:
                self._end(IterationState.FAILED, _missing(opened))
            case Judgement.UNLISTED:
                self._end(IterationState.FAILED, _unlisted(findings))
            case Judgement.EQUAL:
                reports = self._carry_out(opened, plans)
                self._remember_result(opened, plans, findings)
                done = is_success(reports) and not self._now.deletions_withheld
                self._end(
                    IterationState.SUCCESS if done else _end_of(reports, findings),
                    "" if done else _why(opened, reports, findings),
                )
            case Judgement.DOWNLOAD:
                self._download(opened, plans, findings)

    def _download(
        self,
        opened: list[OpenDirectory],
        plans: list[PlanSummary],
        findings: list[Finding],
    ) -> None:
        self._check_room(opened, plans)
        self._to(
            replace(
                self._now,
                state=IterationState.DOWNLOADING,
                bytes_to_download=sum(plan.fetch_bytes for plan in plans),
                files_to_download=sum(making_count(plan.counts) for plan in plans),
            )
        )
        reports = self._carry_out(opened, plans)
        self._end(_end_of(reports, findings), _why(opened, reports, findings))

    def _plan(self, opened: OpenDirectory) -> tuple[PlanSummary, list[Finding]]:
        """Plan one directory, on the ledger that this task takes over by it."""
        watch, pair = opened.pair.context, opened.pair
        pair.ledger.set("planned by", self._context.task.id)
        options = CopyOptions(
            delete=True,
            exclude=opened.exclude,
            algorithm=self._request.algorithm,
            verify=VerificationMode.NONE,
        )

        def on_progress(entries: int, size_bytes: int) -> None:
            watch.progress(entries_done=entries, bytes_done=size_bytes)

        summary, findings = pair.plan(options, on_progress)
        return summary, opened.named(findings)

    def _check_room(self, opened: list[OpenDirectory], plans: list[PlanSummary]) -> None:
        """Raise CapacityError (`disk-would-fill`) where a file system lacks room for all of it."""
        spaces = []
        for each in opened:
            space = each.target.space()
            # What an interrupted pass left is gone on with, or makes room.
            left = partial_bytes(each.target)
            spaces.append(space._replace(free_bytes=space.free_bytes + left))
        devices = [each.target.stat(ROOT_PATH).device for each in opened]
        for device, short in room_short(plans, devices, spaces).items():
            names = [
                name for name, found in zip(self._names, devices, strict=True) if found == device
            ]
            raise CapacityError(
                f"the file system of {', '.join(names)} lacks {short} bytes for this pass; "
                "nothing of it was written",
                code="disk-would-fill",
                advice="free some space there; quarantines of earlier passes take room, too",
                short_bytes=short,
            )

    def _carry_out(self, opened: list[OpenDirectory], plans: list[PlanSummary]) -> list[CopyReport]:
        """Carry out every plan, then the deletions of all if all went well."""
        ahead = [(_work(plan), plan.fetch_bytes) for plan in plans]
        self._telling.enter(f"pass {self._now.iteration}: copying", ahead)
        began = self._clock.monotonic_ns()
        reports = [
            each.pair.carry_out(
                each.target,
                counts=plan.counts,
                fetch_bytes=plan.fetch_bytes,
                failures=plan.listing_failures,
                defer_deletions=True,
                on_made=self._on_made,
            )
            for each, plan in zip(opened, plans, strict=True)
        ]
        reports += self._delete(opened, plans, reports)
        copying_s = (self._clock.monotonic_ns() - began) / 1e9
        self._now = replace(self._now, copying_s=copying_s)
        self._remember_passes(opened, reports)
        return reports

    def _on_made(self, results: Sequence[SettleResult]) -> None:
        files, size_bytes, failures, changed = tally_made(
            self._now, [(result.outcome, result.size_bytes) for result in results]
        )
        self._now = replace(
            self._now,
            files_downloaded=files,
            bytes_downloaded=size_bytes,
            download_failures=failures,
            entries_changed=changed,
        )
        self._telling.soon()

    def _delete(
        self, opened: list[OpenDirectory], plans: list[PlanSummary], reports: list[CopyReport]
    ) -> list[CopyReport]:
        deletions = [plan.counts.get(Action.DELETE, 0) for plan in plans]
        if not any(deletions):
            return []
        if not may_delete_all(reports, plans):
            self._now = replace(self._now, deletions_withheld=sum(deletions))
            return []
        done = [
            each.pair.carry_out(
                each.target, counts={Action.DELETE: count}, fetch_bytes=0, failures=0
            )
            for each, count in zip(opened, deletions, strict=True)
            if count
        ]
        deleted = sum(report.counts.get(CopyOutcome.SETTLED, 0) for report in done)
        self._now = replace(self._now, deleted=deleted)
        return done

    def _remember_passes(self, opened: list[OpenDirectory], reports: list[CopyReport]) -> None:
        """Remember what each directory took, across tasks, and compare with the pass before."""
        before, now = [], []
        for each, report in zip(opened, reports[: len(opened)], strict=True):
            last = each.pair.ledger.last_pass()
            if last is not None:
                before.append(last)
            finished = Pass(
                number=1 if last is None else last.number + 1,
                began_ns=self._began_ns,
                planning_s=self._now.planning_s / len(opened),
                copying_s=report.duration_s,
                files=report.files_read,
                size_bytes=report.read_bytes,
            )
            each.pair.ledger.add_pass(finished)
            now.append(finished)
        together = pass_of_all(now)
        assert together is not None
        earlier = pass_of_all(before)
        shrinking = None if earlier is None else together.size_bytes < earlier.size_bytes
        self._trend = plain_object(trend_of(earlier, together)) | {"shrinking": shrinking}

    def _remember_result(
        self, opened: list[OpenDirectory], plans: list[PlanSummary], findings: list[Finding]
    ) -> None:
        found = list(findings)
        for each in opened:
            found += each.named(each.pair.ledger.plan.findings(FINDINGS_MAX))
        self._result = {
            "plans": {name: plain(plan) for name, plan in zip(self._names, plans, strict=True)},
            "findings": findings_result(found),
        }

    def _verify(self) -> dict[str, object]:
        if self._request.verify is VerificationMode.NONE:
            return {}
        wanted = VerificationRequest(
            max_concurrency=self._request.max_concurrency,
            digest_algorithm=spell_algorithm(self._request.algorithm),
            mode=self._request.verify,
        )
        run = VerificationRun(
            self._in,
            self._instance,
            self._source,
            wanted,
            self._context,
            told=self._compose,
            copy_began_ns=self._began_ns,
        )
        return {"verification": run.run()}

    def _passes_failed(self) -> StateError:
        last = self._ended[-1]
        return StateError(
            f"after {len(self._ended)} passes the copy has not succeeded: "
            f"{last.reason or 'the source changed faster than it was copied'}",
            code="passes-failed",
            advice="allow more passes, lower the threshold, or stop the source for a final copy",
            iterations=len(self._ended),
        )


def _work(plan: PlanSummary) -> int:
    return sum(count for action, count in plan.counts.items() if action is not Action.KEEP)


def _end_of(reports: Sequence[CopyReport], findings: Sequence[Finding]) -> IterationState:
    failed = sum(report.counts.get(CopyOutcome.FAILED, 0) for report in reports)
    return IterationState.FAILED if failed or findings else IterationState.DOWNLOAD_COMPLETE


def _why(
    opened: Sequence[OpenDirectory], reports: Sequence[CopyReport], findings: Sequence[Finding]
) -> str:
    failed = sum(report.counts.get(CopyOutcome.FAILED, 0) for report in reports)
    reasons = []
    if failed:
        first = next(
            found
            for each in opened
            for found in each.named(each.pair.ledger.plan.findings(1, CopyOutcome.FAILED))
        )
        reasons.append(f"{failed} entries failed, the first: {_told(first)}")
    return "; ".join(reasons + ([_unlisted(findings)] if findings else []))


def _missing(opened: Sequence[OpenDirectory]) -> str:
    first = next(
        f"{each.directory.name}/{display_path(item.path)}"
        for each in opened
        for item in each.pair.ledger.plan.open_items(*MAKING)
    )
    return f"entries are missing or have changed, the first: {first}; no pass is left for them"


def _unlisted(findings: Sequence[Finding]) -> str:
    return f"{len(findings)} parts could not be listed, the first: {_told(findings[0])}"


def _told(finding: Finding) -> str:
    return f"{display_path(finding.path)}: {finding.detail}"

"""One task on a pair of trees: what copy, verify and repair share, and the runs of each.

Publishing, for a local tree, is the purge of the quarantine once a copy is proven.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from holdfast.errors import CapacityError, HoldfastError
from holdfast.files.copying import finish_directory
from holdfast.files.ledger import Ledger
from holdfast.files.listing import Exclusions
from holdfast.files.model import (
    DAMAGE,
    OPEN,
    CopyOptions,
    CopyReport,
    Finding,
    Pass,
    PlanSummary,
    Trend,
    Verdict,
    VerifyOptions,
    VerifyOutcome,
)
from holdfast.files.pair import Manner, Means, Pair, explain_by_plan, ledger_path
from holdfast.files.repairing import plan_repair
from holdfast.files.results import (
    FINDINGS_MAX,
    findings_result,
    plain,
    plain_object,
    verify_result,
)
from holdfast.files.rules import bytes_short, check_deletions, trend_of
from holdfast.files.side_directory import (
    QUARANTINE_DIRECTORY,
    partial_bytes,
    remove_side_directory,
    remove_tree,
)
from holdfast.model.tree import ROOT_PATH, display_path, join_path
from holdfast.ports import Directory, ReadableDirectory
from holdfast.proof.statement import VerificationMode
from holdfast.tasks.runner import Runner, TaskContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings(Means):
    """What the composition root provides."""

    runner: Runner
    open_source: Callable[[bytes], ReadableDirectory]
    open_target: Callable[[bytes, bool], Directory]
    """Given the root and whether to make it if it is missing."""


def open_pair(
    surroundings: Surroundings,
    source: bytes | None,
    target: ReadableDirectory,
    ledger: Ledger,
    *,
    manner: Manner,
    context: TaskContext,
    exclude: tuple[str, ...],
) -> Pair:
    """Return a pair of trees of this machine, with a pace that follows the task's rate."""
    pace = surroundings.make_pace(manner.rate_bytes_per_s)
    context.follow_rate(pace.set_rate)
    return Pair(
        surroundings,
        None if source is None else surroundings.open_source(source),
        target,
        ledger,
        manner=manner,
        context=context,
        pace=pace,
        exclusions=Exclusions(exclude),
    )


class CopyRun:
    """One attempt of a copy."""

    def __init__(
        self,
        surroundings: Surroundings,
        source: bytes,
        target: bytes,
        options: CopyOptions,
        *,
        manner: Manner,
        context: TaskContext,
    ) -> None:
        self._target_root = target
        self._options = options
        self._context = context
        self._began_ns = surroundings.clock.now_ns()
        ledger = Ledger(ledger_path(surroundings.state, source, target), options.algorithm)
        self._target = surroundings.open_target(target, True)
        self._pair = open_pair(
            surroundings,
            source,
            self._target,
            ledger,
            manner=manner,
            context=context,
            exclude=options.exclude,
        )

    def run(self) -> Mapping[str, object]:
        """Do it and return the result of the task; to be called once."""
        with self._pair:
            return self._run()

    def _run(self) -> Mapping[str, object]:
        clock = self._pair.means.clock
        started_ns = clock.monotonic_ns()
        self._context.enter("planning")
        summary, findings = self._plan()
        planning_s = (clock.monotonic_ns() - started_ns) / 1e9
        self._context.event("planned", **plain_object(summary))
        self._context.enter("copying")
        report = self._pair.carry_out(
            self._target,
            counts=summary.counts,
            fetch_bytes=summary.fetch_bytes,
            failures=summary.listing_failures,
        )
        result: dict[str, object] = {
            "plan": plain_object(summary),
            "copy": plain(report),
            "pass": plain(self._remember_pass(report, planning_s)),
            "findings": findings_result(findings + self._pair.ledger.plan.findings(FINDINGS_MAX)),
        }
        if self._options.verify is not VerificationMode.NONE:
            result |= self._verify_and_prove()
        else:
            self._pair.write_findings(findings + self._pair.ledger.plan.findings(1 << 62))
        return result | self._keep_or_purge(proven=result.get("verdict") == Verdict.PROVEN.value)

    def _remember_pass(self, report: CopyReport, planning_s: float) -> Trend:
        ledger = self._pair.ledger
        before = ledger.last_pass()
        finished = Pass(
            number=1 if before is None else before.number + 1,
            began_ns=self._began_ns,
            planning_s=planning_s,
            copying_s=report.duration_s,
            files=report.files_read,
            size_bytes=report.read_bytes,
        )
        ledger.add_pass(finished)
        return trend_of(before, finished)

    def _plan(self) -> tuple[PlanSummary, list[Finding]]:
        summary, findings = self._pair.plan(
            self._options,
            lambda entries, size_bytes: self._context.progress(
                entries_done=entries, bytes_done=size_bytes
            ),
        )
        check_plan(summary, self._options, self._target_root)
        # What an interrupted run left is gone on with, or makes room: it must not refuse the rerun.
        space = self._target.space()
        left = partial_bytes(self._target)
        short = bytes_short(summary, space._replace(free_bytes=space.free_bytes + left))
        if short:
            raise CapacityError(
                f"{display_path(self._target_root)} lacks {short} bytes for this copy; "
                "nothing was written",
                code="disk-would-fill",
                advice="free some space, or exclude something",
                short_bytes=short,
            )
        return summary, findings

    def _verify_and_prove(self) -> dict[str, object]:
        self._context.enter("verifying")
        options = VerifyOptions(
            mode=self._options.verify,
            one_way=not self._options.delete,
            exclude=self._options.exclude,
            algorithm=self._options.algorithm,
            cache=self._options.cache,
            changed_after_ns=self._began_ns,
        )
        report, findings = self._pair.verify(
            options, explain=partial(explain_by_plan, self._pair.ledger)
        )
        result = verify_result(report, self._pair.ledger, findings)
        return result | self._pair.prove(report, options.exclude, options.algorithm)

    def _keep_or_purge(self, *, proven: bool) -> dict[str, object]:
        """Once a copy is proven, what it replaced is let go; until then it stays."""
        try:
            waiting = self._target.list_names(QUARANTINE_DIRECTORY)
        except HoldfastError:
            return {}
        if not proven:
            place = join_path(self._target_root, QUARANTINE_DIRECTORY)
            return {"quarantine": display_path(place)} if waiting else {}
        for name, _ in waiting:
            remove_tree(self._target, join_path(QUARANTINE_DIRECTORY, name))
        remove_side_directory(self._target)
        assert self._pair.source is not None
        finish_directory(self._pair.source, self._target, ROOT_PATH)
        self._target.flush_all()
        return {}


def repair_pair(
    pair: Pair, directory: Directory, ledger: Ledger, options: VerifyOptions
) -> Mapping[str, object]:
    """Repair what the ledger says is repairable, verify just that, and return the result."""
    assert pair.source is not None
    pair.context.enter("repairing")
    counts, fetch_bytes = plan_repair(pair.source, directory, ledger, pair.fidelity())
    report = pair.carry_out(directory, counts=counts, fetch_bytes=fetch_bytes, failures=0)
    repaired = ledger.plan.repaired(FINDINGS_MAX)
    pair.context.enter("verifying")
    again = replace(options, mode=VerificationMode.FULL)
    verified, _ = pair.verify(again, paths=ledger.plan.paths())
    failed = ledger.plan.findings(FINDINGS_MAX)
    left = ledger.entries.findings(FINDINGS_MAX)
    return {
        "copy": plain(report),
        "repaired": findings_result(repaired),
        "verify": plain(verified),
        "verdict": _verdict_of_all(ledger).value,
        "findings": findings_result([*failed, *left]),
    }


def _verdict_of_all(ledger: Ledger) -> Verdict:
    """Say how a pair stands after a repair: what was not repaired counts as it was found."""

    def has(*outcomes: VerifyOutcome) -> bool:
        return bool(ledger.entries.findings(1, outcomes))

    if has(*DAMAGE):
        return Verdict.DAMAGED
    if has(*OPEN) or not has(VerifyOutcome.MATCHED):
        return Verdict.INCOMPLETE
    return Verdict.SAMPLED if has(VerifyOutcome.NOT_SAMPLED) else Verdict.PROVEN


def check_plan(summary: PlanSummary, options: CopyOptions, target: bytes) -> None:
    """Return if the plan may be carried out; see rules.check_deletions."""
    check_deletions(
        summary,
        options.delete_limit,
        source_is_empty=not summary.source_entries,
        target_name=display_path(target),
    )

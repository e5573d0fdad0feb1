"""One task on a pair of trees: what copy, verify and repair share, and the runs of each.

Publishing, for a local tree, is the purge of the quarantine once a copy is proven.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.errors import CapacityError, HoldfastError
from holdfast.files.copying import Copying, finish_directory
from holdfast.files.ledger import Ledger
from holdfast.files.model import (
    DAMAGE,
    OPEN,
    Action,
    CopyOptions,
    CopyOutcome,
    CopyReport,
    Finding,
    Pass,
    PlanSummary,
    Trend,
    Verdict,
    VerifyOptions,
    VerifyOutcome,
    VerifyReport,
)
from holdfast.files.planning import Planner
from holdfast.files.proving import make_claims, replace_file, write_proof
from holdfast.files.repairing import plan_repair
from holdfast.files.results import (
    FINDINGS_MAX,
    finding_line,
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
from holdfast.files.transfer import Transfer
from holdfast.files.verifying import Explain, Verifying, fidelity_of, remember_losses
from holdfast.model.tree import ROOT_PATH, display_path, join_path, parent_of
from holdfast.ports import Clock, Directory, PaceControl, ReadableDirectory, StartWorkers
from holdfast.proof.digests import Algorithm
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import VerificationMode
from holdfast.tasks.runner import Listener, Runner, TaskContext

_NO_DIRECTORY = (Action.FETCH, Action.MAKE_SYMLINK, Action.RELINK, Action.REFUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to go about it: changes nothing of what is done, so it is no part of the request."""

    jobs: int
    rate_bytes_per_s: float | None = None
    prove: bool = True
    """Whether to leave a proof of what was verified."""
    proof_path: Path | None = None
    """Where; None for a file named after the task in the state directory."""
    report_path: Path | None = None
    """Where to write every finding; None for nowhere."""
    listener: Listener = lambda _task: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the composition root provides."""

    state: Path
    """Directory of journal, locks, ledgers, keys and proofs."""
    runner: Runner
    clock: Clock
    open_source: Callable[[bytes], ReadableDirectory]
    open_target: Callable[[bytes, bool], Directory]
    """Given the root and whether to make it if it is missing."""
    make_pace: Callable[[float | None], PaceControl]
    make_workers: Callable[[PaceControl, int], StartWorkers]
    load_key: Callable[[], SigningKey]


class Pair:
    """A source and a target in the middle of a task: what copy, verify and repair share."""

    def __init__(
        self,
        surroundings: Surroundings,
        source: bytes | None,
        target: ReadableDirectory,
        ledger: Ledger,
        *,
        manner: Manner,
        context: TaskContext,
    ) -> None:
        self.surroundings = surroundings
        self.source = None if source is None else surroundings.open_source(source)
        self.target = target
        self.ledger = ledger
        self.manner = manner
        self.context = context
        self.pace = surroundings.make_pace(manner.rate_bytes_per_s)
        context.follow_rate(self.pace.set_rate)
        self.start_workers = surroundings.make_workers(self.pace, manner.jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release both trees and the ledger."""
        if self.source is not None:
            self.source.close()
        self.target.close()
        self.ledger.close()

    def verify(
        self,
        options: VerifyOptions,
        *,
        paths: Iterator[bytes] | None = None,
        explain: Explain = lambda _path: None,
    ) -> tuple[VerifyReport, list[Finding]]:
        """Run one verification; return it and what could not be listed."""
        if not options.changed_after_ns:
            options = replace(options, changed_after_ns=self.surroundings.clock.now_ns())
        fidelity = fidelity_of(self.ledger)
        if self.source is None:
            fidelity = replace(fidelity, owner=False, xattrs=False)
        verifying = Verifying(
            source=self.source,
            target=self.target,
            ledger=self.ledger,
            options=options,
            fidelity=fidelity,
            pace=self.pace,
            clock=self.surroundings.clock,
            start_workers=self.start_workers,
            context=self.context,
            entries_expected=_number(self.ledger.get("source_entries")),
            bytes_expected=_number(self.ledger.get("source_bytes")),
            paths=paths,
            explain=explain,
        )
        report = verifying.run()
        self.context.event("verified", verdict=report.verdict.value)
        self.write_findings(
            itertools.chain(verifying.listing_findings, self.ledger.entries.each_finding())
        )
        return report, verifying.listing_findings

    def carry_out(
        self, directory: Directory, *, counts: Mapping[Action, int], fetch_bytes: int, failures: int
    ) -> CopyReport:
        """Carry out the plan in the ledger."""
        assert self.source is not None
        quarantine = join_path(QUARANTINE_DIRECTORY, self.context.task.id.encode())
        transfer = Transfer(
            source=self.source,
            target=directory,
            algorithm=Algorithm(self.ledger.get("algorithm") or ""),
            pace=self.pace,
            clock=self.surroundings.clock,
            quarantine=quarantine,
        )
        report = Copying(
            source=self.source,
            target=directory,
            ledger=self.ledger,
            transfer=transfer,
            pace=self.pace,
            clock=self.surroundings.clock,
            start_workers=self.start_workers,
            context=self.context,
            fetch_bytes=fetch_bytes,
            items_total=sum(n for action, n in counts.items() if action is not Action.KEEP),
            listing_failures=failures,
        ).run()
        remember_losses(self.ledger, report.losses)
        return report

    def write_findings(self, findings: Iterable[Finding]) -> None:
        """Write every finding to the report, where one is wanted."""
        path = self.manner.report_path
        if path is not None:
            with replace_file(path) as stream:
                for finding in findings:
                    stream.write(finding_line(finding))

    def prove(
        self, report: VerifyReport, exclusions: tuple[str, ...], algorithm: Algorithm
    ) -> dict[str, object]:
        """Write the proof, where one is wanted and there is something to prove."""
        if not self.manner.prove or self.source is None or report.verdict is Verdict.DAMAGED:
            return {}
        path = self.manner.proof_path
        if path is None:
            path = self.surroundings.state / "proofs" / f"{self.context.task.id}.jsonl"
            path.parent.mkdir(mode=0o700, exist_ok=True)
        self.context.enter("proving")
        claims = make_claims(
            source=self.source.describe(),
            target=self.target.describe(),
            task_id=self.context.task.id,
            now_ns=self.surroundings.clock.now_ns(),
            exclusions=exclusions,
            report=report,
            previous=self.ledger.get("proof"),
        )
        statement = write_proof(path, self.ledger, algorithm, claims, self.surroundings.load_key())
        return {
            "proof": {
                "path": os.fspath(path),
                "rootDigest": statement.root_digest.hex(),
                "algorithm": statement.algorithm.value,
                "entries": sum(statement.counts.values()),
            }
        }


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
        self._pair = Pair(
            surroundings, source, self._target, ledger, manner=manner, context=context
        )

    def run(self) -> Mapping[str, object]:
        """Do it and return the result of the task; to be called once."""
        with self._pair:
            return self._run()

    def _run(self) -> Mapping[str, object]:
        clock = self._pair.surroundings.clock
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
        pair = self._pair
        assert pair.source is not None
        planner = Planner(
            source=pair.source,
            target=self._target,
            ledger=pair.ledger,
            options=self._options,
            fidelity=fidelity_of(pair.ledger),
            on_progress=lambda entries, size_bytes: self._context.progress(
                entries_done=entries, bytes_done=size_bytes
            ),
        )
        summary = planner.make()
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
        pair.ledger.set("source_entries", str(summary.source_entries))
        pair.ledger.set("source_bytes", str(summary.source_bytes))
        return summary, planner.listing_findings

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
        report, findings = self._pair.verify(options, explain=self._explain)
        result = verify_result(report, self._pair.ledger, findings)
        return result | self._pair.prove(report, options.exclude, options.algorithm)

    def _explain(self, path: bytes) -> tuple[VerifyOutcome, str] | None:
        """Say what the plan knows of an entry that looks damaged."""
        row = self._pair.ledger.plan.row_of(path)
        if row is None:
            return self._explain_by_parents(path)
        action, outcome, detail = row
        if action is Action.DELETE:
            if outcome in (None, CopyOutcome.SKIPPED):
                return VerifyOutcome.EXTRA, detail or "not deleted because something failed"
            return (VerifyOutcome.FAILED, detail) if outcome is CopyOutcome.FAILED else None
        match outcome:
            case CopyOutcome.FAILED:
                return VerifyOutcome.FAILED, detail
            case CopyOutcome.CHANGED | CopyOutcome.VANISHED:
                return VerifyOutcome.CHANGED, detail
            case _:
                return None

    def _explain_by_parents(self, path: bytes) -> tuple[VerifyOutcome, str] | None:
        """Say what became of an entry that was to go with the directory it is in."""
        while path := parent_of(path):
            row = self._pair.ledger.plan.row_of(path)
            # The source has no directory there, so what is in it can only be the target's.
            if row is not None and row[0] in _NO_DIRECTORY and row[1] is not CopyOutcome.SETTLED:
                return VerifyOutcome.EXTRA, "the directory it is in was not removed"
        return None

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
    counts, fetch_bytes = plan_repair(pair.source, directory, ledger, fidelity_of(ledger))
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


def ledger_path(state: Path, source: bytes, target: bytes) -> Path:
    """Return where the memory of a pair is."""
    name = hashlib.sha256(source + b"\0" + target).hexdigest()[:32]
    return state / "ledgers" / f"{name}.sqlite"


def check_plan(summary: PlanSummary, options: CopyOptions, target: bytes) -> None:
    """Return if the plan may be carried out; see rules.check_deletions."""
    check_deletions(
        summary,
        options.delete_limit,
        source_is_empty=not summary.source_entries,
        target_name=display_path(target),
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)

"""A source and a target in the middle of a task: what copies, verifications and repairs share."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.files.ahead import RunBeside
from holdfast.files.copying import Copying
from holdfast.files.evidence import Evidence
from holdfast.files.ledger import Ledger
from holdfast.files.listing import Exclusions
from holdfast.files.model import (
    Action,
    CopyOptions,
    CopyOutcome,
    CopyReport,
    Fidelity,
    Finding,
    PlanSummary,
    SettleResult,
    Verdict,
    VerifyOptions,
    VerifyOutcome,
    VerifyReport,
)
from holdfast.files.planning import Planner
from holdfast.files.proving import make_claims, replace_file, write_proof
from holdfast.files.results import finding_line
from holdfast.files.side_directory import QUARANTINE_DIRECTORY
from holdfast.files.transfer import Transfer
from holdfast.files.verifying import Explain, Verifying, fidelity_of, remember_losses
from holdfast.files.watching import TaskWatch
from holdfast.model.tree import join_path, parent_of
from holdfast.ports import Clock, Directory, PaceControl, ReadableDirectory, StartWorkers
from holdfast.proof.digests import Algorithm
from holdfast.proof.signature import SigningKey
from holdfast.tasks.runner import Listener

OnMade = Callable[[Sequence[SettleResult]], None]
OnJudged = Callable[[Evidence, VerifyOutcome], None]

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
class Means:
    """What the composition root provides for work on any pair."""

    state: Path
    """Directory of journal, locks, ledgers, keys and proofs."""
    clock: Clock
    make_pace: Callable[[float | None], PaceControl]
    make_workers: Callable[[PaceControl, int], StartWorkers]
    run_beside: RunBeside
    load_key: Callable[[], SigningKey]


class Pair:
    """A source and a target in the middle of a task: what copy, verify and repair share."""

    def __init__(
        self,
        means: Means,
        source: ReadableDirectory | None,
        target: ReadableDirectory,
        ledger: Ledger,
        *,
        manner: Manner,
        context: TaskWatch,
        pace: PaceControl,
        exclusions: Exclusions,
        verify_directory_times: bool = True,
    ) -> None:
        self.means = means
        self.source = source
        self.target = target
        self.ledger = ledger
        self.manner = manner
        self.context = context
        self.pace = pace
        self.exclusions = exclusions
        self._verify_directory_times = verify_directory_times
        self.start_workers = means.make_workers(pace, manner.jobs)

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

    def fidelity(self) -> Fidelity:
        """Return what is to be compared: what the source can tell and the target keep."""
        fidelity = fidelity_of(self.ledger)
        if self.source is None:
            return replace(fidelity, owner=False, xattrs=False)
        return fidelity.told_by(self.source.capabilities())

    def verified_fidelity(self) -> Fidelity:
        """Return what a verification compares."""
        return replace(self.fidelity(), directory_times=self._verify_directory_times)

    def plan(
        self, options: CopyOptions, on_progress: Callable[[int, int], None]
    ) -> tuple[PlanSummary, list[Finding]]:
        """Store a plan in the ledger; return it and what could not be listed."""
        assert self.source is not None
        planner = Planner(
            source=self.source,
            target=self.target,
            ledger=self.ledger,
            options=options,
            exclusions=self.exclusions,
            fidelity=self.fidelity(),
            on_progress=on_progress,
            run_beside=self.means.run_beside,
        )
        summary = planner.make()
        self.ledger.set("source_entries", str(summary.source_entries))
        self.ledger.set("source_bytes", str(summary.source_bytes))
        return summary, planner.listing_findings

    def verify(
        self,
        options: VerifyOptions,
        *,
        paths: Iterator[bytes] | None = None,
        explain: Explain = lambda _path: None,
        on_judged: OnJudged = lambda _evidence, _outcome: None,
    ) -> tuple[VerifyReport, list[Finding]]:
        """Run one verification; return it and what could not be listed."""
        if not options.changed_after_ns:
            options = replace(options, changed_after_ns=self.means.clock.now_ns())
        verifying = Verifying(
            source=self.source,
            target=self.target,
            ledger=self.ledger,
            options=options,
            exclusions=self.exclusions,
            fidelity=self.verified_fidelity(),
            pace=self.pace,
            clock=self.means.clock,
            start_workers=self.start_workers,
            context=self.context,
            entries_expected=_number(self.ledger.get("source_entries")),
            bytes_expected=_number(self.ledger.get("source_bytes")),
            paths=paths,
            explain=explain,
            on_judged=on_judged,
        )
        report = verifying.run()
        self.context.event("verified", verdict=report.verdict.value)
        self.write_findings(
            itertools.chain(verifying.listing_findings, self.ledger.entries.each_finding())
        )
        return report, verifying.listing_findings

    def carry_out(
        self,
        directory: Directory,
        *,
        counts: Mapping[Action, int],
        fetch_bytes: int,
        failures: int,
        defer_deletions: bool = False,
        on_made: OnMade = lambda _results: None,
    ) -> CopyReport:
        """Carry out what is open of the plan in the ledger."""
        assert self.source is not None
        quarantine = join_path(QUARANTINE_DIRECTORY, self.context.task.id.encode())
        transfer = Transfer(
            source=self.source,
            target=directory,
            algorithm=Algorithm(self.ledger.get("algorithm") or ""),
            pace=self.pace,
            clock=self.means.clock,
            quarantine=quarantine,
        )
        report = Copying(
            source=self.source,
            target=directory,
            ledger=self.ledger,
            transfer=transfer,
            pace=self.pace,
            clock=self.means.clock,
            start_workers=self.start_workers,
            context=self.context,
            fetch_bytes=fetch_bytes,
            items_total=sum(n for action, n in counts.items() if action is not Action.KEEP),
            listing_failures=failures,
            defer_deletions=defer_deletions,
            on_made=on_made,
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
            path = self.means.state / "proofs" / f"{self.context.task.id}.jsonl"
            path.parent.mkdir(mode=0o700, exist_ok=True)
        self.context.enter("proving")
        claims = make_claims(
            source=self.source.describe(),
            target=self.target.describe(),
            task_id=self.context.task.id,
            now_ns=self.means.clock.now_ns(),
            exclusions=exclusions,
            report=report,
            previous=self.ledger.get("proof"),
        )
        statement = write_proof(path, self.ledger, algorithm, claims, self.means.load_key())
        return {
            "proof": {
                "path": os.fspath(path),
                "rootDigest": statement.root_digest.hex(),
                "algorithm": statement.algorithm.value,
                "entries": sum(statement.counts.values()),
            }
        }


def explain_by_plan(ledger: Ledger, path: bytes) -> tuple[VerifyOutcome, str] | None:
    """Say what the plan knows of an entry that looks damaged."""
    row = ledger.plan.row_of(path)
    if row is None:
        return _explain_by_parents(ledger, path)
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


def _explain_by_parents(ledger: Ledger, path: bytes) -> tuple[VerifyOutcome, str] | None:
    """Say what became of an entry that was to go with the directory it is in."""
    while path := parent_of(path):
        row = ledger.plan.row_of(path)
        # The source has no directory there, so what is in it can only be the target's.
        if row is not None and row[0] in _NO_DIRECTORY and row[1] is not CopyOutcome.SETTLED:
            return VerifyOutcome.EXTRA, "the directory it is in was not removed"
    return None


def ledger_path(state: Path, source: bytes, target: bytes) -> Path:
    """Return where the memory of a pair is."""
    name = hashlib.sha256(source + b"\0" + target).hexdigest()[:32]
    return state / "ledgers" / f"{name}.sqlite"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)

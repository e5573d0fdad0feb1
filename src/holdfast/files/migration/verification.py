"""Verifies an instance as Sidecar does: metadata of everything first, then digests.

With trouble in the metadata it stops there, unless it was asked to go on. Sidecar's counters grow
while it runs. Every directory that is examined leaves a proof, chained to the one before.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from holdfast.errors import CancelledError, HoldfastError
from holdfast.files.evidence import Evidence
from holdfast.files.ledger import Ledger
from holdfast.files.migration.comparing import Comparing
from holdfast.files.migration.model import (
    Counters,
    Instance,
    SourcePeer,
    VerificationRequest,
    VerificationState,
)
from holdfast.files.migration.opening import MigrationSurroundings, OpenDirectory, Opening
from holdfast.files.migration.outages import Outages
from holdfast.files.migration.requests import parse_digest_algorithm
from holdfast.files.migration.rules import BEGINNINGS_MAX, Tally, judge_listed
from holdfast.files.migration.telling import Telling
from holdfast.files.model import Finding, Verdict, VerifyOptions, VerifyOutcome, VerifyReport
from holdfast.files.pair import explain_by_plan
from holdfast.files.results import FINDINGS_MAX, findings_result, plain, plain_object
from holdfast.proof.digests import Algorithm
from holdfast.tasks.runner import TaskContext


def _nothing() -> Mapping[str, object]:
    return {}


def _no_explanation(_path: bytes) -> None:
    return None


class VerificationRun:
    """One attempt of a verification. Owned by the thread of its task; run once."""

    def __init__(
        self,
        surroundings: MigrationSurroundings,
        instance: Instance,
        source: SourcePeer,
        request: VerificationRequest,
        context: TaskContext,
        *,
        told: Callable[[], Mapping[str, object]] = _nothing,
        copy_began_ns: int | None = None,
    ) -> None:
        """Prepare it.

        Args:
            surroundings, instance, source, request, context: See service.run_verification.
            told: What else the task tells, of the copy this verification closes.
            copy_began_ns: Of a verification that closes a copy, when that began (wall clock): what
                the copy could not do, and what the source changed since, is no damage.
        """
        self._request = request
        self._context = context
        self._told = told
        self._copy_began_ns = copy_began_ns
        self._opening = Opening(
            surroundings=surroundings,
            instance=instance,
            source=source,
            context=context,
            rate_bytes_per_s=request.rate_bytes_per_s,
            jobs=request.max_concurrency,
            make_roots=False,
        )
        self._algorithm = parse_digest_algorithm(request.digest_algorithm)
        self._seed = request.seed or 0 if self._algorithm is Algorithm.XXH32 else 0
        self._state = VerificationState.IN_PROGRESS
        self._reason = ""
        self._tally = Tally()
        names = [directory.name for directory in instance.directories]
        self._telling = Telling(context, surroundings.clock, names, self._compose)
        self._outages = Outages(self._telling, surroundings.clock, surroundings.entropy)
        self._findings: list[Finding] = []
        self._directories: list[dict[str, object]] = []

    def run(self) -> dict[str, object]:
        """Do it and return the result of the task; a source that is away is waited for."""
        try:
            self._run_through_outages()
        except CancelledError:
            self._state = VerificationState.CANCELLED
            self._telling.last()
            raise
        except HoldfastError as error:
            self._state, self._reason = VerificationState.FAILED, error.message
            self._telling.last()
            raise
        self._telling.last()
        return {
            **self._figures(),
            "directories": self._directories,
            "findings": findings_result(self._findings),
        }

    def _run_through_outages(self) -> None:
        beginnings = 0
        while True:
            try:
                return self._run_once()
            except HoldfastError as error:
                heard = self._tally.counters() != Counters()
                beginnings += heard
                is_worth_it = self._outages.is_worth_waiting(error, was_heard=heard)
                if not is_worth_it or beginnings >= BEGINNINGS_MAX:
                    raise
                self._forget(error)
                self._outages.sit_out(error)

    def _run_once(self) -> None:
        # A seeded digest cannot be checked by who does not know the seed: no proof of it.
        with self._opening.all(
            self._telling.of_directories, self._open_ledger, prove=not self._seed
        ) as opened:
            self._state, self._reason = self._verify(opened)

    def _forget(self, error: HoldfastError) -> None:
        """Count anew: what was read before an absence says nothing of now."""
        self._reason = error.message
        self._tally = Tally()
        self._findings, self._directories = [], []

    def _open_ledger(self, path: Path) -> Ledger:
        return Ledger(path, self._algorithm, seed=self._seed)

    def _figures(self) -> dict[str, object]:
        return {
            "state": self._state.value,
            "reason": self._reason,
            **plain_object(self._tally.counters()),
        }

    def _compose(self) -> Mapping[str, object]:
        return {**self._told(), **self._figures()}

    def _verify(self, opened: list[OpenDirectory]) -> tuple[VerificationState, str]:
        self._reason = ""
        self._telling.enter("comparing")
        for each in opened:
            each.pair.ledger.set("verified by", self._context.task.id)
        unlisted = self._compare(opened)
        goes_on = self._request.continue_on_metadata_mismatch
        if self._tally.counters().is_metadata_bad and not goes_on:
            self._tally.count_unlisted(unlisted)
            self._take_findings(opened)
            return VerificationState.FAILED, "metadata differ, so no digests were taken"
        ahead = [_expected(each) for each in opened]
        self._telling.enter("verifying", ahead)
        verdicts = [self._read(each) for each in opened]
        self._take_findings(opened)
        good = self._tally.counters().is_good and all(
            verdict in (Verdict.PROVEN, Verdict.SAMPLED, None) for verdict in verdicts
        )
        if good and not any(verdicts):
            return VerificationState.FAILED, "there was nothing to verify"
        return (VerificationState.COMPLETED, "") if good else (VerificationState.FAILED, "")

    def _compare(self, opened: list[OpenDirectory]) -> int:
        """Compare the listings of every directory; return how many parts could not be listed."""
        unlisted = 0
        for each in opened:
            comparing = Comparing(each.pair, self._tally)
            comparing.run()
            unlisted += comparing.unlisted_count
            self._findings += comparing.unlisted
            self._telling.now()
        return unlisted

    def _read(self, opened: OpenDirectory) -> Verdict | None:
        """Verify one directory and prove it; None if it is empty on both sides."""
        pair = opened.pair
        fidelity = pair.verified_fidelity()
        judged_failed = 0

        def on_judged(evidence: Evidence, outcome: VerifyOutcome) -> None:
            nonlocal judged_failed
            judged_failed += outcome is VerifyOutcome.FAILED
            stat = evidence.source_stat or evidence.target_stat
            assert stat is not None
            listed = judge_listed(evidence.source_stat, evidence.target_stat, fidelity)
            self._tally.count_read(listed, outcome, stat.kind)

        closes_copy = self._copy_began_ns is not None
        explain = partial(explain_by_plan, pair.ledger) if closes_copy else _no_explanation
        report, _ = pair.verify(self._options(opened), explain=explain, on_judged=on_judged)
        self._tally.count_unlisted(report.counts.get(VerifyOutcome.FAILED, 0) - judged_failed)
        proof = pair.prove(report, opened.exclude, self._algorithm) if report.entries else {}
        self._directories.append(_told_directory(opened, report, proof))
        return report.verdict if report.entries else None

    def _options(self, opened: OpenDirectory) -> VerifyOptions:
        request = self._request
        return VerifyOptions(
            mode=request.mode,
            exclude=opened.exclude,
            algorithm=self._algorithm,
            cache=request.cache,
            sample_percent=request.sample_percent,
            sample_bytes=request.sample_bytes,
            digest_seed=self._seed,
            changed_after_ns=self._copy_began_ns or 0,
        )

    def _take_findings(self, opened: list[OpenDirectory]) -> None:
        for each in opened:
            self._findings += each.named(each.pair.ledger.entries.findings(FINDINGS_MAX))


def _expected(opened: OpenDirectory) -> tuple[int, int]:
    ledger = opened.pair.ledger
    entries, size_bytes = ledger.get("source_entries"), ledger.get("source_bytes")
    return int(entries or 0), 2 * int(size_bytes or 0)


def _told_directory(
    opened: OpenDirectory, report: VerifyReport, proof: Mapping[str, object]
) -> dict[str, object]:
    return {"directory": opened.directory.name, "verify": plain(report), **proof}

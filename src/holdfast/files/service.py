"""Use cases of the files facet: plan, copy, verify, repair, prove. Each runs as a durable task.

The contract in six steps: a plan is made and checked as a whole (deletions bounded, room there)
before the first byte; the transfer settles entries; the verification reads both sides again; a
proven copy is published; the proof stays.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from holdfast.errors import InvalidRequestError
from holdfast.files.ledger import Ledger, told_as_ours
from holdfast.files.listing import Exclusions
from holdfast.files.model import (
    Action,
    CopyOptions,
    Finding,
    PlanItem,
    PlanSummary,
    Verdict,
    VerifyOptions,
)
from holdfast.files.pair import Manner, Pair, ledger_path
from holdfast.files.planning import Planner
from holdfast.files.proving import load_proof
from holdfast.files.repairing import REPAIRABLE
from holdfast.files.results import check_result, plain_object, verify_result
from holdfast.files.running import CopyRun, Surroundings, check_plan, open_pair, repair_pair
from holdfast.files.verifying import fidelity_of
from holdfast.model.tree import display_path
from holdfast.ports import ReadableDirectory
from holdfast.proof.digests import Algorithm
from holdfast.tasks.model import Task
from holdfast.tasks.runner import TaskContext, Work


class Files:
    """The files facet on one machine."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._in = surroundings

    @property
    def surroundings(self) -> Surroundings:
        """What it works with; for facets above that copy from or to trees of their own."""
        return self._in

    def plan(
        self, source: bytes, target: bytes, options: CopyOptions
    ) -> tuple[PlanSummary, Iterator[PlanItem], list[Finding]]:
        """Return what a copy would do. Touches neither tree and no memory of the pair.

        Raises:
            StateError: It would delete more than allowed.
        """
        _check_roots(source, target)
        ledger = Ledger(None, options.algorithm)
        planner = Planner(
            source=self._in.open_source(source),
            target=self._in.open_target(target, False) if os.path.isdir(target) else None,
            ledger=ledger,
            options=options,
            exclusions=Exclusions(options.exclude),
            fidelity=fidelity_of(ledger),
            on_progress=lambda _entries, _bytes: None,
        )
        summary = planner.make()
        check_plan(summary, options, target)
        return summary, ledger.plan.open_items(*Action), planner.listing_findings

    def copy(self, source: bytes, target: bytes, options: CopyOptions, manner: Manner) -> Task:
        """Copy a tree, verify the copy and leave a proof; goes on where an interrupted run was."""
        _check_roots(source, target)
        # Before the task: a source that is not there must not leave a failed one for its target.
        self._in.open_source(source).close()
        request = _request(source, target, options)

        def work(context: TaskContext) -> Mapping[str, object]:
            return CopyRun(self._in, source, target, options, manner=manner, context=context).run()

        return self._run("files.copy", target, request, work, manner)

    def verify(self, source: bytes, target: bytes, options: VerifyOptions, manner: Manner) -> Task:
        """Verify a tree against another."""
        _check_roots(source, target)
        for root in (source, target):
            self._in.open_source(root).close()

        def work(context: TaskContext) -> Mapping[str, object]:
            ledger = self._open_ledger(source, target, options.algorithm)
            judged = self._in.open_source(target)
            with self._pair(
                source, judged, ledger, options, manner=manner, context=context
            ) as pair:
                context.enter("verifying")
                report, findings = pair.verify(options)
                result = verify_result(report, ledger, findings)
                return result | pair.prove(report, options.exclude, options.algorithm)

        request = _request(source, target, options)
        return self._run("files.verify", target, request, work, manner)

    def verify_proof(
        self,
        proof: Path,
        tree: bytes,
        options: VerifyOptions,
        manner: Manner,
        expected_public_key: bytes | None = None,
    ) -> Task:
        """Verify a tree against a proof alone."""
        self._in.open_source(tree).close()

        def work(context: TaskContext) -> Mapping[str, object]:
            def open_ledger(chain_digest: str, algorithm: Algorithm) -> Ledger:
                return self._open_ledger(chain_digest.encode(), tree, algorithm)

            context.enter("reading the proof")
            check, ledger = load_proof(proof, open_ledger, expected_public_key)
            result: dict[str, object] = {"proof": check_result(check)}
            if not check.good:
                ledger.close()
                return result | {"verdict": Verdict.DAMAGED.value}
            judged = self._in.open_source(tree)
            said = check.statement
            exclude = tuple(dict.fromkeys((*options.exclude, *said.exclusions)))
            wanted = replace(options, algorithm=said.algorithm, exclude=exclude)
            with self._pair(None, judged, ledger, wanted, manner=manner, context=context) as pair:
                context.enter("verifying")
                report, findings = pair.verify(wanted)
                return result | verify_result(report, ledger, findings)

        request = {"proof": os.fspath(proof), **_request(b"", tree, options)}
        return self._run("files.verify-proof", tree, request, work, manner)

    def repair(self, source: bytes, target: bytes, options: VerifyOptions, manner: Manner) -> Task:
        """Repair what the last verification of a pair found; verify first if that was nothing."""
        _check_roots(source, target)
        self._in.open_source(source).close()

        def work(context: TaskContext) -> Mapping[str, object]:
            ledger = self._open_ledger(source, target, options.algorithm)
            directory = self._in.open_target(target, False)
            with self._pair(
                source, directory, ledger, options, manner=manner, context=context
            ) as pair:
                if next(ledger.entries.with_outcomes(REPAIRABLE), None) is None:
                    context.enter("verifying")
                    pair.verify(options)
                return repair_pair(pair, directory, ledger, options)

        request = _request(source, target, options)
        return self._run("files.repair", target, request, work, manner)

    def _pair(
        self,
        source: bytes | None,
        target: ReadableDirectory,
        ledger: Ledger,
        options: VerifyOptions,
        *,
        manner: Manner,
        context: TaskContext,
    ) -> Pair:
        return open_pair(
            self._in,
            source,
            target,
            ledger,
            manner=manner,
            context=context,
            exclude=options.exclude,
        )

    def _run(
        self, kind: str, root: bytes, request: Mapping[str, object], work: Work, manner: Manner
    ) -> Task:
        def guarded(context: TaskContext) -> Mapping[str, object]:
            with told_as_ours(ledger_path(self._in.state, b"", b"").parent):
                return work(context)

        return self._in.runner.run(
            kind, subject_of(root), request, guarded, listener=manner.listener
        )

    def _open_ledger(self, source: bytes, target: bytes, algorithm: Algorithm) -> Ledger:
        return Ledger(ledger_path(self._in.state, source, target), algorithm)


def subject_of(root: bytes) -> str:
    """Return what no two tasks may work on at once: a target, whatever they do with it."""
    return f"tree {display_path(root)}"


def _check_roots(source: bytes, target: bytes) -> None:
    # A source on another host is spelt HOST:PORT/..., and lies in nothing of this one.
    is_local = source.startswith(b"/")
    if is_local and os.path.commonpath((source, target)) in (source, target):
        raise InvalidRequestError(
            f"{display_path(source)} and {display_path(target)} lie one in the other",
            code="overlapping-trees",
            advice="name two trees of which neither contains the other",
        )


def _request(
    source: bytes, target: bytes, options: CopyOptions | VerifyOptions
) -> dict[str, object]:
    roots = {"source": display_path(source), "target": display_path(target)}
    return roots | plain_object(options)

"""The metadata stage of a verification: what two listings show, before any digest is taken."""

from holdfast.errors import HoldfastError
from holdfast.files.evidence import Evidence
from holdfast.files.ledger import Known, Ledger
from holdfast.files.listing import Walk, join_listings
from holdfast.files.migration.rules import MetadataFinding, Tally, judge_listed
from holdfast.files.model import Finding, VerifyOutcome
from holdfast.files.pair import Pair
from holdfast.model.tree import Stat

_ROWS_PAGE = 2048
_FINDINGS_MAX = 1000
_SHOW_EVERY = 1024


class Comparing:
    """Compares the listings of one directory. Owned by the task; run once.

    What does not match becomes a row of the ledger, under a run of its own; of what matches nothing
    is written, so digests that may be trusted later stay.
    """

    def __init__(self, pair: Pair, tally: Tally) -> None:
        self._pair = pair
        self._tally = tally
        self._rows: list[Known] = []
        self.unlisted: list[Finding] = []
        """The first parts of either tree that could not be listed."""
        self.unlisted_count = 0

    def run(self) -> None:
        """Do it; raises CancelledError when asked to stop."""
        pair = self._pair
        assert pair.source is not None
        fidelity = pair.verified_fidelity()
        run = pair.ledger.next_run()
        done = 0
        walks = [
            Walk(directory=tree, exclusions=pair.exclusions, on_failure=self._on_failure)
            for tree in (pair.source, pair.target)
        ]
        for path, source, target in join_listings(iter(walks[0]), iter(walks[1])):
            finding = judge_listed(source, target, fidelity)
            self._tally.count_listed(finding)
            self._keep(path, source, target, finding, run)
            done += 1
            if done % _SHOW_EVERY == 0:
                pair.context.progress(entries_done=done, bytes_done=0)
        self._write(pair.ledger, run)
        pair.context.progress(entries_done=done, bytes_done=0)

    def _keep(
        self,
        path: bytes,
        source: Stat | None,
        target: Stat | None,
        finding: MetadataFinding,
        run: int,
    ) -> None:
        outcome = _outcome(finding)
        if outcome is None:
            return
        evidence = Evidence(path=path, source_stat=source, target_stat=target, known=None)
        self._rows.append(evidence.row(outcome, "", expectation=False))
        if len(self._rows) >= _ROWS_PAGE:
            self._write(self._pair.ledger, run)

    def _write(self, ledger: Ledger, run: int) -> None:
        with ledger.transaction():
            ledger.entries.put(self._rows, run)
        self._rows.clear()

    def _on_failure(self, path: bytes, error: HoldfastError) -> None:
        self.unlisted_count += 1
        if len(self.unlisted) < _FINDINGS_MAX:
            self.unlisted.append(Finding(path, VerifyOutcome.FAILED, error.message))


def _outcome(finding: MetadataFinding) -> VerifyOutcome | None:
    """Return how an entry stands that does not match; a repair goes by that."""
    match finding:
        case MetadataFinding.NOT_AT_SOURCE:
            return VerifyOutcome.MISSING_AT_SOURCE
        case MetadataFinding.NOT_AT_DESTINATION:
            return VerifyOutcome.MISSING_AT_TARGET
        case MetadataFinding.MISMATCH:
            return VerifyOutcome.METADATA_DIFFERS
        case MetadataFinding.MATCHED | MetadataFinding.SPECIAL:
            return None

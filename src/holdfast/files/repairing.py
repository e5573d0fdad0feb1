"""Plans the repair of what a verification found: only that, and nothing that would lose more.

The source is the truth, except where the verification found the source itself damaged: such an
entry is refused. What only the target has is not a matter of repair, but of `copy --delete`.
"""

from collections import Counter
from collections.abc import Iterator

from holdfast.errors import HoldfastError
from holdfast.files.ledger import Ledger
from holdfast.files.model import Action, Decision, Fidelity, PlanItem, Reason, VerifyOutcome
from holdfast.files.rules import decide, decide_follower
from holdfast.model.tree import FileKind, Stat, parent_of
from holdfast.ports import ReadableDirectory

REPAIRABLE = (
    VerifyOutcome.MISSING_AT_TARGET,
    VerifyOutcome.METADATA_DIFFERS,
    VerifyOutcome.DIGEST_DIFFERS,
)
_PAGE_ROWS = 4096


def plan_repair(
    source: ReadableDirectory, target: ReadableDirectory, ledger: Ledger, fidelity: Fidelity
) -> tuple[dict[Action, int], int]:
    """Store a plan for the repairable findings in the ledger; return its counts and its bytes."""
    counts: Counter[Action] = Counter()
    fetch_bytes = 0
    page: list[PlanItem] = []
    number = 0
    with ledger.transaction():
        ledger.plan.clear()
        for path in ledger.entries.with_outcomes(REPAIRABLE):
            item = _plan_one(source, target, ledger, path, number=number, fidelity=fidelity)
            if item is None:
                continue
            number += 1
            counts[item.action] += 1
            fetch_bytes += item.size_bytes if item.action is Action.FETCH else 0
            page.append(item)
            if len(page) >= _PAGE_ROWS:
                _store(ledger, page)
        _store(ledger, page)
    return dict(counts), fetch_bytes


def _store(ledger: Ledger, page: list[PlanItem]) -> None:
    ledger.plan.add(page)
    ledger.plan.touched.add(_touched(page))
    page.clear()


def _touched(page: list[PlanItem]) -> Iterator[bytes]:
    for item in page:
        if item.kind is FileKind.DIRECTORY:
            yield item.path
        yield parent_of(item.path)


def _plan_one(
    source: ReadableDirectory,
    target: ReadableDirectory,
    ledger: Ledger,
    path: bytes,
    *,
    number: int,
    fidelity: Fidelity,
) -> PlanItem | None:
    try:
        wanted = source.stat(path)
    except HoldfastError:
        return None  # It left the source; the verification that follows tells.
    decision = _decide(wanted, _stat_or_none(target, path), fidelity)
    leader = None
    if fidelity.links and wanted.kind is FileKind.FILE and wanted.links_count > 1:
        decision, leader = _decide_link(ledger, path, wanted, decision)
    return PlanItem(
        number,
        path,
        decision.action,
        decision.reason,
        wanted.kind,
        wanted.size_bytes if decision.action in (Action.FETCH, Action.MAKE_SYMLINK) else 0,
        leader,
        decision.displaces,
    )


def _decide_link(
    ledger: Ledger, path: bytes, wanted: Stat, own: Decision
) -> tuple[Decision, bytes | None]:
    """Plan one name of a hard link group: the first is repaired, the others are linked to it."""
    first = ledger.plan.links.first(wanted.device, wanted.inode)
    if first is None:
        if own.action is not Action.REFUSE:
            ledger.plan.links.add(wanted.device, wanted.inode, path, own.action, None)
        return own, None
    return decide_follower(first[1], same_inode=False, own=own), first[0]


def _decide(wanted: Stat, found: Stat | None, fidelity: Fidelity) -> Decision:
    decision = decide(wanted, found, same_link=False, same_xattrs=False, fidelity=fidelity)
    both_files = found is not None and found.kind is wanted.kind is FileKind.FILE
    if both_files and found and found.size_bytes == wanted.size_bytes:
        # Whatever its time says: compare block by block, write those that differ, set the rest.
        return Decision(Action.FETCH, Reason.DAMAGED)
    return decision


def _stat_or_none(directory: ReadableDirectory, path: bytes) -> Stat | None:
    try:
        return directory.stat(path)
    except HoldfastError:
        return None

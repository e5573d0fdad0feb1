"""Makes the plan of a copy: joins both listings, asks the rules, and stores what is to be done.

Touches neither tree. Memory is that of the two walks; the plan goes to the ledger in pages.

What most entries of most copies are, unchanged files and new ones, is told of whole pages, and only
of a page where it does not hold for each, entry by entry. Both ways decide the same.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from holdfast.errors import HoldfastError, NotFoundError
from holdfast.files.ahead import RunBeside, WalkAhead
from holdfast.files.ledger import Agreed, AgreedRow, Ledger
from holdfast.files.listing import Exclusions, Joined, Walk, join_pages
from holdfast.files.model import (
    Action,
    CopyOptions,
    Decision,
    Fidelity,
    Finding,
    PlanItem,
    PlanSummary,
    Reason,
)
from holdfast.files.rules import (
    are_same_files,
    decide,
    decide_follower,
    decide_linked,
    decide_shared,
    ends_run,
    is_same_file,
)
from holdfast.model.tree import FileKind, Stat, StatColumns, parent_of
from holdfast.ports import ReadableDirectory

_PAGE_ROWS = 4096
_PROGRESS_ENTRIES = 1024


@dataclass(slots=True, kw_only=True)
class Planner:
    """Plans one copy from `source` to `target`, which may not exist yet."""

    source: ReadableDirectory
    target: ReadableDirectory | None
    ledger: Ledger
    options: CopyOptions
    exclusions: Exclusions
    fidelity: Fidelity
    on_progress: Callable[[int, int], None]
    """Called now and then with entries and bytes seen at the source."""
    run_beside: RunBeside = iter
    """Where a large target is listed."""
    listing_findings: list[Finding] = field(default_factory=list)
    """The first thousand parts of the source that could not be listed."""
    _counts: Counter[Action] = field(default_factory=Counter)
    _fetch_bytes: int = 0
    _growth_bytes: int = 0
    _largest_bytes: int = 0
    _source_entries: int = 0
    _source_bytes: int = 0
    _target_entries: int = 0
    _goes_along: int = 0
    _number: int = 0
    _displaced: dict[bytes, tuple[int, Action]] = field(default_factory=dict)
    """Target directories in the way of something else: the row that displaces each, its action."""
    _page: list[PlanItem] = field(default_factory=list)
    _touched: list[bytes] = field(default_factory=list)

    def make(self) -> PlanSummary:
        """Store the plan in the ledger, replacing the one before, and return it in figures."""
        source = Walk(
            directory=self.source, exclusions=self.exclusions, on_failure=self._on_failure
        )
        target = None
        if self.target is not None:
            target = WalkAhead(
                self.target,
                self.exclusions,
                self.run_beside,
                on_failure=self._on_failure,
                on_excluded=self._on_excluded,
            )
        with self.ledger.transaction():
            self.ledger.plan.clear()
            remembered = _Remembered(self.ledger.entries.agreed())
            for joined in join_pages(
                source.pages(), target.pages() if target is not None else iter(())
            ):
                self._plan_page(joined, remembered)
            self._store_page()
        return PlanSummary(
            counts=dict(self._counts),
            fetch_bytes=self._fetch_bytes,
            room_bytes=self._growth_bytes + self._largest_bytes,
            source_entries=self._source_entries,
            source_bytes=self._source_bytes,
            target_entries=self._target_entries,
            goes_along=self._goes_along,
            excluded=source.excluded,
            listing_failures=source.failures + (target.failures if target else 0),
        )

    def _plan_page(self, joined: Joined, remembered: "_Remembered") -> None:
        count, source, target = len(joined.paths), joined.source, joined.target
        if target is not None:
            self._target_entries += count
        if source is not None:
            self._count_source(source)
        known: list[AgreedRow | None] = [None] * count
        if source is not None and target is not None:
            known = remembered.take(joined.paths)
            if are_same_files(source, target) and _all_agree(known, source, target):
                self._counts[Action.KEEP] += count
                return
        elif source is not None and self._are_plain_files(source):
            self._add_new_files(joined.paths, source)
            return
        for (path, left, right), row in zip(joined.rows(), known, strict=True):
            self._plan_one(path, left, right, None if row is None else Agreed._make(row))

    def _count_source(self, source: StatColumns) -> None:
        before = self._source_entries
        self._source_entries += len(source.kind)
        self._source_bytes += sum(
            size_bytes
            for kind, size_bytes in zip(source.kind, source.size_bytes, strict=True)
            if kind is FileKind.FILE
        )
        if before // _PROGRESS_ENTRIES != self._source_entries // _PROGRESS_ENTRIES:
            self.on_progress(self._source_entries, self._source_bytes)

    def _are_plain_files(self, source: StatColumns) -> bool:
        count = len(source.kind)
        return source.kind.count(FileKind.FILE) == count and (
            not self.fidelity.links or source.links_count.count(1) == count
        )

    def _add_new_files(self, paths: list[bytes], source: StatColumns) -> None:
        """Plan files without other names that the target lacks: all alike."""
        decision = decide(next(source.rows()), None, fidelity=self.fidelity)
        self._counts[decision.action] += len(paths)
        self._fetch_bytes += sum(source.size_bytes)
        room = (allocated_bytes + 4096 for allocated_bytes in source.allocated_bytes)
        self._growth_bytes += sum(map(min, source.size_bytes, room))
        self.ledger.plan.add_files(self._number, paths, source.size_bytes, decision)
        self._number += len(paths)
        self._note_touched(paths[0], FileKind.FILE, decision.action)  # One directory holds all.
        self._store_full_page()

    def _plan_one(
        self, path: bytes, source: Stat | None, target: Stat | None, known: Agreed | None
    ) -> None:
        if source is None and self._displaced_above(path) is not None:
            # It goes to the quarantine with the directory it is in; it counts, but has no row.
            self._goes_along += 1
            return
        if (
            source
            and target
            and known
            and is_same_file(source, target)
            and _still_agree(known, source, target)
        ):
            self._counts[Action.KEEP] += 1
            return
        decision = self._decide(path, source, target, known)
        leader = None
        if source and source.kind is FileKind.FILE and self._has_links(source, target):
            decision, leader = self._decide_link(path, source, target, decision)
        self._counts[decision.action] += 1
        if decision.action is not Action.KEEP:
            stat = source or target
            assert stat is not None
            self._add(path, stat, decision, leader)
            if decision.action in (Action.FETCH, Action.MAKE_SYMLINK):
                self._count_room(stat, target)

    def _decide(
        self, path: bytes, source: Stat | None, target: Stat | None, known: Agreed | None
    ) -> Decision:
        same_link = True
        if source and target and source.kind is target.kind is FileKind.SYMLINK:
            same_link = self._links_equal(path)
        decision = decide(
            source,
            target,
            delete=self.options.delete,
            same_link=same_link,
            fidelity=self.fidelity,
        )
        if (
            decision.reason is Reason.SAME
            and source
            and target
            and self._xattrs_differ(path, source, target, known)
        ):
            return Decision(Action.SET_METADATA, Reason.METADATA)
        return decision

    def _xattrs_differ(self, path: bytes, source: Stat, target: Stat, known: Agreed | None) -> bool:
        if not self.fidelity.xattrs or source.kind is FileKind.SYMLINK or self.target is None:
            return False
        if known is not None and _still_agree(known, source, target):
            return False
        try:
            return self.source.xattrs(path) != self.target.xattrs(path)
        except HoldfastError as error:
            if ends_run(error):
                raise
            return False  # It is on the move; the transfer or the verification will tell.

    def _has_links(self, source: Stat, target: Stat | None) -> bool:
        if not self.fidelity.links:
            return False
        return source.links_count > 1 or (target is not None and target.links_count > 1)

    def _links_equal(self, path: bytes) -> bool:
        assert self.target is not None
        try:
            return self.source.read_link(path) == self.target.read_link(path)
        except HoldfastError as error:
            if ends_run(error):
                raise
            return False

    def _decide_link(
        self, path: bytes, source: Stat, target: Stat | None, own: Decision
    ) -> tuple[Decision, bytes | None]:
        """Plan one name of a hard link group: the first is copied, the others are linked to it."""
        own = decide_linked(own, target)
        first = self.ledger.plan.links.first(source.device, source.inode)
        inode = target.inode if target is not None and target.kind is FileKind.FILE else None
        if first is None:
            if inode is not None and self.ledger.plan.links.has_kept(inode):
                own = decide_shared(own)
            if own.action is not Action.REFUSE:  # Else the next name is the first to be made.
                self.ledger.plan.links.add(source.device, source.inode, path, own.action, inode)
            return own, None
        leader, action, leader_inode = first
        same_inode = inode is not None and inode == leader_inode
        return decide_follower(action, same_inode=same_inode, own=own), leader

    def _count_room(self, source: Stat, target: Stat | None) -> None:
        """Count what the target's file system must have free for this entry.

        What is replaced is given back only after its successor stands beside it: so what grows
        counts in full, and of all that is replaced the largest once.
        """
        size_bytes = min(source.size_bytes, source.allocated_bytes + 4096)
        before = target.allocated_bytes if target is not None else 0
        self._fetch_bytes += source.size_bytes
        self._growth_bytes += max(0, size_bytes - before)
        self._largest_bytes = max(self._largest_bytes, min(size_bytes, before))

    def _add(self, path: bytes, stat: Stat, decision: Decision, leader: bytes | None) -> None:
        number = self._number
        self._number += 1
        if decision.displaces is FileKind.DIRECTORY:
            self._displaced[path] = (number, decision.action)
        size_bytes = 0
        if decision.action in (Action.FETCH, Action.MAKE_SYMLINK):
            size_bytes = stat.size_bytes
        self._page.append(
            PlanItem(
                number,
                path,
                decision.action,
                decision.reason,
                stat.kind,
                size_bytes,
                leader,
                decision.displaces,
            )
        )
        self._note_touched(path, stat.kind, decision.action)
        self._store_full_page()

    def _note_touched(self, path: bytes, kind: FileKind, action: Action) -> None:
        """Note the directories whose times the work will move."""
        if action in (Action.SKIP, Action.REFUSE):
            return
        if kind is FileKind.DIRECTORY and action is not Action.DELETE:
            self._touched.append(path)
        parent = parent_of(path)
        if action is not Action.SET_METADATA and (not self._touched or self._touched[-1] != parent):
            self._touched.append(parent)

    def _store_full_page(self) -> None:
        if max(len(self._page), len(self._touched)) >= _PAGE_ROWS:
            self._store_page()

    def _store_page(self) -> None:
        self.ledger.plan.add(self._page)
        self.ledger.plan.touched.add(self._touched)
        self._page.clear()
        self._touched.clear()

    def _on_failure(self, path: bytes, error: HoldfastError) -> None:
        if isinstance(error, NotFoundError) and error.code == "no-root":
            raise error
        if len(self.listing_findings) < 1000:
            self.listing_findings.append(Finding(path, error.kind, error.message))

    def _on_excluded(self, path: bytes) -> None:
        """An excluded entry inside a directory that would go must not go with it."""
        directory = self._displaced_above(path)
        if directory is not None:
            number, action = self._displaced[directory]
            self._store_page()
            self.ledger.plan.refuse(number)
            self._counts[action] -= 1
            self._counts[Action.REFUSE] += 1
            self._displaced[directory] = (number, Action.REFUSE)

    def _displaced_above(self, path: bytes) -> bytes | None:
        """Return the displaced directory an entry is in."""
        while self._displaced and (path := parent_of(path)):
            if path in self._displaced:
                return path
        return None


class _Remembered:
    """What the ledger remembers of entries, taken in path order."""

    def __init__(self, pages: Iterator[list[AgreedRow]]) -> None:
        self._pages = pages
        self._rows: list[AgreedRow] = []
        self._at = 0

    def take(self, paths: list[bytes]) -> list[AgreedRow | None]:
        """Return the row of each path or None; paths must come in order, over all calls."""
        rows = self._up_to(paths)
        if list(map(_PATH, rows)) == paths:
            return [*rows]
        known = dict(zip(map(_PATH, rows), rows, strict=True))
        return list(map(known.get, paths))

    def _up_to(self, paths: list[bytes]) -> list[AgreedRow]:
        found: list[AgreedRow] = []
        while True:
            at = bisect_right(self._rows, paths[-1], self._at, key=_PATH)
            found += self._rows[self._at : at]
            self._at = at
            if len(found) > len(paths):  # There may be a million that are on neither side any more.
                wanted = set(paths)
                found = [row for row in found if _PATH(row) in wanted]
            if at < len(self._rows):
                return found
            page = next(self._pages, None)
            if page is None:
                return found
            self._rows, self._at = page, 0


_PATH = itemgetter(0)
_LOOKS = slice(1, 5)
"""Of a Stat and of Agreed: size, and at the source mtime, ctime and inode."""
_MOVES = slice(2, 5)
_TARGET_LOOKS = slice(5, 8)
"""Of a Stat and of Agreed: mtime, ctime and inode at the target."""


def _still_agree(known: Agreed, source: Stat, target: Stat) -> bool:
    """Say whether two entries found equal are as they were: setting an attribute moves ctime."""
    if known[_LOOKS] != source[_LOOKS]:
        return False
    if known.target_ctime_ns is None:
        return True
    return known.size_bytes == target.size_bytes and known[_TARGET_LOOKS] == target[_MOVES]


def _all_agree(known: list[AgreedRow | None], source: StatColumns, target: StatColumns) -> bool:
    """Say of whole columns that _still_agree holds for each; there is a row for every entry."""
    rows = [row for row in known if row is not None]
    if len(rows) < len(known):
        return False
    _, *columns = zip(*rows, strict=True)
    if columns[:4] != [*source[_LOOKS]]:
        return False
    target_columns = columns[4:]
    if target_columns[1].count(None) == len(rows):
        return True
    return source.size_bytes == target.size_bytes and target_columns == [*target[_MOVES]]

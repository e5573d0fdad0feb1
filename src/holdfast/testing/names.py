"""Names of a simulated file system that survive loss of power: the journal of their changes.

Not here: names as running programs see them (Inode.names), contents.

1. An operation, such as a rename, survives as a whole or not at all.
2. Of two operations on one name the later survives only if the earlier does.
3. A name survives only in a directory that does; until then it waits, even when flushed. So a
   rename into a directory whose own name was never flushed leaves the old name; one out of such a
   directory gives the new name alone.
4. The removal of a directory waits until it is empty; a move never makes a directory its own
   ancestor.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from holdfast.model.tree import FileKind
from holdfast.testing.inodes import Inode

Slot = tuple[int, bytes]
"""Number of a directory and a name in it."""


class NameChange(NamedTuple):
    """What a name leads to afterwards; None where it is removed."""

    directory: Inode
    name: bytes
    inode: Inode | None

    @property
    def slot(self) -> Slot:
        """Return the place that changes."""
        return self.directory.number, self.name


@dataclass(slots=True, eq=False)
class NameOperation:
    """Changes that survive together."""

    changes: tuple[NameChange, ...]
    removed: Inode | None
    """The directory that no longer exists afterwards."""
    is_flushed: bool = False


class DurableNames:
    """What every durable directory holds, by its inode number. Owned by one journal."""

    def __init__(self, root: Inode) -> None:
        self.entries: dict[int, dict[bytes, Inode]] = {root.number: {}}
        self._parents: dict[int, int] = {}

    def copy(self) -> "DurableNames":
        """Return an independent equal one."""
        other = object.__new__(DurableNames)
        other.entries = {number: dict(names) for number, names in self.entries.items()}
        other._parents = dict(self._parents)
        return other

    def settle(
        self, pending: list[NameOperation], survives: Callable[[NameOperation], bool]
    ) -> list[NameOperation]:
        """Carry out, in order, what survives and can; return the rest."""
        left: list[NameOperation] = []
        blocked: set[Slot] = set()
        for operation in pending:
            slots = {change.slot for change in operation.changes}
            placed = {slot for slot in slots if slot[0] in self.entries}
            if survives(operation) and not placed & blocked and self._can_settle(operation):
                self._apply(operation)
                left = [_without(earlier, slots - placed) for earlier in left]
            else:
                left.append(operation)
                blocked |= slots
        return left

    def _can_settle(self, operation: NameOperation) -> bool:
        removed = operation.removed
        if removed is not None and self.entries.get(removed.number):
            return False
        return all(self._can_place(change) for change in operation.changes)

    def _can_place(self, change: NameChange) -> bool:
        if change.inode is None:
            return True
        ancestor: int | None = change.directory.number
        if ancestor not in self.entries:
            return False
        while ancestor is not None:
            if ancestor == change.inode.number:
                return False
            ancestor = self._parents.get(ancestor)
        return True

    def _apply(self, operation: NameOperation) -> None:
        if operation.removed is not None:
            self.entries.pop(operation.removed.number, None)
            self._parents.pop(operation.removed.number, None)
        for directory, name, inode in operation.changes:
            names = self.entries.get(directory.number)
            if names is None:
                continue  # A name removed from a directory that is not there: nothing to do.
            if inode is None:
                names.pop(name, None)
                continue
            names[name] = inode
            if inode.kind is FileKind.DIRECTORY:
                self.entries.setdefault(inode.number, {})
                self._parents[inode.number] = directory.number


def _without(operation: NameOperation, slots: set[Slot]) -> NameOperation:
    """Return an operation less its changes of names that a later one took out of a lost place."""
    if not any(change.slot in slots for change in operation.changes):
        return operation
    kept = tuple(change for change in operation.changes if change.slot not in slots)
    return replace(operation, changes=kept)


class NameJournal:
    """Changes of names in the order they were made, and those that are durable."""

    def __init__(self, root: Inode) -> None:
        self.durable = DurableNames(root)
        self._pending: list[NameOperation] = []

    def record(self, *changes: NameChange, removed: Inode | None = None) -> None:
        """Add an operation, durable as yet in no part."""
        self._pending.append(NameOperation(changes, removed))

    def flush(self, directory: Inode) -> None:
        """Make every name in `directory` durable, and what these depend on."""
        wanted: set[Slot] = set()
        directories = {directory.number}
        for operation in reversed(self._pending):
            slots = {change.slot for change in operation.changes}
            if slots & wanted or any(number in directories for number, _ in slots):
                operation.is_flushed = True
                wanted |= slots
                if operation.removed is not None:
                    directories.add(operation.removed.number)
        self._settle()

    def flush_all(self) -> None:
        """Make every name durable."""
        for operation in self._pending:
            operation.is_flushed = True
        self._settle()

    def survivors(self, chance: Callable[[], bool]) -> DurableNames:
        """Return what is left after loss of power, changing nothing here.

        Args:
            chance: Asked once for each operation that nobody flushed.
        """
        durable = self.durable.copy()
        durable.settle(self._pending, lambda operation: operation.is_flushed or chance())
        return durable

    def _settle(self) -> None:
        self._pending = self.durable.settle(self._pending, lambda operation: operation.is_flushed)

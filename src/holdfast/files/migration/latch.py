"""The completion latch: once a migration is marked complete, nothing is copied here any more."""

from collections.abc import Sequence
from pathlib import Path

from holdfast.files.migration.model import LatchStatus


class Latch:
    """The latch of one instance on one host."""

    def __init__(self, staging: Path, roots: Sequence[bytes] = ()) -> None:
        """Name where it is kept.

        Args:
            staging: The instance's staging directory.
            roots: At a destination: the directories that were copied to, to be marked as well.
        """
        self._staging = staging
        self._roots = tuple(roots)

    def read(self) -> LatchStatus:
        """Return the state; COMPLETED if the record or any marker says so."""
        raise NotImplementedError

    def complete(self, now_ns: int) -> LatchStatus:
        """Mark it complete, durably; ConflictError (`migration-completed`) if it already is."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget it. Done if there is none."""
        raise NotImplementedError

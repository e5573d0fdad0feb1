"""What a caller of a node may do. Who holds what is settings; this is only the names."""

from enum import StrEnum


class Permission(StrEnum):
    """One right at a node. Who has any of them may also look, as with READ."""

    COPY = "copy"
    """Start, change and cancel copies and repairs, mark a migration complete; at a source, read
    the bytes of files and what VERIFY reads."""
    VERIFY = "verify"
    """Start and cancel verifications; at a source, list trees and ask for digests."""
    READ = "read"
    """Look at tasks, their results and events, at status, node and metrics."""


ALL_PERMISSIONS = frozenset(Permission)

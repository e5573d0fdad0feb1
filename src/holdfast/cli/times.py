"""How the command line spells moments."""

from datetime import UTC, datetime


def format_time(at_ns: int) -> str:
    """Return `2026-01-31 12:00:00Z` for nanoseconds since the epoch of Unix."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

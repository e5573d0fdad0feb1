"""The completion latch: once a migration is marked complete, nothing is copied here any more.

The record is `live_migration_status.json` in the staging directory, in Sidecar's shape. At a
destination each root that was copied to is marked as well (`.holdfast/completed.json`), so that a
staging directory that was lost or emptied does not open the latch over a database that runs.

Order of writes of `complete`: each marker, whole and durable; then the record, made with
create-new semantics, durable. Cut off between: some marker stands, which reads as COMPLETED with
the time in it, and the next `complete` is told so. Of two at once one makes the record.
Order of `clear`: the record, then the markers. Cut off between: COMPLETED still.

Invariants:
1. It is COMPLETED while the record or any marker stands, whatever is in it.
2. `complete` returns once for each time the latch is clear.
"""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from holdfast.errors import ConflictError, StorageFailedError
from holdfast.files.migration.model import LatchState, LatchStatus
from holdfast.model.tree import SIDE_DIRECTORY, display_path

RECORD_NAME: Final = "live_migration_status.json"
_MARKER: Final = os.fsdecode(SIDE_DIRECTORY) + "/completed.json"
_KEY: Final = "idempotencyKey"
_RECORD_BYTES_MAX: Final = 64 * 1024


class Latch:
    """The latch of one instance on one host. Processes may share it."""

    def __init__(self, staging: Path, roots: Sequence[bytes] = ()) -> None:
        """Name where it is kept.

        Args:
            staging: The instance's staging directory.
            roots: At a destination: the directories that were copied to, to be marked as well.
        """
        self._record = staging / RECORD_NAME
        self._markers = [Path(os.fsdecode(root)) / _MARKER for root in roots]

    def read(self) -> LatchStatus:
        """Return the state; COMPLETED if the record or any marker says so."""
        for path in (self._record, *self._markers):
            status = _read(path)
            if status is not None:
                return status
        return LatchStatus(state=LatchState.NOT_COMPLETED, end_time_ms=None)

    def complete(self, now_ns: int, idempotency_key: str | None = None) -> LatchStatus:
        """Mark it complete; when this returns, that survives loss of power.

        With the key it was marked complete with before, return what was answered then.

        Raises:
            ConflictError: `migration-completed`: it already is.
            StorageFailedError: `write-failed`.
        """
        known = self.read()
        if known.state is LatchState.COMPLETED:
            return self._repeated(known, idempotency_key)
        status = LatchStatus(state=LatchState.COMPLETED, end_time_ms=now_ns // 1_000_000)
        key = {} if idempotency_key is None else {_KEY: idempotency_key}
        text = json.dumps(status.as_json() | key).encode("ascii")
        try:
            for marker in self._markers:
                if marker.parent.parent.is_dir():
                    _write_new(marker, text)
            if not _write_new(self._record, text):
                return self._repeated(self.read(), idempotency_key)
        except OSError as error:
            raise _failed(self._record, error) from error
        return status

    def _repeated(self, known: LatchStatus, idempotency_key: str | None) -> LatchStatus:
        if idempotency_key is not None:
            for path in (self._record, *self._markers):
                if _said(path).get(_KEY) == idempotency_key:
                    return known
        raise _completed()

    def clear(self) -> None:
        """Forget it, durably; nothing to do if there is none.

        Raises:
            StorageFailedError: `write-failed`.
        """
        for path in (self._record, *self._markers):
            try:
                path.unlink(missing_ok=True)
                if path.parent.is_dir():
                    _flush_directory(path.parent)
            except NotADirectoryError:
                continue
            except OSError as error:
                raise _failed(path, error) from error


def _read(path: Path) -> LatchStatus | None:
    """Return what a record says; a record that cannot be read is one all the same."""
    text = _text(path)
    if text is None:
        return None
    end_time_ms = _parse(text).get("endTime")
    return LatchStatus(
        state=LatchState.COMPLETED,
        end_time_ms=end_time_ms if isinstance(end_time_ms, int) else None,
    )


def _said(path: Path) -> dict[str, object]:
    return _parse(_text(path) or b"")


def _text(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read(_RECORD_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed(path, error) from error


def _parse(text: bytes) -> dict[str, object]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _write_new(path: Path, text: bytes) -> bool:
    """Make a file whole and durable under a name that is free; say whether it was."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(fresh)
    _flush_directory(path.parent)
    _flush_directory(path.parent.parent)
    return True


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _completed() -> ConflictError:
    return ConflictError(
        "this migration is already marked complete",
        code="migration-completed",
        advice="to migrate again, take the hosts out of the migration map and delete the status",
    )


def _failed(path: Path, error: OSError) -> StorageFailedError:
    return StorageFailedError(
        f"the completion record {display_path(os.fsencode(path))} cannot be used: {error.strerror}",
        code="write-failed",
        advice="check owner, mode and room of the staging directory",
    )

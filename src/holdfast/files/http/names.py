"""How names that are bytes stand in URLs: encoded once, decoded once. Pure.

Invariants:

1. `decode_path(encode_path(path))` is `path` for every path; nothing is decoded twice.
2. No decoded path leads anywhere but below its root: `..`, `.`, empty names, NUL, and a slash
   that was spelled %2F are refused.
"""

import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes
from uuid import UUID

from holdfast.errors import InvalidRequestError
from holdfast.model.ids import TaskId
from holdfast.model.tree import check_path, display_path

LIVE_MIGRATION: Final = "/api/v1/live-migration"
FILES: Final = f"{LIVE_MIGRATION}/files"

_SAFE: Final = "/!$&'()*+,;=:@"
"""What RFC 3986 lets stand in a path as it is, beside letters, digits and `-._~`."""
_INDEX: Final = re.compile(rb"\d{1,9}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_TASK: Final = re.compile(r"task-[0-9a-f]{32}", re.ASCII)
_FIRST_SEGMENTS: Final = FILES.count("/") + 1
_SHOWN_MAX: Final = 200


def encode_path(path: bytes) -> str:
    """Spell a path below a root so that it can stand in a URL."""
    return quote_from_bytes(path, safe=_SAFE)


def file_url(kind: str, index: int, path: bytes) -> str:
    """Return the URL, without a host, of a file of an instance."""
    return f"{FILES}/{kind}/{index}/{encode_path(path)}"


class FileAddress:
    """Which file of an instance a URL names."""

    __slots__ = ("index", "kind", "path")

    def __init__(self, kind: str, index: int, path: bytes) -> None:
        self.kind = kind
        self.index = index
        self.path = path


def parse_file_address(raw_path: bytes) -> FileAddress:
    """Return what the undecoded path of a URL below FILES names.

    Raises:
        InvalidRequestError: `bad-directory-type`, `bad-directory-index` or `bad-path`.
    """
    kind, index, *names = [
        unquote_to_bytes(segment) for segment in raw_path.split(b"/")[_FIRST_SEGMENTS:]
    ]
    if _INDEX.fullmatch(index) is None:
        raise InvalidRequestError(
            f"Invalid directoryIndex: {display_path(index[:_SHOWN_MAX])}",
            code="bad-directory-index",
            advice="it is a number from 0",
        )
    path = b"/".join(names)
    if any(b"/" in name for name in names):
        raise _relative(path)
    try:
        check_path(path)
    except InvalidRequestError:
        raise _relative(path) from None
    return FileAddress(display_path(kind[:_SHOWN_MAX]), int(index), path)


def task_uuid(task_id: TaskId) -> str:
    """Spell a task id as the UUID that Sidecar's clients expect."""
    return str(UUID(hex=task_id.removeprefix("task-")))


def parse_task_name(text: str) -> TaskId | None:
    """Return the id of a task spelt either way; None for what cannot be one."""
    if _UUID.fullmatch(text):
        return TaskId("task-" + text.replace("-", "").lower())
    return TaskId(text) if _TASK.fullmatch(text) else None


def _relative(path: bytes) -> InvalidRequestError:
    return InvalidRequestError(
        f"Tried to access file using relative path: {display_path(path[:_SHOWN_MAX])}",
        code="bad-path",
        advice="ask for a fileUrl of the list of files, as it is",
    )

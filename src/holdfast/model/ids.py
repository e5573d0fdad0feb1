"""Names of things that have one: their spelling, and parsers that refuse every other."""

import re
from typing import NewType

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import VOLUME_NAME_BYTES_MAX

TaskId = NewType("TaskId", str)
"""`task-` and the 32 hexadecimal digits of a UUID."""

_UUID_EPOCH_TICKS = 0x01B21DD213814000
"""From 1582-10-15 to the epoch of Unix, in 100 ns."""

VolumeName = NewType("VolumeName", str)
"""Letters, digits, `.`, `_` and `-`, a letter or digit first; at most VOLUME_NAME_BYTES_MAX."""

_TASK_ID = re.compile(r"task-[0-9a-f]{32}")
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def task_id_from(now_ns: int, random_bytes: bytes) -> TaskId:
    """Spell a task id: a UUID of version 1 (RFC 9562, 5.1) of a moment, its node made by chance.

    Args:
        now_ns: Wall clock.
        random_bytes: Exactly 8; 61 bits of them count.
    """
    assert len(random_bytes) == 8
    ticks = (now_ns // 100 + _UUID_EPOCH_TICKS) % (1 << 60)
    time = (ticks % (1 << 32), ticks >> 32 & 0xFFFF, ticks >> 48 | 0x1000)
    rest = bytearray(random_bytes)
    rest[0] = rest[0] & 0x3F | 0x80
    rest[2] |= 0x01  # Of a node that is no network card.
    return TaskId(f"task-{time[0]:08x}{time[1]:04x}{time[2]:04x}{rest.hex()}")


def parse_task_id(text: str) -> TaskId:
    """Return `text` as a task id, or raise InvalidRequestError (`bad-task-id`)."""
    if not _TASK_ID.fullmatch(text):
        raise InvalidRequestError(
            f"{text!r} is not a task id",
            code="bad-task-id",
            advice="a task id is 'task-' and 32 hexadecimal digits; see 'holdfast tasks list'",
        )
    return TaskId(text)


def parse_volume_name(text: str) -> VolumeName:
    """Return `text` as the name of a volume, or raise InvalidRequestError (`bad-volume-name`).

    A name is a file name, an NBD export and a label at once, so it has no `/`, `@` or space.
    """
    if len(text) > VOLUME_NAME_BYTES_MAX or not _VOLUME_NAME.fullmatch(text):
        raise InvalidRequestError(
            f"{text[: 2 * VOLUME_NAME_BYTES_MAX]!r} cannot be the name of a volume",
            code="bad-volume-name",
            advice=f"take 1 to {VOLUME_NAME_BYTES_MAX} letters, digits, '.', '_' and '-', "
            "a letter or digit first",
        )
    return VolumeName(text)

"""Names of things that have one: their spelling, and parsers that refuse every other."""

import re
from typing import NewType

from holdfast.errors import InvalidRequestError

TaskId = NewType("TaskId", str)
"""`task-` and 32 hexadecimal digits."""

_TASK_ID = re.compile(r"task-[0-9a-f]{32}")


def task_id_from(random_bytes: bytes) -> TaskId:
    """Spell a task id from exactly 16 random bytes."""
    assert len(random_bytes) == 16
    return TaskId("task-" + random_bytes.hex())


def parse_task_id(text: str) -> TaskId:
    """Return `text` as a task id, or raise InvalidRequestError (`bad-task-id`)."""
    if not _TASK_ID.fullmatch(text):
        raise InvalidRequestError(
            f"{text!r} is not a task id",
            code="bad-task-id",
            advice="a task id is 'task-' and 32 hexadecimal digits; see 'holdfast tasks list'",
        )
    return TaskId(text)

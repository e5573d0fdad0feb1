"""The process of one task of a node: `python -m holdfast.server.task_process TASK LOCK PARENT`.

Started by node_tasks.py, which hands over the descriptor of the task's lock, its own process id,
and the node's settings on standard input; everything else is in the journal. It ends when the task
does, or when the node's process dies. SIGTERM stops the work in order: what was settled stays.
"""

import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Final

from holdfast.errors import HoldfastError
from holdfast.model.ids import parse_task_id
from holdfast.server.node_logs import configure_logs, node_log
from holdfast.server.node_settings import parse_node_settings
from holdfast.server.node_work import run_task
from holdfast.stores.directories.linux import die_with_parent
from holdfast.stores.processes import collect_seldom
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.model import Task
from holdfast.tasks.runner import Runner, TaskContext

ENDED: Final = 0
FAILED: Final = 1
STOPPED: Final = 130

_log = node_log("task")


def main(arguments: list[str]) -> int:
    """Do the work of one task; return how it ended."""
    signal.signal(signal.SIGTERM, interrupt)
    die_with_parent()
    if os.getppid() != int(arguments[2]):
        return STOPPED  # It died before the kernel was asked; the next node starts another.
    task_id, lock = parse_task_id(arguments[0]), int(arguments[1])
    settings = parse_node_settings(sys.stdin.read())
    configure_logs(settings.identity.log_level, task=task_id)
    collect_seldom()
    clock = SystemClock()
    journal = TaskJournal(settings.state / "tasks.sqlite", clock, SystemEntropy())
    runner = Runner(journal, settings.state / "locks", clock)

    def work(context: TaskContext) -> Mapping[str, object]:
        return run_task(settings, context)

    try:
        task = runner.adopt(task_id, lock, work, listener=_StageLog())
        _log.info("task completed", stage=task.stage)
        return ENDED
    except KeyboardInterrupt:
        _log.info("task stopped")
        return STOPPED
    except HoldfastError as error:
        _log.warning("task failed", **error.as_problem())
        return FAILED
    except Exception:  # noqa: BLE001 the outermost loop
        _log.exception("defect")
        return FAILED
    finally:
        journal.close()


class _StageLog:
    """Logs each stage as it begins."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, task: Task) -> None:
        if task.stage != self._stage:
            self._stage = task.stage
            _log.info("stage entered", stage=task.stage, attempt=task.attempt)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Let SIGTERM end the work as Ctrl-C would: settled, recorded, to be gone on with."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

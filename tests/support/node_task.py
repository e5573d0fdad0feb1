"""The process of a task in tests of routes: adopts its lock and does what its request says.

Run with: state directory, task id, descriptor of the lock. It tells the detail in the file
`detail.json` of the state directory until `finish.json` is there, which is its result, or is asked
to stop.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from holdfast.model.ids import parse_task_id
from holdfast.stores.system import SystemClock, SystemEntropy
from holdfast.tasks.journal import TaskJournal
from holdfast.tasks.runner import Runner, TaskContext


def main(state: Path, task_id: str, lock: int) -> None:
    """Run it."""
    clock = SystemClock()
    journal = TaskJournal(state / "tasks.sqlite", clock, SystemEntropy())

    def work(context: TaskContext) -> Mapping[str, object]:
        context.enter("waiting")
        done = 0
        while not (state / "finish.json").exists():
            if (state / "detail.json").exists():
                context.tell(json.loads((state / "detail.json").read_text()))
            done += 1
            context.progress(entries_done=done, bytes_done=done * 1000)
            clock.sleep(0.02)
        result: dict[str, object] = json.loads((state / "finish.json").read_text())
        context.tell(result)
        return result

    Runner(journal, state / "locks", clock).adopt(parse_task_id(task_id), lock, work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

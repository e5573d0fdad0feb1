"""Goal: the adopted task is done here once; what it asks for meanwhile and afterwards has its own.

Method: a runner over a real journal adopts a task of it, and is asked for another inside and after.
"""

from collections.abc import Mapping
from pathlib import Path

from holdfast.checkpoints.resuming import AdoptedRunner
from holdfast.server.local import LocalServices
from holdfast.tasks.model import Task
from holdfast.tasks.runner import TaskContext


def _ignore(_task: Task) -> None:
    pass


def test_adopted_task_has_its_result_and_others_run_beside_it(tmp_path: Path) -> None:
    services = LocalServices(tmp_path)
    seen: list[Task] = []

    def outer(context: TaskContext) -> Mapping[str, object]:
        runner = AdoptedRunner(services.runner, context)

        def other(_context: TaskContext) -> Mapping[str, object]:
            return {"other": True}

        def work(_context: TaskContext) -> Mapping[str, object]:
            seen.append(runner.run("other", "inside", {}, other, listener=_ignore))
            return {"healed": ["x"]}

        seen.append(runner.run("k", "s", {}, work, listener=_ignore))
        seen.append(runner.run("other", "after", {}, other, listener=_ignore))
        assert runner.result is not None
        return runner.result

    ended = services.runner.run("k", "s", {}, outer)

    inside, adopted, after = seen
    assert adopted.id == ended.id
    assert adopted.result == ended.result == {"healed": ["x"]}
    assert len({inside.id, adopted.id, after.id}) == 3
    assert inside.result == after.result == {"other": True}

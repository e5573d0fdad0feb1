"""Goal: the routes of checkpoints do what the service does, page by page, and tell errors as such.

Method: the ASGI application asked in this process, over a bank in a directory and threads for
workers, as a server has them.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from holdfast.checkpoints.http import checkpoint_routes
from holdfast.checkpoints.model import Resource, Retention
from holdfast.checkpoints.service import Checkpoints
from holdfast.files.http.problems import problem_response
from holdfast.model.ids import TaskId
from holdfast.server.checkpoints import make_bank_directory, open_checkpoints
from holdfast.server.local import LocalServices
from tests.support.trees import make_tree, read_tree

pytestmark = pytest.mark.anyio


class Asker:
    """Asks an application without a socket."""

    def __init__(self, facet: Checkpoints) -> None:
        self.facet = facet
        self._application = Starlette(
            routes=checkpoint_routes(facet, problem_response, make_bank_directory)
        )

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str = ""
    ) -> tuple[int, Any]:
        """Return status and decoded body."""
        raw_path, _, query = f"/api/v1{path}".partition("?")
        content = b"" if body is None else body if isinstance(body, bytes) else _encode(body)
        headers = [(b"idempotency-key", key.encode())] if key else []
        scope = {
            "type": "http", "method": method, "path": raw_path, "raw_path": raw_path.encode(),
            "query_string": query.encode(), "headers": headers, "http_version": "1.1",
            "server": ("x", 80), "client": ("y", 1), "scheme": "http", "root_path": "",
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._application(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])

    async def start(self, path: str) -> tuple[int, Any]:
        """Start a task once the one before, which has ended, has let go of its lock."""
        while (answer := await self.ask("POST", path))[0] == 409:
            await asyncio.sleep(0.02)
        return answer

    async def finish(self, answer: tuple[int, Any]) -> dict[str, Any]:
        """Wait until the task of a 202 has ended and return its result."""
        assert answer[0] == 202, answer
        history = self.facet.around.task_state
        while True:
            state = history(answer[1]["taskId"])
            if state is not None and state.value not in ("pending", "running"):
                return {"state": state.value}
            await asyncio.sleep(0.02)


def _encode(body: object) -> bytes:
    return json.dumps(body).encode()


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    services = LocalServices(tmp_path / "state")
    facet = open_checkpoints(services, may_fork=False)
    tree = make_tree(tmp_path / "tree", files=30)
    (tmp_path / "bank").mkdir()
    facet.make_plan(
        "p",
        str(tmp_path / "bank"),
        [Resource(type="Holdfast::Directory", id=str(tree))],
        retention=Retention(),
    )
    assert TaskId("x")
    return Asker(facet)


async def test_protect_verify_restore_delete(asker: Asker, tmp_path: Path) -> None:
    await asker.finish(await asker.ask("POST", "/plans/p/protect"))
    _, listed = await asker.ask("GET", "/checkpoints?plan=p")
    (checkpoint,) = listed["checkpoints"]
    path = f"/checkpoints/{checkpoint['id']}"

    await asker.finish(await asker.ask("POST", f"{path}/verify", {"depth": "digest"}))
    status, shown = await asker.ask("GET", path)
    assert (status, shown["verified"]["verdict"]) == (200, "success")
    assert shown["body"]["records"][0]["status"] == "available"
    target = {"Holdfast::Directory": {"target": str(tmp_path / "out")}}
    ended = await asker.finish(await asker.ask("POST", f"{path}/restore", {"parameters": target}))
    assert ended["state"] == "completed"
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "tree")
    await asker.finish(await asker.ask("DELETE", path))
    assert (await asker.ask("GET", "/checkpoints"))[1]["checkpoints"] == []


async def test_pages_go_on_where_the_one_before_ended(asker: Asker) -> None:
    for _ in range(5):
        await asker.finish(await asker.start("/plans/p/protect"))
    seen, cursor = [], ""
    while True:
        _, page = await asker.ask("GET", f"/checkpoints?limit=2{cursor}")
        seen += [each["id"] for each in page["checkpoints"]]
        if page["cursorNext"] is None:
            break
        cursor = f"&cursor={page['cursorNext']}"

    assert len(seen) == len(set(seen)) == 5


async def test_plan_is_made_changed_and_retained(asker: Asker, tmp_path: Path) -> None:
    body = {
        "name": "q",
        "bank": str(tmp_path / "new"),
        "resources": [{"type": "Holdfast::Directory", "id": str(tmp_path / "tree")}],
    }
    status, made = await asker.ask("POST", "/plans", body)
    assert (status, made["bank"]) == (201, str(tmp_path / "new"))
    changed = (await asker.ask("POST", "/plans", body | {"retention": {"last": 1}}))[1]
    assert changed["id"] == made["id"]
    assert (await asker.ask("GET", "/plans/q"))[1] == changed
    for _ in range(3):
        await asker.finish(await asker.start("/plans/q/protect"))

    status, dry = await asker.ask("POST", "/plans/q/retain", {"dryRun": True})
    assert (status, [fate["keep"] for fate in dry["fates"]]) == (200, [True, False, False])
    assert all(fate["reasons"] for fate in dry["fates"])
    assert len((await asker.ask("GET", "/checkpoints?plan=q"))[1]["checkpoints"]) == 3
    ended = await asker.finish(await asker.ask("POST", "/plans/q/retain", {}))
    assert ended["state"] == "completed"
    (left,) = (await asker.ask("GET", "/checkpoints?plan=q"))[1]["checkpoints"]
    assert left["id"] == dry["fates"][0]["checkpoint"]


async def test_plan_without_checkpoints_is_removed_with_its_schedules(asker: Asker) -> None:
    await asker.finish(await asker.ask("POST", "/plans/p/protect"))
    (checkpoint,) = (await asker.ask("GET", "/checkpoints"))[1]["checkpoints"]
    schedule = {"plan": "p", "cron": "0 3 * * *"}
    assert (await asker.ask("POST", "/schedules", schedule))[0] == 201

    assert (await asker.ask("DELETE", "/plans/p"))[0] == 409
    await asker.finish(await asker.ask("DELETE", f"/checkpoints/{checkpoint['id']}"))
    assert await asker.ask("DELETE", "/plans/p") == (200, {"plan": "p"})

    assert (await asker.ask("GET", "/plans"))[1] == {"plans": []}
    assert (await asker.ask("GET", "/schedules"))[1] == {"schedules": []}
    assert (await asker.ask("DELETE", "/plans/p"))[0] == 404


async def test_checkpoint_is_held_locked_and_released(asker: Asker) -> None:
    await asker.finish(await asker.ask("POST", "/plans/p/protect"))
    (checkpoint,) = (await asker.ask("GET", "/checkpoints"))[1]["checkpoints"]
    path = f"/checkpoints/{checkpoint['id']}"
    held = await asker.ask("PUT", f"{path}/protection", {"protected": True})
    assert (held[0], held[1]["protected"]) == (200, True)
    assert (await asker.ask("DELETE", path))[0] == 409
    locked = (await asker.ask("PUT", f"{path}/protection", {"lockDays": 2}))[1]
    assert (locked["protected"], bool(locked["lockedUntil"])) == (True, True)
    again = (await asker.ask("PUT", f"{path}/protection", {"lockDays": 1}))[1]
    assert again["lockedUntil"] == locked["lockedUntil"]
    freed = (await asker.ask("PUT", f"{path}/protection", {}))[1]
    assert (freed["protected"], freed["lockedUntil"]) == (False, locked["lockedUntil"])


async def test_bank_is_examined_swept_and_healed(asker: Asker, tmp_path: Path) -> None:
    await asker.finish(await asker.ask("POST", "/plans/p/protect"))
    bank = {"bank": str(tmp_path / "bank")}
    for work, more in (
        ("examine", {"signers": ["x"]}),
        ("sweep", {}),
        ("heal", {"from": bank["bank"]}),
    ):
        while (answer := await asker.ask("POST", f"/banks/{work}", bank | more))[0] == 409:
            await asyncio.sleep(0.02)
        assert (await asker.finish(answer))["state"] == "completed"


async def test_schedules_are_added_and_removed(asker: Asker) -> None:
    wanted = {"plan": "p", "operation": "verify", "cron": "0 3 * * *", "percent": 10}
    status, added = await asker.ask("POST", "/schedules", wanted)
    assert (status, added["parameters"]) == (201, {"percent": 10})
    assert (await asker.ask("GET", "/schedules"))[1]["schedules"] == [added]
    assert (await asker.ask("DELETE", f"/schedules/{added['id']}"))[0] == 200
    assert (await asker.ask("DELETE", f"/schedules/{added['id']}"))[0] == 404


async def test_same_key_gives_the_same_task(asker: Asker) -> None:
    first = await asker.ask("POST", "/plans/p/protect", key="once")
    await asker.finish(first)
    again = await asker.ask("POST", "/plans/p/protect", key="once")
    assert again == first
    other = await asker.ask("POST", "/plans/p/protect", {"parameters": {"a": {}}}, key="once")
    assert (other[0], other[1]["code"]) == (409, "idempotency-key-reused")
    assert (await asker.ask("POST", "/plans/p/protect", key="a b"))[0] == 400
    assert len((await asker.ask("GET", "/checkpoints"))[1]["checkpoints"]) == 1


PLAN = {"name": "n", "bank": "/b", "resources": [{"type": "Holdfast::Directory", "id": "/"}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/checkpoints/00000000-0000-0000-0000-000000000000", None, 404),
        ("GET", "/checkpoints/x", None, 400),
        ("GET", "/checkpoints?limit=0", None, 400),
        ("GET", "/checkpoints?limit=99999", None, 400),
        ("GET", "/checkpoints?state=odd", None, 400),
        ("GET", "/checkpoints?cursor=x", None, 400),
        ("GET", "/checkpoints?plan=nobody", None, 404),
        ("POST", "/plans/nobody/protect", None, 404),
        ("POST", "/plans/p/protect", b"{", 400),
        ("POST", "/plans/p/protect", b"[]", 400),
        ("POST", "/plans/p/protect", {"parameters": {"a": 1}}, 400),
        ("POST", "/plans/p/protect", b"x" * 70_000, 413),
        ("POST", "/checkpoints/x/verify", {"depth": "deep"}, 400),
        ("POST", "/checkpoints/x/verify", {"percent": 0}, 400),
        ("GET", "/plans/nobody", None, 404),
        ("POST", "/plans", {}, 400),
        ("POST", "/plans", PLAN | {"bank": "relative"}, 400),
        ("POST", "/plans", PLAN | {"bank": "s3+https://key:secret@host/b"}, 400),
        ("POST", "/plans", PLAN | {"bank": "s3+https://host/b?token=secret"}, 400),
        ("POST", "/plans", PLAN | {"resources": []}, 400),
        ("POST", "/plans", PLAN | {"resources": [{"id": "/"}]}, 400),
        ("POST", "/plans", PLAN | {"resources": [{"type": "Holdfast::Directory", "id": "x"}]}, 400),
        ("POST", "/plans", PLAN | {"retention": {"last": -1}}, 400),
        ("POST", "/plans", PLAN | {"retention": {"odd": 1}}, 400),
        ("POST", "/plans/nobody/retain", {}, 404),
        ("POST", "/plans/p/retain", {"dryRun": 1}, 400),
        ("POST", "/schedules", {"plan": "p", "cron": "never"}, 400),
        ("POST", "/schedules", {"plan": "nobody", "cron": "0 3 * * *"}, 404),
        ("POST", "/schedules", {"plan": "p", "cron": "0 3 * * *", "operation": "odd"}, 400),
        ("PUT", "/checkpoints/x/protection", {"lockDays": -1}, 400),
        ("POST", "/banks/examine", {"bank": "x"}, 400),
        ("POST", "/banks/examine", {"bank": "/nowhere", "signers": "x"}, 400),
        ("POST", "/banks/sweep", {"bank": "/nowhere", "graceSeconds": -1}, 400),
        ("POST", "/banks/heal", {"bank": "/nowhere"}, 400),
    ],
)
async def test_mistakes_are_answered_as_mistakes(
    asker: Asker, method: str, path: str, body: object, status: int
) -> None:
    answer = await asker.ask(method, path, body)

    assert answer[0] == status
    assert answer[1]["code"]

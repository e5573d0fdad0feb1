"""Goal: one node serves volumes and checkpoints beside migrations, with one door and one life.

Method: a real node with tokens over a state directory that holds a volume and a plan; it is asked
over HTTP and by nbdinfo, has its data process killed, is stopped, started again and killed.
Invariants: node_facets 1 and 2, node_volumes 1 and 2, checkpoints/resuming 1, node 2 and 3.
"""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpoints.model import Resource, Retention
from holdfast.checkpoints.scheduling import ScheduledOperation, Scheduler
from holdfast.server.checkpoints import open_checkpoints
from holdfast.server.local import LocalServices
from holdfast.server.volumes import open_volumes
from tests.support.command import Completed, Holdfast
from tests.support.heads import ask
from tests.support.node_process import SOURCE, NodeProcess, child_named, is_running
from tests.support.trees import make_tree, read_tree
from tests.support.volumes import need, run

MIB = 1 << 20
VOLUME = "/api/v1/volumes/db"
DIRECTORY = "Holdfast::Directory"
TOKENS = {"operator": "copy,verify,read", "prover": "verify", "viewer": "read"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with the volume `db`, and the plan `p` on which nothing is due."""
    need("nbdinfo")
    state = tmp_path / "node" / "state"
    asyncio.run(open_volumes(state).create("db", 8 * MIB, "general"))
    (tmp_path / "bank").mkdir()
    facet = open_checkpoints(LocalServices(state))
    tree = Resource(type=DIRECTORY, id=str(make_tree(tmp_path / "tree", files=30)))
    facet.make_plan("p", str(tmp_path / "bank"), [tree], retention=Retention())
    Scheduler(facet).add("p", ScheduledOperation.PROTECT, "0 0 1 1 *", {})
    return state


@pytest.fixture
def node(state: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node, not started."""
    tokens = tmp_path / "tokens"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in TOKENS}
    lines = [f"{name} {held} sha256:{digests[name]}\n" for name, held in TOKENS.items()]
    tokens.write_text("".join(lines))
    tokens.chmod(0o600)
    node = NodeProcess(
        name=SOURCE,
        directory=state.parent,
        token="operator",
        more=f'[access]\ntoken_file = "{tokens}"\n[checkpoints]\nenabled = true\n'
        '[volumes]\nenabled = true\nserve = ["all"]\n[volumes.listen]\ndb = "127.0.0.1:0"\n',
    )
    try:
        yield node
    finally:
        if node.process is not None:
            node.stop(signal.SIGKILL)


@pytest.mark.slow
def test_node_serves_volumes_and_checkpoints(node: NodeProcess, tmp_path: Path) -> None:
    node.start()
    wait_until_ready(node)
    served = node.ask("GET", VOLUME).json["serving"]
    for uri in served["listening"]:
        assert run("nbdinfo", "--size", uri) == f"{8 * MIB}\n"
    check_access(node)
    checkpoint = protect_verify_restore(node, tmp_path)
    keep_well(node, tmp_path, checkpoint)
    told = node.ask("GET", "/metrics").body.decode()
    assert 'holdfast_volume_size_bytes{volume="db"}' in told
    assert 'holdfast_checkpoints{plan="p",state="available",verdict="success"} 1.0' in told
    assert "holdfast_checkpoint_schedule_next_timestamp_seconds{" in told
    described = node.ask("GET", "/openapi.json").json["paths"]
    assert {"/api/v1/volumes/{name}/scrub", "/api/v1/checkpoints/{id}/restore"} <= set(described)

    os.kill(served["pid"], signal.SIGKILL)
    refused = wait_for(lambda: node.ask("GET", "/readyz"), lambda answer: answer.status == 503)
    assert refused.json["code"] == "volume-down"
    wait_until_ready(node)

    process_id = data_process(node)
    assert node.stop() == 0
    assert not is_running(process_id)
    node.start()
    wait_until_ready(node)
    again = node.ask("GET", VOLUME).json["serving"]
    assert run("nbdinfo", "--size", again["listening"][0]) == f"{8 * MIB}\n"
    tasks = node.ask("GET", "/api/v1/tasks").json["tasks"]
    kinds = ["delete", "retain", "sweep", "examine", "protect", "protect"]
    kinds += ["files.copy", "restore", "verify", "protect"]
    assert [task["kind"].removeprefix("checkpoints.") for task in tasks] == kinds
    assert node.ask("GET", f"/api/v1/checkpoints/{checkpoint}").json["state"] == "available"

    process_id = data_process(node)
    node.stop(signal.SIGKILL)
    wait_for(lambda: is_running(process_id), lambda runs: not runs)
    node.start()
    wait_until_ready(node)
    assert data_process(node) != process_id


@pytest.mark.slow
def test_killed_node_goes_on_with_a_protect_and_runs_what_is_due(
    node: NodeProcess, state: Path, tmp_path: Path
) -> None:
    facet = open_checkpoints(LocalServices(state))
    (row,) = facet.catalogue.schedules.rows()
    facet.catalogue.schedules.put({**row, "next_ns": 1})
    node.start()
    ran = wait_for(
        lambda: node.ask("GET", "/api/v1/schedules").json["schedules"][0],
        lambda schedule: schedule["lastResult"] != "",
    )
    assert ran["lastResult"] == "success"

    for number in range(64):
        (tmp_path / "tree" / f"large-{number}").write_bytes(os.urandom(4 * MIB))
    started = node.ask("POST", "/api/v1/plans/p/protect", {}).json["taskId"]
    node.wait_for(started, lambda task: task["state"] == "running" and bool(task["stage"]))
    node.stop(signal.SIGKILL)
    node.start()
    ended = node.wait_until_ended(started)
    assert (ended["state"], ended["attempt"]) == ("completed", 2), ended
    made = node.ask("GET", "/api/v1/checkpoints?plan=p&state=available").json["checkpoints"]
    assert len(made) == 2

    scheduler = child_named(node, "holdfast.server.node_scheduler")
    os.kill(scheduler, signal.SIGKILL)
    refused = wait_for(lambda: node.ask("GET", "/readyz"), lambda answer: answer.status == 503)
    assert refused.json["code"] == "scheduler-down"
    wait_until_ready(node)


def check_access(node: NodeProcess) -> None:
    assert ask(node.url, "GET", VOLUME).status == 401
    for token, method, path, status in (
        ("viewer", "GET", VOLUME, 200),
        ("viewer", "GET", "/api/v1/plans", 200),
        ("viewer", "POST", f"{VOLUME}/scrub", 403),
        ("viewer", "POST", "/api/v1/plans/p/protect", 403),
        ("viewer", "POST", "/api/v1/plans", 403),
        ("viewer", "DELETE", "/api/v1/checkpoints/x", 403),
        ("viewer", "DELETE", "/api/v1/schedules/x", 403),
        ("prover", "PUT", "/api/v1/checkpoints/x/protection", 403),
        ("prover", "POST", "/api/v1/plans/p/retain", 403),
        ("prover", "POST", "/api/v1/schedules", 403),
        ("prover", "POST", "/api/v1/banks/examine", 403),
        ("prover", "POST", "/api/v1/banks/sweep", 403),
        ("prover", "POST", "/api/v1/banks/heal", 403),
        ("prover", "POST", "/api/v1/plans/p/protect", 403),
        ("prover", "POST", f"{VOLUME}/scrub", 202),
        ("prover", "DELETE", VOLUME, 403),
        ("operator", "DELETE", VOLUME, 409),
        ("operator", "PATCH", VOLUME, 405),
        ("operator", "POST", "/api/v1/plans/nobody/protect", 404),
    ):
        answer = node.ask(method, path, Authorization=f"Bearer {token}")
        assert answer.status == status, (token, method, path, answer)
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"


def protect_verify_restore(node: NodeProcess, tmp_path: Path) -> str:
    """Return the id of the checkpoint that was made."""
    finish(node, "/api/v1/plans/p/protect", {})
    (checkpoint,) = node.ask("GET", "/api/v1/checkpoints?plan=p").json["checkpoints"]
    path = f"/api/v1/checkpoints/{checkpoint['id']}"
    verified = command(node, "verify", checkpoint["id"], "--json")
    assert (verified.exit, verified.json["verdict"]) == (0, "success"), verified
    assert checkpoint["id"] in command(node, "list", "p").stdout
    assert command(node, "verify", checkpoint["id"], "--budget", "1M").exit == 2
    assert command(node, "run-schedules").exit == 2
    target = {DIRECTORY: {"target": str(tmp_path / "out")}}
    finish(node, f"{path}/restore", {"parameters": target})
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "tree")
    return str(checkpoint["id"])


def keep_well(node: NodeProcess, tmp_path: Path, held: str) -> None:
    """Make a plan over the node, protect it twice, and keep only its newest checkpoint."""
    bank, tree = tmp_path / "bank", tmp_path / "tree"
    assert command(node, "plan", "q", "--bank", "bank", "--resource", tree).exit == 2
    encrypted = command(node, "plan", "q", "--bank", bank, "--resource", tree, "--encrypt")
    assert encrypted.exit == 2
    made = command(
        node, "plan", "q", "--bank", bank, "--resource", tree, "--keep", "last=1", "--json"
    )
    assert made.exit == 0, made
    assert made.json["retention"]["last"] == 1
    assert len(command(node, "plan", "--json").stdout.splitlines()) == 2
    for _ in range(2):
        finish(node, "/api/v1/plans/q/protect", {})
    assert command(node, "hold", held, "--json").json["protected"] is True
    assert command(node, "delete", held).exit == 13
    checked = command(node, "doctor", bank, "--sweep", "--json")
    assert (checked.exit, checked.json["checkpoints"], checked.json["sweep"]["deleted"]) == (
        0,
        3,
        0,
    )
    planned = command(node, "retain", "q", "--dry-run").stdout
    assert [line.split()[0] for line in planned.splitlines()] == ["keep", "delete"]
    assert command(node, "retain", "q").stdout == planned
    assert len(node.ask("GET", "/api/v1/checkpoints?plan=q").json["checkpoints"]) == 1
    scheduled = command(node, "schedule", "q", "--cron", "0 0 1 1 *", "--operation", "verify")
    schedule = next(line for line in scheduled.stdout.splitlines() if "  q  verify" in line)
    assert scheduled.exit == 0
    left = command(node, "schedule", "--remove", schedule.split()[0])
    assert "  q  verify" not in left.stdout


def command(node: NodeProcess, *arguments: str | Path) -> Completed:
    """Run a command on the checkpoints of the node, elsewhere."""
    holdfast = Holdfast(
        state=node.directory / "elsewhere", environment={"HOLDFAST_TOKEN": node.token}
    )
    return holdfast("checkpoints", "--node", node.url, *arguments)


def finish(node: NodeProcess, path: str, body: dict[str, Any]) -> None:
    """Start a task, and wait until it has ended well."""
    answer = node.ask("POST", path, body)
    assert answer.status == 202, answer
    assert answer.headers["location"] == answer.json["statusUrl"]
    ended = node.wait_until_ended(answer.json["taskId"])
    assert ended["state"] == "completed", ended["error"]


def data_process(node: NodeProcess) -> int:
    """Return the process of the volume."""
    return int(node.ask("GET", VOLUME).json["serving"]["pid"])


def wait_until_ready(node: NodeProcess) -> None:
    """Wait until the node says that all of it works."""
    wait_for(lambda: node.ask("GET", "/readyz"), lambda answer: answer.status == 200)


def wait_for(look: Callable[[], Any], is_so: Callable[[Any], bool]) -> Any:
    """Return what there is to see once it is so."""
    until = time.monotonic() + 30
    while not is_so(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.02)
    return seen

"""Goal: the plug-in interface suffices for whoever writes one outside the package.

Method: a plug-in for small databases in SQLite, written here with the public interface alone,
passes the contract suite that holdfast ships, and takes part in a plan beside a directory, with a
resource that depends on it; one that fails hides no other.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpoints.model import CheckpointState, Resource, Retention
from holdfast.checkpoints.plugins import HookContext, Operation, OperationKind, ProtectionPlugin
from holdfast.errors import InvalidRequestError, NotFoundError, StateError
from holdfast.testing.plugins import PluginContract
from tests.support.checkpoints import BANK, DIRECTORY, MANNER, World
from tests.support.trees import make_tree

TYPE = "Example::Sqlite"


class SqlitePlugin:
    """Protects a SQLite database as the statements that make it."""

    resource_type = TYPE

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []
        self.fails_in = ""

    def check(self, resource: Resource) -> Resource:
        """See ProtectionPlugin."""
        if "\0" in resource.id:
            raise InvalidRequestError("not a path", code="bad-path")
        if not os.path.isfile(resource.id):
            raise NotFoundError(f"no database {resource.id}", code="no-database")
        return resource

    def operation(self, kind: OperationKind) -> Operation | None:
        """See ProtectionPlugin."""
        if kind is OperationKind.PROTECT:
            return Operation(
                begin=lambda c: self._note("begin", c),
                finish=lambda c: self._note("finish", c),
                main=self._protect,
                complete=lambda c: self._note("complete", c),
            )
        if kind is OperationKind.RESTORE:
            return Operation(main=self._restore)
        if kind is OperationKind.VERIFY:
            return Operation(main=self._verify)
        return None

    def _note(self, hook: str, context: HookContext) -> None:
        self.called.append((hook, Path(context.resource.id).name))

    def _protect(self, context: HookContext) -> None:
        self._note("main", context)
        if self.fails_in and self.fails_in in context.resource.id:
            raise StateError("the database is on fire", code="on-fire")
        assert context.writer is not None
        with closing(sqlite3.connect(context.resource.id)) as sql:
            written = context.writer.write("dump.sql", _blocks(sql))
        context.info["bytes"] = written

    def _restore(self, context: HookContext) -> None:
        assert context.reader is not None
        target = str(context.parameters["database"])
        script = b"".join(context.reader.read("dump.sql")).decode()
        with closing(sqlite3.connect(target)) as sql:
            sql.executescript(script)
        context.new_ids[context.resource.key] = target

    def _verify(self, context: HookContext) -> None:
        assert context.reader is not None
        if sum(map(len, context.reader.read("dump.sql"))) != context.info["bytes"]:
            raise StateError("the dump has another length", code="bad-dump")


def _blocks(sql: sqlite3.Connection) -> Iterator[bytes]:
    for line in sql.iterdump():
        yield line.encode() + b"\n"


def make_database(path: Path, rows: int = 1000) -> str:
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        sql.executemany("INSERT INTO t VALUES (?, ?)", [(n, "x" * n) for n in range(rows)])
        sql.commit()
    return os.fspath(path)


def dump(path: str) -> list[str]:
    with closing(sqlite3.connect(path)) as sql:
        return list(sql.iterdump())


class TestSqlitePlugin(PluginContract):
    """The shipped suite on it."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = tmp_path

    def plugin(self) -> ProtectionPlugin:
        return SqlitePlugin()

    def make_resource(self) -> Resource:
        path = self.place / "a.sqlite"
        return Resource(type=TYPE, id=str(path) if path.exists() else make_database(path))

    def read_back(self, resource_id: str) -> object:
        return dump(resource_id)

    def restore_parameters(self) -> Mapping[str, Any]:
        return {"database": str(self.place / "restored.sqlite")}


def plan_of_three(world: World, plugin: SqlitePlugin) -> list[str]:
    parent, child = make_database(world.root / "parent"), make_database(world.root / "child", 10)
    tree = os.path.realpath(make_tree(world.root / "tree"))
    resources = [
        Resource(type=TYPE, id=parent, depends_on=(f"{TYPE}#{child}",)),
        Resource(type=TYPE, id=child),
        Resource(type=DIRECTORY, id=tree),
    ]
    world.start().make_plan("p", BANK, resources, retention=Retention())
    return [each.key for each in resources]


def test_hooks_come_in_their_order(tmp_path: Path) -> None:
    plugin = SqlitePlugin()
    world = World(tmp_path, [plugin])
    plan_of_three(world, plugin)

    world.start().protect("p", MANNER)

    called = plugin.called
    assert called.index(("begin", "parent")) < called.index(("begin", "child"))
    assert called.index(("finish", "child")) < called.index(("finish", "parent"))
    assert called.index(("complete", "child")) < called.index(("complete", "parent"))
    assert len(called) == 8


def test_failing_resource_hides_no_other(tmp_path: Path) -> None:
    plugin = SqlitePlugin()
    world = World(tmp_path, [plugin])
    parent, child, tree = plan_of_three(world, plugin)
    plugin.fails_in = "child"
    facet = world.start()

    result = facet.protect("p", MANNER).result or {}

    assert result["resources"] == {parent: "available", child: "error", tree: "available"}
    assert "on fire" in result["reasons"][child]  # type: ignore[index]
    checkpoint = facet.list()[0]
    assert checkpoint.state is CheckpointState.ERROR
    verified: dict[str, Any] = dict(facet.verify([checkpoint], MANNER).result or {})
    assert verified["verdict"] == "fail"
    (told,) = verified["checkpoints"]
    assert told["resources"] == {parent: "available", child: "error", tree: "available"}


def test_resources_of_every_kind_are_restored_together(tmp_path: Path) -> None:
    plugin = SqlitePlugin()
    world = World(tmp_path, [plugin])
    parent, child, tree = plan_of_three(world, plugin)
    facet = world.start()
    facet.protect("p", MANNER)
    given = {
        parent: {"database": str(tmp_path / "parent-again")},
        child: {"database": str(tmp_path / "child-again")},
        tree: {"target": str(tmp_path / "tree-again")},
    }

    result = facet.restore(facet.list()[0].id, MANNER, parameters=given).result or {}

    assert result["reasons"] == {}
    assert dump(str(tmp_path / "parent-again")) == dump(str(tmp_path / "parent"))
    assert (tmp_path / "tree-again" / "d1" / "f0001").exists()

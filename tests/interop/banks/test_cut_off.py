"""Goal: a store that is slow, or away in the middle, gives a clear error and can be gone on with.

Method: SeaweedFS and Swift behind a TCP line that is cut while a protect, a verification or a
restore is at work; the error and its exit class, then the line mended, the same again, and all of
it verified. Then a line that holds back every piece.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.checkpoints.model import CheckpointState, Resource, Retention
from holdfast.checkpoints.running import Manner
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import HoldfastError, UnavailableError
from holdfast.server.checkpoints import open_checkpoints
from holdfast.server.local import LocalServices
from holdfast.tasks.model import Task
from tests.interop.banks.conftest import BankServer
from tests.support.checkpoints import DIRECTORY, MANNER
from tests.support.line import Line
from tests.support.trees import make_tree, pattern, read_tree, write

pytestmark = pytest.mark.slow

GIVEN_UP_S = 100.0


@pytest.fixture
def line(server: BankServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    line = Line(server.url)
    if server.kind == "swift":
        monkeypatch.setenv("ST_AUTH", f"{line.url}/auth/v1.0")
    yield line
    line.cut()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = make_tree(tmp_path / "tree", files=20)
    for number in range(24):
        write(tree / f"large{number}", pattern(6 << 20, number))
    return tree


@pytest.fixture
def facet(line: Line, server: BankServer, tree: Path, tmp_path: Path) -> Checkpoints:
    facet = open_checkpoints(LocalServices(tmp_path / "state"), may_fork=False)
    resource = Resource(type=DIRECTORY, id=str(tree))
    facet.make_plan("p", server.bank(line.url), [resource], retention=Retention())
    return facet


def cutting(line: Line, stage: str) -> Manner:
    """Return a manner that cuts the line when some bytes of a stage are done."""
    is_cut = False

    def listen(task: Task) -> None:
        nonlocal is_cut
        if not is_cut and task.stage == stage and task.progress.bytes_done:
            is_cut = True
            line.cut()

    return replace(MANNER, listener=listen)


def told(task: Task) -> dict[str, Any]:
    return dict(task.result or {})


def test_store_away_in_the_middle_of_a_protect(
    facet: Checkpoints, line: Line, tree: Path, tmp_path: Path
) -> None:
    line.delay_s = 0.05
    began_s = time.monotonic()
    with pytest.raises(HoldfastError) as caught:
        facet.protect("p", cutting(line, "protecting"))

    assert isinstance(caught.value, UnavailableError)
    assert caught.value.code in ("store-unreachable", "store-slow")
    assert caught.value.advice
    assert time.monotonic() - began_s < GIVEN_UP_S
    (failed,) = facet.list()
    assert failed.state is CheckpointState.ERROR
    line.mend()
    line.delay_s = 0.0
    again = told(facet.protect("p", MANNER))
    assert not again["leftOutCount"]
    checkpoint = facet.get(again["checkpoint"])
    assert told(facet.verify([checkpoint], MANNER))["verdict"] == "success"
    out = tmp_path / "out"
    facet.restore(checkpoint.id, MANNER, parameters={DIRECTORY: {"target": str(out)}})
    assert read_tree(out) == read_tree(tree)


def test_store_away_in_the_middle_of_a_verification(facet: Checkpoints, line: Line) -> None:
    """What could not be read is neither good nor bad; nothing good is put away."""
    checkpoint = facet.get(told(facet.protect("p", MANNER))["checkpoint"])
    began_s = time.monotonic()
    with pytest.raises(UnavailableError):
        facet.verify([checkpoint], cutting(line, "reading"))

    assert time.monotonic() - began_s < GIVEN_UP_S
    line.mend()
    verified = facet.get(checkpoint.id).verified
    assert verified is None or verified.verdict != "fail"
    again = told(facet.verify([checkpoint], MANNER))
    assert (again["verdict"], again["badCount"]) == ("success", 0)


def test_slow_store_is_waited_for(facet: Checkpoints, line: Line) -> None:
    line.delay_s = 0.02
    checkpoint = facet.get(told(facet.protect("p", MANNER))["checkpoint"])

    assert told(facet.verify([checkpoint], MANNER))["verdict"] == "success"

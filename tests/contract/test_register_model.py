"""Goal: any sequence of calls on a register ends where the rules say.

Method: hypothesis drives a register and a model of a few lines side by side and compares every
answer; repeats of earlier advances are among the calls. On the simulated register, SQLite and etcd.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from holdfast.model.head import (
    ABSENT,
    Advanced,
    Epoch,
    HeadState,
    RefusalReason,
    Refused,
    Revision,
)
from holdfast.ports import Register
from tests.contract.registers import KINDS, etcd_endpoints, open_register

__all__ = ["etcd_endpoints"]

ResultT = TypeVar("ResultT")
KEYS = st.sampled_from(["a", "ab", "b"])
Call = tuple[str, Revision, bytes | None, Epoch, str]


class RegisterMachine(RuleBasedStateMachine):
    """One register, and what it must hold."""

    def __init__(self, register: Register, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._register = register
        self._loop = loop
        self._states: dict[str, list[HeadState]] = {}
        self._calls: list[tuple[Call, HeadState]] = []
        self._count = 0

    def teardown(self) -> None:
        self._run(self._register.close())

    @rule(
        key=KEYS,
        back=st.sampled_from([0, 0, 0, 1, 2, 9]),
        value=st.one_of(st.none(), st.binary(max_size=40)),
        epoch_step=st.sampled_from([0, 0, 1, 15, -1]),
    )
    def advance(self, key: str, back: int, value: bytes | None, epoch_step: int) -> None:
        states = [ABSENT, *self._states.get(key, [])]
        current = states[-1]
        expected = states[max(0, len(states) - 1 - back)].revision
        epoch = Epoch(max(0, current.epoch + epoch_step))
        self._count += 1
        call = (key, expected, value, epoch, f"w{self._count}")

        outcome = self._call(call)

        if epoch < current.epoch:
            assert outcome == Refused(current=current, reason=RefusalReason.EPOCH)
        elif expected != current.revision:
            assert outcome == Refused(current=current, reason=RefusalReason.REVISION)
        else:
            assert isinstance(outcome, Advanced)
            assert outcome.state.revision > current.revision
            self._states.setdefault(key, []).append(
                HeadState(
                    value=value,
                    revision=outcome.state.revision,
                    epoch=epoch,
                    is_tombstone=value is None,
                    write_id=f"w{self._count}",
                )
            )
            assert outcome.state == self._states[key][-1]
            self._calls.append((call, outcome.state))

    @rule(number=st.integers(0, 30))
    def repeat(self, number: int) -> None:
        if self._calls:
            call, state = self._calls[number % len(self._calls)]
            assert self._call(call) == Advanced(state=state)

    @rule(prefix=st.sampled_from(["", "a", "ab", "c"]), after=st.sampled_from(["", "a", "z"]))
    def list_keys(self, prefix: str, after: str) -> None:
        expected = sorted(k for k in self._states if k.startswith(prefix) and k > after)
        assert self._run(self._register.list_keys(prefix, after, 2)) == expected[:2]

    @invariant()
    def reads_and_history_agree(self) -> None:
        for key in ("a", "ab", "b"):
            states = self._states.get(key, [])
            assert self._run(self._register.read(key)) == (states[-1] if states else ABSENT)
            assert self._run(self._register.history(key, 5)) == states[:-6:-1]

    def _call(self, call: Call) -> object:
        key, expected, value, epoch, write_id = call
        return self._run(
            self._register.advance(
                key, expected=expected, value=value, epoch=epoch, write_id=write_id
            )
        )

    def _run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self._loop.run_until_complete(coroutine)


@pytest.mark.parametrize("kind", KINDS)
def test_register_follows_the_model(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "etcd":
        request.getfixturevalue("etcd_endpoints")
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        class Machine(RegisterMachine):
            def __init__(self) -> None:
                directory = Path(mkdtemp(dir=tmp_path))
                super().__init__(open_register(kind, request, directory), loop)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=15 if kind == "etcd" else 40,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

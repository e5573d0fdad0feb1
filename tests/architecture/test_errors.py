"""Goal: whatever goes wrong has a kind, a meaning and an exit code, and the reference says which.

Method: walk the subclasses that exist; generate the reference anew and compare; and let both fail
on a class, a table and a page made wrong here.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.architecture.source import ROOT

from holdfast.cli.exits import EXITS, Exit
from holdfast.errors import CapacityError, HoldfastError

GENERATOR = ROOT / "tools" / "generate_reference.py"


def _kinds(kind: type[HoldfastError] = HoldfastError) -> Iterator[type[HoldfastError]]:
    for subclass in kind.__subclasses__():
        if subclass.__module__.startswith("holdfast."):
            yield subclass
            yield from _kinds(subclass)


def _holes(table: Mapping[type[HoldfastError], Exit]) -> list[str]:
    return [kind.__name__ for kind in _kinds() if kind not in table]


def test_every_kind_has_an_exit_code_of_its_own() -> None:
    assert _holes(EXITS) == []
    assert len(set(EXITS.values())) == len(EXITS)


def test_hole_is_found() -> None:
    table = {kind: code for kind, code in EXITS.items() if kind is not CapacityError}

    assert _holes(table) == ["CapacityError"]


def test_every_kind_has_a_name_and_a_meaning_of_its_own() -> None:
    kinds = list(_kinds())

    assert len({kind.kind for kind in kinds}) == len(kinds)
    assert all(kind.__doc__ for kind in kinds)


def test_reference_is_what_the_code_says() -> None:
    checked = subprocess.run([sys.executable, GENERATOR, "--check"], capture_output=True, text=True)

    assert checked.stderr == ""
    assert checked.returncode == 0


def test_stale_reference_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "reference", tmp_path, dirs_exist_ok=True)
    page = tmp_path / "errors.md"
    page.write_text(page.read_text().replace("disk is full", "disk is fine"))

    checked = subprocess.run(
        [sys.executable, GENERATOR, "--check", "--into", tmp_path], capture_output=True, text=True
    )

    assert checked.returncode == 1
    assert "errors.md is stale; run 'make docs'" in checked.stderr

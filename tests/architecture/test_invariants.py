"""Goal: what a module of volumes promises by number is cited by a test, number by number.

Method: the numbered lists of the modules' docstrings against what the docstrings and comments of
tests cite: `engine/log 1-4`, `1, 3 and 4 of engine/log.py`, or `volumes/engine/volume.py`.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/holdfast/volumes"
FRONT_ENDS = range(51, 56)
"""Invariants that hold of every front end, whichever module keeps them."""

NUMBERS = r"\d+(?:-\d+)?(?:(?:,\s+and|,|\s+and|\s+to)\s+\d+(?:-\d+)?)*"
NAMED = re.compile(rf"(?:volumes/)?((?:[a-z_]+/)?[a-z_]+)(?:\.py)?\s+({NUMBERS})")
WHOLE = re.compile(r"invariants of ((?:volumes/[a-z_/]+\.py(?: and )?)+)")
OF = re.compile(rf"({NUMBERS})\s+of\s+(?:the\s+)?(?:volumes/)?((?:[a-z_]+/)?[a-z_]+)")


def promised(path: Path) -> set[int]:
    """Return the numbers of a module's invariants: its docstring's last numbered list."""
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    found = [int(number) for number in re.findall(r"^(\d+)\. ", told, re.MULTILINE)]
    if 1 not in found:
        return set()
    return set(found[len(found) - found[::-1].index(1) - 1 :])


def expanded(numbers: str) -> set[int]:
    """Return what `1-3, 5 and 7` stands for."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:(?:-|\s+to\s+)(\d+))?", numbers):
        found.update(range(int(first), int(last or first) + 1))
    return found


def cited() -> dict[str, set[int]]:
    """Return what the tests cite, by the name they give the module."""
    found: dict[str, set[int]] = {}
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        if "volume" not in str(path) and "nbd" not in str(path):
            continue
        text = " ".join(path.read_text().replace("#", " ").split())
        for name, numbers in NAMED.findall(text):
            found.setdefault(name, set()).update(expanded(numbers))
        for numbers, name in OF.findall(text):
            found.setdefault(name, set()).update(expanded(numbers))
        for modules in WHOLE.findall(text):
            for name in re.findall(r"volumes/([a-z_/]+)\.py", modules):
                found.setdefault(name, set()).update(promised(PACKAGE / f"{name}.py"))
        if "front ends" in text:
            told = ast.get_docstring(ast.parse(path.read_text())) or ""
            found.setdefault("front ends", set()).update(map(int, re.findall(r"\b5\d\b", told)))
    return found


CITED = cited()
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if promised(path)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))[:-3])
def test_every_invariant_of_a_module_is_cited(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))[:-3]
    found = CITED.get(name, set()) | CITED.get(path.stem, set())

    assert not promised(path) - found, f"no test cites these of {name}"


def test_every_invariant_of_front_ends_is_cited() -> None:
    assert not set(FRONT_ENDS) - CITED["front ends"]


def test_numbers_are_read_as_meant() -> None:
    assert expanded("1-3, 5 and 7") == {1, 2, 3, 5, 7}
    assert len(promised(PACKAGE / "engine/volume.py")) == 24

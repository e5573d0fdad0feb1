"""Goal: the house style holds without anyone having to remember it.

Method: each rule of source.py runs on every tracked module, and on a bad example made here, which
it must find. The limits are those of ARCHITECTURE.md and may only become tighter.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.architecture import source
from tests.architecture.source import ROOT, Module, modules, parse_module

Rule = Callable[[Module], Iterator[str]]

LONG_FUNCTION = "def f():\n" + "    x = 1\n" * source.FUNCTION_LINES_MAX
LONG_MODULE = "x = 1\n" * (source.MODULE_LINES_MAX + 1)
WIDE_CLASS = "class C:\n" + "".join(f"    def m{i}(self): ...\n" for i in range(16))

PRODUCT_RULES: list[tuple[Rule, str]] = [
    (source.long_functions, LONG_FUNCTION),
    (source.long_modules, LONG_MODULE),
    (source.wide_classes, WIDE_CLASS),
    (source.many_parameters, "class C:\n    def f(self, a, b, c, d, e, g, *, h): ..."),
    (source.banned_names, "class CopyManager: ..."),
    (source.banned_names, "def run_phase(): ..."),
    (source.banned_names, "def encode_v2(): ..."),
    (source.banned_names, "URLHandler = 1"),
    (source.missing_docstring, "import os"),
    (source.undocumented, '"""M."""\nclass C:\n    """C."""\n    def f(self): ...'),
]
TEST_RULES: list[tuple[Rule, str]] = [
    (source.long_functions, LONG_FUNCTION),
    (source.missing_docstring, "def test_it(): ..."),
    (source.patches, "from unittest import mock"),
    (source.patches, "import unittest.mock"),
    (source.patches, "def test_it(monkeypatch): monkeypatch.setattr(os, 'open', None)"),
]


def _name(value: object) -> str:
    return getattr(value, "__name__", "example")


@pytest.mark.parametrize(("rule", "example"), [*PRODUCT_RULES, *TEST_RULES], ids=_name)
def test_rule_finds_bad_example(rule: Rule, example: str) -> None:
    assert list(rule(parse_module("bad/example.py", example)))


@pytest.mark.parametrize("rule", {rule: None for rule, _ in PRODUCT_RULES}, ids=_name)
def test_product_keeps_rule(rule: Rule) -> None:
    assert [found for module in modules("src", "tools") for found in rule(module)] == []


@pytest.mark.parametrize("rule", {rule: None for rule, _ in TEST_RULES}, ids=_name)
def test_tests_keep_rule(rule: Rule) -> None:
    assert [found for module in modules("tests") for found in rule(module)] == []


def test_good_example_passes_every_rule() -> None:
    good = '''"""Holds a good example."""

class BaseballCard:
    """Not a base."""

    def decode_base64(self, a, b, c, d, e, *, f):
        """Decode."""
'''
    module = parse_module("src/good.py", good)

    assert [found for rule, _ in [*PRODUCT_RULES, *TEST_RULES] for found in rule(module)] == []


@pytest.mark.parametrize(
    "call",
    [
        "import time\n\nnow = time.time()\n",
        "import time\n\ntime.sleep(1)\n",
        "import random\n\nx = random.random()\n",
        "import uuid\n\nx = uuid.uuid4()\n",
        "import os\n\nx = os.urandom(4)\n",
    ],
)
def test_clock_and_chance_are_refused_outside_their_adapters(call: str) -> None:
    options = ["check", "--quiet", "--select", "TID251", "--stdin-filename"]
    ruff = [sys.executable, "-m", "ruff", *options]

    in_facet = _run([*ruff, "src/holdfast/files/rules.py", "-"], call)
    in_adapter = _run([*ruff, "src/holdfast/stores/system.py", "-"], call)

    assert (in_facet.returncode, in_adapter.returncode) == (1, 0)
    assert "TID251" in in_facet.stdout


def test_product_reads_neither_clock_nor_chance_outside_their_adapters() -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--quiet", "--select", "TID251,BLE001"]

    checked = _run([*ruff, "src", "tools"])

    assert checked.stdout == ""
    assert checked.returncode == 0


def _run(command: list[str], text: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=cwd)

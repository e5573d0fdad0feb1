"""Finds the files of the repository and says what is wrong with them, rule by rule.

A rule takes a Module and returns its findings as text; test_style.py runs each on all modules and
on a bad example, so that no rule can pass by finding nothing.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

FUNCTION_LINES_MAX: Final = 70
MODULE_LINES_MAX: Final = 500
CLASS_METHODS_MAX: Final = 15
PARAMETERS_MAX: Final = 5
"""Before keyword-only ones, `self` and `cls` not counted."""

BANNED_WORDS: Final = frozenset(
    ["manager", "helper", "helpers", "util", "utils", "handler", "base", "impl", "phase"]
)
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")
_VERSION: Final = re.compile(r"(^|_)v\d+($|_)|V\d+$")

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Python file."""

    name: str
    """Path from the root of the repository."""
    text: str
    tree: ast.Module


def parse_module(name: str, text: str) -> Module:
    """Return a module from its text."""
    return Module(name=name, text=text, tree=ast.parse(text, name))


def tracked_files(root: Path = ROOT) -> list[Path]:
    """Return the files that git tracks and that are there."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], check=True, capture_output=True, text=True
    )
    paths = [root / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@cache
def modules(*folders: str) -> list[Module]:
    """Return every Python file tracked below these folders; read once, for all rules."""
    found = [
        parse_module(str(path.relative_to(ROOT)), path.read_text())
        for path in tracked_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]
    assert found, f"no Python files below {folders}"
    return found


def long_functions(module: Module) -> Iterator[str]:
    """Functions over FUNCTION_LINES_MAX lines."""
    for function in _functions(module):
        lines_count = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines_count > FUNCTION_LINES_MAX:
            yield f"{_place(module, function)} {function.name}: {lines_count} lines"


def long_modules(module: Module) -> Iterator[str]:
    """Modules over MODULE_LINES_MAX lines."""
    lines_count = len(module.text.splitlines())
    if lines_count > MODULE_LINES_MAX:
        yield f"{module.name}: {lines_count} lines"


def wide_classes(module: Module) -> Iterator[str]:
    """Classes of more than CLASS_METHODS_MAX public methods, those that a port demands aside."""
    demanded = _port_methods()
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef) or _is_port(node):
            continue
        methods = {f.name for f in node.body if isinstance(f, FunctionDef) and f.name[0] != "_"}
        if len(methods - demanded) > CLASS_METHODS_MAX:
            yield f"{_place(module, node)} {node.name}: {len(methods - demanded)} public methods"


def many_parameters(module: Module) -> Iterator[str]:
    """Functions of more than PARAMETERS_MAX parameters before keyword-only ones."""
    for function in _functions(module):
        positional = [*function.args.posonlyargs, *function.args.args]
        count = sum(argument.arg not in ("self", "cls") for argument in positional)
        if count > PARAMETERS_MAX:
            yield f"{_place(module, function)} {function.name}: {count} parameters"


def banned_names(module: Module) -> Iterator[str]:
    """Modules, classes, functions, parameters and assigned names that say nothing."""
    names = [(Path(module.name).stem, 1), *_defined_names(module.tree)]
    for name, line in names:
        words = {word.lower() for word in _WORD.findall(name)}
        if words & BANNED_WORDS or _VERSION.search(name):
            yield f"{module.name}:{line} {name}"


def missing_docstring(module: Module) -> Iterator[str]:
    """Modules that do not say what they hold."""
    if module.text.strip() and not ast.get_docstring(module.tree):
        yield f"{module.name}: no docstring"


def undocumented(module: Module) -> Iterator[str]:
    """Public classes, and public functions outside private classes, without a contract."""
    for node in [*module.tree.body, *_methods(module.tree)]:
        if not isinstance(node, ast.ClassDef | FunctionDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{_place(module, node)} {node.name}: no docstring"


def patches(module: Module) -> Iterator[str]:
    """Uses of mock, and of monkeypatch.setattr and its kin; the environment may be set."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("setattr", "delattr", "setitem"):
            yield f"{_place(module, node)} .{node.attr}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unittest"):
            yield f"{_place(module, node)} from {node.module}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(("unittest", "mock")):
                    yield f"{_place(module, node)} import {alias.name}"


def _functions(module: Module) -> Iterator[FunctionDef]:
    return (node for node in ast.walk(module.tree) if isinstance(node, FunctionDef))


def _methods(tree: ast.Module) -> list[ast.stmt]:
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
    return [statement for node in classes for statement in node.body]


@cache
def _port_methods() -> frozenset[str]:
    modules = (ROOT / "src" / "holdfast" / "ports").glob("*.py")
    bodies = [ast.parse(module.read_text()).body for module in modules]
    classes = [node for body in bodies for node in body if isinstance(node, ast.ClassDef)]
    return frozenset(f.name for node in classes for f in node.body if isinstance(f, FunctionDef))


def _is_port(node: ast.ClassDef) -> bool:
    bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
    return "Protocol" in bases


def _defined_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | FunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def _place(module: Module, node: ast.stmt | ast.expr) -> str:
    return f"{module.name}:{node.lineno}"

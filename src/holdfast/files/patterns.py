"""Sidecar's exclusion patterns: `glob:` and `regex:` as Java's PathMatcher reads them. Pure.

A pattern is matched against the whole path of an entry, from `/`. In a glob `*` and `?` stop at
`/`, `**` does not, `[...]` never matches `/`, `{a,b}` are alternatives that do not nest, and a
backslash takes the next character as it is; a leading dot is a character like any other.

A pattern as it is kept, and told in a proof, is `files:` or `directories:`, then `glob:` or
`regex:`, then the text, in which `${ROOT}` stands for the root of the tree.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from holdfast.errors import InvalidRequestError

ROOT_PLACEHOLDER: Final = "${ROOT}"
_FILES: Final = "files:"
_DIRECTORIES: Final = "directories:"
_GLOB: Final = "glob:"
_REGEX: Final = "regex:"
_PATTERN_CHARACTERS_MAX: Final = 4096


class PathPattern(NamedTuple):
    """A compiled pattern."""

    for_directories: bool
    matches: Callable[[str], object]
    """Given the whole path of an entry, whether it is excluded."""


def is_path_pattern(text: str) -> bool:
    """Say whether a kept pattern is one of these and not one of .gitignore."""
    return text.startswith(
        (_FILES + _GLOB, _FILES + _REGEX, _DIRECTORIES + _GLOB, _DIRECTORIES + _REGEX)
    )


def keep_pattern(text: str, *, for_directories: bool) -> str:
    """Return a pattern of the settings as it is kept; InvalidRequestError (`bad-pattern`)."""
    kept = (_DIRECTORIES if for_directories else _FILES) + text
    if not is_path_pattern(kept):
        raise _bad(text, "it begins with neither glob: nor regex:")
    compile_pattern(kept, "/")
    return kept


def compile_pattern(kept: str, root: str) -> PathPattern:
    """Compile a kept pattern for a tree whose root has this path (empty: paths begin at it).

    Raises:
        InvalidRequestError: `bad-pattern`.
    """
    if len(kept) > _PATTERN_CHARACTERS_MAX:
        raise _bad(kept[:80] + "...", f"it is longer than {_PATTERN_CHARACTERS_MAX} characters")
    target, syntax, text = kept.split(":", 2)
    if syntax == "glob":
        text = text.replace(ROOT_PLACEHOLDER, _escape_glob(root))
        expression = translate_glob(text)
    else:
        expression = _from_java(text.replace(ROOT_PLACEHOLDER, re.escape(root)))
    try:
        compiled = re.compile(expression, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise _bad(kept, str(error)) from error
    return PathPattern(target + ":" == _DIRECTORIES, compiled.fullmatch)


def translate_glob(glob: str) -> str:
    """Return the regular expression a glob means; InvalidRequestError (`bad-pattern`)."""
    out: list[str] = []
    in_group = False
    at = 0
    while at < len(glob):
        character = glob[at]
        at += 1
        match character:
            case "*":
                if glob[at : at + 1] == "*":
                    at += 1
                    out.append(".*")
                else:
                    out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case "\\":
                if at == len(glob):
                    raise _bad(glob, "nothing follows its last backslash")
                out.append(re.escape(glob[at]))
                at += 1
            case "[":
                bracket, at = _translate_bracket(glob, at)
                out.append(bracket)
            case "{":
                if in_group:
                    raise _bad(glob, "its groups nest")
                out.append("(?:(?:")
                in_group = True
            case "}" if in_group:
                out.append("))")
                in_group = False
            case "," if in_group:
                out.append(")|(?:")
            case _:
                out.append(re.escape(character))
    if in_group:
        raise _bad(glob, "a group is not closed")
    return "".join(out)


def _translate_bracket(glob: str, at: int) -> tuple[str, int]:
    """Translate from behind a `[`; return the expression and where it ends."""
    out = ["(?!/)["]
    if glob[at : at + 1] == "!":
        out.append("^")
        at += 1
    begin = at
    while at < len(glob):
        character = glob[at]
        if character == "]" and at > begin:
            out.append("]")
            return "".join(out), at + 1
        if character == "/":
            break
        is_range = character == "-" and begin < at and glob[at + 1 : at + 2] not in ("", "]")
        out.append("-" if is_range else re.escape(character))
        at += 1
    raise _bad(glob, "a bracket is not closed, or holds a slash")


def _escape_glob(text: str) -> str:
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", text)


def _from_java(expression: str) -> str:
    """Spell named groups as Python does; what else Java alone knows is refused when compiled."""
    return re.sub(r"\(\?<(?=[A-Za-z])", "(?P<", expression)


def _bad(pattern: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"cannot use the exclude pattern {pattern!r}: {why}",
        code="bad-pattern",
        advice="patterns are glob:... or regex:..., matched against whole paths",
    )

"""Parameters of queries: numbers with their limits. Pure."""

from collections.abc import Mapping
from typing import Final

from holdfast.errors import InvalidRequestError
from holdfast.tasks.history import PAGE_MAX

PAGE_DEFAULT: Final = 100
_DIGITS_MAX: Final = 18


def page_limit(query: Mapping[str, str]) -> int:
    """Return `limit`, or PAGE_DEFAULT."""
    return whole(query.get("limit"), "limit", default=PAGE_DEFAULT, least=1, most=PAGE_MAX)


def whole(text: str | None, name: str, *, default: int, least: int, most: int) -> int:
    """Return a whole number in its limits; InvalidRequestError (`bad-parameter`) else."""
    if text is None:
        return default
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX:
        number = int(text)
        if least <= number <= most:
            return number
    raise InvalidRequestError(
        f"{name} is not a whole number from {least} to {most}",
        code="bad-parameter",
        advice="correct it, or leave it out",
        parameter=name,
    )

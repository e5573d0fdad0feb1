"""Many named tuples of one kind that cross from process to process, column by column.

Several times cheaper than one by one: a pickle of a named tuple calls Python for each.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

RowT = TypeVar("RowT", bound=tuple[Any, ...])


class Rows(list[RowT]):
    """A list of named tuples, all of one type; as any list but for how it is pickled."""

    def __reduce__(self) -> tuple[Callable[..., "Rows[RowT]"], tuple[object, ...]]:
        """See pickle."""
        if not self:
            return Rows, ()
        return _rows_of, (type(self[0]), [_column(values) for values in zip(*self, strict=True)])


def _column(values: tuple[Any, ...]) -> Iterable[object]:
    kind = type(values[0])
    if hasattr(kind, "_fields") and all(type(each) is kind for each in values):
        return Rows(values)
    return values


def _rows_of(kind: Any, columns: list[Iterable[object]]) -> Rows[Any]:
    return Rows(map(kind._make, zip(*columns, strict=True)))

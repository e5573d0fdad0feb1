"""Walks a tree as a stream of entries in the order of raw path bytes, and joins such streams.

Memory is bounded by the names of the directories on the way to the current entry, never by the
tree. What vanishes during the walk is left out; what cannot be listed is told and left out.

The order is that of whole paths as bytes, not of a depth-first walk: `a`, `a-b`, `a/x`. A directory
therefore stands twice in its parent's sorted names: as `a`, where its entry is due, and as `a/`,
where its contents are.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, repeat
from typing import NamedTuple

from holdfast.errors import (
    CapacityError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    StateError,
)
from holdfast.files.patterns import compile_pattern, is_path_pattern
from holdfast.files.rules import ends_run
from holdfast.model.limits import DIRECTORY_DEPTH_MAX, LISTING_ENTRIES_MAX, PATH_BYTES_MAX
from holdfast.model.tree import (
    ROOT_PATH,
    SIDE_DIRECTORY,
    FileKind,
    Stat,
    StatColumns,
    columns_of,
    display_path,
    join_path,
    parent_of,
)
from holdfast.ports import ReadableDirectory

_STAT_NAMES = 512
"""Names whose state is asked for in one call."""
_SLASH = ord("/")


class Listed(NamedTuple):
    """One entry of a listing."""

    path: bytes
    stat: Stat


class Page(NamedTuple):
    """Some entries of one directory that follow one another in a listing; at least one."""

    paths: list[bytes]
    stats: StatColumns

    def part(self, start: int, end: int) -> "Page":
        """Return the entries of [start, end)."""
        return Page(self.paths[start:end], self.stats.part(start, end))


class Exclusions:
    """Which paths take no part: by patterns as in .gitignore, and as Sidecar has them."""

    def __init__(self, patterns: tuple[str, ...], root: bytes = b"") -> None:
        """Compile patterns; InvalidRequestError (`bad-pattern`) for one that cannot be.

        Args:
            patterns: Relative to the root as in .gitignore, or those of patterns.py.
            root: What the latter are matched with in front of an entry's path.
        """
        self._spec = None
        self._root = root.decode("utf-8", "surrogateescape")
        self._path_patterns = [
            compile_pattern(text, self._root) for text in patterns if is_path_pattern(text)
        ]
        self.is_empty = not patterns
        ignored = [text for text in patterns if not is_path_pattern(text)]
        if not ignored:
            return
        # Only where there are patterns: it costs a tenth of a start.
        from pathspec import GitIgnoreSpec

        try:
            self._spec = GitIgnoreSpec.from_lines(ignored)
        except (ValueError, TypeError) as error:
            raise InvalidRequestError(
                f"cannot use an exclude pattern: {error}",
                code="bad-pattern",
                advice="patterns are those of .gitignore, relative to the root",
            ) from error

    def match(self, path: bytes, *, is_directory: bool) -> bool:
        """Say whether an entry takes no part; those it is in are taken to take part."""
        if self.is_empty:
            return False
        text = path.decode("utf-8", "surrogateescape")
        if self._spec and self._spec.match_file(text + "/" if is_directory else text):
            return True
        whole = f"{self._root}/{text}"
        return any(
            pattern.matches(whole)
            for pattern in self._path_patterns
            if pattern.for_directories is is_directory
        )

    def covers(self, path: bytes, *, is_directory: bool) -> bool:
        """Say whether an entry, or a directory it is in, takes no part."""
        if self.is_empty:
            return False
        if path and self.match(path, is_directory=is_directory):
            return True
        while path := parent_of(path):
            if self.match(path, is_directory=True):
                return True
        return False


@dataclass(slots=True, kw_only=True)
class Walk:
    """One walk over a tree: iterate it once, then read what it met on the way."""

    directory: ReadableDirectory
    exclusions: Exclusions
    on_failure: Callable[[bytes, HoldfastError], None]
    on_excluded: Callable[[bytes], None] = field(default=lambda _: None)
    entries_max: int = LISTING_ENTRIES_MAX
    excluded: int = 0
    failures: int = 0
    _entries_count: int = 0

    def __iter__(self) -> Iterator[Listed]:
        """Yield the entries below the root, which itself is none of them."""
        for page in self.pages():
            yield from map(Listed, page.paths, page.stats.rows())

    def pages(self) -> Iterator[Page]:
        """Yield the same entries, many at once."""
        stack = [self._steps(ROOT_PATH)]
        while stack:
            for step in stack[-1]:
                if isinstance(step, Page):
                    yield step
                elif self._may_enter(step, len(stack)):
                    stack.append(self._steps(step))
                    break
            else:
                stack.pop()

    def _steps(self, directory: bytes) -> Iterator[Page | bytes]:
        """Yield the entries of one directory, and the path of another where to go down there."""
        keys = self._keys(directory)
        prefix = directory + b"/" if directory else b""
        for at in range(0, len(keys), _STAT_NAMES):
            page = keys[at : at + _STAT_NAMES]
            self.directory.expect_directories(
                [prefix + key[:-1] for key in page if key[-1] == _SLASH]
            )
            names = [key for key in page if key[-1] != _SLASH]
            found = iter(self.directory.stat_names(directory, names))
            paths: list[bytes] = []
            stats: list[Stat] = []
            for key in page:
                path = prefix + key
                if key[-1] == _SLASH:
                    if stats:
                        yield Page(paths, columns_of(stats))
                        paths, stats = [], []
                    yield path[:-1]
                    continue
                stat = self._usable(path, next(found), keys, key)
                if stat is not None:
                    paths.append(path)
                    stats.append(stat)
            if stats:
                yield Page(paths, columns_of(stats))

    def _usable(
        self, path: bytes, found: Stat | HoldfastError, keys: list[bytes], key: bytes
    ) -> Stat | None:
        """Return the state of an entry, or tell why it is left out."""
        if isinstance(found, HoldfastError):
            if not isinstance(found, NotFoundError):
                self._fail(path, found)
        elif len(path) > PATH_BYTES_MAX:
            self._fail_as_too_long(path)
        elif found.kind is FileKind.DIRECTORY and not _holds(keys, key + b"/"):
            # Its contents will not be listed, so they must not be taken for absent.
            self._fail(path, _became_directory(path))
        else:
            return found
        return None

    def _keys(self, path: bytes) -> list[bytes]:
        """Return the sorted names of a directory, subdirectories also with a slash."""
        try:
            names = self.directory.list_names(path)
        except NotFoundError:
            if path != ROOT_PATH:
                return []
            raise
        except HoldfastError as error:
            if ends_run(error):
                raise
            self._fail(path, error)
            return []
        self._entries_count += len(names)
        if self._entries_count > self.entries_max:
            raise CapacityError(
                f"{display_path(path)}: the tree has more than {self.entries_max} entries",
                code="listing-too-large",
                advice="a tree that large must be copied in parts; or its source is hostile",
            )
        keys = []
        if path == ROOT_PATH:
            names = [pair for pair in names if pair[0] != SIDE_DIRECTORY]
        for name, is_directory in (
            names if self.exclusions.is_empty else self._included(path, names)
        ):
            keys.append(name)
            if is_directory:
                keys.append(name + b"/")
        keys.sort()
        return keys

    def _included(
        self, path: bytes, names: list[tuple[bytes, bool]]
    ) -> Iterator[tuple[bytes, bool]]:
        for name, is_directory in names:
            full = join_path(path, name)
            if self.exclusions.match(full, is_directory=is_directory):
                self.excluded += 1
                self.on_excluded(full)
                continue
            yield name, is_directory

    def _may_enter(self, path: bytes, depth: int) -> bool:
        if len(path) > PATH_BYTES_MAX:
            return False  # Told of already, as an entry.
        if depth < DIRECTORY_DEPTH_MAX:
            return True
        self._fail_as_too_long(path)
        return False

    def _fail_as_too_long(self, path: bytes) -> None:
        self._fail(
            path,
            CapacityError(
                f"{display_path(path[:80])}...: nested too deeply",
                code="path-too-long",
                advice=f"at most {PATH_BYTES_MAX} bytes of path can be copied",
            ),
        )

    def _fail(self, path: bytes, error: HoldfastError) -> None:
        self.failures += 1
        self.on_failure(path, error)


def _holds(keys: list[bytes], key: bytes) -> bool:
    at = bisect_left(keys, key)
    return at < len(keys) and keys[at] == key


def _became_directory(path: bytes) -> StateError:
    return StateError(
        f"{display_path(path)}: became a directory while it was listed",
        code="changed-while-listing",
        advice="run it again",
        path=path,
    )


def join_listings(
    source: Iterator[Listed], target: Iterator[Listed]
) -> Iterator[tuple[bytes, Stat | None, Stat | None]]:
    """Merge two listings in path order into (path, source or None, target or None)."""
    left, right = next(source, None), next(target, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.path < right.path):
            assert left is not None
            yield left.path, left.stat, None
            left = next(source, None)
        elif left is None or right.path < left.path:
            yield right.path, None, right.stat
            right = next(target, None)
        else:
            yield left.path, left.stat, right.stat
            left, right = next(source, None), next(target, None)


class Joined(NamedTuple):
    """Entries that follow one another in the join of two listings, all of them on the same sides.

    At least one, on at least one side.
    """

    paths: list[bytes]
    source: StatColumns | None
    """None where the source has none of them."""
    target: StatColumns | None

    def rows(self) -> Iterator[tuple[bytes, Stat | None, Stat | None]]:
        """Yield them one by one, as join_listings does."""
        source = repeat(None) if self.source is None else self.source.rows()
        target = repeat(None) if self.target is None else self.target.rows()
        return zip(self.paths, source, target, strict=False)


_NO_PAGE = Page([], StatColumns._make([()] * len(StatColumns._fields)))


def join_pages(source: Iterator[Page], target: Iterator[Page]) -> Iterator[Joined]:
    """Merge two listings in path order, many entries at once."""
    left, right = next(source, _NO_PAGE), next(target, _NO_PAGE)
    while left.paths or right.paths:
        # Up to here both listings are at hand.
        end = min(page.paths[-1] for page in (left, right) if page.paths)
        at, to = bisect_right(left.paths, end), bisect_right(right.paths, end)
        yield from _join(left.part(0, at), right.part(0, to))
        left = _rest(left, at) or next(source, _NO_PAGE)
        right = _rest(right, to) or next(target, _NO_PAGE)


def _rest(page: Page, start: int) -> Page | None:
    return page.part(start, len(page.paths)) if start < len(page.paths) else None


def _join(left: Page, right: Page) -> Iterator[Joined]:
    if left.paths == right.paths:
        yield Joined(left.paths, left.stats, right.stats)
        return
    ours, theirs = set(left.paths), set(right.paths)
    at = to = 0
    for (at_left, at_right), same in groupby(
        sorted(ours | theirs), lambda path: (path in ours, path in theirs)
    ):
        paths = list(same)
        at_end, to_end = at + at_left * len(paths), to + at_right * len(paths)
        yield Joined(
            paths,
            left.stats.part(at, at_end) if at_left else None,
            right.stats.part(to, to_end) if at_right else None,
        )
        at, to = at_end, to_end

"""A token cache for a Swift proxy of one process, in place of memcached; imported by that proxy."""

import time
from typing import Any


class _Cache:
    def __init__(self) -> None:
        self._held: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, *_args: Any, **_options: Any) -> Any:
        value, until = self._held.get(key, (None, 0.0))
        return value if not until or time.time() < until else None

    def set(self, key: str, value: Any, *_args: Any, **options: Any) -> None:
        lasts = options.get("time") or 0
        self._held[key] = (value, time.time() + lasts if lasts else 0.0)

    def delete(self, key: str, *_args: Any, **_options: Any) -> None:
        self._held.pop(key, None)

    def incr(self, key: str, delta: int = 1, **options: Any) -> int:
        value = int(self.get(key) or 0) + delta
        self.set(key, value, **options)
        return value

    def decr(self, key: str, delta: int = 1, **options: Any) -> int:
        return self.incr(key, -delta, **options)

    def get_multi(self, keys: list[str], *_args: Any, **_options: Any) -> list[Any]:
        return [self.get(key) for key in keys]

    def set_multi(self, mapping: dict[str, Any], *_args: Any, **options: Any) -> None:
        for key, value in mapping.items():
            self.set(key, value, **options)


def filter_factory(_conf: dict[str, str], **_local: str) -> Any:
    """Return the filter, as Paste wants it."""
    cache = _Cache()

    def make(application: Any) -> Any:
        def answer(environment: dict[str, Any], start: Any) -> Any:
            environment["swift.cache"] = cache
            return application(environment, start)

        return answer

    return make

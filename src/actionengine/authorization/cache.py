"""A cache with one bound for all tenants. It evicts the least recently used entries first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from math import inf
from threading import Lock
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

V = TypeVar("V")


class Entry(NamedTuple, Generic[V]):
    """A value in force until `expires` (of `time.monotonic`), while the tenant's access version is `access_version`.
    `size` is the caller's estimate of its memory, in bytes."""

    value: V
    access_version: int
    expires: float
    size: int


_named: WeakKeyDictionary[BoundedCache[Any], str] = WeakKeyDictionary()
_named_lock = Lock()


def cached_bytes() -> dict[str, int]:
    """Return the estimated memory of the caches in this process, by their names."""
    with _named_lock:
        named = list(_named.items())
    found: dict[str, int] = {}
    for cache, name in named:
        found[name] = found.get(name, 0) + cache.size
    return found


class BoundedCache(Generic[V]):
    """Entries of at most `max_bytes`, by their estimated sizes, shared by threads and tasks. `cached_bytes` reports a
    cache with a `name`."""

    def __init__(self, max_bytes: int, name: str | None = None) -> None:
        if name is not None:
            with _named_lock:
                _named[self] = name
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Entry[V]] = OrderedDict()
        self._lock = Lock()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Hashable) -> V | None:
        """Return the value of a key that `keep` has stored."""
        entry = self.get(key, 0)
        return entry.value if entry is not None else None

    def keep(self, key: Hashable, value: V, size: int) -> None:
        """Store a value without expiry."""
        self.put(key, Entry(value, 0, inf, size))

    def get(self, key: Hashable, access_version: int) -> Entry[V] | None:
        """Return the entry of a key while it is in force."""
        entry = self._entries.get(key)
        if entry is None or entry.access_version != access_version or entry.expires <= monotonic():
            return None
        # The order of use matters only near the bound.
        if self.size > self._max_bytes // 2:
            with self._lock:
                if key in self._entries:  # Otherwise another thread has just removed it.
                    self._entries.move_to_end(key)
        return entry

    def put(self, key: Hashable, entry: Entry[V]) -> None:
        """Store an entry. Expired entries go first, then the least recently used ones while the bound is exceeded."""
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._entries[key] = entry
            self.size += entry.size - (replaced.size if replaced is not None else 0)
            now = monotonic()
            while self._entries:
                oldest = next(iter(self._entries))
                if self.size <= self._max_bytes and now < self._entries[oldest].expires:
                    break
                self.size -= self._entries.pop(oldest).size

"""The index of a tenant's documents and rows in memory: sorted ids for each collection and each key of a lookup."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Set

Keys = tuple[str, ...]
Place = tuple[str, str | None]
"""A collection, and a key of its lookups; or None, for all its documents."""

Entry = tuple[str | None, str]
"""A key of a collection's lookups, or None; and the text by which a row is sorted there, which ends with its id."""


class Index:
    """Sorted ids by place. An id stays until no snapshot can see its document there any more.

    So readers check each document: in their snapshot it may not exist, or not under that key.
    """

    __slots__ = ("_ids", "left")

    def __init__(self) -> None:
        self._ids: dict[Place, list[str]] = {}
        self.left: deque[tuple[int, Place, str]] = deque()

    def move(self, collection: str, id: str, before: Keys | None, after: Keys | None, sequence: int) -> None:
        """Change the keys of a document in the commit of this number; None stands for no document."""
        if before is None:
            self._add((collection, None), id)
        elif after is None:
            self.left.append((sequence, (collection, None), id))
        if before or after:
            for key in after or ():
                if key not in (before or ()):
                    self._add((collection, key), id)
            for key in before or ():
                if key not in (after or ()):
                    self.left.append((sequence, (collection, key), id))

    def move_row(self, table: str, before: Set[Entry], after: Set[Entry], sequence: int) -> None:
        """Change the entries of a row in the commit of this number."""
        for key, id in after - before:
            self._add((table, key), id)
        for key, id in before - after:
            self.left.append((sequence, (table, key), id))

    def tidy(self, oldest_read: int, is_there: Callable[[Place, str], bool]) -> None:
        """Remove ids that no snapshot from `oldest_read` on can see; `is_there` returns whether an id is current."""
        while self.left and self.left[0][0] <= oldest_read:
            _, place, id = self.left.popleft()
            ids = self._ids.get(place, [])
            number = bisect_left(ids, id)
            if number < len(ids) and ids[number] == id and not is_there(place, id):
                del ids[number]
                if not ids:
                    del self._ids[place]

    def ids(self, place: Place, after: str | None, descending: bool) -> Iterator[str]:
        """Yield the ids of a place beyond `after`, in order. The caller keeps the index unchanged meanwhile."""
        ids = self._ids.get(place, [])
        if descending:
            numbers = range(bisect_left(ids, after) if after else len(ids))[::-1]
        else:
            numbers = range(bisect_right(ids, after) if after else 0, len(ids))
        return (ids[number] for number in numbers)

    def _add(self, place: Place, id: str) -> None:
        ids = self._ids.get(place)
        if ids is None:
            self._ids[place] = [id]
        elif ids[-1] < id:
            ids.append(id)
        elif ids[bisect_left(ids, id)] != id:
            insort(ids, id)

"""Pages: parts of a long answer, bounded by rows and by bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from actionengine.errors import ActionError, ErrorCode, storable_text

T = TypeVar("T")

MAX_PAGE = 1000
"""The maximum of rows in a page."""

MAX_PAGE_BYTES = 4 * 1024 * 1024
"""The bytes of JSON that end a page, with the row that reaches them."""


class Page(list[T]):
    """Rows. `next` is the key of the last one when more may follow, and None on the last page."""

    def __init__(self, rows: Iterable[T] = (), next: str | None = None) -> None:
        super().__init__(rows)
        self.next = next


def page_size(limit: int) -> int:
    """Return `limit`, `MAX_PAGE` at most. Raise `ActionError(invalid_input)` for a limit below 1."""
    if limit < 1:
        raise ActionError(ErrorCode.INVALID_INPUT, f"limit must be at least 1, not {limit}")
    return min(limit, MAX_PAGE)


def page_start(after: str | None) -> str | None:
    """Return the id after which a page begins. Raise `ActionError(invalid_input)` for a value that cannot be an id."""
    if after is not None and (not isinstance(after, str) or storable_text(after) != after):
        raise ActionError(ErrorCode.INVALID_INPUT, "a page begins after an id: give a text in UTF-8 without NUL")
    return after


def is_last_page(sizes: Iterable[int], limit: int) -> bool:
    """Return whether a page of rows of these sizes is the last one, ended by neither bound."""
    sizes = list(sizes)
    return len(sizes) < limit and sum(sizes) < MAX_PAGE_BYTES


def page_of(rows: Iterable[tuple[T, int]], limit: int, key: Callable[[T], str]) -> Page[T]:
    """Return the first page of rows, each given with its bytes. A row is read only after the one before it fitted.

    A page has at least one row, if there is one: a row larger than a page is a page of its own.
    """
    page: Page[T] = Page()
    total = 0
    for row, size in rows:
        page.append(row)
        total += size
        if len(page) == limit or total >= MAX_PAGE_BYTES:
            page.next = key(row)
            break
    return page

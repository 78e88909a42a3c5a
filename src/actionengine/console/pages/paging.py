"""Pages of lists that do not say themselves where the next page begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

_LARGE = 2 * 1024 * 1024
"""Bytes of JSON from which a page may have been cut: the storage ends one at 4 MiB."""


def next_after(items: Sequence[Any], limit: int, by: str = "id") -> Any:
    """Return the `after` of the next page of a list, or None if this page is the last."""
    may_have_more = len(items) >= limit or (len(items) > 0 and len(to_json(items)) >= _LARGE)
    return getattr(items[-1], by) if may_have_more else None

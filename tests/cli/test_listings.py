"""Listings of several tenants: merged, complete up to their cursor, and paged to the end."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from returns.result import Result, Success

from actionengine.cli.errors import ExitCode
from actionengine.cli.operator import Operator
from actionengine.context import Actor, Tenant


class Tenants:
    """The tenants of an operator. Each has items, in pages that may be shorter than asked for, with a cursor."""

    def __init__(self, ids: list[list[str]], newest_first: bool, page: int, has_cursor: bool) -> None:
        self._items = {f"t{number:02}": sorted(each, reverse=newest_first) for number, each in enumerate(ids)}
        self._newest_first = newest_first
        self._page = page
        self._has_cursor = has_cursor
        self.operator = Operator(
            engine=self,  # type: ignore[arg-type]
            door=self,  # type: ignore[arg-type]
            is_hosts_engine=False,
            actor=Actor.human("olga"),
            reason=None,
            request_id="r",
            tenant=None,
            json=False,
        )

    @property
    def storage(self) -> Any:
        return self

    def list_tenants(self, *, after: str | None, limit: int) -> list[Tenant]:
        slugs = [slug for slug in self._items if after is None or slug > after]
        return [Tenant(UUID(int=int(slug[1:])), slug) for slug in slugs[:1]]

    def get_action(self, service: str, action: str) -> Result[Any, Any]:
        return Success(None)

    def execute_action(self, service: str, action: str, payload: Mapping[str, Any], context: Any) -> Result[Any, Any]:
        after, limit = payload["after"], payload["limit"]
        items = [
            id
            for id in self._items[context.tenant.slug]
            if after is None or (id < after if self._newest_first else id > after)
        ]
        shown = items[: min(limit, self._page)]
        found = tuple(SimpleNamespace(id=id) for id in shown)
        if not self._has_cursor:
            return Success(found)
        return Success(SimpleNamespace(items=found, next=shown[-1] if len(shown) < len(items) else None))


IDS = st.lists(st.lists(st.integers(0, 60).map(lambda number: f"{number:03}"), unique=True, max_size=12), max_size=4)


@given(IDS, st.booleans(), st.integers(1, 5), st.booleans(), st.integers(1, 8))
def test_pages_have_every_item_once_and_in_order(
    ids: list[list[str]], newest_first: bool, page: int, has_cursor: bool, limit: int
) -> None:
    operator = Tenants(ids, newest_first, page, has_cursor).operator
    seen: list[tuple[str, str]] = []
    cursor = None
    for _ in range(100):
        listing = operator.list_items("x.list", {}, limit=limit, cursor=cursor, newest_first=newest_first)
        assert listing.code is ExitCode.SUCCESS
        seen += [(each.item.id, each.tenant) for each in listing.items]
        cursor = listing.next
        if cursor is None:
            break

    everything = [(id, f"t{number:02}") for number, each in enumerate(ids) for id in each]
    assert [id for id, _ in seen] == sorted((id for id, _ in everything), reverse=newest_first)
    assert sorted(seen) == sorted(everything)

"""The built-in service `action_log`, seen from the log."""

from __future__ import annotations

from collections.abc import Callable

from actionengine import Engine, RequestContext
from tests.conftest import Execute


def test_a_listing_does_not_put_its_pages_into_the_log(
    engine_of: Callable[..., Engine], execute: Execute, as_system: RequestContext
) -> None:
    engine: Engine = engine_of()

    sizes = []
    for _ in range(30):
        page = execute(engine, "action_log.list", {}, as_system).unwrap()
        sizes.append(len(page.model_dump_json()))

    newest = execute(engine, "action_log.list", {"limit": 1}, as_system).unwrap().items[0]
    assert newest.output == {"items": 29, "next": None}
    assert sizes[-1] - sizes[-2] <= 2 * (sizes[2] - sizes[1])

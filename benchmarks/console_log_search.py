"""The console's log page on an action log of 1 000 000 rows: the time of the server for a search, by each filter.

A round is the 95th percentile of 40 requests, each to the last byte of the page, against the same search
through the engine alone. The log is that of `log_search`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message, Scope

from actionengine import Actor, RequestContext
from actionengine.console import create_console
from benchmarks.log_growth import MANY
from benchmarks.log_search import filled, percentile
from benchmarks.postgres import Application, database
from benchmarks.report import Row, at_most
from benchmarks.timing import take_samples
from benchmarks.workers import WARM_UP

_LIMIT = 0.1

SEARCHES: dict[str, dict[str, str]] = {
    "newest": {},
    "words": {"text": "refund for ticket"},
    "some_word": {"text": "urgent"},
    "subject": {"subject": "jobs/0"},
    "request": {"request_id": "request-400"},
    "many_filters": {"text": "refund", "actor_id": "actor-7", "action": "payments.refund", "outcome": "succeeded"},
    "no_match": {"text": "refund ticket", "outcome": "denied"},
}
"""The queries of the page, by name."""


def run(seconds: float, many: int = MANY) -> list[Row]:
    """Each search as a page, against the action that it reads by."""
    with database() as bench, asyncio.Runner() as runner:
        app, _ = filled(bench.app_url, bench.superuser_url, many)
        console = create_console(app.engine, lambda request: _operator(app))
        rows = [_row(name, app, console, runner, many, seconds / len(SEARCHES)) for name in SEARCHES]
        runner.run(app.storage.aclose())
        app.storage.close()
    return rows


def _operator(app: Application) -> RequestContext:
    return RequestContext(app.tenant, Actor.system())


def _row(name: str, app: Application, console: ASGIApp, runner: asyncio.Runner, many: int, seconds: float) -> Row:
    query = SEARCHES[name]

    def page() -> None:
        runner.run(_get(console, urlencode(query)))

    def action() -> None:
        asked = {**query, "limit": 50}
        runner.run(app.engine.execute_action_async("action_log", "list", asked, _operator(app))).unwrap()

    for call in (page, action):
        for _ in range(WARM_UP):
            call()
    calls: dict[str, Callable[[], float]] = {"page": partial(percentile, page), "action": partial(percentile, action)}
    times = take_samples(calls, seconds)
    return Row(
        f"console_log_search_{name}",
        f"the console's page /log?{urlencode(query)}, {many:,} rows: 95th percentile",
        "action_log.list",
        times["page"],
        times["action"],
        at_most(_LIMIT),
    )


async def _get(console: ASGIApp, query: str) -> None:
    """Request the page as a server does, and read it to its end."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/log",
        "raw_path": b"/log",
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await console(scope, receive, send)
    head: Any = sent[0]
    if head["status"] != 200:
        raise AssertionError(f"the page of {query!r} answers {head['status']}")

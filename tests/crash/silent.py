"""Helpers of the suites of silent networks: a storage behind a proxy, and calls with a bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from examples.embedded_postgres import Database
from returns.result import Success

from actionengine import Engine, PostgresStorage, RequestContext
from actionengine.testing import Backend
from tests.crash.ledger import request_of
from tests.faulty_proxy import FaultyProxy

ANSWER = 1.0
"""Seconds of `answer_timeout`."""

GUARD = 30.0
"""Seconds within which a caller gets an answer here: its bound is 2 x (2 s for a connection + 2 x 1 s)."""


def storage_through(proxy: FaultyProxy, database: Database, **options: Any) -> PostgresStorage:
    """Return a storage behind a proxy, with short timeouts."""
    limits = {"answer_timeout": ANSWER, "connect_timeout": 2, "pool_timeout": 3.0}
    return PostgresStorage(proxy.url(database.app_url), **{**limits, **options})


def within_guard(function: Callable[[], Any]) -> Any:
    """Run a function in a thread, and return its value. If it takes too long, fail the test without waiting for it."""
    made: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            made.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(GUARD)
    if errors:
        raise errors[0]
    assert made, f"not done within {GUARD} s"
    return made[0]


def call(backend: Backend, engine: Engine, *names: str, contexts: Sequence[RequestContext] = ()) -> list[str]:
    """Call actions of `notes` at once; return the code of each answer, `ok` for a success."""
    asked = contexts or [request_of(backend.tenant, uuid4().hex) for _ in names]

    def ask() -> Sequence[Any]:
        return backend.run(
            backend.gather(
                *(
                    backend.execute(engine, "notes", name, None, context)
                    for name, context in zip(names, asked, strict=True)
                )
            )
        )

    return ["ok" if isinstance(each, Success) else each.failure().code.value for each in within_guard(ask)]


def failures_until_served(backend: Backend, engine: Engine, name: str) -> list[str]:
    """Call again and again; return the codes of the failures before the first success."""
    failures: list[str] = []
    begun = time.monotonic()
    while (code := call(backend, engine, name)[0]) != "ok":
        failures.append(code)
        assert time.monotonic() - begun < 2 * GUARD, failures
    return failures

"""A process whose threads use up a budget at once, or that waits inside a handler. `python -m tests.budget_host`.

An order is `{"kind", "place", "tenant", "slug", "limit", "callers", "holds"}`; the answer is the number of executions
with each outcome. With `holds`, the only handler answers `"inside"` and then waits until the process is killed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    Actor,
    Budget,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)

HOUR = timedelta(hours=1)
BOT = Actor.ai("bot")


def budgets(limit: int) -> list[Budget]:
    """Return two budgets for all payments, the second of which is the larger one."""
    return [
        Budget("calls", actions="payments.*", limit=limit, window=HOUR),
        Budget("money", actions="payments.*", per="tenant", limit=limit, unit="input.amount", window=HOUR),
    ]


def pay(data: dict[str, Any], ctx: ActionContext) -> Result[int, str]:
    """Insert a payment; fail, or wait to be killed, as asked."""
    ctx.records("payments").insert(data)
    if data.get("holds"):
        print(json.dumps("inside"), flush=True)
        threading.Event().wait()
    return Failure("refused by the test") if data.get("fails") else Success(1)


payments = create_service(
    name="payments", description="Money", actions=[create_action(name="pay", description="", handler=pay)]
)


def work(order: dict[str, Any]) -> dict[str, int]:
    """Execute the action in as many threads as there are callers, and count the outcomes."""
    place = order["place"]
    with SQLiteStorage(place, busy_timeout=60.0) if order["kind"] == "sqlite" else PostgresStorage(place) as storage:
        engine = create_engine(services=[payments], storage=storage, budgets=budgets(order["limit"]))
        request = RequestContext(Tenant(UUID(order["tenant"]), order["slug"]), BOT)
        payload = {"amount": 1, "holds": order["holds"]}

        def call(number: int) -> str:
            answer: Result[Any, Any] = engine.execute_action("payments", "pay", payload, request)
            return "succeeded" if isinstance(answer, Success) else answer.failure().code.value

        with ThreadPoolExecutor(order["callers"]) as threads:
            return dict(Counter(threads.map(call, range(order["callers"]))))


if __name__ == "__main__":
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)

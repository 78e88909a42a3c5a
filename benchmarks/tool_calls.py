"""The cost of a tool: `Tools.call` in memory against `execute_action` with the same action and payload."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from actionengine import RequestContext, Tools
from benchmarks.application import PAYLOAD, Application, start
from benchmarks.report import Row, at_most_ratio
from benchmarks.timing import Call, Contender, take_turns

DIALECTS = ("mcp", "openai_strict")


def run(seconds: float) -> list[Row]:
    """A writing action with a key of the host's, one with a key in the arguments, and a reading one."""
    rows: list[Row] = []
    for dialect in DIALECTS:
        for name, what, own, tool in (
            ("write", "a writing action", partial(_execute, "refund"), partial(_call, dialect, "refund", False)),
            (
                "key",
                "the same, its key in the arguments",
                partial(_execute, "refund"),
                partial(_call, dialect, "refund", True),
            ),
            ("read", "a reading action", partial(_execute, "quote"), partial(_call, dialect, "quote", False)),
        ):
            times = take_turns((Contender("own", own), Contender("tool", tool)), seconds / 3 / len(DIALECTS))
            rows.append(
                Row(
                    f"tool_calls_{name}_{dialect}",
                    f"Tools.call in memory, {dialect}: {what}",
                    "execute_action",
                    times["tool"],
                    times["own"],
                    at_most_ratio(1.15),
                )
            )
    return rows


def _execute(action: str) -> Call:
    app = start()
    request, keys = _request(app), count()

    def call() -> object:
        keyed = replace(request, idempotency_key=f"key-{next(keys)}")
        return app.engine.execute_action("payments", action, PAYLOAD, keyed).unwrap()

    return call


def _call(dialect: Any, action: str, in_arguments: bool) -> Call:
    app = start()
    tools = Tools(app.engine, dialect, ["payments"])
    request, keys = _request(app), count()
    name = f"payments__{action}"

    def call() -> object:
        key = f"key-{next(keys)}"
        if in_arguments:
            return tools.call(name, {**PAYLOAD, "idempotency_key": key}, request)
        return tools.call(name, PAYLOAD, replace(request, idempotency_key=key))

    assert not tools.call(name, PAYLOAD, replace(request, idempotency_key="first")).is_error
    return call


def _request(app: Application) -> RequestContext:
    return RequestContext(tenant=app.tenant, actor=app.actor)

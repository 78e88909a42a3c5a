"""All written JSON can be read: one bound for results, events, documents, errors and hook logs on every storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    ActionResultConfig,
    Actor,
    Engine,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    Limits,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    create_engine,
    create_event_type,
    create_service,
)
from actionengine.builtin.action_log import LogEntry
from actionengine.pipeline.payload import read_payload
from actionengine.storage.rows import LogRow
from actionengine.text.json_bounds import MAX_JSON_DEPTH, MAX_JSON_DIGITS, check_readable
from tests.conftest import log_of, make_action

AnyStorage = InMemoryStorage | PostgresStorage | SQLiteStorage


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Anything(BaseModel):
    value: Any


UNREADABLE: dict[str, Any] = {
    "an integer too long": 10**MAX_JSON_DIGITS,
    "a long integer in a long list": [*range(10_000), {"a": -(10**5000)}],
    "nested deeper than the bound": deep(MAX_JSON_DEPTH + 1),
    "nested as deep as no parser reads": deep(250),
    "nested for ever": deep(100_000),
    "a model of it": Anything(value={"a": 10**5000}),
    "half a surrogate pair": "\ud800",
}
READABLE: dict[str, Any] = {
    "the longest integer": [10**MAX_JSON_DIGITS - 1, -(10**MAX_JSON_DIGITS - 1)],
    "a long text of digits": "1" * 10_000,
    "brackets in a text": "[" * 1000 + '\\"[',
    "many lists beside each other": [[[]]] * 500,
    "NUL": "a\0b",
}


def emit(ctx: ActionContext, type: Any, value: Any) -> Result[Any, Any]:
    ctx.emit(type, value)
    return Success(None)


WRITERS: dict[str, Callable[[Any, ActionContext], Result[Any, Any]]] = {
    "result": lambda value, ctx: Success(value),
    "event": lambda value, ctx: emit(ctx, "made", value),
    "typed event": lambda value, ctx: emit(ctx, create_event_type(type="made", payload=Any), value),
    "document": lambda value, ctx: Success(ctx.records("things").insert({"value": value}).id),
    "error": lambda value, ctx: Failure(ActionError(ErrorCode.CONFLICT, "no", {"value": value})),
    "nested result": lambda value, ctx: ctx.execute("work", "give"),
    "nested error": lambda value, ctx: ctx.execute("work", "fail"),
}


def engine_with(storage: Any, write: Callable[[Any, ActionContext], Result[Any, Any]], value: Any) -> Engine:
    def give(data: Any) -> Result[Any, Any]:
        return Success(value)

    def fail(data: Any) -> Result[Any, Any]:
        return Failure(ActionError(ErrorCode.CONFLICT, "no", {"deep": {"value": value}}))

    def run(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return write(value, ctx)

    hooks = ActionHooks(after=(HookDefinition("work", "pass"),))
    service = create_service(
        name="work",
        description="",
        actions=[
            make_action("run", run),
            make_action("give", give),
            make_action("fail", fail),
            make_action("pass", lambda data: Success(data)),
            make_action("hooked", run, hooks=hooks, result=ActionResultConfig(pipeline=True)),
        ],
    )
    return create_engine(services=[service], storage=storage)


_slugs = iter(range(10_000))


@pytest.mark.parametrize("writer", WRITERS)
def test_what_no_reader_could_read_fails_its_action(each_storage: AnyStorage, writer: str) -> None:
    tenant = each_storage.create_tenant(slug=f"t{next(_slugs)}", name="T")
    context = RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key="k")
    expected = {ErrorCode.CONFLICT} if "error" in writer else {ErrorCode.INTERNAL, ErrorCode.INVALID_INPUT}
    for what, value in UNREADABLE.items():
        engine = engine_with(each_storage, WRITERS[writer], value)
        for action in ("run", "run", "hooked"):
            error = engine.execute_action("work", action, {}, context).failure()
            assert error.code in expected, what
            json.dumps(error.to_dict())
    rows = [row for row in log_of(engine, tenant) if row.parent_id is None]
    assert len(rows) == 3 * len(UNREADABLE)
    assert {row.outcome for row in rows} <= {"failed", "invalid"}
    assert list(each_storage.read_events(tenant)) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_within_the_bounds_is_read_again(each_storage: AnyStorage, writer: str) -> None:
    tenant = each_storage.create_tenant(slug=f"t{next(_slugs)}", name="T")
    for what, value in READABLE.items():
        engine = engine_with(each_storage, WRITERS[writer], value)
        context = RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key=what)
        first, second = (engine.execute_action("work", "run", {}, context) for _ in range(2))
        # No storage accepts such a document.
        is_refused = "error" in writer or (writer, what) == ("document", "NUL")
        assert isinstance(first, Failure if is_refused else Success), what
        if not is_refused:
            assert second == first, what
        if writer == "result":
            assert first == Success(value)
    assert log_of(engine, tenant)
    for stored in each_storage.read_events(tenant):
        json.loads(stored.event.payload)


def test_the_bounds_are_exact() -> None:
    check_readable(json.dumps(deep(MAX_JSON_DEPTH)).encode())
    check_readable(json.dumps([deep(MAX_JSON_DEPTH - 1)] * 3).encode())
    check_readable(b'{"a":"' + b"1" * 9000 + b'"}')
    check_readable(b"[" + b"1" * MAX_JSON_DIGITS + b"]")
    for unreadable in (json.dumps([deep(MAX_JSON_DEPTH)]).encode(), b"[" + b"1" * (MAX_JSON_DIGITS + 1) + b"]"):
        with pytest.raises(ValueError, match=f"{MAX_JSON_DEPTH} levels|{MAX_JSON_DIGITS} digits"):
            check_readable(unreadable)


def test_no_limit_lets_a_payload_in_that_could_not_be_logged() -> None:
    limits = Limits(payload_depth=10_000)
    read_payload(deep(MAX_JSON_DEPTH), None, limits)
    with pytest.raises(ActionError, match=f"deeper than {MAX_JSON_DEPTH} levels"):
        read_payload(deep(MAX_JSON_DEPTH + 1), None, limits)


def test_one_unreadable_row_does_not_hide_its_page() -> None:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    engine = engine_with(storage, lambda value, ctx: Success(1), None)
    engine.execute_action("work", "run", {}, RequestContext(tenant=tenant, actor=Actor.human("ann"))).unwrap()
    rows = storage._tenant_data(tenant.id).log
    row: LogRow = rows[0]
    entry = LogEntry.of(row._replace(input=b"[" * 300, output=b"1" * 5000, error=b"{"))
    assert entry.input.startswith("unreadable JSON of 300 bytes")
    assert entry.output.startswith("unreadable JSON of 5000 bytes")
    assert entry.error is not None
    assert entry.error["code"] == "internal"

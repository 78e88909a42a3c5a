"""The stages: their order, their errors, and that a refusal leaves only its log row."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import (
    AccessRequest,
    Action,
    ActionContext,
    ActionError,
    ActionHooks,
    ActionResultConfig,
    Actor,
    ApprovalPolicy,
    Decision,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    Limits,
    RequestContext,
    SerializationFailure,
    StorageUnavailable,
    Tenant,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from tests.conftest import EngineOf, Execute, log_of, make_action


def documents(storage: InMemoryStorage, collection: str = "things") -> int:
    (tenant,) = storage.list_tenants()
    return len(run_sync(storage.unit_of_work(tenant, "count", "sync").records(collection).list()))


def insert(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    return Success(ctx.records("things").insert({"data": data}).id)


class Order(BaseModel):
    amount: int
    note: str = ""


CIRCLE: dict[str, Any] = {}
CIRCLE["again"] = CIRCLE


# The order


class Recorder:
    """A record of the user code that ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def guard(self, action: Action, payload: Any, context: RequestContext) -> Result[Any, Any]:
        if action.name == "go":
            self.ran.append("guard")
        return Success(None)

    def authorize(self, request: AccessRequest) -> Decision:
        if request.action == "work.go":
            self.ran.append("authorize")
        return Decision(True, "noted")

    def hook(self, name: str) -> Callable[[Any], Result[Any, Any]]:
        def run(data: Any) -> Result[Any, Any]:
            self.ran.append(name)
            return Success(data)

        return run

    def when(self, data: Any, ctx: ActionContext) -> bool:
        self.ran.append("approval")
        return False

    def after(self, action: Action, payload: Any, context: RequestContext, result: Any) -> Result[Any, Any]:
        self.ran.append("after")
        return Success(None)


def test_the_stages_run_in_their_order(engine_of: EngineOf, execute: Execute) -> None:
    recorder = Recorder()
    engine = engine_of(
        make_action(
            "go",
            recorder.hook("handler"),
            approval=ApprovalPolicy(when=recorder.when, permission="x"),
            hooks=ActionHooks(before=[HookDefinition("work", "first")], after=[HookDefinition("work", "last")]),
        ),
        make_action("first", recorder.hook("before hook")),
        make_action("last", recorder.hook("after hook")),
        authorizer=recorder,
        on_before_action_handler=recorder.guard,
        on_after_action_handler=recorder.after,
    )
    assert execute(engine, "work.go", {}) == Success({})
    assert recorder.ran == ["guard", "authorize", "before hook", "approval", "handler", "after hook", "after"]


def test_an_actor_is_refused_before_the_input_is_looked_at(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", insert, validation=Order, permission="x"))
    actor = Actor.human("bob")
    assert execute(engine, "work.go", "nonsense", actor).failure().code is ErrorCode.FORBIDDEN


def test_without_an_actor_a_protected_action_is_unauthenticated(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", insert), make_action("open", lambda data: Success("in"), is_protected=False))
    assert execute(engine, "work.go", {}, None).failure().code is ErrorCode.UNAUTHENTICATED
    assert execute(engine, "work.open", {}, None) == Success("in")


def test_without_a_tenant_nothing_runs(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", insert, is_protected=False))
    context = RequestContext(tenant=None, actor=Actor.system())
    assert execute(engine, "work.go", {}, context).failure().code is ErrorCode.UNAUTHENTICATED


def test_a_guard_stops_everything_with_what_it_returns(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    refusal = ActionError(ErrorCode.UNAVAILABLE, "closed for stocktaking")
    engine = engine_of(
        make_action("go", insert),
        on_before_action_handler=lambda action, payload, context: (
            Failure(refusal) if action.name == "go" else Success(None)
        ),
    )
    assert execute(engine, "work.go", {}) == Failure(refusal)
    assert documents(storage) == 0
    assert [row.outcome for row in log_of(engine)] == ["failed"]


def test_a_guard_cannot_change_the_payload(engine_of: EngineOf, execute: Execute) -> None:
    def meddle(action: Action, payload: Any, context: RequestContext) -> Result[Any, Any]:
        payload["amount"] = 1_000_000
        return Success({"amount": 2})

    engine = engine_of(make_action("go", lambda data: Success(data["amount"])), on_before_action_handler=meddle)
    assert execute(engine, "work.go", {"amount": 1}) == Success(1)


def test_the_global_after_handler_cannot_undo_a_commit(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(action: Action, payload: Any, context: RequestContext, result: Any) -> Result[Any, Any]:
        raise OSError("the mail server is down")

    engine = engine_of(make_action("go", insert), on_after_action_handler=broken)
    assert isinstance(execute(engine, "work.go", {}), Success)
    assert documents(storage) == 1
    assert "the global after handler of work.go raised" in caplog.text


# Handlers


@pytest.mark.parametrize(
    ("handler", "code", "message"),
    [
        (lambda data: Failure("sold out"), ErrorCode.UNPROCESSABLE, "sold out"),
        (lambda data: Failure(ActionError(ErrorCode.CONFLICT, "taken")), ErrorCode.CONFLICT, "taken"),
        (lambda data: {"bare": 1}, ErrorCode.INTERNAL, "returned a bare dict"),
        (lambda data: None, ErrorCode.INTERNAL, "returned None; it has to"),
        (lambda data: Success(object()), ErrorCode.INTERNAL, "without a JSON form"),
        (lambda data: 1 / 0, ErrorCode.HANDLER_ERROR, "the handler of work.go raised ZeroDivisionError"),
        (lambda data, ctx: ctx.session, ErrorCode.INTERNAL, "no SQL session"),
        (lambda data, ctx: ctx.async_records("x"), ErrorCode.INTERNAL, "use ctx.records"),
        (lambda data, ctx: ctx.records("ae_roles"), ErrorCode.INTERNAL, "is not a collection for a handler"),
        (lambda data, ctx: ctx.records(""), ErrorCode.INTERNAL, "is not a collection for a handler"),
        (lambda data, ctx: ctx.emit("x", object()), ErrorCode.INTERNAL, "has no JSON form"),
        (lambda data, ctx: ctx.emit(None), ErrorCode.INTERNAL, "an event needs a type"),
        (lambda data: Failure("half \ud800"), ErrorCode.UNPROCESSABLE, "half ?"),
        (lambda data: Failure(ActionError(ErrorCode.CONFLICT, "a\0b")), ErrorCode.CONFLICT, "a\ufffdb"),
        (lambda data: Failure(ActionError(ErrorCode.CONFLICT, "c", CIRCLE)), ErrorCode.CONFLICT, "c"),
        (lambda data: Failure(ActionError(ErrorCode.CONFLICT, "c", {"\ud800": object()})), ErrorCode.CONFLICT, "c"),
    ],
)
def test_a_handler_that_fails_leaves_nothing_but_its_log_row(
    engine_of: EngineOf,
    execute: Execute,
    acme: Tenant,
    storage: InMemoryStorage,
    handler: Callable[..., Any],
    code: ErrorCode,
    message: str,
) -> None:
    def write_then_fail(data: Any, ctx: ActionContext) -> Any:
        ctx.records("things").insert({"half": "done"})
        ctx.emit("half.done", {})
        return handler(data, ctx) if handler.__code__.co_argcount == 2 else handler(data)

    engine = engine_of(make_action("go", write_then_fail))
    error = execute(engine, "work.go", {}).failure()
    assert error.code is code
    assert message in error.message
    assert documents(storage) == 0
    assert storage.read_events(acme) == []
    (row,) = log_of(engine, acme)
    assert (row.outcome, row.error["code"], row.output) == ("failed", code.value, None)


def test_a_traceback_goes_to_the_log_and_not_into_the_error(
    engine_of: EngineOf, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(data: Any) -> Result[Any, Any]:
        raise ValueError("password is hunter2")

    error = execute(engine_of(make_action("go", crash)), "work.go", {}).failure()
    assert "hunter2" not in str(error.to_dict())
    assert "hunter2" in caplog.text
    assert error.details["action_id"] in caplog.text


def test_an_action_exception_from_deep_inside_is_that_failure(engine_of: EngineOf, execute: Execute) -> None:
    refusal = ActionError(ErrorCode.CONFLICT, "no", {"why": ["a"]})

    def deep(data: Any) -> Result[Any, Any]:
        raise refusal

    assert execute(engine_of(make_action("go", deep)), "work.go", {}) == Failure(refusal)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_rolls_back_and_goes_on(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage, interruption: type[BaseException]
) -> None:
    def interrupted(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("things").insert({})
        raise interruption

    engine = engine_of(make_action("go", interrupted))
    with pytest.raises(interruption):
        execute(engine, "work.go", {})
    assert documents(storage) == 0
    assert storage._tenant_data(acme.id).locks == {}


async def async_insert(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    await asyncio.sleep(0)
    record = await ctx.async_records("things").insert({"data": data})
    found = await ctx.async_records("things").get(record.id)
    return Success(found.data if found else None)


def test_an_async_handler_runs_under_the_async_door_only(
    engine_of: EngineOf, as_ann: RequestContext, storage: InMemoryStorage
) -> None:
    engine = engine_of(
        make_action("go", async_insert), make_action("wrapped", lambda data, ctx: async_insert(data, ctx))
    )
    for name in ("go", "wrapped"):
        error = engine.execute_action("work", name, 1, as_ann).failure()
        assert error.code is ErrorCode.INTERNAL
        assert "execute_action_async" in error.message
    assert documents(storage) == 0
    assert asyncio.run(engine.execute_action_async("work", "go", 1, as_ann)) == Success({"data": 1})


def test_in_each_pair_the_wrong_method_says_which_is_right(engine_of: EngineOf, as_ann: RequestContext) -> None:
    async def wrong(data: str, ctx: ActionContext) -> Any:
        return getattr(ctx, data)("x", "y") if data == "execute" else getattr(ctx, data)("x")

    engine = engine_of(make_action("go", wrong))
    for used, right in (("records", "async_records"), ("execute", "execute_async"), ("authorize", "authorize_async")):
        error = asyncio.run(engine.execute_action_async("work", "go", used, as_ann)).failure()
        assert f"use ctx.{right}" in error.message


def test_a_context_is_of_no_use_afterwards(engine_of: EngineOf, execute: Execute) -> None:
    kept: list[ActionContext] = []

    def keep(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        kept.append(ctx)
        return Success(None)

    execute(engine_of(make_action("go", keep)), "work.go", {})
    with pytest.raises(Exception, match="has ended"):
        kept[0].records("things").insert({})
    with pytest.raises(Exception, match="has ended"):
        kept[0].emit("late", {})


def test_resources_of_the_request_lie_over_those_of_the_engine(
    engine_of: EngineOf, execute: Execute, acme: Tenant
) -> None:
    engine = engine_of(
        make_action("go", lambda data, ctx: Success(dict(ctx.resources))), resources={"mailer": "smtp", "region": "eu"}
    )
    plain = Actor.human("ann")
    special = RequestContext(tenant=acme, actor=Actor.human("ann"), resources={"region": "us"})
    assert execute(engine, "work.go", {}, plain) == Success({"mailer": "smtp", "region": "eu"})
    assert execute(engine, "work.go", {}, special) == Success({"mailer": "smtp", "region": "us"})


# Read-only actions


@pytest.mark.parametrize(
    "write",
    [
        lambda ctx: ctx.records("things").insert({}),
        lambda ctx: ctx.emit("x", {}),
        lambda ctx: ctx.execute("work", "insert", {}).unwrap(),
    ],
)
def test_a_read_only_action_cannot_write(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage, write: Callable[[ActionContext], Any]
) -> None:
    def sneak(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        write(ctx)
        return Success("wrote")

    engine = engine_of(make_action("go", sneak, read_only=True), make_action("insert", insert))
    assert isinstance(execute(engine, "work.go", {}), Failure)
    assert documents(storage) == 0
    assert storage.read_events(acme) == []


def test_a_read_only_action_claims_no_key_and_emits_nothing(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    engine = engine_of(make_action("go", lambda data, ctx: Success(len(ctx.records("things").list())), read_only=True))
    assert execute(engine, "work.go", {"a": 1}, key="k") == Success(0)
    assert execute(engine, "work.go", {"a": 2}, key="k") == Success(0)
    assert [row.outcome for row in log_of(engine, acme)] == ["succeeded", "succeeded"]
    assert storage.read_events(acme) == []


@pytest.mark.parametrize("nested_as", ["an action", "a hook"])
def test_a_nested_read_only_action_cannot_write(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, nested_as: str
) -> None:
    hooks = ActionHooks(before=(HookDefinition("work", "reader"),)) if nested_as == "a hook" else None
    engine = engine_of(
        make_action("outer", lambda data, ctx: ctx.execute("work", "reader", data), hooks=hooks),
        make_action("reader", insert, read_only=True),
    )
    error = execute(engine, "work.outer", {}).failure()
    assert "is read-only and cannot write" in error.message
    assert documents(storage) == 0


# Timeouts


def test_a_handler_with_a_timeout_opens_no_second_unit_of_work(engine_of: EngineOf, execute: Execute) -> None:
    """Otherwise an abandoned handler could open another one after the rollback."""
    opened: list[bool] = []

    def look(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        opened.append(ctx._port.execution.root.unit_of_work is not None)  # type: ignore[attr-defined]
        return Success(None)

    execute(engine_of(make_action("go", look, timeout=60)), "work.go", {})
    assert opened == [True]


def test_a_handler_that_never_returns_is_stopped(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    release, late = threading.Event(), []
    over = threading.Event()

    def hang(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        try:
            # On a busy machine, its time is already over.
            ctx.records("things").insert({})
            # Under an event loop it shares the thread of the outer handler, which cannot release it.
            release.wait(1)
            ctx.records("things").insert({"late": True})
        except Exception as error:
            late.append(error)
        over.set()
        return Success("too late")

    engine = engine_of(make_action("go", hang, timeout=0.2))
    error = execute(engine, "work.go", {}).failure()
    assert error.code is ErrorCode.TIMEOUT
    release.set()
    assert over.wait(90)
    assert len(late) == 1
    assert documents(storage) == 0
    assert [row.outcome for row in log_of(engine)] == ["failed"]


def test_an_async_handler_that_never_returns_is_cancelled(
    engine_of: EngineOf, as_ann: RequestContext, storage: InMemoryStorage
) -> None:
    begun, cancelled = [], []

    async def hang(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        begun.append(True)
        await ctx.async_records("things").insert({})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return Success(None)

    for timeout in (0.2, 2.0, 20.0):
        # On a busy machine, a short time is over before the handler begins.
        engine = engine_of(make_action("go", hang, timeout=timeout))
        error = asyncio.run(engine.execute_action_async("work", "go", {}, as_ann)).failure()
        assert error.code is ErrorCode.TIMEOUT
        assert documents(storage) == 0
        if begun:
            break
    assert cancelled == [True]


def test_a_blocking_handler_with_a_timeout_frees_the_loop(engine_of: EngineOf, as_ann: RequestContext) -> None:
    release = threading.Event()

    def block(data: Any) -> Result[Any, Any]:
        # Under an event loop it shares the thread of the outer handler, which cannot release it.
        release.wait(1)
        return Success("released")

    engine = engine_of(make_action("block", block, timeout=60), make_action("quick", lambda data: Success("quick")))

    async def both() -> list[Any]:
        blocked = asyncio.create_task(engine.execute_action_async("work", "block", {}, as_ann))
        await asyncio.sleep(0)
        quick = await engine.execute_action_async("work", "quick", {}, as_ann)
        release.set()
        return [quick, await blocked]

    assert asyncio.run(both()) == [Success("quick"), Success("released")]


def test_a_timeout_bounds_what_the_action_executes(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    hook = ActionHooks(before=(HookDefinition("work", "slow", is_critical=False),))
    engine = engine_of(
        make_action("go", insert, timeout=0.05, hooks=hook), make_action("slow", lambda data: time.sleep(0.2))
    )
    error = execute(engine, "work.go", {}).failure()
    assert error.code is ErrorCode.TIMEOUT
    assert documents(storage) == 0


# Hooks


def add(number: int) -> Callable[[Any], Result[Any, Any]]:
    return lambda data: Success({**data, "sum": data.get("sum", 0) + number})


def test_the_output_of_each_hook_is_the_next_input(engine_of: EngineOf, execute: Execute) -> None:
    hooks = ActionHooks(
        before=(HookDefinition("work", "one"), HookDefinition("work", "ten")), after=(HookDefinition("work", "one"),)
    )
    engine = engine_of(
        make_action("go", add(100), hooks=hooks), make_action("one", add(1)), make_action("ten", add(10))
    )
    assert execute(engine, "work.go", {"sum": 1000}) == Success({"sum": 1112})


def test_with_before_hooks_validation_looks_at_what_they_made(engine_of: EngineOf, execute: Execute) -> None:
    hooks = ActionHooks(before=(HookDefinition("work", "fill"),))
    engine = engine_of(
        make_action("go", lambda data: Success(data.amount), validation=Order, hooks=hooks),
        make_action("fill", lambda data: Success(Order(amount=7) if data == "seven" else data)),
    )
    assert execute(engine, "work.go", "seven") == Success(7)
    assert execute(engine, "work.go", {"amount": "x"}).failure().code is ErrorCode.INVALID_INPUT


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize(
    "broken", [lambda data: Failure("no"), lambda data: 1 / 0, lambda data: "bare", lambda data: Success(object())]
)
def test_a_critical_hook_stops_and_another_is_passed_over(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, phase: str, broken: Callable[[Any], Any]
) -> None:
    def hooks(is_critical: bool) -> ActionHooks:
        return ActionHooks(**{phase: (HookDefinition("work", "broken", is_critical),)})

    engine = engine_of(
        make_action("strict", insert, hooks=hooks(True)),
        make_action("lenient", insert, hooks=hooks(False)),
        make_action("broken", broken),
    )
    error = execute(engine, "work.strict", {}).failure()
    assert error.code is ErrorCode.HOOK_FAILED
    assert error.details["hook"] == "work.broken"
    assert documents(storage) == 0
    assert isinstance(execute(engine, "work.lenient", {}), Success)
    assert documents(storage) == 1


def test_what_a_failed_hook_wrote_is_undone(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    def write_and_fail(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("things").insert({"by": "hook"})
        ctx.emit("by.hook", {})
        return Failure("no")

    hooks = ActionHooks(after=(HookDefinition("work", "fail", is_critical=False),))
    engine = engine_of(make_action("go", insert, hooks=hooks), make_action("fail", write_and_fail))
    execute(engine, "work.go", {})
    assert documents(storage) == 1
    assert [stored.event.type for stored in storage.read_events(acme)] == ["work.go"]


def test_a_hook_is_bound_by_the_same_rules_as_any_action(engine_of: EngineOf, execute: Execute) -> None:
    hooks = ActionHooks(before=(HookDefinition("work", "secret"),))
    engine = engine_of(make_action("go", insert, hooks=hooks), make_action("secret", insert, permission="secrets.read"))
    error = execute(engine, "work.go", {}).failure()
    assert error.code is ErrorCode.HOOK_FAILED
    assert error.details["error"]["code"] == "forbidden"


def test_hooks_share_state_and_see_what_they_hook(engine_of: EngineOf, execute: Execute) -> None:
    def note(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.hook_context.state.setdefault("seen", []).append(ctx.hook_context.action_name)
        return Success(data)

    def handler(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return Success({"state": ctx.hook_context.state["seen"], "log": len(ctx.hook_context.log.before)})

    def last(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return Success({**data, "output": ctx.hook_context.output == data})

    hooks = ActionHooks(
        before=(HookDefinition("work", "note"), HookDefinition("work", "note")), after=(HookDefinition("work", "last"),)
    )
    engine = engine_of(make_action("go", handler, hooks=hooks), make_action("note", note), make_action("last", last))
    expected = {"state": ["work.go", "work.go"], "log": 2, "output": True}
    assert execute(engine, "work.go", {}) == Success(expected)
    assert execute(engine, "work.go", {}) == Success(expected)


# Nested actions


def test_a_nested_action_commits_with_the_one_around_it(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        inner = ctx.execute("work", "insert", {"from": "outer"})
        return inner if data == "commit" else Failure("changed my mind")

    engine = engine_of(make_action("outer", outer), make_action("insert", insert))
    execute(engine, "work.outer", "fail")
    assert documents(storage) == 0
    execute(engine, "work.outer", "commit")
    assert documents(storage) == 1
    failed: dict[str, Any] = {}
    committed: dict[str, Any] = {}
    for row in log_of(engine):
        (committed if row.outcome == "succeeded" else failed)[row.action] = row
    for rows in (failed, committed):
        assert rows["work.insert"].parent_id == rows["work.outer"].id
    assert "rolled back" in failed["work.insert"].error["message"]


def test_a_failed_nested_action_is_rolled_back_to_its_savepoint(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    def inner(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.records("things").insert({"inner": True})
        ctx.emit("inner", {})
        return Failure("no")

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        kept = ctx.records("things").insert({"outer": True})
        failure = ctx.execute("work", "inner", {}).failure()
        ctx.records("things").update(kept.id, {"outer": failure.code}, kept.version)
        return Success([record.data for record in ctx.records("things").list()])

    engine = engine_of(make_action("outer", outer), make_action("inner", inner))
    assert execute(engine, "work.outer", {}) == Success([{"outer": "unprocessable"}])
    assert [stored.event.type for stored in storage.read_events(acme)] == ["work.outer"]
    assert sorted(row.outcome for row in log_of(engine, acme)) == ["failed", "succeeded"]


def test_actions_are_nested_to_a_bounded_depth(engine_of: EngineOf, execute: Execute) -> None:
    def deeper(data: int, ctx: ActionContext) -> Result[Any, Any]:
        return ctx.execute("work", "deeper", data + 1)

    engine = engine_of(make_action("deeper", deeper), limits=Limits(nested_depth=5))
    error = execute(engine, "work.deeper", 0).failure()
    assert error.code is ErrorCode.INTERNAL
    assert "nested deeper than 5" in error.message


def test_async_actions_nest_async_and_def_ones(engine_of: EngineOf, as_ann: RequestContext) -> None:
    async def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        first = await ctx.execute_async("work", "asynchronous", 1)
        second = await ctx.execute_async("work", "insert", 2)
        return Success([first.unwrap(), bool(second.unwrap())])

    def from_def(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return ctx.execute("work", "asynchronous", 1)

    engine = engine_of(
        make_action("outer", outer),
        make_action("asynchronous", async_insert),
        make_action("insert", insert),
        make_action("from_def", from_def),
    )
    assert asyncio.run(engine.execute_action_async("work", "outer", {}, as_ann)) == Success([{"data": 1}, True])
    error = asyncio.run(engine.execute_action_async("work", "from_def", {}, as_ann)).failure()
    assert "ctx.execute_async in an async def handler" in error.message


def test_a_nested_action_that_is_not_there_is_a_failure(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", lambda data, ctx: ctx.execute("no", "where")))
    assert execute(engine, "work.go", {}).failure().code is ErrorCode.NOT_FOUND


def test_a_nested_action_that_requires_a_key_uses_the_outer_one(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(
        make_action("outer", lambda data, ctx: ctx.execute("work", "pay", data)),
        make_action("pay", insert, idempotency="required"),
    )
    without = Actor.human("ann")
    assert execute(engine, "work.outer", {}, without).failure().code is ErrorCode.INVALID_INPUT
    first = execute(engine, "work.outer", {}, key="k")
    assert isinstance(first, Success)
    assert execute(engine, "work.outer", {}, key="k") == first


# Lost transactions


class Flaky(InMemoryStorage):
    """A storage that loses some commits against another transaction, or is unavailable."""

    def __init__(self, losses: int = 0, gone: bool = False) -> None:
        super().__init__()
        self.losses = losses
        self.gone = gone

    def unit_of_work(self, *arguments: Any, **options: Any) -> MemoryUnitOfWork:
        plain = super().unit_of_work(*arguments, **options)
        return _FlakyUnitOfWork(plain._data, plain._mode, plain._read_only, self)


class _FlakyUnitOfWork(MemoryUnitOfWork):
    __slots__ = ("_storage",)

    def __init__(self, data: Any, mode: Any, read_only: bool, storage: Flaky) -> None:
        super().__init__(data, mode, read_only)
        self._storage = storage

    async def commit(self) -> None:
        if self._storage.gone:
            raise StorageUnavailable("connection refused")
        if self._storage.losses:
            self._storage.losses -= 1
            raise SerializationFailure("40001")
        await super().commit()


@pytest.mark.parametrize("key", [None, "k"])
def test_a_unit_of_work_that_lost_runs_again_from_the_start(execute: Execute, engine_of: EngineOf, key: Any) -> None:
    storage = Flaky(losses=3)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    runs: list[Any] = []

    def go(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
        runs.append(dict(data))
        data["amount"] = 99
        ctx.emit("went", {})
        return insert(data, ctx)

    engine = engine_of(make_action("go", go), storage=storage)
    context = RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key=key)
    assert isinstance(execute(engine, "work.go", {"amount": 1}, context), Success)
    assert runs == [{"amount": 1}] * 4
    assert documents(storage) == 1
    assert len(storage.read_events(tenant)) == 1
    assert [row.outcome for row in log_of(engine, tenant)] == ["succeeded"]


def test_one_that_loses_too_often_is_a_conflict(execute: Execute, engine_of: EngineOf) -> None:
    storage = Flaky(losses=3)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    engine = engine_of(make_action("go", insert), storage=storage, limits=Limits(reruns=2))
    context = RequestContext(tenant=tenant, actor=Actor.human("ann"))
    assert execute(engine, "work.go", {}, context).failure().code is ErrorCode.CONFLICT
    assert documents(storage) == 0


def test_a_storage_that_is_gone_is_unavailable(execute: Execute, engine_of: EngineOf) -> None:
    storage = Flaky(gone=True)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    engine = engine_of(make_action("go", insert), storage=storage)
    context = RequestContext(tenant=tenant, actor=Actor.human("ann"), idempotency_key="k")
    assert execute(engine, "work.go", {}, context).failure().code is ErrorCode.UNAVAILABLE
    storage.gone = False
    assert isinstance(execute(engine, "work.go", {}, context), Success)
    assert documents(storage) == 1


def test_cancelling_a_task_rolls_back_and_frees_its_key(
    engine_of: EngineOf, acme: Tenant, storage: InMemoryStorage
) -> None:
    async def hang(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await ctx.async_records("things").insert({}, "one")
        await asyncio.Event().wait()
        return Success(None)

    engine = engine_of(make_action("go", hang))
    context = RequestContext(tenant=acme, actor=Actor.human("ann"), idempotency_key="k")

    async def cancel() -> None:
        task = asyncio.create_task(engine.execute_action_async("work", "go", {}, context))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    data = storage._tenant_data(acme.id)
    assert (data.locks, data.claims, data.snapshots) == ({}, {}, {})
    assert documents(storage) == 0


def test_a_crash_while_logging_a_failure_does_not_hide_it(
    engine_of: EngineOf, execute: Execute, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Flaky(gone=True)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    engine = engine_of(make_action("go", lambda data: Failure("sold out")), storage=storage)
    with caplog.at_level(logging.ERROR):
        error = execute(engine, "work.go", {}, RequestContext(tenant=tenant, actor=Actor.human("ann"))).failure()
    assert error.message == "sold out"
    assert "the action log of work.go raised" in caplog.text


# Abandoned and concurrent work


def test_an_abandoned_nested_handler_writes_nothing(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    release, over = threading.Event(), threading.Event()

    def slow(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        try:
            records = ctx.records("things")
            # Under an event loop it shares the thread of the outer handler, which cannot release it.
            release.wait(1)
            records.insert({"late": True})
        finally:
            over.set()
        return Success(None)

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        failure = ctx.execute("work", "slow", {}).failure()
        release.set()
        assert over.wait(90)
        return Success(failure.code)

    engine = engine_of(make_action("outer", outer), make_action("slow", slow, timeout=0.2))
    assert execute(engine, "work.outer", {}) == Success("timeout")
    assert documents(storage) == 0


def test_the_context_of_a_nested_execution_ends_with_it(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage
) -> None:
    kept: list[Any] = []

    def inner(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        kept.extend((ctx, ctx.records("things")))
        return Failure("no")

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.execute("work", "inner", {})
        uses: list[Callable[[], Any]] = [
            lambda: kept[0].emit("x"),
            lambda: kept[0].records("things"),
            lambda: kept[1].insert({}),
        ]
        for use in uses:
            with pytest.raises(Exception, match="has ended"):
                use()
        return Success(None)

    engine = engine_of(make_action("outer", outer), make_action("inner", inner))
    assert execute(engine, "work.outer", {}) == Success(None)
    assert documents(storage) == 0


def test_an_execution_executes_one_action_at_a_time(
    engine_of: EngineOf, as_ann: RequestContext, storage: InMemoryStorage
) -> None:
    async def failing_late(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        await asyncio.sleep(0)
        return Failure("no")

    async def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        first, second = await asyncio.gather(
            ctx.execute_async("work", "fail", {}), ctx.execute_async("work", "insert", {})
        )
        assert first.failure().message == "no"
        return second

    engine = engine_of(
        make_action("outer", outer), make_action("fail", failing_late), make_action("insert", async_insert)
    )
    error = asyncio.run(engine.execute_action_async("work", "outer", {}, as_ann)).failure()
    assert "one action at a time" in error.message
    assert documents(storage) == 0


def test_an_approval_unwinds_through_a_task_group(engine_of: EngineOf, as_ann: RequestContext) -> None:
    async def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ctx.execute_async("work", "inner", {}))
        return task.result()

    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="approve")
    engine = engine_of(make_action("outer", outer), make_action("inner", insert, approval=policy))
    error = asyncio.run(engine.execute_action_async("work", "outer", {}, as_ann)).failure()
    assert error.code is ErrorCode.APPROVAL_REQUIRED


def test_hooks_of_hooks_do_not_change_the_outer_log_row(engine_of: EngineOf, execute: Execute) -> None:
    inner = (HookDefinition("work", "inner"),)
    engine = engine_of(
        make_action(
            "go",
            lambda data, ctx: Success(ctx.hook_context.output),
            hooks=ActionHooks(before=(HookDefinition("work", "middle"),)),
            result=ActionResultConfig(pipeline=True),
        ),
        make_action("middle", add(1), hooks=ActionHooks(before=inner, after=inner)),
        make_action("inner", add(10)),
    )
    result = execute(engine, "work.go", {}).unwrap()
    assert result.data is None
    assert [entry.name for entry in result.pipeline["before"]] == ["work.middle"]
    assert result.pipeline["after"] == []


@pytest.mark.parametrize("field", ["reason", "request_id", "source"])
@pytest.mark.parametrize("value", ["half \ud800", 7])
def test_odd_values_of_the_request_never_spoil_the_action_log(
    engine_of: EngineOf, execute: Execute, acme: Tenant, field: str, value: Any
) -> None:
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="approve")
    engine = engine_of(make_action("go", insert), make_action("ask", insert, approval=policy))
    options: dict[str, Any] = {field: value}
    context = RequestContext(tenant=acme, actor=Actor.human("ann"), **options)
    assert isinstance(execute(engine, "work.go", {}, context), Success)
    assert execute(engine, "work.ask", {}, context).failure().code is ErrorCode.APPROVAL_REQUIRED
    assert [getattr(row, field) for row in log_of(engine, acme)] == [str(value).replace("\ud800", "?")] * 2


def test_a_condition_may_read_documents_whatever_the_handler_is(engine_of: EngineOf, as_ann: RequestContext) -> None:
    policy = ApprovalPolicy(when=lambda data, ctx: bool(ctx.records("things").list()), permission="approve")
    engine = engine_of(make_action("go", async_insert, approval=policy))

    async def twice() -> list[Any]:
        return [await engine.execute_action_async("work", "go", {}, as_ann) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert isinstance(first, Success)
    assert second.failure().code is ErrorCode.APPROVAL_REQUIRED

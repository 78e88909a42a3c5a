"""Every execution has its row on the action log, whatever its texts and numbers, on every storage."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    Actor,
    AIUsage,
    ApprovalPolicy,
    ConfigurationError,
    Engine,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    Tenant,
    create_engine,
    create_event_type,
    create_service,
)
from actionengine.authorization.port import AccessRequest, Decision
from actionengine.pipeline.action_log import LogRowBuilder
from actionengine.storage.port import Storage
from actionengine.storage.rows import LogRow, Recording
from tests.conftest import log_of, make_action

LENGTHS = [1, 240, 241, 500, 501, 3_000, 12_000]
texts = st.one_of(
    st.text(st.characters(), min_size=1, max_size=8),
    st.text(st.sampled_from("a\0\ud800\udfffé😀\n'\\"), min_size=1, max_size=8),
    st.builds(lambda character, length: character * length, st.sampled_from("a\0\ud800é😀"), st.sampled_from(LENGTHS)),
)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.decimals(),
    st.sampled_from([None, True, 2**63 - 1, 2**63, -1, 10**400, Fraction(1, 3), Decimal("sNaN"), 1e308]),
)


def engine_on(storage: Storage, *actions: Any, **options: Any) -> tuple[Engine, Tenant]:
    """Return an engine with one service, `work`, and a new tenant."""
    tenant: Tenant = storage.create_tenant(slug=f"t{uuid4().hex}", name="t")
    service = create_service(name="work", description="", actions=actions)
    return create_engine(services=[service], storage=storage, **options), tenant


class HostileHost:
    """An engine whose handlers put the texts and numbers of `hostile` into every field of a row that they can set."""

    def __init__(self, storage: Storage, hostile: dict[str, Any]) -> None:
        self.hostile = hostile
        self.inner = 0
        hooks = ActionHooks(
            before=(HookDefinition("work", "hook", False),), after=(HookDefinition("work", "hook", False),)
        )
        waits = ApprovalPolicy(when=lambda data, ctx: True, permission="work.approve")
        everything: dict[str, Any] = {"permission": "work.do", "resource": lambda data: hostile["resource"]}
        self.engine, self.tenant = engine_on(
            storage,
            make_action("do", self._do, **everything),
            make_action("hooked", self._do, hooks=hooks, **everything),
            make_action("approved", self._do, approval=waits, **everything),
            make_action("hook", self._inner),
            make_action("closed", self._do, permission=hostile["resource"]),
            authorizer=self,
        )

    def authorize(self, request: AccessRequest) -> Decision:
        return Decision(request.permission != self.hostile["resource"], self.hostile["reason"])

    def _do(self, data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        hostile = self.hostile
        ctx.record_ai_usage(self.usage())
        ctx.record_ai_usage(self.usage())
        for step in data["steps"]:
            if step == "nest":
                ctx.execute("work", "hook", 1)
            elif step == "emit":
                ctx.emit(hostile["type"], 1, hostile["subject"])
            elif step == "insert":
                ctx.records("notes").insert({"a": 1}, hostile["subject"])
            elif step == "ask":
                ctx.authorize("else", hostile["resource"])
            elif step == "refuse":
                ctx.authorize(hostile["resource"], hostile["resource"])
            elif step == "fail":
                return Failure(ActionError(ErrorCode.CONFLICT, hostile["message"], {"a": hostile["message"]}))
        return Success(1)

    def _inner(self, data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        self.inner += 1
        ctx.record_ai_usage(self.usage())
        return Failure(self.hostile["message"]) if self.inner % 2 else Success(data)

    def usage(self) -> AIUsage:
        hostile = self.hostile
        tokens = hostile["tokens"]
        return AIUsage(hostile["model"], hostile["model"], tokens, tokens, hostile["cost"])

    def context(self, **changes: Any) -> RequestContext:
        hostile = self.hostile
        given: dict[str, Any] = {
            "tenant": self.tenant,
            "actor": actor_of(hostile["actor"]),
            "source": hostile["reason"],
            "reason": hostile["reason"],
            "request_id": hostile["reason"],
            "ai_usage": self.usage(),
        }
        return RequestContext(**{**given, **changes})


def actor_of(id: str) -> Actor:
    """Return an actor of this id on behalf of others of the same id; of Ann, for an id that no actor may have."""
    try:
        return Actor.ai(id, on_behalf_of=Actor.human(id, on_behalf_of=Actor.integration(id)))
    except ValueError:
        return Actor.human("ann")


STEPS = [["nest", "fail"], ["emit", "ask"], ["refuse"], ["insert", "emit", "nest"], ["nest", "emit", "ask", "fail"]]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    hostile=st.fixed_dictionaries(
        {
            **dict.fromkeys(("actor", "resource", "reason", "type", "subject", "message", "model", "key"), texts),
            "tokens": numbers,
            "cost": numbers,
        }
    ),
    steps=st.sampled_from(STEPS),
)
def test_each_execution_has_exactly_one_row(each_storage: Storage, hostile: dict[str, Any], steps: list[str]) -> None:
    host = HostileHost(each_storage, hostile)
    asked = [
        ("do", host.context()),
        ("closed", host.context()),
        ("hooked", host.context()),
        ("approved", host.context()),
        ("do", host.context(actor=None)),
        *[("do", host.context(idempotency_key=hostile["key"]))] * 2,
    ]
    answers = [host.engine.execute_action("work", action, {"steps": steps}, context) for action, context in asked]

    rows = log_of(host.engine, host.tenant)
    outer = [row for row in rows if row.parent_id is None]
    assert [row.action for row in outer] == [f"work.{action}" for action, _ in asked]
    for row, answer in zip(outer, answers, strict=True):
        assert (row.error is None) == isinstance(answer, Success)
        if isinstance(answer, Failure):
            assert row.error["code"] == answer.failure().code
            assert "reduced" not in row.error["details"]
    assert len([row for row in rows if row.parent_id is not None]) == host.inner


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, 2**63 - 1),
        (10**400, 2**63 - 1),
        (math.inf, 2**63 - 1),
        (-1, 0),
        (-math.inf, 0),
        (math.nan, 0),
        (Decimal("sNaN"), 0),
        (None, 0),
        (12.9, 12),
        (True, 1),
    ],
)
def test_tokens_are_whole_numbers_that_a_row_can_keep(given: Any, tokens: int) -> None:
    usage = AIUsage("m", input_tokens=given, output_tokens=given)

    assert (usage.input_tokens, usage.output_tokens) == (tokens, tokens)
    assert type(usage.input_tokens) is int


@pytest.mark.parametrize(
    ("given", "cost"),
    [
        (0.1 + 0.2, 0.3),
        (Decimal("0.0031"), 0.0031),
        (math.nan, 0.0),
        (-0.0, 0.0),
        (-4, 0.0),
        (math.inf, 1e12),
        (10**400, 1e12),
        (None, 0.0),
    ],
)
def test_a_cost_is_a_finite_number_that_a_row_can_keep(given: Any, cost: float) -> None:
    found = AIUsage("m", cost_usd=given).cost_usd

    assert (found, math.copysign(1, found), type(found)) == (cost, 1, float)


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens", "cost_usd"])
@pytest.mark.parametrize("given", ["12", [], 1j])
def test_usage_that_is_no_number_names_the_field(field: str, given: Any) -> None:
    with pytest.raises(TypeError, match=f"AIUsage.{field} must be a number, not"):
        AIUsage("m", **{field: given})


def test_what_is_no_usage_is_refused(engine_of: Callable[..., Engine], as_ann: RequestContext) -> None:
    with pytest.raises(TypeError, match="ai_usage must be an AIUsage"):
        RequestContext(tenant=as_ann.tenant, ai_usage={"model": "m"})  # type: ignore[arg-type]

    def handler(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        ctx.record_ai_usage({"model": "m"})  # type: ignore[arg-type]
        return Success(1)

    engine = engine_of(make_action("go", handler))
    error = engine.execute_action("work", "go", {}, as_ann).failure()

    assert (error.code, error.message) == (ErrorCode.INTERNAL, "record_ai_usage takes an AIUsage, not dict")


def test_an_actor_with_a_long_id_is_refused_and_logged(each_storage: Storage) -> None:
    engine, tenant = engine_on(each_storage, make_action("go", lambda data: Success(1)))
    for length, code in ((240, None), (241, ErrorCode.INVALID_INPUT), (3000, ErrorCode.INVALID_INPUT)):
        result = engine.execute_action("work", "go", 1, RequestContext(tenant, Actor.human("é" * length)))

        row = log_of(engine, tenant)[-1]
        assert row.actor_id == "é" * 240
        if code is not None:
            assert result.failure().code is code
            assert f"has {length} characters; at most 240" in row.error["message"]


def test_the_authorizer_is_asked_about_the_exact_resource(each_storage: Storage) -> None:
    asked = []

    class Authorizer:
        def authorize(self, request: AccessRequest) -> Decision:
            asked.append(request.resource)
            return Decision(request.resource in (None, "job/1�"), "as the resource says")

    action = make_action("go", lambda data: Success(1), permission="p", resource=lambda data: data)
    engine, tenant = engine_on(each_storage, action, authorizer=Authorizer())

    context = RequestContext(tenant=tenant, actor=Actor.human("ann"))
    assert isinstance(engine.execute_action("work", "go", "job/1�", context), Success)
    assert engine.execute_action("work", "go", "job/1\0", context).failure().code is ErrorCode.FORBIDDEN
    assert asked == [None, "job/1�", None, "job/1\0"]
    assert [row.outcome for row in log_of(engine, tenant)] == ["succeeded", "denied"]


def test_decisions_that_a_handler_asks_for_are_bounded(each_storage: Storage) -> None:
    def handler(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        for number in range(2000):
            ctx.authorize("p", f"job/{number}")
        return Success(1)

    engine, tenant = engine_on(each_storage, make_action("go", handler))

    context = RequestContext(tenant=tenant, actor=Actor.human("ann", permissions=["p"]))
    engine.execute_action("work", "go", {}, context).unwrap()
    (row,) = log_of(engine, tenant)
    assert len(row.decision) == 10_000


@pytest.mark.parametrize("details", [{"a": "x" * 100_000}, {str(number): number for number in range(20_000)}])
def test_a_large_error_keeps_its_code_and_the_start_of_its_text(
    details: dict[str, Any], engine_of: Callable[..., Engine], as_ann: RequestContext
) -> None:
    failure = ActionError(ErrorCode.CONFLICT, "m" * 20_000, details)
    engine = engine_of(make_action("go", lambda data: Failure(failure)))

    assert engine.execute_action("work", "go", {}, as_ann) == Failure(failure)
    (row,) = log_of(engine)
    assert (row.error["code"], len(row.error["message"])) == ("conflict", 10_000)
    assert row.error["details"]["omitted_bytes"] > 64 * 1024


class _Refusing(InMemoryStorage):
    """A storage that accepts only reduced rows, like a database with unexpected rules."""

    def unit_of_work(self, *arguments: Any, **options: Any) -> Any:
        unit_of_work = super().unit_of_work(*arguments, **options)
        record = unit_of_work.record

        async def picky(recording: Recording) -> None:
            if any(row.source or row.input is not None for row in recording.log if row.action.startswith("work.")):
                raise RuntimeError("no room")
            await record(recording)

        return _Wrapped(unit_of_work, picky)


class _Wrapped:
    def __init__(self, unit_of_work: Any, record: Any) -> None:
        self.unit_of_work = unit_of_work
        self.record = record

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unit_of_work, name)


def test_a_row_that_the_storage_refuses_is_reduced() -> None:
    def outer(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        ctx.execute("work", "inner", {"secret": "s3cret"})
        return Failure(ActionError(ErrorCode.CONFLICT, "no", {"secret": "s3cret"}))

    engine, tenant = engine_on(
        _Refusing(), make_action("outer", outer), make_action("inner", lambda data: Success(data))
    )
    result = engine.execute_action("work", "outer", {}, RequestContext(tenant, Actor.human("ünal"), source=""))

    assert result.failure().code is ErrorCode.CONFLICT
    rows = log_of(engine, tenant)
    assert [(row.action, row.outcome, row.error["code"]) for row in rows] == [
        ("work.outer", "failed", "conflict"),
        ("work.inner", "failed", "rolled_back"),
    ]
    for row in rows:
        assert row.error["details"] == {"reduced": True}
        assert (row.actor_type, row.actor_id, row.input, row.subjects) == ("human", "\\xfcnal", None, ())
    assert rows[1].parent_id == rows[0].id


@given(
    row=st.fixed_dictionaries(
        {
            "actor_id": texts,
            "source": texts,
            "error": st.none() | st.binary(),
            "on_behalf_of": st.lists(texts, max_size=3).map(tuple),
        }
    )
)
def test_a_reduced_row_fits_whatever_the_row_was(row: dict[str, Any]) -> None:
    tenant_id = UUID(int=1)
    full = LogRow(**{**dict.fromkeys(LogRow._fields), "tenant_id": tenant_id, "outcome": "failed", **row})

    reduced = full.reduced()

    for text in (reduced.actor_id, reduced.source, *reduced.on_behalf_of):
        assert text is not None
        assert text.isascii()
        assert "\0" not in text
        assert len(text) <= 500
    assert reduced.error is not None
    assert reduced.error.isascii()
    assert (reduced.tenant_id, reduced.outcome, reduced.subjects) == (tenant_id, "failed", ())


@pytest.mark.parametrize("actor", [None, Actor.human("ann")])
def test_a_payload_that_cannot_be_masked_is_still_logged(
    actor: Actor | None, engine_of: Callable[..., Engine], acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LogRowBuilder) -> bytes:
        raise ValueError("cannot be masked")

    engine = engine_of(make_action("go", lambda data: Failure("no")))

    with monkeypatch.context() as patch:
        patch.setattr(LogRowBuilder, "input", property(broken))
        assert isinstance(engine.execute_action("work", "go", {}, RequestContext(acme, actor)), Failure)

    (row,) = [row for row in log_of(engine, acme) if row.action == "work.go"]
    assert row.input is None


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\ud800"])
def test_a_name_that_no_row_can_keep_is_refused_at_boot(name: str, engine_of: Callable[..., Engine]) -> None:
    with pytest.raises(ConfigurationError, match="at most 250 characters together"):
        engine_of(make_action(name, lambda data: Success(1)))


def test_the_type_and_the_version_of_an_event_are_bounded(
    engine_of: Callable[..., Engine], as_ann: RequestContext
) -> None:
    def handler(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        ctx.emit("t" * data)
        return Success(1)

    engine = engine_of(make_action("go", handler))
    assert isinstance(engine.execute_action("work", "go", 500, as_ann), Success)
    error = engine.execute_action("work", "go", 501, as_ann).failure()
    assert error.message == "the type of an event has 501 characters; at most 500 are allowed"
    with pytest.raises(ConfigurationError, match="1 to 500 characters"):
        create_event_type(type="t" * 501)
    with pytest.raises(ConfigurationError, match="from 1 to 10000"):
        create_event_type(type="t", version=2**31)

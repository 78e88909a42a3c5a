"""Budgets: how much actors may execute and spend, on every backend."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    Actor,
    AIUsage,
    ApprovalPolicy,
    Budget,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    create_action,
    create_service,
)
from actionengine.pipeline.reservations import Reservations
from actionengine.storage.counters import ONE
from actionengine.storage.memory import transaction, unit_of_work
from actionengine.testing import AsyncBackend, Backend, SyncBackend, run_in_mode
from actionengine.testing.backend import make_tenant
from tests.backends import MODES, AnyStorage, open_storage, requested_database
from tests.clocks import host_clock
from tests.harness import ANN, BOB, BOT, Harness, expect, refused, run_steps

HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)
MARIA = Actor.human("maria", permissions=["payments.approve"])
AUDITOR = Actor.human("auditor", permissions=["budgets.read"])


class Refund(BaseModel):
    """A refund; its handler inserts it, then ends as `then` says."""

    amount: Decimal
    then: str = ""


class Thought(BaseModel):
    """Tokens and dollars that a handler uses."""

    tokens: int = 0
    cost: float = 0.0


def pay_back(data: Refund, ctx: ActionContext) -> Result[str, str]:
    """Insert a refund, and end as asked."""
    ctx.records("refunds").insert({"amount": str(data.amount)})
    match data.then:
        case "raise":
            raise RuntimeError("a crash of the test")
        case "fail":
            return Failure("refused by the test")
        case "sleep":
            time.sleep(0.2)
    return Success(str(data.amount))


def think(data: Thought, ctx: ActionContext) -> Result[int, str]:
    """Insert a note and use tokens, in two calls."""
    ctx.records("notes").insert({})
    for part in (data.tokens // 2, data.tokens - data.tokens // 2):
        ctx.record_ai_usage(AIUsage("m", input_tokens=part, cost_usd=data.cost / 2))
    return Success(data.tokens)


def read(data: Any, ctx: ActionContext) -> Result[int, str]:
    """Count the refunds."""
    return Success(len(ctx.records("refunds").list(limit=100)))


def pass_on(data: Any) -> Result[Any, str]:
    """Return the input."""
    return Success(data)


policy = ApprovalPolicy(when=lambda data, ctx: data.amount > 1000, permission="payments.approve")
payments = create_service(
    name="payments",
    description="Money",
    actions=[
        create_action(
            name="refund", description="", handler=pay_back, validation=Refund, approval=policy, timeout=60.0
        ),
        create_action(name="hasty", description="", handler=pay_back, validation=Refund, timeout=0.05),
        create_action(name="loose", description="", handler=pass_on, is_protected=False),
    ],
)
work = create_service(
    name="work",
    description="Work",
    actions=[
        create_action(name="think", description="", handler=think, validation=Thought),
        create_action(name="read", description="", handler=read, read_only=True),
        create_action(name="steps", description="", handler=run_steps),
        create_action(name="check", description="", handler=pass_on),
        create_action(
            name="hooked",
            description="",
            handler=pass_on,
            hooks=ActionHooks(before=[HookDefinition("work", "check", is_critical=True)]),
        ),
    ],
)

REFUNDS = Budget("refunds", actions="payments.refund", limit=3, window=HOUR)
AMOUNT = {"amount": "0.1"}
MONEY = Budget("money", actions="payments.refund", limit=Decimal("0.3"), unit="input.amount", window=HOUR)


class Desk(Harness):
    """An engine with budgets, on new tenants."""

    actor = BOT

    def __init__(self, backend: Backend, *budgets: Budget) -> None:
        super().__init__(backend, [payments, work], budgets=budgets)

    async def refund(self, amount: Any = "1", **options: Any) -> Any:
        """Refund, and return the value or the error."""
        then = options.pop("then", "")
        return await self.ask("payments.refund", {"amount": amount, "then": then}, **options)

    async def usage(self, **options: Any) -> dict[str, Decimal]:
        """Return how much of each budget is used, as its actor sees it."""
        page = expect(await self.ask("budgets.usage", options.pop("payload", {}), **options))
        return {item.name: item.used for item in page.items}


@pytest.fixture(scope="module", params=["memory-sync", "memory-async", "sqlite-sync", "postgres-async"])
def shared_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Memory in both modes, and each database in one."""
    kind, mode = request.param.split("-")
    storage: AnyStorage
    with open_storage(kind, tmp_path_factory.mktemp("budgets"), requested_database(request, kind)) as storage:
        backend = MODES[mode](storage)
        yield backend
        backend.close()


@pytest.fixture
def backend(shared_backend: Backend) -> Backend:
    """The same with new tenants."""
    shared_backend.tenant, shared_backend.other_tenant = make_tenant(), make_tenant()
    return shared_backend


def limited(answer: Any, budget: str) -> ActionError:
    """Return the error of a request that this budget refused."""
    error = refused(answer, ErrorCode.RATE_LIMITED, budget)
    assert error.details["budget"] == budget
    return error


@run_in_mode
async def test_an_actor_past_its_budget_is_told_when_to_retry(backend: Backend) -> None:
    desk = Desk(backend, REFUNDS)
    for _ in range(3):
        expect(await desk.refund())

    error = limited(await desk.refund(), "refunds")

    assert error.code.http_status == 429
    assert 0 < error.details["retry_after"] <= 3600
    assert f"retry after {error.details['retry_after']} s" in error.message
    facts = {"limit": 3, "used": 3, "amount": 1, "unit": "executions", "per": "actor", "window": 3600.0}
    assert {name: error.to_dict()["details"][name] for name in facts} == facts
    assert await desk.outcomes("payments.refund") == ["succeeded"] * 3 + ["denied"]
    assert len(expect(await desk.ask("work.read", by=ANN)) * [0]) == 3


@run_in_mode
async def test_a_field_of_the_input_adds_up_exactly(backend: Backend) -> None:
    desk = Desk(backend, MONEY)
    expect(await desk.refund("0.1"))
    expect(await desk.refund(0.2))

    limited(await desk.refund("0.000000000001"), "money")

    assert await desk.usage() == {"money": Decimal("0.3")}
    expect(await desk.refund("0"))


@run_in_mode
async def test_an_amount_above_the_whole_budget_never_succeeds(backend: Backend) -> None:
    desk = Desk(backend, MONEY, REFUNDS)

    for amount in ("0.31", "1e30"):
        error = limited(await desk.refund(amount), "money")
        assert "never succeed" in error.message
        assert "retry_after" not in error.details

    assert await desk.usage() == {"money": 0, "refunds": 0}


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "-Infinity", None, "x", "1e-13", 0.1 + 0.2, [1], {}])
def test_an_amount_that_cannot_be_counted_is_invalid(amount: Any) -> None:
    backend = SyncBackend(InMemoryStorage())
    desk = Desk(backend, MONEY)

    error = refused(backend.run(desk.refund(amount)), ErrorCode.INVALID_INPUT, "amount")

    assert [field["path"] for field in error.details["fields"]] == ["amount"]
    assert backend.run(desk.usage()) == {"money": 0}
    assert backend.run(desk.outcomes("payments.refund")) == ["invalid"]


@pytest.mark.parametrize("data", [None, 7, "text", [], {}, {"amount": True}, {"amount": "1"}, {"amount": -1}], ids=str)
def test_an_input_without_a_type_needs_the_number_too(data: Any) -> None:
    backend = SyncBackend(InMemoryStorage())
    desk = Desk(backend, replace(MONEY, actions="payments.loose"))

    refused(backend.run(desk.ask("payments.loose", data)), ErrorCode.INVALID_INPUT, "amount")
    expect(backend.run(desk.ask("payments.loose", {"amount": 0.3})))


@run_in_mode
async def test_whatever_is_rolled_back_is_given_back(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, actions="payments.*", limit=1))
    refused(await desk.refund(then="fail"), ErrorCode.UNPROCESSABLE)
    refused(await desk.refund(then="raise"), ErrorCode.HANDLER_ERROR)
    refused(await desk.refund("5000"), ErrorCode.APPROVAL_REQUIRED)
    refused(await desk.ask("payments.hasty", {"amount": "1", "then": "sleep"}), ErrorCode.TIMEOUT)
    steps = [["payments.refund", {"amount": "1"}]]
    refused(await desk.ask("work.steps", {"steps": steps, "fails": True}), ErrorCode.UNPROCESSABLE)

    assert await desk.usage() == {"refunds": 0}
    expect(await desk.refund())
    limited(await desk.refund(), "refunds")


@run_in_mode
async def test_a_replay_counts_nothing_and_is_not_refused(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, limit=2))
    first = [expect(await desk.refund(key="k")) for _ in range(3)]
    assert await desk.usage() == {"refunds": 1}
    expect(await desk.refund(key="l"))

    limited(await desk.refund(key="m"), "refunds")

    assert expect(await desk.refund(key="k")) == first[0]
    refused(await desk.refund("2", key="k"), ErrorCode.IDEMPOTENCY_MISMATCH)
    assert await desk.usage() == {"refunds": 2}


@run_in_mode
async def test_a_refused_key_can_be_used_later(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, limit=1))
    expect(await desk.refund(key="k"))
    limited(await desk.refund("2", key="l"), "refunds")

    roomy = Desk(backend, replace(REFUNDS, limit=2))

    expect(await roomy.refund("2", key="l"))
    limited(await roomy.refund(), "refunds")


@run_in_mode
async def test_an_approved_action_counts_for_its_requester(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, limit=1), Budget("all", limit=9, window=HOUR))
    pending = [refused(await desk.refund(amount), ErrorCode.APPROVAL_REQUIRED) for amount in ("5000", "6000")]
    decisions = [{"approval_id": each.details["approval_id"]} for each in pending]

    expect(await desk.ask("approvals.approve", decisions[0], by=MARIA))
    limited(await desk.ask("approvals.approve", decisions[1], by=MARIA), "refunds")

    assert await desk.usage() == {"refunds": 1, "all": 1}
    assert await desk.usage(by=MARIA) == {"refunds": 0, "all": 1}
    found = expect(await desk.ask("approvals.get", decisions[1]))
    assert found.status == "pending"


@run_in_mode
async def test_nobody_is_asked_to_approve_what_a_budget_refuses(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, limit=1))
    expect(await desk.refund())

    limited(await desk.refund("5000"), "refunds")

    assert expect(await desk.ask("approvals.list", {}, by=MARIA)).items == ()


@run_in_mode
async def test_nested_executions_and_hooks_count(backend: Backend) -> None:
    desk = Desk(backend, REFUNDS, Budget("checks", actions="work.check", limit=1, window=HOUR))
    steps = [["payments.refund", {"amount": "1", "then": then}] for then in ("", "fail", "", "", "")]

    outcomes = expect(await desk.ask("work.steps", {"steps": steps}))

    assert outcomes == ["succeeded", "unprocessable", "succeeded", "succeeded", "rate_limited"]
    expect(await desk.ask("work.hooked", 1))
    refused(await desk.ask("work.hooked", 1), ErrorCode.HOOK_FAILED, "checks")
    assert await desk.usage() == {"refunds": 3, "checks": 1}
    entry = (await desk.log(action="payments.refund"))[-1]
    assert entry.outcome == "denied"
    assert entry.error is not None
    assert entry.error["code"] == "rate_limited"


@run_in_mode
async def test_counters_of_nested_actions_are_locked_first(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an order of their own, two executions would wait for each other."""
    reserved: list[list[tuple[str, int]]] = []
    reserve = Reservations._reserve

    async def recorded(self: Any, execution: Any, unit_of_work: Any, reservations: Any) -> None:
        reserved.append([(each.budget, each.amount // ONE) for each in reservations])
        await reserve(self, execution, unit_of_work, reservations)

    monkeypatch.setattr(Reservations, "_reserve", recorded)
    calls, steps = Budget("calls", actions="work.*", limit=9, window=HOUR), {"steps": [["payments.refund", AMOUNT]]}
    desk = Desk(backend, REFUNDS, calls, MONEY)
    for _ in range(2):
        assert expect(await desk.ask("work.steps", steps)) == ["succeeded"]
    nested = [("money", 0), ("refunds", 1)]
    assert reserved == [[("calls", 1)], nested, [("calls", 1), ("money", 0), ("refunds", 0)], nested]

    lowered = Desk(backend, replace(REFUNDS, limit=1), calls)
    for _ in range(2):
        assert expect(await lowered.ask("work.steps", steps)) == ["rate_limited"]
    assert await desk.usage() == {"calls": 4, "refunds": 2, "money": Decimal("0.2")}


@run_in_mode
async def test_tokens_of_a_handler_are_counted_before_the_commit(backend: Backend) -> None:
    desk = Desk(
        backend,
        Budget("tokens", actions="work.think", limit=100, unit="tokens", window=HOUR),
        Budget("cost", actions="work.*", limit=Decimal("0.3"), unit="cost_usd", window=HOUR),
    )
    expect(await desk.ask("work.think", {"tokens": 61, "cost": 0.1}))

    limited(await desk.ask("work.think", {"tokens": 40, "cost": 0.1}), "tokens")
    expect(await desk.ask("work.think", {"tokens": 39, "cost": 0.2}))
    limited(await desk.ask("work.think", {"cost": 2e-12}), "cost")
    assert "never" in limited(await desk.ask("work.think", {"tokens": 101}), "tokens").message

    assert await desk.usage() == {"tokens": 100, "cost": Decimal("0.3")}
    assert len(await backend.ids("notes")) == 2
    nested = {"steps": [["work.think", {"tokens": 1, "cost": 0.0}]]}
    assert expect(await desk.ask("work.steps", nested)) == ["rate_limited"]


@run_in_mode
async def test_tokens_of_a_request_are_counted_before_the_handler(backend: Backend) -> None:
    desk = Desk(backend, Budget("tokens", actions="payments.refund", limit=100, unit="tokens", window=HOUR))

    async def ask(tokens: int) -> Any:
        usage = AIUsage("m", input_tokens=tokens - 1, output_tokens=1)
        context = RequestContext(desk.tenant, BOT, ai_usage=usage)
        answer = await backend.execute(desk.engine, "payments", "refund", {"amount": "1", "then": "raise"}, context)
        return answer.failure()

    refused(await ask(100), ErrorCode.HANDLER_ERROR)
    assert "never" in limited(await ask(101), "tokens").message


@run_in_mode
async def test_reads_are_counted_too(backend: Backend) -> None:
    desk = Desk(backend, Budget("reads", actions="work.read", limit=3, window=HOUR))
    expect(await desk.ask("work.read"))
    assert expect(await desk.ask("work.steps", {"steps": [["work.read", None]]})) == ["succeeded"]
    refused(await desk.ask("work.steps", {"steps": [["work.read", None]], "fails": True}), ErrorCode.UNPROCESSABLE)
    assert await desk.usage() == {"reads": 2}
    expect(await desk.ask("work.read"))

    limited(await desk.ask("work.read"), "reads")

    assert expect(await desk.ask("work.steps", {"steps": [["work.read", None]]})) == ["rate_limited"]
    assert await desk.usage() == {"reads": 3}


@run_in_mode
async def test_nested_reads_count_together(backend: Backend) -> None:
    desk = Desk(backend, Budget("reads", actions="work.read", limit=3, window=HOUR))

    limited(await desk.ask("work.steps", {"steps": [["work.read", None]] * 4}), "reads")
    expect(await desk.ask("work.steps", {"steps": [["work.read", None]] * 3}))

    assert await desk.usage() == {"reads": 3}


@run_in_mode
async def test_counters_are_per_actor_principal_or_tenant(backend: Backend) -> None:
    limits: dict[Any, int] = {"actor": 9, "principal": 3, "tenant": 4}
    each = [Budget(per, actions="payments.refund", per=per, limit=limit, window=HOUR) for per, limit in limits.items()]
    desk = Desk(backend, *each)
    bots = [Actor.ai(name, on_behalf_of=ANN) for name in ("one", "two")]
    for bot in (bots[0], bots[0], bots[1]):
        expect(await desk.refund(by=bot))

    limited(await desk.refund(by=bots[0]), "principal")
    limited(await desk.refund(by=ANN), "principal")
    expect(await desk.refund(by=BOB))
    limited(await desk.refund(by=BOB), "tenant")
    assert await desk.usage(by=bots[0]) == {"actor": 2, "principal": 3, "tenant": 4}
    assert await desk.usage(by=BOB) == {"actor": 1, "principal": 1, "tenant": 4}
    assert await desk.usage(by=bots[0], tenant=backend.other_tenant) == {"actor": 0, "principal": 0, "tenant": 0}
    expect(await desk.refund(by=bots[0], tenant=backend.other_tenant))


@run_in_mode
async def test_a_budget_can_be_for_some_types_of_actors(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, limit=1, per="principal", actor_types={"ai"}))
    bot = Actor.ai("bot", on_behalf_of=ANN)
    expect(await desk.refund(by=bot))

    limited(await desk.refund(by=bot), "refunds")

    for _ in range(2):
        expect(await desk.refund(by=ANN))
    assert await desk.usage(by=ANN) == {}
    assert await desk.usage(by=bot) == {"refunds": 1}


@run_in_mode
async def test_callers_without_an_actor_share_a_counter(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, actions="payments.loose", per="principal", limit=1))
    expect(await desk.ask("payments.loose", by=None))

    limited(await desk.ask("payments.loose", by=None), "refunds")

    expect(await desk.ask("payments.loose", by=Actor.human("anonymous")))


@run_in_mode
async def test_all_budgets_are_reserved_or_none(backend: Backend) -> None:
    long, short = replace(REFUNDS, name="a day", window=24 * HOUR), replace(REFUNDS, name="z", limit=2)
    desk = Desk(backend, short, long)
    for _ in range(2):
        expect(await desk.refund())

    limited(await desk.refund(), "z")
    limited(await Desk(backend, replace(short, limit=1), replace(long, limit=1)).refund(), "a day")

    assert await desk.usage() == {"z": 2, "a day": 2}


@run_in_mode
async def test_an_ended_window_is_followed_by_another(backend: Backend) -> None:
    expect(await Desk(backend, replace(REFUNDS, limit=1, window=INSTANT)).refund())
    await backend.sleep(0.001)
    desk = Desk(backend, replace(REFUNDS, limit=1))
    assert await desk.usage() == {"refunds": 0}

    expect(await desk.refund())

    limited(await desk.refund(), "refunds")


@run_in_mode
async def test_the_clock_of_a_host_makes_no_difference(backend: Backend) -> None:
    desk = Desk(backend, replace(REFUNDS, limit=1))
    with host_clock(-7200.0):
        expect(await desk.refund())

    for skew in (7200.0, -7200.0):
        with host_clock(skew):
            error = limited(await desk.refund(), "refunds")
            assert 3500 < error.details["retry_after"] <= 3600
            assert await desk.usage() == {"refunds": 1}


def test_a_retry_after_the_named_time_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for module in (transaction, unit_of_work):
        monkeypatch.setattr(module, "steady_now", lambda: now)
    backend = SyncBackend(InMemoryStorage())
    desk = Desk(backend, replace(REFUNDS, limit=1, window=timedelta(seconds=10)))
    expect(backend.run(desk.refund()))
    now += timedelta(seconds=2.0005)

    error = limited(backend.run(desk.refund()), "refunds")

    assert error.details["retry_after"] == 8.0
    now += timedelta(seconds=7.999)
    limited(backend.run(desk.refund()), "refunds")
    now += timedelta(seconds=0.001)
    expect(backend.run(desk.refund()))
    (item,) = expect(backend.run(desk.ask("budgets.usage", {}))).items
    assert item.resets_at == now + timedelta(seconds=10)
    now += timedelta(seconds=10)
    (item,) = expect(backend.run(desk.ask("budgets.usage", {}))).items
    assert (item.used, item.remaining, item.resets_at) == (0, 1, None)


@run_in_mode
async def test_a_limit_can_change_with_a_deployment(backend: Backend) -> None:
    for _ in range(3):
        expect(await Desk(backend, REFUNDS).refund())
    lower, higher = Desk(backend, replace(REFUNDS, limit=1)), Desk(backend, replace(REFUNDS, limit=4))

    error = limited(await lower.refund(), "refunds")

    assert (error.details["used"], error.details["limit"]) == (3, 1)
    (item,) = expect(await lower.ask("budgets.usage", {})).items
    assert (item.used, item.remaining) == (3, 0)
    expect(await higher.refund())


@run_in_mode
async def test_a_preview_reserves_and_gives_back(backend: Backend) -> None:
    tokens = Budget("tokens", actions="work.think", limit=10, unit="tokens", window=HOUR)
    reads = Budget("reads", actions="work.read", limit=1, window=HOUR)
    desk = Desk(backend, replace(REFUNDS, limit=1), tokens, reads)
    context = RequestContext(desk.tenant, BOT)

    async def preview(service: str, action: str, payload: Any) -> Any:
        if backend.mode == "sync":
            return desk.engine.preview(service, action, payload, context)
        return await desk.engine.preview_async(service, action, payload, context)

    wanted = [
        ("payments", "refund", {"amount": "1"}, "refunds"),
        ("work", "think", {"tokens": 6}, "tokens"),
        ("work", "read", None, "reads"),
    ]
    for service, action, payload, _ in wanted * 2:
        assert isinstance(await preview(service, action, payload), Success)
    assert await desk.usage() == {"refunds": 0, "tokens": 0, "reads": 0}

    for service, action, payload, budget in wanted:
        expect(await desk.ask(f"{service}.{action}", payload))
        limited((await preview(service, action, payload)).failure(), budget)


# budgets.usage


@run_in_mode
async def test_usage_of_others_needs_a_permission(backend: Backend) -> None:
    desk = Desk(backend, REFUNDS, replace(REFUNDS, name="people", per="principal"))
    bot = Actor.ai("bot", on_behalf_of=ANN)
    expect(await desk.refund(by=bot))
    bots, own = {"payload": {"actor": "ai:bot", "principal": "human:ann"}}, {"payload": {"principal": "human:ann"}}

    for asked in (bots, own):
        assert await desk.usage(by=bot, **asked) == {"refunds": 1, "people": 1}
        refused(await desk.ask("budgets.usage", asked["payload"], by=BOB), ErrorCode.FORBIDDEN)
    assert await desk.usage(by=AUDITOR, **bots) == {"refunds": 1, "people": 1}
    assert await desk.usage(by=AUDITOR, payload={"actor": "human:ann"}) == {"refunds": 0, "people": 1}
    assert await desk.usage(by=ANN) == {"refunds": 0, "people": 1}
    for bad in ("bot", "robot:1", "ai:", ""):
        refused(await desk.ask("budgets.usage", {"actor": bad}, by=AUDITOR), ErrorCode.INVALID_INPUT, "actor")


def test_usage_is_there_without_budgets_and_is_free() -> None:
    backend = SyncBackend(InMemoryStorage())
    assert backend.run(Desk(backend).usage()) == {}
    refused(backend.run(Desk(backend).ask("budgets.usage", {}, by=None)), ErrorCode.UNAUTHENTICATED)
    desk = Desk(backend, Budget("all", limit=1, window=HOUR))
    for _ in range(3):
        assert backend.run(desk.usage()) == {"all": 0}


def test_usage_has_exact_numbers_and_plain_json() -> None:
    backend = SyncBackend(InMemoryStorage())
    desk = Desk(backend, MONEY)
    expect(backend.run(desk.refund("0.1")))
    (item,) = expect(backend.run(desk.ask("budgets.usage", {}))).items
    assert (item.limit, item.used, item.remaining) == (Decimal("0.3"), Decimal("0.1"), Decimal("0.2"))
    json = item.model_dump(mode="json")
    assert (json["limit"], json["used"], json["remaining"], json["window"]) == (0.3, 0.1, 0.2, 3600.0)
    schema = type(item).model_json_schema(mode="serialization")
    assert all("description" in field for field in schema["properties"].values())
    assert schema["properties"]["used"]["type"] == "number"


def test_an_action_without_a_budget_touches_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a counter was touched")

    backend = AsyncBackend(InMemoryStorage())
    for name in ("reserve", "announce", "counters"):
        monkeypatch.setattr(transaction.MemoryTransaction, name, refuse, raising=False)
    desk = Desk(backend, replace(REFUNDS, actions="work.*"))
    expect(backend.run(desk.refund(key="k")))
    backend.close()

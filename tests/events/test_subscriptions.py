"""Events that trigger actions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    ConfigurationError,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    Tenant,
    create_action,
    create_service,
)
from actionengine.event_types import create_event_type
from actionengine.events.consumers.subscriptions import Subscriptions
from actionengine.events.event import Event
from actionengine.events.publishers.port import PublishError, PublisherUnavailable
from tests.backends import AnyStorage
from tests.conftest import log_of
from tests.events.stock import history, moved, stock_engine

BUYER = Actor.workflow("buyer")


class Shop:
    """A warehouse, and a service `orders` that buys missing items. `buy` returns `answer`."""

    def __init__(self, storage: Any, tenant: Tenant) -> None:
        self.tenant = tenant
        self.answer: Callable[[], Any] = lambda: Success(None)
        self.runs: list[Any] = []

        def buy(data: Any, ctx: ActionContext) -> Any:
            self.runs.append(("buy", data, ctx.actor))
            ctx.records("orders").insert({"item": data["item"]})
            return self.answer()

        async def tell(data: Any, ctx: ActionContext) -> Result[None, Any]:
            self.runs.append(("tell", data, ctx.actor))
            await ctx.async_records("news").insert({"item": data["item"]})
            return Success(None)

        policy = ApprovalPolicy(when=lambda data, ctx: data["by"] > 100, permission="orders.approve")
        services = [
            create_service(
                name="orders",
                description="Orders",
                actions=[
                    create_action(name="buy", description="Buy", handler=buy),
                    create_action(name="tell", description="Tell", handler=tell),
                    create_action(name="buy_much", description="Buy much", handler=buy, approval=policy),
                    create_action(name="ask", description="Ask", handler=buy, allowed_actors=["human", "ai"]),
                    create_action(name="forbidden", description="No", handler=buy, permission="orders.forbidden"),
                ],
            )
        ]
        self.engine: Engine = stock_engine(storage, services=services)
        self.subscriptions = Subscriptions(self.engine)

    def happens(self, item: str = "nail", by: int = 1) -> Event:
        moved(self.engine, self.tenant, item=item, by=by)
        return [event for event in history(self.engine, self.tenant) if event.type == "stock.moved"][-1]

    def publish(self, *events: Event) -> dict[str, PublishError]:
        async def main() -> dict[str, PublishError]:
            try:
                return dict(await self.subscriptions.publish(events))
            finally:
                await self.engine.storage.aclose()  # type: ignore[attr-defined]

        return asyncio.run(main())

    def failure(self, event: Event) -> PublishError:
        """Return the reason why an event was not delivered."""
        failures = self.publish(event)
        assert list(failures) == [event.id]
        return failures[event.id]

    def orders(self) -> int:
        return sum(run[0] == "buy" for run in self.runs)


@pytest.fixture
def shop(each_storage: AnyStorage) -> Shop:
    return Shop(each_storage, each_storage.create_tenant(slug=f"acme-{uuid4().hex}", name="Acme"))


@pytest.fixture
def small_shop(storage: InMemoryStorage, acme: Tenant) -> Shop:
    return Shop(storage, acme)


def test_an_event_triggers_an_action_as_an_ordinary_execution(shop: Shop) -> None:
    shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    event = shop.happens("nail", 4)

    assert shop.publish(event) == {}

    assert shop.runs == [("buy", {"item": "nail", "by": 4}, BUYER)]
    row = next(row for row in log_of(shop.engine, shop.tenant) if row.action == "orders.buy")
    assert (row.actor_type, row.actor_id, row.source) == ("workflow", "buyer", "event")
    assert (row.reason, row.idempotency_key, row.request_id) == (f"event stock.moved {event.id}", event.id, event.id)


def test_an_event_that_is_delivered_again_takes_effect_once(shop: Shop) -> None:
    shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    event = shop.happens()

    for _ in range(3):
        assert shop.publish(event) == {}

    assert shop.orders() == 1


def test_an_event_without_a_subscription_counts_as_delivered(shop: Shop) -> None:
    shop.subscriptions.subscribe("stock.counted", "orders.buy", actor=BUYER)

    assert shop.publish(shop.happens(), shop.happens()) == {}
    assert shop.runs == []


def test_an_async_handler_and_a_def_one_are_both_executed(shop: Shop) -> None:
    shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    shop.subscriptions.subscribe("stock.moved", "orders.tell", actor=BUYER)

    assert shop.publish(shop.happens()) == {}

    assert [run[0] for run in shop.runs] == ["buy", "tell"]


def test_only_failed_actions_of_an_event_run_again(shop: Shop) -> None:
    shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    shop.subscriptions.subscribe("stock.moved", "orders.tell", actor=BUYER)
    shop.answer = lambda: Failure(ActionError(ErrorCode.CONFLICT, "later"))
    event = shop.happens()

    assert "orders.buy: conflict: later" in str(shop.failure(event))
    shop.answer = lambda: Success(None)
    assert shop.publish(event) == {}

    assert [run[0] for run in shop.runs] == ["buy", "tell", "buy"]


def test_actor_and_payload_can_depend_on_the_event(shop: Shop) -> None:
    shop.subscriptions.subscribe(
        create_event_type(type="stock.moved"),
        "orders.buy",
        actor=lambda event: Actor.integration(f"for-{event.payload['item']}"),
        payload=lambda event: {"item": event.payload["item"], "because": event.id},
        source="restocking",
    )
    event = shop.happens("screw")

    assert shop.publish(event) == {}

    assert shop.runs == [("buy", {"item": "screw", "because": event.id}, Actor.integration("for-screw"))]
    assert log_of(shop.engine, shop.tenant)[-1].source == "restocking"


def test_an_old_event_comes_in_its_newest_version(storage: InMemoryStorage, acme: Tenant) -> None:
    newest = create_event_type(
        type="stock.moved", version=2, upcasters={1: lambda old: {"item": old["item"].upper(), "by": 1 // old["by"]}}
    )
    got: list[Any] = []

    def take(data: Any) -> Result[None, Any]:
        got.append(data)
        return Success(None)

    service = create_service(
        name="orders",
        description="Orders",
        actions=[create_action(name="take", description="Take", handler=take, emits=[newest])],
    )
    engine = stock_engine(storage, services=[service])
    for by in (1, 0):
        moved(engine, acme, item="nail", by=by)
    subscriptions = Subscriptions(engine)
    subscriptions.subscribe(newest, "orders.take", actor=BUYER)
    fine, broken = history(engine, acme)

    failures = asyncio.run(subscriptions.publish([fine, broken]))

    assert got == [{"item": "NAIL", "by": 1}]
    assert list(failures) == [broken.id]
    assert "the upcaster of stock.moved from version 1" in str(failures[broken.id])


# What an action's failure means for the event

FINAL = {
    "invalid_input",
    "unauthenticated",
    "forbidden",
    "not_found",
    "unprocessable",
    "hook_failed",
    "idempotency_mismatch",
}


@pytest.mark.parametrize("code", [code for code in ErrorCode if code != "approval_required"], ids=str)
def test_the_error_code_decides_whether_an_event_is_tried_again(code: ErrorCode, small_shop: Shop) -> None:
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    small_shop.answer = lambda: Failure(ActionError(code, "it was not to be"))

    failure = small_shop.failure(small_shop.happens())

    assert str(failure) == f"orders.buy: {code}: it was not to be"
    assert isinstance(failure, PublisherUnavailable) == (code == "unavailable")
    assert failure.retry == (code not in FINAL)


def test_an_action_that_awaits_approval_counts_as_delivered(shop: Shop) -> None:
    shop.subscriptions.subscribe("stock.moved", "orders.buy_much", actor=BUYER)
    event = shop.happens(by=101)

    assert shop.publish(event) == {}
    assert shop.publish(event) == {}

    auditor = RequestContext(shop.tenant, Actor.system())
    pending = shop.engine.execute_action("approvals", "list", {"status": "pending"}, auditor).unwrap()
    assert [item.requested_by for item in pending.items] == ["workflow:buyer"]
    assert shop.runs == []


def test_an_actor_gets_no_further_than_its_permissions(small_shop: Shop) -> None:
    small_shop.subscriptions.subscribe("stock.moved", "orders.forbidden", actor=BUYER)

    failure = small_shop.failure(small_shop.happens())

    assert (failure.retry, str(failure).startswith("orders.forbidden: forbidden: ")) == (False, True)


@pytest.mark.parametrize(
    ("first", "second", "kind", "retry"),
    [
        ("forbidden", "not_found", PublishError, False),
        ("forbidden", "conflict", PublishError, True),
        ("unavailable", "forbidden", PublisherUnavailable, True),
    ],
)
def test_several_failures_count_as_the_one_that_has_most_hope(
    first: str, second: str, kind: type[PublishError], retry: bool, small_shop: Shop
) -> None:
    codes = iter((first, second))
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy_much", actor=BUYER)
    small_shop.answer = lambda: Failure(ActionError(ErrorCode(next(codes)), "no"))

    failure = small_shop.failure(small_shop.happens())

    assert (type(failure), failure.retry) == (kind, retry)
    assert str(failure) == f"orders.buy: {first}: no; orders.buy_much: {second}: no"


def test_one_event_that_fails_keeps_no_other_one_back(small_shop: Shop) -> None:
    def refusing() -> Any:
        return Failure("no") if len(small_shop.runs) == 2 else Success(None)

    small_shop.answer = refusing
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    events = [small_shop.happens(by=by) for by in range(3)]

    assert list(small_shop.publish(*events)) == [events[1].id]
    assert len(small_shop.runs) == 3


@pytest.mark.parametrize("actor", [Actor.system(), Actor.human("ann"), Actor.ai("bot"), None], ids=str)
def test_an_actor_function_with_a_wrong_result_kills_the_event(actor: Any, small_shop: Shop) -> None:
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=lambda event: actor)

    failure = small_shop.failure(small_shop.happens())

    assert (failure.retry, "must be of the type workflow or integration" in str(failure)) == (False, True)
    assert small_shop.runs == []


def test_a_function_that_raises_fails_its_event(small_shop: Shop) -> None:
    def refuse(event: Event) -> Any:
        raise PublishError("not this one", retry=False)

    def also_refuse(event: Event) -> Any:
        raise ActionError(ErrorCode.NOT_FOUND, "no such item")

    def crash(event: Event) -> Any:
        return event.payload["nothing"]

    event = small_shop.happens()
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER, payload=crash)
    crashed = small_shop.failure(event)
    small_shop.subscriptions = Subscriptions(small_shop.engine)
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER, payload=refuse)
    refused = small_shop.failure(event)
    small_shop.subscriptions = Subscriptions(small_shop.engine)
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER, payload=also_refuse)
    not_found = small_shop.failure(event)

    assert (str(crashed), crashed.retry) == ("orders.buy: its subscription raised KeyError", True)
    assert (str(refused), refused.retry) == ("not this one", False)
    assert (str(not_found), not_found.retry) == ("orders.buy: not_found: no such item", False)


# Declarations


def test_an_unknown_action_is_refused_with_the_nearest_name(small_shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'buy'"):
        small_shop.subscriptions.subscribe("stock.moved", "orders.bye", actor=BUYER)
    with pytest.raises(ConfigurationError, match="did you mean 'orders'"):
        small_shop.subscriptions.subscribe("stock.moved", "order.buy", actor=BUYER)
    with pytest.raises(ConfigurationError, match="there is no"):
        small_shop.subscriptions.subscribe("stock.moved", None, actor=BUYER)  # type: ignore[arg-type]


@pytest.mark.parametrize("actor", [Actor.system(), Actor.human("ann"), Actor.ai("bot"), None, "buyer"], ids=str)
def test_only_workflows_and_integrations_act_on_events(actor: Any, small_shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match=r"Actor\.workflow"):
        small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=actor)


def test_an_actor_of_a_refused_type_is_found_at_once(small_shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="only for ai, human actors, not for workflow:buyer"):
        small_shop.subscriptions.subscribe("stock.moved", "orders.ask", actor=BUYER)


def test_a_type_triggers_an_action_once(small_shop: Shop) -> None:
    small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)
    small_shop.subscriptions.subscribe("stock.counted", "orders.buy", actor=BUYER)

    with pytest.raises(ConfigurationError, match=r"trigger orders\.buy already"):
        small_shop.subscriptions.subscribe("stock.moved", "orders.buy", actor=BUYER)


def test_other_mistakes_are_found_at_once(small_shop: Shop) -> None:
    subscribe = small_shop.subscriptions.subscribe

    with pytest.raises(ConfigurationError, match="must be an event type"):
        subscribe("", "orders.buy", actor=BUYER)
    with pytest.raises(ConfigurationError, match="payload must be a function"):
        subscribe("stock.moved", "orders.buy", actor=BUYER, payload={"item": "nail"})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="concurrency"):
        Subscriptions(small_shop.engine, concurrency=0)

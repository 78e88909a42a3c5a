"""The overview, budgets and dead letters: what they show to whom, and what pressing their buttons does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Budget,
    CallbackPublisher,
    Event,
    InMemoryStorage,
    PublishError,
    Relay,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.console import create_console
from actionengine.console.pages.overview import Card
from tests.console.till import Till, by, forms_of

RIGHTS = {"boss": ["*"], "olga": ["relay.read", "relay.redrive"], "guest": []}


def work(data: dict[str, Any], ctx: ActionContext) -> Result[Any, ActionError]:
    if data.get("fails"):
        return Failure(ActionError("unprocessable", "it is broken"))
    ctx.emit("work.done", {"number": data["number"]}, subject=f"job/{data['number']}")
    return Success(None)


class Shop(Till):
    """A till whose engine has a budget and events, two of which are dead letters."""

    def __init__(self) -> None:
        service = create_service(
            name="work", description="Work", actions=[create_action(name="do", description="Do", handler=work)]
        )
        budgets = [Budget(name="daily", actions="work.*", limit=5, per="tenant", window=timedelta(days=1))]
        self.storage = InMemoryStorage()
        self.engine = create_engine(services=[service], storage=self.storage, budgets=budgets)
        self.tenants = {name: self.storage.create_tenant(slug=name, name=name) for name in ("acme", "globex")}
        self.client = self.client_of(create_console(self.engine, self.identify))

    def context(self, tenant: str, actor: str) -> RequestContext:
        return RequestContext(self.tenants[tenant], Actor.human(actor, permissions=RIGHTS[actor]))

    def do(self, tenant: str = "acme", **payload: Any) -> None:
        self.engine.execute_action("work", "do", payload, self.context(tenant, "boss"))

    def deliver_badly(self) -> None:
        def publish(event: Event) -> None:
            raise PublishError("no such topic")

        Relay(self.storage, CallbackPublisher(publish), max_attempts=1).drain()

    def dead(self, tenant: str = "acme") -> dict[str, bool]:
        """Return whether each dead letter of a tenant is skipped, by subject."""
        page = self.engine.execute_action("relay", "dead_letters", {}, self.context(tenant, "boss")).unwrap()
        return {letter.subject: letter.skipped for letter in page.items}


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    for number in (1, 2):
        shop.do(number=number)
    shop.do("globex", number=9)
    shop.deliver_badly()
    for _ in range(2):
        shop.do(fails=True)
    return shop


def test_the_overview_has_a_card_for_each_right(shop: Shop) -> None:
    page = shop.get("/").text
    assert '<strong class="bad">2 dead</strong>' in page
    assert "Failures in 24 hours" in page
    assert "The last one was <code>work.do</code>" in page
    assert "daily: 4 of 5 used." not in page  # Failed executions give their amount back.
    guest = shop.get("/", "guest").text
    for heading in ("Failures", "Delivery"):
        assert heading not in guest
    assert "Waiting approvals" in guest


def test_a_budget_near_its_limit_is_on_the_overview(shop: Shop) -> None:
    assert "None of yours." in shop.get("/").text
    for number in (3, 4):
        shop.do(number=number)
    assert "daily: 4 of 5 used." in shop.get("/").text


def test_one_card_that_fails_leaves_the_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(visit: Any, action: str, payload: Any) -> Card:
        return Card(error=ActionError("internal", "the view is broken")) if action == "relay.status" else Card()

    monkeypatch.setattr("actionengine.console.pages.overview._read", read)
    page = shop.get("/")
    assert (page.status_code, "the view is broken" in page.text) == (200, True)


def test_budgets_of_another_actor_need_a_permission(shop: Shop) -> None:
    assert "2 of 5" in shop.get("/budgets").text
    assert "Budgets of ai:bot" in shop.get("/budgets?actor=ai:bot").text
    answer = shop.get("/budgets?actor=ai:bot", "guest")
    assert (answer.status_code, "budgets.read" in answer.text) == (403, True)
    assert shop.get("/budgets?actor=odd").status_code == 400


def test_dead_letters_are_delivered_again(shop: Shop) -> None:
    page = shop.get("/dead-letters").text
    assert ("job/1" in page, "job/9" in page, "no such topic" in page) == (True, False, True)
    forms = shop.forms("/dead-letters")
    assert shop.press(forms["relay.redrive"]).status_code == 303
    assert len(shop.dead()) == 1
    forms["relay.redrive"]["key"] = "of another window"
    late = shop.press(forms["relay.redrive"])
    assert (late.status_code, "<h1>Dead letters" in late.text) == (404, True)
    *_, row = shop.log(action="relay.redrive")
    assert (row.outcome, row.source) == ("succeeded", "console")


def test_a_dead_letter_is_skipped_with_a_reason(shop: Shop) -> None:
    form = shop.forms("/dead-letters")["relay.skip"]
    empty = shop.press(form)
    assert (empty.status_code, "reason" in empty.text) == (400, True)
    form["key"] = "another"
    assert shop.press(form, reason="the topic is gone").status_code == 303
    assert sorted(shop.dead().values()) == [False, True]
    assert "the topic is gone" in shop.get("/dead-letters").text


def test_buttons_of_dead_letters_follow_the_rights(shop: Shop) -> None:
    assert set(shop.forms("/dead-letters", "olga")) == {"relay.redrive"}
    skip = shop.forms("/dead-letters")["relay.skip"]
    assert shop.press(skip, "olga", reason="no").status_code == 403
    assert shop.get("/dead-letters", "guest").status_code == 403


def test_all_dead_letters_of_this_tenant_are_delivered_again(shop: Shop) -> None:
    page = shop.get("/dead-letters").text
    assert "Deliver all again" in page
    (form,) = [each for each in _all(page) if "all" in each["payload"]]
    assert shop.press(form).status_code == 303
    assert (shop.dead(), set(shop.dead("globex"))) == ({}, {"job/9"})
    assert "There is no dead letter." in shop.get("/dead-letters").text


def test_another_tenants_dead_letter_stays(shop: Shop) -> None:
    form = shop.forms("/dead-letters")["relay.skip"]
    other = forms_of(shop.client.get("/dead-letters", headers=by("boss", "globex")).text)["relay.skip"]
    form["payload"] = other["payload"]
    answer = shop.press(form, reason="mine now")
    assert (answer.status_code, "<h1>Dead letters" in answer.text) == (404, True)
    assert set(shop.dead("globex").values()) == {False}


def _all(page: str) -> list[Any]:
    parts = page.split('<form class="press"')[1:]
    return [next(iter(forms_of('<form class="press"' + part).values())) for part in parts]

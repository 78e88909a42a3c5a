"""The consumers of the example: invoices and the board, on both hosts as a person starts them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from examples.field_service.app import HostStorage, create_business
from examples.field_service.background import Background, create_subscriptions
from examples.field_service.board import create_board
from examples.field_service.db.models.invoices import CALL_OUT
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    RequestContext,
    create_action,
    create_engine,
    create_service,
    replay,
    replay_async,
)
from tests.examples.conftest import (
    BACKENDS,
    CARD,
    CARLA,
    MARIA,
    TOM,
    FreshStorage,
    Host,
    fresh_key,
    keyed,
    person,
    until,
)


def test_the_invoice_for_a_job_that_is_done_is_drafted_by_itself(relaying_host: Host) -> None:
    host = relaying_host
    job = host.completed_job()
    (invoice,) = until(lambda: host.do("invoices/list", {}))
    assert (invoice["id"], invoice["send_to"], invoice["amount"]) == (job, "ada@example.org", CALL_OUT)
    (row,) = host.log(action="invoices.draft")
    assert (row["actor_type"], row["actor_id"], row["source"]) == ("workflow", "billing", "event")
    assert host.do("invoices/list", {}, person("carla", "globex")) == []


def test_the_board_follows_what_happens(relaying_host: Host) -> None:
    host = relaying_host

    def board(**asked: str) -> list[tuple[str, str]]:
        return [(card["job_id"], card["status"]) for card in host.do("jobs/board", asked, TOM)]

    job = host.scheduled_job()
    until(lambda: board(day="2031-03-03") == [(job, "scheduled")])
    host.do("jobs/schedule", {"job_id": job, "day": "2031-03-04"})
    until(lambda: board(day="2031-03-03") == [] and board(day="2031-03-04") == [(job, "scheduled")])
    host.do("jobs/complete", {"job_id": job}, TOM)
    until(lambda: board() == [(job, "completed")])
    host.do("payments/capture", {"job_id": job, "amount": 100, "card_number": CARD}, keyed(CARLA, fresh_key()))
    until(lambda: board() == [(job, "paid")])
    assert host.do("jobs/board", {}, person("tom", "globex")) == []


def test_an_unsendable_invoice_is_a_dead_letter_with_a_reason(relaying_host: Host) -> None:
    host = relaying_host
    customer = host.do("customers/create", {"name": "Grace"})
    job = host.do("jobs/create", {"customer_id": customer["id"], "title": "Leak"})["id"]
    host.do("jobs/schedule", {"job_id": job, "day": "2031-03-03"})
    host.do("jobs/complete", {"job_id": job}, TOM)
    operator = Background(host.storage, create_business(host.storage)).relay
    (letter,) = until(operator.dead_letters)
    assert letter.reason == "invoices.draft: unprocessable: Grace has no e-mail address to send an invoice to"
    assert (letter.event.type, letter.event.subject, letter.attempts) == ("jobs.completed", f"jobs/{job}", 1)
    assert operator.skip([letter.event.id], "sent by post") == 1
    assert host.do("invoices/list", {}) == []


def test_people_draft_no_invoices_unless_their_role_says_so(host: Host) -> None:
    job = host.completed_job()
    for who in (CARLA, TOM):
        assert host.post("invoices/draft", {"job_id": job}, who).status_code == 403
    assert host.do("invoices/draft", {"job_id": job}, MARIA)["id"] == job


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_event_delivered_twice_drafts_one_invoice(backend: str, fresh_storage: FreshStorage) -> None:
    async def deliver_twice(storage: HostStorage) -> None:
        engine = create_business(storage)
        acme = engine.resolve_tenant("acme").unwrap()
        context = RequestContext(tenant=acme, actor=Actor.human("maria"))

        async def do(service: str, action: str, **payload: str) -> Any:
            return (await engine.execute_action_async(service, action, payload, context)).unwrap()

        customer = await do("customers", "create", name="Ada", email="ada@example.org")
        job = await do("jobs", "create", customer_id=customer.id, title="Leak")
        await do("jobs", "schedule", job_id=job.id, day="2031-03-03")
        await do("jobs", "complete", job_id=job.id)
        events = replay_async(storage, acme, types=["jobs.completed"])
        completed = [event async for event in events]
        subscriptions = create_subscriptions(engine)
        for _ in range(2):
            assert await subscriptions.publish(completed) == {}
        assert [invoice.id for invoice in await do("invoices", "list")] == [job.id]
        await storage.aclose()

    with fresh_storage(backend) as storage:
        asyncio.run(deliver_twice(storage))


def _events(host: Host) -> list[Any]:
    return list(replay(host.storage, host.tenant()))


def _schedule_as_it_was(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
    """Return a row of `jobs.scheduled` in its first version."""
    row = {"id": "job-1", "version": 2, "customer_id": "c-1", "title": "Old boiler", "status": "scheduled"}
    ctx.emit("jobs.scheduled", {**row, "scheduled_for": "2025-01-07"}, subject="jobs/job-1")
    return Success(None)


def test_the_board_shows_events_of_the_first_version(fresh_host: Host) -> None:
    host = fresh_host
    before = create_service(
        name="before",
        description="As it was",
        actions=[create_action(name="schedule", description="Fix a day", handler=_schedule_as_it_was)],
    )
    then = create_engine(services=[before], storage=host.storage)
    maria = RequestContext(tenant=host.tenant(), actor=Actor.human("maria"))
    then.execute_action("before", "schedule", {}, maria).unwrap()
    assert _events(host)[-1].version == 1

    create_board(create_business(host.storage)).catch_up(host.tenant()).unwrap()
    card = {"job_id": "job-1", "title": "Old boiler", "day": "2025-01-07", "status": "scheduled"}
    assert host.do("jobs/board", {"day": "2025-01-07"}, TOM) == [card]

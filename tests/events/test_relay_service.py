"""The built-in service `relay`: what a tenant sees of its undelivered events, and decides about its dead letters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import uuid4

import pytest
from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    Actor,
    CallbackPublisher,
    ErrorCode,
    Relay,
    RequestContext,
    Role,
    Sensitive,
    StaticAuthorizer,
    Tenant,
    create_action,
    create_service,
)
from actionengine.storage.outbox import EVENTS, TRIGGERS, WORKFLOWS, FailedDelivery
from actionengine.storage.rows import Recording, Route
from actionengine.testing import Backend, run_in_mode
from actionengine.testing.backend import make_tenant
from actionengine.testing.rows import event_row
from tests.backends import MODES, AnyStorage, open_storage
from tests.harness import ANN, Harness, expect, refused
from tests.postgres import copy_database

OPERATOR = Actor.human("oscar", roles=["operator"])
READER = Actor.human("rita", roles=["reader"])
AGENT = Actor.ai("bot", roles=["operator"])
ROLES = {
    "operator": Role(allow=["relay.*", "jobs.*"]),
    "reader": Role(allow=["relay.read"]),
    "auditor": Role(allow=["action_log.read"]),
}


class Telling(BaseModel):
    """A job, and a password that must not be shown."""

    number: int
    password: Annotated[str, Sensitive()]


def tell(data: Telling, ctx: ActionContext) -> Result[None, Any]:
    ctx.emit("job.told", {"number": data.number, "note": f"by {data.password}"}, subject=f"jobs/{data.number}")
    return Success(None)


def redrive_and_fail(data: Any, ctx: ActionContext) -> Result[None, Any]:
    ctx.execute("relay", "redrive", {"ids": data["ids"]}).unwrap()
    return Failure("refused after the redrive")


JOBS = create_service(
    name="jobs",
    description="Jobs",
    actions=[
        create_action(name="tell", description="Tell", handler=tell, permission="jobs.tell"),
        create_action(name="fail", description="Redrive, and fail", handler=redrive_and_fail, permission="jobs.fail"),
    ],
)


class Desk(Harness):
    """An engine with roles in code, and dead letters of its tenant."""

    actor = OPERATOR

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, [JOBS], authorizer=StaticAuthorizer(ROLES))

    async def status(self, queue: str = EVENTS, **options: Any) -> Any:
        """Return the state of a queue."""
        state = expect(await self.ask("relay.status", {}, **options))
        (found,) = [each for each in state.queues if each.queue == queue]
        return found

    async def letters(self, **payload: Any) -> list[str]:
        """Return the ids of the dead letters of a page."""
        return [letter.id for letter in expect(await self.ask("relay.dead_letters", payload)).items]

    async def kill(
        self, tenant: Tenant | None = None, number: int = 1, queue: str = EVENTS, **settings: Any
    ) -> list[str]:
        """Commit events about one subject each, and make dead letters of them. Return their ids, sorted."""
        rows = [event_row(tenant or self.tenant, subject=f"jobs/{each}", **settings) for each in range(number)]
        async with self.backend.writing(tenant or self.tenant) as unit:
            await unit.record(Recording((), rows, routes=(Route(WORKFLOWS), Route(TRIGGERS))))
        await self.bury(EVENTS)
        return sorted(row.id for row in rows)

    async def bury(self, *queues: str, retry_in: float | None = None) -> None:
        """Fail the first event of each subject, for good or for some seconds."""
        for queue in queues:
            outbox = self.backend.storage.outbox(self.backend.mode, queue)
            while batch := await outbox.take(1000, 30.0):
                first = {(each.event.tenant_id, each.event.subject): each for each in reversed(batch)}
                await outbox.settle((), [FailedDelivery(each, "no route", retry_in) for each in first.values()])
            await outbox.close()


@pytest.fixture(scope="module", params=["memory-sync", "memory-async", "sqlite-async", "postgres-sync"])
def shared_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Memory in both modes, and each database in one: a database of its own, since dead letters stay in it."""
    kind, mode = request.param.split("-")
    database = None
    if kind == "postgres":
        server, template = (request.getfixturevalue(f"postgres_{name}") for name in ("server", "template"))
        database = copy_database(server, template, "relay")
    storage: AnyStorage
    with open_storage(kind, tmp_path_factory.mktemp("relay"), database) as storage:
        backend = MODES[mode](storage)
        yield backend
        backend.close()


@pytest.fixture
def desk(shared_backend: Backend) -> Desk:
    """A desk with new tenants."""
    shared_backend.tenant, shared_backend.other_tenant = make_tenant(), make_tenant()
    return Desk(shared_backend)


@pytest.fixture
def backend(desk: Desk) -> Backend:
    """The backend of the desk."""
    return desk.backend


@run_in_mode
async def test_a_status_has_each_queue_of_the_tenant(backend: Backend, desk: Desk) -> None:
    await desk.kill(number=3)
    await desk.kill(backend.other_tenant, number=2)

    assert (await desk.status()).dead == 3
    assert (await desk.status(WORKFLOWS)).pending == 3
    assert (await desk.status(tenant=backend.other_tenant)).dead == 2


@run_in_mode
async def test_waiting_and_held_events_are_counted(backend: Backend, desk: Desk) -> None:
    async with backend.writing() as unit:
        rows = [event_row(backend.tenant, subject="jobs/1") for _ in range(3)]
        await unit.record(Recording((), rows))
    await desk.bury(EVENTS, retry_in=1000.0)
    await desk.bury(EVENTS)

    status = await desk.status()

    assert (status.pending, status.waiting, status.held, status.dead) == (3, 1, 2, 0)
    assert status.oldest == rows[0].occurred_at


@run_in_mode
async def test_a_page_shows_events_masked_and_their_reason(backend: Backend, desk: Desk) -> None:
    expect(await desk.ask("jobs.tell", {"number": 7, "password": "hunter2!"}))
    await desk.bury(EVENTS)

    (letter,) = expect(await desk.ask("relay.dead_letters", {"queue": "events"}, by=READER)).items

    assert letter.payload == {"number": 7, "note": "by **********"}
    assert (letter.type, letter.subject, letter.action) == ("job.told", "jobs/7", "jobs.tell")
    assert (letter.actor, letter.attempts, letter.reason, letter.skipped) == ("human:oscar", 1, "no route", False)
    # The page itself is not on the action log again.
    (entry,) = await desk.log(action="relay.dead_letters")
    assert entry.output == {"items": 1, "next": None}


@run_in_mode
async def test_pages_of_several_queues_have_each_letter_once(backend: Backend, desk: Desk) -> None:
    written = await desk.kill(number=5)
    await desk.bury(WORKFLOWS)

    seen: list[tuple[str, str]] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = expect(await desk.ask("relay.dead_letters", {"after": after, "limit": 2}))
        seen += [(letter.id, letter.queue) for letter in page.items]
        after, pages = page.next, pages + 1

    assert sorted(seen) == sorted((id, queue) for id in written for queue in (EVENTS, WORKFLOWS))
    assert len(seen) == len(set(seen))


@run_in_mode
async def test_a_redrive_is_on_the_log_of_each_event(backend: Backend, desk: Desk) -> None:
    first, second, third = await desk.kill(number=3)

    done = expect(await desk.ask("relay.redrive", {"ids": [first, second]}, reason="the broker is back"))

    assert (done.ids, done.missing, done.remaining) == ((first, second), (), 1)
    assert await desk.letters() == [third]
    (entry,) = await desk.log(subject=f"events/{first}")
    assert (entry.action, entry.reason, entry.actor_id) == ("relay.redrive", "the broker is back", "oscar")
    assert set(entry.subjects) == {f"events/{first}", f"events/{second}"}
    assert (await desk.status()).pending >= 2


@run_in_mode
async def test_all_dead_letters_are_redriven_in_batches(backend: Backend, desk: Desk) -> None:
    written = await desk.kill(number=230)
    expect(await desk.ask("relay.skip", {"ids": written[:3], "reason": "sent by hand"}))

    first = expect(await desk.ask("relay.redrive", {"all": True, "queue": "events"}))
    second = expect(await desk.ask("relay.redrive", {"all": True, "queue": "events"}))
    third = expect(await desk.ask("relay.redrive", {"all": True, "queue": "events"}))

    assert (len(first.ids), first.remaining) == (200, 27)
    assert (len(second.ids), second.remaining) == (27, 0)
    assert sorted((*first.ids, *second.ids)) == written[3:]
    assert (third.ids, third.remaining) == ((), 0)
    # The third one has changed nothing.
    assert (await desk.event_types()).count("relay.redrive") == 2
    assert (await desk.status()).skipped == 3


@run_in_mode
async def test_a_skip_keeps_its_reason_and_frees_the_subject(backend: Backend, desk: Desk) -> None:
    (id,) = await desk.kill()

    done = expect(await desk.ask("relay.skip", {"ids": [id.upper()], "reason": "the partner has gone"}))

    assert (done.ids, done.remaining) == ((id,), 0)
    (letter,) = expect(await desk.ask("relay.dead_letters", {})).items
    assert (letter.skipped, letter.reason) == (True, "no route; skipped: the partner has gone")
    again = expect(await desk.ask("relay.redrive", {"ids": [id]}))
    assert again.ids == (id,)


@run_in_mode
async def test_a_second_decision_about_a_letter_is_told(backend: Backend, desk: Desk) -> None:
    first, second = await desk.kill(number=2)
    expect(await desk.ask("relay.skip", {"ids": [first], "reason": "no"}))

    partly = expect(await desk.ask("relay.skip", {"ids": [first, second], "reason": "no"}))
    assert (partly.ids, partly.missing) == ((second,), (first,))
    error = refused(
        await desk.ask("relay.skip", {"ids": [first, second], "reason": "no"}), ErrorCode.NOT_FOUND, first, "1 more"
    )
    assert error.details["missing"] == [first, second]


@run_in_mode
async def test_letters_of_another_tenant_are_not_found(backend: Backend, desk: Desk) -> None:
    (theirs,) = await desk.kill(backend.other_tenant)

    for name, payload in (("redrive", {}), ("skip", {"reason": "mine"})):
        known = refused(await desk.ask(f"relay.{name}", {"ids": [theirs], **payload}), ErrorCode.NOT_FOUND)
        unknown = refused(await desk.ask(f"relay.{name}", {"ids": [str(uuid4())], **payload}), ErrorCode.NOT_FOUND)
        assert known.message.replace(theirs, "") == unknown.message.replace(unknown.details["missing"][0], "")
    assert await desk.letters() == []
    assert expect(await desk.ask("relay.redrive", {"all": True})).ids == ()
    assert (await desk.status(tenant=backend.other_tenant)).dead == 1


@run_in_mode
async def test_each_action_asks_for_its_permission(backend: Backend, desk: Desk) -> None:
    (id,) = await desk.kill()

    expect(await desk.ask("relay.status", {}, by=READER))
    refused(await desk.ask("relay.redrive", {"ids": [id]}, by=READER), ErrorCode.FORBIDDEN)
    refused(await desk.ask("relay.skip", {"ids": [id], "reason": "no"}, by=READER), ErrorCode.FORBIDDEN)
    for name, payload in (("status", {}), ("dead_letters", {}), ("redrive", {"all": True})):
        refused(await desk.ask(f"relay.{name}", payload, by=ANN), ErrorCode.FORBIDDEN)
    assert await desk.letters() == [id]


@run_in_mode
async def test_an_agent_redrives_and_never_skips(backend: Backend, desk: Desk) -> None:
    (id,) = await desk.kill()

    refused(await desk.ask("relay.skip", {"ids": [id], "reason": "no"}, by=AGENT), ErrorCode.FORBIDDEN, "ai actors")
    assert expect(await desk.ask("relay.redrive", {"ids": [id]}, by=AGENT)).ids == (id,)


@pytest.mark.parametrize(
    ("action", "payload", "words"),
    [
        ("redrive", {}, "either ids"),
        ("redrive", {"ids": [str(uuid4())], "all": True}, "either ids"),
        ("redrive", {"ids": []}, "ids"),
        ("redrive", {"ids": ["x"]}, "not the id of an event"),
        ("redrive", {"ids": [str(uuid4())] * 201}, "ids"),
        ("redrive", {"all": True, "queue": "nowhere"}, "queue"),
        ("skip", {"ids": [str(uuid4())]}, "reason"),
        ("skip", {"ids": [str(uuid4())], "reason": ""}, "reason"),
        ("skip", {"ids": [str(uuid4())], "reason": "a\0b"}, "reason"),
        ("dead_letters", {"after": "' OR true --"}, "not the id of an event"),
        ("dead_letters", {"after": "a\0"}, "after"),
        ("dead_letters", {"limit": 201}, "limit"),
        ("status", {"tenant": "other"}, "tenant"),
    ],
)
def test_a_wrong_input_says_what_is_wrong(
    backend: Backend, desk: Desk, action: str, payload: dict[str, Any], words: str
) -> None:
    refused(backend.run(desk.ask(f"relay.{action}", payload)), ErrorCode.INVALID_INPUT, words)


@run_in_mode
async def test_a_failed_action_leaves_the_letter_dead(backend: Backend, desk: Desk) -> None:
    (id,) = await desk.kill()

    error = await desk.ask("jobs.fail", {"ids": [id]})

    refused(error, ErrorCode.UNPROCESSABLE, "refused after")
    assert await desk.letters() == [id]
    assert await desk.outcomes("relay.redrive") == ["failed"]
    assert await desk.outcomes("jobs.fail") == ["failed"]


@run_in_mode
async def test_a_repeated_request_redrives_once(backend: Backend, desk: Desk) -> None:
    (id,) = await desk.kill()

    first = expect(await desk.ask("relay.redrive", {"ids": [id]}, key="k1"))
    await desk.bury(EVENTS)
    second = expect(await desk.ask("relay.redrive", {"ids": [id]}, key="k1"))

    assert first == second
    assert id in await desk.letters()


@run_in_mode
async def test_a_preview_shows_the_letters_and_changes_none(backend: Backend, desk: Desk) -> None:
    (id,) = await desk.kill()
    context = RequestContext(backend.tenant, OPERATOR)
    calls = (("redrive", {"ids": [id]}), ("skip", {"ids": [id], "reason": "no"}))

    for action, payload in calls:
        if backend.mode == "sync":
            preview = desk.engine.preview("relay", action, payload, context)
        else:
            preview = await desk.engine.preview_async("relay", action, payload, context)
        (write,) = preview.unwrap().writes
        assert (write.target, write.id) == ("ae_outbox", f"events/{id}")
    assert await desk.letters() == [id]


@run_in_mode
async def test_a_closed_tenant_has_no_relay_to_ask(backend: Backend, desk: Desk) -> None:
    slug = f"closed-{uuid4().hex}"
    tenant = await backend.create_tenant(slug=slug, name="Closed")
    (id,) = await desk.kill(tenant)
    await backend.delete_tenant(slug=slug)

    for name, payload in (("status", {}), ("redrive", {"ids": [id]}), ("skip", {"ids": [id], "reason": "no"})):
        refused(await desk.ask(f"relay.{name}", payload, tenant=tenant), ErrorCode.NOT_FOUND)


def test_a_sleeping_relay_delivers_what_was_redriven(backend: Backend, desk: Desk) -> None:
    (id,) = backend.run(desk.kill())
    arrived = threading.Event()
    relay = Relay(
        backend.storage, CallbackPublisher(lambda event: arrived.set() if event.id == id else None), poll_interval=300.0
    )
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        expect(backend.run(desk.ask("relay.redrive", {"ids": [id]})))
        assert arrived.wait(60)
    finally:
        relay.stop()
        thread.join()

"""Events that continue runs have their own queues: no other event or publisher delays a run, and no run delays the
events of the host."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from returns.result import Result

from actionengine import ActionError, CallbackPublisher, Event, Fanout, PublishError, PublisherUnavailable, Relay
from actionengine.durable.client import DurableClient, DurableUnavailable
from actionengine.storage.outbox import EVENTS, TRIGGERS, WORKFLOWS
from actionengine.workflows import WorkflowPublisher
from actionengine.workflows.runs.events import CONTROL
from actionengine.workflows.runtime.step_actions import StepActions
from tests.workflows.office import Office, wait_until

NOTE = {"name": "a", "type": "record_mutation", "collection": "notes", "operation": "insert", "data": {"n": 1}}
APPROVED = [
    {"name": "warn", "type": "notification", "to": "ops@acme.example", "message": "m"},
    {"name": "ok", "type": "approval", "permission": "notes.approve", "message": "May it?"},
    NOTE,
]


class Down:
    """A broker that is down."""

    def __init__(self, over: threading.Event) -> None:
        """Take the same argument as `Slow`."""

    def publish(self, events: Sequence[Event]) -> None:
        raise PublisherUnavailable("the broker is down")


class Mailer:
    """A broker that refuses notifications permanently."""

    def __init__(self, over: threading.Event) -> None:
        """Take the same argument as `Slow`."""

    def publish(self, events: Sequence[Event]) -> dict[str, PublishError]:
        refused = PublishError("there is no such mailbox", retry=False)
        return {event.id: refused for event in events if event.type == "workflows.notification"}


class Slow:
    """A broker that does not answer before the end of the test."""

    def __init__(self, over: threading.Event) -> None:
        self.over = over

    def publish(self, events: Sequence[Event]) -> None:
        assert self.over.wait(60)


@contextmanager
def relaying(relay: Relay) -> Iterator[None]:
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield
    finally:
        relay.stop()
        thread.join()


@pytest.mark.parametrize(
    ("broker", "way"),
    [
        (Down, "relay_to"),
        pytest.param(Down, "a relay with the publisher of workflows too", marks=pytest.mark.soak),
        pytest.param(Mailer, "relay_to", marks=pytest.mark.soak),
        (Mailer, "a relay with the publisher of workflows too"),
        pytest.param(Slow, "relay_to", marks=pytest.mark.soak),
        (Slow, "a relay with the publisher of workflows too"),
        pytest.param(None, "a relay with the publisher of workflows", marks=pytest.mark.soak),
        (None, "no relay"),
    ],
)
def test_a_run_goes_on_whatever_becomes_of_the_hosts_events(office: Office, broker: Any, way: str) -> None:
    office.define("pay", *APPROVED)
    for _ in range(10):
        office.do("host.tell")
    over = threading.Event()
    publishers = [] if broker is None else [broker(over)]
    with ExitStack() as stack:
        runtime = stack.enter_context(office.runtime(relay_to=publishers if way == "relay_to" else None))
        if way.startswith("a relay"):
            told = Fanout(runtime.publisher, *publishers) if publishers else runtime.publisher
            stack.enter_context(relaying(Relay(office.storage, told)))
        stack.callback(over.set)

        run = office.start("pay")
        office.wait_for(run, "paused")
        (approval,) = office.do("approvals.list", status="pending").items
        office.do("approvals.approve", by="boss", approval_id=approval.id)
        office.wait_for(run, "succeeded")

        rejected = office.start("pay")
        office.wait_for(rejected, "paused")
        (approval,) = office.do("approvals.list", status="pending").items
        office.do("approvals.reject", by="boss", approval_id=approval.id)
        office.wait_for(rejected, "failed")
        wait_until(lambda: [office.pending()[queue] for queue in (WORKFLOWS, TRIGGERS)] == [0, 0])
    if broker is Mailer:
        letters = Relay(office.storage, publishers[0]).dead_letters()
        assert {(letter.event.type, letter.queue) for letter in letters} == {("workflows.notification", EVENTS)}


def test_a_dead_letter_of_a_run_blocks_no_other_run(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.define("free", NOTE)
    enqueue = DurableClient.enqueue
    poisoned = office.start("free")

    def refuse(client: DurableClient, function: str, *arguments: Any, **options: Any) -> bool:
        if poisoned in arguments:
            raise PublishError("it cannot be queued", retry=False)
        return enqueue(client, function, *arguments, **options)

    relay = Relay(office.storage, CallbackPublisher(lambda event: None))
    with monkeypatch.context() as patched:
        patched.setattr(DurableClient, "enqueue", refuse)
        with office.runtime():
            others = [office.start("free") for _ in range(3)]
            for run in others:
                office.wait_for(run, "succeeded")
            wait_until(lambda: bool(relay.dead_letters()))
    (letter,) = relay.dead_letters()
    assert (letter.queue, letter.event.type, letter.reason) == (WORKFLOWS, "workflows.started", "it cannot be queued")
    assert office.status(poisoned) == "running"

    relay.drain()
    with office.runtime():
        assert relay.redrive([letter.event.id]) == 1
        office.wait_for(poisoned, "succeeded")


def test_a_trigger_that_takes_long_holds_up_no_run(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.define("free", NOTE)
    office.define("triggered", NOTE, trigger={"type": "event", "event_type": "host.tell"})
    fire_event, firing, over = StepActions.fire_event, threading.Event(), threading.Event()

    async def slowly(*arguments: Any) -> Result[Any, ActionError]:
        firing.set()
        assert await asyncio.to_thread(over.wait, 60)
        return await fire_event(*arguments)

    monkeypatch.setattr(StepActions, "fire_event", slowly)
    with office.runtime():
        for _ in range(10):
            office.do("host.tell")
        try:
            assert firing.wait(30)
            for run in [office.start("free") for _ in range(3)]:
                office.wait_for(run, "succeeded")
            assert office.do("workflows.list", key="triggered") == ()
        finally:
            over.set()
        wait_until(lambda: len(office.do("workflows.list", key="triggered")) == 10)


def test_host_events_flow_while_the_durable_engine_is_away(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(client: DurableClient, *_: Any, **__: Any) -> bool:
        raise DurableUnavailable("it is away")

    monkeypatch.setattr(DurableClient, "enqueue", away)
    office.define("free", NOTE)
    runs = [office.start("free") for _ in range(3)]
    got: list[Event] = []
    publisher = WorkflowPublisher(office.engine, office.folder / "durable.sqlite")

    Relay(office.storage, Fanout(publisher, CallbackPublisher(got.append))).drain()

    assert [event.type for event in got].count("workflows.started") == len(runs)
    assert office.pending() == {EVENTS: 0, WORKFLOWS: 3, TRIGGERS: 0}


def test_a_runtime_that_does_not_relay_leaves_it_to_a_relay(office: Office) -> None:
    office.define("free", NOTE)
    run = office.start("free")
    with office.runtime(relays=False):
        time.sleep(0.2)
        assert office.pending()[WORKFLOWS] == 1
        publisher = WorkflowPublisher(office.engine, office.folder / "durable.sqlite")
        Relay(office.storage, publisher, queues=publisher.queues).drain()
        office.wait_for(run, "succeeded")
    assert office.pending()[EVENTS] > 0


def test_the_queue_of_workflows_has_what_the_publisher_acts_upon(office: Office) -> None:
    publisher = WorkflowPublisher(office.engine, office.folder / "durable.sqlite")
    assert publisher._handlers.keys() == CONTROL


def test_a_run_that_waits_for_a_retry_holds_no_place(office: Office) -> None:
    office.define("bad", {**NOTE, "operation": "update", "id": "a", "retry": {"attempts": 2, "seconds": 3600}})
    lock = {"name": "lock", "type": "record_lock", "collection": "notes", "id": "a"}
    office.define("held", {**NOTE, "id": "a"}, lock, APPROVED[1])
    office.define("good", NOTE)
    with office.runtime(concurrency=1):
        holder = office.start("held")
        office.wait_for(holder, "paused")
        bad = office.start("bad")
        good = office.start("good")
        office.wait_for(good, "succeeded")
        assert office.status(bad) == "running"

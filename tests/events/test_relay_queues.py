"""Queues of the outbox: a relay works at each of them independently."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from actionengine import (
    CallbackPublisher,
    ConfigurationError,
    Event,
    Fanout,
    Publisher,
    PublishError,
    PublisherUnavailable,
    Relay,
)
from actionengine.storage.errors import StorageError
from actionengine.storage.outbox import EVENTS, QUEUES, TRIGGERS, WORKFLOWS
from actionengine.storage.rows import Route
from actionengine.testing import Backend
from tests.backends import AnyStorage
from tests.events.harness import Harness as BaseHarness
from tests.events.harness import telling_engine
from tests.events.relay_work import running
from tests.waiting import wait_until


class Harness(BaseHarness):
    """Routes the events of the type `going` to the queue `workflows` too, and all events to `triggers`."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, Route(WORKFLOWS, frozenset({"going"})), Route(TRIGGERS))

    def emit(self, *types: str, subject: str = "jobs/1") -> None:
        self.tell(subject, types=list(types))

    def relay_to(self, *publishers: Publisher, **options: Any) -> Relay:
        return self.relay(publishers[0] if len(publishers) == 1 else Fanout(*publishers), **options)

    def pending(self) -> list[int]:
        relay = self.relay(Ours())
        return [relay.status(queue=queue).pending for queue in QUEUES]


@pytest.fixture
def harness(fresh_backend: Backend) -> Harness:
    return Harness(fresh_backend)


class Ours:
    """A publisher for the queues of workflows."""

    def __init__(self, control: Any = None, triggers: Any = None) -> None:
        self.got: dict[str, list[str]] = {WORKFLOWS: [], TRIGGERS: []}
        parts = {WORKFLOWS: control, TRIGGERS: triggers}
        self.queues: Mapping[str, Publisher] = {
            queue: CallbackPublisher(part or (lambda event, queue=queue: self.got[queue].append(event.type)))
            for queue, part in parts.items()
        }

    def publish(self, events: Sequence[Event]) -> None:
        raise AssertionError("a publisher with queues gets no events itself")


class Broker:
    """The host's broker, which delivers or raises."""

    def __init__(self, raises: Exception | None = None) -> None:
        self.raises = raises
        self.got: list[str] = []

    def publish(self, events: Sequence[Event]) -> None:
        if self.raises is not None:
            raise self.raises
        self.got += [event.type for event in events]


def test_each_queue_goes_to_those_who_take_from_it(harness: Harness) -> None:
    ours, broker, other = Ours(), Broker(), Broker()
    harness.emit("going", "done")

    assert harness.drain(harness.relay_to(ours, broker, other)) == 2

    assert broker.got == other.got == ["going", "done"]
    assert ours.got == {WORKFLOWS: ["going"], TRIGGERS: ["going", "done"]}
    assert harness.pending() == [0, 0, 0]


def test_what_nobody_takes_of_the_hosts_events_does_not_stay(harness: Harness) -> None:
    ours = Ours()
    harness.emit("going", "done")

    assert harness.drain(harness.relay_to(ours)) == 2

    assert ours.got[WORKFLOWS] == ["going"]
    assert harness.pending() == [0, 0, 0]


def test_a_relay_of_some_queues_leaves_the_others(harness: Harness) -> None:
    ours, broker = Ours(), Broker()
    harness.emit("going", "done")

    assert harness.drain(harness.relay_to(ours, queues=[WORKFLOWS])) == 1
    assert harness.pending() == [2, 0, 2]
    assert harness.drain(harness.relay_to(broker)) == 2
    assert harness.pending() == [0, 0, 2]
    assert harness.drain(harness.relay_to(Fanout(ours, broker), queues=TRIGGERS)) == 2
    assert (ours.got, broker.got) == ({WORKFLOWS: ["going"], TRIGGERS: ["going", "done"]}, ["going", "done"])


@pytest.mark.parametrize(
    ("publisher", "queues", "told"),
    [
        (Ours(), ["letters"], "no queue 'letters'"),
        (Broker(), [WORKFLOWS], "takes events from events: queues names workflows"),
        (Ours(), [EVENTS], "takes events from workflows, triggers"),
        (Ours(), [], "queues names none"),
    ],
)
def test_a_queue_that_a_relay_could_not_work_at_is_refused(
    any_storage: AnyStorage, publisher: Any, queues: list[str], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Relay(any_storage, publisher, queues=queues)


@pytest.mark.parametrize(
    "raised",
    [PublishError("no such mailbox", retry=False), PublisherUnavailable("the broker is down"), ValueError("a fault")],
)
def test_a_broken_broker_of_the_host_holds_up_no_other_queue(harness: Harness, raised: Exception) -> None:
    ours, broker = Ours(), Broker(raised)
    for _ in range(3):
        harness.emit("going", "done")

    relay = harness.relay_to(ours, broker)
    if isinstance(raised, PublisherUnavailable):
        with pytest.raises(PublisherUnavailable):
            harness.drain(relay)
    else:
        harness.drain(relay)

    assert (ours.got[WORKFLOWS], len(ours.got[TRIGGERS]), broker.got) == (["going"] * 3, 6, [])
    assert harness.pending()[1:] == [0, 0]


@pytest.mark.parametrize("raised", [PublishError("no", retry=False), PublisherUnavailable("the engine is away")])
def test_broken_other_queues_do_not_hold_up_the_hosts(harness: Harness, raised: Exception) -> None:
    def fail(event: Event) -> None:
        raise raised

    ours, broker = Ours(fail, fail), Broker()
    harness.emit("going", "done", "going")

    if isinstance(raised, PublisherUnavailable):
        with pytest.raises(PublisherUnavailable):
            harness.drain(harness.relay_to(ours, broker))
    else:
        harness.drain(harness.relay_to(ours, broker))

    assert broker.got == ["going", "done", "going"]
    assert harness.pending()[0] == 0


def test_a_relay_that_runs_waits_at_no_queue_for_another_one(harness: Harness) -> None:
    went, stayed = threading.Event(), [threading.Event(), threading.Event()]

    def stay(event: Event) -> None:
        assert went.wait(30)
        next(each for each in stayed if not each.is_set()).set()

    def go(event: Event) -> None:
        went.set()

    harness.emit("going")
    relay = harness.relay_to(Ours(go, stay), CallbackPublisher(stay), publish_timeout=40)

    with running(relay, is_async=harness.is_async):
        wait_until(lambda: all(each.is_set() for each in stayed))
    assert harness.pending() == [0, 0, 0]


@pytest.mark.parametrize("broken", QUEUES)
def test_a_queue_that_cannot_be_worked_at_ends_the_relay(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    storage = harness.backend.storage
    outbox_of = storage.outbox

    def outbox(mode: Any, queue: str = EVENTS) -> Any:
        made = outbox_of(mode, queue)
        if queue == broken:

            async def refused(limit: int, lease: float) -> Any:
                raise StorageError("permission denied")

            monkeypatch.setattr(made, "take", refused)
        return made

    relay = harness.relay_to(Ours(), Broker())

    with monkeypatch.context() as patched:
        patched.setattr(storage, "outbox", outbox)
        with pytest.raises(StorageError, match="permission denied"):
            harness.backend.run(relay.run_async()) if harness.is_async else relay.run()

    # What has ended it does not end it again.
    harness.emit("going")
    with running(relay, is_async=harness.is_async):
        wait_until(lambda: harness.pending() == [0, 0, 0])


def test_dead_letters_of_all_queues_are_seen_and_tried_again(harness: Harness) -> None:
    def fail(event: Event) -> None:
        raise PublishError("no", retry=False)

    harness.emit("going", subject="jobs/1")
    harness.emit("done", subject="jobs/2")
    relay = harness.relay_to(Ours(fail, fail), CallbackPublisher(fail))
    harness.drain(relay)

    def listed(**page: Any) -> list[tuple[str, str]]:
        return [(letter.event.type, letter.queue) for letter in relay.dead_letters(**page)]

    first, second = [("going", queue) for queue in QUEUES], [("done", EVENTS), ("done", TRIGGERS)]
    assert listed() == first + second
    assert listed(queue=WORKFLOWS) == first[1:2]
    # What is dead in several queues is on one page.
    assert listed(limit=1) == first
    assert listed(limit=1, after=relay.dead_letters()[0].event.id) == second
    assert listed(limit=4) == first + second

    going, done = relay.dead_letters()[0].event.id, relay.dead_letters()[-1].event.id
    assert relay.skip([done], "nobody wants it", queue=TRIGGERS) == 1
    assert relay.redrive([going], queue=WORKFLOWS) == 1
    assert relay.redrive() == 3
    assert harness.pending() == [2, 1, 1]
    assert listed() == [("done", TRIGGERS)]
    with pytest.raises(ConfigurationError, match="no queue 'letters'"):
        relay.status(queue="letters")


def test_without_routes_there_is_the_hosts_queue_alone(harness: Harness) -> None:
    harness.engine = telling_engine(harness.backend.storage)

    harness.emit("going", "done")

    assert harness.pending() == [2, 0, 0]

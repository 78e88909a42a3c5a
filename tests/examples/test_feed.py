"""The live feed of both hosts, over real HTTP: server-sent events."""

from __future__ import annotations

import gc
import inspect
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from tests.examples.conftest import BACKENDS, BOT, CARLA, MARIA, SERVED, TOM, FreshStorage, Headers, Host, person, serve
from tests.examples.conftest import until as wait_until

DEADLINE = 90.0


class Message(NamedTuple):
    """One server-sent event."""

    id: int
    type: str
    data: dict[str, Any]


class Feed:
    """The messages of an open feed."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.heartbeats = 0

    def take(self, number: int) -> list[Message]:
        """The next messages; the test fails where they do not come."""
        deadline = time.monotonic() + DEADLINE
        found: list[Message] = []
        while len(found) < number:
            assert time.monotonic() < deadline, f"{number} messages, but there came only {found}"
            message = self._next_block()
            if message is not None:
                found.append(message)
        return found

    def quiet_for(self, heartbeats: int) -> None:
        """So many signs of life, and nothing between them."""
        for _ in range(heartbeats):
            assert self._next_block() is None

    def until_the_end(self) -> None:
        """The server ends the stream in order: it is not cut off."""
        for _ in self._lines:
            pass

    def _next_block(self) -> Message | None:
        fields: dict[str, str] = {}
        while line := next(self._lines):
            name, _, value = line.partition(": ")
            fields[name] = value
        if not fields.get("data"):
            assert fields == {"": "still here"}
            return None
        return Message(int(fields["id"]), fields["event"], json.loads(fields["data"]))


@contextmanager
def watching(host: Host, after: int = 0, headers: Headers = MARIA, **query: str) -> Iterator[Feed]:
    """A feed of those events that come after a position."""
    resumed = {**headers, "last-event-id": str(after)} if after else headers
    with (
        httpx.Client(base_url=host.client.base_url, timeout=60, trust_env=False) as client,
        client.stream("GET", "/events", headers=resumed, params=query) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield Feed(response)


def positions(host: Host, tenant: str = "acme", after: int = 0) -> list[int]:
    """Return the positions of the tenant's events in the event log."""
    found: list[int] = []
    while page := host.storage.read_events(host.tenant(tenant), after=found[-1] if found else after):
        found += [position for position, _ in page]
    return found


def newest(host: Host, tenant: str = "acme") -> int:
    return positions(host, tenant)[-1]


def open_feeds() -> int:
    """Return the number of feeds that this process still serves."""
    gc.collect()
    found = gc.get_objects()
    in_threads = [thing for thing in found if inspect.isgenerator(thing) and thing.__name__ == "feed"]
    in_tasks = [thing for thing in found if inspect.isasyncgen(thing) and thing.__name__ == "feed_async"]
    return sum(thing.gi_frame is not None for thing in in_threads) + sum(
        thing.ag_frame is not None for thing in in_tasks
    )


def test_an_event_arrives_as_a_cloud_event_when_it_happens(host: Host) -> None:
    with watching(host, newest(host)) as feed:
        feed.quiet_for(1)
        created = host.do("customers/create", {"name": "Ada"}, CARLA)
        (message,) = feed.take(1)
    assert message.type == "customers.created"
    assert message.id == newest(host)
    told = message.data
    assert told["data"] == created
    assert told["specversion"] == "1.0"
    assert (told["type"], told["subject"]) == ("customers.created", f"customers/{created['id']}")
    assert (told["tenant"], told["action"]) == (str(host.tenant().id), "customers.create")
    assert (told["actortype"], told["actor"]) == ("human", "carla")
    assert int(told["sequence"]) == message.id


def test_without_a_position_a_feed_begins_with_the_first_event(host: Host) -> None:
    host.new_job()
    there = positions(host)
    with watching(host) as feed:
        assert [message.id for message in feed.take(len(there))] == there


def test_a_reconnecting_client_gets_each_event_once(host: Host) -> None:
    begun = last = newest(host)
    seen: list[int] = []
    for _ in range(4):
        host.new_job()
        with watching(host, last) as feed:
            host.new_job()
            seen += [message.id for message in feed.take(3)]  # of four and more that there are
        last = seen[-1]
    rest = positions(host, after=last)
    with watching(host, last) as feed:
        seen += [message.id for message in feed.take(len(rest))]
        feed.quiet_for(2)
    assert seen == positions(host, after=begun)


def test_only_the_types_that_were_asked_for_arrive(host: Host) -> None:
    with watching(host, newest(host), types="jobs.completed,jobs.scheduled") as feed:
        job = host.completed_job()
        messages = feed.take(2)
        feed.quiet_for(1)
    assert [message.type for message in messages] == ["jobs.scheduled", "jobs.completed"]
    assert {message.data["subject"] for message in messages} == {f"jobs/{job}"}


def test_two_tenants_side_by_side_see_their_own_events_only(host: Host) -> None:
    tenants = ("acme", "globex")
    begun = {tenant: newest(host, tenant) for tenant in tenants}
    with (
        watching(host, begun["acme"], person("maria", "acme")) as acme,
        watching(host, begun["globex"], person("maria", "globex")) as globex,
    ):
        for _ in range(5):
            for tenant in tenants:
                host.completed_job(tenant)
        for tenant, feed in zip(tenants, (acme, globex), strict=True):
            messages = feed.take(20)
            feed.quiet_for(2)
            assert {message.data["tenant"] for message in messages} == {str(host.tenant(tenant).id)}
            assert [message.id for message in messages] == positions(host, tenant, begun[tenant])


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "unauthenticated"),
        ({"x-tenant-id": "acme"}, 401, "unauthenticated"),
        (TOM, 403, "forbidden"),
        (BOT, 403, "forbidden"),
        (person("maria", "initech"), 404, "not_found"),
        ({**MARIA, "last-event-id": "yesterday"}, 400, "invalid_input"),
        ({**MARIA, "last-event-id": "-1"}, 400, "invalid_input"),
        ({**MARIA, "last-event-id": "9" * 30}, 400, "invalid_input"),
    ],
    ids=["no tenant", "no actor", "a technician", "an agent", "no such tenant", "a word", "below 0", "too large"],
)
def test_who_may_not_watch_is_told_so_as_by_any_action(host: Host, headers: Headers, status: int, code: str) -> None:
    response = host.get("/events", headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_refusal_to_watch_is_on_the_action_log(host: Host) -> None:
    host.get("/events", TOM)
    row = host.log(action="events.watch")[0]
    assert (row["outcome"], row["actor_id"]) == ("denied", "tom")


def test_twenty_clients_at_once_all_see_everything_in_order(host: Host) -> None:
    begun = newest(host)
    ready = threading.Barrier(21)

    def watch(_: int) -> list[int]:
        with watching(host, begun) as feed:
            ready.wait(DEADLINE)
            return [message.id for message in feed.take(40)]

    with ThreadPoolExecutor(20) as pool:
        seen = [pool.submit(watch, n) for n in range(20)]
        ready.wait(DEADLINE)
        for _ in range(10):
            host.completed_job()
        expected = positions(host, after=begun)
        assert len(expected) == 40
        assert [future.result() for future in seen] == [expected] * 20


def test_nothing_is_left_of_a_client_that_went(host: Host) -> None:
    for _ in range(5):
        with watching(host, newest(host)) as feed:
            feed.quiet_for(1)
    wait_until(lambda: open_feeds() == 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SERVED)
def test_a_host_stops_with_connected_clients(name: str, backend: str, fresh_storage: FreshStorage) -> None:
    with fresh_storage(backend) as storage, ThreadPoolExecutor(5) as pool:
        threads = set(threading.enumerate())
        connected = threading.Barrier(6)

        def stay(host: Host) -> None:
            with watching(host, newest(host)) as feed:
                feed.quiet_for(1)
                connected.wait(DEADLINE)
                feed.until_the_end()

        with serve(name, storage) as host:
            staying = [pool.submit(stay, host) for _ in range(5)]
            connected.wait(DEADLINE)
            stopped = time.monotonic()
        assert time.monotonic() - stopped < DEADLINE
        for client in staying:
            client.result(DEADLINE)
        assert open_feeds() == 0
        mine = [thread for thread in set(threading.enumerate()) - threads if "ThreadPoolExecutor" not in thread.name]
        assert [thread.name for thread in mine if not thread.daemon] == []

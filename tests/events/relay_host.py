"""A program that starts relays and writers, each in a process of its own, to be killed, frozen and stopped.

It reads orders, one a line. For each it forks a process and prints its id. No process waits for their ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

from returns.result import Success

from actionengine import PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.events.event import Event
from actionengine.events.publishers.port import CallbackPublisher, Publisher
from actionengine.events.relay import worker
from actionengine.events.relay.relay import Relay
from tests.events.relay_work import BrokerLog, Writer

LIFETIME = 600.0
"""Seconds after which a process ends by itself."""

ERRORS_FILE = "errors"
"""The name of a file beside the path of an order: the stderr of its process."""

WORKERS = 3
SUBJECTS = 12


class Order(NamedTuple):
    """The description of a process. `path` is the broker's log for a relay, and the journal of a writer."""

    role: Literal["relay", "writer"]
    name: str
    url: str
    path: str
    mode: Mode = "sync"
    batch_size: int = 20
    calls_of: int = 1
    """The batch size of the publisher."""
    pause: float = 0.0
    """Seconds that the publisher needs for one event."""
    publish_timeout: float = 10.0
    leeway: float | None = None
    poll_interval: float = 0.2
    tenant_id: str = ""
    slug: str = ""
    stops: bool = False
    """True if SIGTERM stops the relay."""


class LogPublisher:
    """A publisher that takes several events in a call."""

    def __init__(self, order: Order, file: int) -> None:
        self.batch_size = order.calls_of
        self._order = order
        self._file = file

    def publish(self, events: Sequence[Event]) -> None:
        for event in events:
            deliver(self._order, self._file, event)


def deliver(order: Order, file: int, event: Event) -> None:
    if order.pause:
        time.sleep(order.pause)
    BrokerLog.append(file, order.name, event)


def publisher_of(order: Order) -> Publisher:
    file = BrokerLog(Path(order.path)).opened()
    if order.calls_of > 1:
        return LogPublisher(order, file)
    if order.mode == "sync":
        return CallbackPublisher(lambda event: deliver(order, file, event))

    async def deliver_async(event: Event) -> None:
        await asyncio.sleep(order.pause)
        BrokerLog.append(file, order.name, event)

    return CallbackPublisher(deliver_async, concurrency=2)


def storage_of(order: Order) -> PostgresStorage | SQLiteStorage:
    if order.url.startswith("sqlite"):
        return SQLiteStorage(order.url, busy_timeout=60.0)
    return PostgresStorage(order.url, application_name=order.name, connect_timeout=20, pool_timeout=20.0)


def be_a_relay(order: Order) -> None:
    if order.leeway is not None:
        worker._LEASE_TIMEOUT = order.leeway
    relay = Relay(
        storage_of(order),
        publisher_of(order),
        batch_size=order.batch_size,
        publish_timeout=order.publish_timeout,
        poll_interval=order.poll_interval,
        name=order.name,
    )
    if order.stops:
        signal.signal(signal.SIGTERM, lambda *_: relay.stop())
    if order.mode == "sync":
        relay.run()
    else:
        asyncio.run(relay.run_async())


def be_a_writer(order: Order) -> None:
    """Emit one to three events an action, of few subjects, in several threads, and record completed actions."""
    writer = Writer(storage_of(order), Tenant(UUID(order.tenant_id), order.slug))
    journal = os.open(order.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())

    def work(worker: int) -> None:
        dice = random.Random(f"{order.name} {worker}")
        for number in count():
            if is_over.is_set():
                return
            # What names the action among the events that arrive: a subject that no other one has.
            mark = f"{order.name}/{worker}/{number}"
            subjects = [f"s/{dice.randrange(SUBJECTS)}" for _ in range(dice.randint(0, 2))]
            if isinstance(writer.try_to_emit(*subjects, mark), Success):
                os.write(journal, b"\n" + json.dumps(mark).encode() + b"\n")
            time.sleep(dice.uniform(0.0, 0.02))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    # No wait for the event: the signal's handler would set it inside of that, and wait for its lock.
    while not is_over.is_set():
        time.sleep(0.05)
    for thread in threads:
        thread.join()


def live(order: Order) -> None:
    """Do what an order says, to the end of the process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(Path(order.path).parent / ERRORS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    timer = threading.Timer(LIFETIME, os._exit, (3,))
    timer.daemon = True
    timer.start()
    try:
        {"relay": be_a_relay, "writer": be_a_writer}[order.role](order)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(4)
    os._exit(0)


def main() -> None:
    # A process that has ended leaves no zombie, which would look alive.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(Order(*json.loads(line)))
        print(child, flush=True)


def read_journal(path: Path) -> list[Any]:
    """Return the marks of the completed actions."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


if __name__ == "__main__":
    main()

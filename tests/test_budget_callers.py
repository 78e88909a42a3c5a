"""Callers of one budget at once: threads, tasks and processes never exceed it, and a killed one gives back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Budget,
    ErrorCode,
    InMemoryStorage,
    PostgresStorage,
    create_action,
    create_service,
)
from actionengine.storage.counters import ONE, Reservation
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from actionengine.testing.backend import make_tenant
from tests.backends import MODES, SQLITE_FILE, AnyStorage, open_storage, requested_database
from tests.budget_host import BOT, budgets, pay, payments
from tests.harness import Harness, expect, refused
from tests.programs import ROOT

CALLERS = 64
HOUR = timedelta(hours=1)


class Desk(Harness):
    """An engine whose budgets take so many payments of 1."""

    actor = BOT

    def __init__(self, backend: Backend, limit: int) -> None:
        super().__init__(backend, [payments], budgets=budgets(limit))

    async def pay(self, **data: Any) -> str:
        """Pay 1, and return the outcome."""
        answer = await self.ask("payments.pay", {"amount": 1, **data})
        return "succeeded" if answer == 1 else str(answer.code)

    async def used(self) -> list[int]:
        """Return how much of the budgets is used."""
        return [int(item.used) for item in expect(await self.ask("budgets.usage", {})).items]


def test_callers_at_once_never_exceed_a_budget(each_backend: Backend) -> None:
    each_backend.tenant = make_tenant()
    desk = Desk(each_backend, 20)

    async def all_at_once() -> None:
        answers = await each_backend.gather(*(desk.pay(fails=number % 3 == 0) for number in range(CALLERS)))

        found = Counter(answers)
        assert found["succeeded"] == 20, found
        assert set(found) <= {"succeeded", "rate_limited", "unprocessable"}
        assert await desk.used() == [20, 20]
        assert len(await each_backend.ids("payments")) == 20

    each_backend.run(all_at_once())


class Hosts:
    """Processes that work on the database and the tenant of a backend."""

    def __init__(self, kind: str, place: str, backend: Backend) -> None:
        tenant = {"tenant": str(backend.tenant.id), "slug": backend.tenant.slug}
        self.backend = backend
        self.order = {"kind": kind, "place": place, **tenant, "holds": False}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, number: int) -> None:
        """Start so many processes, and wait until each is ready."""
        for _ in range(number):
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.budget_host"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        assert [self.hear(process) for process in self.processes] == ["ready"] * number

    def tell(self, process: subprocess.Popen[str], **changes: Any) -> None:
        """Send an order."""
        assert process.stdin is not None
        process.stdin.write(json.dumps({**self.order, **changes}) + "\n")
        process.stdin.flush()

    def hear(self, process: subprocess.Popen[str]) -> Any:
        """Return the next answer."""
        assert process.stdout is not None
        return json.loads(process.stdout.readline())

    def close(self) -> None:
        """Kill all processes."""
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes.clear()


@pytest.fixture
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    """Processes on one database, and a harness of this process on the same one."""
    kind = request.param
    database = requested_database(request, kind)
    place = database.app_url if database is not None else str(tmp_path / SQLITE_FILE)
    with open_storage(kind, tmp_path, database) as storage:
        started = Hosts(kind, place, SyncBackend(storage))
        yield started
        started.close()


on_each_database = pytest.mark.parametrize("hosts", ["sqlite", "postgres"], indirect=True)


@on_each_database
@pytest.mark.parametrize("processes", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_processes_never_exceed_a_budget(hosts: Hosts, processes: int) -> None:
    hosts.start(processes)
    for process in hosts.processes:
        hosts.tell(process, limit=20, callers=CALLERS // processes)

    found = sum((Counter(hosts.hear(process)) for process in hosts.processes), Counter[str]())

    assert found == {"succeeded": 20, "rate_limited": CALLERS - 20}
    assert hosts.backend.run(Desk(hosts.backend, 20).used()) == [20, 20]


@pytest.mark.soak
@on_each_database
def test_a_killed_process_gives_back(hosts: Hosts) -> None:
    hosts.start(1)
    hosts.tell(hosts.processes[0], limit=1, callers=1, holds=True)
    assert hosts.hear(hosts.processes[0]) == "inside"
    hosts.close()

    desk = Desk(hosts.backend, 1)
    assert [hosts.backend.run(desk.pay()) for _ in range(2)] == ["succeeded", "rate_limited"]
    assert hosts.backend.run(desk.used()) == [1, 1]


def test_a_restarted_engine_goes_on_where_it_was(tmp_path: Path) -> None:
    tenant = make_tenant()
    for expected in ("succeeded", "succeeded", "rate_limited"):
        with open_storage("sqlite", tmp_path, None) as storage:
            backend = SyncBackend(storage)
            backend.tenant = tenant
            assert backend.run(Desk(backend, 2).pay()) == expected


def test_a_cancelled_execution_gives_back(each_storage: AnyStorage) -> None:
    backend = AsyncBackend(each_storage)

    async def wait(data: Any) -> Result[int, str]:
        if data["waits"]:
            inside.set()
            await asyncio.Event().wait()
        return Success(1)

    slow = create_service(
        name="slow", description="", actions=[create_action(name="wait", description="", handler=wait)]
    )
    harness = Harness(backend, [slow], budgets=[Budget("waits", actions="slow.*", limit=1, window=HOUR)])
    inside = asyncio.Event()

    async def cancel() -> None:
        task = asyncio.create_task(harness.ask("slow.wait", {"waits": True}))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        expect(await harness.ask("slow.wait", {"waits": False}))
        refused(await harness.ask("slow.wait", {"waits": False}), ErrorCode.RATE_LIMITED)

    backend.run(cancel())
    backend.close()


@pytest.mark.parametrize("kind", ["memory", pytest.param("postgres", marks=pytest.mark.soak)])
@pytest.mark.parametrize("mode", MODES)
def test_budgets_in_opposite_orders_do_not_block(
    kind: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def then(other: str) -> Any:
        def handler(data: Any, ctx: ActionContext) -> Result[Any, Any]:
            return Success(None) if data["is_last"] else ctx.execute("work", other, {"is_last": True})

        return handler

    actions = [
        create_action(name=name, description="", handler=then(other)) for name, other in (("a", "b"), ("b", "a"))
    ]
    limits = [Budget(name, actions=f"work.{name}", per="tenant", limit=12, window=HOUR) for name in ("a", "b")]
    with open_storage(kind, tmp_path, requested_database(request, kind)) as storage:
        backend = MODES[mode](storage)
        harness = Harness(backend, [create_service(name="work", description="", actions=actions)], budgets=limits)

        async def all_at_once() -> None:
            calls = (harness.execute(f"work.{'ab'[number % 2]}", {"is_last": False}) for number in range(6))
            answers = await backend.gather(*calls)
            succeeded = sum(isinstance(answer, Success) for answer in answers)
            items = expect(await harness.ask("budgets.usage", {})).items
            assert [item.used for item in items] == [succeeded, succeeded]
            assert succeeded <= 12
            codes = {answer.failure().code.value for answer in answers if not isinstance(answer, Success)}
            assert codes <= {"rate_limited", "conflict"}

        backend.run(all_at_once())
        backend.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "bound"),
    [("memory", "timeout"), ("postgres", "timeout"), ("postgres", "lock_timeout"), ("postgres", "answer_timeout")],
)
def test_a_wait_for_a_counter_is_bounded(
    mode: str, kind: str, bound: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    timeout = 1.0 if bound == "timeout" else None
    service = create_service(
        name="payments",
        description="",
        actions=[create_action(name="pay", description="", handler=pay, timeout=timeout)],
    )
    database = requested_database(request, kind)
    options: dict[str, Any] = {} if timeout else {bound: 0.3}
    storage = InMemoryStorage() if database is None else PostgresStorage(database.app_url, **options)
    with storage:
        backend = MODES[mode](storage)
        harness = Harness(backend, [service], budgets=budgets(1))
        harness.actor = BOT
        held = Reservation("calls", str(BOT), ONE, ONE, HOUR)

        async def wait_in_vain() -> None:
            unit = backend.unit()
            assert not await unit.reserve([held])
            for key in (None, "key"):
                refused(await harness.ask("payments.pay", {"amount": 1}, key=key), ErrorCode.CONFLICT, "same budget")
            await unit.rollback()

            assert await harness.outcomes("payments.pay") == ["failed", "failed"]
            assert expect(await harness.ask("payments.pay", {"amount": 1}, key="key")) == 1

        backend.run(wait_in_vain())
        backend.close()

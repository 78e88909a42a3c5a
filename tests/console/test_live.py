"""Live pages: polls and streams name what has changed for the caller's tenant, and write nothing."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from actionengine import CallbackPublisher, Relay
from actionengine.console import as_wsgi, create_console, live
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.port import UnitOfWork
from actionengine.storage.sql.storage import SQLStorage
from tests.backends import BACKENDS, open_storage, requested_database
from tests.console.live_server import SOON, Server, look_often, served
from tests.console.till import Till, by
from tests.waiting import wait_until

CURSOR = re.compile(r"/live/poll\?after=([^\"&]*)")


def cursor_of(html: str) -> str:
    """Return the cursor of a live page."""
    return unescape(CURSOR.findall(html)[0])


def heard(till: Till, cursor: str, actor: str = "boss", tenant: str = "acme") -> list[str]:
    """Return the names that a poll answers with."""
    answer = till.get(f"/live/poll?after={cursor}", actor, tenant)
    assert answer.status_code in (200, 204), answer.text
    return [name for name in answer.headers.get("hx-trigger", "").split(", ") if name]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make streams look often."""
    look_often(monkeypatch)


def test_a_tenant_is_looked_at_once_at_a_time(till: Till) -> None:
    looks = live._Looks[int](till.engine)
    begun: list[int] = []

    async def ask_while_one_reads() -> list[int]:
        may_end = asyncio.Event()

        async def read(unit: UnitOfWork) -> int:
            begun.append(len(begun))
            if begun[-1]:
                await may_end.wait()
            return begun[-1]

        first = await looks.at(till.tenant(), 0, read)
        slow = asyncio.create_task(looks.at(till.tenant(), 0, read))
        await asyncio.sleep(0)
        meanwhile = [await looks.at(till.tenant(), 0, read) for _ in range(3)]
        other = await looks.at(till.tenant("globex"), 3600, lambda unit: _value(7))
        may_end.set()
        second = await slow
        return [first, *meanwhile, other, second, await looks.at(till.tenant(), 3600, read)]

    assert asyncio.run(ask_while_one_reads()) == [0, 0, 0, 0, 7, 1, 1]


async def _value(value: int) -> int:
    return value


def test_a_look_that_fails_leaves_room_for_the_next(till: Till) -> None:
    looks = live._Looks[int](till.engine)

    async def fail(unit: UnitOfWork) -> int:
        raise StorageUnavailable("the server has gone")

    async def look() -> int:
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await looks.at(till.tenant(), 0, fail)
        return await looks.at(till.tenant(), 0, lambda unit: _value(7))

    assert asyncio.run(look()) == 7


# Polls


def test_a_poll_names_a_new_approval_and_a_decision(till: Till) -> None:
    cursor = cursor_of(till.get("/approvals").text)
    assert heard(till, cursor) == []

    approval = till.ask()
    answer = till.get(f"/live/poll?after={cursor}")
    assert answer.headers["hx-trigger"] == "approvals"
    # The element takes the place of the one on the page, with the next cursor.
    assert answer.headers["hx-reswap"] == "outerMorph"
    cursor = cursor_of(answer.text)
    assert heard(till, cursor) == []

    form = till.forms(f"/approvals/{approval}")["approvals.reject"]
    assert till.press(form).status_code == 303
    assert heard(till, cursor) == ["approvals"]


def test_a_poll_without_a_change_is_empty(till: Till) -> None:
    answer = till.get(f"/live/poll?after={cursor_of(till.get('/approvals').text)}")

    assert (answer.status_code, answer.text) == (204, "")


def test_a_poll_hears_nothing_of_another_tenant(till: Till) -> None:
    cursor = cursor_of(till.get("/approvals", tenant="globex").text)

    till.ask(tenant="acme")

    assert heard(till, cursor, tenant="globex") == []
    assert heard(till, cursor_of(till.get("/approvals").text)) == []


@pytest.mark.parametrize("cursor", ["", "x", "1", "-1-", "9" * 40, "1-' OR true --", "%00", "1-" + "f" * 17])
def test_a_poll_with_another_cursor_names_all(till: Till, cursor: str) -> None:
    assert heard(till, cursor) == ["approvals"]


def test_polls_and_pages_leave_only_the_reads_of_pages(till: Till) -> None:
    cursor = cursor_of(till.get("/approvals").text)
    before = len(till.log())

    for _ in range(3):
        heard(till, cursor)

    assert len(till.log()) == before


@pytest.mark.parametrize("path", ["/live", "/live/poll"])
def test_an_unknown_caller_hears_nothing(till: Till, path: str) -> None:
    answer = till.client.get(path)

    assert answer.status_code == 401
    assert "hx-reswap" not in answer.headers
    assert "hx-trigger" not in answer.headers


def test_a_closed_tenant_hears_nothing(till: Till) -> None:
    till.storage.delete_tenant(slug="acme")

    assert till.get("/live/poll").status_code == 404
    assert till.get("/live").status_code == 404


def test_only_a_page_that_succeeded_replaces_a_region(till: Till) -> None:
    region = {"HX-Request": "true"}

    assert till.get("/approvals", **region).headers["hx-reswap"] == "outerMorph"
    assert "hx-reswap" not in till.get("/approvals").headers
    assert "hx-reswap" not in till.get("/approvals/none", **region).headers
    assert "hx-reswap" not in till.client.get("/approvals", headers=region).headers


def test_a_region_that_is_read_again_leaves_the_notice(till: Till) -> None:
    form = till.forms(f"/approvals/{till.ask()}")["approvals.reject"]
    done = till.press(form)
    assert done.status_code == 303

    assert "Rejected" not in till.get("/approvals", **{"HX-Request": "true"}).text
    assert "Rejected" in till.get("/approvals").text


@pytest.mark.parametrize("kind", BACKENDS)
def test_each_storage_tells_what_has_changed(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with open_storage(kind, tmp_path, requested_database(request, kind)) as storage:
        till = Till(storage)

        @asynccontextmanager
        async def close(app: Starlette) -> AsyncIterator[None]:
            yield
            if isinstance(storage, SQLStorage):
                await storage.aclose()

        console = create_console(till.engine, till.identify)
        with Till.client_of(Starlette(routes=[Mount("", console)], lifespan=close)) as client:
            till.client = client
            cursor = cursor_of(till.get("/approvals").text)
            assert heard(till, cursor) == []
            till.ask(tenant="globex")
            assert heard(till, cursor) == []
            approval = till.ask()
            assert heard(till, cursor) == ["approvals"]
            cursor = cursor_of(till.get("/approvals", "operator").text)
            till.press(till.forms(f"/approvals/{approval}")["approvals.reject"])
            # The decision is an event that no relay has delivered.
            assert heard(till, cursor, "operator") == ["approvals", "lag"]


# Streams


def next_event(lines: Iterator[str]) -> str:
    """Return the name of the next event."""
    return next(line.removeprefix("event: ") for line in lines if line.startswith("event: "))


def ids_in(lines: Iterator[str]) -> Iterator[str]:
    return (line.removeprefix("id: ") for line in lines if line.startswith("id: "))


@pytest.fixture
def server(till: Till) -> Iterator[Server]:
    with served(till) as server:
        yield server


def test_a_stream_names_what_changes(server: Server) -> None:
    rows = len(server.till.log())
    with server.stream() as lines:
        server.till.ask(tenant="globex")
        server.till.ask()
        assert next_event(lines) == "approvals"
        cursor = next(ids_in(lines))
        server.till.ask(6)
        assert next_event(lines) == "approvals"
        assert next(ids_in(lines)) != cursor

    # The two requests are on the log; the stream is not.
    assert len(server.till.log()) == rows + 2


def test_a_stream_tells_no_other_tenant_of_a_change(server: Server) -> None:
    with server.stream() as lines, server.stream(tenant="globex") as others:
        before = next(ids_in(others))
        server.till.ask()
        assert next_event(lines) == "approvals"
        server.till.ask(tenant="globex")
        # The first event of the other tenant is that of its own change.
        assert next_event(others) == "approvals"
        assert next(ids_in(others)) == cursor_of(server.till.get("/approvals", tenant="globex").text) != before


def test_a_stream_goes_on_after_the_last_event_of_a_browser(server: Server) -> None:
    with server.stream() as lines:
        cursor = next(ids_in(lines))
    server.till.ask()

    with server.stream(**{"Last-Event-ID": cursor}) as lines:
        assert next_event(lines) == "approvals"


def test_a_stream_names_the_lag_of_deliveries(server: Server) -> None:
    till = server.till
    stop = threading.Event()

    def work() -> None:
        # The first look is what the page shows already, so that one change may not be enough.
        amount = 0
        while not stop.wait(0.02):
            amount += 1
            decision = {"approval_id": till.ask(amount)}
            till.engine.execute_action("approvals", "cancel", decision, till.context("acme", "clerk")).unwrap()
            Relay(till.storage, CallbackPublisher(lambda event: None)).drain()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with server.stream("operator") as lines:
            while next_event(lines) != "lag":
                pass
    finally:
        stop.set()
        thread.join()


def test_more_streams_than_are_allowed_are_told_to_poll(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_STREAMS_OF_TENANT", 1)
    monkeypatch.setattr(live, "BEAT_INTERVAL", 0.02)
    with server.stream() as lines:
        next(lines)
        refused = httpx.get(f"{server.origin}/live", headers=by("boss"))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        with server.stream(tenant="globex"):
            pass

    def is_free() -> bool:
        with httpx.stream("GET", f"{server.origin}/live", headers=by("boss"), timeout=SOON) as response:
            return response.status_code == 200

    # The closed stream has given up its place.
    wait_until(is_free)


def test_streams_that_open_at_once_keep_to_the_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_STREAMS_OF_TENANT", 2)
    callers = 20

    async def open_all() -> list[int]:
        statuses: list[int] = []
        all_answered = asyncio.Event()

        async def open_one(client: httpx.AsyncClient) -> None:
            async with client.stream("GET", f"{server.origin}/live", headers=by("boss")) as response:
                statuses.append(response.status_code)
                if len(statuses) == callers:
                    all_answered.set()
                await all_answered.wait()

        async with httpx.AsyncClient(timeout=SOON) as client:
            await asyncio.gather(*(open_one(client) for _ in range(callers)))
        return statuses

    assert sorted(asyncio.run(open_all())) == [200] * 2 + [503] * (callers - 2)


@pytest.mark.parametrize("path", ["/live", "/live/poll"])
def test_live_pages_say_that_storage_is_unavailable(till: Till, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **options: Any) -> Any:
        raise StorageUnavailable("the server has gone")

    monkeypatch.setattr(live._Looks, "at", fail)
    answer = till.get(path)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "the storage is unavailable" in answer.text
    assert till.get("/approvals").status_code == 200


@pytest.mark.parametrize("how", ["signed out", "closed"])
def test_a_stream_ends_with_the_rights_of_its_caller(server: Server, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CHECK_INTERVAL", 0.05)
    for name in ("UNWATCHED_LIFETIME", "BEAT_INTERVAL"):
        # Nothing else ends the stream, or keeps the connection from timing out.
        monkeypatch.setattr(live, name, 3600.0)
    till = server.till
    with server.stream() as lines:
        if how == "closed":
            till.storage.delete_tenant(slug="acme")
        else:
            monkeypatch.setattr("tests.console.till.USER", "x-other")
        assert not [line for line in lines if line.startswith("event")]


def test_a_stream_ends_after_its_lifetime(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "UNWATCHED_LIFETIME", 0.1)

    with server.stream() as lines:
        assert not [line for line in lines if line.startswith("event")]


HOST = """
import sys
import uvicorn
from actionengine.console import create_console
from tests.console.till import Till

till = Till()
uvicorn.run(create_console(till.engine, till.identify), port=int(sys.argv[1]), log_level="error")
"""


def test_a_server_stops_while_streams_are_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", HOST, str(port)])
    try:
        origin = f"http://127.0.0.1:{port}"

        def is_up() -> bool:
            try:
                return httpx.get(f"{origin}/live/poll", headers=by("boss")).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_up)
        with httpx.stream("GET", f"{origin}/live", headers=by("boss"), timeout=SOON) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            # Without an end of its own, the stream would keep the server for `live.LIFETIME`.
            assert not [line for line in lines if line.startswith("event")]
        assert process.wait(SOON) is not None
    finally:
        process.kill()
        process.wait()


# WSGI


def test_under_wsgi_pages_poll_and_have_no_stream(till: Till) -> None:
    from a2wsgi import WSGIMiddleware

    served: Any = WSGIMiddleware(as_wsgi(create_console(till.engine, till.identify)))  # type: ignore[arg-type]
    client = till.client_of(served)
    page = client.get("/approvals", headers=by("boss"))

    assert page.status_code == 200
    assert "hx-sse:connect" not in page.text
    assert client.get("/live", headers=by("boss")).status_code == 404
    cursor = cursor_of(page.text)
    assert client.get(f"/live/poll?after={cursor}", headers=by("boss")).status_code == 204
    till.ask()
    assert client.get(f"/live/poll?after={cursor}", headers=by("boss")).headers["hx-trigger"] == "approvals"

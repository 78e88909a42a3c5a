"""Live pages: the names of the regions that have changed, as server-sent events and for polls.

A region of a page reads itself again when it hears its name. The stream has names only: the pages read what has
changed, by governed actions. So a stream writes nothing to the action log, however long it lives.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from time import monotonic
from typing import Any, Generic, NamedTuple, Self, TypeVar
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from actionengine.concurrency.abandonable import def_in_threads
from actionengine.console.errors import ErrorPage
from actionengine.console.rendering import render
from actionengine.console.visit import Visit
from actionengine.context import Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError
from actionengine.storage.errors import StorageError
from actionengine.storage.outbox import QueueStatus
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import APPROVALS

T = TypeVar("T")

REGIONS = {"approvals": "approvals.list", "runs": "workflows.list", "lag": "relay.status"}
"""The names that a page can hear, and the action that the caller must be able to execute for each."""

MAX_STREAMS = 200
MAX_STREAMS_OF_TENANT = 50
"""Streams of a console at a time. A page without one polls."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at a tenant, which all its streams share."""

LAG_INTERVAL = 5.0
"""Seconds between two looks at the outbox of a tenant."""

PAUSE = 3.0
"""Seconds for which a stream does not repeat a name, so that a busy tenant's pages are not read all the time."""

BEAT_INTERVAL = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the connection for dead."""

CHECK_INTERVAL = 15.0
"""Seconds after which the caller is identified again, and its rights are asked for again."""

LIFETIME = 300.0
UNWATCHED_LIFETIME = 30.0
"""Seconds after which a stream ends, and the browser opens the next one. The shorter one is for servers that do not
show when they shut down: they wait for their streams."""

_NEWEST = 5
"""Approvals whose ids a look compares."""

_MAX_TENANTS = 1000
"""Tenants whose last look is kept."""

_HEADERS = {"x-accel-buffering": "no", "cache-control": "no-store, no-transform"}
# The package of workflows needs an extra that a host with a console may not have.
_TYPES = {
    "approvals": ("approvals.approve", "approvals.reject", "approvals.cancel"),
    "runs": tuple(
        f"workflows.{name}" for name in ("started", "resumed", "step_completed", "paused", "ended", "purged")
    ),
}
"""The types of the events that change what a region shows."""

_CURSOR = re.compile(r"(\d{1,18})-([0-9a-f]{16})")


class Cursor(NamedTuple):
    """A state of a tenant: the position of its last event, and a digest of the ids of its newest approvals."""

    position: int
    approvals: str

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Return the cursor that a page or a browser sent; None for any other text."""
        match = _CURSOR.fullmatch(text or "")
        return cls(int(match[1]), match[2]) if match else None

    def __str__(self) -> str:
        return f"{self.position}-{self.approvals}"


class _Looks(Generic[T]):
    """Looks at tenants, which the callers of a tenant share: one at a time, however slow the storage is. A caller that
    asks meanwhile gets the last one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last: dict[UUID, tuple[float, T]] = {}
        self._under_way: set[UUID] = set()

    async def at(self, tenant: Tenant, max_age: float, read: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Return the last look at a tenant, or read again if it began `max_age` seconds ago."""
        last = self._last.get(tenant.id)
        if last is not None and (monotonic() - last[0] < max_age or tenant.id in self._under_way):
            return last[1]
        begun = monotonic()
        self._under_way.add(tenant.id)
        unit = self._engine.storage.unit_of_work(tenant, str(uuid4()), "async", read_only=True)
        try:
            found = await read(unit)
        finally:
            self._under_way.discard(tenant.id)
            await unit.rollback()
        if len(self._last) >= _MAX_TENANTS:
            self._last.clear()
        self._last[tenant.id] = (begun, found)
        return found


class _Stream(StreamingResponse):
    """A stream that has its place among the open ones from the moment in which it is made: others ask for theirs before
    its first byte is sent."""

    def __init__(self, messages: AsyncIterator[bytes], open_streams: Counter[UUID], tenant_id: UUID) -> None:
        super().__init__(messages, headers=_HEADERS, media_type="text/event-stream")
        self._open_streams = open_streams
        self._tenant_id = tenant_id
        open_streams[tenant_id] += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the messages, and give up the place."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._open_streams[self._tenant_id] -= 1
            if not self._open_streams[self._tenant_id]:
                del self._open_streams[self._tenant_id]


class Live:
    """The streams of a console, and its answers to polls."""

    def __init__(self, engine: Engine, enter: Callable[[Request], Awaitable[Visit]]) -> None:
        """`enter` identifies the caller of a request."""
        self._engine = engine
        self._enter = enter
        self._streams: Counter[UUID] = Counter()
        self._cursors = _Looks[Cursor](engine)
        self._outboxes = _Looks[tuple[QueueStatus, ...]](engine)

    async def variables(self, visit: Visit) -> Mapping[str, Any] | None:
        """Return the variables of `live.html` for a page that hears names; None where none can be heard. The cursor is
        read before the page reads what it shows."""
        try:
            tenant, _ = _watched(visit)
            cursor = await self.cursor(tenant)
        except (ErrorPage, ActionError, StorageError):
            return None
        return {"url": visit.url, "cursor": cursor, "has_stream": not _is_wsgi(visit)}

    async def cursor(self, tenant: Tenant) -> Cursor:
        """Return the present state of a tenant, as of the last look."""

        async def read(unit: UnitOfWork) -> Cursor:
            # No event is emitted for a request. Several are read, since one may commit after a newer one.
            newest = await unit.records(APPROVALS).list(limit=_NEWEST, descending=True)
            ids = "".join(record.id for record in newest)
            return Cursor(await unit.last_position(), sha256(ids.encode()).hexdigest()[:16])

        return await self._cursors.at(tenant, LOOK_INTERVAL / 2, read)

    async def poll(self, visit: Visit) -> Response:
        """Answer a poll: the names that have changed since the cursor of the page, and the next cursor."""
        tenant, names = _watched(visit)
        since, now = Cursor.parse(visit.parameter("after")), await self.cursor(tenant)
        changed = await self._changed(tenant, since, now) if since is not None else set(names)
        if "lag" in names and await self._has_lag(tenant):
            changed.add("lag")
        heard = [name for name in names if name in changed]
        if not heard and since == now:
            return Response(status_code=204)
        headers = {"hx-reswap": "outerMorph"}
        if heard:
            headers["hx-trigger"] = ", ".join(heard)
        html = render("poll.html", {"url": visit.url, "cursor": now})
        return Response(html, headers=headers, media_type="text/html")

    async def stream(self, visit: Visit) -> Response:
        """Return the stream of the names that change from now on, or after the browser's last event."""
        tenant, _ = _watched(visit)
        if _is_wsgi(visit):
            raise ErrorPage(404, "There is no stream", "Under WSGI a stream would occupy a worker: pages poll instead.")
        sent = visit.request.headers.get("last-event-id") or visit.parameter("after")
        since = Cursor.parse(sent) or await self.cursor(tenant)
        if self._streams.total() >= MAX_STREAMS or self._streams[tenant.id] >= MAX_STREAMS_OF_TENANT:
            raise ErrorPage(
                503, "Too many pages are open", "This page is read again every 30 s.", {"retry-after": "30"}
            )
        if visit.request.method == "HEAD":
            return Response(headers=_HEADERS, media_type="text/event-stream")
        return _Stream(self._messages(visit, since), self._streams, tenant.id)

    async def _messages(self, visit: Visit, since: Cursor) -> AsyncIterator[bytes]:
        tenant, names = _watched(visit)
        def_in_threads.set(True)
        server = _server()
        started = checked = beaten = monotonic()
        until = started + (LIFETIME if server is not None else UNWATCHED_LIFETIME)
        outbox: tuple[QueueStatus, ...] | None = None
        waiting: set[str] = set()
        sent: dict[str, float] = {}
        try:
            yield b"retry: 3000\nid: %b\n\n" % str(since).encode()
            while monotonic() < until and not getattr(server, "should_exit", False):
                if monotonic() - checked >= CHECK_INTERVAL:
                    visit, checked = await self._enter(visit.request), monotonic()
                    now_tenant, names = _watched(visit)
                    if now_tenant.id != tenant.id:
                        return
                now = await self.cursor(tenant)
                waiting |= await self._changed(tenant, since, now)
                since = now
                if "lag" in names:
                    before, outbox = outbox, await self._outbox(tenant)
                    waiting |= {"lag"} if before not in (None, outbox) else set()
                for name in names:
                    if name in waiting and monotonic() - sent.get(name, float("-inf")) >= PAUSE:
                        waiting.discard(name)
                        sent[name] = beaten = monotonic()
                        yield b"event: %b\nid: %b\ndata: changed\n\n" % (name.encode(), str(now).encode())
                if monotonic() - beaten >= BEAT_INTERVAL:
                    beaten = monotonic()
                    yield b": still here\n\n"
                await asyncio.sleep(LOOK_INTERVAL)
        except (ActionError, ErrorPage, StorageError):
            # The caller has lost its rights, or the storage is out of reach. The next request says which.
            return

    async def _changed(self, tenant: Tenant, since: Cursor, now: Cursor) -> set[str]:
        """Return the names of what has changed between two states."""
        changed = {"approvals"} if since.approvals != now.approvals else set()
        if since.position != now.position:
            for name, types in _TYPES.items():
                if name not in changed:
                    count = self._engine.storage.count_events_async
                    if await count(tenant, after=since.position, limit=1, types=types):
                        changed.add(name)
        return changed

    async def _has_lag(self, tenant: Tenant) -> bool:
        return any(queue.pending or queue.dead for queue in await self._outbox(tenant))

    async def _outbox(self, tenant: Tenant) -> tuple[QueueStatus, ...]:
        async def read(unit: UnitOfWork) -> tuple[QueueStatus, ...]:
            return tuple(await unit.outbox_status())

        return await self._outboxes.at(tenant, LAG_INTERVAL, read)


def _watched(visit: Visit) -> tuple[Tenant, list[str]]:
    """Return the tenant of a caller, and the names that it may hear. Raises `ErrorPage` if there are none."""
    names = [name for name, action in REGIONS.items() if action in visit.may]
    if visit.context.tenant is None or not names:
        needs = ", ".join(REGIONS.values())
        raise ErrorPage(403, "You may not watch this", f"You may execute none of these: {needs}.")
    return visit.context.tenant, names


def _is_wsgi(visit: Visit) -> bool:
    """Return whether a WSGI server serves the request, by a2wsgi."""
    return "wsgi_environ" in visit.request.scope


def _server() -> object | None:
    """Return the server whose method handles SIGTERM, if it shows when it shuts down, as uvicorn's `should_exit` does.
    Uvicorn waits for open responses, and tells them nothing."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if hasattr(owner, "should_exit") else None

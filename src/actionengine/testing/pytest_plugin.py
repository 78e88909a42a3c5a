"""Fixtures for the tests of a host. Load them in the `conftest.py` at the root of your tests:

    pytest_plugins = ["actionengine.testing.pytest_plugin"]

| fixture | value |
|---|---|
| `storage` | an empty storage: in memory or, with `--actionengine-storage sqlite`, in a new file |
| `storage_kind` | `memory` or `sqlite`; parametrize it to run a test on both |
| `tenant` | the tenant `acme` |
| `make_engine` | a `MakeEngine` |
| `person`, `agent` | a `MakeContext` |
| `action_log` | a `CapturedLog` |
| `events` | a `CapturedEvents` |

Define a fixture of the same name to replace any of these: all others use your `storage`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from functools import partial, wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Protocol

import pytest

from actionengine.actions import Service
from actionengine.bootstrap import create_engine
from actionengine.builtin.action_log import LogEntry
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.engine import Engine
from actionengine.events.event import Event
from actionengine.events.publishers.port import CallbackPublisher
from actionengine.events.relay.relay import Relay
from actionengine.storage.memory.storage import InMemoryStorage
from actionengine.storage.port import Storage

_AUDITOR = Actor.system("actionengine-testing")


class MakeEngine(Protocol):
    """The type of the fixture `make_engine`."""

    def __call__(self, *services: Service, **options: Any) -> Engine:
        """Create an engine with these services on the storage of the test; `options` go to `create_engine`."""


class MakeContext(Protocol):
    """The type of the fixtures `person` and `agent`."""

    def __call__(
        self,
        id: str | None = None,
        *,
        roles: Iterable[str] = (),
        permissions: Iterable[str] = (),
        on_behalf_of: Actor | None = None,
        tenant: Tenant | None = None,
        **request: Any,
    ) -> RequestContext:
        """Create a request of an actor, in the tenant of the test unless another one is given; `request` are further
        fields of `RequestContext`, such as `idempotency_key` and `reason`."""


class CapturedLog:
    """The type of the fixture `action_log`."""

    def __init__(self, storage: Storage, tenant: Tenant) -> None:
        self._engine = create_engine(services=[], storage=storage)
        self._tenant = tenant

    def __call__(self, *, tenant: Tenant | None = None, **query: Any) -> list[LogEntry]:
        """Return the entries of a tenant, oldest first; `query` are filters of `action_log.list`, such as `action`."""
        context = RequestContext(tenant or self._tenant, _AUDITOR, source="test")
        page = self._engine.execute_action("action_log", "list", {"limit": 1000, **query}, context).unwrap()
        return [entry for entry in reversed(page.items) if entry.actor_id != _AUDITOR.id]


class CapturedEvents:
    """The type of the fixture `events`."""

    def __init__(self, storage: Storage, tenant: Tenant) -> None:
        self._delivered: list[Event] = []
        self._relay = Relay(storage, CallbackPublisher(self._delivered.append))
        self._tenant = tenant

    def __call__(self, *types: str, tenant: Tenant | None = None) -> list[Event]:
        """Deliver what is in the outbox and return the events of a tenant so far, in commit order: of these types, or
        of all."""
        self._relay.drain()
        id = (tenant or self._tenant).id
        found = [event for event in self._delivered if event.tenant_id == id and (not types or event.type in types)]
        return sorted(found, key=lambda event: event.position)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--actionengine-storage`."""
    parser.getgroup("actionengine").addoption(
        "--actionengine-storage",
        choices=("memory", "sqlite"),
        default="memory",
        help="the storage of the fixture `storage` (default: memory)",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Close the connections of an asynchronous test in its event loop, which ends before its fixtures do."""
    aclose = getattr(getattr(item, "funcargs", {}).get("storage"), "aclose_loop", None)
    if aclose is not None and isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
        item.obj = _with_cleanup(item.obj, aclose)
    return (yield)


@pytest.fixture
def storage_kind(request: pytest.FixtureRequest) -> str:
    """`memory` or `sqlite`, as `--actionengine-storage` says. Parametrize it to run a test on both."""
    kind: str = request.config.getoption("--actionengine-storage")
    return kind


@pytest.fixture
def storage(storage_kind: str, tmp_path: Path) -> Iterator[Storage]:
    """An empty storage, closed after the test."""
    if storage_kind == "memory":
        yield InMemoryStorage()
        return
    # The extra `sqlite` is needed only here.
    from actionengine.storage.sqlite.storage import SQLiteStorage

    with SQLiteStorage(tmp_path / "actionengine.db", synchronous="NORMAL") as storage:
        yield storage


@pytest.fixture
def tenant(storage: Storage) -> Tenant:
    """The tenant of the test, `acme`."""
    return storage.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def make_engine(storage: Storage) -> MakeEngine:
    """A function that creates an engine on the storage of the test: `make_engine(payments, limits=...)`."""

    def make(*services: Service, **options: Any) -> Engine:
        return create_engine(services=services, **{"storage": storage, **options})

    return make


@pytest.fixture
def person(tenant: Tenant) -> MakeContext:
    """A function that creates the request of a person: `person("carla", permissions=["payments.refund"])`."""
    return partial(_make_context, Actor.human, tenant, "person")


@pytest.fixture
def agent(tenant: Tenant) -> MakeContext:
    """A function that creates the request of an AI agent: `agent("bot-7", roles=["clerk"])`."""
    return partial(_make_context, Actor.ai, tenant, "agent")


@pytest.fixture
def action_log(storage: Storage, tenant: Tenant) -> CapturedLog:
    """A function that returns the entries of the action log: `action_log(action="payments.refund")`."""
    return CapturedLog(storage, tenant)


@pytest.fixture
def events(storage: Storage, tenant: Tenant) -> CapturedEvents:
    """A function that delivers the events and returns them: `events("refund.paid")`."""
    return CapturedEvents(storage, tenant)


def _make_context(
    create_actor: Callable[..., Actor],
    default_tenant: Tenant,
    default_id: str,
    id: str | None = None,
    *,
    roles: Iterable[str] = (),
    permissions: Iterable[str] = (),
    on_behalf_of: Actor | None = None,
    tenant: Tenant | None = None,
    **request: Any,
) -> RequestContext:
    actor = create_actor(id or default_id, roles, permissions, on_behalf_of)
    return RequestContext(tenant or default_tenant, actor, **{"source": "test", **request})


def _with_cleanup(
    test: Callable[..., Coroutine[Any, Any, None]], aclose: Callable[[], Coroutine[Any, Any, None]]
) -> Callable[..., Coroutine[Any, Any, None]]:
    @wraps(test)
    async def run(*arguments: Any, **fixtures: Any) -> None:
        try:
            await test(*arguments, **fixtures)
        finally:
            await aclose()

    return run

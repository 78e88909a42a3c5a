"""Fixtures of all tests: a storage with two tenants, both entry points, PostgreSQL and the command line."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database, make_database
from hypothesis import HealthCheck, settings
from psycopg import sql
from returns.result import Result

from actionengine import (
    Action,
    ActionError,
    Actor,
    Engine,
    InMemoryStorage,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.testing import Backend
from tests.backends import BACKENDS, MODES, AnyStorage, open_storage, requested_database
from tests.command_line import Run, run_command, run_command_process
from tests.console.browser import describe_chromium
from tests.faulty_proxy import FaultyProxy
from tests.growth import open_growing_storage
from tests.postgres import copy_database, started_postgres
from tests.sqlite import copied_sqlite_files

if TYPE_CHECKING:
    from tests.durable.databases import Durable

# How long examples take says only how busy the machine is.
settings.register_profile(
    "searching",
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# The daily run tries the same examples each time; `make soak` searches for others, in all tests with properties.
settings.register_profile("same", settings.get_profile("searching"), derandomize=True, max_examples=50)
settings.load_profile("same")


LEFT_TO_SOAK = ({"sqlite", "async"}, {"postgres", "sync"}, {"postgresql", "sync"})
"""A test that has both modes in memory runs in one mode on each database; the conformance suite runs in both."""


LONGEST_FILES = (
    "crash/test_silent_network.py",
    "examples/test_hosts_under_load.py",
    "events/test_relay_faults.py",
    "durable/test_queue_runner.py",
    "examples/test_demo.py",
    "workflows_crash/test_several_workers.py",
    "storage/test_postgres.py",
    "console/test_pages.py",
    "console/test_crawler.py",
    "benchmarks/test_growth.py",
    "storage/test_sqlite.py",
    "durable/test_runner_command_line.py",
    "events/test_relay_looks.py",
    "examples/test_hosts.py",
    "examples/test_feed.py",
    "examples/test_change_control.py",
    "crash/test_postgres_stopped.py",
    "docs/test_code_blocks.py",
    "cli/test_new_app.py",
    "isolation/test_leftovers.py",
    "examples/test_workflows.py",
    "isolation/test_commit_time.py",
    "examples/test_readme.py",
    "isolation/test_handlers.py",
)
"""The files that take longest, the longest first. A worker takes a file at a time, so those that began last would be
waited for. A wrong order only costs time."""


def _by_length(items: list[pytest.Item]) -> None:
    """Sort files: the longest first, then those with many tests."""
    here = Path(__file__).parent
    ranks = {here / name: number for number, name in enumerate(LONGEST_FILES)}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (ranks.get(item.path, len(ranks)), -tests[item.path], item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as `soak` the second mode, on a database, of a test that has both. Sort the files for several workers."""
    if hasattr(config, "workerinput"):
        _by_length(items)
    ids = {item.nodeid for item in items}
    for item in items:
        test, _, parameters = item.nodeid.removesuffix("]").partition("[")
        parts = parameters.split("-")
        if item.path.name == "test_conformance.py" or not any(each <= set(parts) for each in LEFT_TO_SOAK):
            continue
        others = [{"sync": "async", "async": "sync"}.get(part, part) for part in parts]
        if f"{test}[{'-'.join(others)}]" in ids:
            item.add_marker(pytest.mark.soak)


def pytest_report_header() -> str:
    """Name the browser of the console's tests."""
    return describe_chromium()


def pytest_collection_finish() -> None:
    """Keep the garbage collector away from the collected tests, which stay to the end."""
    gc.collect()
    gc.freeze()


Mode = Literal["sync", "async"]
EngineOf = Callable[..., Engine]


class Execute(Protocol):
    """Execute `service.action` on an engine: as Ann, as another actor (or none) of `acme`, or in a context."""

    def __call__(
        self,
        engine: Engine,
        name: str,
        payload: Any,
        by: RequestContext | Actor | EllipsisType | None = ...,
        *,
        key: str | None = None,
    ) -> Result[Any, ActionError]: ...


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def acme(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def globex(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug="globex", name="Globex")


@pytest.fixture
def as_ann(acme: Tenant) -> RequestContext:
    return RequestContext(tenant=acme, actor=Actor.human("ann"))


@pytest.fixture
def as_system(acme: Tenant) -> RequestContext:
    return RequestContext(tenant=acme, actor=Actor.system())


@pytest.fixture(params=["sync", "async"])
def execute(request: pytest.FixtureRequest, as_ann: RequestContext) -> Execute:
    """Execute `service.action` through `execute_action` or `execute_action_async`."""

    def run(
        engine: Engine,
        name: str,
        payload: Any,
        by: RequestContext | Actor | EllipsisType | None = ...,
        *,
        key: str | None = None,
    ) -> Result[Any, ActionError]:
        context = as_ann if isinstance(by, EllipsisType) else by
        if not isinstance(context, RequestContext):
            context = RequestContext(as_ann.tenant, context)
        if key is not None:
            context = replace(context, idempotency_key=key)
        asked = (*name.split(".", 1), payload, context)
        if request.param == "sync":
            return engine.execute_action(*asked)
        return asyncio.run(engine.execute_action_async(*asked))

    return run


@pytest.fixture
def engine_of(storage: InMemoryStorage) -> EngineOf:
    """Make an engine with one service, `work`, of these actions, on the storage of the test."""

    def make(*actions: Action, **options: Any) -> Engine:
        service = create_service(name="work", description="What the test needs", actions=actions)
        return create_engine(services=[service], storage=options.pop("storage", storage), **options)

    return make


@pytest.fixture(scope="module")
def durable_database(postgres_server: str) -> Durable:
    """A database of the durable engine on PostgreSQL, for the tests of a file."""
    # Few tests need DBOS, and importing it takes long.
    from tests.durable.databases import postgres

    return postgres(postgres_server)


@pytest.fixture
def proxy(durable_database: Durable) -> Iterator[FaultyProxy]:
    """A proxy before `durable_database`; tests of other databases have one of their own."""
    with FaultyProxy.before_postgres(durable_database.url) as proxy:
        yield proxy


@pytest.fixture(scope="session", autouse=True)
def sqlite_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy a migrated SQLite file wherever a test opens a new one."""
    with copied_sqlite_files(tmp_path_factory.mktemp("sqlite")):
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a superuser of the PostgreSQL server."""
    with started_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Database:
    """A migrated database that no test opens: others are copies of it."""
    return make_database(postgres_server, f"template_{uuid4().hex}")


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str, postgres_template: Database) -> Database:
    """A migrated database that all tests share: each uses its own tenants."""
    return copy_database(postgres_server, postgres_template, "shared")


@pytest.fixture(scope="module")
def growing_database(postgres_server: str, postgres_template: Database) -> Database:
    """A migrated database of a file. Its statistics, and so its plans, do not depend on the time of an autovacuum."""
    database = copy_database(postgres_server, postgres_template, "growing")
    with psycopg.connect(database.owner_url) as owner:
        for (table,) in owner.execute("SELECT tablename FROM pg_tables WHERE tableowner = current_user").fetchall():
            owner.execute(sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = off)").format(sql.Identifier(table)))
    return database


@pytest.fixture
def fresh_postgres_database(postgres_server: str, postgres_template: Database) -> Database:
    """A migrated database of one test."""
    return copy_database(postgres_server, postgres_template, "fresh")


@pytest.fixture(scope="module", params=BACKENDS)
def each_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyStorage]:
    """Each storage. The tests of a file share it, each with its own tenants."""
    database = requested_database(request, request.param)
    with open_storage(request.param, tmp_path_factory.mktemp("storage"), database) as storage:
        yield storage


@pytest.fixture(scope="module", params=MODES)
def each_backend(request: pytest.FixtureRequest, each_storage: AnyStorage) -> Iterator[Backend]:
    """Each storage in both modes, shared likewise."""
    backend = MODES[request.param](each_storage)
    yield backend
    backend.close()


@pytest.fixture(scope="module", params=BACKENDS)
def growing_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyStorage]:
    """Each storage, with one connection, for the tests of a file."""
    database = requested_database(request, request.param, "growing_database")
    with open_growing_storage(request.param, tmp_path_factory.mktemp("growth"), database) as storage:
        yield storage


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.fixture
def run_process(tmp_path: Path) -> Run:
    """Run a command in its own process, in the folder of the test."""
    return partial(run_command_process, tmp_path)


def make_action(name: str, handler: Callable[..., Any], **options: Any) -> Action:
    """Create an action without a description."""
    return create_action(name=name, description="", handler=handler, **options)


def log_of(engine: Engine, tenant: Tenant | None = None, **query: Any) -> list[Any]:
    """Return the action log of a tenant, by default `acme`, oldest first."""
    context = RequestContext(tenant or engine.resolve_tenant("acme").unwrap(), Actor.system("auditor"))
    page = engine.execute_action("action_log", "list", {"limit": 1000, **query}, context).unwrap()
    return [entry for entry in reversed(page.items) if entry.actor_id != "auditor"]

"""The three example hosts, each on either database, served on a port of its own on loopback."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import psycopg
import pytest
import uvicorn
from examples.django_app import create_app as create_django_app
from examples.embedded_postgres import make_database
from examples.fastapi_app import create_app as create_fastapi_app
from examples.fastapi_app.server import Server
from examples.field_service.app import HostStorage, create_business, open_storage
from examples.field_service.background import Background
from examples.field_service.db.tables import APP_ROLE, create_tables
from examples.flask_app import create_app as create_flask_app
from sqlalchemy import URL, make_url
from werkzeug.serving import ThreadedWSGIServer, make_server

from actionengine import SQLiteStorage, Tenant
from actionengine.durable.host import upgrade

Headers = Mapping[str, str]
T = TypeVar("T")

CARD = "4242555566667777"
"""The only card that these tests pay with: nothing but its last digits may ever be seen again."""

_numbers = count(1)


def person(name: str, tenant: str = "acme") -> dict[str, str]:
    return {"x-tenant-id": tenant, "x-user-id": name}


def agent(name: str, tenant: str = "acme") -> dict[str, str]:
    return {"x-tenant-id": tenant, "x-agent-id": name}


def keyed(headers: Headers, key: str) -> dict[str, str]:
    return {**headers, "idempotency-key": key}


def fresh_key() -> str:
    return f"key-{next(_numbers)}"


CARLA, TOM, MARIA = person("carla"), person("tom"), person("maria")
BOT = agent("helper-bot")
NOBODY = {"x-tenant-id": "acme"}


def refused(response: httpx.Response, status: int, code: str) -> Any:
    """The error in a response, which has to have this status and code."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["code"] == code, error
    assert error["message"]
    return error


@dataclass(frozen=True)
class Host:
    """A host that serves, and the storage behind it."""

    storage: HostStorage
    client: httpx.Client

    def post(self, action: str, payload: Any, headers: Headers = CARLA) -> httpx.Response:
        return self.client.post(f"/api/{action}", json=payload, headers=headers)

    def get(self, path: str, headers: Headers = CARLA) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def do(self, action: str, payload: Any, headers: Headers = CARLA) -> Any:
        """Return the result of an action that must succeed."""
        response = self.post(action, payload, headers)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def tenant(self, slug: str = "acme") -> Tenant:
        return next(tenant for tenant in self.storage.list_tenants() if tenant.slug == slug)

    def new_job(self, tenant: str = "acme") -> str:
        headers = person("carla", tenant)
        customer = self.do("customers/create", {"name": "Ada", "email": "ada@example.org"}, headers)
        job = self.do("jobs/create", {"customer_id": customer["id"], "title": "Mend the boiler"}, headers)
        return str(job["id"])

    def scheduled_job(self, tenant: str = "acme") -> str:
        job = self.new_job(tenant)
        self.do("jobs/schedule", {"job_id": job, "day": "2031-03-03"}, person("carla", tenant))
        return job

    def completed_job(self, tenant: str = "acme") -> str:
        job = self.scheduled_job(tenant)
        self.do("jobs/complete", {"job_id": job}, person("tom", tenant))
        return job

    def payment(self, amount: int, tenant: str = "acme") -> str:
        payload = {"job_id": self.completed_job(tenant), "amount": amount, "card_number": CARD}
        return str(self.do("payments/capture", payload, keyed(person("carla", tenant), fresh_key()))["id"])

    def payments_of(self, job: str) -> Any:
        return self.do("payments/list", {"job_id": job})

    def log(self, tenant: str = "acme", **query: Any) -> Any:
        """The action log, newest first."""
        return self.do("action_log/list", {"limit": 1000, **query}, person("maria", tenant))["items"]


def at_once(threads: int, task: Callable[[T], httpx.Response], items: Sequence[T]) -> list[httpx.Response]:
    """The task for each item, from so many threads that start together."""
    barrier = threading.Barrier(threads)
    with ThreadPoolExecutor(threads, initializer=barrier.wait) as pool:
        return list(pool.map(task, items))


HEARTBEAT = 0.2
"""Seconds of silence in a feed before a sign of life."""


@contextmanager
def _served_by_wsgi(
    create_app: Callable[[HostStorage, threading.Event, float], Any],
    storage: HostStorage,
    relay: bool,
    workflows: str | None,
) -> Iterator[str]:
    stopping = threading.Event()
    server = make_server("127.0.0.1", 0, create_app(storage, stopping, HEARTBEAT), threaded=True)
    assert isinstance(server, ThreadedWSGIServer)
    server.daemon_threads = False  # so that closing the server waits for its requests
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        background = Background(storage, create_business(storage), workflows=workflows)
        with background.in_thread() if relay else nullcontext():
            yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _served_by_fastapi(storage: HostStorage, relay: bool, workflows: str | None) -> Iterator[str]:
    # With its protocol named: asyncio sets TCP_NODELAY only where it is, and each answer would wait 40 ms without.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    app = create_fastapi_app(storage, relay=relay, workflows=workflows, heartbeat=HEARTBEAT)
    server = Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


SERVED: dict[str, Callable[[HostStorage, bool, str | None], AbstractContextManager[str]]] = {
    "flask": partial(_served_by_wsgi, create_flask_app),
    "django": partial(_served_by_wsgi, create_django_app),
    "fastapi": _served_by_fastapi,
}


BACKENDS = ("sqlite", "postgres")

FreshStorage = Callable[[str], AbstractContextManager[HostStorage]]


@pytest.fixture(scope="session")
def seeded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with what the business starts with."""
    file = tmp_path_factory.mktemp("seeded") / "field_service.db"
    with open_storage(str(file)) as storage:
        create_business(storage)
    return file


@pytest.fixture(scope="session")
def seeded_database(postgres_server: str) -> URL:
    """The same on PostgreSQL, as the app role sees it."""
    database = make_database(postgres_server, f"seeded_{uuid4().hex}")
    create_tables(database.owner_url)
    with open_storage(database.app_url) as storage:
        create_business(storage)
    return make_url(database.app_url)


@pytest.fixture(scope="session")
def fresh_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FreshStorage:
    """A storage on a database of its own, which has what the business starts with."""

    @contextmanager
    def on_sqlite() -> Iterator[HostStorage]:
        file = tmp_path_factory.mktemp("fresh") / "field_service.db"
        shutil.copy(request.getfixturevalue("seeded_file"), file)
        with open_storage(str(file)) as storage:
            yield storage

    @contextmanager
    def on_postgres() -> Iterator[HostStorage]:
        seeded: URL = request.getfixturevalue("seeded_database")
        name = f"fresh_{uuid4().hex}"
        with psycopg.connect(request.getfixturevalue("postgres_server"), autocommit=True) as superuser:
            superuser.execute(f'CREATE DATABASE "{name}" TEMPLATE "{seeded.database}" OWNER owner'.encode())
            with open_storage(seeded.set(database=name).render_as_string(hide_password=False)) as storage:
                yield storage
            superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    return lambda backend: on_sqlite() if backend == "sqlite" else on_postgres()


@contextmanager
def serve(name: str, storage: HostStorage, *, relay: bool = False, workflows: str | None = None) -> Iterator[Host]:
    """A host on a storage, with a client that looks every response through for what must not be in it."""
    tenant_ids: list[str] = []

    def look_through(response: httpx.Response) -> None:
        response.read()
        seen = f"{response.headers!r} {response.text}"
        assert CARD not in seen
        assert not [id for id in tenant_ids if id in seen]

    hooks = {"response": [look_through]}
    with (
        SERVED[name](storage, relay, workflows) as url,
        httpx.Client(base_url=url, timeout=120, trust_env=False, event_hooks=hooks) as client,
    ):
        tenant_ids += [form for tenant in storage.list_tenants() for form in (str(tenant.id), tenant.id.hex)]
        yield Host(storage, client)


def hosts(*daily: tuple[str, str]) -> list[Any]:
    """Return parameters for a fixture: each host on each database, those that are not daily only in the campaigns."""
    pairs = product(SERVED, BACKENDS)
    return [pair if pair in daily else pytest.param(pair, marks=pytest.mark.soak) for pair in pairs]


HOSTS = hosts(("flask", "sqlite"), ("fastapi", "postgres"))


@contextmanager
def serving(request: pytest.FixtureRequest, relay: bool = False) -> Iterator[Host]:
    """The host of a parameter, on a storage of its own."""
    name, backend = request.param
    with request.getfixturevalue("fresh_storage")(backend) as storage, serve(name, storage, relay=relay) as host:
        yield host


@pytest.fixture(params=HOSTS, ids="-".join, scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host that the tests of a file share."""
    with serving(request) as found:
        yield found


@pytest.fixture(params=HOSTS, ids="-".join)
def fresh_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with nothing in it but what it starts with."""
    with serving(request) as found:
        yield found


@pytest.fixture(params=HOSTS, ids="-".join)
def relaying_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host as it is started by hand: with what runs beside it."""
    with serving(request, relay=True) as found:
        yield found


WORKING = hosts(("flask", "sqlite"), ("fastapi", "sqlite"))


@contextmanager
def _working(request: pytest.FixtureRequest) -> Iterator[Host]:
    name, backend = request.param
    with request.getfixturevalue("fresh_storage")(backend) as storage:
        if backend == "sqlite":
            workflows = f"{storage.pools.name}.workflows"
        else:
            url: URL = request.getfixturevalue("seeded_database").set(database=storage.pools.name)
            upgrade(url.set(username="owner").render_as_string(hide_password=False), app_role=APP_ROLE)
            workflows = url.render_as_string(hide_password=False)
        with serve(name, storage, relay=True, workflows=workflows) as host:
            yield host


@pytest.fixture(params=WORKING, ids="-".join, scope="module")
def working_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Either host, which takes the steps of workflows as well; shared by the tests of a file."""
    with _working(request) as host:
        yield host


@pytest.fixture(params=WORKING, ids="-".join)
def fresh_working_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """The same, with nothing in it but what it starts with."""
    with _working(request) as host:
        yield host


def until(check: Callable[[], T], seconds: float = 90.0) -> T:
    """Return the first true value of a check, within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds: {check}"
        time.sleep(0.02)
    return found


@pytest.fixture
def everything_written(request: pytest.FixtureRequest) -> Callable[[Host], Iterator[str]]:
    """Every row of every table, whoever's it is."""

    def rows_of(host: Host) -> Iterator[str]:
        database = host.storage.pools.name
        if isinstance(host.storage, SQLiteStorage):
            with closing(sqlite3.connect(database)) as connection:
                yield from connection.iterdump()
            return
        url = make_url(request.getfixturevalue("postgres_server")).set(database=database)
        with psycopg.connect(url.render_as_string(hide_password=False)) as superuser:
            tables = superuser.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                yield from (repr(row) for row in superuser.execute(f'SELECT * FROM "{table}"'))

    return rows_of

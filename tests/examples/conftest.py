"""The two example hosts, each served on a port of its own on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn
from examples.fastapi_app import create_app as create_fastapi_app
from examples.flask_app import create_app as create_flask_app
from werkzeug.serving import ThreadedWSGIServer, make_server

from actionengine import InMemoryStorage, Tenant

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


@dataclass(frozen=True)
class Host:
    """A host that serves, and the storage behind it."""

    name: str
    storage: InMemoryStorage
    client: httpx.Client

    def post(self, action: str, payload: Any, headers: Headers = CARLA) -> httpx.Response:
        return self.client.post(f"/api/{action}", json=payload, headers=headers)

    def get(self, path: str, headers: Headers = CARLA) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def do(self, action: str, payload: Any, headers: Headers = CARLA) -> Any:
        """What the action gives, which has to succeed."""
        response = self.post(action, payload, headers)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def tenant(self, slug: str = "acme") -> Tenant:
        return next(tenant for tenant in self.storage.list_tenants() if tenant.slug == slug)

    def new_job(self, tenant: str = "acme") -> str:
        headers = person("carla", tenant)
        customer = self.do("customers/create", {"name": "Ada"}, headers)
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

    def everything_written(self) -> Iterator[str]:
        """Every document, row, event and remembered result of every tenant."""
        for tenant in self.storage.list_tenants():
            data = self.storage._tenant_data(tenant.id)
            yield from (repr(row) for row in data.log)
            yield from (repr(stored) for stored in data.events)
            yield from (repr(claim) for claim in data.claims.values())
            for documents in data.collections.values():
                yield from (repr(version.document) for version in documents.values())


def at_once(threads: int, task: Callable[[T], httpx.Response], items: Sequence[T]) -> list[httpx.Response]:
    """The task for each item, from so many threads that start together."""
    barrier = threading.Barrier(threads)
    with ThreadPoolExecutor(threads, initializer=barrier.wait) as pool:
        return list(pool.map(task, items))


@contextmanager
def _served_by_flask(storage: InMemoryStorage) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_flask_app(storage), threaded=True)
    assert isinstance(server, ThreadedWSGIServer)
    server.daemon_threads = False  # so that closing the server waits for its requests
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _served_by_fastapi(storage: InMemoryStorage) -> Iterator[str]:
    # With its protocol named: asyncio sets TCP_NODELAY only where it is, and each answer would wait 40 ms without.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    config = uvicorn.Config(create_fastapi_app(storage), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


SERVED: dict[str, Callable[[InMemoryStorage], AbstractContextManager[str]]] = {
    "flask": _served_by_flask,
    "fastapi": _served_by_fastapi,
}


@contextmanager
def serve(name: str, storage: InMemoryStorage | None = None) -> Iterator[Host]:
    """A host on a storage, with a client that looks every response through for what must not be in it."""
    storage = storage or InMemoryStorage()

    def look_through(response: httpx.Response) -> None:
        response.read()
        seen = f"{response.headers!r} {response.text}"
        assert CARD not in seen
        for tenant in storage.list_tenants():
            assert str(tenant.id) not in seen
            assert tenant.id.hex not in seen

    hooks = {"response": [look_through]}
    with (
        SERVED[name](storage) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False, event_hooks=hooks) as client,
    ):
        yield Host(name, storage, client)


@pytest.fixture(params=SERVED, scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Either host, shared by the tests of a file."""
    with serve(request.param) as serving:
        yield serving


@pytest.fixture(params=SERVED)
def fresh_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Either host, with nothing in it but what it starts with."""
    with serve(request.param) as serving:
        yield serving

"""Fixtures of the tests of events: each storage, in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.embedded_nats import EmbeddedNats, embedded_nats

from actionengine.testing import Backend
from tests.backends import BACKENDS, MODES, AnyStorage, open_storage, requested_database


@pytest.fixture
def nats_server() -> Iterator[EmbeddedNats]:
    """Run a server for one test, which may stop, freeze and start it."""
    with embedded_nats() as server:
        yield server


@pytest.fixture(params=BACKENDS)
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStorage]:
    """Return each storage, empty."""
    database = requested_database(request, request.param, "fresh_postgres_database")
    with open_storage(request.param, tmp_path, database) as storage:
        yield storage


@pytest.fixture(params=MODES)
def backend(request: pytest.FixtureRequest, each_storage: AnyStorage) -> Iterator[Backend]:
    """Return two new tenants in each storage, in both modes. The tests of a file share the storage and its outbox."""
    backend = MODES[request.param](each_storage)
    yield backend
    backend.close()


@pytest.fixture(params=MODES)
def fresh_backend(request: pytest.FixtureRequest, any_storage: AnyStorage) -> Iterator[Backend]:
    """Return each storage, empty, in both modes."""
    backend = MODES[request.param](any_storage)
    yield backend
    backend.close()

"""Fixtures of the tests of workflows: a storage, a harness on it, a relay, and an office.

A test runs in memory. With the mark `each_storage` it runs on each storage: its claim is about transactions, the order
of rows, texts that a database stores, or the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actionengine.testing import Backend
from actionengine.testing.backend import make_tenant
from tests.backends import BACKENDS, MODES, open_storage, requested_database
from tests.workflows.harness import Harness, Relay
from tests.workflows.office import Office


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the storages of a test, in the mode that its file names."""
    if "shared_backend" in metafunc.fixturenames:
        kinds = BACKENDS if metafunc.definition.get_closest_marker("each_storage") else BACKENDS[:1]
        mode = getattr(metafunc.module, "MODE", "sync")
        metafunc.parametrize("shared_backend", [f"{kind}-{mode}" for kind in kinds], indirect=True, scope="module")


@pytest.fixture(scope="module")
def shared_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A storage that the tests of a file share, each with its own tenants."""
    kind, _, mode = request.param.partition("-")
    with open_storage(kind, tmp_path_factory.mktemp("workflows"), requested_database(request, kind)) as storage:
        backend = MODES[mode](storage)
        yield backend
        backend.close()


@pytest.fixture
def harness(shared_backend: Backend) -> Harness:
    """A harness with two new tenants."""
    shared_backend.tenant, shared_backend.other_tenant = make_tenant(), make_tenant()
    return Harness(shared_backend)


@pytest.fixture
def relay(harness: Harness, tmp_path: Path) -> Relay:
    """A relay of the harness's events."""
    return Relay(harness, tmp_path)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """A host on a SQLite file."""
    office = Office(tmp_path)
    yield office
    office.close()

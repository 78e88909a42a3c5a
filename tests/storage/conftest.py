"""What the tests of storages share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from actionengine import InMemoryStorage, Tenant


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def tenant(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns far more often than they usually do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)

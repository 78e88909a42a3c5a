"""Two databases for the folder: one trusts the tenant of a session, the other verifies its signature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.isolation.harness import SQLHarness


@pytest.fixture(scope="package")
def unsigned(postgres_server: str) -> Iterator[SQLHarness]:
    harness = SQLHarness(postgres_server, is_signed=False)
    yield harness
    harness.close()


@pytest.fixture(scope="package")
def signed(postgres_server: str) -> Iterator[SQLHarness]:
    harness = SQLHarness(postgres_server, is_signed=True)
    yield harness
    harness.close()


@pytest.fixture(scope="package", params=["unsigned", "signed"])
def harness(request: pytest.FixtureRequest) -> SQLHarness:
    """Each of the two databases."""
    found: SQLHarness = request.getfixturevalue(request.param)
    return found

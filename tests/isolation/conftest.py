"""Two databases for the whole folder: one that takes a session's word for its tenant, and one that wants it signed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.isolation.harness import SQLHarness


@pytest.fixture(scope="package")
def unsigned_harness(postgres_server: str) -> Iterator[SQLHarness]:
    harness = SQLHarness(postgres_server, is_signed=False)
    yield harness
    harness.close()


@pytest.fixture(scope="package")
def signed_harness(postgres_server: str) -> Iterator[SQLHarness]:
    harness = SQLHarness(postgres_server, is_signed=True)
    yield harness
    harness.close()


@pytest.fixture(scope="package", params=["unsigned", "signed"])
def harness(request: pytest.FixtureRequest) -> SQLHarness:
    """Each of the two."""
    found: SQLHarness = request.getfixturevalue(f"{request.param}_harness")
    return found

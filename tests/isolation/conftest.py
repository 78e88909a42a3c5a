"""Two databases for the whole folder: one that takes a session's word for its tenant, and one that wants it signed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.isolation.worlds import Backend


@pytest.fixture(scope="package")
def unsigned_backend(postgres_server: str) -> Iterator[Backend]:
    backend = Backend(postgres_server, is_signed=False)
    yield backend
    backend.close()


@pytest.fixture(scope="package")
def signed_backend(postgres_server: str) -> Iterator[Backend]:
    backend = Backend(postgres_server, is_signed=True)
    yield backend
    backend.close()


@pytest.fixture(scope="package", params=["unsigned", "signed"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each of the two."""
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found

"""Two databases for the whole folder: one that takes a session's word for its tenant, and one that wants it signed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.isolation.worlds import World


@pytest.fixture(scope="package")
def unsigned_world(postgres_server: str) -> Iterator[World]:
    world = World(postgres_server, is_signed=False)
    yield world
    world.close()


@pytest.fixture(scope="package")
def signed_world(postgres_server: str) -> Iterator[World]:
    world = World(postgres_server, is_signed=True)
    yield world
    world.close()


@pytest.fixture(scope="package", params=["unsigned", "signed"])
def world(request: pytest.FixtureRequest) -> World:
    """Each of the two."""
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found

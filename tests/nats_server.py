"""A NATS server for tests: a real one, with JetStream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from examples.embedded_nats import EmbeddedNats, embedded_nats


@pytest.fixture
def nats_server() -> Iterator[EmbeddedNats]:
    """A server of its own for each test, which may stop, freeze and start it."""
    with embedded_nats() as server:
        yield server

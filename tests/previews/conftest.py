"""Fixtures of the tests of previews: each storage, in both modes in memory and in one mode on each database."""

from __future__ import annotations

import pytest

from actionengine.testing import Backend
from actionengine.testing.backend import make_tenant
from tests.harness import expect
from tests.previews.desk import BANK, Desk


@pytest.fixture
def backend(each_backend: Backend) -> Backend:
    """A storage with two tenants of this test."""
    each_backend.tenant, each_backend.other_tenant = make_tenant(), make_tenant()
    return each_backend


@pytest.fixture
def desk(backend: Backend) -> Desk:
    """A bank with two accounts of 100 each."""
    desk = Desk(backend, [BANK])

    async def opened() -> None:
        for id in ("a", "b"):
            expect(await desk.ask("bank.open", {"id": id, "balance": 100}))

    backend.run(opened())
    return desk

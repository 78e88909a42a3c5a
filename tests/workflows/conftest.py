"""Fixtures of the tests of workflows: each storage, and a harness on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actionengine.testing import Backend
from actionengine.testing.backend import make_tenant
from tests.backends import BACKENDS, MODES, open_storage, requested_database
from tests.workflows.harness import Harness


@pytest.fixture(scope="module", params=[f"{kind}-sync" for kind in BACKENDS])
def shared_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Each storage. The tests of a file share it, each with its own tenants."""
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

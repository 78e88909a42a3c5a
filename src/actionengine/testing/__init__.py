"""Does a storage keep its promises? The suite that every backend has to pass, ours or a host's own.

Subclass `StorageConformance` in a test file and say how to make the storage:

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def storage(self) -> Storage:
            return MyStorage()

Every test runs twice: without an event loop, concurrently in threads, and under one, concurrently in tasks. Where the
storage has an `aclose`, it is awaited in that loop after each test. Tests use tenants of their own, so that they can
share a database; nothing else may use it meanwhile. The parts can be subclassed one by one while a backend grows.

This package needs pytest and Hypothesis, which actionengine itself does not: install them beside it.
"""

import pytest

PARTS = (
    "action_log",
    "approvals",
    "base",
    "events",
    "idempotency",
    "outbox",
    "records",
    "roles",
    "tables",
    "tenants",
    "transactions",
)

pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in PARTS))

from actionengine.testing.action_log import ActionLogConformance  # noqa: E402 - asserts have to be rewritten first
from actionengine.testing.approvals import ApprovalConformance  # noqa: E402
from actionengine.testing.base import Conformance  # noqa: E402
from actionengine.testing.events import EventConformance  # noqa: E402
from actionengine.testing.idempotency import IdempotencyConformance  # noqa: E402
from actionengine.testing.outbox import OutboxConformance  # noqa: E402
from actionengine.testing.records import RecordsConformance  # noqa: E402
from actionengine.testing.roles import RolesConformance  # noqa: E402
from actionengine.testing.tables import TablesConformance  # noqa: E402
from actionengine.testing.tenants import TenantConformance  # noqa: E402
from actionengine.testing.transactions import TransactionConformance  # noqa: E402
from actionengine.testing.worlds import AsyncWorld, SyncWorld, World, scenario  # noqa: E402

__all__ = [
    "ActionLogConformance",
    "ApprovalConformance",
    "AsyncWorld",
    "Conformance",
    "EventConformance",
    "IdempotencyConformance",
    "OutboxConformance",
    "RecordsConformance",
    "RolesConformance",
    "StorageConformance",
    "SyncWorld",
    "TablesConformance",
    "TenantConformance",
    "TransactionConformance",
    "World",
    "scenario",
]


class StorageConformance(
    RecordsConformance,
    TablesConformance,
    TransactionConformance,
    IdempotencyConformance,
    TenantConformance,
    ActionLogConformance,
    EventConformance,
    OutboxConformance,
    ApprovalConformance,
    RolesConformance,
):
    """All that a storage promises."""

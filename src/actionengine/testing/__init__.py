"""The conformance suite, which every storage must pass, and the tools that it is written with.

Subclass `StorageConformance` in a test file and define the fixture `storage`:

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def storage(self) -> Storage:
            return MyStorage()

Each test runs in both modes: without an event loop, concurrently in threads, and under one, concurrently in tasks. The
suite awaits the storage's `aclose`, if any, in that loop after each test. Tests create their own tenants and can share
a database, which nothing else may use meanwhile. The parts can be subclassed one by one while a backend grows.

Names load on first use. `Backend`, `SyncBackend`, `AsyncBackend`, `Harness` and `run_in_mode` need only actionengine.
The suite and its parts need pytest; `RecordsConformance` and `StorageConformance` need Hypothesis too.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

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

with suppress(ModuleNotFoundError):
    import pytest

    # Their asserts have to be rewritten before they are imported.
    pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in PARTS))

if TYPE_CHECKING:
    from actionengine.testing.action_log import ActionLogConformance
    from actionengine.testing.approvals import ApprovalConformance
    from actionengine.testing.backend import AsyncBackend, Backend, SyncBackend, run_in_mode
    from actionengine.testing.base import Conformance
    from actionengine.testing.events import EventConformance
    from actionengine.testing.harness import Harness
    from actionengine.testing.idempotency import IdempotencyConformance
    from actionengine.testing.outbox import OutboxConformance
    from actionengine.testing.records import RecordsConformance
    from actionengine.testing.roles import RolesConformance
    from actionengine.testing.suite import StorageConformance
    from actionengine.testing.tables import TablesConformance
    from actionengine.testing.tenants import TenantConformance
    from actionengine.testing.transactions import TransactionConformance

__all__ = [
    "ActionLogConformance",
    "ApprovalConformance",
    "AsyncBackend",
    "Backend",
    "Conformance",
    "EventConformance",
    "Harness",
    "IdempotencyConformance",
    "OutboxConformance",
    "RecordsConformance",
    "RolesConformance",
    "StorageConformance",
    "SyncBackend",
    "TablesConformance",
    "TenantConformance",
    "TransactionConformance",
    "run_in_mode",
]

_MODULES = {
    "ActionLogConformance": "action_log",
    "ApprovalConformance": "approvals",
    "AsyncBackend": "backend",
    "Backend": "backend",
    "Conformance": "base",
    "EventConformance": "events",
    "Harness": "harness",
    "IdempotencyConformance": "idempotency",
    "OutboxConformance": "outbox",
    "RecordsConformance": "records",
    "RolesConformance": "roles",
    "StorageConformance": "suite",
    "SyncBackend": "backend",
    "TablesConformance": "tables",
    "TenantConformance": "tenants",
    "TransactionConformance": "transactions",
    "run_in_mode": "backend",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("actionengine"):
            raise
        raise ImportError(f"{__name__}.{name} needs {error.name}: pip install {error.name}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))

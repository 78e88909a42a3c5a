"""The conformance suite, which every storage must pass, and the tools that it is written with.

Subclass `StorageConformance` in a test file and define the fixture `storage`:

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def storage(self) -> Storage:
            return MyStorage()

Each test runs in both modes: without an event loop, concurrently in threads, and under one, concurrently in tasks. The
suite awaits the storage's `aclose`, if any, in that loop after each test. Tests create their own tenants and can share
a database, which nothing else may use meanwhile. The parts can be subclassed one by one while a backend grows.

`__init__.pyi` lists the names; each loads on first use. `Backend`, `SyncBackend`, `AsyncBackend`, `Harness` and
`run_in_mode` need only actionengine. The suite and its parts need pytest; `RecordsConformance` and `StorageConformance`
need Hypothesis too. `pip install 'actionengine[testing]'` has both.
"""

from contextlib import suppress

from actionengine._lazy import attach

PARTS = (
    "action_log",
    "approvals",
    "base",
    "budgets",
    "causes",
    "dead_letters",
    "events",
    "idempotency",
    "log_search",
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

__getattr__, __dir__ = attach(__name__)

"""Every cache has a bound, in bytes or entries, that no client can exceed. This is the list of caches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

import actionengine
from actionengine.authorization.cache import BoundedCache
from actionengine.changes import guard
from actionengine.concurrency.run_sync import run_sync
from actionengine.context import Tenant
from actionengine.storage.postgres import driver
from actionengine.storage.postgres.statements import record_statement
from actionengine.storage.rows import Record
from actionengine.workflows.runs import store

SOURCES = Path(actionengine.__file__).parent

CACHES = {
    # One entry for each class of the host's code, dropped with it.
    "masking.secret_types._class_names": "WeakKeyDictionary",
    "masking.secret_types._fields_of_classes": "WeakKeyDictionary",
    "pipeline.plan._compiled_class": "cache",
    "pipeline.signatures._asked": "lru_cache",
    "pipeline.signatures._compiled": "lru_cache",
    # One entry for each of the host's own tables, and lock.
    "storage.sql.captured_statements._one_row": "lru_cache",
    # One entry for each named cache, dropped with it.
    "authorization.cache._named": "WeakKeyDictionary",
    # One entry for each event loop or session of the process.
    "storage.sql.pools._async_engines": "WeakKeyDictionary",
    "storage.sql.session._marks": "WeakKeyDictionary",
    "workflows.runtime.publisher._start_slots": "WeakKeyDictionary",
    # Texts of the library: its code determines the columns and conditions of a statement.
    "console.rendering._environment": "cache",
    "storage.sql.rows.delete_statement": "cache",
    "storage.sql.rows.find_statement": "cache",
    "storage.sql.rows.insert_statement": "cache",
    "storage.sql.rows.page_statement": "cache",
    "storage.sql.rows.update_statement": "cache",
    "storage.sql.verification_own._script": "cache",
    "workflows.definitions.schedules._zones": "cache",
    # The same, for each number of budgets that apply to one action at once.
    "storage.postgres.statements.reserve_statement": "lru_cache",
    "storage.postgres.statements.reserving": "lru_cache",
    # Values that clients choose: a limited number of entries of a bounded size.
    "storage.postgres.driver._kept": "lru_cache",
    "storage.postgres.rows._tenant_id": "lru_cache",
    "storage.postgres.rows.tenant_text": "lru_cache",
    "storage.postgres.statements.record_statement": "lru_cache",
    # The same, as a limited number of bytes or entries; the least recently used go first.
    "authorization.rbac._decisions": "BoundedCache",
    "authorization.rbac._held": "BoundedCache",
    "authorization.static._held": "BoundedCache",
    "changes.guard._known": "BoundedCache",
    "events.consumers.consumer._known": "BoundedCache",
    "workflows.runs.store._definitions": "BoundedCache",
    "workflows.services.purge._last_removed": "BoundedCache",
}
KINDS = {"cache", "lru_cache", "cached_property", "WeakKeyDictionary", "WeakValueDictionary", "BoundedCache"}


def named(node: ast.expr) -> str | None:
    """Return the name of a function that an expression names or calls, if it does."""
    if isinstance(node, ast.Call):
        return named(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def caches_in(path: Path) -> Iterator[tuple[str, str]]:
    place = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = [(node.name, each) for each in node.decorator_list]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            inside = [each for each in ast.walk(node.value) if isinstance(each, ast.Call)]
            found = [(named(target) or "", each) for each in inside]
        else:
            continue
        for name, each in found:
            kind = named(each.func) if isinstance(each, ast.Call) else named(each)
            if kind in KINDS - {"cached_property"}:
                yield f"{place}.{name}", kind or ""
            elif isinstance(each, ast.Call) and isinstance(each.func, ast.Call) and named(each.func.func) in KINDS:
                yield f"{place}.{name}", named(each.func.func) or ""


def test_each_cache_is_on_the_list_with_what_bounds_it() -> None:
    found = {
        name: kind for path in SOURCES.rglob("*.py") if "testing" not in path.parts for name, kind in caches_in(path)
    }
    assert found == CACHES


def test_a_flood_of_keys_stays_within_the_bound_of_a_cache() -> None:
    cache: BoundedCache[int] = BoundedCache(100)
    for number in range(1000):
        cache.keep((uuid4(), number), number, 7)
        assert cache.size <= 100
        assert len(cache) <= 14
    cache.keep("too large", 1, 101)
    assert cache.find("too large") is None
    assert cache.size <= 100


def test_what_is_asked_for_again_stays() -> None:
    cache: BoundedCache[int] = BoundedCache(10)
    cache.keep("mine", 1, 1)
    for number in range(100):
        cache.keep(number, number, 1)
        assert cache.find("mine") == 1
    assert cache.find(0) is None


@pytest.mark.parametrize("rows", [1, 5, 100, 200])
def test_a_statement_is_remembered_only_while_it_is_short(rows: int) -> None:
    statement = record_statement(rows, rows, 1)
    wired = driver._wired(statement)
    assert wired == driver._wired(statement)
    assert (wired is driver._wired(statement)) == (len(statement) <= driver.MAX_PREPARED_LENGTH)
    assert (rows <= 5) == (len(statement) <= driver.MAX_PREPARED_LENGTH)


def test_definitions_of_many_tenants_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: BoundedCache[Any] = BoundedCache(100_000)
    monkeypatch.setattr(store, "_definitions", kept)
    now = datetime.now(UTC)
    for number in range(50):
        steps = [{"name": f"s{step}", "type": "action", "action": "work.do"} for step in range(number % 20 + 1)]
        data = {"definition_id": str(number), "definition": {"steps": steps}}
        assert len(store.load_definition(Record("w/1", 1, data, now, now)).steps) == number % 20 + 1
        assert 0 < kept.size <= 100_000
    assert 1 < len(kept) < 50


def test_models_of_many_record_types_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MODEL_BYTES", 200_000)
    fields = [{"name": f"field_{number}", "type": "string"} for number in range(10)]

    class Lineage:
        async def lineage(self, row: Any) -> list[Any]:
            return [row]

    own = guard.RecordTypeGuard()
    for number in range(30):
        row = {
            "key": f"type_{number}",
            "project_id": "p",
            "base_type": None,
            "version": 1,
            "updated_at": datetime.now(UTC),
            "schema": {"fields": fields},
        }
        run_sync(own._load_types(cast("Any", Lineage()), Tenant(uuid4(), "t"), row))
        assert 0 < own._known.size <= 200_000
    assert len(own._known) == 3

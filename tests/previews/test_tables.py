"""Previews and plans of a host's own tables: mapped objects, Core statements, texts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from actionengine import Actor, ErrorCode
from actionengine.storage.sql import captured_statements
from actionengine.testing import AsyncBackend, SyncBackend, run_in_mode
from tests.harness import expect, refused
from tests.postgres import copy_database
from tests.previews.desk import Desk
from tests.previews.tables import HELD, STOCK, Base
from tests.storage.backends import SQLDatabase, postgres_backend, sqlite_backend

A = {"id": "a"}
BOSS = Actor.human("boss", permissions=["stock.approve"])


class Shop(Desk):
    """A desk with tables."""

    async def counts(self) -> dict[str, int]:
        """Return the counts of the stock."""
        found: dict[str, int] = expect(await self.ask("stock.counts"))
        return found


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLDatabase]:
    """A database with the tables."""
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("tables")
        database = sqlite_backend(str(folder / "test.db"))
    else:
        server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
        made = copy_database(server, template, "tables")
        database = postgres_backend(made.app_url, made.owner_url)
    Base.metadata.create_all(database.owner)
    if request.param == "postgres":
        with database.owning() as connection:
            connection.exec_driver_sql("GRANT SELECT, INSERT ON pv_shelves TO app")
    yield database
    database.owner.dispose()


@pytest.fixture
def shop(request: pytest.FixtureRequest, tables: SQLDatabase) -> Iterator[Shop]:
    """A shop with two rows: sync on SQLite, async on PostgreSQL."""
    kind = AsyncBackend if tables.name == "postgresql" else SyncBackend
    with tables.open() as storage:
        backend = kind(storage)
        shop = Shop(backend, [STOCK, HELD])
        backend.run(shop.execute("stock.add", {"ids": ["a", "b"]}))
        yield shop
        backend.close()


async def planned(shop: Shop, name: str, payload: Any = A) -> Any:
    """Preview, check that nothing is kept, and execute with the plan. Return the preview."""
    before = await shop.counts()
    preview = expect(await shop.preview(name, payload))
    assert (await shop.counts()) == before
    expect_done(await shop.perform(name, payload, plan=preview.plan))
    return preview


def expect_done(answer: Any) -> None:
    assert expect(answer) is None


@run_in_mode
async def test_mapped_object_is_shown_as_a_row(shop: Shop) -> None:
    (write,) = (await planned(shop, "stock.change")).writes
    assert (write.kind, write.target, write.id) == ("update", "pv_stock", "a")
    assert (write.before["count"], write.after["count"]) == (100, 90)
    assert (await shop.counts()) == {"a": 90, "b": 100}


@run_in_mode
async def test_added_and_deleted_objects_are_shown_as_rows(shop: Shop) -> None:
    added = (await planned(shop, "stock.add", {"ids": ["c", "d"]})).writes
    assert [(each.kind, each.id, each.before, each.after["count"]) for each in added] == [
        ("insert", "c", None, 100),
        ("insert", "d", None, 100),
    ]
    (deleted,) = (await planned(shop, "stock.remove")).writes
    assert (deleted.kind, deleted.id, deleted.before["count"], deleted.after) == ("delete", "a", 100, None)
    assert set(await shop.counts()) == {"b", "c", "d"}


@run_in_mode
async def test_expression_is_shown_with_its_value(shop: Shop) -> None:
    (write,) = (await planned(shop, "stock.expression")).writes
    assert (write.kind, write.before["count"], write.after["count"]) == ("update", 100, 90)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("core_update", [100], [90]),
        ("orm_update", [100], [90]),
        ("core_many", [100, 100], [50, 50]),
        ("core_delete", [100], []),
        ("core_returning", [100], [1]),
        ("core_upsert", [100], [107]),
        ("core_insert", None, [1]),
        ("raw", None, None),
    ],
)
@run_in_mode
async def test_statement_is_shown_with_its_rows(shop: Shop, name: str, before: Any, after: Any) -> None:
    (write,) = (await planned(shop, f"stock.{name}")).writes
    assert (write.kind, write.target, write.id) == ("statement", "pv_stock", None)
    assert write.statement.split()[0] in ("UPDATE", "DELETE", "INSERT")
    assert write.parameters
    assert (write.before and [row["count"] for row in write.before]) == before
    if name != "raw":
        assert [row["count"] for row in write.after] == after


@pytest.mark.parametrize(
    "name", ["change", "expression", "remove", "core_update", "orm_update", "core_many", "core_delete", "core_upsert"]
)
@run_in_mode
async def test_plan_is_refused_when_a_row_has_changed(shop: Shop, name: str) -> None:
    preview = expect(await shop.preview(f"stock.{name}", A))
    expect_done(await shop.ask("stock.core_update", A))
    refused(await shop.perform(f"stock.{name}", A, plan=preview.plan), ErrorCode.CONFLICT, "pv_stock")
    assert (await shop.counts()) == {"a": 90, "b": 100}


@pytest.mark.parametrize("name", ["core_many", "core_copy"])
@run_in_mode
async def test_number_of_unread_rows_is_compared(shop: Shop, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_statements, "MAX_IMAGES", 1)
    preview = expect(await shop.preview(f"stock.{name}", A))
    assert [(each.before, each.after) for each in preview.writes] == [(None, {"rows": 2})]
    expect_done(await shop.ask("stock.add", {"ids": ["c"]}))
    refused(await shop.perform(f"stock.{name}", A, plan=preview.plan), ErrorCode.CONFLICT, "pv_stock/*")
    await planned(shop, f"stock.{name}")


@run_in_mode
async def test_rows_with_versions_are_shown_as_rows(shop: Shop) -> None:
    expect_done(await shop.ask("stock.store_crates"))
    stale = expect(await shop.preview("stock.drop_crates", A))
    assert [(each.kind, each.before["count"]) for each in stale.writes] == [("delete", 1), ("delete", 1)]
    expect_done(await shop.ask("stock.fill_crates"))
    refused(await shop.perform("stock.drop_crates", A, plan=stale.plan), ErrorCode.CONFLICT, "pv_crates")
    await planned(shop, "stock.drop_crates")


@run_in_mode
async def test_change_between_read_and_write_is_a_conflict(shop: Shop) -> None:
    if shop.backend.mode == "sync":
        return  # SQLite has one writer at a time.
    preview = expect(await shop.preview("stock.change", A))

    def pause() -> None:
        execute = shop.engine.execute_action
        thread = threading.Thread(target=execute, args=("stock", "core_update", A, shop.context()))
        thread.start()
        thread.join()

    stale = await shop.perform("stock.change", A, plan=preview.plan, resources={"pause": pause})
    refused(stale, ErrorCode.CONFLICT, "pv_stock/a")
    assert (await shop.counts()) == {"a": 90, "b": 100}


@run_in_mode
async def test_rows_that_match_after_the_read_are_not_changed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    expect_done(await shop.ask("stock.order", {"title": "a"}))
    preview = expect(await shop.preview("stock.core_listed", A))
    assert [row["id"] for row in preview.writes[0].before] == ["a"]
    if shop.backend.mode == "sync":
        expect_done(await shop.perform("stock.core_listed", A, plan=preview.plan))
        return  # SQLite has one writer at a time.
    find, pauses = captured_statements.CapturedStatements._find, [{"title": "b"}]

    def find_and_pause(self: Any, connection: Any, statement: Any, parameters: Any) -> Any:
        found = find(self, connection, statement, parameters)
        if pauses and statement.table.name == "pv_stock":
            arguments = ("stock", "retitle", pauses.pop(), shop.context())
            thread = threading.Thread(target=shop.engine.execute_action, args=arguments)
            thread.start()
            thread.join()
        return found

    monkeypatch.setattr(captured_statements.CapturedStatements, "_find", find_and_pause)
    stale = await shop.perform("stock.core_listed", A, plan=preview.plan)
    refused(stale, ErrorCode.CONFLICT, "pv_stock")
    assert set(await shop.counts()) == {"a", "b"}


@pytest.mark.parametrize("name", ["change", "core_update", "core_upsert", "order", "undone", "nested"])
@run_in_mode
async def test_approval_commits_the_rows_that_it_shows(shop: Shop, name: str) -> None:
    payload = {**A, "title": "x"}
    held = refused(await shop.ask(f"held.{name}", payload), ErrorCode.APPROVAL_REQUIRED)
    decision = {"approval_id": held.details["approval_id"]}
    shown = expect(await shop.ask("approvals.get", decision, by=BOSS)).writes
    assert {each.target for each in shown} <= {"pv_stock", "pv_orders", "pv_lines", "notes"}
    if name == "order":
        # The sequences of PostgreSQL go on.
        expect_done(await shop.ask("stock.order", payload))
    else:
        expect_done(await shop.ask("stock.core_update", A))
        refused(await shop.ask("approvals.approve", decision, by=BOSS), ErrorCode.CONFLICT, "pv_stock")
        assert (await shop.counts()) == {"a": 90, "b": 100}
        held = refused(await shop.ask(f"held.{name}", payload), ErrorCode.APPROVAL_REQUIRED)
        decision = {"approval_id": held.details["approval_id"]}
    expect(await shop.ask("approvals.approve", decision, by=BOSS))


@run_in_mode
async def test_keys_of_the_database_may_differ_from_the_plan(shop: Shop) -> None:
    preview = expect(await shop.preview("stock.order", {"title": "x"}))
    expect_done(await shop.ask("stock.order", {"title": "another"}))
    expect_done(await shop.perform("stock.order", {"title": "x"}, plan=preview.plan))
    assert [each.target for each in preview.writes] == ["pv_lines"] * 3 + ["pv_orders"]
    assert {each.after["order_id"] for each in preview.writes[:3]} == {preview.writes[3].after["id"]}


@run_in_mode
async def test_sql_of_the_driver_is_shown(shop: Shop) -> None:
    preview = expect(await shop.preview("stock.driver", {**A, "row": "none"}))
    (write,) = preview.writes
    assert (write.kind, write.target, write.after) == ("statement", "pv_stock", {"rows": 0})
    assert await shop.perform("stock.driver", {**A, "row": "none"}, plan=preview.plan) == 0


@run_in_mode
async def test_links_and_moved_keys_are_shown_as_statements(shop: Shop) -> None:
    payload = {"id": str(uuid4())}
    shown = (await planned(shop, "stock.link", payload)).writes
    kinds = [(each.kind, each.target) for each in shown]
    assert kinds == [("insert", "pv_tags")] * 4 + [("statement", "pv_tags"), ("statement", "pv_shelves")]
    assert shown[4].parameters["id"] == f"{payload['id']} new"
    assert len(shown[5].after) == 2


@run_in_mode
async def test_undone_writes_are_not_shown(shop: Shop) -> None:
    preview = await planned(shop, "stock.undone")
    assert [(each.target, each.kind) for each in preview.writes] == [("notes", "insert"), ("pv_stock", "update")]
    assert preview.writes[0].after == {"undone": False}
    assert (await shop.counts()) == {"a": 90, "b": 100}


@run_in_mode
async def test_nested_actions_are_shown(shop: Shop) -> None:
    preview = await planned(shop, "stock.nested")
    assert [each.kind for each in preview.writes] == ["update", "statement"]
    assert (await shop.counts()) == {"a": 80, "b": 100}


@run_in_mode
async def test_async_session_is_captured(shop: Shop) -> None:
    if shop.backend.mode == "async":
        preview = await planned(shop, "stock.change_async")
        assert [each.kind for each in preview.writes] == ["update", "statement"]
        assert (await shop.counts()) == {"a": 89, "b": 100}

"""No write is dropped without an answer: one that has no effect fails, and everything is rolled back."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from examples.embedded_postgres import Database
from packaging.requirements import Requirement
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    StorageError,
)
from actionengine.storage.memory import records as memory
from actionengine.storage.rows import Claim, IdempotentResult, Recording
from actionengine.storage.sql import documents
from actionengine.storage.tables import CHANGES
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from tests.storage.backends import SQLDatabase, as_ann, engine_on, postgres_backend, sqlite_backend

SAME = "01a2a2a2-0000-7000-8000-000000000001"
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield InMemoryStorage()
        return
    if request.param == "sqlite":
        sql_database = sqlite_backend(str(tmp_path / "test.db"))
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        sql_database = postgres_backend(database.app_url, database.owner_url)
    with sql_database.open() as storage:
        yield storage
    sql_database.owner.dispose()


def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    try:
        ctx.records("notes").insert({"n": data})
        ctx.records("notes").list()
    except ActionError as error:
        if data != "caught":
            raise
        return Success(error.code)
    return Success(None)


def put_only(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.records("notes").insert({"n": data}).id)


def around(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.records("notes").insert({"n": data})
    return Success(isinstance(ctx.execute("notes", "nothing"), Success))


def nothing(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.records("others").get("x")
    return Failure("no")


def count(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(len(ctx.records("notes").list()))


@pytest.fixture
def notes(any_storage: Any) -> tuple[Engine, RequestContext]:
    engine = engine_on(any_storage, put, put_only, around, nothing, count, service="notes")
    return engine, as_ann(any_storage.create_tenant(slug="acme", name="Acme"))


@pytest.mark.parametrize("action", ["put_only", "put", "around"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_document_whose_generated_id_is_taken_is_a_conflict(
    notes: tuple[Engine, RequestContext], any_storage: Any, action: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, context = notes
    for module in (documents, memory):
        monkeypatch.setattr(module, "uuid7", lambda: uuid_utils.UUID(SAME))

    def execute(data: Any) -> Any:
        if mode == "sync":
            return engine.execute_action("notes", action, data, context)

        async def run() -> Any:
            answer = await engine.execute_action_async("notes", action, data, context)
            await any_storage.aclose()
            return answer

        return asyncio.run(run())

    execute(1).unwrap()
    refused = execute(2)

    assert refused.failure().code in {ErrorCode.CONFLICT, ErrorCode.INTERNAL}
    if action == "put_only":
        assert refused.failure().code is ErrorCode.CONFLICT
    monkeypatch.undo()
    assert engine.execute_action("notes", "count", None, context) == Success(1)


def test_a_caught_conflict_of_a_generated_id_loses_no_write(
    notes: tuple[Engine, RequestContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, context = notes
    for module in (documents, memory):
        monkeypatch.setattr(module, "uuid7", lambda: uuid_utils.UUID(SAME))
    engine.execute_action("notes", "put_only", 1, context).unwrap()

    answer = engine.execute_action("notes", "put", "caught", context)

    # On PostgreSQL the transaction has failed with the statement; elsewhere the handler has seen the error.
    assert answer == Success(ErrorCode.CONFLICT) or answer.failure().code is ErrorCode.CONFLICT
    monkeypatch.undo()
    assert engine.execute_action("notes", "count", None, context) == Success(1)


@pytest.fixture(params=[SyncBackend, AsyncBackend], ids=["sync", "async"])
def backend(request: pytest.FixtureRequest, sql_database: SQLDatabase) -> Iterator[Backend]:
    with sql_database.open() as storage:
        backend: Backend = request.param(storage)
        yield backend
        backend.close()


def test_a_result_whose_key_is_gone_is_not_answered(backend: Backend) -> None:
    """A result for an unclaimed key, as after a lost claim."""
    unit = backend.unit()
    claim = Claim("notes.put", "key", "print")
    assert backend.run(unit.claim(claim, 1.0)).status == "claimed"
    until = datetime.now(UTC) + timedelta(hours=1)
    results = [IdempotentResult(each, b"1", None, until) for each in (claim, claim._replace(key="another"))]

    backend.run(unit.record(Recording((), (), results)))
    with pytest.raises(StorageError, match="is gone: its result cannot be kept"):
        backend.run(unit.commit())
    backend.run(unit.rollback())


def test_a_row_that_is_not_there_to_be_changed_is_a_conflict(backend: Backend) -> None:
    _assert_gone(backend)


def test_a_row_that_is_not_in_memory_to_be_changed_is_a_conflict() -> None:
    backend = SyncBackend(InMemoryStorage())
    _assert_gone(backend)
    backend.close()


def _assert_gone(backend: Backend) -> None:
    unit = backend.unit()
    rows = unit.rows(CHANGES)

    with pytest.raises(ActionError) as refused:
        backend.run(rows.update([{"id": "missing", "updated_at": datetime.now(UTC)}]))

    assert refused.value.code is ErrorCode.CONFLICT
    assert "does not exist any more" in refused.value.message
    backend.run(unit.rollback())


# Ids in forked processes


def test_forked_processes_make_ids_of_their_own() -> None:
    uuid_utils.uuid7()
    made: list[set[str]] = []
    for _ in range(3):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, "\n".join(str(uuid_utils.uuid7()) for _ in range(50)).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            made.append(set(pipe.read().split()))
    made.append({str(uuid_utils.uuid7()) for _ in range(50)})

    assert len(set().union(*made)) == 200


def test_the_ids_of_older_releases_are_not_accepted() -> None:
    """Before 0.14, forked processes share the state of their parent and make the same ids."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = [each for each in map(Requirement, project["dependencies"]) if each.name == "uuid-utils"]

    assert "0.13.1" not in needed.specifier
    assert "0.14" in needed.specifier

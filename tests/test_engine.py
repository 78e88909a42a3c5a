"""Routing and introspection: frozen, precomputed, and not shared between two engines."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from returns.result import Result, Success

import actionengine
from actionengine import (
    ActionContext,
    ActionError,
    ActionSummary,
    Actor,
    DuplicateActionWarning,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    ServiceSummary,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from tests.conftest import log_of


class Job(BaseModel):
    title: str


ADD = create_action(
    name="add",
    description="Add a job",
    handler=lambda data: Success(data.title),
    validation=Job,
    access_control=["csr"],
    permission="jobs.add",
    idempotency="required",
)
COUNT = create_action(
    name="count", description="How many", handler=lambda data: Success(0), is_protected=False, read_only=True
)
JOBS = create_service(name="jobs", description="Jobs", actions=[ADD, COUNT])


@pytest.fixture
def engine(storage: InMemoryStorage) -> Engine:
    return create_engine(services=[JOBS], storage=storage)


def test_services_are_listed_in_order_with_built_in_ones_last(engine: Engine) -> None:
    summaries = engine.get_services().unwrap()
    assert summaries[0] == ServiceSummary("jobs", "Jobs", ("add", "count"))
    assert [summary.name for summary in summaries[1:]] == ["approvals", "action_log", "budgets", "relay", "roles"]


def test_actions_are_summarised_without_schema_or_handler(engine: Engine) -> None:
    assert engine.get_service_actions("jobs").unwrap() == (
        ActionSummary("add", "Add a job", True, True, ("csr",), "jobs.add", False, "required"),
        ActionSummary("count", "How many", False, False, (), None, True, "optional"),
    )


def test_summaries_are_made_once(engine: Engine) -> None:
    assert engine.get_services().unwrap() is engine.get_services().unwrap()
    assert engine.get_service_actions("jobs").unwrap() is engine.get_service_actions("jobs").unwrap()


def test_an_action_is_found_whole(engine: Engine) -> None:
    assert engine.get_action("jobs", "add").unwrap() is ADD


@pytest.mark.parametrize(
    ("service", "action", "nearest"),
    [("jbos", "add", "jobs"), ("jobs", "ad", "add"), ("nothing like it", "add", None), ("jobs", "x" * 100_000, None)],
)
def test_what_is_not_there_is_not_found_with_the_nearest_name(
    engine: Engine, acme: Tenant, service: str, action: str, nearest: str | None
) -> None:
    context = RequestContext(tenant=acme, actor=Actor.human("ann"))
    for answer in (engine.get_action(service, action), engine.execute_action(service, action, {}, context)):
        error = answer.failure()
        assert error.code is ErrorCode.NOT_FOUND
        assert error.details["nearest"] == nearest
        assert nearest is None or f"did you mean {nearest!r}?" in error.message


@pytest.mark.parametrize("name", [None, 7, ["jobs"], {}])
def test_a_name_that_is_no_text_is_not_found(engine: Engine, acme: Tenant, name: Any) -> None:
    context = RequestContext(tenant=acme, actor=Actor.human("ann"))
    assert engine.get_service_actions(name).failure().code is ErrorCode.NOT_FOUND
    assert engine.get_action("jobs", name).failure().code is ErrorCode.NOT_FOUND
    assert engine.execute_action(name, name, {}, context).failure().code is ErrorCode.NOT_FOUND


def test_an_engine_cannot_be_changed(engine: Engine) -> None:
    with pytest.raises(AttributeError, match="frozen"):
        setattr(engine, "_pipeline", None)  # noqa: B010 - a type checker would refuse it too
    with pytest.raises(AttributeError, match="frozen"):
        setattr(engine, "anything", 1)  # noqa: B010
    with pytest.raises(AttributeError, match="frozen"):
        delattr(engine, "_plans")
    stores: list[Any] = [engine._plans, engine._plans["jobs"], engine._actions, engine._action_summaries]
    for store in stores:
        with pytest.raises(TypeError):
            store["new"] = None


def test_two_engines_share_nothing() -> None:
    first, second = create_engine(services=[JOBS]), create_engine(services=[JOBS])
    assert first._storage is not second._storage
    assert first._pipeline._services.resources is not second._pipeline._services.resources
    tenant = first._storage.create_tenant(slug="acme", name="Acme")
    assert first.resolve_tenant("acme").unwrap() == tenant
    assert second.resolve_tenant("acme").failure().code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("slug", ["ghost", "", None, 7, "ACME", "acme'; --"])
def test_an_unknown_tenant_is_not_found(engine: Engine, acme: Tenant, slug: Any) -> None:
    assert engine.resolve_tenant(slug).failure().code is ErrorCode.NOT_FOUND
    assert asyncio.run(engine.resolve_tenant_async(slug)).failure().code is ErrorCode.NOT_FOUND


def test_a_slug_is_resolved_to_its_tenant(engine: Engine, acme: Tenant, globex: Tenant) -> None:
    assert engine.resolve_tenant("acme") == Success(acme)
    assert asyncio.run(engine.resolve_tenant_async("globex")) == Success(globex)


def test_ten_thousand_actions_are_each_routed(engine_of: Callable[..., Engine], as_ann: RequestContext) -> None:
    def numbered(number: int) -> Any:
        return create_action(name=f"a{number}", description="", handler=lambda data: Success(number))

    engine = engine_of(*map(numbered, range(10_000)))
    assert [engine.execute_action("work", f"a{n}", {}, as_ann).unwrap() for n in (0, 4711, 9_999)] == [0, 4711, 9_999]


def test_importing_the_library_loads_no_backend_and_no_framework() -> None:
    heavy = "sqlalchemy psycopg dbos boto3 faststream flask fastapi starlette opentelemetry rich typer pytest asyncpg"
    code = f"import sys, actionengine; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_file_stays_small() -> None:
    import actionengine.engine

    with open(actionengine.engine.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) < 400


def test_each_public_name_loads_and_is_listed() -> None:
    table = ast.parse(Path(actionengine.__file__).with_suffix(".pyi").read_text())
    names = {alias.name for line in table.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert names <= set(dir(actionengine))
    for name in names:
        assert name == "ErrorCodeValue" or getattr(actionengine, name).__name__ == name
    extras = {"BrokerPublisher", "EventBridgePublisher", "PostgresStorage", "SQLiteStorage", "protect_table"}
    extras |= {"MCPRequest", "create_mcp_server", "create_console"}
    assert set(vars(actionengine)["__getattr__"]("__all__")) == names - extras
    with pytest.raises(AttributeError, match="no attribute 'create_actoin'"):
        getattr(actionengine, "create_actoin")  # noqa: B009


# Typed calls


def opened(data: Job, ctx: ActionContext) -> Result[str, ActionError]:
    return Success(f"{ctx.action_id and data.title}")


async def opened_async(data: Job) -> Result[str, ActionError]:
    return Success(data.title)


OPEN = create_action(name="open", description="Open a job", handler=opened)
OPEN_ASYNC = create_action(name="open_async", description="Open a job", handler=opened_async)


def test_a_declared_action_runs_like_one_that_is_named(storage: InMemoryStorage, as_ann: RequestContext) -> None:
    service = create_service(name="jobs", description="Jobs", actions=[OPEN, OPEN_ASYNC])
    engine = create_engine(services=[service], storage=storage)
    assert engine.run(OPEN, Job(title="roof"), as_ann) == Success("roof")
    assert asyncio.run(engine.run_async(OPEN, Job(title="roof"), as_ann)) == Success("roof")
    assert asyncio.run(engine.run_async(OPEN_ASYNC, Job(title="roof"), as_ann)) == Success("roof")
    refused = engine.run(OPEN, {"title": 5}, as_ann).failure()  # type: ignore[misc]
    assert refused == engine.execute_action("jobs", "open", {"title": 5}, as_ann).failure()
    assert refused.code is ErrorCode.INVALID_INPUT
    rows = log_of(engine)
    assert sorted(row.action for row in rows) == ["jobs.open"] * 4 + ["jobs.open_async"]


def test_an_action_of_another_engine_is_not_found(engine: Engine, as_ann: RequestContext) -> None:
    for given in (OPEN, create_action(name="add", description="Another", handler=opened), None, "jobs.add"):
        for answer in (
            engine.run(given, Job(title="roof"), as_ann),  # type: ignore[arg-type]
            asyncio.run(engine.run_async(given, Job(title="roof"), as_ann)),  # type: ignore[arg-type]
        ):
            assert answer.failure().code is ErrorCode.NOT_FOUND


def test_of_two_actions_with_one_name_only_the_last_one_runs(storage: InMemoryStorage, as_ann: RequestContext) -> None:
    first = create_action(name="open", description="", handler=lambda data: Success("first"))
    last = create_action(name="open", description="", handler=lambda data: Success("last"))
    with pytest.warns(DuplicateActionWarning):
        engine = create_engine(
            services=[create_service(name="jobs", description="", actions=[first, last])], storage=storage
        )
    assert engine.run(last, None, as_ann) == Success("last")
    assert engine.run(first, None, as_ann).failure().code is ErrorCode.NOT_FOUND


def test_an_action_of_two_services_is_called_by_its_name(storage: InMemoryStorage, as_ann: RequestContext) -> None:
    services = [create_service(name=name, description="", actions=[OPEN]) for name in ("jobs", "visits", "tasks")]
    engine = create_engine(services=services, storage=storage)
    error = engine.run(OPEN, Job(title="roof"), as_ann).failure()
    assert error.code is ErrorCode.INTERNAL
    assert "execute_action" in error.message
    assert engine.execute_action("visits", "open", {"title": "roof"}, as_ann) == Success("roof")

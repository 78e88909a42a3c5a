"""Opening, checking, sharing and closing of a storage; the errors for a wrong URL, role or installation."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from actionengine import (
    ActionContext,
    Actor,
    ConfigurationError,
    Engine,
    ErrorCode,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    StorageUnavailable,
)
from actionengine.storage.sql.grants import grants as upgrade_grants
from tests.storage.backends import SQLDatabase, SQLStorage, engine_on


def put(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.records("notes").insert({}).id)


def notes_on(storage: SQLStorage) -> Engine:
    return engine_on(storage, put, service="notes")


def as_ann(storage: SQLStorage) -> RequestContext:
    return RequestContext(tenant=storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme"), actor=Actor.human("ann"))


# Wrong ones


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "is not a database URL"),
        ("", "is not a database URL"),
        ("mysql://localhost/x", "not mysql://"),
        ("sqlite:///x.db", "SQLiteStorage is for files"),
    ],
)
def test_a_wrong_url_is_refused_at_once(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        PostgresStorage(url)


def test_a_refusal_does_not_tell_the_password() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        PostgresStorage("postgresq//app:secret@localhost/x")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (":memory:", "InMemoryStorage"),
        ("sqlite://", "InMemoryStorage"),
        ("/no/such/folder/x.db", "does not exist: make it first"),
        ("postgresql://localhost/x", "PostgresStorage is for servers"),
    ],
)
def test_a_wrong_path_is_refused_at_once(path: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        SQLiteStorage(path)


@pytest.mark.parametrize("options", [{"isolation_level": "CHAOS"}, {"signing_key": "short"}])
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PostgresStorage("postgresql://localhost/x", **options)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    storage = PostgresStorage("postgresql://nobody@127.0.0.1:1/nothing")

    with pytest.raises(StorageUnavailable):
        storage.check()
    assert notes_on(storage).resolve_tenant("acme").failure().code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("name", "extra", "module"),
    [
        ("PostgresStorage", "postgres", "psycopg"),
        ("SQLiteStorage", "sql", "sqlalchemy"),
        ("protect_table", "sql", "sqlalchemy"),
    ],
)
def test_a_missing_driver_names_the_package_to_install(name: str, extra: str, module: str) -> None:
    script = f"import sys; sys.modules[{module!r}] = None\nfrom actionengine import {name}"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert f"{name} needs {module}: pip install 'actionengine[{extra}]'" in done.stderr


def test_the_core_works_without_a_database_installed() -> None:
    script = "import sys; sys.modules['sqlalchemy'] = sys.modules['psycopg'] = None\nfrom actionengine import *"

    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


# Roles that are too strong


@pytest.mark.parametrize("strength", ["superuser", "owner", "bypassrls"])
def test_a_role_that_is_too_strong_is_refused(
    postgres_server: str, fresh_postgres_database: Database, strength: str
) -> None:
    database = make_url(fresh_postgres_database.owner_url).database
    if strength == "superuser":
        url = make_url(postgres_server).set(database=database)
    elif strength == "owner":
        url = make_url(fresh_postgres_database.owner_url)
    else:
        role = f"strong_{uuid4().hex}"
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f'CREATE ROLE "{role}" LOGIN BYPASSRLS IN ROLE app')
        url = make_url(fresh_postgres_database.app_url).set(username=role)
    told = {
        "superuser": "is a superuser",
        "owner": "is an owner of the tables",
        "bypassrls": "free of row-level security",
    }

    with pytest.raises(ConfigurationError, match=told[strength]), PostgresStorage(url):
        pass
    with PostgresStorage(url, allow_strong_role=True) as storage:
        assert notes_on(storage).execute_action("notes", "put", {}, as_ann(storage)).unwrap()


PLACES = {
    "a schema": ("GRANT CREATE ON SCHEMA shop TO {role}", "REVOKE CREATE ON SCHEMA shop FROM {role}"),
    "a schema, by everybody's grant": (
        "GRANT CREATE ON SCHEMA shop TO PUBLIC",
        "REVOKE CREATE ON SCHEMA shop FROM PUBLIC",
    ),
    "public": ("GRANT CREATE ON SCHEMA public TO {role}", "REVOKE CREATE ON SCHEMA public FROM {role}"),
    "a schema of its own": ("ALTER SCHEMA shop OWNER TO {role}", "ALTER SCHEMA shop OWNER TO"),
    "the database": (
        "GRANT CREATE ON DATABASE {database} TO {role}",
        "REVOKE CREATE ON DATABASE {database} FROM {role}",
    ),
    "a schema, by a team": ("GRANT CREATE ON SCHEMA shop TO {team}", "REVOKE CREATE ON SCHEMA shop FROM {team}"),
    "a schema that its team owns": ("ALTER SCHEMA shop OWNER TO {team}", "ALTER SCHEMA shop OWNER TO"),
    "a superuser's place": ("ALTER ROLE {team} SUPERUSER", "is a member of a role that is free of row-level security"),
}


@pytest.mark.parametrize(("grant", "told"), PLACES.values(), ids=PLACES)
def test_a_role_that_may_create_objects_is_refused(
    postgres_server: str, fresh_postgres_database: Database, grant: str, told: str
) -> None:
    names = {
        "database": make_url(fresh_postgres_database.app_url).database,
        "role": f"maker_{uuid4().hex}",
        "team": f"team_{uuid4().hex}",
    }
    url = make_url(fresh_postgres_database.app_url).set(username=names["role"])
    superuser = make_url(postgres_server).set(database=names["database"]).render_as_string(hide_password=False)
    with psycopg.connect(superuser, autocommit=True) as connection:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE ROLE {team}",
            # A role can take on the rights that it does not inherit.
            "CREATE ROLE {role} LOGIN NOINHERIT IN ROLE app, {team}",
            "GRANT USAGE ON SCHEMA public TO {role}",
        ):
            connection.execute(statement.format(**names).encode())
        connection.execute("SELECT pg_catalog.set_config('search_path', 'public', false)")
        for grantable in upgrade_grants(names["role"]):
            connection.execute(grantable.encode())
        with PostgresStorage(url):
            pass
        connection.execute(grant.format(**names).encode())

    with pytest.raises(ConfigurationError) as refusal, PostgresStorage(url):
        pass

    assert told.format(**names).replace('"', "") in str(refusal.value).replace('"', "")
    with PostgresStorage(url, allow_strong_role=True):
        pass


def test_an_execution_with_a_role_that_is_too_strong_fails(
    fresh_postgres_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        context = as_ann(storage)
    storage = PostgresStorage(fresh_postgres_database.owner_url)

    error = notes_on(storage).execute_action("notes", "put", {}, context).failure()

    storage.close()
    assert error.code is ErrorCode.INTERNAL
    assert "connect as a role of its own" in caplog.text


# One storage, many users


def test_one_storage_serves_both_modes_at_once(sql_storage: SQLStorage) -> None:
    engine, context = notes_on(sql_storage), as_ann(sql_storage)

    async def both() -> None:
        answers = await asyncio.gather(
            *(engine.execute_action_async("notes", "put", {}, context) for _ in range(8)),
            *(asyncio.to_thread(engine.execute_action, "notes", "put", {}, context) for _ in range(8)),
        )
        assert len({answer.unwrap() for answer in answers}) == 16
        await sql_storage.aclose()

    asyncio.run(both())


def test_a_storage_serves_one_event_loop_after_another(sql_storage: SQLStorage) -> None:
    engine, context = notes_on(sql_storage), as_ann(sql_storage)

    async def once() -> None:
        (await engine.execute_action_async("notes", "put", {}, context)).unwrap()
        await sql_storage.aclose()

    for _ in range(3):
        asyncio.run(once())


def test_a_closed_storage_opens_again(sql_storage: SQLStorage) -> None:
    engine, context = notes_on(sql_storage), as_ann(sql_storage)

    sql_storage.close()

    engine.execute_action("notes", "put", {}, context).unwrap()


def test_nothing_is_opened_before_it_is_used(sql_database: SQLDatabase) -> None:
    storage = sql_database.open()

    notes_on(storage)

    assert not storage.pools._stacks


def test_a_storage_is_an_async_context_manager(sql_database: SQLDatabase) -> None:
    async def use() -> None:
        async with sql_database.open() as storage:
            assert list(await storage.list_tenants_async()) == []

    asyncio.run(use())


@pytest.fixture
def host_engines(sql_database: SQLDatabase) -> Iterator[tuple[Any, Any]]:
    """Return engines of the host's own on the same database."""
    with sql_database.open() as storage:
        url = storage.pools.engine("sync").url
    engine = create_engine(url, poolclass=NullPool if sql_database.name == "sqlite" else None)
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}[sql_database.name]
    yield engine, create_async_engine(url.set(drivername=driver))
    engine.dispose()


def test_a_hosts_own_engines_can_be_given(sql_database: SQLDatabase, host_engines: tuple[Any, Any]) -> None:
    engine, async_engine = host_engines
    kind: Any = SQLiteStorage if sql_database.name == "sqlite" else PostgresStorage
    storage = kind(engine=engine, async_engine=async_engine)
    context = as_ann(storage)

    notes_on(storage).execute_action("notes", "put", {}, context).unwrap()

    async def asynchronous() -> None:
        (await notes_on(storage).execute_action_async("notes", "put", {}, context)).unwrap()
        await async_engine.dispose()

    asyncio.run(asynchronous())
    storage.close()
    with engine.connect() as connection:
        # The engine is still the host's, with its own transactions.
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_one_engine_serves_its_own_mode_only(sql_database: SQLDatabase, host_engines: tuple[Any, Any]) -> None:
    engine, async_engine = host_engines
    kind: Any = SQLiteStorage if sql_database.name == "sqlite" else PostgresStorage

    with pytest.raises(ConfigurationError, match="give it an engine too"):
        kind(async_engine=async_engine).list_tenants()
    with pytest.raises(ConfigurationError, match="give it an async_engine too"):
        asyncio.run(kind(engine=engine).list_tenants_async())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_opens_connections_of_its_own(sql_storage: SQLStorage) -> None:
    engine, context = notes_on(sql_storage), as_ann(sql_storage)
    engine.execute_action("notes", "put", {}, context).unwrap()

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            done = all(isinstance(engine.execute_action("notes", "put", {}, context), Success) for _ in range(20))
            os._exit(0 if done else 1)
        children.append(child)
        for _ in range(20):
            engine.execute_action("notes", "put", {}, context).unwrap()

    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_the_application_is_named_to_the_server(postgres_database: Database, postgres_server: str) -> None:
    with PostgresStorage(postgres_database.app_url, application_name="orders") as storage:
        storage.list_tenants()
        with psycopg.connect(postgres_server) as connection:
            found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orders'")
            assert found.fetchone() == (1,)


def test_statements_need_not_be_prepared(postgres_database: Database) -> None:
    with PostgresStorage(postgres_database.app_url, prepared_statements=False, pool_size=1) as storage:
        engine, context = notes_on(storage), as_ann(storage)
        for _ in range(10):
            engine.execute_action("notes", "put", {}, context).unwrap()
        _, pooled = storage.pools.take("sync")
        driver: Any = pooled.driver_connection
        assert driver.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        pooled.close()


def test_a_folder_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()

    with pytest.raises(StorageUnavailable), SQLiteStorage(tmp_path / "x.db"):
        pass

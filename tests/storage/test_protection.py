"""The protection that `protect_table` declares is compared with the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Failure, Success
from sqlalchemy import Column, Engine, MetaData, Table, Text, Uuid, create_engine, make_url, text
from sqlalchemy.schema import CreateSchema
from sqlalchemy.sql.elements import quoted_name

from actionengine import (
    ActionContext,
    ConfigurationError,
    RequestContext,
    SQLiteStorage,
    protect_table,
)
from actionengine import create_engine as create_action_engine
from actionengine.storage.sql.protection import declaration_of, protect, protection, unprotect
from actionengine.storage.sql.verification import Declared, Difference, declarations, query_of
from actionengine.storage.sql.verification_postgresql import compare_postgresql
from actionengine.storage.sql.verification_sqlite import compare_sqlite
from tests.postgres import copy_database
from tests.storage.backends import SQLDatabase, SQLStorage, as_ann, engine_on

JOBS = "CREATE TABLE jobs (tenant_id uuid NOT NULL, n text); GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO app"
PROTECT = "PROTECT jobs"
DECLARED = Declared(None, "jobs", "tenant_id", is_not_null=True)


def table_of(name: str, schema: str | None = None, column: str = "tenant_id") -> Table:
    return Table(name, MetaData(), Column(column, Uuid, primary_key=True), Column("n", Text), schema=schema)


@pytest.fixture(scope="module")
def database(postgres_server: str, postgres_template: Database) -> Iterator[psycopg.Connection[Any]]:
    """Connect as a superuser, who rolls everything back."""
    copy = copy_database(postgres_server, postgres_template, "protected")
    superuser = make_url(postgres_server).set(database=make_url(copy.owner_url).database)
    with psycopg.connect(superuser.render_as_string(hide_password=False)) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO owner")
        connection.commit()
        yield connection


def differences(
    connection: psycopg.Connection[Any], script: Sequence[str], *declared: Declared, role: str = "app"
) -> list[Difference]:
    """Return the differences that a role finds after a script, which is rolled back. `PROTECT x` protects the table
    x."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL ROLE owner")
        for line in script:
            if line.startswith("AS SUPERUSER "):
                connection.execute("RESET ROLE")
                connection.execute(line.removeprefix("AS SUPERUSER ").encode())
                connection.execute("SET LOCAL ROLE owner")
            elif line.startswith("PROTECT "):
                for statement in protection(line.removeprefix("PROTECT "), "postgresql"):
                    connection.execute(statement.encode())
            else:
                connection.execute(line.encode())
        connection.execute(f"SET LOCAL ROLE {role}".encode())
        return compare_postgresql(
            lambda statement, parameters: connection.execute(statement.encode(), parameters).fetchall(), declared
        ).differences


PARTITIONED = (
    "CREATE TABLE jobs (tenant_id uuid NOT NULL, n text) PARTITION BY LIST (n)",
    "CREATE TABLE jobs_a PARTITION OF jobs FOR VALUES IN ('a') PARTITION BY HASH (tenant_id)",
    "CREATE TABLE jobs_a_0 PARTITION OF jobs_a FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    "GRANT SELECT ON jobs, jobs_a, jobs_a_0 TO app",
)
LOST = {
    "never protected": ([JOBS], "row-level security is not enabled"),
    "disabled": ([JOBS, PROTECT, "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY"], "row-level security is not enabled"),
    "not forced": ([JOBS, PROTECT, "ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY"], "is not forced"),
    "a policy less": ([JOBS, PROTECT, "DROP POLICY ae_insert ON jobs"], "the policy ae_insert is missing"),
    "a policy altered": ([JOBS, PROTECT, "ALTER POLICY ae_read ON jobs USING (true)"], "the policy ae_read does not"),
    "a policy widened": (
        [JOBS, PROTECT, "ALTER POLICY ae_read ON jobs USING (tenant_id = (SELECT ae_tenant()) OR n = 'x')"],
        "the policy ae_read does not",
    ),
    "a policy that reads as if writing": (
        [JOBS, PROTECT, "ALTER POLICY ae_update ON jobs USING (tenant_id = (SELECT public.ae_tenant()))"],
        "the policy ae_update does not",
    ),
    "a policy for one role": ([JOBS, PROTECT, "ALTER POLICY ae_read ON jobs TO owner"], "the policy ae_read does not"),
    "a policy by another function": (
        [
            JOBS,
            PROTECT,
            "AS SUPERUSER CREATE SCHEMA elsewhere AUTHORIZATION owner",
            "CREATE FUNCTION elsewhere.ae_tenant() RETURNS uuid LANGUAGE sql RETURN gen_random_uuid()",
            "ALTER POLICY ae_read ON jobs USING (tenant_id = (SELECT elsewhere.ae_tenant()))",
            "AS SUPERUSER GRANT USAGE ON SCHEMA elsewhere TO app",
            "SET LOCAL search_path = elsewhere, public",
        ],
        "the policy ae_read does not",
    ),
    "another column": (
        [
            JOBS,
            "ALTER TABLE jobs ADD owner_id uuid",
            PROTECT,
            "ALTER TABLE jobs RENAME tenant_id TO t",
            "ALTER TABLE jobs RENAME owner_id TO tenant_id",
        ],
        'does not say that "tenant_id" is the tenant',
    ),
    "nullable": (
        [JOBS, PROTECT, "ALTER TABLE jobs ALTER tenant_id DROP NOT NULL"],
        'the column "tenant_id" takes NULL',
    ),
    "no trigger": (
        [JOBS, PROTECT, "DROP TRIGGER ae_require_action ON jobs"],
        "the trigger ae_require_action is missing",
    ),
    "trigger disabled": ([JOBS, PROTECT, "ALTER TABLE jobs DISABLE TRIGGER ae_require_action"], "is disabled"),
    "all triggers disabled": ([JOBS, PROTECT, "ALTER TABLE jobs DISABLE TRIGGER USER"], "is disabled"),
    "trigger of replicas": (
        [JOBS, PROTECT, "ALTER TABLE jobs ENABLE REPLICA TRIGGER ae_require_action"],
        "is disabled",
    ),
    "trigger for less": (
        [
            JOBS,
            PROTECT,
            "DROP TRIGGER ae_require_action ON jobs",
            "CREATE TRIGGER ae_require_action BEFORE INSERT ON jobs EXECUTE FUNCTION ae_require_action()",
        ],
        "not for every write",
    ),
    "trigger on a condition": (
        [
            JOBS,
            PROTECT,
            "DROP TRIGGER ae_require_action ON jobs",
            "CREATE TRIGGER ae_require_action BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobs"
            " WHEN (false) EXECUTE FUNCTION ae_require_action()",
        ],
        "not for every write",
    ),
    "permissive policy": (
        [JOBS, PROTECT, 'CREATE POLICY "all of them" ON jobs USING (true)'],
        'the policy "all of them" lets "app" past ours',
    ),
    "permissive policy for the role": (
        [JOBS, PROTECT, "CREATE POLICY reports ON jobs FOR SELECT TO app USING (n = 'x')"],
        'the policy "reports" lets "app" past ours',
    ),
    "truncate": ([JOBS, PROTECT, "GRANT TRUNCATE ON jobs TO app"], '"app" may TRUNCATE'),
    "references, trigger to everybody": (
        [JOBS, PROTECT, "GRANT REFERENCES, TRIGGER ON jobs TO PUBLIC"],
        '"app" may REFERENCES, TRIGGER',
    ),
    "owned by the role": (
        [JOBS, PROTECT, "AS SUPERUSER ALTER TABLE jobs OWNER TO app"],
        '"app" owns it',
    ),
    "owned through a membership": (
        [
            JOBS,
            PROTECT,
            "AS SUPERUSER CREATE ROLE team_of_app",
            "AS SUPERUSER GRANT team_of_app TO app",
            "AS SUPERUSER GRANT CREATE ON SCHEMA public TO team_of_app",
            "AS SUPERUSER ALTER TABLE jobs OWNER TO team_of_app",
        ],
        '"app" owns it',
    ),
    "view of a superuser": (
        [
            JOBS,
            PROTECT,
            "AS SUPERUSER CREATE VIEW seen AS SELECT * FROM jobs",
            "AS SUPERUSER GRANT SELECT ON seen TO app",
        ],
        "the view seen reads it as a role that is past row-level security",
    ),
    "view over a view of a superuser": (
        [
            JOBS,
            PROTECT,
            "AS SUPERUSER CREATE VIEW below AS SELECT * FROM jobs",
            "AS SUPERUSER GRANT SELECT ON below TO owner",
            "AS SUPERUSER GRANT CREATE ON SCHEMA public TO owner",
            "CREATE VIEW above AS SELECT n FROM below",
            "GRANT SELECT (n) ON above TO app",
        ],
        "the view above reads it as a role that is past row-level security",
    ),
    "materialized view": (
        [JOBS, PROTECT, "CREATE MATERIALIZED VIEW copied AS SELECT * FROM jobs", "GRANT SELECT ON copied TO app"],
        'the materialized view copied copies it for "app"',
    ),
    "a table in the place of the renamed one": (
        [JOBS, PROTECT, "ALTER TABLE jobs RENAME TO jobs_2026", "CREATE TABLE jobs (LIKE jobs_2026 INCLUDING ALL)"],
        "row-level security is not enabled",
    ),
    "a view in the place of the table": (
        [JOBS, PROTECT, "ALTER TABLE jobs RENAME TO jobs_2026", "CREATE VIEW jobs AS SELECT * FROM jobs_2026"],
        "it is a view",
    ),
    "a later partition": (
        [
            *PARTITIONED,
            PROTECT,
            "CREATE TABLE jobs_b PARTITION OF jobs FOR VALUES IN ('b')",
            "GRANT SELECT ON jobs_b TO app",
        ],
        "row-level security is not enabled",
    ),
    "a partition that lost it": (
        [*PARTITIONED, PROTECT, "ALTER TABLE jobs_a_0 DISABLE ROW LEVEL SECURITY"],
        "row-level security is not enabled",
    ),
    "a table that inherits": (
        [JOBS, PROTECT, "CREATE TABLE heirs () INHERITS (jobs)", "GRANT INSERT (n, tenant_id) ON heirs TO app"],
        "row-level security is not enabled",
    ),
}
CARRIED = set(LOST) - {
    "never protected",
    "nullable",
    "another column",
    "a table in the place of the renamed one",
    "a view in the place of the table",
}


@pytest.mark.parametrize("name", LOST)
def test_a_protection_that_was_lost_is_found(database: psycopg.Connection[Any], name: str) -> None:
    script, problem = LOST[name]

    found = differences(database, script, DECLARED)

    assert any(problem in each.problem for each in found), found
    assert all(each.remedy for each in found)


@pytest.mark.parametrize("name", sorted(CARRIED))
def test_the_rest_of_a_protection_reveals_its_loss(database: psycopg.Connection[Any], name: str) -> None:
    script, problem = LOST[name]

    found = differences(database, script)

    assert any(problem in each.problem for each in found), found


SOUND = {
    "protected": [JOBS, PROTECT],
    "protected twice": [JOBS, PROTECT, PROTECT],
    "broken and mended": [
        JOBS,
        PROTECT,
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY ae_read ON jobs",
        "ALTER POLICY ae_delete ON jobs USING (true)",
        "ALTER TABLE jobs DISABLE TRIGGER ALL",
        "GRANT TRUNCATE, REFERENCES, TRIGGER ON jobs TO PUBLIC",
        PROTECT,
    ],
    "renamed and declared so": [JOBS.replace("jobs", "tasks"), "PROTECT tasks", "ALTER TABLE tasks RENAME TO jobs"],
    "a column renamed and declared so": [
        JOBS.replace("tenant_id", "t"),
        "ALTER TABLE jobs RENAME t TO tenant_id",
        PROTECT,
    ],
    "not there": [],
    "always a trigger": [JOBS, PROTECT, "ALTER TABLE jobs ENABLE ALWAYS TRIGGER ae_require_action"],
    "a restrictive policy": [JOBS, PROTECT, "CREATE POLICY fewer ON jobs AS RESTRICTIVE USING (n <> 'x')"],
    "a policy for another role": [JOBS, PROTECT, "CREATE POLICY reports ON jobs TO owner USING (true)"],
    "partitions": [*PARTITIONED, PROTECT],
    "a partition that nobody reaches": [
        *PARTITIONED,
        PROTECT,
        "CREATE TABLE jobs_b PARTITION OF jobs FOR VALUES IN ('b')",
    ],
    "a later partition, protected again": [
        *PARTITIONED,
        PROTECT,
        "CREATE TABLE jobs_b PARTITION OF jobs FOR VALUES IN ('b')",
        "GRANT SELECT ON jobs_b TO app",
        PROTECT,
    ],
    "views": [
        JOBS,
        PROTECT,
        "CREATE VIEW mine AS SELECT * FROM jobs",
        "AS SUPERUSER CREATE VIEW theirs WITH (security_invoker) AS SELECT * FROM jobs",
        "AS SUPERUSER CREATE VIEW hidden AS SELECT * FROM jobs",
        "AS SUPERUSER GRANT SELECT ON mine, theirs TO app",
    ],
    "another search path": [JOBS, PROTECT, "SET LOCAL search_path = pg_catalog, public, pg_temp"],
}


@pytest.mark.parametrize("name", SOUND)
def test_a_protection_that_is_there_is_accepted(database: psycopg.Connection[Any], name: str) -> None:
    assert differences(database, SOUND[name], DECLARED) == []
    assert differences(database, SOUND[name]) == []


def test_several_tables_are_compared_at_once(database: psycopg.Connection[Any]) -> None:
    script = [
        JOBS,
        "CREATE TABLE sound (customer uuid NOT NULL)",
        *protection("sound", "postgresql", "customer"),
        "AS SUPERUSER CREATE SCHEMA other AUTHORIZATION owner",
        "CREATE TABLE other.jobs (tenant_id uuid NOT NULL)",
    ]
    sound = Declared(None, "sound", "customer")

    found = differences(database, script, sound, DECLARED, Declared("other", "jobs", "tenant_id"))

    assert {each.table for each in found} == {'"public"."jobs"', '"other"."jobs"'}
    # Two databases of a process may each have a table of this name; this one has the second.
    assert differences(database, script, Declared(None, "sound", "tenant_id"), sound) == []
    assert differences(database, script, Declared(None, "sound", "tenant_id")) != []


def test_a_strong_role_learns_of_the_structure_only(database: psycopg.Connection[Any]) -> None:
    with database.transaction(force_rollback=True):
        for statement in (JOBS, *protection("jobs", "postgresql"), "CREATE POLICY more ON jobs USING (true)"):
            database.execute(statement.encode())
        found = compare_postgresql(
            lambda statement, parameters: database.execute(statement.encode(), parameters).fetchall(),
            [DECLARED],
            is_strong=True,
        )

    assert found.differences == []


def test_a_column_that_came_later_has_statistics(database: psycopg.Connection[Any]) -> None:
    found = differences(database, [JOBS, PROTECT, "ALTER TABLE jobs ADD COLUMN extra text"], DECLARED)

    assert [each.problem for each in found] == ['the planner keeps statistics of "extra"']
    assert found[0].is_minor
    assert differences(database, [JOBS, PROTECT, "ALTER TABLE jobs ADD extra text", PROTECT], DECLARED) == []
    for later in ("CREATE INDEX later ON jobs (lower(n))", "CREATE STATISTICS later ON lower(n) FROM jobs"):
        told = [each.problem for each in differences(database, [JOBS, PROTECT, later], DECLARED)]
        assert told == ['the planner keeps statistics of "later"']
        assert differences(database, [JOBS, PROTECT, later, PROTECT], DECLARED) == []
    chosen = "ALTER TABLE jobs ALTER COLUMN n SET STATISTICS 100"
    assert differences(database, [JOBS, PROTECT, chosen], DECLARED) == []


# Names

NAMES = [
    "jobs.v2",
    'quo"ted',
    "it's",
    "100%s of %(it)s",
    "Upper Case",
    "$ae$ $$ $ae_$",
    "back\\slash",
    "select",
    "ünïcödé",
    "{braces}",
    "semi;\n--colon",
    "x" * 63,
    "é" * 40,
]


@pytest.fixture(scope="module")
def named(postgres_server: str, postgres_template: Database) -> Iterator[Engine]:
    """A database whose owner may create schemas, with tables that a wrongly split name would hit."""
    copy = copy_database(postgres_server, postgres_template, "named")
    engine = create_engine(make_url(copy.owner_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        for statement in ("CREATE SCHEMA jobs", "CREATE TABLE jobs.v2 (tenant_id uuid)", 'CREATE SCHEMA "a.b"'):
            connection.execute(text(statement))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("schema", [None, "a.b", "Sch\"ema %s'"])
@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_any_name_is_protected_and_no_other(named: Engine, name: str, schema: str | None) -> None:
    table = protect_table(table_of(name, schema, "Tenant %"), tenant_column="Tenant %", app_role="app")
    declared = declarations([table])

    def compare(connection: Any) -> Any:
        return compare_postgresql(query_of(connection), declared, is_strong=True)

    with named.connect() as connection:
        if schema is not None:
            connection.execute(CreateSchema(schema, if_not_exists=True))
        before = _protected(connection)
        table.metadata.create_all(connection)

        assert compare(connection) == ([], set(declared), compare(connection).carrying)
        assert len(_protected(connection) - before) == 1
        protect(connection, name, schema, "Tenant %", "app")
        assert compare(connection).differences == []
        unprotect(connection, name, schema)
        assert _protected(connection) == before
        assert {each.is_structural for each in compare(connection).differences} == {True}
        connection.rollback()


def _protected(connection: Any) -> set[str]:
    """Return the tables with any part of a protection."""
    rows = connection.execute(
        text(
            "SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity AND relkind = 'r'"
            " UNION SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'ae_require_action'"
            " UNION SELECT polrelid::regclass::text FROM pg_policy"
        )
    )
    return set(rows.scalars())


def test_a_name_that_is_not_quoted_is_in_lower_case(named: Engine) -> None:
    table = protect_table(table_of(quoted_name("Plain", quote=False)))

    with named.connect() as connection:
        table.metadata.create_all(connection)
        assert compare_postgresql(query_of(connection), declarations([table]), is_strong=True).differences == []
        connection.rollback()


def test_the_schema_that_a_table_is_made_in_counts(named: Engine) -> None:
    table = protect_table(table_of("translated", "customer"))

    with named.connect() as plain:
        connection = plain.execution_options(schema_translate_map={"customer": "a.b"})
        table.metadata.create_all(connection)
        assert '"a.b".translated' in _protected(connection)
        plain.rollback()


def test_a_copy_of_a_table_takes_its_declaration_along(named: Engine) -> None:
    table = protect_table(table_of("copied"), app_role="nobody")
    protect_table(table, app_role="app")
    copy = table.to_metadata(MetaData(), schema="a.b")

    assert [each.key for each in declarations(copy.metadata)] == [("a.b", "copied")]
    with named.connect() as connection:
        copy.metadata.create_all(connection)
        assert '"a.b".copied' in _protected(connection)
        connection.rollback()
    assert table.info == {}


def test_a_column_can_have_another_key(named: Engine) -> None:
    table = Table("keyed", MetaData(), Column("tenant_id", Uuid, key="owner"), Column("n", Text))

    for name in ("owner", "tenant_id"):
        assert declarations([protect_table(table, tenant_column=name)])[0].tenant_column == "tenant_id"


@pytest.mark.parametrize("relation", ["CREATE VIEW v AS SELECT 1 AS tenant_id", "CREATE SEQUENCE v"])
def test_only_a_table_is_protected(named: Engine, relation: str) -> None:
    with named.connect() as connection:
        connection.execute(text(relation))
        with pytest.raises(Exception, match="is no table that can be protected"):
            protect(connection, "v")


# Storages


def reading(storage: SQLStorage, statement: Any) -> tuple[Any, RequestContext]:
    def read(data: None, ctx: ActionContext) -> Any:
        return Success(len(list(ctx.session.execute(text(statement) if isinstance(statement, str) else statement))))

    return engine_on(storage, read, service="test"), as_ann(storage.create_tenant(slug="acme", name="Acme"))


UNPROTECTED = {
    "postgresql": "CREATE TABLE expenses (tenant_id uuid NOT NULL, n text)",
    "sqlite": "CREATE TABLE expenses (tenant_id TEXT NOT NULL, n TEXT)",
}


def test_a_database_without_declared_protection_is_refused(sql_database: SQLDatabase) -> None:
    table = protect_table(table_of("expenses"))
    other = protect_table(table_of("elsewhere"))
    with sql_database.owning() as connection:
        connection.execute(text(UNPROTECTED[sql_database.name]))

    with (
        pytest.raises(ConfigurationError, match=r"(?s)expenses.*Run `actionengine db protect expenses`"),
        sql_database.open(),
    ):
        pass
    with pytest.raises(ConfigurationError, match="expenses"), sql_database.open(protected=table.metadata):
        pass
    # A process with several databases names the tables of this one.
    for tables in ([other], ()):
        with sql_database.open(protected=tables):
            pass

    with sql_database.owning() as connection:
        protect(connection, "expenses", app_role="app")
    with sql_database.open(protected=[table]) as storage:
        assert storage.database.protection.is_complete


def test_an_action_reads_no_table_that_lost_its_protection(sql_database: SQLDatabase) -> None:
    table = protect_table(table_of("expenses"))
    with sql_database.owning() as connection:
        connection.execute(text(UNPROTECTED[sql_database.name]))

    storage = sql_database.open(protected=[table])
    answer = create_action_engine(services=[], storage=storage).resolve_tenant("acme")

    assert isinstance(answer, Failure)
    assert "expenses" in str(answer.failure())
    storage.close()


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("declared_when", ["before", "after"])
def test_a_later_table_is_compared_before_its_use(sql_database: SQLDatabase, is_text: bool, declared_when: str) -> None:
    table = table_of("Expenses")
    if declared_when == "before":
        protect_table(table)
    with sql_database.open() as storage:
        engine, context = reading(storage, 'SELECT n FROM "Expenses"' if is_text else table.select())
        protect_table(table)
        with sql_database.owning() as connection:
            connection.execute(text(UNPROTECTED[sql_database.name].replace("expenses", '"Expenses"')))
            if sql_database.name == "postgresql":
                connection.execute(text('GRANT SELECT ON "Expenses" TO app'))

        refused = engine.execute_action("test", "read", None, context)
        with sql_database.owning() as connection:
            protect(connection, "Expenses", app_role="app")
        read = engine.execute_action("test", "read", None, context)

        assert isinstance(refused, Failure)
        assert "Expenses" in str(refused.failure())
        assert read == Success(0)


def test_a_later_table_is_compared_under_an_event_loop(sql_database: SQLDatabase) -> None:
    table = protect_table(table_of("expenses"))

    async def read(data: None, ctx: ActionContext) -> Any:
        return Success(len(list(await ctx.async_session.execute(table.select()))))

    async def scenario() -> Any:
        async with sql_database.open(protected=[table]) as storage:
            engine = engine_on(storage, read, service="test")
            context = as_ann(await storage.create_tenant_async(slug="acme", name="Acme"))
            with sql_database.owning() as connection:
                connection.execute(text(UNPROTECTED[sql_database.name]))
            refused = await engine.execute_action_async("test", "read", None, context)
            with sql_database.owning() as connection:
                protect(connection, "expenses", app_role="app")
            return refused, await engine.execute_action_async("test", "read", None, context)

    refused, read_later = asyncio.run(scenario())

    assert "expenses" in str(refused.failure())
    assert read_later == Success(0)


def test_an_undeclared_table_is_not_compared(sql_database: SQLDatabase) -> None:
    protect_table(table_of("expenses"))
    with sql_database.owning() as connection:
        connection.execute(text(UNPROTECTED[sql_database.name]))

    with sql_database.open():
        pass


# SQLite


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Engine]:
    with SQLiteStorage(tmp_path / "x.db"):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_any_name_is_protected_on_sqlite(file: Engine, name: str) -> None:
    table = protect_table(table_of(name, column="Tenant %"), tenant_column="Tenant %")

    with file.begin() as connection:
        table.metadata.create_all(connection)
        found = compare_sqlite(query_of(connection), declarations([table]))
        assert (found.differences, found.found) == ([], set(declarations([table])))
        protect(connection, name, tenant_column="Tenant %")
        assert compare_sqlite(query_of(connection), declarations([table])).differences == []
        with pytest.raises(Exception, match="no such function: ae_writing_tenant"):
            connection.execute(table.insert(), {"Tenant %": uuid4()})
        unprotect(connection, name)
        assert len(compare_sqlite(query_of(connection), declarations([table])).differences) == 3
        assert compare_sqlite(query_of(connection), []).carrying == []


def test_renamed_and_new_tables_have_their_triggers(file: Engine) -> None:
    old, new = protect_table(table_of("jobs")), protect_table(table_of("archive"))

    with file.begin() as connection:
        old.metadata.create_all(connection)
        connection.execute(text("ALTER TABLE jobs RENAME TO archive"))
        assert compare_sqlite(query_of(connection), declarations([new])).differences == []
        old.metadata.create_all(connection)
        assert compare_sqlite(query_of(connection), declarations([old, new])).differences == []
        connection.execute(text("ALTER TABLE archive RENAME COLUMN tenant_id TO customer"))
        assert compare_sqlite(query_of(connection), [Declared(None, "archive", "customer")]).differences == []
        protect(connection, "archive", tenant_column="customer")
        unprotect(connection, "jobs")
        assert [each.name for each in compare_sqlite(query_of(connection), []).carrying] == ["archive"]


@pytest.mark.parametrize(
    "script",
    [
        ["DROP TRIGGER ae_protect_jobs_update"],
        ["DROP TRIGGER ae_protect_jobs_insert", "DROP TRIGGER ae_protect_jobs_delete"],
        [
            "DROP TRIGGER ae_protect_jobs_delete",
            "CREATE TRIGGER ae_protect_jobs_delete BEFORE DELETE ON jobs BEGIN SELECT 1; END",
        ],
        [
            "ALTER TABLE jobs ADD COLUMN customer TEXT",
            "DROP TRIGGER ae_protect_jobs_delete",
            protection("jobs", "sqlite", "customer")[2],
        ],
    ],
)
def test_triggers_that_were_lost_are_found(file: Engine, script: list[str]) -> None:
    table = protect_table(table_of("jobs"))
    with file.begin() as connection:
        table.metadata.create_all(connection)
        for statement in script:
            connection.exec_driver_sql(statement)

        assert compare_sqlite(query_of(connection), declarations([table])).differences
        assert compare_sqlite(query_of(connection), []).differences


def test_an_attached_file_is_compared_too(file: Engine, tmp_path: Path) -> None:
    table = protect_table(table_of("jobs", "side.car"))
    with file.connect() as connection:
        assert compare_sqlite(query_of(connection), declarations([table])) == ([], set(), [])
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'other.db'}' AS \"side.car\"")
        table.metadata.create_all(connection)
        assert compare_sqlite(query_of(connection), declarations([table])).differences == []
        connection.exec_driver_sql('DROP TRIGGER "side.car".ae_protect_jobs_update')
        assert len(compare_sqlite(query_of(connection), declarations([table])).differences) == 1


def test_a_row_of_no_tenant_is_refused_outside_an_action(file: Engine) -> None:
    table = protect_table(Table("jobs", MetaData(), Column("tenant_id", Uuid)))
    with file.begin() as connection:
        table.metadata.create_all(connection)
        driver: Any = connection.connection.dbapi_connection
        driver.create_function("ae_writing_tenant", 0, lambda: None)
        with pytest.raises(Exception, match="INSERT on jobs outside an action"):
            connection.execute(table.insert(), {"tenant_id": None})


def test_the_declaration_can_be_read() -> None:
    table = table_of("jobs")

    assert declaration_of(table) is None
    declared = declaration_of(protect_table(table, app_role="app"))
    assert declared is not None
    assert (declared.tenant_column, declared.app_role) == ("tenant_id", "app")


def test_partitions_are_protected_by_their_own_names(database: psycopg.Connection[Any]) -> None:
    acme, globex = uuid4(), uuid4()
    with database.transaction(force_rollback=True):
        for statement in PARTITIONED:
            database.execute(statement.encode())
        database.execute("GRANT INSERT, TRUNCATE ON jobs, jobs_a, jobs_a_0 TO app")
        database.execute("INSERT INTO jobs VALUES (%s, 'a'), (%s, 'a')", (acme, globex))
        for statement in protection("jobs", "postgresql", app_role="app"):
            database.execute(statement.encode())
        database.execute("SET LOCAL ROLE app")
        database.execute("SELECT set_config('app.tenant_id', %s, true)", (str(acme),))

        for table in ("jobs", "jobs_a", "jobs_a_0"):
            assert database.execute(f"SELECT tenant_id FROM {table}".encode()).fetchall() == [(acme,)]
            for statement, told in (
                (f"INSERT INTO {table} VALUES ('{acme}', 'a')", "outside an action"),
                (f"TRUNCATE {table}", "permission denied"),
            ):
                with pytest.raises(psycopg.Error, match=told), database.transaction():
                    database.execute(statement.encode())


@pytest.mark.parametrize("name", ['quo"ted', "100%", "Upper Case"])
def test_a_table_that_appears_later_may_have_any_name(sql_database: SQLDatabase, name: str) -> None:
    table = protect_table(table_of(name))
    with sql_database.open(protected=[table]) as storage:
        engine, context = reading(storage, table.select())
        with sql_database.owning() as connection:
            bare = Table(name, MetaData(), *(Column(column.name, column.type) for column in table.columns))
            bare.create(connection)
            if sql_database.name == "postgresql":
                protect(connection, name, app_role="app")
                unprotect(connection, name)

        assert isinstance(engine.execute_action("test", "read", None, context), Failure)


def test_a_false_mention_of_a_table_is_compared_once(
    sql_database: SQLDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = protect_table(table_of("e"))
    with sql_database.open(protected=[table]) as storage:
        engine, context = reading(storage, "SELECT 1")
        compared: list[object] = []
        compare = storage.database.protection._compare

        def counting(query: Any, declared: Any) -> Any:
            compared.append(declared)
            return compare(query, declared)

        monkeypatch.setattr(storage.database.protection, "_compare", counting)

        for _ in range(3):
            assert engine.execute_action("test", "read", None, context) == Success(1)

    assert len(compared) == 1

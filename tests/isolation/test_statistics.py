"""Statistics: the planner knows no value of a tenant, so EXPLAIN shows none to another tenant."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from actionengine.storage.sql.protection import protection, unprotection
from tests.isolation.harness import GUARDED, SQLHarness

GATHERED = """
SELECT c.relname, a.attname
FROM pg_statistic s
JOIN pg_class c ON c.oid = s.starelid
JOIN pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
WHERE c.relname LIKE %s
"""
SHAPES = (
    "{column} = {value}",
    "{column} <> {value}",
    "{column} < {value}",
    "{column} >= {value}",
    "{column} BETWEEN {value} AND {value}",
    "{column} IN ({value}, {value})",
    "{column} IS NOT DISTINCT FROM {value}",
    "{column}::text LIKE {value}::text || '%'",
    "starts_with({column}::text, {value}::text)",
    "({column}, {column}) = ({value}, {value})",
)
GUESSES = {
    "uuid": ("{victim}", "00000000-0000-0000-0000-000000000001"),
    "text": ("{marker}", "test.work", "nobody"),
    "int4": ("1", "77"),
    "int8": ("1", "77"),
    "timestamptz": ("-infinity", "2000-01-01", "infinity"),
    "bool": ("true", "false"),
}
"""Values of the victim, and values that no tenant has."""


@pytest.fixture(scope="module", autouse=True)
def _frequent(signed: SQLHarness) -> None:
    """The victim's values are the most frequent ones, and the tables are analyzed."""
    for number in range(20):
        signed.work(signed.victim, f"frequent-{number}", idempotency_key=str(number))
    signed.query("SELECT pg_stat_force_next_flush()")
    with psycopg.connect(signed.superuser_url, autocommit=True) as superuser:
        superuser.execute("ANALYZE")


@pytest.fixture
def own(signed: SQLHarness) -> Iterator[psycopg.Connection]:
    """A connection of the owner, which creates tables of the host."""
    with psycopg.connect(signed.database.owner_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("tables", ["ae\\_%", "host\\_notes%"])
def test_nothing_is_gathered_of_ours_and_of_protected_tables(signed: SQLHarness, tables: str) -> None:
    gathered = {table for table, _ in signed.query(GATHERED, tables)}

    assert gathered <= {"ae_migrations"}


@pytest.mark.parametrize("table", GUARDED)
def test_estimates_are_the_same_for_every_value(signed: SQLHarness, table: str) -> None:
    columns = signed.query(
        "SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        " WHERE a.attrelid = %s::regclass AND a.attnum > 0",
        f"public.{table}",
    )
    wanted = [
        (f"{column} {shape}", [_explain(table, column, type, shape, guess) for guess in GUESSES[type]])
        for column, type in columns
        if type in GUESSES
        for shape in SHAPES
    ]
    loot = signed.attack(
        [each.format(victim="VICTIM", marker=signed.victim.marker) for _, asked in wanted for each in asked]
    )

    assert loot.errors == []
    estimates = iter(json.loads(line)[0][0]["Plan"]["Plan Rows"] for line in loot.seen)
    told = {name: {next(estimates) for _ in asked} for name, asked in wanted}
    assert wanted != []
    assert {name for name, rows in told.items() if len(rows) > 1} == set()


def _explain(table: str, column: str, type: str, shape: str, guess: str) -> str:
    condition = shape.format(column=column, value=f"'{guess}'::{type}")
    return f"EXPLAIN (FORMAT JSON) SELECT FROM public.{table} WHERE {condition}"


HOST_TABLES = {
    "a plain table": ("host_stats_1", "CREATE TABLE host_stats_1 (tenant_id uuid, name text)"),
    "a table with an expression in an index": (
        "host_stats_2",
        "CREATE TABLE host_stats_2 (tenant_id uuid, name text);"
        "CREATE INDEX ON host_stats_2 (tenant_id, lower(name), name, (name || '!'))",
    ),
    "a table whose columns are looked at together": (
        "host_stats_3",
        "CREATE TABLE host_stats_3 (tenant_id uuid, name text);"
        "CREATE STATISTICS host_stats_3_both (mcv, ndistinct, dependencies) ON tenant_id, name FROM host_stats_3;"
        "CREATE STATISTICS host_stats_3_computed ON (lower(name)) FROM host_stats_3",
    ),
    "a partitioned table": (
        "host_stats_4",
        "CREATE TABLE host_stats_4 (tenant_id uuid, name text) PARTITION BY HASH (tenant_id);"
        "CREATE TABLE host_stats_4_0 PARTITION OF host_stats_4 FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE host_stats_4_1 PARTITION OF host_stats_4 FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE INDEX ON host_stats_4 (tenant_id, lower(name))",
    ),
    "a table and a column with odd names": (
        'host_stats it\'s "5"',
        'CREATE TABLE "host_stats it\'s ""5""" (tenant_id uuid, name text, "the ""odd"" one" text DEFAULT \'x\')',
    ),
    "a table with generated columns": (
        "host_stats_6",
        "CREATE TABLE host_stats_6 (tenant_id uuid, name text, upper text GENERATED ALWAYS AS (upper(name)) STORED)",
    ),
}


@pytest.mark.parametrize("is_late", [False, True], ids=["empty", "analyzed before"])
@pytest.mark.parametrize("table", HOST_TABLES)
def test_protecting_a_table_hides_its_statistics(
    signed: SQLHarness, own: psycopg.Connection, table: str, is_late: bool
) -> None:
    name, script = HOST_TABLES[table]
    quoted = '"{}"'.format(name.replace('"', '""'))
    fill = f"INSERT INTO {quoted} (tenant_id, name) SELECT %s, 'a secret' FROM generate_series(1, 500)"
    pattern = f"{name}%".replace("_", "\\_")
    own.execute(script.encode())
    try:
        own.execute(fill.encode(), (signed.victim.id,))
        if is_late:
            own.execute(f"ANALYZE {quoted}".encode())
            assert signed.query(GATHERED, pattern) != []
        for statement in protection(name, "postgresql"):
            own.execute(statement.encode())
        own.execute(f"ANALYZE {quoted}".encode())

        assert signed.query(GATHERED, pattern) == []
        assert signed.query("SELECT FROM pg_statistic_ext_data") == []

        for statement in unprotection(name, "postgresql"):
            own.execute(statement.encode())
        own.execute(f"ANALYZE {quoted}".encode())
        assert signed.query(GATHERED, pattern) != []
    finally:
        own.execute(f"DROP TABLE {quoted}".encode())

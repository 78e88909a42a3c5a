"""With 36 partitions, each statement of the library uses the same indexes as without, and reads one partition or a few.

The statements are those of every public operation, as in `test_plans`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import psycopg
import pytest
from benchmarks.growth import postgres_backends
from benchmarks.growth.backends import PostgresBackend
from benchmarks.postgres import Bench
from sqlalchemy import make_url

from actionengine.cli.common import owner
from actionengine.storage.sql.maintenance.months import GROUPS, KEYS, Month
from actionengine.storage.sql.maintenance.partitions import make_partitions
from actionengine.storage.sql.maintenance.work import Maintenance
from tests.storage.captured import POSTGRES_NAMES, Captured
from tests.storage.test_plans import INDEXES, LARGER, ON_POSTGRESQL, ROWS, sent

PARTITIONS = 36

FILLED = """
SELECT x.inhrelid::regclass::text, x.inhparent::regclass::text
FROM pg_inherits x JOIN pg_index i ON i.indexrelid = x.inhrelid
WHERE pg_relation_size(i.indrelid) > 65536
"""
"""The indexes of the partitions that have rows, with those of their parents. For an empty one, several are as good."""


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[tuple[PostgresBackend, Captured]]:
    with postgres_backends([ROWS], Bench("", "", postgres_server)) as (backend,):
        first = Month.of(datetime.now(UTC)).plus(4 - PARTITIONS)
        url = make_url(backend.app_url).set(username="owner")
        maintenance = Maintenance(partial(owner, url.render_as_string(hide_password=False)), "human:ada")
        make_partitions(maintenance, tuple(GROUPS), PARTITIONS - 1, first.start)
        statements = sent(backend)
        backend.superuser.execute(LARGER)
        yield backend, statements


@pytest.mark.parametrize("plans", ["custom", "generic"])
def test_each_statement_uses_the_named_index(database: tuple[PostgresBackend, Captured], plans: str) -> None:
    backend, statements = database
    names: dict[str, str] = dict(backend.superuser.execute(POSTGRES_NAMES).fetchall())
    parents: dict[str, str] = dict(backend.superuser.execute(FILLED).fetchall())
    used: dict[str, set[str]] = {}
    with psycopg.connect(backend.app_url, autocommit=True) as connection:
        settings = {"app.tenant_id": str(backend.tenant.id), "app.action_id": "x", "enable_seqscan": "off"}
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        for name, (statement, parameters) in statements.items():
            if not any(f"public.{table}" in statement for table in KEYS):
                continue
            if plans == "custom":
                plan = connection.execute(f"EXPLAIN {statement}".encode(), parameters)
            else:
                first, *rest = statement.split("%s")
                marked = first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
                plan = connection.execute(f"EXPLAIN (GENERIC_PLAN) {marked}".encode())
            lines = "\n".join(line for (line,) in plan)
            found = re.findall(r"(?:using|Bitmap Index Scan on) (ae_\w+)", lines)
            used[name] = {
                names[parents.get(index, index)]
                for index in found
                if index in parents or not re.search(r"_20\d\d_\d\d_|_default_", index)
            }
            assert "Seq Scan on" not in lines, (name, lines)

    named = INDEXES | ON_POSTGRESQL
    assert {name: found for name, found in used.items() if found} == {
        name: named.get(name) for name, found in used.items() if found
    }
    assert {"READ_LOG", "READ_EVENTS", "FIND_LOG_OF_SUBJECT"} <= {name for name, found in used.items() if found}

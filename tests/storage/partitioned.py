"""A database whose log and events have monthly partitions, and rows of any time in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4

import psycopg
from examples.embedded_postgres import Database

from actionengine import Tenant
from actionengine.cli.common import owner
from actionengine.storage.sql.maintenance.months import GROUPS
from actionengine.storage.sql.maintenance.partitions import Plan, make_partitions
from actionengine.storage.sql.maintenance.work import Maintenance

CATALOG = """
SELECT c.oid, c.relname, c.relkind::text, c.relispartition, pg_get_expr(c.relpartbound, c.oid), c.relacl::text,
    c.relrowsecurity, c.relforcerowsecurity, (SELECT array_agg(t.tgname ORDER BY t.tgname) FROM pg_trigger t
    WHERE t.tgrelid = c.oid), (SELECT array_agg(p.polname ORDER BY p.polname) FROM pg_policy p WHERE p.polrelid = c.oid)
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace ORDER BY c.relname
"""


class LogRow(NamedTuple):
    """A row of the log that a test has written."""

    id: UUID
    subject: str


def maintenance(database: Database, actor: str = "human:ada", reason: str | None = None) -> Maintenance:
    """Return the transactions of the owner."""
    return Maintenance(partial(owner, database.owner_url), actor, reason)


def make(database: Database, now: datetime, months: int = 3, groups: Sequence[str] = tuple(GROUPS)) -> Plan:
    """Make partitions as at a time."""
    return make_partitions(maintenance(database), groups, months, now)


def catalog(database: Database) -> list[tuple[object, ...]]:
    """Return the tables and indexes with their protection."""
    with psycopg.connect(database.owner_url) as connection:
        return connection.execute(CATALOG).fetchall()


def id_at(time: datetime) -> UUID:
    """Return an id of a time, as an execution has it."""
    return UUID(int=(int(time.timestamp() * 1000) << 80) | (0x7 << 76) | (0b10 << 62) | (uuid4().int & ((1 << 62) - 1)))


def write_log(database: Database, tenant: Tenant, time: datetime, reason: str = "a call", subject: str = "") -> LogRow:
    """Write a row of the log, as an action at that time does."""
    id = id_at(time)
    subject = subject or f"jobs/{id}"
    with psycopg.connect(database.app_url) as connection:
        _begin(connection, tenant)
        connection.execute(
            "INSERT INTO public.ae_action_log (tenant_id, id, source, action, subjects, outcome, started_at, latency,"
            " reason) VALUES (%s, %s, 'api', 'jobs.book', json_build_array(%s::text), 'succeeded', %s, 0.1, %s)",
            (tenant.id, id, subject, time, reason),
        )
        connection.execute("INSERT INTO public.ae_action_log_subjects VALUES (%s, %s, %s)", (tenant.id, subject, id))
        for word in reason.split():
            connection.execute("INSERT INTO public.ae_action_log_words VALUES (%s, %s, %s)", (tenant.id, word, id))
    return LogRow(id, subject)


def write_event(database: Database, tenant: Tenant, time: datetime, *, delivered: bool = False) -> int:
    """Write an event and its row of the outbox, as an action at that time does. Return the position."""
    with psycopg.connect(database.app_url) as connection:
        _begin(connection, tenant)
        found = connection.execute(
            "INSERT INTO public.ae_events (tenant_id, id, type, subject, payload, action, action_id, occurred_at,"
            " version) VALUES (%s, %s, 'jobs.booked', 'jobs/1', '{}', 'jobs.book', %s, %s, 1) RETURNING position",
            (tenant.id, id_at(time), id_at(time), time),
        ).fetchone()
        assert found is not None
        if not delivered:
            connection.execute(
                "INSERT INTO public.ae_outbox (tenant_id, position, lane) VALUES (%s, %s, 1)", (tenant.id, found[0])
            )
    return int(found[0])


def _begin(connection: psycopg.Connection, tenant: Tenant) -> None:
    connection.execute(
        "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', %s, true)",
        (str(tenant.id), str(uuid4())),
    )

"""A relay as one would write it by hand: psycopg and `FOR UPDATE SKIP LOCKED`, no library.

A transaction locks and reads a batch, hands it on, deletes it and commits: at least once, and several of them share the
work. (To delete and read in one statement is no faster.) It has no order of subjects, no attempts, no dead letters and
no lease, and it knows nothing of events that commit late. Its tables are plain ones with equal columns and as many
indexes, without row-level security; its statements are prepared, and their rows come in the binary format, which is
the faster one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from examples.embedded_postgres import APP_ROLE
from uuid_utils.compat import uuid7

from benchmarks import by_hand
from benchmarks.outbox import Backlog
from benchmarks.postgres import Bench

_TABLE = f"""
CREATE TABLE hand_outbox (
    tenant_id uuid NOT NULL,
    position bigint NOT NULL,
    lane bigint NOT NULL,
    PRIMARY KEY (tenant_id, position)
);
CREATE INDEX ON hand_outbox (position);
GRANT SELECT, INSERT, UPDATE, DELETE ON hand_outbox TO "{APP_ROLE}";
"""
_COPY = """
INSERT INTO hand_events OVERRIDING SYSTEM VALUE
SELECT *
FROM public.ae_events
WHERE tenant_id = %s
"""
_QUEUE = """
INSERT INTO hand_outbox (tenant_id, position, lane)
SELECT tenant_id, position, position
FROM hand_events
WHERE tenant_id = %s
ORDER BY position
LIMIT %s
"""

_TAKE = """
SELECT o.position, e.id, e.tenant_id, e.type, e.subject, e.payload::text, e.action, e.action_id, e.actor_type,
    e.actor_id, e.occurred_at, e.version
FROM hand_outbox o
JOIN hand_events e USING (tenant_id, position)
ORDER BY o.position
LIMIT %s
FOR UPDATE OF o SKIP LOCKED
"""
_FORGET = """
DELETE FROM hand_outbox
WHERE position = ANY(%s)
"""

_EMIT = """
WITH event AS (
    INSERT INTO hand_events (id, tenant_id, type, subject, payload, action, action_id, actor_type, actor_id,
        occurred_at, version)
    VALUES (%s, %s, 'payments.refund', %s, '{"job": "17", "amount": 50.0}', 'payments.refund', %s, 'human', 'clara', %s,
        1)
    RETURNING position, tenant_id
)
INSERT INTO hand_outbox (tenant_id, position, lane)
SELECT tenant_id, position, position
FROM event
"""

Publish = Callable[[list[tuple[Any, ...]]], object]


def make_tables(database: Bench) -> None:
    """The plain tables, which the app role may write to."""
    by_hand.make_tables(database)
    with psycopg.connect(database.owner_url) as connection:
        connection.execute(f'GRANT USAGE ON SEQUENCE hand_events_position_seq TO "{APP_ROLE}"; {_TABLE}')


def copy(backlog: Backlog) -> None:
    """The events of a backlog, in the plain table."""
    with psycopg.connect(backlog.database.superuser_url, autocommit=True) as connection:
        connection.execute(_COPY, (backlog.tenant,))
        connection.execute("VACUUM ANALYZE hand_events")


def queue(backlog: Backlog, events: int) -> None:
    """So many of them wait in the plain outbox."""
    with psycopg.connect(backlog.database.superuser_url, autocommit=True) as connection:
        connection.execute(_QUEUE, (backlog.tenant, events))
        connection.execute("VACUUM ANALYZE hand_outbox")


def drain(connection: psycopg.Connection, batch_size: int, publish: Publish) -> int:
    """Hand on what waits, on a connection of the relay's own: how many events."""
    done = 0
    while True:
        with connection.transaction():
            rows = connection.execute(_TAKE, (batch_size,), prepare=True, binary=True).fetchall()
            if not rows:
                return done
            publish(rows)
            connection.execute(_FORGET, ([row[0] for row in rows],), prepare=True)
        done += len(rows)


def emit(connection: psycopg.Connection, tenant: UUID, subject: str) -> None:
    """One event, with a notification."""
    with connection.transaction():
        parameters = (uuid7(), tenant, subject, uuid7(), datetime.now(UTC))
        connection.execute(_EMIT, parameters, prepare=True)
        connection.execute("NOTIFY hand_outbox", prepare=True)


def listen(url: str, publish: Publish, stopped: threading.Event) -> None:
    """Hand on what comes, until it is stopped: a connection that listens, and one that takes."""
    with psycopg.connect(url, autocommit=True) as listening, psycopg.connect(url, autocommit=True) as taking:
        listening.execute("LISTEN hand_outbox")
        while not stopped.is_set():
            drain(taking, 500, publish)
            for _ in listening.notifies(timeout=0.2, stop_after=1):
                pass

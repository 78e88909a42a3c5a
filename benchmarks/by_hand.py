"""A governed action as one would write it by hand: psycopg, five prepared statements in one transaction, no library.

Its tables have the columns and the indexes of ours, without row-level security, triggers, outbox or subjects. What is
computed outside the database is the least that such a row needs: the hash of the payload, ids, the time, JSON.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg
from examples.embedded_postgres import APP_ROLE
from pydantic_core import to_json
from uuid_utils.compat import uuid7

from benchmarks.postgres import AMOUNT, PERMISSION, Bench, Refund

_TABLES = ("keys", "documents", "events", "log")
_SOURCES = ("ae_idempotency_keys", "ae_documents", "ae_events", "ae_action_log")

_CLAIM = """
INSERT INTO hand_keys (tenant_id, action, key, fingerprint)
VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
_DOCUMENT = """
INSERT INTO hand_documents (tenant_id, collection, id, version, data, created_at, updated_at)
VALUES (%s, %s, %s, 1, %s, %s, %s)
"""
_REFUND = """
INSERT INTO bench_refunds (tenant_id, id, version, data)
VALUES (%s, %s, %s, %s)
"""
_EVENT = """
INSERT INTO hand_events (id, tenant_id, type, subject, payload, action, action_id, actor_type, actor_id, occurred_at,
    version)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1)
"""
_LOG = """
INSERT INTO hand_log (id, tenant_id, actor_type, actor_id, source, action, subjects, input, output, outcome, decision,
    started_at, latency, idempotency_key)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_RESULT = """
UPDATE hand_keys
SET result = %s, expires_at = %s
WHERE tenant_id = %s AND action = %s AND key = %s
"""

_ACTION = "payments.refund"
_TTL = timedelta(days=1)


def make_tables(database: Bench) -> None:
    """The plain tables, which the app role may write to."""
    with psycopg.connect(database.owner_url) as connection:
        for table, source in zip(_TABLES, _SOURCES, strict=True):
            connection.execute(
                f"CREATE TABLE hand_{table} (LIKE {source} INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING INDEXES)"
            )
            connection.execute(f'GRANT SELECT, INSERT, UPDATE ON hand_{table} TO "{APP_ROLE}"')


class Written:
    """Return the writes of one refund: a list of statements with their parameters, the claim first."""

    def __init__(self, tenant: UUID, key: str, core: bool) -> None:
        started, now = perf_counter(), datetime.now(UTC)
        data = Refund(job="17", amount=AMOUNT)
        encoded = to_json(data)
        payload, id, document = encoded.decode(), uuid7(), str(uuid7())
        self.claim = (tenant, _ACTION, key, sha256(encoded).hexdigest())
        self.business: tuple[str, tuple[Any, ...]] = (
            (_REFUND, (tenant, document, 1, payload))
            if core
            else (_DOCUMENT, (tenant, "refunds", document, payload, now, now))
        )
        result = to_json({"id": document, "job": data.job, "amount": data.amount}).decode()
        event = (uuid7(), tenant, PERMISSION, f"jobs/{data.job}", payload, _ACTION, id, "human", "clara", now)
        log = (id, tenant, "human", "clara", "http", _ACTION, "[]", payload, result, "succeeded", "role csr", now)
        self.rest: tuple[tuple[str, tuple[Any, ...]], ...] = (
            (_EVENT, event),
            (_LOG, (*log, perf_counter() - started, key)),
            (_RESULT, (result, now + _TTL, tenant, _ACTION, key)),
        )


def refund(connection: psycopg.Connection, tenant: UUID, key: str, core: bool = False) -> None:
    """One refund, on a connection of the worker's own."""
    written = Written(tenant, key, core)
    with connection.transaction():
        cursor = connection.cursor()
        if not cursor.execute(_CLAIM, written.claim, prepare=True).rowcount:
            raise AssertionError(f"the key {key} is taken")
        for statement, parameters in (written.business, *written.rest):
            cursor.execute(statement, parameters, prepare=True)


async def refund_async(connection: psycopg.AsyncConnection, tenant: UUID, key: str, core: bool = False) -> None:
    """The same."""
    written = Written(tenant, key, core)
    async with connection.transaction():
        cursor = connection.cursor()
        await cursor.execute(_CLAIM, written.claim, prepare=True)
        if not cursor.rowcount:
            raise AssertionError(f"the key {key} is taken")
        for statement, parameters in (written.business, *written.rest):
            await cursor.execute(statement, parameters, prepare=True)

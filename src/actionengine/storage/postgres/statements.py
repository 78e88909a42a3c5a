"""The statements of `PostgresStorage`.

Every name has its schema, because PostgreSQL could find others first: a handler's own SQL can make temporary tables and
types, and it can set the search path for functions and operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from actionengine.storage.outbox import EVENTS, TRIGGERS, WORKFLOWS
from actionengine.storage.postgres.driver import Statement
from actionengine.storage.rows import EmittedEvent, LogRow
from actionengine.storage.sql.action_log import (
    DRIVERS,
    EXACT_DRIVERS,
    count_statement,
    examined_columns,
    walk_statement,
)
from actionengine.storage.sql.documents import DocumentStatements
from actionengine.storage.sql.pages import PageQuery, postgres_page
from actionengine.storage.sql.rows import RowsDialect
from actionengine.storage.tables import Kind

BEGIN = {
    "READ COMMITTED": "BEGIN",
    "REPEATABLE READ": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "SERIALIZABLE": "BEGIN ISOLATION LEVEL SERIALIZABLE",
}


class Opening(NamedTuple):
    """The statements that open a unit of work: without a claim, and with one, and the same forms for `reserving`."""

    plain: str
    claiming: str
    plain_form: str
    claiming_form: str


# Settings are local to the transaction. The claim's row is read from them, so that they are made before it is inserted:
# its policy compares the tenant.
SETTINGS = """
    SELECT pg_catalog.set_config('app.tenant_id', %s, true),
        pg_catalog.set_config('app.action_id', %s, true)"""
BEGAN = "(pg_catalog.date_part('epoch', pg_catalog.now()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"
"""The time at which the transaction began, in microseconds: nothing else identifies it before it has written."""
CLOCK = BEGAN.replace("now", "clock_timestamp")
"""The time after a claim has waited for the lock of its key."""

OPEN = f"""
WITH context AS MATERIALIZED ({{settings}}{{timeout}}
){{reserved}}
SELECT {BEGAN}, public.ae_is_deleted(%s){{room}} FROM context
"""
OPEN_AND_CLAIM = f"""
WITH context AS MATERIALIZED ({{settings}},
        pg_catalog.current_setting('lock_timeout') AS lock_timeout,
        pg_catalog.set_config('lock_timeout', %s, true)
), claimed AS (
    INSERT INTO public.ae_idempotency_keys (tenant_id, action, key, fingerprint)
    SELECT %s, %s, %s, %s
    FROM context
    ON CONFLICT DO NOTHING
    RETURNING true
){{reserved}}
SELECT {BEGAN}, public.ae_is_deleted(%s), EXISTS (SELECT FROM claimed),
    pg_catalog.set_config('lock_timeout', (SELECT lock_timeout FROM context), true){{room}}, {CLOCK}
"""

CLAIM = """
SELECT status, result, approval_id, asked
FROM public.ae_claim(%s, %s, %s, %s, %s)
"""

# A reservation adds to a counter if there is room, or if its window is over: then another one begins. The time is the
# statement's, so that all its parts decide alike. The columns of a statement are evaluated in their order, so that
# counters are locked in that order, and after the claim.
_SUM = "ae_budget_counters.used OPERATOR(pg_catalog.+) excluded.used"
_IS_OVER = "ae_budget_counters.expires_at OPERATOR(pg_catalog.<=) pg_catalog.statement_timestamp()"
_RESERVED = f"""reserved_{{number}} AS (
    INSERT INTO public.ae_budget_counters (tenant_id, budget, scope, used, expires_at)
    SELECT %s::pg_catalog.uuid, %s, %s, %s::pg_catalog.numeric,
        pg_catalog.statement_timestamp() OPERATOR(pg_catalog.+) %s::pg_catalog.interval
    {{source}}
    ON CONFLICT (tenant_id, budget, scope) DO UPDATE
    SET used = CASE WHEN {_IS_OVER} THEN excluded.used ELSE {_SUM} END,
        expires_at = CASE WHEN {_IS_OVER} THEN excluded.expires_at ELSE ae_budget_counters.expires_at END
    WHERE {_SUM} OPERATOR(pg_catalog.<=) %s::pg_catalog.numeric OR {_IS_OVER}
    RETURNING true
)"""
_TIMEOUT = "pg_catalog.current_setting('lock_timeout') AS lock_timeout"
_LIMITED = """pg_catalog.set_config('lock_timeout', %s, true), {room},
    pg_catalog.set_config('lock_timeout', (SELECT lock_timeout FROM context), true)"""
READ_COUNTER = """
SELECT used::pg_catalog.text, expires_at
FROM public.ae_budget_counters
WHERE tenant_id OPERATOR(pg_catalog.=) %s AND budget OPERATOR(pg_catalog.=) %s AND scope OPERATOR(pg_catalog.=) %s
"""

LIMIT = "(SELECT %s::pg_catalog.int8)"
"""A limit whose value the planner does not know, so that it walks along an index in the wanted order. It expects few
rows of a tenant: if it knew that all of them were wanted, it would read all of them, and sort."""

_LISTED_DOCUMENTS = PageQuery(
    table="public.ae_documents",
    columns="id, version, data::pg_catalog.text, created_at, updated_at",
    keys=("id",),
    json=("data",),
    where="tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s{beyond}",
    order="{order}",
    limit=LIMIT,
)
_ADD_DOCUMENT = """
INSERT INTO public.ae_documents (tenant_id, collection, id, version, data, created_at, updated_at)
VALUES (%s, %s, %s, 1, %s, %s, %s)
"""
_GET_DOCUMENT = """
SELECT version, data::pg_catalog.text, created_at, updated_at
FROM public.ae_documents
WHERE tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s AND id OPERATOR(pg_catalog.=) %s
"""
DOCUMENTS = DocumentStatements(
    insert=f"{_ADD_DOCUMENT}ON CONFLICT DO NOTHING\nRETURNING version\n",
    add=_ADD_DOCUMENT,
    get=_GET_DOCUMENT,
    lock=f"{_GET_DOCUMENT}    AND version OPERATOR(pg_catalog.=) %s\nFOR NO KEY UPDATE\n",
    update="""
UPDATE public.ae_documents
SET version = version OPERATOR(pg_catalog.+) 1, data = %s, updated_at = %s
WHERE tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s AND id OPERATOR(pg_catalog.=) %s
    AND version OPERATOR(pg_catalog.=) %s
RETURNING created_at
""",
    delete="""
DELETE FROM public.ae_documents
WHERE tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s AND id OPERATOR(pg_catalog.=) %s
    AND version OPERATOR(pg_catalog.=) %s
RETURNING id
""",
    version="""
SELECT version
FROM public.ae_documents
WHERE tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s AND id OPERATOR(pg_catalog.=) %s
""",
    add_keys="""
INSERT INTO public.ae_document_keys (tenant_id, collection, id, key)
SELECT %s::pg_catalog.uuid, %s::pg_catalog.text, %s::pg_catalog.text, given.key
FROM pg_catalog.json_array_elements_text(%s::pg_catalog.json) given (key)
ON CONFLICT DO NOTHING
""",
    remove_keys="""
DELETE FROM public.ae_document_keys
WHERE tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s AND id OPERATOR(pg_catalog.=) %s
    AND NOT key OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT pg_catalog.json_array_elements_text(%s::pg_catalog.json)))
""",
    # The limits keep the join nested: a planner without statistics would read the collection, and hash it.
    find=postgres_page(
        PageQuery(
            table="""(
            SELECT key.id, document.version, document.data, document.created_at, document.updated_at
            FROM (
                SELECT id
                FROM public.ae_document_keys
                WHERE tenant_id OPERATOR(pg_catalog.=) %s AND key OPERATOR(pg_catalog.=) %s{beyond}
                ORDER BY {order}
                LIMIT (SELECT %s::pg_catalog.int8)
            ) key
            LEFT JOIN LATERAL (
                SELECT version, data, created_at, updated_at
                FROM public.ae_documents
                WHERE tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s
                    AND id OPERATOR(pg_catalog.=) key.id
                LIMIT 1
            ) document ON true
        ) listed""",
            columns="id, version, data::pg_catalog.text, created_at, updated_at",
            keys=("id",),
            json=("data",),
            where="true",
            order="{order}",
            limit="ALL",
        )
    ),
    get_all=postgres_page(
        _LISTED_DOCUMENTS._replace(
            where="tenant_id OPERATOR(pg_catalog.=) %s AND collection OPERATOR(pg_catalog.=) %s AND\n"
            "    id OPERATOR(pg_catalog.=) ANY(ARRAY(SELECT pg_catalog.json_array_elements_text(%s::pg_catalog.json)))",
            order="id",
            limit="ALL",
        )
    ),
)
LIST_DOCUMENTS = postgres_page(_LISTED_DOCUMENTS)

# An index finds candidates by containment; the comparison field by field decides.
FIND_DOCUMENTS = postgres_page(
    _LISTED_DOCUMENTS._replace(
        where=f"""{_LISTED_DOCUMENTS.where}
    AND data::pg_catalog.jsonb OPERATOR(pg_catalog.@>) %s::pg_catalog.jsonb
    AND (
        SELECT pg_catalog.bool_and(
            data::pg_catalog.jsonb OPERATOR(pg_catalog.->) wanted.key OPERATOR(pg_catalog.=) wanted.value
        )
        FROM pg_catalog.jsonb_each(%s::pg_catalog.jsonb) wanted
    )"""
    )
)

_TYPES: dict[Kind, str] = {
    "text": "pg_catalog.text",
    "integer": "pg_catalog.int4",
    "boolean": "pg_catalog.bool",
    "json": "pg_catalog.json",
    "time": "pg_catalog.timestamptz",
}
# The lock does not cover the key: rows that refer to this one can be added meanwhile.
ROWS = RowsDialect(
    schema="public",
    mark="%s",
    tenant="%s::pg_catalog.uuid",
    rows="pg_catalog.json_to_recordset(%s::pg_catalog.json OPERATOR(pg_catalog.->) 'rows') AS r ({columns})",
    column={kind: f"{{name}} {type}" for kind, type in _TYPES.items()},
    given=dict.fromkeys(_TYPES, "r.{name}"),
    read={**dict.fromkeys(_TYPES, "{name}"), "json": "{name}::pg_catalog.text"},
    any_of={
        kind: f"{{name}} OPERATOR(pg_catalog.=) ANY(ARRAY(\n"
        f"        SELECT pg_catalog.json_array_elements_text(%s::pg_catalog.json)::{type}\n    ))"
        for kind, type in _TYPES.items()
    },
    lock="\nFOR NO KEY UPDATE",
    operator="OPERATOR(pg_catalog.{})",
    sorted="{}",
    limit=LIMIT,
    count="pg_catalog.count(*)",
    page=postgres_page,
)

# The first step of a page of the action log, for each column that it can walk along, for a subject, a principal and a
# word. The limits make each part a walk along an index, whatever the planner knows.
FIND_LOG = {column: walk_statement("public.ae_action_log", ROWS, column) for column in (None, *EXACT_DRIVERS, *DRIVERS)}
FIND_LOG_OF_SUBJECT = f"""
SELECT subjects.log_id, {examined_columns(ROWS, "log.")}
FROM (
    SELECT s.log_id
    FROM public.ae_action_log_subjects s
    WHERE s.tenant_id OPERATOR(pg_catalog.=) %s AND s.subject OPERATOR(pg_catalog.=) %s
        AND s.log_id OPERATOR(pg_catalog.<) %s AND s.log_id OPERATOR(pg_catalog.>=) %s
    ORDER BY s.log_id DESC
    LIMIT {LIMIT}
) subjects
LEFT JOIN LATERAL (
    SELECT *
    FROM public.ae_action_log l
    WHERE l.tenant_id OPERATOR(pg_catalog.=) %s AND l.id OPERATOR(pg_catalog.=) subjects.log_id
    LIMIT 1
) log ON true
ORDER BY subjects.log_id DESC
"""
FIND_LOG_OF_PRINCIPAL = FIND_LOG_OF_SUBJECT.replace("subject", "principal")
FIND_LOG_OF_WORD = FIND_LOG_OF_SUBJECT.replace("subject", "word")
FIND_LOG_BESIDE = {"subject": FIND_LOG_OF_SUBJECT, "principal": FIND_LOG_OF_PRINCIPAL, "word": FIND_LOG_OF_WORD}
"""The statements that find rows of the log through a table beside it."""
COUNT_LOG = {
    **{column: count_statement("public.ae_action_log", ROWS, column) for column in (*EXACT_DRIVERS, *DRIVERS)},
    **{name: count_statement(f"public.ae_action_log_{name}s", ROWS, name, "log_id") for name in FIND_LOG_BESIDE},
}
"""The statements that count the rows of a walk, each from its index."""
LOG_WITH_WORD = """
SELECT wanted.id
FROM pg_catalog.unnest(%s::pg_catalog.uuid[]) wanted (id), LATERAL (
    SELECT
    FROM public.ae_action_log_words w
    WHERE w.tenant_id OPERATOR(pg_catalog.=) %s AND w.word OPERATOR(pg_catalog.=) %s
        AND w.log_id OPERATOR(pg_catalog.=) wanted.id
    LIMIT 1
) found
"""
LOG_WITH_SUBJECT = LOG_WITH_WORD.replace("word", "subject")
LOG_WITH = {"subject": LOG_WITH_SUBJECT, "word": LOG_WITH_WORD}
"""The statements that find those of several rows that have a value in a table beside the log."""

# The second step.
_LOGGED = PageQuery(
    table="""(
            SELECT log.*
            FROM pg_catalog.unnest(%s::pg_catalog.uuid[]) wanted (id), LATERAL (
                SELECT *
                FROM public.ae_action_log l
                WHERE l.tenant_id OPERATOR(pg_catalog.=) %s AND l.id OPERATOR(pg_catalog.=) wanted.id
                LIMIT 1
            ) log
        ) log""",
    columns="id, parent_id, tenant_id, actor_type, actor_id, approved_by, approval_id, source, reason, action,\n"
    "    subjects::pg_catalog.text, input::pg_catalog.text, output::pg_catalog.text, outcome,\n"
    "    error::pg_catalog.text, decision, started_at, latency, idempotency_key, request_id, model,\n"
    "    prompt_version, input_tokens, output_tokens, cost_usd, on_behalf_of::pg_catalog.text",
    keys=("id",),
    json=("input", "output", "error"),
    where="true",
    order="id DESC",
    limit="ALL",
)
READ_LOG = postgres_page(_LOGGED)
READ_LOG_UPWARDS = postgres_page(_LOGGED._replace(order="id"))


def _linked(table: str, column: str, type: str, columns: str, key: str) -> str:
    """Return the statement that finds rows by any of the values of a column: so many of each, and of all."""
    named = ", ".join(f"l.{name}" for name in columns.split(", "))
    return f"""
SELECT next.*
FROM pg_catalog.unnest(%s::pg_catalog.{type}[]) wanted (value), LATERAL (
    SELECT {named}
    FROM public.{table} l
    WHERE l.tenant_id OPERATOR(pg_catalog.=) %s AND l.{column} OPERATOR(pg_catalog.=) wanted.value
    ORDER BY l.{key}
    LIMIT {LIMIT}
) next
ORDER BY next.{key}
LIMIT {LIMIT}
"""


FIND_LINKED = {
    "parent_id": _linked("ae_action_log", "parent_id", "uuid", "id", "id"),
    "approval_id": _linked("ae_action_log", "approval_id", "text", "id", "id"),
    "request_id": _linked("ae_action_log", "request_id", "text", "id", "id"),
    "subject": _linked("ae_action_log_subjects", "subject", "text", "log_id", "log_id"),
}
"""The statements that find the ids of rows of the log by any of several values of a column."""
FIND_EMITTED = {
    "id": _linked("ae_events", "id", "uuid", ", ".join(EmittedEvent._fields), "id"),
    "action_id": _linked("ae_events", "action_id", "uuid", ", ".join(EmittedEvent._fields), "position"),
}
"""The statements that find events by any of several values of a column."""

_LISTED_EVENTS = PageQuery(
    table="public.ae_events",
    columns="position, id, tenant_id, type, subject, payload::pg_catalog.text, action, action_id, actor_type,\n"
    "    actor_id, occurred_at, version, on_behalf_of::pg_catalog.text, chain::pg_catalog.text",
    keys=("position",),
    json=("payload",),
    where="tenant_id OPERATOR(pg_catalog.=) %s AND position OPERATOR(pg_catalog.>) %s\n"
    "            AND position OPERATOR(pg_catalog.<=) %s",
    order="position",
    limit=LIMIT,
)
READ_EVENTS = postgres_page(_LISTED_EVENTS)

COUNT_EVENTS = f"""
SELECT pg_catalog.count(*)
FROM (
    SELECT
    FROM public.ae_events
    WHERE tenant_id OPERATOR(pg_catalog.=) %s AND position OPERATOR(pg_catalog.>) %s
        AND position OPERATOR(pg_catalog.<=) %s
    ORDER BY position
    LIMIT {LIMIT}
) found
"""
COUNT_EVENTS_OF_TYPES = f"""
SELECT pg_catalog.count(*)
FROM (
    SELECT
    FROM pg_catalog.unnest(%s::pg_catalog.text[]) wanted (type), LATERAL (
        SELECT
        FROM public.ae_events e
        WHERE e.tenant_id OPERATOR(pg_catalog.=) %s AND e.type OPERATOR(pg_catalog.=) wanted.type
            AND e.position OPERATOR(pg_catalog.>) %s AND e.position OPERATOR(pg_catalog.<=) %s
        ORDER BY e.position
        LIMIT {LIMIT}
    ) next
    LIMIT {LIMIT}
) found
"""

# The next positions of each type, then the first of all these: no other events are read, even if the last event of a
# type was long ago. The limits make each part a walk along an index, whatever the planner knows.
READ_EVENTS_OF_TYPES = postgres_page(
    _LISTED_EVENTS._replace(
        table=f"""(
            SELECT e.*
            FROM (
                SELECT next.position
                FROM pg_catalog.unnest(%s::pg_catalog.text[]) wanted (type), LATERAL (
                    SELECT e.position
                    FROM public.ae_events e
                    WHERE e.tenant_id OPERATOR(pg_catalog.=) %s AND e.type OPERATOR(pg_catalog.=) wanted.type
                        AND e.position OPERATOR(pg_catalog.>) %s AND e.position OPERATOR(pg_catalog.<=) %s
                    ORDER BY e.position
                    LIMIT {LIMIT}
                ) next
                ORDER BY next.position
                LIMIT {LIMIT}
            ) next, LATERAL (
                SELECT *
                FROM public.ae_events e
                WHERE e.tenant_id OPERATOR(pg_catalog.=) %s AND e.position OPERATOR(pg_catalog.=) next.position
                LIMIT 1
            ) e
        ) e""",
        where="true",
    )
)

LAST_POSITION = """
SELECT coalesce(pg_catalog.max(position), 0)
FROM public.ae_events
WHERE tenant_id OPERATOR(pg_catalog.=) %s
"""


def _row(*types: str) -> str:
    return f"({', '.join(f'%s::pg_catalog.{type}' for type in types)})"


# Positions are taken after the lock, which tells readers that events up to here may not be committed yet. A sleeping
# relay holds another lock (see `outbox`). It is woken only then, since notifications make all commits of the database
# queue.
_HORIZON = """horizon AS MATERIALIZED (
    SELECT pg_catalog.pg_advisory_xact_lock_shared(
        (1634034944::bigint OPERATOR(pg_catalog.<<) 32)
            OPERATOR(pg_catalog.+) coalesce(pg_catalog.pg_sequence_last_value('public.ae_event_position'), 0)
    ){wakes}
)"""
_WAKE = """,
        CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock_shared(1634037602, {lock})
            THEN pg_catalog.pg_notify('{channel}', '') END"""
SLEEP_LOCKS = {EVENTS: 64, WORKFLOWS: 192, TRIGGERS: 320}
"""The locks of sleeping relays. A queue's 64 locks of partitions precede its own; `ae_outbox_take` names them too."""
CHANNELS = {EVENTS: "ae_outbox", WORKFLOWS: "ae_outbox_workflows", TRIGGERS: "ae_outbox_triggers"}
"""The channels that sleeping relays listen to; `ae_redrive` and `ae_skip` name them too."""

_LOG = """log AS (
    INSERT INTO public.ae_action_log (id, parent_id, tenant_id, actor_type, actor_id, approved_by, approval_id, source,
        reason, action, subjects, input, output, outcome, error, decision, started_at, latency, idempotency_key,
        request_id, model, prompt_version, input_tokens, output_tokens, cost_usd, on_behalf_of)
    VALUES {rows}
    RETURNING tenant_id, id, subjects, on_behalf_of
), subjects AS (
    INSERT INTO public.ae_action_log_subjects (tenant_id, subject, log_id)
    SELECT log.tenant_id, subject.name, log.id
    FROM log, pg_catalog.json_array_elements_text(log.subjects) subject (name)
    ON CONFLICT DO NOTHING
)"""
_PRINCIPALS = """principals AS (
    INSERT INTO public.ae_action_log_principals (tenant_id, principal, log_id)
    SELECT log.tenant_id, principal.name, log.id
    FROM log, pg_catalog.json_array_elements_text(log.on_behalf_of) principal (name)
    ON CONFLICT DO NOTHING
)"""
# The words of all reasons, each with the id of its row. They differ, and so do the ids.
_WORDS = """words AS (
    INSERT INTO public.ae_action_log_words (tenant_id, word, log_id)
    SELECT %s::pg_catalog.uuid, word.name, word.log_id
    FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.text[]), pg_catalog.unnest(%s::pg_catalog.uuid[]))
        word (name, log_id)
)"""
_LOG_ROW = f"({', '.join(['%s'] * len(LogRow._fields))})"
_EVENTS = """events AS (
    INSERT INTO public.ae_events (id, tenant_id, type, subject, payload, action, action_id, actor_type, actor_id,
        occurred_at, version, on_behalf_of, chain)
    SELECT event.*
    FROM horizon, (VALUES {rows}) event
    RETURNING tenant_id, position, id, subject, type
), outbox AS (
    INSERT INTO public.ae_outbox (tenant_id, position, lane{queue})
    SELECT tenant_id, position,
        pg_catalog.hashtextextended(coalesce(subject, id::pg_catalog.text), pg_catalog.uuid_hash_extended(tenant_id, 0))
            OPERATOR(pg_catalog.&) 9223372036854775807{name}
    FROM events{queues}
)"""
_QUEUES = """, (
        SELECT 'events' AS name, NULL::pg_catalog.text[] AS types
        {routes}
    ) queue
    WHERE queue.types IS NULL OR events.type OPERATOR(pg_catalog.=) ANY(queue.types)"""
_EVENT_ROW = _row(
    "uuid", "uuid", "text", "text", "json", "text", "uuid", "text", "text", "timestamptz", "int4", "json", "json"
)
# A key that has already expired when it is written expires now: a purge looks for no earlier ones (see ae_purge_keys).
_RESULTS = """results AS (
    UPDATE public.ae_idempotency_keys used
    SET fingerprint = new.fingerprint, result = new.result, approval_id = new.approval_id,
        expires_at = greatest(new.expires_at, pg_catalog.clock_timestamp()), asked = new.asked
    FROM (VALUES {rows}) new (tenant_id, action, key, fingerprint, result, approval_id, expires_at, asked)
    WHERE used.tenant_id OPERATOR(pg_catalog.=) new.tenant_id AND used.action OPERATOR(pg_catalog.=) new.action
        AND used.key OPERATOR(pg_catalog.=) new.key
    RETURNING true
)"""
# Each result updates the row of its claimed key. If a row is missing, the cast to a number fails, and nothing is
# written.
LOST_KEY = "ae_lost_key"
_CHECK_RESULTS = f"""
SELECT CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) {{results}} THEN 0
    ELSE pg_catalog.concat('{LOST_KEY}', pg_catalog.count(*))::pg_catalog.int4 END
FROM results"""
_RESULT_ROW = _row("uuid", "text", "text", "text", "text", "text", "timestamptz", "text")

MAX_ROWS = 200
"""Rows in one recording statement; it has at most 65,535 parameters. More of them take several statements."""

# SQL of a handler can run later: deferred triggers and the queries of held cursors run at COMMIT. So the triggers run
# first; then the library checks the transaction, closes cursors and drops temporary objects. Only statements of the
# library follow: they write what was recorded, and commit. SQL can also prepare statements under the library's names,
# so that the statements here are not prepared.

SETTLE: Statement = ("SET CONSTRAINTS ALL IMMEDIATE", ())
"""The statement that runs before the last check of the transaction."""

CHECK_TRANSACTION = "SELECT public.ae_check_transaction(%s)"
"""The check. It fails (`IS_TAMPERED`) if the transaction is not the one that began at that time, or holds what it must
not."""

IS_TAMPERED = "AE005"

# SQL can also leave a role, settings and locks in a connection, and without the check cursors and temporary objects.
CLEAN: list[Statement] = [
    (statement, ())
    for statement in (
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",
        "UNLISTEN *",
        "SELECT pg_catalog.pg_advisory_unlock_all()",
        "DISCARD SEQUENCES",
    )
]
CLEAN_UNCHECKED: list[Statement] = [("CLOSE ALL", ()), *CLEAN, ("DISCARD TEMP", ())]

LEFT_BEHIND: Statement = ("SELECT by_sql, by_driver FROM public.ae_left_behind()", ())
"""A check of the connection after that: it finds out if SQL has replaced one of the statements before it."""


def opening_statements(settings: Sequence[str], read_only: bool, signed: bool) -> Opening:
    """Return the statements that open a unit of work, with these settings in addition to the usual ones.

    For a context that is signed, the parameters are tenant, action, mode and signature.
    """
    made = ",\n        pg_catalog.set_config('app.signature', public.ae_open(%s, %s, %s, %s), true)" if signed else ""
    made += "".join(f",\n        pg_catalog.set_config('{name}', %s, true)" for name in settings)
    if read_only:
        made += ",\n        pg_catalog.set_config('transaction_read_only', 'on', true)"
    forms = [
        form.replace("{settings}", SETTINGS + made).replace("{{", "{").replace("}}", "}")
        for form in (OPEN, OPEN_AND_CLAIM)
    ]
    return Opening(*(form.format(timeout="", reserved="", room="") for form in forms), *forms)


@lru_cache(maxsize=64)
def reserve_statement(number: int) -> str:
    """Return the statement that makes so many reservations. Its columns are as in `reserving`."""
    reserved = _reserved(number, "FROM context")
    return f"WITH context AS MATERIALIZED (SELECT {_TIMEOUT}), {reserved}\nSELECT {_room(number)}"


@lru_cache(maxsize=64)
def reserving(form: str, number: int, source: str) -> str:
    """Return a statement that opens a unit of work and makes so many reservations: one each for a row of `source`,
    which is `context` or `claimed`.

    The parameters of the reservations come before the last one, which is followed by the limit of their wait. Their
    columns are the last, but for the time after a claim: for each whether there was room, between two others.
    """
    reserved = f", {_reserved(number, f'FROM {source}')}"
    return form.format(timeout=f",\n        {_TIMEOUT}", reserved=reserved, room=f", {_room(number)}")


def _reserved(number: int, source: str) -> str:
    return ", ".join(_RESERVED.format(number=each, source=source) for each in range(number))


def _room(number: int) -> str:
    room = ", ".join(f"EXISTS (SELECT FROM reserved_{each})" for each in range(number))
    return _LIMITED.format(room=room)


@lru_cache(maxsize=256)
def record_statement(
    log: int,
    events: int,
    results: int,
    routes: tuple[str, ...] = (),
    has_principals: bool = False,
    has_words: bool = False,
) -> str:
    """Return the statement that writes so many log rows, events with their outbox rows, and idempotent results. Its
    parameters after the rows of the log are the tenant and the words with their ids, if there are any, and after the
    events the types that go into each of the queues."""
    parts: list[str] = []
    if events:
        wakes = [_WAKE.format(lock=SLEEP_LOCKS[queue], channel=CHANNELS[queue]) for queue in (EVENTS, *routes)]
        parts.append(_HORIZON.format(wakes="".join(wakes)))
    if log:
        parts.append(_LOG.format(rows=", ".join([_LOG_ROW] * log)))
    if has_words:
        parts.append(_WORDS)
    if has_principals:
        parts.append(_PRINCIPALS)
    if events:
        rows = ", ".join([_EVENT_ROW] * events)
        into = "\n        ".join(f"UNION ALL SELECT '{queue}', %s::pg_catalog.text[]" for queue in routes)
        queues = {"queue": ", queue", "name": ", queue.name", "queues": _QUEUES.format(routes=into)} if routes else {}
        parts.append(_EVENTS.format_map({"queue": "", "name": "", "queues": "", **queues, "rows": rows}))
    if results:
        parts.append(_RESULTS.format(rows=", ".join([_RESULT_ROW] * results)))
    return f"WITH {', '.join(parts)}" + (_CHECK_RESULTS.format(results=results) if results else "\nSELECT")


TENANT_OUTBOX = "SELECT queue, pending, waiting, held, dead, skipped, oldest FROM public.ae_tenant_outbox()"
TENANT_DEAD_LETTERS = """
SELECT attempts, reason, dead_at, skipped, id, tenant_id, type, subject, payload, action, action_id, actor_type,
    actor_id, occurred_at, version, on_behalf_of
FROM public.ae_tenant_dead_letters(%s, %s, %s, %s)
"""
TENANT_REDRIVE = "SELECT id FROM public.ae_tenant_redrive(%s, %s) AS id"
TENANT_SKIP = "SELECT id FROM public.ae_tenant_skip(%s, %s, %s) AS id"
TENANT_RETURN = "SELECT public.ae_tenant_return(%s)"

"""The statements of `SQLiteStorage`. Every name has its schema, because SQLite would find a temporary table of a
handler's own SQL first."""

from __future__ import annotations

from actionengine.storage.lookups import ACTIVE_SCHEDULES
from actionengine.storage.outbox import RelayHeartbeat
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.rows import EmittedEvent, EventRow, LogRow
from actionengine.storage.sql.action_log import (
    DRIVERS,
    EXACT_DRIVERS,
    count_statement,
    examined_columns,
    walk_statement,
)
from actionengine.storage.sql.documents import DocumentStatements
from actionengine.storage.sql.pages import PageQuery, sqlite_bytes, sqlite_page
from actionengine.storage.sql.rows import RowsDialect
from actionengine.storage.tables import Kind

_LISTED_DOCUMENTS = PageQuery(
    table="main.ae_documents",
    columns="id, version, data, created_at, updated_at",
    keys=("id",),
    json=("data",),
    where="tenant_id = ? AND collection = ?{beyond}",
    order="{order}",
    limit="?",
)
_ADD_DOCUMENT = """
INSERT INTO main.ae_documents (tenant_id, collection, id, version, data, created_at, updated_at)
VALUES (?, ?, ?, 1, ?, ?, ?)
"""
_GET_DOCUMENT = """
SELECT version, data, created_at, updated_at
FROM main.ae_documents
WHERE tenant_id = ? AND collection = ? AND id = ?
"""
DOCUMENTS = DocumentStatements(
    insert=f"{_ADD_DOCUMENT}ON CONFLICT DO NOTHING\nRETURNING version\n",
    add=_ADD_DOCUMENT,
    get=_GET_DOCUMENT,
    # There is one writer at a time: no row need be locked.
    lock=f"{_GET_DOCUMENT}    AND version = ?\n",
    update="""
UPDATE main.ae_documents
SET version = version + 1, data = ?, updated_at = ?
WHERE tenant_id = ? AND collection = ? AND id = ? AND version = ?
RETURNING created_at
""",
    delete="""
DELETE FROM main.ae_documents
WHERE tenant_id = ? AND collection = ? AND id = ? AND version = ?
RETURNING id
""",
    version="""
SELECT version
FROM main.ae_documents
WHERE tenant_id = ? AND collection = ? AND id = ?
""",
    add_keys="""
INSERT INTO main.ae_document_keys (tenant_id, collection, id, key)
SELECT ?, ?, ?, value FROM json_each(?) WHERE true
ON CONFLICT DO NOTHING
""",
    remove_keys="""
DELETE FROM main.ae_document_keys
WHERE tenant_id = ? AND collection = ? AND id = ? AND key NOT IN (SELECT value FROM json_each(?))
""",
    # A window copies its rows, so that the documents of the page are read again, by their rowids.
    find=f"""
SELECT page.id, document.version, document.data, document.created_at, document.updated_at, page.bytes
FROM (
    SELECT id, id_of_row, bytes, sum(bytes) OVER (ORDER BY {{order}} ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
    FROM (
        SELECT key.id AS id, document.rowid AS id_of_row,
            coalesce({sqlite_bytes("document.data")}, 0) AS bytes
        FROM (
            SELECT id
            FROM main.ae_document_keys
            WHERE tenant_id = ? AND key = ?{{beyond}}
            ORDER BY {{order}}
            LIMIT ?
        ) key
        LEFT JOIN main.ae_documents document
            ON document.tenant_id = ? AND document.collection = ? AND document.id = key.id
    )
) page
LEFT JOIN main.ae_documents document ON document.rowid = page.id_of_row
WHERE page.bytes_before < {MAX_PAGE_BYTES}
ORDER BY page.{{order}}
""",
    get_all=sqlite_page(
        _LISTED_DOCUMENTS._replace(
            where="tenant_id = ? AND collection = ? AND id IN (SELECT value FROM json_each(?))", order="id", limit="-1"
        )
    ),
)

LIST_DOCUMENTS = sqlite_page(_LISTED_DOCUMENTS)

_KINDS: tuple[Kind, ...] = ("text", "integer", "boolean", "json", "time")
# There is one writer at a time: no row need be locked.
ROWS = RowsDialect(
    schema="main",
    mark="?",
    tenant="?",
    rows="json_each(?, '$.rows') AS r",
    column=dict.fromkeys(_KINDS, ""),
    given={
        **dict.fromkeys(_KINDS, "r.value ->> '{name}' AS {name}"),
        "json": "nullif(r.value -> '{name}', 'null') AS {name}",
    },
    read=dict.fromkeys(_KINDS, "{name}"),
    any_of=dict.fromkeys(_KINDS, "{name} IN (SELECT value FROM json_each(?))"),
    lock="",
    operator="{}",
    sorted="+{}",
    limit="?",
    count="count(*)",
    page=sqlite_page,
)

CLAIM = """
INSERT INTO main.ae_idempotency_keys (tenant_id, action, key, fingerprint, expires_at)
VALUES (?, ?, ?, ?, '')
ON CONFLICT DO NOTHING
RETURNING true
"""

READ_KEY = """
SELECT fingerprint, result, approval_id, expires_at, asked
FROM main.ae_idempotency_keys
WHERE tenant_id = ? AND action = ? AND key = ?
"""

WRITE_KEY = """
UPDATE main.ae_idempotency_keys
SET fingerprint = ?, result = ?, approval_id = ?, expires_at = ?, asked = ?
WHERE tenant_id = ? AND action = ? AND key = ?
RETURNING true
"""

READ_COUNTER = """
SELECT used, expires_at
FROM main.ae_budget_counters
WHERE tenant_id = ? AND budget = ? AND scope = ?
"""

WRITE_COUNTER = """
INSERT INTO main.ae_budget_counters (tenant_id, budget, scope, used, expires_at)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant_id, budget, scope) DO UPDATE
SET used = excluded.used, expires_at = excluded.expires_at
"""

CREATE_TENANT = """
INSERT INTO main.ae_tenants (tenant_id, slug, name, created_at)
VALUES (?, ?, ?, ?)
ON CONFLICT DO NOTHING
RETURNING slug
"""

FIND_TENANT = """
SELECT tenant_id
FROM main.ae_tenants
WHERE slug = ? AND deleted_at IS NULL
"""

FIND_TENANT_BY_ID = """
SELECT slug
FROM main.ae_tenants
WHERE tenant_id = ? AND deleted_at IS NULL
"""

DELETE_TENANT = """
UPDATE main.ae_tenants
SET deleted_at = ?
WHERE slug = ? AND deleted_at IS NULL
RETURNING slug
"""

LIST_TENANTS = """
SELECT tenant_id, slug
FROM main.ae_tenants
WHERE deleted_at IS NULL AND slug > ?
ORDER BY slug
LIMIT ?
"""

IS_DELETED = """
SELECT true
FROM main.ae_tenants
WHERE tenant_id = ? AND deleted_at IS NOT NULL
"""

# The number of temporary tables, which would be found before ours, and of attached files.
LEFTOVERS = """
SELECT (SELECT count(*) FROM temp.sqlite_master)
    + (SELECT count(*) FROM pragma_database_list WHERE name NOT IN ('main', 'temp'))
"""

# Both are counted along an index that holds only open approvals, or active schedules.
BACKLOG = f"""
SELECT
    count(*),
    min(id),
    (
        SELECT count(*)
        FROM (SELECT 1 FROM main.ae_document_keys WHERE key = '{ACTIVE_SCHEDULES}' LIMIT ?)
    )
FROM (
    SELECT id
    FROM main.ae_document_keys
    WHERE key >= 'ae_approvals/open_until:' AND key < 'ae_approvals/open_until;' AND key > ?
    ORDER BY key
    LIMIT ?
)
"""

PURGE_KEYS = """
DELETE FROM main.ae_idempotency_keys
WHERE (tenant_id, action, key) IN (
    SELECT tenant_id, action, key
    FROM main.ae_idempotency_keys
    WHERE expires_at <= ?
    ORDER BY expires_at
    LIMIT ?
)
RETURNING key
"""

PURGE_COUNTERS = """
DELETE FROM main.ae_budget_counters
WHERE (tenant_id, budget, scope) IN (
    SELECT tenant_id, budget, scope
    FROM main.ae_budget_counters
    WHERE expires_at <= ?
    ORDER BY expires_at
    LIMIT ?
)
RETURNING budget
"""

_LOG_COLUMNS = ", ".join(LogRow._fields)
WRITE_LOG = f"""
INSERT INTO main.ae_action_log ({_LOG_COLUMNS})
VALUES ({", ".join("?" * len(LogRow._fields))})
"""
WRITE_SUBJECT = """
INSERT INTO main.ae_action_log_subjects (tenant_id, subject, log_id)
VALUES (?, ?, ?)
ON CONFLICT DO NOTHING
"""
WRITE_PRINCIPAL = WRITE_SUBJECT.replace("subject", "principal")
WRITE_WORD = WRITE_SUBJECT.replace("subject", "word")
# The first step of a page of the action log, for each column that it can walk along, for a subject, a principal and a
# word.
FIND_LOG = {column: walk_statement("main.ae_action_log", ROWS, column) for column in (None, *EXACT_DRIVERS, *DRIVERS)}
FIND_LOG_OF_SUBJECT = f"""
SELECT subjects.log_id, {examined_columns(ROWS, "log.")}
FROM (
    SELECT s.log_id
    FROM main.ae_action_log_subjects s
    WHERE s.tenant_id = ? AND s.subject = ? AND s.log_id < ? AND s.log_id >= ?
    ORDER BY s.log_id DESC
    LIMIT ?
) subjects
LEFT JOIN main.ae_action_log log ON log.tenant_id = ? AND log.id = subjects.log_id
ORDER BY subjects.log_id DESC
"""
FIND_LOG_OF_PRINCIPAL = FIND_LOG_OF_SUBJECT.replace("subject", "principal")
FIND_LOG_OF_WORD = FIND_LOG_OF_SUBJECT.replace("subject", "word")
FIND_LOG_BESIDE = {"subject": FIND_LOG_OF_SUBJECT, "principal": FIND_LOG_OF_PRINCIPAL, "word": FIND_LOG_OF_WORD}
"""The statements that find rows of the log through a table beside it."""
COUNT_LOG = {
    **{column: count_statement("main.ae_action_log", ROWS, column) for column in (*EXACT_DRIVERS, *DRIVERS)},
    **{name: count_statement(f"main.ae_action_log_{name}s", ROWS, name, "log_id") for name in FIND_LOG_BESIDE},
}
"""The statements that count the rows of a walk, each from its index."""
LOG_WITH_WORD = """
SELECT log_id
FROM main.ae_action_log_words
WHERE tenant_id = ? AND word = ? AND log_id IN (SELECT value FROM json_each(?))
"""
LOG_WITH_SUBJECT = LOG_WITH_WORD.replace("word", "subject")
LOG_WITH = {"subject": LOG_WITH_SUBJECT, "word": LOG_WITH_WORD}
"""The statements that find those of several rows that have a value in a table beside the log."""

# The second step.
_LOGGED = PageQuery(
    table="main.ae_action_log",
    columns=_LOG_COLUMNS,
    keys=("id",),
    json=("input", "output", "error"),
    where="tenant_id = ? AND id IN (SELECT value FROM json_each(?))",
    order="id DESC",
    limit="?",
)
READ_LOG = sqlite_page(_LOGGED)
READ_LOG_UPWARDS = sqlite_page(_LOGGED._replace(order="id"))


def _linked(table: str, column: str, columns: str, key: str) -> str:
    """Return the statement that finds rows by any of the values of a column: so many of each, and of all."""
    named = ", ".join(f"l.{name}" for name in columns.split(", "))
    return f"""
SELECT {named}
FROM json_each(?) wanted
CROSS JOIN main.{table} l ON l.tenant_id = ? AND l.{key} IN (
    SELECT next.{key}
    FROM main.{table} next
    WHERE next.tenant_id = ? AND next.{column} = wanted.value
    ORDER BY next.{key}
    LIMIT ?
)
ORDER BY l.{key}
LIMIT ?
"""


FIND_LINKED = {
    "parent_id": _linked("ae_action_log", "parent_id", "id", "id"),
    "approval_id": _linked("ae_action_log", "approval_id", "id", "id"),
    "request_id": _linked("ae_action_log", "request_id", "id", "id"),
    # Its rows are found by the value and the id together.
    "subject": _linked("ae_action_log_subjects", "subject", "log_id", "log_id").replace(
        "l.tenant_id = ? AND", "l.tenant_id = ? AND l.subject = wanted.value AND"
    ),
}
"""The statements that find the ids of rows of the log by any of several values of a column."""
FIND_EMITTED = {
    "id": _linked("ae_events", "id", ", ".join(EmittedEvent._fields), "id"),
    "action_id": _linked("ae_events", "action_id", ", ".join(EmittedEvent._fields), "position"),
}
"""The statements that find events by any of several values of a column."""

_EVENT_COLUMNS = ", ".join(EventRow._fields)
WRITE_EVENT = f"""
INSERT INTO main.ae_events ({_EVENT_COLUMNS})
VALUES ({", ".join("?" * len(EventRow._fields))})
"""
_LISTED_EVENTS = PageQuery(
    table="main.ae_events",
    columns=f"position, {_EVENT_COLUMNS}",
    keys=("position",),
    json=("payload",),
    where="tenant_id = ? AND position > ?",
    order="position",
    limit="?",
)
READ_EVENTS = sqlite_page(_LISTED_EVENTS)

# The next positions of each type, then the first of all these: no other events are read, even if the last event of a
# type was long ago.
READ_EVENTS_OF_TYPES = sqlite_page(
    _LISTED_EVENTS._replace(
        where="""position IN (
                SELECT e.position
                FROM json_each(?) wanted
                CROSS JOIN main.ae_events e ON e.position IN (
                    SELECT next.position
                    FROM main.ae_events next
                    WHERE next.tenant_id = ? AND next.type = wanted.value AND next.position > ?
                    ORDER BY next.position
                    LIMIT ?
                )
            )"""
    )
)

COUNT_EVENTS = """
SELECT count(*)
FROM (
    SELECT 1
    FROM main.ae_events
    WHERE tenant_id = ? AND position > ?
    ORDER BY position
    LIMIT ?
)
"""
COUNT_EVENTS_OF_TYPES = """
SELECT count(*)
FROM (
    SELECT 1
    FROM json_each(?) wanted
    CROSS JOIN main.ae_events e ON e.tenant_id = ? AND e.type = wanted.value AND e.position > ?
    LIMIT ?
)
"""

LAST_POSITION = """
SELECT coalesce(max(position), 0)
FROM main.ae_events
WHERE tenant_id = ?
"""

# The outbox. An event is due if no earlier one of its lane waits for another attempt, is a dead letter, or is held back
# itself. A row belongs to the event at its position if both have the same tenant: a handler's own SQL can add rows for
# its tenant. The plus sign makes SQLite search the index of held events by lane, and not the primary key by tenant,
# where a relay would read every dead letter of the tenant for each event.

_EVENT_OF_OUTBOX = ", ".join(f"e.{column}" for column in EventRow._fields)
WRITE_OUTBOX = """
INSERT INTO main.ae_outbox (tenant_id, position, lane, queue)
VALUES (?, last_insert_rowid(), ?, ?)
"""
_IS_HELD = """EXISTS (
        SELECT 1
        FROM main.ae_outbox before
        WHERE before.queue = o.queue AND before.lane = o.lane AND +before.tenant_id = o.tenant_id
            AND before.position < o.position AND NOT before.skipped
            AND (before.dead_at IS NOT NULL OR before.due_at IS NOT NULL OR before.held)
            AND (before.dead_at IS NOT NULL OR before.due_at > ? OR before.held)
    )"""
# The event whose payload reaches the bytes of a page is the last one. A window copies its rows, so that the payloads
# are read again for the page.
READ_OUTBOX = f"""
SELECT due.lane, due.due_at, due.attempts, due.position, {_EVENT_OF_OUTBOX}
FROM (
    SELECT lane, due_at, attempts, position, tenant_id,
        sum(bytes) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
    FROM (
        SELECT o.lane, o.due_at, o.attempts, o.position, o.tenant_id, length(CAST(e.payload AS BLOB)) AS bytes
        FROM main.ae_outbox o
        JOIN main.ae_events e ON e.position = o.position AND e.tenant_id = o.tenant_id
        WHERE o.queue = ? AND o.dead_at IS NULL AND NOT o.held AND (o.due_at IS NULL OR o.due_at <= ?)
            AND NOT {_IS_HELD}
        ORDER BY o.position
        LIMIT ?
    )
) due
CROSS JOIN main.ae_events e ON e.position = due.position AND e.tenant_id = due.tenant_id
WHERE due.bytes_before < {MAX_PAGE_BYTES}
ORDER BY due.position
"""
NEXT_DUE = """
SELECT min(due_at)
FROM main.ae_outbox
WHERE queue = ? AND dead_at IS NULL AND due_at > ?
"""
# The events that are held back, among the pending ones up to a position. These are few if everything due is delivered.
# An event that waits itself is not marked: most lanes have one such event at most.
_BEHIND = f"""
FROM main.ae_outbox o
WHERE o.queue = ? AND o.dead_at IS NULL AND NOT o.held AND o.position <= ? AND (o.due_at IS NULL OR o.due_at <= ?)
    AND {_IS_HELD}
"""
IS_BEHIND = f"SELECT 1 {_BEHIND} LIMIT 1"
HOLD = f"""
UPDATE main.ae_outbox
SET held = 1
WHERE (tenant_id, position, queue) IN (SELECT o.tenant_id, o.position, o.queue {_BEHIND})
"""
# The events of `first` hold back nothing any more, or are being delivered. Up to a hundred events behind each lose
# their mark, up to and including the next one that waits, or up to a dead letter. They get a due_at in the past
# instead, so that the events behind them lose their marks when these are taken or delivered.
_RELEASE = """
UPDATE main.ae_outbox
SET held = 0, due_at = coalesce(due_at, ?)
WHERE (tenant_id, position, queue) IN (
    SELECT o.tenant_id, o.position, o.queue
    FROM ({first}) first
    CROSS JOIN main.ae_outbox o ON o.tenant_id = first.tenant_id AND o.queue = first.queue AND o.position IN (
        SELECT next.position
        FROM (
            SELECT few.position, few.held,
                total(few.dead_at IS NOT NULL OR few.due_at > ?) OVER (
                    ORDER BY few.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS holding
            FROM (
                SELECT lane.position, lane.held, lane.dead_at, lane.due_at
                FROM main.ae_outbox lane
                WHERE lane.queue = first.queue AND lane.lane = first.lane AND +lane.tenant_id = first.tenant_id
                    AND lane.position > first.position AND NOT lane.skipped
                    AND (lane.dead_at IS NOT NULL OR lane.due_at IS NOT NULL OR lane.held)
                ORDER BY lane.position
                LIMIT 100
            ) few
        ) next
        WHERE next.held AND next.holding = 0
    )
)
RETURNING position
"""
RELEASE = _RELEASE.format(
    first="""
        SELECT CAST(value ->> 0 AS TEXT) AS tenant_id, CAST(value ->> 1 AS INTEGER) AS lane,
            CAST(value ->> 2 AS INTEGER) AS position, CAST(value ->> 3 AS TEXT) AS queue
        FROM json_each(?)"""
)
DELETE_DELIVERED = """
DELETE FROM main.ae_outbox
WHERE (tenant_id, position, queue) IN (
    SELECT CAST(value ->> 0 AS TEXT), CAST(value ->> 1 AS INTEGER), CAST(value ->> 2 AS TEXT) FROM json_each(?)
)
"""
RECORD_FAILURE = """
UPDATE main.ae_outbox
SET attempts = attempts + ?, reason = ?, due_at = ?, dead_at = ?, event_id = ?
WHERE tenant_id = ? AND position = ? AND queue = ? AND dead_at IS NULL
"""
READ_LEASE = """
SELECT pid, owner
FROM main.ae_relay_lease
WHERE queue = ? AND owner <> ? AND until > ?
"""
LEASE = """
INSERT INTO main.ae_relay_lease (queue, owner, pid, until)
VALUES (?, ?, ?, ?)
ON CONFLICT (queue) DO UPDATE
SET owner = excluded.owner, pid = excluded.pid, until = excluded.until
WHERE until <= ? OR owner IN (?, ?)
RETURNING owner
"""
HAS_LEASE = """
SELECT 1
FROM main.ae_relay_lease
WHERE queue = ? AND owner = ?
"""
RELEASE_LEASE = """
DELETE FROM main.ae_relay_lease
WHERE queue = ? AND owner = ?
"""
DELETE_STALE_RELAYS = """
DELETE FROM main.ae_relays
WHERE seen_at < ?
"""
WRITE_HEARTBEAT = f"""
INSERT INTO main.ae_relays ({", ".join(RelayHeartbeat._fields)})
VALUES ({", ".join("?" * len(RelayHeartbeat._fields))})
ON CONFLICT (id) DO UPDATE
SET seen_at = excluded.seen_at, delivered = excluded.delivered, failed = excluded.failed, rate = excluded.rate,
    error = excluded.error
"""
READ_RELAYS = f"""
SELECT {", ".join(RelayHeartbeat._fields)}
FROM main.ae_relays
WHERE queue = ? AND seen_at > ?
ORDER BY started_at
"""
_OLDEST = """
        SELECT *
        FROM (
            SELECT e.occurred_at
            FROM main.ae_outbox o
            JOIN main.ae_events e ON e.position = o.position AND e.tenant_id = o.tenant_id
            WHERE o.queue = ?1 AND {which}
            ORDER BY o.position
            LIMIT 1
        )"""
# SQLite would choose the index that also has the skipped ones.
_UNSKIPPED = "INDEXED BY ae_outbox_unskipped"
_COUNT = "(SELECT count(*) FROM (SELECT 1 FROM main.ae_outbox o {index} WHERE o.queue = ?1 AND {which} LIMIT ?3))"
# Each number is counted up to the third parameter.
OUTBOX_STATUS = f"""
SELECT {_COUNT.format(index="", which="o.dead_at IS NULL AND NOT o.held")},
    {_COUNT.format(index="", which="o.dead_at IS NULL AND o.due_at > ?2")},
    {_COUNT.format(index=_UNSKIPPED, which="o.dead_at IS NOT NULL AND NOT o.skipped")},
    {_COUNT.format(index="", which="o.skipped")},
    {_COUNT.format(index="", which="o.held")},
    (
        SELECT min(occurred_at)
        FROM ({_OLDEST.format(which="o.dead_at IS NULL AND NOT o.held")} UNION ALL {_OLDEST.format(which="o.held")})
    )
"""
DEAD_LETTERS = f"""
SELECT o.attempts, o.reason, o.dead_at, o.skipped, {_EVENT_OF_OUTBOX}
FROM main.ae_outbox o
JOIN main.ae_events e ON e.position = o.position AND e.tenant_id = o.tenant_id
WHERE o.queue = ? AND o.dead_at IS NOT NULL AND o.event_id > ?
ORDER BY o.event_id
LIMIT ?
"""
_REDRIVE = """
UPDATE main.ae_outbox {index}
SET attempts = 0, due_at = ?, dead_at = NULL, skipped = 0, event_id = NULL, held = 0
WHERE queue = ? AND dead_at IS NOT NULL AND {which}
RETURNING position
"""
_RETURN = """
        SELECT dead.tenant_id, dead.lane, dead.position, dead.queue
        FROM main.ae_outbox dead {index}
        WHERE dead.queue = ? AND dead.dead_at IS NOT NULL AND {which}
"""
REDRIVE_ALL = _REDRIVE.format(index=_UNSKIPPED, which="NOT skipped")
RETURN_ALL = _RELEASE.format(first=_RETURN.format(index=_UNSKIPPED, which="NOT dead.skipped"))
_THESE = "event_id IN (SELECT value FROM json_each(?))"
REDRIVE = _REDRIVE.format(index="", which=_THESE)
RETURN = _RELEASE.format(first=_RETURN.format(index="", which=f"dead.{_THESE}"))
SKIP = f"""
UPDATE main.ae_outbox
SET skipped = 1, reason = reason || ?
WHERE queue = ? AND dead_at IS NOT NULL AND NOT skipped AND {_THESE}
RETURNING position
"""

# The same for one tenant, in its unit of work.

_TENANT_COUNT = """(
        SELECT count(*)
        FROM (
            SELECT 1
            FROM main.ae_outbox o {index}
            WHERE o.tenant_id = ?1 AND o.queue = ?2 AND {which}
            LIMIT ?4
        )
    )"""
_TENANT_OLDEST = """
        SELECT *
        FROM (
            SELECT o.position
            FROM {rows} o
            WHERE o.tenant_id = ?1 AND o.queue = ?2 AND {which}
            ORDER BY o.position
            LIMIT 1
        )"""
# The rows among which pending events are found, the oldest ones first.
_EXAMINED = """(
            SELECT *
            FROM main.ae_outbox
            WHERE tenant_id = ?1 AND queue = ?2
            ORDER BY position
            LIMIT ?5
        )"""
_IS_FREE = "o.dead_at IS NULL AND NOT o.held"
TENANT_OUTBOX = f"""
SELECT
    (SELECT count(*) FROM {_EXAMINED} o WHERE {_IS_FREE}),
    {_TENANT_COUNT.format(index="INDEXED BY ae_outbox_tenant_waiting", which="o.dead_at IS NULL AND o.due_at > ?3")},
    {_TENANT_COUNT.format(index="INDEXED BY ae_outbox_tenant_behind", which="o.held")},
    {_TENANT_COUNT.format(index=_UNSKIPPED, which="o.dead_at IS NOT NULL AND NOT o.skipped")},
    {_TENANT_COUNT.format(index="INDEXED BY ae_outbox_skipped", which="o.skipped")},
    (
        SELECT e.occurred_at
        FROM main.ae_events e
        WHERE e.tenant_id = ?1 AND e.position = (
            SELECT min(position)
            FROM ({_TENANT_OLDEST.format(rows=_EXAMINED, which=_IS_FREE)}
                UNION ALL {_TENANT_OLDEST.format(rows="main.ae_outbox", which="o.held")})
        )
    )
"""
_TENANT_LETTERS = """
            SELECT *
            FROM (
                SELECT o.attempts, o.reason, o.dead_at, o.skipped, o.tenant_id, o.position, o.event_id
                FROM main.ae_outbox o {index}
                WHERE o.queue = ?1 AND o.tenant_id = ?2 AND o.event_id > ?3 AND {which}
                ORDER BY o.event_id
                LIMIT ?4
            )"""
# The event whose payload reaches the bytes of a page is the last one.
TENANT_DEAD_LETTERS = f"""
SELECT page.attempts, page.reason, page.dead_at, page.skipped, {_EVENT_OF_OUTBOX}
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY event_id ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
    FROM (
        SELECT o.*, {sqlite_bytes("e.payload")} AS bytes
        FROM ({_TENANT_LETTERS.format(index=_UNSKIPPED, which="o.dead_at IS NOT NULL AND NOT o.skipped")}
            UNION ALL {_TENANT_LETTERS.format(index="INDEXED BY ae_outbox_skipped", which="o.skipped AND ?5")}
            ORDER BY event_id
            LIMIT ?4
        ) o
        CROSS JOIN main.ae_events e ON e.position = o.position AND e.tenant_id = o.tenant_id
    )
) page
CROSS JOIN main.ae_events e ON e.position = page.position AND e.tenant_id = page.tenant_id
WHERE page.bytes_before < {MAX_PAGE_BYTES}
ORDER BY page.event_id
"""
TENANT_DEAD = """
SELECT o.event_id
FROM main.ae_outbox o
WHERE o.queue = ? AND o.dead_at IS NOT NULL AND o.event_id IN (SELECT value FROM json_each(?)) AND o.tenant_id = ?
    AND o.skipped <= ?
ORDER BY o.event_id
"""

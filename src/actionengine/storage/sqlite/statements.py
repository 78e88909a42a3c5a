"""What `SQLiteStorage` says to the database. Everything is named with its schema: a handler's own SQL can make
temporary tables, which would otherwise stand before ours."""

from __future__ import annotations

from actionengine.storage.port import EventRow, LogRow
from actionengine.storage.sql.documents import DocumentStatements

DOCUMENTS = DocumentStatements(
    insert="""
INSERT INTO main.ae_documents (tenant_id, collection, id, version, data, created_at, updated_at)
VALUES (?, ?, ?, 1, ?, ?, ?)
ON CONFLICT DO NOTHING
RETURNING version
""",
    get="""
SELECT version, data, created_at, updated_at
FROM main.ae_documents
WHERE tenant_id = ? AND collection = ? AND id = ?
""",
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
)

LIST_DOCUMENTS = """
SELECT id, version, data, created_at, updated_at
FROM main.ae_documents
WHERE tenant_id = ? AND collection = ? AND id > ?
ORDER BY id
LIMIT ?
"""

CLAIM = """
INSERT INTO main.ae_idempotency_keys (tenant_id, action, key, fingerprint, expires_at)
VALUES (?, ?, ?, ?, '')
ON CONFLICT DO NOTHING
RETURNING true
"""

READ_KEY = """
SELECT fingerprint, result, approval_id, expires_at
FROM main.ae_idempotency_keys
WHERE tenant_id = ? AND action = ? AND key = ?
"""

WRITE_KEY = """
UPDATE main.ae_idempotency_keys
SET fingerprint = ?, result = ?, approval_id = ?, expires_at = ?
WHERE tenant_id = ? AND action = ? AND key = ?
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

DELETE_TENANT = """
UPDATE main.ae_tenants
SET deleted_at = ?
WHERE slug = ? AND deleted_at IS NULL
RETURNING slug
"""

LIST_TENANTS = """
SELECT tenant_id, slug
FROM main.ae_tenants
WHERE deleted_at IS NULL
ORDER BY slug
"""

IS_DELETED = """
SELECT true
FROM main.ae_tenants
WHERE tenant_id = ? AND deleted_at IS NOT NULL
"""

# Temporary tables, which would stand before ours, and other files.
LEFTOVERS = """
SELECT (SELECT count(*) FROM temp.sqlite_master)
    + (SELECT count(*) FROM pragma_database_list WHERE name NOT IN ('main', 'temp'))
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
READ_LOG = f"""
SELECT {_LOG_COLUMNS}
FROM main.ae_action_log
WHERE tenant_id = ?{{conditions}}
ORDER BY id DESC
LIMIT ?
"""

_EVENT_COLUMNS = ", ".join(EventRow._fields)
WRITE_EVENT = f"""
INSERT INTO main.ae_events ({_EVENT_COLUMNS})
VALUES ({", ".join("?" * len(EventRow._fields))})
"""
READ_EVENTS = f"""
SELECT position, {_EVENT_COLUMNS}
FROM main.ae_events
WHERE tenant_id = ? AND position > ?
    AND (? IS NULL OR type IN (SELECT value FROM json_each(?)))
ORDER BY position
LIMIT ?
"""

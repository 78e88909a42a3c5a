-- Tables and triggers of actionengine on SQLite. Ids are UUIDs as text, times are text in UTC (ISO 8601, microseconds).
--
-- ae_writing_tenant() is a function that each connection of a storage brings: the tenant of its running action. Other
-- programs have no such function, and so cannot write.

CREATE TABLE ae_tenants (
    tenant_id  TEXT NOT NULL PRIMARY KEY,
    slug       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    deleted_at TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE ae_documents (
    tenant_id  TEXT    NOT NULL,
    collection TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    data       TEXT    NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, collection, id)
) STRICT;

CREATE TABLE ae_idempotency_keys (
    tenant_id   TEXT NOT NULL,
    action      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    result      TEXT,
    approval_id TEXT,
    expires_at  TEXT NOT NULL,
    PRIMARY KEY (tenant_id, action, key)
) STRICT;
CREATE INDEX ae_idempotency_keys_expiry ON ae_idempotency_keys (expires_at);

CREATE TABLE ae_action_log (
    tenant_id       TEXT NOT NULL,
    id              TEXT NOT NULL,
    parent_id       TEXT,
    actor_type      TEXT,
    actor_id        TEXT,
    approved_by     TEXT,
    approval_id     TEXT,
    source          TEXT NOT NULL,
    reason          TEXT,
    action          TEXT NOT NULL,
    subjects        TEXT NOT NULL,
    input           TEXT,
    output          TEXT,
    outcome         TEXT NOT NULL,
    error           TEXT,
    decision        TEXT,
    started_at      TEXT NOT NULL,
    latency         REAL NOT NULL,
    idempotency_key TEXT,
    request_id      TEXT,
    model           TEXT,
    prompt_version  TEXT,
    input_tokens    INTEGER,
    output_tokens   INTEGER,
    cost_usd        REAL,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX ae_action_log_actor ON ae_action_log (tenant_id, actor_id, id);
CREATE INDEX ae_action_log_action ON ae_action_log (tenant_id, action, id);

CREATE TABLE ae_action_log_subjects (
    tenant_id TEXT NOT NULL,
    subject   TEXT NOT NULL,
    log_id    TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject, log_id)
) STRICT, WITHOUT ROWID;

-- There is one writer at a time, so that positions grow in commit order.

CREATE TABLE ae_events (
    position    INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id   TEXT NOT NULL,
    id          TEXT NOT NULL,
    type        TEXT NOT NULL,
    subject     TEXT,
    payload     TEXT NOT NULL,
    action      TEXT NOT NULL,
    action_id   TEXT NOT NULL,
    actor_type  TEXT,
    actor_id    TEXT,
    occurred_at TEXT NOT NULL,
    version     INTEGER NOT NULL
) STRICT;
CREATE INDEX ae_events_tenant ON ae_events (tenant_id, position);

-- Events that are still to be delivered. Those of a tenant's subject have the same lane, a hash, and keep their order. A
-- failed attempt makes an event wait until due_at, the last one makes it a dead letter; both hold back what comes after
-- them in their lane, until an operator has skipped a dead one.

CREATE TABLE ae_outbox (
    tenant_id TEXT    NOT NULL,
    position  INTEGER NOT NULL,
    lane      INTEGER NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    due_at    TEXT,
    reason    TEXT,
    dead_at   TEXT,
    skipped   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX ae_outbox_pending ON ae_outbox (position) WHERE dead_at IS NULL;
CREATE INDEX ae_outbox_held ON ae_outbox (lane, position)
    WHERE NOT skipped AND (dead_at IS NOT NULL OR due_at IS NOT NULL);

-- One relay at a time delivers what is in a file, as long as its process lives and its lease runs.

CREATE TABLE ae_relay_lease (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    owner TEXT    NOT NULL,
    pid   INTEGER NOT NULL,
    until TEXT    NOT NULL
) STRICT;

-- What relays tell of themselves.

CREATE TABLE ae_relays (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    publisher  TEXT    NOT NULL,
    started_at TEXT    NOT NULL,
    seen_at    TEXT    NOT NULL,
    delivered  INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    rate       REAL    NOT NULL,
    error      TEXT
) STRICT;

CREATE TRIGGER ae_documents_insert BEFORE INSERT ON ae_documents
WHEN new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_documents outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_documents_update BEFORE UPDATE ON ae_documents
WHEN old.tenant_id IS NOT ae_writing_tenant() OR new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_documents outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_documents_delete BEFORE DELETE ON ae_documents
WHEN old.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_documents outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_action_log_insert BEFORE INSERT ON ae_action_log
WHEN new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_action_log outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_action_log_update BEFORE UPDATE ON ae_action_log
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_action_log: it is append-only');
END;
CREATE TRIGGER ae_action_log_delete BEFORE DELETE ON ae_action_log
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_action_log: it is append-only');
END;
CREATE TRIGGER ae_events_insert BEFORE INSERT ON ae_events
WHEN new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_events outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_events_update BEFORE UPDATE ON ae_events
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_events: it is append-only');
END;
CREATE TRIGGER ae_events_delete BEFORE DELETE ON ae_events
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_events: it is append-only');
END;

CREATE TRIGGER ae_idempotency_keys_insert BEFORE INSERT ON ae_idempotency_keys
WHEN new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_idempotency_keys outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_idempotency_keys_update BEFORE UPDATE ON ae_idempotency_keys
WHEN old.tenant_id IS NOT ae_writing_tenant() OR new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_idempotency_keys outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_action_log_subjects_insert BEFORE INSERT ON ae_action_log_subjects
WHEN new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_action_log_subjects outside an action of its tenant: go through the engine');
END;
CREATE TRIGGER ae_action_log_subjects_update BEFORE UPDATE ON ae_action_log_subjects
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_action_log_subjects: it is append-only');
END;
CREATE TRIGGER ae_action_log_subjects_delete BEFORE DELETE ON ae_action_log_subjects
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_action_log_subjects: it is append-only');
END;
CREATE TRIGGER ae_outbox_insert BEFORE INSERT ON ae_outbox
WHEN new.tenant_id IS NOT ae_writing_tenant()
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_outbox outside an action of its tenant: go through the engine');
END;

-- What an operator does is done outside any action: the directory of tenants, the purge of keys, the delivery of events.

CREATE TRIGGER ae_idempotency_keys_delete BEFORE DELETE ON ae_idempotency_keys
WHEN ae_writing_tenant() IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_idempotency_keys in an action: keys expire');
END;
CREATE TRIGGER ae_outbox_update BEFORE UPDATE ON ae_outbox
WHEN ae_writing_tenant() IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_outbox in an action: events are delivered by the relay');
END;
CREATE TRIGGER ae_outbox_delete BEFORE DELETE ON ae_outbox
WHEN ae_writing_tenant() IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_outbox in an action: events are delivered by the relay');
END;
CREATE TRIGGER ae_tenants_insert BEFORE INSERT ON ae_tenants
WHEN ae_writing_tenant() IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'INSERT on ae_tenants in an action: tenants are made by an operator');
END;
CREATE TRIGGER ae_tenants_update BEFORE UPDATE ON ae_tenants
WHEN ae_writing_tenant() IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on ae_tenants in an action: tenants are changed by an operator');
END;
CREATE TRIGGER ae_tenants_delete BEFORE DELETE ON ae_tenants
WHEN ae_writing_tenant() IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'DELETE on ae_tenants in an action: tenants are deleted by an operator');
END;

-- Which version of all this the database has.

CREATE TABLE ae_schema (
    version INTEGER NOT NULL
) STRICT;
INSERT INTO ae_schema VALUES (1);

-- Tables and triggers of actionengine on SQLite. Ids are UUIDs as text, times are text in UTC (ISO 8601, microseconds).
--
-- ae_writing_tenant() returns the tenant of the running action. Each connection of a storage defines this function;
-- other programs do not have it, and so cannot write.

CREATE TABLE ae_tenants (
    tenant_id  TEXT NOT NULL PRIMARY KEY,
    slug       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    deleted_at TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX ae_tenants_open ON ae_tenants (slug) WHERE deleted_at IS NULL;

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

-- The keys by which documents of the library's own collections are looked up: see actionengine.storage.lookups.

CREATE TABLE ae_document_keys (
    tenant_id  TEXT NOT NULL,
    collection TEXT NOT NULL,
    id         TEXT NOT NULL,
    key        TEXT NOT NULL,
    PRIMARY KEY (tenant_id, collection, id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX ae_document_keys_key ON ae_document_keys (tenant_id, key, id);

-- For operators, over all tenants: the open approvals, by the end of their time, and the active schedules.

CREATE INDEX ae_document_keys_open ON ae_document_keys (key, id)
    WHERE key >= 'ae_approvals/open_until:' AND key < 'ae_approvals/open_until;';
CREATE INDEX ae_document_keys_schedules ON ae_document_keys (id)
    WHERE key = 'ae_triggers/status,type:["active","schedule"]';

CREATE TABLE ae_idempotency_keys (
    tenant_id   TEXT NOT NULL,
    action      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    result      TEXT,
    approval_id TEXT,
    expires_at  TEXT NOT NULL,
    asked       TEXT,
    PRIMARY KEY (tenant_id, action, key)
) STRICT;
CREATE INDEX ae_idempotency_keys_expiry ON ae_idempotency_keys (expires_at);

-- The amounts that budgets have counted in a window, as decimal numbers, until it ends.

CREATE TABLE ae_budget_counters (
    tenant_id  TEXT NOT NULL,
    budget     TEXT NOT NULL,
    scope      TEXT NOT NULL,
    used       TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    PRIMARY KEY (tenant_id, budget, scope)
) STRICT, WITHOUT ROWID;
CREATE INDEX ae_budget_counters_expiry ON ae_budget_counters (expires_at);

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
    outcome         TEXT NOT NULL,
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
    on_behalf_of    TEXT,
    -- Last, so that the other columns are read without reading these.
    input           TEXT,
    output          TEXT,
    error           TEXT,
    PRIMARY KEY (tenant_id, id)
) STRICT;
CREATE INDEX ae_action_log_actor ON ae_action_log (tenant_id, actor_id, id);
CREATE INDEX ae_action_log_action ON ae_action_log (tenant_id, action, id);
CREATE INDEX ae_action_log_outcome ON ae_action_log (tenant_id, outcome, id);
CREATE INDEX ae_action_log_actor_type ON ae_action_log (tenant_id, actor_type, id);
-- Most rows have none of these, so that they add nothing to an ordinary action.
CREATE INDEX ae_action_log_parent ON ae_action_log (tenant_id, parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX ae_action_log_approval ON ae_action_log (tenant_id, approval_id, id) WHERE approval_id IS NOT NULL;
CREATE INDEX ae_action_log_request ON ae_action_log (tenant_id, request_id, id) WHERE request_id IS NOT NULL;
CREATE INDEX ae_action_log_key ON ae_action_log (tenant_id, idempotency_key, id) WHERE idempotency_key IS NOT NULL;

CREATE TABLE ae_action_log_subjects (
    tenant_id TEXT NOT NULL,
    subject   TEXT NOT NULL,
    log_id    TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject, log_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE ae_action_log_principals (
    tenant_id TEXT NOT NULL,
    principal TEXT NOT NULL,
    log_id    TEXT NOT NULL,
    PRIMARY KEY (tenant_id, principal, log_id)
) STRICT, WITHOUT ROWID;

-- The executions for each word of their reasons.

CREATE TABLE ae_action_log_words (
    tenant_id TEXT NOT NULL,
    word      TEXT NOT NULL,
    log_id    TEXT NOT NULL,
    PRIMARY KEY (tenant_id, word, log_id)
) STRICT, WITHOUT ROWID;

-- There is one writer at a time, so positions grow in commit order.

CREATE TABLE ae_events (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id    TEXT NOT NULL,
    id           TEXT NOT NULL,
    type         TEXT NOT NULL,
    subject      TEXT,
    payload      TEXT NOT NULL,
    action       TEXT NOT NULL,
    action_id    TEXT NOT NULL,
    actor_type   TEXT,
    actor_id     TEXT,
    occurred_at  TEXT NOT NULL,
    version      INTEGER NOT NULL,
    on_behalf_of TEXT,
    chain        TEXT
) STRICT;
CREATE INDEX ae_events_tenant ON ae_events (tenant_id, position);
CREATE INDEX ae_events_type ON ae_events (tenant_id, type, position);
CREATE INDEX ae_events_id ON ae_events (tenant_id, id);
CREATE INDEX ae_events_action ON ae_events (tenant_id, action_id, position);

-- The events that are not delivered yet, with a row for each of their queues: the host's ('events'), and those of
-- workflows. The events of a tenant's subject have the same lane, a hash, and keep their order. After a failed attempt
-- an event waits until due_at; after the last one it is a dead letter. Both hold back the later events of their lane in
-- the queue, until an operator skips the dead letter. A relay marks an event that is held back (held), so that later
-- looks do not read it. A marked event holds back later ones too. The marks are removed in parts, beginning with the
-- first.

CREATE TABLE ae_outbox (
    tenant_id TEXT    NOT NULL,
    position  INTEGER NOT NULL,
    lane      INTEGER NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    due_at    TEXT,
    reason    TEXT,
    dead_at   TEXT,
    skipped   INTEGER NOT NULL DEFAULT 0,
    queue     TEXT    NOT NULL DEFAULT 'events',
    event_id  TEXT,
    held      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, queue, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX ae_outbox_pending ON ae_outbox (queue, position) WHERE dead_at IS NULL AND NOT held;
CREATE INDEX ae_outbox_held ON ae_outbox (queue, lane, position)
    WHERE NOT skipped AND (dead_at IS NOT NULL OR due_at IS NOT NULL OR held);
-- The indexes of operators' queries: how many events there are, and since when.
CREATE INDEX ae_outbox_behind ON ae_outbox (queue, position) WHERE held;
CREATE INDEX ae_outbox_waiting ON ae_outbox (queue, due_at) WHERE dead_at IS NULL AND due_at IS NOT NULL;
CREATE INDEX ae_outbox_unskipped ON ae_outbox (queue, tenant_id, event_id) WHERE dead_at IS NOT NULL AND NOT skipped;
CREATE INDEX ae_outbox_skipped ON ae_outbox (queue, tenant_id, event_id) WHERE skipped;
CREATE INDEX ae_outbox_tenant_behind ON ae_outbox (tenant_id, queue, position) WHERE held;
CREATE INDEX ae_outbox_tenant_waiting ON ae_outbox (tenant_id, queue, due_at)
    WHERE dead_at IS NULL AND due_at IS NOT NULL;
-- A dead letter has the id of its event, which operators use to name it.
CREATE INDEX ae_outbox_dead ON ae_outbox (queue, event_id) WHERE dead_at IS NOT NULL;

-- One relay at a time delivers a queue, as long as its process lives and its lease has not run out.

CREATE TABLE ae_relay_lease (
    queue TEXT    NOT NULL PRIMARY KEY,
    owner TEXT    NOT NULL,
    pid   INTEGER NOT NULL,
    until TEXT    NOT NULL
) STRICT;

-- The heartbeats of relays.

CREATE TABLE ae_relays (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    publisher  TEXT    NOT NULL,
    started_at TEXT    NOT NULL,
    seen_at    TEXT    NOT NULL,
    delivered  INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    rate       REAL    NOT NULL,
    error      TEXT,
    queue      TEXT    NOT NULL
) STRICT;

-- What operators have removed: who, when, why, and how much.

CREATE TABLE ae_maintenance (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        TEXT    NOT NULL,
    actor     TEXT    NOT NULL,
    reason    TEXT,
    operation TEXT    NOT NULL,
    target    TEXT    NOT NULL,
    details   TEXT    NOT NULL
) STRICT;

-- Change control. Constraints enforce its rules where they can, and have the rule's id in their name. Triggers enforce
-- the rest, and begin their message with that id.

CREATE TABLE ae_projects (
    tenant_id      TEXT    NOT NULL,
    id             TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    description    TEXT,
    require_review INTEGER NOT NULL CHECK (require_review IN (0, 1)),
    created_at     TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_projects_d4_name UNIQUE (tenant_id, name)
) STRICT;

-- base_version is the newest version whose whole schema a snapshot keeps (1: initial_schema); bytes_since_base are the
-- bytes of the ops since then. Later schemas are replayed from it.

CREATE TABLE ae_record_types (
    tenant_id        TEXT    NOT NULL,
    id               TEXT    NOT NULL,
    project_id       TEXT    NOT NULL,
    key              TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    description      TEXT,
    base_type        TEXT,
    schema           TEXT    NOT NULL,
    initial_schema   TEXT    NOT NULL,
    version          INTEGER NOT NULL,
    status           TEXT    NOT NULL,
    changed_by       TEXT,
    created_at       TEXT    NOT NULL,
    updated_at       TEXT    NOT NULL,
    base_version     INTEGER NOT NULL DEFAULT 1,
    bytes_since_base INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_record_types_d1_project FOREIGN KEY (tenant_id, project_id) REFERENCES ae_projects (tenant_id, id),
    CONSTRAINT ae_record_types_d3_key UNIQUE (tenant_id, project_id, key),
    CONSTRAINT ae_record_types_d4_name UNIQUE (tenant_id, name),
    CONSTRAINT ae_record_types_p6_base_type
        FOREIGN KEY (tenant_id, project_id, base_type) REFERENCES ae_record_types (tenant_id, project_id, key),
    CONSTRAINT ae_record_types_p6_not_its_own_base CHECK (base_type <> key),
    CONSTRAINT ae_record_types_status CHECK (status IN ('draft', 'active', 'retired'))
) STRICT;
CREATE INDEX ae_record_types_base_type ON ae_record_types (tenant_id, project_id, base_type)
    WHERE base_type IS NOT NULL;
-- D3: documents name a type by its key alone, so that a tenant has one active type of a key. If it has none, the one
-- that was retired last counts.
CREATE INDEX ae_record_types_key ON ae_record_types (tenant_id, key, status, updated_at, id);
CREATE UNIQUE INDEX ae_record_types_d3_active ON ae_record_types (tenant_id, key) WHERE status = 'active';
-- One index for each status: without statistics, the planner would not prefer a single index with a status column.
CREATE INDEX ae_record_types_draft ON ae_record_types (tenant_id, project_id, key) WHERE status = 'draft';
CREATE INDEX ae_record_types_retired ON ae_record_types (tenant_id, project_id, key) WHERE status = 'retired';
CREATE INDEX ae_record_types_active_of_project ON ae_record_types (tenant_id, project_id, key)
    WHERE status = 'active';

CREATE TABLE ae_changes (
    tenant_id   TEXT    NOT NULL,
    id          TEXT    NOT NULL,
    project_id  TEXT    NOT NULL,
    title       TEXT    NOT NULL,
    description TEXT,
    status      TEXT    NOT NULL,
    compensates TEXT,
    op_count    INTEGER NOT NULL,
    created_at  TEXT    NOT NULL,
    updated_at  TEXT    NOT NULL,
    merged_at   TEXT,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_changes_project UNIQUE (tenant_id, project_id, id),
    CONSTRAINT ae_changes_d2_project FOREIGN KEY (tenant_id, project_id) REFERENCES ae_projects (tenant_id, id),
    CONSTRAINT ae_changes_compensates
        FOREIGN KEY (tenant_id, project_id, compensates) REFERENCES ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_changes_status CHECK (status IN (
        'Draft', 'Implementing', 'WorkspaceRunning', 'Validating', 'ValidationFailed', 'Ready', 'Merged'
    )),
    CONSTRAINT ae_changes_e1_merged_at CHECK ((status = 'Merged') = (merged_at IS NOT NULL))
) STRICT;
CREATE INDEX ae_changes_status ON ae_changes (tenant_id, status, id);
CREATE INDEX ae_changes_draft ON ae_changes (tenant_id, project_id, id) WHERE status = 'Draft';
CREATE INDEX ae_changes_implementing ON ae_changes (tenant_id, project_id, id) WHERE status = 'Implementing';
CREATE INDEX ae_changes_workspace_running ON ae_changes (tenant_id, project_id, id) WHERE status = 'WorkspaceRunning';
CREATE INDEX ae_changes_validating ON ae_changes (tenant_id, project_id, id) WHERE status = 'Validating';
CREATE INDEX ae_changes_validation_failed ON ae_changes (tenant_id, project_id, id) WHERE status = 'ValidationFailed';
CREATE INDEX ae_changes_ready ON ae_changes (tenant_id, project_id, id) WHERE status = 'Ready';
CREATE INDEX ae_changes_merged ON ae_changes (tenant_id, project_id, id) WHERE status = 'Merged';

-- D9: a selector has one key, which depends on its target's type, with a text as its value.

CREATE TABLE ae_change_targets (
    tenant_id  TEXT NOT NULL,
    id         TEXT NOT NULL,
    change_id  TEXT NOT NULL,
    project_id TEXT NOT NULL,
    type       TEXT NOT NULL,
    selector   TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_change_targets_change UNIQUE (tenant_id, change_id, id),
    CONSTRAINT ae_change_targets_p5_project
        FOREIGN KEY (tenant_id, project_id, change_id) REFERENCES ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_change_targets_d9_type CHECK (
        type IN ('form', 'workflow', 'rule', 'record_type', 'script', 'file')
    ),
    CONSTRAINT ae_change_targets_d9_selector CHECK ((
        json_valid(selector)
        AND json_type(selector, CASE type WHEN 'file' THEN '$.file_path' ELSE '$.' || type || '_key' END) = 'text'
        AND selector ->> CASE type WHEN 'file' THEN 'file_path' ELSE type || '_key' END <> ''
        AND json_remove(selector, CASE type WHEN 'file' THEN '$.file_path' ELSE '$.' || type || '_key' END) = '{}'
    ) IS TRUE)
) STRICT;

-- field is the field that an op affects, gives the name that it adds; record_type_version is the version of the record
-- type when the op was added.

CREATE TABLE ae_patch_ops (
    tenant_id           TEXT    NOT NULL,
    id                  TEXT    NOT NULL,
    change_id           TEXT    NOT NULL,
    project_id          TEXT    NOT NULL,
    target_id           TEXT    NOT NULL,
    position            INTEGER NOT NULL,
    op_type             TEXT    NOT NULL,
    payload             TEXT    NOT NULL CHECK (json_valid(payload)),
    record_type_key     TEXT,
    field               TEXT,
    gives               TEXT,
    record_type_version INTEGER,
    applied_version     INTEGER,
    previous_snapshot   TEXT,
    executed_at         TEXT,
    created_at          TEXT    NOT NULL,
    turn                INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_patch_ops_position UNIQUE (tenant_id, change_id, position),
    CONSTRAINT ae_patch_ops_p5_project
        FOREIGN KEY (tenant_id, project_id, change_id) REFERENCES ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_patch_ops_p5_target
        FOREIGN KEY (tenant_id, change_id, target_id) REFERENCES ae_change_targets (tenant_id, change_id, id),
    CONSTRAINT ae_patch_ops_p1_record_type
        FOREIGN KEY (tenant_id, project_id, record_type_key) REFERENCES ae_record_types (tenant_id, project_id, key),
    CONSTRAINT ae_patch_ops_type CHECK (
        op_type IN ('add_field', 'set_field', 'remove_field', 'rename_field', 'edit_file')
    ),
    CONSTRAINT ae_patch_ops_record_type CHECK ((record_type_key IS NULL) = (op_type = 'edit_file')),
    CONSTRAINT ae_patch_ops_field CHECK ((field IS NULL) = (op_type = 'edit_file')),
    CONSTRAINT ae_patch_ops_version CHECK ((record_type_version IS NULL) = (op_type = 'edit_file')),
    CONSTRAINT ae_patch_ops_gives CHECK ((gives IS NOT NULL) = (op_type IN ('add_field', 'rename_field'))),
    CONSTRAINT ae_patch_ops_d7_snapshot CHECK ((previous_snapshot IS NULL) = (executed_at IS NULL)),
    CONSTRAINT ae_patch_ops_d7_version CHECK ((applied_version IS NULL) = (executed_at IS NULL)),
    CONSTRAINT ae_patch_ops_d8_definition CHECK (
        op_type NOT IN ('add_field', 'set_field')
        OR (payload ->> '$.definition.type' IN (
            'string', 'number', 'boolean', 'reference', 'choice', 'text', 'date', 'datetime'
        )) IS TRUE
    )
) STRICT;
CREATE UNIQUE INDEX ae_patch_ops_g1_field ON ae_patch_ops (tenant_id, change_id, record_type_key, field, turn)
    WHERE executed_at IS NULL;
CREATE UNIQUE INDEX ae_patch_ops_g1_gives ON ae_patch_ops (tenant_id, change_id, record_type_key, gives)
    WHERE executed_at IS NULL AND gives IS NOT NULL;
CREATE INDEX ae_patch_ops_executed
    ON ae_patch_ops (tenant_id, project_id, record_type_key, applied_version, position)
    WHERE applied_version IS NOT NULL;

CREATE TABLE ae_snapshots (
    tenant_id       TEXT    NOT NULL,
    change_id       TEXT    NOT NULL,
    record_type_key TEXT    NOT NULL,
    project_id      TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    schema          TEXT,
    created_at      TEXT    NOT NULL,
    CONSTRAINT ae_snapshots_d5_one_per_change PRIMARY KEY (tenant_id, change_id, record_type_key),
    CONSTRAINT ae_snapshots_d6_project
        FOREIGN KEY (tenant_id, project_id, change_id) REFERENCES ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_snapshots_d6_record_type
        FOREIGN KEY (tenant_id, project_id, record_type_key) REFERENCES ae_record_types (tenant_id, project_id, key)
) STRICT;
CREATE INDEX ae_snapshots_version ON ae_snapshots (tenant_id, project_id, record_type_key, version);

-- The triggers of own_triggers.py come here: an action writes rows of its tenant only.

-- P6: a base type exists before the type that names it, so that no two types name each other. The project and the first
-- schema of a record type never change, and it is never deleted.

CREATE TRIGGER ae_record_types_p6_insert BEFORE INSERT ON ae_record_types
WHEN new.base_type IS NOT NULL AND NOT EXISTS (
    SELECT 1
    FROM ae_record_types t
    WHERE t.tenant_id = new.tenant_id AND t.project_id = new.project_id AND t.key = new.base_type
)
BEGIN
    SELECT RAISE(ABORT, 'P6: the base type is not in the project of the record type');
END;
CREATE TRIGGER ae_record_types_p6_update BEFORE UPDATE ON ae_record_types
WHEN (new.tenant_id, new.id, new.project_id, new.key, new.base_type, new.initial_schema, new.created_at)
    IS NOT (old.tenant_id, old.id, old.project_id, old.key, old.base_type, old.initial_schema, old.created_at)
BEGIN
    SELECT RAISE(ABORT, 'P6: the id, project, key, base type and first schema of a record type never change');
END;
CREATE TRIGGER ae_record_types_p6_delete BEFORE DELETE ON ae_record_types
BEGIN
    SELECT RAISE(ABORT, 'P6: a record type is not deleted: it is retired');
END;

-- D8: a schema is {"fields": [...]}. Each field is an object with a unique name and a known type.

CREATE TRIGGER ae_record_types_d8_insert BEFORE INSERT ON ae_record_types
BEGIN
    SELECT RAISE(ABORT, 'D8: a schema has fields, each with a name of its own and a type that is known')
    FROM (SELECT new.schema AS schema UNION ALL SELECT new.initial_schema)
    WHERE json_type(schema, '$.fields') IS NOT 'array'
        OR EXISTS (
            SELECT 1
            FROM json_each(schema, '$.fields') field
            WHERE CASE WHEN field.type = 'object' THEN
                json_type(field.value, '$.name') IS NOT 'text'
                OR field.value ->> 'name' = ''
                OR (field.value ->> 'type' IN (
                    'string', 'number', 'boolean', 'reference', 'choice', 'text', 'date', 'datetime'
                )) IS NOT TRUE
                OR coalesce(json_type(field.value, '$.required'), 'true') NOT IN ('true', 'false')
            ELSE true END
        )
        OR (
            SELECT count(*) <> count(DISTINCT CASE WHEN field.type = 'object' THEN field.value ->> 'name' END)
            FROM json_each(schema, '$.fields') field
        );
END;
CREATE TRIGGER ae_record_types_d8_update BEFORE UPDATE OF schema ON ae_record_types
BEGIN
    SELECT RAISE(ABORT, 'D8: a schema has fields, each with a name of its own and a type that is known')
    FROM (SELECT new.schema AS schema)
    WHERE json_type(schema, '$.fields') IS NOT 'array'
        OR EXISTS (
            SELECT 1
            FROM json_each(schema, '$.fields') field
            WHERE CASE WHEN field.type = 'object' THEN
                json_type(field.value, '$.name') IS NOT 'text'
                OR field.value ->> 'name' = ''
                OR (field.value ->> 'type' IN (
                    'string', 'number', 'boolean', 'reference', 'choice', 'text', 'date', 'datetime'
                )) IS NOT TRUE
                OR coalesce(json_type(field.value, '$.required'), 'true') NOT IN ('true', 'false')
            ELSE true END
        )
        OR (
            SELECT count(*) <> count(DISTINCT CASE WHEN field.type = 'object' THEN field.value ->> 'name' END)
            FROM json_each(schema, '$.fields') field
        );
END;

-- E6: a schema changes through a change that has kept a snapshot of it, one version at a time.

CREATE TRIGGER ae_record_types_e6 BEFORE UPDATE ON ae_record_types
WHEN (new.schema, new.version, new.changed_by) IS NOT (old.schema, old.version, old.changed_by)
BEGIN
    SELECT RAISE(ABORT, 'E6: a new schema is the next version of its record type')
    WHERE new.version <> old.version + 1;
    SELECT RAISE(ABORT, 'E6: a schema is changed by a change that has a snapshot of it')
    WHERE NOT EXISTS (
        SELECT 1
        FROM ae_snapshots s
        WHERE s.tenant_id = new.tenant_id AND s.change_id = new.changed_by AND s.record_type_key = new.key
    );
END;

-- E6: a snapshot has the version and schema of its record type. It may lack the schema, which is then replayed.

CREATE TRIGGER ae_snapshots_e6 AFTER INSERT ON ae_snapshots
BEGIN
    SELECT RAISE(ABORT, 'E6: a snapshot has the version and the schema of its record type')
    WHERE EXISTS (
        SELECT 1
        FROM ae_record_types t
        WHERE t.tenant_id = new.tenant_id AND t.project_id = new.project_id AND t.key = new.record_type_key
            AND (t.version <> new.version OR json(t.schema) <> json(new.schema))
    );
END;

-- E7: a derived type that declares a field which its base type requires must require it too. Rows are checked one by
-- one, in the order in which they are added: base types first.

CREATE TRIGGER ae_record_types_e7_insert AFTER INSERT ON ae_record_types
WHEN new.base_type IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'E7: a base type requires a field that its derived type would not')
    FROM json_each(new.schema, '$.fields') own
    WHERE NOT coalesce(own.value ->> 'required', false) AND own.value ->> 'name' IN (
        WITH RECURSIVE ancestors (base_type, schema) AS (
            SELECT t.base_type, t.schema
            FROM ae_record_types t
            WHERE t.tenant_id = new.tenant_id AND t.project_id = new.project_id AND t.key = new.base_type
            UNION ALL
            SELECT t.base_type, t.schema
            FROM ancestors a
            JOIN ae_record_types t
                ON t.tenant_id = new.tenant_id AND t.project_id = new.project_id AND t.key = a.base_type
        )
        SELECT inherited.value ->> 'name'
        FROM ancestors a
        JOIN json_each(a.schema, '$.fields') inherited
        WHERE inherited.value ->> 'required'
    );
END;
CREATE TRIGGER ae_record_types_e7_update AFTER UPDATE ON ae_record_types
WHEN new.base_type IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'E7: a base type requires a field that its derived type would not')
    FROM json_each(new.schema, '$.fields') own
    WHERE NOT coalesce(own.value ->> 'required', false) AND own.value ->> 'name' IN (
        WITH RECURSIVE ancestors (base_type, schema) AS (
            SELECT t.base_type, t.schema
            FROM ae_record_types t
            WHERE t.tenant_id = new.tenant_id AND t.project_id = new.project_id AND t.key = new.base_type
            UNION ALL
            SELECT t.base_type, t.schema
            FROM ancestors a
            JOIN ae_record_types t
                ON t.tenant_id = new.tenant_id AND t.project_id = new.project_id AND t.key = a.base_type
        )
        SELECT inherited.value ->> 'name'
        FROM ancestors a
        JOIN json_each(a.schema, '$.fields') inherited
        WHERE inherited.value ->> 'required'
    );
END;

-- S1: the status of a change follows its transitions. E1: the last status is Merged.

CREATE TRIGGER ae_changes_s1_insert BEFORE INSERT ON ae_changes
WHEN new.status <> 'Draft'
BEGIN
    SELECT RAISE(ABORT, 'S1: a change begins as Draft');
END;
CREATE TRIGGER ae_changes_s1_update BEFORE UPDATE ON ae_changes
WHEN new.status <> old.status AND old.status <> 'Merged'
BEGIN
    SELECT RAISE(ABORT, 'S1: a change does not go from this status to that one')
    WHERE (old.status, new.status) NOT IN (VALUES
        ('Draft', 'Implementing'), ('Draft', 'Validating'), ('Draft', 'ValidationFailed'), ('Draft', 'Merged'),
        ('Implementing', 'WorkspaceRunning'), ('Implementing', 'Validating'), ('Implementing', 'Draft'),
        ('WorkspaceRunning', 'Validating'), ('WorkspaceRunning', 'Implementing'),
        ('Validating', 'Ready'), ('Validating', 'ValidationFailed'),
        ('ValidationFailed', 'Implementing'), ('ValidationFailed', 'Validating'),
        ('Ready', 'Merged'), ('Ready', 'ValidationFailed')
    );
    SELECT RAISE(ABORT, 'S1: the project requires review: its changes are not merged from Draft')
    WHERE old.status = 'Draft' AND new.status = 'Merged' AND NOT EXISTS (
        SELECT 1
        FROM ae_projects p
        WHERE p.tenant_id = new.tenant_id AND p.id = new.project_id AND NOT p.require_review
    );
END;
CREATE TRIGGER ae_changes_e1 BEFORE UPDATE ON ae_changes
WHEN old.status = 'Merged' AND (
    new.tenant_id, new.id, new.project_id, new.title, new.description, new.status, new.compensates, new.op_count,
    new.created_at, new.updated_at, new.merged_at
) IS NOT (
    old.tenant_id, old.id, old.project_id, old.title, old.description, old.status, old.compensates, old.op_count,
    old.created_at, old.updated_at, old.merged_at
)
BEGIN
    SELECT RAISE(ABORT, 'E1: a merged change never changes again');
END;
CREATE TRIGGER ae_changes_p5 BEFORE UPDATE ON ae_changes
WHEN old.status <> 'Merged'
    AND (new.tenant_id, new.id, new.project_id) IS NOT (old.tenant_id, old.id, old.project_id)
BEGIN
    SELECT RAISE(ABORT, 'P5: the id and the project of a change never change');
END;
CREATE TRIGGER ae_changes_e1_delete BEFORE DELETE ON ae_changes
BEGIN
    SELECT RAISE(ABORT, 'E1: a change is not deleted');
END;

-- E1, G2: a change takes targets only as Draft.

CREATE TRIGGER ae_change_targets_g2 BEFORE INSERT ON ae_change_targets
BEGIN
    SELECT RAISE(ABORT, 'E1: a merged change takes no target')
    FROM ae_changes c
    WHERE c.tenant_id = new.tenant_id AND c.id = new.change_id AND c.status = 'Merged';
    SELECT RAISE(ABORT, 'G2: a change takes targets as Draft only')
    FROM ae_changes c
    WHERE c.tenant_id = new.tenant_id AND c.id = new.change_id AND c.status <> 'Draft';
END;

-- E2, E3: an executed op never changes, and is never deleted. E1, G2: ops are added and deleted only while their change
-- is worked on. P1: an op concerns what its target names.

CREATE TRIGGER ae_patch_ops_g2_insert BEFORE INSERT ON ae_patch_ops
BEGIN
    SELECT RAISE(ABORT, 'E1: a merged change takes no op')
    FROM ae_changes c
    WHERE c.tenant_id = new.tenant_id AND c.id = new.change_id AND c.status = 'Merged';
    SELECT RAISE(ABORT, 'G2: a change takes ops while it is worked on')
    FROM ae_changes c
    WHERE c.tenant_id = new.tenant_id AND c.id = new.change_id
        AND c.status NOT IN ('Draft', 'Implementing', 'WorkspaceRunning', 'ValidationFailed');
END;
CREATE TRIGGER ae_patch_ops_e2_insert BEFORE INSERT ON ae_patch_ops
WHEN new.executed_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'E2: a new op cannot be executed yet');
END;
CREATE TRIGGER ae_patch_ops_p1 BEFORE INSERT ON ae_patch_ops
BEGIN
    SELECT RAISE(ABORT, 'P1: an op is about what its target names')
    FROM ae_change_targets t
    WHERE t.tenant_id = new.tenant_id AND t.change_id = new.change_id AND t.id = new.target_id
        AND CASE new.op_type
            WHEN 'edit_file' THEN t.type = 'file' AND t.selector ->> 'file_path' = new.payload ->> 'file_path'
            ELSE t.type = 'record_type' AND t.selector ->> 'record_type_key' = new.record_type_key
        END IS NOT TRUE;
END;
CREATE TRIGGER ae_patch_ops_e3 BEFORE DELETE ON ae_patch_ops
BEGIN
    SELECT RAISE(ABORT, 'E3: an executed op cannot be deleted')
    WHERE old.executed_at IS NOT NULL;
    SELECT RAISE(ABORT, 'E1: the ops of a merged change stay as they are')
    FROM ae_changes c
    WHERE c.tenant_id = old.tenant_id AND c.id = old.change_id AND c.status = 'Merged';
    SELECT RAISE(ABORT, 'G2: a change gives up ops while it is worked on')
    FROM ae_changes c
    WHERE c.tenant_id = old.tenant_id AND c.id = old.change_id
        AND c.status NOT IN ('Draft', 'Implementing', 'WorkspaceRunning', 'ValidationFailed');
END;
CREATE TRIGGER ae_patch_ops_e2_update BEFORE UPDATE ON ae_patch_ops
BEGIN
    SELECT RAISE(ABORT, 'E2: an executed op never changes again')
    WHERE old.executed_at IS NOT NULL;
    SELECT RAISE(ABORT, 'E2: what an op says never changes: it is executed, or deleted')
    WHERE (
        new.tenant_id, new.id, new.change_id, new.project_id, new.target_id, new.position, new.op_type, new.payload,
        new.record_type_key, new.field, new.gives, new.record_type_version, new.created_at
    ) IS NOT (
        old.tenant_id, old.id, old.change_id, old.project_id, old.target_id, old.position, old.op_type, old.payload,
        old.record_type_key, old.field, old.gives, old.record_type_version, old.created_at
    );
END;

-- The version of the schema.

CREATE TABLE ae_schema (
    version INTEGER NOT NULL
) STRICT;
INSERT INTO ae_schema VALUES (1);

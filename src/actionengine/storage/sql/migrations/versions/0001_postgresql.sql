-- Tables, row-level security and functions of actionengine on PostgreSQL.
--
-- Two settings, local to a transaction, name its tenant and its action: app.tenant_id and app.action_id. Once
-- `actionengine db sign` has stored a key, a third, app.signature, must prove them (see signed_postgresql.sql, which
-- replaces the first four functions here).
--
-- A handler's SQL can set the search path. So no function depends on it: each has a search path of its own, or a body
-- (RETURN, BEGIN ATOMIC) whose names were resolved at its creation, which lets the planner inline it.

CREATE FUNCTION public.ae_signed(message text, signature text) RETURNS boolean
LANGUAGE sql STABLE RETURN true;

-- Return the value of app.signature for this transaction, given a host's signature. `mode` is r (reads) or w (writes).

CREATE FUNCTION public.ae_open(tenant text, action text, mode text, signature text) RETURNS text
LANGUAGE sql STABLE RETURN '';

-- Return the tenant of this transaction; null if none is set.

CREATE FUNCTION public.ae_tenant() RETURNS uuid
LANGUAGE sql STABLE RETURN nullif(current_setting('app.tenant_id', true), '')::uuid;

-- Return the same, but null outside an action, which every write needs.

CREATE FUNCTION public.ae_writing_tenant() RETURNS uuid
LANGUAGE sql STABLE RETURN CASE
    WHEN current_setting('app.action_id', true) <> '' THEN nullif(current_setting('app.tenant_id', true), '')::uuid
END;

CREATE FUNCTION public.ae_require_action() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF public.ae_writing_tenant() IS NULL THEN
        RAISE EXCEPTION '% on % outside an action: go through the engine', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'AE001';
    END IF;
    RETURN NULL;
END $$;

-- The version of the schema.

CREATE TABLE public.ae_schema (
    version integer NOT NULL
);

-- Return whether this transaction may remove what is otherwise kept: retention, and tenants that have left. It is the
-- owner's, and sets app.maintenance.

CREATE FUNCTION public.ae_is_maintenance() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(current_setting('app.maintenance', true) = 'on', false) AND (
        SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = 'public.ae_schema'::regclass
    )
$$;

-- `db partition make` scans a large default partition before it locks it, for a constraint that says which months have no
-- rows there. The constraint binds that command only, and is true for hosts: if it is left behind, it refuses no row. To
-- infer from it that no row moves, the planner must know the value of this function: so it is IMMUTABLE, though it reads
-- a setting.

CREATE FUNCTION public.ae_is_attaching() RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(current_setting('app.attaching', true) = 'on', false)
$$;

CREATE FUNCTION public.ae_refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME <> 'ae_maintenance' AND public.ae_is_maintenance() THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% on %: it is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'AE002';
END $$;

-- Signing keys. `inner_pad` and `outer_pad` are a key, padded to 64 bytes, XOR 0x36 and XOR 0x5c (RFC 2104). Only the
-- owner, and functions that run as the owner, can read them.

CREATE TABLE public.ae_signing_keys (
    id        text        PRIMARY KEY,
    inner_pad bytea       NOT NULL,
    outer_pad bytea       NOT NULL,
    added_at  timestamptz NOT NULL DEFAULT now()
);

-- Tables. `tenant_id` is the first column of every key.

CREATE TABLE public.ae_tenants (
    tenant_id  uuid             PRIMARY KEY,
    slug       text COLLATE "C" NOT NULL,
    name       text             NOT NULL,
    created_at timestamptz      NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT ae_tenants_slug UNIQUE (slug)
);
-- Without statistics, the planner assumes that one row of 200 is null: then it reads and sorts all. For an expression
-- it assumes half.
CREATE INDEX ae_tenants_open ON public.ae_tenants (slug) WHERE coalesce(deleted_at IS NULL, false);

CREATE TABLE public.ae_documents (
    tenant_id  uuid             NOT NULL,
    collection text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    version    integer          NOT NULL,
    data       json             NOT NULL,
    created_at timestamptz      NOT NULL,
    updated_at timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, collection, id)
);

-- The keys by which documents of the library's own collections are looked up: see actionengine.storage.lookups. A key
-- begins with its collection, so that the planner, which has no statistics, has only one index to choose for each
-- query.

CREATE TABLE public.ae_document_keys (
    tenant_id  uuid             NOT NULL,
    collection text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, collection, id, key)
);
CREATE INDEX ae_document_keys_key ON public.ae_document_keys (tenant_id, key, id);

-- For operators, over all tenants: the open approvals, by the end of their time, and the active schedules.

CREATE INDEX ae_document_keys_open ON public.ae_document_keys (key, id)
    WHERE key >= 'ae_approvals/open_until:' AND key < 'ae_approvals/open_until;';
CREATE INDEX ae_document_keys_schedules ON public.ae_document_keys (id)
    WHERE key = 'ae_triggers/status,type:["active","schedule"]';

-- A claim whose transaction has recorded no result is free again: its initial value is already expired.

CREATE TABLE public.ae_idempotency_keys (
    tenant_id   uuid             NOT NULL,
    action      text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint text             NOT NULL,
    result      text,
    approval_id text,
    expires_at  timestamptz      NOT NULL DEFAULT '-infinity',
    asked       text,
    PRIMARY KEY (tenant_id, action, key)
);
CREATE INDEX ae_idempotency_keys_expiry ON public.ae_idempotency_keys (expires_at);

-- The amounts that budgets have counted in a window, until it ends.

CREATE TABLE public.ae_budget_counters (
    tenant_id  uuid             NOT NULL,
    budget     text COLLATE "C" NOT NULL,
    scope      text COLLATE "C" NOT NULL,
    used       numeric          NOT NULL,
    expires_at timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, budget, scope)
);
CREATE INDEX ae_budget_counters_expiry ON public.ae_budget_counters (expires_at);

CREATE TABLE public.ae_action_log (
    tenant_id       uuid             NOT NULL,
    id              uuid             NOT NULL,
    parent_id       uuid,
    actor_type      text,
    actor_id        text COLLATE "C",
    approved_by     text,
    approval_id     text COLLATE "C",
    source          text             NOT NULL,
    reason          text,
    action          text COLLATE "C" NOT NULL,
    subjects        json             NOT NULL,
    input           json,
    output          json,
    outcome         text             NOT NULL,
    error           json,
    decision        text,
    started_at      timestamptz      NOT NULL,
    latency         double precision NOT NULL,
    idempotency_key text COLLATE "C",
    request_id      text COLLATE "C",
    model           text,
    prompt_version  text,
    input_tokens    bigint,
    output_tokens   bigint,
    cost_usd        double precision,
    on_behalf_of    json,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX ae_action_log_actor ON public.ae_action_log (tenant_id, actor_id, id);
CREATE INDEX ae_action_log_action ON public.ae_action_log (tenant_id, action, id);
CREATE INDEX ae_action_log_outcome ON public.ae_action_log (tenant_id, outcome, id);
CREATE INDEX ae_action_log_actor_type ON public.ae_action_log (tenant_id, actor_type, id);
-- Most rows have none of these, so that they add nothing to an ordinary action.
CREATE INDEX ae_action_log_parent ON public.ae_action_log (tenant_id, parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX ae_action_log_approval ON public.ae_action_log (tenant_id, approval_id, id) WHERE approval_id IS NOT NULL;
CREATE INDEX ae_action_log_request ON public.ae_action_log (tenant_id, request_id, id) WHERE request_id IS NOT NULL;
CREATE INDEX ae_action_log_key ON public.ae_action_log (tenant_id, idempotency_key, id)
    WHERE idempotency_key IS NOT NULL;

-- The executions of each subject. A table, because under row-level security no index on the log's own column would be
-- used: the operators that search in JSON and in arrays are not leakproof.

CREATE TABLE public.ae_action_log_subjects (
    tenant_id uuid             NOT NULL,
    subject   text COLLATE "C" NOT NULL,
    log_id    uuid             NOT NULL,
    PRIMARY KEY (tenant_id, subject, log_id)
);

-- The executions for each principal, at any place of the chain behind the actor.

CREATE TABLE public.ae_action_log_principals (
    tenant_id uuid             NOT NULL,
    principal text COLLATE "C" NOT NULL,
    log_id    uuid             NOT NULL,
    PRIMARY KEY (tenant_id, principal, log_id)
);

-- The executions for each word of their reasons.

CREATE TABLE public.ae_action_log_words (
    tenant_id uuid             NOT NULL,
    word      text COLLATE "C" NOT NULL,
    log_id    uuid             NOT NULL,
    PRIMARY KEY (tenant_id, word, log_id)
);

CREATE TABLE public.ae_events (
    tenant_id    uuid        NOT NULL,
    position     bigint      GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME public.ae_event_position),
    id           uuid        NOT NULL,
    type         text        NOT NULL,
    subject      text,
    payload      json        NOT NULL,
    action       text        NOT NULL,
    action_id    uuid        NOT NULL,
    actor_type   text,
    actor_id     text,
    occurred_at  timestamptz NOT NULL,
    version      integer     NOT NULL,
    on_behalf_of json,
    chain        json,
    PRIMARY KEY (tenant_id, position)
);
CREATE INDEX ae_events_type ON public.ae_events (tenant_id, type, position);
CREATE INDEX ae_events_id ON public.ae_events (tenant_id, id);
CREATE INDEX ae_events_action ON public.ae_events (tenant_id, action_id, position);

-- The events that are not delivered yet, with a row for each of their queues: the host's ('events'), and those of
-- workflows. The events of a tenant's subject have the same lane, a hash, and keep their order. A relay locks a
-- partition of the lanes of a queue. After a failed attempt an event waits until due_at; after the last one it is a
-- dead letter. Both hold back the later events of their lane in the queue, until an operator skips the dead letter. A
-- relay marks an event that is held back (held), so that later looks do not read it. A marked event holds back later
-- ones too. The marks are removed in parts, beginning with the first (see ae_outbox_release).

CREATE TABLE public.ae_outbox (
    tenant_id uuid    NOT NULL,
    position  bigint  NOT NULL,
    lane      bigint  NOT NULL,
    attempts  integer NOT NULL DEFAULT 0,
    due_at    timestamptz,
    reason    text,
    dead_at   timestamptz,
    skipped   boolean NOT NULL DEFAULT false,
    queue     text COLLATE "C" NOT NULL DEFAULT 'events' CHECK (queue IN ('events', 'workflows', 'triggers')),
    event_id  uuid,
    held      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, queue, position)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ae_outbox_pending ON public.ae_outbox (queue, (lane & 63), position)
    WHERE dead_at IS NULL AND NOT held;
CREATE INDEX ae_outbox_held ON public.ae_outbox (queue, lane, position)
    WHERE NOT skipped AND (dead_at IS NOT NULL OR due_at IS NOT NULL OR held);
-- The indexes of operators' queries: how many events there are, and since when.
CREATE INDEX ae_outbox_behind ON public.ae_outbox (queue, position) WHERE held;
CREATE INDEX ae_outbox_waiting ON public.ae_outbox (queue, due_at) WHERE dead_at IS NULL AND due_at IS NOT NULL;
CREATE INDEX ae_outbox_unskipped ON public.ae_outbox (queue, tenant_id, event_id)
    WHERE dead_at IS NOT NULL AND NOT skipped;
CREATE INDEX ae_outbox_skipped ON public.ae_outbox (queue, tenant_id, event_id) WHERE skipped;
CREATE INDEX ae_outbox_tenant_behind ON public.ae_outbox (tenant_id, queue, position) WHERE held;
CREATE INDEX ae_outbox_tenant_waiting ON public.ae_outbox (tenant_id, queue, due_at)
    WHERE dead_at IS NULL AND due_at IS NOT NULL;
-- A skipped event with a due_at: the events behind it may still be marked (see ae_tenant_skip).
CREATE INDEX ae_outbox_unreleased ON public.ae_outbox (queue) WHERE skipped AND due_at IS NOT NULL;
-- A dead letter has the id of its event, which operators use to name it.
CREATE INDEX ae_outbox_dead ON public.ae_outbox (queue, event_id) WHERE dead_at IS NOT NULL;

-- The number of times that events have returned to positions that relays no longer read: events that an operator has
-- redriven, and events that were held back. A relay begins each look after the positions that it knows to be delivered
-- (see ae_outbox_take), until this number changes.

CREATE TABLE public.ae_outbox_returns (
    queue   text   COLLATE "C" PRIMARY KEY,
    returns bigint NOT NULL
);
INSERT INTO public.ae_outbox_returns (queue, returns) VALUES ('events', 0), ('workflows', 0), ('triggers', 0);

-- The heartbeats of relays.

CREATE TABLE public.ae_relays (
    id         uuid             PRIMARY KEY,
    name       text             NOT NULL,
    publisher  text             NOT NULL,
    started_at timestamptz      NOT NULL,
    seen_at    timestamptz      NOT NULL,
    delivered  bigint           NOT NULL,
    failed     bigint           NOT NULL,
    rate       double precision NOT NULL,
    error      text,
    queue      text             NOT NULL
);

-- What operators have removed, or moved out of the library's tables: who, when, why, and how much.

CREATE TABLE public.ae_maintenance (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor     text        NOT NULL,
    reason    text,
    operation text        NOT NULL,
    target    text        NOT NULL,
    details   json        NOT NULL
);

CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_maintenance
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_action_log
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_action_log_subjects
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_action_log_principals
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_action_log_words
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();

-- Change control. Constraints enforce its rules where they can, and have the rule's id in their name. Triggers enforce
-- the rest, and begin their message with that id (AE004). They lock rows that others may change before they read them.

-- D8: a schema is {"fields": [...]}. Each field is an object with a unique name and a known type.

CREATE FUNCTION public.ae_is_field_type(given text) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN coalesce(
    given IN ('string', 'number', 'boolean', 'reference', 'choice', 'text', 'date', 'datetime'), false
);

CREATE FUNCTION public.ae_is_field(field json) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN CASE WHEN json_typeof(field) = 'object' THEN
    coalesce(json_typeof(field -> 'name') = 'string' AND field ->> 'name' <> '', false)
    AND public.ae_is_field_type(field ->> 'type')
    AND coalesce(json_typeof(field -> 'required'), 'boolean') = 'boolean'
ELSE false END;

CREATE FUNCTION public.ae_is_schema(schema json) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN CASE WHEN json_typeof(schema -> 'fields') = 'array' THEN (
    SELECT coalesce(bool_and(public.ae_is_field(field.value)), true)
        AND count(*) = count(DISTINCT field.value ->> 'name')
    FROM json_array_elements(schema -> 'fields') field
) ELSE false END;

-- D9: a selector has one key, which depends on its target's type, with a text as its value.

CREATE FUNCTION public.ae_is_selector(type text, selector json) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN CASE WHEN json_typeof(selector) = 'object' THEN (
    SELECT count(*) = 1
        AND bool_and(
            named.key = CASE type WHEN 'file' THEN 'file_path' ELSE type || '_key' END
            AND json_typeof(named.value) = 'string' AND selector ->> named.key <> ''
        )
    FROM json_each(selector) named
) ELSE false END;

CREATE TABLE public.ae_projects (
    tenant_id      uuid             NOT NULL,
    id             text COLLATE "C" NOT NULL,
    name           text COLLATE "C" NOT NULL,
    description    text,
    require_review boolean          NOT NULL,
    created_at     timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_projects_d4_name UNIQUE (tenant_id, name)
);

-- base_version is the newest version whose whole schema a snapshot keeps (1: initial_schema); bytes_since_base are the
-- bytes of the ops since then. Later schemas are replayed from it.

CREATE TABLE public.ae_record_types (
    tenant_id        uuid             NOT NULL,
    id               text COLLATE "C" NOT NULL,
    project_id       text COLLATE "C" NOT NULL,
    key              text COLLATE "C" NOT NULL,
    name             text COLLATE "C" NOT NULL,
    description      text,
    base_type        text COLLATE "C",
    schema           json             NOT NULL,
    initial_schema   json             NOT NULL,
    version          integer          NOT NULL,
    status           text             NOT NULL,
    changed_by       text COLLATE "C",
    created_at       timestamptz      NOT NULL,
    updated_at       timestamptz      NOT NULL,
    base_version     integer          NOT NULL DEFAULT 1,
    bytes_since_base integer          NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_record_types_d1_project
        FOREIGN KEY (tenant_id, project_id) REFERENCES public.ae_projects (tenant_id, id),
    CONSTRAINT ae_record_types_d4_name UNIQUE (tenant_id, name),
    CONSTRAINT ae_record_types_d8_schema CHECK (public.ae_is_schema(schema)),
    CONSTRAINT ae_record_types_d8_initial_schema CHECK (public.ae_is_schema(initial_schema)),
    CONSTRAINT ae_record_types_p6_not_its_own_base CHECK (base_type <> key),
    CONSTRAINT ae_record_types_status CHECK (status IN ('draft', 'active', 'retired'))
);
CREATE INDEX ae_record_types_base_type ON public.ae_record_types (tenant_id, project_id, base_type)
    WHERE base_type IS NOT NULL;
-- D3: documents name a type by its key alone, so that a tenant has one active type of a key. If it has none, the one
-- that was retired last counts.
CREATE INDEX ae_record_types_key ON public.ae_record_types (tenant_id, key, status, updated_at, id);
-- Created after the index above: of two indexes that seem to find one row each, the planner takes the newer one.
ALTER TABLE public.ae_record_types
    ADD CONSTRAINT ae_record_types_d3_key UNIQUE (tenant_id, project_id, key),
    ADD CONSTRAINT ae_record_types_p6_base_type
        FOREIGN KEY (tenant_id, project_id, base_type) REFERENCES public.ae_record_types (tenant_id, project_id, key);
CREATE UNIQUE INDEX ae_record_types_d3_active ON public.ae_record_types (tenant_id, key) WHERE status = 'active';
-- One index for each status: without statistics, the planner would not prefer a single index with a status column.
CREATE INDEX ae_record_types_draft ON public.ae_record_types (tenant_id, project_id, key) WHERE status = 'draft';
CREATE INDEX ae_record_types_retired ON public.ae_record_types (tenant_id, project_id, key) WHERE status = 'retired';
CREATE INDEX ae_record_types_active_of_project ON public.ae_record_types (tenant_id, project_id, key)
    WHERE status = 'active';

CREATE TABLE public.ae_changes (
    tenant_id   uuid             NOT NULL,
    id          text COLLATE "C" NOT NULL,
    project_id  text COLLATE "C" NOT NULL,
    title       text COLLATE "C" NOT NULL,
    description text,
    status      text             NOT NULL,
    compensates text COLLATE "C",
    op_count    integer          NOT NULL,
    created_at  timestamptz      NOT NULL,
    updated_at  timestamptz      NOT NULL,
    merged_at   timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_changes_project UNIQUE (tenant_id, project_id, id),
    CONSTRAINT ae_changes_d2_project
        FOREIGN KEY (tenant_id, project_id) REFERENCES public.ae_projects (tenant_id, id),
    CONSTRAINT ae_changes_compensates
        FOREIGN KEY (tenant_id, project_id, compensates) REFERENCES public.ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_changes_status CHECK (status IN (
        'Draft', 'Implementing', 'WorkspaceRunning', 'Validating', 'ValidationFailed', 'Ready', 'Merged'
    )),
    CONSTRAINT ae_changes_e1_merged_at CHECK ((status = 'Merged') = (merged_at IS NOT NULL))
);
CREATE INDEX ae_changes_status ON public.ae_changes (tenant_id, status, id);
CREATE INDEX ae_changes_draft ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'Draft';
CREATE INDEX ae_changes_implementing ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'Implementing';
CREATE INDEX ae_changes_workspace_running ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'WorkspaceRunning';
CREATE INDEX ae_changes_validating ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'Validating';
CREATE INDEX ae_changes_validation_failed ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'ValidationFailed';
CREATE INDEX ae_changes_ready ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'Ready';
CREATE INDEX ae_changes_merged ON public.ae_changes (tenant_id, project_id, id) WHERE status = 'Merged';

CREATE TABLE public.ae_change_targets (
    tenant_id  uuid             NOT NULL,
    id         text COLLATE "C" NOT NULL,
    change_id  text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    type       text             NOT NULL,
    selector   json             NOT NULL,
    created_at timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_change_targets_change UNIQUE (tenant_id, change_id, id),
    CONSTRAINT ae_change_targets_p5_project
        FOREIGN KEY (tenant_id, project_id, change_id) REFERENCES public.ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_change_targets_d9_type CHECK (
        type IN ('form', 'workflow', 'rule', 'record_type', 'script', 'file')
    ),
    CONSTRAINT ae_change_targets_d9_selector CHECK (public.ae_is_selector(type, selector))
);

-- field is the field that an op affects, gives the name that it adds; record_type_version is the version of the record
-- type when the op was added.

CREATE TABLE public.ae_patch_ops (
    tenant_id           uuid             NOT NULL,
    id                  text COLLATE "C" NOT NULL,
    change_id           text COLLATE "C" NOT NULL,
    project_id          text COLLATE "C" NOT NULL,
    target_id           text COLLATE "C" NOT NULL,
    position            integer          NOT NULL,
    op_type             text             NOT NULL,
    payload             json             NOT NULL,
    record_type_key     text COLLATE "C",
    field               text COLLATE "C",
    gives               text COLLATE "C",
    record_type_version integer,
    applied_version     integer,
    previous_snapshot   json,
    executed_at         timestamptz,
    created_at          timestamptz      NOT NULL,
    turn                integer          NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT ae_patch_ops_position UNIQUE (tenant_id, change_id, position),
    CONSTRAINT ae_patch_ops_p5_project
        FOREIGN KEY (tenant_id, project_id, change_id) REFERENCES public.ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_patch_ops_p5_target
        FOREIGN KEY (tenant_id, change_id, target_id) REFERENCES public.ae_change_targets (tenant_id, change_id, id),
    CONSTRAINT ae_patch_ops_p1_record_type
        FOREIGN KEY (tenant_id, project_id, record_type_key)
        REFERENCES public.ae_record_types (tenant_id, project_id, key),
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
        op_type NOT IN ('add_field', 'set_field') OR public.ae_is_field_type(payload -> 'definition' ->> 'type')
    )
);
CREATE UNIQUE INDEX ae_patch_ops_g1_field ON public.ae_patch_ops (tenant_id, change_id, record_type_key, field, turn)
    WHERE executed_at IS NULL;
CREATE UNIQUE INDEX ae_patch_ops_g1_gives ON public.ae_patch_ops (tenant_id, change_id, record_type_key, gives)
    WHERE executed_at IS NULL AND gives IS NOT NULL;
CREATE INDEX ae_patch_ops_executed
    ON public.ae_patch_ops (tenant_id, project_id, record_type_key, applied_version, position)
    WHERE applied_version IS NOT NULL;

CREATE TABLE public.ae_snapshots (
    tenant_id       uuid             NOT NULL,
    change_id       text COLLATE "C" NOT NULL,
    record_type_key text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    version         integer          NOT NULL,
    schema          json,
    created_at      timestamptz      NOT NULL,
    CONSTRAINT ae_snapshots_d5_one_per_change PRIMARY KEY (tenant_id, change_id, record_type_key),
    CONSTRAINT ae_snapshots_d6_project
        FOREIGN KEY (tenant_id, project_id, change_id) REFERENCES public.ae_changes (tenant_id, project_id, id),
    CONSTRAINT ae_snapshots_d6_record_type
        FOREIGN KEY (tenant_id, project_id, record_type_key)
        REFERENCES public.ae_record_types (tenant_id, project_id, key)
);
CREATE INDEX ae_snapshots_version ON public.ae_snapshots (tenant_id, project_id, record_type_key, version);

-- P6: a base type exists before the type that names it, so that no two types name each other.

CREATE FUNCTION public.ae_check_base_type() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.ae_record_types t
    WHERE t.tenant_id = NEW.tenant_id AND t.project_id = NEW.project_id AND t.key = NEW.base_type;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'P6: the base type % of % is not in its project', NEW.base_type, NEW.key
            USING ERRCODE = 'AE004';
    END IF;
    RETURN NEW;
END $$;

-- P6: the project and the first schema of a record type never change. E6: its schema changes through a change that has
-- kept a snapshot of it, one version at a time.

CREATE FUNCTION public.ae_check_record_type() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.tenant_id, NEW.id, NEW.project_id, NEW.key, NEW.base_type, NEW.initial_schema::pg_catalog.text,
            NEW.created_at)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.project_id, OLD.key, OLD.base_type,
            OLD.initial_schema::pg_catalog.text, OLD.created_at)
    THEN
        RAISE EXCEPTION 'P6: the id, project, key, base type and first schema of % never change', OLD.key
            USING ERRCODE = 'AE004';
    END IF;
    IF (NEW.schema::pg_catalog.text, NEW.version, NEW.changed_by)
        IS NOT DISTINCT FROM (OLD.schema::pg_catalog.text, OLD.version, OLD.changed_by)
    THEN
        RETURN NEW;
    END IF;
    IF NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'E6: a new schema of % is its version %, not %', OLD.key, OLD.version + 1, NEW.version
            USING ERRCODE = 'AE004';
    END IF;
    PERFORM FROM public.ae_snapshots s
    WHERE s.tenant_id = NEW.tenant_id AND s.change_id = NEW.changed_by AND s.record_type_key = NEW.key;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'E6: the schema of % is changed by a change that has a snapshot of it', OLD.key
            USING ERRCODE = 'AE004';
    END IF;
    RETURN NEW;
END $$;

-- E6: a snapshot has the version and schema of its record type. It may lack the schema, which is then replayed.

CREATE FUNCTION public.ae_check_snapshot() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.ae_record_types t
    WHERE t.tenant_id = NEW.tenant_id AND t.project_id = NEW.project_id AND t.key = NEW.record_type_key
        AND (t.version <> NEW.version OR t.schema::pg_catalog.jsonb <> NEW.schema::pg_catalog.jsonb);
    IF FOUND THEN
        RAISE EXCEPTION 'E6: a snapshot of % has its version and its schema', NEW.record_type_key
            USING ERRCODE = 'AE004';
    END IF;
    RETURN NULL;
END $$;

-- E7: a derived type that declares a field which its base type requires must require it too.

CREATE FUNCTION public.ae_check_required_fields() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    weakened record;
BEGIN
    WITH RECURSIVE ancestors (key, base_type, schema) AS (
        SELECT t.key, t.base_type, t.schema
        FROM public.ae_record_types t
        WHERE t.tenant_id = NEW.tenant_id AND t.project_id = NEW.project_id AND t.key = NEW.base_type
        UNION ALL
        SELECT t.key, t.base_type, t.schema
        FROM ancestors a
        JOIN public.ae_record_types t
            ON t.tenant_id = NEW.tenant_id AND t.project_id = NEW.project_id AND t.key = a.base_type
    )
    SELECT a.key, own.field ->> 'name' AS field INTO weakened
    FROM ancestors a
    CROSS JOIN json_array_elements(a.schema -> 'fields') inherited (field)
    JOIN json_array_elements(NEW.schema -> 'fields') own (field) ON own.field ->> 'name' = inherited.field ->> 'name'
    WHERE inherited.field ->> 'required' = 'true' AND own.field ->> 'required' IS DISTINCT FROM 'true'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'E7: % requires the field %, which % would not', weakened.key, weakened.field, NEW.key
            USING ERRCODE = 'AE004';
    END IF;
    RETURN NULL;
END $$;

-- S1: the status of a change follows its transitions. E1: the last status is Merged.

CREATE FUNCTION public.ae_check_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reviewed pg_catalog.bool;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'Draft' THEN
            RAISE EXCEPTION 'S1: a change begins as Draft, not as %', NEW.status USING ERRCODE = 'AE004';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.status = 'Merged' AND NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'E1: the change % is merged, and never changes again', OLD.id USING ERRCODE = 'AE004';
    END IF;
    IF (NEW.tenant_id, NEW.id, NEW.project_id) IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.project_id) THEN
        RAISE EXCEPTION 'P5: the id and the project of the change % never change', OLD.id USING ERRCODE = 'AE004';
    END IF;
    IF NEW.status = OLD.status THEN
        RETURN NEW;
    END IF;
    IF (OLD.status, NEW.status) NOT IN (
        ('Draft', 'Implementing'), ('Draft', 'Validating'), ('Draft', 'ValidationFailed'), ('Draft', 'Merged'),
        ('Implementing', 'WorkspaceRunning'), ('Implementing', 'Validating'), ('Implementing', 'Draft'),
        ('WorkspaceRunning', 'Validating'), ('WorkspaceRunning', 'Implementing'),
        ('Validating', 'Ready'), ('Validating', 'ValidationFailed'),
        ('ValidationFailed', 'Implementing'), ('ValidationFailed', 'Validating'),
        ('Ready', 'Merged'), ('Ready', 'ValidationFailed')
    ) THEN
        RAISE EXCEPTION 'S1: a change does not go from % to %', OLD.status, NEW.status USING ERRCODE = 'AE004';
    END IF;
    IF OLD.status = 'Draft' AND NEW.status = 'Merged' THEN
        SELECT p.require_review INTO reviewed
        FROM public.ae_projects p
        WHERE p.tenant_id = NEW.tenant_id AND p.id = NEW.project_id;
        IF reviewed IS NOT FALSE THEN
            RAISE EXCEPTION 'S1: the project of % requires review: it is not merged from Draft', OLD.id
                USING ERRCODE = 'AE004';
        END IF;
    END IF;
    RETURN NEW;
END $$;

-- E1, G2: a change takes targets only as Draft. Its status is locked until the end of the transaction.

CREATE FUNCTION public.ae_check_target() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change_status pg_catalog.text;
BEGIN
    SELECT c.status INTO change_status
    FROM public.ae_changes c
    WHERE c.tenant_id = NEW.tenant_id AND c.id = NEW.change_id
    FOR SHARE;
    IF change_status = 'Merged' THEN
        RAISE EXCEPTION 'E1: the change % is merged, and takes no target', NEW.change_id USING ERRCODE = 'AE004';
    ELSIF change_status <> 'Draft' THEN
        RAISE EXCEPTION 'G2: a change takes targets as Draft, not as %', change_status USING ERRCODE = 'AE004';
    END IF;
    RETURN NEW;
END $$;

-- E2, E3: an executed op never changes, and is never deleted. E1, G2: ops are added and deleted only while their change
-- is worked on. P1: an op concerns what its target names.

CREATE FUNCTION public.ae_check_op() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    op            public.ae_patch_ops := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    change_status pg_catalog.text;
    target        public.ae_change_targets;
BEGIN
    IF TG_OP = 'DELETE' AND public.ae_is_maintenance() THEN
        RETURN OLD;
    ELSIF TG_OP = 'DELETE' AND OLD.executed_at IS NOT NULL THEN
        RAISE EXCEPTION 'E3: the op % is executed, and cannot be deleted', OLD.id USING ERRCODE = 'AE004';
    ELSIF TG_OP = 'INSERT' AND NEW.executed_at IS NOT NULL THEN
        RAISE EXCEPTION 'E2: the op % is new, and cannot be executed yet', NEW.id USING ERRCODE = 'AE004';
    END IF;
    SELECT c.status INTO change_status
    FROM public.ae_changes c
    WHERE c.tenant_id = op.tenant_id AND c.id = op.change_id
    FOR SHARE;
    IF change_status = 'Merged' THEN
        RAISE EXCEPTION 'E1: the change % is merged: its ops stay as they are', op.change_id USING ERRCODE = 'AE004';
    ELSIF change_status NOT IN ('Draft', 'Implementing', 'WorkspaceRunning', 'ValidationFailed') THEN
        RAISE EXCEPTION 'G2: the ops of a change stay as they are while it is %', change_status
            USING ERRCODE = 'AE004';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    SELECT t.* INTO target
    FROM public.ae_change_targets t
    WHERE t.tenant_id = NEW.tenant_id AND t.change_id = NEW.change_id AND t.id = NEW.target_id;
    IF FOUND AND NOT coalesce(
        CASE NEW.op_type
            WHEN 'edit_file' THEN target.type = 'file' AND target.selector ->> 'file_path' = NEW.payload ->> 'file_path'
            ELSE target.type = 'record_type' AND target.selector ->> 'record_type_key' = NEW.record_type_key
        END, false)
    THEN
        RAISE EXCEPTION 'P1: the op % is not about what its target % names', NEW.id, NEW.target_id
            USING ERRCODE = 'AE004';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION public.ae_check_execution() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.executed_at IS NOT NULL THEN
        RAISE EXCEPTION 'E2: the op % is executed, and never changes again', OLD.id USING ERRCODE = 'AE004';
    END IF;
    IF (NEW.tenant_id, NEW.id, NEW.change_id, NEW.project_id, NEW.target_id, NEW.position, NEW.op_type,
            NEW.payload::pg_catalog.text, NEW.record_type_key, NEW.field, NEW.gives, NEW.record_type_version,
            NEW.created_at)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.change_id, OLD.project_id, OLD.target_id, OLD.position,
            OLD.op_type, OLD.payload::pg_catalog.text, OLD.record_type_key, OLD.field, OLD.gives,
            OLD.record_type_version, OLD.created_at)
    THEN
        RAISE EXCEPTION 'E2: what the op % says never changes: it is executed, or deleted', OLD.id
            USING ERRCODE = 'AE004';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER ae_base_type BEFORE INSERT ON public.ae_record_types
    FOR EACH ROW WHEN (NEW.base_type IS NOT NULL) EXECUTE FUNCTION public.ae_check_base_type();
CREATE TRIGGER ae_record_type BEFORE UPDATE ON public.ae_record_types
    FOR EACH ROW EXECUTE FUNCTION public.ae_check_record_type();
CREATE TRIGGER ae_required_fields AFTER INSERT OR UPDATE ON public.ae_record_types
    FOR EACH ROW WHEN (NEW.base_type IS NOT NULL) EXECUTE FUNCTION public.ae_check_required_fields();
CREATE TRIGGER ae_change BEFORE INSERT OR UPDATE ON public.ae_changes
    FOR EACH ROW EXECUTE FUNCTION public.ae_check_change();
CREATE TRIGGER ae_target BEFORE INSERT ON public.ae_change_targets
    FOR EACH ROW EXECUTE FUNCTION public.ae_check_target();
CREATE TRIGGER ae_op BEFORE INSERT OR DELETE ON public.ae_patch_ops
    FOR EACH ROW EXECUTE FUNCTION public.ae_check_op();
CREATE TRIGGER ae_execution BEFORE UPDATE ON public.ae_patch_ops
    FOR EACH ROW EXECUTE FUNCTION public.ae_check_execution();

-- G2, D5: targets and snapshots never change.

CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_change_targets
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_e6 AFTER INSERT ON public.ae_snapshots
    FOR EACH ROW EXECUTE FUNCTION public.ae_check_snapshot();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_snapshots
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();

-- Row-level security, also for the owner. A transaction reads rows of its tenant, and writes them only in an action. A
-- subquery is evaluated once for a statement, but costs more than the function costs for a row or two.

DO $$
DECLARE
    protected text;
BEGIN
    FOREACH protected IN ARRAY ARRAY[
        'ae_documents', 'ae_document_keys', 'ae_idempotency_keys', 'ae_budget_counters', 'ae_action_log',
        'ae_action_log_subjects', 'ae_action_log_principals', 'ae_action_log_words', 'ae_events', 'ae_outbox',
        'ae_projects', 'ae_record_types', 'ae_changes', 'ae_change_targets', 'ae_patch_ops', 'ae_snapshots'
    ] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', protected);
        EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', protected);
        EXECUTE format(
            'CREATE POLICY ae_read ON public.%I FOR SELECT USING (tenant_id = (SELECT public.ae_tenant()))', protected
        );
        EXECUTE format(
            'CREATE POLICY ae_insert ON public.%I FOR INSERT'
            ' WITH CHECK (tenant_id = public.ae_writing_tenant())', protected
        );
        EXECUTE format(
            'CREATE POLICY ae_update ON public.%I FOR UPDATE'
            ' USING (tenant_id = (SELECT public.ae_writing_tenant()))', protected
        );
        EXECUTE format(
            'CREATE POLICY ae_delete ON public.%I FOR DELETE'
            ' USING (tenant_id = (SELECT public.ae_writing_tenant()))', protected
        );
        EXECUTE format(
            'CREATE POLICY ae_maintenance ON public.%I TO CURRENT_USER USING ((SELECT public.ae_is_maintenance()))',
            protected
        );
    END LOOP;
END $$;

-- Only the owner can use the tables of tenants and of signing keys: the app role reaches them through functions.

ALTER TABLE public.ae_tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_tenants TO CURRENT_USER USING (true);
ALTER TABLE public.ae_signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_signing_keys TO CURRENT_USER USING (true);
ALTER TABLE public.ae_relays ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_relays FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_relays TO CURRENT_USER USING (true);
ALTER TABLE public.ae_outbox_returns ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_outbox_returns FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_outbox_returns TO CURRENT_USER USING (true);
ALTER TABLE public.ae_maintenance ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_maintenance FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_maintenance TO CURRENT_USER USING (true);

-- Functions that run as the owner use the rows of all tenants in these tables, to purge keys and to deliver events.

CREATE POLICY ae_owner ON public.ae_idempotency_keys TO CURRENT_USER USING (true);
CREATE POLICY ae_owner ON public.ae_budget_counters TO CURRENT_USER USING (true);
CREATE POLICY ae_owner ON public.ae_outbox TO CURRENT_USER USING (true);
CREATE POLICY ae_owner ON public.ae_events FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY ae_owner ON public.ae_document_keys FOR SELECT TO CURRENT_USER USING (true);

-- Claim an idempotency key, in the tenant's transaction. `wait` is in milliseconds; `status` is `claimed`, `replay` or
-- `mismatch`. If the key is still held when the wait is over, raise a lock timeout (55P03).

CREATE FUNCTION public.ae_claim(
    claim_action text, claim_key text, claim_fingerprint text, claim_replaces text, wait integer,
    OUT status text, OUT result text, OUT approval_id text, OUT asked text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_tenant pg_catalog.uuid := current_setting('app.tenant_id')::pg_catalog.uuid;
    usual_wait  text := current_setting('lock_timeout');
    used        record;
BEGIN
    PERFORM set_config('lock_timeout', greatest(wait, 1)::text, true);
    LOOP
        INSERT INTO public.ae_idempotency_keys (tenant_id, action, key, fingerprint)
        VALUES (this_tenant, claim_action, claim_key, claim_fingerprint)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            status := 'claimed';
            EXIT;
        END IF;
        SELECT k.fingerprint, k.result, k.approval_id, k.expires_at, k.asked INTO used
        FROM public.ae_idempotency_keys k
        WHERE k.tenant_id = this_tenant AND k.action = claim_action AND k.key = claim_key;
        IF FOUND AND (used.expires_at <= clock_timestamp() OR used.approval_id = claim_replaces) THEN
            SELECT k.fingerprint, k.result, k.approval_id, k.expires_at, k.asked INTO used
            FROM public.ae_idempotency_keys k
            WHERE k.tenant_id = this_tenant AND k.action = claim_action AND k.key = claim_key
            FOR UPDATE;
            IF FOUND AND (used.expires_at <= clock_timestamp() OR used.approval_id = claim_replaces) THEN
                status := 'claimed';
                EXIT;
            END IF;
        END IF;
        -- If the row was deleted meanwhile, the key is free: try again.
        IF FOUND THEN
            IF used.fingerprint = claim_fingerprint THEN
                status := 'replay';
                result := used.result;
                approval_id := used.approval_id;
                asked := used.asked;
            ELSE
                status := 'mismatch';
            END IF;
            EXIT;
        END IF;
    END LOOP;
    PERFORM set_config('lock_timeout', usual_wait, true);
END $$;

-- Return how many rows of roles and of their settings have changed, in this transaction and since the connection was
-- last idle.

CREATE FUNCTION public.ae_role_changes() RETURNS bigint
LANGUAGE sql RETURN pg_stat_get_xact_tuples_updated('pg_catalog.pg_authid'::regclass)
    + pg_stat_get_xact_tuples_inserted('pg_catalog.pg_db_role_setting'::regclass)
    + pg_stat_get_xact_tuples_updated('pg_catalog.pg_db_role_setting'::regclass)
    + pg_stat_get_xact_tuples_deleted('pg_catalog.pg_db_role_setting'::regclass)
    + pg_stat_get_xact_tuples_inserted('pg_catalog.pg_auth_members'::regclass)
    + pg_stat_get_xact_tuples_deleted('pg_catalog.pg_auth_members'::regclass);

-- Check a transaction in which a handler's SQL has run, before the recorded rows are written. No SQL of the handler
-- runs after this. Its deferred triggers have run before; its cursors and temporary objects are removed here. `began`
-- is the time at which the transaction began, in microseconds: SQL that ends the transaction can begin another one, but
-- not at that time. A statement that SQL has prepared under one of the library's names would run instead of ours. In
-- another encoding the server would read a different text in our statements. A change of the app role (ALTER ROLE: its
-- password, the settings of its sessions) shows in the counters of this transaction.

CREATE FUNCTION public.ae_check_transaction(began bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The queries of held cursors would run at COMMIT. A table with pending trigger events cannot be dropped.
    IF EXISTS (SELECT FROM pg_cursors c WHERE c.name <> '') THEN
        EXECUTE 'CLOSE ALL';
    END IF;
    IF pg_my_temp_schema() <> 0 THEN
        EXECUTE 'DISCARD TEMP';
    END IF;
    IF began IS DISTINCT FROM (date_part('epoch', now()) * 1000000)::bigint THEN
        RAISE EXCEPTION 'the handler''s SQL has ended the transaction and begun another one; the pipeline does that'
            USING ERRCODE = 'AE005';
    ELSIF EXISTS (SELECT FROM pg_prepared_statements p WHERE p.from_sql AND starts_with(p.name, 'ae_')) THEN
        RAISE EXCEPTION 'the handler''s SQL has replaced statements that the library had prepared'
            USING ERRCODE = 'AE005';
    ELSIF current_setting('client_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the connection''s client_encoding is %, and has to be UTF8: the action log would be garbled',
            current_setting('client_encoding') USING ERRCODE = 'AE005';
    ELSIF public.ae_role_changes() > 0 THEN
        RAISE EXCEPTION 'the handler''s SQL has changed a role (ALTER ROLE): roles are for the owner to change'
            USING ERRCODE = 'AE005';
    END IF;
END $$;

-- Return what a handler's SQL has left in the connection after its transaction: the number of its prepared statements,
-- cursors, temporary objects and changes of roles; and the number of statements that the library and the driver have
-- prepared.

CREATE FUNCTION public.ae_left_behind(OUT by_sql bigint, OUT by_driver bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*) FILTER (WHERE p.from_sql), count(*) FILTER (WHERE NOT p.from_sql) INTO by_sql, by_driver
    FROM pg_prepared_statements p;
    by_sql := by_sql + public.ae_role_changes() + (SELECT count(*) FROM pg_cursors c WHERE c.name <> '');
    IF pg_my_temp_schema() <> 0 THEN
        by_sql := by_sql + (
            SELECT count(*)
            FROM pg_depend d
            WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = pg_my_temp_schema()
        );
    END IF;
END $$;

-- Return the position up to which the event log is complete: no transaction can still commit an event at a lower
-- position. A transaction that writes events holds a shared advisory lock, from before it takes positions until its
-- end. The lock's number is the newest position that the transaction saw, with 0x61656500 in the upper half. Positions
-- above the oldest such lock are not final yet. Only a later statement may read the events up to here.

CREATE FUNCTION public.ae_event_horizon() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint := coalesce(pg_sequence_last_value('public.ae_event_position'), 0);
    oldest bigint;
BEGIN
    SELECT min(((classid::bigint - 1634034944) << 32) + objid::bigint) INTO oldest
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint BETWEEN 1634034944 AND 1634035199
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RETURN least(newest, oldest);
END $$;

-- Calls of operators, outside any tenant. If a signing key is stored, they must be signed too.

CREATE FUNCTION public.ae_operate(what text, signature text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT public.ae_signed('operator|' || what, signature) THEN
        RAISE EXCEPTION '% is an operator''s call: its signature is missing or wrong', what USING ERRCODE = 'AE003';
    END IF;
END $$;

CREATE FUNCTION public.ae_find_tenant(wanted text, signature text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('find_tenant', signature);
    RETURN (SELECT t.tenant_id FROM public.ae_tenants t WHERE t.slug = wanted AND t.deleted_at IS NULL);
END $$;

CREATE FUNCTION public.ae_find_tenant_by_id(wanted uuid, signature text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('find_tenant_by_id', signature);
    RETURN (SELECT t.slug FROM public.ae_tenants t WHERE t.tenant_id = wanted AND t.deleted_at IS NULL);
END $$;

CREATE FUNCTION public.ae_delete_tenant(unwanted text, signature text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('delete_tenant|' || unwanted, signature);
    UPDATE public.ae_tenants t SET deleted_at = now() WHERE t.slug = unwanted AND t.deleted_at IS NULL;
    RETURN FOUND;
END $$;

-- Called for each unit of work. The answer reveals nothing about an existing tenant.

CREATE FUNCTION public.ae_is_deleted(tenant uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM public.ae_tenants t WHERE t.tenant_id = tenant AND t.deleted_at IS NOT NULL)
$$;

CREATE FUNCTION public.ae_create_tenant(new_id uuid, new_slug text, new_name text, signature text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('create_tenant', signature);
    INSERT INTO public.ae_tenants (tenant_id, slug, name) VALUES (new_id, new_slug, new_name)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

CREATE FUNCTION public.ae_list_tenants(signature text, later_than text DEFAULT NULL, most integer DEFAULT NULL)
RETURNS TABLE (tenant_id uuid, slug text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('list_tenants', signature);
    RETURN QUERY
        SELECT t.tenant_id, t.slug
        FROM public.ae_tenants t
        WHERE coalesce(t.deleted_at IS NULL, false) AND t.slug > coalesce(later_than, '')
        ORDER BY t.slug
        LIMIT most;
END $$;

-- Delete keys that have expired, from `since` on; all of them, if that is null. The caller keeps `until`, where the
-- next purge begins: while any transaction holds a snapshot, the index entries of deleted keys remain, and each purge
-- would read them all. A purge from the beginning finds keys that are committed below it later.

CREATE FUNCTION public.ae_purge_keys(
    most integer, signature text, since timestamptz DEFAULT NULL, OUT purged bigint, OUT until timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('purge_keys', signature);
    WITH expired AS MATERIALIZED (
        SELECT e.tenant_id, e.action, e.key, e.expires_at
        FROM public.ae_idempotency_keys e
        WHERE e.expires_at >= coalesce(since, '-infinity') AND e.expires_at <= now()
        ORDER BY e.expires_at
        LIMIT most
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM public.ae_idempotency_keys k
        USING expired
        WHERE k.tenant_id = expired.tenant_id AND k.action = expired.action AND k.key = expired.key
        RETURNING k.expires_at
    )
    SELECT count(*), max(gone.expires_at) INTO purged, until FROM gone;
    IF purged < most THEN
        until := now();
        WITH gone AS (
            DELETE FROM public.ae_budget_counters c
            WHERE c.ctid = ANY (ARRAY(
                SELECT o.ctid
                FROM public.ae_budget_counters o
                WHERE o.expires_at <= now()
                ORDER BY o.expires_at
                LIMIT most - purged
                FOR UPDATE SKIP LOCKED
            ))
            RETURNING 1
        )
        SELECT purged + count(*) INTO purged FROM gone;
    END IF;
END $$;

-- Calls of relays, for all tenants. They are calls of operators too.
--
-- A relay takes partitions of the lanes of a queue with advisory locks of its transaction, and keeps the transaction
-- open until it has settled. A relay that dies, or is silent for too long (idle_in_transaction_session_timeout), loses
-- the locks. Each query below sees the rows that were committed before it began, so that a partition is read after it
-- was locked, and after the horizon was read.

-- Return the events that are due in a partition, at the positions from `since` on. A query of one partition orders by
-- `lane & 63` too: under row-level security the planner does not infer that it is constant, and sorts the partition.

CREATE FUNCTION public.ae_outbox_due(of_queue text, partition integer, since bigint) RETURNS SETOF public.ae_outbox
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT o.*
    FROM public.ae_outbox o
    WHERE o.queue = of_queue AND (o.lane & 63) = partition AND o.position >= since AND o.dead_at IS NULL AND NOT o.held
        AND (o.due_at IS NULL OR o.due_at <= now())
        AND NOT EXISTS (
            SELECT FROM public.ae_outbox before
            WHERE before.queue = o.queue AND before.lane = o.lane AND before.tenant_id = o.tenant_id
                AND before.position < o.position
                AND NOT before.skipped
                AND (before.dead_at IS NOT NULL OR before.due_at IS NOT NULL OR before.held)
                AND (before.dead_at IS NOT NULL OR before.due_at > now() OR before.held)
        );
END;

-- Return the positions where a look at a queue begins, by partition (numbered from 1), followed by the number of
-- returns when they were found. Delivered events are deleted; but while any transaction holds a snapshot, their index
-- entries remain, and each look would read them all. The result is null if nothing is known: after a return, and if
-- positions have started again, as in a restored database.

CREATE FUNCTION public.ae_outbox_known(of_queue text, marks bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    returns_now bigint := (SELECT r.returns FROM public.ae_outbox_returns r WHERE r.queue = of_queue);
    newest      bigint := coalesce(pg_sequence_last_value('public.ae_event_position'), 0);
BEGIN
    IF cardinality(marks) = 65 AND marks[65] = returns_now
        AND (SELECT max(mark) <= newest + 1 FROM unnest(marks[1:64]) mark)
    THEN
        RETURN marks;
    END IF;
    RETURN array_fill((-9223372036854775808)::bigint, ARRAY[64]) || returns_now;
END $$;

-- Mark the events that are held back, in parts of partitions: `behind` is an array of {partition, since, until}. An
-- event that waits itself is not marked: most lanes have one such event at most, and each would need a look-up of the
-- lane's first. The first event of each lane that holds back others is locked meanwhile: a call that delivers, redrives
-- or skips it waits for this transaction, and then sees these marks. Nothing is marked behind a first event that
-- another transaction is changing, and events that another relay is marking are left to it: marking never waits. The
-- first event is the first of an index: the planner, which assumes that no row is marked, may estimate that reading and
-- sorting all is as cheap.

CREATE FUNCTION public.ae_outbox_hold(of_queue text, behind json) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT b.partition, b.since, b.until
        FROM json_to_recordset(behind) b (partition integer, since bigint, until bigint)
        ORDER BY b.partition
    LOOP
        WITH met AS MATERIALIZED (
            SELECT o.tenant_id, o.lane, o.position
            FROM public.ae_outbox o
            WHERE o.queue = of_queue AND (o.lane & 63) = part.partition
                AND o.position BETWEEN part.since AND part.until AND o.dead_at IS NULL AND NOT o.held
                AND (o.due_at IS NULL OR o.due_at <= clock_timestamp())
        ), before AS MATERIALIZED (
            SELECT lanes.tenant_id, lanes.lane, first.position
            FROM (SELECT DISTINCT met.tenant_id, met.lane FROM met) lanes, LATERAL (
                SELECT o.position
                FROM public.ae_outbox o
                WHERE o.queue = of_queue AND o.lane = lanes.lane AND o.tenant_id = lanes.tenant_id AND NOT o.skipped
                    AND (o.dead_at IS NOT NULL OR o.due_at IS NOT NULL OR o.held)
                    AND (o.dead_at IS NOT NULL OR o.due_at > clock_timestamp() OR o.held)
                ORDER BY o.position
                LIMIT 1
                FOR SHARE SKIP LOCKED
            ) first
        ), behind AS MATERIALIZED (
            SELECT still.row
            FROM met
            JOIN before ON before.tenant_id = met.tenant_id AND before.lane = met.lane
            -- There is no other condition: with one, the planner would walk along the index of pending events.
            CROSS JOIN LATERAL (
                SELECT o.ctid AS row, o.dead_at IS NULL AND NOT o.held AS is_pending
                FROM public.ae_outbox o
                WHERE o.tenant_id = met.tenant_id AND o.position = met.position AND o.queue = of_queue
                LIMIT 1
                FOR UPDATE SKIP LOCKED
            ) still
            WHERE met.position > before.position AND still.is_pending
        )
        -- The rows are locked, so that their ctid stays valid. For a join the planner, which does not know how few they
        -- are, might read the whole table.
        UPDATE public.ae_outbox o
        SET held = true
        WHERE o.ctid = ANY(ARRAY(SELECT behind.row FROM behind));
    END LOOP;
END $$;

-- The events before these in their lanes hold back nothing any more, or are being delivered. Up to a hundred events of
-- each lane lose their mark, up to and including the next one that waits, or up to a dead letter. They get a due_at in
-- the past instead, so that the events behind them lose their marks when these are taken or delivered. Return how many
-- there were.

CREATE FUNCTION public.ae_outbox_release(of_queue text, tenants uuid[], lanes bigint[], positions bigint[])
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released bigint;
BEGIN
    WITH free AS MATERIALIZED (
        SELECT next.tenant_id, next.position
        FROM (
            SELECT given.tenant_id, given.lane, min(given.position) AS position
            FROM unnest(tenants, lanes, positions) given (tenant_id, lane, position)
            GROUP BY given.tenant_id, given.lane
        ) first, LATERAL (
            SELECT few.*, count(*) FILTER (WHERE few.holds) OVER (
                ORDER BY few.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS holding
            FROM (
                SELECT o.tenant_id, o.position, o.held, o.dead_at IS NOT NULL OR o.due_at > clock_timestamp() AS holds
                FROM public.ae_outbox o
                WHERE o.queue = of_queue AND o.lane = first.lane AND o.tenant_id = first.tenant_id
                    AND o.position > first.position AND NOT o.skipped
                    AND (o.dead_at IS NOT NULL OR o.due_at IS NOT NULL OR o.held)
                ORDER BY o.position
                LIMIT 100
            ) few
        ) next
        WHERE next.held AND next.holding = 0
    )
    UPDATE public.ae_outbox o
    SET held = false, due_at = coalesce(o.due_at, now())
    FROM free
    WHERE o.tenant_id = free.tenant_id AND o.position = free.position AND o.queue = of_queue AND o.dead_at IS NULL;
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END $$;

-- Return up to `most` events that are due, one partition after the other. The limits keep the joins nested.

CREATE FUNCTION public.ae_outbox_batch(
    of_queue text, partitions integer[], marks bigint[], horizon bigint, most integer
) RETURNS public.ae_outbox[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT o.due
        FROM unnest(partitions) partition, LATERAL (
            SELECT due
            FROM public.ae_outbox_due(of_queue, partition, marks[partition + 1]) due
            WHERE due.position <= horizon
            ORDER BY due.lane & 63, due.position
            LIMIT most
        ) o
        LIMIT most
    );
END $$;

-- Release the events behind those of these events that have waited, or have been released themselves. The others have
-- not held back any event.

CREATE FUNCTION public.ae_outbox_release_behind(of_queue text, batch public.ae_outbox[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waited record;
BEGIN
    SELECT array_agg(o.tenant_id) AS tenants, array_agg(o.lane) AS lanes, array_agg(o.position) AS positions INTO waited
    FROM unnest(batch) o
    WHERE o.due_at IS NOT NULL;
    IF waited.lanes IS NULL THEN
        RETURN 0;
    END IF;
    RETURN public.ae_outbox_release(of_queue, waited.tenants, waited.lanes, waited.positions);
END $$;

-- Release the events behind skipped ones that have a due_at (see ae_tenant_skip).

CREATE FUNCTION public.ae_outbox_release_skipped(of_queue text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    skipped public.ae_outbox[];
BEGIN
    WITH chosen AS MATERIALIZED (
        SELECT o.ctid AS row
        FROM public.ae_outbox o
        WHERE o.queue = of_queue AND o.skipped AND o.due_at IS NOT NULL
        LIMIT 100
        FOR UPDATE SKIP LOCKED
    ), changed AS (
        UPDATE public.ae_outbox o
        SET due_at = NULL
        WHERE o.ctid = ANY(ARRAY(SELECT chosen.row FROM chosen))
        RETURNING o
    )
    SELECT array_agg(changed.o) INTO skipped FROM changed;
    IF skipped IS NOT NULL THEN
        PERFORM public.ae_outbox_release_after(of_queue, skipped);
    END IF;
END $$;

-- Take events that are due. The first row describes the look: the positions where the next one begins (see
-- ae_outbox_known), and the events that may be held back (see ae_outbox_hold). These are marked here if there is
-- nothing to deliver, and otherwise once the batch is settled, so that a redrive need not wait for a publisher.

CREATE FUNCTION public.ae_outbox_take(
    most integer, most_partitions integer, of_queue text, known bigint[], signature text
) RETURNS TABLE (
    attempts integer, "position" bigint, id text, tenant_id text, type text, subject text, payload text, action text,
    action_id text, actor_type text, actor_id text, occurred_at bigint, version integer, on_behalf_of text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    horizon   bigint;
    locks     integer := CASE of_queue WHEN 'events' THEN 0 WHEN 'workflows' THEN 128 WHEN 'triggers' THEN 256 END;
    first     integer := floor(random() * 64);
    marks     bigint[];
    behind    json[] := '{}';
    candidate record;
    locked    integer[] := '{}';
    batch     public.ae_outbox[] := '{}';
BEGIN
    PERFORM public.ae_operate('relay', signature);
    horizon := public.ae_event_horizon();
    marks := public.ae_outbox_known(of_queue, known);
    IF marks IS DISTINCT FROM known THEN
        PERFORM public.ae_outbox_release_skipped(of_queue);
    END IF;
    -- Begin with a random partition, so that each gets its turn, and look at as many as are needed.
    FOR candidate IN
        SELECT turn.partition, pending.position AS pending, head.position AS due
        FROM generate_series(first, first + 63) number
        CROSS JOIN LATERAL (SELECT number & 63) turn (partition)
        LEFT JOIN LATERAL (
            SELECT o.position
            FROM public.ae_outbox o
            WHERE o.queue = of_queue AND (o.lane & 63) = turn.partition AND o.dead_at IS NULL AND NOT o.held
                AND o.position BETWEEN marks[turn.partition + 1] AND horizon
            ORDER BY o.lane & 63, o.position
            LIMIT 1
        ) pending ON true
        LEFT JOIN LATERAL (
            SELECT due.position
            FROM public.ae_outbox_due(of_queue, turn.partition, pending.position) due
            WHERE due.position <= horizon
            ORDER BY due.lane & 63, due.position
            LIMIT 1
        ) head ON true
    LOOP
        -- Events that commit later have positions above the horizon.
        marks[candidate.partition + 1] :=
            coalesce(candidate.pending, greatest(marks[candidate.partition + 1], horizon + 1));
        IF candidate.pending < coalesce(candidate.due, horizon + 1) THEN
            behind := behind || json_build_object(
                'partition', candidate.partition, 'since', candidate.pending, 'until', coalesce(candidate.due, horizon)
            );
        END IF;
        IF candidate.due IS NOT NULL AND pg_try_advisory_xact_lock(1634037602, locks + candidate.partition) THEN
            locked := locked || candidate.partition;
            EXIT WHEN cardinality(locked) >= most_partitions;
        END IF;
    END LOOP;
    RETURN QUERY SELECT cardinality(locked), NULL::bigint, marks::text, NULL, NULL, NULL, array_to_json(behind)::text,
        NULL, NULL, NULL, NULL, NULL::bigint, NULL::integer, NULL;
    -- An event that has returned since the marks were found may be before them. The next look must begin before it.
    IF locked <> '{}' AND marks[65] = (SELECT r.returns FROM public.ae_outbox_returns r WHERE r.queue = of_queue) THEN
        batch := public.ae_outbox_batch(of_queue, locked, marks, horizon, most);
        -- An event that was held back is taken with the one that held it, once that one is due.
        IF public.ae_outbox_release_behind(of_queue, batch) > 0 THEN
            batch := public.ae_outbox_batch(of_queue, locked, marks, horizon, most);
        END IF;
    END IF;
    RETURN QUERY
        SELECT e.attempts, e.position, e.id::text, e.tenant_id::text, e.type, e.subject, e.payload::text, e.action,
            e.action_id::text, e.actor_type, e.actor_id, (date_part('epoch', e.occurred_at) * 1000000)::bigint,
            e.version, e.on_behalf_of::text
        -- The event whose payload reaches 4 MiB is the last one.
        FROM (
            SELECT taken.*, sum(taken.bytes) OVER (ROWS UNBOUNDED PRECEDING) - taken.bytes AS bytes_before
            FROM (
                SELECT o.attempts, found.*, octet_length(found.payload::text) AS bytes
                FROM unnest(batch) o, LATERAL (
                    SELECT each.*
                    FROM public.ae_events each
                    WHERE each.tenant_id = o.tenant_id AND each.position = o.position
                    LIMIT 1
                ) found
            ) taken
        ) e
        WHERE e.bytes_before < 4194304;
    IF NOT FOUND THEN
        PERFORM public.ae_outbox_hold(of_queue, array_to_json(behind));
        IF locked <> '{}' THEN
            -- Another relay was faster, or a handler's own SQL has inserted a row without an event.
            WITH gone AS (
                DELETE FROM public.ae_outbox o
                WHERE o.queue = of_queue AND (o.lane & 63) = ANY(locked) AND o.dead_at IS NULL AND NOT o.held
                    AND o.position <= horizon
                    AND NOT EXISTS (
                        SELECT FROM public.ae_events e WHERE e.tenant_id = o.tenant_id AND e.position = o.position
                    )
                RETURNING o
            )
            SELECT array_agg(gone.o) INTO batch FROM gone;
            PERFORM public.ae_outbox_release_behind(of_queue, batch);
        END IF;
    END IF;
END $$;

CREATE FUNCTION public.ae_outbox_settle(
    delivered_to uuid[], delivered bigint[], failed json, behind json, of_queue text, signature text
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waited public.ae_outbox[];
BEGIN
    PERFORM public.ae_operate('relay', signature);
    WITH gone AS (
        DELETE FROM public.ae_outbox o
        USING unnest(delivered_to, delivered) done (tenant_id, position)
        WHERE o.tenant_id = done.tenant_id AND o.position = done.position AND o.queue = of_queue
        RETURNING CASE WHEN o.due_at IS NOT NULL THEN o END AS waited
    )
    SELECT array_agg(gone.waited) INTO waited FROM gone WHERE (gone.waited).due_at IS NOT NULL;
    UPDATE public.ae_outbox o
    SET attempts = o.attempts + f.counts::integer,
        reason = f.reason,
        due_at = clock_timestamp() + f.retry_in * interval '1 second',
        dead_at = CASE WHEN f.retry_in IS NULL THEN clock_timestamp() END,
        event_id = CASE WHEN f.retry_in IS NULL THEN (
            SELECT e.id FROM public.ae_events e WHERE e.tenant_id = o.tenant_id AND e.position = o.position
        ) END
    FROM json_to_recordset(failed) f (
        tenant_id uuid, position bigint, reason text, retry_in double precision, counts boolean
    )
    WHERE o.tenant_id = f.tenant_id AND o.position = f.position AND o.queue = of_queue AND o.dead_at IS NULL;
    -- First the statements that may wait for others, and then the marks, which wait for none.
    PERFORM public.ae_outbox_release_behind(of_queue, waited);
    PERFORM public.ae_outbox_hold(of_queue, behind);
END $$;

-- Return the number of seconds until an event may be due; 0 for now, null if none is known.

CREATE FUNCTION public.ae_outbox_next(of_queue text, known bigint[], signature text) RETURNS double precision
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint := coalesce(pg_sequence_last_value('public.ae_event_position'), 0);
    marks  bigint[];
BEGIN
    PERFORM public.ae_operate('relay', signature);
    marks := public.ae_outbox_known(of_queue, known);
    IF EXISTS (
        SELECT
        FROM generate_series(0, 63) partition, LATERAL (
            SELECT
            FROM public.ae_outbox_due(of_queue, partition, marks[partition + 1]) due
            WHERE due.position <= newest
            LIMIT 1
        ) head
    ) THEN
        RETURN 0;
    END IF;
    RETURN (
        SELECT greatest(0, extract(epoch FROM min(waiting.due_at) - clock_timestamp()))
        FROM public.ae_outbox waiting
        WHERE waiting.queue = of_queue AND waiting.dead_at IS NULL AND waiting.due_at > now()
    );
END $$;

CREATE FUNCTION public.ae_relay_heartbeat(beat json, signature text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    UPDATE public.ae_relays r
    SET seen_at = told.seen_at, delivered = told.delivered, failed = told.failed, rate = told.rate, error = told.error
    FROM json_populate_record(NULL::public.ae_relays, beat) told
    WHERE r.id = told.id;
    IF NOT FOUND THEN
        INSERT INTO public.ae_relays
        SELECT * FROM json_populate_record(NULL::public.ae_relays, beat)
        ON CONFLICT (id) DO NOTHING;
        DELETE FROM public.ae_relays r WHERE r.seen_at < clock_timestamp() - interval '1 day';
    END IF;
END $$;

-- Return how much there is in a queue. Each number is counted up to 10 000, which means that many or more. `known` has
-- the positions where looks begin (see ae_outbox_known).

CREATE FUNCTION public.ae_relay_status(of_queue text, signature text, known bigint[] DEFAULT NULL) RETURNS TABLE (
    pending bigint, waiting bigint, dead bigint, skipped bigint, held bigint, oldest timestamptz, relays json
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most  bigint := 10000;
    marks bigint[];
    free  bigint;
BEGIN
    PERFORM public.ae_operate('relay', signature);
    marks := public.ae_outbox_known(of_queue, known);
    SELECT count(*) INTO free
    FROM (
        SELECT
        FROM generate_series(0, 63) partition, LATERAL (
            SELECT
            FROM public.ae_outbox o
            WHERE o.queue = of_queue AND (o.lane & 63) = partition AND o.dead_at IS NULL AND NOT o.held
                AND o.position >= marks[partition + 1]
            LIMIT most
        ) found
        LIMIT most
    ) counted;
    SELECT count(*) INTO held
    FROM (SELECT FROM public.ae_outbox o WHERE o.queue = of_queue AND o.held LIMIT most) counted;
    pending := least(free + held, most);
    SELECT count(*) INTO waiting
    FROM (
        SELECT
        FROM public.ae_outbox o
        WHERE o.queue = of_queue AND o.dead_at IS NULL AND o.due_at IS NOT NULL AND o.due_at > clock_timestamp()
        -- The order makes the planner choose the index of the queue, not that of a tenant.
        ORDER BY o.due_at
        LIMIT most
    ) counted;
    SELECT count(*) INTO dead
    FROM (
        SELECT FROM public.ae_outbox o WHERE o.queue = of_queue AND o.dead_at IS NOT NULL AND NOT o.skipped LIMIT most
    ) counted;
    SELECT count(*) INTO skipped
    FROM (SELECT FROM public.ae_outbox o WHERE o.queue = of_queue AND o.skipped LIMIT most) counted;
    SELECT min(e.occurred_at) INTO oldest
    FROM (
        SELECT first.tenant_id, first.position
        FROM (
            SELECT o.tenant_id, o.position
            FROM generate_series(0, 63) partition, LATERAL (
                SELECT found.tenant_id, found.position
                FROM public.ae_outbox found
                WHERE found.queue = of_queue AND (found.lane & 63) = partition AND found.dead_at IS NULL
                    AND NOT found.held AND found.position >= marks[partition + 1]
                ORDER BY found.lane & 63, found.position
                LIMIT 1
            ) o
            UNION ALL
            (
                SELECT o.tenant_id, o.position
                FROM public.ae_outbox o
                WHERE o.queue = of_queue AND o.held
                ORDER BY o.position
                LIMIT 1
            )
        ) first
        ORDER BY first.position
        LIMIT 1
    ) first, LATERAL (
        SELECT found.occurred_at
        FROM public.ae_events found
        WHERE found.tenant_id = first.tenant_id AND found.position = first.position
        LIMIT 1
    ) e;
    SELECT coalesce(json_agg(r ORDER BY r.started_at), '[]') INTO relays
    FROM public.ae_relays r
    WHERE r.queue = of_queue AND r.seen_at > clock_timestamp() - interval '1 minute';
    RETURN NEXT;
END $$;

-- Return the open approvals and active schedules of all tenants, counted up to `most` each. Ids begin with their time.

CREATE FUNCTION public.ae_backlog(most integer, signature text) RETURNS TABLE (
    approvals bigint, oldest text, schedules bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_key text := 'ae_approvals/open_until:["'
        || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US');
BEGIN
    PERFORM public.ae_operate('relay', signature);
    RETURN QUERY
        SELECT count(*), min(waiting.id),
            (
                SELECT count(*)
                FROM (
                    SELECT
                    FROM public.ae_document_keys k
                    WHERE k.key = 'ae_triggers/status,type:["active","schedule"]'
                    LIMIT most
                ) active
            )
        FROM (
            SELECT k.id
            FROM public.ae_document_keys k
            WHERE k.key >= 'ae_approvals/open_until:' AND k.key < 'ae_approvals/open_until;' AND k.key > now_key
            ORDER BY k.key
            LIMIT most
        ) waiting;
END $$;

CREATE FUNCTION public.ae_dead_letters(
    later_than uuid, most integer, of_queue text, signature text
) RETURNS TABLE (
    attempts integer, reason text, dead_at timestamptz, skipped boolean, id uuid, tenant_id uuid, type text,
    subject text, payload text, action text, action_id uuid, actor_type text, actor_id text, occurred_at timestamptz,
    version integer, on_behalf_of text
)
-- Without bitmap scans: a page is read in the order of an index, instead of reading and sorting all.
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    RETURN QUERY
        SELECT o.attempts, o.reason, o.dead_at, o.skipped, e.id, e.tenant_id, e.type, e.subject, e.payload::text,
            e.action, e.action_id, e.actor_type, e.actor_id, e.occurred_at, e.version, e.on_behalf_of::text
        FROM (
            SELECT dead.*
            FROM public.ae_outbox dead
            WHERE dead.queue = of_queue AND dead.dead_at IS NOT NULL
                AND dead.event_id > coalesce(later_than, '00000000-0000-0000-0000-000000000000')
            ORDER BY dead.event_id
            LIMIT most
        ) o, LATERAL (
            SELECT found.*
            FROM public.ae_events found
            WHERE found.tenant_id = o.tenant_id AND found.position = o.position
            LIMIT 1
        ) e
        ORDER BY e.id;
END $$;

-- Return events to the queue: relays look for them from the first position again. The events that these have held back
-- are released. The caller has locked these, so that no relay marks others meanwhile. Return how many there were.

CREATE FUNCTION public.ae_outbox_return(of_queue text, changed public.ae_outbox[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_outbox_release_after(of_queue, changed);
    PERFORM public.ae_outbox_announce(of_queue);
    RETURN coalesce(cardinality(changed), 0);
END $$;

CREATE FUNCTION public.ae_outbox_release_after(of_queue text, changed public.ae_outbox[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_outbox_release(
        of_queue, array_agg(o.tenant_id), array_agg(o.lane), array_agg(o.position)
    )
    FROM unnest(changed) o;
END $$;

CREATE FUNCTION public.ae_outbox_announce(of_queue text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.ae_outbox_returns r SET returns = r.returns + 1 WHERE r.queue = of_queue;
    PERFORM pg_notify(CASE of_queue WHEN 'events' THEN 'ae_outbox' ELSE 'ae_outbox_' || of_queue END, '');
END $$;

-- A redriven event is due like one whose wait is over: the events behind it are taken with it, or after it.

CREATE FUNCTION public.ae_redrive(ids uuid[], of_queue text, signature text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead public.ae_outbox[];
BEGIN
    PERFORM public.ae_operate('redrive', signature);
    IF ids IS NULL THEN
        WITH changed AS (
            UPDATE public.ae_outbox o
            SET attempts = 0, due_at = clock_timestamp(), dead_at = NULL, event_id = NULL, held = false
            FROM public.ae_events e
            WHERE e.tenant_id = o.tenant_id AND e.position = o.position AND o.queue = of_queue
                AND o.dead_at IS NOT NULL AND NOT o.skipped
            RETURNING o
        )
        SELECT array_agg(changed.o) INTO dead FROM changed;
    ELSE
        WITH changed AS (
            UPDATE public.ae_outbox o
            SET attempts = 0, due_at = clock_timestamp(), dead_at = NULL, skipped = false, event_id = NULL, held = false
            WHERE o.queue = of_queue AND o.dead_at IS NOT NULL AND o.event_id = ANY(ids)
            RETURNING o
        )
        SELECT array_agg(changed.o) INTO dead FROM changed;
    END IF;
    RETURN public.ae_outbox_return(of_queue, dead);
END $$;

CREATE FUNCTION public.ae_skip(ids uuid[], why text, of_queue text, signature text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead public.ae_outbox[];
BEGIN
    PERFORM public.ae_operate('skip', signature);
    WITH changed AS (
        UPDATE public.ae_outbox o
        SET skipped = true, reason = o.reason || '; skipped: ' || why
        -- Without coalesce, the planner might choose the index of events that are not skipped, which has tenants first.
        WHERE o.queue = of_queue AND o.dead_at IS NOT NULL AND coalesce(NOT o.skipped, false) AND o.event_id = ANY(ids)
        RETURNING o
    )
    SELECT array_agg(changed.o) INTO dead FROM changed;
    RETURN public.ae_outbox_return(of_queue, dead);
END $$;

-- Calls of hosts, for the tenant of their transaction: how much of its events is undelivered, and what becomes of its
-- dead letters. The functions that read run as the caller, under row-level security. Those that write need an action;
-- without one they find no rows. No bitmap scans: a bounded count would read all index entries first.

CREATE FUNCTION public.ae_tenant_outbox() RETURNS TABLE (
    queue text, pending bigint, waiting bigint, held bigint, dead bigint, skipped bigint, oldest timestamptz
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
DECLARE
    own      uuid   := public.ae_tenant();
    most     bigint := 10000;
    examined bigint := 40000;
    free     bigint;
    first    bigint;
BEGIN
    FOREACH queue IN ARRAY ARRAY['events', 'workflows', 'triggers'] LOOP
        SELECT count(*), min(o.position) INTO free, first
        FROM (
            SELECT rows.position, rows.dead_at IS NULL AND NOT rows.held AS is_free
            FROM public.ae_outbox rows
            WHERE rows.tenant_id = own AND rows.queue = ae_tenant_outbox.queue
            ORDER BY rows.position
            LIMIT examined
        ) o
        WHERE o.is_free;
        SELECT count(*), least(first, min(counted.position)) INTO held, first
        FROM (
            SELECT o.position
            FROM public.ae_outbox o
            WHERE o.tenant_id = own AND o.queue = ae_tenant_outbox.queue AND o.held
            ORDER BY o.position
            LIMIT most
        ) counted;
        pending := least(free + held, most);
        SELECT count(*) INTO waiting
        FROM (
            SELECT
            FROM public.ae_outbox o
            WHERE o.tenant_id = own AND o.queue = ae_tenant_outbox.queue AND o.dead_at IS NULL
                AND o.due_at IS NOT NULL AND o.due_at > clock_timestamp()
            LIMIT most
        ) counted;
        SELECT count(*) INTO dead
        FROM (
            SELECT
            FROM public.ae_outbox o
            WHERE o.queue = ae_tenant_outbox.queue AND o.tenant_id = own AND o.dead_at IS NOT NULL AND NOT o.skipped
            LIMIT most
        ) counted;
        SELECT count(*) INTO skipped
        FROM (
            SELECT
            FROM public.ae_outbox o
            WHERE o.queue = ae_tenant_outbox.queue AND o.tenant_id = own AND o.skipped
            LIMIT most
        ) counted;
        SELECT e.occurred_at INTO oldest
        FROM public.ae_events e
        WHERE e.tenant_id = own AND e.position = first;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION public.ae_tenant_dead_letters(
    later_than uuid, most integer, of_queue text, with_skipped boolean
) RETURNS TABLE (
    attempts integer, reason text, dead_at timestamptz, skipped boolean, id uuid, tenant_id uuid, type text,
    subject text, payload text, action text, action_id uuid, actor_type text, actor_id text, occurred_at timestamptz,
    version integer, on_behalf_of text
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
DECLARE
    own uuid := public.ae_tenant();
BEGIN
    RETURN QUERY
        SELECT page.attempts, page.reason, page.dead_at, page.skipped, page.id, page.tenant_id, page.type, page.subject,
            page.payload, page.action, page.action_id, page.actor_type, page.actor_id, page.occurred_at, page.version,
            page.on_behalf_of
        -- The event whose payload reaches 4 MiB is the last one.
        FROM (
            SELECT o.attempts, o.reason, o.dead_at, o.skipped, e.id, e.tenant_id, e.type, e.subject,
                e.payload::text AS payload, e.action, e.action_id, e.actor_type, e.actor_id, e.occurred_at, e.version,
                e.on_behalf_of::text AS on_behalf_of,
                sum(octet_length(e.payload::text)) OVER (ORDER BY o.event_id ROWS UNBOUNDED PRECEDING)
                    - octet_length(e.payload::text) AS bytes_before
            FROM (
                SELECT letters.*
                FROM (
                    (
                        SELECT dead.*
                        FROM public.ae_outbox dead
                        WHERE dead.queue = of_queue AND dead.tenant_id = own AND dead.dead_at IS NOT NULL
                            AND NOT dead.skipped AND dead.event_id > later_than
                        ORDER BY dead.event_id
                        LIMIT most
                    )
                    UNION ALL
                    (
                        SELECT given.*
                        FROM public.ae_outbox given
                        WHERE with_skipped AND given.queue = of_queue AND given.tenant_id = own AND given.skipped
                            AND given.event_id > later_than
                        ORDER BY given.event_id
                        LIMIT most
                    )
                ) letters
                ORDER BY letters.event_id
                LIMIT most
            ) o, LATERAL (
                SELECT found.*
                FROM public.ae_events found
                WHERE found.tenant_id = o.tenant_id AND found.position = o.position
                LIMIT 1
            ) e
        ) page
        WHERE page.bytes_before < 4194304
        ORDER BY page.id;
END $$;

-- Lock and return the tenant's dead letters with these event ids, `with_skipped` events or without. Locks are taken in
-- one order, so that two calls do not wait for each other.

CREATE FUNCTION public.ae_tenant_dead(ids uuid[], of_queue text, with_skipped boolean) RETURNS public.ae_outbox[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
DECLARE
    own uuid := public.ae_writing_tenant();
BEGIN
    RETURN ARRAY(
        SELECT o
        FROM public.ae_outbox o
        -- IS TRUE and coalesce leave the planner one index, that of the events' ids: along another one it would read all
        -- rows of the tenant.
        WHERE o.queue = of_queue AND (o.tenant_id = own) IS TRUE AND o.dead_at IS NOT NULL AND o.event_id = ANY(ids)
            AND coalesce(with_skipped OR NOT o.skipped, false)
        ORDER BY o.event_id
        FOR UPDATE
    );
END $$;

-- Return the ids of the dead letters that are delivered again. The transaction calls ae_tenant_return when it commits.

CREATE FUNCTION public.ae_tenant_redrive(ids uuid[], of_queue text) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
DECLARE
    dead public.ae_outbox[] := public.ae_tenant_dead(ids, of_queue, true);
BEGIN
    UPDATE public.ae_outbox o
    SET attempts = 0, due_at = clock_timestamp(), dead_at = NULL, skipped = false, event_id = NULL, held = false
    FROM unnest(dead) d
    WHERE o.tenant_id = d.tenant_id AND o.queue = of_queue AND o.position = d.position;
    PERFORM public.ae_outbox_release_after(of_queue, dead);
    RETURN QUERY SELECT d.event_id FROM unnest(dead) d;
END $$;

-- The same for skipped ones. A transaction that is not READ COMMITTED may not see all marks behind a skipped event. Then
-- the event gets a due_at, and a relay releases what is behind it. (A redriven event has one anyway.)

CREATE FUNCTION public.ae_tenant_skip(ids uuid[], why text, of_queue text) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_bitmapscan = off AS $$
DECLARE
    dead public.ae_outbox[] := public.ae_tenant_dead(ids, of_queue, false);
BEGIN
    UPDATE public.ae_outbox o
    SET skipped = true, reason = o.reason || '; skipped: ' || why,
        due_at = CASE WHEN current_setting('transaction_isolation') <> 'read committed' THEN clock_timestamp() END
    FROM unnest(dead) d
    WHERE o.tenant_id = d.tenant_id AND o.queue = of_queue AND o.position = d.position;
    PERFORM public.ae_outbox_release_after(of_queue, dead);
    RETURN QUERY SELECT d.event_id FROM unnest(dead) d;
END $$;

-- Announce to relays what the transaction has redriven or skipped. This locks a row of all tenants, and so comes last.

CREATE FUNCTION public.ae_tenant_return(of_queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF public.ae_writing_tenant() IS NOT NULL THEN
        PERFORM public.ae_outbox_announce(of_queue);
    END IF;
END $$;

REVOKE EXECUTE ON FUNCTION
    public.ae_outbox_take(integer, integer, text, bigint[], text),
    public.ae_outbox_settle(uuid[], bigint[], json, json, text, text),
    public.ae_outbox_next(text, bigint[], text),
    public.ae_relay_heartbeat(json, text),
    public.ae_relay_status(text, text, bigint[]),
    public.ae_backlog(integer, text),
    public.ae_dead_letters(uuid, integer, text, text),
    public.ae_redrive(uuid[], text, text),
    public.ae_skip(uuid[], text, text, text),
    public.ae_tenant_redrive(uuid[], text),
    public.ae_tenant_skip(uuid[], text, text),
    public.ae_tenant_return(text),
    public.ae_signed(text, text),
    public.ae_open(text, text, text, text),
    public.ae_is_deleted(uuid),
    public.ae_find_tenant(text, text),
    public.ae_find_tenant_by_id(uuid, text),
    public.ae_create_tenant(uuid, text, text, text),
    public.ae_delete_tenant(text, text),
    public.ae_list_tenants(text, text, integer),
    public.ae_purge_keys(integer, text, timestamptz)
FROM PUBLIC;

-- The planner's statistics of a column contain values of all tenants, and EXPLAIN shows them to each tenant in its
-- estimates. So none are gathered (target 0): neither of the columns of a table and its partitions, nor of combinations
-- of columns, nor of the expressions of indexes. With -1 they are gathered again. Existing statistics are removed too;
-- before PostgreSQL 18 only a superuser can do that for columns, and other roles get a warning.

CREATE FUNCTION public.ae_set_statistics(relation regclass, target integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_superuser boolean := (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user);
    can_clear    boolean := to_regprocedure('pg_clear_attribute_stats(text,text,text,boolean)') IS NOT NULL;
    part         record;
    attribute    record;
    several      record;
BEGIN
    FOR part IN
        WITH RECURSIVE parts (id) AS (
            SELECT relation::oid
            UNION
            SELECT i.inhrelid FROM parts p JOIN pg_inherits i ON i.inhparent = p.id
        )
        SELECT c.oid, c.relname, n.nspname, c.reltuples, 'TABLE ONLY' AS kind FROM parts p
        JOIN pg_class c ON c.oid = p.id
        JOIN pg_namespace n ON n.oid = c.relnamespace
        UNION ALL
        SELECT c.oid, c.relname, n.nspname, c.reltuples, 'INDEX' FROM parts p
        JOIN pg_index i ON i.indrelid = p.id AND i.indexprs IS NOT NULL
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    LOOP
        FOR attribute IN
            SELECT a.attname, a.attnum
            FROM pg_attribute a
            WHERE a.attrelid = part.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
                AND (part.kind <> 'INDEX' OR EXISTS (
                    SELECT FROM pg_index i WHERE i.indexrelid = part.oid AND i.indkey[a.attnum - 1] = 0
                ))
        LOOP
            EXECUTE format(
                'ALTER %s %I.%I ALTER COLUMN %s SET STATISTICS %s', part.kind, part.nspname, part.relname,
                CASE part.kind WHEN 'INDEX' THEN attribute.attnum::text ELSE quote_ident(attribute.attname) END, target
            );
            IF target = 0 AND can_clear THEN
                EXECUTE 'SELECT pg_clear_attribute_stats($1, $2, $3, false), pg_clear_attribute_stats($1, $2, $3, true)'
                USING part.nspname::text, part.relname::text, attribute.attname::text;
            END IF;
        END LOOP;
        FOR several IN
            SELECT e.oid, n.nspname, e.stxname, pg_get_statisticsobjdef(e.oid) AS definition
            FROM pg_statistic_ext e
            JOIN pg_namespace n ON n.oid = e.stxnamespace
            WHERE e.stxrelid = part.oid
        LOOP
            IF target = 0 AND part.reltuples > 0 THEN
                EXECUTE format('DROP STATISTICS %I.%I', several.nspname, several.stxname);
                EXECUTE several.definition;
            END IF;
            EXECUTE format('ALTER STATISTICS %I.%I SET STATISTICS %s', several.nspname, several.stxname, target);
        END LOOP;
        IF target = 0 AND NOT can_clear THEN
            IF is_superuser THEN
                DELETE FROM pg_statistic s WHERE s.starelid = part.oid;
            ELSIF part.reltuples > 0 THEN
                RAISE WARNING 'what was gathered of % before stays; run as a superuser: %', part.oid::regclass,
                    format('DELETE FROM pg_statistic WHERE starelid = %L::regclass', part.oid::regclass);
            END IF;
        END IF;
    END LOOP;
END $$;

INSERT INTO public.ae_schema VALUES (1);
ALTER TABLE public.ae_schema ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_schema FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_read ON public.ae_schema FOR SELECT USING (true);
CREATE POLICY ae_owner ON public.ae_schema TO CURRENT_USER USING (true);

SELECT public.ae_set_statistics(c.oid, 0)
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'ae\_%';

-- Alembic's own table, if these migrations run by themselves.

DO $$
BEGIN
    IF to_regclass('public.ae_migrations') IS NOT NULL THEN
        ALTER TABLE public.ae_migrations ENABLE ROW LEVEL SECURITY;
        ALTER TABLE public.ae_migrations FORCE ROW LEVEL SECURITY;
        CREATE POLICY ae_owner ON public.ae_migrations TO CURRENT_USER USING (true);
    END IF;
END $$;

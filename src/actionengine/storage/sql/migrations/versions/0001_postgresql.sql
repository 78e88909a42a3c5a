-- Tables, row-level security and functions of actionengine on PostgreSQL.
--
-- Two settings, local to a transaction, say for whom and in which action it works: app.tenant_id and app.action_id.
-- Once `actionengine db sign` has stored a key, a third, app.signature, has to prove them (see signed_postgresql.sql,
-- which replaces the first three functions here).

CREATE FUNCTION public.ae_signed(message text, signature text) RETURNS boolean
LANGUAGE sql STABLE RETURN true;

-- The tenant of this transaction; nobody's where none is set.

CREATE FUNCTION public.ae_tenant() RETURNS uuid
LANGUAGE sql STABLE RETURN nullif(current_setting('app.tenant_id', true), '')::uuid;

-- The same, but nobody's outside an action: what is written needs one.

CREATE FUNCTION public.ae_writing_tenant() RETURNS uuid
LANGUAGE sql STABLE RETURN CASE
    WHEN current_setting('app.action_id', true) <> '' THEN nullif(current_setting('app.tenant_id', true), '')::uuid
END;

CREATE FUNCTION public.ae_require_action() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF public.ae_writing_tenant() IS NULL THEN
        RAISE EXCEPTION '% on % outside an action: go through the engine', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'AE001';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION public.ae_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %: it is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'AE002';
END $$;

-- Keys that sign. `inner_pad` and `outer_pad` are a key, padded to 64 bytes, XOR 0x36 and XOR 0x5c (RFC 2104). Only the
-- owner, and functions that run as the owner, can read them.

CREATE TABLE public.ae_signing_keys (
    id        text        PRIMARY KEY,
    inner_pad bytea       NOT NULL,
    outer_pad bytea       NOT NULL,
    added_at  timestamptz NOT NULL DEFAULT now()
);

-- Tables. `tenant_id` stands first in every key.

CREATE TABLE public.ae_tenants (
    tenant_id  uuid             PRIMARY KEY,
    slug       text COLLATE "C" NOT NULL,
    name       text             NOT NULL,
    created_at timestamptz      NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT ae_tenants_slug UNIQUE (slug)
);

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

-- A claim whose transaction has recorded no result is free again: it has expired from the start.

CREATE TABLE public.ae_idempotency_keys (
    tenant_id   uuid             NOT NULL,
    action      text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint text             NOT NULL,
    result      text,
    approval_id text,
    expires_at  timestamptz      NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant_id, action, key)
);
CREATE INDEX ae_idempotency_keys_expiry ON public.ae_idempotency_keys (expires_at);

CREATE TABLE public.ae_action_log (
    tenant_id       uuid             NOT NULL,
    id              uuid             NOT NULL,
    parent_id       uuid,
    actor_type      text,
    actor_id        text COLLATE "C",
    approved_by     text,
    approval_id     text,
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
    idempotency_key text,
    request_id      text,
    model           text,
    prompt_version  text,
    input_tokens    bigint,
    output_tokens   bigint,
    cost_usd        double precision,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX ae_action_log_actor ON public.ae_action_log (tenant_id, actor_id, id);
CREATE INDEX ae_action_log_action ON public.ae_action_log (tenant_id, action, id);

-- Which executions were about a subject. A table, because under row-level security no index on the log's own column
-- would be used: the operators that search in JSON and in arrays are not leakproof.

CREATE TABLE public.ae_action_log_subjects (
    tenant_id uuid             NOT NULL,
    subject   text COLLATE "C" NOT NULL,
    log_id    uuid             NOT NULL,
    PRIMARY KEY (tenant_id, subject, log_id)
);

CREATE TABLE public.ae_events (
    tenant_id   uuid        NOT NULL,
    position    bigint      GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME public.ae_event_position),
    id          uuid        NOT NULL,
    type        text        NOT NULL,
    subject     text,
    payload     json        NOT NULL,
    action      text        NOT NULL,
    action_id   uuid        NOT NULL,
    actor_type  text,
    actor_id    text,
    occurred_at timestamptz NOT NULL,
    version     integer     NOT NULL,
    PRIMARY KEY (tenant_id, position)
);

-- Events that are still to be delivered. Those of a tenant's subject have the same lane, a hash, and keep their order; a
-- partition of lanes is what a relay locks. A failed attempt makes an event wait until due_at, the last one makes it a
-- dead letter; both hold back what comes after them in their lane, until an operator has skipped a dead one.

CREATE TABLE public.ae_outbox (
    tenant_id uuid    NOT NULL,
    position  bigint  NOT NULL,
    lane      bigint  NOT NULL,
    attempts  integer NOT NULL DEFAULT 0,
    due_at    timestamptz,
    reason    text,
    dead_at   timestamptz,
    skipped   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, position)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX ae_outbox_pending ON public.ae_outbox ((lane & 63), position) WHERE dead_at IS NULL;
CREATE INDEX ae_outbox_held ON public.ae_outbox (lane, position)
    WHERE NOT skipped AND (dead_at IS NOT NULL OR due_at IS NOT NULL);

-- What relays tell of themselves.

CREATE TABLE public.ae_relays (
    id         uuid             PRIMARY KEY,
    name       text             NOT NULL,
    publisher  text             NOT NULL,
    started_at timestamptz      NOT NULL,
    seen_at    timestamptz      NOT NULL,
    delivered  bigint           NOT NULL,
    failed     bigint           NOT NULL,
    rate       double precision NOT NULL,
    error      text
);

CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_action_log
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_action_log_subjects
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();
CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.ae_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change();

-- Row-level security, for the owner too. What is read is the tenant's; what is written is the tenant's, in an action.
-- A subquery is evaluated once for a statement, but costs more than the function costs for a row or two.

DO $$
DECLARE
    protected text;
BEGIN
    FOREACH protected IN ARRAY ARRAY[
        'ae_documents', 'ae_idempotency_keys', 'ae_action_log', 'ae_action_log_subjects', 'ae_events', 'ae_outbox'
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
    END LOOP;
END $$;

-- The directory of tenants and the keys that sign are the owner's alone: the app role reaches them by functions.

ALTER TABLE public.ae_tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_tenants TO CURRENT_USER USING (true);
ALTER TABLE public.ae_signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_signing_keys TO CURRENT_USER USING (true);
ALTER TABLE public.ae_relays ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_relays FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_owner ON public.ae_relays TO CURRENT_USER USING (true);

-- Functions that run as the owner reach the rows of all tenants in these: to purge keys, and to deliver events.

CREATE POLICY ae_owner ON public.ae_idempotency_keys TO CURRENT_USER USING (true);
CREATE POLICY ae_owner ON public.ae_outbox TO CURRENT_USER USING (true);
CREATE POLICY ae_owner ON public.ae_events FOR SELECT TO CURRENT_USER USING (true);

-- The answer to a claim of an idempotency key, in the tenant's transaction. `wait` is in milliseconds; `status` is
-- `claimed`, `replay` or `mismatch`. A key that is still held when the wait is over is a lock timeout (55P03).

CREATE FUNCTION public.ae_claim(
    claim_action text, claim_key text, claim_fingerprint text, claim_replaces text, wait integer,
    OUT status text, OUT result text, OUT approval_id text
) LANGUAGE plpgsql AS $$
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
        SELECT k.fingerprint, k.result, k.approval_id, k.expires_at INTO used
        FROM public.ae_idempotency_keys k
        WHERE k.tenant_id = this_tenant AND k.action = claim_action AND k.key = claim_key;
        IF FOUND AND (used.expires_at <= clock_timestamp() OR used.approval_id = claim_replaces) THEN
            SELECT k.fingerprint, k.result, k.approval_id, k.expires_at INTO used
            FROM public.ae_idempotency_keys k
            WHERE k.tenant_id = this_tenant AND k.action = claim_action AND k.key = claim_key
            FOR UPDATE;
            IF FOUND AND (used.expires_at <= clock_timestamp() OR used.approval_id = claim_replaces) THEN
                status := 'claimed';
                EXIT;
            END IF;
        END IF;
        -- Where the row has gone in between, the key is free: try again.
        IF FOUND THEN
            IF used.fingerprint = claim_fingerprint THEN
                status := 'replay';
                result := used.result;
                approval_id := used.approval_id;
            ELSE
                status := 'mismatch';
            END IF;
            EXIT;
        END IF;
    END LOOP;
    PERFORM set_config('lock_timeout', usual_wait, true);
END $$;

-- Up to where the event log is complete: no event with a position up to here can still be on its way. A transaction
-- that writes events holds, from before it takes positions until its end, a shared advisory lock whose number is that of
-- the newest position it saw, over 0x61656500 in the upper half; positions above the oldest such lock are not final yet.
-- What is read with it has to be read by a later statement.

CREATE FUNCTION public.ae_event_horizon() RETURNS bigint
LANGUAGE plpgsql AS $$
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

-- An operator's calls, outside any tenant. With a signing key stored they have to be signed too.

CREATE FUNCTION public.ae_operate(what text, signature text) RETURNS void
LANGUAGE plpgsql AS $$
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

CREATE FUNCTION public.ae_delete_tenant(unwanted text, signature text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('delete_tenant|' || unwanted, signature);
    UPDATE public.ae_tenants t SET deleted_at = now() WHERE t.slug = unwanted AND t.deleted_at IS NULL;
    RETURN FOUND;
END $$;

-- Asked for each unit of work. It tells nothing of a tenant that is there.

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

CREATE FUNCTION public.ae_list_tenants(signature text) RETURNS TABLE (tenant_id uuid, slug text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('list_tenants', signature);
    RETURN QUERY SELECT t.tenant_id, t.slug FROM public.ae_tenants t WHERE t.deleted_at IS NULL ORDER BY t.slug;
END $$;

CREATE FUNCTION public.ae_purge_keys(most integer, signature text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    purged integer;
BEGIN
    PERFORM public.ae_operate('purge_keys', signature);
    DELETE FROM public.ae_idempotency_keys k
    USING (
        SELECT e.tenant_id, e.action, e.key
        FROM public.ae_idempotency_keys e
        WHERE e.expires_at <= now()
        ORDER BY e.expires_at
        LIMIT most
        FOR UPDATE SKIP LOCKED
    ) expired
    WHERE k.tenant_id = expired.tenant_id AND k.action = expired.action AND k.key = expired.key;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END $$;

-- What relays do, for all tenants: operator's calls too.
--
-- A relay takes partitions of lanes by advisory locks of its transaction, and keeps that open until it has settled: a
-- relay that dies, or that is silent for too long (idle_in_transaction_session_timeout), loses them. Each query below
-- sees what was committed before it began, so that a partition is read after it was locked, and after the horizon was.

CREATE FUNCTION public.ae_outbox_due(partition integer) RETURNS SETOF public.ae_outbox
LANGUAGE sql STABLE AS $$
    SELECT o.*
    FROM public.ae_outbox o
    WHERE (o.lane & 63) = partition AND o.dead_at IS NULL AND (o.due_at IS NULL OR o.due_at <= now())
        AND NOT EXISTS (
            SELECT FROM public.ae_outbox held
            WHERE held.lane = o.lane AND held.tenant_id = o.tenant_id AND held.position < o.position
                AND NOT held.skipped
                AND (held.dead_at IS NOT NULL OR held.due_at IS NOT NULL)
                AND (held.dead_at IS NOT NULL OR held.due_at > now())
        )
$$;

CREATE FUNCTION public.ae_outbox_take(most integer, most_partitions integer, signature text) RETURNS TABLE (
    attempts integer, "position" bigint, id text, tenant_id text, type text, subject text, payload text, action text,
    action_id text, actor_type text, actor_id text, occurred_at bigint, version integer
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    horizon   bigint;
    first     integer := floor(random() * 64);
    candidate integer;
    locked    integer[] := '{}';
BEGIN
    PERFORM public.ae_operate('relay', signature);
    horizon := public.ae_event_horizon();
    -- From a random one on, so that each has its turn: as many as are needed are looked at.
    FOR candidate IN
        SELECT partition
        FROM generate_series(first, first + 63) number, LATERAL (SELECT number & 63) turn (partition), LATERAL (
            SELECT
            FROM public.ae_outbox_due(partition) due
            WHERE due.position <= horizon
            LIMIT 1
        ) head
    LOOP
        IF pg_try_advisory_xact_lock(1634037602, candidate) THEN
            locked := locked || candidate;
            EXIT WHEN cardinality(locked) >= most_partitions;
        END IF;
    END LOOP;
    -- One partition after the other, until there are enough: the limits keep the joins nested.
    RETURN QUERY
        SELECT o.attempts, o.position, e.id::text, e.tenant_id::text, e.type, e.subject, e.payload::text, e.action,
            e.action_id::text, e.actor_type, e.actor_id, (date_part('epoch', e.occurred_at) * 1000000)::bigint,
            e.version
        FROM unnest(locked) partition, LATERAL (
            SELECT due.tenant_id, due.position, due.attempts
            FROM public.ae_outbox_due(partition) due
            WHERE due.position <= horizon
            ORDER BY due.position
            LIMIT most
        ) o, LATERAL (
            SELECT found.*
            FROM public.ae_events found
            WHERE found.tenant_id = o.tenant_id AND found.position = o.position
            LIMIT 1
        ) e
        LIMIT most;
    IF NOT FOUND THEN
        -- Another relay was faster; or somebody's own SQL has put in what is no event.
        DELETE FROM public.ae_outbox o
        WHERE (o.lane & 63) = ANY(locked) AND o.dead_at IS NULL AND o.position <= horizon
            AND NOT EXISTS (
                SELECT FROM public.ae_events e WHERE e.tenant_id = o.tenant_id AND e.position = o.position
            );
    END IF;
END $$;

CREATE FUNCTION public.ae_outbox_settle(delivered_to uuid[], delivered bigint[], failed json, signature text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    DELETE FROM public.ae_outbox o
    USING unnest(delivered_to, delivered) done (tenant_id, position)
    WHERE o.tenant_id = done.tenant_id AND o.position = done.position;
    UPDATE public.ae_outbox o
    SET attempts = o.attempts + f.counts::integer,
        reason = f.reason,
        due_at = clock_timestamp() + f.retry_in * interval '1 second',
        dead_at = CASE WHEN f.retry_in IS NULL THEN clock_timestamp() END
    FROM json_to_recordset(failed) f (
        tenant_id uuid, position bigint, reason text, retry_in double precision, counts boolean
    )
    WHERE o.tenant_id = f.tenant_id AND o.position = f.position AND o.dead_at IS NULL;
END $$;

-- In how many seconds there may be something to take; 0 for now, null for nothing that is known of.

CREATE FUNCTION public.ae_outbox_next(signature text) RETURNS double precision
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    IF EXISTS (
        SELECT
        FROM generate_series(0, 63) partition, LATERAL (
            SELECT
            FROM public.ae_outbox_due(partition) due
            WHERE due.position <= pg_sequence_last_value('public.ae_event_position')
            LIMIT 1
        ) head
    ) THEN
        RETURN 0;
    END IF;
    RETURN (
        SELECT greatest(0, extract(epoch FROM min(held.due_at) - clock_timestamp()))
        FROM public.ae_outbox held
        WHERE NOT held.skipped AND (held.dead_at IS NOT NULL OR held.due_at IS NOT NULL) AND held.dead_at IS NULL
    );
END $$;

CREATE FUNCTION public.ae_relay_beat(beat json, signature text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    DELETE FROM public.ae_relays r WHERE r.seen_at < clock_timestamp() - interval '1 day';
    INSERT INTO public.ae_relays
    SELECT * FROM json_populate_record(NULL::public.ae_relays, beat)
    ON CONFLICT (id) DO UPDATE
    SET seen_at = excluded.seen_at, delivered = excluded.delivered, failed = excluded.failed, rate = excluded.rate,
        error = excluded.error;
END $$;

CREATE FUNCTION public.ae_relay_status(signature text) RETURNS TABLE (
    pending bigint, waiting bigint, dead bigint, skipped bigint, oldest timestamptz, relays json
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    RETURN QUERY
        SELECT counted.pending, counted.waiting, counted.dead, counted.skipped,
            (
                SELECT min(e.occurred_at)
                FROM public.ae_outbox o
                JOIN public.ae_events e ON e.tenant_id = o.tenant_id AND e.position = o.position
                WHERE o.position = counted.first
            ),
            (
                SELECT coalesce(json_agg(r ORDER BY r.started_at), '[]')
                FROM public.ae_relays r
                WHERE r.seen_at > clock_timestamp() - interval '1 minute'
            )
        FROM (
            SELECT count(*) FILTER (WHERE o.dead_at IS NULL) AS pending,
                count(*) FILTER (WHERE o.dead_at IS NULL AND o.due_at > clock_timestamp()) AS waiting,
                count(*) FILTER (WHERE o.dead_at IS NOT NULL AND NOT o.skipped) AS dead,
                count(*) FILTER (WHERE o.skipped) AS skipped,
                min(o.position) FILTER (WHERE o.dead_at IS NULL) AS first
            FROM public.ae_outbox o
        ) counted;
END $$;

CREATE FUNCTION public.ae_dead_letters(later_than uuid, most integer, signature text) RETURNS TABLE (
    attempts integer, reason text, dead_at timestamptz, skipped boolean, id uuid, tenant_id uuid, type text,
    subject text, payload text, action text, action_id uuid, actor_type text, actor_id text, occurred_at timestamptz,
    version integer
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.ae_operate('relay', signature);
    RETURN QUERY
        SELECT o.attempts, o.reason, o.dead_at, o.skipped, e.id, e.tenant_id, e.type, e.subject, e.payload::text,
            e.action, e.action_id, e.actor_type, e.actor_id, e.occurred_at, e.version
        FROM public.ae_outbox o
        JOIN public.ae_events e ON e.tenant_id = o.tenant_id AND e.position = o.position
        WHERE o.dead_at IS NOT NULL AND (later_than IS NULL OR e.id > later_than)
        ORDER BY e.id
        LIMIT most;
END $$;

CREATE FUNCTION public.ae_redrive(ids uuid[], signature text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    PERFORM public.ae_operate('redrive', signature);
    UPDATE public.ae_outbox o
    SET attempts = 0, due_at = NULL, dead_at = NULL, skipped = false
    FROM public.ae_events e
    WHERE e.tenant_id = o.tenant_id AND e.position = o.position AND o.dead_at IS NOT NULL
        AND CASE WHEN ids IS NULL THEN NOT o.skipped ELSE e.id = ANY(ids) END;
    GET DIAGNOSTICS changed = ROW_COUNT;
    PERFORM pg_notify('ae_outbox', '');
    RETURN changed;
END $$;

CREATE FUNCTION public.ae_skip(ids uuid[], why text, signature text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    PERFORM public.ae_operate('skip', signature);
    UPDATE public.ae_outbox o
    SET skipped = true, reason = o.reason || '; skipped: ' || why
    FROM public.ae_events e
    WHERE e.tenant_id = o.tenant_id AND e.position = o.position AND o.dead_at IS NOT NULL AND NOT o.skipped
        AND e.id = ANY(ids);
    GET DIAGNOSTICS changed = ROW_COUNT;
    PERFORM pg_notify('ae_outbox', '');
    RETURN changed;
END $$;

REVOKE EXECUTE ON FUNCTION
    public.ae_outbox_take(integer, integer, text),
    public.ae_outbox_settle(uuid[], bigint[], json, text),
    public.ae_outbox_next(text),
    public.ae_relay_beat(json, text),
    public.ae_relay_status(text),
    public.ae_dead_letters(uuid, integer, text),
    public.ae_redrive(uuid[], text),
    public.ae_skip(uuid[], text, text),
    public.ae_signed(text, text),
    public.ae_is_deleted(uuid),
    public.ae_find_tenant(text, text),
    public.ae_create_tenant(uuid, text, text, text),
    public.ae_delete_tenant(text, text),
    public.ae_list_tenants(text),
    public.ae_purge_keys(integer, text)
FROM PUBLIC;

-- Which version of all this the database has.

CREATE TABLE public.ae_schema (
    version integer NOT NULL
);
INSERT INTO public.ae_schema VALUES (1);
ALTER TABLE public.ae_schema ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.ae_schema FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_read ON public.ae_schema FOR SELECT USING (true);
CREATE POLICY ae_owner ON public.ae_schema TO CURRENT_USER USING (true);

-- Alembic's own table, where these migrations run by themselves.

DO $$
BEGIN
    IF to_regclass('public.ae_migrations') IS NOT NULL THEN
        ALTER TABLE public.ae_migrations ENABLE ROW LEVEL SECURITY;
        ALTER TABLE public.ae_migrations FORCE ROW LEVEL SECURITY;
        CREATE POLICY ae_owner ON public.ae_migrations TO CURRENT_USER USING (true);
    END IF;
END $$;

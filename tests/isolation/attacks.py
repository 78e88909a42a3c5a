"""SQL that tries to reach another tenant. VICTIM and ATTACKER stand for the tenants' ids.

Each attack declares its end, so that none is harmless only because of a mistake in its own text:
`own` reads rows of the attacker; `refused` gets an error; `nothing` runs and finds nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from tests.isolation.harness import GUARDED, HOST_TABLE, TENANT_TABLES

MAY_CHANGE = {"ae_documents", "ae_idempotency_keys", "ae_budget_counters"}
MAY_DELETE = {"ae_documents", "ae_document_keys", "ae_patch_ops"}

End = Literal["own", "refused", "nothing"]


class Attack(NamedTuple):
    name: str
    ends: End
    script: tuple[str, ...]


def own(name: str, *script: str) -> Attack:
    return Attack(name, "own", script)


def refused(name: str, *script: str) -> Attack:
    return Attack(name, "refused", script)


def nothing(name: str, *script: str) -> Attack:
    return Attack(name, "nothing", script)


LEAK = """
CREATE FUNCTION pg_temp.leak(seen text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    RAISE NOTICE '%', seen;
    RETURN true;
END $$
"""

LEAKY_OPERATOR = (
    """
CREATE FUNCTION pg_temp.leaks(one text, other text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    RAISE NOTICE '%', one;
    RETURN true;
END $$
""",
    """
CREATE OPERATOR pg_temp.<<< (
    PROCEDURE = pg_temp.leaks, LEFTARG = text, RIGHTARG = text, RESTRICT = scalarltsel, JOIN = scalarltjoinsel
)
""",
)

READS = [
    *(own(f"all of {table}", f"SELECT t::text FROM {table} t") for table in GUARDED if table != "ae_outbox"),
    *(nothing(f"the victim's id in {table}", f"SELECT * FROM {table} WHERE tenant_id = 'VICTIM'") for table in GUARDED),
    *(
        nothing(f"any id but ours in {table}", f"SELECT * FROM {table} WHERE tenant_id <> 'ATTACKER'")
        for table in GUARDED
    ),
    own("always true", "SELECT * FROM ae_documents WHERE tenant_id = 'VICTIM' OR true OR NOT tenant_id = 'ATTACKER'"),
    own("TABLE", "TABLE ae_documents"),
    own("ONLY", "SELECT * FROM ONLY ae_documents"),
    own("by the place of the row", "SELECT * FROM ae_documents WHERE ctid >= '(0,0)'"),
    own("a sample of everything", "SELECT * FROM ae_documents TABLESAMPLE SYSTEM (100)"),
    own("a join", "SELECT * FROM ae_documents d JOIN ae_events e ON e.tenant_id <> d.tenant_id OR true"),
    nothing("a join with the victim's", "SELECT * FROM ae_documents d JOIN ae_events e ON e.tenant_id <> d.tenant_id"),
    own("an outer join", "SELECT * FROM ae_events e LEFT JOIN ae_documents d ON d.tenant_id <> e.tenant_id"),
    own("a self-join", "SELECT * FROM ae_documents a, ae_documents b"),
    own("LATERAL", "SELECT * FROM ae_events e, LATERAL (SELECT * FROM ae_documents d WHERE d.id <> e.type) d"),
    own("UNION", "SELECT data::text FROM ae_documents UNION ALL SELECT payload::text FROM ae_events"),
    own("EXCEPT", "SELECT data::text FROM ae_documents EXCEPT SELECT payload::text FROM ae_events"),
    own("a subquery", "SELECT (SELECT string_agg(data::text, ' ') FROM ae_documents)"),
    own(
        "a correlated subquery",
        "SELECT (SELECT d.data::text FROM ae_documents d WHERE d.id <> e.type LIMIT 1) FROM ae_events e",
    ),
    own("an aggregate", "SELECT json_agg(d) FROM ae_documents d"),
    own("a window", "SELECT string_agg(data::text, ' ') OVER () FROM ae_documents"),
    own("WITH", "WITH stolen AS MATERIALIZED (SELECT * FROM ae_documents) SELECT * FROM stolen"),
    own(
        "WITH RECURSIVE",
        "WITH RECURSIVE r (n, t) AS (SELECT 1, data::text FROM ae_documents UNION ALL"
        " SELECT n + 1, data::text FROM r, ae_documents WHERE n < 2) SELECT * FROM r",
    ),
    own("whole rows as JSON", "SELECT row_to_json(d) FROM ae_documents d"),
    own("a table as XML", "SELECT table_to_xml('ae_documents', true, true, '')::text"),
    own("a query as XML", "SELECT query_to_xml('SELECT * FROM public.ae_documents', true, true, '')::text"),
    own("a schema as XML", "SELECT schema_to_xml('public', true, true, '')::text"),
    own(
        "statistics of a text search",
        "SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY[data::text]) FROM public.ae_documents')",
    ),
    own("FOR UPDATE", "SELECT * FROM ae_documents FOR UPDATE"),
    nothing("FOR UPDATE of the victim's", "SELECT * FROM ae_documents WHERE tenant_id = 'VICTIM' FOR UPDATE"),
    own("a table made of it", "CREATE TEMP TABLE stolen AS SELECT * FROM ae_documents", "SELECT * FROM stolen"),
    own("SELECT INTO", "SELECT * INTO TEMP stolen FROM ae_documents", "SELECT * FROM stolen"),
    own("a view", "CREATE TEMP VIEW stolen AS SELECT * FROM ae_documents", "SELECT * FROM stolen"),
    own(
        "a view as its owner",
        "CREATE TEMP VIEW stolen WITH (security_barrier = false, security_invoker = false) AS TABLE ae_documents",
        "SELECT * FROM stolen",
    ),
    own(
        "a function",
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF ae_documents LANGUAGE sql AS 'TABLE ae_documents'",
        "SELECT * FROM pg_temp.f()",
    ),
    own(
        "a function as its owner",
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF public.ae_documents LANGUAGE sql SECURITY DEFINER"
        " AS 'TABLE public.ae_documents'",
        "SELECT * FROM pg_temp.f()",
    ),
    refused(
        "a function that is free of row-level security",
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF public.ae_documents LANGUAGE sql SECURITY DEFINER"
        " SET row_security = off AS 'TABLE public.ae_documents'",
        "SELECT * FROM pg_temp.f()",
    ),
    own(
        "a DO block",
        "DO $$ DECLARE d record; BEGIN FOR d IN TABLE ae_documents LOOP RAISE NOTICE '%', d; END LOOP; END $$",
    ),
    own("a prepared statement", "PREPARE steal AS TABLE ae_documents", "EXECUTE steal"),
    nothing(
        "a prepared statement with the victim's id",
        "PREPARE steal (uuid) AS SELECT * FROM ae_documents WHERE tenant_id = $1",
        "SET plan_cache_mode = force_generic_plan",
        "EXECUTE steal ('VICTIM')",
    ),
    own(
        "a cursor", "DECLARE c SCROLL CURSOR WITH HOLD FOR TABLE ae_documents", "FETCH ALL FROM c", "FETCH LAST FROM c"
    ),
    own("COPY", "COPY ae_documents TO STDOUT"),
    own("COPY in binary", "COPY ae_documents TO STDOUT (FORMAT binary)"),
    own("COPY of a query", "COPY (SELECT * FROM ae_documents) TO STDOUT"),
    nothing("COPY of the victim's", "COPY (SELECT * FROM ae_documents WHERE tenant_id = 'VICTIM') TO STDOUT"),
    own(
        "parallel workers",
        "SET debug_parallel_query = on",
        "SET parallel_setup_cost = 0",
        "SELECT * FROM ae_documents WHERE data::text <> ''",
    ),
    own("by an index", "SET enable_seqscan = off", "SELECT * FROM ae_documents WHERE id > ''"),
    nothing(
        "the victim's, from the index alone",
        "SET enable_seqscan = off",
        "SELECT id FROM ae_documents WHERE tenant_id = 'VICTIM'",
    ),
]

LEAKS = [
    own("a cheap function", LEAK, "SELECT count(*) FROM ae_documents WHERE pg_temp.leak(data::text)"),
    own("a cheap function over the log", LEAK, "SELECT count(*) FROM ae_action_log WHERE pg_temp.leak(input::text)"),
    own(
        "a cheap function with the victim's id",
        LEAK,
        "SELECT count(*) FROM ae_documents WHERE pg_temp.leak(data::text) OR tenant_id = 'VICTIM'",
    ),
    own(
        "a cheap function under a join",
        LEAK,
        "SELECT count(*) FROM ae_documents d, ae_events e WHERE pg_temp.leak(d.data::text || e.payload::text)",
    ),
    own(
        "a cheap function in a view",
        LEAK,
        "CREATE TEMP VIEW v AS SELECT data::text AS d FROM ae_documents",
        "SELECT count(*) FROM v WHERE pg_temp.leak(d)",
    ),
    own(
        "an operator that the planner tries out",
        *LEAKY_OPERATOR,
        "SELECT id FROM ae_action_log WHERE actor_id OPERATOR(pg_temp.<<<) 'x'",
    ),
    own(
        "an operator that the planner tries out on a join",
        *LEAKY_OPERATOR,
        "SELECT 1 FROM ae_action_log a JOIN ae_action_log b ON a.actor_id OPERATOR(pg_temp.<<<) b.actor_id",
    ),
    refused("a cast that fails", "SELECT (data ->> 'text')::integer FROM ae_documents"),
    refused(
        "a cast that fails on the victim's",
        "SELECT * FROM ae_documents WHERE tenant_id = 'VICTIM' OR (data ->> 'text')::integer = 1",
    ),
    nothing(
        "a division on the victim's rows alone",
        "SELECT 1 / (version - version) FROM ae_documents WHERE tenant_id = 'VICTIM'",
    ),
    own("EXPLAIN ANALYZE", LEAK, "EXPLAIN (ANALYZE, VERBOSE) SELECT pg_temp.leak(data::text) FROM ae_documents"),
    nothing("what the planner knows", "SELECT * FROM pg_stats WHERE tablename IN ('ae_documents', 'ae_action_log')"),
    nothing("what the planner knows of columns together", "SELECT * FROM pg_stats_ext, pg_stats_ext_exprs"),
    refused("what the planner knows, in the raw", "SELECT * FROM pg_statistic"),
    nothing(
        "plans in the log",
        "SET debug_print_plan = on",
        "SET client_min_messages = debug1",
        "SELECT * FROM ae_documents WHERE tenant_id = 'VICTIM'",
        "RESET client_min_messages",
    ),
]

WRITES = [
    refused(
        "a document for the victim", "INSERT INTO ae_documents VALUES ('VICTIM', 'notes', 'new', 1, '{}', now(), now())"
    ),
    refused("a key for the victim", "INSERT INTO ae_idempotency_keys VALUES ('VICTIM', 'test.work', 'key', 'f')"),
    refused(
        "a counter for the victim, or more in the one that is there",
        "INSERT INTO ae_budget_counters AS c VALUES ('VICTIM', 'calls', 'integration:x', 1, now())"
        " ON CONFLICT (tenant_id, budget, scope) DO UPDATE SET used = c.used + 1 RETURNING used",
    ),
    refused("moving a counter to the victim", "UPDATE ae_budget_counters SET tenant_id = 'VICTIM', scope = 'moved'"),
    nothing(
        "filling the victim's budgets", "UPDATE ae_budget_counters SET used = 1 WHERE tenant_id = 'VICTIM' RETURNING *"
    ),
    refused(
        "a log row for the victim",
        "INSERT INTO ae_action_log (tenant_id, id, source, action, subjects, outcome, started_at, latency)"
        " VALUES ('VICTIM', gen_random_uuid(), 'http', 'test.work', '[]', 'succeeded', now(), 0)",
    ),
    refused("a subject for the victim", "INSERT INTO ae_action_log_subjects VALUES ('VICTIM', 's', gen_random_uuid())"),
    refused(
        "a principal for the victim", "INSERT INTO ae_action_log_principals VALUES ('VICTIM', 's', gen_random_uuid())"
    ),
    refused("a word for the victim", "INSERT INTO ae_action_log_words VALUES ('VICTIM', 's', gen_random_uuid())"),
    refused(
        "an event for the victim",
        "INSERT INTO ae_events (tenant_id, id, type, payload, action, action_id, occurred_at)"
        " VALUES ('VICTIM', gen_random_uuid(), 'worked', '{}', 'test.work', gen_random_uuid(), now())",
    ),
    refused("a delivery for the victim", "INSERT INTO ae_outbox VALUES ('VICTIM', 1)"),
    refused("a note for the victim", "INSERT INTO host_notes VALUES ('VICTIM', 'new', 'x')"),
    refused(
        "a document for the victim, or the one that is there",
        "INSERT INTO ae_documents VALUES ('VICTIM', 'notes', 'first', 1, '{}', now(), now())"
        " ON CONFLICT (tenant_id, collection, id) DO UPDATE SET data = excluded.data RETURNING data",
    ),
    refused(
        "a document of ours that becomes the victim's on conflict",
        "INSERT INTO ae_documents VALUES ('ATTACKER', 'notes', 'first', 1, '{}', now(), now())"
        " ON CONFLICT (tenant_id, collection, id) DO UPDATE SET tenant_id = 'VICTIM', id = 'moved'",
    ),
    refused("moving a row to the victim", "UPDATE ae_documents SET tenant_id = 'VICTIM', id = 'moved'"),
    refused("moving a note to the victim", "UPDATE host_notes SET tenant_id = 'VICTIM', id = 'moved'"),
    refused("moving a key to the victim", "UPDATE ae_idempotency_keys SET tenant_id = 'VICTIM', key = 'moved'"),
    nothing("changing the victim's", "UPDATE ae_documents SET data = '{}' WHERE tenant_id = 'VICTIM' RETURNING *"),
    nothing(
        "changing the victim's keys",
        "UPDATE ae_idempotency_keys SET result = '1' WHERE tenant_id = 'VICTIM' RETURNING *",
    ),
    nothing(
        "taking the victim's", "UPDATE ae_documents SET tenant_id = 'ATTACKER' WHERE tenant_id = 'VICTIM' RETURNING *"
    ),
    own("changing everything", "UPDATE host_notes SET body = body RETURNING *"),
    own("changing by a join", "UPDATE ae_documents d SET data = d.data FROM ae_events e RETURNING d.*, e.*"),
    nothing("deleting the victim's", "DELETE FROM ae_documents WHERE tenant_id = 'VICTIM' RETURNING *"),
    nothing(
        "deleting the victim's by a join",
        "DELETE FROM host_notes n USING ae_events e WHERE n.tenant_id <> e.tenant_id RETURNING *",
    ),
    nothing(
        "deleting in a plan that is explained",
        "EXPLAIN (ANALYZE) DELETE FROM ae_documents WHERE tenant_id = 'VICTIM'",
        "EXPLAIN (ANALYZE) UPDATE host_notes SET body = '' WHERE tenant_id = 'VICTIM'",
    ),
    nothing(
        "deleting inside WITH",
        "WITH gone AS (DELETE FROM ae_documents WHERE tenant_id = 'VICTIM' RETURNING *) TABLE gone",
    ),
    refused(
        "MERGE that inserts",
        "MERGE INTO host_notes n USING (SELECT 'VICTIM'::uuid AS t) new ON n.tenant_id = new.t"
        " WHEN NOT MATCHED THEN INSERT VALUES (new.t, 'merged', 'x') WHEN MATCHED THEN DELETE",
    ),
    nothing(
        "MERGE that deletes",
        "MERGE INTO host_notes n USING (SELECT 'VICTIM'::uuid AS t) new ON n.tenant_id = new.t"
        " WHEN MATCHED THEN DELETE",
    ),
    refused("COPY FROM", "COPY host_notes FROM STDIN\nVICTIM\tcopied\tx\n"),
    refused("COPY FROM into our own", "COPY ae_documents FROM STDIN\nATTACKER\tnotes\tcopied\t1\t{}\tnow\tnow\n"),
    *(refused(f"TRUNCATE {table}", f"TRUNCATE {table}") for table in GUARDED),
    *(
        refused(f"changing {table}", f"UPDATE {table} SET tenant_id = tenant_id")
        for table in TENANT_TABLES
        if table not in MAY_CHANGE
    ),
    *(refused(f"deleting from {table}", f"DELETE FROM {table}") for table in TENANT_TABLES if table not in MAY_DELETE),
    nothing("deleting the victim's keys", "DELETE FROM ae_document_keys WHERE tenant_id = 'VICTIM' RETURNING *"),
    nothing("deleting the victim's ops", "DELETE FROM ae_patch_ops WHERE tenant_id = 'VICTIM' RETURNING *"),
    refused("an op of the victim's change", "UPDATE ae_patch_ops SET tenant_id = 'VICTIM', id = 'moved'"),
    nothing(
        "changing the victim's changes", "UPDATE ae_changes SET op_count = 7 WHERE tenant_id = 'VICTIM' RETURNING *"
    ),
    refused("moving the sequence of events", "SELECT setval('ae_event_position', 1)"),
    refused("taking numbers from the sequence of events", "SELECT nextval('ae_event_position')"),
    refused(
        "writing outside an action",
        "SET LOCAL app.action_id = ''",
        "INSERT INTO host_notes VALUES ('ATTACKER', 'outside', 'x')",
    ),
    refused("locking the log", "LOCK TABLE ae_action_log IN ACCESS EXCLUSIVE MODE"),
    refused("locking the tenants", "LOCK TABLE ae_tenants IN ACCESS SHARE MODE"),
    nothing("large objects", "SELECT lo_from_bytea(0, 'mine')", "SELECT lo_get(oid) FROM pg_largeobject_metadata"),
    nothing("NOTIFY", "LISTEN anything", "NOTIFY anything, 'VICTIM'"),
]

DEFINITIONS = [
    refused("row_security = off", "SET row_security = off", "SELECT * FROM ae_documents"),
    refused("SET ROLE", 'SET ROLE "owner"'),
    refused("SET ROLE to a superuser", "SET ROLE postgres"),
    refused("SET SESSION AUTHORIZATION", 'SET SESSION AUTHORIZATION "owner"'),
    refused("role by set_config", "SELECT set_config('role', 'owner', true)"),
    refused("session_authorization by set_config", "SELECT set_config('session_authorization', 'owner', false)"),
    refused("session_replication_role", "SET session_replication_role = replica"),
    refused("BYPASSRLS", "ALTER ROLE app BYPASSRLS"),
    refused("membership", 'GRANT "owner" TO app'),
    refused("a new role", "CREATE ROLE mallory SUPERUSER"),
    refused("disabling row-level security", "ALTER TABLE ae_documents DISABLE ROW LEVEL SECURITY"),
    refused("no forcing any more", "ALTER TABLE host_notes NO FORCE ROW LEVEL SECURITY"),
    refused("a policy more", "CREATE POLICY mine ON ae_documents USING (true)"),
    refused("a policy less", "DROP POLICY ae_read ON ae_documents"),
    refused("a policy that says something else", "ALTER POLICY ae_read ON ae_documents USING (true)"),
    refused("disabling the triggers", "ALTER TABLE ae_action_log DISABLE TRIGGER ALL"),
    refused("dropping a trigger", "DROP TRIGGER ae_require_action ON host_notes"),
    refused("taking a table over", "ALTER TABLE ae_documents OWNER TO app"),
    refused("dropping a table", "DROP TABLE ae_documents"),
    refused(
        "a trigger of our own",
        "CREATE FUNCTION pg_temp.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER mine AFTER INSERT ON host_notes EXECUTE FUNCTION pg_temp.t()",
    ),
    refused("a rule of our own", "CREATE RULE mine AS ON INSERT TO host_notes DO ALSO NOTIFY x"),
    refused("an index over a function of our own", LEAK, "CREATE INDEX ON ae_documents (pg_temp.leak(data::text))"),
    refused("a constraint that looks at every row", LEAK, "ALTER TABLE host_notes ADD CHECK (pg_temp.leak(body))"),
    refused("a child table", "CREATE TEMP TABLE child () INHERITS (ae_documents)"),
    refused(
        "a foreign key that asks for the victim's rows",
        "CREATE TEMP TABLE f (t uuid, i text, FOREIGN KEY (t, i) REFERENCES host_notes)",
    ),
    refused(
        "another ae_tenant",
        "CREATE OR REPLACE FUNCTION public.ae_tenant() RETURNS uuid LANGUAGE sql AS $$SELECT 'VICTIM'::uuid$$",
    ),
    refused("ae_tenant with settings", "ALTER FUNCTION public.ae_tenant() SET app.tenant_id = 'VICTIM'"),
    refused("a table in our schema", "CREATE TABLE public.mine (x int)"),
    refused("a function in our schema", "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    refused("a schema", "CREATE SCHEMA mine"),
    refused("an extension", "CREATE EXTENSION plperlu"),
    refused("another language", "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE c AS 'libc', 'getpid'"),
    refused("internal functions", "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE internal AS 'pg_backend_pid'"),
    refused("leakproof", "CREATE FUNCTION pg_temp.f(text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'"),
    refused("a library", "LOAD 'auto_explain'"),
    refused("the directory of tenants", "SELECT * FROM ae_tenants"),
    refused("counting tenants", "SELECT count(*) FROM ae_tenants"),
    refused("the signing keys", "SELECT * FROM ae_signing_keys"),
    refused("a signing key of our own", "INSERT INTO ae_signing_keys VALUES ('mine', '', '')"),
    refused("the migrations", "SELECT * FROM ae_migrations"),
    refused("the version", "UPDATE ae_schema SET version = 0"),
    refused("a file by COPY", "COPY (SELECT 1) TO '/tmp/stolen'"),
    refused("a program by COPY", "COPY (SELECT 1) TO PROGRAM 'true'"),
    refused("a file", "SELECT pg_read_file('PG_VERSION')"),
    refused("a folder", "SELECT pg_ls_dir('.')"),
    refused("a large object from a file", "SELECT lo_import('PG_VERSION')"),
    refused("large objects in the raw", "SELECT * FROM pg_largeobject"),
    refused("the write-ahead log", "SELECT pg_create_logical_replication_slot('s', 'test_decoding')"),
    refused("another server", "CREATE FOREIGN DATA WRAPPER w"),
    refused("passwords", "SELECT * FROM pg_authid"),
    refused("the server's settings", "ALTER SYSTEM SET log_statement = 'all'"),
    refused(
        "the database's settings",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET row_security = off', current_database()); END $$",
    ),
    refused(
        "a function with a setting",
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF public.ae_documents LANGUAGE sql SECURITY DEFINER"
        " SET app.tenant_id = 'VICTIM' AS 'TABLE public.ae_documents'",
    ),
    nothing(
        "settings by way of the catalogue", "UPDATE pg_settings SET setting = 'VICTIM' WHERE name = 'app.tenant_id'"
    ),
    own(
        "tables that shadow ours",
        "CREATE TEMP TABLE ae_documents AS TABLE public.ae_documents",
        "CREATE TEMP TABLE ae_signing_keys AS SELECT ''::text AS id, ''::bytea AS inner_pad, ''::bytea AS outer_pad",
        "SET search_path = pg_temp, public",
        "SELECT * FROM public.ae_documents",
    ),
    own(
        "types that shadow the functions' own",
        "CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid",
        "CREATE DOMAIN pg_temp.text AS pg_catalog.text",
        "SET search_path = pg_temp, pg_catalog, public",
        "SELECT * FROM public.ae_documents",
    ),
    own(
        "tables that shadow the catalogue",
        "CREATE TEMP TABLE pg_locks AS TABLE pg_catalog.pg_locks",
        "CREATE TEMP TABLE pg_roles AS TABLE pg_catalog.pg_roles",
        "SELECT ae_event_horizon()",
        "SELECT * FROM public.ae_documents",
    ),
    refused(
        "claiming the key of nobody",
        "SELECT set_config('app.tenant_id', '', true)",
        "SELECT * FROM ae_claim('test.work', 'key', 'f', NULL, 1)",
    ),
    nothing("claiming a key that the victim has too", "SELECT * FROM ae_claim('test.other', 'key', 'f', NULL, 1)"),
]

READ_ALL = tuple(
    f"SELECT t::text FROM public.{table} t WHERE tenant_id = 'VICTIM'" for table in (*TENANT_TABLES, HOST_TABLE)
)
BE_VICTIM = "SELECT set_config('app.tenant_id', 'VICTIM', true)"
BE_ATTACKER = "SELECT set_config('app.tenant_id', 'ATTACKER', true)"

NAMING_READS = {
    "set_config": (BE_VICTIM, *READ_ALL),
    "set_config for the session": ("SELECT set_config('app.tenant_id', 'VICTIM', false)", *READ_ALL),
    "SET": ("SET app.tenant_id = 'VICTIM'", *READ_ALL),
    "SET LOCAL": ("SET LOCAL app.tenant_id = 'VICTIM'", *READ_ALL),
    "in one statement": (
        "WITH s AS MATERIALIZED (SELECT set_config('app.tenant_id', 'VICTIM', true))"
        " SELECT d::text FROM s, public.ae_documents d",
    ),
    "a DO block": (
        "DO $$ DECLARE d record; BEGIN SET LOCAL app.tenant_id = 'VICTIM';"
        " FOR d IN TABLE public.ae_documents LOOP RAISE NOTICE '%', d; END LOOP; END $$",
    ),
    "a prepared statement": ("PREPARE steal AS TABLE public.ae_documents", BE_VICTIM, "EXECUTE steal"),
    "COPY": (BE_VICTIM, "COPY public.ae_documents TO STDOUT"),
    "other spellings of the id": ("SELECT set_config('app.tenant_id', upper('{VICTIM}'), true)", *READ_ALL),
    "after COMMIT": ("COMMIT", "SET app.tenant_id = 'VICTIM'", *READ_ALL),
    "in a transaction of its own": ("COMMIT", "BEGIN", BE_VICTIM, *READ_ALL, "COMMIT"),
    "after ROLLBACK": ("ROLLBACK", "BEGIN", BE_VICTIM, *READ_ALL),
    "on a read-only snapshot": ("COMMIT", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", BE_VICTIM, *READ_ALL),
    "with an action of another name": (BE_VICTIM, "SET LOCAL app.action_id = 'x'", *READ_ALL),
    "the answer of a key": (BE_VICTIM, *READ_ALL, "SELECT * FROM public.ae_claim('test.work', 'key', 'f', NULL, 1)"),
}
"""Ways to read as another tenant in a database that trusts the session."""

NAMING_WRITES = {
    "a new document": (
        BE_VICTIM,
        "INSERT INTO public.ae_documents VALUES ('VICTIM', 'notes', 'forged', 1, '{}', now(), now())",
        BE_ATTACKER,
    ),
    "a changed document": (BE_VICTIM, "UPDATE public.ae_documents SET data = '{}'", BE_ATTACKER),
    "a deleted document": (BE_VICTIM, "DELETE FROM public.ae_documents", BE_ATTACKER),
    "a note of the host's": (BE_VICTIM, "INSERT INTO public.host_notes VALUES ('VICTIM', 'forged', 'x')", BE_ATTACKER),
    "a role": (
        BE_VICTIM,
        "INSERT INTO public.ae_documents VALUES ('VICTIM', 'ae_roles', 'boss', 1, '{}', now(), now())",
        BE_ATTACKER,
    ),
    "a log row": (
        BE_VICTIM,
        "INSERT INTO public.ae_action_log (tenant_id, id, source, action, subjects, outcome, started_at, latency)"
        " VALUES ('VICTIM', gen_random_uuid(), 'http', 'test.work', '[]', 'succeeded', now(), 0)",
        BE_ATTACKER,
    ),
    "in a transaction of its own": (
        "COMMIT",
        "BEGIN",
        BE_VICTIM,
        "SET LOCAL app.action_id = 'x'",
        "DELETE FROM public.host_notes",
        "COMMIT",
    ),
}

FORGED_SIGNATURES = {
    "none": "''",
    "its own again": "current_setting('app.signature')",
    "its own in capitals": "upper(current_setting('app.signature'))",
    "a pattern": "'%'",
    "of an empty key": (
        "encode(sha256(decode(repeat('5c', 64), 'hex')"
        " || sha256(decode(repeat('36', 64), 'hex') || 'VICTIM|x'::bytea)), 'hex')"
    ),
    "a hash without a key": "encode(sha256('VICTIM|x'::bytea), 'hex')",
    "very long": "repeat('0', 1000000)",
}
"""Values of `app.signature` for the id of another tenant."""

OPERATOR_CALLS = {
    "all tenants": "SELECT * FROM public.ae_list_tenants({signature})",
    "a tenant by its slug": "SELECT public.ae_find_tenant('globex', {signature})",
    "a tenant by its id": "SELECT public.ae_find_tenant_by_id('VICTIM'::uuid, {signature})",
    "a new tenant": "SELECT public.ae_create_tenant(gen_random_uuid(), 'mallory', 'Mallory', {signature})",
    "deleting a tenant": "SELECT public.ae_delete_tenant('globex', {signature})",
    "purging keys": "SELECT public.ae_purge_keys(1000, {signature})",
    "everybody's events": "SELECT * FROM public.ae_outbox_take(1000, 64, 'events', NULL, {signature})",
    "losing an event": (
        "SELECT public.ae_outbox_settle(ARRAY['VICTIM'::uuid], ARRAY[1], '[]', '[]', 'events', {signature})"
    ),
    "when the next event is due": "SELECT public.ae_outbox_next('events', NULL, {signature})",
    "a relay that is none": "SELECT public.ae_relay_heartbeat('{{}}', {signature})",
    "how much there is to deliver": "SELECT * FROM public.ae_relay_status('events', {signature})",
    "what waits for people": "SELECT * FROM public.ae_backlog(10, {signature})",
    "everybody's dead letters": "SELECT * FROM public.ae_dead_letters(NULL, 1000, 'events', {signature})",
    "redriving everybody's dead letters": "SELECT public.ae_redrive(NULL, 'events', {signature})",
    "skipping somebody's dead letter": "SELECT public.ae_skip(ARRAY['VICTIM'::uuid], 'mine', 'events', {signature})",
}

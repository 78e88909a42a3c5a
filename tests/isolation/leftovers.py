"""SQL that leaves something in a connection for its next user, and SQL that comes back for the harvest."""

from __future__ import annotations

HIJACK = """
DO $$
DECLARE
    prepared record;
    forged   text;
BEGIN
    FOR prepared IN
        SELECT name, statement, parameter_types::text[] AS types
        FROM pg_catalog.pg_prepared_statements
        WHERE NOT from_sql
    LOOP
        forged := CASE
            {cases}
        END;
        IF forged <> prepared.statement THEN
            EXECUTE format('DEALLOCATE %I', prepared.name);
            EXECUTE format(
                'PREPARE %I %s AS %s',
                prepared.name,
                coalesce('(' || nullif(array_to_string(prepared.types, ', '), '') || ')', ''),
                forged
            );
            RAISE NOTICE 'replaced %', prepared.statement;
        END IF;
    END LOOP;
END $$
"""
"""A function that puts other statements under the names of those that the driver has prepared."""

UNSEEN = "WHEN prepared.statement LIKE '%pg_prepared_statements%' THEN 'SELECT false'"
"""The statements by which the engine learns that nothing was left behind."""


def hijack(*cases: str) -> str:
    return HIJACK.format(cases="\n            ".join((UNSEEN, *cases)))


STAY = """WHEN prepared.statement IN ('RESET ALL', 'DISCARD TEMP', 'DISCARD SEQUENCES') THEN 'SELECT 1'"""
EAVESDROP = """WHEN prepared.statement LIKE '%context AS MATERIALIZED%' THEN regexp_replace(
                prepared.statement,
                'MATERIALIZED \\(\\s*SELECT',
                'MATERIALIZED ( SELECT set_config(''leak.stolen'','
                    ' concat_ws('';'', current_setting(''leak.stolen'', true),'
                    ' concat_ws('','', $1, $2, $3)), false), '
            )"""
NO_COMMIT = "WHEN prepared.statement = 'COMMIT' THEN 'SELECT 1'"
NO_ROLLBACK = "WHEN prepared.statement = 'ROLLBACK' THEN 'SELECT 1'"
NO_RECORD = "WHEN prepared.statement LIKE '%INSERT INTO public.ae_action_log%' THEN 'SELECT 1'"
NO_BEGIN = "WHEN prepared.statement = 'BEGIN' THEN 'SELECT 1'"

HIJACKED = {
    "the opening, to overhear signatures": (hijack(STAY, EAVESDROP),),
    "COMMIT": (hijack(NO_COMMIT),),
    "BEGIN": (hijack(NO_BEGIN),),
    "ROLLBACK": (hijack(NO_ROLLBACK),),
    "what records": (hijack(NO_RECORD),),
    "everything": (hijack("ELSE 'SELECT 1'"),),
}

LEFTOVERS: dict[str, tuple[str, ...]] = {
    "settings for the session": ("SET app.tenant_id = 'VICTIM'", "SET app.action_id = 'x'", "SET app.signature = 'x'"),
    "read-only by default": ("SET default_transaction_read_only = on",),
    "read-only characteristics": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE",
    ),
    "row_security": ("SET row_security = off",),
    "timeouts": (
        "SELECT set_config(name, '1', false) FROM unnest(ARRAY['statement_timeout', 'lock_timeout',"
        " 'idle_in_transaction_session_timeout', 'idle_session_timeout']) name",
    ),
    "formats": (
        "SET DateStyle = 'SQL, DMY'",
        "SET TimeZone = 'Pacific/Apia'",
        "SET bytea_output = 'escape'",
        "SET xmloption = document",
        "SET standard_conforming_strings = off",
    ),
    "the encoding": ("SET client_encoding = 'LATIN1'",),
    "a search path": ("SET search_path = pg_temp, pg_catalog",),
    "a search path to nowhere": ("SET search_path = ''",),
    "tables that shadow ours": (
        "CREATE TEMP TABLE ae_documents (LIKE public.ae_documents)",
        "CREATE TEMP TABLE ae_action_log (LIKE public.ae_action_log)",
    ),
    "a table that shadows the host's": ("CREATE TEMP TABLE host_notes (tenant_id uuid, id text, body text)",),
    "a view that shadows the host's": (
        "CREATE TEMP TABLE stolen (tenant_id uuid, id text, body text)",
        "CREATE TEMP VIEW host_notes AS SELECT * FROM stolen",
    ),
    "a trigger that overhears": (
        "CREATE TEMP TABLE host_notes (tenant_id uuid, id text, body text)",
        "CREATE FUNCTION pg_temp.overhear() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM set_config(''leak.stolen'', new.body, false); RETURN new; END'",
        "CREATE TRIGGER overhear BEFORE INSERT ON host_notes FOR EACH ROW EXECUTE FUNCTION pg_temp.overhear()",
    ),
    "tables that shadow the catalogue": (
        "CREATE TEMP TABLE pg_prepared_statements (name text, statement text, from_sql boolean)",
        "CREATE TEMP TABLE pg_locks (classid oid, objid oid, objsubid int, locktype text, database oid)",
        "PREPARE steal AS TABLE public.ae_documents",
    ),
    "types that shadow the catalogue's": (
        "CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid",
        "CREATE DOMAIN pg_temp.json AS pg_catalog.json",
        "CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb",
        "CREATE DOMAIN pg_temp.timestamptz AS pg_catalog.timestamptz",
    ),
    "functions": ("CREATE FUNCTION pg_temp.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT $2'",),
    "a held cursor": ("DECLARE held CURSOR WITH HOLD FOR SELECT * FROM host_notes",),
    "many held cursors": tuple(f"DECLARE held{number} CURSOR WITH HOLD FOR TABLE ae_documents" for number in range(5)),
    "advisory locks": ("SELECT pg_advisory_lock(42)", "SELECT pg_advisory_lock_shared(42)"),
    "the lock that holds back the event log": ("SELECT pg_advisory_lock_shared(1634034944::bigint << 32)",),
    "LISTEN": ("LISTEN ae", "LISTEN anything"),
    "a prepared statement": ("PREPARE steal AS TABLE public.ae_documents",),
    "a prepared statement under a name of the driver's": ("PREPARE _pg3_999 AS SELECT 1",),
    "the driver's statements gone": ("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",),
    "the driver's statements gone, openly": ("DEALLOCATE ALL",),
    "one of the driver's statements gone": (
        "DO $$ BEGIN EXECUTE (SELECT format('DEALLOCATE %I', name) FROM pg_catalog.pg_prepared_statements"
        " WHERE statement = 'BEGIN'); END $$",
    ),
    "another role": ("SET ROLE nobody_in_particular",),
    "another role by set_config": ("SELECT set_config('role', 'nobody_in_particular', false)",),
    "a transaction that was committed": ("SET app.tenant_id = 'VICTIM'", "COMMIT"),
    "a transaction that was rolled back": ("SET search_path = ''", "ROLLBACK"),
    "a transaction of its own": ("COMMIT", "BEGIN READ ONLY"),
    "a transaction that has failed": ("COMMIT", "BEGIN", "SELECT 1 / 0", "SELECT 1"),
    "savepoints": ("SAVEPOINT ae_1", "SAVEPOINT ae_claim", "SAVEPOINT sa_savepoint_1"),
    "a transaction that is prepared": ("PREPARE TRANSACTION 'left'",),
    "a pipeline of errors": ("SELECT 1 / 0", "SELECT nothing", "SELECT 1 / 0"),
    "a dead connection": ("SELECT pg_terminate_backend(pg_backend_pid())",),
    "large objects": ("SELECT lo_open(lo_create(0), 131072)",),
    "an encrypted password setting": ("SET password_encryption = 'md5'",),
    "a plan for everybody": ("SET plan_cache_mode = force_generic_plan", "SET enable_seqscan = off"),
}
"""Statements that must not affect the next tenant in the connection."""

HARVEST = (
    "SELECT t::text FROM pg_temp.host_notes t",
    "SELECT t::text FROM pg_temp.stolen t",
    "SELECT t::text FROM pg_temp.ae_documents t",
    "SELECT t::text FROM pg_temp.ae_action_log t",
    "SELECT current_setting('leak.stolen', true)",
    "SELECT string_agg(concat_ws(' ', name, setting), ' ') FROM pg_settings",
    "FETCH ALL FROM held",
    "FETCH ALL FROM held0",
    "EXECUTE steal",
    "TABLE pg_catalog.pg_cursors",
    "TABLE pg_catalog.pg_prepared_statements",
    "SELECT pg_listening_channels()",
    "SELECT lo_get(oid) FROM pg_largeobject_metadata",
    "SELECT query FROM pg_stat_activity",
    "TABLE public.ae_documents",
    "TABLE public.host_notes",
)
"""The places where the attacker looks afterwards."""

REPLAY = """
SELECT set_config('app.tenant_id', split_part(overheard, ',', 1), true),
    set_config('app.action_id', split_part(overheard, ',', 2), true),
    set_config('app.signature', split_part(overheard, ',', 3), true)
FROM unnest(string_to_array(current_setting('leak.stolen', true), ';')) overheard
WHERE overheard LIKE 'VICTIM,%'
LIMIT 1
"""
"""SQL that impersonates a victim with an overheard signature."""

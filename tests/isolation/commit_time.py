"""SQL that runs while its transaction commits, and SQL that ends its own transaction."""

from __future__ import annotations

from tests.isolation.leftovers import EAVESDROP, NO_COMMIT, NO_RECORD, STAY, hijack

FUNCTION = """
CREATE FUNCTION {name} RETURNS {returns} LANGUAGE plpgsql {options} AS $boom$
DECLARE
    answer {type};
BEGIN
    {before}
    EXECUTE $hijack${script}$hijack$;
    INSERT INTO public.host_notes VALUES ('ATTACKER', 'boom-' || gen_random_uuid(), 'the code of the handler has run');
    {after}
    RETURN answer;
END $boom$
"""


def boom(
    script: str,
    *,
    name: str = "pg_temp.boom()",
    returns: str = "trigger",
    options: str = "",
    before: str = "",
    after: str = "",
) -> str:
    """A function that replaces statements and notes that it has run."""
    kind = "record" if returns == "trigger" else returns
    return FUNCTION.format(
        name=name, returns=returns, type=kind, options=options, before=before, after=after, script=script
    )


HIJACK = hijack(STAY, EAVESDROP)
BOMB = (
    "CREATE TEMP TABLE bomb (x int)",
    "CREATE CONSTRAINT TRIGGER boom AFTER INSERT ON bomb DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION pg_temp.boom()",
    "INSERT INTO bomb VALUES (1)",
)

AT_COMMIT: dict[str, tuple[str, ...]] = {
    "a deferred trigger": (boom(HIJACK), *BOMB),
    "a deferred trigger that records nothing": (boom(hijack(NO_RECORD)), *BOMB),
    "a deferred trigger that commits nothing": (boom(hijack(NO_COMMIT)), *BOMB),
    "a deferred trigger that replaces everything": (boom(hijack("ELSE 'SELECT 1'")), *BOMB),
    "a trigger that is deferred again": (
        boom(
            HIJACK,
            before="IF NEW.x < 5 THEN SET CONSTRAINTS ALL DEFERRED; INSERT INTO pg_temp.bomb VALUES (NEW.x + 1);"
            " RETURN NULL; END IF;",
        ),
        *BOMB,
    ),
    "a trigger that declares a cursor": (
        boom(HIJACK, name="pg_temp.late()", returns="int"),
        "CREATE FUNCTION pg_temp.boom() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN"
        " EXECUTE 'DECLARE late CURSOR WITH HOLD FOR SELECT pg_temp.late()'; RETURN NULL; END $t$",
        *BOMB,
    ),
    "a held cursor": (boom(HIJACK, returns="int"), "DECLARE held CURSOR WITH HOLD FOR SELECT pg_temp.boom()"),
    "a deferred constraint over a function": (
        boom(HIJACK, name="pg_temp.late()", returns="int"),
        "CREATE FUNCTION pg_temp.boom(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        " $f$ BEGIN PERFORM pg_temp.late(); RETURN x; END $f$",
        "CREATE TEMP TABLE bomb (x int)",
        "ALTER TABLE bomb ADD EXCLUDE USING btree ((pg_temp.boom(x)) WITH =) DEFERRABLE INITIALLY DEFERRED",
        "INSERT INTO bomb VALUES (1), (2)",
    ),
    "a deferred trigger on a table that goes with the commit": (
        boom(HIJACK),
        "CREATE TEMP TABLE bomb (x int) ON COMMIT DROP",
        *BOMB[1:],
    ),
    "a deferred trigger on a child of a foreign key": (
        boom(HIJACK),
        "CREATE TEMP TABLE parent (x int PRIMARY KEY)",
        "CREATE TEMP TABLE bomb (x int REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
        "CREATE CONSTRAINT TRIGGER boom AFTER DELETE ON bomb DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION pg_temp.boom()",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO bomb VALUES (1)",
        "DELETE FROM parent",
    ),
    "a deferred trigger that clears the connection": (
        boom("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; EXECUTE 'PREPARE ae_0 AS SELECT 1'; END $$"),
        *BOMB,
    ),
    "a deferred trigger that names another tenant": (boom("SELECT set_config('app.tenant_id', 'VICTIM', true)"), *BOMB),
    "a deferred trigger that shadows what the library asks": (
        boom(
            "CREATE TEMP TABLE pg_prepared_statements (name text, from_sql boolean);"
            " CREATE TEMP TABLE pg_proc (x int); SET search_path = pg_temp, pg_catalog, public"
        ),
        *BOMB,
    ),
    "a deferred trigger that changes the encoding": (boom("SET client_encoding = 'LATIN1'"), *BOMB),
    "a deferred trigger that changes the role's password": (boom("ALTER ROLE CURRENT_USER PASSWORD 'mine'"), *BOMB),
}
"""Code of the handler that waits for COMMIT."""

WRITE = "INSERT INTO public.host_notes VALUES ('ATTACKER', 'after', 'written after the transaction was cut')"
KEEP = (
    "DO $$ BEGIN PERFORM set_config('kept.' || name, current_setting('app.' || name, true), false)"
    " FROM unnest(ARRAY['tenant_id', 'action_id', 'signature']) name; END $$"
)
BACK = (
    "SELECT set_config('app.' || name, current_setting('kept.' || name), true)"
    " FROM unnest(ARRAY['tenant_id', 'action_id', 'signature']) name"
)

CUTS: dict[str, tuple[str, ...]] = {
    "commit and begin": ("COMMIT", "BEGIN READ WRITE"),
    "in one string": ("COMMIT; BEGIN READ WRITE",),
    "in one string, after a comment": ("/* a; b */ SELECT 1; -- x\nEND; START TRANSACTION READ WRITE",),
    "and chain": ("COMMIT AND CHAIN",),
    "roll back and chain": ("ROLLBACK AND CHAIN",),
    "roll back and begin": ("ROLLBACK", "BEGIN READ WRITE"),
    "several transactions": ("COMMIT; BEGIN; COMMIT; BEGIN READ WRITE; SAVEPOINT hostile",),
    "a failed one between": ("COMMIT", "BEGIN", "SELECT 1 / 0", "ROLLBACK", "BEGIN READ WRITE"),
    "outside any transaction": ("COMMIT", "SET default_transaction_read_only = off"),
    "serializable": ("COMMIT", "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE"),
}
"""Ways in which SQL ends the transaction."""

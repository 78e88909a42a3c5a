"""`actionengine db check` and `db protect`, as an operator of a host with tables of its own runs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from examples.embedded_postgres import Database
from sqlalchemy import Engine, create_engine, make_url, text

from actionengine import SQLiteStorage
from tests.command_line import Run

MODELS = """
from sqlalchemy import Column, MetaData, Table, Text, Uuid
from sqlalchemy.orm import DeclarativeBase
from actionengine import protect_table

class Base(DeclarativeBase):
    pass

key = [Column("tenant_id", Uuid, primary_key=True), Column("n", Text, primary_key=True)]
table = Table("expenses", Base.metadata, *key)
protect_table(table, app_role="app")
metadata = Base.metadata
"""
CREATE = {
    "postgresql": "CREATE TABLE expenses (tenant_id uuid NOT NULL, n text); GRANT SELECT ON expenses TO app",
    "sqlite": "CREATE TABLE expenses (tenant_id TEXT NOT NULL, n TEXT)",
}


class Operated(NamedTuple):
    owner: Engine
    owner_url: str
    app_url: str

    def execute(self, script: str) -> None:
        with self.owner.begin() as connection:
            for statement in script.split("; "):
                connection.execute(text(statement))


@pytest.fixture(params=["postgresql", "sqlite"])
def operated(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    (tmp_path / "host_models_of_the_command_line.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    if request.param == "sqlite":
        with SQLiteStorage(tmp_path / "x.db", protected=()):
            pass
        urls = (f"sqlite:///{tmp_path / 'x.db'}",) * 2
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        urls = (database.owner_url, database.app_url)
    url = make_url(urls[0])
    engine = create_engine(url if request.param == "sqlite" else url.set(drivername="postgresql+psycopg"))
    yield Operated(engine, *urls)
    engine.dispose()
    # Its declarations last as long as the module.
    sys.modules.pop("host_models_of_the_command_line", None)


@pytest.mark.parametrize("attribute", ["metadata", "Base"])
def test_a_check_compares_the_metadata_and_says_what_to_run(run: Run, operated: Operated, attribute: str) -> None:
    check = ("db", "check", "--url", operated.app_url, "--metadata", f"host_models_of_the_command_line:{attribute}")
    missing = run(*check)
    operated.execute(CREATE[operated.owner.dialect.name])
    unprotected = run(*check)
    protected = run("db", "protect", "expenses", "--url", operated.owner_url, "--app-role", "app")
    sound = run(*check)

    assert missing.returncode == 1
    assert "expenses: it is declared as protected, and this database lacks it" in missing.stderr
    assert unprotected.returncode == 1
    assert "Run `actionengine db protect expenses`" in unprotected.stderr
    assert (protected.returncode, protected.stdout) == (0, "the table expenses is protected\n")
    assert (sound.returncode, sound.stderr) == (0, "")


def test_a_check_finds_what_nobody_declares(run: Run, operated: Operated) -> None:
    operated.execute(CREATE[operated.owner.dialect.name])
    check = ("db", "check", "--url", operated.app_url)

    found = run(*check)
    meant = run(*check, "--unprotected", "expenses")
    run("db", "protect", "expenses", "--url", operated.owner_url)
    sound = run(*check)
    operated.execute(
        "DROP TRIGGER ae_protect_expenses_delete"
        if operated.owner.dialect.name == "sqlite"
        else "ALTER TABLE expenses RENAME TO costs; ALTER TABLE costs DISABLE TRIGGER ae_require_action"
    )
    lost = run(*check)
    # An operator can still connect, and repair it.
    assert run("tenant", "list", "--url", operated.app_url).returncode == 0

    assert found.returncode == 1
    assert "expenses: it has a column tenant_id and no protection" in found.stderr
    assert "actionengine db protect expenses" in found.stderr
    assert (meant.returncode, meant.stderr) == (0, "")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert lost.returncode == 1
    assert ("DELETE" if operated.owner.dialect.name == "sqlite" else "costs") in lost.stderr


@pytest.mark.parametrize("operated", ["postgresql"], indirect=True)
def test_a_table_of_another_schema_is_protected_by_its_name(run: Run, operated: Operated) -> None:
    operated.execute('CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."Jobs 100%" (customer uuid NOT NULL)')
    arguments = ("Jobs 100%", "--schema", "a.b", "--tenant-column", "customer")

    done = run("db", "protect", *arguments, "--url", operated.owner_url, "--app-role", "app")

    assert (done.returncode, done.stderr) == (0, "")
    operated.execute('GRANT USAGE ON SCHEMA "a.b" TO app; ALTER TABLE "a.b"."Jobs 100%" NO FORCE ROW LEVEL SECURITY')
    found = run("db", "check", "--url", operated.app_url)
    assert found.returncode == 1
    assert "db protect 'Jobs 100%' --schema a.b --tenant-column customer" in found.stderr


@pytest.mark.parametrize("operated", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("ALTER TABLE ae_documents DISABLE ROW LEVEL SECURITY", "ALTER TABLE public.ae_documents ENABLE ROW LEVEL"),
        ("ALTER TABLE ae_outbox NO FORCE ROW LEVEL SECURITY", "on tables of the library's: ae_outbox"),
        ("CREATE POLICY more ON ae_events USING (true)", "ae_events: permissive policies let the role past ours: more"),
        ("ALTER POLICY ae_owner ON ae_tenants TO PUBLIC", "ae_tenants: permissive policies let the role past ours"),
        ("ALTER TABLE ae_action_log DISABLE TRIGGER USER", "ae_action_log: triggers are disabled: ae_append_only"),
        ("GRANT TRUNCATE ON ae_documents TO PUBLIC", "ae_documents: the role may TRUNCATE it"),
    ],
)
def test_a_check_finds_what_was_altered_in_tables_of_the_library(
    run: Run, operated: Operated, statement: str, told: str
) -> None:
    operated.execute(statement)

    done = run("db", "check", "--url", operated.app_url)

    assert done.returncode == 1
    assert told in done.stderr


@pytest.mark.parametrize("operated", ["postgresql"], indirect=True)
def test_check_finds_each_alteration_of_the_librarys_own(run: Run, operated: Operated) -> None:
    altered = [
        ("ALTER POLICY ae_read ON ae_documents USING (true)", "ae_documents: the policy ae_read does not say"),
        ("ALTER POLICY ae_insert ON ae_outbox WITH CHECK (true)", "ae_outbox: the policy ae_insert does not say"),
        ("DROP TRIGGER ae_append_only ON ae_events", "ae_events: the trigger ae_append_only is missing"),
        ("DROP TRIGGER ae_base_type ON ae_record_types", "ae_record_types: the trigger ae_base_type is missing"),
        ("GRANT UPDATE, DELETE ON ae_projects TO app", "ae_projects: the role may DELETE, the role may UPDATE."),
        ("GRANT UPDATE (base_type) ON ae_record_types TO app", "ae_record_types: the role may UPDATE base_type"),
        ("GRANT UPDATE ON ae_changes TO app", "ae_changes: the role may UPDATE every column"),
        ("GRANT SELECT ON ae_signing_keys TO PUBLIC", "ae_signing_keys: the role may SELECT"),
        (
            "CREATE VIEW seen AS SELECT * FROM ae_events; GRANT SELECT ON seen TO app",
            "ae_events: the view seen reads it as a role that is past row-level security",
        ),
        (
            "CREATE INDEX text ON ae_documents (tenant_id, (data ->> 'text'))",
            """ae_documents: the planner keeps statistics of "text" (run `SELECT public.ae_set_statistics(""",
        ),
        (
            "CREATE OR REPLACE FUNCTION ae_require_action() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN RETURN NULL;END'",
            "ae_require_action: it is missing, or was replaced",
        ),
        (
            "CREATE OR REPLACE FUNCTION ae_writing_tenant() RETURNS uuid LANGUAGE sql RETURN NULL::uuid",
            "ae_writing_tenant: it is missing, or was replaced",
        ),
        ("ALTER FUNCTION ae_find_tenant(text, text) SET search_path = public", "ae_find_tenant: it is missing, or"),
        ("ALTER FUNCTION ae_claim SECURITY DEFINER", "ae_claim: it is missing, or was replaced"),
        ("CREATE FUNCTION ae_open(text) RETURNS text LANGUAGE sql RETURN ''", "ae_open: there are several"),
    ]
    for statement, _ in altered:
        operated.execute(statement)

    done = run("db", "check", "--url", operated.app_url)

    assert done.returncode == 1
    for _, told in altered:
        name, _, problem = told.partition(": ")
        assert any(line.startswith(f"{name}: ") and problem in line for line in done.stderr.splitlines()), told


@pytest.mark.parametrize("operated", ["postgresql"], indirect=True)
def test_functions_that_verify_signatures_are_compared_too(run: Run, operated: Operated) -> None:
    key = ("--signing-key", "a key that is long enough")
    run("db", "sign", "--url", operated.owner_url, *key)

    assert run("db", "check", "--url", operated.app_url, *key).returncode == 0
    operated.execute(
        "CREATE OR REPLACE FUNCTION ae_tenant() RETURNS uuid LANGUAGE sql STABLE "
        "RETURN nullif(current_setting('app.tenant_id', true), '')::uuid"
    )
    done = run("db", "check", "--url", operated.app_url, *key)
    assert done.returncode == 1
    assert "ae_tenant: it is missing, or was replaced" in done.stderr
    run("db", "sign", "--url", operated.owner_url, *key)
    assert run("db", "check", "--url", operated.app_url, *key).returncode == 0


@pytest.mark.parametrize("operated", ["sqlite"], indirect=True)
def test_letter_case_makes_no_other_column_on_sqlite(run: Run, operated: Operated) -> None:
    operated.execute("CREATE TABLE Costs (TENANT_ID TEXT NOT NULL)")

    found = run("db", "check", "--url", operated.app_url)
    run("db", "protect", "Costs", "--url", operated.owner_url)

    assert "Costs: it has a column tenant_id and no protection" in found.stderr
    assert run("db", "check", "--url", operated.app_url).returncode == 0


@pytest.mark.parametrize("operated", ["sqlite"], indirect=True)
def test_check_finds_a_missing_trigger_of_the_library_on_sqlite(run: Run, operated: Operated) -> None:
    operated.execute("ALTER TABLE ae_events RENAME TO other; ALTER TABLE other RENAME TO ae_events")
    assert run("db", "check", "--url", operated.app_url).returncode == 0

    operated.execute("DROP TRIGGER ae_action_log_update")

    done = run("db", "check", "--url", operated.app_url)
    assert done.returncode == 1
    assert "ae_action_log: the trigger ae_action_log_update is missing" in done.stderr


@pytest.mark.parametrize("operated", ["postgresql"], indirect=True)
def test_a_later_column_fails_the_check_only(run: Run, operated: Operated) -> None:
    operated.execute(CREATE["postgresql"])
    run("db", "protect", "expenses", "--url", operated.owner_url)
    operated.execute("ALTER TABLE expenses ADD COLUMN extra text")

    done = run("db", "check", "--url", operated.app_url)

    assert done.returncode == 1
    assert 'the planner keeps statistics of "extra"' in done.stderr
    run("db", "protect", "expenses", "--url", operated.owner_url)
    assert run("db", "check", "--url", operated.app_url).returncode == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("host_models_of_the_command_line:nothing", "cannot be imported"),
        ("host_models_of_the_command_line", "is not a MetaData"),
        ("no_such_module:metadata", "cannot be imported"),
    ],
)
@pytest.mark.parametrize("operated", ["sqlite"], indirect=True)
def test_a_metadata_that_is_none_is_told(run: Run, operated: Operated, name: str, told: str) -> None:
    done = run("db", "check", "--url", operated.app_url, "--metadata", name)

    assert done.returncode == 1
    assert told in done.stderr


def test_a_table_that_is_not_there_cannot_be_protected(run: Run, operated: Operated) -> None:
    done = run("db", "protect", "nothing", "--url", operated.owner_url)

    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr

"""`actionengine db ...` and its neighbours, as an operator runs them."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database, make_role
from sqlalchemy import make_url

from actionengine import ConfigurationError, PostgresStorage, SQLiteStorage
from tests.command_line import Run


def check(url: str, **options: str) -> None:
    with PostgresStorage(url, **options):  # type: ignore[arg-type]
        pass


@pytest.fixture
def empty(postgres_server: str) -> Database:
    """A database without our schema, for its owner, which is not a superuser, and for a role that may only connect."""
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for role in ("owner", "app"):
            make_role(connection, role)
        connection.execute(f'CREATE DATABASE "{name}" OWNER "owner"')
    url = make_url(postgres_server).set(database=name)
    owner, app = (url.set(username=role).render_as_string(hide_password=False) for role in ("owner", "app"))
    return Database(owner, app)


def test_an_empty_database_is_brought_up_to_date_for_an_app_role(run: Run, empty: Database) -> None:
    assert run("db", "current", "--url", empty.owner_url).stdout == "there is no schema\n"

    done = run("db", "upgrade", "--url", empty.owner_url, "--app-role", "app")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the schema is at version 1\nthe role app has its grants\n"
    assert run("db", "current", "--url", empty.owner_url).stdout == "version 1 of 1\n"
    assert run("db", "check", "--url", empty.app_url).returncode == 0


def test_a_populated_database_stays_as_it_is(run: Run, fresh_postgres_database: Database) -> None:
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        acme = storage.create_tenant(slug="acme", name="Acme")

        done = run("db", "upgrade", "--url", fresh_postgres_database.owner_url, "--app-role", "app")

        assert done.returncode == 0, done.stderr
        assert list(storage.list_tenants()) == [acme]


def test_printed_sql_creates_the_schema(run: Run, empty: Database) -> None:
    printed = run("db", "upgrade", "--sql", "--url", empty.owner_url, "--app-role", "app")

    with psycopg.connect(empty.owner_url, autocommit=True) as connection:
        connection.execute(printed.stdout)
    with PostgresStorage(empty.app_url) as storage:
        storage.create_tenant(slug="acme", name="Acme")
    again = run("db", "upgrade", "--url", empty.owner_url)
    assert again.returncode == 0, again.stderr


def test_a_role_that_is_not_there_is_named(run: Run, empty: Database) -> None:
    done = run("db", "upgrade", "--url", empty.owner_url, "--app-role", "nobody")

    assert done.returncode == 1
    assert 'role "nobody" does not exist' in done.stderr
    assert run("db", "current", "--url", empty.owner_url).stdout == "there is no schema\n"


def test_a_check_says_what_a_host_would_be_refused_for(run: Run, empty: Database, postgres_server: str) -> None:
    before = run("db", "check", "--url", empty.app_url)
    assert before.returncode == 1
    assert "has no actionengine schema: run `actionengine db upgrade" in before.stderr

    run("db", "upgrade", "--url", empty.owner_url)
    without_grants = run("db", "check", "--url", empty.app_url)
    assert without_grants.returncode == 1
    assert "has no grants" in without_grants.stderr

    as_owner = run("db", "check", "--url", empty.owner_url)
    assert as_owner.returncode == 1
    assert "is an owner of the tables" in as_owner.stderr


def test_tenants_are_made_and_listed(run: Run, fresh_postgres_database: Database) -> None:
    url = fresh_postgres_database.app_url

    made = run("tenant", "create", "acme", "--name", "Acme", ACTIONENGINE_URL=url)
    again = run("tenant", "create", "acme", "--name", "Acme", ACTIONENGINE_URL=url)
    listed = run("tenant", "list", ACTIONENGINE_URL=url)

    id = UUID(made.stdout.strip())
    assert (again.returncode, again.stderr) == (1, "the tenant 'acme' exists already\n")
    assert f"{id}" in listed.stdout
    assert "acme" in listed.stdout


def test_keys_are_purged(run: Run, fresh_postgres_database: Database) -> None:
    assert run("keys", "purge", "--url", fresh_postgres_database.app_url).stdout == "purged 0 keys\n"


def test_signing_is_switched_on_and_keys_are_changed(run: Run, fresh_postgres_database: Database) -> None:
    owner, app = fresh_postgres_database.owner_url, fresh_postgres_database.app_url

    # A host may have its key before the database verifies it.
    check(app, signing_key="a key, of enough bytes")
    first = run("db", "sign", "--url", owner).stdout.rpartition("=")[2].strip()

    with pytest.raises(ConfigurationError, match="verifies signatures"):
        check(app)
    check(app, signing_key=first)
    second = "second key, of enough bytes"
    assert run("db", "sign", "--url", owner, "--signing-key", second).returncode == 0
    check(app, signing_key=first)
    assert run("db", "unsign", "--url", owner, "--signing-key", first).stdout == "the key is removed\n"
    with pytest.raises(ConfigurationError, match="does not know this signing_key"):
        check(app, signing_key=first)
    check(app, signing_key=second)
    last = run("db", "unsign", "--url", owner, "--signing-key", second)
    assert (last.returncode, last.stderr) == (1, "this is the last signing key: store another one first\n")


def test_a_sqlite_file_is_made(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'made.db'}"

    assert run("db", "upgrade", "--url", url).stdout == "the schema is at version 1\n"

    assert run("db", "current", "--url", url).stdout == "version 1 of 1\n"
    assert run("db", "check", "--url", url).returncode == 0
    with SQLiteStorage(tmp_path / "made.db") as storage:
        assert list(storage.list_tenants()) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "'nonsense' is not a database URL"),
        ("mysql://localhost/x", "on PostgreSQL and SQLite, not on mysql"),
        ("postgresql://nobody@127.0.0.1:1/nothing", "Connection refused"),
    ],
)
def test_a_wrong_url_is_told_in_a_line(run: Run, url: str, told: str) -> None:
    done = run("db", "current", "--url", url)

    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_driver_is_named(run_process: Run, tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError('away', name='psycopg')\n")

    for command in (("db", "upgrade"), ("tenant", "list")):
        done = run_process(*command, "--url", "postgresql://owner@127.0.0.1:1/shop", PYTHONPATH=str(tmp_path))

        assert (done.returncode, done.stdout) == (1, "")
        assert "PostgreSQL needs psycopg: pip install 'actionengine[postgres]'" in done.stderr
        assert "Traceback" not in done.stderr

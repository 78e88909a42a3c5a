"""Changes by one process that another one must notice."""

from __future__ import annotations

import time

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    Actor,
    Engine,
    RBACAuthorizer,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from tests.storage.backends import SQLDatabase, SQLStorage


def engine_on(storage: SQLStorage, max_age: float) -> Engine:
    def edit(data: object) -> Result[str, str]:
        return Success("edited")

    action = create_action(name="edit", description="Edit", handler=edit, permission="notes.edit")
    service = create_service(name="notes", description="Notes", actions=[action])
    return create_engine(services=[service], storage=storage, authorizer=RBACAuthorizer(storage, max_age=max_age))


@pytest.mark.parametrize("change", ["granted", "revoked"])
def test_roles_changed_by_another_process_apply_in_time(sql_database: SQLDatabase, change: str) -> None:
    bound = 0.5
    with sql_database.open() as here, sql_database.open() as there:
        tenant = here.create_tenant(slug="acme", name="Acme")
        as_ann, as_system = (
            RequestContext(tenant=tenant, actor=actor) for actor in (Actor.human("ann"), Actor.system())
        )
        asking, changing = engine_on(here, bound), engine_on(there, 60.0)
        role = {"name": "editor", "allow": [{"permission": "notes.edit"}]}
        assigned = {"actor_type": "human", "actor_id": "ann", "role": "editor"}
        changing.execute_action("roles", "define", role, as_system).unwrap()
        if change == "revoked":
            changing.execute_action("roles", "assign", assigned, as_system).unwrap()
        before = asking.execute_action("notes", "edit", {}, as_ann)

        changing.execute_action("roles", "assign" if change == "granted" else "unassign", assigned, as_system).unwrap()

        changed = time.monotonic()
        while type(asking.execute_action("notes", "edit", {}, as_ann)) is type(before):
            assert time.monotonic() - changed < 60
            time.sleep(0.02)
        assert isinstance(before, Failure if change == "granted" else Success)


def test_a_process_sees_its_own_changes_at_once(sql_database: SQLDatabase) -> None:
    with sql_database.open() as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        engine = engine_on(storage, max_age=3600)
        as_ann, as_system = (
            RequestContext(tenant=tenant, actor=actor) for actor in (Actor.human("ann"), Actor.system())
        )
        assert isinstance(engine.execute_action("notes", "edit", {}, as_ann), Failure)

        role = {"name": "editor", "allow": [{"permission": "notes.edit"}]}
        engine.execute_action("roles", "define", role, as_system).unwrap()
        assigned = {"actor_type": "human", "actor_id": "ann", "role": "editor"}
        engine.execute_action("roles", "assign", assigned, as_system).unwrap()

        assert isinstance(engine.execute_action("notes", "edit", {}, as_ann), Success)

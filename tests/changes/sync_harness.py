"""Change control without coroutines, for properties and processes: a tenant, its services and its tables."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from returns.result import Failure, Result, Success

from actionengine import (
    ActionError,
    Actor,
    InMemoryStorage,
    RequestContext,
    Tenant,
)
from actionengine.changes import change_control_services
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.tables import CHANGE_CONTROL_TABLES, Row, Table
from actionengine.testing import SyncBackend
from tests.backends import TENANT_TABLES, AnyStorage
from tests.harness import ANN, Harness
from tests.storage.inside import data_of

LOG = frozenset({"ae_action_log", "ae_action_log_subjects", "ae_action_log_principals", "ae_action_log_words"})

Dump = Mapping[str, Sequence[Any]]
"""All rows of a tenant, by table."""


class SyncHarness(Harness):
    """An engine with change control and one tenant, used without coroutines."""

    def __init__(self, storage: AnyStorage, tenant: Tenant | None = None) -> None:
        self.storage = storage
        backend = SyncBackend(storage)
        backend.tenant = tenant or storage.create_tenant(slug=f"t-{uuid4().hex}", name="A tenant")
        super().__init__(backend, change_control_services(open=True))

    # Requests

    def request(
        self, name: str, payload: Mapping[str, Any], actor: Actor = ANN, key: str | None = None
    ) -> Result[Any, ActionError]:
        """Execute `service.action`."""
        return run_sync(self.execute(name, payload, actor=actor, key=key))

    def do(self, name: str, /, **payload: Any) -> Any:
        """Return the value of an action, which must succeed."""
        answer = self.request(name, payload)
        assert isinstance(answer, Success), f"{name}: {answer.failure().to_dict()}"
        return answer.unwrap()

    def refusal(self, name: str, /, **payload: Any) -> ActionError:
        """Return the error of an action, which must fail."""
        answer = self.request(name, payload)
        assert isinstance(answer, Failure), f"{name}: {answer}"
        error: ActionError = answer.failure()
        return error

    # Drafts

    def project(self, require_review: bool = False) -> str:
        """Create a project; return its id."""
        id: str = self.do("projects.create", name=uuid4().hex, require_review=require_review).id
        return id

    def record_type(
        self, project: str, key: str, fields: Sequence[Mapping[str, Any]] = (), base: str | None = None
    ) -> None:
        """Create a record type with a unique name."""
        schema = {"fields": [dict(field) for field in fields]}
        self.do(
            "record_types.create",
            project_id=project,
            key=key,
            name=f"{key} of {project}",
            base_type=base,
            schema=schema,
        )

    def draft(self, project: str, *ops: tuple[str, Mapping[str, Any]], title: str = "A change") -> str:
        """Create a change with these ops (op type, payload) and their targets; return its id."""
        change: str = self.do("changes.create", project_id=project, title=title).id
        targets: dict[tuple[str, str], str] = {}
        for op_type, payload in ops:
            type, name = ("file", "file_path") if op_type == "edit_file" else ("record_type", "record_type")
            selector = {"file_path" if type == "file" else "record_type_key": payload[name]}
            if (type, payload[name]) not in targets:
                target = self.do("changes.add_target", change_id=change, type=type, selector=selector)
                targets[type, payload[name]] = target.id
            self.do(
                "changes.add_patch_op",
                change_id=change,
                target_id=targets[type, payload[name]],
                op_type=op_type,
                payload=payload,
            )
        return change

    # Reads

    def types(self, project: str) -> dict[str, Any]:
        """Return the record types of a project, by key."""
        return {each.key: each for each in self.do("record_types.list", project_id=project, limit=1000)}

    def schemas(self, project: str) -> dict[str, list[Any]]:
        """Return the fields of each record type of a project."""
        return {key: each.schema["fields"] for key, each in self.types(project).items()}

    def check_history(self, project: str) -> None:
        """Assert that the history of each record type of a project is intact."""
        for key in self.types(project):
            history = self.do("record_types.verify_history", project_id=project, key=key)
            assert history.is_intact, history

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows of the tables of change control."""
        unit = self.storage.unit_of_work(self.tenant, "", "sync", read_only=True)
        try:
            return {table.name: run_sync(unit.rows(table).find()) for table in CHANGE_CONTROL_TABLES}
        finally:
            run_sync(unit.rollback())

    def dump(self, without: frozenset[str] = frozenset()) -> Dump:
        """Return the rows of all tables except some."""
        rows = {**self.tables(), **self._others()}
        return {table: found for table, found in rows.items() if table not in without}

    def write(self, *tables: tuple[Table, Sequence[Row]]) -> None:
        """Insert rows past the services, in one transaction."""
        unit = self.storage.unit_of_work(self.tenant, str(uuid4()), "sync")
        try:
            for table, new in tables:
                run_sync(unit.rows(table).insert(new))
            run_sync(unit.commit())
        finally:
            run_sync(unit.rollback())

    def _others(self) -> dict[str, Sequence[Any]]:
        if isinstance(self.storage, InMemoryStorage):
            data = data_of(self.storage, self.tenant)
            own = {table.name for table in CHANGE_CONTROL_TABLES}
            return {
                "ae_events": list(data.events),
                "ae_idempotency_keys": list(data.claims.items()),
                "ae_action_log": list(data.log),
                **{
                    name: sorted((id, version.document) for id, version in rows.items() if version.document is not None)
                    for name, rows in data.collections.items()
                    if name not in own
                },
            }
        unit: SQLUnitOfWork = self.storage.unit_of_work(self.tenant, "", "sync", read_only=True)
        try:
            return {table: _rows_of(unit, table, self.tenant) for table in TENANT_TABLES}
        finally:
            run_sync(unit.rollback())


def _rows_of(unit: SQLUnitOfWork, table: str, tenant: Tenant) -> list[str]:
    # The first column of each table is the tenant.
    rows = unit.query(f"SELECT * FROM {table}", ())
    return sorted(repr(row) for row in rows if str(tenant.id) in map(str, row))


def without_status(dump: Dump, change: str) -> Dump:
    """Return a dump without the writes of a failed merge: the status of the change, and the log."""
    changes = [
        {**row, "status": None, "updated_at": None} if row["id"] == change else row for row in dump["ae_changes"]
    ]
    return {**{table: rows for table, rows in dump.items() if table not in LOG}, "ae_changes": changes}


def definition(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition of a field without its name."""
    return {part: value for part, value in field.items() if part != "name"}


def run_tasks(harness: SyncHarness, *requests: tuple[str, Mapping[str, Any]]) -> list[Result[Any, ActionError]]:
    """Execute actions in concurrent tasks; return their results."""
    context = RequestContext(tenant=harness.tenant, actor=ANN)

    async def request(name: str, payload: Mapping[str, Any]) -> Result[Any, ActionError]:
        service, action = name.split(".")
        return await harness.engine.execute_action_async(service, action, payload, context)

    async def request_all() -> list[Result[Any, ActionError]]:
        results = await asyncio.gather(*(request(*each) for each in requests))
        if not isinstance(harness.storage, InMemoryStorage):
            await harness.storage.aclose()
        return results

    return asyncio.run(request_all())

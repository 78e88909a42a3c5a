"""The databases of the growth benchmark: filled past the engine, asked through it.

What is read is counted, not timed: on SQLite the steps of its virtual machine, on PostgreSQL the buffers of our tables
and their indexes. So a result is the same on any machine, whatever else that does.
"""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import sqlalchemy
from pydantic import BaseModel
from returns.result import Result, Success
from sqlalchemy import make_url

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    Engine,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Storage,
    create_action,
    create_engine,
    create_service,
)
from actionengine.changes import change_control_services
from actionengine.storage.lookups import keys_of
from actionengine.workflows import workflow_services
from benchmarks.postgres import Bench
from benchmarks.report import Unit

Values = Mapping[str, Any]
"""A row by column, as text or numbers."""

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
"""The time of the first row that a fill makes; the others follow a second apart."""

_CLIENTS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
"""

_STEP = 10
"""Steps of SQLite's machine that are counted at once."""


class Note(BaseModel):
    """The payload of the host's own actions."""

    id: str = "n1"
    text: str = "hello"


class Backend(ABC):
    """A storage with a tenant, an engine on it, and `size` rows of each kind of what should not matter."""

    label: ClassVar[str]
    unit: ClassVar[Unit]
    slack: ClassVar[int]
    """So much more is no growth: a step more in each tree that is walked down."""

    storage: PostgresStorage | SQLiteStorage

    def __init__(self, storage: PostgresStorage | SQLiteStorage, size: int) -> None:
        self.storage = storage
        self.size = size
        self.tenant = storage.create_tenant(slug="acme", name="Acme")
        self.small_tenant = storage.create_tenant(slug="small", name="Small")
        self.other_tenant = storage.create_tenant(slug="other", name="Other")
        self.engine = create_engine_of(storage)
        self.notes: dict[str, Any] = {}
        """The values that a fill passes to the operations."""

    def do(self, service: str, action: str, payload: Values | None = None, **request: Any) -> Any:
        """The value of an action, executed by the system unless `actor` says otherwise."""
        request = {"tenant": self.tenant, "actor": Actor.system(), **request}
        answer = self.engine.execute_action(service, action, dict(payload or {}), RequestContext(**request))
        if not isinstance(answer, Success):
            raise AssertionError(f"{service}.{action}: {answer.failure()}")
        return answer.unwrap()

    def ask(self, service: str, action: str, payload: Values | None = None, *, actor: Actor) -> str:
        """The id of the approval that an action waits for."""
        request = RequestContext(tenant=self.tenant, actor=actor)
        answer = self.engine.execute_action(service, action, dict(payload or {}), request)
        return str(answer.failure().details["approval_id"])

    def clone_documents(self, row: Values, changed: Iterable[tuple[str, Values]]) -> None:
        """Add documents like this one, each with another id and these fields, and the keys of their lookups."""
        data = json.loads(row["data"])
        documents = [(id, {**data, **fields}) for id, fields in changed]
        self.insert("ae_documents", ({**row, "id": id, "data": json.dumps(each)} for id, each in documents))
        scope = {"tenant_id": row["tenant_id"], "collection": row["collection"]}
        keys = [(id, key) for id, each in documents for key in keys_of(row["collection"], each)]
        self.insert("ae_document_keys", ({**scope, "id": id, "key": key} for id, key in keys))

    def clone(self, table: str, row: Values, changed: Callable[[int], Values], rows: int | None = None) -> None:
        """Add `size` rows (or so many) that are like this one but for what `changed` says of each."""
        self.insert(table, ({**row, **changed(number)} for number in range(self.size if rows is None else rows)))

    @abstractmethod
    def sample(self, table: str, **equal: Any) -> dict[str, Any]:
        """The newest row of a table with these values."""

    @abstractmethod
    def insert(self, table: str, rows: Iterable[Values]) -> None:
        """Add rows past every trigger."""

    @abstractmethod
    def read(self, call: Callable[[Backend], object]) -> int:
        """Return the rows that the second call of an operation reads."""

    def close(self) -> None:
        """Close the storage."""
        self.storage.close()


class SQLiteBackend(Backend):
    """A file without statistics: nobody has run ANALYZE."""

    label = "SQLite"
    unit: ClassVar[Unit] = "VM steps"
    slack = 100

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._steps = 0
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        sqlalchemy.event.listen(engine, "connect", self._count_steps)
        super().__init__(SQLiteStorage(path, engine=engine), size)
        self._own = engine

    def _count_steps(self, connection: Any, _: Any) -> None:
        def step() -> int:
            self._steps += _STEP
            return 0

        connection.set_progress_handler(step, _STEP)

    def sample(self, table: str, **equal: Any) -> dict[str, Any]:
        """The newest row."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            where = " AND ".join(f"{name} = ?" for name in equal) or "true"
            statement = f"SELECT * FROM {table} WHERE {where} ORDER BY rowid DESC LIMIT 1"
            found = connection.execute(statement, list(equal.values())).fetchone()
            return dict(found)

    def insert(self, table: str, rows: Iterable[Values]) -> None:
        """Add rows while the triggers are away."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            rows = list(rows)
            if rows:
                names = ", ".join(rows[0])
                marks = ", ".join("?" * len(rows[0]))
                values = [[_plain(value) for value in row.values()] for row in rows]
                connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
            for _, sql in triggers:
                connection.execute(sql)

    def read(self, call: Callable[[Backend], object]) -> int:
        """Count the steps."""
        call(self)
        before = self._steps
        call(self)
        return self._steps - before

    def close(self) -> None:
        """Close the storage, and the engine that it was given."""
        super().close()
        self._own.dispose()


class PostgresBackend(Backend):
    """A database as the app role sees it, with the plans that PostgreSQL makes for given values."""

    label = "PostgreSQL, custom plans"
    unit: ClassVar[Unit] = "buffers"
    slack = 15
    storage: PostgresStorage
    plans: ClassVar[str] = "force_custom_plan"

    def __init__(self, bench: Bench, size: int) -> None:
        self.superuser = psycopg.connect(bench.superuser_url, autocommit=True)
        # Vacuuming counts as reading.
        for (table,) in self.superuser.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'ae\\_%'"
        ).fetchall():
            self.superuser.execute(f"ALTER TABLE public.{table} SET (autovacuum_enabled = false)")
        self.app_url = bench.app_url
        super().__init__(self._opened(), size)

    def sample(self, table: str, **equal: Any) -> dict[str, Any]:
        """The newest row, each column as text."""
        columns = [
            name
            for (name,) in self.superuser.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum",
                (table,),
            )
        ]
        where = " AND ".join(f"{name} = %s" for name in equal) or "true"
        selected = ", ".join(f"{name}::text" for name in columns)
        statement = f"SELECT {selected} FROM {table} WHERE {where} ORDER BY ctid DESC LIMIT 1"
        found = self.superuser.execute(statement.encode(), list(equal.values())).fetchone()
        assert found is not None, (table, equal)
        return dict(zip(columns, found, strict=True))

    def insert(self, table: str, rows: Iterable[Values]) -> None:
        """Add rows as a replica does: without triggers."""
        rows = iter(rows)
        first = next(rows, None)
        if first is None:
            return
        with self.superuser.transaction():
            self.superuser.execute("SET LOCAL session_replication_role = replica")
            with self.superuser.cursor().copy(f"COPY {table} ({', '.join(first)}) FROM STDIN".encode()) as copy:
                copy.write_row([_plain(value) for value in first.values()])
                for row in rows:
                    copy.write_row([_plain(value) for value in row.values()])

    def filled(self) -> None:
        """Have the tables look as those that autovacuum has been through."""
        self.superuser.execute("VACUUM ANALYZE")

    def use_generic_plans(self) -> GenericPostgresBackend:
        """The same database with the plans that PostgreSQL makes once for any values."""
        return GenericPostgresBackend(self)

    def read(self, call: Callable[[Backend], object]) -> int:
        """Count the buffers."""
        call(self)
        before = self._buffers()
        call(self)
        read = self._buffers() - before
        assert read > 0, "nothing was counted: the connections that the operation used do not report"
        return read

    def _opened(self) -> PostgresStorage:
        storage = PostgresStorage(_with_plans(self.app_url, self.plans))
        self._connections = [self.superuser]
        for is_lookup in (False, True):
            engine = storage.pools.engine("sync", is_lookup)
            sqlalchemy.event.listen(engine, "connect", lambda connection, _: self._connections.append(connection))
        return storage

    def _buffers(self) -> int:
        there = [connection for connection in self._connections if not connection.closed]
        for connection in there:
            # What a connection has counted is seen by others from then on.
            connection.execute("SELECT pg_stat_force_next_flush()")
        # One that was closed has counted all once it is gone; a test may hold others.
        for _ in range(100):
            if self.superuser.execute(_CLIENTS).fetchone() == (len(there),):
                break
            sleep(0.001)
        counters = [
            f"coalesce({part}_blks_{how}, 0)" for part in ("heap", "idx", "toast", "tidx") for how in ("read", "hit")
        ]
        counted = self.superuser.execute(
            f"SELECT sum({' + '.join(counters)})::bigint FROM pg_statio_user_tables".encode()
        ).fetchone()
        assert counted is not None
        return int(counted[0])

    def close(self) -> None:
        """Close the storage, and the connection that fills and counts."""
        super().close()
        self.superuser.close()


class GenericPostgresBackend(PostgresBackend):
    """A filled database again, with generic plans: those that a statement gets from its sixth execution on."""

    label = "PostgreSQL, generic plans"
    plans = "force_generic_plan"

    def __init__(self, filled: PostgresBackend) -> None:
        self.__dict__.update(filled.__dict__)
        filled.storage.close()
        self.storage = self._opened()
        self.engine = create_engine_of(self.storage)


def _with_plans(url: str, plans: str) -> str:
    options = make_url(url).update_query_dict({"options": f"-c plan_cache_mode={plans}"})
    return options.render_as_string(hide_password=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return str(value) if isinstance(value, UUID) else value


def id_at(number: int) -> str:
    """The id of the row of this number: it sorts, as a UUIDv7, by the row's time."""
    milliseconds = int(time_of(number).timestamp() * 1000)
    return str(UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | number))


def time_of(number: int) -> datetime:
    """The time of the row of this number."""
    return BEGINNING + timedelta(seconds=number)


def create_engine_of(storage: Storage) -> Engine:
    """An engine with the host's service `notes`, and all optional ones."""
    actions = [
        create_action(name=name, description=name, handler=handler, validation=Note)
        for name, handler in (("put", _put), ("get", _get), ("list", _list), ("pass", _pass))
    ]
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="notes.approve")
    actions.append(create_action(name="send", description="send", handler=_pass, validation=Note, approval=policy))
    notes = create_service(name="notes", description="Notes", actions=actions)
    services = [notes, *change_control_services(open=True), *workflow_services(open=True)]
    return create_engine(services=services, storage=storage)


def _put(data: Note, ctx: ActionContext) -> Result[Any, ActionError]:
    records = ctx.records("notes")
    made = records.insert({"text": data.text})
    changed = records.update(made.id, {"text": "changed"}, made.version)
    records.delete(made.id, changed.version)
    return Success({"id": made.id})


def _get(data: Note, ctx: ActionContext) -> Result[Any, ActionError]:
    found = ctx.records("notes").get(data.id)
    return Success({"found": found is not None})


def _list(data: Note, ctx: ActionContext) -> Result[Any, ActionError]:
    page = ctx.records("notes").list(limit=20)
    return Success({"found": len(page)})


def _pass(data: Note, ctx: ActionContext) -> Result[Any, ActionError]:
    return Success({})


@contextmanager
def sqlite_backend_of_size(size: int) -> Iterator[SQLiteBackend]:
    """A new file."""
    with TemporaryDirectory() as folder:
        backend = SQLiteBackend(Path(folder) / "growth.db", size)
        try:
            yield backend
        finally:
            backend.close()

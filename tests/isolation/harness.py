"""A harness for attacks: two tenants with rows in every table of one database, and handlers that run any SQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import uuid4

import psycopg
from examples.embedded_postgres import APP_ROLE, Database, make_database
from psycopg.pq import TransactionStatus
from returns.result import Failure, Result, Success
from sqlalchemy import Column, MetaData, Table, Text, Uuid, create_engine, make_url, text
from sqlalchemy.orm import Session

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Budget,
    Engine,
    PostgresStorage,
    RequestContext,
    Tenant,
    create_action,
    create_service,
    protect_table,
)
from actionengine import create_engine as create_action_engine
from actionengine.storage.errors import StorageError
from actionengine.storage.sql.bridge import await_
from actionengine.storage.sql.migrations import sign
from tests import backends

Mode = Literal["sync", "async"]
MODES: tuple[Mode, ...] = ("sync", "async")
Ending = Literal["succeed", "fail", "raise", "abort"]
ENDINGS: tuple[Ending, ...] = ("succeed", "fail", "raise", "abort")

KEY = "a signing key that only the host and the owner have"

CHANGE_CONTROL = ("ae_projects", "ae_record_types", "ae_changes", "ae_change_targets", "ae_patch_ops", "ae_snapshots")
TENANT_TABLES = (*backends.TENANT_TABLES, *CHANGE_CONTROL)
HOST_TABLE = "host_notes"
GUARDED = (*TENANT_TABLES, HOST_TABLE)

CHANGING = (
    "INSERT INTO ae_document_keys VALUES (:tenant_id, 'ae_roles', 'r', :marker)",
    "INSERT INTO ae_action_log_words VALUES (:tenant_id, :marker, gen_random_uuid())",
    "INSERT INTO ae_projects (tenant_id, id, name, require_review, created_at)"
    " VALUES (:tenant_id, 'p', :marker, false, now())",
    "INSERT INTO ae_record_types (tenant_id, id, project_id, key, name, schema, initial_schema, version, status,"
    " created_at, updated_at)"
    " VALUES (:tenant_id, 'r', 'p', 'task', :marker,"
    " json_build_object('fields', json_build_array(), 'of', CAST(:marker AS text)), '{\"fields\": []}',"
    " 1, 'draft', now(), now())",
    "INSERT INTO ae_changes (tenant_id, id, project_id, title, status, op_count, created_at, updated_at)"
    " VALUES (:tenant_id, 'c', 'p', :marker, 'Draft', 1, now(), now())",
    "INSERT INTO ae_change_targets (tenant_id, id, change_id, project_id, type, selector, created_at)"
    " VALUES (:tenant_id, :marker, 'c', 'p', 'record_type', '{\"record_type_key\": \"task\"}', now())",
    "INSERT INTO ae_patch_ops (tenant_id, id, change_id, project_id, target_id, position, op_type, payload,"
    " record_type_key, field, record_type_version, created_at)"
    " VALUES (:tenant_id, 'o', 'c', 'p', :marker, 1, 'remove_field', '{}', 'task', 'done', 1, now())",
    "INSERT INTO ae_snapshots (tenant_id, change_id, record_type_key, project_id, version, schema, created_at)"
    " VALUES (:tenant_id, 'c', 'task', 'p', 1,"
    " json_build_object('fields', json_build_array(), 'of', CAST(:marker AS text)), now())",
)
"""A row in each table of change control."""

host = MetaData()
protect_table(
    Table(
        HOST_TABLE,
        host,
        Column("tenant_id", Uuid, primary_key=True),
        Column("id", Text, primary_key=True),
        Column("body", Text, nullable=False),
    ),
    app_role=APP_ROLE,
)


@dataclass
class Loot:
    """The rows, notices and errors that a hostile handler has seen."""

    seen: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answer: Result[Any, ActionError] | None = None

    def __contains__(self, secret: str) -> bool:
        return any(secret in text for text in (*self.seen, *self.notices, *self.errors))


@dataclass(frozen=True)
class Party:
    """A tenant, and a text that is in each of its rows and nowhere else."""

    tenant: Tenant
    marker: str

    @property
    def id(self) -> str:
        return str(self.tenant.id)

    def context(self, **options: Any) -> RequestContext:
        principal = Actor.human(self.marker, permissions=["*"])
        actor = Actor.integration(self.marker, permissions=["*"], on_behalf_of=principal)
        return RequestContext(tenant=self.tenant, actor=actor, reason="asked", **options)


class SQLHarness:
    """An engine on a PostgreSQL database; both tenants share the one connection of each pool."""

    def __init__(self, superuser_url: str, *, is_signed: bool) -> None:
        self.is_signed = is_signed
        name = f"isolation_{uuid4().hex}"
        self.database: Database = make_database(superuser_url, name)
        self.superuser_url = make_url(superuser_url).set(database=name).render_as_string(hide_password=False)
        owner = create_engine(make_url(self.database.owner_url).set(drivername="postgresql+psycopg"))
        with owner.begin() as connection:
            host.create_all(connection)
            if is_signed:
                sign(connection, KEY)
        owner.dispose()
        self.storage = PostgresStorage(
            self.database.app_url, pool_size=1, max_overflow=0, pool_timeout=2.0, signing_key=KEY if is_signed else None
        )
        self.loot = Loot()
        self._script: list[str] = []
        self.engine = self._make_engine()
        self._runner = asyncio.Runner()
        self._superuser = psycopg.connect(self.superuser_url, autocommit=True)
        self.attacker = self.new_party("acme")
        self.victim = self.new_party("globex")
        # From now on the planner knows the values of every row.
        self._superuser.execute("ANALYZE")

    def close(self) -> None:
        self._superuser.close()
        self._runner.run(self.storage.aclose())
        self._runner.close()

    def disconnect(self) -> None:
        """Close the connections; new ones open on demand."""
        self._runner.run(self.storage.aclose())

    def reconnect(self, *modes: Mode) -> None:
        """Open fresh connections and prepare all statements of ordinary work in them."""
        self.disconnect()
        warm = self.new_party("warm")
        for mode in modes or MODES:
            self.work(warm, mode, mode)
            self.work(warm, f"{mode}-with-key", mode, idempotency_key=mode)
            self.execute(warm, "work_plainly", {"id": f"{mode}-plainly", "marker": warm.marker}, mode)
            for ending in ENDINGS[:2]:
                self.attack((), by=warm, mode=mode, ending=ending)

    @contextmanager
    def served_by(self, storage: PostgresStorage) -> Iterator[None]:
        """Use another storage within this block."""
        usual = self.storage, self.engine
        self.storage = storage
        self.engine = self._make_engine()
        try:
            yield
        finally:
            self.storage, self.engine = usual

    # Tenants

    def new_party(self, name: str) -> Party:
        """Create a tenant with a document, a key, log rows, events, a change and a note."""
        slug = f"{name}-{uuid4().hex}"
        party = Party(self.storage.create_tenant(slug=slug, name=name), f"secret-of-{slug}")
        self.work(party, "first", idempotency_key="key")
        return party

    def work(self, party: Party, id: str, mode: Mode = "sync", **options: Any) -> dict[str, Any]:
        """Do ordinary work of a tenant with all parts of the engine, and return what it has seen."""
        payload = {"id": id, "marker": party.marker}
        name = "work" if mode == "sync" else "work_async"
        answer = self.execute(party, name, payload, mode, **options)
        assert isinstance(answer, Success), answer
        seen: dict[str, Any] = answer.unwrap()
        return seen

    # Executions

    def execute(
        self, party: Party, action: str, payload: Any, mode: Mode = "sync", **options: Any
    ) -> Result[Any, ActionError]:
        context = party.context(**options)
        if mode == "sync":
            return self.engine.execute_action("test", action, payload, context)
        return self._runner.run(self.engine.execute_action_async("test", action, payload, context))

    def resolve(self, slug: str, mode: Mode) -> Result[Tenant, ActionError]:
        """Return a tenant as a host finds it."""
        if mode == "sync":
            return self.engine.resolve_tenant(slug)
        return self._runner.run(self.engine.resolve_tenant_async(slug))

    def attack(
        self,
        script: Sequence[str],
        *,
        mode: Mode = "sync",
        ending: Ending = "succeed",
        by: Party | None = None,
        victim: Party | None = None,
        action: str = "sabotage",
    ) -> Loot:
        """Run SQL in a handler for the attacker and return what it has seen: `spy` is read-only, `host_a_spy_after`
        and `host_a_spy_before` execute it within an action that writes, before and after that has a session."""
        self.loot = Loot()
        by, victim = by or self.attacker, victim or self.victim
        # The script is not in the payload, so that the attacker's own log does not show it.
        self._script = [each.replace("VICTIM", victim.id).replace("ATTACKER", by.id) for each in script]
        name = action if mode == "sync" else f"{action}_async"
        self.loot.answer = self.execute(by, name, {"ending": ending}, mode)
        return self.loot

    def numbers_of(self, party: Party) -> dict[str, int]:
        """Return the numbers of rows of a tenant, by table."""
        counts = ", ".join(f"(SELECT count(*) FROM {table} WHERE tenant_id = %(id)s)" for table in GUARDED)
        numbers = self._superuser.execute(f"SELECT {counts}".encode(), {"id": party.id}).fetchone()
        assert numbers is not None
        return dict(zip(GUARDED, numbers, strict=True))

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return rows as a superuser sees them."""
        return self._superuser.execute(statement, parameters or None).fetchall()

    def rows_of(self, party: Party) -> dict[str, list[str]]:
        """Return the rows of a tenant as texts, by table."""
        selects = (f"SELECT '{table}', t::text FROM {table} t WHERE tenant_id = %(id)s" for table in GUARDED)
        rows: dict[str, list[str]] = {table: [] for table in GUARDED}
        found = self._superuser.execute(" UNION ALL ".join(selects).encode(), {"id": party.id})
        for table, row in found:
            rows[table].append(row)
        return rows

    @contextmanager
    def untouched(self, party: Party) -> Iterator[None]:
        """Expect that no row of a tenant changes."""
        before = self.rows_of(party)
        yield
        assert self.rows_of(party) == before

    # Internals

    def _make_engine(self) -> Engine:
        def work(data: dict[str, str], ctx: ActionContext) -> Result[dict[str, Any], Any]:
            notes = ctx.records("notes")
            notes.insert({"text": data["marker"]}, data["id"])
            bodies = _write_note(ctx.session, data, ctx.tenant)
            ctx.emit("worked", data, subject=f"note/{data['marker']}")
            return Success({"notes": [record.data["text"] for record in notes.list()], "bodies": bodies})

        async def work_async(data: dict[str, str], ctx: ActionContext) -> Result[dict[str, Any], Any]:
            notes = ctx.async_records("notes")
            await notes.insert({"text": data["marker"]}, data["id"])
            bodies = await ctx.async_session.run_sync(_write_note, data, ctx.tenant)
            ctx.emit("worked", data, subject=f"note/{data['marker']}")
            return Success({"notes": [record.data["text"] for record in await notes.list()], "bodies": bodies})

        def work_plainly(data: dict[str, str], ctx: ActionContext) -> Result[list[str], Any]:
            notes = ctx.records("notes")
            notes.insert({"text": data["marker"]}, data["id"])
            return Success([record.data["text"] for record in notes.list()])

        def sabotage(data: dict[str, Any], ctx: ActionContext) -> Result[None, str]:
            _run(ctx.session, self._script, self.loot)
            return _end(ctx.session, data["ending"])

        async def sabotage_async(data: dict[str, Any], ctx: ActionContext) -> Result[None, str]:
            await ctx.async_session.run_sync(_run, self._script, self.loot)
            answer: Result[None, str] = await ctx.async_session.run_sync(_end, data["ending"])
            return answer

        def host_a_spy_after(data: dict[str, Any], ctx: ActionContext) -> Result[None, Any]:
            answer = ctx.execute("test", "spy", data)
            return Success(None) if isinstance(answer, Success) else answer

        def host_a_spy_before(data: dict[str, Any], ctx: ActionContext) -> Result[None, Any]:
            ctx.session.execute(text("SELECT 1"))
            return host_a_spy_after(data, ctx)

        async def host_a_spy_after_async(data: dict[str, Any], ctx: ActionContext) -> Result[None, Any]:
            answer = await ctx.execute_async("test", "spy_async", data)
            return Success(None) if isinstance(answer, Success) else answer

        async def host_a_spy_before_async(data: dict[str, Any], ctx: ActionContext) -> Result[None, Any]:
            await ctx.async_session.execute(text("SELECT 1"))
            return await host_a_spy_after_async(data, ctx)

        handlers: list[Callable[..., Any]] = [work, work_async, work_plainly, sabotage, sabotage_async]
        handlers += [host_a_spy_after, host_a_spy_after_async, host_a_spy_before, host_a_spy_before_async]
        actions = [create_action(name=each.__name__, description="For the test", handler=each) for each in handlers]
        for name, handler in (("spy", sabotage), ("spy_async", sabotage_async)):
            actions.append(create_action(name=name, description="For the test", handler=handler, read_only=True))
        service = create_service(name="test", description="Victims and attackers", actions=actions)
        calls = Budget("calls", actions="test.work", limit=1000, window=timedelta(hours=1))
        return create_action_engine(services=[service], storage=self.storage, budgets=[calls])


def _write_note(session: Session, data: dict[str, str], tenant: Tenant) -> list[str]:
    session.execute(
        text("INSERT INTO host_notes (tenant_id, id, body) VALUES (:tenant_id, :id, :marker)"),
        {"tenant_id": tenant.id, **data},
    )
    if data["id"] == "first":
        for statement in CHANGING:
            session.execute(text(statement), {"tenant_id": tenant.id, "marker": data["marker"]})
    return list(session.execute(text("SELECT body FROM host_notes")).scalars())


def _end(session: Session, ending: Ending) -> Result[None, str]:
    if ending == "fail":
        return Failure("it was not to be")
    if ending == "raise":
        raise RuntimeError("it was not to be")
    if ending == "abort":
        _attempt(lambda: _fetch(session, "SELECT 1 / 0"), Loot())
    return Success(None)


def _run(session: Session, script: Sequence[str], loot: Loot) -> None:
    """Run statements, each in a savepoint, so that the next one runs after an error."""
    driver: Any = session.connection().connection.driver_connection
    listen = _listener(loot)
    driver.add_notice_handler(listen)
    try:
        for statement in script:
            if driver.info.transaction_status == TransactionStatus.INTRANS:
                _fetch(session, "SAVEPOINT hostile")
            _attempt(lambda statement=statement: loot.seen.extend(_seen(session, statement)), loot)  # type: ignore[misc]
            if driver.info.transaction_status == TransactionStatus.INERROR:
                _attempt(lambda: _fetch(session, "ROLLBACK TO SAVEPOINT hostile"), Loot())
    finally:
        driver.remove_notice_handler(listen)


def _listener(loot: Loot) -> Callable[[psycopg.errors.Diagnostic], None]:
    def listen(notice: psycopg.errors.Diagnostic) -> None:
        parts = (notice.message_primary, notice.message_detail, notice.message_hint, notice.context)
        loot.notices.append(" ".join(part for part in parts if part))

    return listen


def _attempt(attempt: Callable[[], object], loot: Loot) -> None:
    try:
        attempt()
    except Exception as error:
        loot.errors.append(str(getattr(error, "orig", error)))


def _seen(session: Session, statement: str) -> list[str]:
    if statement.startswith("COPY") and "STDIN" in statement:
        head, _, rows = statement.partition("\n")
        return _copy(session, head, rows)
    if statement.startswith("COPY") and "STDOUT" in statement:
        return _copy(session, statement, None)
    return _fetch(session, statement)


def _fetch(session: Session, statement: str) -> list[str]:
    connection = session.connection().execution_options(no_parameters=True)
    try:
        rows = connection.exec_driver_sql(statement)
    except StorageError:
        # The storage refuses to send an end of the transaction, but not a statement that hides one.
        cursor = connection.connection.cursor()
        cursor.execute(f"DO $$ BEGIN END $$; {statement}")
        return []
    return [json.dumps(list(row), default=str) for row in rows] if rows.returns_rows else []


def _copy(session: Session, statement: str, rows: str | None) -> list[str]:
    driver: Any = session.connection().connection.driver_connection
    if isinstance(driver, psycopg.AsyncConnection):
        seen: list[str] = await_(_copy_async(driver, statement, rows))
        return seen
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        if rows is None:
            return [bytes(block).decode(errors="replace") for block in copy]
        copy.write(rows)
    return []


async def _copy_async(driver: psycopg.AsyncConnection[Any], statement: str, rows: str | None) -> list[str]:
    async with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        if rows is None:
            return [bytes(block).decode(errors="replace") async for block in copy]
        await copy.write(rows)
    return []

"""`DurableClient`: asks the durable engine for work, and looks at how far it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar

from dbos import DBOSClient, DBOSPortableJSONSerializer
from dbos import error as dbos_errors
from dbos._utils import INTERNAL_QUEUE_NAME
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from actionengine.durable.clock import now_in
from actionengine.durable.database import Bounds, Switch, open_postgres
from actionengine.durable.database import DurableUnavailable as DurableUnavailable
from actionengine.durable.ended import Purged, find_cancelled, purge_ended
from actionengine.durable.only_json import guard, reading
from actionengine.durable.schedules import SCHEDULES, read_mark, remove_schedule, replace_schedule
from actionengine.durable.urls import durable_url, normalize_url

APPLICATION = "actionengine"
VERSION = "1"
"""Of what the functions expect of their arguments. It says which executors may take over each other's work, and stays
the same from one release to the next, since all state of a workflow is in rows."""

DBOSException = dbos_errors.DBOSException

T = TypeVar("T")

Status = Literal["ENQUEUED", "DELAYED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_CONNECTIONS = 3
"""Of one client, at most; it keeps one."""

DEFAULT_BOUNDS = Bounds()


class DurableExecution(NamedTuple):
    """How far an execution is.

    `executor` is the one that has begun it last, None before that; `attempts` says how often it was begun. `created_at`
    and `began_at` are milliseconds of the database's clock.
    """

    status: Status
    executor: str | None
    attempts: int
    created_at: int
    began_at: int | None


class Enqueued(NamedTuple):
    """A function with its arguments, to be executed once for its id."""

    function: str
    arguments: tuple[Any, ...]
    queue: str
    id: str


class Schedule(NamedTuple):
    """A function that is executed by a schedule. The context is JSON, as it is stored."""

    name: str
    function: str
    cron: str
    timezone: str | None
    context: str
    queue: str

    def read_context(self) -> Any:
        """Return the context. Raises `ValueError` where it cannot be read."""
        return DBOSPortableJSONSerializer().deserialize(self.context)


class DurableClient:
    """Asks the durable engine for work, from a process that need not execute any. Can be used from many threads.

    Each method raises `DurableUnavailable` where the engine's database is out of reach, or not set up.
    """

    def __init__(
        self, url: str | os.PathLike[str] | URL, bounds: Bounds = DEFAULT_BOUNDS, switch: Switch | None = None
    ) -> None:
        bounds.check()
        self._switch = switch
        self._url = url if isinstance(url, URL) else durable_url(url)
        self._bounds = bounds
        self._lock = threading.Lock()
        self._client: DBOSClient | None = None
        self._engine: Engine | None = None

    def enqueue(self, function: str, *arguments: Any, queue: str, id: str, delay: float | None = None) -> bool:
        """Have a function executed, once `delay` seconds are over. What has this `id` and is there already stays.

        Returns whether there was none.
        """
        options: Any = {
            "workflow_name": function,
            "queue_name": queue,
            "workflow_id": id,
            "app_version": VERSION,
            "workflow_id_reuse_policy": "reject",
        }

        def enqueue(client: DBOSClient) -> bool:
            if delay is not None:
                with client._sys_db.engine.connect() as connection:
                    due = now_in(connection) / 1000 + max(0.0, delay)
                # DBOS adds the time of this process.
                options["delay_seconds"] = due - time.time()
            try:
                client.enqueue(options, *arguments)
            except dbos_errors.DBOSWorkflowIDInUseError:
                return False
            return True

        return self._ask(enqueue)

    def enqueue_all(self, orders: Sequence[Enqueued]) -> None:
        """Have functions executed. What is there already under its id stays."""

        def enqueue_all(client: DBOSClient) -> None:
            statuses = []
            for function, arguments, queue, id in orders:
                options: Any = {
                    "workflow_name": function,
                    "queue_name": queue,
                    "workflow_id": id,
                    "app_version": VERSION,
                }
                statuses.append(client._build_enqueue_status(options, *arguments)[1])
            client._sys_db.init_workflows(statuses)

        if orders:
            self._ask(enqueue_all)

    def status(self, id: str) -> tuple[Status, Any] | None:
        """How far an execution is, and what it has returned; None where there is none of this id."""
        found = self._ask(lambda client: client.list_workflows(workflow_ids=[id], load_input=False))
        return (found[0].status, found[0].output) if found else None

    def find(self, *ids: str) -> dict[str, DurableExecution]:
        """How far executions are, without what they have returned; those that are there."""
        if not ids:
            return {}
        found = self._ask(
            lambda client: client.list_workflows(workflow_ids=list(ids), load_input=False, load_output=False)
        )
        return {
            each.workflow_id: DurableExecution(
                each.status, each.executor_id, each.recovery_attempts or 0, each.created_at or 0, each.dequeued_at
            )
            for each in found
        }

    def cancel(self, id: str) -> None:
        """Have an execution ended: at once while it waits, otherwise when its function looks."""
        self._ask(lambda client: client.cancel_workflow(id))

    def forget(self, id: str) -> None:
        """Remove what is kept of an execution."""
        self._ask(lambda client: client.delete_workflow(id))

    def purge(self, functions: Sequence[str], age: float, limit: int = 100, up_to: int = 0) -> Purged:
        """Remove what is kept of the executions of some functions that ended longer than `age` seconds ago, the oldest
        first, and those of no others; `up_to` is what the last purge of these has told."""
        return self._ask(lambda client: purge_ended(client._sys_db, functions, age, limit, up_to))

    def schedule(self, name: str, function: str, cron: str, *, timezone: str | None, context: Any, queue: str) -> None:
        """Have a function executed by a schedule, with the time and `context`; a schedule of this name is replaced.

        Nothing is checked here: a process that knows the time zone serves the schedule.
        """
        row = (name, function, cron, timezone, context, queue)
        self._ask(lambda client: replace_schedule(client._sys_db, *row))

    def schedules(self) -> list[Schedule]:
        """All schedules."""

        def schedules(client: DBOSClient) -> list[Schedule]:
            found = client._sys_db.list_schedules(status="ACTIVE", application_name=[SCHEDULES, APPLICATION])
            return [
                Schedule(
                    each["schedule_name"],
                    each["workflow_name"],
                    each["schedule"],
                    each["cron_timezone"],
                    each["context"],
                    each["queue_name"] or INTERNAL_QUEUE_NAME,
                )
                for each in found
            ]

        return self._ask(schedules)

    def schedules_mark(self) -> str | None:
        """Return what is another text after each change of a schedule; None before the first one."""
        return self._ask(lambda client: read_mark(client._sys_db))

    def now(self) -> datetime:
        """Return the time by the clock of the engine's database."""

        def now(client: DBOSClient) -> datetime:
            with client._sys_db.engine.connect() as connection:
                return datetime.fromtimestamp(now_in(connection) / 1000, UTC)

        return self._ask(now)

    def unschedule(self, name: str) -> None:
        """End a schedule, where there is one."""
        self._ask(lambda client: remove_schedule(client._sys_db, name))

    def take_over(self, executor: str) -> bool:
        """Enqueue again what an executor that is dead has in hand, each on its queue; whether nothing is left of it."""

        def take_over(client: DBOSClient) -> bool:
            # With DBOS's own way to do so, a lost connection is waited for, and the lease runs out meanwhile.
            database = client._sys_db
            for each in database.get_pending_workflows(executor, VERSION):
                database.reenqueue_for_recovery(each.workflow_id, [executor], INTERNAL_QUEUE_NAME)
            return not database.get_pending_workflows(executor, VERSION)

        return self._ask(take_over)

    def running_ids(self, executor: str) -> set[str]:
        """The ids of what an executor has begun with, by its word, and not ended."""

        def running_ids(client: DBOSClient) -> set[str]:
            return {each.workflow_id for each in client._sys_db.get_pending_workflows(executor, VERSION)}

        return self._ask(running_ids)

    def cancelled(self, executor: str) -> set[str]:
        """The ids of what was cancelled after an executor had taken it."""
        return self._ask(lambda client: find_cancelled(client._sys_db, executor))

    def requeue(self, executor: str, id: str) -> None:
        """Enqueue again what an executor has in hand."""
        self._ask(lambda client: client._sys_db.reenqueue_for_recovery(id, [executor], INTERNAL_QUEUE_NAME))

    def register_queue(self, name: str, *, concurrency: int, poll_interval: float) -> None:
        """Make a queue, or set how its executors take from it: `concurrency` at once each, looking every
        `poll_interval` seconds."""
        self._ask(
            lambda client: client.register_queue(
                name, worker_concurrency=concurrency, polling_interval_sec=poll_interval
            )
        )

    def close(self) -> None:
        """Close the connections. They are opened again when the client is asked again."""
        client, self._client = self._client, None
        engine, self._engine = self._engine, None
        if client is not None:
            client.destroy()
        if engine is not None:
            engine.dispose()

    def _ask(self, question: Callable[[DBOSClient], T]) -> T:
        try:
            with reading():
                return question(self._opened())
        except (DBOSException, SQLAlchemyError) as error:
            raise DurableUnavailable(_why(error)) from error

    def _opened(self) -> DBOSClient:
        client = self._client
        if client is not None:
            return client
        if not self._lock.acquire(timeout=self._bounds.longest):
            raise DurableUnavailable("the durable engine cannot be asked: its first connection is not there yet")
        try:
            if self._client is None:
                self._client = self._made()
            return self._client
        finally:
            self._lock.release()

    def _made(self) -> DBOSClient:
        guard()
        engine = None
        if self._url.get_backend_name() != "sqlite":
            engine = open_postgres(self._url, self._bounds, size=1, overflow=_CONNECTIONS - 1, switch=self._switch)
            # SQLAlchemy asks the first connection what its server is, one caller at a time.
            with engine.connect():
                pass
        self._engine = engine
        return DBOSClient(
            system_database_url=normalize_url(self._url),
            system_database_engine=engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,
        )


def _why(error: Exception) -> str:
    reason = error_text(error)
    if any(sign in reason for sign in _NO_TABLES):
        return (
            "the durable engine's tables are not there yet: start a WorkflowRuntime or a worker, or run "
            f"`actionengine workflows upgrade` ({reason})"
        )
    return f"the durable engine cannot be asked: {reason}"


_NO_TABLES = ("no such table", 'schema "dbos" does not exist', 'relation "dbos.')


def error_text(error: Exception) -> str:
    """An error in a line."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__

"""`DurableClient`: enqueues work in the durable engine, and reads its state."""

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
"""The version of the functions' arguments. Executors of one version take over each other's work. It stays the same in
new releases, since all state of a workflow is in rows."""

DBOSException = dbos_errors.DBOSException

T = TypeVar("T")

Status = Literal["ENQUEUED", "DELAYED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]

_CONNECTIONS = 3
"""The most connections of one client; it keeps one open."""

DEFAULT_BOUNDS = Bounds()


class DurableExecution(NamedTuple):
    """The state of an execution.

    `executor` started it last, None before its start; `attempts` counts its starts. `created_at` and `began_at` are
    milliseconds of the database's clock.
    """

    status: Status
    executor: str | None
    attempts: int
    created_at: int
    began_at: int | None


class Enqueued(NamedTuple):
    """A function with its arguments, which is executed once for its id."""

    function: str
    arguments: tuple[Any, ...]
    queue: str
    id: str


class Schedule(NamedTuple):
    """A function that a schedule executes. `context` is the stored JSON text."""

    name: str
    function: str
    cron: str
    timezone: str | None
    context: str
    queue: str

    def read_context(self) -> Any:
        """Return the context. Raises `ValueError` if it cannot be read."""
        return DBOSPortableJSONSerializer().deserialize(self.context)


class DurableClient:
    """Access to the durable engine for a process that need not execute any work. Threads can share it.

    Each method raises `DurableUnavailable` if the engine's database is out of reach, or not set up.
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
        """Enqueue a function, to be executed after `delay` seconds. An execution with this `id` that exists already
        stays. Return whether there was none."""
        options: Any = {**_options(function, queue, id), "workflow_id_reuse_policy": "reject"}

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
        """Enqueue functions. An execution that exists already under its id stays."""

        def enqueue_all(client: DBOSClient) -> None:
            statuses = [
                client._build_enqueue_status(_options(function, queue, id), *arguments)[1]
                for function, arguments, queue, id in orders
            ]
            client._sys_db.init_workflows(statuses)

        if orders:
            self._ask(enqueue_all)

    def status(self, id: str) -> tuple[Status, Any] | None:
        """Return the status and the output of an execution; None if there is none of this id."""
        found = self._ask(lambda client: client.list_workflows(workflow_ids=[id], load_input=False))
        return (found[0].status, found[0].output) if found else None

    def find(self, *ids: str) -> dict[str, DurableExecution]:
        """Return the executions with these ids that exist, without their output."""
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
        """Cancel an execution: at once while it waits, otherwise when its function checks for it."""
        self._ask(lambda client: client.cancel_workflow(id))

    def forget(self, id: str) -> None:
        """Remove an execution from the database."""
        self._ask(lambda client: client.delete_workflow(id))

    def purge(self, functions: Sequence[str], age: float, limit: int = 100, up_to: int = 0) -> Purged:
        """Remove the executions of these functions that ended longer than `age` seconds ago, the oldest first; `up_to`
        is that of the last purge of these functions."""
        return self._ask(lambda client: purge_ended(client._sys_db, functions, age, limit, up_to))

    def schedule(self, name: str, function: str, cron: str, *, timezone: str | None, context: Any, queue: str) -> None:
        """Execute a function by a schedule, with the time and `context`. A schedule of this name is replaced.

        Nothing is checked here: any process that knows the time zone serves the schedule.
        """
        row = (name, function, cron, timezone, context, queue)
        self._ask(lambda client: replace_schedule(client._sys_db, *row))

    def schedules(self) -> list[Schedule]:
        """Return all schedules."""

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
        """Return a text that differs after each change of a schedule; None before the first change."""
        return self._ask(lambda client: read_mark(client._sys_db))

    def now(self) -> datetime:
        """Return the time by the clock of the engine's database."""

        def now(client: DBOSClient) -> datetime:
            with client._sys_db.engine.connect() as connection:
                return datetime.fromtimestamp(now_in(connection) / 1000, UTC)

        return self._ask(now)

    def unschedule(self, name: str) -> None:
        """Remove a schedule if it exists."""
        self._ask(lambda client: remove_schedule(client._sys_db, name))

    def take_over(self, executor: str) -> bool:
        """Enqueue the executions of a dead executor again, each on its queue. Return whether it has none left."""

        def take_over(client: DBOSClient) -> bool:
            # DBOS's own recovery would wait for a lost connection, and the lease would run out meanwhile.
            database = client._sys_db
            for each in database.get_pending_workflows(executor, VERSION):
                database.reenqueue_for_recovery(each.workflow_id, [executor], INTERNAL_QUEUE_NAME)
            return not database.get_pending_workflows(executor, VERSION)

        return self._ask(take_over)

    def running_ids(self, executor: str) -> set[str]:
        """Return the ids of the unfinished executions that an executor has taken."""

        def running_ids(client: DBOSClient) -> set[str]:
            return {each.workflow_id for each in client._sys_db.get_pending_workflows(executor, VERSION)}

        return self._ask(running_ids)

    def cancelled(self, executor: str) -> set[str]:
        """Return the ids of executions that were cancelled after an executor had taken them."""
        return self._ask(lambda client: find_cancelled(client._sys_db, executor))

    def requeue(self, executor: str, id: str) -> None:
        """Enqueue an execution again that an executor has taken."""
        self._ask(lambda client: client._sys_db.reenqueue_for_recovery(id, [executor], INTERNAL_QUEUE_NAME))

    def register_queue(self, name: str, *, concurrency: int, poll_interval: float) -> None:
        """Create a queue, or set the limits of its executors: each runs `concurrency` at once, and polls every
        `poll_interval` seconds."""
        self._ask(
            lambda client: client.register_queue(
                name, worker_concurrency=concurrency, polling_interval_sec=poll_interval
            )
        )

    def close(self) -> None:
        """Close the connections. The next call opens them again."""
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
            raise DurableUnavailable("the durable engine cannot be reached: another thread still opens a connection")
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
            # SQLAlchemy asks the first connection about its server, one caller at a time.
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


def _options(function: str, queue: str, id: str) -> Any:
    return {"workflow_name": function, "queue_name": queue, "workflow_id": id, "app_version": VERSION}


def _why(error: Exception) -> str:
    reason = error_text(error)
    if any(sign in reason for sign in _NO_TABLES):
        return (
            "the durable engine's tables do not exist yet: start a WorkflowRuntime or a worker, or run "
            f"`actionengine workflows upgrade` ({reason})"
        )
    return f"the durable engine cannot be reached: {reason}"


_NO_TABLES = ("no such table", 'schema "dbos" does not exist', 'relation "dbos.')


def error_text(error: Exception) -> str:
    """Return the first line of an error."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__

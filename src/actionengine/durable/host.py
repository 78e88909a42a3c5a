"""`DurableHost`: this process as an executor of the durable engine; `DurableClient`: one that only asks it for work.

The durable engine is DBOS Transact 3: https://docs.dbos.dev/python. It has one instance a process. What it keeps is
JSON: nothing that is read from its tables is unpickled.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from dbos import error as dbos_errors
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from actionengine.durable.leases import Leases
from actionengine.durable.urls import SCHEMA, durable_url, spelled
from actionengine.errors import ConfigurationError

logger = logging.getLogger("actionengine")

APPLICATION = "actionengine"
_VERSION = "1"
"""Of what the functions expect of their arguments. It says which executors may take over each other's work, and stays
the same from one release to the next, since all state of a workflow is in rows."""

DBOSException = dbos_errors.DBOSException

_ATTEMPTS = 1_000_000
"""Executions that may be killed before one is given up: it is not the work's fault."""

Status = Literal["ENQUEUED", "DELAYED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


@dataclass(frozen=True, slots=True)
class DurableFunction:
    """A function that the durable engine executes: a `def`, or an `async def`, of JSON values.

    `queue` is where its executions wait, `concurrency` how many of them run at once in one process.
    """

    name: str
    function: Callable[..., Any]
    queue: str
    concurrency: int = 16


class DurableClient:
    """Asks the durable engine for work, from a process that need not execute any.

    Each method raises `DurableUnavailable` where the engine's database is out of reach, or not set up.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._url = durable_url(url)
        self._lock = threading.Lock()
        self._client: DBOSClient | None = None

    def enqueue(self, function: str, *arguments: Any, queue: str, id: str, delay: float | None = None) -> None:
        """Have a function executed, once `delay` seconds are over. What has this `id` is there already stays."""
        options: Any = {"workflow_name": function, "queue_name": queue, "workflow_id": id, "app_version": _VERSION}
        if delay is not None:
            options["delay_seconds"] = max(0.0, delay)
        self._ask(lambda client: client.enqueue(options, *arguments))

    def status(self, id: str) -> tuple[Status, Any] | None:
        """How far an execution is, and what it has returned; None where there is none of this id."""
        found = self._ask(lambda client: client.list_workflows(workflow_ids=[id], load_input=False))
        return (found[0].status, found[0].output) if found else None

    def cancel(self, id: str) -> None:
        """Have an execution ended: at once while it waits, otherwise when its function looks."""
        self._ask(lambda client: client.cancel_workflow(id))

    def forget(self, id: str) -> None:
        """Remove what is kept of an execution."""
        self._ask(lambda client: client.delete_workflow(id))

    def schedule(self, name: str, function: str, cron: str, *, timezone: str | None, context: Any, queue: str) -> None:
        """Have a function executed by a schedule, with the time and `context`; a schedule of this name is replaced."""

        def apply(client: DBOSClient) -> None:
            schedule: Any = {
                "schedule_name": name,
                "workflow_name": function,
                "schedule": cron,
                "context": context,
                "cron_timezone": timezone,
                "queue_name": queue,
            }
            client.apply_schedules([schedule])

        self._ask(apply)

    def unschedule(self, name: str) -> None:
        """End a schedule, where there is one."""
        self._ask(lambda client: client.delete_schedule(name))

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None

    def _ask(self, question: Callable[[DBOSClient], Any]) -> Any:
        try:
            return question(self._opened())
        except (DBOSException, SQLAlchemyError) as error:
            raise DurableUnavailable(f"the durable engine cannot be asked: {_told(error)}") from error

    def _opened(self) -> DBOSClient:
        with self._lock:
            if self._client is None:
                self._client = DBOSClient(
                    system_database_url=spelled(self._url),
                    serializer=DBOSPortableJSONSerializer(),
                    application_name=APPLICATION,
                    lazy=True,
                    retry_connection_errors=False,
                )
            return self._client


class DurableUnavailable(Exception):
    """The durable engine's database is out of reach, or not set up."""


class Interrupted(BaseException):
    """Raised by a function that stops before its end because its process does: another executor begins it anew."""


class DurableHost:
    """This process as an executor: it takes work from queues, and takes over that of executors which are dead.

    There is one in a process. Use it as a context manager, or call `start` and `stop`.

    Args:
        url: of a PostgreSQL database, or of a SQLite file (then for the processes of one machine).
        functions: what can be executed here.
        lease: seconds without a sign of life after which an executor counts as dead.
        poll_interval: seconds between two looks at a queue.
        set_up: whether to make the tables. Without, they have to be there: `upgrade` makes them.

    Raises:
        ConfigurationError: for a URL that is of neither kind, and in `start`, where the process has a durable engine
            already.
    """

    _running: DurableHost | None = None
    _guard = threading.Lock()

    def __init__(
        self,
        url: str | os.PathLike[str],
        functions: Mapping[str, DurableFunction] | list[DurableFunction],
        *,
        lease: float = 10.0,
        poll_interval: float = 0.2,
        set_up: bool = True,
    ) -> None:
        self.url = durable_url(url)
        self.executor_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._functions = list(functions.values()) if isinstance(functions, Mapping) else functions
        self._lease = lease
        self._poll_interval = poll_interval
        self._set_up = set_up
        self._stopping = threading.Event()
        self._watch: threading.Thread | None = None
        self._engine: Engine | None = None

    def start(self) -> None:
        """Begin to execute."""
        with DurableHost._guard:
            if DurableHost._running is not None:
                raise ConfigurationError("this process runs a durable engine already: there is one in a process")
            DurableHost._running = self
        try:
            self._launch()
        except BaseException:
            self.stop(grace=0)
            raise

    def stop(self, grace: float = 10.0) -> None:
        """End: nothing new is taken; what runs longer than `grace` seconds is taken over by another executor."""
        if DurableHost._running is not self:
            return
        self._stopping.set()
        if self._watch is not None:
            self._watch.join(self._lease)
        # Whole seconds are what it waits in.
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=int(grace))
        if self._engine is not None:
            self._give_up_lease(Leases(self._engine, self.executor_id))
            self._engine.dispose()
        DurableHost._running = None

    def __enter__(self) -> DurableHost:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _launch(self) -> None:
        instance = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": spelled(self.url),
                "application_version": _VERSION,
                "executor_id": self.executor_id,
                "serializer": DBOSPortableJSONSerializer(),
                "log_level": "ERROR",
                "enable_otlp": False,
                "run_migrations": self._set_up,
                "scheduler_polling_interval_sec": 1.0,
                "notification_listener_polling_interval_sec": 1.0,
                "sys_db_pool_size": 8,
            }
        )
        if instance._launched:
            raise ConfigurationError("this process runs a DBOS of its own: actionengine's needs a process of its own")
        for each in self._functions:
            DBOS.workflow(name=each.name, max_recovery_attempts=_ATTEMPTS)(each.function)
        DBOS.listen_queues(sorted({each.queue for each in self._functions}))
        self._engine = opened(self.url)
        DBOS.launch()
        leases = Leases(self._engine, self.executor_id)
        if self._set_up:
            leases.create_table()
        leases.renew()
        for each in self._functions:
            DBOS.register_queue(
                each.queue, worker_concurrency=each.concurrency, polling_interval_sec=self._poll_interval
            )
        self._watch = threading.Thread(target=self._watch_over, args=(leases,), name="actionengine-lease", daemon=True)
        self._watch.start()

    def _give_up_lease(self, leases: Leases) -> None:
        try:
            leases.give_up()
        except SQLAlchemyError as error:
            logger.warning("the lease of %s runs out by itself: %s", self.executor_id, _told(error))

    def _watch_over(self, leases: Leases) -> None:
        """Renew the lease, and take over what the dead have left, until the end."""
        while True:
            try:
                leases.renew()
                for lapsed in leases.lapsed(self._lease):
                    # Only what is still the dead one's is taken: whoever comes first gets it.
                    DBOS._recover_pending_workflows([lapsed.executor_id])
                    leases.end(lapsed)
            except (SQLAlchemyError, DBOSException) as error:
                logger.warning("the durable engine's database cannot be reached: %s", _told(error))
            if self._stopping.wait(self._lease / 5):
                break


def upgrade(url: str | os.PathLike[str], *, app_role: str | None = None) -> None:
    """Make or upgrade the durable engine's tables, as a role that may, and grant them to the role of the processes.

    Raises `DurableUnavailable`.
    """
    parsed = durable_url(url)
    engine = opened(parsed)
    try:
        DBOS.migrate(spelled(parsed), schema=SCHEMA, application_role=app_role)
        Leases(engine, "").create_table()
        if app_role is not None and parsed.get_backend_name() == "postgresql":
            quoted = engine.dialect.identifier_preparer.quote(app_role)
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.actionengine_executors TO {quoted}"
                )
    except (DBOSException, SQLAlchemyError) as error:
        raise DurableUnavailable(f"the durable engine's tables cannot be made: {_told(error)}") from error
    finally:
        engine.dispose()


def opened(url: Any) -> Engine:
    """A small pool of connections to the durable engine's database."""
    engine = create_engine(url, pool_size=1, max_overflow=2, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def wait_for_others(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA busy_timeout = 10000")

    return engine


def utc(at: str | datetime) -> datetime:
    """A time as a scheduled function gets it."""
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)


def _told(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

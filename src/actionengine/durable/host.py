"""`DurableHost`: this process as an executor of the durable engine.

The durable engine is DBOS Transact 3: https://docs.dbos.dev/python. A process has one instance. Its tables contain
JSON: no value that is read from them is unpickled.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import ceil
from time import monotonic
from typing import Any
from uuid import uuid4

from dbos import DBOS, DBOSPortableJSONSerializer, _dbos
from dbos._migration import get_dbos_schema_permissions_sql
from dbos._sys_db import SystemDatabase
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from actionengine.durable.client import APPLICATION, DEFAULT_BOUNDS, VERSION, DBOSException, DurableClient, error_text
from actionengine.durable.clock import release_due
from actionengine.durable.database import (
    ANSWER_TIMEOUT,
    CONNECT_TIMEOUT,
    Bounds,
    DurableUnavailable,
    Switch,
    check_seconds,
    open_postgres,
)
from actionengine.durable.leases import Leases
from actionengine.durable.only_json import guard, set_executing
from actionengine.durable.retries import keep_threads, shorten_pauses
from actionengine.durable.scheduler import Scheduler
from actionengine.durable.urls import SCHEMA, durable_url, normalize_url
from actionengine.durable.watched import start_watched
from actionengine.errors import ConfigurationError

logger = logging.getLogger("actionengine")

_PURGE = 60.0
"""Seconds between two purges, unless more than one batch is old."""
_PURGED_AT_ONCE = 1000
"""Executions that are removed at once."""

_CONNECTIONS = 5
"""The most connections of DBOS to the database."""

_LAST_ANSWERS = 2.0
"""Seconds after the grace for answers of the database, before a process that stops closes its connections."""

_LEASE = "actionengine-lease"
"""The name of the thread that renews the lease."""

_MAX_CONCURRENCY = 10_000
"""The highest `concurrency`."""

_ATTEMPTS = 1_000_000
"""Starts of an execution before it is given up: a killed process is not its fault."""


@dataclass(frozen=True, slots=True)
class DurableFunction:
    """A function that the durable engine executes: a `def` or an `async def` of JSON values.

    Its executions wait in `queue`, and `concurrency` of them run at once in one process: the host that started last
    sets this for all. An execution is given up after `attempts` starts that did not end.
    """

    name: str
    function: Callable[..., Any]
    queue: str
    concurrency: int = 16
    attempts: int = _ATTEMPTS


class Interrupted(BaseException):
    """The exception of a function that stops early because its process stops. Another executor restarts it."""


class DurableHost:
    """This process as an executor: it takes work from queues, and takes over the work of dead executors.

    A process has at most one. Use it as a context manager, or call `start` and `stop`.

    Args:
        url: the URL of a PostgreSQL database, or of a SQLite file (then for the processes of one machine).
        functions: the functions that it executes.
        lease: seconds without a sign of life after which an executor counts as dead.
        poll_interval: seconds between two checks of a queue.
        keep: seconds after which an ended execution is removed from the database.
        set_up: create the tables. Without it, they must exist: `upgrade` creates them.
        connect_timeout: seconds to wait for a new connection to the database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement; then the connection counts as lost, and a new one
            is opened (PostgreSQL).

    Raises:
        ConfigurationError: for a URL of another kind, for seconds that are not positive and finite, and for a
            `concurrency` out of range; in `start`, if the process has a durable engine already.
    """

    _running: DurableHost | None = None
    _guard = threading.Lock()

    def __init__(
        self,
        url: str | os.PathLike[str],
        functions: Sequence[DurableFunction],
        *,
        lease: float = 10.0,
        poll_interval: float = 0.2,
        keep: float = 7 * 24 * 3600.0,
        set_up: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self._bounds = Bounds(connect_timeout, answer_timeout)
        check_seconds(lease=lease, poll_interval=poll_interval, keep=keep, **self._bounds._asdict())
        for each in functions:
            if not 1 <= each.concurrency <= _MAX_CONCURRENCY:
                raise ConfigurationError(
                    f"the concurrency of {each.queue!r} is {each.concurrency}: give 1 to {_MAX_CONCURRENCY}"
                )
        self.url = durable_url(url)
        self.executor_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._functions = functions
        self._lease = lease
        self._poll_interval = poll_interval
        self._keep = keep
        self._set_up = set_up
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._client = DurableClient(self.url, self._bounds)
        # The executions that this process has taken and not started, with the time of their discovery.
        self._lost: dict[str, float] = {}
        self._purged_up_to = 0
        self._instance: DBOS | None = None
        self._switch = Switch()
        self._pool: Engine | None = None
        self._threads: list[threading.Thread] = []
        # A pool for the lease only: it is renewed while other queries wait for a silent network.
        self._engine: Engine | None = None

    def start(self) -> None:
        """Start executing. Raises `DurableUnavailable` if the database is out of reach, or not set up."""
        with DurableHost._guard:
            if DurableHost._running is not None:
                raise ConfigurationError("this process already runs a durable engine, and can run only one")
            DurableHost._running = self
        try:
            self._launch()
        except BaseException as error:
            self.stop(grace=0)
            if isinstance(error, SQLAlchemyError | DBOSException):
                raise DurableUnavailable(f"the durable engine cannot be started: {error_text(error)}") from error
            raise

    def stop(self, grace: float = 10.0) -> None:
        """Stop executing. Another executor takes over the executions that run longer than `grace` seconds."""
        if DurableHost._running is not self:
            return
        self._stopping.set()
        if self._instance is not None:
            self._destroy(self._instance, grace)
            self._instance = None
        self._switch.turn_off()
        self._ended.set()
        for thread in self._threads:
            thread.join(_LAST_ANSWERS)
        if self._engine is not None:
            if not any(thread.name == _LEASE and thread.is_alive() for thread in self._threads):
                self._give_up_lease()
            self._engine.dispose()
            self._engine = None
        self._threads = []
        if self._pool is not None:
            self._pool.dispose()
            self._pool = None
        self._client.close()
        set_executing(False)
        DurableHost._running = None

    def _destroy(self, instance: DBOS, grace: float) -> None:
        """End DBOS, and the waits for the database after the grace."""
        # DBOS waits in whole seconds, even if nothing runs. The lease is renewed meanwhile.
        is_busy = bool(instance._active_workflows_set.activeList())
        seconds = ceil(grace) if is_busy else 0
        timer = threading.Timer(seconds + _LAST_ANSWERS, self._switch.turn_off)
        timer.daemon = True
        timer.start()
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=seconds)
        timer.cancel()

    def __enter__(self) -> DurableHost:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _launch(self) -> None:
        self._stopping.clear()
        self._ended.clear()
        if _dbos._dbos_global_instance is not None:
            raise ConfigurationError("this process already runs DBOS: run actionengine's durable engine in another one")
        guard()
        shorten_pauses()
        keep_threads()
        self._switch = Switch()
        self._client = DurableClient(self.url, self._bounds, self._switch)
        if self.url.get_backend_name() != "sqlite":
            self._pool = open_postgres(self.url, self._bounds, size=_CONNECTIONS, switch=self._switch)
        self._instance = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": normalize_url(self.url),
                "system_database_engine": self._pool,
                "application_version": VERSION,
                "executor_id": self.executor_id,
                "serializer": DBOSPortableJSONSerializer(),
                "log_level": "ERROR",
                "enable_otlp": False,
                "run_migrations": False,
                # Nothing here waits for notifications, and DBOS would not notice a silent connection.
                "use_listen_notify": False,
                "notification_listener_polling_interval_sec": 0.1,
                # `Scheduler` serves the schedules.
                "scheduler_polling_interval_sec": 3600.0,
                "sys_db_pool_size": _CONNECTIONS,
            }
        )
        set_executing(True)
        for each in self._functions:
            DBOS.workflow(name=each.name, max_recovery_attempts=each.attempts)(each.function)
        DBOS.listen_queues(sorted({each.queue for each in self._functions}))
        if self._set_up:
            upgrade(self.url, connect_timeout=self._bounds.connect_timeout, answer_timeout=self._bounds.answer_timeout)
        self._engine = opened(self.url, self._bounds.for_lease(self._lease))
        leases = Leases(self._engine, self.executor_id)
        if not leases.has_table():
            raise DurableUnavailable("the durable engine's tables do not exist: run `actionengine workflows upgrade`")
        # Work that is taken without a lease would never be taken over.
        leases.renew()
        for each in self._functions:
            # DBOS listens at once to queues that exist before its launch.
            self._client.register_queue(each.queue, concurrency=each.concurrency, poll_interval=self._poll_interval)
        DBOS.launch()
        database: Any = self._instance._sys_db
        database.transition_delayed_workflows = partial(release_due, database)
        self._switch.is_patient.set()
        works = (
            (partial(self._renew, leases), _LEASE, self._ended, f"the lease of {self.executor_id} is not renewed"),
            (partial(self._look_after, leases), "actionengine-recovery", self._stopping, "no work is taken over"),
            (
                *(partial(Scheduler(self._client).run, self._stopping), "actionengine-scheduler", self._stopping),
                "no schedule is served",
            ),
        )
        self._threads = [start_watched(*work) for work in works]

    def _give_up_lease(self) -> None:
        assert self._engine is not None
        try:
            Leases(self._engine, self.executor_id).give_up()
        except SQLAlchemyError as error:
            logger.warning("the lease of %s runs out by itself: %s", self.executor_id, error_text(error))

    def _renew(self, leases: Leases) -> None:
        """Renew the lease until this process stops."""
        while not self._ended.is_set():
            try:
                leases.renew()
            except SQLAlchemyError as error:
                logger.warning("the lease of %s cannot be renewed: %s", self.executor_id, error_text(error))
            self._ended.wait(self._lease / 5)

    def _look_after(self, leases: Leases) -> None:
        """Take over the work of dead executors, and purge, until this process stops."""
        trusted_from = purge_at = 0.0
        while not self._stopping.is_set():
            try:
                self._take_over(leases, self._lease if monotonic() >= trusted_from else None)
                self._put_back_lost()
                if monotonic() >= purge_at:
                    # After a full batch the next purge follows soon: executions may end faster than one batch in each
                    # pause.
                    purge_at = monotonic() + (0.0 if self._purge() else _PURGE)
            except (SQLAlchemyError, DurableUnavailable) as error:
                logger.warning("the durable engine's database cannot be reached: %s", error_text(error))
                # Other executors could not renew their leases either: this gives them time.
                trusted_from = monotonic() + 2 * self._lease
            self._stopping.wait(self._lease / 5)

    def _take_over(self, leases: Leases, seconds: float | None) -> None:
        for lapsed in leases.lapsed(seconds):
            # Of several executors, the first one takes an execution.
            if not self._stopping.is_set() and self._client.take_over(lapsed.executor_id):
                leases.end(lapsed)

    def _put_back_lost(self) -> None:
        """Enqueue executions again that this executor has taken and not started for the length of a lease: it did not
        get the answer of the database, for example."""
        instance = self._instance
        if instance is None:
            return
        active = set(instance._active_workflows_set.activeList())
        now = monotonic()
        self._lost = {id: self._lost.get(id, now) for id in self._client.running_ids(self.executor_id) - active}
        for id, since in self._lost.items():
            if now - since >= self._lease:
                logger.warning("the execution %s was taken and did not start: it is enqueued again", id)
                self._client.requeue(self.executor_id, id)

    def _purge(self) -> bool:
        """Remove a batch of old executions. Return whether there may be more."""
        functions = [each.name for each in self._functions]
        number, self._purged_up_to = self._client.purge(functions, self._keep, _PURGED_AT_ONCE, self._purged_up_to)
        return number == _PURGED_AT_ONCE


def upgrade(
    url: str | os.PathLike[str] | URL,
    *,
    app_role: str | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    answer_timeout: float = ANSWER_TIMEOUT,
) -> None:
    """Create or upgrade the durable engine's tables, as the role that owns them, and grant them to the processes' role.

    A statement that takes longer than `answer_timeout` seconds, such as an index of a large table, is given up.

    Raises `DurableUnavailable`, and `ConfigurationError` for a URL of another kind, for a role on SQLite, which has
    none, and for seconds that are not positive.
    """
    parsed = url if isinstance(url, URL) else durable_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and app_role is not None:
        raise ConfigurationError(f"SQLite has no roles: leave out app_role={app_role!r}")
    bounds = Bounds(connect_timeout, answer_timeout)
    bounds.check()
    engine = opened(parsed, bounds)
    try:
        _probe(parsed, Bounds(connect_timeout, min(answer_timeout, ANSWER_TIMEOUT)))
        _migrate(parsed, None if is_sqlite else engine)
        Leases(engine, "").create_table()
        if app_role is not None:
            _grant(engine, app_role)
    except (DBOSException, SQLAlchemyError) as error:
        reason = f"{parsed.database}: {error_text(error)}" if is_sqlite else error_text(error)
        if "permission denied" in reason:
            reason += ": run `actionengine workflows upgrade` as the database's owner, and use set_up=False elsewhere"
        if "answer_timeout" in reason:
            reason += ": check the network, or raise --answer-timeout of `actionengine workflows upgrade`"
        raise DurableUnavailable(f"the durable engine's tables cannot be created: {reason}") from error
    finally:
        engine.dispose()


def _probe(url: URL, bounds: Bounds) -> None:
    """Raise if no server answers. DBOS would log the error, and migrations have a longer timeout than this."""
    engine = opened(url, bounds)
    try:
        with engine.connect():
            pass
    finally:
        engine.dispose()


def _migrate(url: URL, engine: Engine | None) -> None:
    """Create or upgrade DBOS's tables."""
    guard()
    database = SystemDatabase.create(
        system_database_url=normalize_url(url),
        engine_kwargs={},
        engine=engine,
        schema=SCHEMA,
        serializer=DBOSPortableJSONSerializer(),
        executor_id=None,
        # The lock of the migrations belongs to one connection: a new connection would not hold it.
        retry_connection_errors=False,
    )
    try:
        database.run_migrations()
    finally:
        database.destroy()


def _grant(engine: Engine, role: str) -> None:
    """Grant a role the rights that the processes need."""
    leases = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.actionengine_executors TO "
    leases += engine.dialect.identifier_preparer.quote(role)
    with engine.begin() as connection:
        for statement in (*get_dbos_schema_permissions_sql(SCHEMA, role), leases):
            connection.execute(text(statement))


def opened(url: URL, bounds: Bounds = DEFAULT_BOUNDS) -> Engine:
    """Return a small pool of connections to the durable engine's database."""
    if url.get_backend_name() != "sqlite":
        return open_postgres(url, bounds, size=1, overflow=2)
    engine = create_engine(url, pool_size=1, max_overflow=2)

    @event.listens_for(engine, "connect")
    def wait_for_others(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA busy_timeout = 10000")

    return engine


def current_id() -> str:
    """Return the id of the execution of this thread."""
    return str(DBOS.workflow_id)


def utc(at: str | datetime) -> datetime:
    """Return the time that a scheduled function got."""
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)

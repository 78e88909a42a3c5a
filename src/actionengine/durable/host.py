"""`DurableHost`: this process as an executor of the durable engine.

The durable engine is DBOS Transact 3: https://docs.dbos.dev/python. It has one instance a process. What it keeps is
JSON: nothing that is read from its tables is unpickled.
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
from math import ceil, inf
from time import monotonic
from typing import Any
from uuid import uuid4

from dbos import DBOS, DBOSPortableJSONSerializer, _dbos
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from actionengine.durable.client import APPLICATION, VERSION, DBOSException, DurableClient, DurableUnavailable, told
from actionengine.durable.clock import release_due
from actionengine.durable.leases import Leases
from actionengine.durable.only_json import guard, set_executing
from actionengine.durable.urls import SCHEMA, durable_url, spelled
from actionengine.errors import ConfigurationError

logger = logging.getLogger("actionengine")

_PURGE = 60.0
"""Seconds between two looks for what is old."""
_PURGED_AT_ONCE = 1000
"""Executions that are removed at each."""

_MOST_AT_ONCE = 10_000
"""The highest `concurrency`."""

_ATTEMPTS = 1_000_000
"""Executions that may be killed before one is given up: it is not the work's fault."""


@dataclass(frozen=True, slots=True)
class DurableFunction:
    """A function that the durable engine executes: a `def`, or an `async def`, of JSON values.

    `queue` is where its executions wait, `concurrency` how many of them run at once in one process: what the host that
    has started last says of a queue counts for all. After `attempts` executions that did not come to an end, one is
    given up.
    """

    name: str
    function: Callable[..., Any]
    queue: str
    concurrency: int = 16
    attempts: int = _ATTEMPTS


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
        keep: seconds after which what is kept of an execution that has ended is removed.
        set_up: whether to make the tables. Without, they have to be there: `upgrade` makes them.

    Raises:
        ConfigurationError: for a URL that is of neither kind, for seconds that are not positive and finite, and for a
            function of which none could run; in `start`, where the process has a durable engine already.
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
    ) -> None:
        for name, seconds in (("lease", lease), ("poll_interval", poll_interval), ("keep", keep)):
            if not 0 < seconds < inf:
                raise ConfigurationError(f"{name} has to be more than 0 seconds, and is {seconds}")
        for each in functions:
            if not 1 <= each.concurrency <= _MOST_AT_ONCE:
                raise ConfigurationError(f"of {each.queue!r}, 1 to {_MOST_AT_ONCE} run at once, not {each.concurrency}")
        self.url = durable_url(url)
        self.executor_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._functions = functions
        self._lease = lease
        self._poll_interval = poll_interval
        self._keep = keep
        self._set_up = set_up
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._client = DurableClient(self.url)
        # Executions that this process has taken and not begun with, and since when.
        self._lost: dict[str, float] = {}
        self._instance: DBOS | None = None
        self._watch: threading.Thread | None = None
        self._engine: Engine | None = None

    def start(self) -> None:
        """Begin to execute. Raises `DurableUnavailable` where the database is out of reach, or not set up."""
        with DurableHost._guard:
            if DurableHost._running is not None:
                raise ConfigurationError("this process runs a durable engine already: there is one in a process")
            DurableHost._running = self
        try:
            self._launch()
        except BaseException as error:
            self.stop(grace=0)
            if isinstance(error, SQLAlchemyError | DBOSException):
                raise DurableUnavailable(f"the durable engine cannot be started: {told(error)}") from error
            raise

    def stop(self, grace: float = 10.0) -> None:
        """End: nothing new is taken; what runs longer than `grace` seconds is taken over by another executor."""
        if DurableHost._running is not self:
            return
        self._stopping.set()
        if self._instance is not None:
            # Whole seconds are what it waits in, also for nothing. The lease is renewed meanwhile.
            is_busy = bool(self._instance._active_workflows_set.activeList())
            DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=ceil(grace) if is_busy else 0)
            self._instance = None
        self._ended.set()
        if self._watch is not None:
            self._watch.join(self._lease)
            self._watch = None
            self._give_up_lease()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        self._client.close()
        set_executing(False)
        DurableHost._running = None

    def __enter__(self) -> DurableHost:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _launch(self) -> None:
        self._stopping.clear()
        self._ended.clear()
        if _dbos._dbos_global_instance is not None:
            raise ConfigurationError("this process has a DBOS of its own: actionengine's needs a process of its own")
        self._instance = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": spelled(self.url),
                "application_version": VERSION,
                "executor_id": self.executor_id,
                "serializer": DBOSPortableJSONSerializer(),
                "log_level": "ERROR",
                "enable_otlp": False,
                "run_migrations": False,
                "scheduler_polling_interval_sec": 1.0,
                "notification_listener_polling_interval_sec": 1.0,
                "sys_db_pool_size": 8,
            }
        )
        guard()
        set_executing(True)
        for each in self._functions:
            DBOS.workflow(name=each.name, max_recovery_attempts=each.attempts)(each.function)
        DBOS.listen_queues(sorted({each.queue for each in self._functions}))
        if self._set_up:
            upgrade(self.url)
        self._engine = opened(self.url)
        leases = Leases(self._engine, self.executor_id)
        if not leases.has_table():
            raise DurableUnavailable("the durable engine's tables are not there: run `actionengine workflows upgrade`")
        # Before anything is taken: what is taken without a lease would never be taken over.
        leases.renew()
        for each in self._functions:
            # A queue that is there before the launch is listened to at once.
            self._client.register_queue(each.queue, concurrency=each.concurrency, poll_interval=self._poll_interval)
        DBOS.launch()
        database: Any = self._instance._sys_db
        database.transition_delayed_workflows = partial(release_due, database)
        self._watch = threading.Thread(target=self._watch_over, args=(leases,), name="actionengine-lease", daemon=True)
        self._watch.start()

    def _give_up_lease(self) -> None:
        assert self._engine is not None
        try:
            Leases(self._engine, self.executor_id).give_up()
        except SQLAlchemyError as error:
            logger.warning("the lease of %s runs out by itself: %s", self.executor_id, told(error))

    def _watch_over(self, leases: Leases) -> None:
        """Renew the lease, take over what the dead have left, and remove what is old, until the end."""
        trusted_from = purge_at = 0.0
        while True:
            try:
                leases.renew()
                if not self._stopping.is_set():
                    self._take_over(leases, self._lease if monotonic() >= trusted_from else None)
                    self._put_back_lost()
                    if monotonic() >= purge_at:
                        purge_at = monotonic() + _PURGE
                        self._purge()
            except (SQLAlchemyError, DurableUnavailable) as error:
                logger.warning("the durable engine's database cannot be reached: %s", told(error))
                # Others could not renew theirs either: each is given the time to.
                trusted_from = monotonic() + 2 * self._lease
            if self._ended.wait(self._lease / 5):
                break

    def _take_over(self, leases: Leases, seconds: float | None) -> None:
        for lapsed in leases.lapsed(seconds):
            # Only what is still the dead one's is taken: whoever comes first gets it.
            if not self._stopping.is_set() and self._client.take_over(lapsed.executor_id):
                leases.end(lapsed)

    def _put_back_lost(self) -> None:
        """Put back what this executor has taken, and for the length of a lease not begun with: the answer to its taking
        was lost, with the connection, say."""
        instance = self._instance
        if instance is None:
            return
        active = set(instance._active_workflows_set.activeList())
        now = monotonic()
        self._lost = {id: self._lost.get(id, now) for id in self._client.in_hand(self.executor_id) - active}
        for id, since in self._lost.items():
            if now - since >= self._lease:
                logger.warning("the execution %s was taken and never begun: it is put back", id)
                self._client.put_back(self.executor_id, id)

    def _purge(self) -> None:
        for each in self._functions:
            self._client.purge(each.name, self._keep, _PURGED_AT_ONCE)


def upgrade(url: str | os.PathLike[str] | URL, *, app_role: str | None = None) -> None:
    """Make or upgrade the durable engine's tables, as a role that may, and grant them to the role of the processes.

    Raises `ConfigurationError` for a URL of another kind and for a role on SQLite, which has none, and
    `DurableUnavailable`.
    """
    parsed = url if isinstance(url, URL) else durable_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and app_role is not None:
        raise ConfigurationError("SQLite has no roles to grant anything to")
    engine = opened(parsed)
    try:
        # Where nothing answers, DBOS would log what we say.
        with engine.connect():
            pass
        DBOS.migrate(spelled(parsed), schema=SCHEMA, application_role=app_role)
        Leases(engine, "").create_table()
        if app_role is not None:
            quoted = engine.dialect.identifier_preparer.quote(app_role)
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.actionengine_executors TO {quoted}"
                )
    except (DBOSException, SQLAlchemyError) as error:
        reason = f"{parsed.database}: {told(error)}" if is_sqlite else told(error)
        if "permission denied" in reason:
            reason += ": run `actionengine workflows upgrade` as the database's owner; processes then say set_up=False"
        raise DurableUnavailable(f"the durable engine's tables cannot be made: {reason}") from error
    finally:
        engine.dispose()


def opened(url: URL) -> Engine:
    """A small pool of connections to the durable engine's database."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_size=1, max_overflow=2, pool_pre_ping=True)
    engine = create_engine(url, pool_size=1, max_overflow=2)

    @event.listens_for(engine, "connect")
    def wait_for_others(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA busy_timeout = 10000")

    return engine


def current_id() -> str:
    """The id of the execution that this thread is in."""
    return str(DBOS.workflow_id)


def utc(at: str | datetime) -> datetime:
    """A time as a scheduled function gets it."""
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)

"""The contenders of `benchmarks.idle_memory`, in a process of its own: each function returns a factory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from uuid import uuid4

import lato
import psycopg
import sqlalchemy
from returns.result import Result, Success
from sqlalchemy import make_url

from actionengine import ActionError, Engine, InMemoryStorage, create_action, create_engine, create_service
from actionengine.storage.port import Storage
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks import by_hand
from benchmarks.postgres import PAYLOAD, Refund, application

REFUNDS = 10
"""In each connection, so that all is prepared."""


def in_memory(url: str) -> Callable[[], Engine]:
    """An engine with one action."""
    return lambda: _engine(InMemoryStorage())


def on_postgres(url: str) -> Callable[[], Engine]:
    """The same on PostgreSQL, unused."""
    return lambda: _engine(PostgresStorage(url))


def peer(url: str) -> Callable[[], lato.Application]:
    """An application of lato's with one handler."""

    def make() -> lato.Application:
        made = lato.Application("payments")

        @made.handler("refund")
        def refund(command: object) -> None:
            return None

        return made

    return make


def pooled(url: str) -> Callable[[], object]:
    """A connection of an engine's pool, after refunds in it."""
    # As the storage's own pool is, but with a handle on it; the storage prepares its statements, not the driver.
    pool = sqlalchemy.create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=1000,
        isolation_level="AUTOCOMMIT",
        connect_args={"prepare_threshold": None},
    )
    app = application(PostgresStorage(engine=pool))

    def make() -> object:
        for _ in range(REFUNDS):
            app.engine.execute_action("payments", "refund", PAYLOAD, app.request()).unwrap()
        # All others are taken: it is the one that these refunds were made in, or one of its kind.
        return pool.raw_connection()

    return make


def bare(url: str) -> Callable[[], psycopg.Connection]:
    """A connection of psycopg's, after refunds by hand in it."""
    tenant, keys = uuid4(), count()

    def make() -> psycopg.Connection:
        connection = psycopg.connect(url, autocommit=True)
        for _ in range(REFUNDS):
            by_hand.refund(connection, tenant, f"key-{next(keys)}-{tenant}")
        return connection

    return make


def _engine(storage: Storage) -> Engine:
    action = create_action(name="refund", description="Give money back", handler=_refund, validation=Refund)
    return create_engine(
        services=[create_service(name="payments", description="Money", actions=[action])], storage=storage
    )


def _refund(data: Refund) -> Result[float, ActionError]:
    return Success(data.amount)

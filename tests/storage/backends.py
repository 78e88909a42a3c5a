"""The SQL backends under test: a storage as a host opens it, and the database as its owner sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy import Engine as Owner

from actionengine import (
    Action,
    Actor,
    Budget,
    Engine,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Storage,
    Tenant,
    create_service,
)
from actionengine import create_engine as create_action_engine
from tests.conftest import make_action

SQLStorage = PostgresStorage | SQLiteStorage


def engine_on(
    storage: Storage,
    *handlers: Callable[..., Any] | Action,
    service: str = "w",
    budgets: Sequence[Budget] = (),
    **options: Any,
) -> Engine:
    """Make an engine with one service: an action for each handler, under its name, with these options."""
    actions = [each if isinstance(each, Action) else make_action(each.__name__, each, **options) for each in handlers]
    return create_action_engine(
        services=[create_service(name=service, description="", actions=actions)], storage=storage, budgets=budgets
    )


def as_ann(tenant: Tenant) -> RequestContext:
    return RequestContext(tenant=tenant, actor=Actor.human("ann"))


@dataclass(frozen=True)
class SQLDatabase:
    """A database; `open` opens another storage on it, as another process would."""

    name: str
    open: Callable[..., SQLStorage]
    owner: Owner

    @contextmanager
    def owning(self) -> Iterator[Connection]:
        """Open a transaction of the owner."""
        with self.owner.begin() as connection:
            yield connection


def postgres_backend(app_url: str, owner_url: str) -> SQLDatabase:
    def open(**options: Any) -> PostgresStorage:
        return PostgresStorage(app_url, **options)

    return SQLDatabase("postgresql", open, create_engine(make_url(owner_url).set(drivername="postgresql+psycopg")))


def sqlite_backend(path: str) -> SQLDatabase:
    def open(**options: Any) -> SQLiteStorage:
        return SQLiteStorage(path, **options)

    with open():
        pass
    return SQLDatabase("sqlite", open, create_engine(f"sqlite:///{path}"))

"""The SQL backends under test: a storage as a host has it, and the database as its owner has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, make_url

from actionengine import PostgresStorage, SQLiteStorage

SQLStorage = PostgresStorage | SQLiteStorage


@dataclass(frozen=True)
class SQLDatabase:
    """`open` makes another storage on the same database, as another process would."""

    name: str
    open: Callable[..., SQLStorage]
    owner: Engine

    @contextmanager
    def owning(self) -> Iterator[Connection]:
        """A transaction of the owner's."""
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

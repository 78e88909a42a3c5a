"""Databases of the durable engine, and the child processes that work on them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psycopg
from examples.embedded_postgres import Database, make_role
from sqlalchemy import make_url, text

from actionengine.durable.host import opened, upgrade
from actionengine.durable.urls import durable_url
from tests.postgres import copy_database

_PROCESSES = multiprocessing.get_context("forkserver")
"""Forks children from a process that has imported their programs: importing DBOS takes seconds."""
_PROCESSES.set_forkserver_preload(["tests.durable.executor", "tests.durable.worker"])


class Child:
    """A process that runs a program of this folder. It talks to its test over a pipe."""

    def __init__(self, program: str, options: dict[str, Any]) -> None:
        self._pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_run, args=(program, options, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0

    def hear(self) -> str:
        return str(self._pipe.recv())

    def tell(self, line: str) -> None:
        self._pipe.send(line)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it, as a system without memory does."""
        with suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        self.wait()


def _run(program: str, options: dict[str, Any], test: Connection) -> None:
    import_module(f"tests.durable.{program}").main(options, test)


@dataclass(frozen=True)
class Durable:
    """A migrated database; `url` has the role of the processes, which may not change its schema on PostgreSQL."""

    url: str
    children: list[Child] = field(default_factory=list)

    def start(self, program: str, **options: Any) -> Child:
        """Start a child, and wait until it is ready."""
        child = self.begin(program, **options)
        assert child.hear() == "ready"
        return child

    def begin(self, program: str, **options: Any) -> Child:
        """Start a child."""
        child = Child(program, {"url": self.url, **options})
        self.children.append(child)
        return child

    def end(self) -> None:
        for child in self.children:
            child.kill()


def empty_database(superuser_url: str) -> Database:
    """Create an empty database, with its owner and a role that may only connect."""
    name = f"durable_{uuid4().hex}"
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role in ("owner", "app"):
            make_role(connection, role)
        connection.execute(f'CREATE DATABASE "{name}" OWNER "owner"')
    url = make_url(superuser_url).set(database=name)
    owner, app = (url.set(username=role).render_as_string(hide_password=False) for role in ("owner", "app"))
    return Database(owner, app)


def postgres(superuser_url: str) -> Durable:
    return Durable(copy_database(superuser_url, _template(superuser_url), "durable").app_url)


@cache
def _template(superuser_url: str) -> Database:
    """Create a migrated database that stays unopened: others are copies of it."""
    database = empty_database(superuser_url)
    upgrade(database.owner_url, app_role="app")
    return database


def sqlite(folder: Path) -> Durable:
    path = folder / "durable.db"
    path.write_bytes(_migrated_file())
    return Durable(f"sqlite:///{path}")


@cache
def _migrated_file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "durable.db")
        upgrade(path)
        return path.read_bytes()


def change(durable: Durable, statement: str, **values: Any) -> None:
    """Change the durable engine's tables by hand; `$` stands for their schema."""
    engine = opened(durable_url(durable.url))
    with engine.begin() as connection:
        schema = "" if engine.dialect.name == "sqlite" else "dbos."
        connection.execute(text(statement.replace("$", schema)), values)
    engine.dispose()


def eventually(question: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Return the first true answer."""
    until = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []

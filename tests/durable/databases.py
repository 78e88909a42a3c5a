"""Databases of the durable engine, and the child processes that work on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from examples.embedded_postgres import Database, make_role
from sqlalchemy import make_url, text

from actionengine.durable.host import opened, upgrade
from actionengine.durable.urls import durable_url

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Durable:
    """A database that is set up; `url` is that of the processes, who may not change its schema on PostgreSQL."""

    url: str
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, program: str, **options: Any) -> subprocess.Popen[str]:
        """Start a child, and wait until it is ready."""
        child = self.begin(program, **options)
        wait_ready(child)
        return child

    def begin(self, program: str, **options: Any) -> subprocess.Popen[str]:
        """Start a child."""
        child = subprocess.Popen(
            [sys.executable, "-m", f"tests.durable.{program}", json.dumps({"url": self.url, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.children.append(child)
        return child

    def end(self) -> None:
        for child in self.children:
            kill(child)


def empty_database(superuser_url: str) -> Database:
    """A database with nothing in it, its owner, and a role that may only connect."""
    name = f"durable_{uuid4().hex}"
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role in ("owner", "app"):
            make_role(connection, role)
        connection.execute(f'CREATE DATABASE "{name}" OWNER "owner"')
    url = make_url(superuser_url).set(database=name)
    owner, app = (url.set(username=role).render_as_string(hide_password=False) for role in ("owner", "app"))
    return Database(owner, app)


def postgres(superuser_url: str) -> Durable:
    database = empty_database(superuser_url)
    upgrade(database.owner_url, app_role="app")
    return Durable(database.app_url)


def sqlite(folder: Path) -> Durable:
    url = f"sqlite:///{folder / 'durable.db'}"
    upgrade(url)
    return Durable(url)


def change(durable: Durable, statement: str, **values: Any) -> None:
    """Change the durable engine's tables by hand; `$` stands for their schema."""
    engine = opened(durable_url(durable.url))
    with engine.begin() as connection:
        schema = "" if engine.dialect.name == "sqlite" else "dbos."
        connection.execute(text(statement.replace("$", schema)), values)
    engine.dispose()


def wait_ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line == "ready\n", f"the child said {line!r}"


def kill(child: subprocess.Popen[str]) -> None:
    """End a child as the system does when it is out of memory."""
    if child.poll() is None:
        child.send_signal(signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def eventually(question: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first answer that is true."""
    until = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []

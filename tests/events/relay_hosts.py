"""Relays and writers in processes that a test starts, stops, freezes and kills."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from examples.embedded_postgres import Database

from actionengine import PostgresStorage, SQLiteStorage, Tenant
from actionengine.events.publishers.port import CallbackPublisher
from actionengine.events.relay.relay import Relay
from actionengine.storage.outbox import OutboxStatus
from tests.backends import AnyStorage
from tests.events.relay_host import ERRORS_FILE, Order, read_journal
from tests.events.relay_work import BrokerLog, new_tenant
from tests.programs import Program
from tests.waiting import wait_until


@dataclass
class Process:
    """A relay or a writer in another process."""

    pid: int
    name: str
    path: Path

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        wait_until(lambda: not self.is_alive())

    def terminate(self) -> None:
        """Ask it to end, and wait until it has."""
        self.send(signal.SIGTERM)
        wait_until(lambda: not self.is_alive())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze it during the block."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def acknowledged(self) -> list[Any]:
        """Return the marks of the actions that a writer has completed."""
        return read_journal(self.path)


class Site:
    """A database, a broker, and processes that work on them."""

    def __init__(self, url: str, storage: AnyStorage, folder: Path, program: Program) -> None:
        self.url = url
        self.storage = storage
        self.broker = BrokerLog(folder / "broker")
        self.tenants: list[Tenant] = []
        self._folder = folder
        self._processes: list[Process] = []
        self._program = program

    def tenant(self) -> Tenant:
        tenant = new_tenant(self.storage)
        self.tenants.append(tenant)
        return tenant

    def relay(self, **order: Any) -> Process:
        name = order.pop("name", None) or f"relay-{uuid4().hex[:8]}"
        return self._start(Order("relay", name, self.url, str(self.broker.path), **order))

    def writer(self, tenant: Tenant) -> Process:
        name = f"writer-{uuid4().hex[:8]}"
        path = self._folder / name
        return self._start(Order("writer", name, self.url, str(path), tenant_id=str(tenant.id), slug=tenant.slug))

    def status(self) -> OutboxStatus:
        """Return the status of the outbox."""
        return Relay(self.storage, CallbackPublisher(lambda event: None)).status()

    def errors(self) -> str:
        """Return the stderr of the processes."""
        path = self._folder / ERRORS_FILE
        return path.read_text() if path.exists() else ""

    def can_be_written(self) -> bool:
        """Return whether no process has locked the database."""
        if isinstance(self.storage, PostgresStorage):
            return True
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=1.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.rollback()
        return True

    def wait_until_drained(self, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while (status := self.status()).pending:
            assert time.monotonic() < deadline, f"not drained: {status}; {self.errors()[-3000:]}"
            time.sleep(0.05)

    def wait_for_arrivals(self, more: int) -> None:
        """Wait until this number of further events has arrived."""
        before = self.broker.path.stat().st_size if self.broker.path.exists() else 0
        wait_until(lambda: self.broker.path.exists() and self.broker.path.stat().st_size >= before + more * 60)

    def close(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.send(signal.SIGKILL)

    def _start(self, order: Order) -> Process:
        process = Process(int(self._program.ask(order)), order.name, Path(order.path))
        self._processes.append(process)
        return process


def sqlite_site(folder: Path, program: Program) -> Site:
    url = f"sqlite:///{folder / 'events.db'}"
    return Site(url, SQLiteStorage(url, busy_timeout=60.0), folder, program)


def postgres_site(database: Database, folder: Path, program: Program) -> Site:
    return Site(database.app_url, PostgresStorage(database.app_url), folder, program)

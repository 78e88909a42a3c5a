"""Opening connections, with bounds for waits that this library does not control itself."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any

from psycopg.errors import ConnectionTimeout
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.util import await_

from actionengine.storage.postgres.statements import BEGAN
from actionengine.storage.postgres.waiting import BoundedWait


def socket_options(url: URL, answer_timeout: float) -> dict[str, int]:
    """Return libpq's options against a network that drops connections silently, except those that the URL sets."""
    seconds = max(1, int(answer_timeout))
    options = {
        "tcp_user_timeout": int(answer_timeout * 1000),
        "keepalives_idle": seconds,
        "keepalives_interval": max(1, seconds // 3),
        "keepalives_count": 3,
    }
    return {name: value for name, value in options.items() if name not in url.query}


def resolve_names(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    """Resolve the host's name within `connect_timeout`, as a listener before a connection opens.

    The driver would wait for as long as the name servers take.
    """
    host, seconds = parameters.get("host"), max(2.0, float(parameters.get("connect_timeout") or 5))
    if not isinstance(host, str) or "," in host or parameters.get("hostaddr") or not _is_name(host):
        return
    found = await_(_resolve_async(host, seconds)) if dialect.is_async else _resolve(host, seconds)
    if not found:
        return  # The driver raises the error.
    port = str(parameters.get("port") or "")
    parameters["hostaddr"] = ",".join(found)
    parameters["host"] = ",".join([host] * len(found))
    if port:
        parameters["port"] = ",".join([port] * len(found))


@contextmanager
def bounded_transaction(url: URL, answer_timeout: float) -> Iterator[Connection]:
    """Open a transaction in a connection of its own, for an operator. A statement may take as long as the server works
    on it: after `answer_timeout` seconds of silence, the server is asked whether it does."""
    # After it has waited for a lock, a statement has to see what was committed meanwhile.
    engine = create_engine(url, connect_args=socket_options(url, answer_timeout), isolation_level="READ COMMITTED")
    waits: list[BoundedWait] = []

    def bound(connection: Any, record: Any) -> None:
        waits.append(BoundedWait(record.driver_connection, False, answer_timeout, lambda since: None))

    event.listen(engine, "do_connect", resolve_names)
    event.listen(engine, "connect", bound, insert=True)
    try:
        with engine.begin() as connection:
            waits[-1].begin_session(connection.scalar(text(f"SELECT {BEGAN}")), None)
            yield connection
    finally:
        engine.dispose()


def _is_name(host: str) -> bool:
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _start(host: str) -> Future[list[str]]:
    # A thread of its own may hang for as long as the name servers do. It keeps no process alive.
    future: Future[list[str]] = Future()

    def resolve() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(_addresses(host))
        except OSError:
            future.set_result([])

    threading.Thread(target=resolve, name="actionengine-names", daemon=True).start()
    return future


def _resolve(host: str, seconds: float) -> list[str]:
    try:
        return _start(host).result(seconds)
    except FutureTimeout:
        raise _resolve_timeout(host) from None


async def _resolve_async(host: str, seconds: float) -> list[str]:
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(_start(host))
    except TimeoutError:
        raise _resolve_timeout(host) from None


def _resolve_timeout(host: str) -> ConnectionTimeout:
    return ConnectionTimeout(f"the name {host!r} was not resolved in time")

"""A TCP proxy in front of a server, with the faults of networks: it delays, cuts, swallows and forgets.

Most faults know no protocol. Two read PostgreSQL's messages (without TLS): `swallow_new("after login")`
and `at_commit`. Both ends may be faulty at once; `heal` ends the faults for new connections.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Target = str | tuple[str, int]
"""The path of a unix socket, or a host and a port."""

CommitPoint = Literal["before", "half", "after", "late"]
"""The point at which a fault meets a COMMIT: before the server gets it, with half of its bytes sent, after the server
got it and before its answer, or with a late answer."""

Fault = Literal["cut", "swallow"]
NewConnections = Literal["pass", "refuse", "swallow", "after login"]

_STARTUP_CODES = {80877102, 80877103, 80877104}
"""The codes of requests for cancellation, TLS and GSS encryption: another first message follows them."""


_READY = b"Z\0\0\0\5"
"""The first bytes of the last message of an answer: the server is ready for the next query."""


class FaultyProxy:
    """A listener on its own port, and the pairs of connections that go through it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._new: NewConnections = "pass"
        self._commit_fault: _CommitFault | None = None
        self.delay = 0.0
        """The delay of each piece of data in each direction, in seconds."""
        self.accepted = 0
        """The number of connections so far, including refused ones."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def before_postgres(cls, url: str) -> FaultyProxy:
        """Return a proxy in front of the server that a URL names by its unix socket, or its host and port."""
        parts = urllib.parse.urlsplit(url.replace("+psycopg", "", 1))
        query = urllib.parse.parse_qs(parts.query)
        host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
        port = int(query.get("port", [str(parts.port or 5432)])[0])
        return cls(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port))

    def url(self, url: str) -> str:
        """Return a PostgreSQL URL that goes through this proxy instead."""
        parts = urllib.parse.urlsplit(url)
        user = f"{parts.username}:{parts.password}" if parts.password else parts.username
        return f"{parts.scheme}://{user}@127.0.0.1:{self.port}{parts.path}"

    @property
    def open_count(self) -> int:
        """The open connections, including silent ones."""
        with self._lock:
            return sum(not pair.ended for pair in self._pairs)

    # Faults of open connections

    def cut(self) -> int:
        """Reset the open connections and return their number."""
        return self._do(lambda pair: pair.cut())

    def swallow(self, *, hang_ups_pass: bool = False, but_oldest: int = 0) -> int:
        """Forget all that are open, but for the oldest ones: they stay so, and nothing passes any more, in either
        direction; return how many there were. Where hang-ups pass, the server is told when the client closes."""
        return self._do(lambda pair: pair.swallow(hang_ups_pass), but_oldest)

    # Faults of new connections

    def refuse_new(self) -> None:
        """Reset new connections at once."""
        self._new = "refuse"

    def swallow_new(self, since: Literal["the beginning", "after login"] = "the beginning") -> None:
        """Accept new connections and swallow their data: all of it, or the data after the login."""
        self._new = "swallow" if since == "the beginning" else "after login"

    def at_commit(
        self, point: CommitPoint, fault: Fault = "swallow", *, hang_ups_pass: bool = True, delay: float = 0.0
    ) -> threading.Event:
        """Let this happen to the connection that sends the next COMMIT; return an event that is set once it has. An
        answer that is late comes after `delay` seconds."""
        self._commit_fault = made = _CommitFault(point, fault, hang_ups_pass, delay)
        return made.happened

    def heal(self) -> None:
        """Serve new connections without fault or delay. Silent ones stay silent."""
        self._new, self.delay, self._commit_fault = "pass", 0.0, None

    def close(self) -> None:
        """Stop listening and cut all connections."""
        self._listener.close()
        self.cut()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def swallowing_everything(self) -> Iterator[None]:
        """Forget open connections and swallow new ones within this block."""
        self.swallow_new()
        self.swallow()
        try:
            yield
        finally:
            self.heal()

    # Internals

    def _do(self, fault: Callable[[_Pair], None], but_oldest: int = 0) -> int:
        with self._lock:
            chosen = [pair for pair in self._pairs if not pair.ended][but_oldest:]
        for pair in chosen:
            fault(pair)
        return len(chosen)

    def take_commit_fault(self) -> _CommitFault | None:
        """Return the fault of this COMMIT, and forget it."""
        with self._lock:
            fault, self._commit_fault = self._commit_fault, None
        return fault

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            new = self._new
            if new == "refuse":
                _reset(client)
                continue
            try:
                server = self._dial()
            except OSError:
                _reset(client)
                continue
            pair = _Pair(self, client, server)
            if new == "swallow":
                pair.swallow(hang_ups_pass=True)
            pair.is_swallowed_after_login = new == "after login"
            with self._lock:
                self._pairs = [each for each in self._pairs if not each.ended]
                self._pairs.append(pair)
            pair.start()

    def _dial(self) -> socket.socket:
        if isinstance(self._target, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            return server
        return socket.create_connection(self._target)


class _CommitFault:
    def __init__(self, point: CommitPoint, fault: Fault, hang_ups_pass: bool, delay: float) -> None:
        self.point = point
        self.fault = fault
        self.hang_ups_pass = hang_ups_pass
        self.delay = delay
        self.happened = threading.Event()


class _Pair:
    """A connection of a client, paired with one to the server."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._messages = _Messages()
        self._hang_ups_pass = True
        self._commit: _CommitFault | None = None
        self.is_silent = False
        self.is_swallowed_after_login = False
        self.ended = False

    def start(self) -> None:
        threading.Thread(target=self._pump_up, daemon=True).start()
        threading.Thread(target=self._pump_down, daemon=True).start()

    def swallow(self, hang_ups_pass: bool) -> None:
        self._hang_ups_pass = hang_ups_pass
        self.is_silent = True

    def cut(self) -> None:
        self.ended = True
        _reset(self._client)
        _reset(self._server)

    def _pump_up(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(65536):
                if self._proxy.delay:
                    time.sleep(self._proxy.delay)
                for message in self._messages.split(data):
                    self._forward(message)
        self._hang_up()

    def _pump_down(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(65536):
                if self._proxy.delay:
                    time.sleep(self._proxy.delay)
                if self._may_answer(data):
                    self._client.sendall(data)
        if not self.is_silent:
            self._hang_up()

    def _forward(self, message: _Message) -> None:
        if self.is_swallowed_after_login and message.is_statement:
            self.swallow(hang_ups_pass=True)
        if message.is_commit and not self.is_silent and self._commit is None:
            self._commit = self._proxy.take_commit_fault()
            if self._commit is not None and self._commit.point in {"before", "half"}:
                if self._commit.point == "half":
                    self._server.sendall(message.data[: len(message.data) // 2])
                self._fail(self._commit)
        if not self.is_silent:
            self._server.sendall(message.data)

    def _may_answer(self, data: bytes) -> bool:
        """Return whether this data of the server reaches the client."""
        commit = self._commit
        if self.is_silent or commit is None:
            return not self.is_silent
        if commit.point == "late":
            commit.happened.set()
            time.sleep(commit.delay)
            self._commit = None
            return True
        if data[-6:-1] == _READY:
            self._fail(commit)
        return False

    def _fail(self, commit: _CommitFault) -> None:
        if commit.fault == "cut":
            self.cut()
        else:
            self.swallow(commit.hang_ups_pass)
        commit.happened.set()

    def _hang_up(self) -> None:
        if self.is_silent and not self._hang_ups_pass:
            return
        self.ended = True
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class _Message:
    """A message of PostgreSQL's protocol, or a piece of other data."""

    __slots__ = ("data", "is_commit", "is_statement")

    def __init__(self, data: bytes, is_statement: bool = False, is_commit: bool = False) -> None:
        self.data = data
        self.is_statement = is_statement
        self.is_commit = is_commit


class _Messages:
    """A parser of the messages of a client. Bytes of another protocol pass unchanged."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_startup = True
        self._is_postgres = True
        self._commits: set[bytes] = set()

    def split(self, data: bytes) -> list[_Message]:
        """Return the messages that are complete with this data."""
        if not self._is_postgres:
            return [_Message(data)]
        self._rest += data
        messages = []
        while self._is_postgres and (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> _Message | None:
        head = 4 if self._is_startup else 5
        if len(self._rest) < head:
            return None
        (length,) = struct.unpack("!I", self._rest[head - 4 : head])
        if not 4 <= length < 1 << 30 or (self._is_startup and length > 10_000):
            self._is_postgres = False
            return self._take(len(self._rest))
        whole = length + head - 4
        if len(self._rest) < whole:
            return None
        if not self._is_startup:
            return self._take(whole)
        code = struct.unpack("!I", self._rest[4:8])[0] if length >= 8 else 0
        if code not in _STARTUP_CODES:
            self._is_startup = False
            self._is_postgres = code >> 16 == 3
        data, self._rest = self._rest[:whole], self._rest[whole:]
        return _Message(data)

    def _take(self, size: int) -> _Message:
        data, self._rest = self._rest[:size], self._rest[size:]
        return _Message(data, data[:1] in (b"Q", b"P", b"B"), self._is_commit(data))

    def _is_commit(self, data: bytes) -> bool:
        kind, body = data[:1], data[5:]
        if kind == b"Q":
            return _commits(body)
        if kind == b"P":
            name, _, query = body.partition(b"\0")
            (self._commits.add if _commits(query) else self._commits.discard)(name)
            return False  # What runs it comes after.
        if kind == b"B":
            name = body.partition(b"\0")[2].partition(b"\0")[0]
            return name in self._commits
        return False


def _commits(query: bytes) -> bool:
    return query.lstrip()[:6].upper() == b"COMMIT"


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

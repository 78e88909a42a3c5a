"""The host's side of a supervisor: it starts the supervisor, feeds and reads its command, and orders the end."""

from __future__ import annotations

import contextlib
import marshal
import os
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import IO, Any, cast

from actionengine.boundary.files.safe_open import closing
from actionengine.errors import ErrorCode

SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
_POLL_INTERVAL = 0.05
"""Seconds between two checks for a cancelled or ended command."""
_SUPERVISOR_TIMEOUT = 10.0
"""Seconds that a supervisor has to end its command before it is killed itself."""
_CHUNK = 64 * 1024
_MAX_PIPE_BYTES = 1024 * 1024


class SupervisedProcess:
    """A command under its supervisor, from start to end.

    Args:
        order: the order for the supervisor, without the descriptors.
        passed_on: the descriptors for the supervisor, by name: the `folder` that the command runs in, and the `ruleset`
            that it enters, if any.
        stdin: the input of the command.
        output_bytes: the limit of its output.
        cancelled: ends it once it is set.
        stack: a stack that ends the command and closes all descriptors when it is closed.

    Afterwards `reason` is `timeout`, `conflict` if the command was cancelled, `unprocessable` if it printed too much,
    and None if it exited. `report` is the supervisor's report.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        passed_on: Mapping[str, int],
        stdin: bytes,
        output_bytes: int,
        cancelled: threading.Event | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self.reason: ErrorCode | None = None
        self.printed = {"stdout": bytearray(), "stderr": bytearray()}
        self._report = bytearray()
        self._left = output_bytes
        self._unread = memoryview(stdin)
        self._cancelled = cancelled
        self._pipes: dict[str, IO[bytes]] = {}
        control, self._control = map(stack.enter_context, _pipe())
        self._status, status = map(stack.enter_context, _pipe())
        with tempfile.TemporaryFile() as file, contextlib.ExitStack() as passed:
            given = {"control": control.fileno(), "status": status.fileno(), "order": file.fileno(), **passed_on}
            descriptors = {name: passed.enter_context(closing(_above_standard(each))) for name, each in given.items()}
            file.write(marshal.dumps({**order, **descriptors}))
            file.seek(0)
            # `Popen` of Python 3.11.2 leaks pipes when the process runs out of descriptors.
            ends: dict[str, IO[bytes]] = {}
            for name in ("stdin", "stdout", "stderr") if stdin else ("stdout", "stderr"):
                reading, writing = _pipe()
                ours, theirs = (writing, reading) if name == "stdin" else (reading, writing)
                self._pipes[name] = stack.enter_context(ours)
                ends[name] = passed.enter_context(theirs)
            self._supervisor = subprocess.Popen(
                (sys.executable, "-I", "-S", SUPERVISOR, str(descriptors["order"])),
                stdin=ends.get("stdin", subprocess.DEVNULL),
                stdout=ends["stdout"],
                stderr=ends["stderr"],
                # Some interpreters need this variable to start; the command does not get it.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                pass_fds=tuple(descriptors.values()),
                start_new_session=True,
            )
            stack.callback(self._end)
        control.close()
        status.close()

    def watch(self, deadline: float) -> None:
        """Wait until no process of the command is alive: then the status pipe is at its end."""
        with selectors.DefaultSelector() as selector:
            for name, pipe in {**self._pipes, "status": self._status}.items():
                os.set_blocking(pipe.fileno(), False)
                event = selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ
                selector.register(pipe, event, name)
            # A fork of this process may hold an end of the status pipe: then the pipe does not end.
            while not self._status.closed and self._supervisor.poll() is None:
                now = monotonic()
                if self.reason is not None and now >= deadline:
                    # The supervisor was stopped, for example, and will not end.
                    self._supervisor.kill()
                    return
                if self.reason is None and self._should_end(now >= deadline):
                    self._order_to_end()
                    deadline = now + _SUPERVISOR_TIMEOUT
                    for key in [key for key in selector.get_map().values() if key.data != "status"]:
                        selector.unregister(key.fileobj)
                for key, _ in selector.select(min(max(deadline - now, 0.0), _POLL_INTERVAL)):
                    goes_on = self._write(key.fd) if key.data == "stdin" else self._read(key.fd, key.data, _CHUNK)
                    if not goes_on:
                        selector.unregister(key.fileobj)
                        cast("IO[bytes]", key.fileobj).close()
            # Read the rest of the pipes. A process that still holds one does not belong to the command.
            for key in selector.get_map().values():
                if key.events == selectors.EVENT_READ:
                    self._read(key.fd, key.data, _MAX_PIPE_BYTES)
        if self._left < 0:
            self.reason = self.reason or ErrorCode.UNPROCESSABLE

    @property
    def report(self) -> str:
        """The first line of the supervisor's report; see `supervisor.py`."""
        return self._report.decode("utf-8", "replace").partition("\n")[0]

    def _should_end(self, is_late: bool) -> bool:
        cancelled = self._cancelled
        if self._left < 0:
            self.reason = ErrorCode.UNPROCESSABLE
        elif cancelled is not None and cancelled.is_set():
            self.reason = ErrorCode.CONFLICT
        elif is_late:
            self.reason = ErrorCode.TIMEOUT
        return self.reason is not None

    def _write(self, descriptor: int) -> bool:
        """Write more input for the command. Return False when all is written, or the command does not read on."""
        try:
            self._unread = self._unread[os.write(descriptor, self._unread[:_CHUNK]) :]
        except BrokenPipeError:
            return False
        return bool(self._unread)

    def _read(self, descriptor: int, name: str, most: int) -> bool:
        """Read from a pipe, at most one byte above the limit. Return False at the pipe's end or above the limit."""
        try:
            chunk = os.read(descriptor, most if name == "status" else min(most, self._left + 1))
        except BlockingIOError:
            return True
        if name == "status":
            self._report += chunk
        else:
            self.printed[name] += chunk[: self._left]
            self._left -= len(chunk)
        return bool(chunk) and self._left >= 0

    def _order_to_end(self) -> None:
        """Order the supervisor to end, by a byte, and by closing the pipe. A fork of this process may hold the pipe
        open: then only the byte arrives."""
        if not self._control.closed:
            with contextlib.suppress(BrokenPipeError):
                self._control.write(b"\n")
            self._control.close()

    def _end(self) -> None:
        """End the command if it still runs."""
        self._order_to_end()
        process = self._supervisor
        try:
            process.wait(_SUPERVISOR_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()


def _above_standard(descriptor: int) -> int:
    """Duplicate a descriptor to a number above 2. In a host that has closed its stdin, stdout or stderr, any descriptor
    can have one of those numbers, which the supervisor's own streams replace."""
    # Windows, where this module can be imported too, has no fcntl.
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    """Return the reading and the writing end of a new pipe."""
    reading, writing = os.pipe()
    return open(reading, "rb", buffering=0), open(writing, "wb", buffering=0)

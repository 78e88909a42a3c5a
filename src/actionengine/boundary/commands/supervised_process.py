"""The host's side of a supervisor: starts it, feeds and reads the command behind it, and tells it when to end."""

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
"""Seconds between two looks at whether a command is cancelled or over."""
_SUPERVISOR_TIMEOUT = 10.0
"""Seconds that a supervisor has to end what it watches, before it is killed itself."""
_CHUNK = 64 * 1024
_MAX_PIPE_BYTES = 1024 * 1024


class SupervisedProcess:
    """A command under its supervisor, from start to end.

    Args:
        order: what the supervisor is told, but for the descriptors.
        passed_on: descriptors that the supervisor gets by these names: of the `folder` that the command runs in, and of
            the `ruleset` that it enters, if any.
        stdin: what the command can read.
        output_bytes: what it may print.
        cancelled: ends it once it is set.
        stack: with it, the command is ended and all that was opened is closed.

    Afterwards `reason` tells why it was ended: `timeout`, `conflict` where it was cancelled, `unprocessable` where it
    printed too much; None where it was not. `report` is what the supervisor said.
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
            # Not made by `Popen`: that of Python 3.11.2 loses some where there are not descriptors enough for all.
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
                # Some interpreters need it to start; the command does not get it.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                pass_fds=tuple(descriptors.values()),
                start_new_session=True,
            )
            stack.callback(self._end)
        control.close()
        status.close()

    def watch(self, deadline: float) -> None:
        """Wait until nothing of the command is alive: the status pipe is at its end then."""
        with selectors.DefaultSelector() as selector:
            for name, pipe in {**self._pipes, "status": self._status}.items():
                os.set_blocking(pipe.fileno(), False)
                event = selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ
                selector.register(pipe, event, name)
            # A fork of this process may hold an end of the status pipe, so that it is not at its end.
            while not self._status.closed and self._supervisor.poll() is None:
                now = monotonic()
                if self.reason is not None and now >= deadline:
                    # It was stopped, say. To wait for it once more would be in vain.
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
            # What is still in the pipes; whoever holds one now is not of the command's and is not waited for.
            for key in selector.get_map().values():
                if key.events == selectors.EVENT_READ:
                    self._read(key.fd, key.data, _MAX_PIPE_BYTES)
        if self._left < 0:
            self.reason = self.reason or ErrorCode.UNPROCESSABLE

    @property
    def report(self) -> str:
        """What the supervisor said first; see there."""
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
        """Give the command more to read. False where that was all, or it reads no more."""
        try:
            self._unread = self._unread[os.write(descriptor, self._unread[:_CHUNK]) :]
        except BrokenPipeError:
            return False
        return bool(self._unread)

    def _read(self, descriptor: int, name: str, most: int) -> bool:
        """Take what is in a pipe, and not more than one byte above the limit. False where the pipe is at its end."""
        try:
            chunk = os.read(descriptor, most if name == "status" else min(most, self._left + 1))
        except BlockingIOError:
            return True
        if name == "status":
            self._report += chunk
        else:
            self.printed[name] += chunk[: self._left]
            self._left -= len(chunk)
        # Once there is too much, it is no longer read.
        return bool(chunk) and self._left >= 0

    def _order_to_end(self) -> None:
        """A byte, or our end closed: where a fork of this process holds that end too, only the byte tells."""
        if not self._control.closed:
            with contextlib.suppress(BrokenPipeError):
                self._control.write(b"\n")
            self._control.close()

    def _end(self) -> None:
        """End the command, if it is not over."""
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
    """The two ends of a new pipe."""
    reading, writing = os.pipe()
    return open(reading, "rb", buffering=0), open(writing, "wb", buffering=0)

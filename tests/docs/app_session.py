"""The commands of a page about an app, run as its reader runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psycopg
from examples.embedded_postgres import make_role
from sqlalchemy import make_url

PORT = 8000
"""The port on the page. The app listens on a free one."""
SERVER = "make run"
_PATIENCE = 600.0
"""Seconds: a command may install packages."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DATABASE = re.compile(r"postgresql://(\w+):\w+@localhost/\w+")


class AppSession:
    """A terminal: a folder, exported variables, and one server in a second terminal.

    `postgres` is the URL of a superuser of an empty database; the roles of the page's URLs connect to it. `bin` has the
    commands of a fresh virtual environment; by default they are those of this process, and everything is installed.
    """

    def __init__(self, folder: Path, postgres: str | None = None, bin: Path | None = None) -> None:
        self.folder = folder
        self._postgres = postgres
        self._installs = bin is not None
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = server.getsockname()[1]
        path = f"{bin or Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PORT": str(self._port), "PYTHONUNBUFFERED": "1"}
        self._server: subprocess.Popen[str] | None = None
        self._last_id = ""

    def run(self, code: str) -> str:
        """Run the commands of a block and return what they print.

        `make run` starts the server, in place of the last one, and prints what that prints until it serves. `ID` stands
        for the last UUID that was printed.
        """
        code = re.sub(r"\bID\b", self._last_id, code)
        code = code.replace(f"localhost:{PORT}", f"localhost:{self._port}")
        if self._postgres is not None:
            url = make_url(self._postgres)
            code = _DATABASE.sub(lambda at: url.set(username=at[1]).render_as_string(hide_password=False), code)
        printed = ""
        for command in re.split(r"(?<!\\)\n", code.strip()):
            if command.startswith("cd "):
                self.folder = self.folder / command.removeprefix("cd ")
            elif command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                self._environment[name] = value
            elif command.endswith(SERVER):
                printed += self._serve(command)
            else:
                printed += self._execute(command)
        self._last_id = (_UUID.findall(printed) or [self._last_id])[-1]
        return printed.replace(f"localhost:{self._port}", f"localhost:{PORT}")

    def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGTERM)
            self._server.wait(_PATIENCE)
            self._server = None

    def _execute(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        if not self._installs:
            for makefile in self.folder.glob("*/Makefile"):
                # `make` then installs nothing.
                makefile.with_name(".installed").touch()
        return done.stdout

    def _serve(self, command: str) -> str:
        self.close()
        log = self.folder / "server.log"
        with log.open("w") as output:
            self._server = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._is_listening():
            assert self._server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return log.read_text()

    def _is_listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
        except OSError:
            return False
        return True


def matches(printed: str, expected: str) -> bool:
    """Return whether an output is the one on the page, where `…` stands for any text."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def empty_database(superuser_url: str, owner: str) -> str:
    """Make an empty database with an owner and the role `app`, and return its URL for the superuser."""
    name = f"app_{uuid4().hex}"
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role in (owner, "app"):
            make_role(connection, role)
        connection.execute(f'CREATE DATABASE "{name}" OWNER "{owner}"')
    return make_url(superuser_url).set(database=name, drivername="postgresql").render_as_string(hide_password=False)

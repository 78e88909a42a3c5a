"""A copy of the project to break, and the judge: the tests of a part, run on that copy in a process of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutation.parts import ROOT, Part

OPTIONS = ["-x", "-q", "-m", "not soak", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.mutation.selection"]
"""The command that runs the tests of a part."""

_LONGEST = 120
"""Seconds after which a mutant counts as noticed: the tests hang."""

_IMPORTED = ("alembic.command", "hypothesis", "psycopg", "pydantic", "pytest", "sqlalchemy.ext.asyncio")

_SETTINGS = """
[tool.pytest.ini_options]
markers = ["soak: the long campaigns, of which the plain run has a shorter version"]
filterwarnings = ["error"]
"""

_SERVER = """
import sys
import psycopg
from examples.embedded_postgres import embedded_postgres
with embedded_postgres() as url:
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    print(url, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def workbench() -> Iterator[Path]:
    """A copy of what the tests need."""
    with TemporaryDirectory(prefix="ae-mutation-") as folder:
        root = Path(folder)
        for name in ("src", "tests", "examples", "docs"):
            shutil.copytree(ROOT / name, root / name)
        (root / "pyproject.toml").write_text(_SETTINGS)
        yield root


@contextlib.contextmanager
def postgres(root: Path) -> Iterator[None]:
    """A server that the tests of all mutants share."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        os.environ["ACTIONENGINE_TEST_POSTGRES"] = server.stdout.readline().strip()
        try:
            yield
        finally:
            del os.environ["ACTIONENGINE_TEST_POSTGRES"]
            server.stdin.close()


class Judge:
    """Runs the tests of a part against a file that is broken. Each run is a fork, which imports the library anew; what
    it needs of others is imported here, once."""

    def __init__(self, root: Path, part: Part, *, is_sound: bool = False) -> None:
        for name in _IMPORTED:
            import_module(name)

        assert "actionengine" not in sys.modules, "the library is imported by the tests alone"
        self._root = root
        self._part = part
        self._file = root / part.source
        self._whole = self._file.read_text()
        self._writes = 0
        if not is_sound and not self.passes(self._whole):
            raise SystemExit(f"{part.name}: its tests fail before anything is broken")

    def passes(self, text: str) -> bool:
        """Return whether the tests pass with this text in the file of the part."""
        self._write(text)
        try:
            return self._run() == 0
        finally:
            self._write(self._whole)

    def _write(self, text: str) -> None:
        self._file.write_text(text)
        # Compiled modules are told apart by the time of their source in seconds, and by its size.
        self._writes += 1
        os.utime(self._file, (1_000_000_000 + self._writes,) * 2)

    def _run(self) -> int:
        child = os.fork()
        if child == 0:
            self._test()
        until = time.monotonic() + _LONGEST
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        else:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        return status

    def _test(self) -> None:
        import pytest

        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        if "MUTATION_SHOWS" not in os.environ:
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
        os.chdir(self._root)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "examples")]:
            del sys.modules[name]
        sys.path[:] = [str(self._root / "src"), str(self._root), *sys.path[1:]]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
        os.environ["MUTATION_SUITES"] = " ".join(self._part.suites)
        without = ["-k", f"not ({self._part.without})"] if self._part.without else []
        status = 1
        try:
            imported = ("-W", "ignore:Module already imported")
            status = int(pytest.main([*OPTIONS, *imported, *without, *self._part.tests]))
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

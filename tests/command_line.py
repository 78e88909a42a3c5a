"""The command line as an operator uses it, in the process of the tests or in one of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner

from actionengine.cli.commands import app

Run = Callable[..., "CompletedProcess[str]"]

_TERMINAL = {"NO_COLOR": "1", "COLUMNS": "200"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: a new interpreter costs more than most commands."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environment: str) -> CompletedProcess[str]:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        log = logging.getLogger("dbos")
        log_handlers = list(log.handlers)
        try:
            result = CliRunner().invoke(app, arguments, env={**_TERMINAL, **environment})
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            # The durable engine keeps a handler for the stream of this command, which is closed now.
            log.handlers[:] = log_handlers
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def run_process(tmp_path: Path) -> Run:
    """Run a command in a process of its own."""

    def run_process(*arguments: str, **environment: str) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from actionengine.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **_TERMINAL, **environment},
            timeout=180,
            check=False,
        )

    return run_process

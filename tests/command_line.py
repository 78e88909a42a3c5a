"""The command line as an operator uses it, in the process of the tests or in its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

from typer import testing
from typer.testing import CliRunner

from actionengine.cli.commands import app

Run = Callable[..., "CompletedProcess[str]"]

# The runner would build all commands for each one that it runs, which takes longer than most of them.
testing._get_command = cache(testing._get_command)  # type: ignore[attr-defined]

_TERMINAL = {"NO_COLOR": "1", "COLUMNS": "200"}


def run_command(*arguments: str, **environment: str) -> CompletedProcess[str]:
    """Run a command in this process: a new interpreter costs more than most commands."""
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


def run_command_process(folder: Path, *arguments: str, **environment: str) -> CompletedProcess[str]:
    """Run a command in its own process, in a folder."""
    return subprocess.run(
        [sys.executable, "-c", "from actionengine.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **_TERMINAL, **environment},
        timeout=180,
        check=False,
    )

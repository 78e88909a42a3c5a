"""Commands in processes of their own: exit codes, pipes and encodings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.desk import Desk

COMMAND = [sys.executable, "-c", "from actionengine.cli import main; main()"]


def start(desk: Desk, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a command in its own process."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(desk.url.removeprefix("sqlite:///")).parent,
        env={**os.environ, "ACTIONENGINE_URL": desk.url, "ACTIONENGINE_ACTOR": "human:olga", **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code and the output of a process."""
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def test_a_crash_is_one_line_of_json(desk: Desk) -> None:
    Path("host_module.py").write_text(
        "import logging\n"
        "from actionengine import SQLiteStorage\n"
        "from tests.cli.desk import make_host\n"
        "logging.getLogger('host').error('started', stack_info=True)\n"
        f"def engine():\n    return make_host(SQLiteStorage({desk.url!r}))\n"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "ACTIONENGINE_URL": ""}

    code, out, error = finish(
        start(desk, "approvals", "show", "nothing", "--engine", "host_module:engine", "--json", **path)
    )

    assert (code, out) == (3, "")
    assert json.loads(error)["error"]["code"] == "not_found"


def test_exit_codes_and_output_of_each_group(desk: Desk) -> None:
    id = desk.ask_for_refund(reason="東京 \x1b[2J")
    Path("host_module.py").write_text(
        "from actionengine import SQLiteStorage\n"
        "from tests.cli.desk import make_host\n"
        f"def engine():\n    return make_host(SQLiteStorage({desk.url!r}), is_async=True)\n"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    commands: dict[tuple[str, ...], int] = {
        ("approvals", "list"): 0,
        ("approvals", "list", "--help"): 0,
        ("log", "search", "--tenant", "nobody"): 3,
        ("runs", "list", "--role", "auditor", "--json"): 4,
        ("relay", "redrive"): 1,
        ("approvals", "approve", id, "--tenant", "acme", "--permission", "*", "--engine", "host_module:engine"): 0,
    }
    ascii = {"PYTHONIOENCODING": "ascii"}
    encoding: dict[tuple[str, ...], dict[str, str]] = {
        ("approvals", "list"): ascii,
        ("approvals", "list", "--help"): ascii,
    }
    running = {
        command: start(desk, *command, **encoding.get(command, {}), **path)
        for command in commands
        if "approve" not in command
    }
    ended = {command: finish(process) for command, process in running.items()}
    last = next(command for command in commands if "approve" in command)
    ended[last] = finish(start(desk, *last, **{**path, "ACTIONENGINE_URL": ""}))

    assert {command: code for command, (code, _, _) in ended.items()} == commands, ended
    assert "reason: \\u6771\\u4eac \\x1b[2J" in ended["approvals", "list"][1]
    assert "approved payments.refund" in ended[last][1]
    errors = ended["runs", "list", "--role", "auditor", "--json"][2].splitlines()
    assert [json.loads(line)["error"]["code"] for line in errors] == ["forbidden"] * 2
    assert not any("Traceback" in error for _, _, error in ended.values())


def test_a_reader_that_goes_away_ends_the_command(desk: Desk) -> None:
    for number in range(40):
        desk.execute("payments.book", {"job": f"J-{number}"}, reason="x" * 9000)
    process = start(desk, "log", "search", "--limit", "1000")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    process.wait(timeout=120)
    process.stderr.close()

    assert error == ""
    assert process.returncode in (0, 1)

"""The help of each command, and completion."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.completion
import typer.main

from actionengine import __version__
from actionengine.cli.commands import app
from tests.cli.desk import Desk
from tests.command_line import run_command

ROOT: Any = typer.main.get_command(app)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command with its path."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(leaves(ROOT))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_shows_an_example_that_parses(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONENGINE_URL", "sqlite:///app.db")
    monkeypatch.setenv("ACTIONENGINE_DURABLE_URL", "sqlite:///durable.db")
    done = run_command(*path, "--help", COLUMNS="80")

    assert done.returncode == 0
    assert "Example" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    examples = [line for line in COMMANDS[path].epilog.split("\n\n") if line.startswith("actionengine ")]
    assert examples
    for each in examples:
        _, *arguments = shlex.split(each)
        assert tuple(arguments[: len(path)]) == path
        assert len(each) <= 78
        COMMANDS[path].make_context(" ".join(path), arguments[len(path) :])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_is_shown(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command asks which shell has started it: here it is that of the tests.
    monkeypatch.setattr(typer.completion, "_get_shell_name", lambda: shell)
    done = run_command("--show-completion")

    assert done.returncode == 0
    assert "complete" in done.stdout.lower()


def test_a_shell_completes_commands_and_tenants(desk: Desk) -> None:
    def complete(line: str, url: str = desk.url) -> list[str]:
        words = line.split(" ")
        environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "ACTIONENGINE_URL": url}
        done = run_command(_ROOT_COMPLETE="complete_bash", **environment)
        assert done.stderr == ""
        return done.stdout.split()

    assert {"list", "show", "approve", "reject"} <= set(complete("root approvals "))
    assert complete("root approvals list --tenant ") == ["acme", "globex"]
    assert complete("root approvals list --tenant glo") == ["globex"]
    assert complete("root approvals list --tenant globexx") == []
    assert complete("root log search --tenant a", "sqlite:///nothing.db") == []
    assert complete("root log search --tenant a", "postgresql://nobody@127.0.0.1:1/nothing") == []


def test_each_command_that_answers_can_answer_in_json() -> None:
    without = {
        " ".join(path)
        for path, command in COMMANDS.items()
        if not any("--json" in parameter.opts for parameter in command.params)
    }

    # These run until they are stopped, print lines of JSON anyway, or write files.
    assert without == {"relay run", "runner work", "events", "new", "workflows upgrade"}


def test_the_version_is_printed() -> None:
    done = run_command("--version")

    assert (done.returncode, done.stdout) == (0, f"actionengine {__version__}\n")

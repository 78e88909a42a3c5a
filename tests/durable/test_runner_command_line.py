"""`actionengine runner work` and `actionengine workflows upgrade`, as an operator runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from returns.result import Success

from actionengine import Tenant
from actionengine.boundary.capabilities import CODE_MODULE_DEFAULT
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.remote.queue_runner import QueueRunner
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.durable.client import DurableClient
from tests.command_line import Run
from tests.durable.databases import Durable, empty_database, eventually, sqlite

ACME = Tenant(UUID(int=1), "acme")
COMMAND = [sys.executable, "-c", "from actionengine.cli import main; main()", "runner", "work"]


@pytest.fixture
def module(tmp_path: Path) -> ModuleContext:
    return ModuleRoots(tmp_path / "modules").create(ACME, "site")


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []
    yield children
    for child in children:
        child.kill()
        child.communicate()


def work(url: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start a worker, and wait until it takes requests."""
    child = subprocess.Popen(
        [*COMMAND, "--url", url, "--modules", str(folder / "modules"), "--profile", "CODE_MODULE_DEFAULT", *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert child.stderr is not None
    line = child.stderr.readline()
    assert "takes requests from actionengine.modules" in line, line + child.stderr.read()
    return child


def asked(module: ModuleContext, action: str, **input: Any) -> ExecutionRequest:
    capabilities = ("fs:read", "fs:write", "cmd:run")
    return ExecutionRequest(tenant=ACME, module=module, action=action, input=input, capabilities=capabilities)


def test_a_worker_runs_until_it_is_told_to_stop(
    tmp_path: Path, module: ModuleContext, children: list[subprocess.Popen[str]]
) -> None:
    """Its module actions can be in the working directory."""
    (tmp_path / "our_actions.py").write_text(
        "from actionengine.boundary.module_actions import MODULE_ACTIONS\n"
        "from dataclasses import replace\n"
        "ACTIONS = (*MODULE_ACTIONS, replace(MODULE_ACTIONS[0], name='look', handler=lambda data, work: 'looked'))\n"
    )
    url = f"sqlite:///{tmp_path / 'durable.db'}"
    worker = work(url, tmp_path, "--actions", "our_actions:ACTIONS")
    children.append(worker)

    actions = (*MODULE_ACTIONS, replace(MODULE_ACTIONS[0], name="look"))
    with QueueRunner(url, CODE_MODULE_DEFAULT, actions) as runner:
        answer = runner.execute(asked(module, "look", path="a"))
    worker.send_signal(signal.SIGTERM)
    _, errors = worker.communicate(timeout=90)

    assert answer.unwrap().output == "looked"
    assert (worker.returncode, errors) == (0, "")


def test_a_signal_finishes_work_and_a_second_one_ends_at_once(
    tmp_path: Path, module: ModuleContext, children: list[subprocess.Popen[str]]
) -> None:
    durable = sqlite(tmp_path)
    first = work(durable.url, tmp_path, "--runner", "in-process", "--lease", "1", "--grace", "60", "--no-set-up")
    children.append(first)
    script = "echo x >> begun; test $(wc -l < begun) = 2 || sleep 60; echo done"
    answers: list[Any] = []
    with QueueRunner(durable.url, CODE_MODULE_DEFAULT) as runner:
        request = asked(module, "run", argv=["sh", "-c", script])
        asking = threading.Thread(target=lambda: answers.append(runner.execute(request)))
        asking.start()
        eventually((module.root / "begun").exists)

        first.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(1)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=90)
        durable.start("worker", modules=str(tmp_path / "modules"), queue="actionengine.modules")
        asking.join()
    durable.end()

    assert (first.returncode, errors) == (1, "")
    assert answers[0].unwrap().output["stdout"] == "done\n"


def test_a_restricted_role_works_on_the_owners_tables(
    run: Run, run_process: Run, postgres_server: str, tmp_path: Path, module: ModuleContext
) -> None:
    database = empty_database(postgres_server)
    options = ("--modules", str(tmp_path), "--profile", "READ_ONLY", "--url", database.app_url)
    refused = run("runner", "work", "--no-set-up", *options)
    not_allowed = run_process("runner", "work", *options)

    done = run("workflows", "upgrade", "--url", database.owner_url, "--app-role", "app")
    again = run("workflows", "upgrade", "--url", database.owner_url)
    durable = Durable(database.app_url)
    durable.start("worker", modules=str(tmp_path / "modules"), queue="actionengine.modules", set_up=True)
    with QueueRunner(database.app_url, CODE_MODULE_DEFAULT) as runner:
        answer = runner.execute(asked(module, "list"))
    durable.end()

    assert (refused.returncode, not_allowed.returncode) == (1, 1)
    assert "actionengine workflows upgrade" in refused.stderr
    assert "cannot be created" in not_allowed.stderr
    assert "actionengine workflows upgrade" in not_allowed.stderr
    assert len(refused.stderr.splitlines()) == len(not_allowed.stderr.splitlines()) == 1
    assert done.stdout == "the durable engine's tables are up to date\nthe role app has its grants\n"
    assert (again.returncode, again.stderr) == (0, "")
    assert isinstance(answer, Success), answer


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--url", "mysql://host/database"), "PostgreSQL or SQLite, not on mysql"),
        (("--profile", "EVERYTHING"), "no profile 'EVERYTHING'"),
        (("--modules", "no/such/folder"), "'no/such/folder' is not a folder"),
        (("--actions", "no.such:ACTIONS"), "no.such:ACTIONS"),
        (("--runner", "carrier-pigeon"), "no runner 'carrier-pigeon'"),
    ],
    ids=["kind of url", "profile", "folder", "actions", "runner"],
)
def test_what_cannot_be_done_is_told_in_a_line(run: Run, tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    options = {"--url": "sqlite:///durable.db", "--profile": "READ_ONLY", "--modules": ".", wrong[0]: wrong[1]}

    assert_refused(run("runner", "work", *(part for option in options.items() for part in option)), message)


def test_server_that_is_not_there_is_told_in_a_line(run_process: Run) -> None:
    # The durable engine keeps the stream of errors of its first use.
    options = ("--url", "postgresql://nobody@127.0.0.1:1/nothing", "--profile", "READ_ONLY", "--modules", ".")

    assert_refused(run_process("runner", "work", *options), "cannot be")


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_a_missing_extra_is_named(run_process: Run, tmp_path: Path) -> None:
    (tmp_path / "dbos.py").write_text("raise ModuleNotFoundError('away', name='dbos')\n")

    done = run_process("workflows", "upgrade", "--url", "sqlite:///durable.db", PYTHONPATH=str(tmp_path))

    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'actionengine[workflows]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_tables_are_made_in_a_file_that_was_not_there(run: Run, tmp_path: Path) -> None:
    done = run("workflows", "upgrade", ACTIONENGINE_DURABLE_URL="sqlite:///durable.db")

    assert (done.returncode, done.stderr) == (0, "")
    client = DurableClient(tmp_path / "durable.db")
    assert client.find("anything") == {}
    client.close()
    refused = run("workflows", "upgrade", "--url", "sqlite:///durable.db", "--app-role", "app")
    assert (refused.returncode, refused.stderr) == (1, "SQLite has no roles: leave out app_role='app'\n")

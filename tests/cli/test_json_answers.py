"""Commands for the owner of a database answer in JSON too."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from examples.embedded_postgres import Database

from actionengine import Projection
from actionengine.storage.sql.migrations import HEAD
from tests.cli.desk import Desk
from tests.command_line import Run


def test_commands_of_the_owner_print_one_document(run: Run, fresh_postgres_database: Database) -> None:
    owner, app = fresh_postgres_database.owner_url, fresh_postgres_database.app_url

    def document(*command: str, url: str = owner) -> Any:
        done = run(*command, "--url", url, "--json")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)

    assert document("db", "upgrade", "--app-role", "app") == {"version": HEAD, "roles": ["app"]}
    assert document("db", "current") == {"version": HEAD, "newest": HEAD}
    assert document("db", "check", url=app) == {"version": HEAD}
    created = document("tenant", "create", "acme", "--name", "Acme", url=app)
    assert document("tenant", "list", url=app) == {"items": [created], "next": None}
    assert document("tenant", "delete", "acme", url=app) == {"slug": "acme"}
    assert document("keys", "purge", url=app) == {"purged": 0}
    key = document("db", "sign")
    assert set(key) == {"id", "key"}
    assert document("db", "sign", "--signing-key", "another key, of enough bytes")["key"] is None
    assert document("db", "unsign", "--signing-key", key["key"]) == {"removed": True}


def test_a_failure_is_json_on_stderr(run: Run) -> None:
    done = run("tenant", "list", "--url", "sqlite:///nothing.db", "--json")

    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "failed"
    assert "there is no file" in error["message"]


@pytest.mark.parametrize(
    "command",
    [
        "db partition make",
        "db partition drop 2026-13",
        "retention run --older-than tomorrow",
        "retention run --older-than 0001-01-01T00:00:00+14:00",
        "retention run --older-than 1d --of nothing",
        "log search --since 0001-01-01T00:00:00+14:00",
    ],
)
def test_a_mistake_in_a_value_is_json_too(desk: Desk, command: str) -> None:
    done = desk.run(*command.split(), "--json")

    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["code"] == "usage"


def test_a_script_is_a_json_document_too(run: Run) -> None:
    printed = [run("db", "upgrade", "--sql", "--url", "sqlite:///any.db", *form) for form in ((), ("--json",))]

    assert json.loads(printed[1].stdout) == {"sql": printed[0].stdout.removesuffix("\n")}


def test_a_server_that_is_away_is_told_in_json(run: Run) -> None:
    for command in ("db partition list", "retention history", "tenant list", "db current"):
        done = run(*command.split(), "--url", "postgresql://nobody@127.0.0.1:1/nothing", "--json")

        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "Connection refused" in json.loads(done.stderr)["error"]["message"]


def test_a_projection_answers_in_json(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Projection(desk.engine, name="board", apply=lambda event, view: view.records().insert({}, event.id))
    monkeypatch.setitem(sys.modules, "boards", SimpleNamespace(board=board))
    desk.execute("payments.book", {"job": "J-1"}).unwrap()

    assert json.loads(desk.run("projection", "rebuild", "boards:board", "--tenant", "acme", "--json").stdout) == {
        "applied": 1
    }
    status = json.loads(desk.run("projection", "status", "boards:board", "--tenant", "acme", "--json").stdout)
    assert (status["generation"], status["lag"], status["rebuilding"]) == (2, 0, None)

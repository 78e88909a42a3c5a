"""`actionengine runs ...`, as an operator uses it."""

from __future__ import annotations

from typing import Any

from actionengine.concurrency.run_sync import run_sync
from actionengine.context import Tenant
from actionengine.storage.records import RUNS
from tests.cli.desk import Desk, golden, ids_of

STEP = {"name": "note", "type": "notification", "to": ["human:ada"], "message": "hello"}


def start(desk: Desk, tenant: Tenant | None = None) -> str:
    """Start a run; no worker advances it."""
    key = "greet"
    desk.execute("workflows.define", {"key": key, "definition": {"steps": [STEP]}}, tenant=tenant).unwrap()
    desk.execute("workflows.activate", {"key": key}, tenant=tenant).unwrap()
    return str(desk.execute("workflows.start", {"key": key}, tenant=tenant).unwrap().id)


def pause(desk: Desk, id: str, message: str) -> None:
    """Pause a run for a failure, as a worker does."""

    async def write() -> None:
        unit_of_work = desk.storage.unit_of_work(desk.acme, "test", "sync")
        records = unit_of_work.records(RUNS)
        record = await records.get(id)
        assert record is not None
        error: dict[str, Any] = {"code": "conflict", "message": message, "details": {}}
        changed = {"status": "paused", "paused_for": "failure", "error": error}
        await records.update(id, {**record.data, **changed}, record.version)
        await unit_of_work.commit()

    run_sync(write())


def test_runs_of_all_tenants_are_listed_newest_first(each_desk: Desk) -> None:
    desk = each_desk
    first = start(desk)
    second = start(desk, desk.globex)

    assert ids_of(desk.json("runs", "list")) == [second, first]
    assert ids_of(desk.json("runs", "list", "--tenant", "globex")) == [second]
    assert ids_of(desk.json("runs", "list", "--status", "failed")) == []
    assert ids_of(desk.json("runs", "list", "--limit", "1")) == [second]
    assert ids_of(desk.json("runs", "list", "--after", second)) == [first]


def test_a_paused_run_is_shown_and_resumed(desk: Desk) -> None:
    id = start(desk)
    pause(desk, id, "the door\n\x1b[31mis red\u202e")

    shown = desk.run("runs", "show", id).stdout
    assert golden(shown) == (
        "2026-01-31T12:00:00Z  greet v1  paused  acme\n"
        "  id 00000000-0000-0000-0000-000000000000\n"
        "  started by human:ada, 1 s ago\n"
        "  at step note after 0 steps, paused for failure, 1 s ago\n"
        "  error: conflict: the door\\n\\x1b[31mis red\\u202e\n"
        "  input: {}\n"
    )
    done = desk.run("runs", "resume", id, "--tenant", "acme", "--reason", "the door is mended")
    assert (done.returncode, done.stdout) == (0, f"resumed {id}, which is running, as human:olga\n")
    again = desk.run("runs", "resume", id, "--tenant", "acme")
    assert (again.returncode, again.stdout) == (5, "")
    (entry, refused) = desk.log(action="workflows.resume")
    assert (entry.actor_id, entry.reason, entry.outcome) == ("olga", "the door is mended", "succeeded")
    assert refused.outcome == "failed"


def test_a_run_is_cancelled_with_a_reason(desk: Desk) -> None:
    id = start(desk)

    cancelled = desk.json("runs", "cancel", id, "--tenant", "acme", "--reason", "sent twice")

    assert (cancelled["tenant"], cancelled["status"]) == ("acme", "cancelled")
    assert cancelled["error"]["message"] == "cancelled by human:olga: sent twice"
    assert "cancelled by human:olga: sent twice" in desk.run("runs", "show", id).stdout
    assert desk.run("runs", "cancel", id, "--tenant", "globex").returncode == 3
    assert desk.run("runs", "cancel", id).returncode == 2
    assert desk.run("runs", "resume", id, "--tenant", "acme", "--role", "auditor").returncode == 4


def test_an_engine_without_workflows_is_named(desk: Desk, monkeypatch: Any) -> None:
    from actionengine import create_engine

    desk.serve(create_engine(services=[], storage=desk.storage))
    done = desk.run("runs", "list", "--engine", "cli_host:engine", ACTIONENGINE_URL="")

    assert (done.returncode, done.stdout) == (1, "")
    assert "the engine has no action workflows.list" in done.stderr

"""The runtime on a real durable engine: its options, its stop, its relay, and the loss of the engine's tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from actionengine import ConfigurationError, Engine, InMemoryStorage, Relay, Tenant, create_engine
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.errors import StorageError
from actionengine.storage.outbox import QUEUES
from actionengine.workflows import WorkflowRuntime, workflow_services
from tests.workflows.office import Office

STEPS: dict[str, list[dict[str, Any]]] = {
    "held": [{"name": name, "type": "action", "action": "host.hold"} for name in ("first", "second")],
    "free": [{"name": "note", "type": "action", "action": "host.add", "input": {"text": "free"}}],
    "asked": [
        {"name": "ok", "type": "approval", "permission": "host.approve", "message": "May it?"},
        {"name": "note", "type": "action", "action": "host.add", "input": {"text": "asked"}},
    ],
    "brief": [
        {
            "name": "ok",
            "type": "approval",
            "permission": "host.approve",
            "message": "May it?",
            "expires_after": 1,
            "on_reject": "late",
        },
        {"name": "late", "type": "notification", "to": "ops", "message": "Nobody has said"},
    ],
}


@pytest.fixture
def office(office: Office) -> Office:
    for key, steps in STEPS.items():
        office.define(key, *steps)
    return office


def test_restore_fills_a_lost_durable_engine(office: Office) -> None:
    with office.runtime(relay_to=[]):
        waiting = office.start("asked")
        office.wait_for(waiting, "paused")
    forgotten = office.start("free")
    # The events were delivered, and lost with the tables of the durable engine.
    for queue in QUEUES:
        outbox = office.storage.outbox("sync", queue)
        run_sync(outbox.settle(run_sync(outbox.take(1000, 10.0)), ()))
        run_sync(outbox.close())

    with office.runtime("another.sqlite", relay_to=[]) as runtime:
        assert runtime.restore() == 1
        office.wait_for(forgotten, "succeeded")
        (approval,) = office.do("approvals.list", status="pending").items
        office.do("approvals.approve", by="boss", approval_id=approval.id)
        office.wait_for(waiting, "succeeded")
        assert runtime.restore([office.tenant]) == 0


def test_timers_that_come_early_come_again(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionengine.workflows.runtime.scheduler._AFTER_EXPIRY", -0.7)
    with office.runtime(relay_to=[]):
        run = office.wait_for(office.start("brief"), "succeeded")
    assert [(step.step, step.status) for step in run.steps] == [("ok", "rejected"), ("late", "succeeded")]
    assert run.steps[0].ended_at - run.created_at >= timedelta(seconds=1)


def test_a_run_survives_a_roles_function_that_raises(office: Office) -> None:
    told = threading.Event()

    def roles(tenant: Tenant, key: str) -> list[str]:
        if not told.is_set():
            raise LookupError("the directory is away")
        return ["clerk"]

    with office.runtime(roles=roles, relay_to=[]):
        run = office.start("free")
        time.sleep(0.5)
        assert office.do("workflows.get", run_id=run).status == "running"
        told.set()
        office.wait_for(run, "succeeded")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: WorkflowRuntime(create_engine(services=[]), folder / "x"), "workflow_services"),
        (lambda folder: WorkflowRuntime(_engine(), "mysql://host/db"), "PostgreSQL or SQLite"),
        (lambda folder: WorkflowRuntime(_engine(), "sqlite://"), "SQLite file"),
        (lambda folder: WorkflowRuntime(_engine(), folder / "x", roles=["clerk"]), "is not a function"),  # type: ignore[arg-type]
        (lambda folder: WorkflowRuntime(_engine(), folder / "x", concurrency=0), "concurrency=0.*has to be at least 1"),
        (lambda folder: WorkflowRuntime(_engine(), folder / "x", lease=0), "lease"),
    ],
    ids=["no services", "another database", "in memory", "roles that are none", "no runs at once", "no lease"],
)
def test_a_runtime_with_wrong_options_is_refused(
    make: Callable[[Path], WorkflowRuntime], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make(tmp_path)


def test_a_second_runtime_in_a_process_is_refused(office: Office) -> None:
    with office.runtime(relay_to=[]):
        with pytest.raises(ConfigurationError, match="already"):
            office.runtime("second.sqlite", relay_to=[]).start()
        office.wait_for(office.start("free"), "succeeded")


def test_a_runtime_that_cannot_relay_says_so_and_takes_steps(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(relay: Relay) -> None:
        raise StorageError("permission denied for function ae_outbox_take")

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "run", refused)
        with office.runtime(relay_to=[]) as runtime:
            run = office.start("free")
            Relay(office.storage, runtime.publisher).drain()
            office.wait_for(run, "succeeded")

    assert "relays no events, so it starts no run: permission denied" in caplog.text


def test_stopping_ends_a_run_after_its_current_step(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_relay = Relay.stop

    def end_late(relay: Relay) -> None:
        office.released.set()
        office.wait_for(run, "running", position=1)
        time.sleep(0.3)
        stop_relay(relay)

    monkeypatch.setattr(Relay, "stop", end_late)
    with office.runtime(relay_to=[]):
        run = office.start("held")
        assert office.held.wait(30)

    stopped = office.do("workflows.get", run_id=run)
    assert (stopped.status, stopped.position) == ("running", 1)


def _engine() -> Engine:
    return create_engine(services=workflow_services(open=True), storage=InMemoryStorage())

"""`actionengine relay ...`, as an operator runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from examples.embedded_postgres import Database
from returns.result import Success

from actionengine import (
    Actor,
    CallbackPublisher,
    Engine,
    Event,
    PostgresStorage,
    Projection,
    PublishError,
    Relay,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from tests.command_line import Run


class Host:
    """A host with a database at `url`."""

    def __init__(self, storage: PostgresStorage | SQLiteStorage, url: str, owner_url: str) -> None:
        self.storage = storage
        self.url = url
        self.owner_url = owner_url
        action = create_action(name="tell", description="", handler=lambda data: Success(None))
        service = create_service(name="desk", description="", actions=[action])
        self.engine: Engine = create_engine(services=[service], storage=storage)
        self.tenant: Tenant = storage.create_tenant(slug="acme", name="Acme")

    def tell(self, **data: Any) -> None:
        context = RequestContext(tenant=self.tenant, actor=Actor.human("ann"))
        assert isinstance(self.engine.execute_action("desk", "tell", data, context), Success)

    def bury(self) -> str:
        """Turn the pending event into a dead letter; return its id."""

        def refuse(event: Event) -> None:
            raise PublishError("nobody wants this", retry=False)

        relay = Relay(self.storage, CallbackPublisher(refuse))
        relay.drain()
        (letter,) = relay.dead_letters()
        return letter.event.id


on_sqlite = pytest.mark.parametrize("host", ["sqlite", pytest.param("postgres", marks=pytest.mark.soak)], indirect=True)


@pytest.fixture(params=["sqlite", "postgres"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    storage: PostgresStorage | SQLiteStorage
    if request.param == "sqlite":
        url = owner_url = f"sqlite:///{tmp_path / 'host.db'}"
        storage = SQLiteStorage(url)
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        owner_url, url = database
        storage = PostgresStorage(url)
    with storage:
        yield Host(storage, url, owner_url)


def test_what_is_due_is_delivered_as_cloudevents(run: Run, host: Host) -> None:
    host.tell(text="one")
    host.tell(text="two")

    done = run("relay", "run", "--publisher", "stdout:", "--url", host.url, "--drain")

    assert (done.returncode, done.stderr) == (0, "delivered 2 events\n")
    lines = done.stdout.splitlines()
    events = [JSONFormat().read(CloudEvent, line.encode()) for line in lines]
    assert [event.get_type() for event in events] == ["desk.tell", "desk.tell"]
    # Each event has a subject of its own, so that no order is promised.
    assert {json.loads(line)["data"]["input"]["text"] for line in lines} == {"one", "two"}
    assert {json.loads(line)["tenant"] for line in lines} == {str(host.tenant.id)}


@on_sqlite
def test_a_relay_runs_until_it_is_told_to_stop(host: Host, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from actionengine.cli import main; main()", "relay", "run"]
    relay = subprocess.Popen(
        [*command, "--publisher", "stdout:", "--url", host.url, "--name", "r1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert relay.stdout is not None
        for text in ("one", "two"):
            host.tell(text=text)
            assert json.loads(relay.stdout.readline())["data"]["input"] == {"text": text}
        relay.send_signal(signal.SIGTERM)
        _, errors = relay.communicate(timeout=90)
    finally:
        relay.kill()
        relay.wait()
    assert (relay.returncode, errors) == (0, "")


def test_the_status_shows_what_there_is(run: Run, host: Host) -> None:
    host.tell()
    host.bury()
    host.tell()

    shown = run("relay", "status", "--url", host.url).stdout

    assert "dead letters" in shown
    row = next(line for line in shown.splitlines() if " s " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:5] == ["1", "0", "1", "0", "0"]
    assert "no relay has reported" in shown
    assert "oldest approval" in shown
    backlog = next(line for line in shown[shown.index("oldest approval") :].splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in backlog.strip("│").split("│")] == ["0", "-", "0"]


@on_sqlite
def test_a_dead_letter_is_listed_skipped_and_redriven(run: Run, host: Host) -> None:
    assert run("relay", "dead-letters", "--url", host.url).stdout == "there are no dead letters\n"
    host.tell(text="hard to deliver")
    id = host.bury()

    listed = run("relay", "dead-letters", "--url", host.url).stdout
    assert id in listed
    assert "nobody wants this" in listed

    skipped = run("relay", "skip", id, "--reason", "it is old", "--url", host.url)
    assert skipped.stdout == "1 dead letter skipped\n"
    assert "skipped: it is old" in run("relay", "dead-letters", "--url", host.url).stdout
    assert run("relay", "redrive", "--all", "--url", host.url).stdout == "0 dead letters will be delivered again\n"

    assert run("relay", "redrive", id, "--url", host.url).stdout == "1 dead letter will be delivered again\n"
    done = run("relay", "run", "--publisher", "stdout:", "--url", host.url, "--drain")
    delivered = {json.loads(line)["type"]: json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert delivered["desk.tell"] == id
    assert set(delivered) == {"desk.tell", "relay.skip", "relay.redrive"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--publisher", "carrier-pigeon://loft"), "carrier-pigeon"),
        (("run", "--publisher", "no.such.module:publisher"), "no.such.module"),
        (("redrive",), "event ids, or --all"),
        (("skip", "not-an-id", "--reason", "x"), ""),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(run: Run, host: Host, arguments: tuple[str, ...], message: str) -> None:
    done = run("relay", *arguments, "--url", host.url)

    assert "Traceback" not in done.stderr
    assert message in done.stderr
    if message:
        assert done.returncode == 1


def test_publisher_of_the_host_is_found_in_its_folder(run: Run, host: Host, tmp_path: Path) -> None:
    (tmp_path / "our_publishers.py").write_text(
        "from actionengine import CallbackPublisher\n"
        "def shouting():\n"
        "    return CallbackPublisher(lambda event: print(event.type.upper(), flush=True))\n"
    )
    host.tell()

    done = run("relay", "run", "--publisher", "our_publishers:shouting", "--url", host.url, "--drain")

    assert (done.stdout, done.stderr) == ("DESK.TELL\n", "delivered 1 events\n")


@on_sqlite
def test_a_tenants_history_is_printed_as_cloudevents(run: Run, host: Host) -> None:
    for number in range(3):
        host.tell(number=number)

    lines = run("events", "--tenant", "acme", "--url", host.url).stdout.splitlines()
    assert [json.loads(line)["data"]["input"]["number"] for line in lines] == [0, 1, 2]
    after = json.loads(lines[0])["sequence"].lstrip("0")
    rest = run("events", "--tenant", "acme", "--after", after, "--type", "desk.tell", "--url", host.url).stdout
    assert rest.splitlines() == lines[1:]
    assert run("events", "--tenant", "acme", "--type", "other", "--url", host.url).stdout == ""
    assert "there is no tenant 'globex'" in run("events", "--tenant", "globex", "--url", host.url).stderr


def test_the_owner_reads_the_history_of_a_closed_tenant(run: Run, host: Host) -> None:
    host.tell(number=1)
    host.storage.delete_tenant(slug="acme")

    printed = run("events", "--tenant", "acme", "--url", host.owner_url).stdout

    assert json.loads(printed)["data"]["input"] == {"number": 1}
    assert "there is no tenant 'globex'" in run("events", "--tenant", "globex", "--url", host.owner_url).stderr
    if host.owner_url != host.url:
        refused = run("events", "--tenant", "acme", "--url", host.url)
        assert (refused.returncode, "connect as the owner" in refused.stderr) == (1, True)


@on_sqlite
def test_a_projection_is_rebuilt_from_the_command_line(run: Run, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Projection(host.engine, name="board", apply=lambda event, view: view.records().insert({}, event.id))
    monkeypatch.setitem(sys.modules, "boards", SimpleNamespace(board=board))
    for number in range(3):
        host.tell(number=number)

    done = run("projection", "rebuild", "boards:board", "--tenant", "acme")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "applied 3 events"), done.stderr
    status = run("projection", "status", "boards:board", "--tenant", "acme").stdout
    assert status.startswith("generation 2 is at position ")
    assert status.endswith(", 0 events behind\n")
    assert "cannot be" in run("projection", "status", "boards:nothing", "--tenant", "acme").stderr

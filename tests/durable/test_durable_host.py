"""`DurableHost` and `DurableClient`: one process executes enqueued work, and another one if that process dies."""

from __future__ import annotations

import base64
import json
import pickle
import signal
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from actionengine.durable.client import DurableClient, DurableUnavailable
from actionengine.durable.clock import release_due
from actionengine.durable.host import DurableFunction, DurableHost, opened, upgrade
from actionengine.durable.urls import durable_url
from actionengine.errors import ConfigurationError
from tests.clocks import host_clock
from tests.durable.databases import Durable, change, empty_database, eventually, lines_of


@pytest.fixture
def client(durable: Durable) -> Iterator[DurableClient]:
    client = DurableClient(durable.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def shared_queue(durable: Durable) -> str:
    """A queue that has a host."""
    queue = uuid4().hex
    durable.start("executor", queue=queue)
    return queue


def test_what_is_enqueued_twice_is_executed_once(
    client: DurableClient, shared_queue: str, queue: str, tmp_path: Path
) -> None:
    id, waiting = uuid4().hex, uuid4().hex
    assert client.status(id) is None
    assert client.enqueue("append", str(tmp_path / "lines"), "one", queue=shared_queue, id=id)
    assert not client.enqueue("append", str(tmp_path / "lines"), "two", queue=shared_queue, id=id)
    client.enqueue("append", str(tmp_path / "lines"), "nobody takes this", queue=queue, id=waiting)

    assert eventually(lambda: client.find(id)[id].status == "SUCCESS")
    assert not client.enqueue("append", str(tmp_path / "lines"), "three", queue=shared_queue, id=id)

    assert client.status(id) == ("SUCCESS", "one")
    assert lines_of(tmp_path / "lines") == ["one"]
    found = client.find(id, waiting, "another")
    assert set(found) == {id, waiting}
    assert (found[waiting].status, found[waiting].executor, found[waiting].attempts) == ("ENQUEUED", None, 0)
    assert (found[id].status, found[id].attempts) == ("SUCCESS", 1)
    assert found[id].executor is not None
    # These are starts of transactions: the one that takes it may start before the one that enqueues it.
    assert (found[id].began_at or 0) > 0 < found[id].created_at
    client.forget(id)
    assert client.find(id) == {}


def test_delays_are_kept_and_cancelled_work_is_not_executed(
    durable: Durable, client: DurableClient, shared_queue: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "lines")
    late, cancelled, never = (uuid4().hex for _ in range(3))
    client.enqueue("append", path, "never", queue=shared_queue, id=never, delay=1000)
    client.enqueue("append", path, "cancelled", queue=shared_queue, id=cancelled, delay=1000)
    client.cancel(cancelled)
    change(durable, "UPDATE $workflow_status SET delay_until_epoch_ms = 0 WHERE workflow_uuid = :id", id=cancelled)
    client.enqueue("append", path, "late", queue=shared_queue, id=late, delay=0.6)

    assert eventually(lambda: lines_of(tmp_path / "lines"))

    assert lines_of(tmp_path / "lines") == ["late"]
    assert client.find(never)[never].status == "DELAYED"
    assert client.find(cancelled)[cancelled].status == "CANCELLED"


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_delay_does_not_depend_on_the_clock_of_the_host(
    client: DurableClient, shared_queue: str, tmp_path: Path, skew: float
) -> None:
    path, (late, soon) = str(tmp_path / "lines"), (uuid4().hex for _ in range(2))
    with host_clock(skew):
        client.enqueue("append", path, "late", queue=shared_queue, id=late, delay=3600)
        client.enqueue("append", path, "soon", queue=shared_queue, id=soon, delay=0.1)

    assert eventually(lambda: client.find(soon)[soon].status == "SUCCESS")

    assert client.find(late)[late].status == "DELAYED"
    client.cancel(late)


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_host_whose_clock_is_wrong_releases_what_is_due(client: DurableClient, queue: str, skew: float) -> None:
    late, due = (uuid4().hex for _ in range(2))
    client.enqueue("append", "path", "late", queue=queue, id=late, delay=3600)
    client.enqueue("append", "path", "due", queue=queue, id=due, delay=0)

    with host_clock(skew):
        release_due(client._opened()._sys_db)

    assert {id: each.status for id, each in client.find(late, due).items()} == {late: "DELAYED", due: "ENQUEUED"}


def test_what_has_ended_long_ago_is_purged(client: DurableClient, shared_queue: str, tmp_path: Path) -> None:
    ids = [uuid4().hex for _ in range(3)]
    for id in ids:
        client.enqueue("append", str(tmp_path / "lines"), id, queue=shared_queue, id=id)
    assert eventually(lambda: {each.status for each in client.find(*ids).values()} == {"SUCCESS"})

    assert client.purge(["append"], 3600).number == 0
    assert client.purge(["begin_and_wait"], -3600).number == 0
    assert client.purge(["append"], -3600).number >= 3
    assert client.find(*ids) == {}


def test_what_has_ended_grows_old_by_the_clock_of_the_database(
    client: DurableClient, shared_queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        """The clock of a machine that is two hours ahead."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Ahead:
            return cls.fromtimestamp(time() + 7200, tz)

    id = uuid4().hex
    client.enqueue("append", str(tmp_path / "lines"), id, queue=shared_queue, id=id)
    assert eventually(lambda: client.find(id)[id].status == "SUCCESS")
    monkeypatch.setattr("actionengine.durable.client.datetime", Ahead)

    assert client.purge(["append"], 3600).number == 0


def test_one_process_has_one_host(file_database: Durable, queue: str) -> None:
    host = file_database.begin("executor", queue=queue, twice=True)

    assert host.hear() == "this process already runs a durable engine, and can run only one"
    assert host.hear() == "ended []"
    assert host.wait() == 0


def test_a_process_with_a_dbos_of_its_own_is_left_alone(file_database: Durable, queue: str) -> None:
    host = file_database.begin("executor", queue=queue, foreign=True)

    assert host.hear() == "this process already runs DBOS: run actionengine's durable engine in another one"
    assert host.wait() == 0


def test_a_host_that_has_stopped_can_start_again(file_database: Durable, queue: str, tmp_path: Path) -> None:
    client = DurableClient(file_database.url)
    host = file_database.start("executor", queue=queue, again=True)
    id = uuid4().hex
    client.enqueue("begin_and_wait", str(tmp_path), queue=queue, id=id)
    assert eventually(lambda: len(lines_of(tmp_path / "begun")) == 1)

    host.tell("stop")
    assert host.hear() == "ready"

    assert eventually(lambda: len(lines_of(tmp_path / "begun")) == 2), "it has taken over from itself"
    (tmp_path / "go").touch()
    assert eventually(lambda: client.find(id)[id].status == "SUCCESS")
    host.tell("stop")
    assert host.hear() == "ended []"
    assert host.wait() == 0
    client.close()


@pytest.mark.parametrize(("durable", "how"), [("sqlite", "killed"), ("postgres", "frozen")], indirect=["durable"])
def test_what_a_dead_host_had_in_hand_is_taken_over(
    durable: Durable, client: DurableClient, queue: str, tmp_path: Path, how: str
) -> None:
    id = uuid4().hex
    # A process that is gone is noticed at once; the lease of a frozen one must run out.
    lease = 5.0 if how == "killed" else 1.5
    first = durable.start("executor", queue=queue, lease=lease)
    client.enqueue("begin_and_wait", str(tmp_path), queue=queue, id=id)
    assert eventually(lambda: lines_of(tmp_path / "begun")) == [str(first.pid)]
    # A host of another queue takes over dead hosts of all queues, and executes no unknown function.
    bystander = durable.start("executor", queue=f"{queue} of others", lease=lease)
    second = durable.start("executor", queue=queue, lease=lease)

    if how == "killed":
        first.kill()
    else:
        first.send_signal(signal.SIGSTOP)

    # On a slow machine, a short lease may run out once too often.
    assert eventually(lambda: str(second.pid) in lines_of(tmp_path / "begun"))
    (tmp_path / "go").touch()
    assert eventually(lambda: client.find(id)[id].status == "SUCCESS")
    if how == "frozen":
        # Its own result is not recorded.
        first.send_signal(signal.SIGCONT)
        assert eventually(lambda: str(first.pid) in lines_of(tmp_path / "done"))
    assert client.status(id) == ("SUCCESS", second.pid)
    assert client.find(id)[id].attempts >= 2
    for each in (first, second, bystander):
        each.kill()


def test_hosts_that_start_at_once_set_up_an_empty_database(
    request: pytest.FixtureRequest, durable: Durable, queue: str, tmp_path: Path
) -> None:
    if durable.url.startswith("sqlite"):
        empty = Durable(f"sqlite:///{tmp_path / 'empty.db'}")
    else:
        empty = Durable(empty_database(request.getfixturevalue("postgres_server")).owner_url)

    hosts = [empty.begin("executor", queue=queue, set_up=True) for _ in range(2)]

    assert [host.hear() for host in hosts] == ["ready"] * 2
    empty.end()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_a_row_calls_pickled_is_never_unpickled(
    durable: Durable, client: DurableClient, shared_queue: str, queue: str, tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    trap = base64.b64encode(pickle.dumps({"args": (Trap(sprung),), "kwargs": {}})).decode()
    bad, good = uuid4().hex, uuid4().hex
    client.enqueue("append", str(tmp_path / "lines"), "bad", queue=queue, id=bad)
    change(durable, "UPDATE $workflow_input SET inputs = :trap WHERE workflow_uuid = :id", trap=trap, id=bad)
    pickled = (
        "UPDATE $workflow_status SET serialization = 'py_pickle', inputs = :trap, queue_name = :queue"
        " WHERE workflow_uuid = :id"
    )
    change(durable, pickled, trap=trap, queue=shared_queue, id=bad)

    assert eventually(lambda: client.find(bad)[bad].status == "ERROR")
    client.enqueue("append", str(tmp_path / "lines"), "good", queue=shared_queue, id=good)
    assert eventually(lambda: client.find(good)[good].status == "SUCCESS")
    change(durable, "UPDATE $workflow_status SET output = :trap WHERE workflow_uuid = :id", trap=trap, id=bad)
    client.status(bad)

    assert not sprung.exists()
    assert lines_of(tmp_path / "lines") == ["good"]


def test_a_database_that_is_away_or_empty_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for url in (
        "postgresql://nobody@127.0.0.1:1/nothing",
        f"sqlite:///{tmp_path}/no/such/folder.db",
        str(tmp_path / "empty.db"),
    ):
        client = DurableClient(url)
        with pytest.raises(DurableUnavailable):
            client.enqueue("append", queue="q", id="1")
        client.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/database", "PostgreSQL or SQLite, not on mysql"),
        ("sqlite://", "needs a SQLite file"),
        ("://", "not the URL of a database"),
    ],
)
def test_a_url_of_another_kind_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DurableClient(url)


def test_sqlite_has_no_role_to_grant_anything_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no roles"):
        upgrade(tmp_path / "durable.db", app_role="app")


def test_what_is_kept_is_json(durable: Durable, client: DurableClient, queue: str) -> None:
    id = uuid4().hex
    client.enqueue("append", "path", "line", queue=queue, id=id)
    engine = opened(durable_url(durable.url))
    schema = "" if engine.dialect.name == "sqlite" else "dbos."
    with engine.connect() as connection:
        (kept,) = connection.execute(
            text(
                f"SELECT coalesce(i.inputs, s.inputs) FROM {schema}workflow_status s"
                f" LEFT JOIN {schema}workflow_input i ON i.workflow_uuid = s.workflow_uuid WHERE s.workflow_uuid = :id"
            ),
            {"id": id},
        ).one()
    engine.dispose()

    assert json.loads(kept) == {"namedArgs": {}, "positionalArgs": ["path", "line"]}
    client.forget(id)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")], ids=repr)
@pytest.mark.parametrize("name", ["lease", "poll_interval", "keep"])
def test_seconds_that_nobody_can_wait_are_refused(tmp_path: Path, name: str, seconds: float) -> None:
    options: dict[str, Any] = {name: seconds}

    with pytest.raises(ConfigurationError, match=f"{name} is .*: give a number of seconds above 0"):
        DurableHost(tmp_path / "durable.sqlite", [], **options)


@pytest.mark.parametrize("concurrency", [0, -1, 2**70])
def test_a_function_that_could_not_run_is_refused(tmp_path: Path, concurrency: int) -> None:
    function = DurableFunction("work", print, "queue", concurrency)

    with pytest.raises(ConfigurationError, match="'queue'"):
        DurableHost(tmp_path / "durable.sqlite", [function])

"""No query to the durable engine's database waits without a limit, and everything recovers."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from types import FunctionType
from typing import Any, get_args
from uuid import uuid4

import pytest
from dbos import _sys_db, _sys_db_postgres
from pydantic import BaseModel
from sqlalchemy import make_url, text

from actionengine import ConfigurationError, ErrorCode
from actionengine.boundary.capabilities import CODE_MODULE_DEFAULT
from actionengine.boundary.declarations import create_module_action
from actionengine.boundary.in_process import InProcessRunner
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.remote.queue_runner import QueueRunner
from actionengine.boundary.remote.runner_worker import RunnerWorker
from actionengine.boundary.roots import ModuleRoots
from actionengine.durable.client import DurableClient
from actionengine.durable.database import BoundedConnection, Bounds, DurableUnavailable, open_postgres
from actionengine.durable.host import DurableFunction, DurableHost, opened, upgrade
from actionengine.durable.leases import Leases
from actionengine.durable.retries import MAX_RETRY_INTERVAL, shorten_pauses
from actionengine.durable.urls import durable_url
from tests.command_line import Run
from tests.durable.databases import Durable, eventually, lines_of
from tests.durable.executor import append
from tests.durable.test_queue_runner import ACME, done, refused, request
from tests.faulty_proxy import CommitPoint, Fault, FaultyProxy

BOUNDS = Bounds(connect_timeout=2, answer_timeout=0.5)

LONG = 60.0
"""More seconds than any step needs on a busy machine without waiting for a silent network."""


@pytest.fixture
def url(durable_database: Durable, proxy: FaultyProxy) -> str:
    return proxy.url(durable_database.url)


@pytest.fixture
def client(durable_database: Durable) -> Iterator[DurableClient]:
    """A client with an intact network."""
    client = DurableClient(durable_database.url)
    yield client
    client.close()


def host_of(url: str, queue: str, **options: Any) -> DurableHost:
    options = {"lease": 2.0, "poll_interval": 0.05, "set_up": False, **BOUNDS._asdict(), **options}
    return DurableHost(url, [DurableFunction("append", append, queue)], **options)


def takes(action: Callable[[], Any]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


@pytest.fixture
def silences(monkeypatch: pytest.MonkeyPatch) -> list[BoundedConnection]:
    """The connections that were found to be silent."""
    found: list[BoundedConnection] = []
    close = BoundedConnection.close

    def closed(connection: BoundedConnection) -> None:
        if connection.pgconn.transaction_status == 1:
            found.append(connection)
        close(connection)

    monkeypatch.setattr(BoundedConnection, "close", closed)
    return found


def test_a_host_takes_work_again_after_losing_its_connections(
    url: str, proxy: FaultyProxy, client: DurableClient, queue: str, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    with host_of(url, queue):
        client.enqueue("append", str(path), "before", queue=queue, id=uuid4().hex)
        assert eventually(lambda: lines_of(path) == ["before"])

        assert proxy.swallow() > 1
        client.enqueue("append", str(path), "after", queue=queue, id=uuid4().hex)
        assert eventually(lambda: lines_of(path) == ["before", "after"], LONG)

        # The silence lasts longer than a lease.
        with proxy.swallowing_everything():
            client.enqueue("append", str(path), "later", queue=queue, id=uuid4().hex)
            time.sleep(3 * BOUNDS.answer_timeout)
        assert eventually(lambda: lines_of(path) == ["before", "after", "later"], LONG)


def test_a_lease_ends_with_the_network_and_is_renewed_with_it(
    durable_database: Durable, url: str, proxy: FaultyProxy, queue: str
) -> None:
    engine = opened(durable_url(durable_database.url))
    others = Leases(engine, "another")
    others._machine = "another"
    with host_of(url, queue, lease=1.0) as host:

        def has_lapsed() -> bool:
            return host.executor_id in {lease.executor_id for lease in others.lapsed(1.0)}

        with proxy.swallowing_everything():
            assert eventually(has_lapsed, LONG)
        assert eventually(lambda: not has_lapsed(), LONG)
    engine.dispose()


def test_a_host_stops_on_a_silent_network_for_good(
    url: str, proxy: FaultyProxy, client: DurableClient, queue: str, tmp_path: Path
) -> None:
    host = host_of(url, queue)
    host.start()
    with proxy.swallowing_everything():
        time.sleep(2 * BOUNDS.answer_timeout)
        assert takes(lambda: host.stop(grace=1)) < LONG

    id = uuid4().hex
    client.enqueue("append", str(tmp_path / "lines"), "nobody", queue=queue, id=id)
    # The threads that DBOS left behind end, or find no connection.
    assert eventually(lambda: f"queue-worker-{queue}" not in {thread.name for thread in threading.enumerate()}, LONG)
    assert client.find(id)[id].status == "ENQUEUED"
    client.cancel(id)


@pytest.mark.parametrize("since", ["the beginning", "after login"])
def test_a_host_does_not_start_without_an_answer(url: str, proxy: FaultyProxy, queue: str, since: Any) -> None:
    proxy.swallow_new(since)

    make_tables = partial(upgrade, url, **BOUNDS._asdict())
    for start in (host_of(url, queue).start, host_of(url, queue, set_up=True).start, make_tables):
        with pytest.raises(DurableUnavailable, match=r"answer|timeout"):
            assert takes(start) < LONG


def test_an_operator_is_told_that_nothing_answers(run: Run, url: str, proxy: FaultyProxy) -> None:
    proxy.swallow_new("after login")

    told = run("workflows", "upgrade", "--url", url, "--answer-timeout", "0.5")

    assert told.returncode == 1
    assert "the database did not answer within 0.5 s (answer_timeout): check the network" in told.stderr


def test_a_host_does_not_start_if_the_network_falls_silent(
    url: str, proxy: FaultyProxy, client: DurableClient, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall_silent(*arguments: Any) -> None:
        proxy.swallow_new()
        proxy.swallow()

    # DBOS retries a lost connection, also during its start.
    monkeypatch.setattr(_sys_db_postgres.PostgresSystemDatabase, "verify_migrations", fall_silent)

    with pytest.raises(DurableUnavailable, match=r"answer|timeout"):
        host_of(url, queue).start()

    proxy.heal()
    monkeypatch.undo()
    with host_of(url, queue):
        pass


def test_one_silent_connection_tells_about_the_idle_ones(
    url: str, proxy: FaultyProxy, silences: list[BoundedConnection]
) -> None:
    engine = open_postgres(make_url(url), BOUNDS, size=4)
    with ExitStack() as together:
        for _ in range(4):
            together.enter_context(engine.connect())
    assert proxy.swallow() == 4

    for _ in range(5):
        with engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1

    assert len(silences) == 1
    engine.dispose()


def test_each_caller_gets_an_answer_or_a_refusal_in_time(url: str, proxy: FaultyProxy) -> None:
    client = DurableClient(url, BOUNDS)

    def refusal(_: int) -> str:
        with pytest.raises(DurableUnavailable) as refusal:
            assert takes(lambda: client.find("nothing")) < LONG
        return str(refusal.value)

    with proxy.swallowing_everything(), ThreadPoolExecutor(16) as pool:
        # One caller opens the first connection of a pool, and the others wait for it.
        assert all("cannot be reached" in each for each in pool.map(refusal, range(16)))
    assert client.find("nothing") == {}
    client.close()


@pytest.mark.parametrize("fault", ["swallow", "cut"])
@pytest.mark.parametrize("point", ["before", "half", "after", "late"])
def test_work_is_done_whatever_happens_to_a_commit(
    url: str, proxy: FaultyProxy, client: DurableClient, queue: str, tmp_path: Path, point: CommitPoint, fault: Fault
) -> None:
    path = tmp_path / "lines"
    with host_of(url, queue, lease=1.0):
        for number in range(2):
            happened = proxy.at_commit(point, fault, delay=2 * BOUNDS.answer_timeout)
            client.enqueue("append", str(path), str(number), queue=queue, id=uuid4().hex)
            assert happened.wait(LONG)
        assert eventually(lambda: set(lines_of(path)) == {"0", "1"})


class Place(BaseModel):
    path: str


def _wait(data: Place, work: ModuleHandle) -> str:
    Path(data.path, "begun").touch()
    return str(eventually(Path(data.path, "go").exists, LONG))


WAIT = create_module_action(name="wait", description="", validation=Place, handler=_wait, capabilities=())


def test_a_caller_gets_its_answer_after_a_silent_network(
    url: str, proxy: FaultyProxy, queue: str, tmp_path: Path
) -> None:
    roots = ModuleRoots(tmp_path / "modules")
    options: dict[str, Any] = {"queue": queue, "poll_interval": 0.05, **BOUNDS._asdict()}
    behind = InProcessRunner(CODE_MODULE_DEFAULT, [WAIT])
    worker = RunnerWorker(url, behind, roots, lease=2.0, set_up=False, **options)
    runner = QueueRunner(url, CODE_MODULE_DEFAULT, [WAIT], **options)
    with worker, runner, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(runner.execute, request(roots.create(ACME, "m"), "wait", path=str(tmp_path)))
        assert eventually((tmp_path / "begun").exists)
        proxy.swallow()
        (tmp_path / "go").touch()

        assert done(answer.result(LONG)).output == "True"


def test_a_caller_gets_its_answer_whatever_happens_to_a_commit(
    url: str, proxy: FaultyProxy, queue: str, tmp_path: Path
) -> None:
    roots = ModuleRoots(tmp_path / "modules")
    module = roots.create(ACME, "m")
    options: dict[str, Any] = {"queue": queue, "poll_interval": 0.05, **BOUNDS._asdict()}
    behind = InProcessRunner(CODE_MODULE_DEFAULT, MODULE_ACTIONS)
    worker = RunnerWorker(url, behind, roots, lease=1.0, set_up=False, **options)
    runner = QueueRunner(url, CODE_MODULE_DEFAULT, MODULE_ACTIONS, **options)
    with worker, runner:
        for point, fault in product(get_args(CommitPoint), get_args(Fault)):
            name = f"{point}-{fault}"
            asked = request(module, "write", path=name, text=name, idempotency_key=name)
            happened = proxy.at_commit(point, fault, delay=2 * BOUNDS.answer_timeout)
            done(runner.execute(asked))
            assert happened.wait(LONG)
            assert (module.root / name).read_text() == name


def test_a_caller_for_a_module_on_a_silent_network_is_told(url: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    module = ModuleRoots(tmp_path).create(ACME, "m")
    with proxy.swallowing_everything(), QueueRunner(url, CODE_MODULE_DEFAULT, [WAIT], **BOUNDS._asdict()) as runner:
        error = refused(runner.execute(request(module, "wait", path="")), ErrorCode.UNAVAILABLE)

    assert "did not reach the workers" in error.message


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")], ids=repr)
@pytest.mark.parametrize("name", ["connect_timeout", "answer_timeout"])
def test_bounds_that_are_none_are_refused(tmp_path: Path, name: str, seconds: float) -> None:
    options: Any = {name: seconds}
    url = tmp_path / "durable.sqlite"
    for make in (
        lambda: DurableHost(url, [], **options),
        lambda: QueueRunner(url, CODE_MODULE_DEFAULT, **options),
        lambda: upgrade(url, **options),
    ):
        with pytest.raises(ConfigurationError, match=f"{name} is .*: give a number of seconds above 0"):
            make()


def test_dbos_does_not_pause_for_long() -> None:
    shorten_pauses()
    shorten_pauses()

    owners = (_sys_db.SystemDatabase, _sys_db_postgres.PostgresSystemDatabase)
    methods = [each for owner in owners for each in vars(owner).values() if isinstance(each, FunctionType)]
    variables = [inspect.getclosurevars(each).nonlocals for each in methods]
    backoffs = {each["max_backoff"] for each in variables if "max_backoff" in each}
    assert {1.5 * each for each in backoffs} == {MAX_RETRY_INTERVAL}
    assert _sys_db.db_retry.__defaults__ == (0.5, MAX_RETRY_INTERVAL / 1.5)

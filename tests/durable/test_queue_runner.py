"""`QueueRunner` and `RunnerWorker`: work in other processes, behind a boundary on each side."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from returns.result import Failure, Success
from sqlalchemy import make_url

from actionengine import ActionError, ConfigurationError, ErrorCode, Tenant
from actionengine.boundary.capabilities import CODE_MODULE_DEFAULT, READ_ONLY, SYSTEM_PRIVILEGED
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.remote.messages import EXECUTE, WorkMessage
from actionengine.boundary.remote.queue_runner import QueueRunner, _id_of
from actionengine.boundary.request import ExecutionRequest, ExecutionResult, ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.boundary.telemetry import ExecutionEvent
from actionengine.durable.client import DurableClient, DurableUnavailable
from tests.boundary.repositories import make_repository
from tests.durable.actions import ACTIONS
from tests.durable.databases import Child, Durable, change, eventually, lines_of, sqlite

ACME = Tenant(UUID(int=1), "acme")
GLOBEX = Tenant(UUID(int=2), "globex")
EVERYTHING = ("fs:read", "fs:write", "cmd:run", "git:diff")


class Site:
    """Modules, and the caller of work in them."""

    def __init__(self, durable: Durable, modules: Path, queue: str) -> None:
        self.durable = durable
        self.modules = modules
        self.queue = queue
        self.roots = ModuleRoots(modules)
        self.runner = self.sender()

    def sender(self, **options: Any) -> QueueRunner:
        options = {"profile": CODE_MODULE_DEFAULT, "queue": self.queue, "poll_interval": 0.05, **options}
        return QueueRunner(self.durable.url, actions=(*MODULE_ACTIONS, *ACTIONS), **options)

    def worker(self, **options: Any) -> Child:
        options = {"queue": self.queue, **options}
        return self.durable.start("worker", modules=str(self.modules), **options)

    def module(self, tenant: Tenant = ACME) -> ModuleContext:
        return self.roots.create(tenant, f"m{uuid4().hex}")


def request(module: ModuleContext, action: str, **options: Any) -> ExecutionRequest:
    inputs = {name: options.pop(name) for name in tuple(options) if name not in ExecutionRequest.model_fields}
    options = {"tenant": module.tenant, "capabilities": EVERYTHING, "input": inputs, **options}
    return ExecutionRequest(module=module, action=action, **options)


def done(answer: Any) -> ExecutionResult:
    assert isinstance(answer, Success), answer
    result: ExecutionResult = answer.unwrap()
    return result


def refused(answer: Any, code: ErrorCode) -> ActionError:
    assert isinstance(answer, Failure), answer
    error: ActionError = answer.failure()
    assert error.code is code, error
    return error


@pytest.fixture(scope="module")
def site(durable: Durable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A queue with two workers."""
    site = Site(durable, tmp_path_factory.mktemp("modules"), uuid4().hex)
    children = [durable.begin("worker", modules=str(site.modules), queue=site.queue) for _ in range(2)]
    assert [child.hear() for child in children] == ["ready"] * 2
    yield site
    assert all(child.is_alive() for child in children), "the workers have lived through all of it"
    site.runner.close()


@pytest.fixture
def quiet(site: Site) -> Iterator[Site]:
    """A queue of the test's own, without workers."""
    quiet = Site(site.durable, site.modules, uuid4().hex)
    yield quiet
    quiet.runner.close()


@pytest.fixture
def file_site(tmp_path: Path) -> Iterator[Site]:
    """The same for tests that do not depend on the kind of database."""
    database = sqlite(tmp_path)
    found = Site(database, tmp_path / "modules", uuid4().hex)
    found.modules.mkdir()
    yield found
    found.runner.close()
    database.end()


def kept(site: Site) -> int:
    """Return the number of requests in the database."""
    client = DurableClient(site.durable.url)
    try:
        return int(client._ask(lambda found: len(found.list_workflows(name=EXECUTE))))
    finally:
        client.close()


def test_each_module_action_is_done_by_a_worker(site: Site) -> None:
    module = site.module()
    run = site.runner.execute
    (module.root / "old.txt").write_text("old\n")
    diff = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n"

    written = done(run(request(module, "write", path="a.txt", text="one\n")))
    edited = done(run(request(module, "edit_file", path="a.txt", diff=diff)))
    read = done(run(request(module, "read", path="a.txt")))
    listed = done(run(request(module, "list")))
    deleted = done(run(request(module, "delete", path="old.txt")))
    ran = done(run(request(module, "run", argv=["sh", "-c", "cat a.txt; exit 3"])))

    assert written.output["size"] == 4
    assert edited.output["added"] == 1
    assert read.output["text"] == "two\n"
    assert [each["path"] for each in listed.output["entries"]] == ["a.txt", "old.txt"]
    assert deleted.output == {"path": "old.txt"}
    assert (ran.output["exit_code"], ran.output["stdout"]) == (3, "two\n")
    assert {each.runner for each in (written, read, ran)} == {"queue"}
    assert all(each.worker for each in (written, read, ran))
    assert [each.name for each in module.root.iterdir()] == ["a.txt"]
    assert kept(site) == 0


def test_the_difference_from_a_commit_is_told(site: Site) -> None:
    module = site.module()
    module.root.rmdir()
    make_repository(module.root, {"a.txt": "old\n"})
    (module.root / "a.txt").write_text("new\n")

    result = done(site.runner.execute(request(module, "diff")))

    assert "+new" in result.output["diff"]


def test_work_of_many_is_shared_by_the_workers(site: Site) -> None:
    module = site.module()
    # More requests run at once than one worker takes.
    script = "touch {}; until test $(ls | wc -l) -gt 8; do sleep 0.05; done"
    ask = [request(module, "run", argv=["sh", "-c", script.format(number)]) for number in range(12)]

    with ThreadPoolExecutor(12) as pool:
        results = [done(each) for each in pool.map(site.runner.execute, ask)]

    assert len({each.worker for each in results}) == 2
    assert [each.request_id for each in results] == [each.id for each in ask]


def test_a_large_result_comes_whole(site: Site) -> None:
    result = done(site.runner.execute(request(site.module(), "much", size=1_000_000, capabilities=())))

    assert result.output == {"text": "\u00e4" * 1_000_000}


def test_bytes_and_odd_texts_cross_the_queue(site: Site) -> None:
    module = site.module()
    (module.root / "bytes").write_bytes(b"\xff\x00\xfe")

    read = done(site.runner.execute(request(module, "read", path="bytes")))
    odd = site.runner.execute(request(module, "write", path="odd\u2028\U0001f600", text="\x00\u2028"))
    half = refused(site.runner.execute(request(module, "write", path="half", text="\ud800")), ErrorCode.INVALID_INPUT)

    assert b64decode(read.output["base64"]) == b"\xff\x00\xfe"
    assert done(odd).output["size"] == 4
    assert "text" in str(half.details)


def test_what_a_handler_raises_is_the_answer(site: Site) -> None:
    refused(site.runner.execute(request(site.module(), "read", path="nothing")), ErrorCode.NOT_FOUND)
    error = refused(site.runner.execute(request(site.module(), "faulty")), ErrorCode.HANDLER_ERROR)
    assert "RuntimeError" in error.message
    assert kept(site) == 0


def test_the_senders_boundary_refuses_before_anything_is_sent(file_site: Site) -> None:
    module = file_site.module()
    runner = file_site.sender(profile=READ_ONLY)

    for wrong, refusal in (
        (request(module, "write", path="a", text=""), "capability_not_granted"),
        (request(module, "read", path="../a", capabilities=["fs:read"]), "path_escape"),
        (request(module, "read", path="a", tenant=None), "missing_tenant"),
        (request(module, "read", path="a", tenant=GLOBEX), "tenant_mismatch"),
        (request(module, "read", path="a").model_copy(update={"module": None}), "missing_module"),
    ):
        answer = runner.execute(wrong)
        assert isinstance(answer, Failure)
        assert answer.failure().details["refusal"] == refusal
    runner.close()
    assert kept(file_site) == 0


def test_the_workers_boundary_checks_again(file_site: Site) -> None:
    worker = file_site.worker(profile="READ_ONLY")
    module = file_site.module()
    (module.root / "a").write_text("a")
    permissive = file_site.sender(profile=SYSTEM_PRIVILEGED)

    read = permissive.execute(request(module, "read", path="a", capabilities=["fs:read"]))
    write = permissive.execute(request(module, "write", path="b", text="", capabilities=["fs:write"]))
    everything = permissive.execute(request(module, "read", path="a", capabilities=["fs:read", "net:http"]))

    assert done(read).output["text"] == "a"
    assert refused(write, ErrorCode.FORBIDDEN).details["refusal"] == "capability_not_granted"
    assert refused(everything, ErrorCode.FORBIDDEN).details["capabilities"] == ["net:http"]
    assert not (module.root / "b").exists()
    permissive.close()
    worker.kill()


def test_a_worker_ignores_the_senders_path_of_a_module(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    module = site.module()
    elsewhere = module.model_copy(update={"root": tmp_path})
    missing = ModuleContext(id="missing", root=tmp_path, tenant=ACME)
    outside = ModuleContext(id=f"../{GLOBEX.id}/theirs", root=tmp_path, tenant=ACME)
    theirs = site.roots.create(GLOBEX, "theirs").model_copy(update={"tenant": ACME})
    (site.roots.create(GLOBEX, "theirs").root / "secret").write_text("theirs")

    refused(site.runner.execute(request(elsewhere, "read", path="secret")), ErrorCode.NOT_FOUND)
    for each in (missing, outside, theirs):
        error = refused(site.runner.execute(request(each, "read", path="secret")), ErrorCode.INVALID_INPUT)
        assert error.details["refusal"] == "missing_module"


HOSTILE: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("nothing", ()),
    ("null", (None,)),
    ("a number", (7,)),
    ("no JSON", ("{",)),
    ("JSON of something else", ('["a"]',)),
    ("deep JSON", ("[" * 100_000,)),
    ("an object", ({"request": {}},)),
    ("too much", ("{}", "{}", "{}")),
    ("no tenant", ('{"request": {"action": "read"}, "wait_seconds": 5}',)),
    ("a lone half", ('{"request": {"action": "\\ud800", "id": "\\ud800"}, "wait_seconds": 5}',)),
    (
        "another tenant",
        (
            WorkMessage(
                request=ExecutionRequest(
                    action="read", tenant=GLOBEX, module=ModuleContext(id="m", root=Path("/"), tenant=ACME)
                ),
                wait_seconds=60,
            ).to_text(),
        ),
    ),
)


def test_what_is_no_request_is_refused_and_the_worker_lives(site: Site) -> None:
    client = DurableClient(site.durable.url)
    ids = {name: uuid4().hex for name, _ in HOSTILE}
    for name, arguments in HOSTILE:
        client.enqueue(EXECUTE, *arguments, queue=site.queue, id=ids[name])
    unknown = uuid4().hex
    client.enqueue("os.system", "true", queue=site.queue, id=unknown)

    def ended() -> bool:
        return {each.status for each in client.find(*ids.values()).values()} == {"SUCCESS"}

    assert eventually(ended)
    answers = {name: client.status(id) for name, id in ids.items()}
    assert all(answer is not None and answer[1].startswith('{"error": ') for answer in answers.values()), answers
    assert "tenant_mismatch" in str(answers["another tenant"])
    assert "missing_tenant" in str(answers["no tenant"])
    done(site.runner.execute(request(site.module(), "list")))
    for id in (*ids.values(), unknown):
        client.forget(id)
    client.close()


def test_work_that_is_cancelled_is_ended(site: Site) -> None:
    module = site.module()
    cancelled = threading.Event()
    marker = f"0.{uuid4().int}"

    def cancel() -> None:
        eventually(lambda: (module.root / "begun").exists())
        cancelled.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    work = request(module, "run", argv=["sh", "-c", f"touch begun; sleep 60; echo {marker}"])
    error = refused(site.runner.execute(work, cancelled=cancelled), ErrorCode.CONFLICT)
    canceller.join()

    assert error.details["cancelled"] is True
    assert _processes_with(marker) == []
    assert kept(site) == 0


def test_work_cancelled_before_its_start_is_not_waited_for(site: Site) -> None:
    client = DurableClient(site.durable.url)
    worker = done(site.runner.execute(request(site.module(), "list"))).worker
    id = f"taken-{uuid4()}"
    client.enqueue(EXECUTE, "", queue=f"nobody's-{id}", id=id)
    change(
        site.durable,
        "UPDATE $workflow_status SET status = 'CANCELLED', executor_id = :worker WHERE workflow_uuid = :id",
        worker=worker,
        id=id,
    )

    eventually(lambda: not client.find(id))

    client.close()


def test_a_cancelled_task_leaves_nothing_running(site: Site) -> None:
    module = site.module()
    marker = f"0.{uuid4().int}"

    async def main() -> None:
        work = request(module, "run", argv=["sh", "-c", f"touch begun; sleep 60; echo {marker}"])
        task = asyncio.create_task(site.runner.execute_async(work))
        while not (module.root / "begun").exists():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert _processes_with(marker) == []
    assert kept(site) == 0


def test_work_that_takes_too_long_is_ended_by_its_worker(site: Site) -> None:
    marker = f"0.{uuid4().int}"

    work = request(site.module(), "run", argv=["sh", "-c", f"sleep 60; echo {marker}"], timeout=0.5)
    error = refused(site.runner.execute(work), ErrorCode.TIMEOUT)

    assert error.details["timeout"] == 0.5
    assert _processes_with(marker) == []


def test_without_a_worker_it_is_unavailable_and_is_never_run(quiet: Site) -> None:
    module = quiet.module()
    impatient = quiet.sender(wait_seconds=0.4)
    cancelled = threading.Event()
    cancelled.set()
    client = DurableClient(quiet.durable.url)
    # Requests of killed senders, which are not withdrawn.
    for name, patience in (("late", 0.01), ("patient", 60.0)):
        order = WorkMessage(request=request(module, "write", path=name, text=""), wait_seconds=patience)
        client.enqueue(EXECUTE, order.to_text(), queue=quiet.queue, id=f"{module.id}/{name}")

    error = refused(impatient.execute(request(module, "write", path="waited", text="")), ErrorCode.UNAVAILABLE)
    withdrawn = impatient.execute(request(module, "write", path="cancelled", text=""), cancelled=cancelled)
    # A worker allows a second more, and the clock of the durable engine on SQLite counts whole seconds.
    time.sleep(2.1)
    worker = quiet.worker()
    done(quiet.runner.execute(request(module, "write", path="after", text="")))

    assert "no worker started" in error.message
    assert error.details["queue"] == quiet.queue
    refused(withdrawn, ErrorCode.CONFLICT)
    assert eventually(lambda: (client.status(f"{module.id}/late") or ("",))[0] == "SUCCESS")
    assert "in time" in str(client.status(f"{module.id}/late"))
    assert sorted(each.name for each in module.root.iterdir()) == ["after", "patient"]
    impatient.close()
    client.purge([EXECUTE], -3600)
    client.close()
    worker.kill()


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    module = ModuleRoots(tmp_path).create(ACME, "site")
    for url in ("postgresql://nobody@127.0.0.1:1/nothing", f"sqlite:///{tmp_path / 'empty.db'}"):
        with QueueRunner(url, CODE_MODULE_DEFAULT) as runner:
            refused(runner.execute(request(module, "list")), ErrorCode.UNAVAILABLE)


def test_work_goes_on_when_the_first_look_for_its_answer_fails(
    file_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, looks = file_site.runner._client, count()
    look = client.find

    def fails_at_first(*ids: str) -> Any:
        if next(looks) < 3:
            raise DurableUnavailable("the connection was lost")
        return look(*ids)

    monkeypatch.setattr(client, "find", fails_at_first)
    worker = file_site.worker()

    result = done(file_site.runner.execute(request(file_site.module(), "list")))

    assert result.output["entries"] == []
    assert next(looks) > 3
    worker.kill()


@pytest.mark.parametrize("durable", ["postgres"], indirect=True)
def test_work_goes_on_when_connections_are_lost(site: Site, request_superuser: Callable[[], str]) -> None:
    module = site.module()

    def cut() -> None:
        eventually(lambda: (module.root / "begun").exists())
        with psycopg.connect(request_superuser(), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (make_url(site.durable.url).database,),
            )

    cutter = threading.Thread(target=cut)
    cutter.start()
    result = done(site.runner.execute(request(module, "run", argv=["sh", "-c", "touch begun; sleep 1; echo done"])))
    cutter.join()

    assert result.output["stdout"] == "done\n"


@pytest.fixture
def request_superuser(request: pytest.FixtureRequest) -> Callable[[], str]:
    return lambda: str(request.getfixturevalue("postgres_server"))


def test_the_same_key_takes_effect_once(site: Site) -> None:
    module = site.module()
    append = request(module, "run", argv=["sh", "-c", "echo x >> lines; cat lines"], idempotency_key="k")
    other = request(module, "run", argv=["sh", "-c", "echo y >> lines"], idempotency_key="k")

    with ThreadPoolExecutor(4) as pool:
        results = [done(each) for each in pool.map(site.runner.execute, [append] * 4)]
    again = done(site.runner.execute(append.model_copy(update={"id": "another"})))
    mismatch = site.runner.execute(other)

    assert lines_of(module.root / "lines") == ["x"]
    assert {each.output["stdout"] for each in (*results, again)} == {"x\n"}
    assert again.replayed
    refused(mismatch, ErrorCode.IDEMPOTENCY_MISMATCH)
    assert kept(site) == 0


def test_a_key_that_another_caller_cancelled_works_again(site: Site, tmp_path: Path) -> None:
    begun, cancelled = tmp_path / "begun", threading.Event()
    script = f"echo x >> lines; echo $$ >> {begun}; test $(wc -l < {begun}) = 2 || sleep 60"
    work = request(site.module(), "run", argv=["sh", "-c", script], idempotency_key="k")
    assert work.module is not None

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(site.runner.execute, work, cancelled=cancelled)
        second = pool.submit(site.runner.execute, work.model_copy(update={"id": "another"}))
        assert eventually(lambda: lines_of(begun))
        cancelled.set()

    # A caller that has cancelled gets the other caller's result if it is there in time.
    answer = first.result()
    if isinstance(answer, Failure):
        refused(answer, ErrorCode.CONFLICT)
    else:
        assert done(answer).request_id == "another"
    done(second.result())
    assert len(lines_of(begun)) == 2
    assert lines_of(work.module.root / "lines") == ["x"]
    assert kept(site) == 0


def test_what_has_failed_under_a_key_can_be_tried_again(site: Site) -> None:
    module = site.module()
    read = request(module, "read", path="a", idempotency_key="k")
    refused(site.runner.execute(read), ErrorCode.NOT_FOUND)

    (module.root / "a").write_text("a")

    assert done(site.runner.execute(read)).output["text"] == "a"


def test_unfetched_answers_are_found_and_failures_retried(site: Site) -> None:
    module = site.module()
    for action, expected in (("read", 0), ("list", 1)):
        work = request(module, action, idempotency_key=action, **({"path": "a"} if action == "read" else {}))
        left = _left_by_a_killed_sender(site, work)
        if action == "read":
            assert "not_found" in left
            (module.root / "a").write_text("a")

        result = done(site.runner.execute(work))

        assert result.replayed == bool(expected)
    assert kept(site) == 0


def _left_by_a_killed_sender(site: Site, work: ExecutionRequest) -> str:
    client = DurableClient(site.durable.url)
    id = _id_of(work)
    client.enqueue(EXECUTE, WorkMessage(request=work, wait_seconds=30).to_text(), queue=site.queue, id=id)
    eventually(lambda: client.find(id)[id].status == "SUCCESS")
    status = client.status(id)
    client.close()
    assert status is not None
    return str(status[1])


@pytest.mark.parametrize(
    ("durable", "key"),
    [pytest.param("sqlite", "k", marks=pytest.mark.soak), ("postgres", "k"), ("sqlite", None)],
    ids=["sqlite, with a key", "postgres, with a key", "sqlite, without"],
    indirect=["durable"],
)
def test_what_a_killed_worker_had_in_hand_is_done_by_another(quiet: Site, tmp_path: Path, key: str | None) -> None:
    module = quiet.module()
    first = quiet.worker(lease=5.0)
    begun, go = tmp_path / "begun", tmp_path / "go"
    script = f"echo x >> lines; echo $$ >> {begun}; until test -e {go}; do sleep 0.05; done; cat lines"
    results: list[Any] = []
    asked = request(module, "run", argv=["sh", "-c", script], idempotency_key=key)
    asking = threading.Thread(target=lambda: results.append(quiet.runner.execute(asked)))
    asking.start()
    assert eventually(lambda: lines_of(begun))

    second = quiet.worker(lease=5.0)
    first.kill()
    assert eventually(lambda: len(lines_of(begun)) == 2)
    go.touch()
    asking.join()

    result = done(results[0])
    assert result.worker is not None
    assert f":{second.pid}:" in result.worker
    assert lines_of(module.root / "lines") == (["x"] if key else ["x", "x"])
    second.kill()


def test_a_worker_that_is_told_to_stop_finishes_or_gives_back(file_site: Site, tmp_path: Path) -> None:
    module = file_site.module()
    first = file_site.worker(grace=2.0)
    begun = tmp_path / "begun"
    short = request(module, "run", argv=["sh", "-c", f"echo short >> {begun}; sleep 0.3; echo short"])
    long = request(
        module,
        "run",
        argv=["sh", "-c", f"echo long >> {begun}; test $(grep -c long {begun}) = 2 || sleep 60; echo long"],
    )
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(file_site.runner.execute, each) for each in (short, long)]
        assert eventually(lambda: len(lines_of(begun)) == 2)
        first.tell("stop")
        assert first.hear() == "ended"
        first.wait()
        second = file_site.worker()
        results = [done(each.result()) for each in answers]

    assert [each.output["stdout"] for each in results] == ["short\n", "long\n"]
    assert [f":{first.pid}:" in (each.worker or "") for each in results] == [True, False]
    assert sorted(lines_of(begun)) == ["long", "long", "short"]
    second.kill()


@pytest.mark.parametrize("durable", ["postgres"], indirect=True)
def test_another_worker_replaces_a_frozen_one(quiet: Site, tmp_path: Path) -> None:
    module = quiet.module()
    # The lease of the checking worker counts: this one never takes the other for dead.
    first = quiet.worker(lease=30.0)
    begun, go = tmp_path / "begun", tmp_path / "go"
    marker = f"0.{uuid4().int}"
    script = f"echo {marker} >> {begun}; until test -e {go}; do sleep 0.05; done; echo x >> lines"
    results: list[Any] = []
    asked = request(module, "run", argv=["sh", "-c", script])
    asking = threading.Thread(target=lambda: results.append(quiet.runner.execute(asked)))
    asking.start()
    assert eventually(lambda: lines_of(begun))

    first.send_signal(signal.SIGSTOP)
    second = quiet.worker(lease=1.0)
    assert eventually(lambda: len(lines_of(begun)) == 2)
    first.send_signal(signal.SIGCONT)
    # The worker that wakes up notices that it has lost the work, and ends it.
    assert eventually(lambda: len(_processes_with(marker)) <= 2)
    go.touch()
    asking.join()

    assert f":{second.pid}:" in (done(results[0]).worker or "")
    for each in (first, second):
        each.kill()


def test_work_that_has_ended_ten_workers_is_given_up(file_site: Site) -> None:
    answers: list[Any] = []
    asked = request(file_site.module(), "deadly", capabilities=())
    asking = threading.Thread(target=lambda: answers.append(file_site.runner.execute(asked)))
    asking.start()
    assert eventually(lambda: kept(file_site) == 1)
    change(file_site.durable, "UPDATE $workflow_status SET recovery_attempts = 10")
    file_site.worker().wait()
    file_site.worker()
    asking.join()

    assert "each worker" in refused(answers[0], ErrorCode.HANDLER_ERROR).message
    assert kept(file_site) == 0


def test_work_runs_in_a_process_of_its_own_on_the_worker(file_site: Site) -> None:
    worker = file_site.worker(subprocess=True)

    result = done(file_site.runner.execute(request(file_site.module(), "run", argv=["echo", "hello"])))

    assert (result.output["stdout"], result.runner) == ("hello\n", "queue")
    worker.kill()


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")], ids=repr)
@pytest.mark.parametrize("name", ["wait_seconds", "poll_interval"])
def test_a_runner_that_would_never_wait_is_refused(tmp_path: Path, name: str, seconds: float) -> None:
    options: dict[str, Any] = {name: seconds}

    with pytest.raises(ConfigurationError, match=name):
        QueueRunner(tmp_path / "queue.sqlite", READ_ONLY, **options)


def test_telemetry_is_told_on_the_senders_side(file_site: Site) -> None:
    told: list[ExecutionEvent] = []
    runner = file_site.sender(telemetry=[told.append], wait_seconds=0.2)

    runner.execute(request(file_site.module(), "list"))

    assert [(each.kind, each.runner, each.error) for each in told] == [
        ("started", "queue", None),
        ("failed", "queue", ErrorCode.UNAVAILABLE),
    ]
    runner.close()


def _processes_with(marker: str) -> list[str]:
    """Return the command lines of live processes with a marker."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = each.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if marker in text:
            found.append(text)
    return found


@pytest.mark.soak
def test_workers_killed_again_and_again_do_each_thing_once(durable: Durable, tmp_path: Path) -> None:
    """Kill random ones of three workers 60 times, while eight senders ask."""
    (tmp_path / "modules").mkdir()
    site = Site(durable, tmp_path / "modules", uuid4().hex)
    sender = site.sender(wait_seconds=120.0)
    workers = [site.worker(lease=3.0) for _ in range(3)]
    modules = [site.module() for _ in range(8)]
    stop = threading.Event()
    sent: list[list[str]] = [[] for _ in modules]
    retried = [0]

    def send(number: int) -> None:
        while not stop.is_set():
            line = f"{len(sent[number])}"
            script = f"echo {line} >> lines; sleep 0.0{number}"
            work = request(modules[number], "run", argv=["sh", "-c", script], idempotency_key=line, timeout=60)
            answer = sender.execute(work)
            if isinstance(answer, Failure):
                assert answer.failure().code in {ErrorCode.IDEMPOTENCY_IN_PROGRESS, ErrorCode.UNAVAILABLE}, answer
                retried[0] += 1
                continue
            sent[number].append(line)

    chance = Random(7)
    with ThreadPoolExecutor(len(modules)) as pool:
        sending = [pool.submit(send, number) for number in range(len(modules))]
        try:
            for _ in range(60):
                time.sleep(chance.uniform(0.1, 1.5))
                which = chance.randrange(len(workers))
                workers[which].kill()
                workers[which] = durable.begin("worker", modules=str(site.modules), queue=site.queue, lease=3.0)
        finally:
            stop.set()
        for each in sending:
            each.result()

    assert [lines_of(module.root / "lines") for module in modules] == sent
    assert kept(site) == 0
    print(f"{sum(map(len, sent))} pieces of work, {retried[0]} asked again")
    sender.close()
    for worker in workers:
        worker.kill()

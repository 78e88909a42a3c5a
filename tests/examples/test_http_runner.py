"""A runner over HTTP: what it is asked to do is signed, good once, and done behind the other side's own boundary."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from examples.http_runner import HttpRunner, Keys, Verifier, create_app
from examples.http_runner.server import MAX_BODY_BYTES
from examples.http_runner.signing import NONCE, SIGNATURE, TIMESTAMP, Refused
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from actionengine import Actor, Tenant
from actionengine.boundary.capabilities import CODE_MODULE_DEFAULT, READ_ONLY, Capability, CapabilityProfile
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.boundary.runner import Runner
from actionengine.boundary.subprocess_runner import SubprocessRunner
from tests.examples.conftest import until

ACME, GLOBEX = Tenant(UUID(int=1), "acme"), Tenant(UUID(int=2), "globex")
OLD, NEW = b"o" * 32, b"n" * 32
KEYS = Keys({"2026": NEW}, signs="2026")
PATH = "/executions"


class Clock:
    """A clock that the test can put forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@contextmanager
def serving(runner: Runner, roots: ModuleRoots, verifier: Verifier) -> Iterator[str]:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(16)
    server = uvicorn.Server(uvicorn.Config(create_app(runner, roots, verifier), log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@dataclass
class Worker:
    """A server with a module of each tenant, and who asks it."""

    url: str
    roots: ModuleRoots
    clock: Clock

    def runner(self, keys: Keys = KEYS, profile: CapabilityProfile = CODE_MODULE_DEFAULT) -> HttpRunner:
        return HttpRunner(self.url, keys, profile)

    def send(self, body: bytes, headers: dict[str, str], path: str = PATH) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", content=body, headers=headers, trust_env=False, timeout=120)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    roots = ModuleRoots(tmp_path_factory.mktemp("modules"))
    for tenant in (ACME, GLOBEX):
        root = roots.create(tenant, "site").root
        (root / "note.txt").write_text(f"of {tenant.slug}")
    roots.create(GLOBEX, "theirs")
    clock = Clock()
    verifier = Verifier(Keys({"2025": OLD, "2026": NEW}, signs="2026"), clock=clock)
    with serving(SubprocessRunner(CODE_MODULE_DEFAULT), roots, verifier) as url:
        yield Worker(url, roots, clock)


@pytest.fixture
def worker(shared: Worker) -> Worker:
    shared.clock.ahead = 0.0
    return shared


def work(action: str = "read", input: Any = None, *capabilities: str, **more: Any) -> ExecutionRequest:
    module = ModuleContext(id="site", root=Path("/nowhere/here"), tenant=more.get("tenant", ACME))
    fields: dict[str, Any] = {
        "tenant": ACME,
        "module": module,
        "action": action,
        "input": {"path": "note.txt"} if input is None else input,
        "capabilities": frozenset(map(Capability, capabilities or ("fs:read",))),
        "actor": Actor.workflow("escalation"),
        "timeout": 60.0,
    }
    return ExecutionRequest(**{**fields, **more})


def order(request: ExecutionRequest) -> bytes:
    return json.dumps(request.model_dump(mode="json", exclude={"module": {"root"}})).encode()


def refused(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


# Work


def test_work_is_done_in_the_servers_module_and_says_who_did_it(worker: Worker) -> None:
    answer = worker.runner().execute(work())
    assert isinstance(answer, Success)
    result = answer.unwrap()
    assert (result.output["text"], result.runner, result.worker) == ("of acme", "http", "127.0.0.1")


def test_the_asynchronous_way_gives_the_same(worker: Worker) -> None:
    answer = asyncio.run(worker.runner().execute_async(work()))
    assert answer.unwrap().output["text"] == "of acme"


def test_work_with_a_key_takes_effect_once(worker: Worker) -> None:
    root = worker.roots.context(ACME, "site").root
    append = work("run", {"argv": ["sh", "-c", "echo once >> log.txt"]}, "cmd:run", "fs:write", idempotency_key="k-1")
    first, second = (worker.runner().execute(append) for _ in range(2))
    assert (first.unwrap().replayed, second.unwrap().replayed) == (False, True)
    assert (root / "log.txt").read_text() == "once\n"


def test_what_the_work_fails_with_comes_back_as_it_is(worker: Worker) -> None:
    answer = worker.runner().execute(work(input={"path": "missing.txt"}))
    assert answer.failure().code == "not_found"


def test_a_path_that_leads_out_is_refused(worker: Worker) -> None:
    answer = worker.runner().execute(work(input={"path": "../../etc/passwd"}))
    assert answer.failure().code == "invalid_input"


# The boundary of the other side


def test_another_tenants_module_is_refused_on_both_sides(worker: Worker) -> None:
    theirs = ModuleContext(id="site", root=Path("/nowhere"), tenant=GLOBEX)
    asked = work(module=theirs)
    assert worker.runner().execute(asked).failure().details["refusal"] == "tenant_mismatch"
    body = order(asked)
    response = worker.send(body, KEYS.sign("POST", PATH, body))
    assert response.json()["error"]["details"]["refusal"] == "tenant_mismatch"
    assert response.status_code == 403


def test_a_module_that_only_another_tenant_has_is_not_there(worker: Worker) -> None:
    answer = worker.runner().execute(work(module=ModuleContext(id="theirs", root=Path("/nowhere"), tenant=ACME)))
    assert answer.failure().details["refusal"] == "missing_module"


def test_where_the_module_lies_is_not_the_askers_to_say(worker: Worker) -> None:
    document = json.loads(order(work()))
    document["module"]["root"] = "/"
    body = json.dumps(document).encode()
    assert refused(worker.send(body, KEYS.sign("POST", PATH, body)))[:2] == (400, "invalid_input")


def test_the_server_refuses_a_capability_outside_its_profile(tmp_path: Path) -> None:
    roots = ModuleRoots(tmp_path)
    roots.create(ACME, "site")
    with serving(SubprocessRunner(READ_ONLY), roots, Verifier(KEYS)) as url:
        asked = work("write", {"path": "a.txt", "text": "x"}, "fs:write")
        answer = HttpRunner(url, KEYS, CODE_MODULE_DEFAULT).execute(asked)
    assert answer.failure().details["refusal"] == "capability_not_granted"
    assert answer.failure().details["profile"] == "READ_ONLY"


def test_the_client_does_not_send_a_capability_it_lacks() -> None:
    answer = HttpRunner("http://127.0.0.1:1", KEYS, READ_ONLY).execute(work("run", {"argv": ["true"]}, "cmd:run"))
    assert answer.failure().details["refusal"] == "capability_not_granted"


# Signatures


@pytest.mark.parametrize(
    "keys", [Keys({"2026": b"x" * 32}, signs="2026"), Keys({"1999": NEW}, signs="1999")], ids=["secret", "key"]
)
def test_a_wrong_signature_is_refused(worker: Worker, keys: Keys) -> None:
    error = worker.runner(keys).execute(work()).failure()
    assert (error.code, error.message) == ("unauthenticated", "the signature is wrong")


def test_an_altered_body_is_refused(worker: Worker) -> None:
    headers = KEYS.sign("POST", PATH, order(work()))
    body = order(work(input={"path": "another.txt"}))
    assert refused(worker.send(body, headers)) == (401, "unauthenticated", "the signature is wrong")


@pytest.mark.parametrize("header", [TIMESTAMP, NONCE, SIGNATURE, "x-key-id"])
def test_a_request_without_one_of_the_headers_is_refused(worker: Worker, header: str) -> None:
    body = order(work())
    headers = KEYS.sign("POST", PATH, body)
    del headers[header]
    assert refused(worker.send(body, headers)) == (401, "unauthenticated", "the request is not signed")


def test_a_request_that_is_sent_again_is_refused(worker: Worker) -> None:
    body = order(work())
    headers = KEYS.sign("POST", PATH, body)
    assert worker.send(body, headers).status_code == 200
    worker.clock.ahead = 20.0
    assert refused(worker.send(body, headers)) == (401, "unauthenticated", "the nonce of the request was used before")
    worker.clock.ahead = 70.0
    assert "outside the window" in refused(worker.send(body, headers))[2]


@pytest.mark.parametrize("seconds", [-200, 200])
def test_a_request_of_another_time_is_refused(worker: Worker, seconds: int) -> None:
    body = order(work())
    response = worker.send(body, KEYS.sign("POST", PATH, body, at=time.time() + seconds))
    assert "outside the window" in refused(response)[2]


def test_while_keys_change_the_old_one_is_good_too(worker: Worker) -> None:
    assert isinstance(worker.runner(Keys({"2025": OLD}, signs="2025")).execute(work()), Success)
    assert isinstance(worker.runner(Keys({"2026": NEW}, signs="2026")).execute(work()), Success)


def test_a_body_that_is_too_long_is_refused(worker: Worker) -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    assert refused(worker.send(body, KEYS.sign("POST", PATH, body)))[:2] == (413, "invalid_input")


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b"\xff"], ids=["none", "text", "list", "empty", "bytes"]
)
def test_a_signed_body_that_is_no_request_is_refused(worker: Worker, body: bytes) -> None:
    assert refused(worker.send(body, KEYS.sign("POST", PATH, body)))[:2] == (400, "invalid_input")


@given(body=st.binary(max_size=40), place=st.integers(min_value=0, max_value=4), other=st.text(max_size=20))
def test_no_signed_part_can_be_another_one(body: bytes, place: int, other: str) -> None:
    verifier = Verifier(KEYS)
    headers = KEYS.sign("POST", PATH, body)
    parts: dict[int, Any] = {0: "POST", 1: PATH, 2: body}
    changed = other.encode() if place == 2 else other
    if place < 3:
        if changed == parts[place]:
            return
        parts[place] = changed
    else:
        name = (NONCE, TIMESTAMP)[place - 3]
        if headers[name] == other:
            return
        headers[name] = other
    with pytest.raises(Refused):
        verifier.check(parts[0], parts[1], headers, parts[2])


def test_nonces_are_forgotten_when_their_window_is_over() -> None:
    clock = Clock()
    verifier = Verifier(KEYS, clock=clock)
    for minute in range(20):
        clock.ahead = minute * 60.0
        verifier.check("POST", PATH, KEYS.sign("POST", PATH, b"", at=clock()), b"")
    assert len(verifier._seen) <= 3


def test_of_many_who_send_one_request_at_once_one_is_let_in() -> None:
    verifier, headers, let_in = Verifier(KEYS), KEYS.sign("POST", PATH, b""), []

    def send() -> None:
        with suppress(Refused):
            let_in.append(verifier.check("POST", PATH, headers, b""))

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert let_in == ["2026"]


def test_a_short_secret_is_refused_and_no_secret_is_shown() -> None:
    with pytest.raises(ValueError, match="it needs 32"):
        Keys({"a": b"short"}, signs="a")
    with pytest.raises(ValueError, match="to sign with"):
        Keys({"a": OLD}, signs="b")
    assert "ooo" not in repr(Keys({"a": OLD}, signs="a"))


# When something goes away


def test_a_server_that_is_gone_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    answer = HttpRunner(f"http://127.0.0.1:{port}", KEYS, CODE_MODULE_DEFAULT).execute(work())
    assert answer.failure().code == "unavailable"


def test_a_server_that_hangs_up_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(100)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        answer = HttpRunner(f"http://127.0.0.1:{listening.getsockname()[1]}", KEYS, CODE_MODULE_DEFAULT).execute(work())
        thread.join()
    assert answer.failure().code == "unavailable"


def test_an_answer_that_is_none_is_unavailable(worker: Worker) -> None:
    answer = HttpRunner(f"{worker.url}/elsewhere", KEYS, CODE_MODULE_DEFAULT).execute(work())
    assert answer.failure().code == "unavailable"
    assert answer.failure().details["status"] == 404


def sleepers(mark: str) -> list[str]:
    """The processes that have this mark in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def sleep_for(mark: str) -> ExecutionRequest:
    return work("run", {"argv": ["sh", "-c", f"sleep 100; : {mark}"]}, "cmd:run")


def test_cancelling_ends_the_work_on_the_other_side(worker: Worker) -> None:
    cancelled, answers = threading.Event(), []
    thread = threading.Thread(
        target=lambda: answers.append(worker.runner().execute(sleep_for("cancelled-one"), cancelled=cancelled))
    )
    thread.start()
    until(lambda: sleepers("cancelled-one"))
    cancelled.set()
    thread.join()
    assert isinstance(answers[0], Failure)
    assert answers[0].failure().details["cancelled"] is True
    until(lambda: not sleepers("cancelled-one"))


def test_cancelling_a_task_ends_the_work_on_the_other_side(worker: Worker) -> None:
    async def begin_and_cancel() -> None:
        task = asyncio.create_task(worker.runner().execute_async(sleep_for("cancelled-task")))
        await asyncio.to_thread(until, lambda: sleepers("cancelled-task"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(begin_and_cancel())
    until(lambda: not sleepers("cancelled-task"))


def test_who_hangs_up_ends_the_work(worker: Worker) -> None:
    body = order(sleep_for("hung-up"))
    connection = http.client.HTTPConnection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    connection.request("POST", PATH, body, KEYS.sign("POST", PATH, body))
    until(lambda: sleepers("hung-up"))
    connection.close()
    until(lambda: not sleepers("hung-up"))


def test_work_that_takes_too_long_is_ended_by_the_other_side(worker: Worker) -> None:
    answer = worker.runner().execute(sleep_for("too-long").model_copy(update={"timeout": 1.5}))
    assert answer.failure().code == "timeout"
    until(lambda: not sleepers("too-long"))

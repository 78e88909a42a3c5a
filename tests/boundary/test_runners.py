"""The runners in this process and in subprocesses give the same answers, and leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from actionengine.boundary.capabilities import CODE_MODULE_DEFAULT, READ_ONLY, SYSTEM_PRIVILEGED, CapabilityProfile
from actionengine.boundary.commands.processes import ProcessLimits, network_isolation
from actionengine.boundary.in_process import InProcessRunner
from actionengine.boundary.runner import BoundaryRunner
from actionengine.boundary.subprocess_runner import SubprocessRunner
from actionengine.boundary.telemetry import ExecutionEvent
from actionengine.context import Tenant
from actionengine.errors import ConfigurationError, ErrorCode
from tests.boundary.modules import asking, error, result
from tests.boundary.processes import alive
from tests.boundary.runner_actions import ACTIONS
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.usefixtures("no_child_is_left"),
]

MakeRunner = Callable[..., BoundaryRunner]


def in_process(profile: CapabilityProfile = SYSTEM_PRIVILEGED, **options: Any) -> BoundaryRunner:
    return InProcessRunner(profile, ACTIONS, **options)


def in_subprocess(profile: CapabilityProfile = SYSTEM_PRIVILEGED, **options: Any) -> BoundaryRunner:
    return SubprocessRunner(profile, "tests.boundary.runner_actions:ACTIONS", **options)


@pytest.fixture(params=[in_process, in_subprocess], ids=["in_process", "subprocess"])
def make(request: pytest.FixtureRequest) -> MakeRunner:
    made: MakeRunner = request.param
    return made


def test_a_handler_gets_its_input_and_its_module(make: MakeRunner, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root is relative to this process."""
    monkeypatch.chdir(root.parent)
    runner = make()
    request = asking(Path("module"), "appends", "fs:read", "fs:write", text="hello")

    done = result(runner.execute(request))

    assert (done.output, (root / "file").read_text()) == ("hello", "hello")
    assert (done.request_id, done.action, done.runner) == (request.id, "appends", runner.name)
    assert not done.replayed


def test_the_actions_of_the_library_are_the_default(root: Path) -> None:
    for runner in (InProcessRunner(CODE_MODULE_DEFAULT), SubprocessRunner(CODE_MODULE_DEFAULT)):
        request = asking(root, "run", "cmd:run", argv=["sh", "-c", "pwd; exit 3"])

        output = result(runner.execute(request)).output

        assert (output["exit_code"], output["stdout"]) == (3, f"{root}\n")


# The boundary


def test_the_boundary_refuses_as_a_failure_that_names_the_reason(make: MakeRunner, root: Path) -> None:
    runner = make(READ_ONLY)
    other = Tenant(id=uuid4(), slug="other")
    (root.parent / "outside").write_text("secret")
    refusals = {
        "missing_tenant": asking(root, "echo", tenant=None),
        "missing_module": asking(root, "echo", module=None),
        "tenant_mismatch": asking(root, "echo", tenant=other),
        "capability_not_granted": asking(root, "echo", "cmd:run"),
        "path_escape": asking(root, "read", "fs:read", path="../outside"),
    }

    assert {reason: error(runner.execute(each)).details["refusal"] for reason, each in refusals.items()} == {
        reason: reason for reason in refusals
    }


def test_what_is_found_out_while_working_is_a_refusal_as_well(make: MakeRunner, root: Path) -> None:
    (root / "link").symlink_to("/etc/passwd")
    gone = asking(root / "gone", "list", "fs:read")

    assert error(make().execute(asking(root, "read", "fs:read", path="link"))).details["refusal"] == "path_escape"
    assert error(in_process().execute(gone)).details["refusal"] == "missing_module"


def test_the_process_of_the_work_checks_the_boundary_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = in_subprocess()
    request = asking(root, "echo", "cmd:run")
    admitted = runner.boundary.admit(request)
    monkeypatch.setattr(runner.boundary, "profile", READ_ONLY)
    monkeypatch.setattr(runner.boundary, "admit", lambda request: admitted)

    assert error(runner.execute(request)).details["refusal"] == "capability_not_granted"


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "no.such.module:ACTIONS",
        "tests.boundary.runner_actions:NOTHING",
        "tests.boundary.runner_actions:NOT_ACTIONS",
        "tests.boundary.runner_actions:NOT_MANY",
    ],
)
def test_actions_that_cannot_be_imported_are_refused_at_once(path: str) -> None:
    with pytest.raises(ConfigurationError, match=path):
        SubprocessRunner(READ_ONLY, path)


@pytest.mark.parametrize("make", [InProcessRunner, SubprocessRunner])
def test_what_is_no_profile_is_refused_when_the_runner_is_made(make: Any) -> None:
    with pytest.raises(ConfigurationError, match="a CapabilityProfile, such as READ_ONLY, not 'READ_ONLY'"):
        make("READ_ONLY")


# Outputs of handlers


def test_an_exception_of_a_handler_is_not_shown(make: MakeRunner, root: Path) -> None:
    told = error(make().execute(asking(root, "raises")))

    assert told.code is ErrorCode.HANDLER_ERROR
    assert "swordfish" not in str(told.to_dict())


@pytest.mark.parametrize(
    ("what", "output"),
    [
        ("model", {"text": "model", "number": 0, "path": "file"}),
        ("infinite", None),
        ("object", ErrorCode.INTERNAL),
        ("surrogate", ErrorCode.INTERNAL),
        ("bytes", ErrorCode.INTERNAL),
    ],
)
def test_what_a_handler_returns_has_to_be_json(root: Path, what: str, output: object) -> None:
    answer = in_process().execute(asking(root, "gives", text=what))

    assert (error(answer).code if isinstance(output, ErrorCode) else result(answer).output) == output


def test_an_answer_can_be_larger_than_what_commands_may_print(make: MakeRunner, root: Path) -> None:
    runner = make(limits=ProcessLimits(output_bytes=1000))

    assert len(result(runner.execute(asking(root, "gives", text="long", number=5_000_000))).output) == 5_000_000


def test_what_a_handler_prints_is_not_its_answer(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "actionengine"):
        answer = in_subprocess().execute(asking(root, "prints", text="it"))

    assert result(answer).output == "answer"
    for line in ("printed it", "written", "said", "more"):
        assert line in caplog.text


def test_a_handler_does_not_get_our_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "swordfish")

    output = result(in_subprocess(environment={"GIVEN": "yes"}).execute(asking(root, "echo"))).output

    assert {"GIVEN", "HOME", "PATH"} <= set(output["environment"])
    assert "OUR_SECRET" not in output["environment"]
    assert output["process"] != os.getpid()


def test_a_handler_that_ends_its_process_has_failed(root: Path) -> None:
    endings = [("exit", 0), ("signal", 11), ("signal", signal.SIGXCPU)]

    told = [error(in_subprocess().execute(asking(root, "exits", text=how, number=number))) for how, number in endings]

    assert {each.code for each in told} == {ErrorCode.HANDLER_ERROR}
    assert [each.details["exit_code"] for each in told] == [0, -signal.SIGSEGV, -signal.SIGXCPU]
    assert "CPU" in told[-1].message


def test_a_thread_that_a_handler_leaves_is_not_waited_for(root: Path) -> None:
    assert result(in_subprocess().execute(asking(root, "threads"))).output == "done"


# Time and cancellation


def test_work_that_is_too_long_is_ended(root: Path) -> None:
    request = asking(root, "sleeps", "fs:read", "cmd:run", text="CMD", timeout=0.2)

    told = error(in_process().execute(request))

    assert (told.code, told.details) == (ErrorCode.TIMEOUT, {"request_id": request.id, "timeout": 0.2})


def test_a_subprocess_is_ended_with_all_that_it_started(root: Path, marker: str) -> None:
    request = asking(root, "sleeps", "fs:read", "cmd:run", text="CMD", number=5, timeout=1.0)

    told = error(in_subprocess(environment={"MARKER": marker}).execute(request))

    assert (told.code, told.details) == (ErrorCode.TIMEOUT, {"request_id": request.id, "timeout": 1.0})
    assert alive(marker) == []


def test_a_handler_that_never_calls_its_work_is_late_in_the_end(root: Path) -> None:
    told = error(in_process().execute(asking(root, "late", number=200, timeout=0.1)))

    assert told.code is ErrorCode.TIMEOUT


@pytest.mark.parametrize(
    ("make", "text", "seconds"),
    [
        pytest.param(in_process, "", 0.1, id="in_process, Python"),
        pytest.param(in_process, "CMD", 0.1, id="in_process, a command"),
        pytest.param(in_subprocess, "CMD", 0.6, id="subprocess"),
    ],
)
def test_work_is_cancelled_from_another_thread(make: MakeRunner, root: Path, text: str, seconds: float) -> None:
    cancelled = threading.Event()
    request = asking(root, "sleeps", "fs:read", "cmd:run", text=text)
    timer = threading.Timer(seconds, cancelled.set)
    timer.start()

    told = error(make().execute(request, cancelled=cancelled))

    timer.join()
    assert (told.code, told.details) == (ErrorCode.CONFLICT, {"request_id": request.id, "cancelled": True})


def test_work_that_was_cancelled_before_it_began_is_not_begun(make: MakeRunner, root: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()

    told = error(make().execute(asking(root, "appends", "fs:read", "fs:write", text="x"), cancelled=cancelled))

    assert told.code is ErrorCode.CONFLICT
    assert list(root.iterdir()) == []


def test_cancelling_a_task_cancels_its_work(make: MakeRunner, root: Path, marker: str) -> None:
    async def main() -> None:
        request = asking(root, "run", "cmd:run", argv=["sleep", "1000"], environment={"MARKER": marker})
        task = asyncio.create_task(make().execute_async(request))
        while not alive(marker):
            assert not task.done(), task.result()
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert alive(marker) == []

    asyncio.run(main())


def test_under_an_event_loop_the_answers_are_the_same(make: MakeRunner, root: Path) -> None:
    async def main() -> Any:
        runner = make()
        requests = [asking(root, "gives", text="model"), asking(root, "raises", text="unprocessable", number=7)]
        return await asyncio.gather(*map(runner.execute_async, requests))

    done, failed = asyncio.run(main())

    assert result(done).output["text"] == "model"
    told = error(failed)
    assert (told.code, told.message, told.details) == (ErrorCode.UNPROCESSABLE, "as told", {"number": 7})


@pytest.mark.soak
def test_when_we_are_killed_the_work_is_ended(root: Path, marker: str) -> None:
    request = asking(root, "sleeps", "fs:read", "cmd:run", text="CMD", number=3)
    host = f"""
from actionengine.boundary.request import ExecutionRequest
from tests.boundary.test_runners import in_subprocess
runner = in_subprocess(environment={{"MARKER": {marker!r}}})
runner.execute(ExecutionRequest.model_validate_json({request.model_dump_json()!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    process = subprocess.Popen((sys.executable, "-c", host), env=environment)
    wait_until(lambda: len(alive(marker)) >= 4)

    process.kill()
    process.wait()

    wait_until(lambda: not alive(marker))


# Networks


def test_a_network_is_reached_with_the_capability_only(root: Path) -> None:
    if network_isolation() == "none":
        pytest.skip("this system cannot keep work off the network")
    runner = in_subprocess(require_isolation=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        without = result(runner.execute(asking(root, "connects", "cmd:run", number=port)))
        having = result(runner.execute(asking(root, "connects", "cmd:run", "net:http", number=port)))

    assert (without.output, without.network) == ({"handler": False, "command": False}, "isolated")
    assert (having.output, having.network) == ({"handler": True, "command": True}, "granted")


def test_in_process_the_network_is_told_of_commands(root: Path) -> None:
    runner = in_process()
    expected = "not_enforced" if network_isolation() == "none" else "isolated"

    assert result(runner.execute(asking(root, "echo"))).network == "not_needed"
    assert result(runner.execute(asking(root, "run", "cmd:run", argv=["true"]))).network == expected
    assert result(runner.execute(asking(root, "run", "cmd:run", "net:http", argv=["true"]))).network == "granted"


# Idempotency keys


def test_with_a_key_the_work_takes_effect_once(make: MakeRunner, root: Path) -> None:
    request = asking(root, "appends", "fs:read", "fs:write", text="x", idempotency_key="key")
    runner = make()

    first, second = result(runner.execute(request)), result(runner.execute(request))

    assert (first.output, second.output, (root / "file").read_text()) == ("x", "x", "x")
    assert (first.replayed, second.replayed) == (False, True)
    assert (first.runner, second.runner) == (runner.name, runner.name)


def test_keyed_work_that_times_out_has_no_effect(root: Path) -> None:
    argv = ["sh", "-c", "echo x >> file; sleep 1000"]
    request = asking(root, "run", "cmd:run", argv=argv, idempotency_key="key", timeout=1.0)

    told = error(in_subprocess().execute(request))

    assert told.code is ErrorCode.TIMEOUT
    assert list(root.iterdir()) == []


# Telemetry, and many at once


def test_sinks_are_told_and_one_that_raises_is_no_trouble(root: Path) -> None:
    events: list[ExecutionEvent] = []

    def breaks(event: ExecutionEvent) -> None:
        raise RuntimeError("no room")

    runner = in_process(telemetry=(breaks, events.append))
    result(runner.execute(asking(root, "echo")))
    error(runner.execute(asking(root, "echo", tenant=None)))

    assert [(each.kind, each.error, each.refusal, each.runner) for each in events] == [
        ("started", None, None, runner.name),
        ("completed", None, None, runner.name),
        ("started", None, None, runner.name),
        ("failed", ErrorCode.INVALID_INPUT, "missing_tenant", runner.name),
    ]


@pytest.mark.parametrize(
    ("make_many", "count"), [(in_process, 10), (in_subprocess, 2)], ids=["in_process", "subprocess"]
)
def test_many_threads_leave_nothing(make_many: MakeRunner, count: int, root: Path) -> None:
    runner = make_many()
    before = set(os.listdir("/proc/self/fd"))

    def one(number: int) -> None:
        asked = asking(root, "run", "cmd:run", argv=["sh", "-c", f"sleep 99 & echo {number}"])
        assert result(runner.execute(asked)).output["stdout"] == f"{number}\n"

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(count)))

    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_request_that_has_no_time_left_is_a_timeout(make: MakeRunner, root: Path) -> None:
    started = time.monotonic()

    told = error(make().execute(asking(root, "echo", timeout=1e-9)))

    assert told.code is ErrorCode.TIMEOUT
    assert time.monotonic() - started < 50

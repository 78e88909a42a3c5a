"""Concurrent work in one module, and missing permissions in it: nothing is lost or stuck."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from actionengine.boundary.capabilities import READ_ONLY, SYSTEM_PRIVILEGED
from actionengine.boundary.declarations import ModuleAction, create_module_action
from actionengine.boundary.idempotency.journal import Journal
from actionengine.boundary.idempotency.run_once import run_once
from actionengine.boundary.in_process import InProcessRunner
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from tests.boundary.modules import admit, do, perform, work_in
from tests.boundary.runner_actions import Input

PROJECT = Path(__file__).parents[2]
ROUNDS = 6
_UNPERMITTED = """
import os, sys
from pathlib import Path
from actionengine.errors import ActionError
from actionengine.boundary.idempotency.run_once import run_once
from tests.boundary.modules import admit, perform

root = Path(sys.argv[1], "site")

def keyed(key, path, root=root):
    try:
        return run_once(admit(root, "write", {"path": path, "text": "x"}, idempotency_key=key), perform).output["size"]
    except ActionError as refusal:
        return refusal.code.value

keyed("one", "what is imported when it is first used", Path(sys.argv[1], "first"))
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print(keyed("one", "theirs/file"), keyed("two", "theirs/made/file"), keyed("three", "file"))
print(os.listdir(root / "theirs"))
"""


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """Return the results or errors of calls that start together."""
    barrier = threading.Barrier(len(tasks))

    def begin(task: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return task()
        except ActionError as refusal:
            return refusal.code

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(begin, tasks))


def write_expecting(root: Path, text: str, expected: str) -> Any:
    input = {"path": "file", "text": text, "expected_sha256": expected}
    return perform(admit(root, "write", input, capabilities=("fs:read", "fs:write"))).output


def keyed_command(root: Path, key: str, *argv: str) -> Any:
    return run_once(admit(root, "run", {"argv": argv}, idempotency_key=key), perform)


def test_two_edits_of_one_file_at_once_both_stand(root: Path) -> None:
    first = "--- a/file\n+++ b/file\n@@ -1 +1 @@\n-a\n+A\n"
    last = "--- a/file\n+++ b/file\n@@ -8 +8 @@\n-h\n+H\n"
    for _ in range(ROUNDS):
        (root / "file").write_text("a\nb\nc\nd\ne\nf\ng\nh\n")

        at_once(*[lambda diff=diff: do(root, "edit_file", path="file", diff=diff) for diff in (first, last)])

        assert (root / "file").read_text() == "A\nb\nc\nd\ne\nf\ng\nH\n"


@pytest.mark.parametrize("before", [b"before", None])
def test_one_of_two_writes_expecting_a_file_is_a_conflict(root: Path, before: bytes | None) -> None:
    expected = "absent" if before is None else sha256(before).hexdigest()
    for _ in range(ROUNDS):
        if before is not None:
            (root / "file").write_bytes(before)
        else:
            (root / "file").unlink(missing_ok=True)

        answers = at_once(*[lambda text=text: write_expecting(root, text, expected) for text in "12"])

        assert answers.count(ErrorCode.CONFLICT) == 1


def test_work_that_waits_for_a_lock_ends_in_time(root: Path) -> None:
    with work_in(root) as holder, holder.exclusive(), holder.exclusive():
        with work_in(root, seconds=0.1) as late, pytest.raises(ActionError, match="longer than"):
            late.write("file", "x")
        cancelled = threading.Event()
        with work_in(root, cancelled=cancelled) as work:
            threading.Timer(0.1, cancelled.set).start()
            with pytest.raises(ActionError, match="cancelled"):
                work.delete("file")
        holder.write("file", "y")

    do(root, "write", path="file", text="z")

    assert (root / "file").read_text() == "z"


def test_keyed_work_and_edits_at_once_lose_nothing(root: Path) -> None:
    edit = "--- a/file\n+++ b/file\n@@ -8 +8 @@\n-h\n+H\n"
    for number in range(ROUNDS):
        (root / "file").write_text("a\nb\nc\nd\ne\nf\ng\nh\n")
        keyed, _ = at_once(
            partial(keyed_command, root, f"{number}", "sed", "-i", "1s/a/A/", "file"),
            lambda: do(root, "edit_file", path="file", diff=edit),
        )

        first = "a" if keyed is ErrorCode.CONFLICT else "A"
        assert (root / "file").read_text() == f"{first}\nb\nc\nd\ne\nf\ng\nH\n"


def test_a_fork_of_the_host_does_not_hold_a_modules_locks(root: Path) -> None:
    journal = Journal(root)
    request = admit(root, "list", timeout=60.0).request
    with journal.lock(request), work_in(root) as work, work.exclusive():
        fork = os.fork()
        if fork == 0:
            time.sleep(600)
            os._exit(0)
    try:
        with journal.lock(request), work_in(root, seconds=60.0) as work:
            work.write("file", "x")
    finally:
        os.kill(fork, 9)
        os.waitpid(fork, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes folders of another user")
def test_keyed_work_in_a_foreign_folder_is_refused_harmlessly() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "site", "site/theirs"):
            os.mkdir(f"{folder}/{name}")
        for place in (folder, f"{folder}/site"):
            os.chown(place, 65534, 65534)
        command = (sys.executable, "-c", _UNPERMITTED, folder)
        told = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert told == "forbidden forbidden 1\n[]\n"


def test_keyed_work_reaches_a_mounted_file_system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def across(source: Any, target: Any, **folders: Any) -> None:
        if set(folders) == {"dst_dir_fd"}:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", across)
    (root / "gone").write_text("x")

    keyed_command(root, "one", "sh", "-c", "echo x > tool; chmod 750 tool; ln -s tool link; rm gone")

    assert sorted(os.listdir(root)) == ["link", "tool"]
    assert (root / "tool").stat().st_mode & 0o777 == 0o750
    assert os.readlink(root / "link") == "tool"
    assert (root / "link").read_text() == "x\n"


def test_an_action_that_writes_with_fs_write_takes_effect_once(root: Path) -> None:
    def act(data: Input, work: ModuleHandle) -> None:
        work.write("file", "x")
        raise RuntimeError

    action = create_module_action(name="act", description="Acts.", validation=Input, handler=act, capabilities=())
    admitted = admit(root, "act", capabilities=["fs:write"], actions=[action], idempotency_key="one")

    with pytest.raises(RuntimeError):
        run_once(admitted, perform)

    assert os.listdir(root) == []


def test_errors_of_the_journal_do_not_tell_where_modules_lie(root: Path) -> None:
    journal = Journal(root)
    journal.folder.mkdir()
    (journal.folder / "lock").mkdir()

    with pytest.raises(ActionError) as caught:
        run_once(admit(root, "list", idempotency_key="one"), perform)

    assert str(root.parent) not in str(caught.value.to_dict())


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError()], ids=["exit", "cancelled"])
def test_no_exception_of_a_handler_or_sink_ends_the_host(root: Path, raised: BaseException) -> None:
    def act(data: Any, work: ModuleHandle) -> None:
        raise raised

    seen: list[str] = []

    def sink(event: Any) -> None:
        seen.append(event.kind)
        raise raised

    action = create_module_action(name="act", description="Acts.", validation=Input, handler=act, capabilities=())
    runner = InProcessRunner(SYSTEM_PRIVILEGED, [*MODULE_ACTIONS, action], telemetry=[sink])

    failed = runner.execute(admit(root, "act", actions=[action]).request)
    done = asyncio.run(runner.execute_async(admit(root, "list").request))

    assert failed.failure().code is ErrorCode.HANDLER_ERROR
    assert done.unwrap().output["entries"] == []
    assert seen == ["started", "failed", "started", "completed"]


class Odd(BaseException):
    """The exceptions that end more than their own code."""


@pytest.mark.parametrize("raised", [Odd(), GeneratorExit()], ids=["odd", "generator"])
def test_an_error_of_a_sink_leaves_work_and_other_sinks_alone(root: Path, raised: BaseException) -> None:
    def sink(event: Any) -> None:
        raise raised

    seen: list[Any] = []
    runner = InProcessRunner(SYSTEM_PRIVILEGED, telemetry=[sink, seen.append])

    done = runner.execute(admit(root, "list").request)

    assert done.unwrap().output["entries"] == []
    assert [event.kind for event in seen] == ["started", "completed"]


@pytest.mark.parametrize("raised", [Odd(), KeyboardInterrupt()], ids=["odd", "interrupt"])
def test_work_that_is_interrupted_is_told_to_have_failed(root: Path, raised: BaseException) -> None:
    def act(data: Any, work: ModuleHandle) -> None:
        raise raised

    seen: list[Any] = []
    action = create_module_action(name="act", description="Acts.", validation=Input, handler=act, capabilities=())
    runner = InProcessRunner(READ_ONLY, [action], telemetry=[seen.append])

    with pytest.raises(type(raised)):
        runner.execute(admit(root, "act", actions=[action]).request)

    assert [(event.kind, event.error) for event in seen] == [("started", None), ("failed", ErrorCode.HANDLER_ERROR)]


class AsyncSink:
    async def __call__(self, event: Any) -> None: ...


async def async_sink(event: Any) -> None: ...


@pytest.mark.parametrize("sink", [async_sink, AsyncSink(), "no sink"], ids=["function", "object", "text"])
def test_a_sink_that_nobody_would_wait_for_is_refused(sink: Any) -> None:
    with pytest.raises(ConfigurationError, match="telemetry sink"):
        InProcessRunner(READ_ONLY, telemetry=[sink])


def test_much_work_leaves_the_event_loops_threads_to_others(root: Path) -> None:
    go_on = threading.Event()

    def act(data: Any, work: ModuleHandle) -> None:
        go_on.wait(120)

    action: ModuleAction = create_module_action(
        name="act", description="Acts.", validation=Input, handler=act, capabilities=()
    )
    runner = InProcessRunner(READ_ONLY, [action])
    request = admit(root, "act", actions=[action]).request

    async def ask() -> int:
        works = [asyncio.ensure_future(runner.execute_async(request)) for _ in range(40)]
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(asyncio.to_thread(lambda: 1), 60)
        finally:
            go_on.set()
            await asyncio.gather(*works)

    assert asyncio.run(ask()) == 1


def test_an_async_handler_is_refused_where_it_is_declared() -> None:
    async def act(data: Any, work: ModuleHandle) -> None: ...

    with pytest.raises(ConfigurationError, match="async def"):
        create_module_action(name="act", description="Acts.", validation=Input, handler=act, capabilities=())


def test_keyed_work_can_be_cancelled_during_the_copy(root: Path) -> None:
    (root / "file").write_text("x")
    cancelled = threading.Event()
    cancelled.set()
    admitted = admit(root, "run", {"argv": ["true"]}, idempotency_key="one")

    def never(admitted: Any) -> Any:
        raise AssertionError

    with pytest.raises(ActionError, match="cancelled"):
        run_once(admitted, never, cancelled=cancelled)

    assert sorted(os.listdir(Journal(root).folder)) == ["done", "lock", "purge"]
    assert os.listdir(Journal(root).folder / "done") == []

"""Commands get only their own environment, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from actionengine.boundary.commands.processes import IsolationMethod, ProcessLimits, run_process
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.processes import DAEMONS, PYTHON, alive, children, insist_on, python, refused, run
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.usefixtures("no_child_is_left"),
]

# The environment of a command


def test_a_command_runs_in_its_folder_and_says_how_it_ended(any_means: IsolationMethod, tmp_path: Path) -> None:
    finished = run("sh", "-c", "cat; pwd; echo oops >&2; exit 3", folder=str(tmp_path), stdin=b"in ")

    assert (finished.exit_code, finished.stdout, finished.stderr) == (3, f"in {tmp_path}\n".encode(), b"oops\n")
    assert finished.network == ("not_enforced" if any_means == "none" else "isolated")
    assert finished.limit is None


def test_a_folder_can_be_a_descriptor_which_stays_open(means: IsolationMethod, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    finished = run("sh", "-c", "pwd; echo made > file", folder=descriptor)

    assert finished.stdout.decode().strip() == str(tmp_path)
    assert os.listdir(descriptor) == ["file"]
    assert os.stat("file", dir_fd=descriptor).st_uid == os.geteuid()
    os.close(descriptor)


def test_nothing_of_our_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "swordfish")

    lines = run("env", environment={"GIVEN": "yes"}).stdout.decode().splitlines()

    assert sorted(line.partition("=")[0] for line in lines) == ["GIVEN", "HOME", "LANG", "PATH", "TMPDIR"]


def test_our_environment_is_not_in_proc_either(monkeypatch: pytest.MonkeyPatch) -> None:
    insist_on("namespace", monkeypatch)
    holder = subprocess.Popen(("sleep", "60"), env={"OUR_SECRET": "swordfish"})
    try:
        finished = run("sh", "-c", f"cat /proc/{holder.pid}/environ /proc/[0-9]*/environ")
    finally:
        holder.kill()
        holder.wait()

    assert b"swordfish" not in finished.stdout


def test_the_home_of_a_command_is_empty_and_gone_afterwards(means: IsolationMethod, temporary: Path) -> None:
    finished = run(
        "sh", "-c", 'echo "$HOME"; ls -A ~; ls -A "$TMPDIR"; mkdir ~/x; touch ~/x/y "$TMPDIR/z"; chmod 0 ~/x'
    )

    (home,) = finished.stdout.decode().splitlines()
    assert Path(home).is_relative_to(temporary)
    assert os.listdir(temporary) == []


DIG = """
import os
os.chdir(os.environ["TMPDIR"])
for _ in range(1500):
    os.mkdir("d", 0o700)
    os.chdir("d")
os.chmod(".", 0)
os.chdir("/")
"""


def test_a_folder_of_any_depth_is_gone_afterwards(temporary: Path) -> None:
    assert python(DIG).exit_code == 0
    assert os.listdir(temporary) == []


_OF_THE_C_LIBRARY = 0b11 << 31
"""Signals 32 and 33, which programs cannot set: a command inherits them from the start of the test run."""


def test_a_command_inherits_no_descriptors_and_no_signal_masks(means: IsolationMethod) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        finished = run("sh", "-c", "ls /proc/$$/fd; grep -E 'SigBlk|SigIgn|NoNewPrivs' /proc/self/status", stdin=b"x")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGUSR2, before)
        os.close(reading)
        os.close(writing)

    words = finished.stdout.decode().split()
    assert words[:3] == ["0", "1", "2"]
    assert words[3::2] == ["SigBlk:", "SigIgn:", "NoNewPrivs:"]
    blocked, ignored, no_new_privileges = (int(word, 16) for word in words[4::2])
    assert (blocked & ~_OF_THE_C_LIBRARY, ignored & ~_OF_THE_C_LIBRARY, no_new_privileges) == (0, 0, 1)


def test_a_command_has_a_session_of_its_own(means: IsolationMethod) -> None:
    finished = python("import os; print(os.getsid(0) == os.getpgrp() == os.getpid())")

    assert finished.stdout == b"True\n"


def test_what_a_command_does_not_read_is_no_trouble(means: IsolationMethod) -> None:
    assert run("true", stdin=b"x" * 3_000_000).exit_code == 0
    assert run("sh", "-c", "exec 0<&-; exit 4", stdin=b"x" * 3_000_000).exit_code == 4


def test_a_host_may_have_closed_its_own_streams(tmp_path: Path) -> None:
    told = tmp_path / "told"
    host = f"""
import os
from actionengine.boundary.commands.processes import run_process
for closed in ((0,), (1, 2), (0, 1, 2)):
    if os.fork() == 0:
        for number in closed:
            os.close(number)
        finished = run_process(("sh", "-c", "cat; echo err >&2"), folder="/", timeout=60, stdin=b"in")
        with open({str(told)!r}, "a") as file:
            print(finished.stdout, finished.stderr, file=file)
        os._exit(0)
    os.wait()
"""
    subprocess.run((sys.executable, "-c", host), check=True)

    assert told.read_text() == "b'in' b'err\\n'\n" * 3


def test_a_lot_goes_in_and_out() -> None:
    text = os.urandom(3_000_000)

    assert run("cat", stdin=text, limits=ProcessLimits(output_bytes=3_000_000)).stdout == text


# Commands that cannot run


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(("no-such-program",), ErrorCode.UNPROCESSABLE, id="missing"),
        pytest.param(("./no/such",), ErrorCode.UNPROCESSABLE, id="missing path"),
        pytest.param(("/tmp",), ErrorCode.UNPROCESSABLE, id="folder"),
        pytest.param((), ErrorCode.UNPROCESSABLE, id="nothing"),
        pytest.param(("",), ErrorCode.UNPROCESSABLE, id="empty"),
        pytest.param("true", ErrorCode.UNPROCESSABLE, id="text"),
        pytest.param(("true", "a\0b"), ErrorCode.UNPROCESSABLE, id="NUL"),
        pytest.param(("true", "x" * 5_000_000), ErrorCode.UNPROCESSABLE, id="too long"),
    ],
)
def test_what_cannot_be_run_is_refused(argv: Any, code: ErrorCode) -> None:
    with pytest.raises(ActionError) as caught:
        run_process(argv, folder="/", timeout=10.0)

    assert caught.value.code is code


@pytest.mark.parametrize("environment", [{"A=B": "x"}, {"": "x"}, {"A": "x\0"}], ids=["equals", "empty", "NUL"])
def test_an_environment_that_cannot_be_is_refused(environment: dict[str, str]) -> None:
    assert refused("true", environment=environment).code is ErrorCode.UNPROCESSABLE


def test_a_folder_that_there_is_not_is_not_found(tmp_path: Path) -> None:
    assert refused("true", folder=str(tmp_path / "nothing")).code is ErrorCode.NOT_FOUND


def test_without_processes_for_more_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    assert refused("true").code is ErrorCode.UNAVAILABLE


def test_a_host_without_descriptors_for_more_loses_none() -> None:
    host = """
import os, resource
from actionengine.errors import ActionError
from actionengine.boundary.commands.processes import run_process
def count():
    return len(os.listdir("/proc/self/fd"))
run_process(("true",), folder="/", timeout=60.0)
before, (_, most) = count(), resource.getrlimit(resource.RLIMIT_NOFILE)
for stdin in (b"", b"x"):
    for few in range(before, before + 16):
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
        try:
            run_process(("true",), folder="/", timeout=60.0, stdin=stdin)
        except ActionError as error:
            assert error.code == "unavailable", error
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
print(count() - before)
"""
    ended = subprocess.run((sys.executable, "-c", host), capture_output=True, text=True, check=True)

    assert ended.stdout == "0\n"


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), 2**63, "1", None], ids=repr)
@pytest.mark.parametrize("name", ["cpu_seconds", "memory_bytes", "output_bytes"])
def test_a_limit_that_is_no_positive_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        ProcessLimits(**{name: value})


# Endings


def test_a_timeout_ends_a_command_that_ignores_signals(means: IsolationMethod, marker: str) -> None:
    script = "trap '' TERM INT HUP; echo begun; sleep 1000; sleep 1000"

    # On a slow machine the command starts late.
    for timeout in (0.4, 3.0, 30.0):
        error = refused("sh", "-c", script, timeout=timeout, environment={"MARKER": marker})
        if error.details["stdout"]:
            break

    assert error.code is ErrorCode.TIMEOUT
    assert error.details["stdout"] == "begun\n"
    assert alive(marker) == []


def test_a_timeout_that_is_over_already_leaves_nothing(means: IsolationMethod, marker: str, temporary: Path) -> None:
    for timeout in (-1.0, 0.0, 0.005, 0.01, 0.02, 0.03):
        assert refused("sleep", "99", timeout=timeout, environment={"MARKER": marker}).code is ErrorCode.TIMEOUT

    assert alive(marker) == []
    assert os.listdir(temporary) == []


def test_a_command_is_cancelled_from_another_thread(means: IsolationMethod, marker: str) -> None:
    cancelled = threading.Event()

    def cancel() -> None:
        wait_until(lambda: alive(marker))
        cancelled.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()

    error = refused("sleep", "1000", cancelled=cancelled, environment={"MARKER": marker})

    canceller.join()
    assert error.code is ErrorCode.CONFLICT
    assert alive(marker) == []


def test_a_hundred_daemons_are_ended(any_means: IsolationMethod, marker: str) -> None:
    """They run when the command exceeds its limit of output."""
    limits = ProcessLimits(processes=1000, output_bytes=3)

    error = refused(*PYTHON, DAEMONS, "100", "1000", environment={"MARKER": marker}, limits=limits)

    assert (error.code, error.details["stdout"]) == (ErrorCode.UNPROCESSABLE, "mad")
    assert alive(marker) == []


def test_daemons_that_hold_its_pipes_end_with_their_command(means: IsolationMethod, marker: str) -> None:
    finished = python(DAEMONS, "20", "0", environment={"MARKER": marker}, limits=ProcessLimits(processes=1000))

    assert (finished.exit_code, finished.stdout) == (0, b"made\n")
    assert alive(marker) == []


def test_a_chain_of_forks_that_never_rests_is_ended(means: IsolationMethod, marker: str) -> None:
    chain = "import os, time\nwhile True:\n    if os.fork(): os._exit(0)\n    os.setsid(); time.sleep(0.001)"

    python(chain, environment={"MARKER": marker})

    assert alive(marker) == []


@pytest.mark.parametrize("stream", [1, 2], ids=["stdout", "stderr"])
def test_a_command_that_prints_without_end_is_ended(means: IsolationMethod, marker: str, stream: int) -> None:
    error = refused("sh", "-c", f"yes >&{stream}", environment={"MARKER": marker})

    assert error.code is ErrorCode.UNPROCESSABLE
    assert error.details["stdout" if stream == 1 else "stderr"].startswith("y\ny\n")
    assert len(error.details["stdout"]) + len(error.details["stderr"]) <= 8192
    assert alive(marker) == []


@pytest.mark.parametrize("more", [0, 1])
def test_the_limit_of_output_is_exact_and_counts_both_streams(more: int) -> None:
    script = f"head -c 600 /dev/zero; head -c {400 + more} /dev/zero >&2"
    limits = ProcessLimits(output_bytes=1000)

    if more:
        assert refused("sh", "-c", script, limits=limits).code is ErrorCode.UNPROCESSABLE
    else:
        finished = run("sh", "-c", script, limits=limits)
        assert (len(finished.stdout), len(finished.stderr)) == (600, 400)


def test_a_command_that_closes_its_streams_is_waited_for(means: IsolationMethod) -> None:
    assert run("sh", "-c", "exec 0<&- 1>&- 2>&-; sleep 0.2; exit 7").exit_code == 7


def test_a_signal_that_ends_a_command_is_its_exit_code(means: IsolationMethod) -> None:
    assert run("sh", "-c", "kill -SEGV $$").exit_code == -signal.SIGSEGV
    assert run("sh", "-c", "kill -KILL 0").exit_code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("isolating", "held"),
    [
        ("namespace", False),
        ("seccomp", True),
        pytest.param("namespace", True, marks=pytest.mark.soak),
        pytest.param("seccomp", False, marks=pytest.mark.soak),
    ],
)
def test_when_we_are_killed_nothing_is_left(
    isolating: IsolationMethod, held: bool, marker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`held`: a fork of this process holds its pipes."""
    insist_on(isolating, monkeypatch)
    host = f"""
import os, sys, threading, time
from actionengine.boundary.commands import processes
processes._known[False] = {isolating!r}
def fork():
    while not any(open(f"/proc/self/task/{{task}}/children").read() for task in os.listdir("/proc/self/task")):
        time.sleep(0.01)
    time.sleep(0.1)
    if os.fork() == 0:
        time.sleep(300)
        os._exit(0)
if {held}:
    threading.Thread(target=fork).start()
argv = (sys.executable, "-I", "-S", "-c", {DIG + DAEMONS!r}, "10", "1000")
processes.run_process(argv, folder="/", timeout=100, environment={{"MARKER": {marker!r}}})
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen((sys.executable, "-c", host), env=environment, start_new_session=True)
    wait_until(lambda: len(alive(marker)) >= 11)
    if held:
        wait_until(lambda: len(children(process.pid)) >= 2)

    process.kill()
    process.wait()

    wait_until(lambda: not alive(marker))
    wait_until(lambda: not os.listdir(tmp_path))
    if held:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("isolating", "seconds", "timeout", "ending"),
    [
        ("seccomp", "0.3", 60.0, "made"),
        ("namespace", "1000", 1.0, "timeout"),
        pytest.param("namespace", "0.3", 60.0, "made", marks=pytest.mark.soak),
        pytest.param("seccomp", "1000", 1.0, "timeout", marks=pytest.mark.soak),
    ],
)
def test_a_fork_of_us_that_holds_our_pipes_delays_nothing(
    isolating: IsolationMethod,
    seconds: str,
    timeout: float,
    ending: str,
    marker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insist_on(isolating, monkeypatch)
    host = f"""
import os, sys, threading, time
from actionengine.errors import ActionError
from actionengine.boundary.commands import processes
processes._known[False] = {isolating!r}
def fork():
    while not os.path.exists("begun"):
        time.sleep(0.01)
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(60)
        os._exit(0)
threading.Thread(target=fork, daemon=True).start()
argv = (sys.executable, "-I", "-S", "-c", "open('begun', 'w')\\n" + {DAEMONS!r}, "3", {seconds!r})
try:
    finished = processes.run_process(argv, folder=".", timeout={timeout}, environment={{"MARKER": {marker!r}}})
    print(finished.stdout.decode(), end="")
except ActionError as error:
    print(error.code)
"""
    process = subprocess.Popen(
        (sys.executable, "-c", host), stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=60)
        assert alive(marker) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    assert printed.decode() == f"{ending}\n"


@pytest.mark.soak
def test_whenever_we_are_killed_nothing_is_left(marker: str, tmp_path: Path) -> None:
    host = f"""
from actionengine.boundary.commands.processes import run_process
environment = {{"MARKER": {marker!r}}}
print("begun", flush=True)
while True:
    run_process(("sh", "-c", "sleep 99 & echo x > ~/x; echo y > $TMPDIR/y"), folder="/", timeout=9.0,
        environment=environment)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for turn in range(60):
        process = subprocess.Popen((sys.executable, "-c", host), env=environment, stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(turn * 0.002)
            process.kill()

    wait_until(lambda: not alive(marker) and not os.listdir(tmp_path))


def test_a_killed_supervisor_ends_its_command(means: IsolationMethod, marker: str) -> None:
    before = children()

    def kill() -> None:
        wait_until(lambda: alive(marker))
        for child in children() - before:
            os.kill(child, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()

    error = refused("sleep", "1000", environment={"MARKER": marker})

    killer.join()
    assert error.code is ErrorCode.UNAVAILABLE
    wait_until(lambda: not alive(marker))


# Many at once


def test_many_threads_leave_no_descriptor_zombie_or_folder(
    means: IsolationMethod, temporary: Path, marker: str
) -> None:
    before = set(os.listdir("/proc/self/fd"))

    def many(number: int) -> None:
        text = str(number).encode()
        assert run("cat", stdin=text).stdout == text
        if number % 2:
            refused("sleep", "99", timeout=0.05, environment={"MARKER": marker})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(many, range(10)))

    assert set(os.listdir("/proc/self/fd")) <= before
    assert os.listdir(temporary) == []
    assert alive(marker) == []


@pytest.mark.soak
def test_thousands_of_runs_leave_nothing(means: IsolationMethod, temporary: Path, marker: str) -> None:
    before = set(os.listdir("/proc/self/fd"))

    def many(number: int) -> None:
        for turn in range(50):
            timeout = (turn % 10) / 100
            with suppress(ActionError):
                python(DAEMONS, "3", "0", timeout=timeout or 30.0, environment={"MARKER": marker})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(many, range(16)))

    assert set(os.listdir("/proc/self/fd")) <= before
    assert os.listdir(temporary) == []
    assert alive(marker) == []


def test_an_interrupt_ends_the_command(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        wait_until(lambda: alive(marker))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run("sleep", "1000", environment={"MARKER": marker})
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)

    assert alive(marker) == []

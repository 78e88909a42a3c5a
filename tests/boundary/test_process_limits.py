"""The limits of commands: memory, time, files and networks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actionengine.boundary.commands import processes, supervised_process
from actionengine.boundary.commands.processes import IsolationMethod, ProcessLimits, network_isolation
from actionengine.errors import ErrorCode
from tests.boundary.processes import insist_on, python, refused, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.usefixtures("no_child_is_left"),
]

# Limits


def test_memory_is_limited(means: IsolationMethod) -> None:
    finished = python("x = bytearray(800_000_000)", limits=ProcessLimits(memory_bytes=500_000_000))

    assert finished.exit_code == 1
    assert b"MemoryError" in finished.stderr


def test_cpu_time_is_limited() -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: print('late', flush=True))\nwhile True: pass"

    ended = run("sh", "-c", "kill -XCPU $$")
    killed = python(code, limits=ProcessLimits(cpu_seconds=1))

    assert (ended.exit_code, ended.limit) == (-signal.SIGXCPU, "cpu")
    assert (killed.exit_code, killed.limit, killed.stdout[:5]) == (-signal.SIGKILL, "cpu", b"late\n")


def test_open_files_are_limited() -> None:
    code = "import os\nfiles = []\ntry:\n    while True: files.append(os.dup(0))\nexcept OSError: print(len(files))"

    assert python(code, limits=ProcessLimits(open_files=50)).stdout == b"47\n"


def test_the_size_of_files_is_limited(tmp_path: Path) -> None:
    finished = run(
        "dd", "if=/dev/zero", "of=big", "bs=64k", "count=99", folder=str(tmp_path), limits=ProcessLimits(file_bytes=99)
    )

    assert (finished.exit_code, finished.limit) == (-signal.SIGXFSZ, "file")
    assert (tmp_path / "big").stat().st_size == 99


def test_the_number_of_processes_is_limited() -> None:
    code = (
        "import resource\nprint(*resource.getrlimit(resource.RLIMIT_NPROC), *resource.getrlimit(resource.RLIMIT_CORE))"
    )

    if network_isolation() != "namespace":
        pytest.skip("the user's other processes count as well")
    assert python(code, limits=ProcessLimits(processes=50)).stdout == b"50 50 0 0\n"


# Networks


CONNECT = """
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60).sendall(b"hello")
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


@pytest.mark.parametrize("isolating", ["namespace", "seccomp"])
def test_without_a_network_nothing_is_reached(
    isolating: IsolationMethod, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    insist_on(isolating, monkeypatch)
    listener.setblocking(False)

    finished = python(CONNECT, str(listener.getsockname()[1]))

    assert (finished.exit_code, finished.network) == (1, "isolated")
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_with_a_network_it_is_reached(any_means: IsolationMethod, listener: socket.socket) -> None:
    finished = python(CONNECT, str(listener.getsockname()[1]), network=True)

    connection, _ = listener.accept()
    with connection:
        assert connection.recv(10) == b"hello"
    assert (finished.exit_code, finished.network) == (0, "granted")


def test_the_filter_lets_unix_sockets_through_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    insist_on("seccomp", monkeypatch)
    code = """
import ctypes, errno, os, socket
socket.socket(socket.AF_UNIX).close()
for left, right in [socket.socketpair()]:
    left.close(), right.close()
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK, 99):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try: socket.socket(family, kind)
        except PermissionError: continue
        print("made", family, kind)
call = ctypes.CDLL(None, use_errno=True).syscall
calls = [(425, 8, bytes(200)), (438, 0, 0)]
if os.uname().machine == "x86_64":
    # With the number of x32, and with bits above those of a family.
    calls += [(0x40000000 + 41, 2, 1, 0), (41, ctypes.c_long(2 + (1 << 40)), 1, 0)]
for number, *arguments in calls:
    if call(number, *arguments) != -1 or ctypes.get_errno() != errno.EPERM:
        print("called", number)
print("done")
"""

    assert python(code).stdout == b"done\n"


def test_root_does_not_walk_back_into_our_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    insist_on("namespace", monkeypatch)
    code = """
import ctypes, os, sys
namespace = os.open(sys.argv[1], os.O_RDONLY)
print(ctypes.CDLL(None, use_errno=True).setns(namespace, 0), ctypes.get_errno())
"""
    holder = subprocess.Popen(("sleep", "60"))
    try:
        finished = python(code, f"/proc/{holder.pid}/ns/net")
    finally:
        holder.kill()
        holder.wait()

    assert finished.exit_code != 0 or finished.stdout == b"-1 1\n"


def test_missing_isolation_that_is_required_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(processes._known, False, "none")

    assert refused("true", require_isolation=True).code is ErrorCode.FORBIDDEN
    assert run("true", require_isolation=True, network=True).network == "granted"


def test_means_that_have_worked_are_insisted_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(processes._known, False, "namespace")
    broken = tmp_path / "supervisor.py"
    broken.write_text(
        Path(supervised_process.SUPERVISOR).read_text().replace('"unshare")', '"unshare"); check(-1, "x")')
    )
    monkeypatch.setattr(supervised_process, "SUPERVISOR", str(broken))

    assert refused("touch", str(tmp_path / "made")).code is ErrorCode.UNAVAILABLE
    assert not (tmp_path / "made").exists()


def test_without_namespaces_calls_are_filtered_also_when_nested(tmp_path: Path) -> None:
    """The command runs in a user namespace that permits no further ones, as a command of root can arrange."""
    if network_isolation() != "namespace" or os.geteuid() != 0:
        pytest.skip("needs namespaces and root")
    code = """
import sys
sys.path[:] = sys.argv[2:]
from actionengine.boundary.commands.processes import network_isolation, run_process
if sys.argv[1] == "without":
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
print(network_isolation(), run_process(("echo", "hi"), folder="/", timeout=60).stdout)
"""

    found = [run(sys.executable, "-c", code, mode, *sys.path).stdout for mode in ("with", "without")]

    assert found == [b"namespace b'hi\\n'\n", b"seccomp b'hi\\n'\n"]

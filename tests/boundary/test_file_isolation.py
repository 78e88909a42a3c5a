"""With Landlock, commands reach only the files of their module; elsewhere results say that they reach others."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actionengine.boundary import (
    CODE_MODULE_DEFAULT,
    CapabilityProfile,
    ExecutionRequest,
    ExecutionResult,
    FileIsolationError,
    InProcessRunner,
    ModuleContext,
    Runner,
    SubprocessRunner,
    file_isolation,
)
from actionengine.boundary.commands import confinement
from actionengine.boundary.commands.file_access import FileAccess, FilePolicy, ruleset_for
from actionengine.boundary.commands.processes import IsolationMethod, run_process
from actionengine.errors import ConfigurationError, ErrorCode
from tests.boundary.modules import ACME, error
from tests.boundary.processes import PYTHON
from tests.boundary.walled import SECRET, Walled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs commands of Linux")

HERE = file_isolation() == "landlock"
ABI = confinement.landlock_abi()
"""The real version; tests may replace the function."""
ISOLATED = "isolated" if HERE else "not_enforced"
REQUIRING = CapabilityProfile("REQUIRING", ["fs:read", "fs:write", "cmd:run", "git:diff"], require_file_isolation=True)

TRY = """
import json, os, sys
root, outside, made = sys.argv[1:]
def refused(call, *arguments, **named):
    try:
        answer = call(*arguments, **named)
    except PermissionError:
        return True
    except OSError as error:
        return error.errno == 18 or str(error)
    return f"{call.__name__}: {answer!r}"
def copied(place): return open(place, "rb").read()
def execute(place):
    child = os.fork()
    if child == 0:
        try:
            os.execv(place, [place])
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 13: raise PermissionError
    return code
secret = outside + "/secret"
os.symlink(secret, root + "/link")
os.symlink(outside, root + "/folder-link")
print(json.dumps({
    "read": refused(copied, secret),
    "read through a link": refused(copied, root + "/link"),
    "read through a linked folder": refused(copied, root + "/folder-link/secret"),
    "list": refused(os.listdir, outside),
    "list above": refused(os.listdir, root + "/.."),
    "write": refused(os.open, secret, os.O_WRONLY),
    "truncate by opening": refused(os.open, secret, os.O_WRONLY | os.O_TRUNC),
    "truncate": refused(os.truncate, secret, 0),
    "truncate through a link": refused(os.truncate, root + "/link", 0),
    "make": refused(os.open, outside + "/new", os.O_WRONLY | os.O_CREAT),
    "make a folder": refused(os.mkdir, outside + "/new"),
    "make a link": refused(os.symlink, "x", outside + "/new"),
    "make a fifo": refused(os.mkfifo, outside + "/new"),
    "delete": refused(os.unlink, secret),
    "delete a folder": refused(os.rmdir, outside + "/empty"),
    "rename": refused(os.rename, secret, outside + "/other"),
    "move in": refused(os.rename, secret, root + "/stolen"),
    "move out": refused(os.rename, made, outside + "/new"),
    "hard link in": refused(os.link, secret, root + "/stolen"),
    "hard link out": refused(os.link, made, outside + "/new"),
    "execute": refused(execute, outside + "/program"),
    "shadow": refused(copied, "/etc/shadow"),
    "another temporary folder": refused(os.listdir, os.path.dirname(os.path.dirname(os.environ["TMPDIR"]))),
    "shared memory": refused(os.listdir, "/dev/shm"),
}))
"""


@pytest.fixture
def hidden(walled: Walled) -> Walled:
    """A module, and files outside that commands try to reach."""
    (walled.root / "made").write_text("made here")
    (walled.outside / "empty").mkdir()
    (walled.outside / "program").write_text("#!/bin/sh\nexit 0\n")
    (walled.outside / "program").chmod(0o755)
    return walled


def asking(root: Path, *argv: str, capabilities: tuple[str, ...] = ("cmd:run",), **more: Any) -> ExecutionRequest:
    module = ModuleContext(id="site", root=root, tenant=ACME)
    return ExecutionRequest(
        tenant=ACME, module=module, action="run", input={"argv": argv, **more}, capabilities=capabilities
    )


def ran(runner: Runner, request: ExecutionRequest) -> ExecutionResult:
    return runner.execute(request).unwrap()


def what_is_refused(runner: Runner, hidden: Walled) -> tuple[ExecutionResult, dict[str, Any]]:
    result = ran(runner, asking(hidden.root, *PYTHON, TRY, *map(str, (hidden.root, hidden.outside, "made"))))
    assert result.output["exit_code"] == 0, result.output["stderr"]
    return result, json.loads(result.output["stdout"])


def check_refused(result: ExecutionResult, answers: dict[str, Any], hidden: Walled) -> None:
    """Check that everything was refused, or that the result says that nothing is isolated."""
    if not HERE:
        assert result.file_isolation == "not_enforced"
        return
    assert result.file_isolation == "isolated"
    assert {name for name, answer in answers.items() if answer is not True} == set()
    assert (hidden.outside / "secret").read_bytes() == SECRET
    assert sorted(os.listdir(hidden.outside)) == ["empty", "inside.txt", "passwd", "program", "secret"]


def test_a_command_reaches_nothing_outside_of_its_module(any_means: IsolationMethod, hidden: Walled) -> None:
    check_refused(*what_is_refused(InProcessRunner(CODE_MODULE_DEFAULT), hidden), hidden)


@pytest.mark.parametrize("abi", [1, 2, 4, 5])
def test_that_holds_with_each_older_abi(abi: int, hidden: Walled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "landlock_abi", lambda: min(abi, ABI))

    check_refused(*what_is_refused(InProcessRunner(CODE_MODULE_DEFAULT), hidden), hidden)


def test_it_holds_for_commands_of_a_subprocess_runner(hidden: Walled) -> None:
    check_refused(*what_is_refused(SubprocessRunner(CODE_MODULE_DEFAULT), hidden), hidden)


def test_a_command_works_in_its_module_as_ever(any_means: IsolationMethod, walled: Walled) -> None:
    script = """set -e
        mkdir new; echo a > new/a; mv new/a folder/b; ln folder/b hard; ln -s folder/b soft; cat soft; : > hard
        echo tmp > "$TMPDIR/x"; mv "$TMPDIR/x" "$HOME/y"; cat "$HOME/y"; head -c 1 /dev/urandom >/dev/null
        printf '#!/bin/sh\\necho ran\\n' > tool; chmod +x tool; ./tool; rm -r new; read name </proc/self/comm
        echo $name; git init -q .; git config user.name a; git config user.email a@b
        git add folder; git commit -qm one; git log --format=%s"""

    result = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, "sh", "-c", script))

    assert (result.output["stderr"], result.output["exit_code"]) == ("", 0)
    assert result.output["stdout"].split() == ["a", "tmp", "ran", "sh", "one"]
    walled.check_outside()


def test_a_command_can_be_the_running_python(walled: Walled) -> None:
    code = "import json, ssl, sqlite3, pydantic; print(len(ssl.create_default_context().get_ca_certs()) >= 0)"

    result = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, sys.executable, "-I", "-c", code))

    assert (result.output["stderr"], result.output["stdout"]) == ("", "True\n")


@pytest.mark.parametrize("kind", [InProcessRunner, SubprocessRunner])
def test_a_host_can_give_more_to_read_and_to_change(
    kind: type[InProcessRunner] | type[SubprocessRunner], hidden: Walled, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache, outside = tmp_path_factory.mktemp("cache"), hidden.outside
    runner = kind(CODE_MODULE_DEFAULT, readable=[outside], writable=[cache])
    script = f"cat {outside}/secret; {outside}/program && echo ran; echo kept > {cache}/new; echo > {outside}/new"

    result = ran(runner, asking(hidden.root, "sh", "-c", script))

    assert result.output["stdout"] == SECRET.decode() + "ran\n"
    assert (cache / "new").read_text() == "kept\n"
    assert (outside / "new").exists() is not HERE
    assert result.file_isolation == ISOLATED


@pytest.mark.parametrize("readable", ["/opt", b"/opt", ["opt"], ["/a\0b"], [b"/opt"]], ids=repr)
def test_what_is_no_list_of_absolute_paths_is_refused(readable: Any) -> None:
    with pytest.raises(ConfigurationError, match="readable"):
        InProcessRunner(CODE_MODULE_DEFAULT, readable=readable)
    with pytest.raises(ConfigurationError, match="writable"):
        SubprocessRunner(CODE_MODULE_DEFAULT, writable=readable)


def test_a_readable_path_that_is_not_there_is_no_trouble(walled: Walled) -> None:
    runner = InProcessRunner(CODE_MODULE_DEFAULT, readable=["/no/such/folder", "/etc/passwd/x"])

    assert ran(runner, asking(walled.root, "true")).output["exit_code"] == 0


# A profile that requires it


@pytest.mark.parametrize("kind", [InProcessRunner, SubprocessRunner])
def test_required_isolation_lets_commands_write_with_fs_write(
    kind: type[InProcessRunner] | type[SubprocessRunner], walled: Walled
) -> None:
    """The profile grants `fs:write`, but the request must have it."""
    runner = kind(REQUIRING)
    script = 'cat inside.txt; echo x > "$TMPDIR/x"; echo changed > inside.txt; rm -r folder; echo > new'
    without = asking(walled.root, "sh", "-c", script, capabilities=("cmd:run", "fs:read"))
    having = asking(walled.root, "sh", "-c", script, capabilities=("cmd:run", "fs:write"))
    if not HERE:
        assert error(runner.execute(having)).details["refusal"] == "file_isolation_missing"
        return

    before = sorted(os.listdir(walled.root))
    first = ran(runner, without)
    assert (first.file_isolation, first.output["stdout"]) == ("isolated", "inside")
    assert (walled.root / "inside.txt").read_text() == "inside"
    assert sorted(os.listdir(walled.root)) == before

    second = ran(runner, having)
    assert second.output["exit_code"] == 0
    assert sorted(os.listdir(walled.root)) == ["inside.txt", "new"]


def no_landlock(number: int) -> Any:
    """Return a system call function in which the calls of Landlock fail."""
    calls = confinement.syscall

    def call(name: int, *arguments: Any) -> int:
        if name in (444, 445, 446):
            raise OSError(number, os.strerror(number))
        return calls(name, *arguments)

    return call


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM], ids=errno.errorcode.get)
def test_required_isolation_refuses_commands_where_it_is_missing(
    number: int, walled: Walled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "syscall", no_landlock(number))
    told: list[Any] = []
    runner = InProcessRunner(REQUIRING, telemetry=[told.append])

    refused = error(runner.execute(asking(walled.root, "touch", "new")))

    assert (refused.code, refused.details["refusal"]) == (ErrorCode.FORBIDDEN, FileIsolationError.refusal)
    assert refused.details["file_isolation"] == "not_enforced"
    assert "require_file_isolation" in refused.message
    assert told[-1].refusal == "file_isolation_missing"
    assert not (walled.root / "new").exists()
    assert file_isolation() == "none"


def test_where_it_is_missing_and_not_required_the_result_says_so(
    walled: Walled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "syscall", no_landlock(errno.ENOSYS))

    result = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, "cat", str(walled.outside / "secret")))

    assert (result.file_isolation, result.output["stdout"]) == ("not_enforced", SECRET.decode())


def test_work_that_runs_no_command_needs_none(walled: Walled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "syscall", no_landlock(errno.ENOSYS))
    request = ExecutionRequest(
        tenant=ACME,
        module=ModuleContext(id="site", root=walled.root, tenant=ACME),
        action="read",
        input={"path": "inside.txt"},
        capabilities=["fs:read"],
    )

    assert ran(InProcessRunner(REQUIRING), request).file_isolation == "not_needed"


def test_old_landlock_without_a_truncation_filter_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "syscall", lambda *arguments: 2)
    assert confinement.landlock_abi() == 2
    monkeypatch.setattr(confinement, "_PROCESSORS", {})
    assert confinement.landlock_abi() == 0
    monkeypatch.setattr(confinement, "syscall", lambda *arguments: 3)
    assert confinement.landlock_abi() == 3


# Processes


def test_a_command_signals_nothing_outside(any_means: IsolationMethod, walled: Walled) -> None:
    holder = subprocess.Popen(("sleep", "60"), env={"OUR_SECRET": "swordfish"})
    try:
        code = (
            "import os, sys\ntry:\n    os.kill(int(sys.argv[1]), 9)\nexcept OSError as error:\n    print(error.errno)"
        )
        result = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, *PYTHON, code, str(holder.pid)))
        seen = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, "cat", f"/proc/{holder.pid}/environ"))
        survived = holder.poll() is None
    finally:
        holder.kill()
        holder.wait()

    if HERE:
        assert "swordfish" not in seen.output["stdout"]
    if ABI >= 6:
        assert result.output["stdout"].strip() in (str(errno.EPERM), str(errno.ESRCH))
        assert survived


def test_a_command_reaches_no_abstract_socket_outside(any_means: IsolationMethod, walled: Walled) -> None:
    name = f"actionengine-{os.getpid()}-{any_means}"
    code = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        result = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, *PYTHON, code))

    assert (result.output["exit_code"] != 0) is (ABI >= 6 or any_means == "namespace")


def test_tcp_is_closed_where_no_other_means_close_it(walled: Walled, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.boundary.processes import insist_on

    insist_on("none", monkeypatch)
    code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 30)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        without = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, *PYTHON, code, port))
        profile = CapabilityProfile("NET", ["cmd:run", "net:http"])
        request = asking(walled.root, *PYTHON, code, port, capabilities=("cmd:run", "net:http"))
        having = ran(InProcessRunner(profile), request)

    # Landlock does not bound UDP, so the network is not enforced.
    assert (without.output["exit_code"] != 0, without.network) == (ABI >= 4, "not_enforced")
    assert (having.output["exit_code"], having.network) == (0, "granted")


def test_a_command_has_no_descriptor_of_its_ruleset(any_means: IsolationMethod, walled: Walled) -> None:
    result = ran(InProcessRunner(CODE_MODULE_DEFAULT), asking(walled.root, "sh", "-c", "ls /proc/$$/fd"))

    assert result.output["stdout"].split()[:3] == ["0", "1", "2"]
    assert len(result.output["stdout"].split()) <= 4


# The forms that the kernel reads


def test_rulesets_have_the_form_that_each_abi_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[tuple[int, bool], Any] = {}

    for abi in range(1, 10):
        for network in (False, True):

            def call(number: int, form: Any, size: Any, flags: Any, key: tuple[int, bool] = (abi, network)) -> int:
                assert (number, size, flags) == (444, len(form), 0)
                made[key] = struct.unpack(f"={size // 8}Q", form)
                return 7

            monkeypatch.setattr(confinement, "syscall", call)
            assert confinement.create_ruleset(abi, network=network) == 7

    assert [made[abi, False] for abi in range(1, 10)] == [
        (0x1FFF,),
        (0x3FFF,),
        (0x7FFF,),
        (0x7FFF, 3),
        (0xFFFF, 3),
        (0xFFFF, 3, 3),
        (0xFFFF, 3, 3),
        (0xFFFF, 3, 3),
        (0x1FFFF, 3, 3),
    ]
    assert made[4, True] == (0x7FFF, 0)
    assert made[9, True] == (0x1FFFF, 0, 3)


def test_rules_give_files_only_rights_of_files_and_of_the_abi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules: list[tuple[int, bytes]] = []

    def call(number: int, ruleset: Any, kind: Any, form: Any, flags: Any) -> int:
        assert (number, ruleset, kind, flags, len(form)) == (445, 9, 1, 0, 12)
        rules.append((struct.unpack("=Qi", form)[0], form))
        return 0

    monkeypatch.setattr(confinement, "syscall", call)
    (tmp_path / "file").write_text("")
    for abi in (1, 2, 3, 5):
        assert confinement.allow(9, abi, str(tmp_path), confinement.WRITE)
        assert confinement.allow(9, abi, str(tmp_path / "file"), confinement.DEVICE | confinement.READ)
    assert not confinement.allow(9, 1, str(tmp_path / "missing"), confinement.READ)
    assert not confinement.allow(9, 1, str(tmp_path / "file" / "below"), confinement.READ)

    # Never the rights to make devices: 1 << 6 and 1 << 11.
    assert [rights for rights, _ in rules] == [0x17BF, 0b111, 0x37BF, 0b111, 0x77BF, 0x4007, 0x77BF, 0xC007]


def test_a_failure_of_the_kernel_is_told_by_its_number() -> None:
    with pytest.raises(OSError, match="system call 445") as caught:
        confinement.syscall(445, -1, 1, struct.pack("=Qi", 1, -1), 0)

    assert caught.value.errno in (errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADFD)


def test_nothing_is_made_for_a_command_that_is_not_bounded(tmp_path: Path) -> None:
    with ruleset_for(None, network=False) as ruleset:
        assert ruleset is None
    assert run_process(("true",), folder=str(tmp_path), timeout=60.0).file_isolation == "not_enforced"


def test_rulesets_are_closed(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    folder = os.open(tmp_path, os.O_RDONLY)

    for _ in range(3):
        with ruleset_for(FileAccess(folder, True, FilePolicy()), network=False):
            pass

    os.close(folder)
    assert set(os.listdir("/proc/self/fd")) == before

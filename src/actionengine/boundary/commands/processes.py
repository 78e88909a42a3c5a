"""Commands as processes within limits.

A command runs under a supervisor (`supervisor.py`) and inherits nothing from the host: it has an environment of its
own, three file descriptors, a session of its own, and empty folders as its `HOME` and `TMPDIR`, which are removed
afterwards. It ends with everything that it started when its time is over, when it is cancelled, when it prints too
much, when it exits, and when this process dies.

The isolation depends on the system; `network_isolation` returns its method:

- `namespace`: Linux on which a process may create user namespaces. The command has its own process numbers and an empty
  network. The kernel ends the processes that it leaves behind. Sockets that belong to no network namespace, such as
  those between a virtual machine and its host (`AF_VSOCK`), stay in its reach.
- `seccomp`: other Linux, on x86_64 and aarch64. The command can create Unix sockets only, and so reaches the abstract
  ones of the host. The supervisor finds the processes that it leaves behind in /proc and ends them.
- `none`: other systems. The command reaches the network, and processes that leave its process group survive it.

Landlock bounds the files, if the kernel has it and `FileAccess` names the files of a command; see `file_isolation`.
Without Landlock a command reaches all files of its user, and without namespaces it can signal and read other processes
of the user, this one included. Unix sockets with a path stay in reach before Landlock's ABI 9. This contains mistakes
and runaway commands; it is not a sandbox for hostile code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from actionengine.boundary.commands.file_access import FileAccess, Ruleset, isolation_of, ruleset_for
from actionengine.boundary.commands.supervised_process import SupervisedProcess
from actionengine.boundary.files.remove_tree import remove_tree
from actionengine.boundary.files.safe_open import closing
from actionengine.boundary.request import FileIsolation, NetworkIsolation
from actionengine.errors import ActionError, ErrorCode

IsolationMethod = Literal["namespace", "seccomp", "none"]

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The `PATH` of commands."""

_UNLIMITED = 2**62
_SHOWN = 4096
"""The bytes of each stream that an error shows."""
_ENDED = {
    ErrorCode.TIMEOUT: "did not end in time",
    ErrorCode.CONFLICT: "was cancelled",
    ErrorCode.UNPROCESSABLE: "exceeded its limit of output",
}


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """The limits of a command. The system's limits of a process apply to each process that the command starts.

    Raises `ValueError` for a limit that is not a positive whole number below 2**62.
    """

    cpu_seconds: int = 60
    """CPU time of each process. At the limit, the process gets SIGXCPU, and is killed a second later."""
    memory_bytes: int = 1024**3
    """Address space of each process (`RLIMIT_AS`). Above it, allocations fail. It counts mapped memory, not used
    memory: Node, Java and Go map several times as much as they use, and need a higher limit."""
    output_bytes: int = 1024**2
    """Output of stdout and stderr together. Above the limit, the command is ended."""
    open_files: int = 256
    """Open file descriptors of each process."""
    processes: int | None = 128
    """Processes and threads at once (`RLIMIT_NPROC`), None for the limit of the user. Linux only; root has no limit."""
    file_bytes: int = 256 * 1024**2
    """Size of each file that it writes. Above the limit, the process gets SIGXFSZ."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None and name == "processes":
                continue
            if not isinstance(value, int) or not 0 < value < _UNLIMITED:
                raise ValueError(f"{name} is {value!r}: give a positive whole number below 2**62")


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """A command that has exited. A negative `exit_code` is the signal that ended it. `duration` is in seconds.

    `limit` is the limit that ended it, if that is known: `cpu`, or `file` for the size of a file. Running out of memory
    shows in the command's own output at most.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    duration: float
    network: NetworkIsolation
    limit: Literal["cpu", "file"] | None = None
    file_isolation: FileIsolation = "not_enforced"


def run_process(
    argv: Sequence[str],
    *,
    folder: int | str,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    limits: ProcessLimits | None = None,
    timeout: float,
    network: bool = False,
    require_isolation: bool = False,
    files: FileAccess | None = None,
    cancelled: threading.Event | None = None,
) -> CompletedCommand:
    """Run a command to its end, with the umask 022. Threads can call this at the same time.

    Args:
        argv: the program and its arguments. A program without a slash is searched in the `PATH` of `environment`.
        folder: the folder that it runs in: a path, or an open descriptor, which stays open.
        environment: its variables, in addition to `PATH`, `HOME`, `TMPDIR` and `LANG`, or instead of these.
        stdin: its input.
        limits: its limits.
        timeout: seconds after which it is ended.
        network: whether it may reach a network.
        require_isolation: refuse to run it if the system cannot keep it off the network.
        files: the files that it may reach, if the system has Landlock; None for all files of its user.
        cancelled: ends it once it is set.

    Raises:
        FileIsolationError: if `files` requires an isolation that this system does not have.
        ActionError: `timeout`; `conflict` if it was cancelled; `unprocessable` if it printed too much (these three show
            the beginning of its output in `details`) or cannot be run at all; `not_found` if the folder does not exist;
            `forbidden` if it must be kept off the network and the system cannot do that; `unavailable` if the system
            cannot start more processes.
    """
    if os.name != "posix":
        raise ActionError(ErrorCode.UNAVAILABLE, "commands run on Linux and other POSIX systems, not on this one")
    command = _Command(argv, environment or {}, stdin, limits or ProcessLimits(), network, cancelled)
    deadline = monotonic() + timeout
    with _descriptor(folder) as descriptor, ruleset_for(files, network=network) as ruleset:
        for means in _means_to_try(network):
            if means == "none" and require_isolation and not network:
                break
            with contextlib.suppress(_UnableError):
                return _run(command, descriptor, ruleset, means, deadline)
    if require_isolation and not network:
        message = f"{command.name} requires isolation from the network, and this system cannot enforce that"
        raise ActionError(ErrorCode.FORBIDDEN, message, {"network": "not_enforced"})
    raise ActionError(ErrorCode.UNAVAILABLE, f"{command.name} was not run: the system refused to isolate it; try again")


def network_isolation() -> IsolationMethod:
    """Return the method by which this system keeps commands off the network. The first call runs a command."""
    if False not in _known:
        with contextlib.suppress(ActionError):
            run_process(("true",), folder="/", timeout=60.0)
    return _known.get(False, "none")


_known: dict[bool, IsolationMethod] = {}
"""The first method that worked, with a network (True) and without one. Later commands use no other."""


def _means_to_try(network: bool) -> Sequence[IsolationMethod]:
    if network in _known:
        return (_known[network],)
    if not sys.platform.startswith("linux"):
        return ("none",)
    return ("namespace", "none") if network else ("namespace", "seccomp", "none")


class _UnableError(Exception):
    """The system does not allow this isolation method. Nothing was run."""


@dataclass(frozen=True, slots=True)
class _Command:
    """A command that was checked, without its folder and its files."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    stdin: bytes
    limits: ProcessLimits
    network: bool
    cancelled: threading.Event | None

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not self.argv or not self.argv[0]:
            raise ActionError(ErrorCode.UNPROCESSABLE, "a command is a list of strings that begins with the program")
        if any("\0" in text for text in (*self.argv, *self.environment, *self.environment.values())):
            raise ActionError(ErrorCode.UNPROCESSABLE, f"{self.name}: an argument or variable contains a NUL character")
        if any("=" in name or not name for name in self.environment):
            raise ActionError(ErrorCode.UNPROCESSABLE, f"{self.name}: a variable's name is empty or contains '='")

    @property
    def name(self) -> str:
        return f"the command {self.argv[0][:200]!r}"

    def order(self, means: IsolationMethod, temporary: str) -> dict[str, Any]:
        """Return the order for the supervisor."""
        home = os.path.join(temporary, "home")
        own = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "HOME": home, "TMPDIR": os.path.join(temporary, "tmp")}
        return {
            "argv": list(self.argv),
            "environment": {**own, **self.environment},
            "limits": _resource_limits(self.limits),
            "means": means,
            "network": self.network,
            "temporary": temporary,
            "host": os.getpid(),
        }


def _resource_limits(limits: ProcessLimits) -> dict[str, tuple[int, int]]:
    wanted = {
        "CPU": (limits.cpu_seconds, limits.cpu_seconds + 1),
        "AS": (limits.memory_bytes, limits.memory_bytes),
        "NOFILE": (limits.open_files, limits.open_files),
        "FSIZE": (limits.file_bytes, limits.file_bytes),
        "CORE": (0, 0),
    }
    if limits.processes is not None:
        wanted["NPROC"] = (limits.processes, limits.processes)
    return wanted


@contextlib.contextmanager
def _descriptor(folder: int | str) -> Iterator[int]:
    """Open a folder in this block, unless it is a descriptor already."""
    if isinstance(folder, int):
        yield folder
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError):
        raise ActionError(ErrorCode.NOT_FOUND, f"the folder {folder[:200]!r} of a command does not exist") from None
    with closing(descriptor):
        yield descriptor


def _run(
    command: _Command, folder: int, ruleset: Ruleset | None, means: IsolationMethod, deadline: float
) -> CompletedCommand:
    """Run a command with this isolation method. Raises `_UnableError` if the system does not allow it."""
    started = monotonic()
    temporary = os.path.join(tempfile.gettempdir(), f"actionengine-{secrets.token_hex(8)}")
    try:
        with contextlib.ExitStack() as stack:
            order = {**command.order(means, temporary), "abi": ruleset.abi if ruleset else 0}
            descriptors = {"folder": folder} if ruleset is None else {"folder": folder, "ruleset": ruleset.descriptor}
            run = SupervisedProcess(
                order=order,
                passed_on=descriptors,
                stdin=command.stdin,
                output_bytes=command.limits.output_bytes,
                cancelled=command.cancelled,
                stack=stack,
            )
            run.watch(deadline)
    except OSError as error:
        raise ActionError(ErrorCode.UNAVAILABLE, f"{command.name} was not run: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            remove_tree(temporary)
    return _finished(command, means, isolation_of(ruleset), run, monotonic() - started)


def _finished(
    command: _Command, means: IsolationMethod, file_isolation: FileIsolation, run: SupervisedProcess, duration: float
) -> CompletedCommand:
    """Return the command's end. Raises `_UnableError`, and `ActionError` as `run_process` does."""
    if run.reason is not None:
        raise ActionError(run.reason, f"{command.name} {_ENDED[run.reason]} and was ended", _shown(run))
    verb, _, rest = run.report.partition(" ")
    if verb == "unable":
        raise _UnableError(rest)
    if verb not in ("exit", "failed"):
        message = f"{command.name} was lost because its supervisor ended ({rest or 'killed from outside'})"
        raise ActionError(ErrorCode.UNAVAILABLE, message, _shown(run))
    _known[command.network] = means
    if verb == "failed":
        number = int(rest)
        code = ErrorCode.UNAVAILABLE if number in (errno.EAGAIN, errno.ENOMEM) else ErrorCode.UNPROCESSABLE
        raise ActionError(code, f"{command.name} cannot be run: {os.strerror(number)}")
    exit_code, _, limit = rest.partition(" ")
    return CompletedCommand(
        exit_code=int(exit_code),
        stdout=bytes(run.printed["stdout"]),
        stderr=bytes(run.printed["stderr"]),
        duration=duration,
        network="granted" if command.network else "not_enforced" if means == "none" else "isolated",
        limit="cpu" if limit == "cpu" else "file" if limit == "file" else None,
        file_isolation=file_isolation,
    )


def _shown(run: SupervisedProcess) -> dict[str, str]:
    """Return the beginning of the output."""
    return {name: bytes(text[:_SHOWN]).decode("utf-8", "replace") for name, text in run.printed.items()}

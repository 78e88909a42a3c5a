"""Processes within limits: what a command is given, how it ended, and that nothing of it is left.

A command runs under a supervisor (`supervisor.py`), and gets nothing of ours: an environment of its own, three file
descriptors, a session of its own, an empty folder as its `HOME` and `TMPDIR` that is removed afterwards. It ends, with
everything that it has started, when its time is over, when it is cancelled, when it prints too much, when it ends by
itself, and when this process dies.

How well this holds depends on the system; `network_isolation` tells which of these it is:

- `namespace`: Linux, where a process may make user namespaces. The command has process numbers and a network of its
  own, a network with nothing in it. What it leaves behind is ended by the kernel. Sockets that belong to no network
  namespace, such as those between a virtual machine and its host (`AF_VSOCK`), are left to it.
- `seccomp`: other Linux, on x86_64 and aarch64. The command can make no sockets but Unix ones, and so reaches the
  abstract ones of the host as well. What it leaves behind is found in /proc and ended.
- `none`: other systems. It is not kept off the network, and what leaves its process group survives it.

Files are bounded by Landlock, where the kernel has it and `FileAccess` says what a command may reach; `file_isolation`
tells. Without it a command reaches the files that its user reaches, and where there are no namespaces either, it can
signal and read other processes of the user, which includes this one. Unix sockets with a path stay in reach before
Landlock's ABI 9. This keeps mistakes and runaways in bounds; it is not a jail for code that wants to harm.
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
"""Bytes of each stream that an error shows."""
_ENDED = {
    ErrorCode.TIMEOUT: "did not end in time",
    ErrorCode.CONFLICT: "was cancelled",
    ErrorCode.UNPROCESSABLE: "printed more than it may",
}


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What a command may use. Limits that the system has for each process hold for each process that it starts.

    Raises `ValueError` for a limit that is no positive whole number, or more than a system can count.
    """

    cpu_seconds: int = 60
    """Of each process. At it, the process gets SIGXCPU, and is killed a second later."""
    memory_bytes: int = 1024**3
    """Address space of each process (`RLIMIT_AS`). Above it, allocations fail. It counts what a process maps, not only
    what it uses: Node, Java and Go map several times as much, and need a higher limit."""
    output_bytes: int = 1024**2
    """What it prints, stdout and stderr together. Above it, it is ended."""
    open_files: int = 256
    """Open file descriptors of each process."""
    processes: int | None = 128
    """Processes and threads at once (`RLIMIT_NPROC`), None for as many as the user may have. Linux only, and it does
    not bind root."""
    file_bytes: int = 256 * 1024**2
    """The size of each file that it writes. Above it, the process gets SIGXFSZ."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None and name == "processes":
                continue
            if not isinstance(value, int) or not 0 < value < _UNLIMITED:
                raise ValueError(f"a limit has to be a positive whole number below 2**62: {name} is {value!r}")


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """A command that has ended by itself. A negative `exit_code` is the signal that ended it. `duration` is in seconds.

    `limit` tells which limit ended it, as far as that is known: `cpu`, or `file` for the size of one. A command that
    ran out of memory says so itself, if anything does.
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
    """Run a command to its end. Safe in a host with threads, and from many of them. Its umask is 022.

    Args:
        argv: the program and its arguments. A program without a slash is looked for in the `PATH` of `environment`.
        folder: where it runs: a path, or the descriptor of a folder, which stays open.
        environment: what it gets beside `PATH`, `HOME`, `TMPDIR` and `LANG`, or instead of these.
        stdin: what it can read.
        limits: what it may use.
        timeout: seconds after which it is ended.
        network: whether it may reach a network.
        require_isolation: refuse to run it where the system cannot keep it off.
        files: the files that it may reach, where the system has Landlock; None for all that its user reaches.
        cancelled: ends it once it is set.

    Raises:
        FileIsolationError: where `files` requires what this system has not.
        ActionError: `timeout`; `conflict` where it was cancelled; `unprocessable` where it printed too much (all
            three show the beginning of what it printed in `details`) or cannot be run at all; `not_found` for a folder
            that there is not; `forbidden` where it must be kept off the network and cannot be; `unavailable` where the
            system has no room for more processes.
    """
    if os.name != "posix":
        raise ActionError(ErrorCode.UNAVAILABLE, "commands run on Linux and on other POSIX systems, not on this one")
    command = _Command(argv, environment or {}, stdin, limits or ProcessLimits(), network, cancelled)
    deadline = monotonic() + timeout
    with _descriptor(folder) as descriptor, ruleset_for(files, network=network) as ruleset:
        for means in _means_to_try(network):
            if means == "none" and require_isolation and not network:
                break
            with contextlib.suppress(_UnableError):
                return _run(command, descriptor, ruleset, means, deadline)
    if require_isolation and not network:
        message = f"{command.name} must be kept off the network, and this system cannot do that"
        raise ActionError(ErrorCode.FORBIDDEN, message, {"network": "not_enforced"})
    raise ActionError(
        ErrorCode.UNAVAILABLE, f"{command.name} was not run: this system refused to isolate it; try again"
    )


def network_isolation() -> IsolationMethod:
    """By which means this system keeps commands off the network; see above. Runs a command the first time."""
    if False not in _known:
        with contextlib.suppress(ActionError):
            run_process(("true",), folder="/", timeout=60.0)
    return _known.get(False, "none")


_known: dict[bool, IsolationMethod] = {}
"""The first means that have worked, with a network (True) and without one. They are insisted on from then on."""


def _means_to_try(network: bool) -> Sequence[IsolationMethod]:
    if network in _known:
        return (_known[network],)
    if not sys.platform.startswith("linux"):
        return ("none",)
    return ("namespace", "none") if network else ("namespace", "seccomp", "none")


class _UnableError(Exception):
    """The system does not allow these means. Nothing has been run."""


@dataclass(frozen=True, slots=True)
class _Command:
    """What is to be run."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    stdin: bytes
    limits: ProcessLimits
    network: bool
    cancelled: threading.Event | None

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not self.argv or not self.argv[0]:
            raise ActionError(ErrorCode.UNPROCESSABLE, "a command is a list of texts, the program first")
        if any("\0" in text for text in (*self.argv, *self.environment, *self.environment.values())):
            raise ActionError(ErrorCode.UNPROCESSABLE, f"{self.name}: no argument or variable can have a NUL in it")
        if any("=" in name or not name for name in self.environment):
            raise ActionError(ErrorCode.UNPROCESSABLE, f"{self.name}: the name of a variable is empty or has a = in it")

    @property
    def name(self) -> str:
        return f"the command {self.argv[0][:200]!r}"

    def order(self, means: IsolationMethod, temporary: str) -> dict[str, Any]:
        """What the supervisor is told."""
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
    """The descriptor of a folder."""
    if isinstance(folder, int):
        yield folder
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError):
        raise ActionError(ErrorCode.NOT_FOUND, f"there is no folder {folder[:200]!r} to run a command in") from None
    with closing(descriptor):
        yield descriptor


def _run(
    command: _Command, folder: int, ruleset: Ruleset | None, means: IsolationMethod, deadline: float
) -> CompletedCommand:
    """Run a command by these means. Raises `_UnableError` where the system does not allow them."""
    started = monotonic()
    temporary = os.path.join(tempfile.gettempdir(), f"actionengine-{secrets.token_hex(8)}")
    try:
        with contextlib.ExitStack() as stack:
            order = {**command.order(means, temporary), "abi": ruleset.abi if ruleset else 0}
            descriptors = {"folder": folder} if ruleset is None else {"folder": folder, "ruleset": ruleset.descriptor}
            run = SupervisedProcess(
                order, descriptors, command.stdin, command.limits.output_bytes, command.cancelled, stack
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
    """Return how the command ended. Raises `_UnableError`, and `ActionError` as `run_process` does."""
    if run.reason is not None:
        raise ActionError(run.reason, f"{command.name} {_ENDED[run.reason]}, and was ended", _shown(run))
    verb, _, rest = run.report.partition(" ")
    if verb == "unable":
        raise _UnableError(rest)
    if verb not in ("exit", "failed"):
        message = f"{command.name} was lost: its supervisor ended ({rest or 'killed from outside'})"
        raise ActionError(ErrorCode.UNAVAILABLE, message, _shown(run))
    _known[command.network] = means
    if verb == "failed":
        number = int(rest)
        code = ErrorCode.UNAVAILABLE if number in (errno.EAGAIN, errno.ENOMEM) else ErrorCode.UNPROCESSABLE
        raise ActionError(code, f"{command.name} cannot be run: {os.strerror(number)}")
    exit_code, _, limit = rest.partition(" ")
    return CompletedCommand(
        int(exit_code),
        bytes(run.printed["stdout"]),
        bytes(run.printed["stderr"]),
        duration,
        _network(command.network, means),
        "cpu" if limit == "cpu" else "file" if limit == "file" else None,
        file_isolation,
    )


def _shown(run: SupervisedProcess) -> dict[str, str]:
    """The beginning of what was printed."""
    return {name: bytes(text[:_SHOWN]).decode("utf-8", "replace") for name, text in run.printed.items()}


def _network(granted: bool, means: IsolationMethod) -> NetworkIsolation:
    if granted:
        return "granted"
    return "not_enforced" if means == "none" else "isolated"

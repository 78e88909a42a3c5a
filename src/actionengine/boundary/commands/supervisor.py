"""The program between a host and one command: it starts the command within its limits, and ends its whole process tree.

`processes.run_process` runs it as `python -I -S supervisor.py <descriptor>`. It imports the standard library only, to
start in some ten milliseconds. The order that it reads from the descriptor is a dict, encoded by marshal.

    with namespaces:     host - supervisor - init (process 1 of a PID namespace) - command
    without namespaces:  host - supervisor - command

The host holds the other end of the *control* pipe: once it writes to the pipe, closes it, or dies, everything is ended.
The first line on the *status* pipe reports the outcome to the host:

    exit <code> <limit or ->    the command has ended; a negative code is a signal
    failed <errno>              the command could not be started
    unable <reason>             this system does not allow the isolation method; nothing was started
    broken <reason>             another error of the supervisor

The status pipe ends when no process of the command is alive. In a PID namespace the kernel ends all processes with
their init. Elsewhere on Linux the supervisor adopts the processes that the command leaves behind
(`PR_SET_CHILD_SUBREAPER`), and ends its descendants until none are left. On other systems it ends the command's process
group: processes that have left the group continue.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Importing typing takes as long as all other imports together.
    from typing import Any, NoReturn

    from actionengine.boundary.commands import confinement
else:
    # This program runs without the package. The module beside it imports the standard library only.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import confinement

    del sys.path[0]

LINUX = sys.platform == "linux"

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
PROC_OF_ALL = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/uptime", "/proc/filesystems")
"""Files of the host's /proc that belong to no process; programs read them when they start."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38


def main() -> NoReturn:
    """Carry out the order and end the process."""
    # The process inherits the signals that the host blocks or ignores.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with open(int(sys.argv[1]), "rb") as file:
        order: dict[str, Any] = marshal.loads(file.read())
    try:
        carry_out(order)
    except BaseException as error:
        report(order, f"broken {type(error).__name__}: {error}")
    os._exit(1)


def carry_out(order: dict[str, Any]) -> NoReturn:
    """Start the command and watch it; in namespaces, from the process 1 of the PID namespace."""
    for name in ("control", "status", "ruleset"):
        if name in order:
            os.set_inheritable(order[name], False)
    os.umask(0o022)
    # The host could die after making them, with no process left to remove them.
    for name in ("", "home", "tmp"):
        os.mkdir(os.path.join(order["temporary"], name), 0o700)
    order["host_descriptor"] = descriptor_of_host(order)
    os.fchdir(order["folder"])
    os.close(order["folder"])
    if LINUX:
        confinement.prctl(PR_SET_NO_NEW_PRIVS, 1)
        confinement.prctl(PR_SET_CHILD_SUBREAPER, 1)
    if order["means"] != "namespace":
        supervise(order, is_init=False)
        leave(order)
    try:
        enter_namespaces(order["network"])
    except OSError as error:
        report(order, f"unable {error}")
        leave(order)
    init = os.fork()
    if init == 0:
        try:
            confinement.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            # If this is refused, the host's /proc stays, with the process numbers outside.
            flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
            order["own_proc"] = confinement.libc().mount(b"proc", b"/proc", b"proc", flags, None) == 0
            supervise(order, is_init=True)
        except BaseException as error:
            report(order, f"broken {type(error).__name__}: {error}")
        os._exit(0)
    # The wait for an init ends when all processes of its namespace are gone.
    os.waitpid(init, 0)
    leave(order)


def leave(order: dict[str, Any]) -> NoReturn:
    """Remove the folders, since the host may have died, and end the process."""
    os.close(order["status"])
    for name in ("tmp", "home", ""):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(order["temporary"], name))
    if os.path.lexists(order["temporary"]):
        boundary = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        removal = os.path.join(boundary, "files", "remove_tree.py")
        os.execv(sys.executable, (sys.executable, "-I", "-S", removal, order["temporary"]))
    os._exit(0)


def report(order: dict[str, Any], line: str) -> None:
    """Send one line to the host if it is alive."""
    with contextlib.suppress(OSError):
        os.write(order["status"], f"{line}\n".encode("utf-8", "replace")[:1000])


def descriptor_of_host(order: dict[str, Any]) -> int | None:
    """Return a descriptor that becomes readable when the host dies, even if a fork of it holds the control pipe."""
    try:
        descriptor = os.pidfd_open(order["host"]) if LINUX else None
    except OSError:
        descriptor = None
    if os.getppid() != order["host"]:
        leave(order)
    return descriptor


def supervise(order: dict[str, Any], *, is_init: bool) -> None:
    """Start the command, wait until it exits or the host orders the end, and end its descendants. The kernel ends the
    descendants of an init."""
    ended, wake = os.pipe()
    os.set_blocking(ended, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    command = os.fork()
    if command == 0:
        exec_command(order)
    events = select.poll()
    for descriptor in (ended, order["control"], order["host_descriptor"]):
        if descriptor is not None:
            events.register(descriptor, select.POLLIN)
    line: str | None = None
    while line is None:
        ready = {descriptor for descriptor, _ in events.poll()}
        if ended in ready:
            os.read(ended, 4096)
            line = reaped(command, order["limits"])
        elif ready:
            break
    if not is_init:
        end_descendants(command)
    if line is not None:
        report(order, line)


def reaped(command: int, limits: dict[str, tuple[int, int]]) -> str | None:
    """Reap all processes that have ended. Return the report on the command once it is among them."""
    line = None
    while True:
        try:
            process, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return line
        if process == 0:
            return line
        if process == command:
            code = os.waitstatus_to_exitcode(status)
            used = usage.ru_utime + usage.ru_stime
            limit = "-"
            if code == -signal.SIGXCPU or (code == -signal.SIGKILL and used >= limits["CPU"][0]):
                limit = "cpu"
            elif code == -signal.SIGXFSZ:
                limit = "file"
            line = f"exit {code} {limit}"


def exec_command(order: dict[str, Any]) -> NoReturn:
    """Limit this forked child, and replace it by the command."""
    try:
        os.setsid()
        if LINUX:
            confinement.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        limit(order)
        if order["abi"]:
            bound_files(order)
        if order["means"] == "seccomp" and not order["network"]:
            start_filter(order)
        start(order)
    except BaseException as error:
        report(order, f"broken {type(error).__name__}: {error}")
    os._exit(127)


def bound_files(order: dict[str, Any]) -> None:
    """Keep this process off files that its ruleset does not name, after adding the temporary folder and /proc: the host
    could not name those."""
    ruleset, abi = order["ruleset"], order["abi"]
    confinement.allow(ruleset, abi, order["temporary"], confinement.WRITE)
    for path in ("/proc",) if order.get("own_proc") else ("/proc/self", *PROC_OF_ALL):
        confinement.allow(ruleset, abi, path, confinement.READ_FILE | confinement.READ_DIR)
    confinement.enter_ruleset(ruleset, abi)


def start_filter(order: dict[str, Any]) -> None:
    """Keep this process off the network, or report that the system does not allow that."""
    try:
        confinement.filter_network()
    except OSError as error:
        report(order, f"unable {error}")
        os._exit(127)


def start(order: dict[str, Any]) -> NoReturn:
    """Replace this process by the command, or report the error."""
    try:
        os.execvpe(order["argv"][0], order["argv"], order["environment"])
    except OSError as error:
        report(order, f"failed {error.errno}")
        os._exit(127)


def limit(order: dict[str, Any]) -> None:
    """Set the resource limits, none above its present hard limit."""
    for name, wanted in order["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            continue
        if name == "NPROC" and order["means"] != "namespace":
            # The limit counts all threads of the user, except in a user namespace, which counts its own.
            if not LINUX:
                continue
            threads = threads_of_user()
            wanted = tuple(each + threads for each in wanted)
        _, highest = resource.getrlimit(number)
        if highest != resource.RLIM_INFINITY:
            wanted = tuple(min(each, highest) for each in wanted)
        try:
            resource.setrlimit(number, wanted)
        except (OSError, ValueError):
            if LINUX:
                raise


def threads_of_user() -> int:
    """Return the number of threads of all processes of the user."""
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                found += len(os.listdir(f"/proc/{name}/task"))
    return found


def end_descendants(command: int) -> None:
    """End the command and its descendants, until none are left."""
    while True:
        with contextlib.suppress(OSError):
            os.killpg(command, signal.SIGKILL)
        for process in descendants():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def descendants() -> list[int]:
    """Return the processes that descend from this one."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            # This /proc belongs to another PID namespace, with other numbers. That namespace's init ends the processes.
            return []
        names = os.listdir("/proc")
    except OSError:
        return []
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, names):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    wanted = [os.getpid()]
    while wanted:
        below = children.get(wanted.pop(), [])
        found += below
        wanted += below
    return found


def enter_namespaces(network: bool) -> None:
    """Enter a user namespace with the same users and groups, and make the next child the init of a PID namespace.

    Without `network`, enter a network namespace too, whose only device is a loopback that is down. Root needs the user
    namespace too: without it, root could return to the host's network namespace. Raises `OSError` if this system does
    not allow it.
    """
    self = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    mapped, report_mapped = os.pipe()
    # Only a process outside the namespace may map more than its own user.
    mapper = os.fork()
    if mapper == 0:
        os.close(report_mapped)
        os._exit(0 if os.read(mapped, 1) and map_identities(self) else 1)
    os.close(mapped)
    try:
        flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | (0 if network else CLONE_NEWNET)
        confinement.check(confinement.libc().unshare(flags), "unshare")
        os.write(report_mapped, b"\n")
    finally:
        os.close(report_mapped)
        _, status = os.waitpid(mapper, 0)
        os.close(self)
    if status != 0:
        raise OSError(errno.EPERM, "the users of the user namespace could not be mapped")


def map_identities(process: int) -> bool:
    """Map all users and groups of this process to themselves in the namespace of a process, given by a descriptor of
    its folder in /proc; only its own user and group if more is not allowed."""
    try:
        for name, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
            with open(f"/proc/self/{name}") as file:
                lines = [line.split() for line in file]
            try:
                put(process, name, "".join(f"{first} {first} {count}\n" for first, _, count in lines))
            except PermissionError:
                if name == "gid_map":
                    put(process, "setgroups", "deny")
                put(process, name, f"{own} {own} 1\n")
    except OSError:
        return False
    return True


def put(folder: int, name: str, text: str) -> None:
    """Write a file of /proc in one call, as the kernel requires."""
    descriptor = os.open(name, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()

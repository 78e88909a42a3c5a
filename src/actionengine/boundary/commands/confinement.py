"""Linux calls that take rights from a process permanently: Landlock for files, seccomp for system calls.

Landlock needs no privileges. A *ruleset* names the rights that it handles; each rule gives some of them back for one
file, or for one folder with its contents. A process that enters the ruleset, and its children, have no other rights.
See landlock(7). The rights grew with the kernel's ABI version:

    1  reading, writing, listing, executing, creating, removing (Linux 5.13)
    2  moving a file to another folder; always refused before (5.19)
    3  truncating by path (6.2); refused by a filter of system calls before
    4  binding and connecting TCP (6.7)
    5  ioctl on devices (6.10)
    6  abstract Unix sockets and signals of processes outside (6.12)
    9  connecting to Unix sockets that others created (7.1)

The supervisor loads this file without the package: it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV, RESOLVE_UNIX = 1 << 13, 1 << 14, 1 << 15, 1 << 16
READ = EXECUTE | READ_FILE | READ_DIR
"""Rights to read and execute."""
WRITE = ((1 << 15) - 1) & ~MAKE_CHAR & ~MAKE_BLOCK
"""Rights to change as well: all but making devices."""
DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
"""Rights to a device such as /dev/null."""

_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX
_FILES_BY_ABI = ((9, RESOLVE_UNIX), (5, IOCTL_DEV), (3, TRUNCATE), (2, REFER), (1, (1 << 13) - 1))
_TCP = 0b11
_SCOPES = 0b11
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_O_PATH = getattr(os, "O_PATH", 0)

_LOAD, _EQUAL, _AT_LEAST, _ANSWER = 0x20, 0x15, 0x35, 0x06
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
_X32 = 0x40000000
# For each known processor: its number in a filter, and its numbers of `socket` and `truncate`.
_PROCESSORS = {"x86_64": (0xC000003E, 41, 76), "aarch64": (0xC00000B7, 198, 45)}


def landlock_abi() -> int:
    """Return the kernel's version of Landlock; 0 if it has none, or does not bound enough."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        version = syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0
    return 0 if version < 3 and not _knows_processor() else version


def create_ruleset(abi: int, *, network: bool) -> int:
    """Return the descriptor of a ruleset that handles all rights of an ABI version; TCP only without `network`.

    Raises `OSError`.
    """
    fields = [_files(abi)]
    if abi >= 4:
        fields.append(0 if network else _TCP)
    if abi >= 6:
        fields.append(_SCOPES)
    form = struct.pack(f"={len(fields)}Q", *fields)
    return syscall(_CREATE_RULESET, form, len(form), 0)


def allow(ruleset: int, abi: int, place: int | str, rights: int) -> bool:
    """Give rights to a file, or to a folder with its contents, by an open descriptor or a path; links are followed.
    Return whether the path exists. Raises `OSError` for anything else."""
    if isinstance(place, str):
        try:
            opened = os.open(place, _O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
                return False
            raise
        try:
            return allow(ruleset, abi, opened, rights)
        finally:
            os.close(opened)
    rights &= _files(abi)
    if not stat.S_ISDIR(os.fstat(place).st_mode):
        rights &= _OF_FILES
    syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    return True


def enter_ruleset(ruleset: int, abi: int) -> None:
    """Take all rights from this process and its children that a ruleset does not give. Raises `OSError`."""
    syscall(_RESTRICT_SELF, ruleset, 0)
    if abi < 3:
        filter_truncation()


def _files(abi: int) -> int:
    return sum(rights for since, rights in _FILES_BY_ABI if abi >= since)


def filter_network() -> None:
    """Refuse this process and its children all sockets but Unix ones, by a seccomp filter of system calls.

    It also refuses io_uring, which makes sockets without that call, taking descriptors from other processes, and the
    system calls of other architectures, whose numbers mean other calls. Raises `OSError` if the kernel or the processor
    does not allow it.
    """
    io_uring_setup, pidfd_getfd, af_unix = 425, 438, 1
    _, socket, _ = _processor()
    _refuse_calls((io_uring_setup, pidfd_getfd), (_EQUAL, 0, 2, socket), (_LOAD, 0, 0, 16), (_EQUAL, 0, 1, af_unix))


def filter_truncation() -> None:
    """Refuse to truncate by path, which Landlock bounds only from ABI 3. Raises `OSError` as `filter_network`."""
    _, _, truncate = _processor()
    _refuse_calls((truncate,))


def _refuse_calls(calls: tuple[int, ...], *others: tuple[int, int, int, int]) -> None:
    """Refuse these system calls, and all of another architecture. `others` are lines that decide on all other calls:
    the two lines after them allow a call, and refuse it.

    A line has an instruction, the lines to skip if it is true, those to skip if it is false, and an operand. The data
    has the number of the call at 0, the architecture at 4, and at 16 the first argument (its lower half).
    """
    architecture, _, _ = _processor()
    to_refusal = len(calls) + len(others) + 1
    program = (
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, to_refusal + 2, architecture),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, to_refusal, 0, _X32),
        *((_EQUAL, to_refusal - number, 0, call) for number, call in enumerate(calls, 1)),
        *others,
        (_ANSWER, 0, 0, _ALLOW),
        (_ANSWER, 0, 0, _DENY),
    )
    lines = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    prctl(_SET_SECCOMP, _SECCOMP_MODE_FILTER, struct.pack("HxxxxxxP", len(program), ctypes.addressof(lines)))


def _knows_processor() -> bool:
    return os.uname().machine in _PROCESSORS and struct.calcsize("P") == 8


def _processor() -> tuple[int, int, int]:
    if not _knows_processor():
        raise OSError(errno.ENOSYS, "this processor's system calls are not known, so they cannot be filtered")
    return _PROCESSORS[os.uname().machine]


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call. Raises `OSError`."""
    given = [each if isinstance(each, bytes) else ctypes.c_long(each or 0) for each in arguments]
    result: int = libc().syscall(ctypes.c_long(number), *given)
    if result < 0:
        check(result, f"system call {number}")
    return result


def libc() -> ctypes.CDLL:
    """Return the C library that this process has loaded."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int, pointer: bytes | int = 0) -> None:
    """Call prctl(2). Raises `OSError`."""
    third = pointer if isinstance(pointer, bytes) else ctypes.c_ulong(pointer)
    none = ctypes.c_ulong(0)
    check(libc().prctl(option, ctypes.c_ulong(argument), third, none, none), "prctl")


def check(result: int, call: str) -> None:
    """Raise the `OSError` of a call that failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")

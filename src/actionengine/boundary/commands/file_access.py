"""The Landlock ruleset of a command: it reaches its module, its temporary folder, and the files that it needs to run.

Landlock checks the file that a name leads to after all links, so a name that is swapped meanwhile does not lead out. It
bounds opening, listing, executing, creating, removing, moving and truncating. It does not bound `stat`, nor `chmod`,
`chown`, `utime` and extended attributes of files that the user owns.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from actionengine.boundary.commands import confinement
from actionengine.boundary.errors import FileIsolationError
from actionengine.boundary.request import FileIsolation
from actionengine.errors import ConfigurationError

SYSTEM_FOLDERS = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"),
    # In /etc, only the files that programs need to start, to name users and hosts, and to check certificates.
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives")),
    *(f"/etc/{name}" for name in ("passwd", "group", "nsswitch.conf", "localtime", "timezone", "os-release")),
    *(f"/etc/{name}" for name in ("hosts", "host.conf", "resolv.conf", "gai.conf", "services", "protocols")),
    *(f"/etc/{name}" for name in ("ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem", "pki/tls/certs", "crypto-policies")),
    *(f"/etc/{name}" for name in ("pki/ca-trust/extracted", "ca-certificates", "mime.types", "fonts", "magic")),
    *(
        f"/etc/{name}"
        for name in ("terminfo", "inputrc", "locale.alias", "locale.conf", "gitconfig", "perl", "R", "java")
    ),
    *("/sys/devices/system/cpu", "/sys/kernel/mm/transparent_hugepage"),
)
"""System paths that every command may read and execute."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """A runner's rules for the files of commands.

    `readable` are paths of the host that commands may read and execute, besides their module and system paths;
    `writable` are paths that they may change too, such as a cache: commands of all tenants share them. With `required`,
    commands change their module only if the request has `fs:write`, and are refused if the system cannot keep them off
    all other files.
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class FileAccess:
    """The files that one command may reach, besides system paths: it may read and execute the files below a folder,
    given by a descriptor, and change them if `writable`."""

    folder: int
    writable: bool
    policy: FilePolicy = FilePolicy()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A Landlock ruleset for a command: its descriptor, and its ABI version."""

    descriptor: int
    abi: int


def absolute_paths(name: str, paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the paths of the host that a runner was given as its parameter `name`. Raises `ConfigurationError` for a
    path that is not absolute."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise ConfigurationError(f"{name} is a list of paths, not {paths!r}: pass [{paths!r}]")
    given = tuple(os.fspath(each) for each in paths)
    for each in given:
        if not (isinstance(each, str) and os.path.isabs(each) and "\0" not in each):
            raise ConfigurationError(f"{name} takes absolute paths, such as '/opt/tools', not {each!r}")
    return given


def file_isolation() -> Literal["landlock", "none"]:
    """Return the method by which this system keeps commands off other files."""
    return "landlock" if confinement.landlock_abi() else "none"


def isolation_of(ruleset: Ruleset | None) -> FileIsolation:
    """Return the file isolation of a command with this ruleset, or with none."""
    return "not_enforced" if ruleset is None else "isolated"


@contextmanager
def ruleset_for(access: FileAccess | None, *, network: bool) -> Iterator[Ruleset | None]:
    """Create the ruleset of a command; None if the system has no Landlock, or `access` is None.

    Raises `FileIsolationError` if the policy requires isolation and the system has no Landlock.
    """
    abi = confinement.landlock_abi() if access is not None else 0
    if access is None or not abi:
        if access is not None and access.policy.required:
            raise FileIsolationError(
                "the profile requires that commands reach only their module's files, and this system cannot enforce "
                "that: run this work on Linux 5.13 or later with Landlock among its security modules "
                "(lsm=landlock,...), in a container that allows landlock_create_ruleset, or use a profile without "
                "require_file_isolation",
                file_isolation="not_enforced",
            )
        yield None
        return
    descriptor = confinement.create_ruleset(abi, network=network)
    try:
        for path in (*SYSTEM_FOLDERS, *_interpreter(), *access.policy.readable):
            confinement.allow(descriptor, abi, path, confinement.READ)
        for path in access.policy.writable:
            confinement.allow(descriptor, abi, path, confinement.WRITE)
        for path in _DEVICES:
            confinement.allow(descriptor, abi, path, confinement.DEVICE)
        rights = confinement.WRITE if access.writable else confinement.READ
        confinement.allow(descriptor, abi, access.folder, rights)
        yield Ruleset(descriptor, abi)
    finally:
        os.close(descriptor)


def _interpreter() -> set[str]:
    """Return the folders of the running Python, and of its virtual environment."""
    folders = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    # A prefix that is the root would give access to everything.
    return {each for each in folders if each and os.path.dirname(os.path.abspath(each)) != os.path.abspath(each)}

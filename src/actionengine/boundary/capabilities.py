"""Capabilities, which say what work may touch, and the profiles that grant them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Capability(StrEnum):
    """One thing that work may do in a module."""

    FS_READ = "fs:read"
    FS_WRITE = "fs:write"
    CMD_RUN = "cmd:run"
    GIT_DIFF = "git:diff"
    NET_HTTP = "net:http"


@dataclass(frozen=True, slots=True)
class CapabilityProfile:
    """A named set of capabilities: the most that work behind a boundary may ask for.

    With `require_file_isolation`, commands reach only the files of their module, and change them only if the request
    has `fs:write`; a system that cannot enforce this (one without Landlock) refuses commands. Without it, commands may
    change their module, and are kept off other files if the system can do that; each result says whether it could.

    Raises `ValueError` for an unknown capability.
    """

    name: str
    capabilities: frozenset[Capability]
    require_file_isolation: bool

    def __init__(
        self, name: str, capabilities: Iterable[Capability | str], *, require_file_isolation: bool = False
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "capabilities", frozenset(map(Capability, capabilities)))
        object.__setattr__(self, "require_file_isolation", require_file_isolation)


CODE_MODULE_DEFAULT = CapabilityProfile("CODE_MODULE_DEFAULT", ("fs:read", "fs:write", "cmd:run", "git:diff"))
WORKFLOW_MODULE_DEFAULT = CapabilityProfile("WORKFLOW_MODULE_DEFAULT", ("fs:read", "cmd:run"))
READ_ONLY = CapabilityProfile("READ_ONLY", ("fs:read",))
SYSTEM_PRIVILEGED = CapabilityProfile("SYSTEM_PRIVILEGED", tuple(Capability))

PROFILES: Mapping[str, CapabilityProfile] = MappingProxyType(
    {each.name: each for each in (CODE_MODULE_DEFAULT, WORKFLOW_MODULE_DEFAULT, READ_ONLY, SYSTEM_PRIVILEGED)}
)
"""All profiles, by name."""

"""What work may touch: capabilities, and the profiles that grant them."""

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

    Raises `ValueError` for a capability that there is not.
    """

    name: str
    capabilities: frozenset[Capability]

    def __init__(self, name: str, capabilities: Iterable[Capability | str]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "capabilities", frozenset(map(Capability, capabilities)))


CODE_MODULE_DEFAULT = CapabilityProfile("CODE_MODULE_DEFAULT", ("fs:read", "fs:write", "cmd:run", "git:diff"))
WORKFLOW_MODULE_DEFAULT = CapabilityProfile("WORKFLOW_MODULE_DEFAULT", ("fs:read", "cmd:run"))
READ_ONLY = CapabilityProfile("READ_ONLY", ("fs:read",))
SYSTEM_PRIVILEGED = CapabilityProfile("SYSTEM_PRIVILEGED", tuple(Capability))

PROFILES: Mapping[str, CapabilityProfile] = MappingProxyType(
    {each.name: each for each in (CODE_MODULE_DEFAULT, WORKFLOW_MODULE_DEFAULT, READ_ONLY, SYSTEM_PRIVILEGED)}
)
"""The profiles that there are, by name."""

"""What crosses the boundary: a request, its module, and the result. Each has a JSON form, to cross a wire with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticSerializationError, from_json, to_json
from uuid_utils import uuid7

from actionengine.boundary.capabilities import Capability
from actionengine.context import Actor, Tenant


class ModuleContext(BaseModel):
    """A module: a folder of a tenant's in which work is done.

    `root` is where it lies on this machine; a worker on another one says itself where its modules lie.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1, max_length=200)
    root: Path
    tenant: Tenant | None = None


def _plain(input: Any) -> Any:
    """What JSON makes of it: a tuple is a list."""
    try:
        return from_json(to_json(input, inf_nan_mode="strings"))
    except (PydanticSerializationError, ValueError):
        return input


class ExecutionRequest(BaseModel):
    """Work that is asked for: a module action, its input, for whom, where, and with which capabilities.

    Nothing is checked when it is made: the boundary does, on each side of a wire. `timeout` is in seconds. With an
    `idempotency_key`, the work takes effect once in its module, however often it is asked for or begun anew after a
    crash; its effects outside of the module (what a command sends over a network) are not covered by that.
    """

    model_config = ConfigDict(frozen=True)

    tenant: Tenant | None = None
    module: ModuleContext | None = None
    action: str
    input: Annotated[Mapping[str, JsonValue], BeforeValidator(_plain)] = Field(default_factory=dict)
    capabilities: frozenset[Capability] = frozenset()
    actor: Actor | None = None
    timeout: float = Field(default=60.0, gt=0)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=200)
    id: str = Field(default_factory=lambda: str(uuid7()), min_length=1, max_length=100)

    if TYPE_CHECKING:
        # The fields say what a request has. Validation takes more: any iterable of capabilities or their names, and in
        # the input whatever JSON can carry, such as tuples.
        def __init__(
            self,
            *,
            action: str,
            tenant: Tenant | None = None,
            module: ModuleContext | None = None,
            input: Mapping[str, Any] = ...,
            capabilities: Iterable[Capability | str] = ...,
            actor: Actor | None = None,
            timeout: float = ...,
            idempotency_key: str | None = None,
            id: str = ...,
        ) -> None: ...


NetworkIsolation = Literal["granted", "isolated", "not_enforced", "not_needed"]
"""Whether work could reach a network: `granted` (it has `net:http`), `isolated` (the system kept it off),
`not_enforced` (this system cannot), `not_needed` (no command was run)."""

FileIsolation = Literal["isolated", "not_enforced", "not_needed"]
"""The isolation of a command from files that are not its own: `isolated` (the system kept them off), `not_enforced`
(this system cannot), `not_needed` (no command was run)."""


class ExecutionResult(BaseModel):
    """Work that was done. `output` is what the module action gave, `duration` in seconds."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    action: str
    output: Any
    runner: str
    """What ran it: `in_process`, `subprocess`, `queue`, or a host's own."""
    worker: str | None = None
    """Which process ran it, where it was another one."""
    network: NetworkIsolation = "not_needed"
    file_isolation: FileIsolation = "not_needed"
    started_at: datetime
    duration: float
    replayed: bool = False
    """True for the result of an earlier request with the same idempotency key."""

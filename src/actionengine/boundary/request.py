"""The values that cross the boundary: a request, its module, and the result. Each has a JSON form for the wire."""

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
    """A module: a folder of a tenant in which work runs.

    `root` is its path on this machine; a worker on another machine uses the path of its own `ModuleRoots`.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1, max_length=200)
    root: Path
    tenant: Tenant | None = None


def _plain(input: Any) -> Any:
    """Return the input as JSON represents it, with a list for each tuple."""
    try:
        return from_json(to_json(input, inf_nan_mode="strings"))
    except (PydanticSerializationError, ValueError):
        return input


class ExecutionRequest(BaseModel):
    """A request for work: a module action with its input, tenant, module and capabilities.

    The boundary checks it, on each side of a wire; creating it checks nothing. `timeout` is in seconds. With an
    `idempotency_key`, the work takes effect once in its module, even if it is requested again or restarted after a
    crash; its effects outside the module (such as network traffic of a command) are not covered.
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
        # Validation accepts more than the types of the fields: any iterable of capabilities or their names, and an
        # input with tuples.
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
"""The isolation of work from the network: `granted` (it has `net:http`), `isolated` (the system enforced it),
`not_enforced` (this system cannot), `not_needed` (no command was run)."""

FileIsolation = Literal["isolated", "not_enforced", "not_needed"]
"""The isolation of commands from files outside their module: `isolated` (the system enforced it), `not_enforced` (this
system cannot), `not_needed` (no command was run)."""


class ExecutionResult(BaseModel):
    """The result of work. `output` is the output of the module action; `duration` is in seconds."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    action: str
    output: Any
    runner: str
    """The kind of runner: `in_process`, `subprocess`, `queue`, or a host's own."""
    worker: str | None = None
    """The worker that ran it, if another process did."""
    network: NetworkIsolation = "not_needed"
    file_isolation: FileIsolation = "not_needed"
    started_at: datetime
    duration: float
    replayed: bool = False
    """True for the result of an earlier request with the same idempotency key."""
